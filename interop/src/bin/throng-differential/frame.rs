//! Frames made and read by hand, so that nothing keeps a script from sending what no sane
//! stack would.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The subject's MAC address, on every link.
pub(crate) const SUBJECT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Our own.
pub(crate) const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const ACK: u8 = 0x10;
pub(crate) const URG: u8 = 0x20;
pub(crate) const ECE: u8 = 0x40;
pub(crate) const CWR: u8 = 0x80;

const TCP: u8 = 6;
const ICMP: u8 = 1;
const ICMP6: u8 = 58;

/// A TCP segment with its addresses.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    pub(crate) src_port: u16,
    pub(crate) dst_port: u16,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) flags: u8,
    pub(crate) window: u16,
    pub(crate) urgent: u16,
    /// As on the wire; padded with zeros to four bytes when sent.
    pub(crate) options: Vec<u8>,
    pub(crate) payload: Vec<u8>,
    pub(crate) ttl: u8,
    /// The ECN field of the IP header.
    pub(crate) ecn: u8,
    /// Makes the checksum wrong.
    pub(crate) bad_checksum: bool,
    /// What stands where the header's length should, in words of four bytes.
    pub(crate) offset: Option<u8>,
}

impl Segment {
    /// The whole Ethernet frame, from us to the subject.
    pub(crate) fn to_frame(&self) -> Vec<u8> {
        let mut options = self.options.clone();
        options.resize(options.len().next_multiple_of(4), 0);
        let offset = self.offset.unwrap_or((5 + options.len() / 4) as u8);
        let mut tcp = Vec::new();
        tcp.extend(self.src_port.to_be_bytes());
        tcp.extend(self.dst_port.to_be_bytes());
        tcp.extend(self.seq.to_be_bytes());
        tcp.extend(self.ack.to_be_bytes());
        tcp.extend([offset << 4, self.flags]);
        tcp.extend(self.window.to_be_bytes());
        tcp.extend([0, 0]);
        tcp.extend(self.urgent.to_be_bytes());
        tcp.extend(&options);
        tcp.extend(&self.payload);
        let mut sum = transport_checksum(self.src, self.dst, TCP, &tcp);
        if self.bad_checksum {
            sum ^= 0x5555;
        }
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        packet(self.src, self.dst, TCP, self.ttl, self.ecn, &tcp)
    }

    /// Reads a frame; `None` where it is no TCP segment.
    pub(crate) fn from_frame(frame: &[u8]) -> Option<Segment> {
        let ip = frame.get(14..)?;
        let (src, dst, ttl, ecn, tcp): (IpAddr, IpAddr, u8, u8, &[u8]) = match frame[12..14] {
            [0x08, 0x00] => {
                let total = usize::from(u16::from_be_bytes(ip.get(2..4)?.try_into().ok()?));
                let header = usize::from(ip[0] & 0xf) * 4;
                if *ip.get(9)? != TCP {
                    return None;
                }
                let addr = |at: usize| -> Option<IpAddr> {
                    Some(Ipv4Addr::from(<[u8; 4]>::try_from(ip.get(at..at + 4)?).ok()?).into())
                };
                (addr(12)?, addr(16)?, ip[8], ip[1] & 3, ip.get(header..total)?)
            }
            [0x86, 0xdd] => {
                let length = usize::from(u16::from_be_bytes(ip.get(4..6)?.try_into().ok()?));
                if *ip.get(6)? != TCP {
                    return None;
                }
                let addr = |at: usize| -> Option<IpAddr> {
                    Some(Ipv6Addr::from(<[u8; 16]>::try_from(ip.get(at..at + 16)?).ok()?).into())
                };
                let ecn = ip[1] >> 4 & 3;
                (addr(8)?, addr(24)?, ip[7], ecn, ip.get(40..40 + length)?)
            }
            _ => return None,
        };
        let offset = usize::from(*tcp.get(12)? >> 4) * 4;
        let half = |at: usize| u16::from_be_bytes([tcp[at], tcp[at + 1]]);
        let word = |at: usize| u32::from(half(at)) << 16 | u32::from(half(at + 2));
        Some(Segment {
            src,
            dst,
            options: tcp.get(20..offset)?.to_vec(),
            payload: tcp[offset..].to_vec(),
            src_port: half(0),
            dst_port: half(2),
            seq: word(4),
            ack: word(8),
            flags: tcp[13],
            window: half(14),
            urgent: half(18),
            ttl,
            ecn,
            bad_checksum: transport_checksum(src, dst, TCP, tcp) != 0,
            offset: None,
        })
    }

    /// What it takes of sequence space.
    pub(crate) fn span(&self) -> u32 {
        let flag = |flag| u32::from(self.flags & flag != 0);
        self.payload.len() as u32 + flag(SYN) + flag(FIN)
    }
}

/// An ICMP error from `from` about `about`, a segment of the subject's. The type and code are
/// those of the family; `mtu` counts where they speak of one.
pub(crate) fn icmp_error(from: IpAddr, about: &Segment, kind: u8, code: u8, mtu: u16) -> Vec<u8> {
    let quoted = Segment { options: about.options.clone(), ..about.clone() }.to_frame();
    let protocol = if from.is_ipv4() { ICMP } else { ICMP6 };
    let mut icmp = vec![kind, code, 0, 0];
    icmp.extend(u32::from(mtu).to_be_bytes());
    // IP header and eight bytes are the least there is; all of it fits here.
    icmp.extend(&quoted[14..quoted.len().min(14 + 512)]);
    let sum = match from {
        IpAddr::V4(_) => checksum(0, &icmp),
        IpAddr::V6(_) => transport_checksum(from, about.src, ICMP6, &icmp),
    };
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    packet(from, about.src, protocol, 64, 0, &icmp)
}

/// What to say to a frame that asks for a neighbour's address: every address but the asker's
/// is ours. `None`: it asks for nothing.
pub(crate) fn answer_neighbor(frame: &[u8]) -> Option<Vec<u8>> {
    match frame.get(12..14)? {
        [0x08, 0x06] => {
            // An ARP request (RFC 826); one that asks for its own sender looks for duplicates.
            let arp = frame.get(14..42)?;
            if arp[7] != 1 || arp[14..18] == arp[24..28] || arp[14..18] == [0; 4] {
                return None;
            }
            let mut reply = ethernet([0x08, 0x06], &arp[..7]);
            reply.push(2);
            reply.extend(PEER_MAC);
            reply.extend(&arp[24..28]);
            reply.extend(&arp[8..18]);
            Some(reply)
        }
        [0x86, 0xdd] if *frame.get(20)? == ICMP6 && *frame.get(54)? == 135 => {
            // A neighbour solicitation (RFC 4861 4.3); from :: it looks for duplicates.
            let asker = Ipv6Addr::from(<[u8; 16]>::try_from(frame.get(22..38)?).ok()?);
            let target = Ipv6Addr::from(<[u8; 16]>::try_from(frame.get(62..78)?).ok()?);
            if asker.is_unspecified() {
                return None;
            }
            let mut icmp = vec![136, 0, 0, 0, 0x60, 0, 0, 0];
            icmp.extend(target.octets());
            icmp.extend([2, 1]);
            icmp.extend(PEER_MAC);
            let sum = transport_checksum(target.into(), asker.into(), ICMP6, &icmp);
            icmp[2..4].copy_from_slice(&sum.to_be_bytes());
            Some(packet(target.into(), asker.into(), ICMP6, 255, 0, &icmp))
        }
        _ => None,
    }
}

fn ethernet(kind: [u8; 2], rest: &[u8]) -> Vec<u8> {
    [&SUBJECT_MAC[..], &PEER_MAC, &kind, rest].concat()
}

fn packet(src: IpAddr, dst: IpAddr, protocol: u8, ttl: u8, ecn: u8, payload: &[u8]) -> Vec<u8> {
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let total = 20 + payload.len() as u16;
            let mut ip = vec![0x45, ecn];
            ip.extend(total.to_be_bytes());
            ip.extend([0, 0, 0x40, 0, ttl, protocol, 0, 0]);
            ip.extend(src.octets());
            ip.extend(dst.octets());
            let sum = checksum(0, &ip);
            ip[10..12].copy_from_slice(&sum.to_be_bytes());
            ip.extend(payload);
            ethernet([0x08, 0x00], &ip)
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let mut ip = vec![0x60, ecn << 4, 0, 0];
            ip.extend((payload.len() as u16).to_be_bytes());
            ip.extend([protocol, ttl]);
            ip.extend(src.octets());
            ip.extend(dst.octets());
            ip.extend(payload);
            ethernet([0x86, 0xdd], &ip)
        }
        _ => unreachable!("both addresses of a link are of one family"),
    }
}

fn transport_checksum(src: IpAddr, dst: IpAddr, protocol: u8, payload: &[u8]) -> u16 {
    let octets = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let mut pseudo = octets(src);
    pseudo.extend(octets(dst));
    let start = sum(0, &pseudo) + u32::from(protocol) + payload.len() as u32;
    checksum(start, payload)
}

fn sum(start: u32, bytes: &[u8]) -> u32 {
    bytes.chunks(2).fold(start, |sum, pair| {
        sum + u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]))
    })
}

/// The internet checksum (RFC 1071) of `bytes` on top of `start`; 0 where one is included and right.
fn checksum(start: u32, bytes: &[u8]) -> u16 {
    let mut sum = sum(start, bytes);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
