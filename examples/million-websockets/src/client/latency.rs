//! How long echoes took, from the time they were due.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Longest time told apart from longer ones.
const LONGEST: Duration = Duration::from_secs(100);

/// Percentiles, in microseconds.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq)]
pub(crate) struct Percentiles {
    pub(crate) count: u64,
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) max: f64,
}

/// A histogram of times, to three digits, or two.
#[derive(Clone, Debug)]
pub(crate) struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        Latencies::of_digits(3)
    }
}

impl Latencies {
    fn of_digits(digits: u8) -> Latencies {
        // The bounds are constants that it accepts.
        let longest = LONGEST.as_nanos() as u64;
        Latencies(Histogram::new_with_bounds(100, longest, digits).expect("valid bounds"))
    }

    /// One of two digits: an eighth of the memory, to be added up and emptied often.
    pub(crate) fn coarse() -> Latencies {
        Latencies::of_digits(2)
    }

    pub(crate) fn record(&mut self, nanoseconds: u64) {
        self.0.saturating_record(nanoseconds);
    }

    pub(crate) fn add(&mut self, other: &Latencies) {
        // The bounds of both are the same.
        let _ = self.0.add(&other.0);
    }

    pub(crate) fn percentiles(&self) -> Percentiles {
        if self.0.is_empty() {
            return Percentiles::default();
        }
        let at = |quantile| self.0.value_at_quantile(quantile) as f64 / 1_000.0;
        Percentiles {
            count: self.0.len(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: self.0.max() as f64 / 1_000.0,
        }
    }
}

/// What all shards of the client have measured so far.
#[derive(Debug, Default)]
pub(crate) struct Sum(Mutex<Latencies>);

impl Sum {
    pub(crate) fn add(&self, part: &Latencies) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).add(part);
    }

    pub(crate) fn percentiles(&self) -> Percentiles {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).percentiles()
    }
}

/// What all shards have measured since somebody looked.
#[derive(Debug)]
pub(crate) struct Recent(Mutex<Latencies>);

impl Default for Recent {
    fn default() -> Recent {
        Recent(Mutex::new(Latencies::coarse()))
    }
}

impl Recent {
    /// Moves what is in `part`, a coarse one, here.
    pub(crate) fn take_from(&self, part: &mut Latencies) {
        if !part.0.is_empty() {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).add(part);
            part.0.reset();
        }
    }

    /// The percentiles; the next ones count from here.
    pub(crate) fn take(&self) -> Percentiles {
        let mut sum = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let percentiles = sum.percentiles();
        sum.0.reset();
        percentiles
    }
}

/// A clock of nanoseconds that all shards share.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn new() -> Clock {
        Clock(Instant::now())
    }

    pub(crate) fn now(self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_in_microseconds() {
        let (mut a, mut b) = (Latencies::default(), Latencies::default());
        (1..=900).for_each(|_| a.record(10_000));
        (1..=100).for_each(|i| b.record(i * 1_000_000));
        a.add(&b);
        let percentiles = a.percentiles();
        assert_eq!(percentiles.count, 1_000);
        assert!((9.9..10.1).contains(&percentiles.p50), "{percentiles:?}");
        assert!((89_000.0..91_000.0).contains(&percentiles.p99), "{percentiles:?}");
        assert!((99_000.0..101_000.0).contains(&percentiles.max), "{percentiles:?}");
    }

    #[test]
    fn what_was_looked_at_is_recent_no_more() {
        let (recent, mut part) = (Recent::default(), Latencies::coarse());
        (1..=100).for_each(|_| part.record(20_000));
        recent.take_from(&mut part);
        recent.take_from(&mut part);
        let percentiles = recent.take();
        assert_eq!(percentiles.count, 100);
        assert!((19.8..20.3).contains(&percentiles.p50), "{percentiles:?}");
        assert_eq!(recent.take(), Percentiles::default());
    }
}
