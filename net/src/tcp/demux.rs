//! From a 4-tuple to the slot that holds it: open addressing, eight bytes an entry.
//!
//! An entry is the low half of the tuple's keyed hash and a [`Slot`]; the tuple itself is
//! compared where the slot points. The table lives in chunks. It grows by a second table twice as
//! large, and shrinks by one half as large: every insertion and removal moves a few entries over,
//! and chunks are freed when drained. No operation does more than a bounded amount of work: the
//! chunks of a larger table are taken one by one while the smaller one fills, those of a smaller
//! table when the first entry comes to each.

use throng_runtime::chunks::{Chunk, Pages};

use super::isn::words;
use super::segment::FourTuple;

/// Which table a slot is of, and its index there (under 2^30). Opaque outside the engine.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Slot(pub(super) u32);

/// What a [`Slot`] points at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// A connection.
    Conn = 1,
    /// A half-open passive connection.
    Half = 2,
    /// A TIME_WAIT entry.
    Wait = 3,
}

impl Slot {
    pub(super) const INDEX_LIMIT: usize = 1 << 30;

    pub(super) fn new(kind: Kind, index: u32) -> Slot {
        debug_assert!((index as usize) < Slot::INDEX_LIMIT);
        Slot((kind as u32) << 30 | index)
    }

    /// What the timing wheel holds for a connection that waits to be [paced](super::pacing).
    pub(super) fn paced(index: u32) -> Slot {
        Slot(index)
    }

    pub(super) fn is_paced(self) -> bool {
        self.0 >> 30 == 0
    }

    pub(super) fn kind(self) -> Kind {
        match self.0 >> 30 {
            1 => Kind::Conn,
            2 => Kind::Half,
            _ => Kind::Wait,
        }
    }

    pub(super) fn index(self) -> u32 {
        self.0 & (Slot::INDEX_LIMIT as u32 - 1)
    }
}

/// A 128-bit product folded to 64 bits: the mixing step of wyhash and foldhash.
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

/// Entries of a chunk.
const CHUNK: usize = Chunk::<u64>::CAPACITY;
/// Places of the smallest table.
const LEAST: usize = 1024;
/// Most of one that stays as it is when the last entry goes.
const KEPT: usize = CHUNK / 2;
const GONE: u64 = 1;
const STEP: usize = 16;
/// Insertions that take a chunk of the next table, between 11/16 of a table and 12/16, where it grows.
const LEAD: usize = CHUNK / 32;

/// One power-of-two table. An entry is `hash << 32 | slot`; 0 is empty, and [`GONE`] (no
/// slot's kind is 0) a hole left by a removal while the table is being drained.
#[derive(Debug)]
struct Table {
    /// One that is absent holds nothing.
    chunks: Vec<Chunk<u64>>,
    mask: usize,
    used: usize,
}

impl Table {
    /// An empty one in these chunks, and more where they are not enough.
    fn new(capacity: usize, mut chunks: Vec<Chunk<u64>>) -> Table {
        chunks.resize_with(capacity.div_ceil(CHUNK), Chunk::absent);
        Table { chunks, mask: capacity - 1, used: 0 }
    }

    fn capacity(&self) -> usize {
        self.mask + 1
    }

    fn get(&self, at: usize) -> u64 {
        self.chunks[at / CHUNK].get(at % CHUNK).copied().unwrap_or(0)
    }

    fn set(&mut self, at: usize, entry: u64) {
        let chunk = &mut self.chunks[at / CHUNK];
        if !chunk.is_there() {
            *chunk = Chunk::zeroes(if self.mask < CHUNK { Pages::Small } else { Pages::Huge });
        }
        chunk[at % CHUNK] = entry;
    }

    fn insert(&mut self, entry: u64) {
        let mut at = (entry >> 32) as usize & self.mask;
        while self.get(at) != 0 {
            at = (at + 1) & self.mask;
        }
        self.set(at, entry);
        self.used += 1;
    }

    /// Removes by shifting the rest of the cluster back, so that no hole stays.
    fn remove_at(&mut self, mut hole: usize) {
        let mut at = hole;
        loop {
            at = (at + 1) & self.mask;
            let entry = self.get(at);
            if entry == 0 {
                break;
            }
            let home = (entry >> 32) as usize & self.mask;
            // Movable when its home is not inside (hole, at], circularly.
            if at.wrapping_sub(home) & self.mask >= at.wrapping_sub(hole) & self.mask {
                self.set(hole, entry);
                hole = at;
            }
        }
        self.set(hole, 0);
        self.used -= 1;
    }
}

/// The demultiplexing table of an engine.
#[derive(Debug)]
pub(super) struct Demux {
    keys: [u64; 6],
    table: Table,
    /// The table being drained into `table`, and how far that has come.
    old: Option<(Table, usize)>,
    /// Chunks for the table that `table` will grow to.
    next: Vec<Chunk<u64>>,
}

impl Demux {
    pub(super) fn new(keys: [u64; 6]) -> Demux {
        Demux { keys, table: Table::new(LEAST, Vec::new()), old: None, next: Vec::new() }
    }

    /// The keyed hash of a tuple.
    #[inline]
    pub(super) fn hash(&self, tuple: &FourTuple) -> u32 {
        let [a, b, c, d, e] = words(tuple);
        let k = &self.keys;
        let local = fold(a ^ k[0], b ^ k[1]);
        let remote = fold(c ^ k[2], d ^ k[3]);
        let all = fold(local ^ e ^ k[4], remote ^ k[5]);
        (all ^ all >> 32) as u32
    }

    /// Asks the cache for the place where `hash` would be.
    pub(super) fn prefetch(&self, hash: u32) {
        let at = hash as usize & self.table.mask;
        if let Some(place) = self.table.chunks[at / CHUNK].get(at % CHUNK) {
            throng_runtime::prefetch_read(place);
        }
    }

    /// The slot with this hash for which `is` holds.
    #[inline]
    pub(super) fn find(&self, hash: u32, mut is: impl FnMut(Slot) -> bool) -> Option<Slot> {
        let mut at = hash as usize & self.table.mask;
        loop {
            let entry = self.table.get(at);
            if entry == 0 {
                break;
            }
            if (entry >> 32) as u32 == hash && is(Slot(entry as u32)) {
                return Some(Slot(entry as u32));
            }
            at = (at + 1) & self.table.mask;
        }
        match &self.old {
            None => None,
            Some(_) => self.find_old(hash, is).map(|(_, slot)| slot),
        }
    }

    /// The first slot with this hash, of which others may exist: a guess worth a prefetch.
    #[inline(always)]
    pub(super) fn find_first(&self, hash: u32) -> Option<Slot> {
        let entry = self.table.get(hash as usize & self.table.mask);
        if (entry >> 32) as u32 == hash && entry != 0 {
            return Some(Slot(entry as u32));
        }
        self.find_next(hash)
    }

    #[inline(never)]
    fn find_next(&self, hash: u32) -> Option<Slot> {
        self.find(hash, |_| true)
    }

    fn find_old(&self, hash: u32, mut is: impl FnMut(Slot) -> bool) -> Option<(usize, Slot)> {
        let (old, drained) = self.old.as_ref()?;
        // What lay before `drained` has moved; its cluster may go on behind.
        let mut at = (hash as usize & old.mask).max(*drained);
        while at <= old.mask {
            let entry = old.get(at);
            if entry == 0 {
                return None;
            }
            if entry != GONE && (entry >> 32) as u32 == hash && is(Slot(entry as u32)) {
                return Some((at, Slot(entry as u32)));
            }
            at += 1;
        }
        // The cluster wraps round to the start, of which what lies before `drained` has moved.
        at = *drained;
        while at <= old.mask {
            let entry = old.get(at);
            if entry == 0 {
                return None;
            }
            if entry != GONE && (entry >> 32) as u32 == hash && is(Slot(entry as u32)) {
                return Some((at, Slot(entry as u32)));
            }
            at += 1;
        }
        None
    }

    /// Adds an entry; the tuple must not be in the table.
    pub(super) fn insert(&mut self, hash: u32, slot: Slot) {
        self.drain(STEP);
        let (capacity, used) = (self.table.capacity(), self.table.used + 1);
        // Never more than 3/4 full.
        if used * 4 > capacity * 3 {
            self.resize(capacity * 2);
        } else if capacity >= CHUNK && used > self.high() + self.next.len() * LEAD {
            self.next.push(Chunk::zeroes(Pages::Huge));
        }
        self.table.insert(u64::from(hash) << 32 | u64::from(slot.0));
    }

    /// Entries at which the table begins to take chunks for a larger one.
    fn high(&self) -> usize {
        self.table.capacity() / 16 * 11
    }

    /// Begins to move to a table of this capacity.
    #[cold]
    fn resize(&mut self, capacity: usize) {
        self.drain(usize::MAX);
        let table = Table::new(capacity, std::mem::take(&mut self.next));
        let old = std::mem::replace(&mut self.table, table);
        self.old = Some((old, 0));
        self.drain(STEP);
    }

    /// Makes the table smaller where it is far too large. An eighth full when that begins, it is at
    /// most three eighths full when it is done.
    fn shrink(&mut self) {
        // Well below where they are taken, so that who comes and goes there does not take and free one
        // each time.
        if !self.next.is_empty() && self.table.used + LEAD < self.high() {
            self.next.pop();
        }
        let capacity = self.table.capacity();
        if capacity <= KEPT {
            return;
        }
        if self.len() == 0 {
            self.old = None;
            self.table = Table::new(LEAST, Vec::new());
        } else if capacity > CHUNK && self.old.is_none() && self.table.used < capacity / 8 {
            self.resize(capacity / 2);
        }
    }

    /// Moves up to `steps` places of the old table over.
    fn drain(&mut self, steps: usize) {
        let Some((old, drained)) = &mut self.old else { return };
        for _ in 0..steps {
            if *drained > old.mask {
                self.old = None;
                return;
            }
            let entry = old.get(*drained);
            if entry != 0 && entry != GONE {
                self.table.insert(entry);
                old.used -= 1;
                old.set(*drained, GONE);
            }
            *drained += 1;
            if *drained % CHUNK == 0 {
                old.chunks[*drained / CHUNK - 1] = Chunk::absent();
            }
        }
    }

    /// Removes the entry of `slot`. Returns whether it was there.
    pub(super) fn remove(&mut self, hash: u32, slot: Slot) -> bool {
        self.drain(STEP);
        let removed = self.take(hash, slot);
        self.shrink();
        removed
    }

    fn take(&mut self, hash: u32, slot: Slot) -> bool {
        if let Some(at) = self.position(hash, slot) {
            self.table.remove_at(at);
            return true;
        }
        let found = self.find_old(hash, |s| s == slot);
        if let (Some((at, _)), Some((old, _))) = (found, &mut self.old) {
            old.set(at, GONE);
            old.used -= 1;
            return true;
        }
        false
    }

    /// Points the entry of `from` to `to`.
    pub(super) fn replace(&mut self, hash: u32, from: Slot, to: Slot) {
        let entry = u64::from(hash) << 32 | u64::from(to.0);
        if let Some(at) = self.position(hash, from) {
            self.table.set(at, entry);
            return;
        }
        let found = self.find_old(hash, |s| s == from);
        if let (Some((at, _)), Some((old, _))) = (found, &mut self.old) {
            old.set(at, entry);
        } else {
            debug_assert!(false, "no entry for {from:?}");
        }
    }

    fn position(&self, hash: u32, slot: Slot) -> Option<usize> {
        let wanted = u64::from(hash) << 32 | u64::from(slot.0);
        let mut at = hash as usize & self.table.mask;
        loop {
            match self.table.get(at) {
                0 => return None,
                entry if entry == wanted => return Some(at),
                _ => at = (at + 1) & self.table.mask,
            }
        }
    }

    /// Entries in the table.
    pub(super) fn len(&self) -> usize {
        self.table.used + self.old.as_ref().map_or(0, |(old, _)| old.used)
    }

    /// Bytes of memory held, places that were never touched included.
    pub(super) fn memory(&self) -> usize {
        let of = |t: &Table| t.capacity().min(t.chunks.iter().map(|chunk| chunk.len()).sum()) * 8;
        let next = self.next.len() * CHUNK * 8;
        of(&self.table) + self.old.as_ref().map_or(0, |(old, _)| of(old)) + next
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn behaves_like_a_map_through_growth() {
        let mut demux = Demux::new([1, 2, 3, 4, 5, 6]);
        let mut model: HashMap<u32, u32> = HashMap::new();
        let mut state = 1u64;
        let mut random = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as u32
        };
        // A weak spread of hashes on purpose: clusters and wrap-around get exercised.
        let hash_of = |index: u32| (index & !7).wrapping_mul(0x9e37_79b9) | 0x3ff;
        for round in 0..200_000u32 {
            let index = random() % 40_000;
            let slot = Slot::new(Kind::Conn, index);
            let hash = hash_of(index);
            let present = model.contains_key(&index);
            assert_eq!(demux.find(hash, |s| s == slot).is_some(), present, "round {round}");
            if present && random() % 3 == 0 {
                assert!(demux.remove(hash, slot));
                model.remove(&index);
            } else if !present {
                demux.insert(hash, slot);
                model.insert(index, hash);
            }
            assert_eq!(demux.len(), model.len());
        }
        for (&index, &hash) in &model {
            let slot = Slot::new(Kind::Conn, index);
            assert_eq!(demux.find(hash, |s| s == slot), Some(slot));
        }
    }

    #[test]
    fn a_table_that_has_been_large_becomes_small_again() {
        let mut demux = Demux::new([1, 2, 3, 4, 5, 6]);
        let entry = |index: u32| (index.wrapping_mul(0x9e37_79b9), Slot::new(Kind::Conn, index));
        // So many that the table before has been drained again when all have come.
        let count = 220_000;
        for index in 0..count {
            let (hash, slot) = entry(index);
            demux.insert(hash, slot);
        }
        assert_eq!(demux.memory(), 4 << 20);
        // A few stay, and some come while the others go.
        for index in 100..count {
            let (hash, slot) = entry(index);
            assert!(demux.remove(hash, slot), "{index}");
            if index % 4 == 0 {
                demux.insert(hash, slot);
                assert!(demux.remove(hash, slot), "{index} again");
            }
        }
        for index in 0..100 {
            let (hash, slot) = entry(index);
            assert_eq!(demux.find(hash, |s| s == slot), Some(slot), "{index}");
        }
        assert!(demux.memory() <= 2 << 20, "{} bytes", demux.memory());
        for index in 0..100 {
            let (hash, slot) = entry(index);
            assert!(demux.remove(hash, slot), "{index}");
        }
        assert_eq!(demux.memory(), 0, "with the last one goes the rest");
    }

    #[test]
    fn what_is_taken_for_a_larger_table_goes_again_but_not_at_once() {
        let mut demux = Demux::new([1, 2, 3, 4, 5, 6]);
        let entry = |index: u32| (index.wrapping_mul(0x9e37_79b9), Slot::new(Kind::Conn, index));
        let insert = |demux: &mut Demux, index: u32| {
            let (hash, slot) = entry(index);
            demux.insert(hash, slot);
            demux.next.len()
        };
        let remove = |demux: &mut Demux, index: u32| {
            let (hash, slot) = entry(index);
            assert!(demux.remove(hash, slot), "{index}");
            demux.next.len()
        };
        let high = (CHUNK / 16 * 11) as u32;
        assert_eq!((0..high).map(|index| insert(&mut demux, index)).max(), Some(0));
        assert_eq!(insert(&mut demux, high), 1);
        // Who comes and goes there takes nothing and gives nothing back.
        for index in 0..100 {
            assert_eq!((remove(&mut demux, index), remove(&mut demux, index + 100)), (1, 1));
            assert_eq!((insert(&mut demux, index), insert(&mut demux, index + 100)), (1, 1));
        }
        for index in 0..high {
            remove(&mut demux, index);
        }
        assert_eq!((demux.len(), demux.next.len()), (1, 0));
    }

    #[test]
    fn no_operation_takes_more_than_a_chunk() {
        let mut demux = Demux::new([1, 2, 3, 4, 5, 6]);
        let entry = |index: u32| (index.wrapping_mul(0x9e37_79b9), Slot::new(Kind::Conn, index));
        let there = |demux: &Demux| {
            let of = |table: &Table| table.chunks.iter().filter(|chunk| chunk.is_there()).count();
            of(&demux.table) + demux.old.as_ref().map_or(0, |old| of(&old.0)) + demux.next.len()
        };
        let (mut before, count) = (there(&demux), 394_000);
        let mut look = |demux: &Demux| {
            let now = there(demux);
            assert!(now <= before + 1, "{before} chunks became {now}");
            before = now;
        };
        for index in 0..count {
            let (hash, slot) = entry(index);
            demux.insert(hash, slot);
            look(&demux);
            if index == 385_000 {
                assert_eq!((demux.table.chunks.len(), demux.next.len()), (2, 3));
            }
        }
        assert_eq!(demux.table.chunks.len(), 4, "it has grown");
        for index in 0..count {
            let (hash, slot) = entry(index);
            assert!(demux.remove(hash, slot), "{index}");
            look(&demux);
        }
        assert_eq!((demux.len(), demux.next.len()), (0, 0));
        assert!(there(&demux) <= 1);
        let (hash, slot) = entry(7);
        assert_eq!(demux.find(hash, |_| true), None);
        demux.prefetch(hash);
        demux.insert(hash, slot);
        assert_eq!(demux.find(hash, |s| s == slot), Some(slot));
    }
}
