//! Bodies as they come: where each piece of them lies in what was read, and where they end.

use super::Malformed;

/// How a body ends (RFC 9112 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// There is none.
    Empty,
    /// After this many bytes.
    Length(u64),
    /// With its last chunk and the trailers.
    Chunked,
    /// With the connection.
    UntilEnd,
}

/// Most bytes of a chunk's extension, and of trailers: nobody reads them.
const UNREAD: u32 = 16 << 10;

/// Reads a body out of what comes.
#[derive(Clone, Copy, Debug)]
pub struct BodyReader {
    at: At,
    /// Bytes of the body or chunk that are to come.
    left: u64,
    /// Bytes of extensions or trailers that have.
    unread: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    End,
    Length,
    UntilEnd,
    /// Before a chunk's size, within it, behind it.
    FirstDigit,
    Digits,
    Space,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// At the beginning of a line of trailers, within one, at its LF; at the LF of the empty one.
    Line,
    Trailer,
    TrailerLf,
    LastLf,
}

/// What [`BodyReader::next`] has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where the data lies in the bytes given, if there is any.
    pub data: std::ops::Range<usize>,
    /// How many of them are done with.
    pub taken: usize,
}

impl BodyReader {
    /// For a body that ends so.
    pub fn new(extent: Extent) -> BodyReader {
        let (at, left) = match extent {
            Extent::Empty | Extent::Length(0) => (At::End, 0),
            Extent::Length(length) => (At::Length, length),
            Extent::Chunked => (At::FirstDigit, 0),
            Extent::UntilEnd => (At::UntilEnd, 0),
        };
        BodyReader { at, left, unread: 0 }
    }

    /// All of the body has come.
    pub fn is_end(&self) -> bool {
        self.at == At::End
    }

    /// The connection has ended: whether the body has with it.
    pub fn ends_here(&self) -> bool {
        matches!(self.at, At::End | At::UntilEnd)
    }

    /// The next piece of data in `bytes`, which follow those that were taken before. Without data
    /// all of them are taken, or the body has ended.
    ///
    /// # Errors
    /// The chunks are malformed, or their extensions or trailers larger than 16 KiB.
    pub fn next(&mut self, bytes: &[u8]) -> Result<Piece, Malformed> {
        let mut at = 0;
        while at < bytes.len() && self.at != At::End {
            if matches!(self.at, At::Length | At::Data) {
                let len = (bytes.len() - at).min(usize::try_from(self.left).unwrap_or(usize::MAX));
                self.left -= len as u64;
                if self.left == 0 {
                    self.at = if self.at == At::Length { At::End } else { At::DataCr };
                }
                return Ok(Piece { data: at..at + len, taken: at + len });
            }
            if self.at == At::UntilEnd {
                return Ok(Piece { data: at..bytes.len(), taken: bytes.len() });
            }
            self.at = self.step(bytes[at]).ok_or(Malformed("the chunks are malformed"))?;
            at += 1;
        }
        Ok(Piece { data: at..at, taken: at })
    }

    /// One byte between data (RFC 9112 7.1).
    fn step(&mut self, byte: u8) -> Option<At> {
        Some(match (self.at, byte) {
            (At::FirstDigit | At::Digits, digit) if digit.is_ascii_hexdigit() => {
                let value = char::from(digit).to_digit(16)?;
                let (at, left) = match self.at {
                    At::FirstDigit => (At::Digits, 0),
                    at => (at, self.left),
                };
                self.left = left.checked_mul(16)?.checked_add(value.into())?;
                at
            }
            // Not counted: there are servers that write each size with as many bytes.
            (At::Digits | At::Space, b' ' | b'\t') => At::Space,
            (At::Digits | At::Space, b';') => self.skip(At::Extension)?,
            (At::Digits | At::Space | At::Extension, b'\r') => At::SizeLf,
            (At::Extension, b'\n') => return None,
            (At::Extension, _) => self.skip(At::Extension)?,
            (At::SizeLf, b'\n') if self.left == 0 => At::Line,
            (At::SizeLf, b'\n') => At::Data,
            (At::DataCr, b'\r') => At::DataLf,
            (At::DataLf, b'\n') => At::FirstDigit,
            (At::Line, b'\r') => At::LastLf,
            (At::LastLf, b'\n') => At::End,
            (At::Trailer, b'\r') => At::TrailerLf,
            (At::TrailerLf, b'\n') => At::Line,
            (At::Line | At::Trailer, b'\t' | b' '..=b'~' | 0x80..) => self.skip(At::Trailer)?,
            _ => return None,
        })
    }

    fn skip(&mut self, next: At) -> Option<At> {
        self.unread += 1;
        (self.unread <= UNREAD).then_some(next)
    }
}

/// Writes a piece of a body as a chunk of its own; an empty one is none (RFC 9112 7.1).
pub fn write_chunk(out: &mut Vec<u8>, data: &[u8]) {
    if data.is_empty() {
        return;
    }
    let digits = (usize::BITS - data.len().leading_zeros()).div_ceil(4);
    for digit in (0..digits).rev() {
        out.push(b"0123456789abcdef"[data.len() >> (4 * digit) & 15]);
    }
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(data);
    out.extend_from_slice(b"\r\n");
}

/// What ends a body of chunks.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a body in pieces of `size`: its data, and how many bytes it had.
    fn read(extent: Extent, bytes: &[u8], size: usize) -> Result<(Vec<u8>, usize), Malformed> {
        let (mut reader, mut data, mut at) = (BodyReader::new(extent), Vec::new(), 0);
        while at < bytes.len() && !reader.is_end() {
            let given = &bytes[at..bytes.len().min(at + size)];
            let piece = reader.next(given)?;
            assert!(piece.taken > 0, "stuck at {at}");
            data.extend_from_slice(&given[piece.data]);
            at += piece.taken;
        }
        assert_eq!(reader.ends_here(), reader.is_end() || extent == Extent::UntilEnd);
        Ok((data, if reader.is_end() { at } else { 0 }))
    }

    #[test]
    fn bodies_are_read_in_every_cut() {
        let chunks = "3;a=\"b\"\r\nabc\r\n0010 \r\n0123456789abcdef\r\n0\r\nx: y\r\n\r\n";
        for size in 1..=chunks.len() + 3 {
            let next = |text: &str| [text.as_bytes(), b"next"].concat();
            let wanted = Ok((b"abc0123456789abcdef".to_vec(), chunks.len()));
            assert_eq!(read(Extent::Chunked, &next(chunks), size), wanted);
            assert_eq!(read(Extent::Length(5), &next("abcde"), size), Ok((b"abcde".to_vec(), 5)));
            assert_eq!(read(Extent::Empty, b"next", size), Ok((vec![], 0)));
            assert_eq!(read(Extent::UntilEnd, b"all", size), Ok((b"all".to_vec(), 0)));
            // Cut short, none of them has ended.
            for len in 0..chunks.len() {
                assert_eq!(read(Extent::Chunked, &chunks.as_bytes()[..len], size).unwrap().1, 0);
            }
        }
    }

    #[test]
    fn malformed_chunks_are_found_in_every_cut() {
        let long = format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(20_000));
        let trailers = format!("0\r\n{}\r\n", "x: y\r\n".repeat(5_000));
        for bad in [
            "g\r\n",
            "-1\r\n",
            "\r\n",
            ";x\r\n",
            "1\na\r\n",
            "1;x\na\r\n0\r\n\r\n",
            "1\r\nab\r\n",
            "1\r\na\n0\r\n\r\n",
            "1\r\na\r0\r\n\r\n",
            "1 2\r\na\r\n",
            "fffffffffffffffff\r\n",
            "0\r\nx\n\r\n",
            "0\r\nx\0: y\r\n\r\n",
            "0\r\n\n",
            &long,
            &trailers,
        ] {
            for size in [1, 2, 3, 7, bad.len()] {
                assert!(read(Extent::Chunked, bad.as_bytes(), size).is_err(), "{bad:?} by {size}");
            }
        }
    }

    #[test]
    fn padded_sizes_are_no_extensions() {
        let chunks = format!("{}0     \r\n\r\n", "1     \r\nx\r\n".repeat(5_000));
        let wanted = Ok((vec![b'x'; 5_000], chunks.len()));
        assert_eq!(read(Extent::Chunked, chunks.as_bytes(), 1_000), wanted);
    }

    #[test]
    fn chunks_are_written() {
        for len in [0, 1, 9, 15, 16, 255, 256, 70_000] {
            let (data, mut out) = (vec![b'x'; len], Vec::new());
            write_chunk(&mut out, &data);
            let head = if len > 0 { format!("{len:x}\r\n") } else { String::new() };
            assert!(out.starts_with(head.as_bytes()), "{len}");
            out.extend_from_slice(LAST_CHUNK);
            assert_eq!(read(Extent::Chunked, &out, 1_000), Ok((data, out.len())));
        }
    }
}
