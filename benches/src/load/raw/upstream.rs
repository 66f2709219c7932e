//! The server behind a balancer, made by hand as its client is: it answers each request, which comes in
//! one segment, with the same page.

use super::super::frame::{ACK, FIN, Frame, LONGEST, PSH, RST, SYN, Segment};

/// As long as what nginx answers with `return 200`, and with the same fields.
const PAGE: &[u8] =
    b"HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Sun, 22 Nov 2026 15:36:00 GMT\r\n\
    Content-Type: text/plain\r\nContent-Length: 6\r\nConnection: keep-alive\r\n\r\nhello\n";

/// What comes next on a connection, both ways.
#[derive(Clone, Copy, Default)]
struct Conn {
    seq: u32,
    ack: u32,
}

pub(super) struct Upstream {
    port: u16,
    /// By the balancer's port.
    conns: Vec<Conn>,
    /// Segments that a request did not end with.
    pub(super) odd: u64,
}

impl Upstream {
    /// A server at this port of the client's address.
    pub(super) fn new(port: u16) -> Upstream {
        Upstream { port, conns: vec![Conn::default(); 1 << 16], odd: 0 }
    }

    /// What is answered to a frame: bytes, of which so many count, none for an acknowledgement.
    /// `None` where the frame is not for this server.
    pub(super) fn received(
        &mut self,
        frame: &Frame,
        bytes: &[u8],
    ) -> Option<([u8; LONGEST], usize)> {
        let (from, to, segment, data) = Frame::parse(bytes)?;
        if to != self.port {
            return None;
        }
        let conn = &mut self.conns[usize::from(from)];
        let stamp = segment.stamp;
        if segment.flags & RST != 0 {
            return Some(([0; LONGEST], 0));
        }
        if segment.flags & SYN != 0 {
            // Beyond what an earlier connection of that port has used.
            let seq = conn.seq.wrapping_add(100_000);
            *conn = Conn { seq: seq.wrapping_add(1), ack: segment.seq.wrapping_add(1) };
            let answer = Segment { seq, ack: conn.ack, stamp, flags: SYN | ACK };
            return Some(frame.between(to, from, answer, &[]));
        }
        if data.is_empty() && segment.flags & FIN == 0 {
            return Some(([0; LONGEST], 0));
        }
        let Conn { seq, ack } = *conn;
        if segment.seq != ack {
            // It was here before.
            return Some(frame.between(to, from, Segment { seq, ack, stamp, flags: ACK }, &[]));
        }
        let fin = segment.flags & FIN;
        conn.ack = ack.wrapping_add(data.len() as u32 + u32::from(fin != 0));
        let whole = data.ends_with(b"\r\n\r\n");
        self.odd += u64::from(!whole && !data.is_empty());
        let said = if whole { PAGE } else { &[] };
        conn.seq = seq.wrapping_add(said.len() as u32 + u32::from(fin != 0));
        let flags = ACK | fin | if whole { PSH } else { 0 };
        Some(frame.between(to, from, Segment { seq, ack: conn.ack, stamp, flags }, said))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn requests_are_answered_once() {
        let [ours, balancer] = [Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 1)];
        let mut upstream = Upstream::new(8_000);
        let [us, them] = [(ours, balancer), (balancer, ours)]
            .map(|(from, to)| Frame::new([2; 6], from, to, 9_000));
        let mut say = |seq: u32, ack: u32, flags: u8, data: &[u8]| {
            let segment = Segment { seq, ack, stamp: 7, flags };
            let (bytes, len) = them.between(40_000, 8_000, segment, data);
            let (answer, len) = upstream.received(&us, &bytes[..len])?;
            Frame::parse(&answer[..len]).map(|(from, to, segment, data)| {
                assert_eq!((from, to, segment.stamp), (8_000, 40_000, 0));
                (segment.seq, segment.ack, segment.flags, data.to_vec())
            })
        };
        let (first, ack, flags, _) = say(99, 0, SYN, b"").unwrap();
        assert_eq!((ack, flags), (100, SYN | ACK));
        assert_eq!(say(100, first + 1, ACK, b""), None, "an acknowledgement needs no answer");
        let request = b"GET / HTTP/1.1\r\n\r\n";
        let asked = say(100, first + 1, ACK | PSH, request).unwrap();
        let next = 100 + request.len() as u32;
        assert_eq!(asked, (first + 1, next, ACK | PSH, PAGE.to_vec()));
        let again = say(100, first + 1, ACK | PSH, request).unwrap();
        let sent = first + 1 + PAGE.len() as u32;
        assert_eq!(again, (sent, next, ACK, vec![]));
        assert_eq!(say(next, sent, ACK | FIN, b""), Some((sent, next + 1, ACK | FIN, vec![])));
        let other =
            them.between(40_000, 8_001, Segment { seq: 1, ack: 1, stamp: 0, flags: ACK }, b"");
        assert!(upstream.received(&us, &other.0[..other.1]).is_none());
        assert_eq!(upstream.odd, 0);
    }
}
