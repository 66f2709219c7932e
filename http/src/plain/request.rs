//! Requests plain enough to be understood without doubt.

use std::mem::MaybeUninit;
use std::ops::Range;

use http::Method;

use super::{FIELDS, Fields, Scratch};
use crate::lines::Lines;

/// The head of a request that means one thing to everybody: of HTTP/1.1, for a path, to a host
/// that is a name or an IPv4 address, without a body or with one of a length. What asks for more
/// than an answer (an upgrade, `expect`, `te`) is not among them.
#[derive(Debug)]
pub struct Request<'b> {
    /// One of GET, HEAD, POST, PUT, PATCH and DELETE.
    pub method: Method,
    /// The path, with its query; it begins with a slash.
    pub target: &'b str,
    /// The host, with its port if there is one, as the client wrote it.
    pub authority: &'b str,
    /// Bytes of the body.
    pub length: u64,
    /// The connection ends with the answer (RFC 9112 9.6).
    pub close: bool,
    /// All fields.
    pub fields: Fields<'b>,
    /// Bytes of the head.
    pub size: usize,
}

impl<'b> Request<'b> {
    /// Reads a head of at most `most` fields. `None`: it is not whole, or not so plain.
    pub fn parse(bytes: &'b [u8], most: usize, scratch: &'b mut Scratch) -> Option<Request<'b>> {
        let mut space = [const { MaybeUninit::uninit() }; FIELDS];
        let mut request = httparse::Request::new(&mut []);
        // Empty lines in front mean nothing, and are not plain.
        if !bytes.first()?.is_ascii_uppercase() {
            return None;
        }
        let parsed = request.parse_with_uninit_headers(bytes, &mut space).ok()?;
        let httparse::Status::Complete(size) = parsed else { return None };
        // What others may understand in another way: the same eyes as for all requests.
        let mut lines = Lines::OF_HEAD;
        if lines.take(&bytes[..size]) != (size, true) || lines.fault().is_some() {
            return None;
        }
        if request.version != Some(1) || request.headers.len() > most {
            return None;
        }
        let method = match request.method? {
            "GET" => Method::GET,
            "HEAD" => Method::HEAD,
            "POST" => Method::POST,
            "PUT" => Method::PUT,
            "PATCH" => Method::PATCH,
            "DELETE" => Method::DELETE,
            _ => return None,
        };
        let target = request.path?;
        if !target.starts_with('/') || !target.bytes().all(is_of_target) {
            return None;
        }
        let (mut authority, mut length, mut close) = (None, None, false);
        for field in request.headers.iter() {
            let name = field.name.as_bytes();
            let is = |other: &[u8]| name.eq_ignore_ascii_case(other);
            // By length, for most fields are none of these.
            match name.len() {
                4 if is(b"host") => {
                    if authority.is_some() {
                        return None;
                    }
                    authority = Some(std::str::from_utf8(field.value).ok()?);
                }
                10 if is(b"connection") => close |= lists_close(field.value),
                14 if is(b"content-length") => length = Some(super::length(field.value)?),
                2 if is(b"te") => return None,
                6 if is(b"expect") => return None,
                7 if is(b"upgrade") || is(b"trailer") => return None,
                14 if is(b"http2-settings") => return None,
                17 if is(b"transfer-encoding") => return None,
                _ => {}
            }
        }
        let authority = authority.filter(|authority| is_plain_host(authority))?;
        let fields = Fields::new(&bytes[..size], request.headers, scratch);
        let length = length.unwrap_or(0);
        Some(Request { method, target, authority, length, close, fields, size })
    }

    /// Where in the head its target lies.
    pub(crate) fn target_at(&self) -> Range<usize> {
        let at = self.target.as_ptr().addr().saturating_sub(self.fields.head().as_ptr().addr());
        at..at + self.target.len()
    }

    /// The host without its port.
    pub fn host(&self) -> &'b str {
        self.authority.split(':').next().unwrap_or_default()
    }

    /// The path without its query.
    pub fn path(&self) -> &'b str {
        self.target.split('?').next().unwrap_or_default()
    }
}

/// Whether a `connection` field has `close` among its options.
pub(super) fn lists_close(value: &[u8]) -> bool {
    value
        .split(|byte| *byte == b',')
        .any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close"))
}

/// RFC 3986: what may be in a path or query, and no fragment.
fn is_of_target(byte: u8) -> bool {
    const OF: [bool; 256] = {
        let (mut of, mut at) = ([false; 256], 0);
        let others = b"-._~!$&'()*+,;=:@/?%";
        while at < others.len() {
            of[others[at] as usize] = true;
            at += 1;
        }
        let mut byte = 0;
        while byte < 128 {
            of[byte] |= (byte as u8).is_ascii_alphanumeric();
            byte += 1;
        }
        of
    };
    OF[byte as usize]
}

/// A name or an IPv4 address with a port or without.
fn is_plain_host(text: &str) -> bool {
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
    let digits = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    !host.is_empty()
        && host.bytes().all(fine)
        && port.is_none_or(|port| digits(port) && port.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parses(bytes: &[u8]) -> bool {
        Request::parse(bytes, FIELDS, &mut Scratch::default()).is_some()
    }

    #[test]
    fn a_plain_request_is_read() {
        let head = b"PUT /a%20b?c=d HTTP/1.1\r\nHost: A.example:80\r\nContent-Length: 3\r\n\
            Connection: x, Close\r\nAccept: */*\r\n\r\n";
        let bytes = [&head[..], b"abcGET"].concat();
        let mut scratch = Scratch::default();
        let request = Request::parse(&bytes, 4, &mut scratch).unwrap();
        assert_eq!((request.method.as_str(), request.target), ("PUT", "/a%20b?c=d"));
        assert_eq!((request.host(), request.path()), ("A.example", "/a%20b"));
        assert_eq!((request.length, request.close, request.size), (3, true, head.len()));
        assert_eq!(request.fields.len(), 4);
        assert!(Request::parse(&bytes, 3, &mut scratch).is_none(), "too many fields");
        // Cut anywhere, it is not whole.
        for len in 0..head.len() {
            assert!(!parses(&head[..len]), "{len}");
        }
    }

    #[test]
    fn anything_else_is_not_plain() {
        let fine = "GET / HTTP/1.1\r\nhost: a\r\n";
        assert!(parses(format!("{fine}\r\n").as_bytes()));
        for odd in [
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.0\r\nhost: a\r\n\r\n",
            "OPTIONS / HTTP/1.1\r\nhost: a\r\n\r\n",
            "TRACE / HTTP/1.1\r\nhost: a\r\n\r\n",
            "PRI * HTTP/2.0\r\n\r\n",
            "get / HTTP/1.1\r\nhost: a\r\n\r\n",
            "GET http://a/ HTTP/1.1\r\nhost: a\r\n\r\n",
            "GET * HTTP/1.1\r\nhost: a\r\n\r\n",
            "GET / HTTP/1.1\nhost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\nb: c\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\n\n",
            "\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a b\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a@b\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: [::1]\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a:\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a:+1\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a:1:2\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a:65536\r\n\r\n",
            "GET / HTTP/1.1\r\nhost:\r\n\r\n",
            "GET /# HTTP/1.1\r\nhost: a\r\n\r\n",
            "GET /\u{e9} HTTP/1.1\r\nhost: a\r\n\r\n",
        ] {
            assert!(!parses(odd.as_bytes()), "{odd:?}");
        }
        for field in [
            " b: c",
            "b : c",
            "content-length: +1",
            "content-length: 1, 1",
            "content-length:",
            "content-length: 1\r\ncontent-length: 1",
            "content-length: 99999999999999999999",
            "Transfer-Encoding: chunked",
            "Upgrade: websocket",
            "expect: 100-continue",
            "te: trailers",
            "trailer: x",
        ] {
            assert!(!parses(format!("{fine}{field}\r\n\r\n").as_bytes()), "{field:?}");
        }
    }
}
