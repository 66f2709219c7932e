//! WebSockets over frames made by hand.

use std::io;

use super::{ASKED, Conn, IDLE, OPENING_HANDSHAKE, OVER, RST, Raw, Segment};
use crate::load::frame::ACK;
use crate::load::websocket::{LONGEST, Label, Said, close, next, pong, wrong};
use crate::role::Traffic;

/// A member that has got message `n` of those to all, and none after it, is in state `FIRST + n`.
const FIRST: u32 = OVER + 1;

impl Raw {
    /// A connection is there: asks for it to become a WebSocket, which acknowledges, too.
    pub(super) fn ask_for_websocket(&mut self, index: usize) {
        let Some(talk) = self.talk.clone() else { return };
        self.say(index, talk.request(index));
    }

    /// A message that is to come back, and was due then.
    pub(super) fn ask_websocket(&mut self, index: usize, due: u64) {
        let Some(talk) = self.talk.clone() else { return };
        let conn = &mut self.conns[index];
        conn.missing = ASKED;
        let label = Label { index: index as u32, number: conn.seq, due };
        let mut frame = [0; LONGEST];
        let len = talk.message(label, &mut frame);
        self.say(index, &frame[..len]);
    }

    /// The next message to all, from this one of them.
    pub(super) fn publish(&mut self, index: usize) {
        let Some(talk) = self.talk.clone() else { return };
        let number = self.published.number + 1;
        self.published = Label { index: index as u32, number, due: 0 };
        self.on_way = self.established;
        let mut frame = [0; LONGEST];
        let len = talk.message(self.published, &mut frame);
        self.say(index, &frame[..len]);
    }

    /// Data has come, in order.
    pub(super) fn on_websocket(&mut self, index: usize, data: &[u8]) {
        if data.is_empty() || self.conns[index].missing == OVER {
            return;
        }
        let before = match self.partial.is_empty() {
            true => None,
            false => self.partial.remove(&(index as u32)),
        };
        let taken = match before {
            Some(mut come) => {
                come.extend_from_slice(data);
                self.take(index, &come)
            }
            None => self.take(index, data),
        };
        if let Err(error) = taken {
            eprintln!("client: {error}");
            let Conn { seq, ack, stamp, .. } = self.conns[index];
            self.emit(index, Segment { seq, ack, stamp, flags: RST | ACK }, &[]);
            self.closed(index);
        }
    }

    /// Takes apart what has come; what is not whole waits for more.
    fn take(&mut self, index: usize, mut come: &[u8]) -> io::Result<()> {
        let Some(talk) = self.talk.clone() else { return Ok(()) };
        while !come.is_empty() && self.conns[index].missing != OVER {
            let len = if self.conns[index].missing == OPENING_HANDSHAKE {
                let Some(len) = talk.answer(index, come)? else { break };
                self.upgraded(index);
                len
            } else {
                let Some((said, len)) = next(come)? else { break };
                self.heard(index, &said)?;
                len
            };
            come = &come[len..];
        }
        if !come.is_empty() && self.conns[index].missing != OVER {
            self.partial.insert(index as u32, come.to_vec());
            self.acknowledge(index);
        }
        Ok(())
    }

    fn upgraded(&mut self, index: usize) {
        if self.load.role.traffic != Traffic::Upgrade {
            self.conns[index].missing = IDLE;
            self.acknowledge(index);
            return self.is_open(index);
        }
        // Nothing of it is left at either end, and its ports are free.
        let Conn { seq, ack, stamp, .. } = self.conns[index];
        self.conns[index].missing = OVER;
        self.emit(index, Segment { seq, ack, stamp, flags: RST | ACK }, &[]);
        self.done += 1;
        self.ended();
    }

    fn heard(&mut self, index: usize, said: &Said<'_>) -> io::Result<()> {
        match *said {
            Said::Message(message) => match self.load.role.traffic {
                Traffic::Broadcast => self.delivered(index, message)?,
                _ => self.echoed(index, message)?,
            },
            Said::Ping(said) => self.say(index, &pong(said)),
            Said::Pong => self.acknowledge(index),
            // The server ends the connection after it (RFC 6455 7.1.1), which is an error then.
            Said::Close(said) => self.say(index, &close(said)),
        }
        Ok(())
    }

    fn echoed(&mut self, index: usize, message: &[u8]) -> io::Result<()> {
        let Some(talk) = self.talk.clone() else { return Ok(()) };
        let label = talk.label(message)?;
        let conn = &mut self.conns[index];
        let asked = conn.seq.wrapping_sub(talk.frame_len());
        if conn.missing != ASKED || (label.index, label.number) != (index as u32, asked) {
            return Err(wrong(&format!("not the echo of connection {index}: {label:?}")));
        }
        conn.missing = IDLE;
        self.done += 1;
        if let Some(pace) = &mut self.pace {
            let due = std::time::Duration::from_nanos(label.due);
            pace.echoed(self.begin + due);
        }
        self.answered(index);
        Ok(())
    }

    fn delivered(&mut self, index: usize, message: &[u8]) -> io::Result<()> {
        let label = self.talk.as_ref().map(|talk| talk.label(message)).transpose()?;
        let state = FIRST.wrapping_add(self.published.number);
        if label != Some(self.published) || self.conns[index].missing == state {
            return Err(wrong(&format!("not, or not once, what was published: {label:?}")));
        }
        self.conns[index].missing = state;
        self.acknowledge(index);
        self.done += 1;
        self.on_way -= 1;
        if self.on_way == 0 && self.running {
            // Who gets it last says the next.
            self.publish(index);
        }
        Ok(())
    }

    /// A WebSocket has ended that should not have.
    pub(super) fn closed(&mut self, index: usize) {
        let state = std::mem::replace(&mut self.conns[index].missing, OVER);
        if state == OVER {
            return;
        }
        self.errors += 1;
        self.partial.remove(&(index as u32));
        match state {
            _ if self.load.role.traffic == Traffic::Upgrade => self.ended(),
            OPENING_HANDSHAKE => {}
            _ => {
                self.established -= 1;
                self.on_way -= usize::from(state == ASKED);
            }
        }
    }
}
