//! Memory by the chunk, for tables that grow to millions of items and shrink again: 2 MiB each, which
//! is a huge page where the system has them. A chunk never moves, comes from the system by itself and goes
//! back to it, whatever else the process has allocated meanwhile.
//!
//! A table's first chunks, for 32,768 items, have ordinary pages, which take memory as they are touched: most
//! tables never have more, and few items are not to pay for a huge page with hardly anything in it. Further
//! ones are huge pages, made ready by a thread outside the shards, so that no shard
//! waits for the system to zero 2 MiB. When none is ready, or the system has no huge pages, they are
//! ordinary pages as well. A runtime may have had some made ready before it began
//! ([`Config::preallocate`](crate::Config::preallocate)): while there are any of those, all chunks are.

mod pool;
mod reserve;

use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::ptr::{self, NonNull};

use pool::Block;
pub(crate) use pool::keep_to;
pub use pool::{resident, use_small_pages};
pub(crate) use reserve::Preallocated;

/// Bytes of a chunk, and what its address is a multiple of.
pub const BYTES: usize = 2 << 20;

/// What the memory of a chunk is to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pages {
    /// Ordinary pages, which come as they are touched: for a table's first chunks.
    Small,
    /// A huge page, if one is ready.
    Huge,
}

/// Items of a table in chunks of ordinary pages. With so many a chunk that is all there and nearly
/// empty, and the one that is made ready next, are 128 bytes for each.
const FEW: usize = 32_768;

impl Pages {
    /// Of a chunk that is added to a table with room for `items`.
    pub fn behind(items: usize) -> Pages {
        if items < FEW { Pages::Small } else { Pages::Huge }
    }
}

/// Items in a chunk: a `Vec` of fixed capacity.
pub struct Chunk<T> {
    /// The first item's place; without memory a place that no item has.
    start: NonNull<T>,
    len: usize,
    items: PhantomData<T>,
}

// SAFETY: it owns its items as a `Vec` does.
unsafe impl<T: Send> Send for Chunk<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Chunk<T> {}

impl<T> Chunk<T> {
    /// Items that fit.
    pub const CAPACITY: usize = {
        // A dangling place lies in the first page, where no memory ever is.
        assert!(size_of::<T>() > 0 && align_of::<T>() <= 1024);
        BYTES / size_of::<T>()
    };

    /// One without memory, and without room.
    pub const fn absent() -> Chunk<T> {
        Chunk { start: NonNull::dangling(), len: 0, items: PhantomData }
    }

    /// One without items. Aborts the process when the system has no memory, as `Vec` does.
    pub fn new(pages: Pages) -> Chunk<T> {
        Chunk { start: pool::take(pages).into_start().cast(), len: 0, items: PhantomData }
    }

    /// Whether it has memory.
    pub fn is_there(&self) -> bool {
        self.start != NonNull::dangling()
    }

    /// Takes its memory away, if it has any; nobody looks at the items again.
    fn take_block(&mut self) -> Option<Block> {
        let there = self.is_there();
        let start = std::mem::replace(&mut self.start, NonNull::dangling());
        self.len = 0;
        // SAFETY: a place of its own is that of a block, which has been this chunk's alone.
        there.then(|| unsafe { Block::from_start(start.cast()) })
    }

    /// Adds an item behind the others.
    ///
    /// # Panics
    /// When it is full or [absent](Chunk::absent).
    #[inline]
    pub fn push(&mut self, item: T) {
        assert!(self.is_there() && self.len < Self::CAPACITY, "the chunk is full");
        // SAFETY: the place is within the block, which is aligned for any item.
        unsafe { self.start().add(self.len).write(item) };
        self.len += 1;
    }

    /// Gives the memory back without dropping the items, of which there may be thousands: for a
    /// table that knows that none owns anything.
    pub fn forget(self) {
        let mut this = ManuallyDrop::new(self);
        this.take_block().into_iter().for_each(pool::give_back);
    }

    #[inline]
    fn start(&self) -> *mut T {
        self.start.as_ptr()
    }
}

/// A chunk of zeroes that is never unmapped.
pub(crate) fn for_ever(pages: Pages) -> *mut u8 {
    ManuallyDrop::new(pool::take(pages)).start()
}

/// Gives the memory of a chunk back, whose address stays: it reads as zeroes again, and has ordinary pages
/// from now on, for nobody makes huge ones ready for it. `false`, having done nothing: it stays in memory,
/// for it was preallocated, or the system does not do that.
///
/// # Safety
/// It must be one of [`for_ever`], and what is in it of no importance.
pub(crate) unsafe fn clear(start: *mut u8) -> bool {
    // SAFETY: as the caller says.
    unsafe { pool::clear(start) }
}

impl Chunk<u64> {
    /// A chunk full of zeroes, none of which has been touched.
    pub fn zeroes(pages: Pages) -> Chunk<u64> {
        let mut chunk = Chunk::new(pages);
        // Zeroes are items, and a block begins as zeroes.
        chunk.len = Chunk::<u64>::CAPACITY;
        chunk
    }
}

impl<T> Deref for Chunk<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: so many items are there; without a block it is none.
        unsafe { std::slice::from_raw_parts(self.start(), self.len) }
    }
}

impl<T> DerefMut for Chunk<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and they are borrowed from here alone.
        unsafe { std::slice::from_raw_parts_mut(self.start(), self.len) }
    }
}

impl<T> Drop for Chunk<T> {
    fn drop(&mut self) {
        // SAFETY: the items are there, and nobody looks at them again.
        unsafe { ptr::drop_in_place(&raw mut **self) };
        self.take_block().into_iter().for_each(pool::give_back);
    }
}

impl<T> std::fmt::Debug for Chunk<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Chunk({} of {})", self.len, Self::CAPACITY)
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;

    #[test]
    fn a_chunk_holds_what_was_put_in_and_drops_it() {
        let shared = Rc::new(0);
        let mut chunk = Chunk::new(Pages::Small);
        for _ in 0..1_000 {
            chunk.push(shared.clone());
        }
        assert_eq!(chunk.start().addr() % BYTES, 0);
        assert_eq!((chunk.len(), Rc::strong_count(&shared)), (1_000, 1_001));
        drop(chunk);
        assert_eq!(Rc::strong_count(&shared), 1);
        let absent = Chunk::<u64>::absent();
        assert!(absent.is_empty() && !absent.is_there());
    }

    #[test]
    fn memory_is_zeroes_however_often_it_is_used() {
        for round in 0..20 {
            let pages = if round % 2 == 0 { Pages::Small } else { Pages::Huge };
            let mut chunk = Chunk::zeroes(pages);
            for at in (0..chunk.len()).step_by(4_001) {
                assert_eq!(std::mem::replace(&mut chunk[at], u64::MAX), 0, "round {round}");
            }
        }
    }

    #[cfg(all(target_os = "linux", not(miri)))]
    #[test]
    fn small_pages_are_small_on_every_system() {
        let has_huge = std::path::Path::new("/sys/kernel/mm/transparent_hugepage").exists();
        let chunk = Chunk::<u64>::new(Pages::Small);
        let at = chunk.start().addr();
        let maps = std::fs::read_to_string("/proc/self/smaps").expect("the process' mappings");
        let of_chunk = maps.lines().skip_while(|line| {
            let range = line.split(' ').next().and_then(|range| range.split_once('-'));
            let range = range.map(|(from, to)| [from, to].map(|n| usize::from_str_radix(n, 16)));
            !matches!(range, Some([Ok(from), Ok(to)]) if (from..to).contains(&at))
        });
        let flags = of_chunk.skip(1).find(|line| line.starts_with("VmFlags:"));
        let is_small = flags.is_some_and(|flags| flags.contains(" nh"));
        assert!(is_small || !has_huge, "{flags:?}");
    }
}
