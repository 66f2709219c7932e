//! Why a request failed.

use std::error::Error as StdError;
use std::fmt;
use std::io;

use crate::server::BoxError;

/// What a [`Client`](super::Client) was doing when its time ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// Waiting for one of the connections the host is allowed.
    Queue,
    /// Resolving, connecting, shaking hands.
    Connect,
    /// Waiting for the head of the response.
    Head,
    /// Waiting for the next piece of the response's body.
    Body,
    /// All of it together.
    Total,
}

/// Whose fault a failed request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request cannot be sent as it is: no absolute URI, a scheme the connector does not
    /// speak, user information in the authority (RFC 9110 4.2.4).
    BadUri,
    /// No connection: refused, unreachable, not resolved.
    Connect,
    /// Something took longer than the settings allow.
    Timeout(Phase),
    /// The queue for the host's connections is full, or the shard has no room for a task.
    Exhausted,
    /// The peer closed or reset the connection, or refused the stream, before the response
    /// had ended.
    Closed,
    /// The peer does not speak HTTP as it should, or beyond the limits set.
    Protocol,
    /// The request's own body failed.
    RequestBody,
    /// [`upgrade`](super::upgrade()) of a response that switches no protocols.
    NotUpgraded,
}

/// Why a request, or the body of its response, failed.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    source: Option<BoxError>,
}

impl Error {
    pub(super) fn new(kind: ErrorKind, source: impl Into<BoxError>) -> Self {
        Error { kind, source: Some(source.into()) }
    }

    pub(super) fn timeout(phase: Phase) -> Self {
        Error { kind: ErrorKind::Timeout(phase), source: None }
    }

    pub(super) fn of(kind: ErrorKind) -> Self {
        Error { kind, source: None }
    }

    pub(super) fn connect(error: io::Error) -> Self {
        let kind = match error.kind() {
            io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported => ErrorKind::BadUri,
            _ => ErrorKind::Connect,
        };
        Error::new(kind, error)
    }

    /// What hyper said, by blame.
    pub(super) fn of_hyper(error: hyper::Error) -> Self {
        let kind = if error.is_user() {
            ErrorKind::RequestBody
        } else if error.is_parse() {
            ErrorKind::Protocol
        } else if let Some(h2) = find::<h2::Error>(&error) {
            // What h2 itself detects is a violation; what the peer says is an end.
            if h2.is_library() { ErrorKind::Protocol } else { ErrorKind::Closed }
        } else if is_closed(&error) {
            ErrorKind::Closed
        } else {
            ErrorKind::Protocol
        };
        Error::new(kind, error)
    }

    /// Whose fault it is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// A deadline passed, of whichever phase.
    pub fn is_timeout(&self) -> bool {
        matches!(self.kind, ErrorKind::Timeout(_))
    }
}

/// The first error of type `E` among an error's sources.
pub(super) fn find<'e, E: StdError + 'static>(
    error: &'e (dyn StdError + 'static),
) -> Option<&'e E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

fn is_closed(error: &hyper::Error) -> bool {
    // hyper's decoders say what is malformed by an I/O error of these kinds.
    let malformed = [io::ErrorKind::InvalidData, io::ErrorKind::InvalidInput];
    error.is_incomplete_message()
        || error.is_canceled()
        || error.is_closed()
        || error.is_timeout()
        || error.is_body_write_aborted()
        || find::<io::Error>(error).is_some_and(|io| !malformed.contains(&io.kind()))
        || is_body_cut(error)
}

/// hyper tells a streaming body only in words that its connection has failed.
fn is_body_cut(error: &hyper::Error) -> bool {
    !error.is_parse()
        && error.source().is_some_and(|source| source.to_string() == "connection error")
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            ErrorKind::BadUri => "the request's URI cannot be used",
            ErrorKind::Connect => "no connection",
            ErrorKind::Timeout(Phase::Queue) => "no connection of the host's came free in time",
            ErrorKind::Timeout(Phase::Connect) => "connecting took too long",
            ErrorKind::Timeout(Phase::Head) => "the response's head did not come in time",
            ErrorKind::Timeout(Phase::Body) => "the response's body stalled",
            ErrorKind::Timeout(Phase::Total) => "the request took too long",
            ErrorKind::Exhausted => "too many requests wait already",
            ErrorKind::Closed => "the connection ended before the response had",
            ErrorKind::Protocol => "the peer's HTTP is malformed or too large",
            ErrorKind::RequestBody => "the request or its body failed",
            ErrorKind::NotUpgraded => "the response switches no protocols",
        })?;
        match &self.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// For who reads and writes by himself what goes over a [`Leased`](super::Leased) connection.
impl From<ErrorKind> for Error {
    fn from(kind: ErrorKind) -> Error {
        Error { kind, source: None }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let of_source = || find::<io::Error>(&error).map(io::Error::kind);
        let kind = match error.kind {
            ErrorKind::BadUri => io::ErrorKind::InvalidInput,
            ErrorKind::Connect => of_source().unwrap_or(io::ErrorKind::Other),
            ErrorKind::Timeout(_) => io::ErrorKind::TimedOut,
            ErrorKind::Exhausted => io::ErrorKind::QuotaExceeded,
            ErrorKind::Closed => of_source().unwrap_or(io::ErrorKind::UnexpectedEof),
            ErrorKind::Protocol => io::ErrorKind::InvalidData,
            ErrorKind::RequestBody | ErrorKind::NotUpgraded => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}
