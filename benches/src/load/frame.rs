//! The frames of the client without a stack: IPv4, TCP with timestamps or UDP, nothing else.

use std::net::{Ipv4Addr, SocketAddr};

use crate::role::{FIRST_PORT, PER_PORT};
use crate::subject::LONGEST_RAW;

pub(super) const FIN: u8 = 1;
pub(super) const SYN: u8 = 2;
pub(super) const RST: u8 = 4;
pub(super) const PSH: u8 = 8;
pub(super) const ACK: u8 = 16;

const ETHERNET: usize = 14;
const IP: usize = ETHERNET + 20;
/// With timestamps (RFC 7323 appendix A); a SYN has as many bytes of options again and some.
const TCP: usize = 32;
const SYN_TCP: usize = 40;
const UDP: usize = 8;
pub(super) const LONGEST: usize = IP + SYN_TCP + LONGEST_RAW;

/// What varies of a segment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Segment {
    pub(super) seq: u32,
    pub(super) ack: u32,
    /// Of one that is sent: the other end's timestamp; of one received: its own.
    pub(super) stamp: u32,
    pub(super) flags: u8,
}

/// Who speaks to whom, and what is said.
pub(super) struct Frame {
    mac: [u8; 6],
    server_mac: Option<[u8; 6]>,
    ours: Ipv4Addr,
    server: Ipv4Addr,
    port: u16,
    /// Of flows of datagrams: the server's sockets, each at a port of its own, which they take in turn.
    sockets: Option<usize>,
    /// Our clock, in milliseconds.
    pub(super) stamp: u32,
}

impl Frame {
    pub(super) fn new(mac: [u8; 6], ours: Ipv4Addr, server: Ipv4Addr, port: u16) -> Frame {
        Frame { mac, server_mac: None, ours, server, port, sockets: None, stamp: 0 }
    }

    /// Of flows of datagrams to so many sockets.
    pub(super) fn with_sockets(self, sockets: usize) -> Frame {
        Frame { sockets: Some(sockets), ..self }
    }

    pub(super) fn knows_server(&self) -> bool {
        self.server_mac.is_some()
    }

    /// The addresses and ports of connection or flow `index`, ours first.
    pub(super) fn ends(&self, index: usize) -> [SocketAddr; 2] {
        let port = FIRST_PORT + (index % PER_PORT) as u16;
        let to = match self.sockets {
            Some(sockets) => index % sockets,
            None => index / PER_PORT,
        };
        [(self.ours, port).into(), (self.server, self.port + to as u16).into()]
    }

    /// The headers of Ethernet and IP of a frame of `len` bytes.
    fn begin(&self, out: &mut [u8; LONGEST], protocol: u8, len: usize) {
        out[..6].copy_from_slice(&self.server_mac.unwrap_or([0xff; 6]));
        out[6..12].copy_from_slice(&self.mac);
        out[12..14].copy_from_slice(&[8, 0]);
        let ip = &mut out[ETHERNET..IP];
        ip[..9].copy_from_slice(&[0x45, 0, 0, 0, 0, 0, 0x40, 0, 64]);
        ip[2..4].copy_from_slice(&((len - ETHERNET) as u16).to_be_bytes());
        ip[9] = protocol;
        ip[12..16].copy_from_slice(&self.ours.octets());
        ip[16..20].copy_from_slice(&self.server.octets());
        let check = fold(sum(ip));
        ip[10..12].copy_from_slice(&(!check).to_be_bytes());
    }

    /// The sum of the pseudo-header (RFC 9293 3.1, RFC 768).
    fn pseudo(&self, protocol: u8, len: usize) -> u64 {
        let addresses = sum(&self.ours.octets()) + sum(&self.server.octets());
        addresses + u64::from(protocol) + len as u64
    }

    /// A datagram of flow `index` with at most [`LONGEST_RAW`] bytes: bytes, of which so many count.
    pub(super) fn udp(&self, index: usize, data: &[u8]) -> ([u8; LONGEST], usize) {
        let mut out = [0; LONGEST];
        let len = IP + UDP + data.len();
        self.begin(&mut out, 17, len);
        let [ours, server] = self.ends(index).map(|end| end.port().to_be_bytes());
        let udp = &mut out[IP..IP + UDP];
        udp[..2].copy_from_slice(&ours);
        udp[2..4].copy_from_slice(&server);
        udp[4..6].copy_from_slice(&((UDP + data.len()) as u16).to_be_bytes());
        let check = fold(sum(udp) + self.pseudo(17, UDP + data.len()) + sum(data));
        // 0 would say that there is none (RFC 768).
        let check = if check == 0xffff { check } else { !check };
        udp[6..8].copy_from_slice(&check.to_be_bytes());
        out[IP + UDP..len].copy_from_slice(data);
        (out, len)
    }

    /// A datagram to us from the port that its flow goes to: the flow, and what it says.
    pub(super) fn read_udp<'a>(&self, frame: &'a [u8]) -> Option<(usize, &'a [u8])> {
        if frame.get(12..15)? != [8, 0, 0x45] || *frame.get(23)? != 17 {
            return None;
        }
        let udp = frame.get(IP..)?;
        let word = |at: usize| Some(u16::from_be_bytes(udp.get(at..at + 2)?.try_into().ok()?));
        let index = usize::from(word(2)?.checked_sub(FIRST_PORT)?);
        let [_, server] = self.ends(index);
        let from = Ipv4Addr::from(<[u8; 4]>::try_from(frame.get(26..30)?).ok()?);
        let right = index < PER_PORT && server == (from, word(0)?).into();
        right.then(|| udp.get(UDP..usize::from(word(4)?)).map(|said| (index, said)))?
    }

    /// A segment of connection `index` with at most [`LONGEST_RAW`] bytes of data: bytes, of which
    /// so many count.
    pub(super) fn tcp(
        &self,
        index: usize,
        segment: Segment,
        data: &[u8],
    ) -> ([u8; LONGEST], usize) {
        let [ours, server] = self.ends(index).map(|end| end.port());
        self.between(ours, server, segment, data)
    }

    /// A segment between any two ports, likewise.
    pub(super) fn between(
        &self,
        from: u16,
        to: u16,
        segment: Segment,
        data: &[u8],
    ) -> ([u8; LONGEST], usize) {
        let mut out = [0; LONGEST];
        let syn = segment.flags & SYN != 0;
        let header = if syn { SYN_TCP } else { TCP };
        let len = IP + header + data.len();
        self.begin(&mut out, 6, len);
        let tcp = &mut out[IP..IP + header];
        tcp[..2].copy_from_slice(&from.to_be_bytes());
        tcp[2..4].copy_from_slice(&to.to_be_bytes());
        tcp[4..8].copy_from_slice(&segment.seq.to_be_bytes());
        tcp[8..12].copy_from_slice(&segment.ack.to_be_bytes());
        tcp[12] = ((header / 4) as u8) << 4;
        tcp[13] = segment.flags;
        tcp[14..16].copy_from_slice(&64_000_u16.to_be_bytes());
        let stamps = if syn {
            // MSS 1460, SACK permitted, window scale 7 (RFC 9293 3.7.1, RFC 2018 2, RFC 7323 2.2).
            tcp[20..24].copy_from_slice(&[2, 4, 5, 180]);
            tcp[24..28].copy_from_slice(&[1, 3, 3, 7]);
            tcp[28..30].copy_from_slice(&[4, 2]);
            30
        } else {
            tcp[20..22].copy_from_slice(&[1, 1]);
            22
        };
        tcp[stamps..stamps + 2].copy_from_slice(&[8, 10]);
        tcp[stamps + 2..stamps + 6].copy_from_slice(&self.stamp.to_be_bytes());
        tcp[stamps + 6..stamps + 10].copy_from_slice(&segment.stamp.to_be_bytes());
        let check = fold(sum(tcp) + self.pseudo(6, header + data.len()) + sum(data));
        tcp[16..18].copy_from_slice(&(!check).to_be_bytes());
        out[IP + header..len].copy_from_slice(data);
        (out, len)
    }

    /// A segment to us: its connection, what it says, its data.
    pub(super) fn read<'a>(&self, frame: &'a [u8]) -> Option<(usize, Segment, &'a [u8])> {
        let (from, to, segment, data) = Frame::parse(frame)?;
        let place = usize::from(to.checked_sub(FIRST_PORT)?);
        let index = usize::from(from.checked_sub(self.port)?) * PER_PORT + place;
        (place < PER_PORT).then_some((index, segment, data))
    }

    /// Any segment: the ports it is from and to, what it says, its data.
    pub(super) fn parse(frame: &[u8]) -> Option<(u16, u16, Segment, &[u8])> {
        if frame.get(12..15)? != [8, 0, 0x45] || *frame.get(23)? != 6 {
            return None;
        }
        let ip_len = usize::from(u16::from_be_bytes([frame[16], frame[17]]));
        let tcp = frame.get(IP..ETHERNET + ip_len)?;
        let word = |at: usize| -> Option<u32> {
            Some(u32::from_be_bytes(tcp.get(at..at + 4)?.try_into().ok()?))
        };
        let ports = word(0)?;
        let (from, to) = ((ports >> 16) as u16, ports as u16);
        let header = usize::from(tcp.get(12)? >> 4) * 4;
        let (flags, data) = (*tcp.get(13)?, tcp.get(header..)?);
        let stamp = stamp(tcp.get(20..header)?).unwrap_or(0);
        Some((from, to, Segment { seq: word(4)?, ack: word(8)?, stamp, flags }, data))
    }

    /// Who has the server's address? (RFC 826)
    pub(super) fn arp_request(&self) -> Vec<u8> {
        self.arp_frame(1, [0xff; 6], [0; 6], self.server)
    }

    /// Our answer to a question for our address; an answer to ours is taken note of.
    pub(super) fn arp(&mut self, frame: &[u8]) -> Option<Vec<u8>> {
        if frame.len() < 42 || frame[12..14] != [8, 6] {
            return None;
        }
        let asker: [u8; 6] = frame[22..28].try_into().ok()?;
        let address =
            |at: usize| Ipv4Addr::new(frame[at], frame[at + 1], frame[at + 2], frame[at + 3]);
        if address(28) == self.server {
            self.server_mac = Some(asker);
        }
        let asked = frame[21] == 1 && address(38) == self.ours;
        asked.then(|| self.arp_frame(2, asker, asker, address(28)))
    }

    fn arp_frame(&self, kind: u8, to: [u8; 6], target: [u8; 6], address: Ipv4Addr) -> Vec<u8> {
        let parts: [&[u8]; 7] = [
            &to,
            &self.mac,
            &[8, 6, 0, 1, 8, 0, 6, 4, 0, kind],
            &self.mac,
            &self.ours.octets(),
            &target,
            &address.octets(),
        ];
        parts.concat()
    }
}

/// The timestamp among options.
fn stamp(mut options: &[u8]) -> Option<u32> {
    loop {
        match *options {
            [8, 10, a, b, c, d, ..] => return Some(u32::from_be_bytes([a, b, c, d])),
            [1, ..] => options = &options[1..],
            [kind, len, ..] if kind != 0 && len >= 2 => {
                options = options.get(usize::from(len)..)?;
            }
            _ => return None,
        }
    }
}

/// The sum of RFC 1071, not folded, by words of 32 bits, which fold to the same.
fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    let word = |word: &[u8; 4]| u64::from(u32::from_be_bytes(*word));
    words.iter().map(word).sum::<u64>() + word(&last)
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_right_and_understood() {
        let [ours, server] = [Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 1)];
        let mut frame = Frame::new([2; 6], ours, server, 9_000);
        frame.stamp = 77;
        for (index, flags, data) in
            [(3, SYN, &b""[..]), (PER_PORT + 7, ACK | PSH, b"hello"), (9, ACK, b"even")]
        {
            let sent = Segment { seq: 0xffff_fff0, ack: 5, stamp: 9, flags };
            let (mut bytes, len) = frame.tcp(index, sent, data);
            assert_eq!(fold(sum(&bytes[ETHERNET..IP])), 0xffff);
            let pseudo = sum(&bytes[ETHERNET + 12..IP]) + 6 + (len - IP) as u64;
            assert_eq!(fold(pseudo + sum(&bytes[IP..len])), 0xffff);
            // As the other end would answer, from where it was sent to.
            let (from, to) = bytes[IP..IP + 4].split_at_mut(2);
            from.swap_with_slice(to);
            let (read, segment, said) = frame.read(&bytes[..len]).expect("a segment");
            assert_eq!((read, segment), (index, Segment { stamp: 77, ..sent }));
            assert_eq!(said, data);
            assert!(frame.read(&bytes[..40]).is_none());
        }
        // By pairs of bytes, as RFC 1071 has it.
        let bytes: Vec<u8> = (0..=255).rev().cycle().take(333).collect();
        for len in 0..bytes.len() {
            let pair =
                |pair: &[u8]| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0));
            let pairs = bytes[..len].chunks(2).map(pair).sum();
            assert_eq!(fold(sum(&bytes[..len])), fold(pairs), "{len} bytes");
        }
    }

    #[test]
    fn datagrams_are_right_and_understood() {
        let [ours, server] = [Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 1)];
        let frame = Frame::new([2; 6], ours, server, 9_000).with_sockets(3);
        for (index, data) in [(0, &b""[..]), (7, b"hello"), (PER_PORT - 1, b"even")] {
            let (mut bytes, len) = frame.udp(index, data);
            assert_eq!(fold(sum(&bytes[ETHERNET..IP])), 0xffff);
            let pseudo = sum(&bytes[ETHERNET + 12..IP]) + 17 + (len - IP) as u64;
            assert_eq!(fold(pseudo + sum(&bytes[IP..len])), 0xffff);
            assert_eq!(bytes[IP + 2..IP + 4], (9_000 + (index % 3) as u16).to_be_bytes());
            assert!(frame.read_udp(&bytes[..len]).is_none(), "it is to the server");
            // As the other end would answer: addresses and ports change places.
            for (at, size) in [(ETHERNET + 12, 4), (IP, 2)] {
                let (from, to) = bytes[at..at + 2 * size].split_at_mut(size);
                from.swap_with_slice(to);
            }
            assert_eq!(frame.read_udp(&bytes[..len]), Some((index, data)));
            assert!(frame.read_udp(&bytes[..len - 1]).is_none() && frame.read(&bytes).is_none());
            bytes[IP + 1] ^= 1;
            assert!(frame.read_udp(&bytes[..len]).is_none(), "another socket's");
        }
    }

    #[test]
    fn addresses_are_asked_for_and_told() {
        let [a, b] = [Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 1)];
        let mut asking = Frame::new([2; 6], a, b, 1);
        let mut asked = Frame::new([4; 6], b, a, 1);
        let answer = asked.arp(&asking.arp_request()).expect("it is asked");
        assert!(asking.arp(&answer).is_none() && asking.knows_server());
        assert_eq!(asking.server_mac, Some([4; 6]));
    }
}
