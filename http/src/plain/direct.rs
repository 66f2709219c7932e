//! What a service is that answers plain requests by itself.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::rt::{Read, Write};
use hyper::service::Service;
use throng_runtime::Instant;

use super::Request;

/// A client's connection, as an [`Exchange`] sees it.
pub trait Duplex: Read + Write + Unpin {}
impl<T: Read + Write + Unpin> Duplex for T {}

/// Beside what hyper's [`Service`] does, answers plain requests.
pub trait Direct: Service<hyper::Request<Incoming>> {
    /// One of these under way.
    type Exchange: Exchange;

    /// Whether requests are looked at at all.
    const WANTED: bool = true;

    /// Begins to answer a request whose head and body these are. `None`: hyper does it, so
    /// nothing may have been done about it.
    fn begin(&self, request: Request<'_>, body: &[u8]) -> Option<Self::Exchange>;

    /// Of an exchange that has ended with [`End::Hyper`]: the bytes of the request, and what hyper is
    /// to have in place of what the service would make of it. `None` ends the connection.
    fn hand_over(_exchange: Pin<Box<Self::Exchange>>) -> Option<(Bytes, Self::Future)> {
        None
    }
}

/// A request that is answered without hyper, to its end.
pub trait Exchange: 'static {
    /// Goes on; nobody else writes to `io` meanwhile, and this does not read from it.
    fn poll(
        self: Pin<&mut Self>,
        io: &mut impl Duplex,
        terms: Terms,
        cx: &mut Context<'_>,
    ) -> Poll<End>;

    /// When it is to be polled again though nothing has happened. It has then ended, or has another
    /// deadline: a time that has passed would have it polled for ever.
    fn deadline(&self) -> Option<Instant>;
}

/// What a server asks of an [`Exchange`].
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Terms {
    /// No further request is taken on the connection, which an answer whose head is still to be
    /// written has to say (RFC 9112 9.6).
    pub closing: bool,
    /// An answer gets a `date`: [`Server::date_header`](crate::Server::date_header).
    pub date: bool,
    /// How long the client may take nothing: [`Server::body_timeout`](crate::Server::body_timeout).
    pub patience: Duration,
}

impl Default for Terms {
    /// Those of a server with the default settings.
    fn default() -> Terms {
        Terms { closing: false, date: true, patience: Duration::from_secs(60) }
    }
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
    /// The connection has failed.
    Lost,
    /// Nothing was written, and hyper is to write what there is: [`Direct::hand_over`].
    Hyper,
}
