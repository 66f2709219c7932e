//! A server's latency as an average that forgets: a sample loses its weight by a factor of e
//! in each [`MEMORY`], a worse one counts at once, and without samples the average sinks, so
//! that a server that was slow is tried again.

/// In seconds.
const MEMORY: f64 = 10.0;

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ewma {
    value: f64,
    /// When, in seconds of any one clock.
    at: f64,
}

impl Ewma {
    /// A latency measured at `now`, both in seconds.
    pub(crate) fn record(&mut self, latency: f64, now: f64) {
        let old = if self.value > 0.0 { self.get(now) } else { latency };
        let elapsed = (now - self.at).max(0.0);
        // Several samples at one moment count for as much as one each millisecond.
        let keep = (-elapsed.max(0.001) / MEMORY).exp();
        self.value = if latency > old { latency } else { old * keep + latency * (1.0 - keep) };
        self.at = now;
    }

    /// An answer at `now` that says that the server has failed: to answer so is no work, and must
    /// not draw requests. It counts for twice what is usual, and for 100 ms at least.
    pub(crate) fn record_failure(&mut self, latency: f64, now: f64) {
        let penalty = (2.0 * self.get(now)).clamp(0.1, 10.0);
        self.record(latency.max(penalty), now);
    }

    /// The average at `now`; 0 where there was no sample.
    pub(crate) fn get(&self, now: f64) -> f64 {
        self.value * (-(now - self.at).max(0.0) / MEMORY).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worse_counts_at_once_and_better_slowly() {
        let mut ewma = Ewma::default();
        assert_eq!(ewma.get(5.0), 0.0);
        ewma.record(0.010, 1.0);
        assert!((ewma.get(1.0) - 0.010).abs() < 1e-9);
        ewma.record(0.200, 1.1);
        assert_eq!(ewma.get(1.1), 0.200);
        ewma.record(0.010, 1.2);
        assert!(ewma.get(1.2) > 0.19, "{}", ewma.get(1.2));
        for step in 0..400 {
            ewma.record(0.010, 1.3 + f64::from(step) * 0.1);
        }
        assert!((ewma.get(41.2) - 0.010).abs() < 0.002, "{}", ewma.get(41.2));
    }

    #[test]
    fn failing_fast_is_not_being_fast() {
        let mut ewma = Ewma::default();
        for n in 0..5 {
            let before = ewma.get(f64::from(n));
            ewma.record_failure(0.001, f64::from(n));
            assert!(ewma.get(f64::from(n)) >= (1.9 * before).max(0.1));
        }
        for n in 5..50 {
            ewma.record_failure(0.001, f64::from(n));
        }
        assert!((1.0..=10.0).contains(&ewma.get(50.0)), "{}", ewma.get(50.0));
    }

    #[test]
    fn it_sinks_while_nothing_comes() {
        let mut ewma = Ewma::default();
        ewma.record(1.0, 0.0);
        let later = ewma.get(MEMORY);
        assert!((later - (-1.0_f64).exp()).abs() < 1e-9);
        assert!(ewma.get(60.0) < 0.01);
    }
}
