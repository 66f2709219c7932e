//! CUBIC: how the window grows after a loss (RFC 9438).

use super::congestion::{Ack, Controller, Memory};

/// Multiplicative decrease factor (RFC 9438 4.6).
const BETA: f32 = 0.7;
/// Aggressiveness, in segments per second cubed (RFC 9438 5).
const C: f32 = 0.4;
/// Reno-friendly increase factor (RFC 9438 4.3).
const ALPHA: f32 = 3.0 * (1.0 - BETA) / (1.0 + BETA);

/// The cubic function's parameters. Windows in bytes, times in seconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cubic {
    /// The plateau: the window before the last reduction, or less. 0: the window at which the
    /// next stage begins.
    w_max: f32,
    /// When the curve comes back to `w_max`.
    k: f32,
    /// The window Reno would have.
    w_est: f32,
    /// When this stage of avoidance began, in milliseconds modulo 2^32; 0: it has not.
    epoch: u32,
    prior: Prior,
}

/// What the window was when the threshold was last set (RFC 9438 4.1.2, cwnd_prior), as a
/// multiple of `w_max`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum Prior {
    /// The same.
    Same = 0,
    /// More: fast convergence has lowered the plateau.
    Converged = 1,
    /// More: the stage began after a timeout, at the reduced window.
    TimedOut = 2,
}

impl Cubic {
    /// Where the curve is flat.
    #[cfg(test)]
    pub(super) fn plateau(&self) -> f32 {
        self.w_max
    }

    /// Checks what always holds.
    pub(super) fn check(&self) {
        let all = [self.w_max, self.k, self.w_est];
        assert!(all.iter().all(|value| value.is_finite() && *value >= 0.0), "{self:?}");
    }

    fn prior(&self) -> f32 {
        match self.prior {
            Prior::Same => self.w_max,
            Prior::Converged => self.w_max * 2.0 / (1.0 + BETA),
            Prior::TimedOut => self.w_max / BETA,
        }
    }
}

impl Controller for Cubic {
    fn new() -> Cubic {
        Cubic { w_max: 0.0, k: 0.0, w_est: 0.0, epoch: 0, prior: Prior::Same }
    }

    fn load(([w_max, k, w_est, epoch], note): Memory) -> Cubic {
        let prior = match note {
            0 => Prior::Same,
            1 => Prior::Converged,
            _ => Prior::TimedOut,
        };
        let [w_max, k, w_est] = [w_max, k, w_est].map(f32::from_bits);
        Cubic { w_max, k, w_est, epoch, prior }
    }

    fn store(self) -> Memory {
        let [w_max, k, w_est] = [self.w_max, self.k, self.w_est].map(f32::to_bits);
        ([w_max, k, w_est, self.epoch], self.prior as u8)
    }

    fn grow(&mut self, cwnd: f32, acked: f32, ack: &Ack) -> f32 {
        let mss = ack.mss as f32;
        if self.epoch == 0 {
            self.epoch = ack.now_ms.max(1);
            if cwnd >= self.w_max {
                // RFC 9438 4.8, 4.10: from here on the curve only rises.
                let timed_out = self.prior == Prior::TimedOut && self.w_max == 0.0;
                self.prior = if timed_out { Prior::TimedOut } else { Prior::Same };
                self.w_max = cwnd;
            }
            // RFC 9438 4.2, equation 2.
            self.k = ((self.w_max - cwnd) / mss / C).cbrt();
            self.w_est = cwnd;
        }
        let t = (ack.now_ms.wrapping_sub(self.epoch) as i32).max(0) as f32 / 1e3;
        // RFC 9438 4.2, equation 1.
        let curve = |t: f32| C * mss * (t - self.k).powi(3) + self.w_max;
        // RFC 9438 4.3, equation 4; as fast as Reno once it is back where the loss was.
        let alpha = if self.w_est >= self.prior() { 1.0 } else { ALPHA };
        self.w_est += alpha * acked * mss / cwnd;
        if curve(t) < self.w_est {
            return (self.w_est - cwnd).clamp(0.0, acked);
        }
        // RFC 9438 4.4, 4.5: where the curve will be in a round trip.
        let target = curve(t + ack.srtt as f32 / 1e6).clamp(cwnd, cwnd * 1.5);
        (target - cwnd) / cwnd * acked
    }

    fn reduce(&mut self, cwnd: f32) -> f32 {
        // RFC 9438 4.7: fast convergence gives room to newcomers.
        (self.w_max, self.prior) = if cwnd < self.w_max {
            (cwnd * (1.0 + BETA) / 2.0, Prior::Converged)
        } else {
            (cwnd, Prior::Same)
        };
        self.epoch = 0;
        cwnd * BETA
    }

    fn on_timeout(&mut self) {
        // RFC 9438 4.8: the next stage begins flat.
        *self = Cubic { prior: Prior::TimedOut, ..Cubic::new() };
    }

    fn on_restart(&mut self) {
        self.epoch = 0;
    }

    fn pause(&mut self, ms: u32) {
        // RFC 9438 4.2: the curve waits for the application.
        if self.epoch != 0 {
            self.epoch = self.epoch.wrapping_add(ms).max(1);
        }
    }
}
