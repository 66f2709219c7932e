//! All topics of all shards: who has subscribers where, and frames between shards.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::task::AtomicWaker;
use throng_net::stats;
use throng_runtime::mesh::{Mesh, Port};
use throng_runtime::metrics::{Measured, Metric};
use throng_runtime::{ShardId, current_shard, sleep, try_spawn_local};

use super::backplane::{Attached, Backplane, BackplaneStats, Inbound, Slot, Source, Way};
use super::beat::heartbeat;
use super::{Frames, HubStats, Inner, Published, Topic, TopicConfig};
use crate::frame::Frame;

/// Frames on their way from one shard to another; beyond it they are refused.
const MESH: usize = 1_024;
/// Most frames taken from other shards before other tasks have their turn.
const TAKE: usize = 32;
/// Connections that may wait for the device before those who are told of a frame have to. A crowd
/// told at once would have a buffer each until the device has taken all, and whatever else is sent
/// would stand behind it.
pub(crate) const WAITING: usize = 1_024;
/// How long to wait then: less than a device takes for so many.
pub(super) const REST: Duration = Duration::from_micros(100);
/// Topics of a hub at which it first looks for names that are no longer used.
const CLEAR: usize = 64;

/// The topics of all shards of a runtime. Clones are the same hub.
#[derive(Clone)]
pub struct Hub(Arc<Shared>);

struct Shared {
    config: TopicConfig,
    seats: Vec<Seat>,
    /// Locked when a topic comes to a shard, not to publish.
    directory: Mutex<Directory>,
    /// To other processes.
    way: Way,
}

/// Topics that exist on any shard, and names of some that no longer do.
#[derive(Default)]
struct Directory {
    topics: HashMap<Arc<str>, std::sync::Weak<Everywhere>>,
    /// At so many the names of those that are gone are thrown away.
    clear_at: usize,
}

/// What a shard has of the hub.
struct Seat {
    /// Until it enters.
    port: Mutex<Option<Port<Parcel>>>,
    /// Its task that takes frames from others.
    waker: AtomicWaker,
}

/// A frame on its way to another shard.
struct Parcel {
    to: Arc<Everywhere>,
    frame: Frame,
    /// For the backplane too, which is there.
    carry: bool,
}

/// A topic, on all shards together.
pub(super) struct Everywhere {
    pub(super) name: Arc<str>,
    /// Subscribers by shard; each is written by its shard only.
    counts: Box<[Count]>,
    /// The shard with the backplane is to look at it, see [`Way::note`].
    pub(super) noted: AtomicBool,
}

/// Keeps what two cores write apart.
#[derive(Default)]
#[repr(align(64))]
struct Count(AtomicU64);

// The counts and the place of the backplane are ordered: who becomes the first subscriber sees
// that there is a backplane, or who attaches it sees the subscriber.
impl Everywhere {
    pub(super) fn presence(&self) -> u64 {
        self.counts.iter().map(|count| count.0.load(Ordering::SeqCst)).sum()
    }

    /// Whether it is the shard's first.
    pub(super) fn entered(&self, shard: usize) -> bool {
        self.counts[shard].0.fetch_add(1, Ordering::SeqCst) == 0
    }

    /// Whether it was the shard's last.
    pub(super) fn left(&self, shard: usize) -> bool {
        self.counts[shard].0.fetch_sub(1, Ordering::SeqCst) == 1
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hub {
    /// For a runtime of `shards` shards; `config` holds for every topic without one of its own.
    pub fn new(shards: usize, config: TopicConfig) -> Hub {
        let seat = |port| Seat { port: Mutex::new(Some(port)), waker: AtomicWaker::new() };
        let seats = Mesh::new(shards, MESH).into_iter().map(seat).collect();
        Hub(Arc::new(Shared { config, seats, directory: Mutex::default(), way: Way::new() }))
    }

    /// This shard's topics. It spawns a task that serves them for as long as the shard runs.
    ///
    /// # Errors
    /// When this shard has entered before, or the hub has no seat for it.
    ///
    /// # Panics
    /// When the thread runs no shard.
    pub fn enter(&self) -> io::Result<Topics> {
        let shard = current_shard();
        let error = |what: &str| io::Error::other(format!("shard {shard} {what} the hub"));
        let seat = self.0.seats.get(shard.index()).ok_or_else(|| error("has no seat in"))?;
        let port = lock(&seat.port).take().ok_or_else(|| error("has already entered"))?;
        let local = Rc::new(Local {
            hub: self.0.clone(),
            shard: shard.index(),
            port: RefCell::new(port),
            topics: RefCell::default(),
            sweeps: RefCell::default(),
            kept: Rc::default(),
            stats: Cell::default(),
            attached: Slot::default(),
            sources: RefCell::default(),
        });
        local.register("topics", Rc::new(Totals(Rc::downgrade(&local))));
        let serving = local.clone();
        let task = try_spawn_local(async move {
            loop {
                poll_fn(|cx| serving.poll_serve(cx)).await;
                sleep(REST).await;
            }
        });
        task.map_err(io::Error::other)?.detach();
        Ok(Topics(local))
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").field("shards", &self.0.seats.len()).finish_non_exhaustive()
    }
}

/// The topics of a hub, on one shard. Clones are the same ones.
#[derive(Clone)]
pub struct Topics(Rc<Local>);

impl Topics {
    /// The topic of a name, which is made where there is none.
    pub fn topic(&self, name: &str) -> Topic {
        self.topic_with(name, self.0.hub.config)
    }

    /// The topic of a name. Where it is made, this shard's part of it has its own `config`
    /// instead of the hub's.
    pub fn topic_with(&self, name: &str, config: TopicConfig) -> Topic {
        if let Some(inner) = self.0.find(name) {
            return Topic(inner);
        }
        let everywhere = self.0.everywhere(name);
        let inner = Rc::new(Inner {
            everywhere: everywhere.clone(),
            hub: Rc::downgrade(&self.0),
            shard: self.0.shard,
            config,
            roster: RefCell::default(),
            frames: RefCell::new(Frames::new(self.0.kept.clone())),
            left: Cell::new(0),
            sweep: Cell::new(0),
            swept: Cell::new(0),
            queued: Cell::new(false),
            beat: Cell::new(0),
            beats: Cell::new(0),
            closing: Cell::new(false),
        });
        self.0.topics.borrow_mut().insert(everywhere.name.clone(), Rc::downgrade(&inner));
        if let Some(interval) = config.heartbeat {
            match try_spawn_local(heartbeat(Rc::downgrade(&inner), interval)) {
                Ok(task) => task.detach(),
                Err(error) => tracing::warn!(name, %error, "a topic is without its heartbeat"),
            }
        }
        Topic(inner)
    }

    /// Topics of this shard that somebody holds.
    pub fn len(&self) -> usize {
        self.0.topics.borrow().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that this shard's topics keep for subscribers who have not taken them, with what
    /// keeping them costs; [`TopicConfig::shard_bytes`] bounds them.
    pub fn kept_bytes(&self) -> usize {
        self.0.kept.get()
    }

    /// What this shard's topics have done.
    pub fn stats(&self) -> HubStats {
        self.0.stats.get()
    }

    /// Attaches what `make` makes to the hub: from then on topics reach the other processes that
    /// have attached the like. It serves all shards and lives on this one, as long as the hub's
    /// topics do; its counters are in this shard's metrics.
    ///
    /// # Errors
    /// Where the hub has one already.
    pub fn attach<B: Backplane + 'static>(
        &self,
        make: impl FnOnce(Inbound) -> B,
    ) -> io::Result<()> {
        let hub = &self.0;
        if !hub.hub.way.claim(hub.shard) {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "the hub has a backplane already",
            ));
        }
        let backplane: Rc<dyn Backplane> = Rc::new(make(Inbound(Rc::downgrade(hub))));
        hub.register("backplane", Rc::new(Source(backplane.clone())));
        *hub.attached.borrow_mut() = Some(Attached { backplane, wanted: HashMap::new() });
        // Those who have come before.
        let directory = lock(&hub.hub.directory);
        let topics: Vec<_> =
            directory.topics.values().filter_map(|topic| topic.upgrade()).collect();
        drop(directory);
        for topic in topics {
            hub.hub.way.note(&topic);
        }
        hub.hub.seats[hub.shard].waker.wake();
        Ok(())
    }

    /// What the backplane has done, on the shard it is attached to.
    pub fn backplane(&self) -> Option<BackplaneStats> {
        self.0.with_attached(|attached| attached.backplane.stats())
    }
}

impl fmt::Debug for Topics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Topics").field("shard", &self.0.shard).field("len", &self.len()).finish()
    }
}

/// What a hub has on one shard.
pub(super) struct Local {
    hub: Arc<Shared>,
    shard: usize,
    port: RefCell<Port<Parcel>>,
    topics: RefCell<HashMap<Arc<str>, Weak<Inner>>>,
    /// Topics whose subscribers have yet to be woken.
    sweeps: RefCell<VecDeque<Rc<Inner>>>,
    /// Bytes that the topics keep for those who have not taken them.
    kept: Rc<Cell<usize>>,
    stats: Cell<HubStats>,
    /// To other processes, on the shard that is their way.
    attached: Slot,
    /// What this shard's metrics read; they do not keep it.
    sources: RefCell<Vec<Rc<dyn Measured>>>,
}

/// The hub's numbers of a shard for its metrics.
struct Totals(Weak<Local>);

impl Measured for Totals {
    fn measure(&self) -> Vec<(&'static Metric, u64)> {
        self.0.upgrade().map_or_else(Vec::new, |hub| hub.stats.get().measure())
    }
}

impl Local {
    /// Adds to this shard's metrics, where it has a network to show them by.
    fn register(&self, group: &'static str, source: Rc<dyn Measured>) {
        if throng_net::stats::register(group, source.clone()).is_ok() {
            self.sources.borrow_mut().push(source);
        }
    }

    /// Calls with the backplane, if it is attached here.
    pub(super) fn with_attached<T>(&self, call: impl FnOnce(&Attached) -> T) -> Option<T> {
        self.attached.borrow().as_ref().map(call)
    }

    /// A topic has got its first subscriber here, or lost its last one.
    pub(super) fn note(&self, topic: &Arc<Everywhere>) {
        if let Some(home) = self.hub.way.home()
            && self.hub.way.note(topic)
        {
            self.hub.seats[home].waker.wake();
        }
    }

    /// Tells the backplane of the topics that are wanted or no more.
    fn look_at_topics(&self) {
        if self.hub.way.home() != Some(self.shard) {
            return;
        }
        for topic in self.hub.way.take() {
            let told = {
                let mut attached = self.attached.borrow_mut();
                attached.as_mut().and_then(|it| Some((it.look(&topic)?, it.backplane.clone())))
            };
            if let Some((wanted, backplane)) = told {
                backplane.interest(&topic.name, wanted);
            }
        }
    }

    /// Gives a frame to the backplane, which is here.
    fn carry(&self, topic: &Everywhere, frame: &Frame) {
        if let Some(backplane) = self.with_attached(|attached| attached.backplane.clone()) {
            backplane.publish(&topic.name, frame);
        }
    }

    /// Gives a frame of another process to the subscribers of all shards.
    pub(super) fn deliver(&self, topic: &str, frame: &Frame) -> Published {
        let wanted = self.with_attached(|attached| attached.wanted.get(topic).cloned()).flatten();
        let Some(topic) = wanted else { return Published::default() };
        let mut published = self.send(&topic, frame, None);
        if let Some(here) = self.find(&topic.name) {
            here.publish_here(frame, &mut published);
        }
        published
    }

    /// Changes the counters.
    pub(super) fn count(&self, change: impl FnOnce(&mut HubStats)) {
        let mut stats = self.stats.get();
        change(&mut stats);
        self.stats.set(stats);
    }

    fn find(&self, name: &str) -> Option<Rc<Inner>> {
        self.topics.borrow().get(name)?.upgrade()
    }

    /// The topic as all shards know it.
    fn everywhere(&self, name: &str) -> Arc<Everywhere> {
        let mut directory = lock(&self.hub.directory);
        if let Some(found) = directory.topics.get(name).and_then(|found| found.upgrade()) {
            return found;
        }
        if directory.topics.len() >= directory.clear_at {
            directory.topics.retain(|_, topic| topic.strong_count() > 0);
            directory.clear_at = (2 * directory.topics.len()).max(CLEAR);
        }
        let name: Arc<str> = name.into();
        let counts = self.hub.seats.iter().map(|_| Count::default()).collect();
        let noted = AtomicBool::new(false);
        let made = Arc::new(Everywhere { name: name.clone(), counts, noted });
        directory.topics.insert(name, Arc::downgrade(&made));
        made
    }

    /// Sends a frame that is published here to the other shards that have subscribers, and to
    /// other processes.
    pub(super) fn publish(&self, topic: &Arc<Everywhere>, frame: &Frame) -> Published {
        let home = self.hub.way.home().filter(|_| !frame.is_ping());
        let published = self.send(topic, frame, home);
        if home == Some(self.shard) {
            self.carry(topic, frame);
        }
        published
    }

    /// Sends a frame to the other shards that have subscribers, and to the one that carries it.
    fn send(&self, topic: &Arc<Everywhere>, frame: &Frame, carrier: Option<usize>) -> Published {
        let mut published = Published::default();
        for (shard, count) in topic.counts.iter().enumerate() {
            let subscribers = count.0.load(Ordering::Relaxed);
            let carry = carrier == Some(shard);
            if shard == self.shard || (subscribers == 0 && !carry) {
                continue;
            }
            let parcel = Parcel { to: topic.clone(), frame: frame.clone(), carry };
            match self.port.borrow_mut().try_send(ShardId(shard as u16), parcel) {
                Ok(()) => {
                    published.subscribers += subscribers;
                    self.hub.seats[shard].waker.wake();
                }
                Err(_) => {
                    published.refused += u32::from(subscribers > 0);
                    self.count(|stats| stats.uncarried += u64::from(carry));
                }
            }
        }
        published
    }

    /// Puts a topic into the queue of those whose subscribers are to be woken.
    pub(super) fn sweep_later(&self, topic: &Inner) {
        if let Some(topic) = self.find(&topic.everywhere.name) {
            self.sweeps.borrow_mut().push_back(topic);
            self.hub.seats[self.shard].waker.wake();
        }
    }

    /// Takes frames from other shards and wakes subscribers, a few at a time; ready when the device
    /// is to be waited for.
    fn poll_serve(&self, cx: &Context<'_>) -> Poll<()> {
        // Before the look, so that what comes after it is not missed.
        self.hub.seats[self.shard].waker.register(cx.waker());
        let mut worked = false;
        self.look_at_topics();
        for _ in 0..TAKE {
            let Some(parcel) = ({ self.port.borrow_mut().try_recv() }) else { break };
            worked = true;
            if parcel.carry {
                self.carry(&parcel.to, &parcel.frame);
            }
            if let Some(topic) = self.find(&parcel.to.name) {
                topic.offer(&parcel.frame);
            }
        }
        if !self.sweeps.borrow().is_empty() && stats::transmit_waiting() >= WAITING {
            return Poll::Ready(());
        }
        if let Some(topic) = { self.sweeps.borrow_mut().pop_front() } {
            worked = true;
            match topic.sweep_some() {
                true => self.sweeps.borrow_mut().push_back(topic),
                false => topic.queued.set(false),
            }
        }
        if worked {
            // Behind those who were just woken.
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let Some(hub) = self.hub.upgrade() else { return };
        let name = &self.everywhere.name;
        let mut topics = hub.topics.borrow_mut();
        if topics.get(name).is_some_and(|inner| inner.strong_count() == 0) {
            topics.remove(name);
        }
    }
}
