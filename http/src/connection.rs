//! One connection: waiting without hyper, HTTP/1, HTTP/2; its timers; its part in a drain.
//!
//! ```text
//!            first bytes                       an upgrade: hyper hands the stream on
//! Waiting ----------------> Http1 (hyper) ---------------------------------> done
//!    ^   \                    |
//!    |    \ the preface        \ response flushed, nothing more received
//!    |     '--> Http2 (hyper)   |
//!    '--------------------------'  parked: hyper's state and buffers are freed
//! ```
//!
//! Where the service is `Direct`, a plain request that has come whole goes from Waiting to Direct
//! and back, without hyper.
//!
//! An HTTP/1 connection that ends with bytes unread lingers until the peer has ended too.

use std::mem::{self, MaybeUninit};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Incoming};
use hyper::rt::{Read, ReadBuf, Write};
use hyper::server::conn::{http1, http2};
use hyper::service::Service;
use hyper::{Request, Response, StatusCode};
use throng_runtime::Instant;

use crate::accept::Connected;
use crate::activity::Activity;
use crate::io::ServerIo;
use crate::plain::{Direct, End, Exchange, Request as PlainRequest, Terms};
use crate::refused::Reason;
use crate::rt::{Alarm, LocalExecutor};
use crate::server::BoxError;
use crate::service::Tracked;
use crate::shared::{Membership, Phase};

/// What an HTTP/2 client sends first (RFC 9113 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes read, onto the stack, to find out what to do: the whole head of most requests.
const FIRST_READ: usize = 4096;
/// Sent to a client whose request's head does not come to its end (RFC 9110 15.5.9).
const REQUEST_TIMEOUT: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
/// How long, and how many reads in one go, a peer's bytes are read away at the end.
const LINGER: Duration = Duration::from_secs(5);
const DRAIN_READS: usize = 32;

pub(crate) struct Connection<I, S, B>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Direct,
    S::Error: Into<BoxError>,
    B: Body,
{
    state: State<I, S, B>,
    service: Rc<S>,
    alarm: Alarm,
    /// When the present wait began.
    since: Instant,
    membership: Membership,
}

enum State<I, S, B>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Direct,
    S::Error: Into<BoxError>,
    B: Body,
{
    /// No hyper state. `head` is the beginning of what may become the HTTP/2 preface;
    /// `first`: no request has come yet.
    Waiting {
        io: I,
        head: Box<[u8]>,
        first: bool,
    },
    /// The service answers by itself. `ahead`: what the client has sent behind its request.
    Direct {
        io: I,
        exchange: Pin<Box<S::Exchange>>,
        ahead: Option<Box<Ahead>>,
    },
    Http1(Box<Http1<I, S>>),
    Http2(Box<Http2<I, S>>),
    /// The last response is out; what the peer still sends is read away. Closing at once would
    /// reset the connection (RFC 2525 2.17), and the response might be lost with it.
    Linger {
        io: I,
        shut: bool,
    },
    Done,
}

/// Bytes behind a pointer alone: a state of two words more would make those larger that wait.
struct Ahead(Box<[u8]>);

impl Ahead {
    fn of(bytes: &[u8]) -> Option<Box<Ahead>> {
        (!bytes.is_empty()).then(|| Box::new(Ahead(bytes.into())))
    }
}

struct Http1<I, S>
where
    S: Service<Request<Incoming>>,
    Tracked<S>: hyper::service::HttpService<Incoming>,
{
    hyper: http1::UpgradeableConnection<ServerIo<I>, Tracked<S>>,
    activity: Arc<Activity>,
    /// hyper has been told to end after the present request.
    ending: bool,
}

impl<I, S, B> Http1<I, S>
where
    I: Read + Write + Unpin,
    S: Service<Request<Incoming>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    B: Body + 'static,
    B::Error: Into<BoxError>,
{
    fn end(&mut self) {
        self.ending = true;
        Pin::new(&mut self.hyper).graceful_shutdown();
    }
}

struct Http2<I, S>
where
    S: Service<Request<Incoming>>,
    Tracked<S>: hyper::service::HttpService<Incoming>,
{
    hyper: http2::Connection<ServerIo<I>, Tracked<S>, LocalExecutor>,
    activity: Arc<Activity>,
    /// The client, to say whose connection it was.
    peer: Option<SocketAddr>,
    ending: bool,
}

/// What to do after a state has been polled.
enum Next {
    /// Poll the new state.
    Again,
    /// Wait, at most until then.
    Wait(Option<Instant>),
    Done,
}

impl<I, S, B> Connection<I, S, B>
where
    I: Connected + Read + Write + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<B>> + Direct + 'static,
    S: Service<Request<Incoming>, Error: Into<BoxError>, Future: 'static>,
    B: Body<Error: Into<BoxError>> + 'static,
{
    pub(crate) fn new(io: I, service: Rc<S>, membership: Membership) -> Self {
        Connection {
            state: State::Waiting { io, head: Box::default(), first: true },
            service,
            alarm: Alarm::default(),
            since: throng_runtime::now(),
            membership,
        }
    }

    fn draining(&self) -> bool {
        self.membership.shared.phase() != Phase::Serving
    }

    fn poll_waiting(&mut self, cx: &mut Context<'_>) -> Next {
        let phase = self.membership.shared.phase();
        let State::Waiting { io, head, first } = &mut self.state else { return Next::Done };
        let mut space = [MaybeUninit::uninit(); FIRST_READ];
        let mut buf = ReadBuf::uninit(&mut space);
        match Pin::new(io).poll_read(cx, buf.unfilled()) {
            Poll::Pending => {
                let settings = &self.membership.shared.settings;
                let limit = if *first { settings.header_timeout } else { settings.idle_timeout };
                let until = self.since + limit;
                return match phase {
                    // A request that has come before the drain is answered, and one that may be
                    // on its way, where the settings say so.
                    Phase::Draining { idle, .. } if head.is_empty() => {
                        match idle > throng_runtime::now() {
                            true => Next::Wait(Some(until.min(idle))),
                            false => Next::Done,
                        }
                    }
                    _ => Next::Wait(Some(until)),
                };
            }
            Poll::Ready(Ok(())) if !buf.filled().is_empty() => {}
            Poll::Ready(_) => return Next::Done,
        }
        self.arrived(buf.filled())
    }

    /// These bytes have come while it was waiting.
    fn arrived(&mut self, bytes: &[u8]) -> Next {
        if let Some(next) = self.begin_direct(bytes) {
            return next;
        }
        let State::Waiting { head, first, .. } = &mut self.state else { return Next::Done };
        *head = [&head[..], bytes].concat().into();
        // RFC 9112 2.2: empty lines before a request mean nothing.
        if head.iter().all(|byte| matches!(byte, b'\r' | b'\n')) {
            *head = Box::default();
            return Next::Again;
        }
        let settings = &self.membership.shared.settings;
        let may_be_http2 = *first && settings.http2;
        if may_be_http2 && head.len() < PREFACE.len() && PREFACE.starts_with(head) {
            return Next::Again;
        }
        let is_http2 = may_be_http2 && head.starts_with(PREFACE);
        if !is_http2 && !settings.http1 {
            return Next::Done;
        }
        let State::Waiting { io, head, .. } = mem::replace(&mut self.state, State::Done) else {
            return Next::Done;
        };
        // From now on the wait is for the rest of the head.
        self.since = throng_runtime::now();
        self.engage(io, Bytes::from(head), is_http2, None);
        Next::Again
    }

    /// Has the service answer by itself, where it does and all of a plain request has come.
    fn begin_direct(&mut self, bytes: &[u8]) -> Option<Next> {
        let shared = &self.membership.shared;
        let settings = &shared.settings;
        let State::Waiting { head, .. } = &self.state else { return None };
        let may = S::WANTED && settings.http1 && bytes.len() <= settings.max_header_size;
        if !may || !head.is_empty() {
            return None;
        }
        let mut scratch = shared.scratch.borrow_mut();
        let request = PlainRequest::parse(bytes, settings.max_headers, &mut scratch)?;
        let body = &bytes[request.size..];
        let (body, ahead) = body.split_at_checked(usize::try_from(request.length).ok()?)?;
        let exchange = Box::pin(self.service.begin(request, body)?);
        shared.count(|counters| counters.requests += 1);
        let ahead = Ahead::of(ahead);
        let State::Waiting { io, .. } = mem::replace(&mut self.state, State::Done) else {
            return None;
        };
        self.state = State::Direct { io, exchange, ahead };
        Some(Next::Again)
    }

    fn poll_direct(&mut self, cx: &mut Context<'_>) -> Next {
        // A client that has sent very many requests at once would have them all answered in one go.
        if throng_runtime::coop::poll_proceed(cx).is_pending() {
            return Next::Wait(None);
        }
        let shared = &self.membership.shared;
        let terms = Terms {
            closing: shared.phase() != Phase::Serving,
            date: shared.settings.date_header,
            patience: shared.settings.body_timeout,
        };
        let State::Direct { io, exchange, ahead } = &mut self.state else { return Next::Done };
        let Poll::Ready(end) = exchange.as_mut().poll(io, terms, cx) else {
            // Nobody else would notice that the client leaves. What it sends is for later, and as long
            // as there is some, it may have left after that: it is looked at as hyper does.
            while ahead.is_none() {
                let mut space = [MaybeUninit::uninit(); FIRST_READ];
                let mut buf = ReadBuf::uninit(&mut space);
                match Pin::new(&mut *io).poll_read(cx, buf.unfilled()) {
                    Poll::Pending => break,
                    Poll::Ready(Ok(())) if !buf.filled().is_empty() => {
                        *ahead = Ahead::of(buf.filled());
                    }
                    // As hyper has it, for whom no connection is half-closed.
                    Poll::Ready(_) => {
                        shared.count(|counters| counters.errors += 1);
                        return Next::Done;
                    }
                }
            }
            return Next::Wait(exchange.deadline());
        };
        let State::Direct { io, exchange, ahead } = mem::replace(&mut self.state, State::Done)
        else {
            return Next::Done;
        };
        let ahead = ahead.map_or_else(Box::default, |ahead| ahead.0);
        self.since = throng_runtime::now();
        if end == End::Hyper {
            let Some((request, made)) = S::hand_over(exchange) else { return Next::Done };
            let all =
                if ahead.is_empty() { request } else { [&request[..], &ahead].concat().into() };
            self.engage(io, all, false, Some(made));
            return Next::Again;
        }
        if end == End::Over && !ahead.is_empty() {
            self.state = State::Linger { io, shut: false };
            return Next::Again;
        }
        self.state = State::Waiting { io, head: Box::default(), first: false };
        match end {
            End::Answered if ahead.is_empty() => Next::Again,
            End::Answered => self.arrived(&ahead),
            End::Over | End::Hyper => Next::Done,
            End::Stalled => {
                self.membership.shared.count(|counters| counters.body_timeouts += 1);
                Next::Done
            }
            End::Lost => {
                self.membership.shared.count(|counters| counters.errors += 1);
                Next::Done
            }
        }
    }

    /// Hands the stream and what has been read of it to hyper, and what is `made` of the first request
    /// in it, if that was done.
    fn engage(&mut self, io: I, ahead: Bytes, is_http2: bool, made: Option<S::Future>) {
        let draining = self.draining();
        let activity = Arc::new(Activity::new(!is_http2));
        let peer = if is_http2 { io.peer_addr() } else { None };
        let io = ServerIo::new(io, ahead, activity.clone());
        let shared = self.membership.shared.clone();
        let service = Tracked::new(self.service.clone(), activity.clone(), shared.clone(), made);
        self.state = if is_http2 {
            shared.count(|counters| counters.http2 += 1);
            let hyper = shared.builders.http2.serve_connection(io, service);
            State::Http2(Box::new(Http2 { hyper, activity, peer, ending: false }))
        } else {
            // Told to end before it has seen a byte, hyper would end at once.
            let builders = &shared.builders;
            let builder = if draining { &builders.last } else { &builders.http1 };
            let hyper = builder.serve_connection(io, service).with_upgrades();
            State::Http1(Box::new(Http1 { hyper, activity, ending: draining }))
        };
    }

    fn poll_http1(&mut self, cx: &mut Context<'_>) -> Next {
        let draining = self.draining();
        let stays_until = self.stays_until();
        let State::Http1(http1) = &mut self.state else { return Next::Done };
        match stays_until {
            Some(_) => http1.activity.set_last(),
            None if draining && !http1.ending => http1.end(),
            None => {}
        }
        let shared = &self.membership.shared;
        let hyper = Pin::new(&mut http1.hyper);
        if let Poll::Ready(result) = http1.activity.watch(|| hyper.poll(cx)) {
            if let Err(error) = &result {
                tracing::debug!(%error, "HTTP/1 connection failed");
                shared.count(|counters| counters.errors += 1);
            }
            // What an upgraded stream carries is not HTTP.
            let unread = result.is_err() || !http1.activity.is_between();
            let refused = match &result {
                Err(error) => Reason::of_hyper(error),
                Ok(()) => http1.activity.refused().map(Reason::of_fault),
            };
            http1.activity.set_free();
            return self.end_http1(unread, refused);
        }
        let activity = &http1.activity;
        if let Some(since) = activity.stalled_since() {
            return Next::Wait(Some(since + shared.settings.body_timeout));
        }
        if activity.is_busy() {
            return Next::Wait(None);
        }
        if let Some(since) = activity.head_since() {
            // It may have come while the last request was under way.
            let since = since.max(activity.ended_at());
            return Next::Wait(Some(since + shared.settings.header_timeout));
        }
        self.since = self.since.max(activity.ended_at());
        let idle_until = self.since + shared.settings.idle_timeout;
        if !activity.at_rest() || !shared.settings.park || http1.ending {
            let until = self.stays_until().map_or(idle_until, |stays| idle_until.min(stays));
            return Next::Wait(Some(until));
        }
        self.park()
    }

    /// In a drain: how long a connection that hyper has between two requests may stay for one that
    /// may be on its way.
    fn stays_until(&self) -> Option<Instant> {
        let State::Http1(http1) = &self.state else { return None };
        match self.membership.shared.phase() {
            Phase::Draining { idle, .. } if !http1.ending && http1.activity.at_rest() => {
                Some(idle).filter(|idle| *idle > throng_runtime::now())
            }
            _ => None,
        }
    }

    /// Takes the stream back from hyper, which is between two requests.
    fn park(&mut self) -> Next {
        let State::Http1(http1) = mem::replace(&mut self.state, State::Done) else {
            return Next::Done;
        };
        // Gone already if it has just been upgraded.
        let Some(parts) = http1.hyper.into_parts() else { return Next::Done };
        debug_assert!(parts.read_buf.is_empty(), "hyper gets no byte of a request to come");
        let (io, _) = parts.io.into_parts();
        self.membership.shared.count(|counters| counters.parked += 1);
        self.state = State::Waiting { io, head: Box::default(), first: false };
        Next::Again
    }

    /// Ends with the stream where all is read, and lingers where not.
    /// `refused`: why its last request was.
    fn end_http1(&mut self, unread: bool, refused: Option<Reason>) -> Next {
        let State::Http1(http1) = mem::replace(&mut self.state, State::Done) else {
            return Next::Done;
        };
        let Some(parts) = http1.hyper.into_parts() else { return Next::Done };
        let (io, ahead) = parts.io.into_parts();
        if let Some(reason) = refused {
            self.membership.shared.refused(|| reason.of(io.peer_addr()));
        }
        if !unread && ahead.is_empty() && parts.read_buf.is_empty() {
            return Next::Done;
        }
        self.since = throng_runtime::now();
        self.state = State::Linger { io, shut: false };
        Next::Again
    }

    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Next {
        let State::Linger { io, shut } = &mut self.state else { return Next::Done };
        let wait = Next::Wait(Some(self.since + LINGER));
        if !*shut {
            match Pin::new(&mut *io).poll_shutdown(cx) {
                Poll::Pending => return wait,
                Poll::Ready(Ok(())) => *shut = true,
                Poll::Ready(Err(_)) => return Next::Done,
            }
        }
        let mut space = [MaybeUninit::uninit(); FIRST_READ];
        for _ in 0..DRAIN_READS {
            let mut buf = ReadBuf::uninit(&mut space);
            match Pin::new(&mut *io).poll_read(cx, buf.unfilled()) {
                Poll::Pending => return wait,
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => {}
                Poll::Ready(_) => return Next::Done,
            }
        }
        cx.waker().wake_by_ref();
        wait
    }

    fn poll_http2(&mut self, cx: &mut Context<'_>) -> Next {
        let draining = self.draining();
        let State::Http2(http2) = &mut self.state else { return Next::Done };
        if draining && !http2.ending {
            http2.ending = true;
            Pin::new(&mut http2.hyper).graceful_shutdown();
        }
        let shared = &self.membership.shared;
        if let Poll::Ready(result) = Pin::new(&mut http2.hyper).poll(cx) {
            if let Err(error) = result {
                tracing::debug!(%error, "HTTP/2 connection failed");
                shared.count(|counters| counters.errors += 1);
                if let Some(reason) = Reason::of_http2(&error) {
                    let peer = http2.peer;
                    shared.refused(|| reason.of(peer));
                }
            }
            return Next::Done;
        }
        if let Some(since) = http2.activity.stalled_since() {
            return Next::Wait(Some(since + shared.settings.body_timeout));
        }
        // Streams end in tasks of their own, so the clock is looked at in any case.
        if http2.activity.is_busy() {
            let again = throng_runtime::now() + shared.settings.idle_timeout;
            return Next::Wait(Some(again));
        }
        self.since = self.since.max(http2.activity.ended_at());
        Next::Wait(Some(self.since + shared.settings.idle_timeout))
    }

    /// The present wait has lasted too long.
    fn on_timeout(&mut self, cx: &mut Context<'_>) -> Next {
        let shared = self.membership.shared.clone();
        match &mut self.state {
            State::Waiting { head, .. } if head.is_empty() && shared.phase() != Phase::Serving => {
                Next::Done
            }
            State::Waiting { first, .. } => {
                let first = *first;
                shared.count(|counters| match first {
                    true => counters.header_timeouts += 1,
                    false => counters.idle_timeouts += 1,
                });
                Next::Done
            }
            State::Http1(http1) if http1.activity.stalled_since().is_some() => {
                shared.count(|counters| counters.body_timeouts += 1);
                self.refuse(cx)
            }
            State::Http2(http2) if http2.activity.stalled_since().is_some() => {
                shared.count(|counters| counters.body_timeouts += 1);
                Next::Done
            }
            State::Http1(http1) if http1.activity.head_since().is_some() => {
                shared.count(|counters| counters.header_timeouts += 1);
                self.refuse(cx)
            }
            State::Http1(http1) if http1.ending => Next::Done,
            State::Http1(http1) if shared.phase() != Phase::Serving => {
                http1.end();
                Next::Again
            }
            State::Http1(http1) => {
                shared.count(|counters| counters.idle_timeouts += 1);
                http1.end();
                self.since = throng_runtime::now();
                Next::Again
            }
            State::Http2(http2) if http2.activity.is_busy() => Next::Again,
            // The peer has not answered GOAWAY by closing.
            State::Http2(http2) if http2.ending => Next::Done,
            State::Http2(http2) => {
                shared.count(|counters| counters.idle_timeouts += 1);
                http2.ending = true;
                Pin::new(&mut http2.hyper).graceful_shutdown();
                self.since = throng_runtime::now();
                Next::Again
            }
            // It sees the time by itself.
            State::Direct { .. } => Next::Again,
            State::Linger { .. } | State::Done => Next::Done,
        }
    }

    /// Says that the request came too slowly, where that can be said, and closes. What the
    /// stream does not take at once is not sent.
    fn refuse(&mut self, cx: &mut Context<'_>) -> Next {
        let State::Http1(http1) = &self.state else { return Next::Done };
        if !http1.activity.may_answer() {
            return Next::Done;
        }
        let why = "the request did not come in time".into();
        let reason = Reason { status: StatusCode::REQUEST_TIMEOUT, why };
        let next = self.end_http1(true, Some(reason));
        if let State::Linger { io, .. } = &mut self.state {
            let _ = Pin::new(io).poll_write(cx, REQUEST_TIMEOUT);
        }
        next
    }
}

impl<I, S, B> Future for Connection<I, S, B>
where
    I: Connected + Read + Write + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<B>> + Direct + 'static,
    S: Service<Request<Incoming>, Error: Into<BoxError>, Future: 'static>,
    B: Body<Error: Into<BoxError>> + 'static,
{
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        this.membership.register(cx);
        loop {
            let phase = this.membership.shared.phase();
            if phase == Phase::Cut {
                this.membership.shared.count(|counters| counters.cut += 1);
                return Poll::Ready(());
            }
            let next = match &this.state {
                State::Waiting { .. } => this.poll_waiting(cx),
                State::Direct { .. } => this.poll_direct(cx),
                State::Http1(_) => this.poll_http1(cx),
                State::Http2(_) => this.poll_http2(cx),
                State::Linger { .. } => this.poll_linger(cx),
                State::Done => Next::Done,
            };
            let next = match (next, phase) {
                (Next::Wait(until), Phase::Draining { until: cut, .. })
                    if until.is_none_or(|until| cut < until) =>
                {
                    ready!(this.alarm.poll_at(cut, cx));
                    // Any connection will do: whoever drains need not wait for it.
                    this.membership.shared.cut();
                    Next::Again
                }
                (Next::Wait(None), _) => return Poll::Pending,
                (Next::Wait(Some(at)), _) => {
                    ready!(this.alarm.poll_at(at, cx));
                    this.on_timeout(cx)
                }
                (next, _) => next,
            };
            if let Next::Done = next {
                // To TLS an end that is not announced is an error; to TCP this is the same as
                // what follows.
                if let State::Waiting { io, .. } = &mut this.state {
                    let _ = Pin::new(io).poll_shutdown(cx);
                }
                return Poll::Ready(());
            }
        }
    }
}

// Nothing in here is pinned: hyper's connections are `Unpin`, and so is the stream.
impl<I, S, B> Unpin for Connection<I, S, B>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Direct,
    S::Error: Into<BoxError>,
    B: Body,
{
}
