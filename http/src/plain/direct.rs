//! What a service is that answers plain requests by itself.

use std::convert::Infallible;
use std::task::{Context, Poll};

use hyper::body::{Body, Incoming};
use hyper::rt::{Read, Write};
use hyper::service::Service;
use throng_runtime::Instant;

use super::Request;
use crate::server::BoxError;

/// A client's connection, as an [`Exchange`] sees it.
pub trait Duplex: Read + Write + Unpin {}
impl<T: Read + Write + Unpin> Duplex for T {}

/// Beside what hyper's [`Service`] does, answers plain requests.
pub trait Direct {
    /// One of these under way.
    type Exchange: Exchange;

    /// Whether requests are looked at at all.
    const WANTED: bool = true;

    /// Begins to answer a request whose head and body these are. `None`: hyper does it, so
    /// nothing may have been done about it.
    fn begin(&self, request: Request<'_>, body: &[u8]) -> Option<Self::Exchange>;
}

/// A request that is answered without hyper, to its end.
pub trait Exchange: 'static {
    /// Goes on; nobody else writes to `io` meanwhile, and this does not read from it. `closing`:
    /// no further request is taken on the connection, which an answer whose head is still to be
    /// written has to say (RFC 9112 9.6).
    fn poll(&mut self, io: &mut impl Duplex, closing: bool, cx: &mut Context<'_>) -> Poll<End>;

    /// When it is to be polled again though nothing has happened. It has then ended, or has another
    /// deadline: a time that has passed would have it polled for ever.
    fn deadline(&self) -> Option<Instant>;
}

/// How an [`Exchange`] has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The response is out, and the connection may carry another request.
    Answered,
    /// The response is out as far as it goes; the connection ends.
    Over,
    /// The client has not taken it in time; the connection ends.
    Stalled,
}

/// A service that leaves everything to hyper.
pub(crate) struct Indirect<S>(pub(crate) S);

impl<S> Direct for Indirect<S> {
    type Exchange = Infallible;

    const WANTED: bool = false;

    fn begin(&self, _: Request<'_>, _: &[u8]) -> Option<Infallible> {
        None
    }
}

impl Exchange for Infallible {
    fn poll(&mut self, _: &mut impl Duplex, _: bool, _: &mut Context<'_>) -> Poll<End> {
        match *self {}
    }

    fn deadline(&self) -> Option<Instant> {
        match *self {}
    }
}

impl<S, B> Service<hyper::Request<Incoming>> for Indirect<S>
where
    S: Service<hyper::Request<Incoming>, Response = hyper::Response<B>>,
    S::Error: Into<BoxError>,
    B: Body,
{
    type Response = hyper::Response<B>;
    type Error = S::Error;
    type Future = S::Future;

    fn call(&self, request: hyper::Request<Incoming>) -> S::Future {
        self.0.call(request)
    }
}
