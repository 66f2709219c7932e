//! What the executor allocates: a cell of a chunk per task, and nothing to wake, poll or sleep.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use common::{own_waker, world};
use throng_runtime::{ShardId, chunks, interval, sleep, spawn_local, yield_now};

/// Counts the calls and the bytes of its thread.
struct Counting;

thread_local! {
    static CALLS: Cell<usize> = const { Cell::new(0) };
    static BYTES: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: hands everything to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.set(CALLS.get() + 1);
        BYTES.set(BYTES.get() + layout.size());
        // SAFETY: as the caller of this function promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller of this function promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Calls and bytes that `f` allocates.
fn allocated(f: impl FnOnce()) -> (usize, usize) {
    let before = (CALLS.get(), BYTES.get());
    f();
    (CALLS.get() - before.0, BYTES.get() - before.1)
}

const SHARD: ShardId = ShardId(0);

#[test]
fn a_task_is_its_future_and_eight_bytes_in_a_chunk() {
    const TASKS: usize = 10_000;
    let (mut world, host) = world(1);
    let task = |n: u64| {
        let state = [n; 20];
        poll_fn(move |_| if state[3] == 0 { Poll::Ready(()) } else { Poll::Pending })
    };
    assert_eq!(size_of_val(&task(1)), 160);
    // Grow the queue first.
    world.enter(host, SHARD, || (0..2000).for_each(|_| drop(spawn_local(task(0)))));
    while world.sweep() {}
    let before = chunks::resident();
    let calls = world.enter(host, SHARD, || {
        let (calls, _) = allocated(|| (0..1000).for_each(|_| drop(spawn_local(task(1)))));
        (1000..TASKS).for_each(|_| drop(spawn_local(task(1))));
        calls
    });
    assert_eq!(calls, 0);
    let (calls, _) = allocated(|| while world.sweep() {});
    assert_eq!(calls, 0);
    // And 16 for the slot. Some of both were touched by the first, and by other tests.
    let each = (chunks::resident() - before) as f64 / TASKS as f64;
    assert!((140.0..190.0).contains(&each), "{each} bytes");
    drop(world);
    let left = chunks::resident().saturating_sub(before);
    assert!(left < 20 * TASKS, "{left} bytes: no more than slots");
}

#[test]
fn waking_polling_and_sleeping_allocate_nothing() {
    let (mut world, host) = world(2);
    let spawn = || {
        for _ in 0..100 {
            drop(spawn_local(async {
                let mut ticks = interval(Duration::from_millis(3));
                loop {
                    ticks.tick().await;
                    yield_now().await;
                    own_waker().await.wake();
                    sleep(Duration::from_micros(700)).await;
                }
            }));
        }
    };
    world.enter(host, SHARD, spawn);
    world.run_for(Duration::from_secs(1));
    let (calls, _) = allocated(|| world.run_for(Duration::from_secs(5)));
    assert_eq!(calls, 0);
}

#[test]
fn remote_wakes_allocate_nothing() {
    let (mut world, host) = world(1);
    let wakers: std::rc::Rc<std::cell::RefCell<Vec<_>>> = Default::default();
    world.enter(host, SHARD, || {
        for _ in 0..100 {
            let wakers = wakers.clone();
            drop(spawn_local(async move {
                let waker = own_waker().await;
                wakers.borrow_mut().push(waker);
                std::future::pending::<()>().await;
            }));
        }
    });
    while world.sweep() {}
    // Outside of the shard every wake is a remote one.
    let (calls, _) = allocated(|| {
        for _ in 0..50 {
            wakers.borrow().iter().for_each(std::task::Waker::wake_by_ref);
            while world.sweep() {}
        }
    });
    assert_eq!(calls, 0);
}

/// A task that woke itself in its last poll is in the ready queue once more when its slot is
/// used again. That must not add up.
#[test]
fn a_chain_of_tasks_that_wake_themselves_needs_no_more_and_more_room() {
    fn link(left: usize) {
        let mut left = left;
        drop(spawn_local(poll_fn(move |cx| {
            cx.waker().wake_by_ref();
            left -= 1;
            if left > 0 {
                link(left);
            }
            Poll::Ready(())
        })));
    }
    const LINKS: usize = 500;
    let (mut world, host) = world(1);
    world.enter(host, SHARD, || (0..200).for_each(|_| link(50)));
    while world.sweep() {}
    world.enter(host, SHARD, || (0..100).for_each(|_| link(LINKS)));
    let (calls, _) = allocated(|| while world.sweep() {});
    assert_eq!(calls, 0, "of {} tasks", 100 * (LINKS - 1));
}
