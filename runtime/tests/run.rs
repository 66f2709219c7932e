//! Real shards on real threads: starting, stopping, waking across cores, sleeping.

mod common;

use std::future::{pending, poll_fn};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::thread;
use std::time::Duration;

use common::{no_driver, own_waker, shards, within};
use throng_runtime::{
    Config, Driver, IdlePolicy, Instant, ShardId, SpawnError, current_shard, driver, now, run,
    shard_count, sleep, spawn_blocking, spawn_local, spawn_on, stats, try_current_shard, unparker,
    yield_now,
};

const LIMIT: Duration = Duration::from_secs(30);

/// Sleeps as soon as there is nothing to do.
fn sleepy(count: usize) -> Config {
    let idle = IdlePolicy::Adaptive { spin: Duration::ZERO, pause: Duration::ZERO };
    Config { idle, ..shards(count) }
}

#[test]
fn spawn_on_reaches_every_shard_and_comes_back() {
    within(LIMIT, || {
        let visits = run(shards(4), no_driver, |home| async move {
            let mut visits = 0;
            for round in 0..20 {
                for to in (0..shard_count() as u16).map(ShardId) {
                    let visit = spawn_on(to, move || async move {
                        if round % 2 == 0 {
                            yield_now().await;
                        }
                        (current_shard(), thread::current().name().map(String::from))
                    });
                    let (there, name) = visit.await.unwrap();
                    assert_eq!(there, to);
                    assert_eq!(name, Some(format!("throng-{to}")));
                    visits += 1;
                }
            }
            assert_eq!(current_shard(), home);
            visits
        });
        assert_eq!(visits.unwrap(), [80; 4]);
    });
    assert_eq!(try_current_shard(), None);
}

#[test]
fn spawn_on_ends_in_every_way() {
    within(LIMIT, || {
        let config = Config { inbox_capacity: 4, ..shards(2) };
        run(config, no_driver, |shard| async move {
            if shard.0 == 1 {
                return;
            }
            let nowhere = spawn_on(ShardId(9), || async {});
            assert_eq!(nowhere.await.unwrap_err().refusal(), Some(SpawnError::NoSuchShard));
            let panics = spawn_on(ShardId(1), || async { panic!("there") });
            assert_eq!(panics.await.unwrap_err().to_string(), "the task panicked: there");
            let early = spawn_on(ShardId(1), || -> std::future::Ready<()> { panic!("too early") });
            assert!(early.await.unwrap_err().is_panic());
            let aborted = spawn_on(ShardId(1), pending::<()>);
            sleep(Duration::from_millis(2)).await;
            assert!(!aborted.is_finished());
            aborted.abort();
            assert!(aborted.await.unwrap_err().is_cancelled());
            // To itself, whose ring nobody empties meanwhile.
            let own: Vec<_> =
                (0..5).map(|i| spawn_on(ShardId(0), move || async move { i })).collect();
            for (i, handle) in own.into_iter().enumerate() {
                match handle.await {
                    Ok(output) => assert_eq!(output, i),
                    Err(error) => {
                        assert_eq!((i, error.refusal()), (4, Some(SpawnError::InboxFull)))
                    }
                }
            }
        })
        .unwrap();
    });
}

/// Threads outside wake tasks of a shard that sleeps whenever it can, as fast as they
/// can. Every wake is answered, and wakes of one task collapse.
#[test]
fn a_storm_of_remote_wakes() {
    const TASKS: usize = 64;
    const THREADS: usize = 3;
    const WAKES: usize = 3000;
    within(LIMIT, || {
        run(sleepy(1), no_driver, |_| async {
            let asked: Arc<Vec<AtomicUsize>> =
                Arc::new((0..TASKS).map(|_| AtomicUsize::new(0)).collect());
            let wakers = Arc::new(Mutex::new(vec![None::<Waker>; TASKS]));
            let tasks: Vec<_> = (0..TASKS)
                .map(|i| {
                    let (asked, wakers) = (asked.clone(), wakers.clone());
                    spawn_local(poll_fn(move |cx| {
                        wakers.lock().unwrap()[i].get_or_insert_with(|| cx.waker().clone());
                        match asked[i].load(SeqCst) {
                            WAKES.. => Poll::Ready(()),
                            _ => Poll::Pending,
                        }
                    }))
                })
                .collect();
            yield_now().await;
            let wakers: Vec<Waker> = wakers.lock().unwrap().iter().flatten().cloned().collect();
            assert_eq!(wakers.len(), TASKS);
            let wakers = Arc::new(wakers);
            let threads: Vec<_> = (0..THREADS)
                .map(|_| {
                    let (asked, wakers) = (asked.clone(), wakers.clone());
                    thread::spawn(move || {
                        for _ in 0..WAKES / THREADS {
                            for i in 0..TASKS {
                                asked[i].fetch_add(1, SeqCst);
                                wakers[i].wake_by_ref();
                            }
                        }
                    })
                })
                .collect();
            for task in tasks {
                task.await.unwrap();
            }
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            assert!(stats().remote_wakes <= (TASKS * WAKES) as u64);
            assert!(stats().tasks == 1);
        })
        .unwrap();
    });
}

/// Ping-pong between two shards that both sleep in between: each wake ends a sleep.
#[test]
fn sleeping_shards_wake_each_other() {
    within(LIMIT, || {
        let parks = run(sleepy(2), no_driver, |shard| async move {
            if shard.0 == 0 {
                for i in 0..2000 {
                    assert_eq!(spawn_on(ShardId(1), move || async move { i }).await.unwrap(), i);
                }
            }
            stats().parks
        });
        assert!(parks.unwrap()[0] > 0);
    });
}

/// Counts what it is asked for.
#[derive(Clone, Default)]
struct Counting {
    received: Arc<AtomicUsize>,
    /// Set: the next receive reports work once.
    work: Arc<AtomicBool>,
    wake: Arc<Mutex<Option<Waker>>>,
}

impl Driver for Counting {
    fn receive(&mut self, _: Instant) -> bool {
        self.received.fetch_add(1, SeqCst);
        if self.work.swap(false, SeqCst) {
            // From within the driver, as an arrival does it.
            if let Some(waker) = self.wake.lock().unwrap().take() {
                waker.wake();
            }
            return true;
        }
        false
    }

    fn advance(&mut self, _: Instant) -> bool {
        false
    }

    fn transmit(&mut self, _: Instant) -> bool {
        false
    }

    fn next_deadline(&self) -> Option<Instant> {
        None
    }

    fn park(&mut self, unpark: std::os::fd::BorrowedFd<'_>, timeout: Option<Duration>) {
        driver::wait_readable(&[unpark], timeout);
    }
}

#[test]
fn unpark_makes_a_sleeping_shard_look_at_its_driver() {
    within(LIMIT, || {
        let counting = Counting::default();
        let (made, outside) = (counting.clone(), counting.clone());
        let ready = Arc::new(Mutex::new(None));
        let handed = ready.clone();
        let helper = thread::spawn(move || {
            for _ in 0..20 {
                let unparker: throng_runtime::Unparker = loop {
                    if let Some(unparker) = ready.lock().unwrap().take() {
                        break unparker;
                    }
                    thread::sleep(Duration::from_millis(1));
                };
                thread::sleep(Duration::from_millis(3));
                outside.work.store(true, SeqCst);
                unparker.unpark();
            }
        });
        let slept = run(
            sleepy(1),
            |_| Ok(Box::new(made.clone()) as Box<dyn Driver>),
            move |_| {
                let (counting, handed) = (counting.clone(), handed.clone());
                async move {
                    for _ in 0..20 {
                        *handed.lock().unwrap() = Some(unparker(ShardId(0)));
                        let waker = own_waker().await;
                        *counting.wake.lock().unwrap() = Some(waker);
                        // No timer: without the unpark this never ends.
                        poll_fn(|_| match &*counting.wake.lock().unwrap() {
                            Some(_) => Poll::Pending,
                            None => Poll::Ready(()),
                        })
                        .await;
                    }
                    assert!(counting.received.load(SeqCst) < 10_000, "it did not sleep");
                    stats().parks
                }
            },
        );
        assert!(slept.unwrap()[0] >= 20);
        helper.join().unwrap();
    });
}

#[test]
fn a_task_that_always_wakes_itself_starves_nobody() {
    within(LIMIT, || {
        let counting = Counting::default();
        let made = counting.clone();
        run(
            shards(1),
            |_| Ok(Box::new(made.clone()) as Box<dyn Driver>),
            |_| {
                let counting = counting.clone();
                async move {
                    for _ in 0..10 {
                        drop(spawn_local(poll_fn(|cx| {
                            cx.waker().wake_by_ref();
                            Poll::<()>::Pending
                        })));
                    }
                    let (start, before) = (now(), cpu_time());
                    for _ in 0..20 {
                        sleep(Duration::from_millis(1)).await;
                    }
                    assert!(now() - start >= Duration::from_millis(20));
                    // Of its own, for the machine may be busy.
                    assert!(cpu_time() - before < Duration::from_secs(2), "timers starved");
                    let turns = stats().turns;
                    assert!(counting.received.load(SeqCst) as u64 >= turns, "the driver starved");
                    assert!(
                        stats().polls / turns <= 100,
                        "a turn polled {} times",
                        stats().polls / turns
                    );
                    // Another shard's request gets through as well.
                    spawn_on(ShardId(0), || async {}).await.unwrap();
                }
            },
        )
        .unwrap();
    });
}

/// CPU time of the calling thread.
fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the struct is valid for the call.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[test]
fn a_quiet_shard_costs_little() {
    within(LIMIT, || {
        run(shards(1), no_driver, |_| async {
            // A timer in the far future must not keep it awake either.
            drop(spawn_local(sleep(Duration::from_secs(3600))));
            yield_now().await;
            let before = cpu_time();
            sleep(Duration::from_millis(500)).await;
            let used = cpu_time() - before;
            assert!(used < Duration::from_millis(25), "{used:?} of 500 ms");
        })
        .unwrap();
    });
}

#[test]
fn the_busy_policy_never_sleeps() {
    within(LIMIT, || {
        let config = Config { idle: IdlePolicy::Busy, ..shards(1) };
        run(config, no_driver, |_| async {
            sleep(Duration::from_millis(20)).await;
            assert_eq!(stats().parks, 0);
            assert!(stats().turns > 1000);
        })
        .unwrap();
    });
}

#[test]
fn tasks_are_dropped_on_their_own_thread() {
    struct OnThread(thread::ThreadId, Arc<AtomicUsize>);
    impl Drop for OnThread {
        fn drop(&mut self) {
            assert_eq!(self.0, thread::current().id());
            assert!(try_current_shard().is_some());
            self.1.fetch_add(1, SeqCst);
        }
    }
    within(LIMIT, || {
        let drops = Arc::new(AtomicUsize::new(0));
        let wakers = Arc::new(Mutex::new(Vec::new()));
        run(shards(2), no_driver, |_| {
            let guard = |_| OnThread(thread::current().id(), drops.clone());
            let guards: Vec<_> = (0..50).map(guard).collect();
            let wakers = wakers.clone();
            async move {
                for guard in guards {
                    let wakers = wakers.clone();
                    drop(spawn_local(async move {
                        let _guard = guard;
                        let waker = own_waker().await;
                        wakers.lock().unwrap().push(waker);
                        pending::<()>().await;
                    }));
                }
                yield_now().await;
            }
        })
        .unwrap();
        assert_eq!(drops.load(SeqCst), 100);
        // Wakers may outlive the runtime, and be used during the next one.
        let wakers = std::mem::take(&mut *wakers.lock().unwrap());
        assert_eq!(wakers.len(), 100);
        run(shards(2), no_driver, |_| {
            wakers.iter().for_each(Waker::wake_by_ref);
            async { spawn_local(async { yield_now().await }).await.unwrap() }
        })
        .unwrap();
        wakers.into_iter().for_each(Waker::wake);
    });
}

#[test]
fn a_main_that_panics_is_an_error_and_stops_the_others() {
    within(LIMIT, || {
        let error = run(shards(3), no_driver, |shard| async move {
            if shard.0 == 1 {
                sleep(Duration::from_millis(1)).await;
                panic!("no luck");
            }
            pending::<()>().await;
        })
        .unwrap_err();
        assert_eq!(error.to_string(), "the main of shard 1 panicked: no luck");
        let error = run(shards(2), no_driver, |shard| {
            assert_ne!(shard.0, 0, "before the future");
            pending::<()>()
        })
        .unwrap_err();
        assert!(error.to_string().starts_with("the main of shard 0 panicked: "), "{error}");
    });
}

#[test]
fn a_driver_that_fails_is_an_error_and_no_main_runs() {
    within(LIMIT, || {
        let mains = AtomicUsize::new(0);
        let error = run(
            shards(3),
            |shard| match shard.0 {
                2 => Err(io::Error::new(io::ErrorKind::AddrInUse, "queue 2 is taken")),
                _ => no_driver(shard),
            },
            |_| {
                mains.fetch_add(1, SeqCst);
                pending::<()>()
            },
        )
        .unwrap_err();
        assert_eq!(
            (error.kind(), error.to_string().as_str()),
            (io::ErrorKind::AddrInUse, "queue 2 is taken")
        );
        assert_eq!(mains.load(SeqCst), 0);
    });
}

/// Panics in every call after the first few, and knows when it is called once more.
struct Broken(usize);

impl Driver for Broken {
    fn receive(&mut self, _: Instant) -> bool {
        self.0 += 1;
        assert!(self.0 < 3, "call {} of a broken driver", self.0);
        false
    }

    fn advance(&mut self, _: Instant) -> bool {
        false
    }

    fn transmit(&mut self, _: Instant) -> bool {
        false
    }

    fn next_deadline(&self) -> Option<Instant> {
        None
    }

    fn park(&mut self, unpark: std::os::fd::BorrowedFd<'_>, timeout: Option<Duration>) {
        driver::wait_readable(&[unpark], timeout);
    }
}

#[test]
fn a_driver_that_panics_is_an_error_and_stops_the_others() {
    within(LIMIT, || {
        let drops = Arc::new(AtomicUsize::new(0));
        let error = run(
            shards(2),
            |shard| match shard.0 {
                1 => Ok(Box::new(Broken(0)) as Box<dyn Driver>),
                _ => no_driver(shard),
            },
            |_| {
                let guard = Counted(drops.clone());
                async move {
                    let _guard = guard;
                    pending::<()>().await;
                }
            },
        )
        .unwrap_err();
        assert_eq!(error.to_string(), "the driver of shard 1 panicked: call 3 of a broken driver");
        assert_eq!(drops.load(SeqCst), 2, "tasks are dropped all the same");
    });
}

struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_add(1, SeqCst);
    }
}

#[test]
fn impossible_configurations_name_the_key() {
    let with = |change: fn(&mut Config)| {
        let mut config = shards(1);
        change(&mut config);
        run(config, no_driver, |_| async {}).unwrap_err().to_string()
    };
    assert!(with(|c| c.shards = 0).contains("shards = 0"));
    assert!(with(|c| c.inbox_capacity = 0).contains("inbox_capacity = 0"));
    assert!(with(|c| c.inbox_capacity = usize::MAX).contains("inbox_capacity = "));
    assert!(with(|c| c.cores = Some(vec![])).contains("cores"));
    assert!(with(|c| c.cores = Some(vec![100_000])).contains("cores = 100000"));
    assert!(with(|c| c.cores = Some(vec![1000])).contains("cores = 1000"));
    run(Config { cores: Some(vec![0]), ..shards(1) }, no_driver, |_| async {
        let nested = run(shards(1), no_driver, |_| async {});
        assert!(nested.unwrap_err().to_string().contains("on a shard"));
    })
    .unwrap();
}

#[test]
fn blocking_work_runs_outside_and_is_bounded() {
    within(LIMIT, || {
        let config = Config { blocking_threads: 3, ..shards(2) };
        run(config, no_driver, |_| async {
            static RUNNING: AtomicUsize = AtomicUsize::new(0);
            let home = thread::current().id();
            let jobs: Vec<_> = (0..20)
                .map(|i| {
                    spawn_blocking(move || {
                        assert!(RUNNING.fetch_add(1, SeqCst) < 3, "more threads than allowed");
                        assert_ne!(thread::current().id(), home);
                        assert!(try_current_shard().is_none());
                        thread::sleep(Duration::from_millis(2));
                        RUNNING.fetch_sub(1, SeqCst);
                        i * i
                    })
                })
                .collect();
            for (i, job) in jobs.into_iter().enumerate() {
                assert_eq!(job.await.unwrap(), i * i);
            }
            let panics = spawn_blocking(|| panic!("in the pool")).await;
            assert_eq!(panics.unwrap_err().to_string(), "the task panicked: in the pool");
            assert_eq!(spawn_blocking(|| 1).await.unwrap(), 1);
        })
        .unwrap();
    });
}

/// The cores that the calling thread may run on.
fn own_cores() -> Vec<usize> {
    // SAFETY: all-zero is the empty set, which is valid for the call; 0 is this thread.
    unsafe {
        let mut cores: libc::cpu_set_t = std::mem::zeroed();
        assert!(libc::sched_getaffinity(0, size_of_val(&cores), &raw mut cores) >= 0);
        (0..libc::CPU_SETSIZE as usize).filter(|&core| libc::CPU_ISSET(core, &cores)).collect()
    }
}

/// A thread inherits the cores of the one that starts it, here a pinned shard.
#[test]
fn blocking_work_keeps_off_the_cores_of_shards() {
    within(LIMIT, || {
        let all = own_cores();
        let config = Config { cores: Some(vec![all[0]]), ..shards(1) };
        let found = run(config, no_driver, |_| async {
            assert_eq!(own_cores().len(), 1);
            spawn_blocking(own_cores).await.unwrap()
        });
        let rest = if all.len() == 1 { &all[..] } else { &all[1..] };
        assert_eq!(found.unwrap()[0], rest);
    });
}

/// Jobs that wait when the runtime ends are cancelled, those that run are waited for.
#[test]
fn the_end_waits_for_running_jobs() {
    within(LIMIT, || {
        let (started, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let config = Config { blocking_threads: 1, ..shards(1) };
        run(config, no_driver, |_| {
            let (started, done) = (started.clone(), done.clone());
            async move {
                for _ in 0..3 {
                    let (started, done) = (started.clone(), done.clone());
                    drop(spawn_blocking(move || {
                        started.fetch_add(1, SeqCst);
                        thread::sleep(Duration::from_millis(50));
                        done.fetch_add(1, SeqCst);
                    }));
                }
                while started.load(SeqCst) == 0 {
                    sleep(Duration::from_millis(1)).await;
                }
            }
        })
        .unwrap();
        assert_eq!(done.load(SeqCst), started.load(SeqCst));
    });
}

#[test]
fn short_sleeps_end_within_a_tick_or_so() {
    within(LIMIT, || {
        run(shards(1), no_driver, |_| async {
            // A busy machine wakes nobody at once: judged is the best of many, beside a sleep of
            // the host's own, and there may be more.
            let (begin, ms) = (std::time::Instant::now(), Duration::from_millis(1));
            let (mut best, mut hosts) = (Duration::MAX, Duration::MAX);
            let allowed = |hosts: Duration| hosts.saturating_add(Duration::from_micros(300));
            let mut rounds = 0;
            while (rounds < 50 || best >= allowed(hosts)) && begin.elapsed() < LIMIT * 2 / 3 {
                let wall = std::time::Instant::now();
                thread::sleep(ms);
                hosts = hosts.min(wall.elapsed());
                let (wall, start) = (std::time::Instant::now(), now());
                sleep(ms).await;
                assert!(now() - start >= ms, "early");
                best = best.min(wall.elapsed());
                rounds += 1;
            }
            assert!(best < allowed(hosts), "{best:?}, the host's {hosts:?}");
        })
        .unwrap();
    });
}

/// Ends that race with sleeps, spawns and wakes in all directions.
#[test]
fn runtimes_come_and_go() {
    within(LIMIT, || {
        for round in 0..150u64 {
            let config = if round % 2 == 0 { sleepy(3) } else { shards(3) };
            let outputs = run(config, no_driver, |shard| async move {
                let next = ShardId((shard.0 + 1) % 3);
                // Left behind at the end, some of it in flight.
                drop(spawn_on(next, || sleep(Duration::from_secs(1))));
                drop(spawn_local(async move {
                    loop {
                        if spawn_on(next, || async {}).await.is_err() {
                            yield_now().await;
                        }
                    }
                }));
                if (round + u64::from(shard.0)) % 3 == 0 {
                    sleep(Duration::from_micros(100 * (round % 7))).await;
                }
                spawn_on(next, move || async move { round }).await.unwrap()
            });
            assert_eq!(outputs.unwrap(), [round; 3]);
        }
    });
}
