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

/// A connection that waits for its own end or the server's leaves nothing behind.
#[test]
fn who_waits_no_longer_is_forgotten() {
    struct Nobody;
    impl std::task::Wake for Nobody {
        fn wake(self: std::sync::Arc<Self>) {}
    }
    let (world, host) = world(1);
    let nobody = std::sync::Arc::new(Nobody);
    let waker = std::task::Waker::from(nobody.clone());
    world.enter(host, ShardId(0), || {
        for _ in 0..10 {
            let mut waits: Vec<_> = (0..3).map(|_| Box::pin(signal::terminate())).collect();
            for wait in &mut waits {
                let mut cx = std::task::Context::from_waker(&waker);
                assert!(wait.as_mut().poll(&mut cx).is_pending());
                assert!(wait.as_mut().poll(&mut cx).is_pending());
            }
            assert_eq!(std::sync::Arc::strong_count(&nobody), 2 + 3);
        }
    });
    assert_eq!(std::sync::Arc::strong_count(&nobody), 2);
}
