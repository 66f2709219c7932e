//! Who waits for what: the wakers of a shard's connections, beside the engine that knows
//! nothing of tasks.

use std::task::{Context, Waker};

/// Adds the task of `cx` to tasks that wait for the same thing, once.
pub(crate) fn wait_in(waiting: &mut Vec<Waker>, cx: &Context<'_>) {
    if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
        waiting.push(cx.waker().clone());
    }
}

/// Slots per chunk: growing allocates one chunk and moves none.
const CHUNK: usize = 1024;

/// The two wakers of a connection.
#[derive(Default)]
struct Slot {
    read: Option<Waker>,
    write: Option<Waker>,
}

/// What a task waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Interest {
    /// Bytes, the end of the stream, or an error.
    Read,
    /// Room in the send queue, the end of the handshake, or an error.
    Write,
}

/// Wakers by connection index.
#[derive(Default)]
pub(crate) struct Wakers {
    chunks: Vec<Box<[Slot]>>,
}

impl Wakers {
    /// Registers the task of `cx`; it replaces the one that waited before.
    pub(crate) fn register(&mut self, index: u32, interest: Interest, cx: &Context<'_>) {
        let index = index as usize;
        while self.chunks.len() <= index / CHUNK {
            self.chunks.push((0..CHUNK).map(|_| Slot::default()).collect());
        }
        let slot = &mut self.chunks[index / CHUNK][index % CHUNK];
        let waker = match interest {
            Interest::Read => &mut slot.read,
            Interest::Write => &mut slot.write,
        };
        match waker {
            Some(waker) => waker.clone_from(cx.waker()),
            None => *waker = Some(cx.waker().clone()),
        }
    }

    /// Wakes the task that waits, if one does.
    pub(crate) fn wake(&mut self, index: u32, interest: Interest) {
        if let Some(slot) = self.slot(index) {
            let waker = match interest {
                Interest::Read => slot.read.take(),
                Interest::Write => slot.write.take(),
            };
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    /// Forgets both: the connection's owner has let go of it.
    pub(crate) fn clear(&mut self, index: u32) {
        if let Some(slot) = self.slot(index) {
            *slot = Slot::default();
        }
    }

    /// Bytes of memory held.
    pub(crate) fn memory(&self) -> usize {
        self.chunks.len() * CHUNK * size_of::<Slot>()
    }

    fn slot(&mut self, index: u32) -> Option<&mut Slot> {
        self.chunks.get_mut(index as usize / CHUNK).map(|chunk| &mut chunk[index as usize % CHUNK])
    }
}
