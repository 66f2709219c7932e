//! The stream hyper gets: a transport with its place in the pool and notes of what passes.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};
use throng_runtime::Instant;

use super::connect::Transport;
use super::pool::{Host, Permit};

/// Most bytes of an exchange's first read: the whole of most responses.
const FIRST_READ: usize = 4096;

/// What hyper does not tell.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// Something was read since the exchange began.
    pub(super) read: Cell<bool>,
    /// Something was written since.
    pub(super) written: Cell<bool>,
    /// hyper has written what it has not flushed, or could not write.
    pub(super) unflushed: Cell<bool>,
    /// When something was read last.
    pub(super) heard: Cell<Option<Instant>>,
}

pub(super) struct Wire {
    transport: Transport,
    pub(super) notes: Rc<Notes>,
    pub(super) born: Instant,
    /// Given back with the transport's end.
    permit: Permit,
}

impl Wire {
    pub(super) fn new(transport: Transport, permit: Permit) -> Self {
        let born = throng_runtime::now();
        Wire { transport, notes: Rc::default(), born, permit }
    }

    /// Ready when the connection is of no use any more: a server has nothing to say unasked,
    /// so an end, an error and bytes all mean that (RFC 9112 9.2).
    pub(super) fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut space = [MaybeUninit::uninit(); 1];
        let mut buf = ReadBuf::uninit(&mut space);
        Pin::new(&mut self.transport).poll_read(cx, buf.unfilled()).map(drop)
    }

    /// Says that nothing more comes, where that can be said at once: to TLS, an end that is not
    /// announced is an error (RFC 8446 6.1).
    pub(super) fn part(mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        let _ = Pin::new(&mut self.transport).poll_shutdown(&mut cx);
    }

    /// What bytes go over, for who needs no notes.
    pub(super) fn transport(&mut self) -> &mut Transport {
        &mut self.transport
    }

    pub(super) fn host(&self) -> &Rc<Host> {
        &self.permit.0
    }

    fn heard(&self) {
        self.notes.heard.set(Some(throng_runtime::now()));
        self.permit.0.heard();
    }

    /// Forgets the exchange before.
    pub(super) fn begin(&self) {
        self.notes.read.set(false);
        self.notes.written.set(false);
    }

    /// The transport alone, its place given back.
    pub(super) fn into_transport(self) -> Transport {
        self.transport
    }
}

impl Read for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if self.notes.read.get() {
            let result = Pin::new(&mut self.transport).poll_read(cx, buf);
            if result.is_ready() {
                self.heard();
            }
            return result;
        }
        // hyper's cursor does not tell how much was put into it. The first read of an exchange
        // goes through a buffer that does: bytes and the end must be told apart.
        let mut space = [MaybeUninit::uninit(); FIRST_READ];
        let most = FIRST_READ.min(buf.remaining());
        let mut first = ReadBuf::uninit(&mut space[..most]);
        ready!(Pin::new(&mut self.transport).poll_read(cx, first.unfilled()))?;
        self.notes.read.set(!first.filled().is_empty());
        self.heard();
        buf.put_slice(first.filled());
        Poll::Ready(Ok(()))
    }
}

impl Wire {
    fn note(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.notes.unflushed.set(true);
        if let Poll::Ready(Ok(1..)) = result {
            self.notes.written.set(true);
        }
        result
    }
}

impl Write for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.transport).poll_write(cx, buf);
        self.note(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.transport).poll_write_vectored(cx, bufs);
        self.note(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.transport).poll_flush(cx);
        self.notes.unflushed.set(!matches!(result, Poll::Ready(Ok(()))));
        result
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_shutdown(cx)
    }
}
