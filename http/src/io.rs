//! The stream hyper gets: ours, with what was read ahead of it put back in front, and with
//! notes of what passes.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};

use crate::activity::Activity;
use crate::framing::{Framing, Place};
use crate::lines::Fault;

/// Most bytes of a read that are looked at before hyper gets them.
const READ: usize = 8192;

/// The stream of a served connection. It comes back out of
/// [`hyper::upgrade::Upgraded::downcast`] after an upgrade.
#[derive(Debug)]
pub struct ServerIo<I> {
    /// Read ahead of hyper.
    ahead: Bytes,
    io: I,
    framing: Framing,
    pub(crate) activity: Arc<Activity>,
}

impl<I> ServerIo<I> {
    pub(crate) fn new(io: I, ahead: Bytes, activity: Arc<Activity>) -> Self {
        ServerIo { ahead, io, framing: Framing::default(), activity }
    }

    /// The stream that was accepted, and bytes read from it that nobody has taken.
    pub fn into_parts(self) -> (I, Bytes) {
        (self.io, self.ahead)
    }

    /// Keeps what hyper may not have yet.
    fn keep(&mut self, ahead: Bytes) {
        self.activity.set_ahead(!ahead.is_empty());
        self.ahead = if ahead.is_empty() { Bytes::new() } else { ahead };
    }

    /// How many of the bytes to come hyper may have now.
    fn follow(&mut self, bytes: &[u8]) -> usize {
        if self.framing.place() == Place::Unsaid {
            match self.activity.take_extent() {
                Some(extent) => self.framing.body(extent),
                // hyper does not see a head where we do: it has to do without us.
                None => {
                    self.activity.set_fault(Fault::Unfollowed);
                    self.activity.set_free();
                }
            }
        }
        if self.activity.is_free() {
            return bytes.len();
        }
        let taken = self.framing.take(bytes);
        if let Some(fault) = self.framing.take_fault() {
            self.activity.set_fault(fault);
        }
        self.activity.set_place(self.framing.place());
        taken
    }
}

impl<I: Read + Unpin> Read for ServerIo<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.ahead.is_empty() {
            let ahead = std::mem::take(&mut this.ahead);
            let n = this.follow(&ahead[..ahead.len().min(buf.remaining())]);
            buf.put_slice(&ahead[..n]);
            this.activity.read(false);
            this.keep(ahead.slice(n..));
            return Poll::Ready(Ok(()));
        }
        if this.activity.is_free() {
            return Pin::new(&mut this.io).poll_read(cx, buf);
        }
        let mut space = [MaybeUninit::uninit(); READ];
        let mut read = ReadBuf::uninit(&mut space[..READ.min(buf.remaining())]);
        let result = Pin::new(&mut this.io).poll_read(cx, read.unfilled());
        this.activity.read(result.is_pending());
        ready!(result)?;
        let bytes = read.filled();
        let n = this.follow(bytes);
        buf.put_slice(&bytes[..n]);
        this.keep(Bytes::copy_from_slice(&bytes[n..]));
        Poll::Ready(Ok(()))
    }
}

impl<I: Write + Unpin> Write for ServerIo<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write(cx, buf);
        self.activity.wrote(&result);
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.activity.wrote(&result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.io).poll_flush(cx);
        self.activity.flushed(result.is_pending(), matches!(result, Poll::Ready(Ok(()))));
        result
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.activity.shutting();
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
