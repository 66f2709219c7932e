//! Plain HTTP/1.1 as bytes, for who passes messages on.
//!
//! To a proxy, taking a head apart into maps and putting it together again is most of the work of
//! a small request, and hyper does it twice. What is here reads a head where it lies
//! ([`Request`], [`Response`]), lets its [`Fields`] be changed, and writes it again; a
//! [`BodyReader`] finds a body's data and its end. Nothing here reads or writes a stream.
//!
//! A service that answers such requests by itself is [`Direct`]: it is served by
//! [`Running::serve_direct_until`](crate::Running::serve_direct_until), and all that is not plain
//! goes to hyper, as if nobody had looked.
//!
//! Requests are read as strictly as hyper and [`Server::strict`](crate::Server::strict) read
//! them together, and then some: what this does not take may still be fine. Responses are read as
//! hyper's client does.

mod answer;
mod body;
mod direct;
mod fields;
mod request;
mod response;

use std::fmt;

pub(crate) use answer::write_head;
pub use body::{BodyReader, Extent, LAST_CHUNK, Piece, write_chunk};
pub use direct::{Direct, Duplex, End, Exchange, Terms};
pub use fields::{Fields, Scratch};
pub use request::Request;
pub use response::Response;

/// Most fields of a head: as many as hyper takes.
const FIELDS: usize = 100;

/// A message that is no HTTP/1; what is wrong, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Malformed {}

/// A `content-length` (RFC 9110 8.6): digits, and less than what is taken for no number anywhere.
fn length(value: &[u8]) -> Option<u64> {
    let digits = !value.is_empty() && value.len() < 19 && value.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(value).ok().filter(|_| digits)?.parse().ok()
}
