//! The congestion window: slow start, avoidance by [`cubic`](super::cubic), reductions.

use super::cubic::Cubic;

/// The window and its threshold, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Congestion {
    pub(super) cwnd: u32,
    pub(super) ssthresh: u32,
    /// Growth not yet worth a byte.
    credit: f32,
    cubic: Cubic,
}

/// No window grows beyond this.
const MAX_WINDOW: u32 = 1 << 30;

impl Congestion {
    pub(super) fn new(initial: u32) -> Congestion {
        Congestion { cwnd: initial, ssthresh: u32::MAX, credit: 0.0, cubic: Cubic::default() }
    }

    pub(super) fn in_slow_start(&self) -> bool {
        self.cwnd < self.ssthresh
    }

    /// `acked` bytes were acknowledged while the window, not the application, was the limit.
    pub(super) fn on_ack(&mut self, acked: u32, mss: u32, now_ms: u32, srtt_us: u32) {
        let mut acked = acked;
        if self.in_slow_start() {
            // RFC 3465: by what was acknowledged, as far as the threshold. No limit per ACK as
            // in Linux: receivers that merge segments stretch their ACKs. After a timeout the
            // caller sets one.
            let step = acked.min(self.ssthresh - self.cwnd);
            self.cwnd = (self.cwnd + step).min(MAX_WINDOW);
            acked -= step;
        }
        if acked > 0 && !self.in_slow_start() {
            let mss = mss as f32;
            let cwnd = self.cwnd as f32 / mss;
            let growth = self.cubic.grow(cwnd, acked as f32 / mss, now_ms, srtt_us as f32 / 1e6);
            self.credit += growth * mss;
            let whole = self.credit as u32;
            self.credit -= whole as f32;
            self.cwnd = self.cwnd.saturating_add(whole).min(MAX_WINDOW);
        }
    }

    /// A loss found by duplicate acknowledgements or SACK, with `flight` bytes out.
    pub(super) fn on_loss(&mut self, flight: u32, mss: u32) {
        // RFC 5681 3.1 (4): of what was in flight, lest an unused window be remembered.
        let window = self.cwnd.min(flight.max(mss));
        let reduced = self.cubic.reduce(window as f32 / mss as f32) * mss as f32;
        self.ssthresh = (reduced as u32).max(2 * mss);
        self.cwnd = self.ssthresh;
        self.credit = 0.0;
    }

    /// A retransmission timeout; `first` of a series: later ones keep the threshold.
    pub(super) fn on_timeout(&mut self, flight: u32, mss: u32, first: bool) {
        if first {
            self.on_loss(flight, mss);
        }
        self.cubic.timeout();
        // RFC 5681 3.1: the loss window.
        self.cwnd = mss;
        self.credit = 0.0;
    }

    /// After `idle_ms` of silence longer than a timeout: RFC 5681 4.1, restart window.
    pub(super) fn on_idle(&mut self, idle_ms: u32, initial: u32) {
        self.cubic.pause(idle_ms);
        self.cwnd = self.cwnd.min(initial);
    }
}
