//! A user's service, asked by hyper or, for plain requests, without it.
//!
//! Without hyper means: the request is made of the bytes that have come, the service is asked, and what it
//! answers is written in one go, if it is that simple: a body that is there at once, whole, and a head
//! that says nothing about the connection. Everything else is not decided here: hyper gets the
//! request's bytes as if nobody had read them, and when it asks the service it gets the answer there is.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::response::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::Service;
use hyper::{Request, Response};
use pin_project::pin_project;
use throng_runtime::Instant;

use crate::body::RequestBody;
use crate::plain::{self, Direct, Duplex, End, Exchange, Terms, write_head};

/// A body of up to so many bytes is copied behind its head, so that they leave together.
const SMALL: usize = 4 << 10;
/// Most memory that is kept for the next answer's head.
const KEPT: usize = 16 << 10;
/// Bytes of memory for requests' heads and bodies. It is used again when nobody has any of it.
const REQUESTS: usize = 8 << 10;

thread_local! {
    static OUT: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    static REQUEST: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

/// Has the next answer's head use this memory, if it is not too much to be kept.
fn keep(out: Vec<u8>) {
    if out.capacity() <= KEPT {
        OUT.set(out);
    }
}

/// A service of requests whose bodies are `In`.
pub(crate) struct Served<S, In> {
    service: S,
    body: PhantomData<fn(In)>,
}

impl<S, In> Served<S, In> {
    pub(crate) fn new(service: S) -> Self {
        Served { service, body: PhantomData }
    }
}

impl<S, In, B> Service<Request<Incoming>> for Served<S, In>
where
    In: RequestBody,
    S: Service<Request<In>, Response = Response<B>>,
    B: Body,
{
    type Response = Response<ServedBody<S::Future, B, S::Error>>;
    type Error = S::Error;
    type Future = ServedFuture<S::Future, B, S::Error>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        ServedFuture::Running(self.service.call(request.map(In::from_incoming)))
    }
}

impl<S, In, B> Direct for Served<S, In>
where
    In: RequestBody,
    S: Service<Request<In>, Response = Response<B>, Future: 'static> + 'static,
    B: Body + 'static,
{
    type Exchange = Answering<S::Future, B, S::Error>;

    const WANTED: bool = In::WHOLE;

    fn begin(&self, request: plain::Request<'_>, body: &[u8]) -> Option<Self::Exchange> {
        // An answer without its body is hyper's to cut.
        if request.method == Method::HEAD {
            return None;
        }
        let close = request.close;
        let (bytes, asked) = REQUEST.with_borrow_mut(|memory| whole(memory, request, body))?;
        let (parts, body) = asked.into_parts();
        let future = self.service.call(Request::from_parts(parts, In::from_bytes(body)?));
        Some(Answering {
            future: Some(future),
            body: None,
            request: bytes,
            close,
            out: Vec::new(),
            written: 0,
            data: None,
            until: None,
            made: None,
            peeked: None,
        })
    }

    fn hand_over(mut exchange: Pin<Box<Self::Exchange>>) -> Option<(Bytes, Self::Future)> {
        let request = std::mem::take(exchange.as_mut().project().request);
        Some((request, ServedFuture::Handed(Some(exchange))))
    }
}

/// The bytes of a request, and what they mean. `None` where that is hyper's to refuse.
fn whole(
    memory: &mut BytesMut,
    request: plain::Request<'_>,
    body: &[u8],
) -> Option<(Bytes, Request<Bytes>)> {
    let size = request.size + body.len();
    if memory.capacity() < size {
        memory.reserve(size.max(REQUESTS));
    }
    memory.put_slice(request.fields.head());
    memory.put_slice(body);
    let bytes = memory.split().freeze();
    let mut headers = HeaderMap::with_capacity(request.fields.len());
    for (name, value) in request.fields.lines() {
        let name = HeaderName::from_bytes(name).ok()?;
        headers.append(name, HeaderValue::from_maybe_shared(bytes.slice(value)).ok()?);
    }
    let uri = match request.target {
        "/" => Uri::default(),
        _ => Uri::from_maybe_shared(bytes.slice(request.target_at())).ok()?,
    };
    let mut asked = Request::new(bytes.slice(request.size..));
    *asked.method_mut() = request.method;
    *asked.uri_mut() = uri;
    *asked.headers_mut() = headers;
    Some((bytes, asked))
}

/// A request that is answered without hyper, as far as that goes.
#[pin_project]
pub(crate) struct Answering<F, B: Body, E> {
    /// What the service does; none when it has.
    #[pin]
    future: Option<F>,
    #[pin]
    body: Option<B>,
    /// The bytes of the request, should hyper have to read them.
    request: Bytes,
    /// The client wants no further answer.
    close: bool,
    /// The head, and a small body.
    out: Vec<u8>,
    /// How much of it is.
    written: usize,
    /// What follows.
    data: Option<B::Data>,
    /// Until when the client is to take something.
    until: Option<Instant>,
    /// For hyper: what the service has answered.
    made: Option<Result<Parts, E>>,
    /// For hyper: what the body has given, and what it said before.
    peeked: Option<Peeked<B>>,
}

type Peeked<B> = (Option<Given<B>>, SizeHint);
type Given<B> = Result<Frame<<B as Body>::Data>, <B as Body>::Error>;

impl<F, B, E> Answering<F, B, E>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body,
{
    /// The service has answered: whether that can be written here, and is ready to be.
    fn compose(
        self: Pin<&mut Self>,
        answered: Result<Response<B>, E>,
        terms: Terms,
        cx: &mut Context<'_>,
    ) -> bool {
        let mut this = self.project();
        let (parts, body) = match answered {
            Ok(response) => response.into_parts(),
            Err(error) => {
                *this.made = Some(Err(error));
                return false;
            }
        };
        this.body.set(Some(body));
        let Some(mut body) = this.body.as_mut().as_pin_mut() else { return false };
        let hint = body.size_hint();
        let length = if body.is_end_stream() { Some(0) } else { hint.exact() };
        let mut out = OUT.take();
        out.clear();
        let close = *this.close || terms.closing;
        let written =
            length.and_then(|length| write_head(&mut out, &parts, length, close, terms.date));
        let (Some(()), Some(length)) = (written, length) else {
            keep(out);
            *this.made = Some(Ok(parts));
            return false;
        };
        if length > 0 {
            let polled = body.as_mut().poll_frame(cx);
            let whole = match polled {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) if data.remaining() as u64 == length => Ok(data),
                    Ok(data) => Err(Some(Some(Ok(Frame::data(data))))),
                    Err(frame) => Err(Some(Some(Ok(frame)))),
                },
                Poll::Ready(other) => Err(Some(other)),
                Poll::Pending => Err(None),
            };
            match whole {
                Ok(data) if data.remaining() <= SMALL => out.put(data),
                Ok(data) => *this.data = Some(data),
                Err(given) => {
                    keep(out);
                    *this.peeked = given.map(|given| (given, hint));
                    *this.made = Some(Ok(parts));
                    return false;
                }
            }
        }
        this.body.set(None);
        *this.out = out;
        true
    }

    fn poll_send(
        self: Pin<&mut Self>,
        io: &mut impl Duplex,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.project();
        loop {
            let head = this.out.get(*this.written..).unwrap_or_default();
            let body = this.data.as_ref().map_or(&[][..], Buf::chunk);
            let io = Pin::new(&mut *io);
            let sent = match (head.is_empty(), body.is_empty()) {
                (true, true) => return io.poll_flush(cx),
                (false, false) if io.is_write_vectored() => {
                    io.poll_write_vectored(cx, &[IoSlice::new(head), IoSlice::new(body)])
                }
                (true, false) => io.poll_write(cx, body),
                (false, _) => io.poll_write(cx, head),
            };
            let sent = ready!(sent)?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let of_head = sent.min(head.len());
            *this.written += of_head;
            if let Some(data) = this.data {
                data.advance(sent - of_head);
            }
            *this.until = None;
        }
    }
}

impl<F, B, E> Exchange for Answering<F, B, E>
where
    F: Future<Output = Result<Response<B>, E>> + 'static,
    B: Body + 'static,
    E: 'static,
{
    fn poll(
        mut self: Pin<&mut Self>,
        io: &mut impl Duplex,
        terms: Terms,
        cx: &mut Context<'_>,
    ) -> Poll<End> {
        if let Some(future) = self.as_mut().project().future.as_pin_mut() {
            let answered = ready!(future.poll(cx));
            self.as_mut().project().future.set(None);
            if !self.as_mut().compose(answered, terms, cx) {
                return Poll::Ready(End::Hyper);
            }
        }
        match self.as_mut().poll_send(io, cx) {
            Poll::Ready(Ok(())) => {
                let this = self.project();
                keep(std::mem::take(this.out));
                let over = *this.close || terms.closing;
                Poll::Ready(if over { End::Over } else { End::Answered })
            }
            Poll::Ready(Err(_)) => Poll::Ready(End::Lost),
            Poll::Pending => {
                let now = throng_runtime::now();
                let until = self.project().until.get_or_insert(now + terms.patience);
                if *until <= now { Poll::Ready(End::Stalled) } else { Poll::Pending }
            }
        }
    }

    fn deadline(&self) -> Option<Instant> {
        self.until
    }
}

/// What a service does about a request.
#[pin_project(project = ServedFutureProjection)]
pub(crate) enum ServedFuture<F, B: Body, E> {
    Running(#[pin] F),
    /// It has done it.
    Handed(Option<Pin<Box<Answering<F, B, E>>>>),
}

impl<F, B, E> Future for ServedFuture<F, B, E>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body,
{
    type Output = Result<Response<ServedBody<F, B, E>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            ServedFutureProjection::Running(future) => {
                future.poll(cx).map_ok(|response| response.map(ServedBody::Own))
            }
            ServedFutureProjection::Handed(exchange) => {
                let Some(mut exchange) = exchange.take() else { return Poll::Pending };
                let Some(made) = exchange.as_mut().project().made.take() else {
                    return Poll::Pending;
                };
                Poll::Ready(
                    made.map(|parts| Response::from_parts(parts, ServedBody::Handed(exchange))),
                )
            }
        }
    }
}

/// The body of a service's answer.
#[pin_project(project = ServedBodyProjection)]
pub(crate) enum ServedBody<F, B: Body, E> {
    Own(#[pin] B),
    /// It may have been looked into.
    Handed(Pin<Box<Answering<F, B, E>>>),
}

impl<F, B: Body, E> Body for ServedBody<F, B, E> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Given<B>>> {
        match self.project() {
            ServedBodyProjection::Own(body) => body.poll_frame(cx),
            ServedBodyProjection::Handed(exchange) => {
                let this = exchange.as_mut().project();
                if let Some((given, _)) = this.peeked.take() {
                    return Poll::Ready(given);
                }
                match this.body.as_pin_mut() {
                    Some(body) => body.poll_frame(cx),
                    None => Poll::Ready(None),
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            ServedBody::Own(body) => body.is_end_stream(),
            ServedBody::Handed(exchange) => {
                exchange.peeked.is_none() && exchange.body.as_ref().is_none_or(Body::is_end_stream)
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            ServedBody::Own(body) => body.size_hint(),
            ServedBody::Handed(exchange) => match (&exchange.peeked, &exchange.body) {
                (Some((_, said)), _) => *said,
                (None, Some(body)) => body.size_hint(),
                (None, None) => SizeHint::with_exact(0),
            },
        }
    }
}
