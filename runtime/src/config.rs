//! What a runtime is started with.

use std::fmt;
use std::time::Duration;

/// The number of a shard within its runtime, from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ShardId(pub u16);

impl ShardId {
    /// The number as an index.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a shard does when a turn of its loop found nothing to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IdlePolicy {
    /// Turn again at once, for ever: lowest latency, one core at 100 %.
    Busy,
    /// Turn at full speed for `spin`, then with pauses of the processor for `pause`,
    /// then sleep in [`Driver::park`](crate::Driver::park) until something arrives.
    Adaptive {
        /// How long to keep turning at full speed after the last work.
        spin: Duration,
        /// How long, after that, to turn with processor pauses in between, and the core
        /// offered to other threads.
        pause: Duration,
    },
}

impl Default for IdlePolicy {
    /// Adaptive: 50 us at full speed, 150 us with pauses.
    fn default() -> Self {
        IdlePolicy::Adaptive { spin: Duration::from_micros(50), pause: Duration::from_micros(150) }
    }
}

/// How many shards a runtime has, where they run, and their bounds.
#[derive(Clone, Debug)]
pub struct Config {
    /// Number of shards, 1 to 1024. Default: the number of cores this process may use.
    pub shards: usize,
    /// Pins shard `i` to core `cores[i]`; must then name at least `shards` cores.
    /// Default: none, the kernel places the threads.
    pub cores: Option<Vec<usize>>,
    /// What to do when there is nothing to do.
    pub idle: IdlePolicy,
    /// Most tasks alive at once on a shard, at most 2^26 - 1. Reaching it refuses
    /// spawns ([`SpawnError`](crate::SpawnError)). Default: 4,194,304.
    pub max_tasks: usize,
    /// Most polls of tasks in one turn of the loop. Default: 256.
    pub task_budget: usize,
    /// Capacity of the ring for spawns from each shard to each other, 1 to 65,536.
    /// Default: 256.
    pub inbox_capacity: usize,
    /// Most threads of the pool behind [`spawn_blocking`](crate::spawn_blocking),
    /// shared by all shards. With `cores` they run on the others this process may use, if
    /// there are any. Default: 16.
    pub blocking_threads: usize,
    /// Bytes for the tables of connections and tasks of all shards, rounded up to chunks of 2 MiB, that are in
    /// memory before the shards begin and stay so until [`run`](crate::run) returns: while there are any left, no
    /// growth waits for the system, or a hypervisor, to find memory. Starting takes 0.1 s a GB, or 5 s where a
    /// hypervisor has to find it. It is one pool for the process: several runtimes' add up, and whoever grows
    /// first takes. Needs Linux. On a machine of several memory nodes it is on the node of the thread that calls
    /// `run`. Default: 0, memory comes as it is needed.
    pub preallocate: usize,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            shards: std::thread::available_parallelism().map_or(1, |n| n.get()),
            cores: None,
            idle: IdlePolicy::default(),
            max_tasks: 1 << 22,
            task_budget: 256,
            inbox_capacity: 256,
            blocking_threads: 16,
            preallocate: 0,
        }
    }
}
