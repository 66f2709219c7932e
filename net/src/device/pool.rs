//! A bounded pool of heap buffers for devices that have no packet memory of their own.
//!
//! A buffer goes home when it is dropped, on whichever thread that is. Buffers are made
//! when first needed, so the pool costs what was in flight at the busiest moment and not
//! its limit; they stay initialised over their whole length, so that a device can read
//! into one without clearing it first.

use std::sync::Arc;

use crossbeam_queue::ArrayQueue;

/// Large buffers (over the pool's size) kept for reuse; more are freed on return.
const LARGE_KEPT: usize = 32;

/// The pool, as its device holds it.
pub(crate) struct Pool {
    home: Arc<Home>,
    /// Buffers that have not been made yet.
    unmade: usize,
    size: usize,
}

/// Where buffers return to. Together the two lists never hold more than the pool's limit.
struct Home {
    /// Buffers of the pool's size, and empty ones that stand for a buffer to be made.
    free: ArrayQueue<Vec<u8>>,
    /// Larger ones.
    large: ArrayQueue<Vec<u8>>,
    size: usize,
}

impl Pool {
    /// A pool of at most `limit` buffers of `size` bytes each.
    pub(crate) fn new(limit: usize, size: usize) -> Pool {
        let home =
            Home { free: ArrayQueue::new(limit.max(1)), large: ArrayQueue::new(LARGE_KEPT), size };
        Pool { home: Arc::new(home), unmade: limit, size }
    }

    /// A buffer with room for `needed` bytes. `None` when all are out or the allocator has
    /// no memory.
    #[inline]
    pub(crate) fn take(&mut self, needed: usize) -> Option<Buffer> {
        let fits = needed <= self.size;
        let (first, second) = if fits {
            (&self.home.free, &self.home.large)
        } else {
            (&self.home.large, &self.home.free)
        };
        let mut bytes = match first.pop() {
            Some(bytes) => bytes,
            None if self.unmade > 0 => {
                self.unmade -= 1;
                Vec::new()
            }
            None => second.pop()?,
        };
        if bytes.len() < needed {
            bytes = grown(bytes, needed.max(self.size), &self.home)?;
        }
        Some(Buffer { bytes, start: 0, end: 0, home: Arc::clone(&self.home) })
    }
}

/// The buffer with `length` bytes, or, without memory, nothing and its place given back.
#[cold]
fn grown(mut bytes: Vec<u8>, length: usize, home: &Home) -> Option<Vec<u8>> {
    bytes.clear();
    if bytes.try_reserve_exact(length).is_err() {
        home.take_back(Vec::new());
        return None;
    }
    bytes.resize(length, 0);
    Some(bytes)
}

impl Home {
    fn take_back(&self, bytes: Vec<u8>) {
        if bytes.len() > self.size {
            match self.large.push(bytes) {
                Ok(()) => return,
                Err(one_too_many) => drop(one_too_many),
            }
            drop(self.free.push(Vec::new()));
        } else {
            // There is room for as many as there are.
            drop(self.free.push(bytes));
        }
    }
}

/// A buffer of a [`Pool`]: `start..end` is the frame, the rest is room.
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    start: u32,
    end: u32,
    home: Arc<Home>,
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

    /// Makes the frame longer by `len` bytes, whose content means nothing; `None` where there is no
    /// room for them.
    #[inline(always)]
    pub(crate) fn grow(&mut self, len: usize) -> Option<&mut [u8]> {
        let at = self.end as usize;
        let room = self.bytes.get_mut(at..at + len)?;
        // At most the buffer's length, as the ends of frames are.
        self.end += len as u32;
        Some(room)
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
        self.home.take_back(std::mem::take(&mut self.bytes));
    }
}
