//! RESP3 (Redis' protocol since version 6): commands out, answers in.
//!
//! The crate redis-protocol writes and reads the values. Where one ends is found out here before
//! it is given one: it takes a value's nesting by recursion, and a length for granted.

use bytes::{Bytes, BytesMut};
use redis_protocol::resp3::decode::complete::decode_bytes;
use redis_protocol::resp3::encode::complete::extend_encode_borrowed;
use redis_protocol::resp3::types::{BorrowedFrame, BytesFrame};

/// Values may lie in each other so deep; a greeting's are three.
const DEPTH: usize = 8;
/// Most parts of an aggregate.
const PARTS: u64 = 4_096;
/// Longest line.
const LINE: usize = 64 << 10;

/// What the engine sent is no value, or larger than we take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

/// Adds a command to what is to be sent.
pub(crate) fn command<'a>(out: &mut BytesMut, parts: impl IntoIterator<Item = &'a [u8]>) {
    let parts: Vec<_> = parts
        .into_iter()
        .map(|data| BorrowedFrame::BlobString { data, attributes: None })
        .collect();
    let frame = BorrowedFrame::Array { data: &parts, attributes: None };
    // It fails for a buffer that is too small; this one grows.
    let _ = extend_encode_borrowed(out, &frame, false);
}

/// Something the engine said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// A message on a channel: its name and what was published.
    Message(Bytes, Bytes),
    /// A channel was entered or left; the engine counts so many now.
    Channel { entered: bool, count: u64 },
    /// Another thing nobody asked for.
    Aside,
    /// The answer to a command.
    Answer,
    /// Its refusal.
    Error(String),
}

/// Takes the next whole value off what has come.
pub(crate) fn next(received: &mut BytesMut, max_bulk: usize) -> Result<Option<Said>, Malformed> {
    let Some(len) = measure(received, max_bulk)? else {
        // What is incomplete cannot be larger than a message in its wrapping.
        return match received.len() > max_bulk + 2 * LINE {
            true => Err(Malformed("a value larger than is taken")),
            false => Ok(None),
        };
    };
    let bytes = received.split_to(len).freeze();
    match decode_bytes(&bytes) {
        Ok(Some((frame, _))) => understand(frame).map(Some),
        _ => Err(Malformed("no value of RESP3")),
    }
}

fn understand(frame: BytesFrame) -> Result<Said, Malformed> {
    let parts = match frame {
        BytesFrame::Push { data, .. } => data,
        BytesFrame::SimpleError { data, .. } => return Ok(Said::Error(data.to_string())),
        BytesFrame::BlobError { data, .. } => {
            return Ok(Said::Error(String::from_utf8_lossy(&data).into_owned()));
        }
        BytesFrame::Hello { .. } | BytesFrame::ChunkedString(_) => {
            return Err(Malformed("what only a client says"));
        }
        _ => return Ok(Said::Answer),
    };
    let text = |part: &BytesFrame| match part {
        BytesFrame::BlobString { data, .. } | BytesFrame::SimpleString { data, .. } => {
            Some(data.clone())
        }
        _ => None,
    };
    let kind = parts.first().and_then(text).ok_or(Malformed("a push of no kind"))?;
    match (&kind[..], &parts[1..]) {
        (b"message", [channel, payload]) => match (text(channel), text(payload)) {
            (Some(channel), Some(payload)) => Ok(Said::Message(channel, payload)),
            _ => Err(Malformed("a message of other parts")),
        },
        (b"subscribe" | b"unsubscribe", [_, BytesFrame::Number { data, .. }]) => {
            Ok(Said::Channel {
                entered: kind[0] == b's',
                count: u64::try_from(*data).unwrap_or_default(),
            })
        }
        (b"message" | b"subscribe" | b"unsubscribe", _) => Err(Malformed("a push of other parts")),
        _ => Ok(Said::Aside),
    }
}

/// The length of the value that begins here, if it is whole.
fn measure(bytes: &[u8], max_bulk: usize) -> Result<Option<usize>, Malformed> {
    let mut left = [0_u64; DEPTH];
    let mut depth = 0;
    let mut at = 0;
    loop {
        let rest = &bytes[at..];
        let Some(end) = rest.iter().take(LINE).position(|byte| *byte == b'\n') else {
            return match rest.len() >= LINE {
                true => Err(Malformed("a line without an end")),
                false => Ok(None),
            };
        };
        if end < 2 || rest[end - 1] != b'\r' {
            return Err(Malformed("no line of RESP3"));
        }
        let line = &rest[1..end - 1];
        at += end + 1;
        match rest[0] {
            b'+' | b'-' | b':' | b'_' | b',' | b'#' | b'(' => {}
            b'$' | b'!' | b'=' if line == b"-1" => {}
            b'$' | b'!' | b'=' => {
                let len = number(line)?;
                let len = usize::try_from(len).unwrap_or(usize::MAX);
                if len > max_bulk {
                    return Err(Malformed("a value larger than is taken"));
                }
                if bytes.len() < at + len + 2 {
                    return Ok(None);
                }
                if bytes[at + len..at + len + 2] != *b"\r\n" {
                    return Err(Malformed("a length that is wrong"));
                }
                at += len + 2;
            }
            b'*' | b'~' if line == b"-1" => {}
            kind @ (b'*' | b'~' | b'>' | b'%') => {
                let parts = number(line)?;
                if parts > PARTS || depth == DEPTH {
                    return Err(Malformed("too many values in one"));
                }
                left[depth] = if kind == b'%' { 2 * parts } else { parts };
                if left[depth] > 0 {
                    depth += 1;
                    continue;
                }
            }
            _ => return Err(Malformed("no value of RESP3")),
        }
        // A value is whole, and perhaps those it is in.
        loop {
            if depth == 0 {
                return Ok(Some(at));
            }
            left[depth - 1] -= 1;
            if left[depth - 1] > 0 {
                break;
            }
            depth -= 1;
        }
    }
}

fn number(line: &[u8]) -> Result<u64, Malformed> {
    let digits = !line.is_empty() && line.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(line).ok().filter(|_| digits);
    text.and_then(|text| text.parse().ok()).ok_or(Malformed("no length"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO: &str =
        "%3\r\n$6\r\nserver\r\n$5\r\nredis\r\n$2\r\nid\r\n:7\r\n$7\r\nmodules\r\n*0\r\n";
    const MESSAGE: &str = ">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$2\r\nhi\r\n";

    fn all(bytes: &[u8]) -> Vec<Result<Said, Malformed>> {
        let mut received = BytesMut::from(bytes);
        let mut said = Vec::new();
        loop {
            match next(&mut received, 100) {
                Ok(Some(more)) => said.push(Ok(more)),
                Ok(None) => return said,
                Err(error) => {
                    said.push(Err(error));
                    return said;
                }
            }
        }
    }

    #[test]
    fn what_an_engine_says_is_understood() {
        let text = format!(
            "{HELLO}>3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:5\r\n{MESSAGE}:1\r\n-NOPERM no\r\n+PONG\r\n\
             >3\r\n$11\r\nunsubscribe\r\n$1\r\nc\r\n:4\r\n>2\r\n$10\r\ninvalidate\r\n_\r\n"
        );
        let expected = [
            Said::Answer,
            Said::Channel { entered: true, count: 5 },
            Said::Message(Bytes::from("c"), Bytes::from("hi")),
            Said::Answer,
            Said::Error("NOPERM no".into()),
            Said::Answer,
            Said::Channel { entered: false, count: 4 },
            Said::Aside,
        ];
        assert_eq!(all(text.as_bytes()), expected.clone().map(Ok));
        // Whatever the pieces it comes in.
        for cut in 0..text.len() {
            let mut received = BytesMut::from(&text.as_bytes()[..cut]);
            let mut said = Vec::new();
            while let Some(more) = next(&mut received, 100).unwrap() {
                said.push(more);
            }
            received.extend_from_slice(&text.as_bytes()[cut..]);
            while let Some(more) = next(&mut received, 100).unwrap() {
                said.push(more);
            }
            assert_eq!(said, expected);
        }
    }

    #[test]
    fn what_no_engine_says_is_refused() {
        let deep = "*1\r\n".repeat(100_000);
        let wide = format!("*2\r\n:1\r\n{}", "*2\r\n:1\r\n".repeat(50_000));
        for text in [
            "HTTP/1.1 400 Bad Request\r\n",
            "\r\n",
            "+OK\n",
            "$5\r\nabcdefg\r\n",
            "$101\r\n",
            "$-5\r\n",
            "$99999999999999999999\r\n",
            "$?\r\n;4\r\n",
            "*99999999\r\n",
            ">1\r\n:1\r\n",
            ">0\r\n",
            ">2\r\n$7\r\nmessage\r\n$1\r\nc\r\n",
            ">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n:1\r\n",
            ":no number\r\n",
            "|1\r\n+a\r\n+b\r\n:1\r\n",
            &deep,
            &wide,
            &"x".repeat(LINE),
            &"+".repeat(LINE),
        ] {
            let said = all(text.as_bytes());
            assert!(matches!(said[..], [Err(_)]), "{:.40}: {said:?}", text);
        }
        // Never whole, and never a line too long.
        let endless = format!("*4096\r\n{}", "$90\r\n".to_owned() + &"x".repeat(90) + "\r\n");
        let endless = endless.clone() + &endless[7..].repeat(3_000);
        assert!(matches!(all(endless.as_bytes())[..], [Err(_)]));
    }

    #[test]
    fn commands_are_arrays_of_strings() {
        let mut out = BytesMut::new();
        command(&mut out, [&b"PUBLISH"[..], b"c", b"a\r\nb"]);
        assert_eq!(out, "*3\r\n$7\r\nPUBLISH\r\n$1\r\nc\r\n$4\r\na\r\nb\r\n");
    }
}
