//! The body of a response on its way to the client, and what ends with it: the server's slot
//! and the line of the access log.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use throng::http::BoxError;
use throng::http::client;

use crate::group::Slot;
use crate::log::Entry;

pub(crate) struct Out {
    source: Source,
    /// The server that sends it, until it has.
    slot: Option<Slot>,
    /// The line of the log, which is written when the body has ended.
    entry: Option<Entry>,
}

enum Source {
    Text(Option<Bytes>),
    Server(Box<client::Body>),
}

impl Out {
    pub(crate) fn text(text: Bytes) -> Out {
        Out { source: Source::Text(Some(text)), slot: None, entry: None }
    }

    pub(crate) fn empty() -> Out {
        Out { source: Source::Text(None), slot: None, entry: None }
    }

    pub(crate) fn server(body: client::Body, slot: Slot) -> Out {
        Out { source: Source::Server(Box::new(body)), slot: Some(slot), entry: None }
    }

    pub(crate) fn log(&mut self, entry: Option<Entry>) {
        self.entry = entry;
    }
}

impl Body for Out {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let frame = match &mut this.source {
            Source::Text(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Source::Server(body) => {
                let frame = std::task::ready!(Pin::new(body.as_mut()).poll_frame(cx));
                if let (Some(Err(error)), Some(slot)) = (&frame, &this.slot) {
                    slot.failed(error);
                }
                // Whoever waits for the server need not wait for the client.
                if !matches!(frame, Some(Ok(_))) || body.is_end_stream() {
                    this.slot = None;
                }
                Poll::Ready(frame.map(|frame| frame.map_err(BoxError::from)))
            }
        };
        if let (Some(entry), Poll::Ready(Some(Ok(frame)))) = (&mut this.entry, &frame) {
            entry.bytes += frame.data_ref().map_or(0, Bytes::len) as u64;
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Text(text) => text.is_none(),
            Source::Server(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Text(text) => SizeHint::with_exact(text.as_ref().map_or(0, Bytes::len) as u64),
            Source::Server(body) => body.size_hint(),
        }
    }
}
