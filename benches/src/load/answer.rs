//! What is said and must be answered, byte for byte: a server that answers anything else has failed,
//! however quick it was.

use std::io;

use crate::serve;

/// What every response begins with.
const STATUS: &[u8] = b"HTTP/1.1 200";
const END_OF_HEAD: &[u8] = b"\r\n\r\n";

/// Fills `out` with message `number` of connection `index`. It says whose it is and which, as far as
/// there is room, so that another's echo, or one that came before, is not its echo.
pub(super) fn message(index: u32, number: u32, out: &mut [u8]) {
    out.fill(0x55);
    let label = [index.to_be_bytes(), number.to_be_bytes()];
    for (byte, label) in out.iter_mut().zip(label.as_flattened()) {
        *byte = *label;
    }
}

/// The same as bytes of their own.
pub(super) fn of(index: u32, number: u32, size: usize) -> Vec<u8> {
    let mut said = vec![0; size];
    message(index, number, &mut said);
    said
}

/// What a server answers to a request: a head, as long as the first one that came, and the page.
#[derive(Debug)]
pub(super) struct Page {
    /// Bytes of the head, its last line, which is empty, included.
    head: usize,
    /// The end of the head, and the body.
    tail: Vec<u8>,
}

impl Page {
    /// By the beginning of the first answer, whose body is to have `size` bytes; `None` while the
    /// head is not whole.
    ///
    /// # Errors
    /// It is another answer.
    pub(super) fn of(answer: &[u8], size: usize) -> io::Result<Option<Page>> {
        let Some(end) = answer.windows(END_OF_HEAD.len()).position(|four| four == END_OF_HEAD)
        else {
            return Ok(None);
        };
        let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
        let length = |line: &str| line.strip_prefix("content-length:")?.trim().parse().ok();
        if !answer.starts_with(STATUS) || head.split("\r\n").find_map(length) != Some(size) {
            let text = format!("not a response that was asked for, of {size} bytes: {head}");
            return Err(io::Error::other(text));
        }
        let tail = [END_OF_HEAD, &serve::page(size)].concat();
        Ok(Some(Page { head: end + END_OF_HEAD.len(), tail }))
    }

    /// Bytes of head and body.
    pub(super) fn len(&self) -> usize {
        self.head - END_OF_HEAD.len() + self.tail.len()
    }

    /// Whether `data`, whose first byte is the answer's byte `at`, is right: status, length of the head,
    /// and every byte of the body.
    pub(super) fn has(&self, at: usize, data: &[u8]) -> bool {
        at + data.len() <= self.len()
            && agree(at, data, 0, STATUS)
            && agree(at, data, self.head - END_OF_HEAD.len(), &self.tail)
    }
}

/// Whether `data`, which begins at `at`, agrees with `known`, which begins at `from`, where both are.
fn agree(at: usize, data: &[u8], from: usize, known: &[u8]) -> bool {
    let (begin, end) = (at.max(from), (at + data.len()).min(from + known.len()));
    begin >= end || data[begin - at..end - at] == known[begin - from..end - from]
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nx: y\r\n\r\nhello\n";

    #[test]
    fn a_page_is_known_by_its_head() {
        let page = Page::of(WHOLE, 6).unwrap().unwrap();
        assert_eq!(page.len(), WHOLE.len());
        assert!(Page::of(&WHOLE[..30], 6).unwrap().is_none());
        for other in [
            &b"HTTP/1.1 200 OK\r\n\r\n"[..],
            b"HTTP/1.1 404 No\r\nContent-Length: 6\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n",
        ] {
            assert!(Page::of(other, 6).is_err());
        }
        let empty = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(Page::of(empty, 0).unwrap().unwrap().len(), empty.len());
    }

    #[test]
    fn every_byte_that_matters_is_looked_at() {
        let page = Page::of(WHOLE, 6).unwrap().unwrap();
        for cut in 0..=WHOLE.len() {
            let (first, rest) = WHOLE.split_at(cut);
            assert!(page.has(0, first) && page.has(cut, rest), "cut at {cut}");
        }
        let mut unlooked = 0;
        for at in 0..WHOLE.len() {
            let mut other = WHOLE.to_vec();
            other[at] ^= 1;
            unlooked += usize::from(page.has(0, &other));
            assert_eq!(page.has(at, &other[at..=at]), page.has(0, &other), "byte {at}");
        }
        // Fields may differ, such as a date.
        assert_eq!(unlooked, WHOLE.len() - STATUS.len() - END_OF_HEAD.len() - 6);
        assert!(!page.has(1, WHOLE), "a byte too many");
    }

    #[test]
    fn messages_differ_by_whose_and_which_they_are() {
        let of = |index, number| {
            let mut out = [0; 12];
            message(index, number, &mut out);
            out
        };
        assert_eq!(of(1, 2), [0, 0, 0, 1, 0, 0, 0, 2, 0x55, 0x55, 0x55, 0x55]);
        assert!(of(1, 2) != of(2, 2) && of(1, 2) != of(1, 3));
        let mut short = [0; 2];
        message(0x0102_0304, 9, &mut short);
        assert_eq!(short, [1, 2]);
    }
}
