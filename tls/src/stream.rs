//! A connection after its handshake.

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::io::{AsyncBufRead, AsyncRead, AsyncWrite};
use rustls::pki_types::CertificateDer;
use rustls::{CommonState, HandshakeKind, ProtocolVersion, SupportedCipherSuite};
use throng_net::SendStream;
use tokio::io as tio;

/// What TLS can be spoken on: any stream with tokio's traits, among them
/// `throng_net::TcpStream`, and another [`TlsStream`].
pub trait Transport: tio::AsyncRead + tio::AsyncWrite + Unpin {}

impl<S: tio::AsyncRead + tio::AsyncWrite + Unpin> Transport for S {}

/// A TLS connection, of a server or a client, on any stream.
///
/// It reads and writes through `futures::io`, hyper's and tokio's traits. What is written is
/// on its way when it has been flushed: under the stream's backpressure up to 64 KiB wait in
/// here.
///
/// **The ends.** Closing (`poll_close`, `poll_shutdown`) sends `close_notify` and shuts the
/// stream's write side; reading goes on until the peer's `close_notify`, which is the end of
/// the stream (RFC 8446 6.1). A stream that ends without one has been cut off, by whomever:
/// that is an error, `UnexpectedEof`. Dropping the connection without closing looks like that
/// to the peer.
///
/// **Memory.** An idle connection holds some 8 KiB, of which 4 KiB are rustls' read buffer and
/// the rest keys and state; larger buffers are given back.
pub struct TlsStream<S = SendStream>(Box<tokio_rustls::TlsStream<S>>);

/// What a handshake came to.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TlsInfo {
    /// The protocol's version.
    pub version: Option<ProtocolVersion>,
    /// What the connection is encrypted with.
    pub cipher_suite: Option<SupportedCipherSuite>,
    /// Whether an earlier session was resumed.
    pub resumed: bool,
    /// The application protocol, where both sides agreed on one.
    pub alpn: Option<Vec<u8>>,
    /// On a server: the name the client asked for.
    pub server_name: Option<String>,
}

impl<S> TlsStream<S> {
    pub(crate) fn new(stream: tokio_rustls::TlsStream<S>) -> TlsStream<S> {
        TlsStream(Box::new(stream))
    }

    fn session(&self) -> &CommonState {
        self.0.get_ref().1
    }

    /// The stream below.
    pub fn get_ref(&self) -> &S {
        self.0.get_ref().0
    }

    /// The stream below, for its settings: reading or writing it breaks the connection.
    pub fn get_mut(&mut self) -> &mut S {
        self.0.get_mut().0
    }

    /// The peer's certificates, its own first: always of a server, of a client where it was
    /// asked for them. They have been verified.
    pub fn peer_certificates(&self) -> Option<&[CertificateDer<'static>]> {
        self.session().peer_certificates()
    }

    /// The application protocol, where both sides agreed on one (RFC 7301).
    pub fn alpn_protocol(&self) -> Option<&[u8]> {
        self.session().alpn_protocol()
    }

    /// On a server: the name the client asked for.
    pub fn server_name(&self) -> Option<&str> {
        match &*self.0 {
            tokio_rustls::TlsStream::Server(stream) => stream.get_ref().1.server_name(),
            tokio_rustls::TlsStream::Client(_) => None,
        }
    }

    /// Whether an earlier session was resumed.
    pub fn resumed(&self) -> bool {
        self.session().handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// What the handshake came to. For the connection below ask the stream below.
    pub fn info(&self) -> TlsInfo {
        let session = self.session();
        TlsInfo {
            version: session.protocol_version(),
            cipher_suite: session.negotiated_cipher_suite(),
            resumed: self.resumed(),
            alpn: self.alpn_protocol().map(<[u8]>::to_vec),
            server_name: self.server_name().map(str::to_owned),
        }
    }
}

impl<S> fmt::Debug for TlsStream<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream").field("info", &self.info()).finish_non_exhaustive()
    }
}

impl<S: Transport> TlsStream<S> {
    fn tls(self: Pin<&mut Self>) -> Pin<&mut tokio_rustls::TlsStream<S>> {
        Pin::new(&mut self.get_mut().0)
    }

    /// Hands at most `max` decrypted bytes to `take`; none at the end.
    fn poll_take<T>(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        max: usize,
        take: impl FnOnce(&[u8]) -> T,
    ) -> Poll<io::Result<T>> {
        if max == 0 {
            return Poll::Ready(Ok(take(&[])));
        }
        let chunk = ready!(tio::AsyncBufRead::poll_fill_buf(self.as_mut().tls(), cx))?;
        let n = chunk.len().min(max);
        let taken = take(&chunk[..n]);
        tio::AsyncBufRead::consume(self.tls(), n);
        Poll::Ready(Ok(taken))
    }
}

impl<S: Transport> AsyncRead for TlsStream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_take(cx, buf.len(), |bytes| {
            buf[..bytes.len()].copy_from_slice(bytes);
            bytes.len()
        })
    }
}

impl<S: Transport> AsyncBufRead for TlsStream<S> {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        tio::AsyncBufRead::poll_fill_buf(self.tls(), cx)
    }

    fn consume(self: Pin<&mut Self>, amount: usize) {
        tio::AsyncBufRead::consume(self.tls(), amount);
    }
}

impl<S: Transport> AsyncWrite for TlsStream<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        tio::AsyncWrite::poll_write(self.tls(), cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        tio::AsyncWrite::poll_write_vectored(self.tls(), cx, bufs)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        tio::AsyncWrite::poll_flush(self.tls(), cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        tio::AsyncWrite::poll_shutdown(self.tls(), cx)
    }
}

impl<S: Transport> hyper::rt::Read for TlsStream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_take(cx, buf.remaining(), |bytes| buf.put_slice(bytes))
    }
}

impl<S: Transport> hyper::rt::Write for TlsStream<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        tio::AsyncWrite::poll_write(self.tls(), cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        tio::AsyncWrite::poll_flush(self.tls(), cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        tio::AsyncWrite::poll_shutdown(self.tls(), cx)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        tio::AsyncWrite::poll_write_vectored(self.tls(), cx, bufs)
    }
}

impl<S: Transport> tio::AsyncRead for TlsStream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut tio::ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_take(cx, buf.remaining(), |bytes| buf.put_slice(bytes))
    }
}

impl<S: Transport> tio::AsyncWrite for TlsStream<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.tls().poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tls().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tls().poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.tls().poll_write_vectored(cx, bufs)
    }
}
