//! Waiting for a port's receive interrupt.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// A descriptor to wait on. The driver's own differ: an eventfd that has to be read, a TAP
/// that must not be, vhost's set of descriptors. Behind an edge-triggered epoll instance all
/// behave alike: readable after an arrival, until silenced.
pub(super) struct Bell {
    epoll: OwnedFd,
    watched: RawFd,
}

impl Bell {
    pub(super) fn new() -> io::Result<Bell> {
        // SAFETY: no pointers.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new descriptor that nobody else owns.
        Ok(Bell { epoll: unsafe { OwnedFd::from_raw_fd(fd) }, watched: -1 })
    }

    /// What to wait on.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// Watches the driver's descriptor `fd`, which changes when a peer reconnects.
    pub(super) fn watch(&mut self, fd: RawFd) -> bool {
        if fd < 0 {
            return false;
        }
        if fd != self.watched {
            let mut event = libc::epoll_event {
                events: (libc::EPOLLIN | libc::EPOLLET) as u32,
                u64: fd.cast_unsigned().into(),
            };
            // A closed descriptor has left the set by itself.
            // SAFETY: a valid epoll descriptor and event.
            let code = unsafe {
                libc::epoll_ctl(self.epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &mut event)
            };
            if code < 0 && io::Error::last_os_error().raw_os_error() != Some(libc::EEXIST) {
                return false;
            }
            self.watched = fd;
        }
        true
    }

    /// Takes back what has rung.
    pub(super) fn silence(&self) {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 2];
        // SAFETY: room for the two events asked for; does not wait.
        unsafe { libc::epoll_wait(self.epoll.as_raw_fd(), events.as_mut_ptr(), 2, 0) };
    }
}
