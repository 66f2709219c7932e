//! Memory that is there before a runtime begins: tables take it, give it back, and it ends with the runtime.
//! In a process of its own, for the pool of chunks is the process's.
#![cfg(all(target_os = "linux", not(miri)))]

mod common;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use common::{no_driver, shards};
use throng_runtime::chunks::{self, BYTES, Chunk, Pages};
use throng_runtime::{Config, run, sleep, spawn_local, yield_now};

const CHUNKS: usize = 8;

fn config(chunks: usize) -> Config {
    Config { preallocate: chunks * BYTES, ..shards(1) }
}

fn take(count: usize) -> Vec<Chunk<u64>> {
    let pages = |i| if i % 2 == 0 { Pages::Small } else { Pages::Huge };
    (0..count).map(|i| Chunk::zeroes(pages(i))).collect()
}

fn addresses(chunks: &[Chunk<u64>]) -> BTreeSet<usize> {
    chunks.iter().map(|chunk| chunk.as_ptr().addr()).collect()
}

fn fill(chunks: &mut [Chunk<u64>]) {
    chunks.iter_mut().for_each(|chunk| chunk.fill(u64::MAX));
}

/// Whether the thread that makes memory ready runs.
fn is_helped() -> bool {
    let tasks = std::fs::read_dir("/proc/self/task").expect("threads");
    let names = tasks.flatten().map(|task| std::fs::read_to_string(task.path().join("comm")));
    names.flatten().any(|name| name.trim() == "throng-memory")
}

/// Bytes of the process in memory.
fn rss() -> usize {
    let all = std::fs::read_to_string("/proc/self/statm").expect("own memory");
    let pages: usize = all.split(' ').nth(1).and_then(|n| n.parse().ok()).expect("pages");
    pages * 4096
}

#[test]
fn memory_is_there_before_and_until_the_end() {
    more_than_the_system_has_is_an_error();
    tables_take_what_is_ready_and_what_they_give_back_is_ready_again();
    slots_of_tasks_are_as_good_as_new();
    what_a_table_keeps_outlives_the_runtime();
}

fn tables_take_what_is_ready_and_what_they_give_back_is_ready_again() {
    let before = rss();
    run(config(CHUNKS), no_driver, |_| async move {
        assert!(rss() >= before + (CHUNKS - 1) * BYTES, "{} of {before}", rss());
        // The shard takes some for its tasks and timers. All others but one:
        sleep(Duration::from_millis(1)).await;
        let here = chunks::resident();
        assert!(here.is_multiple_of(BYTES) && here < 4 * BYTES, "{here}");
        let others = CHUNKS - here / BYTES - 1;
        let mut first = take(others);
        let owned = addresses(&first);
        let (low, high) = (owned.first().expect("some"), owned.last().expect("some"));
        assert!(high - low < CHUNKS * BYTES, "side by side: {owned:x?}");
        assert_eq!(chunks::resident(), here + first.len() * BYTES, "in memory untouched");
        assert!(!is_helped(), "nobody was asked for more");
        fill(&mut first);
        drop(first);
        // The same ones are there again, in memory and zero, as soon as they have been made so.
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            // What the thread that makes it so has at hand is nobody's, and counted nevertheless.
            if chunks::resident() == here {
                let again = take(others);
                assert!(again.iter().all(|chunk| chunk.iter().all(|n| *n == 0)));
                let held = chunks::resident() == here + again.len() * BYTES;
                // The one that was left over, or had for a timer, may be among them in place of another.
                if held && addresses(&again).difference(&owned).count() <= 1 {
                    break;
                }
            }
            assert!(Instant::now() < until, "they do not come back");
            sleep(Duration::from_millis(20)).await;
        }
        // More than there is: the others come as without it, and are not kept.
        let mut many = take(2 * CHUNKS);
        assert!(many.iter().all(|chunk| chunk.iter().all(|n| *n == 0)));
        fill(&mut many);
        drop(many);
        let until = Instant::now() + Duration::from_secs(20);
        while rss() > before + (CHUNKS + 4) * BYTES || chunks::resident() != here {
            assert!(Instant::now() < until, "{} of {before} are left", rss());
            sleep(Duration::from_millis(20)).await;
        }
    })
    .expect("it runs");
    // But for the arena's.
    let until = Instant::now() + Duration::from_secs(20);
    while rss() > before + 4 * BYTES {
        assert!(Instant::now() < until, "{} of {before} are left", rss());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A shard's slots stay where they are when they are given back, while others may look at them.
fn slots_of_tasks_are_as_good_as_new() {
    // More than two chunks of slots.
    const TASKS: usize = 2 * BYTES / 16 + 1_000;
    let woken = run(config(CHUNKS), no_driver, |_| async {
        let mut late = None;
        let woken = Rc::new(Cell::new(0));
        for round in 1..=2 {
            for _ in 0..TASKS {
                let woken = woken.clone();
                drop(spawn_local(async move {
                    yield_now().await;
                    woken.set(woken.get() + 1);
                }));
            }
            // The last one's waker, of a task that is no more by then.
            let own = spawn_local(poll_fn(|cx| Poll::Ready(cx.waker().clone()))).await;
            late.replace(own.expect("a waker")).into_iter().for_each(Waker::wake);
            while woken.get() < round * TASKS {
                yield_now().await;
            }
            // Two chunks are given back, in as many turns.
            sleep(Duration::from_millis(5)).await;
        }
        let late = late.expect("of the second round");
        std::thread::spawn(move || late.wake()).join().expect("a wake in vain");
        sleep(Duration::from_millis(5)).await;
        woken.get()
    });
    assert_eq!(woken.expect("it runs"), [2 * TASKS]);
}

fn what_a_table_keeps_outlives_the_runtime() {
    let kept = run(config(CHUNKS), no_driver, |_| async {
        let mut kept = take(2);
        kept[0][7] = 42;
        kept
    });
    let kept = kept.expect("it runs").pop().expect("of the shard");
    assert_eq!((kept[0][7], kept[1][7]), (42, 0));
    let resident = chunks::resident();
    drop(kept);
    let until = Instant::now() + Duration::from_secs(20);
    while chunks::resident() > resident - 2 * BYTES {
        assert!(Instant::now() < until, "they are still there");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn more_than_the_system_has_is_an_error() {
    let config = Config { preallocate: 1 << 45, ..config(1) };
    let error = run(config, no_driver, |_| async {}).expect_err("32 TiB");
    assert_eq!(error.kind(), io::ErrorKind::OutOfMemory);
    let said = error.to_string();
    assert!(said.contains("preallocate = 35184372088832 bytes: the system has"), "{said}");
}
