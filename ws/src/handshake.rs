//! The opening handshake straight on a stream (RFC 6455 4), both sides.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use futures::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use http::{Response, StatusCode};
use tungstenite::client::IntoClientRequest;
use tungstenite::error::ProtocolError;
use tungstenite::handshake::client::ClientHandshake;
use tungstenite::handshake::machine::TryParse;
use tungstenite::handshake::server;
use tungstenite::protocol::Role;

use crate::config::Config;
use crate::error::{Error, HandshakeError};
use crate::socket::WebSocket;

/// The head of a handshake request, as a callback of [`accept_with`] sees it.
pub type Request = http::Request<()>;

/// The response, with its body, by which a callback of [`accept_with`] declines.
pub type Decline = Box<Response<String>>;

/// Accepts a WebSocket on a stream on which the client's request is to come, with default
/// [`Config`].
///
/// # Errors
/// See [`accept_with`].
pub fn accept<S>(stream: S) -> impl Future<Output = Result<WebSocket<S>, Error>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    accept_with(stream, Config::shared(), |_, response| Ok(response))
}

/// Accepts a WebSocket: reads the request, asks `callback`, answers.
///
/// The callback sees the request and the 101 response that is about to be sent; it may add
/// headers (a chosen subprotocol, a cookie) or decline with a response of its own.
///
/// # Errors
/// [`Error::Handshake`]: the request is no WebSocket handshake (it has been answered with
/// 400, 405 or 426), is too large (431), came too slowly, or was declined. [`Error::Io`].
pub fn accept_with<S>(
    mut stream: S,
    config: impl Into<Rc<Config>>,
    callback: impl FnOnce(&Request, Response<()>) -> Result<Response<()>, Decline>,
) -> impl Future<Output = Result<WebSocket<S>, Error>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let config = config.into();
    // On the heap, because the task that awaits it is as large as it is for all its life.
    Box::pin(async move {
        let received = within(config.handshake_timeout, async {
            let (head, rest) = match read_head(&mut stream, config.max_handshake_size).await {
                Ok(parts) => parts,
                Err(error) => {
                    if let Error::Handshake(HandshakeError::TooLarge(_)) = error {
                        refuse(&mut stream, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE).await;
                    }
                    return Err(error);
                }
            };
            let parsed = Request::try_parse(&head)
                .and_then(|parsed| {
                    parsed.ok_or(tungstenite::Error::Protocol(ProtocolError::HandshakeIncomplete))
                })
                .and_then(|(_, request)| {
                    let response = server::create_response(&request)?;
                    Ok((request, response))
                });
            let (request, response) = match parsed {
                Ok(parsed) => parsed,
                Err(error) => {
                    let error = HandshakeError::from_protocol(error);
                    refuse(&mut stream, error.status()).await;
                    return Err(error.into());
                }
            };
            match callback(&request, response) {
                Ok(response) => {
                    write_response(&mut stream, &response, None).await?;
                    Ok(rest)
                }
                Err(response) => {
                    let (mut parts, body) = response.into_parts();
                    parts.headers.insert(http::header::CONTENT_LENGTH, body.len().into());
                    parts
                        .headers
                        .insert(http::header::CONNECTION, http::HeaderValue::from_static("close"));
                    let status = parts.status;
                    write_response(&mut stream, &Response::from_parts(parts, ()), Some(&body))
                        .await?;
                    let _ = stream.close().await;
                    Err(HandshakeError::Declined(status).into())
                }
            }
        })
        .await?;
        Ok(WebSocket::from_stream(stream, Role::Server, config, received))
    })
}

/// Opens a WebSocket as a client over a connected stream, with default [`Config`].
///
/// `request` is a `ws://` URL or a request with headers of one's own; TLS, if any, is below
/// the stream, as `connect_tls` (feature `tls`) puts it there.
///
/// # Errors
/// See [`connect_with`].
pub fn connect<S>(
    request: impl IntoClientRequest,
    stream: S,
) -> impl Future<Output = Result<(WebSocket<S>, Response<()>), Error>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    connect_with(request, stream, Config::shared())
}

/// Opens a WebSocket as a client; also returns the server's response.
///
/// # Errors
/// [`Error::Handshake`]: the request is unusable, or the server refuses, breaks the protocol
/// or takes too long. [`Error::Io`].
pub fn connect_with<S>(
    request: impl IntoClientRequest,
    mut stream: S,
    config: impl Into<Rc<Config>>,
) -> impl Future<Output = Result<(WebSocket<S>, Response<()>), Error>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let config = config.into();
    Box::pin(async move {
        let request = request
            .into_client_request()
            .map_err(|error| HandshakeError::BadRequest(error.to_string()))?;
        let (response, received) = within(config.handshake_timeout, async {
            // tungstenite's handshake runs on memory; the bytes are carried between it and the
            // stream here.
            let start = ClientHandshake::start(Memory::default(), request, Some(config.protocol()));
            let handshake = match start
                .map_err(|error| HandshakeError::BadRequest(error.to_string()))?
                .handshake()
            {
                Err(tungstenite::HandshakeError::Interrupted(handshake)) => handshake,
                Err(tungstenite::HandshakeError::Failure(error)) => {
                    return Err(HandshakeError::from_protocol(error).into());
                }
                Ok(_) => {
                    let what = "the handshake ended before an answer came".to_owned();
                    return Err(HandshakeError::Malformed(what).into());
                }
            };
            stream.write_all(&handshake.get_ref().get_ref().written).await?;
            stream.flush().await?;
            let (head, rest) = read_head(&mut stream, config.max_handshake_size).await?;
            let mut handshake = handshake;
            handshake.get_mut().get_mut().unread = io::Cursor::new(head);
            match handshake.handshake() {
                Ok((_, response)) => Ok((response.map(|_| ()), rest)),
                Err(tungstenite::HandshakeError::Failure(error)) => {
                    Err(HandshakeError::from_protocol(error).into())
                }
                Err(tungstenite::HandshakeError::Interrupted(_)) => {
                    Err(HandshakeError::Malformed("incomplete response head".to_owned()).into())
                }
            }
        })
        .await?;
        Ok((WebSocket::from_stream(stream, Role::Client, config, received), response))
    })
}

impl HandshakeError {
    pub(crate) fn from_protocol(error: tungstenite::Error) -> Self {
        match error {
            tungstenite::Error::Http(response) => HandshakeError::Refused(response.status()),
            tungstenite::Error::Protocol(
                error @ (ProtocolError::HttparseError(_) | ProtocolError::HandshakeIncomplete),
            ) => HandshakeError::Malformed(error.to_string()),
            tungstenite::Error::Protocol(error) => HandshakeError::NotWebSocket(error),
            error => HandshakeError::Malformed(error.to_string()),
        }
    }

    /// What the client is told.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            HandshakeError::NotWebSocket(ProtocolError::WrongHttpMethod) => {
                StatusCode::METHOD_NOT_ALLOWED
            }
            HandshakeError::NotWebSocket(
                ProtocolError::MissingSecWebSocketVersionHeader
                | ProtocolError::MissingConnectionUpgradeHeader
                | ProtocolError::MissingUpgradeWebSocketHeader,
            ) => StatusCode::UPGRADE_REQUIRED,
            _ => StatusCode::BAD_REQUEST,
        }
    }
}

/// Bounds a handshake in time.
async fn within<T>(
    limit: Duration,
    handshake: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    match throng_runtime::timeout(limit, handshake).await {
        Ok(result) => result,
        Err(_) => Err(HandshakeError::TimedOut.into()),
    }
}

/// Reads up to and including the empty line; also returns what came after it.
async fn read_head<S: AsyncRead + Unpin>(
    stream: &mut S,
    limit: usize,
) -> Result<(Vec<u8>, Vec<u8>), Error> {
    let mut head = Vec::new();
    let mut chunk = [0; 1024];
    loop {
        let n = stream.read(&mut chunk).await?;
        if n == 0 {
            return Err(HandshakeError::Malformed("stream ended".to_owned()).into());
        }
        // The empty line may begin in what was there before.
        let from = head.len().saturating_sub(3);
        head.extend_from_slice(&chunk[..n]);
        if let Some(end) = head[from..].windows(4).position(|four| four == b"\r\n\r\n") {
            let rest = head.split_off(from + end + 4);
            if head.len() <= limit {
                return Ok((head, rest));
            }
        }
        if head.len() > limit {
            return Err(HandshakeError::TooLarge(limit).into());
        }
    }
}

/// Answers a request that is not taken, as well as the stream lets us.
async fn refuse<S: AsyncWrite + Unpin>(stream: &mut S, status: StatusCode) {
    let mut response = Response::new(());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(http::header::CONTENT_LENGTH, http::HeaderValue::from_static("0"));
    headers.insert(http::header::CONNECTION, http::HeaderValue::from_static("close"));
    // RFC 6455 4.4: name the version we speak; RFC 9110 15.5.22 and 15.5.6 ask for the others.
    if status == StatusCode::UPGRADE_REQUIRED {
        headers.insert("sec-websocket-version", http::HeaderValue::from_static("13"));
        headers.insert(http::header::UPGRADE, http::HeaderValue::from_static("websocket"));
    }
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(http::header::ALLOW, http::HeaderValue::from_static("GET"));
    }
    if write_response(stream, &response, None).await.is_ok() {
        let _ = stream.close().await;
    }
}

async fn write_response<S: AsyncWrite + Unpin>(
    stream: &mut S,
    response: &Response<()>,
    body: Option<&str>,
) -> Result<(), Error> {
    let mut out = Vec::with_capacity(192);
    server::write_response(&mut out, response)
        .map_err(|error| HandshakeError::BadRequest(error.to_string()))?;
    out.extend_from_slice(body.unwrap_or_default().as_bytes());
    stream.write_all(&out).await?;
    stream.flush().await?;
    Ok(())
}

/// What tungstenite's handshake reads and writes instead of a stream.
#[derive(Debug, Default)]
struct Memory {
    unread: io::Cursor<Vec<u8>>,
    written: Vec<u8>,
}

impl io::Read for Memory {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.unread.read(buf)? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            n => Ok(n),
        }
    }
}

impl io::Write for Memory {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.written.extend_from_slice(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
