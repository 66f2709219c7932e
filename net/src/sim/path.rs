//! The path that throughput is measured over: one bottleneck, its queue, its delay, its loss.

use std::time::Duration;

use crate::device::faults::Impairments;

/// The longest frame of plain Ethernet, without the check sequence.
const FRAME: u64 = 1_514;
/// What the shortest queue holds, in such frames: a queue of less than a few bursts would
/// measure the bursts.
const SHORTEST: u64 = 64;

/// A path with one bottleneck, the same for whoever is measured over it: a device wrapped in
/// [`faults`](crate::device::faults) with [`forth`](Path::forth) in the direction of the data
/// and [`back`](Path::back) in the other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Path {
    /// Round-trip time with empty queues, the time of sending not included: half of it each way.
    pub rtt: Duration,
    /// Width in bits per second, each way. A frame takes its length for it, from the Ethernet
    /// header to the end of the payload; preamble, check sequence and gap are not counted.
    pub rate: u64,
    /// Bytes of frames that wait at the bottleneck at most, each way; what comes to a full
    /// queue is lost (tail drop).
    pub queue: u64,
    /// Probability that a frame of the data's direction is lost, 0 to 1, each for itself.
    /// Acknowledgements are lost to a full queue only.
    pub loss: f64,
}

impl Path {
    /// A path whose queue holds what the path itself does, but 64 full frames at least.
    pub fn new(rtt: Duration, rate: u64, loss: f64) -> Path {
        let mut path = Path { rtt, rate, queue: 0, loss };
        path.queue = path.bandwidth_delay().max(SHORTEST * FRAME);
        path
    }

    /// Bytes that are under way when the path is full and the queue empty.
    pub fn bandwidth_delay(&self) -> u64 {
        let bits = u128::from(self.rate) * self.rtt.as_nanos() / 1_000_000_000;
        u64::try_from(bits / 8).unwrap_or(u64::MAX)
    }

    /// What happens to the data.
    pub fn forth(&self) -> Impairments {
        Impairments {
            loss: self.loss,
            delay: self.rtt / 2,
            rate: Some(self.rate),
            queue: usize::MAX,
            queue_bytes: self.queue,
            ..Impairments::default()
        }
    }

    /// What happens to the acknowledgements.
    pub fn back(&self) -> Impairments {
        Impairments { loss: 0.0, ..self.forth() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_queue_holds_a_round_trip_of_frames() {
        let long = Path::new(Duration::from_millis(100), 1_000_000_000, 0.0);
        assert_eq!((long.bandwidth_delay(), long.queue), (12_500_000, 12_500_000));
        let short = Path::new(Duration::from_micros(100), 10_000_000, 0.01);
        assert_eq!((short.bandwidth_delay(), short.queue), (125, 64 * 1_514));
        assert_eq!((short.forth().loss, short.back().loss), (0.01, 0.0));
        assert_eq!(short.back().delay, Duration::from_micros(50));
    }
}
