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

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::{BLOCK, ReadyQueue};

    #[test]
    fn it_is_a_queue_across_blocks() {
        let (mut queue, mut model) = (ReadyQueue::new(), VecDeque::new());
        let mut seed = 7u32;
        for next in 0..50_000 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // Grows to some blocks, then shrinks to nothing, over and over.
            let grow = if next % 10_000 < 5_000 { 3 } else { 1 };
            if (seed >> 16) % 4 < grow {
                queue.push(next);
                model.push_back(next);
            } else {
                let ahead = (seed >> 20) as usize % BLOCK;
                assert_eq!(queue.peek(ahead), model.get(ahead).copied());
                assert_eq!(queue.pop(), model.pop_front());
            }
            assert_eq!(queue.len(), model.len());
        }
        while let Some(index) = model.pop_front() {
            assert_eq!(queue.pop(), Some(index));
        }
        assert_eq!((queue.pop(), queue.peek(0)), (None, None));
    }
}
