//! Pacing: what the window allows at once goes out over the round trip instead.
//!
//! A bucket fills at a rate somewhat above one window a round trip; new data takes from it. It
//! holds two quanta, so that a late timer is caught up with, and a connection that waits has a
//! node in the engine's wheel for when there is a quantum again: it is not in the transmit
//! queue meanwhile. What fits an initial window beside what is out does not wait (RFC 6928), so
//! that answers to requests never do. Where round trips are shorter than [`SHORTEST`] the
//! wheel's ticks could carry only bursts, and nothing is paced.

use throng_runtime::wheel::TimerWheel;

use super::core::Core;
use super::demux::Slot;
use super::state::Conn;
use super::timer::Clock;

/// Round trips from here on are paced, in microseconds.
const SHORTEST: u32 = 1_000;
/// Units of a bucket's clock in a second; one is 512 ns.
const UNITS: u64 = 1_000_000_000 >> UNIT_SHIFT;
const UNIT_SHIFT: u32 = 9;
/// Ticks of the wheel's that a quantum is worth at least.
const TICKS: u64 = 4;
/// A quantum is a millisecond's worth, but no more than this if that is worth the ticks.
const LARGEST: u64 = 65_536;

/// How fast, and in what portions, a connection may send.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    /// Bytes a second, at least 1.
    pub(super) bytes: u64,
    /// Bytes that are worth a timer.
    quantum: u64,
    /// The most that can be owed, in units.
    debt: u32,
    /// What may be out without waiting, in bytes.
    free: u32,
}

/// The rate of a connection that is paced.
pub(super) fn rate(conn: &Conn, core: &Core) -> Option<Rate> {
    let srtt = conn.rtt.srtt();
    if !core.config.pacing || srtt < SHORTEST {
        return None;
    }
    let free = conn.initial_window(core);
    let cwnd = conn.congestion.cwnd.max(conn.flight());
    if cwnd <= free {
        return None;
    }
    // Faster than the window, so that it, and not the rate, is what holds a connection back;
    // as in Linux.
    let percent = if conn.congestion.in_slow_start() { 200 } else { 120 };
    let bytes = (u64::from(cwnd) * percent * 10_000 / u64::from(srtt)).max(1);
    let ticks = bytes * (TICKS * TimerWheel::<Slot>::TICK_NANOS) / 1_000_000_000;
    let quantum = (bytes / 1_000).min(LARGEST).max(ticks).max(2 * u64::from(conn.mss));
    let debt = ((u64::from(srtt) * 1_000) >> UNIT_SHIFT) as u32;
    Some(Rate { bytes, quantum, debt, free })
}

impl Rate {
    /// What may be sent now with `flight` bytes out.
    pub(super) fn allowance(&self, pace: Pace, flight: u32, now: Clock) -> u32 {
        let saved = pace.saved(self, units(now));
        saved.max(self.free.saturating_sub(flight))
    }
}

/// A bucket: when it was empty, or will be, in units modulo 2^31, and a bit that says whether
/// a timer is set. 0: it is full.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Pace(u32);

const WAITING: u32 = 1;

impl Pace {
    /// Whether anything has been taken from it.
    pub(super) fn is_set(self) -> bool {
        self.0 != 0
    }

    /// Units from when it is empty to `now`, at most what fills it.
    fn filled(self, rate: &Rate, now: u32) -> i64 {
        let full = (2 * rate.quantum * UNITS).div_ceil(rate.bytes) as i64;
        if !self.is_set() {
            return full;
        }
        let filled = i64::from((now << 1).wrapping_sub(self.0 & !WAITING) as i32 >> 1);
        // Nobody owes so much: it was so long ago that the clock has gone round.
        if filled < -i64::from(rate.debt) { full } else { filled.min(full) }
    }

    /// The bytes in it.
    fn saved(self, rate: &Rate, now: u32) -> u32 {
        let filled = self.filled(rate, now).max(0) as u64;
        (u128::from(filled) * u128::from(rate.bytes) / u128::from(UNITS)).min(1 << 30) as u32
    }

    /// Takes `bytes` from it, which may be more than it has.
    pub(super) fn take(&mut self, bytes: u32, rate: &Rate, now: Clock) {
        let now = units(now);
        let cost = ((u64::from(bytes) * UNITS + rate.bytes / 2) / rate.bytes) as i64;
        let filled = (self.filled(rate, now) - cost).max(-i64::from(rate.debt));
        let at = now.wrapping_sub(filled as u32) << 1;
        // 0 would be a full one.
        self.0 = at.max(2) | self.0 & WAITING;
    }

    /// Has a timer set for when `wanted` bytes, or a quantum, are there.
    pub(super) fn wait(
        &mut self,
        wanted: u32,
        rate: &Rate,
        slot: Slot,
        core: &mut Core,
        now: Clock,
    ) {
        if self.0 & WAITING != 0 {
            return;
        }
        let wanted = rate.quantum.min(wanted.into());
        let needed = (wanted * UNITS).div_ceil(rate.bytes) as i64;
        let ahead = (needed - self.filled(rate, units(now))).max(1) as u64;
        let at = now.instant + std::time::Duration::from_nanos(ahead << UNIT_SHIFT);
        core.wheel.insert(at, slot);
        core.counters.paced += 1;
        self.0 |= WAITING;
    }
}

/// A waiting connection's timer has come up.
pub(super) fn on_timer(conn: &mut Conn, core: &mut Core) {
    // The queue it waited for may be gone, and the connection another one.
    if let Some(cold) = &mut conn.cold
        && cold.snd.pace.0 & WAITING != 0
    {
        cold.snd.pace.0 &= !WAITING;
        core.want_transmit(conn);
    }
}

fn units(now: Clock) -> u32 {
    (now.instant.as_nanos() >> UNIT_SHIFT) as u32 & (u32::MAX >> 1)
}
