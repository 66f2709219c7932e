//! The stream through the traits of `futures::io`, hyper and tokio: thin, all alike.

use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::io::{AsyncBufRead, AsyncRead, AsyncWrite};

use super::{Inner, TcpStream};
use crate::kernel::KernelStream;

/// Bytes asked of the engine at a time by `poll_fill_buf`.
const FILL: usize = 64 << 10;

impl TcpStream {
    fn poll_shutdown_write(&self) -> Poll<io::Result<()>> {
        Poll::Ready(self.shutdown(Shutdown::Write))
    }

    /// The host's connection, where a read of `max` bytes goes straight to it.
    fn unpeeked_kernel(&self, max: usize) -> Option<&KernelStream> {
        match &self.inner {
            Inner::Kernel(stream) if !self.is_peeked() && max > 0 => Some(stream),
            _ => None,
        }
    }
}

impl AsyncRead for TcpStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if let Some(stream) = self.unpeeked_kernel(buf.len()) {
            return stream.poll_read(cx, buf, self.is_read_shut());
        }
        let max = buf.len();
        self.poll_read_with(cx, max, |bytes| buf[..bytes.len()].copy_from_slice(bytes))
    }
}

impl AsyncBufRead for TcpStream {
    fn poll_fill_buf(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        if !self.is_peeked() {
            let chunk = ready!(self.poll_read_chunk(cx, FILL))?;
            if chunk.is_empty() {
                return Poll::Ready(Ok(&[]));
            }
            self.rare.get_or_init(Default::default);
            if let Some(rare) = self.rare.get_mut() {
                rare.peeked = chunk;
            }
        }
        Poll::Ready(Ok(self.get_mut().rare.get().map_or(&[], |rare| &rare.peeked)))
    }

    fn consume(mut self: Pin<&mut Self>, amount: usize) {
        let Some(rare) = self.rare.get_mut() else { return };
        bytes::Buf::advance(&mut rare.peeked, amount);
        if rare.is_idle() {
            self.rare.take();
        }
    }
}

impl AsyncWrite for TcpStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_copy(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_copy(cx, bufs)
    }

    /// What is written is on its way; there is nothing to wait for.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_shutdown_write()
    }
}

impl hyper::rt::Read for TcpStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let max = buf.remaining();
        if let Some(stream) = self.unpeeked_kernel(max) {
            let shut = self.is_read_shut();
            return stream.poll_read_with(cx, max, shut, |bytes| buf.put_slice(bytes));
        }
        self.poll_read_with(cx, max, |bytes| buf.put_slice(bytes)).map_ok(|_| ())
    }
}

impl hyper::rt::Write for TcpStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_copy(cx, &[IoSlice::new(buf)])
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_shutdown_write()
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_copy(cx, bufs)
    }
}

#[cfg(feature = "tokio")]
impl tokio::io::AsyncRead for TcpStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let max = buf.remaining();
        if let Some(stream) = self.unpeeked_kernel(max) {
            let shut = self.is_read_shut();
            return stream.poll_read_with(cx, max, shut, |bytes| buf.put_slice(bytes));
        }
        self.poll_read_with(cx, max, |bytes| buf.put_slice(bytes)).map_ok(|_| ())
    }
}

#[cfg(feature = "tokio")]
impl tokio::io::AsyncWrite for TcpStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_copy(cx, &[IoSlice::new(buf)])
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_shutdown_write()
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_copy(cx, bufs)
    }
}
