//! The queue of tasks to poll: fixed blocks, so that it grows without copying and can be
//! looked into ahead of the poll.

use std::collections::VecDeque;

const BLOCK: usize = 1024;

/// A first-in, first-out queue of slot numbers.
pub(crate) struct ReadyQueue {
    /// Never empty.
    blocks: VecDeque<Box<[u32; BLOCK]>>,
    /// A block kept for reuse.
    spare: Option<Box<[u32; BLOCK]>>,
    /// Position of the first entry in the first block.
    head: usize,
    len: usize,
}

impl ReadyQueue {
    pub(crate) fn new() -> Self {
        ReadyQueue { blocks: VecDeque::from([Box::new([0; BLOCK])]), spare: None, head: 0, len: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub(crate) fn push(&mut self, index: u32) {
        let position = self.head + self.len;
        let block = position / BLOCK;
        if block == self.blocks.len() {
            self.blocks.push_back(self.spare.take().unwrap_or_else(|| Box::new([0; BLOCK])));
        }
        self.blocks[block][position % BLOCK] = index;
        self.len += 1;
    }

    #[inline]
    pub(crate) fn pop(&mut self) -> Option<u32> {
        if self.len == 0 {
            return None;
        }
        let index = self.blocks[0][self.head];
        self.head += 1;
        self.len -= 1;
        if self.head == BLOCK || self.len == 0 {
            self.head = 0;
            if self.blocks.len() > 1 {
                self.spare = self.blocks.pop_front();
            }
        }
        Some(index)
    }

    /// The entry that [`pop`](Self::pop) returns after `ahead` others.
    #[inline]
    pub(crate) fn peek(&self, ahead: usize) -> Option<u32> {
        if ahead >= self.len {
            return None;
        }
        let position = self.head + ahead;
        Some(self.blocks[position / BLOCK][position % BLOCK])
    }
}
