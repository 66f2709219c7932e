//! Answers that are still good.

use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use throng_runtime::Instant;

use super::Error;
use super::message::Kind;
use super::name::HostName;

/// Answers kept by a shard; beyond it those that end first are forgotten.
const MAX_ENTRIES: usize = 4_096;
/// The longest time an answer is kept (RFC 8767 4 names seven days as the most).
const MAX_TTL: Duration = Duration::from_secs(86_400);
/// The longest time it is kept that there is nothing (RFC 2308 5: one to three hours).
const MAX_NEGATIVE: Duration = Duration::from_secs(3_600);

/// What is asked.
pub(super) type Question = (HostName, Kind);
/// What comes of it.
pub(super) type Outcome = Result<Rc<[IpAddr]>, Error>;

/// A shard's answers, each with its end.
#[derive(Debug, Default)]
pub(super) struct Cache(HashMap<Question, (Instant, Outcome)>);

impl Cache {
    /// The answer, if there is one that holds at `now`.
    pub(super) fn get(&self, question: &Question, now: Instant) -> Option<Outcome> {
        let (end, outcome) = self.0.get(question)?;
        (now < *end).then(|| outcome.clone())
    }

    /// Keeps an answer for `ttl` from `now` on; one of zero is for this once.
    pub(super) fn put(
        &mut self,
        question: Question,
        outcome: Outcome,
        ttl: Duration,
        now: Instant,
    ) {
        let ttl = ttl.min(if outcome.is_ok() { MAX_TTL } else { MAX_NEGATIVE });
        if ttl.is_zero() {
            return;
        }
        if self.0.len() >= MAX_ENTRIES && !self.0.contains_key(&question) {
            self.make_room(now);
        }
        self.0.insert(question, (now + ttl, outcome));
    }

    /// Forgets what has ended, and where that is not enough an eighth of the rest: those
    /// that would end first. So a full cache is sorted once in 512 answers.
    fn make_room(&mut self, now: Instant) {
        self.0.retain(|_, (end, _)| now < *end);
        let surplus = self.0.len().saturating_sub(MAX_ENTRIES - MAX_ENTRIES / 8);
        if surplus == 0 {
            return;
        }
        let mut ends: Vec<Instant> = self.0.values().map(|(end, _)| *end).collect();
        let (_, last, _) = ends.select_nth_unstable(surplus - 1);
        let last = *last;
        // Of several that end together, no more than needed.
        let mut left = surplus;
        self.0.retain(|_, (end, _)| {
            let goes = *end <= last && left > 0;
            left -= usize::from(goes);
            !goes
        });
    }

    /// How many answers are kept, those included that have ended since.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(n: usize) -> Question {
        (HostName::parse(&format!("host{n}.test")).unwrap(), Kind::A)
    }

    fn found() -> Outcome {
        Ok(Rc::new([IpAddr::from([10, 0, 0, 1])]))
    }

    #[test]
    fn an_answer_ends_with_its_time() {
        let mut cache = Cache::default();
        let start = Instant::from_millis(5);
        cache.put(question(1), found(), Duration::from_secs(60), start);
        cache.put(question(2), found(), Duration::ZERO, start);
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(cache.get(&question(1), at(59)).is_some());
        assert!(cache.get(&question(1), at(60)).is_none());
        assert!(cache.get(&question(2), start).is_none());
        assert!(cache.get(&(question(1).0, Kind::Aaaa), start).is_none());
        let missing = Err(Error::NoSuchName("x".into()));
        cache.put(question(3), missing.clone(), Duration::from_secs(1 << 30), start);
        assert_eq!(cache.get(&question(3), at(3_599)), Some(missing));
        assert_eq!(cache.get(&question(3), at(3_600)), None);
    }

    #[test]
    fn a_full_cache_forgets_what_ends_first() {
        let mut cache = Cache::default();
        let count = MAX_ENTRIES + MAX_ENTRIES / 2;
        for n in 0..count {
            let ttl = Duration::from_secs(if n % 2 == 0 { 100 } else { 1_000 });
            cache.put(question(n), found(), ttl, Instant::ZERO);
            assert!(cache.len() <= MAX_ENTRIES);
            assert!(cache.get(&question(n), Instant::ZERO).is_some());
        }
        let kept = |n: &usize| cache.get(&question(*n), Instant::ZERO).is_some();
        assert!((1..count).step_by(2).all(|n| kept(&n)));
        assert!(cache.len() > MAX_ENTRIES * 3 / 4);
    }
}
