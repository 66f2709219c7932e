//! The bodies of requests, as services get them.

use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Frame, Incoming, SizeHint};

/// The body of a request. What has come whole with its head is bytes, everything else is hyper's
/// [`Incoming`], which only hyper can make; so a service of requests with this body is asked without
/// hyper where that is possible (see [`RequestBody`]), and one of `Request<Incoming>` is not.
#[derive(Debug)]
pub struct Body(Kind);

#[derive(Debug)]
enum Kind {
    Whole(Bytes),
    Incoming(Incoming),
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.get_mut().0 {
            Kind::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Kind::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(mem::take(bytes))))),
            Kind::Incoming(incoming) => Pin::new(incoming).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Whole(bytes) => bytes.is_empty(),
            Kind::Incoming(incoming) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Incoming(incoming) => incoming.size_hint(),
        }
    }
}

/// What a service may have requests' bodies as: [`Body`], hyper's [`Incoming`], or a type that can
/// be made of the latter.
pub trait RequestBody: Sized + 'static {
    /// Whether bodies are made of bytes, too. Where not, hyper answers every request.
    const WHOLE: bool;

    /// A body that hyper reads.
    fn from_incoming(incoming: Incoming) -> Self;

    /// A body that is there already, or empty. `None` has hyper read it after all.
    fn from_bytes(bytes: Bytes) -> Option<Self>;
}

impl RequestBody for Body {
    const WHOLE: bool = true;

    fn from_incoming(incoming: Incoming) -> Body {
        Body(Kind::Incoming(incoming))
    }

    fn from_bytes(bytes: Bytes) -> Option<Body> {
        Some(Body(Kind::Whole(bytes)))
    }
}

impl RequestBody for Incoming {
    const WHOLE: bool = false;

    fn from_incoming(incoming: Incoming) -> Incoming {
        incoming
    }

    fn from_bytes(_: Bytes) -> Option<Incoming> {
        None
    }
}
