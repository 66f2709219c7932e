//! How a server is: what all shards know of it. A shard reads it for every request and writes
//! only when something changes.
//!
//! Times are milliseconds of the runtime's clock, which is one for all shards.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::config::Eject;

#[derive(Debug)]
pub(crate) struct Vitals {
    /// What the active checks say; true where there are none.
    up: AtomicBool,
    /// The operator wants it to get nothing more.
    drained: AtomicBool,
    /// Failures in a row, as requests met them.
    failures: AtomicU32,
    /// Times it has been ejected since it last was well for long.
    ejections: AtomicU32,
    /// Until when it is ejected.
    ejected_until: AtomicU64,
    /// Since when it is back; 0: since ever.
    back_since: AtomicU64,
}

impl Default for Vitals {
    fn default() -> Self {
        Vitals {
            up: AtomicBool::new(true),
            drained: AtomicBool::default(),
            failures: AtomicU32::default(),
            ejections: AtomicU32::default(),
            ejected_until: AtomicU64::default(),
            back_since: AtomicU64::default(),
        }
    }
}

impl Vitals {
    /// Whether requests may go to it.
    pub(crate) fn is_well(&self, now: u64) -> bool {
        self.is_up() && !self.is_ejected(now) && !self.is_drained()
    }

    /// Whether the operator wants it to get nothing more.
    pub(crate) fn is_drained(&self) -> bool {
        self.drained.load(Relaxed)
    }

    /// The operator's word. Who is wanted again starts slowly.
    pub(crate) fn set_drained(&self, drained: bool, now: u64) {
        if self.drained.swap(drained, Relaxed) && !drained {
            self.back_since.store(now.max(1), Relaxed);
        }
    }

    /// What the active checks say.
    pub(crate) fn is_up(&self) -> bool {
        self.up.load(Relaxed)
    }

    pub(crate) fn is_ejected(&self, now: u64) -> bool {
        now < self.ejected_until.load(Relaxed)
    }

    /// The part of its weight that a server gets: after it has come back, from a tenth on
    /// growing to all of it within `slow_start`.
    pub(crate) fn share(&self, now: u64, slow_start: Duration) -> f64 {
        let since = self.back_since.load(Relaxed);
        let whole = slow_start.as_millis() as u64;
        let back = now.saturating_sub(since);
        if since == 0 || back >= whole { 1.0 } else { (back as f64 / whole as f64).max(0.1) }
    }

    /// An active check has changed its mind. Whether that is news.
    pub(crate) fn set_up(&self, up: bool, now: u64) -> bool {
        let news = self.up.swap(up, Relaxed) != up;
        if news && up {
            self.back_since.store(now.max(1), Relaxed);
            self.failures.store(0, Relaxed);
        }
        news
    }

    /// A request was answered.
    pub(crate) fn succeeded(&self, now: u64, eject: &Eject) {
        if self.failures.load(Relaxed) > 0 {
            self.failures.store(0, Relaxed);
        }
        let well_since = self.ejected_until.load(Relaxed);
        let long = eject.max_time.0.as_millis() as u64;
        if self.ejections.load(Relaxed) > 0 && well_since + long <= now {
            self.ejections.store(0, Relaxed);
        }
    }

    /// A request failed by the server's fault. For how long it is ejected, if that is why.
    pub(crate) fn failed(&self, now: u64, eject: &Eject) -> Option<Duration> {
        if eject.failures == 0 || self.is_ejected(now) {
            return None;
        }
        if self.failures.fetch_add(1, Relaxed) + 1 < eject.failures {
            return None;
        }
        self.failures.store(0, Relaxed);
        let doubled = self.ejections.fetch_add(1, Relaxed).min(20);
        let time = (eject.time.0 * (1 << doubled)).min(eject.max_time.0);
        let until = now + time.as_millis() as u64;
        self.ejected_until.store(until, Relaxed);
        self.back_since.store(until.max(1), Relaxed);
        Some(time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Time;

    #[test]
    fn failures_in_a_row_eject_for_longer_and_longer() {
        let eject = Eject { failures: 3, time: Time::secs(10), max_time: Time::secs(35) };
        let vitals = Vitals::default();
        assert_eq!(vitals.failed(0, &eject), None);
        assert_eq!(vitals.failed(0, &eject), None);
        vitals.succeeded(0, &eject);
        let mut now = 0;
        for seconds in [10, 20, 35, 35] {
            assert_eq!(vitals.failed(now, &eject), None);
            assert_eq!(vitals.failed(now, &eject), None);
            assert!(vitals.is_well(now));
            assert_eq!(vitals.failed(now, &eject), Some(Duration::from_secs(seconds)));
            assert!(!vitals.is_well(now + seconds * 1000 - 1));
            assert_eq!(vitals.failed(now, &eject), None, "it is ejected already");
            now += seconds * 1000;
            assert!(vitals.is_well(now));
        }
        vitals.succeeded(now + 34_999, &eject);
        assert_eq!(vitals.ejections.load(Relaxed), 4);
        vitals.succeeded(now + 35_000, &eject);
        assert_eq!(vitals.ejections.load(Relaxed), 0, "well for long");
        let never = Eject { failures: 0, ..eject };
        for _ in 0..100 {
            assert_eq!(vitals.failed(now + 40_000, &never), None);
        }
    }

    #[test]
    fn who_comes_back_starts_slowly() {
        let (vitals, slow) = (Vitals::default(), Duration::from_secs(10));
        assert_eq!(vitals.share(5_000, slow), 1.0, "it never was away");
        assert!(vitals.set_up(false, 6_000) && !vitals.is_well(6_000));
        assert!(!vitals.set_up(false, 7_000), "no news");
        assert!(vitals.set_up(true, 8_000));
        assert_eq!(vitals.share(8_000, slow), 0.1);
        assert_eq!(vitals.share(13_000, slow), 0.5);
        assert_eq!(vitals.share(18_000, slow), 1.0);
        assert_eq!(vitals.share(8_000, Duration::ZERO), 1.0);
        vitals.set_drained(true, 20_000);
        assert!(!vitals.is_well(20_000) && vitals.is_up());
        vitals.set_drained(false, 21_000);
        assert!(vitals.is_well(21_000));
        assert_eq!(vitals.share(26_000, slow), 0.5);
    }
}
