//! Waiting for a port's receive interrupt.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// A descriptor to wait on. The driver's own differ: an eventfd that has to be read, a TAP
/// that must not be, vhost's set of descriptors. Behind an edge-triggered epoll instance all
/// behave alike: readable after an arrival, until silenced.
pub(super) struct Bell {
    epoll: OwnedFd,
}

impl Bell {
    pub(super) fn new() -> io::Result<Bell> {
        // SAFETY: no pointers.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new descriptor that nobody else owns.
        Ok(Bell { epoll: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// What to wait on.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// Watches the driver's descriptor `fd`, which changes when a peer reconnects: often to one
    /// of the same number, so it is not the number that tells whether it is watched already.
    pub(super) fn watch(&self, fd: RawFd) -> bool {
        if fd < 0 {
            return false;
        }
        let mut event = libc::epoll_event {
            events: (libc::EPOLLIN | libc::EPOLLET) as u32,
            u64: fd.cast_unsigned().into(),
        };
        // A closed descriptor has left the set by itself.
        // SAFETY: a valid epoll descriptor and event.
        let code =
            unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &mut event) };
        code == 0 || io::Error::last_os_error().raw_os_error() == Some(libc::EEXIST)
    }

    /// Takes back what has rung.
    pub(super) fn silence(&self) {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 2];
        // SAFETY: room for the two events asked for; does not wait.
        unsafe { libc::epoll_wait(self.epoll.as_raw_fd(), events.as_mut_ptr(), 2, 0) };
    }
}

/// Makes net_tap look at its descriptor `fd` again, if a frame waits there. Returns whether
/// one does.
///
/// The driver reads a frame only after the kernel's signal for it. That may come later than
/// the descriptor's readiness, and it comes once, even if the frame had to be left for want
/// of a buffer. So the signal is repeated here; its handler counts, and nothing else.
pub(super) fn nudge(fd: RawFd) -> bool {
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one pollfd; does not wait.
    if unsafe { libc::poll(&mut poll, 1, 0) } != 1 || poll.revents & libc::POLLIN == 0 {
        return false;
    }
    // SAFETY: asks for the descriptor's signal, 0 if it has none of its own.
    let signal = unsafe { libc::fcntl(fd, F_GETSIG) };
    if signal > 0 {
        // SAFETY: the driver has installed a handler for this signal.
        unsafe { libc::raise(signal) };
    }
    true
}

/// `F_GETSIG` of `<fcntl.h>`, which the libc crate lacks.
const F_GETSIG: libc::c_int = 11;

#[cfg(test)]
mod tests {
    use super::*;

    fn rings(bell: &Bell) -> bool {
        let mut poll = libc::pollfd { fd: bell.fd().as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd; does not wait.
        unsafe { libc::poll(&mut poll, 1, 0) == 1 }
    }

    /// An eventfd, as the number `at` if given.
    fn source(at: Option<RawFd>) -> OwnedFd {
        // SAFETY: no pointers.
        let mut fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
        if let Some(at) = at {
            // SAFETY: two open descriptors of this test's own.
            unsafe {
                assert_eq!(libc::dup2(fd, at), at);
                libc::close(fd);
            }
            fd = at;
        }
        assert!(fd >= 0);
        // SAFETY: open, and nobody else's: `at` was given up for this.
        unsafe { OwnedFd::from_raw_fd(fd) }
    }

    fn ring(source: &OwnedFd) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: eight readable bytes.
        assert_eq!(unsafe { libc::write(source.as_raw_fd(), one.as_ptr().cast(), 8) }, 8);
    }

    #[test]
    fn a_new_descriptor_of_the_old_number_is_watched() {
        let bell = Bell::new().unwrap();
        let first = source(None);
        for _ in 0..2 {
            assert!(bell.watch(first.as_raw_fd()));
        }
        ring(&first);
        assert!(rings(&bell));
        bell.silence();
        assert!(!rings(&bell));
        // Replaced in one step, so that no other test's descriptor gets the number.
        let second = source(Some(std::os::fd::IntoRawFd::into_raw_fd(first)));
        assert!(bell.watch(second.as_raw_fd()));
        ring(&second);
        assert!(rings(&bell));
        assert!(!bell.watch(-1));
    }
}
