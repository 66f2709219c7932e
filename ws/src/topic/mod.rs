//! Topics: one encoded frame to everybody who subscribed, on every shard.
//!
//! A [`Hub`] is made before the runtime starts and joins its shards; each calls
//! [`Hub::enter`] for its [`Topics`]. A socket's task keeps a [`Subscription`] beside its
//! socket and waits with [`WebSocket::next_with`](crate::WebSocket::next_with), which forwards
//! what is published meanwhile.
//!
//! What is published lies once in each shard's topic; subscribers keep only how far they are,
//! and are woken in pieces, so that a million of them stall nobody. A frame is dropped as soon
//! as everybody has taken it. A subscriber that falls [`TopicConfig::backlog`] frames behind
//! because its peer does not read loses the oldest of them, or its connection, as
//! [`TopicConfig::slow`] says; in both cases that is counted. Topics are as many as clients have
//! names for; all of a shard's keep no more than [`TopicConfig::shard_bytes`].
//!
//! ```
//! use throng_net::{TcpListener, TcpStream};
//! use throng_runtime::spawn_local;
//! use throng_ws::topic::{Hub, Topic};
//! use throng_ws::{Error, Frame};
//!
//! /// On each shard, with a clone of the same hub.
//! async fn chat(listener: TcpListener, hub: Hub) -> std::io::Result<()> {
//!     let topics = hub.enter()?;
//!     loop {
//!         let (stream, _) = listener.accept().await?;
//!         spawn_local(member(stream, topics.topic("chat"))).detach();
//!     }
//! }
//!
//! async fn member(stream: TcpStream, chat: Topic) -> Result<(), Error> {
//!     let mut socket = throng_ws::accept(stream).await?;
//!     let mut subscribed = [chat.subscribe()];
//!     while let Some(message) = socket.next_with(&mut subscribed).await {
//!         if let Ok(text) = message?.to_text() {
//!             let _ = chat.publish(&Frame::text(text));
//!         }
//!     }
//!     Ok(())
//! }
//! ```

mod backplane;
mod beat;
mod hub;
mod roster;
mod subscription;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

pub use backplane::{Backplane, BackplaneStats, Inbound};
pub(crate) use hub::WAITING;
pub use hub::{Hub, Topics};
pub use subscription::{News, Subscription};

use crate::frame::Frame;
use hub::{Everywhere, Local};
use roster::Roster;

/// Places of a roster that are woken at a time; then other tasks have their turn.
const SWEEP: u32 = 128;

/// What becomes of a subscriber whose peer does not read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Slow {
    /// It misses the oldest frames.
    #[default]
    Drop,
    /// Its socket ends with [`Error::Slow`](crate::Error::Slow).
    Disconnect,
}

/// Bounds and timers of a topic; a hub has them for all of its topics.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct TopicConfig {
    /// How many frames a subscriber may be behind, 1 to 65,536. Default 64.
    pub backlog: usize,
    /// Bytes of frames that a topic keeps for those who are behind; the newest frame is kept
    /// whatever its size. Default 1 MiB.
    pub backlog_bytes: usize,
    /// Bytes that all topics of a hub may keep on a shard, with what keeping them costs, for
    /// this one to take another frame there; beyond it frames are refused, however many topics
    /// clients have names for. Default 64 MiB.
    pub shard_bytes: usize,
    /// What becomes of one who falls behind further.
    pub slow: Slow,
    /// How often the subscribers' sockets look whether their peers live, spread evenly over
    /// this time: a socket that has heard nothing for a whole interval sends a ping, and one
    /// that still hears nothing for another ends with [`Error::PingTimeout`](crate::Error::PingTimeout).
    /// A ping counts from when it has left: where it has to wait behind other things, its peer has another
    /// interval, and is dead where TCP repeats those in vain for a whole one. A peer that takes nothing of
    /// what is sent is not asked: TCP finds that it is gone, and
    /// [`TopicConfig::slow`] is for one that stays. Where the shard's device does not take what is sent as
    /// fast, an interval is up to half as long again.
    /// It costs an idle socket no timer and no memory. Default: never.
    pub heartbeat: Option<Duration>,
}

impl Default for TopicConfig {
    fn default() -> Self {
        TopicConfig {
            backlog: 64,
            backlog_bytes: 1 << 20,
            shard_bytes: 64 << 20,
            slow: Slow::Drop,
            heartbeat: None,
        }
    }
}

impl TopicConfig {
    /// Sets [`TopicConfig::backlog`]; what is out of range becomes the nearest in it.
    #[must_use]
    pub fn backlog(mut self, frames: usize) -> Self {
        self.backlog = frames.clamp(1, 1 << 16);
        self
    }

    /// Sets [`TopicConfig::backlog_bytes`].
    #[must_use]
    pub fn backlog_bytes(mut self, bytes: usize) -> Self {
        self.backlog_bytes = bytes;
        self
    }

    /// Sets [`TopicConfig::shard_bytes`].
    #[must_use]
    pub fn shard_bytes(mut self, bytes: usize) -> Self {
        self.shard_bytes = bytes;
        self
    }

    /// Sets [`TopicConfig::slow`].
    #[must_use]
    pub fn slow(mut self, slow: Slow) -> Self {
        self.slow = slow;
        self
    }

    /// Sets [`TopicConfig::heartbeat`]; `None` never looks.
    #[must_use]
    pub fn heartbeat(mut self, interval: impl Into<Option<Duration>>) -> Self {
        self.heartbeat = interval.into();
        self
    }
}

/// Where a published frame went.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Published {
    /// Subscribers of the shards that have taken the frame, this one and those it was sent to.
    pub subscribers: u64,
    /// Shards that have subscribers and did not take it: this one, because the topic has
    /// [`TopicConfig::backlog`] frames that have not been offered to all yet or the shard's
    /// topics keep [`TopicConfig::shard_bytes`], or others, because there are too many frames
    /// on their way to them. Not zero: publish more slowly.
    pub refused: u32,
}

/// A topic, on one shard. Clones are the same topic; it lives as long as one of them or a
/// [`Subscription`] does.
#[derive(Clone)]
pub struct Topic(Rc<Inner>);

struct Inner {
    everywhere: Arc<Everywhere>,
    hub: Weak<Local>,
    shard: usize,
    config: TopicConfig,
    roster: RefCell<Roster>,
    /// What somebody has yet to take, oldest first.
    frames: RefCell<Frames>,
    /// Places still to be woken for the newest frames, beginning at `sweep`.
    left: Cell<u32>,
    sweep: Cell<u32>,
    /// Places woken since the beginning.
    swept: Cell<u64>,
    /// In the hub's queue of topics to sweep.
    queued: Cell<bool>,
    /// Where the heartbeat is: phases before `beat` were visited `beats` times and once more.
    beat: Cell<u32>,
    beats: Cell<u8>,
    closing: Cell<bool>,
}

struct Frames {
    kept: VecDeque<Kept>,
    bytes: usize,
    /// What all topics of the shard keep, see [`Kept::cost`].
    shard: Rc<Cell<usize>>,
    /// The number of the oldest one kept; numbers wrap.
    first: u32,
}

struct Kept {
    frame: Frame,
    /// Subscribers who have not taken it.
    left: u32,
    /// It has been offered to all when [`Inner::swept`] gets here.
    offered: u64,
}

impl Kept {
    /// What keeping a frame costs, in bytes: very many are small.
    fn cost(frame: &Frame) -> usize {
        frame.as_bytes().len() + size_of::<Kept>()
    }
}

impl Frames {
    fn new(shard: Rc<Cell<usize>>) -> Frames {
        Frames { kept: VecDeque::new(), bytes: 0, shard, first: 0 }
    }

    /// Keeps another.
    fn push(&mut self, kept: Kept) {
        self.bytes += kept.frame.as_bytes().len();
        self.shard.set(self.shard.get() + Kept::cost(&kept.frame));
        self.kept.push_back(kept);
    }

    /// What the other topics of the shard keep.
    fn elsewhere(&self) -> usize {
        self.shard.get() - self.bytes - self.kept.len() * size_of::<Kept>()
    }

    /// The number of the next frame.
    fn next(&self) -> u32 {
        self.first.wrapping_add(self.kept.len() as u32)
    }

    /// Throws the oldest away; returns how many had not taken it.
    fn pop(&mut self) -> u32 {
        let Some(kept) = self.kept.pop_front() else { return 0 };
        self.bytes -= kept.frame.as_bytes().len();
        self.shard.set(self.shard.get() - Kept::cost(&kept.frame));
        self.first = self.first.wrapping_add(1);
        kept.left
    }

    /// Throws away what everybody has taken.
    fn trim(&mut self) {
        while self.kept.front().is_some_and(|kept| kept.left == 0) {
            self.pop();
        }
        if self.kept.is_empty() {
            self.kept = VecDeque::new();
        }
    }

    /// The frame of a number, if it is there.
    fn get(&self, number: u32) -> Option<&Kept> {
        self.kept.get(number.wrapping_sub(self.first) as usize)
    }

    /// One more has taken the frame of a number, if it is there; returns whether it was.
    fn take(&mut self, number: u32) -> bool {
        let kept = self.kept.get_mut(number.wrapping_sub(self.first) as usize);
        kept.map(|kept| kept.left = kept.left.saturating_sub(1)).is_some()
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        while !self.kept.is_empty() {
            self.pop();
        }
    }
}

impl Topic {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.0.everywhere.name
    }

    /// Becomes a subscriber: of what is published from now on.
    pub fn subscribe(&self) -> Subscription {
        let inner = self.0.clone();
        let slot = inner.roster.borrow_mut().enter();
        if inner.everywhere.entered(inner.shard) {
            inner.note();
        }
        Subscription::new(inner, slot)
    }

    /// Gives a frame to all subscribers on all shards, and to the hub's
    /// [`Backplane`](Topics::attach) if it has one.
    ///
    /// It is counted as given once it lies in a shard's topic; what a slow subscriber then
    /// misses is in [`HubStats::missed`].
    pub fn publish(&self, frame: &Frame) -> Published {
        let Some(hub) = self.0.hub.upgrade() else { return Published::default() };
        let mut published = hub.publish(&self.0.everywhere, frame);
        self.0.publish_here(frame, &mut published);
        published
    }

    /// Subscribers on all shards.
    pub fn presence(&self) -> u64 {
        self.0.everywhere.presence()
    }

    /// Subscribers on this shard.
    pub fn presence_here(&self) -> u64 {
        self.0.roster.borrow().members().into()
    }

    /// Frames that lie here because a subscriber of this shard has not taken them.
    pub fn waiting(&self) -> usize {
        self.0.frames.borrow().kept.len()
    }

    /// Has the sockets of this shard's subscribers close (code 1001), one after the other, as
    /// fast as the shard can.
    pub fn close(&self) {
        self.0.closing.set(true);
        self.0.begin_sweep();
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Topic")
            .field("name", &self.name())
            .field("subscribers", &self.presence_here())
            .field("waiting", &self.waiting())
            .finish()
    }
}

impl Inner {
    /// The first subscriber of the shard has come, or the last one gone.
    fn note(&self) {
        if let Some(hub) = self.hub.upgrade() {
            hub.note(&self.everywhere);
        }
    }

    /// Offers a frame to those of this shard, and adds them.
    fn publish_here(&self, frame: &Frame, published: &mut Published) {
        let here = self.roster.borrow().members();
        if here > 0 {
            match self.offer(frame) {
                true => published.subscribers += u64::from(here),
                false => published.refused += 1,
            }
        }
    }

    /// Takes a frame for this shard's subscribers; false where too many wait to be offered.
    fn offer(&self, frame: &Frame) -> bool {
        let (members, slots) = {
            let roster = self.roster.borrow();
            (roster.members(), roster.slots())
        };
        if members == 0 {
            return true;
        }
        let Some(hub) = self.hub.upgrade() else { return false };
        let mut frames = self.frames.borrow_mut();
        let size = frame.as_bytes().len();
        let cost = Kept::cost(frame);
        let beyond = |bytes: usize| bytes.saturating_add(cost) > self.config.shard_bytes;
        let full = |frames: &Frames| beyond(frames.shard.get());
        let over = |frames: &Frames| {
            frames.kept.len() >= self.config.backlog
                || frames.bytes.saturating_add(size) > self.config.backlog_bytes
                || full(frames)
        };
        // Not the subscribers are slow: the shard is,
        let early = |oldest: &Kept| oldest.offered > self.swept.get();
        // or it would be full without what this topic keeps.
        if beyond(frames.elsewhere()) || (over(&frames) && frames.kept.front().is_some_and(early)) {
            let full = u64::from(full(&frames));
            hub.count(|stats| {
                stats.refused += 1;
                stats.full += full;
            });
            return false;
        }
        while !frames.kept.is_empty() && over(&frames) {
            frames.pop();
        }
        hub.count(|stats| stats.published += 1);
        let offered = self.swept.get() + u64::from(slots);
        frames.push(Kept { frame: frame.clone(), left: members, offered });
        drop(frames);
        self.begin_sweep();
        true
    }

    /// Everybody is to be woken, from where the last sweep is.
    fn begin_sweep(&self) {
        self.left.set(self.roster.borrow().slots());
        if self.queued.get() {
            return;
        }
        // A room is served at once; of a crowd the first, and the rest by the hub's task.
        if self.sweep_some() {
            let Some(hub) = self.hub.upgrade() else { return };
            self.queued.set(true);
            hub.sweep_later(self);
        }
    }

    /// Wakes the next few subscribers. Returns whether there are more.
    fn sweep_some(&self) -> bool {
        let roster = self.roster.borrow();
        let slots = roster.slots();
        let mut count = SWEEP.min(self.left.get()).min(slots);
        if slots == 0 {
            self.left.set(0);
            return false;
        }
        while count > 0 {
            let from = self.sweep.get() % slots;
            let woken = roster.wake(from, count);
            count -= woken;
            self.sweep.set((from + woken) % slots);
            self.left.set(self.left.get() - woken);
            self.swept.set(self.swept.get() + u64::from(woken));
        }
        self.left.get() > 0
    }

    /// How often a place was visited, modulo 256.
    fn beats_of(&self, slot: u32) -> u8 {
        self.beats.get().wrapping_add(u8::from(beat::phase_of(slot) < self.beat.get()))
    }
}

throng_runtime::metrics! {
    /// What a hub's topics have done on one shard.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    #[non_exhaustive]
    pub struct HubStats {
        /// Frames offered to this shard's subscribers.
        counter published: u64,
        /// Frames that this shard had no room to offer, see [`Published::refused`].
        limit refused: u64,
        /// Those of them refused because the shard's topics kept [`TopicConfig::shard_bytes`].
        limit full: u64,
        /// Frames taken by subscribers.
        counter delivered: u64,
        /// Frames that slow subscribers missed.
        counter missed: u64,
        /// Sockets ended because they were slow.
        counter disconnected: u64,
        /// Pings sent by heartbeats.
        counter pings: u64,
        /// Peers that heartbeats found dead.
        counter dead: u64,
        /// Frames published here that did not get to the shard with the `Backplane`, because
        /// there are too many on their way to it.
        limit uncarried: u64,
    }
}
