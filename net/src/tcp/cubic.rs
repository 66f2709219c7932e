//! CUBIC: how the window grows after a loss (RFC 9438).

/// Multiplicative decrease factor (RFC 9438 4.6).
const BETA: f32 = 0.7;
/// Aggressiveness, in segments per second cubed (RFC 9438 4.1).
const C: f32 = 0.4;
/// Reno-friendly increase factor (RFC 9438 4.3).
const ALPHA: f32 = 3.0 * (1.0 - BETA) / (1.0 + BETA);

/// The cubic function's parameters. Windows in segments, times in seconds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cubic {
    /// The window before the last reduction.
    w_max: f32,
    /// When the curve comes back to `w_max`.
    k: f32,
    /// The window Reno would have.
    w_est: f32,
    /// When the current epoch began, in milliseconds modulo 2^32; 0: it has not.
    epoch: u32,
}

impl Cubic {
    /// A loss at window `cwnd`: returns the window to go on with.
    pub(super) fn reduce(&mut self, cwnd: f32) -> f32 {
        // RFC 9438 4.7: fast convergence gives room to newcomers.
        self.w_max = if cwnd < self.w_max { cwnd * (1.0 + BETA) / 2.0 } else { cwnd };
        self.epoch = 0;
        cwnd * BETA
    }

    /// A timeout: the next epoch starts flat (RFC 9438 4.8).
    pub(super) fn timeout(&mut self) {
        self.w_max = 0.0;
        self.epoch = 0;
    }

    /// The growth, in segments, for `acked` segments acknowledged at window `cwnd`.
    pub(super) fn grow(&mut self, cwnd: f32, acked: f32, now_ms: u32, srtt: f32) -> f32 {
        if self.epoch == 0 {
            self.epoch = now_ms.max(1);
            self.w_max = self.w_max.max(cwnd);
            self.k = ((self.w_max - cwnd) / C).cbrt();
            self.w_est = cwnd;
        }
        let t = (now_ms.wrapping_sub(self.epoch) as i32).max(0) as f32 / 1000.0;
        let curve = |t: f32| C * (t - self.k).powi(3) + self.w_max;
        // RFC 9438 4.3: alpha is 1 once Reno would be back where the loss was.
        let alpha = if self.w_est >= self.w_max { 1.0 } else { ALPHA };
        self.w_est += alpha * acked / cwnd;
        if curve(t) < self.w_est {
            return (self.w_est - cwnd).clamp(0.0, acked);
        }
        let target = curve(t + srtt).clamp(cwnd, cwnd * 1.5);
        (target - cwnd) / cwnd * acked
    }

    /// The application paused for `ms`: the curve waits for it (RFC 9438 5.8).
    pub(super) fn pause(&mut self, ms: u32) {
        if self.epoch != 0 {
            self.epoch = self.epoch.wrapping_add(ms).max(1);
        }
    }
}
