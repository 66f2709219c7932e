//! Responses: a head and what follows it.

use std::mem::MaybeUninit;

use http::{StatusCode, Version};

use super::body::Extent;
use super::request::lists_close;
use super::{FIELDS, Fields, Malformed, Scratch};

/// The head of a response.
#[derive(Debug)]
pub struct Response<'b> {
    /// HTTP/1.0 or HTTP/1.1.
    pub version: Version,
    /// Any of three digits.
    pub status: StatusCode,
    /// The text behind the status.
    pub reason: &'b str,
    /// All fields.
    pub fields: Fields<'b>,
    /// Bytes of the head.
    pub size: usize,
}

impl<'b> Response<'b> {
    /// Reads a head; `None` where it is not whole.
    ///
    /// # Errors
    /// It is not HTTP/1, or has more than 100 fields.
    pub fn parse(
        bytes: &'b [u8],
        scratch: &'b mut Scratch,
    ) -> Result<Option<Response<'b>>, Malformed> {
        let mut space = [const { MaybeUninit::uninit() }; FIELDS];
        let mut response = httparse::Response::new(&mut []);
        let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(
            &mut response,
            bytes,
            &mut space,
        );
        let size = match parsed {
            Ok(httparse::Status::Complete(size)) => size,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(_) => return Err(Malformed("the head of the response is malformed")),
        };
        let status = response.code.and_then(|code| StatusCode::from_u16(code).ok());
        Ok(Some(Response {
            version: if response.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 },
            status: status.ok_or(Malformed("the status of the response is none"))?,
            reason: response.reason.unwrap_or_default(),
            fields: Fields::new(&bytes[..size], response.headers, scratch),
            size,
        }))
    }

    /// How the body ends that follows (RFC 9112 6.3); `bodiless`: the request was a HEAD. A coding
    /// that is not just `chunked` is the caller's to refuse.
    ///
    /// # Errors
    /// A length that is none, or is said twice and differently; a coding with HTTP/1.0 (6.1).
    pub fn extent(&self, bodiless: bool) -> Result<Extent, Malformed> {
        let status = self.status.as_u16();
        if bodiless || self.status.is_informational() || matches!(status, 204 | 304) {
            return Ok(Extent::Empty);
        }
        if let Some(last) = self.fields.all("transfer-encoding").next_back() {
            let coding = last.rsplit(|byte| *byte == b',').next().unwrap_or_default();
            return match coding.trim_ascii().eq_ignore_ascii_case(b"chunked") {
                _ if self.version == Version::HTTP_10 => {
                    Err(Malformed("the response has a transfer encoding with HTTP/1.0"))
                }
                true => Ok(Extent::Chunked),
                false => Ok(Extent::UntilEnd),
            };
        }
        let mut said = None;
        for line in self.fields.all("content-length") {
            for value in line.split(|byte| *byte == b',') {
                let length = super::length(value.trim_ascii());
                let length = length.ok_or(Malformed("the length of the response is none"))?;
                if said.is_some_and(|said| said != length) {
                    return Err(Malformed("the response has several lengths"));
                }
                said = Some(length);
            }
        }
        Ok(match said {
            Some(0) => Extent::Empty,
            Some(length) => Extent::Length(length),
            None => Extent::UntilEnd,
        })
    }

    /// Whether the connection carries another request after this one (RFC 9112 9.3), its body
    /// provided.
    pub fn keeps(&self) -> bool {
        let mut options = self.fields.all("connection");
        match self.version {
            Version::HTTP_10 => options.any(|value| {
                let mut options = value.split(|byte| *byte == b',');
                options.any(|option| option.trim_ascii().eq_ignore_ascii_case(b"keep-alive"))
            }),
            _ => !options.any(lists_close),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(head: &str, bodiless: bool) -> Result<(Extent, bool), Malformed> {
        let mut scratch = Scratch::default();
        let head = format!("{head}\r\n\r\n");
        for len in 0..head.len() {
            assert!(!matches!(Response::parse(&head.as_bytes()[..len], &mut scratch), Ok(Some(_))));
        }
        let response = Response::parse(head.as_bytes(), &mut scratch)?.unwrap();
        assert_eq!(response.size, head.len());
        Ok((response.extent(bodiless)?, response.keeps()))
    }

    #[test]
    fn bodies_end_as_their_heads_say() {
        for (head, wanted) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 3", (Extent::Length(3), true)),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 3, 3\r\ncontent-length: 3",
                (Extent::Length(3), true),
            ),
            ("HTTP/1.1 200\r\ncontent-length: 0", (Extent::Empty, true)),
            ("HTTP/1.1 200 OK\r\nconnection: a, Close", (Extent::UntilEnd, false)),
            ("HTTP/1.1 204 No\r\ncontent-length: 3", (Extent::Empty, true)),
            ("HTTP/1.1 304 No\r\ntransfer-encoding: chunked", (Extent::Empty, true)),
            ("HTTP/1.1 103 Hints", (Extent::Empty, true)),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 3",
                (Extent::Chunked, true),
            ),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, Chunked", (Extent::Chunked, true)),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip", (Extent::UntilEnd, true)),
            ("HTTP/1.0 200 OK\r\ncontent-length: 3", (Extent::Length(3), false)),
            ("HTTP/1.0 200 OK\r\nconnection: Keep-Alive", (Extent::UntilEnd, true)),
        ] {
            assert_eq!(extent(head, false), Ok(wanted), "{head}");
            assert_eq!(extent(head, true), Ok((Extent::Empty, wanted.1)), "{head}");
        }
        for bad in [
            "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 4",
            "HTTP/1.1 200 OK\r\ncontent-length: -3",
            "HTTP/1.1 200 OK\r\ncontent-length:",
            "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked",
            "HTTP/2.0 200 OK",
            "junk",
            "HTTP/1.1 99 OK",
        ] {
            assert!(extent(bad, false).is_err(), "{bad}");
        }
    }
}
