//! What a shard's loop drives beside its tasks: the network, to the runtime a black box.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;
use std::time::Duration;

use crate::time::Instant;

/// The part of a shard that talks to the outside world.
///
/// The loop calls the methods in the order of its stages: [`receive`](Driver::receive),
/// [`advance`](Driver::advance), then tasks run, then [`transmit`](Driver::transmit).
/// Every call does a bounded amount of work and reports whether it did any, which is
/// what the idle policy looks at. Calls never block, except [`park`](Driver::park).
pub trait Driver {
    /// Takes at most one burst of what has arrived and wakes the tasks it concerns.
    /// Returns whether anything was done.
    fn receive(&mut self, now: Instant) -> bool;

    /// Runs the driver's own timers that are due at `now`. Returns whether any was.
    fn advance(&mut self, now: Instant) -> bool;

    /// Sends what tasks and timers have queued. Returns whether anything was sent.
    fn transmit(&mut self, now: Instant) -> bool;

    /// The next time at which [`advance`](Driver::advance) has work, if any.
    fn next_deadline(&self) -> Option<Instant>;

    /// Blocks until something arrives, `unpark` becomes readable, or `timeout` has passed
    /// (`None`: no limit). It may return early; it must not lose an arrival: what came in
    /// before the wait began ends it at once. The caller drains `unpark`.
    fn park(&mut self, unpark: BorrowedFd<'_>, timeout: Option<Duration>);
}

/// A driver without a network, for shards that only compute.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoDriver;

impl Driver for NoDriver {
    fn receive(&mut self, _: Instant) -> bool {
        false
    }

    fn advance(&mut self, _: Instant) -> bool {
        false
    }

    fn transmit(&mut self, _: Instant) -> bool {
        false
    }

    fn next_deadline(&self) -> Option<Instant> {
        None
    }

    fn park(&mut self, unpark: BorrowedFd<'_>, timeout: Option<Duration>) {
        wait_readable(&[unpark], timeout);
    }
}

/// Blocks until one of `fds` (at most 8) is readable or `timeout` has passed; a signal
/// ends it early. For the [`park`](Driver::park) of drivers whose arrivals have a
/// descriptor, and of those that only wait for `unpark`. Returns whether one is readable.
///
/// # Panics
/// With more than 8 descriptors.
pub fn wait_readable(fds: &[BorrowedFd<'_>], timeout: Option<Duration>) -> bool {
    let mut polled = [libc::pollfd { fd: -1, events: libc::POLLIN, revents: 0 }; 8];
    assert!(fds.len() <= polled.len(), "at most 8 descriptors");
    for (entry, fd) in polled.iter_mut().zip(fds) {
        entry.fd = fd.as_raw_fd();
    }
    let timeout = timeout.map(|timeout| libc::timespec {
        tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: timeout.subsec_nanos() as libc::c_long,
    });
    let timeout = timeout.as_ref().map_or(ptr::null(), ptr::from_ref);
    // SAFETY: the entries, their number and the timeout are valid for the call; a null
    // timeout means none, a null mask leaves the signal mask alone.
    let ready = unsafe {
        libc::ppoll(polled.as_mut_ptr(), fds.len() as libc::nfds_t, timeout, ptr::null())
    };
    ready > 0
}
