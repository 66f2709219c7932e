//! Bodies: the request's, which can be sent again while nothing of it is lost, and the
//! response's, with its deadlines.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures::task::AtomicWaker;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use throng_runtime::Instant;

use super::error::{Error, Phase};
use super::h1::H1;
use super::h2::Stream;
use crate::rt::Alarm;
use crate::server::BoxError;

/// Most bytes of a whole body given to hyper at a time: what it takes shows how the request
/// gets on.
const PIECE: usize = 64 << 10;

/// The body of a request, kept beside hyper.
pub(super) struct Outgoing {
    source: RefCell<Source>,
    /// How often it has been given to hyper.
    attempt: Cell<u32>,
    /// Something of it has been taken during the present attempt.
    started: Cell<bool>,
    /// How much of a whole one has.
    taken: Cell<usize>,
    /// When hyper took something last.
    pub(super) progress: Cell<Instant>,
    gate: Option<Arc<Gate>>,
    gate_alarm: RefCell<Alarm>,
    gate_timeout: Duration,
}

enum Source {
    Empty,
    /// All of it at once.
    Whole(Bytes),
    Streaming(Pin<Box<dyn HttpBody<Data = Bytes, Error = BoxError>>>),
}

impl Source {
    fn of<B>(body: B) -> Source
    where
        B: HttpBody<Error: Into<BoxError>> + 'static,
    {
        if body.is_end_stream() {
            return Source::Empty;
        }
        let mut body = body;
        if let Some(full) = (&mut body as &mut dyn Any).downcast_mut::<Full<Bytes>>() {
            let mut cx = Context::from_waker(Waker::noop());
            if let Poll::Ready(Some(Ok(frame))) = Pin::new(full).poll_frame(&mut cx) {
                return Source::Whole(frame.into_data().unwrap_or_default());
            }
        }
        let body = body
            .map_frame(|frame| frame.map_data(|mut data| data.copy_to_bytes(data.remaining())))
            .map_err(Into::into);
        Source::Streaming(Box::pin(body))
    }
}

impl Outgoing {
    pub(super) fn new<B>(body: B, gate: Option<Arc<Gate>>, gate_timeout: Duration) -> Rc<Self>
    where
        B: HttpBody<Error: Into<BoxError>> + 'static,
    {
        Rc::new(Outgoing {
            source: RefCell::new(Source::of(body)),
            attempt: Cell::new(0),
            started: Cell::new(false),
            taken: Cell::new(0),
            progress: Cell::new(throng_runtime::now()),
            gate,
            gate_alarm: RefCell::default(),
            gate_timeout,
        })
    }

    /// Whether all of it is still there.
    pub(super) fn can_replay(&self) -> bool {
        !matches!(*self.source.borrow(), Source::Streaming(_)) || !self.started.get()
    }

    /// The body for another attempt; those of earlier ones are of no use from now on.
    pub(super) fn next_attempt(self: &Rc<Self>) -> RequestBody {
        self.attempt.set(self.attempt.get() + 1);
        self.started.set(false);
        self.taken.set(0);
        self.progress.set(throng_runtime::now());
        RequestBody { outgoing: self.clone(), attempt: self.attempt.get() }
    }

    fn poll_gate(&self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        let Some(gate) = &self.gate else { return Poll::Ready(Ok(())) };
        gate.waker.register(cx.waker());
        match gate.state.load(Relaxed) {
            Gate::SHUT => {
                let until = self.progress.get() + self.gate_timeout;
                ready!(self.gate_alarm.borrow_mut().poll_at(until, cx));
                gate.open();
                Poll::Ready(Ok(()))
            }
            Gate::OPEN => Poll::Ready(Ok(())),
            Gate::REFUSED => Poll::Pending,
            _ => Poll::Ready(Err("the response came without the body being asked for".into())),
        }
    }
}

/// What hyper gets of an [`Outgoing`].
pub(super) struct RequestBody {
    outgoing: Rc<Outgoing>,
    attempt: u32,
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let outgoing = &*self.outgoing;
        if outgoing.attempt.get() != self.attempt {
            return Poll::Ready(Some(Err("the request is being sent again".into())));
        }
        if let Err(error) = ready!(outgoing.poll_gate(cx)) {
            return Poll::Ready(Some(Err(error)));
        }
        let frame = match &mut *outgoing.source.borrow_mut() {
            Source::Empty => None,
            Source::Whole(bytes) => {
                let from = outgoing.taken.get();
                let to = bytes.len().min(from + PIECE);
                outgoing.taken.set(to);
                (from < to).then(|| Ok(Frame::data(bytes.slice(from..to))))
            }
            // As long as it is pending, nothing of it is lost.
            Source::Streaming(body) => ready!(body.as_mut().poll_frame(cx)),
        };
        outgoing.started.set(true);
        outgoing.progress.set(throng_runtime::now());
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &*self.outgoing.source.borrow() {
            Source::Empty => true,
            Source::Whole(bytes) => self.outgoing.taken.get() == bytes.len(),
            Source::Streaming(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &*self.outgoing.source.borrow() {
            Source::Empty => SizeHint::with_exact(0),
            Source::Whole(bytes) => {
                SizeHint::with_exact((bytes.len() - self.outgoing.taken.get()) as u64)
            }
            Source::Streaming(body) => body.size_hint(),
        }
    }
}

/// Keeps a body back until the server has asked for it (RFC 9110 10.1.1). Atomics only
/// because hyper's callback for informational responses must be `Send`.
#[derive(Default)]
pub(super) struct Gate {
    state: AtomicU8,
    waker: AtomicWaker,
}

impl Gate {
    const SHUT: u8 = 0;
    const OPEN: u8 = 1;
    /// The response came first: the body stays where it is.
    const REFUSED: u8 = 2;
    /// And has been read: the connection, in the middle of a request, is of no more use.
    const ABANDONED: u8 = 3;

    fn change(&self, from: u8, to: u8) {
        if self.state.compare_exchange(from, to, Relaxed, Relaxed).is_ok() {
            self.waker.wake();
        }
    }

    pub(super) fn open(&self) {
        self.change(Gate::SHUT, Gate::OPEN);
    }

    pub(super) fn refuse(&self) {
        self.change(Gate::SHUT, Gate::REFUSED);
    }

    fn abandon(&self) {
        self.change(Gate::REFUSED, Gate::ABANDONED);
    }
}

/// The body of a response, as it comes.
///
/// Reading it to its end is what returns an HTTP/1 connection to the pool; dropping it before
/// closes the connection, or resets the HTTP/2 stream. What is not read is not taken from the
/// peer either, beyond a few buffers.
pub struct Body {
    incoming: Option<Incoming>,
    alarm: Alarm,
    waiting_since: Option<Instant>,
    timeout: Duration,
    total: Option<Instant>,
    /// What ends with the body.
    claim: Claim,
}

/// What a response holds of its connection.
#[derive(Default)]
pub(super) struct Claim {
    pub(super) stream: Option<Stream>,
    pub(super) gate: Option<Arc<Gate>>,
    /// The HTTP/1 connection it comes on, and which of its requests it answers.
    pub(super) connection: Option<(Rc<H1>, u64)>,
    /// A connection that switches protocols.
    pub(super) switching: Option<Rc<H1>>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(gate) = &self.gate {
            gate.abandon();
        }
        if let Some((connection, request)) = &self.connection {
            connection.answered(*request);
        }
    }
}

impl Body {
    pub(super) fn new(
        incoming: Incoming,
        timeout: Duration,
        total: Option<Instant>,
        claim: Claim,
    ) -> Self {
        let mut body = Body {
            incoming: Some(incoming),
            alarm: Alarm::default(),
            waiting_since: None,
            timeout,
            total,
            claim,
        };
        if body.is_end_stream() && body.claim.switching.is_none() {
            body.finish();
        }
        body
    }

    pub(super) fn take_switching(&mut self) -> Option<Rc<H1>> {
        self.claim.switching.take()
    }

    fn finish(&mut self) {
        self.incoming = None;
        self.alarm.clear();
        self.claim = Claim::default();
    }

    /// The phase whose deadline has passed, while nothing comes.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<Phase> {
        let since = *self.waiting_since.get_or_insert_with(throng_runtime::now);
        let stalled = since + self.timeout;
        let (at, phase) = match self.total {
            Some(total) if total < stalled => (total, Phase::Total),
            _ => (stalled, Phase::Body),
        };
        self.alarm.poll_at(at, cx).map(|()| phase)
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        let Some(incoming) = &mut this.incoming else { return Poll::Ready(None) };
        if this.total.is_some_and(|total| total <= throng_runtime::now()) {
            this.finish();
            return Poll::Ready(Some(Err(Error::timeout(Phase::Total))));
        }
        let result = match Pin::new(incoming).poll_frame(cx) {
            Poll::Pending => {
                let phase = ready!(this.poll_late(cx));
                if let (Some(stream), Some(since)) = (&this.claim.stream, this.waiting_since) {
                    stream.doubt(since);
                }
                this.finish();
                return Poll::Ready(Some(Err(Error::timeout(phase))));
            }
            Poll::Ready(result) => result,
        };
        this.waiting_since = None;
        match result {
            Some(Ok(frame)) => {
                if this.is_end_stream() {
                    this.finish();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                this.finish();
                Poll::Ready(Some(Err(Error::of_hyper(error))))
            }
            None => {
                this.finish();
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.as_ref().map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Body").field("ended", &self.is_end_stream()).finish()
    }
}
