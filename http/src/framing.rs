//! Follows HTTP/1 messages in the bytes that pass to hyper, which does not tell where in one
//! it stands. Knowing that is what allows parking, and what tells a body that does not come
//! from a service that takes its time.
//!
//! Heads are not understood here, only their ends found, and what makes them ambiguous; what
//! follows a head is what hyper made of it. Every read ends where the next bytes may depend on that, and with a chunk, so
//! that hyper has taken all of a message as soon as it has been given its last byte.

use crate::lines::{Fault, Lines};

/// How the body of a request ends (RFC 9112 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// There is none.
    Empty,
    /// After this many bytes.
    Length(u64),
    /// With its last chunk and the trailers.
    Chunked,
}

/// Where the received byte stream stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Between two messages; newlines that nobody asked for may have come.
    Between {
        newlines: bool,
    },
    Head,
    /// After a head, before [`Framing::body`] said what follows.
    Unsaid,
    Body,
}

#[derive(Debug)]
pub(crate) struct Framing {
    state: State,
    /// Of the last lines that have passed.
    fault: Option<Fault>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Head(Lines),
    Unsaid,
    /// Bytes to come.
    Length(u64),
    /// In the line before a chunk; `known`: past the digits of its size.
    Size {
        size: u64,
        known: bool,
    },
    /// Bytes of a chunk to come, the line end behind it included.
    Chunk(u64),
    Trailers(Lines),
}

impl State {
    const START: State = State::Head(Lines::OF_HEAD);
}

impl Default for Framing {
    fn default() -> Self {
        Framing { state: State::START, fault: None }
    }
}

impl Framing {
    pub(crate) fn place(&self) -> Place {
        match &self.state {
            State::Head(lines) => match lines.newlines_only() {
                Some(newlines) => Place::Between { newlines },
                None => Place::Head,
            },
            State::Unsaid => Place::Unsaid,
            _ => Place::Body,
        }
    }

    /// What is wrong with the lines that have passed, once.
    pub(crate) fn take_fault(&mut self) -> Option<Fault> {
        self.fault.take()
    }

    /// What follows the head that has passed.
    pub(crate) fn body(&mut self, extent: Extent) {
        self.state = match extent {
            Extent::Empty | Extent::Length(0) => State::START,
            Extent::Length(length) => State::Length(length),
            Extent::Chunked => State::Size { size: 0, known: false },
        };
    }

    /// Takes bytes, at most to the end of a head, of a chunk, or of the message; returns how
    /// many: at least one of those there are, unless the place is [`Place::Unsaid`].
    pub(crate) fn take(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        while let Some(byte) = bytes.get(taken) {
            let rest = &bytes[taken..];
            match &mut self.state {
                State::Unsaid => break,
                State::Head(line) => {
                    let (n, end) = line.take(rest);
                    taken += n;
                    if end {
                        self.fault = self.fault.or(line.fault());
                        self.state = State::Unsaid;
                    }
                }
                State::Length(left) => {
                    let n = skip(left, rest);
                    if *left == 0 {
                        self.state = State::START;
                    }
                    return taken + n;
                }
                State::Size { size, known } => {
                    taken += 1;
                    match (char::from(*byte).to_digit(16), byte) {
                        (_, b'\n') if *size == 0 => {
                            self.state = State::Trailers(Lines::OF_TRAILERS)
                        }
                        (_, b'\n') => self.state = State::Chunk(size.saturating_add(2)),
                        (Some(digit), _) if !*known => {
                            *size = size.saturating_mul(16).saturating_add(digit.into());
                        }
                        _ => *known = true,
                    }
                }
                State::Chunk(left) => {
                    let n = skip(left, rest);
                    if *left == 0 {
                        self.state = State::Size { size: 0, known: false };
                    }
                    return taken + n;
                }
                State::Trailers(line) => {
                    let (n, end) = line.take(rest);
                    if end {
                        self.fault = self.fault.or(line.fault());
                        self.state = State::START;
                    }
                    return taken + n;
                }
            }
        }
        taken
    }
}

/// Counts as many bytes off as there are; returns their number.
fn skip(left: &mut u64, bytes: &[u8]) -> usize {
    let n = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
    *left -= n as u64;
    n
}

#[cfg(test)]
mod tests {
    use super::{Extent, Framing, Place};

    const BETWEEN: Place = Place::Between { newlines: false };

    /// Takes all of `message`, in pieces of `size`; the place before the last byte and after it.
    fn pass(framing: &mut Framing, message: &[u8], size: usize) -> (Place, Place) {
        let (last, before) = message.split_last().expect("a byte");
        let mut at = 0;
        while at < before.len() {
            let n = framing.take(&before[at..before.len().min(at + size)]);
            assert!(n > 0, "stuck at {at}");
            at += n;
        }
        let place = framing.place();
        assert_eq!(framing.take(&[*last]), 1);
        (place, framing.place())
    }

    #[test]
    fn heads_end_with_an_empty_line() {
        for head in [
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: x\r\nx: \r\r\n\r\n",
            "GET / HTTP/1.1\nhost: x\n\n",
            "\r\n\n\r\nGET / HTTP/1.1\r\nhost: x\n\r\n",
        ] {
            for size in 1..head.len() {
                let mut framing = Framing::default();
                assert_eq!(framing.place(), BETWEEN);
                assert_eq!(pass(&mut framing, head.as_bytes(), size), (Place::Head, Place::Unsaid));
                assert_eq!(framing.take(b"more"), 0, "what follows is unknown");
                framing.body(Extent::Empty);
                assert_eq!(framing.place(), BETWEEN);
            }
        }
        let mut framing = Framing::default();
        framing.take(b"\r\n");
        assert_eq!(framing.place(), Place::Between { newlines: true });
    }

    #[test]
    fn a_length_is_counted() {
        for size in [1, 3, 100] {
            let mut framing = Framing::default();
            framing.take(b"POST / HTTP/1.1\r\n\r\n");
            framing.body(Extent::Length(10));
            assert_eq!(pass(&mut framing, b"GET /\r\n\r\nx", size), (Place::Body, BETWEEN));
        }
        let mut framing = Framing::default();
        framing.body(Extent::Length(3));
        assert_eq!(framing.take(b"abcGET"), 3, "no further than the body");
    }

    #[test]
    fn chunks_end_with_an_empty_one_and_trailers() {
        for body in [
            "0\r\n\r\n",
            "3\r\nabc\r\n0\r\n\r\n",
            "0010;a=\"0\" \r\n0\r\n\r\n0123456789a\r\n00\r\ntrailer: t\r\nu: v\r\n\r\n",
            "a \t\r\n0123456789\r\nB\r\n0123456789a\r\n000;x\r\n\r\n",
        ] {
            for size in 1..=body.len() {
                let mut framing = Framing::default();
                framing.body(Extent::Chunked);
                let places = pass(&mut framing, body.as_bytes(), size);
                assert_eq!(places, (Place::Body, BETWEEN), "{body:?} by {size}");
            }
        }
        // hyper may hold a chunk back while nobody reads it, so the end comes by itself.
        let mut framing = Framing::default();
        framing.body(Extent::Chunked);
        assert_eq!(framing.take(b"3\r\nabc\r\n0\r\n\r\nGET"), 8);
        assert_eq!(framing.take(b"0\r\n\r\nGET"), 5);
        assert_eq!(framing.place(), BETWEEN);
        framing.body(Extent::Chunked);
        assert_eq!(framing.take(b"ffffffffffffffffff\r\nabc"), 23, "too large for any body");
        assert_eq!(framing.place(), Place::Body);
    }
}
