//! The client's side of a WebSocket (RFC 6455) by hand: what is sent, and whether what comes is right.
//!
//! Every message says whose it is, the how-manieth, and when it was due, so that its echo is told from any
//! other, and nothing needs to be kept meanwhile.

use std::io;

use tungstenite::handshake::client::generate_key;
use tungstenite::handshake::derive_accept_key;

/// Keys and masks that the connections take turns with: making new ones for each would cost the
/// client more than all else, and a server cannot know.
const KINDS: usize = 16;
/// What a message says of itself, in front.
const HEAD: usize = 16;
/// A client's frame of fewer than 126 bytes: header and mask.
const SHORT: usize = 6;
/// The longest frame that is made.
pub(super) const LONGEST: usize = 160;
/// The longest handshake answer, and the longest frame, that a server may send.
const MOST: usize = 4_096;
const FILL: u8 = 0x55;

/// What every message of one client has in common.
pub(super) struct Talk {
    kinds: Vec<Kind>,
    size: usize,
}

struct Kind {
    request: Vec<u8>,
    accept: String,
    mask: [u8; 4],
    /// A message that says nothing of itself yet, masked.
    frame: Vec<u8>,
}

/// What a message says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Label {
    /// The connection.
    pub(super) index: u32,
    /// Tells it from the connection's other messages.
    pub(super) number: u32,
    /// When it was due, in nanoseconds of a clock of the client's.
    pub(super) due: u64,
}

/// A frame of the server's.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said<'a> {
    /// A whole binary message.
    Message(&'a [u8]),
    /// To be answered by a pong with the same bytes.
    Ping(&'a [u8]),
    /// A pong, which nobody has asked for.
    Pong,
    /// The closing handshake, to be answered alike.
    Close(&'a [u8]),
}

impl Talk {
    /// Messages of `size` bytes.
    ///
    /// # Errors
    /// Too short for what they say of themselves, or too long for one frame's short form.
    pub(super) fn new(size: usize) -> io::Result<Talk> {
        if !(HEAD..=125).contains(&size) {
            return Err(io::Error::other(format!("messages are of {HEAD} to 125 bytes")));
        }
        Ok(Talk { kinds: (0..KINDS).map(|_| Kind::new(size)).collect(), size })
    }

    /// Bytes of a message on the wire.
    pub(super) fn frame_len(&self) -> u32 {
        (SHORT + self.size) as u32
    }

    fn kind(&self, index: usize) -> &Kind {
        &self.kinds[index % KINDS]
    }

    /// The request that a connection begins with (RFC 6455 4.1).
    pub(super) fn request(&self, index: usize) -> &[u8] {
        &self.kind(index).request
    }

    /// The bytes of the whole answer to a connection's request; `None` while it has not all come.
    ///
    /// # Errors
    /// It is not the one that switches protocols, or not for this key.
    pub(super) fn answer(&self, index: usize, bytes: &[u8]) -> io::Result<Option<usize>> {
        let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
            return if bytes.len() > MOST { Err(wrong("an answer without end")) } else { Ok(None) };
        };
        let head = std::str::from_utf8(&bytes[..end]).map_err(|_| wrong("not text"))?;
        let mut lines = head.split("\r\n");
        if !lines.next().unwrap_or_default().starts_with("HTTP/1.1 101 ") {
            return Err(wrong(&format!("an answer that does not switch protocols: {head}")));
        }
        // RFC 6455 4.1
        let accept = lines.find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("sec-websocket-accept").then(|| value.trim())
        });
        if accept != Some(self.kind(index).accept.as_str()) {
            return Err(wrong(&format!("an answer to another key: {accept:?}")));
        }
        Ok(Some(end + 4))
    }

    /// A masked message (RFC 6455 5.3), in `out`; returns its bytes.
    pub(super) fn message(&self, label: Label, out: &mut [u8; LONGEST]) -> usize {
        let Kind { mask, frame, .. } = self.kind(label.index as usize);
        out[..frame.len()].copy_from_slice(frame);
        for (byte, (said, mask)) in
            out[SHORT..].iter_mut().zip(label.bytes().iter().zip(mask.iter().cycle()))
        {
            *byte = said ^ mask;
        }
        frame.len()
    }

    /// The label of a message that is whole.
    ///
    /// # Errors
    /// Other bytes than were sent.
    pub(super) fn label(&self, message: &[u8]) -> io::Result<Label> {
        let (head, fill) = message.split_at_checked(HEAD).ok_or_else(|| wrong("too short"))?;
        if message.len() != self.size || fill.iter().any(|byte| *byte != FILL) {
            return Err(wrong(&format!("a message that nobody sent: {message:?}")));
        }
        let four = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|i| head[at + i]));
        let due = u64::from(four(8)) | u64::from(four(12)) << 32;
        Ok(Label { index: four(0), number: four(4), due })
    }
}

impl Kind {
    fn new(size: usize) -> Kind {
        let key = generate_key();
        let request = format!(
            "GET / HTTP/1.1\r\nHost: t\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
        );
        // A key is random, and so are its first letters.
        let mask = [0, 1, 2, 3].map(|i| key.as_bytes()[i]);
        let frame = masked(0x2, &vec![FILL; size], mask);
        Kind { request: request.into(), accept: derive_accept_key(key.as_bytes()), mask, frame }
    }
}

impl Label {
    fn bytes(self) -> [u8; HEAD] {
        let mut bytes = [0; HEAD];
        bytes[..4].copy_from_slice(&self.index.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.number.to_le_bytes());
        bytes[8..].copy_from_slice(&self.due.to_le_bytes());
        bytes
    }
}

/// The pong to a ping (RFC 6455 5.5.3).
pub(super) fn pong(said: &[u8]) -> Vec<u8> {
    masked(0xa, said, [1, 2, 3, 4])
}

/// Our part of a closing handshake (RFC 6455 5.5.1): the server's code again.
pub(super) fn close(said: &[u8]) -> Vec<u8> {
    masked(0x8, &said[..said.len().min(2)], [1, 2, 3, 4])
}

/// A frame of fewer than 126 bytes.
fn masked(opcode: u8, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode, 0x80 | payload.len() as u8];
    frame.extend(mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// The first frame of what has come and its bytes on the wire; `None` while it has not all come.
///
/// # Errors
/// A server's frame is not masked, and these servers send no fragments and no texts.
pub(super) fn next(bytes: &[u8]) -> io::Result<Option<(Said<'_>, usize)>> {
    let [first, second, ..] = *bytes else { return Ok(None) };
    let (len, header) = match second {
        0..126 => (usize::from(second), 2),
        126 if bytes.len() < 4 => return Ok(None),
        126 => (usize::from(u16::from_be_bytes([bytes[2], bytes[3]])), 4),
        127.. => return Err(wrong("a frame that is masked, or longer than any")),
    };
    if len > MOST {
        return Err(wrong("a frame longer than any"));
    }
    let Some(payload) = bytes.get(header..header + len) else { return Ok(None) };
    let said = match first {
        0x82 => Said::Message(payload),
        0x88 if len < 126 => Said::Close(payload),
        0x89 if len < 126 => Said::Ping(payload),
        0x8a if len < 126 => Said::Pong,
        _ => return Err(wrong(&format!("a frame that begins with {first:#x}"))),
    };
    Ok(Some((said, header + len)))
}

/// What a server should not have sent.
pub(super) fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use tungstenite::protocol::CloseFrame;
    use tungstenite::protocol::frame::coding::CloseCode;
    use tungstenite::{Bytes, Message};

    use super::*;

    const LABEL: Label = Label { index: 70_003, number: 0x8000_0001, due: 0x0102_0304_0506_0708 };

    /// The frame's payload, unmasked as a server does it.
    fn unmask(frame: &[u8]) -> Vec<u8> {
        let (mask, payload) = frame[2..].split_at(4);
        payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect()
    }

    #[test]
    fn a_message_is_masked_and_known_again() {
        let talk = Talk::new(64).unwrap();
        for index in [0, 5, LABEL.index] {
            let (label, mut out) = (Label { index, ..LABEL }, [0; LONGEST]);
            let len = talk.message(label, &mut out);
            assert_eq!((len, out[0], out[1]), (70, 0x82, 0x80 | 64));
            assert_ne!(out[SHORT..len], unmask(&out[..len]), "it is masked");
            let mut payload = unmask(&out[..len]);
            assert_eq!(talk.label(&payload).unwrap(), label);
            payload[63] ^= 1;
            assert!(talk.label(&payload).is_err(), "a byte of the filling is another");
            assert!(talk.label(&payload[..63]).is_err(), "it is shorter");
        }
        assert!(Talk::new(15).is_err() && Talk::new(126).is_err());
    }

    #[test]
    fn an_answer_is_for_its_key() {
        let talk = Talk::new(64).unwrap();
        let request = String::from_utf8(talk.request(3).to_vec()).unwrap();
        assert!(request.len() <= LONGEST, "{} bytes in a segment", request.len());
        let key = request.split("Key: ").nth(1).and_then(|rest| rest.split('\r').next()).unwrap();
        let accept = derive_accept_key(key.as_bytes());
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\
             sec-websocket-ACCEPT: {accept}\r\n\r\n"
        );
        let with_more = [answer.as_bytes(), &[0x89, 0]].concat();
        for come in 0..answer.len() {
            assert_eq!(talk.answer(3, &with_more[..come]).unwrap(), None, "{come} bytes");
        }
        assert_eq!(talk.answer(3, &with_more).unwrap(), Some(answer.len()));
        assert!(talk.answer(4, &with_more).is_err(), "another connection's key");
        for bad in ["HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 101 Yes\r\nupgrade: websocket\r\n\r\n"] {
            assert!(talk.answer(3, bad.as_bytes()).is_err());
        }
        assert!(talk.answer(3, &vec![b'x'; MOST + 1]).is_err(), "it has no end");
    }

    #[test]
    fn frames_are_taken_apart_at_every_byte() {
        let long = vec![7; 300];
        let wire = [
            &[0x82, 3, 1, 2, 3][..],
            &[0x89, 1, 9],
            &[0x8a, 0],
            &[0x82, 126, 1, 44],
            &long,
            &[0x88, 2, 3, 232],
        ]
        .concat();
        let wanted = [
            Said::Message(&[1, 2, 3]),
            Said::Ping(&[9]),
            Said::Pong,
            Said::Message(&long),
            Said::Close(&[3, 232]),
        ];
        let mut at = 0;
        for said in wanted {
            let whole = next(&wire[at..]).unwrap().expect("all has come");
            for come in 0..whole.1 {
                assert_eq!(next(&wire[at..at + come]).unwrap(), None);
            }
            assert_eq!(whole.0, said);
            at += whole.1;
        }
        assert_eq!(at, wire.len());
        for bad in [&[0x82, 0x80][..], &[0x82, 127], &[0x02, 0], &[0x81, 0], &[0x82, 126, 99, 0]] {
            assert!(next(bad).is_err(), "{bad:?}");
        }
    }

    /// The server's other end is tungstenite's.
    #[test]
    fn a_real_server_understands_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let serving = std::thread::spawn(move || {
            let mut socket = tungstenite::accept(listener.accept().unwrap().0).unwrap();
            socket.send(Message::Ping(Bytes::from_static(b"there?"))).unwrap();
            let mut heard = Vec::new();
            loop {
                match socket.read() {
                    Ok(message @ Message::Binary(_)) => socket.send(message).unwrap(),
                    Ok(Message::Pong(said)) => {
                        heard.push(said);
                        let reason = "enough".into();
                        socket.close(Some(CloseFrame { code: CloseCode::Away, reason })).unwrap();
                    }
                    Ok(_) => {}
                    Err(tungstenite::Error::ConnectionClosed) => return heard,
                    Err(error) => panic!("{error}"),
                }
            }
        });
        let talk = Talk::new(64).unwrap();
        let mut stream = TcpStream::connect(addr).unwrap();
        stream.write_all(talk.request(9)).unwrap();
        let label = Label { index: 9, ..LABEL };
        let (mut come, mut byte, mut open, mut echoed) = (Vec::new(), [0], false, false);
        // Byte by byte, so that everything is split everywhere.
        while stream.read(&mut byte).unwrap() > 0 {
            come.push(byte[0]);
            if !open {
                if talk.answer(9, &come).unwrap().is_some() {
                    let mut out = [0; LONGEST];
                    let len = talk.message(label, &mut out);
                    stream.write_all(&out[..len]).unwrap();
                    open = true;
                    come.clear();
                }
                continue;
            }
            let Some((said, len)) = next(&come).unwrap() else { continue };
            assert_eq!(len, come.len());
            match said {
                Said::Message(message) => {
                    assert_eq!(talk.label(message).unwrap(), label);
                    echoed = true;
                }
                Said::Ping(said) => stream.write_all(&pong(said)).unwrap(),
                Said::Close(said) => {
                    assert_eq!(said[..2], 1001_u16.to_be_bytes());
                    stream.write_all(&close(said)).unwrap();
                }
                Said::Pong => panic!("nobody asked"),
            }
            come.clear();
        }
        assert!(echoed);
        assert_eq!(serving.join().unwrap(), [&b"there?"[..]]);
    }
}
