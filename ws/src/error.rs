//! Why a WebSocket ended, by whose fault.

use std::io;

use http::StatusCode;
use tungstenite::error::{CapacityError, ProtocolError};
use tungstenite::protocol::frame::coding::CloseCode;

use crate::bridge::{is_over_budget, is_oversize_control};

/// What went wrong with a WebSocket or its handshake. After any of them but
/// [`Error::ControlTooLong`] the socket is done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The stream below failed.
    #[error("stream: {0}")]
    Io(#[from] io::Error),
    /// The peer broke RFC 6455; it has been told with close code 1002.
    #[error("peer broke the protocol: {0}")]
    Protocol(#[source] ProtocolError),
    /// The peer sent text that is not UTF-8; it has been told with close code 1007.
    #[error("peer sent text that is not UTF-8: {0}")]
    Utf8(String),
    /// The peer sent more than a limit allows; it has been told with close code 1009.
    #[error("peer sent too much: {0}")]
    TooLarge(#[source] CapacityError),
    /// All sockets together receive as much as
    /// [`Config::max_receiving`](crate::Config::max_receiving) allows; the peer has been told
    /// with close code 1013.
    #[error("too many bytes of messages under way")]
    Exhausted,
    /// The stream ended without a closing handshake (close code 1006), or sending has failed.
    #[error("connection ended without a closing handshake")]
    ClosedAbnormally,
    /// The peer has not answered a ping in time.
    #[error("no sign of life from the peer since a ping")]
    PingTimeout,
    /// No data message passed for [`Config::idle_timeout`](crate::Config::idle_timeout); the
    /// peer has been told with close code 1001.
    #[error("idle for too long")]
    IdleTimeout,
    /// The peer stopped in the middle of a message for
    /// [`Config::receive_timeout`](crate::Config::receive_timeout); it has been told with close
    /// code 1008.
    #[error("peer stopped in the middle of a message")]
    ReceiveTimeout,
    /// The peer took no byte for [`Config::send_timeout`](crate::Config::send_timeout).
    #[error("peer does not read")]
    SendTimeout,
    /// The peer reads so slowly that it fell behind a topic whose policy is
    /// [`Slow::Disconnect`](crate::topic::Slow::Disconnect).
    #[error("peer reads too slowly")]
    Slow,
    /// The drain of [`Config::drain`](crate::Config::drain) has come to its deadline before the
    /// closing handshake has come to its end.
    #[error("cut at the end of a drain")]
    Cut,
    /// The closing handshake did not end in time.
    #[error("closing handshake timed out")]
    CloseTimeout,
    /// The caller sends on a socket that is closed or closing.
    #[error("socket is closed")]
    Closed,
    /// The caller's ping, pong or close frame is larger than 125 bytes (RFC 6455 5.5). Nothing
    /// was sent, and the socket goes on.
    #[error("payload of a control frame is larger than 125 bytes")]
    ControlTooLong,
    /// The opening handshake failed.
    #[error("handshake: {0}")]
    Handshake(#[from] HandshakeError),
}

/// Why an opening handshake failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The stream ended, or was malformed as HTTP.
    #[error("{0}")]
    Malformed(String),
    /// The head exceeds [`Config::max_handshake_size`](crate::Config::max_handshake_size).
    #[error("head is larger than {0} bytes")]
    TooLarge(usize),
    /// It took longer than [`Config::handshake_timeout`](crate::Config::handshake_timeout).
    #[error("timed out")]
    TimedOut,
    /// The request is not a WebSocket handshake (RFC 6455 4.2.1).
    #[error("not a WebSocket request: {0}")]
    NotWebSocket(#[source] ProtocolError),
    /// Our own callback declined the request with this status.
    #[error("declined with status {0}")]
    Declined(StatusCode),
    /// The server answered with this status instead of 101.
    #[error("server answered with status {0}")]
    Refused(StatusCode),
    /// The caller's request cannot be a WebSocket handshake.
    #[error("request: {0}")]
    BadRequest(String),
    /// hyper did not hand over the upgraded connection.
    #[error("upgrade: {0}")]
    Upgrade(#[from] hyper::Error),
}

impl Error {
    /// What a tungstenite error met while talking means to our caller.
    pub(crate) fn from_protocol(error: tungstenite::Error) -> Error {
        use tungstenite::Error as E;
        match error {
            E::Io(error) if is_over_budget(&error) => Error::Exhausted,
            E::Io(error) if is_oversize_control(&error) => {
                Error::Protocol(ProtocolError::ControlFrameTooBig)
            }
            E::Io(error) => Error::Io(error),
            E::Capacity(error) => Error::TooLarge(error),
            E::Utf8(what) => Error::Utf8(what),
            E::Protocol(ProtocolError::ResetWithoutClosingHandshake) => Error::ClosedAbnormally,
            E::Protocol(ProtocolError::SendAfterClosing)
            | E::ConnectionClosed
            | E::AlreadyClosed => Error::Closed,
            E::Protocol(error) => Error::Protocol(error),
            other => Error::Io(io::Error::other(other)),
        }
    }

    /// The close code the peer is told before the connection ends, if it is to be told.
    pub(crate) fn close_code(&self) -> Option<CloseCode> {
        match self {
            Error::Protocol(_) => Some(CloseCode::Protocol),
            Error::Utf8(_) => Some(CloseCode::Invalid),
            Error::TooLarge(_) => Some(CloseCode::Size),
            Error::Exhausted => Some(CloseCode::Again),
            Error::IdleTimeout => Some(CloseCode::Away),
            Error::ReceiveTimeout => Some(CloseCode::Policy),
            _ => None,
        }
    }
}
