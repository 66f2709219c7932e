//! Topics across processes: what a hub asks of an engine that carries frames between them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use throng_runtime::metrics::{Measured, Metric};

use super::Published;
use super::hub::{Everywhere, Local, lock};
use crate::frame::Frame;

/// Carries what is published on a hub's topics to the hubs of other processes.
///
/// It lives on one shard, the one that called [`Topics::attach`](super::Topics::attach): an engine
/// then has one subscription and sends one copy for a process, however many shards that has, and
/// they get it as they get what is published among them. It must not publish what it hands to
/// [`Inbound::deliver`], nor hand out what it has published itself: that has been delivered here.
///
/// None of its methods may wait. What it can neither send nor keep it drops and counts: delivery
/// within the process goes on as if there were no engine.
pub trait Backplane {
    /// A topic has got its first subscriber in this process, or lost its last one.
    /// It is told of changes, each after the one before; [`Inbound::topics`] has what there is.
    fn interest(&self, topic: &Arc<str>, wanted: bool);

    /// A text or binary frame was published in this process. Pings stay here.
    fn publish(&self, topic: &Arc<str>, frame: &Frame);

    /// What it has done.
    fn stats(&self) -> BackplaneStats;
}

throng_runtime::metrics! {
    /// What a backplane has done, on the shard it is attached to.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    #[non_exhaustive]
    pub struct BackplaneStats {
        /// Whether it is connected to its engine: 1 or 0.
        gauge connected: u64,
        /// Connections to the engine that were opened and accepted.
        counter connects: u64,
        /// Connections to the engine that were tried, or were open, and have failed.
        counter failures: u64,
        /// Those of them that failed because the engine did not let us in.
        counter refused: u64,
        /// Those of them that failed because the engine did not answer in time.
        counter timeouts: u64,
        /// Those of them that failed because what came was no answer, or larger than is taken.
        counter malformed: u64,
        /// Milliseconds until the engine is tried again.
        gauge backoff: u64,
        /// Topics that the engine was asked for.
        gauge topics: u64,
        /// Topics that the engine does not give us, and those it was not asked for because of
        /// their names.
        counter denied: u64,
        /// Messages that the engine has taken.
        counter sent: u64,
        /// Messages that the engine has been sent again, because its answer was lost with a
        /// connection.
        counter resent: u64,
        /// Messages that the engine has not taken, with an error.
        counter rejected: u64,
        /// Messages that wait for the engine's answer or to be sent.
        gauge waiting: u64,
        /// Bytes of them, with what keeping them costs.
        gauge waiting_bytes: u64,
        /// Messages thrown away, the oldest, because too many bytes waited.
        limit dropped: u64,
        /// Messages not sent because they are larger than others would take.
        limit too_large: u64,
        /// Messages of other processes, delivered here.
        counter received: u64,
        /// Our own messages that the engine has given back.
        counter own: u64,
        /// Messages of other processes that had come before.
        counter repeated: u64,
        /// Messages that nobody could read.
        counter unreadable: u64,
        /// Messages of other processes that a shard of ours did not take, see
        /// [`Published::refused`].
        limit not_taken: u64,
    }
}

/// How a backplane reaches its hub. Clones reach the same one; after the runtime's end they reach
/// none and do nothing.
#[derive(Clone)]
pub struct Inbound(pub(super) Weak<Local>);

impl Inbound {
    /// Gives a frame of another process to the subscribers of this one, on all shards. Without a
    /// subscriber nothing happens.
    pub fn deliver(&self, topic: &str, frame: &Frame) -> Published {
        self.0.upgrade().map_or_else(Published::default, |hub| hub.deliver(topic, frame))
    }

    /// Whether a topic is one of [`topics`](Inbound::topics).
    pub fn wants(&self, topic: &str) -> bool {
        let wanted = |hub: Rc<Local>| hub.with_attached(|it| it.wanted.contains_key(topic));
        self.0.upgrade().and_then(wanted).unwrap_or_default()
    }

    /// The topics that have subscribers in this process, as far as the backplane has been told.
    pub fn topics(&self) -> Vec<Arc<str>> {
        let wanted = |hub: Rc<Local>| hub.with_attached(|it| it.wanted.keys().cloned().collect());
        self.0.upgrade().and_then(wanted).unwrap_or_default()
    }
}

impl fmt::Debug for Inbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbound").finish_non_exhaustive()
    }
}

/// What all shards know of the backplane.
pub(super) struct Way {
    /// The shard it is attached to; [`NOWHERE`] before.
    home: AtomicUsize,
    /// Topics that have got or lost the subscribers of a shard, each once.
    changed: Mutex<Vec<Arc<Everywhere>>>,
}

const NOWHERE: usize = usize::MAX;

impl Way {
    pub(super) fn new() -> Way {
        Way { home: AtomicUsize::new(NOWHERE), changed: Mutex::default() }
    }

    /// The shard of the backplane.
    pub(super) fn home(&self) -> Option<usize> {
        let home = self.home.load(Ordering::SeqCst);
        (home != NOWHERE).then_some(home)
    }

    /// Claims the backplane for a shard; false where it has one.
    pub(super) fn claim(&self, shard: usize) -> bool {
        let claimed =
            self.home.compare_exchange(NOWHERE, shard, Ordering::SeqCst, Ordering::SeqCst);
        claimed.is_ok()
    }

    /// Notes that a topic's subscribers on a shard have come or gone. Returns whether the home
    /// has to look.
    pub(super) fn note(&self, topic: &Arc<Everywhere>) -> bool {
        // Until the home looks, one note is enough: it reads the counts after taking that away.
        let first = !topic.noted.swap(true, Ordering::SeqCst);
        if first {
            lock(&self.changed).push(topic.clone());
        }
        first
    }

    /// What has been noted.
    pub(super) fn take(&self) -> Vec<Arc<Everywhere>> {
        std::mem::take(&mut *lock(&self.changed))
    }
}

/// The backplane, on the shard it is attached to.
pub(super) struct Attached {
    pub(super) backplane: Rc<dyn Backplane>,
    /// The topics it was told that we want.
    pub(super) wanted: HashMap<Arc<str>, Arc<Everywhere>>,
}

impl Attached {
    /// Takes note of a topic's subscribers; what the backplane is to be told.
    pub(super) fn look(&mut self, topic: &Arc<Everywhere>) -> Option<bool> {
        topic.noted.store(false, Ordering::SeqCst);
        let wanted = topic.presence() > 0;
        let known = self.wanted.contains_key(&topic.name);
        if wanted == known {
            return None;
        }
        match wanted {
            true => drop(self.wanted.insert(topic.name.clone(), topic.clone())),
            false => {
                self.wanted.remove(&topic.name);
                if self.wanted.capacity() > 64 && self.wanted.len() < self.wanted.capacity() / 4 {
                    self.wanted.shrink_to(2 * self.wanted.len());
                }
            }
        }
        Some(wanted)
    }
}

/// Where a backplane is attached: one for all of the hub.
pub(super) type Slot = RefCell<Option<Attached>>;

/// The numbers of a hub's backplane for the shard's metrics.
pub(super) struct Source(pub(super) Rc<dyn Backplane>);

impl Measured for Source {
    fn measure(&self) -> Vec<(&'static Metric, u64)> {
        self.0.stats().measure()
    }
}
