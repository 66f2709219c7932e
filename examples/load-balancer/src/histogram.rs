//! How long something took: counts by powers of two, on one shard.

use std::cell::Cell;

/// How many counts there are.
pub(crate) const BUCKETS: usize = 20;
/// What the first one goes up to, in microseconds.
const LEAST: u64 = 128;

#[derive(Debug, Default)]
pub(crate) struct Histogram {
    counts: [Cell<u64>; BUCKETS],
    micros: Cell<u64>,
}

impl Histogram {
    pub(crate) fn record(&self, micros: u64) {
        // The first whose bound is no less; the last has none.
        let above = micros.div_ceil(LEAST).max(1).next_power_of_two().trailing_zeros() as usize;
        let count = &self.counts[above.min(BUCKETS - 1)];
        count.set(count.get() + 1);
        self.micros.set(self.micros.get().saturating_add(micros));
    }

    /// Each by itself: what is in none before it.
    pub(crate) fn counts(&self) -> [u64; BUCKETS] {
        self.counts.each_ref().map(Cell::get)
    }

    /// All together, in seconds.
    pub(crate) fn sum(&self) -> f64 {
        self.micros.get() as f64 / 1e6
    }

    /// What each of the counts but the last goes up to, in seconds.
    pub(crate) fn bounds() -> [f64; BUCKETS - 1] {
        std::array::from_fn(|at| (LEAST << at) as f64 / 1e6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_time_is_counted_below_its_bound() {
        let histogram = Histogram::default();
        for micros in [0, 1, 128, 129, 256, 257, 33_554_432, 33_554_433, u64::MAX / 4] {
            histogram.record(micros);
        }
        let mut wanted = [0; BUCKETS];
        (wanted[0], wanted[1], wanted[2], wanted[18], wanted[19]) = (3, 2, 1, 1, 2);
        assert_eq!(histogram.counts(), wanted);
        assert_eq!((Histogram::bounds()[0], Histogram::bounds()[18]), (0.000_128, 33.554_432));
    }
}
