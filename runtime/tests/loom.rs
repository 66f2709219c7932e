//! What several threads touch without locks, under the model checker loom:
//!
//! ```text
//! RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom \
//!     cargo test -p throng-runtime --test loom --release
//! ```
//!
//! The files under test are compiled here once more, on loom's atomics. Threads and
//! operations are few enough for all interleavings with up to three preemptions.
#![cfg(loom)]

mod sync {
    pub(crate) use loom::cell::UnsafeCell;
    pub(crate) use loom::sync::atomic::{AtomicU32, AtomicUsize, Ordering, fence};
}
mod config {
    pub(crate) use throng_runtime::ShardId;
}
#[path = "../src/gate.rs"]
#[allow(dead_code)]
mod gate;
#[path = "../src/inbound.rs"]
#[allow(dead_code)]
mod inbound;
#[path = "../src/mesh.rs"]
#[allow(dead_code, unreachable_pub)]
mod mesh;

use loom::sync::atomic::{AtomicUsize, Ordering::*};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

use gate::Gate;
use inbound::{Chain, Link, WakeList};

fn model(f: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(f);
}

/// The part of a shard that other threads reach, with slots that count.
struct Shard {
    list: WakeList,
    gate: Gate,
    /// Stands for the eventfd.
    event: (Mutex<bool>, Condvar),
    links: [Link; 2],
    /// What wakers publish for each slot before they wake it.
    published: [AtomicUsize; 2],
}

impl Shard {
    fn new() -> Arc<Shard> {
        Arc::new(Shard {
            list: WakeList::new(),
            gate: Gate::new(),
            event: (Mutex::new(false), Condvar::new()),
            links: [Link::new(), Link::new()],
            published: [AtomicUsize::new(0), AtomicUsize::new(0)],
        })
    }

    /// As `Arena::wake_remote`.
    fn wake(&self, index: u32) {
        if self.list.push(index, &self.links[index as usize]) {
            self.unpark();
        }
    }

    fn unpark(&self) {
        self.gate.unpark(|| {
            *self.event.0.lock().unwrap() = true;
            self.event.1.notify_one();
        });
    }

    /// Asleep: only the event ends it.
    fn wait(&self) {
        let mut event = self.event.0.lock().unwrap();
        while !*event {
            event = self.event.1.wait(event).unwrap();
        }
        *event = false;
    }

    /// Takes all wakes; returns how often each slot was woken.
    fn take(&self) -> [usize; 2] {
        let (mut woken, mut chain) = ([0; 2], self.list.take());
        while let Some(index) = chain.pop(|index| &self.links[index as usize]) {
            woken[index as usize] += 1;
        }
        assert_eq!(chain, Chain::default());
        woken
    }
}

/// Whatever a waker published before it woke is seen by a poll after its wake was taken,
/// also when another waker had claimed the slot already; and no slot is lost.
#[test]
fn a_wake_is_followed_by_a_poll_that_sees_its_cause() {
    static MID: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    model(|| {
        let shard = Shard::new();
        let wakers: Vec<_> = (0..2)
            .map(|_| {
                let shard = shard.clone();
                thread::spawn(move || {
                    shard.published[0].fetch_add(1, Relaxed);
                    shard.wake(0);
                })
            })
            .collect();
        // The owner takes once while they run and polls if woken, and once at the end.
        let mut seen = 0;
        if shard.take()[0] > 0 {
            seen = shard.published[0].load(Relaxed);
            MID.fetch_add(1, Relaxed);
            assert!(seen > 0);
        }
        for waker in wakers {
            waker.join().unwrap();
        }
        if shard.take()[0] > 0 {
            seen = shard.published[0].load(Relaxed);
        }
        assert_eq!(seen, 2, "a wake was lost");
    });
    // Loom skips interleavings that it takes for equal to others, by rules of its own; so
    // make sure that it had the owner take a wake while the others ran.
    assert_ne!(MID.load(Relaxed), 0);
}

/// Two slots woken by two threads at once are both in the list, once each.
#[test]
fn concurrent_pushes_of_different_slots_are_all_taken() {
    model(|| {
        let shard = Shard::new();
        let other = shard.clone();
        let waker = thread::spawn(move || {
            other.wake(0);
            other.wake(1);
        });
        shard.wake(1);
        let first = shard.take();
        waker.join().unwrap();
        let second = shard.take();
        assert_eq!(first[0] + second[0], 1);
        assert!((1..=2).contains(&(first[1] + second[1])));
    });
}

/// As the loop in `run.rs` does it. A wake at any point leaves either something to find in
/// the last look, or no permission to sleep, or the event.
fn sleeper_sees(shard: &Shard, mut look: impl FnMut(&Shard) -> bool) -> bool {
    let mut found = look(shard);
    if !found {
        shard.gate.sleep(|| {
            found = look(shard);
            (!found).then_some(|| shard.wait())
        });
    }
    found || look(shard)
}

#[test]
fn a_remote_wake_ends_the_sleep() {
    model(|| {
        let shard = Shard::new();
        let other = shard.clone();
        let waker = thread::spawn(move || other.wake(0));
        assert!(sleeper_sees(&shard, |shard| shard.take()[0] > 0), "slept through a wake");
        waker.join().unwrap();
    });
}

/// Two threads that wake different slots: the sleeper may go to sleep again after the
/// first, and still finds the second.
#[test]
fn no_wake_is_slept_through_by_a_loop() {
    model(|| {
        let shard = Shard::new();
        let wakers: Vec<_> = (0..2)
            .map(|index| {
                let shard = shard.clone();
                thread::spawn(move || shard.wake(index))
            })
            .collect();
        let mut woken = 0;
        for _ in 0..2 {
            if woken < 2 {
                sleeper_sees(&shard, |shard| {
                    let new = shard.take().iter().sum::<usize>();
                    woken += new;
                    new > 0
                });
            }
        }
        for waker in wakers {
            waker.join().unwrap();
        }
        woken += shard.take().iter().sum::<usize>();
        assert_eq!(woken, 2);
    });
}

/// A message over a ring, followed by an unpark, ends the sleep as well.
#[test]
fn a_message_and_an_unpark_end_the_sleep() {
    model(|| {
        let shard = Shard::new();
        let (mut sender, mut receiver) = mesh::channel::<usize>(1);
        let other = shard.clone();
        let waker = thread::spawn(move || {
            sender.try_send(7).unwrap();
            other.unpark();
        });
        let mut got = None;
        sleeper_sees(&shard, |_| {
            got = receiver.try_recv().or(got);
            got.is_some()
        });
        assert_eq!(got, Some(7));
        waker.join().unwrap();
    });
}

/// Messages arrive once and in order, over a ring that is often full, and those that
/// nobody took are dropped with it.
#[test]
fn a_ring_keeps_order_and_loses_nothing() {
    model(|| {
        let (mut sender, mut receiver) = mesh::channel::<Arc<usize>>(2);
        let counted = Arc::new(0);
        let mine = counted.clone();
        let producer = thread::spawn(move || {
            let mut sent = 0;
            for _ in 0..4 {
                match sender.try_send(mine.clone()) {
                    Ok(()) => sent += 1,
                    Err(_) => thread::yield_now(),
                }
            }
            sent
        });
        let mut received = 0;
        for _ in 0..2 {
            received += usize::from(receiver.try_recv().is_some());
        }
        let sent = producer.join().unwrap();
        received += usize::from(receiver.try_recv().is_some());
        assert!(received <= sent);
        drop(receiver);
        assert_eq!(Arc::strong_count(&counted), 1);
    });
}

#[test]
fn a_ring_wraps_around() {
    model(|| {
        let (mut sender, mut receiver) = mesh::channel::<usize>(2);
        let producer = thread::spawn(move || {
            let mut next = 0;
            while next < 3 {
                match sender.try_send(next) {
                    Ok(()) => next += 1,
                    Err(_) => thread::yield_now(),
                }
            }
        });
        let mut expected = 0;
        while expected < 3 {
            match receiver.try_recv() {
                Some(value) => {
                    assert_eq!(value, expected);
                    expected += 1;
                }
                None => thread::yield_now(),
            }
        }
        producer.join().unwrap();
    });
}
