//! The simple cases of everything, on real threads and in a simulated world.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use throng_runtime::driver::NoDriver;
use throng_runtime::sim::World;
use throng_runtime::{
    Config, Driver, Elapsed, Instant, ShardId, current_shard, interval, now, run, shard_count,
    sleep, spawn_blocking, spawn_local, spawn_on, timeout, yield_now,
};

fn no_driver(_: ShardId) -> std::io::Result<Box<dyn Driver>> {
    Ok(Box::new(NoDriver))
}

fn shards(shards: usize) -> Config {
    Config { shards, ..Config::default() }
}

fn world(shards: usize) -> (World, throng_runtime::sim::HostId) {
    let mut world = World::new();
    let host = world.add_host((0..shards).map(|_| Box::new(NoDriver) as Box<dyn Driver>).collect());
    (world, host)
}

#[test]
fn every_shard_runs_its_main() {
    let outputs = run(shards(3), no_driver, |shard| async move {
        assert_eq!(current_shard(), shard);
        assert_eq!(shard_count(), 3);
        spawn_local(async move { shard.0 * 10 }).await.unwrap()
    });
    assert_eq!(outputs.unwrap(), [0, 10, 20]);
}

#[test]
fn spawn_on_goes_there_and_comes_back() {
    let outputs = run(shards(2), no_driver, |shard| async move {
        let other = ShardId(1 - shard.0);
        let there = spawn_on(other, move || async move {
            yield_now().await;
            current_shard()
        });
        assert_eq!(there.await.unwrap(), other);
        spawn_blocking(move || shard.0 + 7).await.unwrap()
    });
    assert_eq!(outputs.unwrap(), [7, 8]);
}

#[test]
fn sleeps_are_on_time() {
    run(shards(1), no_driver, |_| async {
        for millis in [1, 3, 10] {
            // A busy machine may be late, but not each time.
            let mut best = Duration::MAX;
            for _ in 0..10 {
                let (before, wall) = (now(), std::time::Instant::now());
                sleep(Duration::from_millis(millis)).await;
                let took = now() - before;
                assert!(took >= Duration::from_millis(millis), "{took:?}");
                best = best.min(wall.elapsed());
            }
            assert!(best < Duration::from_millis(millis + 100), "{best:?}");
        }
    })
    .unwrap();
}

#[test]
fn timeouts_and_intervals_in_virtual_time() {
    let (mut world, host) = world(1);
    let log = Rc::new(RefCell::new(Vec::new()));
    let entries = log.clone();
    let done = world.block_on(host, Instant::from_millis(60_000), async move {
        let late = timeout(Duration::from_millis(5), sleep(Duration::from_secs(1))).await;
        assert_eq!(late, Err(Elapsed));
        assert_eq!(timeout(Duration::from_millis(5), async { 3 }).await, Ok(3));
        let mut ticks = interval(Duration::from_millis(10));
        for _ in 0..3 {
            let tick = ticks.tick().await.as_millis();
            entries.borrow_mut().push(tick);
        }
    });
    assert!(done.is_some());
    let first = log.borrow()[0];
    assert_eq!(*log.borrow(), [first, first + 10, first + 20]);
    assert_eq!(first, 5);
}

#[test]
fn a_world_has_several_hosts_and_shards() {
    let (mut world, host) = world(2);
    let second = world.add_host(vec![Box::new(NoDriver)]);
    let sum = Rc::new(Cell::new(0));
    for (host, shard, add) in
        [(host, ShardId(0), 1), (host, ShardId(1), 10), (second, ShardId(0), 100)]
    {
        let sum = sum.clone();
        world
            .spawn(host, shard, async move {
                assert_eq!(current_shard(), shard);
                sleep(Duration::from_secs(3600)).await;
                sum.set(sum.get() + add);
            })
            .detach();
    }
    assert!(!world.run_until(Instant::from_millis(3_599_000), || sum.get() == 111));
    assert_eq!(world.now(), Instant::from_millis(3_599_000));
    assert!(world.run_until(Instant::MAX, || sum.get() == 111));
    assert!(world.now() < Instant::from_millis(3_600_001));
}
