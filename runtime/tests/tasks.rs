//! The life of a task: its ends, its drops, its limits.

mod common;

use std::cell::{Cell, RefCell};
use std::future::{pending, poll_fn};
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use common::{Dropped, own_waker, pending_times, poll_once, simulate, world};
use throng_runtime::driver::NoDriver;
use throng_runtime::sim::World;
use throng_runtime::{
    Config, Driver, Instant, ShardId, SpawnError, coop, now, sleep, sleep_until, spawn_local,
    stats, timeout, try_spawn_local, yield_now,
};

const SHARD: ShardId = ShardId(0);

#[test]
fn a_handle_gives_the_output() {
    simulate(async {
        assert_eq!(spawn_local(async { "now" }).await.unwrap(), "now");
        let later = spawn_local(async {
            sleep(Duration::from_millis(3)).await;
            vec![1, 2, 3]
        });
        assert!(!later.is_finished());
        assert_eq!(later.await.unwrap(), [1, 2, 3]);
        let zero_sized = spawn_local(async {});
        yield_now().await;
        assert!(zero_sized.is_finished());
        zero_sized.await.unwrap();
    });
}

#[test]
fn dropping_the_handle_detaches() {
    let (drops, guard) = Dropped::counter();
    let (outputs, output) = Dropped::counter();
    let (seen, inner) = (drops.clone(), outputs.clone());
    simulate(async move {
        drop(spawn_local(async move {
            sleep(Duration::from_millis(1)).await;
            drop(guard);
            output
        }));
        sleep(Duration::from_micros(500)).await;
        assert_eq!(seen.get(), 0, "still running");
        sleep(Duration::from_millis(2)).await;
        assert_eq!((seen.get(), inner.get()), (1, 1), "ran to its end, output dropped");
        assert_eq!(stats().tasks, 1);
    });
    assert_eq!((drops.get(), outputs.get()), (1, 1));
}

#[test]
fn an_output_nobody_takes_is_dropped_with_the_handle() {
    let (drops, output) = Dropped::counter();
    simulate(async move {
        let handle = spawn_local(async move { output });
        yield_now().await;
        assert!(handle.is_finished());
        assert_eq!(drops.get(), 0);
        drop(handle);
        assert_eq!(drops.get(), 1);
        assert_eq!(stats().tasks, 1);
    });
}

#[test]
fn abort_drops_the_future_and_says_so() {
    let (drops, guard) = Dropped::counter();
    simulate(async move {
        let handle = spawn_local(async move {
            let _guard = guard;
            pending::<()>().await;
        });
        yield_now().await;
        handle.abort();
        assert_eq!(drops.get(), 0, "only the executor drops futures");
        let error = handle.await.unwrap_err();
        assert!(error.is_cancelled() && !error.is_panic());
        assert_eq!(drops.get(), 1);

        // Before its first poll.
        let handle = spawn_local(async { unreachable!("aborted before") });
        handle.abort();
        assert!(handle.await.unwrap_err().is_cancelled());

        // After its end.
        let handle = spawn_local(async { 5 });
        yield_now().await;
        handle.abort();
        assert_eq!(handle.await.unwrap(), 5);

        // By itself, while it runs.
        let own = Rc::new(RefCell::new(None));
        let handle = spawn_local({
            let own: Rc<RefCell<Option<throng_runtime::JoinHandle<()>>>> = own.clone();
            async move {
                own.borrow().as_ref().unwrap().abort();
                yield_now().await;
                unreachable!("aborted itself");
            }
        });
        *own.borrow_mut() = Some(handle);
        sleep(Duration::from_millis(1)).await;
        let handle = own.take().unwrap();
        assert!(handle.await.unwrap_err().is_cancelled());
    });
}

#[test]
fn cancel_on_drop_cancels() {
    let (drops, guard) = Dropped::counter();
    simulate(async move {
        let handle = spawn_local(async move {
            let _guard = guard;
            pending::<()>().await;
        })
        .cancel_on_drop();
        yield_now().await;
        drop(handle);
        yield_now().await;
        assert_eq!(drops.get(), 1);
        assert_eq!(stats().tasks, 1);
        // `detach` takes it back.
        let (ended, guard) = Dropped::counter();
        spawn_local(async move {
            yield_now().await;
            drop(guard);
        })
        .cancel_on_drop()
        .detach();
        sleep(Duration::from_millis(1)).await;
        assert_eq!(ended.get(), 1);
    });
}

#[test]
fn panics_stay_in_their_task() {
    let (drops, guard) = Dropped::counter();
    simulate(async move {
        let handle = spawn_local(async move {
            let _guard = guard;
            yield_now().await;
            panic!("number {}", std::hint::black_box(7));
        });
        let error = handle.await.unwrap_err();
        assert!(error.is_panic());
        assert_eq!(error.to_string(), "the task panicked: number 7");
        assert_eq!(*error.try_into_panic().unwrap().downcast::<String>().unwrap(), "number 7");
        assert_eq!(drops.get(), 1);
        // Detached, with a value that is no text.
        drop(spawn_local(async { std::panic::panic_any(5u8) }));
        yield_now().await;
        assert_eq!((stats().panics, stats().tasks), (2, 1));
    });
}

/// Panics when dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("dropped the bomb");
    }
}

#[test]
fn panics_in_drops_are_contained_too() {
    simulate(async {
        // In the drop of a finished future.
        let held = spawn_local({
            let mut bomb = Some(Bomb);
            poll_fn(move |_| {
                let _ = &mut bomb;
                Poll::Ready(3)
            })
        });
        assert!(held.await.unwrap_err().is_panic());
        // In the drop of an aborted one.
        let aborted = spawn_local(async {
            let _bomb = Bomb;
            pending::<()>().await;
        });
        yield_now().await;
        aborted.abort();
        assert!(aborted.await.unwrap_err().is_panic());
        // In the drop of an output nobody wants.
        drop(spawn_local(async { Bomb }));
        sleep(Duration::from_millis(1)).await;
        assert_eq!((stats().panics, stats().tasks), (3, 1));
        // In the drop of what a task panicked with, which nobody wants either.
        drop(spawn_local(async { std::panic::panic_any(Bomb) }));
        sleep(Duration::from_millis(1)).await;
        assert_eq!((stats().panics, stats().tasks), (4, 1));
    });
}

#[test]
fn the_task_limit_refuses() {
    let mut world = World::new();
    let config = Config { shards: 1, max_tasks: 3, ..Config::default() };
    let host = world.add_host_with(config, |_| Ok(Box::new(NoDriver) as Box<dyn Driver>)).unwrap();
    let (drops, guard) = Dropped::counter();
    let done = world.block_on(host, Instant::from_millis(1000), async move {
        let first = spawn_local(pending::<()>());
        let second = try_spawn_local(pending::<()>()).unwrap();
        assert_eq!(try_spawn_local(async {}).unwrap_err(), SpawnError::TooManyTasks);
        let refused = spawn_local(async move {
            drop(guard);
        });
        assert_eq!(drops.get(), 1, "a refused future is dropped");
        assert!(refused.is_finished());
        refused.abort();
        assert_eq!(refused.await.unwrap_err().refusal(), Some(SpawnError::TooManyTasks));
        assert_eq!(stats().refused, 2);
        second.abort();
        assert!(second.await.unwrap_err().is_cancelled());
        assert_eq!(spawn_local(async { 1 }).await.unwrap(), 1);
        drop(first);
    });
    assert!(done.is_some());
}

#[test]
fn wakers_never_drop_a_future() {
    let (drops, guard) = Dropped::counter();
    let (mut world, host) = world(1);
    let waker: Rc<RefCell<Option<Waker>>> = Rc::default();
    let keep = waker.clone();
    let handle = world.spawn(host, SHARD, async move {
        let _guard = guard;
        *keep.borrow_mut() = Some(own_waker().await);
        pending::<()>().await;
    });
    world.sweep();
    let waker = waker.take().unwrap();
    handle.abort();
    drop(waker.clone());
    waker.wake_by_ref();
    std::thread::spawn({
        let waker = waker.clone();
        move || {
            waker.wake_by_ref();
            drop(waker);
        }
    })
    .join()
    .unwrap();
    assert_eq!(drops.get(), 0);
    world.sweep();
    assert_eq!(drops.get(), 1);
    // The slot's next task is not disturbed by a waker of the last one.
    let polls = Rc::new(Cell::new(0));
    let count = polls.clone();
    let next = world.spawn(
        host,
        SHARD,
        poll_fn(move |_| {
            count.set(count.get() + 1);
            Poll::<()>::Pending
        }),
    );
    drop(handle);
    world.sweep();
    waker.wake_by_ref();
    world.enter(host, SHARD, || waker.wake_by_ref());
    world.sweep();
    assert_eq!(polls.get(), 1);
    drop(next);
    // After the world's end a waker is void, and still safe.
    drop(world);
    waker.wake();
}

#[test]
fn many_wakes_are_one_poll() {
    let (mut world, host) = world(1);
    let (polls, waker): (Rc<Cell<usize>>, Rc<RefCell<Option<Waker>>>) = Default::default();
    let (count, keep) = (polls.clone(), waker.clone());
    drop(world.spawn(
        host,
        SHARD,
        poll_fn(move |cx| {
            count.set(count.get() + 1);
            *keep.borrow_mut() = Some(cx.waker().clone());
            Poll::<()>::Pending
        }),
    ));
    world.sweep();
    let waker = waker.take().unwrap();
    world.enter(host, SHARD, || (0..10).for_each(|_| waker.wake_by_ref()));
    (0..10).for_each(|_| waker.wake_by_ref());
    world.sweep();
    world.sweep();
    assert_eq!(polls.get(), 2);
}

#[test]
fn a_wake_during_the_poll_counts() {
    let polls = Rc::new(Cell::new(0));
    let count = polls.clone();
    simulate(async move {
        let handle = spawn_local(poll_fn(move |cx| {
            count.set(count.get() + 1);
            // Three wakes in one poll are one further poll.
            (0..3).for_each(|_| cx.waker().wake_by_ref());
            if count.get() == 5 { Poll::Ready(()) } else { Poll::Pending }
        }));
        handle.await.unwrap();
    });
    assert_eq!(polls.get(), 5);
}

#[test]
fn tasks_left_at_the_end_are_dropped_inside_their_shard() {
    struct InShard(Rc<Cell<usize>>);
    impl Drop for InShard {
        fn drop(&mut self) {
            assert_eq!(throng_runtime::current_shard(), SHARD);
            // Spawning is refused now, and not a panic.
            assert_eq!(try_spawn_local(async {}).unwrap_err(), SpawnError::ShuttingDown);
            self.0.set(self.0.get() + 1);
        }
    }
    let drops = Rc::new(Cell::new(0));
    let (world, host) = world(1);
    let handles: Vec<_> = (0..1000)
        .map(|_| {
            let guard = InShard(drops.clone());
            world.spawn(host, SHARD, async move {
                let _guard = guard;
                sleep(Duration::from_secs(1)).await;
            })
        })
        .collect();
    drop(world);
    assert_eq!(drops.get(), 1000);
    for mut handle in handles {
        match poll_once(&mut handle) {
            Poll::Ready(Err(error)) => assert!(error.is_cancelled()),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_handle_waits_for_whoever_polled_last() {
    simulate(async {
        let mut task = spawn_local(async {
            sleep(Duration::from_millis(2)).await;
            9
        });
        // Polled first by this task, then moved to another.
        assert!(
            poll_fn(|cx| Poll::Ready(std::pin::Pin::new(&mut task).poll(cx))).await.is_pending()
        );
        assert_eq!(spawn_local(task).await.unwrap().unwrap(), 9);
    });
}

#[test]
fn the_budget_makes_a_greedy_task_yield() {
    simulate(async {
        let goes = Rc::new(Cell::new(0));
        let count = goes.clone();
        let greedy = spawn_local(async move {
            for _ in 0..1000 {
                coop::consume_budget().await;
                count.set(count.get() + 1);
            }
        });
        yield_now().await;
        assert_eq!(goes.get(), 128);
        greedy.await.unwrap();
        assert_eq!(goes.get(), 1000);
    });
}

/// The shard's time moves between turns only, so a task has to let it turn.
#[test]
fn a_loop_of_sleeps_that_are_over_sees_time_pass() {
    common::within(Duration::from_secs(20), || {
        simulate(async {
            let end = now() + Duration::from_micros(500);
            while now() < end {
                sleep(Duration::ZERO).await;
            }
            while now() < end + Duration::from_micros(500) {
                let _ = timeout(Duration::ZERO, pending::<()>()).await;
            }
            // A deadline beside a stream that is always ready is seen.
            let mut late = Box::pin(timeout(Duration::from_millis(1), async {
                loop {
                    coop::consume_budget().await;
                }
            }));
            assert!(late.as_mut().await.is_err());
        });
    });
}

#[test]
fn sleeps_can_be_dropped_reset_and_outlive_their_firing() {
    simulate(async {
        let ms = Instant::from_millis;
        let mut kept = sleep_until(ms(5));
        assert!(
            poll_fn(|cx| Poll::Ready(std::pin::Pin::new(&mut kept).poll(cx))).await.is_pending()
        );
        assert_eq!(stats().timers, 1);
        // Fires, and is only then replaced and dropped: no other timer may suffer.
        sleep_until(ms(10)).await;
        let others: Vec<_> = (0..4).map(|_| spawn_local(sleep_until(ms(20)))).collect();
        yield_now().await;
        kept.reset(ms(30));
        drop(kept);
        for other in others {
            other.await.unwrap();
        }
        assert!(now() >= ms(20) && now() < ms(21), "{:?}", now());
        // Reset to earlier and to later.
        let mut sleep = sleep(Duration::from_secs(60));
        assert!(
            poll_fn(|cx| Poll::Ready(std::pin::Pin::new(&mut sleep).poll(cx))).await.is_pending()
        );
        sleep.reset(ms(25));
        (&mut sleep).await;
        assert!(sleep.is_elapsed() && now() < ms(26));
        sleep.reset(ms(40));
        sleep.await;
        assert!(now() >= ms(40) && now() < ms(41));
        assert_eq!(stats().timers, 0);
    });
}

#[test]
fn slots_are_used_again() {
    simulate(async {
        for round in 0..100u32 {
            let handles: Vec<_> = (0..50).map(|i| spawn_local(async move { i + round })).collect();
            for (i, handle) in handles.into_iter().enumerate() {
                assert_eq!(handle.await.unwrap(), i as u32 + round);
            }
        }
        assert_eq!((stats().tasks, stats().spawned), (1, 5001));
        drop(spawn_local(pending_times(3)));
    });
}
