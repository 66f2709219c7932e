//! Throng's executor: one pinned thread per core, tasks that never leave it,
//! timers, a cross-core mesh, and the loop that drives the network between them.
//!
//! ```
//! use std::time::Duration;
//! use throng_runtime::{Config, Driver, driver::NoDriver, run, sleep, spawn_local};
//!
//! let config = Config { shards: 2, ..Config::default() };
//! let outputs = run(
//!     config,
//!     |_shard| Ok(Box::new(NoDriver) as Box<dyn Driver>),
//!     |shard| async move {
//!         let task = spawn_local(async {
//!             sleep(Duration::from_millis(1)).await;
//!             20
//!         });
//!         task.await.unwrap() + u32::from(shard.0)
//!     },
//! )?;
//! assert_eq!(outputs, [20, 21]);
//! # Ok::<(), std::io::Error>(())
//! ```

pub mod activation;
mod affinity;
mod arena;
mod blocking;
mod chunk_box;
pub mod chunks;
mod config;
pub mod coop;
pub mod driver;
mod error;
mod gate;
mod group;
mod inbound;
mod join;
pub mod local;
pub mod mesh;
pub mod metrics;
mod on_thread;
mod prefetch;
mod reactor;
mod ready;
mod remote;
mod run;
mod shard;
mod shard_waker;
pub mod signal;
pub mod sim;
pub mod slab;
mod small_waker;
pub mod stages;
mod stats;
mod sync;
mod task;
mod task_memory;
pub mod time;
mod timer;
mod waker;
pub mod wheel;

pub use blocking::spawn_blocking;
pub use chunk_box::ChunkBox;
pub use config::{Config, IdlePolicy, ShardId};
pub use coop::{YieldNow, yield_now};
pub use driver::Driver;
pub use error::{JoinError, SpawnError};
pub use group::{Unparker, current_shard, shard_count, try_current_shard, unparker};
pub use join::{JoinHandle, spawn_local, try_spawn_local};
pub use on_thread::OnThread;
pub use prefetch::prefetch_read;
pub use remote::{RemoteHandle, spawn_on};
pub use run::run;
pub use shard_waker::ShardWaker;
pub use small_waker::SmallWaker;
pub use stats::{Stats, stats};
pub use time::Instant;
pub use timer::{
    Elapsed, Interval, Sleep, Timeout, interval, interval_at, now, sleep, sleep_until, timeout,
    timeout_at,
};
