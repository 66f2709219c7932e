//! Stand-in for `throng_runtime::wheel` until that lands; same interface.

use std::collections::BTreeMap;

use throng_runtime::Instant;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct TimerKey(std::num::NonZeroU32);

#[derive(Debug)]
pub(super) struct TimerWheel<T> {
    order: BTreeMap<(Instant, u32), T>,
    by_key: std::collections::HashMap<u32, Instant>,
    next: u32,
}

impl<T> TimerWheel<T> {
    pub(super) fn new(_now: Instant) -> Self {
        TimerWheel { order: BTreeMap::new(), by_key: Default::default(), next: 0 }
    }
    pub(super) fn insert(&mut self, at: Instant, value: T) -> TimerKey {
        self.next += 1;
        self.order.insert((at, self.next), value);
        self.by_key.insert(self.next, at);
        TimerKey(std::num::NonZeroU32::new(self.next).expect("counts from one"))
    }
    pub(super) fn remove(&mut self, key: TimerKey) -> Option<T> {
        let at = self.by_key.remove(&key.0.get())?;
        self.order.remove(&(at, key.0.get()))
    }
    pub(super) fn advance(&mut self, now: Instant, budget: usize, f: &mut impl FnMut(T)) -> bool {
        for _ in 0..budget {
            let Some(entry) = self.order.first_entry().filter(|e| e.key().0 <= now) else {
                return false;
            };
            self.by_key.remove(&entry.key().1);
            f(entry.remove());
        }
        self.order.first_key_value().is_some_and(|(k, _)| k.0 <= now)
    }
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.order.first_key_value().map(|(k, _)| k.0)
    }
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }
}

/// Stand-in for `throng_runtime::prefetch_read`.
pub(super) fn prefetch_read<T: ?Sized>(_: &T) {}
