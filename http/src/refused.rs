//! Requests that no service sees.

use std::error::Error;
use std::fmt;
use std::net::SocketAddr;

use hyper::StatusCode;

use crate::lines::Fault;

/// A request of HTTP/1 that was answered with an error instead of being handed to a service, or what
/// is no HTTP/2 on a connection of it (RFC 9113 5.4.1); the connection ends with it. See [`Running::on_refused`](crate::Running::on_refused).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Refused {
    /// The client, where the stream still knows.
    pub peer: Option<SocketAddr>,
    /// 400: malformed or ambiguous, of HTTP/2 too, where it is not sent; 408: not there in time; 414, 431: too large.
    pub status: StatusCode,
    /// For people.
    pub why: String,
}

/// Why, before it is known who is told.
pub(crate) struct Reason {
    pub(crate) status: StatusCode,
    pub(crate) why: String,
}

impl Reason {
    pub(crate) fn of_fault(fault: Fault) -> Reason {
        Reason { status: StatusCode::BAD_REQUEST, why: fault.why().into() }
    }

    /// A head that hyper does not take: what it has answered.
    pub(crate) fn of_hyper(error: &hyper::Error) -> Option<Reason> {
        if !error.is_parse() {
            return None;
        }
        let why = error.to_string();
        // hyper does not tell these two apart but in words.
        let status = match error.is_parse_too_large() {
            true if why.starts_with("URI") => StatusCode::URI_TOO_LONG,
            true => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            false => StatusCode::BAD_REQUEST,
        };
        Some(Reason { status, why })
    }

    /// A connection of HTTP/2 that we have ended for what its client has sent.
    pub(crate) fn of_http2(error: &hyper::Error) -> Option<Reason> {
        let h2 = error.source()?.downcast_ref::<h2::Error>()?;
        let ours = h2.is_library() && !h2.is_io();
        ours.then(|| Reason { status: StatusCode::BAD_REQUEST, why: format!("HTTP/2: {h2}") })
    }

    pub(crate) fn of(self, peer: Option<SocketAddr>) -> Refused {
        Refused { peer, status: self.status, why: self.why }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.status, self.why)
    }
}
