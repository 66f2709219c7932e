//! HyStart++ (RFC 9406): leaves the first slow start when round trips grow longer, before the
//! queue that makes them so overflows.
//!
//! Rounds are counted only while the window is the limit; others tell nothing of the queue.

use super::congestion::{Ack, Memory};
use super::seq::SeqNum;

/// Samples that make a round's smallest one meaningful (RFC 9406 4.3).
const SAMPLES: u8 = 8;
/// Bounds of the delay that counts, in microseconds, and the part of a round trip it is
/// between them (RFC 9406 4.3).
const MIN_RISE: u32 = 4_000;
const MAX_RISE: u32 = 16_000;
const RISE_PART: u32 = 8;
/// How much slower the conservative slow start is, and its rounds (RFC 9406 4.3).
const DIVISOR: u32 = 4;
const ROUNDS: u8 = 5;

/// What has been seen of the rounds. Times in microseconds; 0: none.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct HyStart {
    /// Where this round ends.
    end: SeqNum,
    /// The smallest sample of the last round and of this one.
    last: u32,
    current: u32,
    /// The smallest sample when conservative slow start began.
    baseline: u32,
    /// Samples of this round, no more than [`SAMPLES`].
    samples: u8,
    /// Rounds of conservative slow start begun; 0: not in it.
    rounds: u8,
}

/// How slow start goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    Fast,
    /// By so small a part only.
    Slow(u32),
    /// It is over.
    Leave,
}

impl HyStart {
    pub(super) fn load(([end, last, current, baseline], note): Memory) -> HyStart {
        let (samples, rounds) = (note & 15, note >> 4);
        HyStart { end: SeqNum(end), last, current, baseline, samples, rounds }
    }

    pub(super) fn store(self) -> Memory {
        let memory = [self.end.0, self.last, self.current, self.baseline];
        (memory, self.samples | self.rounds << 4)
    }

    /// RFC 9406 4.2, for an acknowledgement in slow start.
    pub(super) fn on_ack(&mut self, ack: &Ack) -> Verdict {
        // Over, or begun before a pause: the mark is not in what is out. Not with the very
        // last of a round: what that lets out is sent only after this turn's other arrivals.
        if self.end - ack.una > ack.nxt - ack.una {
            self.end = ack.nxt;
            (self.last, self.current, self.samples) = (self.current, 0, 0);
            if self.rounds > 0 {
                self.rounds += 1;
                if self.rounds > ROUNDS {
                    return Verdict::Leave;
                }
            }
        }
        if ack.rtt > 0 {
            let known = self.current > 0;
            self.current = if known { self.current.min(ack.rtt) } else { ack.rtt };
            self.samples = (self.samples + 1).min(SAMPLES);
        }
        if self.samples == SAMPLES {
            if self.rounds > 0 && self.current < self.baseline {
                // It was jitter.
                (self.rounds, self.baseline) = (0, 0);
            }
            let rise = (self.last / RISE_PART).clamp(MIN_RISE, MAX_RISE);
            if self.rounds == 0 && self.last > 0 && self.current >= self.last + rise {
                (self.rounds, self.baseline) = (1, self.current);
            }
        }
        if self.rounds > 0 { Verdict::Slow(DIVISOR) } else { Verdict::Fast }
    }
}
