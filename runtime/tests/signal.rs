//! SIGTERM to this process; alone in its binary, since signals reach everybody.

mod common;

use std::time::Duration;

use common::{no_driver, shards, within, world};
use throng_runtime::{Instant, ShardId, run, signal, sleep, spawn_local};

fn action(signal: libc::c_int) -> usize {
    // SAFETY: all-zero is a valid `sigaction`; the call only reads the current one.
    unsafe {
        let mut old: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &raw mut old);
        old.sa_sigaction
    }
}

fn send(signal: libc::c_int) {
    // SAFETY: sends a signal to this process; no memory is involved.
    unsafe { libc::kill(libc::getpid(), signal) };
}

#[test]
fn a_signal_reaches_every_waiting_task_of_every_shard() {
    let before = action(libc::SIGTERM);
    for number in [libc::SIGTERM, libc::SIGINT] {
        within(Duration::from_secs(20), move || {
            run(shards(3), no_driver, |shard| async move {
                // Two waiters on each shard, one of them in a task of its own.
                let waiter = spawn_local(signal::terminate());
                if shard.0 == 0 {
                    drop(spawn_local(async move {
                        sleep(Duration::from_millis(20)).await;
                        send(number);
                    }));
                }
                signal::terminate().await;
                waiter.await.unwrap();
                // Whoever asks later hears of it as well.
                signal::terminate().await;
            })
            .unwrap();
        });
        assert_eq!(action(libc::SIGTERM), before, "the handler is taken back");
    }
}

#[test]
fn in_a_world_it_is_the_world_that_ends_a_host() {
    let (mut world, host) = world(2);
    let (_, other) = (0, world.add_host(vec![Box::new(throng_runtime::driver::NoDriver)]));
    let ends: Vec<_> = (0..2).map(|i| world.spawn(host, ShardId(i), signal::terminate())).collect();
    let stays = world.spawn(other, ShardId(0), signal::terminate());
    world.run_until(Instant::from_millis(10), || false);
    assert!(!ends[0].is_finished());
    world.terminate(host);
    assert!(world.run_until(Instant::from_millis(20), || ends.iter().all(|end| end.is_finished())));
    assert_eq!(world.now(), Instant::from_millis(10));
    assert!(!stays.is_finished());
}
