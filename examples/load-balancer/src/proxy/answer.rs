//! Answers of the balancer itself.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use throng::http::client::{Error, ErrorKind, Phase};

use super::out::Out;
use crate::group::Unavailable;

/// Why a request is not answered by a server, and what its client is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) why: &'static str,
    /// What follows on the connection cannot be trusted, or is not worth being read.
    pub(crate) close: bool,
    /// Seconds after which it may go better.
    pub(crate) retry_after: Option<u64>,
}

impl Refusal {
    pub(crate) const fn new(status: StatusCode, why: &'static str) -> Refusal {
        Refusal { status, why, close: false, retry_after: None }
    }

    /// The request is malformed.
    pub(crate) const fn bad(why: &'static str) -> Refusal {
        Refusal { close: true, ..Refusal::new(StatusCode::BAD_REQUEST, why) }
    }

    pub(crate) const TOO_LARGE: Refusal = Refusal {
        status: StatusCode::PAYLOAD_TOO_LARGE,
        why: "the body is larger than is taken",
        close: true,
        retry_after: None,
    };

    pub(crate) const TOO_SLOW: Refusal = Refusal {
        status: StatusCode::REQUEST_TIMEOUT,
        why: "the rest of the body did not come in time",
        close: true,
        retry_after: None,
    };

    /// The request could not be sent, or got no response.
    pub(crate) fn of(error: &Error) -> Refusal {
        match error.kind() {
            ErrorKind::Timeout(Phase::Connect) => {
                Refusal::new(StatusCode::GATEWAY_TIMEOUT, "no server could be connected to in time")
            }
            ErrorKind::Timeout(_) => {
                Refusal::new(StatusCode::GATEWAY_TIMEOUT, "no server answered in time")
            }
            ErrorKind::Connect => {
                Refusal::new(StatusCode::BAD_GATEWAY, "no server could be connected to")
            }
            ErrorKind::RequestBody => Refusal::bad("the request's body is malformed or incomplete"),
            ErrorKind::Exhausted => {
                Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "there are too many requests")
            }
            _ => Refusal::new(StatusCode::BAD_GATEWAY, "the server gave no proper response"),
        }
    }

    /// The body of the response.
    pub(crate) fn text(self) -> String {
        let reason = self.status.canonical_reason().unwrap_or_default();
        format!("{} {reason}: {}\n", self.status.as_u16(), self.why)
    }

    pub(crate) fn response(self) -> Response<Out> {
        let mut response = Response::new(Out::text(Bytes::from(self.text())));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        let plain = HeaderValue::from_static("text/plain; charset=utf-8");
        headers.insert(header::CONTENT_TYPE, plain);
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if self.close {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            let others = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
            headers.insert(header::ALLOW, others);
        }
        response
    }
}

impl From<Unavailable> for Refusal {
    fn from(unavailable: Unavailable) -> Refusal {
        let why = match unavailable {
            Unavailable::NoServer => "no server is healthy",
            Unavailable::QueueFull => "there are too many requests",
            Unavailable::QueueTimeout => "no server came free in time",
        };
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, why)
    }
}
