//! NewReno's congestion avoidance (RFC 5681 3.1): a segment more each round trip, half at a
//! loss.

use super::congestion::{Ack, Controller, Memory};

/// It remembers nothing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reno;

impl Controller for Reno {
    fn new() -> Reno {
        Reno
    }

    fn load(_: Memory) -> Reno {
        Reno
    }

    fn store(self) -> Memory {
        ([0; 4], 0)
    }

    fn grow(&mut self, cwnd: f32, acked: f32, ack: &Ack) -> f32 {
        // RFC 5681 3.1, equation 3, by bytes as RFC 3465 2.1 has it; never more than doubling.
        (ack.mss as f32 * acked / cwnd).min(acked)
    }

    fn reduce(&mut self, cwnd: f32) -> f32 {
        // RFC 5681 3.1, equation 4.
        cwnd / 2.0
    }
}
