//! Counters of a shard: plain cells on the hot path, a snapshot for whoever asks.

use std::cell::Cell;

use crate::shard;

crate::metrics! {
    /// Counters of a shard since its start.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    #[non_exhaustive]
    pub struct Stats {
        /// Tasks started.
        counter spawned: u64,
        /// Spawns refused; one for another shard counts on the shard that refused it.
        limit refused: u64,
        /// Polls of tasks.
        counter polls: u64,
        /// Wakes that came from other threads.
        counter remote_wakes: u64,
        /// Tasks that panicked.
        counter panics: u64,
        /// Turns of the loop.
        counter turns: u64,
        /// Times the shard went to sleep.
        counter parks: u64,
        /// Tasks the shard holds now, ended ones included whose result nobody took yet.
        gauge tasks: u64,
        /// Timers armed now.
        gauge timers: u64,
        /// Bytes of all timers that were ever armed at a time, as far as their chunks are still there.
        gauge timer_memory: u64,
    }
}

/// Counters of this shard since its start.
///
/// # Panics
/// When the thread runs no shard.
#[track_caller]
pub fn stats() -> Stats {
    shard::with(|shard| shard.snapshot())
}

/// A count that only its shard touches.
#[derive(Default)]
pub(crate) struct Counter(Cell<u64>);

impl Counter {
    pub(crate) fn get(&self) -> u64 {
        self.0.get()
    }

    #[inline]
    pub(crate) fn add(&self, count: u64) {
        self.0.set(self.0.get().wrapping_add(count));
    }

    #[inline]
    pub(crate) fn sub(&self, count: u64) {
        self.0.set(self.0.get().wrapping_sub(count));
    }
}

/// What [`Stats`] is made from; the names are the same.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) spawned: Counter,
    pub(crate) refused: Counter,
    pub(crate) polls: Counter,
    pub(crate) remote_wakes: Counter,
    pub(crate) panics: Counter,
    pub(crate) turns: Counter,
    pub(crate) parks: Counter,
    pub(crate) tasks: Counter,
}

impl Counters {
    /// With the timers armed now, and the bytes of their table.
    pub(crate) fn snapshot(&self, [timers, timer_memory]: [u64; 2]) -> Stats {
        Stats {
            spawned: self.spawned.get(),
            refused: self.refused.get(),
            polls: self.polls.get(),
            remote_wakes: self.remote_wakes.get(),
            panics: self.panics.get(),
            turns: self.turns.get(),
            parks: self.parks.get(),
            tasks: self.tasks.get(),
            timers,
            timer_memory,
        }
    }
}
