//! Frames written and read by hand: the peer that tungstenite would not let us be.

use futures::{AsyncReadExt, AsyncWriteExt};

use crate::support::End;

/// Opcodes (RFC 6455 5.2).
pub(crate) const CONTINUE: u8 = 0;
pub(crate) const TEXT: u8 = 1;
pub(crate) const BINARY: u8 = 2;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;

/// The final bit of the first byte.
pub(crate) const FIN: u8 = 0x80;

/// A masked frame as a client sends it; `first` is the first byte.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    frame_with(Some([0x12, 0x34, 0x56, 0x78]), first, payload)
}

/// A frame with this masking key, or as a server sends it.
pub(crate) fn frame_with(mask: Option<[u8; 4]>, first: u8, payload: &[u8]) -> Vec<u8> {
    let bit = if mask.is_some() { 0x80 } else { 0 };
    let mut out = vec![first];
    match payload.len() {
        n @ 0..=125 => out.push(bit | n as u8),
        n @ 126..=65535 => {
            out.push(bit | 126);
            out.extend((n as u16).to_be_bytes());
        }
        n => {
            out.push(bit | 127);
            out.extend((n as u64).to_be_bytes());
        }
    }
    out.extend(mask.iter().flatten());
    let mask = mask.unwrap_or_default();
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    out
}

/// Reads one unmasked frame as a server sends it: first byte and payload. `None` at the end.
pub(crate) async fn read_frame(end: &mut End) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; 2];
    end.read_exact(&mut head).await.ok()?;
    let length = match head[1] {
        126 => {
            let mut length = [0; 2];
            end.read_exact(&mut length).await.ok()?;
            usize::from(u16::from_be_bytes(length))
        }
        127 => {
            let mut length = [0; 8];
            end.read_exact(&mut length).await.ok()?;
            u64::from_be_bytes(length) as usize
        }
        short => usize::from(short),
    };
    let mut payload = vec![0; length];
    end.read_exact(&mut payload).await.ok()?;
    Some((head[0], payload))
}

/// Reads frames until a close frame and returns its code; then the stream must end.
pub(crate) async fn read_close(end: &mut End) -> Option<u16> {
    loop {
        let (first, payload) = read_frame(end).await?;
        if first == FIN | CLOSE {
            assert!(read_frame(end).await.is_none(), "nothing comes after a close frame");
            return Some(match payload.get(..2) {
                Some(code) => u16::from_be_bytes([code[0], code[1]]),
                None => 1005,
            });
        }
    }
}

pub(crate) async fn send(end: &mut End, bytes: &[u8]) {
    end.write_all(bytes).await.unwrap();
}
