//! A doorbell: wakes a thread that sleeps on a file descriptor, and costs one load when
//! nobody sleeps.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering, fence};

use rustix::event::{EventfdFlags, eventfd};

/// The sleeper arms, looks once more for work, then waits on the descriptor; the waker
/// publishes work, then rings. Of the two looks (the sleeper's for work, the waker's for
/// `armed`) at least one sees the other side's write, because a sequentially consistent
/// fence stands between write and look on both sides.
pub(crate) struct Bell {
    armed: AtomicBool,
    /// `None` when the process was out of descriptors: then there is no sleeping.
    fd: Option<OwnedFd>,
}

impl Bell {
    pub(crate) fn new() -> Bell {
        let fd = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).ok();
        Bell { armed: AtomicBool::new(false), fd }
    }

    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.fd.as_ref().map(AsFd::as_fd)
    }

    /// Wakes the sleeper if there is one.
    pub(crate) fn ring(&self) {
        fence(Ordering::SeqCst);
        if self.armed.load(Ordering::Relaxed)
            && self.armed.swap(false, Ordering::Relaxed)
            && let Some(fd) = &self.fd
        {
            // It fails only when the counter is full, and then the descriptor is readable.
            let _ = rustix::io::write(fd, &1u64.to_ne_bytes());
        }
    }

    /// From here on, rings make the descriptor readable.
    pub(crate) fn arm(&self) {
        self.armed.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// No more rings; the descriptor is emptied.
    pub(crate) fn disarm(&self) {
        let rung = !self.armed.swap(false, Ordering::Relaxed);
        if rung && let Some(fd) = &self.fd {
            // Empty already is fine too: a ring between the swap and the read stays for
            // the next wait, which it ends early.
            let _ = rustix::io::read(fd, &mut [0u8; 8]);
        }
    }
}
