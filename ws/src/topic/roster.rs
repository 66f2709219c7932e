//! Who is subscribed: one waker each, in blocks that never move, so that the list grows to
//! millions without a copy and is swept in pieces.

use std::task::{Context, Waker};

/// Members of one block, at most; the first ones of a roster are smaller.
const BLOCK: usize = 4_096;
/// Members of the first block: most rooms are small.
const FIRST: usize = 8;

/// A list of wakers with stable places.
#[derive(Default)]
pub(super) struct Roster {
    /// Each begins where the one before is full. Blocks double up to [`BLOCK`].
    blocks: Vec<Vec<Option<Waker>>>,
    /// Places that have been left, in blocks for the same reason.
    vacant: Vec<Vec<u32>>,
    slots: u32,
    members: u32,
}

/// Block and offset of a place.
fn locate(slot: u32) -> (usize, usize) {
    let slot = slot as usize;
    let doubling = (BLOCK / FIRST).ilog2() as usize;
    // The doubling blocks together hold BLOCK - FIRST.
    if slot >= BLOCK - FIRST {
        let beyond = slot - (BLOCK - FIRST);
        return (doubling + beyond / BLOCK, beyond % BLOCK);
    }
    let block = ((slot + FIRST) / FIRST).ilog2() as usize;
    (block, slot + FIRST - (FIRST << block))
}

impl Roster {
    /// Those who are in.
    pub(super) fn members(&self) -> u32 {
        self.members
    }

    /// Places, left ones included: what a sweep goes over.
    pub(super) fn slots(&self) -> u32 {
        self.slots
    }

    /// Takes a place, without a task that would be woken.
    pub(super) fn enter(&mut self) -> u32 {
        self.members += 1;
        let left = self.vacant.last_mut().and_then(|block| block.pop());
        if let Some(slot) = left {
            if self.vacant.last().is_some_and(|block| block.is_empty()) {
                self.vacant.pop();
            }
            *self.at(slot) = Some(Waker::noop().clone());
            return slot;
        }
        let slot = self.slots;
        let (block, _) = locate(slot);
        if block == self.blocks.len() {
            self.blocks.push(Vec::with_capacity(BLOCK.min(FIRST << block)));
        }
        self.blocks[block].push(Some(Waker::noop().clone()));
        self.slots += 1;
        slot
    }

    /// Gives a place back.
    pub(super) fn leave(&mut self, slot: u32) {
        *self.at(slot) = None;
        self.members -= 1;
        if self.members == 0 {
            *self = Roster::default();
            return;
        }
        match self.vacant.last_mut() {
            Some(block) if block.len() < BLOCK => block.push(slot),
            _ => self.vacant.push(vec![slot]),
        }
    }

    /// Has the task of `cx` be woken from now on.
    pub(super) fn register(&mut self, slot: u32, cx: &Context<'_>) {
        if let Some(waker) = self.at(slot) {
            waker.clone_from(cx.waker());
        }
    }

    /// Wakes who is in one of `count` places from `from` on. Returns how many places there
    /// were.
    pub(super) fn wake(&self, from: u32, count: u32) -> u32 {
        let end = from.saturating_add(count).min(self.slots);
        for slot in from..end {
            let (block, offset) = locate(slot);
            if let Some(waker) = &self.blocks[block][offset] {
                waker.wake_by_ref();
            }
        }
        end.saturating_sub(from)
    }

    fn at(&mut self, slot: u32) -> &mut Option<Waker> {
        let (block, offset) = locate(slot);
        &mut self.blocks[block][offset]
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn places_follow_each_other_without_gaps() {
        let (mut block, mut offset) = (0, 0);
        for slot in 0..20_000 {
            assert_eq!(locate(slot), (block, offset));
            offset += 1;
            if offset == BLOCK.min(FIRST << block) {
                (block, offset) = (block + 1, 0);
            }
        }
    }

    #[test]
    fn everybody_in_a_range_is_woken_and_left_places_are_taken_again() {
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(count.clone());
        let mut roster = Roster::default();
        for slot in 0..10_000 {
            assert_eq!(roster.enter(), slot);
            roster.register(slot, &Context::from_waker(&waker));
        }
        assert_eq!(roster.wake(4_000, 200), 200);
        assert_eq!(roster.wake(9_900, 200), 100);
        assert_eq!(count.0.load(Ordering::Relaxed), 300);
        for slot in 0..9_999 {
            roster.leave(slot);
        }
        assert_eq!(roster.wake(0, 10_000), 10_000);
        assert_eq!(count.0.load(Ordering::Relaxed), 301);
        let mut again: Vec<_> = (0..9_999).map(|_| roster.enter()).collect();
        again.sort_unstable();
        assert!(again.into_iter().eq(0..9_999));
        assert_eq!((roster.members(), roster.slots()), (10_000, 10_000));
        assert_eq!(roster.enter(), 10_000);
        for slot in 0..=10_000 {
            roster.leave(slot);
        }
        assert_eq!((roster.slots(), roster.blocks.len()), (0, 0), "its memory is gone");
    }
}
