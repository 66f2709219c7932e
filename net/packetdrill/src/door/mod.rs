//! The door for packetdrill: `packetdrill --so_filename=libthrong_packetdrill.so script.pkt`.
//!
//! packetdrill loads the shared object, calls [`packetdrill_interface_init`] and then the functions
//! of the table instead of the kernel's. The clock is virtual: `usleep` moves it by what it is
//! asked for, `netdev_receive` to when the next packet goes out, and `gettimeofday` tells it.
//! packetdrill makes calls that wait from a thread of its own; here they sleep until the other
//! thread has moved the clock or sent a packet.
//!
//! Flags (`--so_flags`), separated by commas: `local=192.168.0.1` and `local6=...`, the addresses
//! that connections are opened from; by default packetdrill's own.

mod abi;
mod calls;
mod memory;

use std::ffi::{CStr, c_char, c_int, c_void};
use std::net::IpAddr;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use throng_net::engine::{Config, Instant};

pub use abi::{Init, PacketdrillInterface};

use crate::errno::{Errno, Sys};
use crate::host::Host;

/// What `userdata` points to.
struct Door {
    host: Mutex<Host>,
    /// The clock was moved, a packet came, or a call was made.
    changed: Condvar,
}

/// How long, in real time, `netdev_receive` lets other threads make calls before it says that
/// nothing will be sent any more.
const PATIENCE: Duration = Duration::from_millis(300);

impl Door {
    fn new(flags: &str) -> Door {
        let ip = |text: &str| text.parse::<IpAddr>().ok();
        let mut local = (IpAddr::from([192, 168, 0, 1]), ip("fd3d:a0b:17d6::1"));
        for flag in flags.split(',') {
            match flag.split_once('=').map(|(name, value)| (name, ip(value))) {
                Some(("local", Some(ip))) if ip.is_ipv4() => local.0 = ip,
                Some(("local6", Some(ip))) if ip.is_ipv6() => local.1 = Some(ip),
                _ => {}
            }
        }
        let local = (local.0, local.1.unwrap_or(IpAddr::from([0u8; 16])));
        let secret = std::array::from_fn(|i| (i as u8).wrapping_mul(37));
        let host = Host::new(Config::default(), secret, Instant::from_millis(1_000_000), local);
        Door { host: Mutex::new(host), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Host> {
        self.host.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a call, and lets threads that wait look again.
    fn call<T>(&self, call: impl FnOnce(&mut Host) -> Sys<T>) -> Sys<T> {
        let result = call(&mut self.lock());
        self.changed.notify_all();
        result
    }

    /// Makes a call that waits for as long as it answers `waits`, where `fd` is blocking.
    fn wait<T>(
        &self,
        fd: c_int,
        waits: &[c_int],
        mut call: impl FnMut(&mut Host) -> Sys<T>,
    ) -> Sys<T> {
        let mut host = self.lock();
        let blocking = host.is_blocking(fd).unwrap_or(false);
        loop {
            let result = call(&mut host);
            self.changed.notify_all();
            match result {
                Err(Errno(errno)) if blocking && waits.contains(&errno) => {}
                result => return result,
            }
            host = self.changed.wait(host).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// packetdrill's entry: fills in the table.
///
/// # Safety
/// `flags` is null or a string of C, `interface` points to a table; both as packetdrill has them.
// SAFETY: the name is packetdrill's for this very function, and no other has it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn packetdrill_interface_init(
    flags: *const c_char,
    interface: *mut PacketdrillInterface,
) {
    let flags = if flags.is_null() {
        String::new()
    } else {
        // SAFETY: not null, so a string that ends in a zero, by this function's contract.
        unsafe { CStr::from_ptr(flags) }.to_string_lossy().into_owned()
    };
    let door = Box::into_raw(Box::new(Door::new(&flags)));
    // SAFETY: points to a table that is ours to fill in, by this function's contract.
    unsafe { interface.write(calls::table(door.cast::<c_void>())) };
}
