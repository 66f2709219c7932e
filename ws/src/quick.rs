//! The message that almost every message is, without a tungstenite context: a data frame that is whole,
//! unfragmented, and all that has come. Whatever else comes is tungstenite's.

use std::cell::Cell;

use bytes::Bytes;
use tungstenite::protocol::frame::Utf8Bytes;
use tungstenite::protocol::{Message, Role};

use crate::config::Config;
use crate::frame::{BINARY, FINAL, TEXT, put_header};

/// Bytes a parked socket reads at a time: most messages in one go.
const READ: usize = 2048;
/// Larger buffers do not stay with the shard.
const KEPT: usize = 16 << 10;
const MASKED: u8 = 0x80;

thread_local! {
    /// Where parked sockets read, one at a time.
    static INCOMING: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    /// Where they write.
    static OUTGOING: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Lends `f` a buffer to read into, whose content means nothing.
pub(crate) fn with_buffer<R>(f: impl FnOnce(&mut [u8]) -> R) -> R {
    let mut buffer = INCOMING.take();
    buffer.resize(READ, 0);
    let result = f(&mut buffer);
    INCOMING.set(buffer);
    result
}

/// The message, if `received` is nothing but one and tungstenite would hand it out as well.
pub(crate) fn decode(received: &[u8], role: Role, config: &Config) -> Option<Message> {
    let (&[first, second], rest) = received.split_first_chunk()?;
    // RFC 6455 5.1: a client masks, a server does not.
    let masked = second & MASKED != 0;
    if !matches!(first ^ FINAL, TEXT | BINARY) || masked != (role == Role::Server) {
        return None;
    }
    let (len, rest) = match second & !MASKED {
        126 => {
            let (len, rest) = rest.split_first_chunk()?;
            (usize::from(u16::from_be_bytes(*len)), rest)
        }
        127 => return None,
        len => (usize::from(len), rest),
    };
    if len > config.max_message_size.min(config.max_frame_size) {
        return None;
    }
    let payload = match masked {
        true => {
            let (mask, rest) = rest.split_first_chunk()?;
            (rest.len() == len).then(|| unmasked(rest, *mask))?
        }
        false => (rest.len() == len).then(|| rest.to_vec())?,
    };
    let payload = Bytes::from(payload);
    match first ^ FINAL {
        TEXT => Utf8Bytes::try_from(payload).ok().map(Message::Text),
        _ => Some(Message::Binary(payload)),
    }
}

/// RFC 6455 5.3, eight bytes at a time.
fn unmasked(bytes: &[u8], mask: [u8; 4]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = bytes.as_chunks_mut();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(mask.into_iter().cycle()) {
        *byte ^= key;
    }
    bytes
}

/// Encodes a server's data message at the end of `out`; false, and nothing done, for any other.
pub(crate) fn encode(message: &Message, out: &mut Vec<u8>) -> bool {
    let (opcode, payload): (u8, &[u8]) = match message {
        Message::Text(text) => (TEXT, text.as_bytes()),
        Message::Binary(bytes) => (BINARY, bytes),
        _ => return false,
    };
    if out.capacity() == 0 {
        *out = OUTGOING.take();
    }
    put_header(out, opcode, payload.len());
    out.extend_from_slice(payload);
    true
}

/// Takes back the buffer of [`encode`].
pub(crate) fn recycle(mut out: Vec<u8>) {
    if out.capacity() > 0 && out.capacity() <= KEPT {
        out.clear();
        OUTGOING.set(out);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use tungstenite::protocol::WebSocket;

    use super::*;

    /// What tungstenite makes of `bytes`, if they are one message and no more.
    fn by_tungstenite(bytes: &[u8], role: Role, config: &Config) -> Option<Message> {
        let stream = Cursor::new(bytes.to_vec());
        let mut socket = WebSocket::from_raw_socket(stream, role, Some(config.protocol()));
        let message = socket.read().ok()?;
        (socket.get_ref().position() == bytes.len() as u64).then_some(message)
    }

    #[test]
    fn every_header_is_read_as_by_tungstenite_or_left_to_it() {
        let config = Config::default().max_message_size(300).max_frame_size(200);
        let (mut read, mut left) = (0, 0);
        for first in 0..=u8::MAX {
            for second in 0..=u8::MAX {
                for len in [0usize, 1, 7, 8, 125, 126, 127, 200, 201] {
                    let mut bytes = vec![first, second];
                    match second & 0x7f {
                        126 => bytes.extend((len as u16).to_be_bytes()),
                        127 => bytes.extend((len as u64).to_be_bytes()),
                        short if usize::from(short) == len => {}
                        _ => continue,
                    }
                    if second & 0x80 != 0 {
                        bytes.extend([1, 2, 3, 4]);
                    }
                    bytes.extend((0..len).map(|at| (at % 120) as u8));
                    for role in [Role::Server, Role::Client] {
                        match decode(&bytes, role, &config) {
                            None => left += 1,
                            Some(message) => {
                                read += 1;
                                let expected = by_tungstenite(&bytes, role, &config);
                                assert_eq!(Some(message), expected, "{bytes:x?}");
                            }
                        }
                        // Never a part, nor more than one.
                        assert_eq!(decode(&bytes[..bytes.len() - 1], role, &config), None);
                        assert_eq!(decode(&[&bytes[..], &[0x81]].concat(), role, &config), None);
                    }
                }
            }
        }
        // Five short lengths, eight in two bytes (tungstenite takes any), with text and binary, for
        // each role.
        assert_eq!(read, 13 * 2 * 2);
        assert!(left > 10_000);
    }

    #[test]
    fn text_is_utf8_or_left_to_tungstenite() {
        let frame = |text: &[u8]| [&[0x81, text.len() as u8][..], text].concat();
        let decode = |text: &[u8]| decode(&frame(text), Role::Client, &Config::default());
        assert_eq!(decode("läuft".as_bytes()), Some(Message::text("läuft")));
        assert_eq!(decode(b"l\xe4uft"), None);
    }

    #[test]
    fn what_is_encoded_is_what_tungstenite_writes() {
        let mut socket = WebSocket::from_raw_socket(Cursor::new(Vec::new()), Role::Server, None);
        let mut all = Vec::new();
        for len in [0, 1, 125, 126, 65_535, 65_536] {
            for message in [Message::binary(vec![7; len]), Message::text("x".repeat(len))] {
                assert!(encode(&message, &mut all));
                socket.send(message).unwrap();
            }
        }
        assert_eq!(socket.get_ref().get_ref(), &all);
        for message in
            [Message::Ping(Bytes::new()), Message::Pong(Bytes::new()), Message::Close(None)]
        {
            assert!(!encode(&message, &mut all));
        }
        // A large buffer is not kept, a small one is.
        recycle(all);
        assert_eq!(OUTGOING.take().capacity(), 0);
        recycle(vec![1, 2, 3]);
        let mut next = Vec::new();
        encode(&Message::binary(vec![9]), &mut next);
        assert_eq!(next, [0x82, 1, 9]);
    }
}
