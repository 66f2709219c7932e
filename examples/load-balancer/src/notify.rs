//! What the service manager is told, by the protocol of sd_notify(3): datagrams of lines to the
//! socket that `NOTIFY_SOCKET` names. Without one nobody is told anything.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::thread;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

const ALIVE: &str = "WATCHDOG=1";

#[derive(Debug, Default)]
pub(crate) struct Notifier(Option<(UnixDatagram, SocketAddr)>);

impl Notifier {
    /// For the socket that the environment names.
    ///
    /// # Errors
    /// It names something else than a path or, after `@`, an abstract name.
    pub(crate) fn from_env() -> io::Result<Notifier> {
        match env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) {
            Some(name) => Notifier::to(&name),
            None => Ok(Notifier::default()),
        }
    }

    fn to(name: &OsStr) -> io::Result<Notifier> {
        let address = match name.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
            [b'/', ..] => SocketAddr::from_pathname(name),
            _ => Err(io::Error::other("accepted are a path and, after @, an abstract name")),
        };
        let named = |error| io::Error::other(format!("NOTIFY_SOCKET = {name:?}: {error}"));
        let address = address.map_err(named)?;
        let socket = UnixDatagram::unbound()?;
        // Nobody waits for long for a manager that does not listen.
        socket.set_nonblocking(true)?;
        Ok(Notifier(Some((socket, address))))
    }

    /// It serves, by the configuration in force.
    pub(crate) fn ready(&self, status: &str) {
        self.say(&format!("READY=1\nSTATUS={}", status.replace('\n', " ")));
    }

    /// It has begun to read its configuration again; [`ready`](Notifier::ready) is to follow.
    pub(crate) fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let micros = now.tv_sec * 1_000_000 + now.tv_nsec / 1_000;
        self.say(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
    }

    /// It has begun to end.
    pub(crate) fn stopping(&self) {
        self.say("STOPPING=1\nSTATUS=requests under way end");
    }

    /// From now on another process is the service.
    pub(crate) fn replaced_by(&self, pid: u32) {
        self.say(&format!("MAINPID={pid}"));
    }

    /// All shards are alive.
    pub(crate) fn alive(&self) {
        self.say(ALIVE);
    }

    fn say(&self, lines: &str) {
        let Some((socket, address)) = &self.0 else { return };
        let mut said = socket.send_to_addr(lines.as_bytes(), address);
        // What is said once must not be lost because the manager is behind with listening.
        let tries = if lines == ALIVE { 0 } else { 50 };
        for _ in 0..tries {
            if !said.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
                break;
            }
            thread::sleep(Duration::from_millis(2));
            said = socket.send_to_addr(lines.as_bytes(), address);
        }
        if let Err(error) = said {
            tracing::warn!(%error, lines, "the service manager was not told");
        }
    }
}

/// How often the manager wants to hear that this process is alive, if it does.
pub(crate) fn watchdog() -> Option<Duration> {
    let micros = env::var("WATCHDOG_USEC").ok()?.parse().ok().filter(|micros| *micros > 0)?;
    let is_ours =
        env::var("WATCHDOG_PID").map_or(true, |pid| pid == std::process::id().to_string());
    is_ours.then_some(Duration::from_micros(micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn abstract_names_and_paths_are_told_and_nothing_else() {
        let name = format!("throng-lb-notify-{}", std::process::id());
        let path = env::temp_dir().join(&name);
        let _ = std::fs::remove_file(&path);
        for (told, address) in [
            (format!("@{name}"), SocketAddr::from_abstract_name(&name).unwrap()),
            (path.display().to_string(), SocketAddr::from_pathname(&path).unwrap()),
        ] {
            let manager = UnixDatagram::bind_addr(&address).unwrap();
            let notifier = Notifier::to(OsStr::new(&told)).unwrap();
            notifier.ready("all\nis well");
            notifier.reloading();
            let mut buf = [0; 200];
            let n = manager.recv(&mut buf).unwrap();
            assert_eq!(&buf[..n], b"READY=1\nSTATUS=all is well");
            let n = manager.recv(&mut buf).unwrap();
            let said = std::str::from_utf8(&buf[..n]).unwrap();
            let micros = said.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
            assert!(micros.parse::<u64>().unwrap() > 0);
            // A manager that has gone is no reason to end.
            drop(manager);
            notifier.alive();
        }
        std::fs::remove_file(&path).unwrap();
        for wrong in ["vsock:2:1", "relative"] {
            let error = Notifier::to(OsStr::new(wrong)).unwrap_err();
            assert!(error.to_string().contains(wrong), "{error}");
        }
    }
}
