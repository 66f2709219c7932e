//! The queue of tasks to poll: fixed blocks, so that it grows without copying, taken out
//! in batches, so that what a batch needs can be fetched before it is polled.

use std::collections::VecDeque;

const BLOCK: usize = 1024;

type Block = Box<[u32; BLOCK]>;

/// Most slots taken out at once.
pub(crate) const BATCH: usize = 32;

/// A first-in, first-out queue of slot numbers.
pub(crate) struct ReadyQueue {
    /// Where entries come out: those from `taken` to `filled`.
    front: Block,
    taken: usize,
    filled: usize,
    /// Full blocks between front and back.
    middle: VecDeque<Block>,
    /// Where entries go in: the first `put` are used.
    back: Block,
    put: usize,
    /// A block kept for reuse.
    spare: Option<Block>,
}

impl ReadyQueue {
    pub(crate) fn new() -> Self {
        ReadyQueue {
            front: block(),
            taken: 0,
            filled: 0,
            middle: VecDeque::new(),
            back: block(),
            put: 0,
            spare: None,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.filled - self.taken + self.middle.len() * BLOCK + self.put
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.taken == self.filled && self.put == 0 && self.middle.is_empty()
    }

    #[inline]
    pub(crate) fn push(&mut self, index: u32) {
        self.back[self.put] = index;
        self.put += 1;
        if self.put == BLOCK {
            let empty = self.spare.take().unwrap_or_else(block);
            self.middle.push_back(std::mem::replace(&mut self.back, empty));
            self.put = 0;
        }
    }

    /// Takes out at most `limit` entries. None only if the queue is empty; fewer than there
    /// are where a block ends.
    #[inline]
    pub(crate) fn pop(&mut self, limit: usize, batch: &mut [u32; BATCH]) -> usize {
        if self.taken == self.filled {
            self.next_block();
        }
        let count = (self.filled - self.taken).min(limit).min(BATCH);
        batch[..count].copy_from_slice(&self.front[self.taken..self.taken + count]);
        self.taken += count;
        count
    }

    /// The front is used up: makes the next block the front.
    fn next_block(&mut self) {
        self.taken = 0;
        if let Some(full) = self.middle.pop_front() {
            self.spare = Some(std::mem::replace(&mut self.front, full));
            self.filled = BLOCK;
        } else {
            std::mem::swap(&mut self.front, &mut self.back);
            self.filled = std::mem::take(&mut self.put);
        }
    }
}

fn block() -> Block {
    Box::new([0; BLOCK])
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::{BATCH, ReadyQueue};

    #[test]
    fn it_is_a_queue_across_blocks() {
        let (mut queue, mut model) = (ReadyQueue::new(), VecDeque::new());
        let mut seed = 7u32;
        let mut batch = [0; BATCH];
        for next in 0..100_000 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // Grows to some blocks, then shrinks to nothing, over and over.
            let grow = if next % 20_000 < 10_000 { 63 } else { 50 };
            if (seed >> 16) % 64 < grow {
                queue.push(next);
                model.push_back(next);
            } else {
                let limit = (seed >> 22) as usize % 64;
                let count = queue.pop(limit, &mut batch);
                assert!(count <= limit.min(BATCH));
                assert!(count > 0 || limit == 0 || model.is_empty());
                for index in &batch[..count] {
                    assert_eq!(Some(*index), model.pop_front());
                }
            }
            assert_eq!((queue.len(), queue.is_empty()), (model.len(), model.is_empty()));
        }
    }
}
