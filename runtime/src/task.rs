//! A task's memory: one allocation of a table pointer and the future, in whose place the
//! output comes when it is done. Everything else about a task is in its slot (16 bytes,
//! see `arena`) or, while it is needed, in the shard's side table.
//!
//! Only the owning shard's thread calls anything here.

use std::alloc::Layout;
use std::mem::ManuallyDrop;
use std::pin::Pin;
use std::ptr;
use std::task::{Context, Poll};

use crate::{prefetch, task_memory};

/// Bytes of a cache line.
const LINE: usize = 64;

/// The start of every task's allocation.
pub(crate) struct Header {
    pub(crate) table: &'static Table,
}

/// What can be done with a task whose type has been forgotten. Every function takes a
/// pointer that [`allocate`] returned and that was not deallocated since.
pub(crate) struct Table {
    /// Polls the future, which must be there. On `Ready` the output is in its place. Sets
    /// the flag as soon as the future is gone or going, so that a panic while it is
    /// dropped does not drop it twice.
    pub(crate) poll: unsafe fn(*mut Header, &mut Context<'_>, &mut bool) -> Poll<()>,
    /// Drops the future, which must be there.
    pub(crate) drop_future: unsafe fn(*mut Header),
    /// Drops the output, which must be there.
    pub(crate) drop_output: unsafe fn(*mut Header),
    /// Moves the output, which must be there, to a place of its type.
    pub(crate) take_output: unsafe fn(*mut Header, *mut ()),
    /// Frees the memory; future and output must be gone.
    pub(crate) deallocate: unsafe fn(*mut Header),
}

union Stage<F: Future> {
    future: ManuallyDrop<F>,
    output: ManuallyDrop<F::Output>,
}

#[repr(C)]
struct Task<F: Future> {
    header: Header,
    stage: Stage<F>,
}

/// Bytes of a task's allocation for a future of type `F`.
#[cfg(test)]
pub(crate) const fn size_for<F: Future>() -> usize {
    size_of::<Task<F>>()
}

/// Puts a future in a task's allocation.
pub(crate) fn allocate<F: Future + 'static>(future: F) -> *mut Header {
    let task: *mut Task<F> = task_memory::take(Layout::new::<Task<F>>()).cast();
    let stage = Stage { future: ManuallyDrop::new(future) };
    // SAFETY: the memory is ours and has the layout of the type.
    unsafe { task.write(Task { header: Header { table: table::<F>() }, stage }) };
    task.cast()
}

/// Asks the cache for a task's first two lines: header and future of most that are many. The
/// pointer may be anything.
#[inline]
pub(crate) fn prefetch(task: *const Header) {
    prefetch::prefetch(task);
    prefetch::prefetch(task.wrapping_byte_add(LINE));
}

fn table<F: Future + 'static>() -> &'static Table {
    const {
        &Table {
            poll: poll::<F>,
            drop_future: drop_future::<F>,
            drop_output: drop_output::<F>,
            take_output: take_output::<F>,
            deallocate: deallocate::<F>,
        }
    }
}

unsafe fn poll<F: Future>(task: *mut Header, cx: &mut Context<'_>, gone: &mut bool) -> Poll<()> {
    let task = task.cast::<Task<F>>();
    // SAFETY: the caller says that the future is there; it never moves until it is dropped.
    let future = unsafe { Pin::new_unchecked(&mut *(*task).stage.future) };
    match future.poll(cx) {
        Poll::Pending => Poll::Pending,
        Poll::Ready(output) => {
            *gone = true;
            // SAFETY: the future is there, and from here on it is not.
            unsafe { ManuallyDrop::drop(&mut (*task).stage.future) };
            // SAFETY: the place is vacant and large enough for the output.
            unsafe { ptr::write(&raw mut (*task).stage.output, ManuallyDrop::new(output)) };
            Poll::Ready(())
        }
    }
}

unsafe fn drop_future<F: Future>(task: *mut Header) {
    // SAFETY: the caller says that the future is there.
    unsafe { ManuallyDrop::drop(&mut (*task.cast::<Task<F>>()).stage.future) };
}

unsafe fn drop_output<F: Future>(task: *mut Header) {
    // SAFETY: the caller says that the output is there.
    unsafe { ManuallyDrop::drop(&mut (*task.cast::<Task<F>>()).stage.output) };
}

unsafe fn take_output<F: Future>(task: *mut Header, to: *mut ()) {
    // SAFETY: the caller says that the output is there and that `to` has its type.
    unsafe {
        let output = ManuallyDrop::take(&mut (*task.cast::<Task<F>>()).stage.output);
        to.cast::<F::Output>().write(output);
    }
}

unsafe fn deallocate<F: Future>(task: *mut Header) {
    // SAFETY: the memory is from `allocate` for this type, on this thread, and its content is gone.
    unsafe { task_memory::give(task.cast(), Layout::new::<Task<F>>()) };
}

#[cfg(test)]
mod tests {
    use super::size_for;

    /// The bytes of a task beside its future: a pointer here, and 16 in its slot.
    #[test]
    fn a_task_is_its_future_and_a_pointer() {
        fn overhead<F: Future>(_: &F) -> usize {
            size_for::<F>() - size_of::<F>()
        }
        let large = std::future::pending::<[u64; 20]>();
        assert_eq!(size_for::<std::future::Pending<()>>(), 8);
        assert_eq!(overhead(&std::future::ready(1u64)), 8);
        // The output takes the place of the future, it does not come on top.
        assert_eq!(overhead(&large), 8 + 160);
        let data = [1u64; 30];
        assert_eq!(overhead(&async move { data.len() }), 8);
    }
}
