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
