//! The congestion window: slow start, avoidance by the [`Controller`] chosen, reductions.
//!
//! `recovery` calls [`on_progress`] for an acknowledgement while nothing is lost,
//! [`on_repair`] for one after a timeout, and the methods of [`Congestion`] named `on_*` for what
//! else happens; [`Congestion`] is a value, so that a copy made before a reduction is what
//! [`Congestion::undo`] takes.

use super::config::CongestionControl;
use super::core::Core;
use super::cubic::Cubic;
use super::hystart::{HyStart, Verdict};
use super::options::{MIN_MSS, TIMESTAMPS_LEN};
use super::reno::Reno;
use super::segment::Header;
use super::seq::SeqNum;
use super::state::{Conn, flag};
use super::timer::Clock;

/// No window grows beyond this.
const MAX_WINDOW: u32 = 1 << 30;

/// What a controller remembers, as the hot block holds it.
pub(super) type Memory = ([u32; 4], u8);

/// A rule for how the window grows in congestion avoidance and shrinks at a loss: what a
/// congestion control is free to choose. Windows in bytes.
pub(super) trait Controller: Copy {
    /// What it knows at first, and after a timeout: the next stage of avoidance begins flat.
    fn new() -> Self;
    fn load(memory: Memory) -> Self;
    fn store(self) -> Memory;
    /// How many bytes the window grows for `acked` bytes acknowledged at window `cwnd`.
    fn grow(&mut self, cwnd: f32, acked: f32, ack: &Ack) -> f32;
    /// A sign of congestion at window `cwnd`: returns the window to go on with.
    fn reduce(&mut self, cwnd: f32) -> f32;
    /// The window was reduced and then lost to a timeout.
    fn on_timeout(&mut self) {}
    /// Slow start begins again after silence: another stage of avoidance will follow.
    fn on_restart(&mut self) {}
    /// For `ms` the application, not the window, was the limit.
    fn pause(&mut self, _ms: u32) {}
}

/// What an acknowledgement says that may let the window grow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ack {
    /// Bytes it acknowledges that were not before.
    pub(super) acked: u32,
    pub(super) mss: u32,
    /// SND.UNA, this acknowledgement taken in, and SND.NXT.
    pub(super) una: SeqNum,
    pub(super) nxt: SeqNum,
    /// The clock in milliseconds modulo 2^32.
    pub(super) now_ms: u32,
    /// Smoothed round-trip time in microseconds.
    pub(super) srtt: u32,
    /// The round-trip time it shows, in microseconds; 0: none.
    pub(super) rtt: u32,
}

/// Which rule is at work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum Kind {
    /// CUBIC in its first slow start, which [`HyStart`] watches.
    Start,
    Cubic,
    Reno,
}

/// The window and its threshold, in bytes, and the controller's memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Congestion {
    pub(super) cwnd: u32,
    pub(super) ssthresh: u32,
    memory: [u32; 4],
    /// Growth not yet worth a byte, in 65,536ths.
    credit: u16,
    note: u8,
    kind: Kind,
}

const _: () = assert!(size_of::<Congestion>() <= 28, "a part of the hot block");

impl Congestion {
    pub(super) fn new(initial: u32, control: CongestionControl) -> Congestion {
        let mut new = Congestion {
            cwnd: initial,
            ssthresh: u32::MAX,
            memory: [0; 4],
            credit: 0,
            note: 0,
            kind: Kind::Start,
        };
        new.choose(control);
        new
    }

    /// Which control it is.
    pub(super) fn control(&self) -> CongestionControl {
        match self.kind {
            Kind::Start | Kind::Cubic => CongestionControl::Cubic,
            Kind::Reno => CongestionControl::NewReno,
        }
    }

    /// Goes on with another control, at the window there is.
    pub(super) fn choose(&mut self, control: CongestionControl) {
        if control == self.control() && self.kind != Kind::Start {
            return;
        }
        match control {
            CongestionControl::NewReno => self.put(Kind::Reno, Reno::new()),
            CongestionControl::Cubic if self.ssthresh < u32::MAX => {
                self.put(Kind::Cubic, Cubic::new());
            }
            CongestionControl::Cubic => self.watch(HyStart::default()),
        }
    }

    pub(super) fn in_slow_start(&self) -> bool {
        self.cwnd < self.ssthresh
    }

    /// An acknowledgement while the window, not the application, was the limit.
    pub(super) fn on_ack(&mut self, ack: &Ack) {
        let mut acked = ack.acked;
        if self.in_slow_start() {
            // RFC 3465 2.3: by what was acknowledged. No limit for each ACK, as in Linux and as
            // RFC 9406 4.3 has it for who paces: receivers that merge segments, and ours do,
            // answer a whole burst with one ACK, and eight segments for that would be linear.
            // After a timeout there is one, the caller's.
            let mut worth = acked;
            if self.kind == Kind::Start && self.ssthresh == u32::MAX {
                let mut start = HyStart::load((self.memory, self.note));
                let verdict = start.on_ack(ack);
                self.watch(start);
                match verdict {
                    Verdict::Fast => {}
                    Verdict::Slow(divisor) => worth = (worth / divisor).max(1),
                    Verdict::Leave => {
                        // RFC 9406 4.2; RFC 9438 4.10: W_max is what the window is then.
                        self.ssthresh = self.cwnd;
                        self.put(Kind::Cubic, Cubic::new());
                        return;
                    }
                }
            }
            let step = worth.min(self.ssthresh - self.cwnd);
            self.cwnd = (self.cwnd + step).min(MAX_WINDOW);
            acked = worth - step;
        }
        if acked > 0 && !self.in_slow_start() {
            self.avoid(acked, ack);
        }
    }

    /// Congestion avoidance.
    fn avoid(&mut self, acked: u32, ack: &Ack) {
        if self.kind == Kind::Start {
            self.put(Kind::Cubic, Cubic::new());
        }
        let (cwnd, bytes) = (self.cwnd.max(1) as f32, acked as f32);
        let growth = match self.kind {
            Kind::Start | Kind::Cubic => {
                self.with(|cubic: &mut Cubic| cubic.grow(cwnd, bytes, ack))
            }
            Kind::Reno => self.with(|reno: &mut Reno| reno.grow(cwnd, bytes, ack)),
        };
        let growth = (growth * 65_536.0) as u64 + u64::from(self.credit);
        self.credit = growth as u16;
        let whole = (growth >> 16).min(MAX_WINDOW.into()) as u32;
        self.cwnd = self.cwnd.saturating_add(whole).min(MAX_WINDOW);
    }

    /// A loss that acknowledgements have shown, with `flight` bytes out.
    pub(super) fn on_loss(&mut self, flight: u32, mss: u32) {
        // RFC 5681 3.1 (4): of what was in flight, lest an unused window be remembered.
        let window = self.cwnd.min(flight.max(mss)) as f32;
        let reduced = match self.kind {
            Kind::Start => {
                self.put(Kind::Cubic, Cubic::new());
                self.with(|cubic: &mut Cubic| cubic.reduce(window))
            }
            Kind::Cubic => self.with(|cubic: &mut Cubic| cubic.reduce(window)),
            Kind::Reno => self.with(|reno: &mut Reno| reno.reduce(window)),
        };
        self.ssthresh = (reduced as u32).clamp(2 * mss, MAX_WINDOW);
        // No sign of congestion lets a window grow that is smaller than the threshold's least.
        self.cwnd = self.ssthresh.min(self.cwnd.max(mss));
        self.credit = 0;
    }

    /// The echo of a router's mark, with `flight` bytes out (RFC 3168 6.1.2): as a loss is.
    pub(super) fn on_mark(&mut self, flight: u32, mss: u32) {
        self.on_loss(flight, mss);
    }

    /// A retransmission timeout; `first`: of this data, later ones keep the threshold
    /// (RFC 5681 3.1).
    pub(super) fn on_timeout(&mut self, flight: u32, mss: u32, first: bool) {
        if first {
            self.on_loss(flight, mss);
        }
        match self.kind {
            Kind::Start => self.watch(HyStart::default()),
            Kind::Cubic => self.with(|cubic: &mut Cubic| cubic.on_timeout()),
            Kind::Reno => self.with(|reno: &mut Reno| reno.on_timeout()),
        }
        // RFC 5681 3.1: the loss window.
        self.cwnd = mss;
        self.credit = 0;
    }

    /// What was out is lost for its length: slow start from the initial window to where the
    /// window was, or to the threshold where that was yet to be reached.
    pub(super) fn start_again(&mut self, initial: u32) {
        if !self.in_slow_start() {
            self.ssthresh = self.cwnd;
        }
        self.cwnd = self.cwnd.min(initial);
        self.begin_anew();
    }

    /// The reduction made when it was `before` was a mistake: nothing had been lost
    /// (RFC 9438 4.9, RFC 4015 3.2). What it has grown since stays, and so does another control
    /// that was chosen since.
    pub(super) fn undo(&mut self, before: &Congestion) {
        let cwnd = self.cwnd.max(before.cwnd);
        let chosen = self.control();
        *self = Congestion { cwnd, ..*before };
        if chosen != self.control() {
            self.choose(chosen);
        }
    }

    /// After silence longer than a timeout (RFC 5681 4.1, the restart window). What the window
    /// was, the threshold remembers for the most part, as in Linux (RFC 2861 2).
    pub(super) fn on_restart(&mut self, initial: u32) {
        if self.cwnd <= initial {
            return;
        }
        if self.ssthresh < u32::MAX {
            self.ssthresh = self.ssthresh.max(self.cwnd / 4 * 3);
        }
        self.cwnd = initial;
        self.begin_anew();
    }

    /// Slow start begins again.
    fn begin_anew(&mut self) {
        match self.kind {
            Kind::Start => self.watch(HyStart::default()),
            Kind::Cubic => self.with(|cubic: &mut Cubic| cubic.on_restart()),
            Kind::Reno => self.with(|reno: &mut Reno| reno.on_restart()),
        }
    }

    /// For `ms` the application, not the window, was the limit.
    pub(super) fn pause(&mut self, ms: u32) {
        if self.kind == Kind::Cubic {
            self.with(|cubic: &mut Cubic| cubic.pause(ms));
        }
    }

    /// Checks what always holds.
    pub(super) fn check(&self) {
        assert!(self.cwnd <= MAX_WINDOW, "{self:?}");
        // Two of the least segments: those of today may be longer than when it was set.
        let least = 2 * u32::from(MIN_MSS - TIMESTAMPS_LEN);
        assert!(self.ssthresh >= least, "{self:?}");
        if self.kind == Kind::Cubic {
            Cubic::load((self.memory, self.note)).check();
        }
    }

    fn with<C: Controller, T>(&mut self, act: impl FnOnce(&mut C) -> T) -> T {
        let mut controller = C::load((self.memory, self.note));
        let result = act(&mut controller);
        (self.memory, self.note) = controller.store();
        result
    }

    fn put(&mut self, kind: Kind, controller: impl Controller) {
        self.kind = kind;
        (self.memory, self.note) = controller.store();
    }

    fn watch(&mut self, start: HyStart) {
        self.kind = Kind::Start;
        (self.memory, self.note) = start.store();
    }
}

/// `header` has acknowledged `acked` bytes of `flight` that were out, and SND.UNA has moved;
/// nothing is known to be lost.
#[inline(always)]
pub(super) fn on_progress(
    conn: &mut Conn,
    core: &mut Core,
    header: &Header,
    (acked, flight): (u32, u32),
    now: Clock,
) {
    // RFC 7661 in spirit: a window that is not used does not grow. In slow start half of it
    // is use enough, as in Linux: what was sent a round trip ago could not be more.
    let half = || flight.saturating_mul(2) > conn.congestion.cwnd;
    if conn.has(flag::CWND_LIMITED) || conn.congestion.in_slow_start() && half() {
        grow(conn, core, header, acked, now);
    } else {
        conn.congestion.pause(now.tick.age(conn.progress_at));
    }
}

/// The window was the limit. Apart, so that segments for which it was not cost a test only.
#[inline(never)]
fn grow(conn: &mut Conn, core: &mut Core, header: &Header, acked: u32, now: Clock) {
    let rtt = if conn.congestion.kind == Kind::Start { echo_rtt(conn, header, now) } else { 0 };
    let starts = conn.congestion.kind == Kind::Start;
    conn.congestion.on_ack(&Ack { rtt, ..ack_of(conn, acked, now) });
    if starts && conn.congestion.kind != Kind::Start {
        core.counters.hystart_exits += 1;
    }
}

/// `acked` bytes were acknowledged after a timeout.
pub(super) fn on_repair(conn: &mut Conn, acked: u32, now: Clock) {
    // RFC 5681 3.1, RFC 3465 2.3: what an ACK covers after a timeout has mostly left the
    // network long ago; it is no licence for a burst.
    let acked = acked.min(u32::from(conn.mss));
    conn.congestion.on_ack(&ack_of(conn, acked, now));
}

fn ack_of(conn: &Conn, acked: u32, now: Clock) -> Ack {
    Ack {
        acked,
        mss: conn.mss.into(),
        una: conn.snd_una,
        nxt: conn.snd_nxt,
        now_ms: now.tick.0,
        srtt: conn.rtt.srtt(),
        rtt: 0,
    }
}

/// The round-trip time that the peer's timestamp shows, in microseconds, to a millisecond; 0:
/// none (RFC 7323 4.1). For the timeout one sample a round trip is enough; HyStart++ wants
/// eight.
fn echo_rtt(conn: &Conn, header: &Header, now: Clock) -> u32 {
    match header.options.timestamps {
        Some((_, echo)) if conn.has(flag::TIMESTAMPS) && echo != 0 => {
            let ms = now.tick.0.wrapping_add(conn.ts_offset).wrapping_sub(echo);
            if ms < 1 << 18 { ms.max(1) * 1000 } else { 0 }
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTROLS: [CongestionControl; 2] = [CongestionControl::Cubic, CongestionControl::NewReno];

    fn ack(acked: u32, mss: u32, now_ms: u32, srtt: u32) -> Ack {
        let una = SeqNum(u32::MAX - 5);
        Ack { acked, mss, una, nxt: una + acked, now_ms, srtt, rtt: srtt }
    }

    fn check(it: &Congestion, mss: u32) {
        assert!((mss..=MAX_WINDOW).contains(&it.cwnd), "{it:?}");
        assert!(it.ssthresh >= 2 * mss, "{it:?}");
    }

    #[test]
    fn no_input_breaks_a_window() {
        for control in CONTROLS {
            for mss in [76, 1_448, 65_483] {
                let mut it = Congestion::new(mss, control);
                // 10 Gbit/s over 10 s is more than a window can be.
                for (n, srtt) in [0, 1, 1_000, 10_000_000, 1 << 28].into_iter().enumerate() {
                    for now in [0, 1, 2, 5_000, 1 << 31, u32::MAX, 3, 1] {
                        for acked in [1, mss, 1 << 20, 1 << 30] {
                            it.on_ack(&ack(acked, mss, now, srtt));
                            check(&it, mss);
                        }
                        it.pause(now);
                    }
                    let before = it;
                    it.on_loss([0, 1, 1 << 30, u32::MAX, 5][n], mss);
                    check(&it, mss);
                    it.on_ack(&ack(1 << 30, mss, 77, srtt));
                    if n % 2 == 0 {
                        it.undo(&before);
                        check(&it, mss);
                    }
                    it.on_timeout(u32::MAX, mss, n % 2 == 0);
                    it.on_timeout(0, mss, n % 2 == 1);
                    check(&it, mss);
                    it.on_restart(mss);
                    it.on_mark(mss, mss);
                    check(&it, mss);
                }
            }
        }
    }

    #[test]
    fn windows_of_a_gigabyte_still_grow_by_the_byte() {
        for control in CONTROLS {
            let mss = 1_448;
            let mut it = Congestion::new(MAX_WINDOW, control);
            it.on_loss(MAX_WINDOW, mss);
            let begin = it.cwnd;
            // A round trip of acknowledgements for a segment each: in none is there a whole byte.
            for _ in 0..begin / mss {
                it.on_ack(&ack(mss, mss, 1, 1_000));
            }
            let grown = it.cwnd - begin;
            assert!((1_000..=20_000).contains(&grown), "{control:?}: {grown}");
        }
    }

    #[test]
    fn a_shorter_segment_moves_no_plateau() {
        let mut it = Congestion::new(1_000_000, CongestionControl::Cubic);
        it.on_loss(1_000_000, 1_448);
        it.on_ack(&ack(1_448, 1_448, 1, 100_000));
        let plateau = |it: &Congestion| Cubic::load((it.memory, it.note)).plateau();
        assert_eq!(plateau(&it), 1_000_000.0);
        for now in 2..4_000 {
            it.on_ack(&ack(500, 500, now, 100_000));
        }
        assert_eq!(plateau(&it), 1_000_000.0);
        assert!(it.cwnd < 1_000_000, "{it:?}");
    }

    #[test]
    fn an_undone_reduction_leaves_no_trace() {
        let mut it = Congestion::new(500_000, CongestionControl::Cubic);
        it.on_loss(500_000, 1_000);
        for now in 1..3_000 {
            it.on_ack(&ack(1_000, 1_000, now, 100_000));
        }
        let before = it;
        it.on_loss(400_000, 1_000);
        it.undo(&before);
        assert_eq!((it.cwnd, it.ssthresh), (before.cwnd, before.ssthresh));
        let (mut one, mut other) = (before, it);
        for now in 3_000..6_000 {
            one.on_ack(&ack(1_000, 1_000, now, 100_000));
            other.on_ack(&ack(1_000, 1_000, now, 100_000));
        }
        assert_eq!((one.cwnd, one.memory), (other.cwnd, other.memory));
        it.choose(CongestionControl::NewReno);
        it.undo(&before);
        assert_eq!((it.control(), it.cwnd), (CongestionControl::NewReno, before.cwnd));
    }
}
