//! What the driver of a connection must know and hyper does not tell.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::task::Poll;

use throng_runtime::Instant;

use crate::framing::{Extent, Place};
use crate::lines::Fault;

/// Notes of what passes between hyper, the stream and the service.
///
/// Atomics only because hyper demands `Send` of an upgraded stream; one thread uses them,
/// with plain loads and stores.
#[derive(Debug)]
pub(crate) struct Activity {
    /// Requests whose response has not been produced to its end.
    in_flight: AtomicU32,
    /// When the last of them was, or when the last bytes of one left, in nanoseconds of the
    /// shard's clock.
    ended_at: AtomicU64,
    /// A [`Place`] as a number, or [`FREE`].
    place: AtomicU8,
    /// What follows the last head, as hyper says; [`UNSAID`] until then and once it is known.
    extent: AtomicU64,
    /// What is wrong with the request to come, or the connection: see [`Fault::number`].
    fault: AtomicU8,
    /// A request was refused for that.
    refused: AtomicBool,
    /// When the head began that is not complete.
    head: Since,
    /// Since when hyper has waited for more of a request's body.
    starved: Since,
    /// hyper has asked for bytes since it was last polled.
    asked: AtomicBool,
    /// Since when the stream has taken nothing of what hyper has to write.
    stuck: Since,
    /// hyper has written what it has not flushed, or could not write.
    unflushed: AtomicBool,
    /// hyper is shutting the stream.
    closing: AtomicBool,
    /// The next response is to be the connection's last.
    last: AtomicBool,
    /// Bytes read that hyper has not been given.
    ahead: AtomicBool,
    /// The last body ended after its response. hyper then tells its reader of the end only
    /// with the next request, and of an error if it is taken apart before.
    late: AtomicBool,
    /// Something was written since the last request began.
    answered: AtomicBool,
}

/// As many bytes as HTTP/2 frames without payload of the service's take in one write.
const CONTROL_FRAMES: usize = 64;

const BETWEEN: u8 = 0;
const NEWLINES: u8 = 1;
const HEAD: u8 = 2;
const BODY: u8 = 3;
const FREE: u8 = 4;

/// Beside lengths, which hyper keeps below these.
const UNSAID: u64 = u64::MAX;
const CHUNKED: u64 = u64::MAX - 1;

/// A moment, if there was one.
#[derive(Debug, Default)]
struct Since(AtomicU64);

impl Since {
    /// From now, unless from before; or not any more.
    fn set(&self, holds: bool) {
        if !holds {
            self.0.store(0, Relaxed);
        } else if self.0.load(Relaxed) == 0 {
            self.0.store(throng_runtime::now().as_nanos() + 1, Relaxed);
        }
    }

    fn get(&self) -> Option<Instant> {
        Some(Instant::from_nanos(self.0.load(Relaxed).checked_sub(1)?))
    }
}

impl Activity {
    /// Of a connection whose messages are followed, or (HTTP/2) are not.
    pub(crate) fn new(followed: bool) -> Self {
        Activity {
            in_flight: AtomicU32::new(0),
            ended_at: AtomicU64::new(0),
            place: AtomicU8::new(if followed { BETWEEN } else { FREE }),
            extent: AtomicU64::new(UNSAID),
            fault: AtomicU8::new(0),
            refused: AtomicBool::new(false),
            head: Since::default(),
            starved: Since::default(),
            asked: AtomicBool::new(false),
            stuck: Since::default(),
            unflushed: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            last: AtomicBool::new(false),
            ahead: AtomicBool::new(false),
            late: AtomicBool::new(false),
            answered: AtomicBool::new(false),
        }
    }

    /// hyper hands a request to the service.
    pub(crate) fn begin(&self, extent: Extent) {
        self.in_flight.store(self.in_flight.load(Relaxed) + 1, Relaxed);
        self.answered.store(false, Relaxed);
        self.late.store(false, Relaxed);
        if self.is_free() {
            return;
        }
        let (extent, place) = match extent {
            Extent::Empty => (0, BETWEEN),
            Extent::Length(length) => (length, BODY),
            Extent::Chunked => (CHUNKED, BODY),
        };
        self.extent.store(extent, Relaxed);
        self.place.store(place, Relaxed);
    }

    /// A response has been produced or given up.
    pub(crate) fn end(&self) {
        self.in_flight.store(self.in_flight.load(Relaxed).saturating_sub(1), Relaxed);
        // Outside a shard (a connection dropped after its world) there is no clock to read.
        if throng_runtime::try_current_shard().is_some() {
            self.ended_at.store(throng_runtime::now().as_nanos(), Relaxed);
        }
    }

    pub(crate) fn ended_at(&self) -> Instant {
        Instant::from_nanos(self.ended_at.load(Relaxed))
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.in_flight.load(Relaxed) > 0
    }

    /// What follows the head that has passed, once.
    pub(crate) fn take_extent(&self) -> Option<Extent> {
        match self.extent.swap(UNSAID, Relaxed) {
            UNSAID => None,
            0 => Some(Extent::Empty),
            CHUNKED => Some(Extent::Chunked),
            length => Some(Extent::Length(length)),
        }
    }

    /// The request to come is ambiguous, and with it all that may follow.
    pub(crate) fn set_fault(&self, fault: Fault) {
        self.fault.store(Fault::number(Some(fault)), Relaxed);
    }

    /// Whether a request that hyper hands out is to be refused, which it then is.
    pub(crate) fn refuse(&self) -> bool {
        let faulty = self.fault.load(Relaxed) != 0;
        if faulty {
            self.refused.store(true, Relaxed);
        }
        faulty
    }

    /// Why a request was.
    pub(crate) fn refused(&self) -> Option<Fault> {
        self.refused.load(Relaxed).then(|| Fault::of_number(self.fault.load(Relaxed)))?
    }

    pub(crate) fn set_place(&self, place: Place) {
        self.head.set(place == Place::Head);
        let place = match place {
            Place::Between { newlines: false } => BETWEEN,
            Place::Between { newlines: true } => NEWLINES,
            Place::Head | Place::Unsaid => HEAD,
            Place::Body => BODY,
        };
        if self.place.swap(place, Relaxed) == BODY && place != BODY && !self.is_busy() {
            self.late.store(true, Relaxed);
        }
    }

    /// Messages are followed no longer.
    pub(crate) fn set_free(&self) {
        self.head.set(false);
        self.starved.set(false);
        self.place.store(FREE, Relaxed);
    }

    pub(crate) fn is_free(&self) -> bool {
        self.place.load(Relaxed) == FREE
    }

    /// Nothing of a message has been given to hyper without the rest of it.
    pub(crate) fn is_between(&self) -> bool {
        matches!(self.place.load(Relaxed), BETWEEN | NEWLINES)
    }

    /// Since when part of a request's head has been there.
    pub(crate) fn head_since(&self) -> Option<Instant> {
        self.head.get()
    }

    /// Polls hyper, which asks for more of a body at every poll, if it still wants it.
    pub(crate) fn watch<T>(&self, poll: impl FnOnce() -> T) -> T {
        self.asked.store(false, Relaxed);
        let result = poll();
        if !self.asked.load(Relaxed) {
            self.starved.set(false);
        }
        result
    }

    /// hyper has read from the stream.
    pub(crate) fn read(&self, pending: bool) {
        self.asked.store(true, Relaxed);
        self.starved.set(pending && self.place.load(Relaxed) == BODY);
    }

    pub(crate) fn set_ahead(&self, ahead: bool) {
        self.ahead.store(ahead, Relaxed);
    }

    /// hyper has written to the stream.
    pub(crate) fn wrote(&self, result: &Poll<io::Result<usize>>) {
        self.unflushed.store(true, Relaxed);
        self.stuck.set(result.is_pending());
        if result.is_ready() {
            self.answered.store(true, Relaxed);
        }
        // HTTP/2 keeps what its windows leave no room for: a response that still leaves has not
        // ended, but settings, pings and window updates (at most 17 bytes each) are no life.
        if matches!(result, Poll::Ready(Ok(written)) if *written > CONTROL_FRAMES) {
            self.ended_at.store(throng_runtime::now().as_nanos(), Relaxed);
        }
    }

    /// hyper has flushed the stream.
    pub(crate) fn flushed(&self, pending: bool, done: bool) {
        self.unflushed.store(!done, Relaxed);
        self.stuck.set(pending);
    }

    pub(crate) fn shutting(&self) {
        self.closing.store(true, Relaxed);
    }

    /// The next response is the connection's last.
    pub(crate) fn set_last(&self) {
        self.last.store(true, Relaxed);
    }

    pub(crate) fn is_last(&self) -> bool {
        self.last.load(Relaxed)
    }

    /// Since when the peer has sent nothing of a body that is waited for, or taken nothing of
    /// what it is sent.
    pub(crate) fn stalled_since(&self) -> Option<Instant> {
        self.starved.get().into_iter().chain(self.stuck.get()).min()
    }

    /// A response of ours would be the next thing the peer reads.
    pub(crate) fn may_answer(&self) -> bool {
        let begun = self.is_busy() && self.answered.load(Relaxed);
        !begun && !self.unflushed.load(Relaxed) && !self.closing.load(Relaxed)
    }

    /// Between two HTTP/1 requests with nothing left to read or write of either.
    pub(crate) fn at_rest(&self) -> bool {
        let unrest = [&self.unflushed, &self.closing, &self.ahead, &self.late];
        !self.is_busy()
            && self.place.load(Relaxed) == BETWEEN
            && !unrest.iter().any(|flag| flag.load(Relaxed))
    }
}
