//! The stream hyper gets: ours, with what was read ahead of it put back in front, and with
//! notes of what passes.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use hyper::rt::{Read, ReadBufCursor, Write};

/// What the driver of a connection must know and hyper does not tell.
///
/// Atomics only because hyper demands `Send` of an upgraded stream; one thread uses them,
/// with plain loads and stores.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    /// Requests whose response has not been produced to its end.
    in_flight: AtomicU32,
    /// When the last of them was, in nanoseconds of the shard's clock.
    ended_at: AtomicU64,
    /// When the first byte came of what may be the next request's head, in nanoseconds of
    /// the shard's clock and one more; 0: nothing has come.
    fresh: AtomicU64,
    /// hyper has written what it has not flushed, or could not write.
    unflushed: AtomicBool,
    /// hyper is shutting the stream.
    closing: AtomicBool,
    /// The last request had a body, which may still be on its way.
    body: AtomicBool,
}

impl Activity {
    pub(crate) fn begin(&self, body: bool) {
        self.in_flight.store(self.in_flight.load(Relaxed) + 1, Relaxed);
        self.fresh.store(0, Relaxed);
        self.body.store(body, Relaxed);
    }

    pub(crate) fn end(&self) {
        self.in_flight.store(self.in_flight.load(Relaxed).saturating_sub(1), Relaxed);
        self.fresh.store(0, Relaxed);
        // Outside a shard (a connection dropped after its world) there is no clock to read.
        if throng_runtime::try_current_shard().is_some() {
            self.ended_at.store(throng_runtime::now().as_nanos(), Relaxed);
        }
    }

    pub(crate) fn ended_at(&self) -> throng_runtime::Instant {
        throng_runtime::Instant::from_nanos(self.ended_at.load(Relaxed))
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.in_flight.load(Relaxed) > 0
    }

    /// Since when part of a request's head may have come.
    pub(crate) fn fresh_since(&self) -> Option<throng_runtime::Instant> {
        let since = self.fresh.load(Relaxed).checked_sub(1)?;
        Some(throng_runtime::Instant::from_nanos(since))
    }

    fn received(&self) {
        if self.fresh.load(Relaxed) == 0 {
            self.fresh.store(throng_runtime::now().as_nanos() + 1, Relaxed);
        }
    }

    /// The last request had a body.
    pub(crate) fn has_body(&self) -> bool {
        self.body.load(Relaxed)
    }

    /// Between two HTTP/1 requests with nothing left to read or write of either.
    pub(crate) fn at_rest(&self) -> bool {
        let unrest = [&self.unflushed, &self.closing, &self.body];
        !self.is_busy()
            && self.fresh_since().is_none()
            && !unrest.iter().any(|flag| flag.load(Relaxed))
    }
}

/// The stream of a served connection. It comes back out of
/// [`hyper::upgrade::Upgraded::downcast`] after an upgrade.
#[derive(Debug)]
pub struct ServerIo<I> {
    /// Read ahead of hyper.
    ahead: Bytes,
    io: I,
    pub(crate) activity: Arc<Activity>,
}

impl<I> ServerIo<I> {
    pub(crate) fn new(io: I, ahead: Bytes, activity: Arc<Activity>) -> Self {
        ServerIo { ahead, io, activity }
    }

    /// The stream that was accepted, and bytes read from it that nobody has taken.
    pub fn into_parts(self) -> (I, Bytes) {
        (self.io, self.ahead)
    }

    fn note<T>(&self, result: Poll<T>) -> Poll<T> {
        self.activity.unflushed.store(true, Relaxed);
        result
    }
}

impl<I: Read + Unpin> Read for ServerIo<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() {
            let n = self.ahead.len().min(buf.remaining());
            buf.put_slice(&self.ahead[..n]);
            self.ahead.advance(n);
            if self.ahead.is_empty() {
                self.ahead = Bytes::new();
            }
            self.activity.received();
            return Poll::Ready(Ok(()));
        }
        let result = Pin::new(&mut self.io).poll_read(cx, buf);
        if result.is_ready() {
            self.activity.received();
        }
        result
    }
}

impl<I: Write + Unpin> Write for ServerIo<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write(cx, buf);
        self.note(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.note(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.io).poll_flush(cx);
        self.activity.unflushed.store(!matches!(result, Poll::Ready(Ok(()))), Relaxed);
        result
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.activity.closing.store(true, Relaxed);
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
