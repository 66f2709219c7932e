//! A waker in eight bytes, for tables with one entry for each of very many connections.

use std::fmt;
use std::mem::ManuallyDrop;
use std::ptr::{self, NonNull};
use std::task::Waker;

use crate::arena::{FOREIGN_ARENA, TaskId};
use crate::waker;

/// A [`Waker`] in eight bytes, in an `Option` too.
///
/// A waker of one of the runtime's tasks is a number, and kept as such. One of another kind,
/// as `FuturesUnordered` makes them, goes into a box.
///
/// ```
/// use std::task::Waker;
/// use throng_runtime::SmallWaker;
///
/// let kept = SmallWaker::from(Waker::noop());
/// assert!(kept.will_wake(Waker::noop()));
/// kept.wake();
/// assert_eq!(size_of::<Option<SmallWaker>>(), 8);
/// ```
pub struct SmallWaker(NonNull<()>);

const _: () = assert!(size_of::<Option<SmallWaker>>() == size_of::<usize>());

// SAFETY: it stands for a `Waker`, which is both.
unsafe impl Send for SmallWaker {}
// SAFETY: as above.
unsafe impl Sync for SmallWaker {}

/// Bits of a [`TaskId`] that hold the number of the arena. No address has any of them set, in
/// processes that do not ask for the top of a 57-bit address space.
const ARENA: usize = FOREIGN_ARENA << (usize::BITS - FOREIGN_ARENA.trailing_ones());

impl SmallWaker {
    /// The bits of a task's waker, inverted: of no task are they zero, or without an arena, as
    /// those of an address are (see [`FOREIGN_ARENA`]).
    #[inline]
    fn task(&self) -> Option<TaskId> {
        let bits = self.0.as_ptr().addr();
        (bits & ARENA != 0).then(|| TaskId::unpack(!bits))
    }

    /// The boxed waker; there must be one.
    #[cold]
    fn boxed(&self) -> &Waker {
        debug_assert!(self.task().is_none());
        // SAFETY: without an arena it is the address of a box of ours, which lives as long as
        // this does.
        unsafe { self.0.cast::<Waker>().as_ref() }
    }

    #[cold]
    fn new_boxed(waker: &Waker) -> SmallWaker {
        let boxed: NonNull<()> = NonNull::from(Box::leak(Box::new(waker.clone()))).cast();
        assert_eq!(boxed.as_ptr().addr() & ARENA, 0, "an address where none is expected");
        SmallWaker(boxed)
    }

    /// Whether this and `waker` wake the same task, as far as can be told.
    #[inline]
    pub fn will_wake(&self, waker: &Waker) -> bool {
        match self.task() {
            Some(id) => waker::task_of(waker) == Some(id),
            None => self.boxed().will_wake(waker),
        }
    }

    /// Wakes the task.
    #[inline]
    pub fn wake_by_ref(&self) {
        match self.task() {
            Some(id) => waker::wake_task(id),
            None => self.boxed().wake_by_ref(),
        }
    }

    /// Wakes the task, which ends the waker.
    #[inline]
    pub fn wake(self) {
        self.wake_by_ref();
    }

    /// An ordinary waker of the same task.
    pub fn to_waker(&self) -> Waker {
        match self.task() {
            Some(id) => ManuallyDrop::into_inner(waker::waker(id)),
            None => self.boxed().clone(),
        }
    }
}

impl From<&Waker> for SmallWaker {
    #[inline]
    fn from(waker: &Waker) -> SmallWaker {
        let id = waker::task_of(waker);
        match id.and_then(|id| NonNull::new(ptr::without_provenance_mut(!id.pack()))) {
            Some(bits) => SmallWaker(bits),
            None => SmallWaker::new_boxed(waker),
        }
    }
}

impl Drop for SmallWaker {
    #[inline]
    fn drop(&mut self) {
        if self.task().is_none() {
            // SAFETY: it is the address of a box made by `new_boxed`, and nobody else's.
            drop(unsafe { Box::from_raw(self.0.cast::<Waker>().as_ptr()) });
        }
    }
}

impl fmt::Debug for SmallWaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SmallWaker").field(&self.to_waker()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::task::Wake;

    use super::*;
    use crate::arena::MAX_TASKS;

    #[derive(Default)]
    struct Count(AtomicU32);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_foreign_waker_is_kept_in_a_box() {
        let count = Arc::new(Count::default());
        let waker = Waker::from(count.clone());
        let small = SmallWaker::from(&waker);
        assert!(small.will_wake(&waker) && !small.will_wake(Waker::noop()));
        small.wake_by_ref();
        small.to_waker().wake();
        small.wake();
        assert_eq!(count.0.load(Ordering::Relaxed), 3);
        drop(waker);
        assert_eq!(Arc::strong_count(&count), 1, "the box is gone, and its waker");
    }

    #[test]
    fn every_task_fits() {
        let numbers = [0, 1, MAX_TASKS as u32 - 1];
        for arena in [0, 1, FOREIGN_ARENA as u16 - 1] {
            for (index, generation) in numbers.iter().flat_map(|i| [(*i, 0), (*i, (1 << 26) - 1)]) {
                let id = TaskId { arena, index, generation };
                let waker = waker::waker(id);
                let small = SmallWaker::from(&*waker);
                assert_eq!(small.task(), Some(id));
                assert!(small.will_wake(&waker) && !small.will_wake(Waker::noop()));
                assert!(waker.will_wake(&small.to_waker()));
            }
        }
    }
}
