//! A network namespace of the bench's own, so that TAPs and addresses touch nobody's.

use std::io;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Uid, getgid, getuid};

/// Moves this process into a network namespace of its own, by a user namespace where it has
/// no rights of its own. Before the first thread starts.
///
/// # Errors
/// What the kernel says where namespaces are forbidden.
pub fn own() -> io::Result<()> {
    let (user, group) = (getuid(), getgid());
    if Uid::effective().is_root() {
        unshare(CloneFlags::CLONE_NEWNET)?;
    } else {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWUSER)?;
        std::fs::write("/proc/self/setgroups", "deny")?;
        std::fs::write("/proc/self/uid_map", format!("0 {user} 1"))?;
        std::fs::write("/proc/self/gid_map", format!("0 {group} 1"))?;
    }
    ip("link set lo up")
}

/// Runs `ip` with these arguments.
///
/// # Errors
/// `ip` is missing or says no; the message has its words.
pub fn ip(arguments: &str) -> io::Result<()> {
    let done = Command::new("ip").args(arguments.split_whitespace()).output()?;
    if done.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&done.stderr);
    Err(io::Error::other(format!("ip {arguments}: {}", said.trim())))
}

/// Waits until a device's `interface` is there, then gives it `address` and brings it up.
///
/// # Errors
/// `TimedOut` after 20 s without it, and what `ip` says.
pub fn bring_up(interface: &str, address: &str) -> io::Result<()> {
    let end = Instant::now() + Duration::from_secs(20);
    while ip(&format!("link show {interface}")).is_err() {
        if Instant::now() > end {
            return Err(io::Error::new(io::ErrorKind::TimedOut, format!("no {interface}")));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    ip(&format!("addr replace {address} dev {interface}"))?;
    ip(&format!("link set {interface} up"))
}
