//! Round-trip time and the retransmission timeout (RFC 6298).

use std::time::Duration;

/// The estimator: smoothed time and variation, in microseconds. 0: no sample yet.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rtt {
    /// Eight times SRTT, so that the gain of 1/8 loses nothing.
    srtt8: u32,
    /// Four times RTTVAR.
    rttvar4: u32,
    min: u32,
    /// The timeout in milliseconds that follows from the samples, doubled by each timeout
    /// since the last of them; 0: the initial one.
    rto: u32,
}

impl Rtt {
    /// Takes a sample in, in microseconds (RFC 6298 2.2, 2.3).
    #[inline(always)]
    pub(super) fn sample(&mut self, micros: u32, limits: &RtoLimits) {
        let sample = micros.clamp(1, 1 << 28);
        if self.srtt8 == 0 {
            self.min = sample;
            self.srtt8 = sample * 8;
            self.rttvar4 = sample * 2;
        } else {
            self.min = self.min.min(sample);
            let error = sample.abs_diff(self.srtt8 / 8);
            self.rttvar4 = self.rttvar4 - self.rttvar4 / 4 + error;
            self.srtt8 = self.srtt8 - self.srtt8 / 8 + sample;
        }
        // RFC 6298 2.3: SRTT + max(G, 4 * RTTVAR). As in Linux the minimum bounds the
        // variation's share, so that a delayed ACK never meets the timeout.
        let timeout = self.srtt() + self.rttvar4.max(limits.min * 1000);
        self.rto = timeout.div_ceil(1000).clamp(limits.min, limits.max);
    }

    /// SRTT in microseconds.
    pub(super) fn srtt(&self) -> u32 {
        self.srtt8 / 8
    }

    /// RTTVAR in microseconds.
    pub(super) fn rttvar(&self) -> u32 {
        self.rttvar4 / 4
    }

    /// The smallest sample, in microseconds.
    pub(super) fn min(&self) -> u32 {
        self.min
    }

    /// A timeout: doubled until there is a new sample, however much is acknowledged before
    /// (RFC 6298 5.5 and the end of 5; the second half of Karn's algorithm).
    pub(super) fn back_off(&mut self, limits: &RtoLimits) {
        self.rto = self.rto_ms(limits, 1);
    }

    /// A SYN was lost and there is no sample: three seconds (RFC 6298 5.7).
    pub(super) fn start_over(&mut self, limits: &RtoLimits) {
        self.rto = 3000.clamp(limits.min, limits.max);
    }

    /// The timeout in milliseconds, doubled `backoff` times more (RFC 6298 5.5).
    pub(super) fn rto_ms(&self, limits: &RtoLimits, backoff: u8) -> u32 {
        let base = if self.rto == 0 { limits.initial } else { self.rto };
        if backoff == 0 {
            return base;
        }
        let doubled = u64::from(base) << backoff.min(31);
        doubled.min(u64::from(limits.max)) as u32
    }
}

/// Bounds of the timeout, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct RtoLimits {
    pub(super) min: u32,
    pub(super) max: u32,
    pub(super) initial: u32,
}

/// A duration in whole milliseconds, rounded up, at most 24 days.
pub(super) fn millis(duration: Duration) -> u32 {
    let ms = duration.as_nanos().div_ceil(1_000_000);
    ms.min(24 * 86_400_000) as u32
}
