//! The receiving side's data: what is in order and unread, and what came too early.
//!
//! ```text
//!      read by the     in order,      hole   out of   hole
//!      application      unread                order
//!   -----------------|------------|--------|########|------------|-------------
//!                              RCV.NXT   range                RCV.ADV
//!                    |<- ready -->|<-- offered window, RCV.WND -->|
//!                    |<-------- room, up to recv_buffer -------->|
//! ```
//!
//! RCV.ADV, the right edge last advertised, never retreats (RFC 9293 3.8.6.2.2). Payload is
//! copied into memory of its own size; small pieces that the reader lets lie are gathered, so
//! that what is held stays near what is counted.

use bytes::Bytes;

use super::queue::{CHUNK_OVERHEAD, ChunkQueue};
use super::segment::SackBlock;
use super::seq::SeqNum;

/// Pieces shorter than this are gathered when others wait already.
const SMALL: usize = 1024;
/// Up to this size.
const GATHERED: usize = 16 << 10;

/// Bytes in a row, in pieces of their own memory.
#[derive(Debug, Default)]
#[repr(C)]
pub(super) struct Rope {
    len: u32,
    /// What it counts for in the memory budget.
    charge: u32,
    /// Its `tail` is the gathered piece at the end, still growing.
    chunks: ChunkQueue,
}

impl Rope {
    pub(super) fn len(&self) -> u32 {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What it counts for in the memory budget, in bytes.
    pub(super) fn charge(&self) -> u32 {
        self.charge
    }

    /// `len` bytes have come that lie elsewhere, and nothing is here.
    #[inline(always)]
    pub(super) fn begin_elsewhere(&mut self, len: u32) {
        debug_assert!(self.is_empty() && self.chunks.is_empty());
        (self.len, self.charge) = (len, len + CHUNK_OVERHEAD);
    }

    /// They lie there no more. Returns what they counted for.
    #[inline(always)]
    pub(super) fn end_elsewhere(&mut self) -> u32 {
        self.len = 0;
        std::mem::take(&mut self.charge)
    }

    /// Appends a copy of `data`.
    #[inline(always)]
    pub(super) fn push(&mut self, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        match self.copied(data) {
            Some(copy) => self.push_copy(copy),
            None => self.gather(data),
        }
    }

    /// A copy of `data` to be [pushed](Rope::push_copy); `None`: it is to be gathered.
    #[inline(always)]
    pub(super) fn copied(&self, data: &[u8]) -> Option<Bytes> {
        (self.len == 0 || data.len() >= SMALL).then(|| Bytes::copy_from_slice(data))
    }

    /// Appends what [`Rope::copied`] has made.
    #[inline(always)]
    pub(super) fn push_copy(&mut self, copy: Bytes) {
        self.seal();
        self.len += copy.len() as u32;
        self.append(copy);
    }

    /// Appends a copy of so little data to what is gathered at the end.
    #[inline(never)]
    pub(super) fn gather(&mut self, data: &[u8]) {
        if self.tail().len() + data.len() > GATHERED {
            self.seal();
        }
        let before = self.tail_charge();
        self.chunks.rest_mut().tail.extend_from_slice(data);
        self.charge += self.tail_charge() - before;
        self.len += data.len() as u32;
    }

    /// Appends a copy of `parts`, `len` bytes in all, in one piece.
    pub(super) fn push_all(&mut self, parts: &[&[u8]], len: u32) {
        let mut all = Vec::with_capacity(len as usize);
        parts.iter().for_each(|part| all.extend_from_slice(part));
        if self.len > 0 && all.len() < SMALL {
            return self.push(&all);
        }
        self.seal();
        self.append(Bytes::from(all));
        self.len += len;
    }

    fn tail(&self) -> &[u8] {
        self.chunks.rest().map_or(&[], |rest| &rest.tail)
    }

    #[inline(always)]
    fn append(&mut self, bytes: Bytes) {
        let charge = bytes.len() as u32 + CHUNK_OVERHEAD;
        self.charge += charge;
        self.chunks.push(bytes, charge);
    }

    fn tail_charge(&self) -> u32 {
        match self.chunks.rest() {
            Some(rest) if rest.tail.capacity() > 0 => rest.tail.capacity() as u32 + CHUNK_OVERHEAD,
            _ => 0,
        }
    }

    /// Makes the gathered piece an ordinary one.
    #[inline(always)]
    fn seal(&mut self) {
        if self.chunks.rest().is_some() {
            self.seal_tail();
        }
    }

    #[inline(never)]
    fn seal_tail(&mut self) {
        if !self.tail().is_empty() {
            self.charge -= self.tail_charge();
            let mut tail = std::mem::take(&mut self.chunks.rest_mut().tail);
            tail.shrink_to_fit();
            self.append(Bytes::from(tail));
        }
    }

    /// Takes the first piece, if it is one and no longer than `max` bytes.
    #[inline(always)]
    pub(super) fn pop_whole(&mut self, max: usize) -> Option<Bytes> {
        let front = self.chunks.get(0)?;
        let len = front.bytes.len();
        if len > max {
            return None;
        }
        self.charge -= front.charge;
        self.len -= len as u32;
        self.chunks.pop().map(|chunk| chunk.bytes)
    }

    /// Takes at most `max` bytes (not 0) from the front: one piece or a part of it.
    #[inline(never)]
    pub(super) fn pop(&mut self, max: usize) -> Bytes {
        if self.chunks.is_empty() {
            self.seal();
        }
        let Some(front) = self.chunks.front_mut() else { return Bytes::new() };
        let bytes = if front.bytes.len() > max {
            front.bytes.split_to(max)
        } else {
            self.charge -= front.charge;
            self.chunks.pop().map(|chunk| chunk.bytes).unwrap_or_default()
        };
        self.len -= bytes.len() as u32;
        bytes
    }

    /// Drops everything.
    pub(super) fn clear(&mut self) {
        self.chunks.clear();
        (self.len, self.charge) = (0, 0);
    }

    /// Drops the first `n` bytes.
    fn trim(&mut self, mut n: u32) {
        while n > 0 && !self.is_empty() {
            n -= self.pop(n as usize).len() as u32;
        }
    }

    /// Gives back memory that an empty rope holds for nothing.
    pub(super) fn shrink(&mut self) {
        self.chunks.shrink();
    }

    pub(super) fn check(&self) {
        let total: usize = self.chunks.iter().map(|c| c.bytes.len()).sum();
        assert_eq!(total + self.tail().len(), self.len as usize, "length of a rope");
        let charge: u32 = self.chunks.iter().map(|c| c.charge).sum();
        assert_eq!(charge + self.tail_charge(), self.charge, "charge of a rope");
    }

    /// Moves all of `other` to the end. The one with fewer pieces moves: whoever sends a range
    /// from its end to its start, byte by byte, must not have all of it moved for each of them.
    fn join(&mut self, mut other: Rope) {
        self.seal();
        other.seal();
        if self.chunks.count() < other.chunks.count() {
            while let Some(chunk) = self.chunks.pop_back() {
                other.chunks.push_front(chunk);
            }
            self.chunks = other.chunks;
        } else {
            while let Some(chunk) = other.chunks.pop() {
                self.chunks.push(chunk.bytes, chunk.charge);
            }
        }
        self.len += other.len;
        self.charge += other.charge;
    }
}

/// A range that came too early.
#[derive(Debug)]
struct Range {
    start: SeqNum,
    data: Rope,
    /// When it last grew, by a count of arrivals.
    stamp: u32,
}

impl Range {
    fn end(&self) -> SeqNum {
        self.start + self.data.len()
    }
}

/// What happened to a segment's payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stored {
    /// Bytes that were there already.
    pub(super) duplicate: u32,
    /// The first of them that lie in a row.
    pub(super) first: Option<SackBlock>,
    /// Bytes given up for the range limit.
    pub(super) dropped: u32,
}

/// The ranges behind the receive queue.
#[derive(Debug, Default)]
pub(super) struct Reassembly {
    ranges: Vec<Range>,
    arrivals: u32,
    /// The sequence number of a FIN that came too early.
    pub(super) fin: Option<SeqNum>,
}

impl Reassembly {
    /// Whether nothing is held.
    pub(super) fn is_empty(&self) -> bool {
        self.ranges.is_empty() && self.fin.is_none()
    }

    /// How many ranges there is memory for.
    pub(super) fn capacity(&self) -> usize {
        self.ranges.capacity()
    }

    /// Whether any payload is held.
    pub(super) fn has_ranges(&self) -> bool {
        !self.ranges.is_empty()
    }

    /// Bytes held.
    pub(super) fn len(&self) -> u32 {
        self.ranges.iter().map(|r| r.data.len()).sum()
    }

    /// One past the highest byte held.
    pub(super) fn end(&self) -> Option<SeqNum> {
        self.ranges.last().map(Range::end)
    }

    /// What it counts for in the memory budget.
    pub(super) fn charge(&self) -> u32 {
        self.ranges.iter().map(|r| r.data.charge() + CHUNK_OVERHEAD).sum()
    }

    /// Keeps payload that begins behind a hole at `seq`. Existing bytes win over new ones.
    pub(super) fn store(&mut self, mut seq: SeqNum, mut data: &[u8], max_ranges: usize) -> Stored {
        let mut stored = Stored::default();
        self.arrivals = self.arrivals.wrapping_add(1);
        let i = self.ranges.partition_point(|r| r.end().before(seq));
        while !data.is_empty() {
            if self.ranges.get(i).is_some_and(|r| r.start.at_or_before(seq)) {
                // The range covers the beginning, or ends right there.
                let covered = (self.ranges[i].end() - seq).min(data.len() as u32);
                stored.duplicate += covered;
                if covered > 0 {
                    stored.first.get_or_insert(SackBlock { start: seq, end: seq + covered });
                }
                seq += covered;
                data = &data[covered as usize..];
            } else {
                if self.ranges.len() >= max_ranges {
                    stored.dropped += data.len() as u32;
                    break;
                }
                self.ranges.insert(i, Range { start: seq, data: Rope::default(), stamp: 0 });
            }
            let room = self.ranges.get(i + 1).map_or(u32::MAX, |next| next.start - seq);
            let (fits, rest) = data.split_at(data.len().min(room as usize));
            self.ranges[i].data.push(fits);
            self.ranges[i].stamp = self.arrivals;
            seq += fits.len() as u32;
            data = rest;
            if self.ranges.get(i + 1).is_some_and(|next| next.start == self.ranges[i].end()) {
                let next = self.ranges.remove(i + 1);
                self.ranges[i].data.join(next.data);
            }
        }
        stored
    }

    /// After `ready` has grown up to `next`: moves on what follows without a hole. Returns
    /// the new RCV.NXT and how many held bytes turned out to be duplicates.
    pub(super) fn advance(&mut self, ready: &mut Rope, mut next: SeqNum) -> (SeqNum, u32) {
        let mut duplicate = 0;
        let reached = self.ranges.iter().take_while(|r| r.start.at_or_before(next)).count();
        for mut range in self.ranges.drain(..reached) {
            // An earlier one of these may have moved `next` (never: they are disjoint and
            // not adjacent), so each overlaps only the new payload.
            let overlap = (next - range.start).min(range.data.len());
            range.data.trim(overlap);
            duplicate += overlap;
            next += range.data.len();
            ready.join(range.data);
        }
        (next, duplicate)
    }

    /// The blocks to report, that with `of` first, then the latest (RFC 2018 4), at most
    /// `max` (at most 4).
    pub(super) fn sack_blocks(&self, max: usize, of: Option<SeqNum>) -> [Option<SackBlock>; 4] {
        let mut blocks = [None; 4];
        let mut below = None;
        for block in blocks.iter_mut().take(max) {
            let age = |r: &Range| match of {
                Some(seq) if seq.in_window(r.start, r.data.len()) => 0,
                _ => self.arrivals.wrapping_sub(r.stamp).saturating_add(1),
            };
            let older = |r: &&Range| below.is_none_or(|b| (age(r), r.start.0) > b);
            let Some(range) = self.ranges.iter().filter(older).min_by_key(|r| (age(r), r.start.0))
            else {
                break;
            };
            *block = Some(SackBlock { start: range.start, end: range.end() });
            below = Some((age(range), range.start.0));
        }
        blocks
    }

    /// Drops everything.
    pub(super) fn clear(&mut self) {
        self.ranges.clear();
        self.fin = None;
    }

    pub(super) fn check(&self, next: SeqNum) {
        let mut end = next;
        for range in &self.ranges {
            assert!(range.start.after(end), "ranges are apart and behind RCV.NXT");
            assert!(!range.data.is_empty());
            range.data.check();
            end = range.end();
        }
    }
}
