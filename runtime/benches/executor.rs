//! What the executor's own steps cost, in nanoseconds of this thread's CPU time:
//! `cargo bench -p throng-runtime`. Read the figures as ratios; other load moves them.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::hint::black_box;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use throng_runtime::driver::NoDriver;
use throng_runtime::mesh::Mesh;
use throng_runtime::sim::{HostId, World};
use throng_runtime::wheel::TimerWheel;
use throng_runtime::{
    Config, Driver, IdlePolicy, Instant, ShardId, run, sleep, spawn_local, spawn_on, stats,
    yield_now,
};

/// The CPU time of the calling thread.
struct Cpu(Duration);

impl Cpu {
    fn now() -> Self {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the struct is valid for the call.
        unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
        Cpu(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
    }

    fn elapsed(&self) -> Duration {
        Cpu::now().0 - self.0
    }
}

const SHARD: ShardId = ShardId(0);

fn report(what: &str, count: usize, time: Duration) {
    println!("{what:<52} {:>9.1} ns", time.as_nanos() as f64 / count as f64);
}

fn timed(what: &str, count: usize, f: impl FnOnce()) {
    let start = Cpu::now();
    f();
    report(what, count, start.elapsed());
}

fn world() -> (World, HostId) {
    let mut world = World::new();
    let config = Config { shards: 1, task_budget: 1 << 20, ..Config::default() };
    let host = world.add_host_with(config, |_| Ok(Box::new(NoDriver) as Box<dyn Driver>));
    (world, host.expect("a shard"))
}

/// Tasks that are polled whenever they are woken, and their wakers in spawn order.
fn pollers(world: &mut World, host: HostId, count: usize) -> (Vec<Waker>, Rc<Cell<usize>>) {
    let (polls, wakers) = (Rc::new(Cell::new(0)), Rc::new(RefCell::new(Vec::new())));
    world.enter(host, SHARD, || {
        for _ in 0..count {
            let (polls, wakers) = (polls.clone(), wakers.clone());
            // About the size of a small connection task.
            let mut state = [0u64; 30];
            let mut registered = false;
            drop(spawn_local(poll_fn(move |cx| {
                if !registered {
                    registered = true;
                    wakers.borrow_mut().push(cx.waker().clone());
                }
                state[0] += 1;
                polls.set(polls.get() + 1);
                Poll::<()>::Pending
            })));
        }
    });
    while world.sweep() {}
    (wakers.take(), polls)
}

fn wake_and_poll(count: usize, rounds: usize, shuffled: bool) {
    let (mut world, host) = world();
    let (mut wakers, polls) = pollers(&mut world, host, count);
    if shuffled {
        let mut seed = 1u64;
        for i in (1..wakers.len()).rev() {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            wakers.swap(i, (seed >> 33) as usize % (i + 1));
        }
    }
    let before = polls.get();
    let start = Cpu::now();
    for _ in 0..rounds {
        for batch in wakers.chunks(64) {
            world.enter(host, SHARD, || batch.iter().for_each(Waker::wake_by_ref));
            world.sweep();
        }
    }
    let time = start.elapsed();
    assert_eq!(polls.get() - before, count * rounds);
    let order = if shuffled { "random order" } else { "in order" };
    report(&format!("local wake + poll, {count} tasks, {order}"), count * rounds, time);
}

/// Resident bytes of this process.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    pages.unwrap_or(0usize) * 4096
}

/// What a task with a future of 160 bytes occupies, and the same with a timer armed.
fn memory() {
    const TASKS: usize = 1_000_000;
    let (mut world, host) = world();
    let before = resident();
    world.enter(host, SHARD, || {
        for i in 0..TASKS as u64 {
            let state = [i; 20];
            drop(spawn_local(poll_fn(move |_| {
                black_box(&state);
                Poll::<()>::Pending
            })));
        }
    });
    while world.sweep() {}
    let idle = resident() - before;
    println!(
        "{:<52} {:>9.1} bytes",
        "a task with a future of 160 bytes",
        idle as f64 / TASKS as f64
    );
    let before = resident();
    world.enter(host, SHARD, || {
        for i in 0..TASKS as u64 {
            drop(spawn_local(sleep(Duration::from_secs(60 + i % 60))));
        }
    });
    while world.sweep() {}
    let asleep = resident() - before;
    println!(
        "{:<52} {:>9.1} bytes",
        "a task that only sleeps (a future of 16 bytes)",
        asleep as f64 / TASKS as f64
    );
}

/// How late a sleep of 1 ms ends.
fn sleeps(policy: &str, idle: IdlePolicy) {
    let config = Config { shards: 1, idle, ..Config::default() };
    let late = run(
        config,
        |_| Ok(Box::new(NoDriver) as Box<dyn Driver>),
        |_| async {
            let mut late = Vec::new();
            for _ in 0..500 {
                let start = std::time::Instant::now();
                sleep(Duration::from_millis(1)).await;
                late.push(start.elapsed());
            }
            late.sort();
            late
        },
    );
    let late = &late.expect("the run")[0];
    println!("sleep(1 ms), {policy}: p1 {:?}, p50 {:?}, p99 {:?}", late[5], late[250], late[495]);
}

fn main() {
    memory();
    sleeps("busy", IdlePolicy::Busy);
    sleeps("adaptive", IdlePolicy::default());
    timed("clock: std Instant::elapsed", 1_000_000, || {
        let origin = std::time::Instant::now();
        (0..1_000_000).for_each(|_| {
            black_box(origin.elapsed());
        });
    });

    let (mut world, host) = world();
    timed("idle turn (no driver, virtual clock)", 1_000_000, || {
        (0..1_000_000).for_each(|_| {
            black_box(world.sweep());
        });
    });
    timed("spawn + run + end of a detached task", 1_000_000, || {
        for _ in 0..1_000_000 / 64 {
            world.enter(host, SHARD, || (0..64).for_each(|_| drop(spawn_local(async {}))));
            world.sweep();
        }
    });
    let (wakers, _) = pollers(&mut world, host, 1);
    timed("clone + drop of a waker", 10_000_000, || {
        (0..10_000_000).for_each(|_| drop(black_box(wakers[0].clone())));
    });
    drop(world);

    wake_and_poll(64, 20_000, false);
    wake_and_poll(10_000, 100, true);
    wake_and_poll(1_000_000, 3, false);
    wake_and_poll(1_000_000, 3, true);

    let mut wheel = TimerWheel::new();
    timed("wheel: insert + remove", 1_000_000, || {
        for i in 0..1_000_000u64 {
            let key = wheel.insert(Instant::from_millis(200 + (i & 1023)), i);
            black_box(wheel.remove(key));
        }
    });
    timed("wheel: insert 1M over 10 s", 1_000_000, || {
        for i in 0..1_000_000u64 {
            wheel.insert(Instant::from_micros(i.wrapping_mul(7919) % 10_000_000), i);
        }
    });
    timed("wheel: fire 1M over 10 s, a step of 50 us each", 1_000_000, || {
        let mut fired = 0;
        for step in 0..=200_010 {
            wheel.advance(Instant::from_micros(step * 50), 1024, &mut |_| fired += 1);
        }
        while wheel.advance(Instant::from_millis(11_000), 1024, &mut |_| fired += 1) {}
        assert_eq!(fired, 1_000_000);
    });

    let mut ports = Mesh::<u64>::new(2, 256);
    timed("mesh: send + receive on one thread, batches of 64", 6_400_000, || {
        for _ in 0..100_000 {
            for i in 0..64 {
                let _ = black_box(ports[0].try_send(ShardId(1), i));
            }
            for _ in 0..64 {
                black_box(ports[1].try_recv());
            }
        }
    });

    let config = Config { shards: 2, idle: IdlePolicy::Busy, ..Config::default() };
    let result = run(
        config,
        |_| Ok(Box::new(NoDriver) as Box<dyn Driver>),
        |shard| async move {
            if shard.0 == 1 {
                return;
            }
            let (turns, start) = (stats().turns, Cpu::now());
            sleep(Duration::from_millis(100)).await;
            report(
                "busy loop: an idle turn, clock included",
                (stats().turns - turns) as usize,
                start.elapsed(),
            );
            let (polls, start) = (stats().polls, Cpu::now());
            for _ in 0..1_000_000 {
                yield_now().await;
            }
            report("busy loop: yield_now", (stats().polls - polls) as usize, start.elapsed());
            let start = Cpu::now();
            for i in 0..20_000 {
                black_box(spawn_on(ShardId(1), move || async move { i }).await.is_ok());
            }
            report("spawn_on the other shard and back", 20_000, start.elapsed());
        },
    );
    result.expect("the run");
}
