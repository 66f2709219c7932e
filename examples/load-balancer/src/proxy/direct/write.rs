//! Messages as they are written.

use http::{StatusCode, Version, header};
use throng::http::plain::{self, Extent};

use crate::proxy::answer::Refusal;

/// A request for a server.
pub(super) fn request(out: &mut Vec<u8>, request: &plain::Request<'_>, body: &[u8]) {
    let method = request.method.as_str();
    for part in [method, " ", request.target, " HTTP/1.1\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    request.fields.write(out);
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(body);
}

/// What a response's head says of itself, beside what its server has said.
pub(super) struct Frame<'d> {
    /// Of the server's body.
    pub(super) extent: Extent,
    /// The request was a HEAD.
    pub(super) bodiless: bool,
    /// The client's connection ends with it.
    pub(super) close: bool,
    /// For a response without one (RFC 9110 6.6.1).
    pub(super) date: &'d [u8],
}

/// The head of a response for a client; whether its body is to be written in chunks.
pub(super) fn response(
    out: &mut Vec<u8>,
    response: &mut plain::Response<'_>,
    frame: &Frame<'_>,
) -> bool {
    let fields = &mut response.fields;
    let chunked = matches!(frame.extent, Extent::Chunked | Extent::UntilEnd);
    // As hyper has it: nothing is said of a body that is not there, but of the one that a HEAD
    // asks about.
    let none = matches!(response.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if none && !frame.bodiless {
        fields.remove("content-length");
    }
    if none || frame.bodiless {
        fields.remove("trailer");
    }
    if chunked {
        fields.append("transfer-encoding", b"chunked");
    }
    if fields.get("date").is_none() {
        fields.append("date", frame.date);
    }
    if frame.close {
        fields.append("connection", b"close");
    }
    line(out, response.status, response.reason);
    response.fields.write(out);
    out.extend_from_slice(b"\r\n");
    chunked
}

/// A response that is not the last one, as it came but for what is not for the client.
pub(super) fn interim(out: &mut Vec<u8>, response: &plain::Response<'_>) {
    line(out, response.status, response.reason);
    response.fields.write(out);
    out.extend_from_slice(b"\r\n");
}

fn line(out: &mut Vec<u8>, status: StatusCode, reason: &str) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(reason.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// A refusal; bytes of its body.
pub(super) fn refusal(out: &mut Vec<u8>, refusal: Refusal, bodiless: bool, date: &[u8]) -> usize {
    let (text, response) = (refusal.text(), refusal.response());
    debug_assert_eq!(response.version(), Version::HTTP_11);
    line(out, refusal.status, refusal.status.canonical_reason().unwrap_or_default());
    let length = text.len().to_string();
    let own = [(header::CONTENT_LENGTH, length.as_bytes()), (header::DATE, date)];
    let fields = response.headers().iter().map(|(name, value)| (name, value.as_bytes()));
    for (name, value) in fields.chain(own.iter().map(|(name, value)| (name, *value))) {
        for part in [name.as_str().as_bytes(), b": ", value, b"\r\n"] {
            out.extend_from_slice(part);
        }
    }
    out.extend_from_slice(b"\r\n");
    if bodiless {
        return 0;
    }
    out.extend_from_slice(text.as_bytes());
    text.len()
}
