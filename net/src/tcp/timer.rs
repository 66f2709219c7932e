//! Deadlines in four bytes, and how connections share the engine's timing wheel.
//!
//! A connection keeps its deadlines (retransmission or probe, delayed ACK, keepalive or
//! life-cycle limit) in its hot block and has at most one node in the wheel, at or before the
//! earliest of them. The node is left alone when a deadline moves back or goes away: when it
//! comes up early it is armed again or dropped. So a segment that only pushes the timeout out
//! never touches the wheel. Only where very many are armed does the node go with the last of its
//! connection's deadlines: it would come up in vain, far from the cache by then.

use throng_runtime::Instant;

/// A point in time in milliseconds of the engine's clock, modulo 2^32; the value 0 stands for
/// "no deadline". Two ticks compare when they are less than 24 days apart.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Tick(pub(super) u32);

impl Tick {
    pub(super) const NONE: Tick = Tick(0);

    pub(super) fn is_some(self) -> bool {
        self.0 != 0
    }

    /// Whether it is set and has come, where the clock reads `now`.
    pub(super) fn is_due(self, now: Tick) -> bool {
        self.is_some() && now.since(self) >= 0
    }

    /// Milliseconds from `earlier` to `self`, negative where it is the later one.
    pub(super) fn since(self, earlier: Tick) -> i32 {
        self.0.wrapping_sub(earlier.0) as i32
    }

    /// Milliseconds from `earlier`, which has been, to `self`; modulo 49 days.
    pub(super) fn age(self, earlier: Tick) -> u32 {
        self.0.wrapping_sub(earlier.0)
    }

    /// The earlier of two deadlines, either of which may be unset.
    pub(super) fn earliest(self, other: Tick) -> Tick {
        match (self.is_some(), other.is_some()) {
            (true, true) if other.since(self) >= 0 => self,
            (true, false) => self,
            _ => other,
        }
    }

    /// As an `Instant`, `now` being within 24 days of it.
    pub(super) fn instant(self, now: Instant) -> Instant {
        let ahead = i64::from(self.0.wrapping_sub(now.as_millis() as u32) as i32);
        Instant::from_millis(now.as_millis().saturating_add_signed(ahead))
    }
}

/// When a connection's node in the wheel comes up at the latest, in one byte: at a million connections a
/// look at the node itself is a wait for memory. It is in units of four milliseconds modulo 256, rounded
/// up; 0: it is farther ahead than that tells.
///
/// A node that is overdue may seem to be ahead. That leads to a look at it, at most: nobody takes a node
/// that is late for one in time.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct NodeBy(u8);

impl NodeBy {
    const SHIFT: u32 = 2;
    /// Milliseconds that it can tell.
    const FAR: i32 = 1000;

    /// Of a node that was armed for `at` just now.
    pub(super) fn new(at: Tick, now: Tick) -> NodeBy {
        let near = at.since(now) <= NodeBy::FAR;
        NodeBy(if near { (at.0.wrapping_add(3) >> NodeBy::SHIFT) as u8 } else { 0 })
    }

    /// Whether it is known that the node comes up at `at` or earlier.
    #[inline(always)]
    pub(super) fn is_in_time(self, at: Tick, now: Tick) -> bool {
        let from = now.0 >> NodeBy::SHIFT;
        let ahead = (at.0 >> NodeBy::SHIFT).wrapping_sub(from) & (u32::MAX >> NodeBy::SHIFT);
        self.0 != 0 && at.since(now) >= 0 && self.ahead(now) <= ahead
    }

    /// The latest tick at which it comes up, if that is known.
    pub(super) fn tick(self, now: Tick) -> Option<Tick> {
        let units = (now.0 >> NodeBy::SHIFT).wrapping_add(self.ahead(now));
        (self.0 != 0).then_some(Tick(units << NodeBy::SHIFT))
    }

    /// In units from that which `now` is in.
    fn ahead(self, now: Tick) -> u32 {
        u32::from(self.0).wrapping_sub(now.0 >> NodeBy::SHIFT) & 0xff
    }
}

/// A clock reading in the forms connections use, worked out once a turn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    pub(super) instant: Instant,
    /// The tick that has begun.
    pub(super) tick: Tick,
    /// The tick that begins next, or this one at its very start.
    next: u32,
    /// Microseconds modulo 2^32.
    pub(super) micros: u32,
    /// Hours modulo 2^16: the age of a timestamp (RFC 7323 5.5).
    pub(super) hour: u16,
}

impl Clock {
    pub(super) fn new(instant: Instant) -> Clock {
        Clock {
            instant,
            tick: Tick((instant.as_millis() as u32).max(1)),
            next: instant.as_nanos().div_ceil(1_000_000) as u32,
            micros: instant.as_micros() as u32,
            hour: (instant.as_millis() / 3_600_000) as u16,
        }
    }

    /// The first tick at least `ms` from now; never `NONE`.
    pub(super) fn after(&self, ms: u32) -> Tick {
        Tick(self.next.wrapping_add(ms).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_taken_for_one_in_time_is_in_time() {
        let mut known = 0;
        for start in [1, 2, 3, 999, u32::MAX - 1_500, u32::MAX - 3] {
            for wait in [0, 1, 2, 3, 4, 5, 199, 200, 999, 1_000, 1_001, 100_000] {
                let armed = Tick(start);
                let node = Tick(start.wrapping_add(wait).max(1));
                let by = NodeBy::new(node, armed);
                // Also long after it should have come up, while nobody has looked.
                for later in (0..1_300).chain([5_000, 1 << 20]) {
                    let now = Tick(start.wrapping_add(later).max(1));
                    for ahead in [0, 1, 3, 4, 190, 200, 1_000, 1_100, 1 << 20] {
                        let at = Tick(now.0.wrapping_add(ahead).max(1));
                        if by.is_in_time(at, now) {
                            assert!(at.since(node) >= 0, "{start} {wait} {later} {ahead}");
                            known += 1;
                        }
                    }
                }
                // What it is for: a deadline that moves on with the clock.
                let soon = Tick(start.wrapping_add(4).max(1));
                let moved = Tick(node.0.wrapping_add(4).max(1));
                let tells = wait <= 1_000 && by != NodeBy::default();
                assert!(wait < 4 || by.is_in_time(moved, soon) == tells, "{start} {wait}");
            }
        }
        assert!(known > 10_000, "{known}");
    }
}
