//! A WebSocket out of an HTTP request that hyper serves.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use futures::io::{AsyncRead, AsyncWrite};
use http::{Request, Response, StatusCode, header};
use hyper::rt::{Read as _, ReadBuf, Write as _};
use throng_http::ServerIo;
use throng_net::{SendStream, TcpStream};
use tungstenite::handshake::server;
use tungstenite::protocol::Role;

use crate::config::Config;
use crate::error::{Error, HandshakeError};
use crate::socket::WebSocket;

/// Answers a WebSocket request inside an HTTP service: returns the response to send and a
/// future of the socket, with default [`Config`].
///
/// Spawn the future: it completes only after the response has been sent.
///
/// # Errors
/// See [`upgrade_with`].
pub fn upgrade<B, R: Default>(request: &mut Request<B>) -> Result<(Response<R>, Upgrading), Error> {
    upgrade_with(request, Config::shared())
}

/// [`upgrade`] with a configuration.
///
/// The response may be given more headers, such as the chosen subprotocol.
///
/// # Errors
/// [`Error::Handshake`] when the request is not a WebSocket handshake (RFC 6455 4.2.1);
/// [`refusal`] makes the fitting response of it.
pub fn upgrade_with<B, R: Default>(
    request: &mut Request<B>,
    config: impl Into<Rc<Config>>,
) -> Result<(Response<R>, Upgrading), Error> {
    let response = server::create_response_with_body(request, R::default)
        .map_err(HandshakeError::from_protocol)?;
    Ok((response, Upgrading { upgrade: hyper::upgrade::on(request), config: config.into() }))
}

/// The socket that an answered request becomes, once hyper has sent the response.
#[derive(Debug)]
#[must_use = "the socket comes out of this future"]
pub struct Upgrading {
    upgrade: hyper::upgrade::OnUpgrade,
    config: Rc<Config>,
}

impl Future for Upgrading {
    type Output = Result<WebSocket<Upgraded>, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let upgraded =
            ready!(Pin::new(&mut self.upgrade).poll(cx)).map_err(HandshakeError::Upgrade)?;
        let config = self.config.clone();
        let (stream, received) = Upgraded::unwrap(upgraded);
        let socket = WebSocket::from_stream(stream, Role::Server, config, received);
        Poll::Ready(Ok(socket))
    }
}

/// Whether a request asks for a WebSocket.
pub fn is_upgrade<B>(request: &Request<B>) -> bool {
    request
        .headers()
        .get(header::UPGRADE)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// The response for a request that [`upgrade`] did not take: 400, 405 or 426.
pub fn refusal<R: Default>(error: &Error) -> Response<R> {
    let mut response = Response::new(R::default());
    *response.status_mut() = match error {
        Error::Handshake(error) => error.status(),
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    if response.status() == StatusCode::UPGRADE_REQUIRED {
        let headers = response.headers_mut();
        headers.insert("sec-websocket-version", http::HeaderValue::from_static("13"));
        headers.insert(header::UPGRADE, http::HeaderValue::from_static("websocket"));
        headers.insert(header::CONNECTION, http::HeaderValue::from_static("upgrade"));
    }
    response
}

/// The stream of an upgraded connection.
#[non_exhaustive]
pub enum Upgraded {
    /// A connection of this shard: the very stream that was accepted.
    Tcp(TcpStream),
    /// One with TLS.
    #[cfg(feature = "tls")]
    Tls(throng_tls::TlsStream),
    /// Any other stream, in the box that hyper hands out.
    Other(Box<hyper::upgrade::Upgraded>),
}

impl Upgraded {
    /// Unwraps hyper's box where we know what is in it; also returns what was received ahead.
    fn unwrap(upgraded: hyper::upgrade::Upgraded) -> (Upgraded, Vec<u8>) {
        let upgraded = match upgraded.downcast::<ServerIo<SendStream>>() {
            Ok(parts) => {
                let (stream, ahead) = parts.io.into_parts();
                let received = [parts.read_buf, ahead].concat();
                return (Upgraded::Tcp(stream.into_inner()), received);
            }
            Err(upgraded) => upgraded,
        };
        #[cfg(feature = "tls")]
        let upgraded = match upgraded.downcast::<ServerIo<throng_tls::TlsStream>>() {
            Ok(parts) => {
                let (stream, ahead) = parts.io.into_parts();
                return (Upgraded::Tls(stream), [parts.read_buf, ahead].concat());
            }
            Err(upgraded) => upgraded,
        };
        (Upgraded::Other(Box::new(upgraded)), Vec::new())
    }
}

impl fmt::Debug for Upgraded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Upgraded::Tcp(_) => "Upgraded::Tcp",
            #[cfg(feature = "tls")]
            Upgraded::Tls(_) => "Upgraded::Tls",
            Upgraded::Other(_) => "Upgraded::Other",
        })
    }
}

impl AsyncRead for Upgraded {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Upgraded::Tcp(stream) => AsyncRead::poll_read(Pin::new(stream), cx, buf),
            #[cfg(feature = "tls")]
            Upgraded::Tls(stream) => AsyncRead::poll_read(Pin::new(stream), cx, buf),
            Upgraded::Other(stream) => {
                let mut buf = ReadBuf::new(buf);
                Pin::new(stream).poll_read(cx, buf.unfilled()).map_ok(|()| buf.filled().len())
            }
        }
    }
}

impl AsyncWrite for Upgraded {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Upgraded::Tcp(stream) => AsyncWrite::poll_write(Pin::new(stream), cx, buf),
            #[cfg(feature = "tls")]
            Upgraded::Tls(stream) => AsyncWrite::poll_write(Pin::new(stream), cx, buf),
            Upgraded::Other(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Upgraded::Tcp(stream) => AsyncWrite::poll_flush(Pin::new(stream), cx),
            #[cfg(feature = "tls")]
            Upgraded::Tls(stream) => AsyncWrite::poll_flush(Pin::new(stream), cx),
            Upgraded::Other(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Upgraded::Tcp(stream) => Pin::new(stream).poll_close(cx),
            #[cfg(feature = "tls")]
            Upgraded::Tls(stream) => Pin::new(stream).poll_close(cx),
            Upgraded::Other(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
