//! Wakers: a task's number in place of a pointer, so that clone and drop do nothing.

use std::mem::ManuallyDrop;
use std::ptr;
use std::task::{RawWaker, RawWakerVTable, Waker};

use crate::arena::{Arena, TaskId};
use crate::shard;

static VTABLE: RawWakerVTable = RawWakerVTable::new(clone, wake, wake, drop);

/// The waker of a task. It owns nothing, hence `ManuallyDrop` only saves a call.
#[inline]
pub(crate) fn waker(id: TaskId) -> ManuallyDrop<Waker> {
    let raw = RawWaker::new(ptr::without_provenance(id.pack()), &VTABLE);
    // SAFETY: the functions below keep the contract of `RawWaker`: they are thread-safe,
    // and since the data is a number there is nothing to own or to free.
    ManuallyDrop::new(unsafe { Waker::from_raw(raw) })
}

unsafe fn clone(data: *const ()) -> RawWaker {
    RawWaker::new(data, &VTABLE)
}

/// The task that `waker` wakes, if it is one of ours.
#[inline]
pub(crate) fn task_of(waker: &Waker) -> Option<TaskId> {
    ptr::eq(waker.vtable(), &VTABLE).then(|| TaskId::unpack(waker.data().addr()))
}

/// Wakes a task of any shard.
#[inline(always)]
pub(crate) fn wake_task(id: TaskId) {
    if shard::wake_if_own(id) {
        return;
    }
    if let Some(arena) = Arena::by_id(id.arena) {
        arena.wake_remote(id);
    }
}

unsafe fn wake(data: *const ()) {
    wake_task(TaskId::unpack(data.addr()));
}

unsafe fn drop(_: *const ()) {}
