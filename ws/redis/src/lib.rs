//! Topics of [`throng_ws::topic`] across processes, over Redis or what speaks its protocol
//! (Valkey; version 6 or newer): what is published in one process reaches the subscribers of all
//! that are attached to the same engine with the same [`Config::prefix`].
//!
//! ```no_run
//! use throng_ws::topic::{Hub, TopicConfig};
//! use throng_ws_redis::{Config, Redis};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config = Config::from_url("redis://user:password@10.0.0.7:6379")?;
//! let hub = Hub::new(1, TopicConfig::default());
//! // On each shard:
//! # let serving = async move {
//! let topics = hub.enter()?;
//! // On one of them:
//! topics.attach(|inbound| Redis::start(config, inbound))?;
//! # std::io::Result::Ok(())
//! # };
//! # Ok(())
//! # }
//! ```
//!
//! A process has one connection, on the shard that attached it, on whatever device that has: so
//! the engine keeps one subscription and sends one copy for a process, which its shards share,
//! and what a process publishes stays in order. Only topics with subscribers here are subscribed
//! to; a topic's channel is the prefix and its name, 16 KiB together at most: one with a longer
//! name stays within the process, counted as denied.
//!
//! What is kept and what is not:
//! * A message reaches a subscriber once: the process that published it knows it by its node's
//!   number when the engine gives it back, and what is sent again after a lost connection,
//!   because its answer was lost, is known by its own number.
//! * The messages of one process stay in order; text stays text.
//! * While the engine is away or silent, delivery within the process goes on.
//!   [`Config::max_waiting`] bytes wait for it, then the oldest are dropped and counted. It is
//!   tried again after a time that doubles from [`Config::first_backoff`] to
//!   [`Config::max_backoff`], of which a random part is left out so that not all come at once.
//! * The engine keeps nothing: who is not subscribed when it gets a message misses it, as does a
//!   process whose own connection is lost at the time.
//!
//! A message of another program (`redis-cli PUBLISH throng:news hello`) is delivered as text if
//! it is UTF-8.

#![forbid(unsafe_code)]

mod config;
mod link;
mod message;
mod queue;
mod wire;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;

use throng_runtime::{JoinHandle, try_spawn_local};
use throng_ws::Frame;
use throng_ws::topic::{Backplane, BackplaneStats, Inbound};

pub use crate::config::{Config, ConfigError};
use crate::queue::{Message, Queue};

/// A connection to Redis, and what waits for it. Its task ends when it is dropped.
pub struct Redis {
    shared: Rc<Shared>,
    _task: Option<JoinHandle<()>>,
}

/// What the hub and the connection's task share.
struct Shared {
    config: Config,
    inbound: Inbound,
    /// Who we are among those that publish.
    node: u64,
    /// Of the last message.
    number: Cell<u64>,
    queue: RefCell<Queue>,
    changes: RefCell<Changes>,
    stats: Cell<BackplaneStats>,
    /// The task, while it waits for something to do.
    waker: RefCell<Option<Waker>>,
}

/// Topics to be entered or left on the connection that is open.
#[derive(Default)]
struct Changes {
    /// None is open: the next one begins with all topics.
    closed: bool,
    list: VecDeque<(Arc<str>, bool)>,
    /// More than this many: the connection is too slow for them, and is given up.
    most: usize,
}

/// Longest name of a channel, in bytes.
const CHANNEL: usize = 16 << 10;
/// Changes of topics that may wait, beside all topics there are when a connection opens.
const CHANGES: usize = 1 << 20;

impl Redis {
    /// Begins to connect; `inbound` is what [`Topics::attach`](throng_ws::topic::Topics::attach)
    /// hands out.
    ///
    /// # Panics
    /// When the thread runs no shard.
    pub fn start(config: Config, inbound: Inbound) -> Redis {
        // Seeded by the system for each process, and another for each of them.
        let random = || RandomState::new().build_hasher().finish();
        let (node, seed) = (random(), random());
        let shared = Rc::new(Shared {
            config,
            inbound,
            node,
            number: Cell::new(0),
            queue: RefCell::default(),
            changes: RefCell::new(Changes { closed: true, ..Changes::default() }),
            stats: Cell::default(),
            waker: RefCell::default(),
        });
        let task = match try_spawn_local(link::run(shared.clone(), seed)) {
            Ok(task) => Some(task.cancel_on_drop()),
            Err(error) => {
                tracing::error!(%error, "a backplane cannot start");
                None
            }
        };
        Redis { shared, _task: task }
    }
}

impl Backplane for Redis {
    fn interest(&self, topic: &Arc<str>, wanted: bool) {
        let mut changes = self.shared.changes.borrow_mut();
        if changes.closed {
            return;
        }
        changes.list.push_back((topic.clone(), wanted));
        drop(changes);
        self.shared.wake();
    }

    fn publish(&self, topic: &Arc<str>, frame: &Frame) {
        let shared = &self.shared;
        let beyond = frame.payload().len() > shared.config.max_message;
        if beyond || !shared.config.has_channel(topic) {
            shared.count(|stats| stats.too_large += 1);
            return;
        }
        let number = shared.number.get() + 1;
        shared.number.set(number);
        let payload = message::encode(shared.node, number, frame);
        let message = Message { topic: topic.clone(), payload, sent: false };
        let dropped = shared.queue.borrow_mut().push(message, shared.config.max_waiting);
        if dropped > 0 {
            shared.count(|stats| stats.dropped += dropped);
        }
        shared.wake();
    }

    fn stats(&self) -> BackplaneStats {
        let mut stats = self.shared.stats.get();
        let queue = self.shared.queue.borrow();
        (stats.waiting, stats.waiting_bytes) = (queue.len() as u64, queue.bytes() as u64);
        stats
    }
}

impl Shared {
    fn count(&self, change: impl FnOnce(&mut BackplaneStats)) {
        let mut stats = self.stats.get();
        change(&mut stats);
        self.stats.set(stats);
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let config = &self.shared.config;
        f.debug_struct("Redis").field("config", config).finish_non_exhaustive()
    }
}
