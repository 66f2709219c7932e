//! A queue of `Bytes`, each with what it counts for. The first one lies in the queue itself:
//! most queues hold one piece, and finding it shall not cost another cache miss.

use std::collections::VecDeque;

use bytes::Bytes;

/// Bytes of bookkeeping counted for each chunk in a queue beside its payload.
pub(super) const CHUNK_OVERHEAD: u32 = 64;

/// A piece of payload and what it counts for in the memory budget.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) bytes: Bytes,
    pub(super) charge: u32,
}

/// The queue.
#[derive(Debug, Default)]
#[repr(C)]
pub(super) struct ChunkQueue {
    head: Option<Chunk>,
    rest: Option<Box<Rest>>,
}

/// What a queue needs beyond its first piece.
#[derive(Debug, Default)]
pub(super) struct Rest {
    /// Empty where there is no head.
    queue: VecDeque<Chunk>,
    /// For the receiver: the gathered piece at the end, still growing.
    pub(super) tail: Vec<u8>,
    /// For the sender: where the last gather began, as offset from SND.UNA, index of the
    /// chunk, offset in it.
    pub(super) cursor: (u32, u32, u32),
}

impl ChunkQueue {
    pub(super) fn is_empty(&self) -> bool {
        self.head.is_none()
    }

    // Inlined, so that the chunk is written where it stays: a copy of what was written a moment
    // ago, by loads wider than those stores, waits until they have left for the cache.
    #[inline(always)]
    pub(super) fn push(&mut self, bytes: Bytes, charge: u32) -> &mut Chunk {
        if self.head.is_none() {
            self.head.insert(Chunk { bytes, charge })
        } else {
            self.push_behind(Chunk { bytes, charge })
        }
    }

    #[inline(never)]
    fn push_behind(&mut self, chunk: Chunk) -> &mut Chunk {
        let queue = &mut self.rest_mut().queue;
        queue.push_back(chunk);
        let last = queue.len() - 1;
        &mut queue[last]
    }

    pub(super) fn push_front(&mut self, chunk: Chunk) {
        if let Some(second) = self.head.replace(chunk) {
            self.rest_mut().queue.push_front(second);
        }
    }

    /// Takes the last piece off.
    pub(super) fn pop_back(&mut self) -> Option<Chunk> {
        let last = self.rest.as_mut().and_then(|rest| rest.queue.pop_back());
        last.or_else(|| self.head.take())
    }

    /// How many pieces there are.
    pub(super) fn count(&self) -> usize {
        usize::from(self.head.is_some()) + self.rest.as_ref().map_or(0, |rest| rest.queue.len())
    }

    pub(super) fn front_mut(&mut self) -> Option<&mut Chunk> {
        self.head.as_mut()
    }

    #[inline(always)]
    pub(super) fn pop(&mut self) -> Option<Chunk> {
        let head = self.head.take();
        if self.rest.is_some() {
            self.move_up();
        }
        head
    }

    /// The second piece becomes the first.
    #[inline(never)]
    fn move_up(&mut self) {
        if let Some(rest) = &mut self.rest {
            self.head = rest.queue.pop_front();
        }
    }

    pub(super) fn get(&self, index: usize) -> Option<&Chunk> {
        match index {
            0 => self.head.as_ref(),
            _ => self.rest.as_ref()?.queue.get(index - 1),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Chunk> {
        self.head.iter().chain(self.rest.iter().flat_map(|rest| &rest.queue))
    }

    pub(super) fn rest(&self) -> Option<&Rest> {
        self.rest.as_deref()
    }

    pub(super) fn rest_mut(&mut self) -> &mut Rest {
        self.rest.get_or_insert_default()
    }

    /// Drops everything.
    pub(super) fn clear(&mut self) {
        self.head = None;
        if let Some(rest) = &mut self.rest {
            rest.queue.clear();
            rest.tail = Vec::new();
            rest.cursor = (0, 0, 0);
        }
    }

    /// Gives back memory that an empty queue holds for nothing.
    pub(super) fn shrink(&mut self) {
        if self.rest.as_ref().is_some_and(|rest| rest.queue.capacity() > 8) {
            self.rest = None;
        }
    }
}
