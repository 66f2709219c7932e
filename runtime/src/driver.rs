//! What a shard's loop drives beside its tasks: the network, to the runtime a black box.

use std::os::fd::BorrowedFd;
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
