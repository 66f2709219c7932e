//! The stack as the runtime drives it.

use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::time::Duration;

use throng_runtime::driver::wait_readable;
use throng_runtime::{Driver, Instant};

use super::exception::Exception;
use super::{SharedStack, Stack};
use crate::local::Network;

/// How long a shard naps at a time, at least, on a device that cannot wake it.
const NAP: Duration = Duration::from_micros(50);
/// How soon a full ring is looked at again, at least. Not at once: a virtual clock would stand
/// still.
const RETRY: Duration = Duration::from_micros(5);
/// Both grow to this part of the time in which nothing came or went, so what ends that is late
/// by no more,
const PART: u32 = 16;
/// and to this at most.
const LONGEST: Duration = Duration::from_millis(2);
/// How often a busy shard looks at its host sockets, which costs a system call.
const HOST_SOCKETS: Duration = Duration::from_micros(100);

/// A shard's [`Driver`].
pub(crate) struct StackDriver {
    stack: SharedStack,
    network: Rc<Network>,
    /// When to look at the host's sockets again.
    host_due: Instant,
    /// When anything last came or went.
    active: Instant,
}

impl StackDriver {
    pub(crate) fn new(stack: SharedStack, network: Rc<Network>) -> StackDriver {
        StackDriver { stack, network, host_due: Instant::default(), active: Instant::default() }
    }
}

impl Driver for StackDriver {
    fn receive(&mut self, now: Instant) -> bool {
        let mut worked = self.stack.borrow_mut().receive(now);
        if let Some(host) = self.network.reactor()
            && self.host_due <= now
        {
            self.host_due = now + HOST_SOCKETS;
            worked |= host.poll();
        }
        if worked {
            self.active = now;
        }
        worked
    }

    fn advance(&mut self, now: Instant) -> bool {
        let worked = self.stack.borrow_mut().advance(now);
        worked | self.network.reactor().is_some_and(|host| host.advance(now))
    }

    fn transmit(&mut self, now: Instant) -> bool {
        let worked = self.stack.borrow_mut().transmit(now);
        if worked {
            self.active = now;
        }
        worked
    }

    fn next_deadline(&self) -> Option<Instant> {
        let host = self.network.reactor().and_then(|host| host.next_deadline());
        let stack = self.stack.borrow();
        stack.next_deadline(self.active).into_iter().chain(host).min()
    }

    fn park(&mut self, unpark: BorrowedFd<'_>, timeout: Option<Duration>) {
        let host = self.network.reactor();
        let mut stack = self.stack.borrow_mut();
        let nap = pause(stack.link.now - self.active, NAP);
        stack.park(unpark, host.map(|host| host.as_fd()), timeout, nap);
        // What ended the sleep may be there.
        self.host_due = Instant::default();
    }
}

impl Stack {
    /// The timers: TCP's, the neighbours', smoltcp's. Returns whether any was due.
    fn advance(&mut self, now: Instant) -> bool {
        self.link.now = now;
        let mut worked = self.engine.on_timeout(now);
        let mut failed = Vec::new();
        worked |= self.link.neighbors.advance(now, |packet| failed.push(packet));
        for packet in failed {
            self.neighbor_failed(&packet, now);
        }
        if let Some(slow) = &mut self.slow
            && slow.is_due(now)
        {
            let link = &mut self.link;
            let lease = slow.poll(now, |frame| link.send_frame(&frame));
            if let Some(lease) = lease {
                self.change_lease(&lease);
            }
            worked = true;
        }
        if self.watch.is_due(now) {
            self.look_for_limits(now);
        }
        self.tell_routes();
        self.deliver_events();
        self.notify_shards();
        worked
    }

    /// Segments of connections that asked to send, then the device.
    fn transmit(&mut self, now: Instant) -> bool {
        self.link.now = now;
        let mut worked = self.engine.poll_transmit(now, &mut self.link);
        worked |= self.link.flush();
        if self.link.has_room() {
            self.udp.wake_writers();
        }
        self.deliver_events();
        self.notify_shards();
        worked
    }

    fn next_deadline(&self, active: Instant) -> Option<Instant> {
        // Frames the ring had no room for, segments there was no buffer for, news for shards
        // whose ring was full: nobody says when there is room again.
        let waiting =
            !self.link.queue.is_empty() || self.engine.wants_transmit() || !self.untold.is_empty();
        let waiting = waiting.then(|| self.link.now + pause(self.link.now - active, RETRY));
        [
            waiting,
            self.engine.poll_timeout(),
            self.link.neighbors.next_deadline(),
            self.slow.as_ref().and_then(|slow| slow.poll_at()),
            self.link.device.next_deadline(),
            self.exception_deadline(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn park(
        &mut self,
        unpark: BorrowedFd<'_>,
        host: Option<BorrowedFd<'_>>,
        timeout: Option<Duration>,
        nap: Duration,
    ) {
        self.look_for_limits(self.link.now);
        // The sleeping flag is up: whatever another shard pushes from now on ends the wait,
        // and what it pushed before is seen here.
        self.stash = self.stash.take().or_else(|| self.port.try_recv());
        if self.stash.is_some() {
            return;
        }
        // Without room for what the kernel sends it stays where it is, and wakes nobody.
        let beside = self.exception.as_mut().filter(|_| self.link.has_room());
        let (listens, ready) = beside.map_or((false, true), |beside| (true, beside.arm()));
        if !ready {
            return;
        }
        let armed = self.link.device.interrupt_fd().is_some() && self.link.device.arm();
        let can_sleep = armed || self.link.device.interrupt_fd().is_none();
        if can_sleep {
            let timeout = if armed { timeout } else { Some(timeout.map_or(nap, |t| t.min(nap))) };
            let device = armed.then(|| self.link.device.interrupt_fd()).flatten();
            let beside = self.exception.as_ref().filter(|_| listens);
            let beside = beside.and_then(Exception::interrupt_fd);
            let [device, host, beside] = [device, host, beside].map(|fd| fd.unwrap_or(unpark));
            wait_readable(&[unpark, device, host, beside], timeout);
        }
        if armed {
            self.link.device.disarm();
        }
    }
}

/// How long to wait, `least` or more, after nothing came or went for `quiet`.
fn pause(quiet: Duration, least: Duration) -> Duration {
    (quiet / PART).clamp(least, LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn naps_grow_with_the_quiet_before_them() {
        let nap = |quiet| pause(quiet, NAP);
        let micros = |quiet| nap(Duration::from_micros(quiet)).as_micros();
        assert_eq!([0, 800, 1_600, 16_000].map(micros), [50, 50, 100, 1_000]);
        assert_eq!(nap(Duration::MAX), Duration::from_millis(2));
        // Of a quiet second a shard is awake some 550 times.
        let (mut quiet, mut naps) = (Duration::ZERO, 0);
        while quiet < Duration::from_secs(1) {
            quiet += nap(quiet);
            naps += 1;
        }
        assert!((500..600).contains(&naps), "{naps}");
    }
}
