//! The simulated world: the same run twice gives the same trace, and time obeys.

mod common;

use std::cell::RefCell;
use std::fmt::Write;
use std::rc::Rc;
use std::time::Duration;

use common::{own_waker, simulate, world};
use throng_runtime::driver::NoDriver;
use throng_runtime::sim::World;
use throng_runtime::{
    Config, Driver, Instant, JoinHandle, ShardId, current_shard, now, sleep, spawn_blocking,
    spawn_local, spawn_on, stats, timeout, yield_now,
};

/// A small generator of numbers (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}

type Trace = Rc<RefCell<String>>;

/// A task that spawns, sleeps, wakes, aborts and calls other shards as the seed says.
fn wanderer(trace: Trace, id: u64, seed: u64, depth: u32) -> JoinHandle<u64> {
    spawn_local(async move {
        let mut random = Random(seed);
        let mut sum = id;
        for step in 0..6 {
            writeln!(trace.borrow_mut(), "{:?} {} {id}.{step}", now(), current_shard()).unwrap();
            match random.below(6) {
                0 => yield_now().await,
                1 => sleep(Duration::from_micros(random.below(5000))).await,
                2 => {
                    let nap = sleep(Duration::from_micros(random.below(3000)));
                    let late = timeout(Duration::from_micros(random.below(3000)), nap).await;
                    sum += u64::from(late.is_err());
                }
                3 if depth > 0 => {
                    let child =
                        wanderer(trace.clone(), id * 10 + step, random.below(u64::MAX), depth - 1);
                    if random.below(3) == 0 {
                        sleep(Duration::from_micros(random.below(500))).await;
                        child.abort();
                    }
                    sum += child.await.unwrap_or(1);
                }
                4 => {
                    let (to, nap) = (ShardId(random.below(3) as u16), random.below(2000));
                    let far = spawn_on(to, move || async move {
                        sleep(Duration::from_micros(nap)).await;
                        u64::from(current_shard().0)
                    });
                    sum += far.await.unwrap();
                }
                _ => own_waker().await.wake(),
            }
        }
        sum
    })
}

fn trace_of(seed: u64) -> (String, Instant) {
    let (mut world, first) = world(3);
    let second = world.add_host((0..3).map(|_| Box::new(NoDriver) as Box<dyn Driver>).collect());
    let trace = Trace::default();
    let mut handles = Vec::new();
    for (i, host) in [first, second, first, second].into_iter().enumerate() {
        for shard in 0..3 {
            let (trace, id) = (trace.clone(), (i as u64 + 1) * 100 + shard);
            handles.push(
                world.enter(host, ShardId(shard as u16), || wanderer(trace, id, seed ^ id, 3)),
            );
        }
    }
    let done = world
        .run_until(Instant::from_millis(60_000), || handles.iter().all(JoinHandle::is_finished));
    assert!(done, "seed {seed}");
    (trace.take(), world.now())
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..30 {
        let first = trace_of(seed);
        // In between something else uses the same storage.
        simulate(async { sleep(Duration::from_millis(1)).await });
        assert_eq!(first, trace_of(seed), "seed {seed}");
        assert_ne!(first.0, trace_of(seed + 1000).0);
    }
}

#[test]
fn time_jumps_from_deadline_to_deadline() {
    let (mut world, host) = world(1);
    let sleeper = world.spawn(host, ShardId(0), async {
        // A year in a few turns.
        sleep(Duration::from_secs(365 * 86_400)).await;
        now()
    });
    let wall = std::time::Instant::now();
    assert!(world.run_until(Instant::MAX, || sleeper.is_finished()));
    assert!(wall.elapsed() < Duration::from_secs(5));
    let year = Instant::from_millis(365 * 86_400_000);
    assert!(world.now() >= year && world.now() < year + Duration::from_millis(1));
    // Without anything to wait for time goes to the limit.
    let limit = world.now() + Duration::from_secs(7);
    assert!(!world.run_until(limit, || false));
    assert_eq!(world.now(), limit);
    world.run_for(Duration::from_secs(3));
    assert_eq!(world.enter(host, ShardId(0), now), limit + Duration::from_secs(3));
}

#[test]
fn a_world_without_rest_ends_at_its_limit() {
    let (mut world, host) = world(1);
    drop(world.spawn(host, ShardId(0), async {
        loop {
            yield_now().await;
        }
    }));
    let sleeper = world.spawn(host, ShardId(0), async { sleep(Duration::from_millis(1)).await });
    assert!(!world.run_until(Instant::from_millis(5), || false));
    assert!(sleeper.is_finished());
    assert_eq!(world.now(), Instant::from_millis(5));
}

#[test]
fn blocking_work_runs_in_place() {
    simulate(async {
        let thread = std::thread::current().id();
        let job = spawn_blocking(move || std::thread::current().id() == thread);
        assert!(job.is_finished());
        assert!(job.await.unwrap());
        assert!(spawn_blocking(|| panic!("here")).await.unwrap_err().is_panic());
    });
}

#[test]
fn hosts_can_go_and_come() {
    let mut world = World::new();
    let config = Config { shards: 2, ..Config::default() };
    let make = |_| Ok(Box::new(NoDriver) as Box<dyn Driver>);
    let first = world.add_host_with(config.clone(), make).unwrap();
    let forever = world.spawn(first, ShardId(1), std::future::pending::<()>());
    world.run_for(Duration::from_millis(1));
    world.remove_host(first);
    assert!(forever.is_finished());
    let second = world.add_host_with(config, make).unwrap();
    assert_ne!(first, second);
    assert_eq!(
        world.block_on(second, Instant::from_millis(9), async { current_shard() }),
        Some(ShardId(0))
    );
    assert!(world.add_host_with(Config { shards: 0, ..Config::default() }, make).is_err());
}

/// Other threads may wake tasks of a world, too: that is not repeatable, but safe.
#[test]
fn a_foreign_thread_wakes_a_task_of_a_world() {
    let (mut world, host) = world(1);
    let (sender, receiver) = std::sync::mpsc::channel();
    let woken = world.spawn(host, ShardId(0), async move {
        sender.send(own_waker().await).unwrap();
        common::pending_times(1).await;
    });
    world.sweep();
    let waker: std::task::Waker = receiver.recv().unwrap();
    std::thread::spawn(move || waker.wake()).join().unwrap();
    assert!(!woken.is_finished());
    world.sweep();
    assert!(woken.is_finished());
}

/// Counts the calls of its stages.
struct Counting(Rc<std::cell::Cell<usize>>);

impl Driver for Counting {
    fn receive(&mut self, _: Instant) -> bool {
        self.0.set(self.0.get() + 1);
        false
    }

    fn advance(&mut self, _: Instant) -> bool {
        false
    }

    fn transmit(&mut self, _: Instant) -> bool {
        self.0.set(self.0.get() + 1);
        false
    }

    fn next_deadline(&self) -> Option<Instant> {
        None
    }

    fn park(&mut self, _: std::os::fd::BorrowedFd<'_>, _: Option<Duration>) {}
}

/// A machine that goes says nothing any more; a world that ends lets its drivers send.
#[test]
fn the_driver_of_a_removed_host_is_not_called_again() {
    let calls = Rc::new(std::cell::Cell::new(0));
    let mut world = World::new();
    let gone = world.add_host(vec![Box::new(Counting(calls.clone()))]);
    world.remove_host(gone);
    assert_eq!(calls.get(), 0);
    world.add_host(vec![Box::new(Counting(calls.clone()))]);
    drop(world);
    assert_eq!(calls.get(), 2);
}

/// The next world uses the storage of the one before; a sleep of that one must not be taken
/// for one of its own.
#[test]
fn a_sleep_that_outlives_its_world_disarms_no_other() {
    // Tests beside this one may take the storage in between: not so in all rounds.
    for _ in 0..50 {
        let (old, host) = world(1);
        let mut sleeps: Vec<_> = old.enter(host, ShardId(0), || {
            (0..2).map(|_| throng_runtime::sleep_until(Instant::from_millis(60_000))).collect()
        });
        old.enter(host, ShardId(0), || {
            sleeps.iter_mut().for_each(|sleep| assert!(common::poll_once(sleep).is_pending()));
        });
        drop(old);
        let (mut new, host) = world(1);
        let tasks: Vec<_> = (0..2)
            .map(|_| new.spawn(host, ShardId(0), async { sleep(Duration::from_millis(1)).await }))
            .collect();
        new.sweep();
        new.enter(host, ShardId(0), || {
            // One is dropped, the other asks for its time in the new world.
            drop(sleeps.pop());
            assert!(common::poll_once(&mut sleeps[0]).is_pending());
        });
        new.run_for(Duration::from_millis(2));
        assert!(tasks.iter().all(JoinHandle::is_finished));
        new.enter(host, ShardId(0), || drop(sleeps));
    }
}

#[test]
fn what_happens_to_tasks_from_afar_is_counted() {
    let (mut world, host) = world(2);
    let (here, there) = (ShardId(0), ShardId(1));
    world.enter(host, here, || {
        drop(spawn_on(there, || async { panic!("in the task") }));
        drop(spawn_on(there, || -> std::future::Ready<()> { panic!("before it") }));
        drop(spawn_on(ShardId(7), || async {}));
    });
    while world.sweep() {}
    assert_eq!(world.enter(host, there, stats).panics, 2);
    assert_eq!(world.enter(host, here, stats).refused, 1);
}

#[test]
fn a_stalled_shard_does_late_what_was_due() {
    let (mut world, host) = world(2);
    let late: Vec<_> = [ShardId(0), ShardId(1)]
        .into_iter()
        .map(|shard| {
            world.spawn(host, shard, async {
                sleep(Duration::from_millis(10)).await;
                throng_runtime::now()
            })
        })
        .collect();
    world.sweep();
    world.stall(host, ShardId(1), Instant::from_millis(500));
    world.run_until(Instant::from_millis(499), || false);
    assert_eq!([late[0].is_finished(), late[1].is_finished()], [true, false]);
    world.run_until(Instant::from_millis(501), || false);
    assert!(late[1].is_finished());
}

#[test]
fn a_jump_of_the_clock_passes_all_deadlines_at_once() {
    let (mut world, host) = world(1);
    let ticks = world.spawn(host, ShardId(0), async {
        for _ in 0..3 {
            sleep(Duration::from_secs(1)).await;
        }
        throng_runtime::now()
    });
    world.sweep();
    world.jump(Duration::from_secs(3600));
    world.run_for(Duration::from_millis(1_900));
    assert!(!ticks.is_finished(), "one sleep was over at the jump, two begin after it");
    world.run_for(Duration::from_millis(200));
    assert!(ticks.is_finished());
}
