//! What is made of several measurements of one thing.

use std::time::Duration;

/// The measurements, sorted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Samples(Vec<f64>);

impl From<Vec<f64>> for Samples {
    /// Those that are numbers.
    fn from(mut values: Vec<f64>) -> Samples {
        values.retain(|value| !value.is_nan());
        values.sort_by(f64::total_cmp);
        Samples(values)
    }
}

impl Samples {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value that this part of them, 0 to 1, does not exceed; NaN where there is none.
    pub fn at(&self, quantile: f64) -> f64 {
        let last = self.0.len().saturating_sub(1);
        self.0.get((last as f64 * quantile).round() as usize).copied().unwrap_or(f64::NAN)
    }

    /// The one in the middle, of an even number the upper one; NaN where there is none.
    pub fn median(&self) -> f64 {
        self.at(0.5)
    }

    /// The largest less the least; 0 where there is none.
    pub fn spread(&self) -> f64 {
        self.0.first().zip(self.0.last()).map_or(0.0, |(least, most)| most - least)
    }
}

/// The parts of all operations, 0 to 1, whose longest time is said.
pub const QUANTILES: [f64; 5] = [0.5, 0.9, 0.99, 0.999, 0.9999];
/// Microseconds that each part of [`QUANTILES`] does not exceed.
pub type Quantiles = [f64; QUANTILES.len()];
/// Of operations that were not timed.
pub const UNTIMED: Quantiles = [f64::NAN; QUANTILES.len()];

/// How finely [`Histogram`] tells values apart: a power of two has so many steps.
const STEPS: u64 = 64;

/// Durations, counted in steps of less than 2 % of what they are.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { counts: vec![0; Histogram::index(u64::MAX) + 1], total: 0 }
    }
}

impl Histogram {
    /// Counts one.
    pub fn add(&mut self, time: Duration) {
        self.counts[Histogram::index(time.as_nanos() as u64)] += 1;
        self.total += 1;
    }

    /// Counts what another one has counted, too.
    pub fn merge(&mut self, other: &Histogram) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(count, more)| *count += more);
        self.total += other.total;
    }

    /// How many were counted.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// What this part of them, 0 to 1, does not exceed, in microseconds; NaN where there is none.
    pub fn at(&self, quantile: f64) -> f64 {
        let wanted = (self.total as f64 * quantile).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return Histogram::upper(index) as f64 / 1e3;
            }
        }
        f64::NAN
    }

    /// At each of [`QUANTILES`].
    pub fn quantiles(&self) -> Quantiles {
        QUANTILES.map(|quantile| self.at(quantile))
    }

    fn index(value: u64) -> usize {
        // Below STEPS each value is a step; above, the leading bits say which.
        let shift = (value | STEPS).ilog2() - STEPS.ilog2();
        (u64::from(shift) * STEPS + (value >> shift)) as usize
    }

    /// The largest value of a step.
    fn upper(index: usize) -> u64 {
        let index = index as u64;
        let shift = (index / STEPS).saturating_sub(1);
        ((index - shift * STEPS + 1) << shift).wrapping_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_few() {
        let samples = Samples::from(vec![4.0, 1.0, f64::NAN, 2.0]);
        assert_eq!((samples.median(), samples.spread(), samples.len()), (2.0, 3.0, 3));
        assert_eq!((samples.at(0.0), samples.at(1.0)), (1.0, 4.0));
        assert!(Samples::default().median().is_nan());
        assert_eq!(Samples::default().spread(), 0.0);
    }

    #[test]
    fn a_histogram_is_exact_to_two_percent() {
        for value in (0..64).flat_map(|bit| [1 << bit, (1_u64 << bit) / 3 * 5, u64::MAX >> bit]) {
            let upper = Histogram::upper(Histogram::index(value));
            assert!(upper >= value, "{value}: {upper}");
            assert!((upper - value) as f64 <= value as f64 * 0.02, "{value}: {upper}");
        }
        let mut histogram = Histogram::default();
        assert!(histogram.at(0.5).is_nan());
        (1..=1_000).for_each(|micros| histogram.add(Duration::from_micros(micros)));
        let mut parts = Histogram::default();
        (0..3).for_each(|_| parts.merge(&histogram));
        assert_eq!((parts.total(), parts.at(0.5)), (3_000, histogram.at(0.5)));
        assert_eq!(histogram.total(), 1_000);
        for (quantile, micros) in [(0.5, 500.0), (0.99, 990.0), (1.0, 1_000.0)] {
            assert!((histogram.at(quantile) / micros - 1.0).abs() < 0.02);
        }
    }
}
