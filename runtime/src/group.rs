//! The shards of one runtime, as far as they know of each other.

use std::fmt;
use std::io;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::affinity::Cores;
use crate::arena::{Arena, MAX_TASKS};
use crate::blocking::Pool;
use crate::chunks;
use crate::config::{Config, ShardId};
use crate::shard;
use crate::signal::{self, Wish};

/// An arena held by a shard, or about to be; goes back when dropped.
pub(crate) struct Lease(&'static Arena);

impl Lease {
    pub(crate) fn new() -> io::Result<Lease> {
        Arena::acquire().map(Lease)
    }

    pub(crate) fn arena(&self) -> &'static Arena {
        self.0
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.release();
    }
}

/// What all shards of a runtime share.
pub(crate) struct Group {
    arenas: Vec<&'static Arena>,
    pub(crate) max_tasks: u64,
    /// None in a simulated world.
    pub(crate) blocking: Option<Pool>,
    /// All mains have ended, or one shard failed: leave the loop.
    stop: AtomicBool,
    /// A signal to end has come.
    terminate: AtomicBool,
    /// The wishes that signals are watched for.
    watching: [Once; signal::WISHES],
    /// The counter of signals to end when the runtime started.
    signals: u32,
}

impl Group {
    /// Whether its shards have threads and a clock that goes on, as against a simulated world.
    pub(crate) fn is_real(&self) -> bool {
        self.blocking.is_some()
    }

    /// `real`: with threads and signals, as against a simulated world.
    pub(crate) fn new(config: &Config, leases: &[Lease], real: bool) -> Group {
        Group {
            arenas: leases.iter().map(Lease::arena).collect(),
            max_tasks: config.max_tasks.min(MAX_TASKS) as u64,
            blocking: real.then(|| Pool::new(config.blocking_threads, outside(config))),
            stop: AtomicBool::new(false),
            terminate: AtomicBool::new(false),
            watching: [const { Once::new() }; signal::WISHES],
            signals: signal::seen(Wish::End),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.arenas.len()
    }

    pub(crate) fn arena(&self, shard: ShardId) -> Option<&'static Arena> {
        self.arenas.get(shard.index()).copied()
    }

    /// Tells all shards to leave their loops.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.unpark_all();
    }

    pub(crate) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Makes [`terminated`](Self::terminated) true for good.
    pub(crate) fn terminate(&self) {
        self.terminate.store(true, Ordering::Release);
        self.unpark_all();
    }

    pub(crate) fn watch_signals(&self, wish: Wish) {
        if self.blocking.is_some() {
            self.watching[wish as usize].call_once(|| signal::install(wish));
        }
    }

    fn watches(&self, wish: Wish) -> bool {
        self.watching[wish as usize].is_completed()
    }

    pub(crate) fn terminated(&self) -> bool {
        self.terminate.load(Ordering::Acquire)
            || (self.watches(Wish::End) && signal::seen(Wish::End) != self.signals)
    }

    /// What changes when a signal has come: while it stays, who waits for one waits on.
    pub(crate) fn news(&self) -> (bool, u32) {
        (self.terminate.load(Ordering::Acquire), signal::all())
    }

    fn unpark_all(&self) {
        for arena in &self.arenas {
            arena.unpark();
        }
    }
}

/// Where threads belong that are no shards: a thread starts where the one that started it is
/// pinned to, and that is a shard.
fn outside(config: &Config) -> Option<Cores> {
    let cores = config.cores.as_ref()?;
    let all = Cores::of_this_thread().ok()?;
    let rest = all.less(&cores[..config.shards]);
    chunks::keep_to(rest);
    Some(rest)
}

impl Drop for Group {
    fn drop(&mut self) {
        for wish in [Wish::End, Wish::Hangup, Wish::User1, Wish::User2] {
            if self.watches(wish) {
                signal::uninstall(wish);
            }
        }
    }
}

/// Ends the sleep of a shard, from any thread.
#[derive(Clone, Copy)]
pub struct Unparker(&'static Arena);

impl Unparker {
    /// Makes the shard take another turn. Call it after publishing what the shard is to
    /// find (for example with [`Port::try_send`](crate::mesh::Port::try_send)). While the
    /// shard is awake this costs a fence and a load; a system call only if it sleeps.
    pub fn unpark(&self) {
        self.0.unpark();
    }
}

impl fmt::Debug for Unparker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unparker").finish_non_exhaustive()
    }
}

/// The unparker of a shard of this runtime.
///
/// # Panics
/// When the thread runs no shard, or the runtime has no such shard.
#[track_caller]
pub fn unparker(shard: ShardId) -> Unparker {
    match shard::with(|here| here.group.arena(shard)) {
        Some(arena) => Unparker(arena),
        None => panic!("there is no shard {shard}"),
    }
}

/// The shard whose code is running.
///
/// # Panics
/// When the thread runs no shard.
#[track_caller]
pub fn current_shard() -> ShardId {
    shard::with(|shard| shard.id)
}

/// The shard whose code is running, none on other threads.
pub fn try_current_shard() -> Option<ShardId> {
    shard::try_with(|shard| shard.id)
}

/// The number of shards of this runtime.
///
/// # Panics
/// When the thread runs no shard.
#[track_caller]
pub fn shard_count() -> usize {
    shard::with(|shard| shard.group.len())
}
