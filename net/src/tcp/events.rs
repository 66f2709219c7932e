//! Events that wait to be popped, eight bytes each.

use std::collections::VecDeque;

use super::demux::Slot;
use super::engine::{ConnId, Event, ListenerId};

/// The queue. An event in it is one number: what has been put together of several fields and is
/// read again in one piece right away waits until all stores before it, some of which miss the
/// cache, have left; a number goes by in a register.
#[derive(Debug, Default)]
pub(super) struct Events(VecDeque<u64>);

const READABLE: u64 = 0;
const WRITABLE: u64 = 1;
const ACCEPTABLE: u64 = 2;

fn pack(kind: u64, index: u32, generation: u32) -> u64 {
    debug_assert!((index as usize) < Slot::INDEX_LIMIT);
    kind << 62 | u64::from(index) << 32 | u64::from(generation)
}

impl Events {
    #[inline(always)]
    pub(super) fn readable(&mut self, id: ConnId) {
        self.0.push_back(pack(READABLE, id.index, id.generation));
    }

    pub(super) fn writable(&mut self, id: ConnId) {
        self.0.push_back(pack(WRITABLE, id.index, id.generation));
    }

    pub(super) fn acceptable(&mut self, id: ListenerId) {
        self.0.push_back(pack(ACCEPTABLE, id.index, id.generation));
    }

    /// The one that has waited longest.
    #[inline(always)]
    pub(super) fn pop(&mut self) -> Option<Event> {
        let event = self.0.pop_front()?;
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
}
