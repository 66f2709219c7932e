//! Throng's executor: one pinned thread per core, tasks that never leave it,
//! timers, a cross-core mesh, and the loop that drives the network between them.

pub mod driver;
pub mod time;

pub use driver::Driver;
pub use time::Instant;

/// The number of a shard within its runtime, from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ShardId(pub u16);
