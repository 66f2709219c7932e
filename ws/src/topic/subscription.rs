//! One subscriber's place in a topic.

use std::fmt;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use super::{Inner, Slow, Topic};
use crate::frame::Frame;

/// A subscriber of a [`Topic`], until it is dropped. It holds no frames: only how far it is.
///
/// [`WebSocket::next_with`](crate::WebSocket::next_with) takes from it what is to be forwarded;
/// [`poll_news`](Subscription::poll_news) is for other uses.
pub struct Subscription {
    topic: Rc<Inner>,
    slot: u32,
    /// The number of the frame it takes next.
    next: u32,
    /// Visits of the heartbeat it knows of, modulo 256.
    beats: u8,
    /// It has been told of the end.
    told: bool,
}

// One lies beside every idle socket.
const _: () = assert!(size_of::<Subscription>() <= 24);

/// Numbers of frames wrap; who is not so far behind another is ahead of it.
const HALF: u32 = 1 << 31;

/// What a subscriber is told.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum News {
    /// A frame to forward.
    Frame(Frame),
    /// So many frames were missed, the oldest ones; the policy is the topic's.
    Missed(u32, Slow),
    /// It is time to look whether the peer lives.
    Heartbeat,
    /// The topic closes: the peer should be told to go. Comes once.
    Closing,
}

impl Subscription {
    pub(super) fn new(topic: Rc<Inner>, slot: u32) -> Subscription {
        let next = topic.frames.borrow().next();
        let beats = topic.beats_of(slot);
        Subscription { topic, slot, next, beats, told: false }
    }

    /// The topic.
    pub fn topic(&self) -> Topic {
        Topic(self.topic.clone())
    }

    /// Polls for what is next; the task of `cx` is woken for this subscription until another
    /// polls it.
    pub fn poll_news(&mut self, cx: &mut Context<'_>) -> Poll<News> {
        let news = ready!(self.poll_peek(cx));
        if matches!(news, News::Frame(_)) {
            self.commit();
        }
        Poll::Ready(news)
    }

    /// As [`poll_news`](Self::poll_news), but a frame comes again until it is
    /// [`commit`](Self::commit)ted.
    pub(crate) fn poll_peek(&mut self, cx: &mut Context<'_>) -> Poll<News> {
        let topic = &*self.topic;
        let frames = topic.frames.borrow();
        let behind = frames.first.wrapping_sub(self.next);
        if (1..HALF).contains(&behind) {
            self.next = frames.first;
            drop(frames);
            self.count(|stats| stats.missed += u64::from(behind));
            return Poll::Ready(News::Missed(behind, topic.config.slow));
        }
        if let Some(kept) = frames.get(self.next) {
            return Poll::Ready(News::Frame(kept.frame.clone()));
        }
        drop(frames);
        let beats = topic.beats_of(self.slot);
        if self.beats != beats {
            self.beats = beats;
            return Poll::Ready(News::Heartbeat);
        }
        if topic.closing.get() && !self.told {
            self.told = true;
            return Poll::Ready(News::Closing);
        }
        topic.roster.borrow_mut().register(self.slot, cx);
        Poll::Pending
    }

    /// The frame that was last peeked at is taken.
    pub(crate) fn commit(&mut self) {
        let mut frames = self.topic.frames.borrow_mut();
        frames.take(self.next);
        frames.trim();
        drop(frames);
        self.next = self.next.wrapping_add(1);
        self.count(|stats| stats.delivered += 1);
    }

    /// Forgets the heartbeats it has not been told of.
    pub(crate) fn skip_beats(&mut self) {
        self.beats = self.topic.beats_of(self.slot);
    }

    /// Whether its topic has heartbeats.
    pub(crate) fn has_heartbeat(&self) -> bool {
        self.topic.config.heartbeat.is_some()
    }

    /// Changes the counters of the shard.
    pub(crate) fn count(&self, change: impl FnOnce(&mut super::HubStats)) {
        if let Some(hub) = self.topic.hub.upgrade() {
            hub.count(change);
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut frames = self.topic.frames.borrow_mut();
        let mut number = self.next;
        if frames.first.wrapping_sub(number) < HALF {
            number = frames.first;
        }
        while frames.take(number) {
            number = number.wrapping_add(1);
        }
        frames.trim();
        drop(frames);
        self.topic.roster.borrow_mut().leave(self.slot);
        if self.topic.everywhere.left(self.topic.shard) {
            self.topic.note();
        }
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let waiting = self.topic.frames.borrow().next().wrapping_sub(self.next);
        f.debug_struct("Subscription")
            .field("topic", &self.topic.everywhere.name)
            .field("waiting", &waiting)
            .finish()
    }
}
