//! A bounded pool of heap buffers for devices that have no packet memory of their own.
//!
//! A buffer goes home when it is dropped, on whichever thread that is. Buffers are made
//! when first needed, so the pool costs what was in flight at the busiest moment and not
//! its limit; they stay initialised over their whole length, so that a device can read
//! into one without clearing it first.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_queue::ArrayQueue;

/// Large buffers (over the pool's size) kept for reuse; more are freed on return.
const LARGE_KEPT: usize = 32;

/// A handle on the pool, cheap to clone.
#[derive(Clone)]
pub(crate) struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    /// Returned buffers of `size` bytes.
    free: ArrayQueue<Vec<u8>>,
    /// Returned buffers of more bytes.
    large: ArrayQueue<Vec<u8>>,
    /// How many buffers may still be handed out.
    left: AtomicUsize,
    size: usize,
}

impl Pool {
    /// A pool of at most `limit` buffers of `size` bytes each.
    pub(crate) fn new(limit: usize, size: usize) -> Pool {
        let shared = Shared {
            free: ArrayQueue::new(limit.max(1)),
            large: ArrayQueue::new(LARGE_KEPT),
            left: AtomicUsize::new(limit),
            size,
        };
        Pool { shared: Arc::new(shared) }
    }

    /// A buffer with room for `needed` bytes. `None` when all are out or the allocator has
    /// no memory.
    pub(crate) fn take(&self, needed: usize) -> Option<Buffer> {
        let shared = &self.shared;
        let take = |left: usize| left.checked_sub(1);
        shared.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).ok()?;
        let reused = if needed > shared.size { shared.large.pop() } else { shared.free.pop() };
        let mut bytes = reused.unwrap_or_default();
        if bytes.len() < needed {
            let length = needed.max(shared.size);
            bytes.clear();
            if bytes.try_reserve_exact(length).is_err() {
                shared.left.fetch_add(1, Ordering::Relaxed);
                return None;
            }
            bytes.resize(length, 0);
        }
        Some(Buffer { bytes, start: 0, end: 0, home: Arc::clone(shared) })
    }
}

/// A buffer of a [`Pool`]: `start..end` is the frame, the rest is room.
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    start: u32,
    end: u32,
    home: Arc<Shared>,
}

impl Buffer {
    /// The frame.
    pub(crate) fn frame(&self) -> &[u8] {
        &self.bytes[self.start as usize..self.end as usize]
    }

    /// The frame, to write.
    pub(crate) fn frame_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start as usize..self.end as usize]
    }

    /// Appends `more`. Returns whether it fitted or the buffer could grow.
    pub(crate) fn append(&mut self, more: &[u8]) -> bool {
        let end = self.end as usize + more.len();
        if end > self.bytes.len() {
            let missing = end - self.bytes.len();
            if end > u32::MAX as usize || self.bytes.try_reserve_exact(missing).is_err() {
                return false;
            }
            self.bytes.resize(end, 0);
        }
        self.bytes[self.end as usize..end].copy_from_slice(more);
        self.end = end as u32;
        true
    }

    /// All bytes, for a device to read into; [`set_frame`](Buffer::set_frame) then says
    /// where the frame is.
    pub(crate) fn whole_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// Makes `start..end` of [`whole_mut`](Buffer::whole_mut) the frame, cut to the buffer.
    pub(crate) fn set_frame(&mut self, start: usize, end: usize) {
        let end = end.min(self.bytes.len());
        self.start = start.min(end) as u32;
        self.end = end as u32;
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let home = &*self.home;
        // A full queue of large ones frees the memory; the free queue has room for all.
        let list = if bytes.len() > home.size { &home.large } else { &home.free };
        drop(list.push(bytes));
        home.left.fetch_add(1, Ordering::Relaxed);
    }
}
