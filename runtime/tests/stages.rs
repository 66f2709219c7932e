//! The stages of the loop are measured when that is asked for, and only then.

use std::time::{Duration, Instant};

use throng_runtime::driver::NoDriver;
use throng_runtime::stages::{self, SLOW, Stage};
use throng_runtime::{Config, Driver, run, spawn_local, stats, yield_now};

#[test]
fn a_task_that_takes_long_is_seen_in_its_stage() {
    let config = Config { shards: 1, ..Config::default() };
    let driver = |_| Ok(Box::new(NoDriver) as Box<dyn Driver>);
    let taken = run(config, driver, |_| async {
        let before = stages::take();
        stages::measure(true);
        turns().await;
        let _ = stages::take();
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_millis(40) {
            std::hint::spin_loop();
        }
        turns().await;
        let measured = stages::take();
        turns().await;
        let again = stages::take();
        stages::measure(false);
        turns().await;
        (before, measured, again, stages::take())
    });
    let (before, measured, again, after) = taken.unwrap().remove(0);
    assert_eq!((before, after), (None, None), "nothing is measured unasked");
    let measured = measured.unwrap();
    let tasks = measured.of(Stage::Tasks);
    assert_eq!(measured.longest(), (Stage::Tasks, tasks.longest));
    // Processor time: a busy machine leaves the thread less of it than has passed.
    assert!(tasks.longest >= SLOW && tasks.slow >= 1, "{measured:?}");
    assert!(measured.turns >= 2);
    assert!(again.unwrap().of(Stage::Tasks).longest < tasks.longest, "taken once");
}

/// Lets some turns pass, so that the one of before is over.
async fn turns() {
    for _ in 0..20 {
        yield_now().await;
    }
}

#[test]
fn a_turn_does_not_poll_hundreds_of_long_tasks() {
    let config = Config { shards: 1, ..Config::default() };
    let driver = |_| Ok(Box::new(NoDriver) as Box<dyn Driver>);
    let turns = run(config, driver, |_| async {
        let before = stats().turns;
        let spin = || async {
            let begin = Instant::now();
            while begin.elapsed() < Duration::from_micros(50) {
                std::hint::spin_loop();
            }
        };
        let tasks: Vec<_> = (0..512).map(|_| spawn_local(spin())).collect();
        for task in tasks {
            task.await.unwrap();
        }
        stats().turns - before
    });
    // 96 of them take longer than a turn's slice, however fast the machine.
    let turns = turns.unwrap().remove(0);
    assert!(turns >= 5, "{turns} turns");
}
