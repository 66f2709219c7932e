//! The sending side's data: what the application gave and the peer has not acknowledged.
//!
//! ```text
//!        acknowledged     sent, in flight        queued, not sent
//!   ---------------------|--------------------|----------------------|
//!                     SND.UNA              SND.NXT                  end
//!                        |<-------------- the send queue ----------->|
//!                        |<------ SND.WND (peer) ------>|
//!                        |<------ cwnd, less what SACK says is out of the network
//! ```
//!
//! SND.NXT never goes back: what is sent again is chosen by the scoreboard (`recovery`). SYN
//! and FIN occupy sequence space but not the queue.
//!
//! A small answer, all that is queued, lies in the queue itself: at a million connections it costs
//! more to find the allocator's memory again, a thousand messages later, than to copy it. While
//! nothing is queued its place is lent to a small message that has come and is not read yet.

use bytes::Bytes;

use super::pacing::Pace;
use super::queue::{CHUNK_OVERHEAD, ChunkQueue};

/// Most bytes that lie in the queue itself.
pub(super) const SMALL: usize = 124;

/// The bytes from SND.UNA on, in the pieces the application gave.
#[derive(Debug)]
#[repr(C)]
pub(super) struct SendQueue {
    /// Empty while what there is lies in `small`.
    chunks: ChunkQueue,
    /// Bytes of the first chunk that are acknowledged already.
    skip: u32,
    /// Bytes not acknowledged, over all chunks.
    len: u32,
    /// What all chunks count for in the memory budget.
    charge: u32,
    /// How fast they go out.
    pub(super) pace: Pace,
    /// So many bytes of `small` were received and are not read.
    lent: u32,
    small: [u8; SMALL],
}

impl Default for SendQueue {
    fn default() -> SendQueue {
        SendQueue {
            chunks: ChunkQueue::default(),
            skip: 0,
            len: 0,
            charge: 0,
            pace: Pace::default(),
            lent: 0,
            small: [0; SMALL],
        }
    }
}

impl SendQueue {
    /// Bytes not acknowledged.
    pub(super) fn len(&self) -> u32 {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many more bytes there is room for under `limit`. Many tiny chunks fill a queue too:
    /// their bookkeeping may take four times the limit.
    pub(super) fn room(&self, limit: u32) -> u32 {
        if self.charge / 4 >= limit { 0 } else { limit.saturating_sub(self.len) }
    }

    /// Asks the cache for the queue, and for the first line of what lies in it.
    pub(super) fn prefetch(&self) {
        throng_runtime::prefetch_read(&self.chunks);
        throng_runtime::prefetch_read(&self.lent);
    }

    /// Asks the cache for the first payload that lies elsewhere.
    pub(super) fn prefetch_payload(&self) {
        if let Some(chunk) = self.chunks.get(0)
            && let Some(first) = chunk.bytes.first()
        {
            throng_runtime::prefetch_read(first);
        }
    }

    pub(super) fn shrink(&mut self) {
        self.chunks.shrink();
    }

    /// Whether what there is lies in the queue itself.
    fn is_small(&self) -> bool {
        self.len > 0 && self.chunks.is_empty()
    }

    /// Has the queue, which is empty, begin with a copy of at most [`SMALL`] bytes (not none);
    /// returns what it counts for.
    #[inline(always)]
    pub(super) fn put_small(&mut self, bytes: &[u8]) -> u32 {
        debug_assert!(self.is_empty() && self.skip == 0 && self.lent == 0);
        self.small[..bytes.len()].copy_from_slice(bytes);
        self.len = bytes.len() as u32;
        self.charge = CHUNK_OVERHEAD + self.len;
        self.charge
    }

    /// Keeps a copy of `received` (not empty) for whoever reads it, where the queue is empty and has
    /// room for it. Returns whether it does.
    #[inline(always)]
    pub(super) fn lend(&mut self, received: &[u8]) -> bool {
        debug_assert!(self.lent == 0, "what has come before is read first");
        let lends = self.is_empty() && received.len() <= SMALL;
        if lends {
            self.small[..received.len()].copy_from_slice(received);
            self.lent = received.len() as u32;
        }
        lends
    }

    /// What was received and lies here; empty: nothing.
    #[inline(always)]
    pub(super) fn borrowed(&self) -> &[u8] {
        &self.small[..self.lent as usize]
    }

    /// Its place is the queue's own again.
    #[inline(always)]
    pub(super) fn end_loan(&mut self) {
        self.lent = 0;
    }

    /// More is to come behind what lies in the queue itself.
    #[inline(never)]
    fn move_out(&mut self) {
        let all = Bytes::copy_from_slice(&self.small[..(self.skip + self.len) as usize]);
        self.chunks.push(all, self.charge);
    }

    /// Appends `bytes` (not empty); returns what it counts for in the memory budget. Bytes that are
    /// shared (a broadcast) count for their bookkeeping only: the payload is not this
    /// queue's to free.
    #[inline(always)]
    pub(super) fn push(&mut self, bytes: Bytes) -> u32 {
        let len = bytes.len() as u32;
        if self.is_empty() && bytes.len() <= SMALL && self.lent == 0 && bytes.is_unique() {
            return self.put_small(&bytes);
        }
        if self.is_small() {
            self.move_out();
        }
        // Asked about in its place: what has an address before is moved there by way of memory, and
        // waited for.
        let chunk = self.chunks.push(bytes, CHUNK_OVERHEAD);
        if chunk.bytes.is_unique() {
            chunk.charge += len;
        }
        let charge = chunk.charge;
        self.len += len;
        self.charge += charge;
        charge
    }

    /// Forgets the first `n` bytes; returns what the budget gets back.
    #[inline(always)]
    pub(super) fn release(&mut self, n: u32) -> u32 {
        debug_assert!(n <= self.len);
        if n == self.len && self.chunks.is_empty() {
            // Nothing or all of what lies in the queue itself, as after almost every answer.
            (self.skip, self.len) = (0, 0);
            self.pace = Pace::default();
            return std::mem::take(&mut self.charge);
        }
        self.release_chunks(n)
    }

    #[inline(never)]
    fn release_chunks(&mut self, n: u32) -> u32 {
        self.len -= n;
        if self.len == 0 {
            return self.clear();
        }
        let mut freed = 0;
        let mut gone = 0;
        let mut left = self.skip + n;
        while let Some(first) = self.chunks.front_mut() {
            let len = first.bytes.len() as u32;
            if left < len {
                break;
            }
            left -= len;
            freed += first.charge;
            gone += 1;
            self.chunks.pop();
        }
        self.skip = left;
        self.charge -= freed;
        if self.chunks.rest().is_some() {
            let cursor = &mut self.chunks.rest_mut().cursor;
            let (at, chunk, offset) = *cursor;
            *cursor =
                if at > n && chunk >= gone { (at - n, chunk - gone, offset) } else { (0, 0, 0) };
        }
        freed
    }

    /// Drops everything; returns what the budget gets back.
    pub(super) fn clear(&mut self) -> u32 {
        self.chunks.clear();
        (self.skip, self.len) = (0, 0);
        self.pace = Pace::default();
        std::mem::take(&mut self.charge)
    }

    /// The `len` bytes that begin `offset` after SND.UNA. They must be in the queue.
    #[inline(always)]
    pub(super) fn gather(&mut self, offset: u32, len: u32) -> Payload<'_> {
        debug_assert!(offset + len <= self.len);
        if self.chunks.is_empty() {
            let begin = (self.skip + offset) as usize;
            let first = &self.small[begin..begin + len as usize];
            return Payload { first, rest: None, len: len as usize };
        }
        self.gather_chunks(offset, len)
    }

    #[inline(never)]
    fn gather_chunks(&mut self, offset: u32, len: u32) -> Payload<'_> {
        let (mut index, mut skip) = (0, self.skip + offset);
        if let Some(rest) = self.chunks.rest()
            && offset >= rest.cursor.0
            && rest.cursor.0 != 0
        {
            index = rest.cursor.1;
            skip = rest.cursor.2 + (offset - rest.cursor.0);
        }
        while let Some(chunk) = self.chunks.get(index as usize) {
            let chunk_len = chunk.bytes.len() as u32;
            if skip < chunk_len {
                break;
            }
            skip -= chunk_len;
            index += 1;
        }
        if offset > 0 && index > 0 {
            // Most gathers go on where the last one ended; remember this one's start.
            self.chunks.rest_mut().cursor = (offset, index, skip);
        }
        let first = self.chunks.get(index as usize).map_or(&[][..], |chunk| &chunk.bytes);
        let first = &first[skip as usize..];
        let rest = (first.len() < len as usize).then_some((&self.chunks, index as usize + 1));
        Payload { first: &first[..first.len().min(len as usize)], rest, len: len as usize }
    }

    pub(super) fn check(&self) {
        let held = u64::from(self.len) + u64::from(self.skip);
        if self.is_small() {
            assert_eq!(self.lent, 0, "it is lent to nobody");
            assert!(held <= SMALL as u64, "what lies in the queue itself");
            assert_eq!(u64::from(CHUNK_OVERHEAD) + held, self.charge.into(), "its charge");
            return;
        }
        let total: u64 = self.chunks.iter().map(|c| c.bytes.len() as u64).sum();
        assert_eq!(total, held, "send queue length");
        let charge: u32 = self.chunks.iter().map(|c| c.charge).sum();
        assert_eq!(charge, self.charge, "send queue charge");
        assert!(self.chunks.get(0).is_none_or(|c| (self.skip as usize) < c.bytes.len()));
    }
}

/// The payload of a segment about to be sent: slices of the send queue, not copied.
#[derive(Clone, Copy, Debug)]
pub struct Payload<'a> {
    first: &'a [u8],
    /// Where it goes on behind the first slice, if it does.
    rest: Option<(&'a ChunkQueue, usize)>,
    len: usize,
}

impl<'a> Payload<'a> {
    /// No payload.
    pub const EMPTY: Payload<'static> = Payload { first: &[], rest: None, len: 0 };

    /// Length in bytes, over all slices.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The slices in order, none of them empty.
    pub fn iter(&self) -> Slices<'a> {
        Slices { next: self.first, rest: self.rest, left: self.len }
    }

    /// Copies all of it to the start of `to`.
    ///
    /// # Panics
    /// When `to` is shorter than [`Payload::len`].
    pub fn copy_to(&self, to: &mut [u8]) {
        let mut at = 0;
        for slice in self {
            to[at..at + slice.len()].copy_from_slice(slice);
            at += slice.len();
        }
    }

    /// A copy in one piece.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut all = Vec::with_capacity(self.len);
        self.iter().for_each(|slice| all.extend_from_slice(slice));
        all
    }
}

impl<'a> IntoIterator for &Payload<'a> {
    type Item = &'a [u8];
    type IntoIter = Slices<'a>;
    fn into_iter(self) -> Slices<'a> {
        self.iter()
    }
}

/// The slices of a [`Payload`].
#[derive(Clone, Debug)]
pub struct Slices<'a> {
    next: &'a [u8],
    rest: Option<(&'a ChunkQueue, usize)>,
    left: usize,
}

impl<'a> Iterator for Slices<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        let slice = std::mem::take(&mut self.next);
        if slice.is_empty() {
            return None;
        }
        self.left -= slice.len();
        if self.left > 0
            && let Some((chunks, index)) = &mut self.rest
            && let Some(chunk) = chunks.get(*index)
        {
            *index += 1;
            self.next = &chunk.bytes[..chunk.bytes.len().min(self.left)];
        }
        Some(slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is in the queue, from `offset` on.
    fn held(queue: &mut SendQueue, offset: u32) -> Vec<u8> {
        queue.check();
        let len = queue.len() - offset;
        let payload = queue.gather(offset, len);
        let slices: Vec<u8> = payload.iter().flatten().copied().collect();
        assert_eq!((payload.len(), payload.to_vec()), (slices.len(), slices.clone()));
        assert!(payload.iter().all(|slice| !slice.is_empty()));
        slices
    }

    #[test]
    fn a_small_piece_lies_in_the_queue_until_more_follows() {
        let mut queue = SendQueue::default();
        let all: Vec<u8> = (0..=255).collect();
        for len in [1, SMALL - 1, SMALL, SMALL + 1] {
            let charge = queue.push(Bytes::copy_from_slice(&all[..len]));
            assert_eq!((charge, queue.is_small()), (CHUNK_OVERHEAD + len as u32, len <= SMALL));
            assert_eq!(held(&mut queue, 0), &all[..len]);
            assert_eq!(queue.release(len as u32), charge);
            assert!(queue.is_empty() && !queue.is_small());
        }
        // Shared bytes stay where they are, and are not paid for.
        let shared = Bytes::copy_from_slice(&all[..9]);
        let other = shared.clone();
        assert_eq!((queue.push(shared), queue.is_small()), (CHUNK_OVERHEAD, false));
        assert_eq!(held(&mut queue, 0), other);
        queue.release(9);
        // Acknowledged in part, then followed by more, then acknowledged across both.
        let mut charge = queue.put_small(&all[..100]);
        assert_eq!(queue.release(30), 0);
        assert_eq!(held(&mut queue, 0), &all[30..100]);
        assert_eq!(held(&mut queue, 5), &all[35..100]);
        charge += queue.push(Bytes::copy_from_slice(&all[100..110]));
        charge += queue.push(Bytes::copy_from_slice(&all[110..256]));
        assert_eq!(held(&mut queue, 0), &all[30..]);
        assert_eq!(held(&mut queue, 75), &all[105..]);
        charge -= queue.release(75);
        assert_eq!(held(&mut queue, 0), &all[105..]);
        assert_eq!(queue.clear(), charge);
        assert!(queue.is_empty());
        queue.put_small(&all[..1]);
        assert_eq!(held(&mut queue, 0), [0]);
    }
}
