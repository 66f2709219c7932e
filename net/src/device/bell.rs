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

    /// Takes [`arm`](Bell::arm) back when it turns out that there is no need to sleep.
    pub(crate) fn unarm(&self) {
        self.armed.store(false, Ordering::Relaxed);
    }

    /// Ends a sleep: no more rings, and the descriptor is emptied. Emptied in every case: a
    /// ring of an earlier sleep may have reached the descriptor only after that sleep's end.
    pub(crate) fn disarm(&self) {
        self.unarm();
        if let Some(fd) = &self.fd {
            // Fails when there is nothing to read, which is what is wanted.
            let _ = rustix::io::read(fd, &mut [0u8; 8]);
        }
    }
}
