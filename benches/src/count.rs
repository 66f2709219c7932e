//! A counting allocator: how many blocks of which size are live, so that memory can be told
//! apart by who asked for it.
//!
//! It passes everything on to the system's allocator. Counting is two atomic additions for an
//! allocation and one for a release, without a lock.

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed};

/// Different sizes that are told apart; those that come later are counted as one.
const SIZES: usize = 4096;
/// Places looked at for a size before it is counted with the late ones.
const PROBES: usize = 64;

/// To be set as `#[global_allocator]`.
pub struct Counting;

/// Blocks of one size.
struct Class {
    /// The size in bytes plus one; 0: vacant.
    size: AtomicUsize,
    live: AtomicI64,
}

static CLASSES: [Class; SIZES] =
    [const { Class { size: AtomicUsize::new(0), live: AtomicI64::new(0) } }; SIZES];
/// Bytes in blocks whose size found no class.
static OTHER: AtomicI64 = AtomicI64::new(0);
/// Blocks that were asked for.
static ASKED: AtomicU64 = AtomicU64::new(0);

/// How many blocks were asked for so far, be it for one in place of another. 0 unless [`Counting`] is the
/// program's allocator.
pub fn asked() -> u64 {
    ASKED.load(Relaxed)
}

fn note(size: usize, change: i64) {
    if change > 0 {
        ASKED.fetch_add(1, Relaxed);
    }
    let home = size.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 52;
    for at in (0..PROBES).map(|step| (home + step) % SIZES) {
        let class = &CLASSES[at];
        let mut found = class.size.load(Relaxed);
        if found == 0 {
            found = match class.size.compare_exchange(0, size + 1, Relaxed, Relaxed) {
                Ok(_) => size + 1,
                Err(other) => other,
            };
        }
        if found == size + 1 {
            class.live.fetch_add(change, Relaxed);
            return;
        }
    }
    OTHER.fetch_add(change * size as i64, Relaxed);
}

// SAFETY: every call is the system allocator's; counting touches atomics only and allocates
// nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size(), 1);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size(), 1);
        // SAFETY: the caller keeps the contract of `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        note(layout.size(), -1);
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(layout.size(), -1);
        note(size, 1);
        // SAFETY: the caller keeps the contract of `realloc`.
        unsafe { System.realloc(block, layout, size) }
    }
}

/// What is live at one moment.
#[derive(Clone, Debug, Default)]
pub struct Heap {
    /// Blocks by their size in bytes.
    blocks: BTreeMap<usize, i64>,
    other: i64,
}

impl Heap {
    /// What is live now. All zero unless [`Counting`] is the program's allocator.
    pub fn now() -> Heap {
        let classes = CLASSES.iter().map(|c| (c.size.load(Relaxed), c.live.load(Relaxed)));
        let used = classes.filter(|(size, live)| *size > 0 && *live != 0);
        Heap {
            blocks: used.map(|(size, live)| (size - 1, live)).collect(),
            other: OTHER.load(Relaxed),
        }
    }

    /// What has been added since `before`, by size; less than zero where there is less.
    pub fn since(&self, before: &Heap) -> Heap {
        let mut blocks = self.blocks.clone();
        for (size, live) in &before.blocks {
            *blocks.entry(*size).or_default() -= live;
        }
        blocks.retain(|_, live| *live != 0);
        Heap { blocks, other: self.other - before.other }
    }

    /// Blocks by their size in bytes, small ones first.
    pub fn blocks(&self) -> impl Iterator<Item = (usize, i64)> {
        self.blocks.iter().map(|(size, live)| (*size, *live))
    }

    /// Bytes asked for.
    pub fn bytes(&self) -> i64 {
        self.blocks().map(|(size, live)| size as i64 * live).sum::<i64>() + self.other
    }
}

/// What the GNU C library's allocator takes for a block of `size` bytes: eight bytes of its own
/// and all rounded up to 16, at least 32; pages of its own for a large one.
pub fn taken(size: usize) -> usize {
    /// Where it begins to give a block pages of its own; it moves up when such are released.
    const PAGES: usize = 128 << 10;
    if size < PAGES {
        (size + 8).next_multiple_of(16).max(32)
    } else {
        (size + 16).next_multiple_of(4096)
    }
}
