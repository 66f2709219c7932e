//! What is published on a channel: whose message it is, its number, and whether it is text.
//!
//! ```text
//!  0      1     2        3     4                   12                  20
//! +------+-----+--------+-----+-------------------+-------------------+---------
//! | 0xff | 'T' | 1      | 1,2 | node              | number            | payload
//! +------+-----+--------+-----+-------------------+-------------------+---------
//!               version  text, binary      both big-endian
//! ```
//!
//! No UTF-8 begins like that: what is text as a whole comes from another program, such as
//! `redis-cli PUBLISH`, and is taken for a text message.

use std::collections::HashMap;

use bytes::{BufMut, Bytes, BytesMut};
use throng_runtime::Instant;
use throng_ws::Frame;

/// Bytes before the payload.
pub(crate) const HEAD: usize = 20;
const MAGIC: [u8; 3] = [0xff, b'T', 1];
const TEXT: u8 = 1;
const BINARY: u8 = 2;
/// Other processes whose last number is known.
const NODES: usize = 1_024;

/// Encodes a message.
pub(crate) fn encode(node: u64, number: u64, frame: &Frame) -> Bytes {
    let payload = frame.payload();
    let mut bytes = BytesMut::with_capacity(HEAD + payload.len());
    bytes.put_slice(&MAGIC);
    bytes.put_u8(if frame.is_text() { TEXT } else { BINARY });
    bytes.put_u64(node);
    bytes.put_u64(number);
    bytes.put_slice(&payload);
    bytes.freeze()
}

/// What a message is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Read {
    /// One of a process like us.
    Ours { node: u64, number: u64, frame: Frame },
    /// One of another program.
    Foreign(Frame),
    /// Nothing that we know.
    Unreadable,
}

/// Decodes a message.
pub(crate) fn decode(bytes: &[u8]) -> Read {
    let text = |bytes| std::str::from_utf8(bytes).ok().map(Frame::text);
    let Some((head, payload)) =
        bytes.split_at_checked(HEAD).filter(|(head, _)| head.starts_with(&MAGIC))
    else {
        return text(bytes).map_or(Read::Unreadable, Read::Foreign);
    };
    let number = |at: usize| head[at..at + 8].iter().fold(0, |n, byte| n << 8 | u64::from(*byte));
    let frame = match head[3] {
        TEXT => text(payload),
        BINARY => Some(Frame::binary(payload)),
        _ => None,
    };
    match frame {
        Some(frame) => Read::Ours { node: number(4), number: number(12), frame },
        None => Read::Unreadable,
    }
}

/// The last numbers of other processes. Each sends its messages in order, and after a lost
/// connection again those whose answer it has not seen.
#[derive(Debug, Default)]
pub(crate) struct Heard(HashMap<u64, (u64, Instant)>);

impl Heard {
    /// Whether a message has not come before.
    pub(crate) fn is_new(&mut self, node: u64, number: u64, now: Instant) -> bool {
        if let Some(last) = self.0.get_mut(&node) {
            let new = number > last.0;
            *last = (number.max(last.0), now);
            return new;
        }
        if self.0.len() >= NODES {
            let oldest = self.0.iter().min_by_key(|(_, (_, at))| *at).map(|(node, _)| *node);
            oldest.and_then(|node| self.0.remove(&node));
        }
        self.0.insert(node, (number, now));
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn messages_come_out_as_they_went_in() {
        for frame in [Frame::text("l\u{e4}uft"), Frame::binary([0xff, 0]), Frame::text("")] {
            let bytes = encode(7, u64::MAX, &frame);
            assert_eq!(decode(&bytes), Read::Ours { node: 7, number: u64::MAX, frame });
        }
        assert_eq!(decode(b"hello"), Read::Foreign(Frame::text("hello")));
        assert_eq!(decode(b""), Read::Foreign(Frame::text("")));
        let mut not_text = encode(1, 1, &Frame::binary([0xff])).to_vec();
        for wrong in [&[0xff][..], &not_text[..HEAD - 1]] {
            assert_eq!(decode(wrong), Read::Unreadable);
        }
        not_text[3] = TEXT;
        assert_eq!(decode(&not_text), Read::Unreadable);
        not_text[3] = 3;
        assert_eq!(decode(&not_text), Read::Unreadable);
    }

    #[test]
    fn a_number_is_new_once() {
        let mut heard = Heard::default();
        let at = |ms| Instant::ZERO + Duration::from_millis(ms);
        assert!(heard.is_new(1, 5, at(0)) && heard.is_new(1, 6, at(0)));
        assert!(!heard.is_new(1, 5, at(0)) && !heard.is_new(1, 6, at(0)));
        assert!(heard.is_new(2, 1, at(0)), "another process");
        for node in 3..3 + NODES as u64 {
            assert!(heard.is_new(node, 1, at(node)));
        }
        assert_eq!(heard.0.len(), NODES, "the longest silent are forgotten");
        assert!(!heard.is_new(1_000, 1, at(9_999)));
    }
}
