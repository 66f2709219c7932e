//! Frames, written byte by byte, so that they can be as wrong as they like.

use throng_net::tcp::{Header, Options};

use crate::draw::Draw;

/// Where the IP header begins.
pub const L3: usize = 14;
/// The protocol number of ICMP.
pub const ICMP: u8 = 1;
/// The protocol number of TCP.
pub const TCP: u8 = 6;
/// The protocol number of UDP.
pub const UDP: u8 = 17;
/// The protocol number of ICMPv6.
pub const ICMPV6: u8 = 58;

/// Ones' complement sum (RFC 1071), not inverted.
fn sum(bytes: &[u8]) -> u32 {
    let words = bytes.chunks(2).map(|word| match *word {
        [a, b] => u32::from(u16::from_be_bytes([a, b])),
        [a] => u32::from(a) << 8,
        _ => 0,
    });
    words.sum()
}

fn finish(mut sum: u32) -> [u8; 2] {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    (!(sum as u16)).to_be_bytes()
}

/// An Ethernet header.
pub fn ethernet(dst: [u8; 6], src: [u8; 6], ethertype: u16) -> Vec<u8> {
    let mut frame = dst.to_vec();
    frame.extend_from_slice(&src);
    frame.extend_from_slice(&ethertype.to_be_bytes());
    frame
}

/// What an IP header says beside addresses and protocol.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ip {
    /// The two bits of ECN.
    pub ecn: u8,
    /// The identification.
    pub ident: u16,
    /// Flags and offset of an IPv4 fragment, as in its header.
    pub fragment: u16,
}

/// An IP packet behind `frame`: `l4` from `src` to `dst`, both of 4 or both of 16 bytes.
pub fn ip(frame: &mut Vec<u8>, src: &[u8], dst: &[u8], protocol: u8, ip: Ip, l4: &[u8]) {
    if src.len() == 4 {
        frame.extend_from_slice(&[0x45, ip.ecn]);
        frame.extend_from_slice(&(20 + l4.len() as u16).to_be_bytes());
        frame.extend_from_slice(&ip.ident.to_be_bytes());
        frame.extend_from_slice(&ip.fragment.to_be_bytes());
        frame.extend_from_slice(&[64, protocol, 0, 0]);
    } else {
        frame.extend_from_slice(&[0x60, ip.ecn << 4, 0, 0]);
        frame.extend_from_slice(&(l4.len() as u16).to_be_bytes());
        // Neighbour discovery wants 255 (RFC 4861 7.1.1).
        frame.extend_from_slice(&[protocol, 255]);
    }
    frame.extend_from_slice(src);
    frame.extend_from_slice(dst);
    frame.extend_from_slice(l4);
}

/// Makes the checksums of a frame right, as far as its headers can be followed.
pub fn seal(frame: &mut [u8]) {
    let Some(packet) = frame.get_mut(L3..) else { return };
    let (l4, protocol, addresses) = match packet.first().map(|byte| byte >> 4) {
        Some(4) if packet.len() >= 20 => {
            let header = (usize::from(packet[0] & 15) * 4).clamp(20, packet.len());
            packet[10..12].fill(0);
            let checksum = finish(sum(&packet[..header]));
            packet[10..12].copy_from_slice(&checksum);
            if packet[6] & 0x3f != 0 || packet[7] != 0 {
                return;
            }
            (header, packet[9], sum(&packet[12..20]))
        }
        Some(6) if packet.len() >= 40 => (40, packet[6], sum(&packet[8..40])),
        _ => return,
    };
    let at = match protocol {
        TCP => 16,
        UDP => 6,
        ICMP | ICMPV6 => 2,
        _ => return,
    };
    let l4 = &mut packet[l4..];
    if l4.len() < at + 2 {
        return;
    }
    l4[at..at + 2].fill(0);
    let pseudo =
        if protocol == ICMP { 0 } else { addresses + u32::from(protocol) + l4.len() as u32 };
    let checksum = finish(pseudo + sum(l4));
    l4[at..at + 2].copy_from_slice(&checksum);
}

/// A TCP segment, without its checksum.
pub fn tcp(header: &Header, payload: &[u8], odd: &[u8]) -> Vec<u8> {
    let tuple = &header.tuple;
    let mut out = Vec::new();
    out.extend_from_slice(&tuple.remote_port.to_be_bytes());
    out.extend_from_slice(&tuple.local_port.to_be_bytes());
    out.extend_from_slice(&header.seq.0.to_be_bytes());
    out.extend_from_slice(&header.ack.0.to_be_bytes());
    out.extend_from_slice(&[0, header.flags.0]);
    out.extend_from_slice(&header.window.to_be_bytes());
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(&header.urgent.to_be_bytes());
    options(&mut out, &header.options);
    out.extend_from_slice(odd);
    out.resize(out.len().next_multiple_of(4).min(60), 0);
    out[12] = (out.len() as u8 / 4) << 4;
    out.extend_from_slice(payload);
    out
}

fn options(out: &mut Vec<u8>, options: &Options) {
    if let Some(mss) = options.mss {
        out.extend_from_slice(&[2, 4]);
        out.extend_from_slice(&mss.to_be_bytes());
    }
    if let Some(shift) = options.window_scale {
        out.extend_from_slice(&[1, 3, 3, shift]);
    }
    if options.sack_permitted {
        out.extend_from_slice(&[1, 1, 4, 2]);
    }
    if let Some((value, echo)) = options.timestamps {
        out.extend_from_slice(&[1, 1, 8, 10]);
        out.extend_from_slice(&value.to_be_bytes());
        out.extend_from_slice(&echo.to_be_bytes());
    }
    let blocks: Vec<_> = options.sack.iter().map_while(|block| *block).collect();
    let room = (60 - out.len().min(60)).saturating_sub(4) / 8;
    let count = blocks.len().min(room);
    if count > 0 {
        out.extend_from_slice(&[1, 1, 5, 2 + 8 * count as u8]);
        for block in &blocks[..count] {
            out.extend_from_slice(&block.start.0.to_be_bytes());
            out.extend_from_slice(&block.end.0.to_be_bytes());
        }
    }
}

/// A UDP datagram, without its checksum.
pub fn udp(ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let mut out = ports.0.to_be_bytes().to_vec();
    out.extend_from_slice(&ports.1.to_be_bytes());
    out.extend_from_slice(&(8 + payload.len() as u16).to_be_bytes());
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(payload);
    out
}

/// An answer to the DNS query `query` (RFC 1035 4.1), more or less.
pub fn dns(draw: &mut Draw<'_>, query: &[u8]) -> Vec<u8> {
    let mut out = query.to_vec();
    if out.len() < 12 {
        return draw.bytes(40).to_vec();
    }
    out[2] |= 0x80;
    out[3] = draw.of(&[0x80, 0x80, 0x80, 0x83, 0x82, 0x85]);
    if draw.one_in(8) {
        out[2] |= 2;
    }
    let answers = draw.below(5) as u8;
    out[7] = answers;
    // What the query says beyond its question stays behind the answers, or in their way.
    out[11] = if draw.one_in(2) { out[11] } else { 0 };
    for _ in 0..answers {
        match draw.below(4) {
            0 => out.extend_from_slice(&[0xc0, draw.byte()]),
            1 => out.extend_from_slice(&[1, b'a', 7, b'e', b'x', b'a', b'm', b'p', b'l', b'e', 0]),
            _ => out.extend_from_slice(&[0xc0, 12]),
        }
        let kind = draw.of(&[1u16, 28, 5, 6, 41, 1, 28, 255]);
        out.extend_from_slice(&kind.to_be_bytes());
        out.extend_from_slice(&[0, 1]);
        out.extend_from_slice(&draw.of(&[0u32, 1, 60, u32::MAX]).to_be_bytes());
        let data: &[u8] = match kind {
            1 => &[10, 0, 0, 9],
            28 => &[0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9],
            5 => &[1, b'b', 0xc0, 14],
            _ => draw.bytes(24),
        };
        let said = if draw.one_in(8) { draw.word() } else { data.len() as u16 };
        out.extend_from_slice(&said.to_be_bytes());
        out.extend_from_slice(data);
    }
    out
}

/// What a DHCP server says to the client that asked with `xid` (RFC 2131 2).
pub fn dhcp(draw: &mut Draw<'_>, xid: [u8; 4], mac: [u8; 6]) -> Vec<u8> {
    let mut out = vec![2, 1, 6, 0];
    out.extend_from_slice(&xid);
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&[10, 0, 0, draw.of(&[1, 1, 1, 0, 255, 7])]);
    out.extend_from_slice(&[10, 0, 0, 254, 0, 0, 0, 0]);
    out.extend_from_slice(&mac);
    out.resize(236, 0);
    out.extend_from_slice(&[99, 130, 83, 99]);
    out.extend_from_slice(&[53, 1, draw.of(&[2, 5, 6, 2, 5, 9])]);
    out.extend_from_slice(&[54, 4, 10, 0, 0, 254]);
    for _ in 0..draw.below(6) {
        match draw.below(6) {
            0 => out.extend_from_slice(&[1, 4, 255, 255, draw.byte(), 0]),
            1 => out.extend_from_slice(&[3, 4, 10, 0, 0, 254]),
            2 => out.extend_from_slice(&[6, 8, 10, 0, 0, 53, 10, 0, 0, 54]),
            3 => {
                out.extend_from_slice(&[51, 4]);
                out.extend_from_slice(&draw.of(&[0u32, 1, 60, 3_600, u32::MAX]).to_be_bytes());
            }
            _ => {
                let (code, data) = (draw.byte(), draw.bytes(12));
                out.extend_from_slice(&[code, data.len() as u8]);
                out.extend_from_slice(data);
            }
        }
    }
    out.push(255);
    out
}
