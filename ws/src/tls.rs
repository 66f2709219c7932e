//! `wss://` (RFC 6455 3): the handshake with TLS under it.

use std::rc::Rc;

use http::Response;
use throng_tls::{Connector, TlsStream, Transport, alpn};
use tungstenite::client::IntoClientRequest;

use crate::config::Config;
use crate::error::{Error, HandshakeError};
use crate::handshake::connect_with;
use crate::socket::WebSocket;

/// Opens a WebSocket as a client with TLS over a connected stream; also returns the server's
/// response.
///
/// `request` is a `wss://` URL or a request with headers of one's own; its host is the name
/// that the server's certificate has to be for. HTTP/1.1 is what the handshake offers,
/// whatever the connector's protocols are.
///
/// ```
/// # async fn example(connector: &throng_tls::Connector) -> Result<(), throng_ws::Error> {
/// let stream = throng_net::TcpStream::connect(("example.com", 443)).await?;
/// let config = throng_ws::Config::default();
/// let url = "wss://example.com/feed";
/// let (socket, _response) = throng_ws::connect_tls(url, stream, connector, config).await?;
/// # let _ = socket;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// As for [`connect_with`]; [`Error::Io`] where TLS fails, see [`Connector::connect`];
/// [`HandshakeError::BadRequest`] for another scheme than `wss`.
pub async fn connect_tls<S>(
    request: impl IntoClientRequest,
    stream: S,
    connector: &Connector,
    config: impl Into<Rc<Config>>,
) -> Result<(WebSocket<TlsStream<S>>, Response<()>), Error>
where
    S: Transport,
{
    let bad = |why: String| Error::from(HandshakeError::BadRequest(why));
    let request = request.into_client_request().map_err(|error| bad(error.to_string()))?;
    let uri = request.uri();
    let (Some("wss"), Some(host)) = (uri.scheme_str(), uri.host()) else {
        return Err(bad(format!("{uri}: no wss:// URL")));
    };
    let connector = connector.clone().alpn([alpn::HTTP1]);
    let stream = connector.connect(host, stream).await?;
    connect_with(request, stream, config).await
}
