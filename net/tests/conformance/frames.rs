//! Frames for the conformance suite: built and judged by code of its own, so that it does
//! not share the library's mistakes.

use smoltcp::wire::EthernetAddress;
use throng_net::packet::TxMeta;

/// Ethertype of the suite's own frames ("local experimental", IEEE 802).
const EXPERIMENTAL: [u8; 2] = [0x88, 0xb5];

/// A frame of `length` bytes (at least 14) that says who sent it and which it is, as far
/// as there is room, and is filled with a pattern.
pub(crate) fn numbered(
    to: EthernetAddress,
    from: EthernetAddress,
    queue: u16,
    number: u32,
    length: usize,
) -> Vec<u8> {
    let mut frame = Vec::with_capacity(length);
    frame.extend(to.0);
    frame.extend(from.0);
    frame.extend(EXPERIMENTAL);
    frame.extend(queue.to_be_bytes());
    frame.extend(number.to_be_bytes());
    while frame.len() < length {
        frame.push((frame.len() as u32 * 7 + number) as u8);
    }
    frame.truncate(length);
    frame
}

/// Whether it is one of [`numbered`]'s. The host's kernel may have things to say of its own.
pub(crate) fn is_numbered(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&EXPERIMENTAL)
}

/// Sender's queue and number of a frame of at least 20 bytes.
pub(crate) fn number_of(frame: &[u8]) -> (u16, u32) {
    let queue = u16::from_be_bytes([frame[14], frame[15]]);
    (queue, u32::from_be_bytes([frame[16], frame[17], frame[18], frame[19]]))
}

/// What to put into a TCP or UDP frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) ipv6: bool,
    pub(crate) udp: bool,
    pub(crate) payload: usize,
    /// TCP flags.
    pub(crate) flags: u8,
}

pub(crate) const SEQUENCE: u32 = 0xffff_f000;
pub(crate) const IDENTIFICATION: u16 = 0xfffe;
const TCP_HEADER: usize = 32;

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

fn raw_sum(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |&b| b.into())).sum()
}

fn pseudo(frame: &[u8], ipv6: bool, protocol: u8, length: usize) -> u32 {
    let addresses = if ipv6 { &frame[22..54] } else { &frame[26..34] };
    raw_sum(addresses) + u32::from(protocol) + length as u32
}

impl Shape {
    fn protocol(self) -> u8 {
        if self.udp { 17 } else { 6 }
    }

    fn l3_len(self) -> usize {
        if self.ipv6 { 40 } else { 20 }
    }

    fn l4_len(self) -> usize {
        if self.udp { 8 } else { TCP_HEADER }
    }

    /// Bytes in front of the payload.
    pub(crate) fn headers(self) -> usize {
        14 + self.l3_len() + self.l4_len()
    }

    /// Byte `i` of the payload.
    pub(crate) fn payload_byte(i: usize) -> u8 {
        (i * 31 + i / 256) as u8
    }

    /// The frame with all checksums zero.
    fn bare(self, to: EthernetAddress, from: EthernetAddress) -> Vec<u8> {
        let transport = self.l4_len() + self.payload;
        let mut f = Vec::new();
        f.extend(to.0);
        f.extend(from.0);
        if self.ipv6 {
            f.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            // A payload over the field's range is what only TSO can carry.
            f.extend((transport.min(65_535) as u16).to_be_bytes());
            f.extend([self.protocol(), 64]);
            f.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
            f.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        } else {
            f.extend([0x08, 0x00, 0x45, 0]);
            f.extend(((20 + transport).min(65_535) as u16).to_be_bytes());
            f.extend(IDENTIFICATION.to_be_bytes());
            f.extend([0x00, 0, 64, self.protocol(), 0, 0]);
            f.extend([10, 66, 0, 1, 10, 66, 0, 2]);
        }
        f.extend(4000u16.to_be_bytes());
        f.extend(80u16.to_be_bytes());
        if self.udp {
            f.extend((transport as u16).to_be_bytes());
            f.extend([0, 0]);
        } else {
            f.extend(SEQUENCE.to_be_bytes());
            f.extend(77u32.to_be_bytes());
            f.extend([((TCP_HEADER / 4) << 4) as u8, self.flags, 0x20, 0, 0, 0, 0, 0]);
            // NOP, NOP, timestamps.
            f.extend([1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
        }
        f.extend((0..self.payload).map(Self::payload_byte));
        f
    }

    fn l4(self) -> usize {
        14 + self.l3_len()
    }

    fn field(self) -> usize {
        self.l4() + if self.udp { 6 } else { 16 }
    }

    /// The frame with its checksums done.
    pub(crate) fn finished(self, to: EthernetAddress, from: EthernetAddress) -> Vec<u8> {
        let mut frame = self.bare(to, from);
        if !self.ipv6 {
            let checksum = !fold(raw_sum(&frame[14..34]));
            frame[24..26].copy_from_slice(&checksum.to_be_bytes());
        }
        let l4 = self.l4();
        let length = frame.len() - l4;
        let sum = pseudo(&frame, self.ipv6, self.protocol(), length) + raw_sum(&frame[l4..]);
        let checksum = match !fold(sum) {
            0 if self.udp => 0xffff,
            other => other,
        };
        let field = self.field();
        frame[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
        frame
    }

    /// The frame as the stack leaves it to a device that computes checksums, or cuts it
    /// into `segment` bytes when that is not zero.
    pub(crate) fn offloaded(
        self,
        to: EthernetAddress,
        from: EthernetAddress,
        segment: u16,
    ) -> (Vec<u8>, TxMeta) {
        let mut frame = self.bare(to, from);
        let length = frame.len() - self.l4();
        let sum = fold(pseudo(&frame, self.ipv6, self.protocol(), length));
        let field = self.field();
        frame[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        let tx = TxMeta {
            l2_len: 14,
            l3_len: self.l3_len() as u8,
            l4_len: self.l4_len() as u8,
            ipv6: self.ipv6,
            ip_checksum: !self.ipv6,
            tcp_checksum: !self.udp,
            udp_checksum: self.udp,
            tso_segment: segment,
        };
        (frame, tx)
    }

    /// Whether it is a frame of this kind.
    pub(crate) fn matches(self, frame: &[u8]) -> bool {
        let (ethertype, protocol, from) = if self.ipv6 {
            ([0x86, 0xdd], frame.get(20), frame.get(22..24))
        } else {
            ([0x08, 0x00], frame.get(23), frame.get(26..28))
        };
        let source: &[u8] = if self.ipv6 { &[0xfd, 0] } else { &[10, 66] };
        frame.get(12..14) == Some(&ethertype[..])
            && protocol == Some(&self.protocol())
            && from == Some(source)
            && frame.len() >= self.headers()
    }

    /// What is wrong with the lengths and the checksums of a received frame of this kind;
    /// `unfinished` allows a transport checksum that holds the pseudo header's sum.
    pub(crate) fn faults(self, frame: &[u8], unfinished: bool) -> Option<String> {
        let l4 = self.l4();
        let length = if self.ipv6 {
            54 + usize::from(u16::from_be_bytes([frame[18], frame[19]]))
        } else {
            14 + usize::from(u16::from_be_bytes([frame[16], frame[17]]))
        };
        if length != frame.len() {
            return Some(format!("the IP length says {length}, the frame has {}", frame.len()));
        }
        if !self.ipv6 && fold(raw_sum(&frame[14..34])) != 0xffff {
            return Some("the IPv4 checksum is wrong".into());
        }
        let pseudo = pseudo(frame, self.ipv6, self.protocol(), frame.len() - l4);
        if fold(pseudo + raw_sum(&frame[l4..])) == 0xffff {
            return None;
        }
        let field = self.field();
        let stored = u16::from_be_bytes([frame[field], frame[field + 1]]);
        if unfinished && stored == fold(pseudo) {
            return None;
        }
        Some(format!("the transport checksum is wrong: {stored:#06x}"))
    }

    /// Sequence number, flags and identification (0 for IPv6) of a TCP frame of this kind.
    pub(crate) fn tcp_fields(self, frame: &[u8]) -> (u32, u8, u16) {
        let l4 = self.l4();
        let sequence =
            u32::from_be_bytes([frame[l4 + 4], frame[l4 + 5], frame[l4 + 6], frame[l4 + 7]]);
        let id = if self.ipv6 { 0 } else { u16::from_be_bytes([frame[18], frame[19]]) };
        (sequence, frame[l4 + 13], id)
    }
}
