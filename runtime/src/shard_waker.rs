//! A waker in four bytes, for what stays on its shard.

use std::num::NonZeroU32;
use std::task::Waker;

use crate::{shard, waker};

/// The waker of one of a shard's own tasks, for tables of that shard: four bytes, in an `Option` too.
///
/// It is to be used where it was made, on its shard; elsewhere it wakes nobody, or some task in vain. So it
/// does where its task has ended meanwhile and another one has its place.
///
/// ```
/// use std::task::Waker;
/// use throng_runtime::ShardWaker;
///
/// assert!(ShardWaker::of(Waker::noop()).is_none());
/// assert_eq!(size_of::<Option<ShardWaker>>(), 4);
/// ```
#[derive(Debug)]
pub struct ShardWaker(NonZeroU32);

impl ShardWaker {
    /// If `waker` is that of a task of the current shard.
    #[inline]
    pub fn of(waker: &Waker) -> Option<ShardWaker> {
        let id = waker::task_of(waker).filter(|id| shard::is_own(id.arena))?;
        Some(ShardWaker(NonZeroU32::MIN.saturating_add(id.index)))
    }

    fn index(&self) -> u32 {
        self.0.get() - 1
    }

    /// Wakes the task, which ends the waker.
    #[inline]
    pub fn wake(self) {
        shard::wake_own(self.index());
    }

    /// Asks the cache for what waking the task looks at. The first of two steps, each to be taken for
    /// a whole burst, that spare waking and polling from waiting for memory.
    #[inline]
    pub fn prefetch_wake(&self) {
        shard::prefetch_slot(self.index());
    }

    /// Asks the cache for what polling the task looks at. The second step: it waits for the first.
    #[inline]
    pub fn prefetch_poll(&self) {
        shard::prefetch_task(self.index());
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::{pending, poll_fn};
    use std::pin::Pin;
    use std::rc::Rc;
    use std::task::Poll;

    use super::*;
    use crate::driver::NoDriver;
    use crate::sim::World;
    use crate::{Instant, ShardId};

    #[test]
    fn it_wakes_its_task_and_nobody_elsewhere() {
        let mut world = World::new();
        let hosts = [0, 1].map(|_| world.add_host(vec![Box::new(NoDriver)]));
        let (polls, kept) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(None)));
        let (count, keep) = (polls.clone(), kept.clone());
        // So that its number is beyond the slots the other host has ever had.
        let spawn = |future| world.spawn(hosts[0], ShardId(0), future).detach();
        (0..100)
            .for_each(|_| spawn(Box::pin(pending::<()>()) as Pin<Box<dyn Future<Output = ()>>>));
        spawn(Box::pin(poll_fn(move |cx| {
            count.set(count.get() + 1);
            keep.set(ShardWaker::of(cx.waker()).map(|waker| waker.0));
            Poll::Pending
        })));
        world.sweep();
        assert_eq!(polls.get(), 1);
        let wake = || {
            let waker = ShardWaker(kept.get().expect("a task's waker"));
            waker.prefetch_wake();
            waker.prefetch_poll();
            waker.wake();
        };
        // On no shard, on another, on its own.
        wake();
        world.enter(hosts[1], ShardId(0), wake);
        world.sweep();
        assert_eq!(polls.get(), 1);
        world.enter(hosts[0], ShardId(0), wake);
        world.sweep();
        assert_eq!(polls.get(), 2);
        // One of another shard's tasks is none of ours.
        let own = world.block_on(hosts[1], Instant::MAX, async {
            poll_fn(|cx| Poll::Ready(cx.waker().clone())).await
        });
        let own = own.expect("a waker");
        assert!(world.enter(hosts[0], ShardId(0), || ShardWaker::of(&own)).is_none());
    }
}
