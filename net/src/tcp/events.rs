//! Events that wait to be popped, eight bytes each.

use super::demux::Slot;
use super::engine::{ConnId, Event, ListenerId};

/// The queue. An event in it is one number: what has been put together of several fields and is
/// read again in one piece right away waits until all stores before it, some of which miss the
/// cache, have left; a number goes by in a register.
#[derive(Debug, Default)]
pub(super) struct Events {
    /// As many places as a power of two, or none. `VecDeque` adds an item by a call.
    places: Vec<u64>,
    first: usize,
    count: usize,
}

const READABLE: u64 = 0;
const WRITABLE: u64 = 1;
const ACCEPTABLE: u64 = 2;

fn pack(kind: u64, index: u32, generation: u32) -> u64 {
    debug_assert!((index as usize) < Slot::INDEX_LIMIT);
    kind << 62 | u64::from(index) << 32 | u64::from(generation)
}

impl Events {
    #[inline(always)]
    fn push(&mut self, event: u64) {
        if self.count == self.places.len() {
            self.grow();
        }
        let at = (self.first + self.count) & (self.places.len() - 1);
        self.places[at] = event;
        self.count += 1;
    }

    #[inline(never)]
    fn grow(&mut self) {
        self.places.rotate_left(self.first);
        self.first = 0;
        self.places.resize((self.count * 2).max(64), 0);
    }

    #[inline(always)]
    pub(super) fn readable(&mut self, id: ConnId) {
        self.push(pack(READABLE, id.index, id.generation));
    }

    pub(super) fn writable(&mut self, id: ConnId) {
        self.push(pack(WRITABLE, id.index, id.generation));
    }

    pub(super) fn acceptable(&mut self, id: ListenerId) {
        self.push(pack(ACCEPTABLE, id.index, id.generation));
    }

    /// The one that has waited longest.
    #[inline(always)]
    pub(super) fn pop(&mut self) -> Option<Event> {
        if self.count == 0 {
            return None;
        }
        let event = self.places[self.first];
        self.first = (self.first + 1) & (self.places.len() - 1);
        self.count -= 1;
        let (index, generation) = ((event >> 32) as u32 & (u32::MAX >> 2), event as u32);
        Some(match event >> 62 {
            READABLE => Event::Readable(ConnId { index, generation }),
            WRITABLE => Event::Writable(ConnId { index, generation }),
            _ => Event::Acceptable(ListenerId { index, generation }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out() {
        let mut events = Events::default();
        let last = Slot::INDEX_LIMIT as u32 - 1;
        let conn = ConnId { index: last, generation: u32::MAX };
        let listener = ListenerId { index: last, generation: 7 };
        events.readable(conn);
        events.writable(ConnId { index: 0, generation: 1 });
        events.acceptable(listener);
        assert_eq!(events.pop(), Some(Event::Readable(conn)));
        assert_eq!(events.pop(), Some(Event::Writable(ConnId { index: 0, generation: 1 })));
        assert_eq!(events.pop(), Some(Event::Acceptable(listener)));
        assert_eq!(events.pop(), None);
    }

    #[test]
    fn they_stay_in_order_however_many_wait() {
        let mut events = Events::default();
        let (mut next, mut seen) = (0, 0);
        for (more, fewer) in [(3, 1), (62, 60), (64, 3), (1_000, 900), (1, 166), (500, 500)] {
            for _ in 0..more {
                events.readable(ConnId { index: next, generation: 1 });
                next += 1;
            }
            for _ in 0..fewer {
                let id = ConnId { index: seen, generation: 1 };
                assert_eq!(events.pop(), Some(Event::Readable(id)));
                seen += 1;
            }
        }
        assert_eq!((events.pop(), seen), (None, next));
    }
}
