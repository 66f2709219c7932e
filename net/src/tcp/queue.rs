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

/// The queue. `rest` is empty where `head` is `None`.
#[derive(Debug, Default)]
pub(super) struct ChunkQueue {
    head: Option<Chunk>,
    rest: VecDeque<Chunk>,
}

impl ChunkQueue {
    pub(super) fn is_empty(&self) -> bool {
        self.head.is_none()
    }

    pub(super) fn push(&mut self, chunk: Chunk) {
        if self.head.is_none() {
            self.head = Some(chunk);
        } else {
            self.rest.push_back(chunk);
        }
    }

    pub(super) fn front_mut(&mut self) -> Option<&mut Chunk> {
        self.head.as_mut()
    }

    pub(super) fn pop(&mut self) -> Option<Chunk> {
        let head = self.head.take();
        if !self.rest.is_empty() {
            self.head = self.rest.pop_front();
        }
        head
    }

    pub(super) fn get(&self, index: usize) -> Option<&Chunk> {
        match index {
            0 => self.head.as_ref(),
            _ => self.rest.get(index - 1),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Chunk> {
        self.head.iter().chain(&self.rest)
    }

    /// Drops everything, and memory that is not worth keeping.
    pub(super) fn clear(&mut self) {
        self.head = None;
        if !self.rest.is_empty() {
            self.rest.clear();
            self.shrink();
        }
    }

    /// Gives back memory that an empty queue holds for nothing.
    pub(super) fn shrink(&mut self) {
        if self.rest.capacity() > 8 && self.rest.is_empty() {
            self.rest = VecDeque::new();
        }
    }
}
