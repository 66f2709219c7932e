//! The lines of a head, or of trailers: where they end, and what in them another recipient might
//! understand in another way than hyper does.

/// What is wrong with a head, although hyper takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A length and a transfer coding (RFC 9112 6.1): how requests are smuggled.
    TwoLengths,
    /// `content-length` or `transfer-encoding` more than once, be it with equal values (6.3).
    Repeated,
    /// A line that ends without a CR (2.2).
    BareNewline,
    /// hyper and we do not agree on where the head ends.
    Unfollowed,
}

impl Fault {
    pub(crate) fn why(self) -> &'static str {
        match self {
            Fault::TwoLengths => "both content-length and transfer-encoding",
            Fault::Repeated => "content-length or transfer-encoding more than once",
            Fault::BareNewline => "a line that does not end with CR LF",
            Fault::Unfollowed => "a head whose end is not clear",
        }
    }

    /// A number but 0, which is none.
    pub(crate) fn number(fault: Option<Fault>) -> u8 {
        fault.map_or(0, |fault| match fault {
            Fault::TwoLengths => 1,
            Fault::Repeated => 2,
            Fault::BareNewline => 3,
            Fault::Unfollowed => 4,
        })
    }

    pub(crate) fn of_number(number: u8) -> Option<Fault> {
        let all = [Fault::TwoLengths, Fault::Repeated, Fault::BareNewline, Fault::Unfollowed];
        all.into_iter().find(|fault| Fault::number(Some(*fault)) == number)
    }
}

/// Follows lines that end with an empty one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lines {
    at: At,
    has_length: bool,
    has_coding: bool,
    repeated: bool,
    bare: bool,
}

#[derive(Clone, Copy, Debug)]
enum At {
    /// Before the first line. Empty ones here end nothing (RFC 9112 2.2).
    First {
        newlines: bool,
    },
    Start,
    /// A CR at the start.
    Return,
    /// So many bytes into what may be this field's name.
    Name(Field, usize),
    Within {
        /// The last byte was a CR.
        cr: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Length,
    Coding,
}

impl Field {
    fn name(self) -> &'static [u8] {
        match self {
            Field::Length => b"content-length:",
            Field::Coding => b"transfer-encoding:",
        }
    }
}

impl Lines {
    /// Of trailers.
    pub(crate) const OF_TRAILERS: Lines =
        Lines { at: At::Start, has_length: false, has_coding: false, repeated: false, bare: false };

    /// Of a head, its first line to come.
    pub(crate) const OF_HEAD: Lines =
        Lines { at: At::First { newlines: false }, ..Lines::OF_TRAILERS };

    /// Whether nothing but newlines has come, and whether those have.
    pub(crate) fn newlines_only(&self) -> Option<bool> {
        match self.at {
            At::First { newlines } => Some(newlines),
            _ => None,
        }
    }

    pub(crate) fn fault(&self) -> Option<Fault> {
        if self.has_length && self.has_coding {
            return Some(Fault::TwoLengths);
        }
        if self.repeated {
            return Some(Fault::Repeated);
        }
        self.bare.then_some(Fault::BareNewline)
    }

    fn has(&mut self, field: Field) {
        let has = match field {
            Field::Length => &mut self.has_length,
            Field::Coding => &mut self.has_coding,
        };
        self.repeated |= std::mem::replace(has, true);
    }

    /// Takes bytes up to the end of the lines: how many, and whether that has come.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> (usize, bool) {
        let mut at = 0;
        while let Some(byte) = bytes.get(at) {
            self.at = match (self.at, byte) {
                (At::First { .. }, b'\r' | b'\n') => At::First { newlines: true },
                (At::Start, b'\r') => At::Return,
                (At::Start | At::Return, b'\n') => {
                    self.bare |= matches!(self.at, At::Start);
                    return (at + 1, true);
                }
                (At::Start, b'c' | b'C') => At::Name(Field::Length, 1),
                (At::Start, b't' | b'T') => At::Name(Field::Coding, 1),
                (At::Name(field, n), byte) if field.name()[n] == byte.to_ascii_lowercase() => {
                    if n + 1 < field.name().len() {
                        At::Name(field, n + 1)
                    } else {
                        self.has(field);
                        At::Within { cr: false }
                    }
                }
                (place, _) => {
                    let rest = &bytes[at..];
                    let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
                        self.at = At::Within { cr: rest.ends_with(b"\r") };
                        return (bytes.len(), false);
                    };
                    let cr = match end.checked_sub(1) {
                        Some(last) => rest[last] == b'\r',
                        None => matches!(place, At::Within { cr: true }),
                    };
                    self.bare |= !cr;
                    at += end;
                    At::Start
                }
            };
            at += 1;
        }
        (at, false)
    }
}

#[cfg(test)]
mod tests {
    use super::{Fault, Lines};

    #[test]
    fn faults_are_found_in_every_cut() {
        for (fault, head) in [
            (None, "GET / HTTP/1.1\r\nhost: a\r\ncookie: content-length: 1\r\n\r\n"),
            (None, "\r\n\nPOST / HTTP/1.1\r\nContent-Length: 3\r\ncontent-lengths: 3\r\n\r\n"),
            (
                None,
                "POST / HTTP/1.1\r\nte: a\r\nt: b\r\nc: d\r\ntransfer-encoding: chunked\r\n\r\n",
            ),
            (Some(Fault::TwoLengths), "P / H\r\ncontent-length: 3\r\ntransfer-encoding: x\r\n\r\n"),
            (Some(Fault::TwoLengths), "P / H\r\nTransfer-Encoding:\r\nCONTENT-LENGTH:\r\n\r\n"),
            (Some(Fault::TwoLengths), "P / H\ntransfer-encoding: x\ncontent-length: 1\n\n"),
            (
                Some(Fault::Repeated),
                "P / H\r\ncontent-length: 3\r\nx: 1\r\ncontent-length: 3\r\n\r\n",
            ),
            (
                Some(Fault::Repeated),
                "P / H\r\ntransfer-encoding: a\r\ntransfer-encoding: b\r\n\r\n",
            ),
            (Some(Fault::BareNewline), "GET / HTTP/1.1\nhost: a\r\n\r\n"),
            (Some(Fault::BareNewline), "GET / HTTP/1.1\r\nhost: a\n\r\n"),
            (Some(Fault::BareNewline), "GET / HTTP/1.1\r\nhost: a\r\n\n"),
            (Some(Fault::BareNewline), "GET / HTTP/1.1\r\nc\nt\r\n\r\n"),
        ] {
            for size in 1..=head.len() {
                let (mut lines, mut at) = (Lines::OF_HEAD, 0);
                loop {
                    let piece = &head.as_bytes()[at..head.len().min(at + size)];
                    let (taken, ended) = lines.take(piece);
                    at += taken;
                    if ended {
                        break;
                    }
                    assert_eq!(taken, piece.len(), "{head:?}");
                }
                assert_eq!((at, lines.fault()), (head.len(), fault), "{head:?} by {size}");
            }
        }
        for fault in [Fault::TwoLengths, Fault::Repeated, Fault::BareNewline, Fault::Unfollowed] {
            assert_eq!(Fault::of_number(Fault::number(Some(fault))), Some(fault));
        }
        assert_eq!(Fault::of_number(Fault::number(None)), None);
    }
}
