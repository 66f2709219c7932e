//! Wakes from other threads: an intrusive list that cannot overflow.
//!
//! Every task slot has one [`Link`]. A thread that wakes a task of another shard
//! claims the link, and the one that claimed it pushes the slot on the shard's
//! [`WakeList`]; everybody else finds it claimed and is done. So a slot is in the list
//! at most once, a wake allocates nothing, and a storm of wakes costs one entry.
//!
//! What a waker wrote before it woke must be seen by the poll that follows. That holds
//! because every access to a link is a read-modify-write with acquire and release: the
//! owner's release of the link reads from the last claim, also from the ones that
//! found the link claimed already.

use crate::sync::{AtomicU32, Ordering};

/// The slot is in the list, or will be as soon as its claimer goes on.
const CLAIMED: u32 = 1 << 31;
/// No further slot. Otherwise: index + 1.
const END: u32 = 0;

/// A slot's place in the list: the claim, and the slot pushed before it.
pub(crate) struct Link(AtomicU32);

impl Link {
    /// A link that is in no list. (Slots come zeroed, which is the same.)
    #[cfg(test)]
    pub(crate) fn new() -> Self {
        Link(AtomicU32::new(END))
    }
}

/// The list: many threads push, the owner takes everything at once.
pub(crate) struct WakeList {
    head: AtomicU32,
}

/// What was taken and not yet walked; starts empty.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Chain(u32);

impl WakeList {
    /// An empty list.
    pub(crate) fn new() -> Self {
        WakeList { head: AtomicU32::new(END) }
    }

    /// Any thread: puts slot `index` in the list unless it is there already. Returns
    /// whether it did, in which case the caller goes on to unpark the owner.
    pub(crate) fn push(&self, index: u32, link: &Link) -> bool {
        if link.0.fetch_or(CLAIMED, Ordering::AcqRel) & CLAIMED != 0 {
            return false;
        }
        // Most often the list is empty, and a wrong guess is put right by the exchange.
        let mut head = END;
        loop {
            // A swap and not a store: another waker's claim attempt may come in between,
            // and the owner must still read from it.
            link.0.swap(CLAIMED | head, Ordering::AcqRel);
            let new = index + 1;
            match self.head.compare_exchange(head, new, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(other) => head = other,
            }
        }
    }

    /// Owner: whether anything is there to take.
    pub(crate) fn is_empty(&self) -> bool {
        self.head.load(Ordering::Relaxed) == END
    }

    /// Owner: takes all.
    pub(crate) fn take(&self) -> Chain {
        if self.is_empty() {
            return Chain(END);
        }
        Chain(self.head.swap(END, Ordering::Acquire))
    }
}

impl Chain {
    /// Whether the walk is over.
    pub(crate) fn is_empty(self) -> bool {
        self.0 == END
    }

    /// Owner: the next slot of the chain, whose link is free again from here on.
    pub(crate) fn pop<'a>(&mut self, link: impl FnOnce(u32) -> &'a Link) -> Option<u32> {
        let index = self.0.checked_sub(1)?;
        let claimed = link(index).0.swap(END, Ordering::AcqRel);
        self.0 = claimed & !CLAIMED;
        Some(index)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::{Link, WakeList};

    #[test]
    fn a_slot_is_taken_once_however_often_it_was_pushed() {
        let links = [Link::new(), Link::new(), Link::new()];
        let list = WakeList::new();
        let taken = || {
            let mut chain = list.take();
            std::iter::from_fn(|| chain.pop(|index| &links[index as usize])).collect::<Vec<_>>()
        };
        for index in [1, 0, 1, 1, 2, 0] {
            list.push(index, &links[index as usize]);
        }
        assert_eq!(taken(), [2, 0, 1]);
        assert_eq!(taken(), []);
        assert!(list.push(1, &links[1]));
        assert_eq!(taken(), [1]);
    }
}
