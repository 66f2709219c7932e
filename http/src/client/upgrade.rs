//! The stream of a connection that has switched protocols.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures::io::{AsyncRead, AsyncWrite};
use hyper::Response;
use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};

use super::body::Body;
use super::connect::Transport;
use super::error::{Error, ErrorKind};

/// The stream behind a `101 Switching Protocols`, or behind a 2xx to CONNECT.
///
/// The connection leaves the client's pool and counts no longer.
///
/// # Errors
/// [`ErrorKind::NotUpgraded`] for any other response.
pub async fn upgrade(mut response: Response<Body>) -> Result<Upgraded, Error> {
    let not = || Error::of(ErrorKind::NotUpgraded);
    let connection = response.body_mut().take_switching().ok_or_else(not)?;
    let switched = poll_fn(|cx| connection.poll_switched(cx)).await;
    let (wire, ahead) = switched.ok_or_else(|| Error::of(ErrorKind::Closed))?;
    Ok(Upgraded { ahead, transport: wire.into_transport() })
}

/// A stream in another protocol than HTTP. What the peer sent right behind its response is
/// read first.
#[derive(Debug)]
pub struct Upgraded {
    ahead: Bytes,
    transport: Transport,
}

impl Upgraded {
    /// The transport, and bytes read from it that nobody has taken.
    pub fn into_parts(self) -> (Transport, Bytes) {
        (self.transport, self.ahead)
    }
}

impl Read for Upgraded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            return Pin::new(&mut self.transport).poll_read(cx, buf);
        }
        let n = self.ahead.len().min(buf.remaining());
        buf.put_slice(&self.ahead[..n]);
        self.ahead.advance(n);
        if self.ahead.is_empty() {
            self.ahead = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl Write for Upgraded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.transport).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.transport).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_shutdown(cx)
    }
}

impl AsyncRead for Upgraded {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut buf = ReadBuf::new(buf);
        ready!(Read::poll_read(self, cx, buf.unfilled()))?;
        Poll::Ready(Ok(buf.filled().len()))
    }
}

impl AsyncWrite for Upgraded {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Write::poll_write(self, cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Write::poll_flush(self, cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Write::poll_shutdown(self, cx)
    }
}
