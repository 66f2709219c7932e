//! One request on its way: a connection, the head for it, the wait for the response, and
//! whether it may be sent again.

use std::future::poll_fn;
use std::io;
use std::mem;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use http::header::{self, HeaderValue};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery};
use hyper::body::{Body as HttpBody, Incoming};
use hyper::client::conn::TrySendError;
use hyper::{Method, Request, Response, StatusCode, Uri, Version};
use throng_runtime::Instant;

use super::body::{Body, Claim, Gate, Outgoing, RequestBody};
use super::config::HttpVersion;
use super::connect::{Prelude, Target};
use super::error::{self, Error, ErrorKind, Phase};
use super::h1::{H1, Outcome};
use super::h2::{H2, Stream};
use super::pool::{Connecting, Host, Lease, Permit, Pool};
use super::rest::Rested;
use super::wire::Wire;
use super::within;
use crate::rt::Alarm;
use crate::server::BoxError;

/// Most times one request is sent to a server that may have seen it, or refuses it.
const MAX_ATTEMPTS: u32 = 3;
/// And to connections that turn out to take no more requests.
const MAX_DEPARTURES: u32 = 16;

pub(super) struct Exchange {
    pool: Rc<Pool>,
    target: Target,
    uri: Uri,
    /// The `host` field as the caller wants it.
    host: Option<HeaderValue>,
    method: Method,
    /// A switch of protocols is asked for.
    switching: bool,
    total: Option<Instant>,
    body: Rc<Outgoing>,
    gate: Option<Arc<Gate>>,
    /// The head, while it is not with hyper.
    head: Option<Box<Parts>>,
}

/// A connection to send on.
enum Link {
    Http1(Rc<H1>, Wire),
    Http2(Stream),
}

/// Why an attempt failed, and the head again if another one is allowed.
struct Failure {
    error: Error,
    head: Option<Box<Parts>>,
    /// The connection had gone before the request was anyone's.
    departed: bool,
}

impl Failure {
    fn last(error: Error) -> Self {
        Failure { error, head: None, departed: false }
    }
}

/// What a request can be sent on.
pub(super) enum Found {
    Idle(Rc<H1>, Wire),
    /// Also one that is new.
    Rested(Rested),
    Stream(Stream),
}

/// An idle connection of a host's, a stream of one, or a new one; `fresh`: none that was idle.
pub(super) async fn find(
    host: &Rc<Host>,
    fresh: bool,
    total: Option<Instant>,
) -> Result<Found, Error> {
    loop {
        match host.acquire(fresh, total).await? {
            Lease::Idle(connection) => {
                let wire = poll_fn(|cx| Poll::Ready(connection.check_out(cx))).await;
                if let Some(wire) = wire {
                    return Ok(Found::Idle(connection, wire));
                }
            }
            Lease::Rested(rested) => {
                let mut rested = Some(rested);
                let look = poll_fn(|cx| {
                    Poll::Ready(rested.take().and_then(|rested| host.look(rested, cx)))
                });
                if let Some(rested) = look.await {
                    return Ok(Found::Rested(rested));
                }
            }
            Lease::Stream(stream) => return Ok(Found::Stream(stream)),
            Lease::Permit(permit, connecting) => {
                let until = throng_runtime::now() + host.pool.settings.connect_timeout;
                let connecting = connect(permit, connecting);
                return within(until, Phase::Connect, total, connecting).await?;
            }
        }
    }
}

async fn connect(permit: Permit, connecting: Connecting) -> Result<Found, Error> {
    let host = connecting.host();
    let settings = &host.pool.settings;
    let transport = settings.connector.connect(host.target()).await.map_err(Error::connect)?;
    let http2 = match settings.version {
        HttpVersion::Http1 if transport.http2 => {
            let why = "the connector has agreed on HTTP/2 for a client of HTTP/1";
            return Err(Error::new(ErrorKind::Protocol, why));
        }
        HttpVersion::Http1 => false,
        HttpVersion::Http2 => true,
        HttpVersion::Negotiated => transport.http2,
    };
    host.pool.count(|stats| stats.opened += 1);
    let wire = Wire::new(transport, permit);
    if !http2 {
        connecting.done(false);
        return Ok(Found::Rested(Rested::new(wire, 0)));
    }
    let connection = H2::connect(host.clone(), wire).await?;
    let stream = Stream::new(connection.clone());
    host.add_http2(connection);
    connecting.done(true);
    Ok(Found::Stream(stream))
}

/// Whether a request may be sent again, whose pooled connection has ended without a byte of a
/// response: what the server cannot have seen, and what can be done twice (RFC 9112 9.3.1).
pub(super) fn may_repeat(unsent: bool, method: &Method) -> bool {
    unsent || method.is_idempotent()
}

impl Exchange {
    pub(super) fn new<B>(pool: &Rc<Pool>, mut request: Request<B>) -> Result<Self, Error>
    where
        B: HttpBody<Error: Into<BoxError>> + 'static,
    {
        let expects = request.headers().get(header::EXPECT).map(HeaderValue::as_bytes);
        let expects = expects.is_some_and(|value| value.eq_ignore_ascii_case(b"100-continue"));
        let empty = request.body().is_end_stream();
        let length = request.headers().get(header::CONTENT_LENGTH);
        if empty && length.is_some_and(|length| length != "0") {
            // The server would take the next request on the connection for the body.
            let why = "a content-length, but no body";
            return Err(Error::new(ErrorKind::RequestBody, why));
        }
        let gate = (expects && !empty).then(Arc::<Gate>::default);
        if let Some(gate) = gate.clone() {
            hyper::ext::on_informational(&mut request, move |response| {
                if response.status() == StatusCode::CONTINUE {
                    gate.open();
                }
            });
        }
        let (head, body) = request.into_parts();
        let prelude = head.extensions.get::<Prelude>().map(|prelude| prelude.0.clone());
        let target = Target::of(&head.uri)?.with_prelude(prelude);
        let settings = &pool.settings;
        Ok(Exchange {
            pool: pool.clone(),
            target,
            uri: head.uri.clone(),
            host: head.headers.get(header::HOST).cloned(),
            method: head.method.clone(),
            switching: head.method == Method::CONNECT || head.headers.contains_key(header::UPGRADE),
            total: settings.total_timeout.map(|timeout| throng_runtime::now() + timeout),
            body: Outgoing::new(body, gate.clone(), settings.continue_timeout),
            gate,
            head: Some(Box::new(head)),
        })
    }

    pub(super) async fn run(mut self) -> Result<Response<Body>, Error> {
        let (mut attempts, mut departures) = (0, 0);
        while let Some(head) = self.head.take() {
            let link = self.link(attempts + departures > 0).await?;
            let failure = match self.send(link, *head).await {
                Ok(response) => return Ok(response),
                Err(failure) => failure,
            };
            match failure.departed {
                true => departures += 1,
                false => attempts += 1,
            }
            let enough = attempts == MAX_ATTEMPTS || departures == MAX_DEPARTURES;
            if enough || failure.head.is_none() {
                return Err(failure.error);
            }
            tracing::debug!(error = %failure.error, target = %self.target, "sending again");
            self.pool.count(|stats| stats.retried += 1);
            self.head = failure.head;
        }
        Err(Error::of(ErrorKind::Closed))
    }

    async fn link(&self, fresh: bool) -> Result<Link, Error> {
        let host = self.pool.host(&self.target);
        Ok(match find(&host, fresh, self.total).await? {
            Found::Idle(connection, wire) => Link::Http1(connection, wire),
            Found::Rested(Rested { wire, uses, .. }) => Link::Http1(H1::spawn(&wire, uses)?, wire),
            Found::Stream(stream) => Link::Http2(stream),
        })
    }

    async fn send(&self, link: Link, mut head: Parts) -> Result<Response<Body>, Failure> {
        let reused = match &link {
            Link::Http1(connection, _) => connection.uses.get() > 0,
            Link::Http2(stream) => stream.0.uses.get() > 0,
        };
        if reused {
            self.pool.count(|stats| stats.reused += 1);
        }
        // Only what may have to be sent again is worth a copy.
        let http2 = matches!(link, Link::Http2(_));
        let spare = ((reused || http2) && self.body.can_replay()).then(|| Box::new(head.clone()));
        match http2 {
            false => self.dress_http1(&mut head),
            true => self.dress_http2(&mut head),
        }
        let request = Request::from_parts(head, self.body.next_attempt());
        match link {
            Link::Http1(connection, wire) => {
                let started = connection.start(wire, request, self.switching);
                let outcome = started.map_err(Failure::last)?;
                match self.head(outcome).await? {
                    Ok(response) => self.on_http1(response, connection),
                    Err(error) => Err(self.judge_http1(error, reused, &connection, spare)),
                }
            }
            Link::Http2(stream) => {
                let Some(outcome) = stream.start(request) else {
                    let error = Error::of(ErrorKind::Closed);
                    return Err(Failure { error, head: spare, departed: true });
                };
                let outcome = self.head(outcome).await;
                if outcome.is_err() {
                    stream.doubt(self.body.progress.get());
                }
                match outcome? {
                    Ok(response) => {
                        stream.answered();
                        let mut claim = Claim::default();
                        claim.stream = Some(stream);
                        Ok(self.response(response, claim))
                    }
                    Err(error) => Err(self.judge_http2(error, reused, &stream, spare)),
                }
            }
        }
    }

    /// Waits for the head of the response.
    async fn head(&self, outcome: impl Future<Output = Outcome>) -> Result<Outcome, Failure> {
        let mut outcome = pin!(outcome);
        let mut alarm = Alarm::default();
        poll_fn(|cx| {
            if let Poll::Ready(outcome) = outcome.as_mut().poll(cx) {
                return Poll::Ready(Ok(outcome));
            }
            let late = self.body.progress.get() + self.pool.settings.head_timeout;
            let (at, phase) = match self.total {
                Some(total) if total < late => (total, Phase::Total),
                _ => (late, Phase::Head),
            };
            alarm.poll_at(at, cx).map(|()| Err(Failure::last(Error::timeout(phase))))
        })
        .await
    }

    /// An origin-form target (RFC 9112 3.2.1) and a `host` field.
    fn dress_http1(&self, head: &mut Parts) {
        if head.version != Version::HTTP_10 {
            head.version = Version::HTTP_11;
        }
        let authority = self.target.authority();
        // RFC 9110 9.3.6: CONNECT has no default port.
        let with_port = || format!("{}:{}", authority.host(), self.target.port()).parse();
        head.uri = if head.method == Method::CONNECT {
            Uri::from(with_port().unwrap_or(Authority::clone(authority)))
        } else {
            let path = self.uri.path_and_query().filter(|path| path.path() != "");
            Uri::from(path.cloned().unwrap_or(PathAndQuery::from_static("/")))
        };
        let host = self.host.clone().or_else(|| HeaderValue::from_str(authority.as_str()).ok());
        if let (Some(host), header::Entry::Vacant(entry)) = (host, head.headers.entry(header::HOST))
        {
            entry.insert(host);
        }
    }

    /// The caller's `host` becomes `:authority` (RFC 9113 8.3.1).
    fn dress_http2(&self, head: &mut Parts) {
        head.version = Version::HTTP_2;
        head.uri = self.uri.clone();
        head.headers.remove(header::HOST);
        let wanted = self.host.as_ref().and_then(|host| Authority::try_from(host.as_bytes()).ok());
        if let Some(authority) = wanted {
            let mut parts = mem::take(&mut head.uri).into_parts();
            parts.authority = Some(authority);
            head.uri = Uri::from_parts(parts).unwrap_or_else(|_| self.uri.clone());
        }
    }

    fn on_http1(
        &self,
        response: Response<Incoming>,
        connection: Rc<H1>,
    ) -> Result<Response<Body>, Failure> {
        let status = response.status();
        let switched = match self.method {
            Method::CONNECT => status.is_success(),
            _ => status == StatusCode::SWITCHING_PROTOCOLS,
        };
        let mut claim = Claim::default();
        if self.switching && switched {
            claim.switching = Some(connection);
        } else if switched {
            // RFC 9110 15.2.2: not unless it was asked for.
            let error = Error::new(ErrorKind::Protocol, "a switch of protocols nobody asked for");
            return Err(Failure::last(error));
        } else {
            connection.stay();
            let request = connection.uses.get();
            claim.connection = Some((connection, request));
        }
        Ok(self.response(response, claim))
    }

    fn response(&self, response: Response<Incoming>, mut claim: Claim) -> Response<Body> {
        if let Some(gate) = &self.gate {
            gate.refuse();
        }
        claim.gate = self.gate.clone();
        let timeout = self.pool.settings.body_timeout;
        response.map(|incoming| Body::new(incoming, timeout, self.total, claim))
    }

    fn judge_http1(
        &self,
        mut failed: TrySendError<Request<RequestBody>>,
        reused: bool,
        connection: &H1,
        spare: Option<Box<Parts>>,
    ) -> Failure {
        let unsent = failed.take_message().is_some() || !connection.notes.written.get();
        let error = failed.into_error();
        // The request is fine, the server silent, and the connection not new: it was stale.
        let stale = reused && !error.is_user() && !error.is_parse() && !connection.notes.read.get();
        let may = stale && may_repeat(unsent, &self.method) && self.body.can_replay();
        let head = spare.filter(|_| may);
        Failure { error: Error::of_hyper(error), head, departed: false }
    }

    fn judge_http2(
        &self,
        mut failed: TrySendError<Request<RequestBody>>,
        reused: bool,
        stream: &Stream,
        spare: Option<Box<Parts>>,
    ) -> Failure {
        let unsent = failed.take_message().is_some();
        let error = failed.into_error();
        let said = error::find::<h2::Error>(&error).filter(|h2| h2.is_remote());
        // RFC 9113 6.8, 8.7: these streams were not processed.
        let going = said.is_some_and(h2::Error::is_go_away);
        let refused = said.is_some_and(|h2| h2.reason() == Some(h2::Reason::REFUSED_STREAM));
        let broken = error::find::<io::Error>(&error).is_some() || error.is_timeout();
        if unsent || going || broken {
            stream.0.give_up();
        }
        let stale = reused && broken && self.method.is_idempotent();
        let may = (unsent || going || refused || stale) && self.body.can_replay();
        let head = spare.filter(|_| may);
        Failure { error: Error::of_hyper(error), head, departed: unsent || going }
    }
}
