//! A box whose memory lies in chunks, side by side with others of its size.

use std::alloc::Layout;
use std::fmt;
use std::marker::PhantomData;
use std::mem;
use std::ops::{Deref, DerefMut};
use std::ptr::{self, NonNull};

use crate::task_memory;

/// A `Box` for values of one size that come and go all the time: they lie side by side in
/// [chunks](crate::chunks), on few pages, and not wherever the allocator has found room.
///
/// It stays on its thread, whose chunks they are.
///
/// ```
/// use throng_runtime::ChunkBox;
///
/// let mut one = ChunkBox::new([1u64; 16]);
/// one[3] = 7;
/// assert_eq!(one.iter().sum::<u64>(), 22);
/// assert_eq!(size_of::<Option<ChunkBox<[u64; 16]>>>(), 8);
/// ```
pub struct ChunkBox<T> {
    value: NonNull<T>,
    /// It owns the value, on this thread alone: a raw pointer is neither `Send` nor `Sync`.
    owns: PhantomData<(T, *mut T)>,
}

impl<T> ChunkBox<T> {
    /// Boxes `value`. Aborts the process when the system has no memory, as `Box` does.
    #[inline]
    pub fn new(value: T) -> ChunkBox<T> {
        const { assert!(mem::size_of::<T>() > 0) };
        let memory: *mut T = task_memory::take(Layout::new::<T>()).cast();
        // SAFETY: the memory is ours and has the layout of the type.
        unsafe { memory.write(value) };
        // SAFETY: `take` returns memory or does not return.
        ChunkBox { value: unsafe { NonNull::new_unchecked(memory) }, owns: PhantomData }
    }
}

impl<T: Default> Default for ChunkBox<T> {
    fn default() -> ChunkBox<T> {
        ChunkBox::new(T::default())
    }
}

impl<T> Deref for ChunkBox<T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: the value is there as long as the box is, and borrowed with it.
        unsafe { self.value.as_ref() }
    }
}

impl<T> DerefMut for ChunkBox<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above, and nobody else has it.
        unsafe { self.value.as_mut() }
    }
}

impl<T> Drop for ChunkBox<T> {
    fn drop(&mut self) {
        // The memory goes back also where the value's destructor panics.
        struct Memory(*mut u8, Layout);
        impl Drop for Memory {
            fn drop(&mut self) {
                // SAFETY: it is from `take` for this layout, on this thread, and its content is gone.
                unsafe { task_memory::give(self.0, self.1) };
            }
        }
        let _memory = Memory(self.value.as_ptr().cast(), Layout::new::<T>());
        // SAFETY: the value is there, and nobody looks at it again.
        unsafe { ptr::drop_in_place(self.value.as_ptr()) };
    }
}

impl<T: fmt::Debug> fmt::Debug for ChunkBox<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::rc::Rc;

    use super::*;

    #[repr(align(64))]
    struct Line {
        bytes: [u8; 128],
        _shared: Rc<()>,
    }

    #[test]
    fn boxes_lie_side_by_side_and_drop_what_is_in_them() {
        let shared = Rc::new(());
        let mut held: Vec<_> = (0..100)
            .map(|i| ChunkBox::new(Line { bytes: [i; 128], _shared: shared.clone() }))
            .collect();
        let mut places: Vec<_> = held.iter().map(|line| ptr::from_ref(&**line).addr()).collect();
        places.sort_unstable();
        assert!(places.iter().all(|place| place.is_multiple_of(64)));
        assert_eq!(places[99] - places[0], 99 * size_of::<Line>());
        held.iter_mut().for_each(|line| line.bytes[127] += 1);
        assert!(
            held.iter().zip(0..).all(|(line, i)| line.bytes[0] == i && line.bytes[127] == i + 1)
        );
        drop(held);
        assert_eq!(Rc::strong_count(&shared), 1);
    }

    #[test]
    fn what_the_chunks_do_not_take_is_the_allocators() {
        #[repr(align(4096))]
        struct Page([u8; 4096]);
        let page = ChunkBox::new(Page([7; 4096]));
        assert!(ptr::from_ref(&*page).addr().is_multiple_of(4096) && page.0[4095] == 7);
    }

    #[test]
    fn a_panic_while_dropping_keeps_no_memory() {
        struct Bad([u64; 100]);
        impl Drop for Bad {
            fn drop(&mut self) {
                panic!("{}", self.0[0]);
            }
        }
        let first = ChunkBox::new(Bad([1; 100]));
        let place = ptr::from_ref(&*first).addr();
        assert!(catch_unwind(AssertUnwindSafe(|| drop(first))).is_err());
        let second = ChunkBox::new([2u64; 100]);
        assert_eq!(ptr::from_ref(&*second).addr(), place);
    }
}
