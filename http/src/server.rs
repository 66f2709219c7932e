//! The server: settings, the accept loop, the drain.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{Either, select};
use hyper::body::{Body, Incoming};
use hyper::service::Service;
use hyper::{Request, Response};

use crate::accept::{Accept, Connected};
use crate::body::RequestBody;
use crate::builders::DEFAULT_MAX_HEADERS;
use crate::connection::Connection;
use crate::drain::{Drain, Stage};
use crate::plain::Direct;
use crate::refused::Refused;
use crate::served::Served;
use crate::shared::{Counters, Drained, Membership, Phase, Shared};

/// Any error of a service or body, as hyper takes it.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// First pause after the listener fails; it doubles up to [`BACKOFF_MAX`].
const BACKOFF_MIN: Duration = Duration::from_millis(5);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// Settings of an HTTP server. [`Server::start`] makes a [`Running`] one of them.
///
/// ```no_run
/// # use std::{convert::Infallible, time::Duration};
/// # use http_body_util::Full;
/// # use hyper::{Request, Response, body::Bytes};
/// # async fn example(listener: impl throng_http::Accept + 'static) {
/// let drain = throng_http::Drain::on_terminate(Duration::from_secs(10));
/// let server = throng_http::Server::new()
///     .max_connections(100_000)
///     .idle_timeout(Duration::from_secs(30))
///     .start();
/// let hello = throng_http::service_fn(|_: Request<throng_http::Body>| async {
///     Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("hello\n"))))
/// });
/// server.serve_until(&drain, listener, hello).await;
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Server {
    pub(crate) max_connections: usize,
    pub(crate) max_header_size: usize,
    pub(crate) max_headers: usize,
    pub(crate) max_streams: u32,
    pub(crate) header_timeout: Duration,
    pub(crate) body_timeout: Duration,
    pub(crate) idle_timeout: Duration,
    pub(crate) drain_idle: Duration,
    pub(crate) http2_ping: Option<(Duration, Duration)>,
    pub(crate) http1: bool,
    pub(crate) http2: bool,
    pub(crate) date_header: bool,
    pub(crate) park: bool,
    pub(crate) strict: bool,
}

impl Default for Server {
    fn default() -> Self {
        Server {
            max_connections: usize::MAX,
            max_header_size: 16 << 10,
            max_headers: DEFAULT_MAX_HEADERS,
            max_streams: 128,
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(60),
            drain_idle: Duration::ZERO,
            http2_ping: None,
            http1: true,
            http2: true,
            date_header: true,
            park: true,
            strict: true,
        }
    }
}

impl Server {
    /// The default settings.
    pub fn new() -> Self {
        Server::default()
    }

    /// Most connections open at a time on this shard; further ones wait in the listener's
    /// backlog. Default: as many as the stack takes.
    #[must_use]
    pub fn max_connections(mut self, max: usize) -> Self {
        self.max_connections = max;
        self
    }

    /// Largest head of a request in bytes, answered with 431 beyond. Default 16 KiB, at most
    /// 256 KiB.
    #[must_use]
    pub fn max_header_size(mut self, bytes: usize) -> Self {
        self.max_header_size = bytes.min(256 << 10);
        self
    }

    /// Most header fields of an HTTP/1 request, answered with 431 beyond. Default 100.
    #[must_use]
    pub fn max_headers(mut self, count: usize) -> Self {
        self.max_headers = count;
        self
    }

    /// Most requests at a time on one HTTP/2 connection. Default 128.
    #[must_use]
    pub fn max_streams(mut self, count: u32) -> Self {
        self.max_streams = count;
        self
    }

    /// How long the head of a request may take from its first byte, and the first byte of a
    /// connection from its start. Default 10 s.
    #[must_use]
    pub fn header_timeout(mut self, timeout: Duration) -> Self {
        self.header_timeout = timeout;
        self
    }

    /// How long a body may stand still: a request's, of which the service waits for more and
    /// nothing comes, or a response's, of which the peer takes nothing. The connection is then
    /// closed, with 408 where no response has begun. Of HTTP/2 only the second is watched.
    /// Default 60 s.
    #[must_use]
    pub fn body_timeout(mut self, timeout: Duration) -> Self {
        self.body_timeout = timeout;
        self
    }

    /// How long a connection is kept without a request. Default 60 s.
    #[must_use]
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle_timeout = timeout;
        self
    }

    /// How long, in a drain, a connection without a request may stay, and a TLS handshake go on:
    /// the client may have sent a request that is still on its way, and would see its connection
    /// closed instead of an answer. The request is answered with `connection: close`. Default: 0.
    #[must_use]
    pub fn drain_idle(mut self, patience: Duration) -> Self {
        self.drain_idle = patience;
        self
    }

    /// Pings HTTP/2 peers every `interval`, and drops one that has not answered after
    /// `timeout`. Default: no pings.
    #[must_use]
    pub fn http2_ping(mut self, interval: Duration, timeout: Duration) -> Self {
        self.http2_ping = Some((interval, timeout));
        self
    }

    /// Whether HTTP/1 is served. Default true.
    #[must_use]
    pub fn http1(mut self, enabled: bool) -> Self {
        self.http1 = enabled;
        self
    }

    /// Whether HTTP/2 (cleartext with prior knowledge, known by its first bytes: RFC 9113
    /// 3.3) is served. Default true.
    #[must_use]
    pub fn http2(mut self, enabled: bool) -> Self {
        self.http2 = enabled;
        self
    }

    /// Whether responses get a `date` header. Default true.
    #[must_use]
    pub fn date_header(mut self, enabled: bool) -> Self {
        self.date_header = enabled;
        self
    }

    /// Whether an HTTP/1 connection gives hyper's state and buffers back between two
    /// requests. Default true.
    #[must_use]
    pub fn park(mut self, enabled: bool) -> Self {
        self.park = enabled;
        self
    }

    /// Whether an HTTP/1 request is refused that another recipient of it may understand in
    /// another way, so that what stands behind one of us could be made to see a request in it that
    /// we do not: `content-length` beside `transfer-encoding` or either of them twice (RFC 9112
    /// 6.1, 6.3), a line without a CR at its end (2.2). It is answered with 400, and the connection
    /// ends. Default true.
    #[must_use]
    pub fn strict(mut self, enabled: bool) -> Self {
        self.strict = enabled;
        self
    }

    /// A server with these settings, on this shard. It serves nothing yet.
    ///
    /// Its [`Counters`] are among the shard's numbers ([`throng_net::stats::sheet`]), added up
    /// with those of other servers, until it is dropped.
    pub fn start(self) -> Running {
        let running = self.start_uncounted();
        // A shard without a network is one of a test's: nobody asks it for its numbers.
        let _ = throng_net::stats::register("http", running.0.clone());
        running
    }

    /// A server whose numbers are not the operator's business.
    pub(crate) fn start_uncounted(self) -> Running {
        Running(Rc::new(Shared::new(self)))
    }
}

/// A server on this shard: serves listeners, counts, drains. Clones are the same server.
#[derive(Clone)]
pub struct Running(Rc<Shared>);

impl Running {
    /// Serves a listener with one service for all its connections, until drained.
    ///
    /// A failing listener is asked again after a pause. Dropping this future closes the
    /// listener; connections go on.
    pub async fn serve<A, S, In, B>(&self, listener: A, service: S) -> Drained
    where
        A: Accept,
        In: RequestBody,
        S: Service<Request<In>, Response = Response<B>> + 'static,
        S: Service<Request<In>, Error: Into<BoxError>, Future: 'static>,
        B: Body<Error: Into<BoxError>> + 'static,
    {
        let service = Rc::new(Served::new(service));
        self.serve_shared(listener, move |_, _| service.clone()).await
    }

    /// [`serve`](Running::serve)s until `drain` begins, and then drains this server by the same
    /// deadline.
    pub async fn serve_until<A, S, In, B>(&self, drain: &Drain, listener: A, service: S) -> Drained
    where
        A: Accept,
        In: RequestBody,
        S: Service<Request<In>, Response = Response<B>> + 'static,
        S: Service<Request<In>, Error: Into<BoxError>, Future: 'static>,
        B: Body<Error: Into<BoxError>> + 'static,
    {
        self.drained_with(drain, self.serve(listener, service)).await
    }

    /// Serves a listener with a service of its own for each connection, made by `make` from
    /// the peer's address.
    pub async fn serve_each<A, S, In, B>(
        &self,
        listener: A,
        mut make: impl FnMut(SocketAddr) -> S,
    ) -> Drained
    where
        A: Accept,
        In: RequestBody,
        S: Service<Request<In>, Response = Response<B>> + 'static,
        S: Service<Request<In>, Error: Into<BoxError>, Future: 'static>,
        B: Body<Error: Into<BoxError>> + 'static,
    {
        self.serve_streams(listener, move |_, peer| make(peer)).await
    }

    /// [`serve_each`](Running::serve_each)s until `drain` begins, and then drains this server by
    /// the same deadline.
    pub async fn serve_each_until<A, S, In, B>(
        &self,
        drain: &Drain,
        listener: A,
        make: impl FnMut(SocketAddr) -> S,
    ) -> Drained
    where
        A: Accept,
        In: RequestBody,
        S: Service<Request<In>, Response = Response<B>> + 'static,
        S: Service<Request<In>, Error: Into<BoxError>, Future: 'static>,
        B: Body<Error: Into<BoxError>> + 'static,
    {
        self.drained_with(drain, self.serve_each(listener, make)).await
    }

    /// [`serve_streams`](Running::serve_streams) until `drain` begins, and then drains this server
    /// by the same deadline.
    pub async fn serve_streams_until<A, S, In, B>(
        &self,
        drain: &Drain,
        listener: A,
        make: impl FnMut(&A::Io, SocketAddr) -> S,
    ) -> Drained
    where
        A: Accept,
        In: RequestBody,
        S: Service<Request<In>, Response = Response<B>> + 'static,
        S: Service<Request<In>, Error: Into<BoxError>, Future: 'static>,
        B: Body<Error: Into<BoxError>> + 'static,
    {
        self.drained_with(drain, self.serve_streams(listener, make)).await
    }

    /// [`serve_streams_until`](Running::serve_streams_until) with services that are [`Direct`].
    pub async fn serve_direct_until<A, S, B>(
        &self,
        drain: &Drain,
        listener: A,
        mut make: impl FnMut(&A::Io, SocketAddr) -> S,
    ) -> Drained
    where
        A: Accept,
        S: Service<Request<Incoming>, Response = Response<B>> + Direct + 'static,
        S: Service<Request<Incoming>, Error: Into<BoxError>, Future: 'static>,
        B: Body<Error: Into<BoxError>> + 'static,
    {
        let serving = self.serve_shared(listener, move |io, peer| Rc::new(make(io, peer)));
        self.drained_with(drain, serving).await
    }

    /// Serves until `drain` begins, and to the end of this server's part in it.
    async fn drained_with(&self, drain: &Drain, serving: impl Future<Output = Drained>) -> Drained {
        let guest = drain.enter();
        let draining = async {
            drain.begun().await;
            let rest = match drain.stage() {
                Stage::Draining { until } => until.saturating_since(throng_runtime::now()),
                _ => Duration::ZERO,
            };
            drop(self.drain(rest));
            std::future::pending().await
        };
        let drained = match select(pin!(serving), pin!(draining)).await {
            Either::Left((drained, _)) | Either::Right((drained, _)) => drained,
        };
        guest.served(drained);
        drained
    }

    /// Stops accepting, lets every connection end after the requests it is in, and cuts
    /// those that are left after `deadline`. The first call decides; it need not be awaited.
    ///
    /// A connection that was upgraded is its user's and not waited for.
    pub fn drain(&self, deadline: Duration) -> impl Future<Output = Drained> + use<> {
        self.0.drain(deadline);
        let shared = self.0.clone();
        poll_fn(move |cx| shared.poll_drained(cx))
    }

    /// Serves a listener with a service of its own for each connection, made by `make` from the
    /// stream, which knows addresses and what TLS has agreed on, and the client's address.
    pub async fn serve_streams<A, S, In, B>(
        &self,
        listener: A,
        mut make: impl FnMut(&A::Io, SocketAddr) -> S,
    ) -> Drained
    where
        A: Accept,
        In: RequestBody,
        S: Service<Request<In>, Response = Response<B>> + 'static,
        S: Service<Request<In>, Error: Into<BoxError>, Future: 'static>,
        B: Body<Error: Into<BoxError>> + 'static,
    {
        self.serve_shared(listener, move |io, peer| Rc::new(Served::new(make(io, peer)))).await
    }

    /// Has `hook` told of every request of HTTP/1 that is refused before a service sees it, for
    /// logs: what is malformed, too large, too slow or ambiguous; and of every connection of HTTP/2
    /// that ends because its client breaks the protocol, but not of a single stream that is reset
    /// for that. One hook at a time.
    pub fn on_refused(&self, hook: impl Fn(&Refused) + 'static) {
        self.0.on_refused(hook);
    }

    /// Totals so far.
    pub fn counters(&self) -> Counters {
        self.0.counters()
    }

    /// Connections open now.
    pub fn connections(&self) -> usize {
        self.0.open()
    }

    async fn serve_shared<A, S, B>(
        &self,
        listener: A,
        mut make: impl FnMut(&A::Io, SocketAddr) -> Rc<S>,
    ) -> Drained
    where
        A: Accept,
        S: Service<Request<Incoming>, Response = Response<B>> + Direct + 'static,
        S: Service<Request<Incoming>, Error: Into<BoxError>, Future: 'static>,
        B: Body<Error: Into<BoxError>> + 'static,
    {
        let mut backoff = BACKOFF_MIN;
        while let Some(accepted) = poll_fn(|cx| self.poll_accept(&listener, cx)).await {
            match accepted {
                Ok((io, peer)) => {
                    backoff = BACKOFF_MIN;
                    let service = make(&io, peer);
                    self.spawn(io, service);
                }
                Err(error) => {
                    self.0.count(|counters| counters.accept_errors += 1);
                    if !is_of_one_connection(&error) {
                        tracing::warn!(%error, ?backoff, "the listener failed");
                        self.pause(backoff).await;
                        backoff = (2 * backoff).min(BACKOFF_MAX);
                    }
                }
            }
            throng_runtime::coop::consume_budget().await;
        }
        if let Phase::Draining { idle, .. } = self.0.phase() {
            let patience = idle.saturating_since(throng_runtime::now());
            let last = async {
                while let Some((io, peer)) = poll_fn(|cx| listener.poll_last(cx)).await {
                    let service = make(&io, peer);
                    self.spawn(io, service);
                }
            };
            let _ = throng_runtime::timeout(patience, last).await;
        }
        drop(listener);
        poll_fn(|cx| self.0.poll_drained(cx)).await
    }

    /// The listener's next word; `None` when the server drains.
    #[allow(clippy::type_complexity, reason = "it is Accept's own result")]
    fn poll_accept<A: Accept>(
        &self,
        listener: &A,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<(A::Io, SocketAddr)>>> {
        self.0.watch(cx);
        if self.0.phase() != Phase::Serving {
            return Poll::Ready(None);
        }
        if !self.0.has_room() {
            self.0.count(|counters| counters.at_limit += 1);
            return Poll::Pending;
        }
        listener.poll_accept(cx).map(Some)
    }

    fn spawn<I, S, B>(&self, io: I, service: Rc<S>)
    where
        I: Connected + hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
        S: Service<Request<Incoming>, Response = Response<B>> + Direct + 'static,
        S: Service<Request<Incoming>, Error: Into<BoxError>, Future: 'static>,
        B: Body<Error: Into<BoxError>> + 'static,
    {
        let shared = self.0.clone();
        shared.count(|counters| counters.accepted += 1);
        if throng_runtime::try_spawn_local(contained(shared.clone(), io, service)).is_err() {
            shared.count(|counters| counters.no_task += 1);
        }
    }

    /// Waits, but not into a drain.
    async fn pause(&self, duration: Duration) {
        let mut sleep = pin!(throng_runtime::sleep(duration));
        poll_fn(|cx| {
            self.0.watch(cx);
            if self.0.phase() == Phase::Serving {
                ready!(sleep.as_mut().poll(cx));
            }
            Poll::Ready(())
        })
        .await;
    }
}

/// A connection's task: a panic of its service is its own.
fn contained<I, S, B>(shared: Rc<Shared>, io: I, service: Rc<S>) -> impl Future<Output = ()>
where
    I: Connected + hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<B>> + Direct + 'static,
    S: Service<Request<Incoming>, Error: Into<BoxError>, Future: 'static>,
    B: Body<Error: Into<BoxError>> + 'static,
{
    let connection = Connection::new(io, service, Membership::new(shared.clone()));
    AssertUnwindSafe(connection).catch_unwind().map(move |result| {
        if result.is_err() {
            shared.count(|counters| counters.panics += 1);
        }
    })
}

/// Bytes of the future that serves a connection of an `A` by such a service, for who accounts for memory.
/// What hyper has besides is there only while a request is.
pub fn size_of_connection<A, S, In, B>(_service: &S) -> usize
where
    A: Accept,
    In: RequestBody,
    S: Service<Request<In>, Response = Response<B>> + 'static,
    S: Service<Request<In>, Error: Into<BoxError>, Future: 'static>,
    B: Body<Error: Into<BoxError>> + 'static,
{
    fn of<I, S, F>(_: fn(Rc<Shared>, I, Rc<S>) -> F) -> usize {
        size_of::<F>()
    }
    of(contained::<A::Io, Served<S, In>, _>)
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running")
            .field("connections", &self.connections())
            .field("counters", &self.counters())
            .finish()
    }
}

/// Serves a listener with default settings, for as long as the program runs.
///
/// For limits, timeouts, counters and a graceful end see [`Server`].
pub async fn serve<A, S, In, B>(listener: A, service: S)
where
    A: Accept,
    In: RequestBody,
    S: Service<Request<In>, Response = Response<B>> + 'static,
    S: Service<Request<In>, Error: Into<BoxError>, Future: 'static>,
    B: Body<Error: Into<BoxError>> + 'static,
{
    Server::new().start().serve(listener, service).await;
}

/// The peer gave up before it was accepted; the listener is fine.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
            | io::ErrorKind::TimedOut
    )
}
