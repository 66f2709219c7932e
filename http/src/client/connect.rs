//! How a client gets its connections: the hook for names, TLS and anything else.

use std::fmt;
use std::future::ready;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::future::LocalBoxFuture;
use http::Uri;
use http::uri::{Authority, Scheme};
use hyper::rt::{Read, ReadBufCursor, Write};
use throng_net::TcpStream;

use super::error::{Error, ErrorKind};

/// Where a request goes: connections are shared by requests with equal targets.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    scheme: Scheme,
    /// Without the scheme's default port.
    authority: Authority,
    prelude: Option<Bytes>,
}

/// What a connection begins with, before TLS and HTTP, as an extension of requests: a PROXY
/// protocol header ([`throng_net::proxy_protocol::encode`]). Requests share a connection only with
/// those of the same one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Prelude(pub Bytes);

impl Target {
    /// The target of an absolute URI.
    ///
    /// # Errors
    /// [`ErrorKind::BadUri`]: no scheme or host, a scheme other than http and https, or user
    /// information.
    pub fn of(uri: &Uri) -> Result<Target, Error> {
        let bad = |why: &str| Err(Error::new(ErrorKind::BadUri, format!("{uri}: {why}")));
        let (Some(scheme), Some(authority)) = (uri.scheme(), uri.authority()) else {
            return bad("it has no scheme or no host");
        };
        if *scheme != Scheme::HTTP && *scheme != Scheme::HTTPS {
            return bad("the scheme is neither http nor https");
        }
        if authority.as_str().contains('@') {
            // Not to be shown: it may be a password.
            let why = "the URI carries user information (RFC 9110 4.2.4)";
            return Err(Error::new(ErrorKind::BadUri, why));
        }
        if authority.host().is_empty() {
            return bad("the host is empty");
        }
        let digits = authority.as_str()[authority.host().len()..].strip_prefix(':');
        if digits.is_some_and(|digits| !digits.is_empty()) && authority.port_u16().is_none() {
            return bad("the port is no number below 65536");
        }
        let mut target =
            Target { scheme: scheme.clone(), authority: authority.clone(), prelude: None };
        // `http://a:80/`, `http://a:/` and `http://a/` are one place (RFC 9110 4.2.3).
        if digits.is_some() && authority.port_u16().is_none_or(|port| port == target.default_port())
        {
            match Authority::try_from(authority.host()) {
                Ok(host) => target.authority = host,
                Err(error) => return bad(&error.to_string()),
            }
        }
        Ok(target)
    }

    fn default_port(&self) -> u16 {
        if self.is_https() { 443 } else { 80 }
    }

    /// Whether TLS is asked for.
    pub fn is_https(&self) -> bool {
        self.scheme == Scheme::HTTPS
    }

    /// The name or address, an IPv6 address without its brackets.
    pub fn host(&self) -> &str {
        let host = self.authority.host();
        host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
    }

    /// The port, the scheme's own where the URI has none.
    pub fn port(&self) -> u16 {
        self.authority.port_u16().unwrap_or(self.default_port())
    }

    pub(super) fn with_prelude(mut self, prelude: Option<Bytes>) -> Target {
        self.prelude = prelude;
        self
    }

    /// A TCP connection to it, TCP_NODELAY set, on which the [`Prelude`] of its requests has been
    /// sent: what a connector begins with.
    ///
    /// # Errors
    /// Those of connecting and writing.
    pub fn open(&self) -> impl Future<Output = io::Result<TcpStream>> + use<> {
        let connecting = TcpStream::connect((self.host().to_owned(), self.port()));
        let prelude = self.prelude.clone();
        async move {
            let mut stream = connecting.await?;
            // It fails only for a connection that is over, which the first read finds out.
            let _ = stream.set_nodelay(true);
            if let Some(prelude) = prelude {
                stream.write_chunk(prelude).await?;
            }
            Ok(stream)
        }
    }

    /// Host and port as the `host` field has them.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.authority)
    }
}

/// Makes connections for a [`Client`](super::Client). Closures from a [`Target`] to a future
/// are connectors.
///
/// A connector is called again for every new connection; the client's connect timeout covers
/// all it does. One that does not begin with [`Target::open`] sends no [`Prelude`]. An error of kind `InvalidInput` or `Unsupported` becomes
/// [`ErrorKind::BadUri`], any other [`ErrorKind::Connect`].
pub trait Connect: 'static {
    /// Begins to connect.
    fn connect(&self, target: &Target) -> LocalBoxFuture<'static, io::Result<Transport>>;
}

impl<F, Fut> Connect for F
where
    F: Fn(&Target) -> Fut + 'static,
    Fut: Future<Output = io::Result<Transport>> + 'static,
{
    fn connect(&self, target: &Target) -> LocalBoxFuture<'static, io::Result<Transport>> {
        Box::pin(self(target))
    }
}

/// The default connector: cleartext TCP through this shard's network and resolver.
#[derive(Clone, Copy, Debug, Default)]
pub struct TcpConnector;

impl Connect for TcpConnector {
    fn connect(&self, target: &Target) -> LocalBoxFuture<'static, io::Result<Transport>> {
        if target.is_https() {
            let why = format!("{target}: this client's connector does not speak TLS");
            return Box::pin(ready(Err(io::Error::new(io::ErrorKind::Unsupported, why))));
        }
        let opening = target.open();
        Box::pin(async move { Ok(Transport::tcp(opening.await?)) })
    }
}

/// A connection as a connector hands it over: a byte stream, and what was agreed on it.
pub struct Transport {
    io: Io,
    pub(super) http2: bool,
}

/// Plain TCP is spared the virtual calls.
enum Io {
    Tcp(TcpStream),
    Other(Box<dyn Duplex>),
}

trait Duplex: Read + Write + Unpin {}
impl<T: Read + Write + Unpin> Duplex for T {}

impl Transport {
    /// A TCP stream. It gets TCP_NODELAY: hyper writes in pieces worth a segment each.
    pub fn tcp(stream: TcpStream) -> Self {
        // It fails only for a connection that is over, which the first read finds out.
        let _ = stream.set_nodelay(true);
        Transport { io: Io::Tcp(stream), http2: false }
    }

    /// Any other stream, such as TLS.
    pub fn new(io: impl Read + Write + Unpin + 'static) -> Self {
        Transport { io: Io::Other(Box::new(io)), http2: false }
    }

    /// Says that the handshake chose HTTP/2 (ALPN `h2`, RFC 7301).
    #[must_use]
    pub fn negotiated_http2(mut self, yes: bool) -> Self {
        self.http2 = yes;
        self
    }

    /// The TCP stream, if it is one.
    ///
    /// # Errors
    /// The transport itself when it is something else.
    pub fn into_tcp(self) -> Result<TcpStream, Transport> {
        match self.io {
            Io::Tcp(stream) => Ok(stream),
            io => Err(Transport { io, ..self }),
        }
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if matches!(self.io, Io::Tcp(_)) { "tcp" } else { "other" };
        f.debug_struct("Transport").field("kind", &kind).field("http2", &self.http2).finish()
    }
}

impl Read for Transport {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Tcp(stream) => Read::poll_read(Pin::new(stream), cx, buf),
            Io::Other(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl Write for Transport {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Tcp(stream) => Write::poll_write(Pin::new(stream), cx, buf),
            Io::Other(io) => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Tcp(stream) => Write::poll_write_vectored(Pin::new(stream), cx, bufs),
            Io::Other(io) => Pin::new(io).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Io::Tcp(stream) => Write::is_write_vectored(stream),
            Io::Other(io) => io.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Tcp(stream) => Write::poll_flush(Pin::new(stream), cx),
            Io::Other(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Tcp(stream) => Write::poll_shutdown(Pin::new(stream), cx),
            Io::Other(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}
