//! SIGTERM to this process; alone in its binary, since signals reach everybody.

mod common;

use std::time::Duration;

use common::{no_driver, shards, within, world};
use throng_runtime::{Instant, ShardId, run, signal, sleep, spawn_local, timeout};

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

/// On every shard each of those who wait hears of each signal.
#[test]
fn signals_that_tell_something_are_heard_again_and_again() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    const KINDS: [(signal::Kind, libc::c_int); 3] = [
        (signal::Kind::Hangup, libc::SIGHUP),
        (signal::Kind::User1, libc::SIGUSR1),
        (signal::Kind::User2, libc::SIGUSR2),
    ];
    static READY: AtomicU32 = AtomicU32::new(0);
    let before = KINDS.map(|(_, number)| action(number));
    let heard = Arc::new([const { AtomicU32::new(0) }; KINDS.len()]);
    let all = heard.clone();
    within(Duration::from_secs(20), move || {
        run(shards(3), no_driver, move |shard| {
            let heard = heard.clone();
            async move {
                for (at, (kind, _)) in KINDS.into_iter().enumerate() {
                    let (heard, mut signals) = (heard.clone(), signal::signals(kind));
                    let listening = async move {
                        loop {
                            signals.next().await;
                            heard[at].fetch_add(1, Ordering::SeqCst);
                        }
                    };
                    spawn_local(listening).detach();
                }
                READY.fetch_add(1, Ordering::SeqCst);
                while READY.load(Ordering::SeqCst) < 3 {
                    sleep(Duration::from_millis(1)).await;
                }
                if shard.0 != 0 {
                    while heard[2].load(Ordering::SeqCst) < 9 {
                        sleep(Duration::from_millis(5)).await;
                    }
                    return;
                }
                let mut unheard = signal::signals(signal::Kind::User2);
                for round in 1..=3 {
                    for (at, (_, number)) in KINDS.into_iter().enumerate() {
                        send(number);
                        while heard[at].load(Ordering::SeqCst) < 3 * round {
                            sleep(Duration::from_millis(1)).await;
                        }
                    }
                }
                // Three of them, and one that is heard of.
                unheard.next().await;
                assert!(timeout(Duration::from_millis(5), unheard.next()).await.is_err());
            }
        })
        .unwrap();
    });
    assert_eq!([0, 1, 2].map(|at| all[at].load(Ordering::SeqCst)), [9; 3], "once each");
    assert_eq!(KINDS.map(|(_, number)| action(number)), before, "the handlers are taken back");
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
