//! A message as it is on the wire, encoded once for any number of sockets.

use bytes::{BufMut, Bytes, BytesMut};
use throng_net::TcpStream;
use tungstenite::protocol::Message;
use tungstenite::protocol::frame::Utf8Bytes;

use crate::error::Error;
use crate::track::MAX_CONTROL;
use crate::upgrade::Upgraded;

/// Bits of a frame's first byte (RFC 6455 5.2).
pub(crate) const FINAL: u8 = 0x80;
pub(crate) const TEXT: u8 = 0x1;
pub(crate) const BINARY: u8 = 0x2;

/// A whole, unmasked WebSocket frame (RFC 6455 5.2). Clones share the bytes: sent to a million
/// sockets it is in memory once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    bytes: Bytes,
    header: u8,
}

impl Frame {
    /// A text message.
    pub fn text(text: impl AsRef<str>) -> Frame {
        Frame::encode(TEXT, text.as_ref().as_bytes())
    }

    /// A binary message.
    pub fn binary(payload: impl AsRef<[u8]>) -> Frame {
        Frame::encode(BINARY, payload.as_ref())
    }

    /// A ping.
    ///
    /// # Errors
    /// [`Error::ControlTooLong`] beyond 125 bytes.
    pub fn ping(payload: impl AsRef<[u8]>) -> Result<Frame, Error> {
        match payload.as_ref().len() {
            0..=MAX_CONTROL => Ok(Frame::encode(0x9, payload.as_ref())),
            _ => Err(Error::ControlTooLong),
        }
    }

    pub(crate) fn empty_ping() -> Frame {
        Frame::encode(0x9, &[])
    }

    fn encode(opcode: u8, payload: &[u8]) -> Frame {
        let mut bytes = BytesMut::with_capacity(payload.len() + 10);
        put_header(&mut bytes, opcode, payload.len());
        let header = bytes.len() as u8;
        bytes.put_slice(payload);
        Frame { bytes: bytes.freeze(), header }
    }

    /// Header and payload.
    pub fn as_bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// What the message says.
    pub fn payload(&self) -> Bytes {
        self.bytes.slice(usize::from(self.header)..)
    }

    /// Whether it is a text message.
    pub fn is_text(&self) -> bool {
        self.opcode() == 0x1
    }

    /// Whether it is a ping.
    pub fn is_ping(&self) -> bool {
        self.opcode() == 0x9
    }

    fn opcode(&self) -> u8 {
        self.bytes.first().map_or(0, |first| first & 0x0f)
    }

    /// The message, for a socket that has to encode it itself: a client's, which masks, and
    /// one whose stream takes no chunks.
    pub(crate) fn message(&self) -> Message {
        let payload = self.payload();
        match self.opcode() {
            // It was made of a `str`.
            TEXT => Utf8Bytes::try_from(payload.clone())
                .map_or_else(|_| Message::Binary(payload), Message::Text),
            0x9 => Message::Ping(payload),
            _ => Message::Binary(payload),
        }
    }
}

/// Appends the header of a whole, unmasked frame (RFC 6455 5.2).
pub(crate) fn put_header(out: &mut impl BufMut, opcode: u8, len: usize) {
    out.put_u8(FINAL | opcode);
    match len {
        len @ 0..126 => out.put_u8(len as u8),
        len if len <= usize::from(u16::MAX) => {
            out.put_u8(126);
            out.put_u16(len as u16);
        }
        len => {
            out.put_u8(127);
            out.put_u64(len as u64);
        }
    }
}

/// A stream that a [`WebSocket`](crate::WebSocket) can hand a [`Frame`] to without a copy,
/// where it is a TCP connection of ours and nothing encodes what is written.
///
/// The provided method says that it is not: the frame is then copied into the socket's write
/// buffer.
pub trait Carrier {
    /// The connection that carries the socket's bytes as they are, if one does.
    fn tcp(&mut self) -> Option<&mut TcpStream> {
        None
    }
}

impl Carrier for TcpStream {
    fn tcp(&mut self) -> Option<&mut TcpStream> {
        Some(self)
    }
}

impl Carrier for Upgraded {
    fn tcp(&mut self) -> Option<&mut TcpStream> {
        match self {
            Upgraded::Tcp(stream) => Some(stream),
            _ => None,
        }
    }
}

#[cfg(feature = "tls")]
impl Carrier for throng_tls::TlsStream {}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use tungstenite::protocol::frame::FrameSocket;

    use super::*;

    #[test]
    fn frames_are_as_tungstenite_reads_them() {
        for len in [0, 1, 125, 126, 65_535, 65_536] {
            let payload = vec![b'x'; len];
            let frame = Frame::binary(&payload);
            let mut reader = FrameSocket::new(Cursor::new(frame.as_bytes().to_vec()));
            let read = reader.read(None).unwrap().unwrap();
            assert!(read.header().is_final && read.header().mask.is_none());
            assert_eq!(read.payload(), &payload[..]);
            assert_eq!(frame.payload(), payload);
            assert_eq!(frame.message(), Message::binary(payload));
        }
        assert_eq!(Frame::text("läuft").message(), Message::text("läuft"));
        assert_eq!(
            Frame::ping([0; 126]).unwrap_err().to_string(),
            Error::ControlTooLong.to_string()
        );
        assert_eq!(Frame::ping("").unwrap().as_bytes()[..], [0x89, 0]);
    }
}
