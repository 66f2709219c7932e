//! The body of a request on its way to a server: within its limit, and not lost to another
//! server as long as none of it has been taken.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use throng::http::BoxError;

pub(crate) struct Upload(Rc<Inner>);

struct Inner {
    body: RefCell<Incoming>,
    /// Bytes that may still come.
    left: Cell<u64>,
    started: Cell<bool>,
    exceeded: Cell<bool>,
    /// It was asked for, and the client has not sent it yet.
    awaited: Cell<bool>,
    /// Which attempt may take it.
    attempt: Cell<u32>,
}

impl Upload {
    /// A body of at most `limit` bytes.
    pub(crate) fn new(body: Incoming, limit: u64) -> Upload {
        Upload(Rc::new(Inner {
            body: RefCell::new(body),
            left: Cell::new(limit),
            started: Cell::new(false),
            exceeded: Cell::new(false),
            awaited: Cell::new(false),
            attempt: Cell::new(0),
        }))
    }

    /// Whether all of it is still there.
    pub(crate) fn is_whole(&self) -> bool {
        !self.0.started.get()
    }

    /// More came than is taken.
    pub(crate) fn has_exceeded(&self) -> bool {
        self.0.exceeded.get()
    }

    /// The server would take more, but the client has not sent it.
    pub(crate) fn is_awaited(&self) -> bool {
        self.0.awaited.get()
    }

    /// The body for another attempt; those of earlier ones are of no use from now on.
    pub(crate) fn attempt(&self) -> Attempt {
        self.0.attempt.set(self.0.attempt.get() + 1);
        self.0.awaited.set(false);
        Attempt { inner: self.0.clone(), number: self.0.attempt.get() }
    }
}

/// What the client of one attempt gets.
pub(crate) struct Attempt {
    inner: Rc<Inner>,
    number: u32,
}

impl Body for Attempt {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let inner = &*self.inner;
        if inner.attempt.get() != self.number {
            return Poll::Ready(Some(Err("the request is being sent to another server".into())));
        }
        let polled = Pin::new(&mut *inner.body.borrow_mut()).poll_frame(cx);
        inner.awaited.set(polled.is_pending());
        let frame = ready!(polled);
        inner.started.set(true);
        if let Some(Ok(frame)) = &frame {
            let size = frame.data_ref().map_or(0, Bytes::len) as u64;
            match inner.left.get().checked_sub(size) {
                Some(left) => inner.left.set(left),
                None => {
                    inner.exceeded.set(true);
                    return Poll::Ready(Some(Err("the body is larger than is taken".into())));
                }
            }
        }
        Poll::Ready(frame.map(|frame| frame.map_err(BoxError::from)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.body.borrow().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.body.borrow().size_hint()
    }
}
