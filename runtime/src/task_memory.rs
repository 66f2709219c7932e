//! Where tasks and [`ChunkBox`](crate::ChunkBox)es lie: those of one size side by side in chunks of 2 MiB,
//! so that a million of them are on some hundred huge pages, in place of on as many small ones as the
//! allocator finds room on, and take no more than their size.
//!
//! A chunk begins with its [`Head`]; a cell finds it by its address. Vacant cells of a chunk are a list,
//! and so are the chunks of one size that have any. A chunk whose last cell is vacated goes back, unless
//! it is the only one of its size with room and never held much: that one waits for [`trim`].
//!
//! All of it is the thread's own: a task is allocated and freed on the thread of its shard.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::cell::Cell;
use std::mem::ManuallyDrop;
use std::ptr;

use crate::chunks::{BYTES, Chunk, Pages};

/// Sizes are multiples of this, and so are addresses.
const GRAIN: usize = 8;
/// Larger tasks are few: the allocator has them.
const LARGEST: usize = 1024;
/// Bytes ever used of a chunk that is kept empty.
const KEPT: usize = 64 << 10;
/// Where a chunk's first cell is.
const FIRST: usize = 64;

const _: () = assert!(size_of::<Head>() <= FIRST && align_of::<Head>() <= FIRST);

/// The start of a chunk.
struct Head {
    /// The chunks of this size with room before and after this one, if it has room.
    before: *mut Head,
    after: *mut Head,
    /// The first vacant cell; each begins with the address of the next.
    vacant: *mut Vacant,
    /// Cells from here on were never used.
    fresh: u32,
    /// Cells in use.
    used: u32,
    /// Bytes of a cell.
    size: u32,
    memory: ManuallyDrop<Chunk<u64>>,
}

struct Vacant {
    next: *mut Vacant,
}

/// The chunks of one size.
struct Class {
    /// The first one with room.
    first: Cell<*mut Head>,
    chunks: Cell<u32>,
}

thread_local! {
    // Without a destructor, so that it is there whenever a task ends.
    static CLASSES: [Class; LARGEST / GRAIN + 1] = const {
        [const { Class { first: Cell::new(ptr::null_mut()), chunks: Cell::new(0) } };
            LARGEST / GRAIN + 1]
    };
}

/// Whether memory of this layout lies in chunks. A size is a multiple of a type's alignment, so where the
/// first cell is aligned all are.
const fn is_small(layout: Layout) -> bool {
    layout.align() <= FIRST
        && layout.size().is_multiple_of(layout.align())
        && layout.size() > 0
        && layout.size() <= LARGEST
}

/// Memory of this layout, which is not empty. Aborts the process when the system has none, as `Box` does.
#[inline]
pub(crate) fn take(layout: Layout) -> *mut u8 {
    if is_small(layout) {
        let size = layout.size().next_multiple_of(GRAIN);
        return CLASSES.with(|classes| classes[size / GRAIN].take(size));
    }
    // SAFETY: the layout is not empty.
    let memory = unsafe { alloc(layout) };
    if memory.is_null() {
        handle_alloc_error(layout);
    }
    memory
}

/// Gives memory back.
///
/// # Safety
/// It is from [`take`], with the same layout, on this thread, and nobody uses it any more.
#[inline]
pub(crate) unsafe fn give(memory: *mut u8, layout: Layout) {
    if is_small(layout) {
        let size = layout.size().next_multiple_of(GRAIN);
        // SAFETY: the caller's promise.
        CLASSES.with(|classes| unsafe { classes[size / GRAIN].give(memory) });
    } else {
        // SAFETY: the caller's promise; `take` had it from `alloc`.
        unsafe { dealloc(memory, layout) };
    }
}

/// Gives back the chunks of this thread that hold nothing.
pub(crate) fn trim() {
    CLASSES.with(|classes| {
        for class in classes {
            let mut at = class.first.get();
            while !at.is_null() {
                // SAFETY: what is in the list is a chunk of this thread's.
                let (after, used) = unsafe { ((*at).after, (*at).used) };
                if used == 0 {
                    // SAFETY: it is in the list, and nothing is in it.
                    unsafe { class.free(at) };
                }
                at = after;
            }
        }
    });
}

impl Class {
    #[inline]
    fn take(&self, size: usize) -> *mut u8 {
        let mut at = self.first.get();
        if at.is_null() {
            at = self.grow(size);
        }
        // SAFETY: a chunk of this thread's, and no other reference to its head lives.
        let head = unsafe { &mut *at };
        head.used += 1;
        let cell: *mut u8 = if head.vacant.is_null() {
            head.fresh += 1;
            // SAFETY: a chunk in the list has room: this cell is within it.
            unsafe { at.byte_add(FIRST + (head.fresh as usize - 1) * size) }.cast()
        } else {
            let cell = head.vacant;
            // SAFETY: a vacant cell of this chunk, which its last user has left to us.
            head.vacant = unsafe { (*cell).next };
            cell.cast()
        };
        if head.vacant.is_null() && head.fresh as usize == room(size) {
            // SAFETY: it is in the list.
            unsafe { self.unlink(at) };
        }
        cell
    }

    /// # Safety
    /// As for [`give`], of this class.
    #[inline]
    unsafe fn give(&self, memory: *mut u8) {
        // Chunks lie at multiples of their size.
        let at: *mut Head = memory.map_addr(|address| address & !(BYTES - 1)).cast();
        // SAFETY: the head of the cell's chunk, to which no other reference lives.
        let head = unsafe { &mut *at };
        let was_full = head.vacant.is_null() && head.fresh as usize == room(head.size as usize);
        let cell: *mut Vacant = memory.cast();
        // SAFETY: nobody uses the cell any more, and it is large enough.
        unsafe { cell.write(Vacant { next: head.vacant }) };
        head.vacant = cell;
        head.used -= 1;
        let empty = head.used == 0;
        if was_full {
            self.link(at);
        }
        // SAFETY: as above; links may have changed, nothing else.
        let alone = unsafe { (*at).before.is_null() && (*at).after.is_null() };
        // SAFETY: as above.
        let large = unsafe { (*at).fresh as usize * (*at).size as usize > KEPT };
        if empty && (!alone || large) {
            // SAFETY: it is in the list, and nothing is in it.
            unsafe { self.free(at) };
        }
    }

    #[cold]
    fn grow(&self, size: usize) -> *mut Head {
        let pages = Pages::behind(self.chunks.get() as usize * room(size));
        let mut memory = ManuallyDrop::new(Chunk::zeroes(pages));
        let at: *mut Head = memory.as_mut_ptr().cast();
        let head = Head {
            before: ptr::null_mut(),
            after: ptr::null_mut(),
            vacant: ptr::null_mut(),
            fresh: 0,
            used: 0,
            size: size as u32,
            memory,
        };
        // SAFETY: the chunk is larger, aligned for anything, and nobody else's.
        unsafe { at.write(head) };
        self.chunks.set(self.chunks.get() + 1);
        self.link(at);
        at
    }

    /// Puts a chunk of this thread's that is not in the list at its start.
    fn link(&self, at: *mut Head) {
        let after = self.first.replace(at);
        // SAFETY: both are chunks of this thread's, to which no references live.
        unsafe {
            ((*at).before, (*at).after) = (ptr::null_mut(), after);
            if !after.is_null() {
                (*after).before = at;
            }
        }
    }

    /// # Safety
    /// The chunk is in the list.
    unsafe fn unlink(&self, at: *mut Head) {
        // SAFETY: it and its neighbours are chunks of this thread's, to which no references live.
        unsafe {
            let (before, after) = ((*at).before, (*at).after);
            if before.is_null() {
                self.first.set(after);
            } else {
                (*before).after = after;
            }
            if !after.is_null() {
                (*after).before = before;
            }
        }
    }

    /// # Safety
    /// The chunk is in the list, and none of its cells is in use.
    #[cold]
    unsafe fn free(&self, at: *mut Head) {
        // SAFETY: as the caller says.
        unsafe { self.unlink(at) };
        self.chunks.set(self.chunks.get() - 1);
        // SAFETY: nobody looks at the head again, so what it owns is moved out.
        let memory = unsafe { ptr::read(&raw const (*at).memory) };
        ManuallyDrop::into_inner(memory).forget();
    }
}

/// Cells of a chunk.
const fn room(size: usize) -> usize {
    (BYTES - FIRST) / size
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: usize) -> Layout {
        Layout::from_size_align(size, 8).expect("small")
    }

    fn chunks(size: usize) -> u32 {
        CLASSES.with(|classes| classes[size / GRAIN].chunks.get())
    }

    #[test]
    fn cells_are_apart_and_come_again() {
        let (mut held, mut seed) = (Vec::new(), 7u32);
        let sizes = [8, 64, 72, 1_016, 1_024, 1_032, 5_000];
        let steps = if cfg!(miri) { 2_000 } else { 100_000 };
        for step in 0..steps {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let random = (seed >> 8) as usize;
            // Grows, then shrinks.
            if random % 8 < if step < steps / 2 { 6 } else { 2 } || held.is_empty() {
                let layout = layout(sizes[random % sizes.len()]);
                let memory = take(layout);
                assert!(memory.addr().is_multiple_of(8));
                // SAFETY: so many bytes are ours.
                unsafe { memory.write_bytes(step as u8, layout.size()) };
                held.push((memory, layout, step as u8));
            } else {
                let (memory, layout, wrote) = held.swap_remove(random % held.len());
                // SAFETY: they are still ours, and written.
                let bytes = unsafe { std::slice::from_raw_parts(memory, layout.size()) };
                assert!(bytes.iter().all(|byte| *byte == wrote), "step {step}");
                // SAFETY: nobody looks at them again.
                unsafe { give(memory, layout) };
            }
        }
        for (memory, layout, _) in held {
            // SAFETY: as above.
            unsafe { give(memory, layout) };
        }
        trim();
        assert!(sizes.iter().take(5).all(|size| chunks(*size) == 0));
    }

    #[test]
    fn chunks_are_full_to_the_last_cell_and_go_when_they_are_empty() {
        let cell = layout(1_024);
        let each = room(1_024);
        let mut held: Vec<_> = (0..3 * each).map(|_| take(cell)).collect();
        assert_eq!(chunks(1_024), 3, "{each} in each");
        held.push(take(cell));
        assert_eq!(chunks(1_024), 4);
        // In the order they came in: one chunk after the other is empty.
        for (count, memory) in held.into_iter().enumerate() {
            // SAFETY: nobody uses it.
            unsafe { give(memory, cell) };
            let left = 4 - ((count + 1) / each) as u32;
            assert_eq!(chunks(1_024), left.max(1), "after {count}");
        }
        // One is kept, and used again, until it is asked for.
        let again = take(cell);
        trim();
        assert_eq!(chunks(1_024), 1);
        // SAFETY: nobody uses it.
        unsafe { give(again, cell) };
        trim();
        assert_eq!(chunks(1_024), 0);
    }
}
