//! ICMP errors about TCP segments of ours (RFC 792, RFC 1191, RFC 4443).

use std::net::IpAddr;

use smoltcp::wire::{
    EthernetFrame, EthernetProtocol, Icmpv4DstUnreachable, Icmpv4Message, Icmpv4Packet,
    Icmpv6DstUnreachable, Icmpv6Message, Icmpv6Packet, IpProtocol, Ipv4Packet, Ipv6Packet,
};

use crate::tcp::segment::FourTuple;
use crate::tcp::seq::SeqNum;
use crate::tcp::{TooBig, Unreachable};

/// What an ICMP error says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Icmp {
    /// The destination cannot be reached.
    Unreachable(Unreachable),
    /// The packet is longer than the next link carries.
    TooBig(TooBig),
}

/// The TCP flow that an ICMP error is about, the sequence number it quotes, and what it says.
pub(crate) fn read(frame: &[u8]) -> Option<(FourTuple, SeqNum, Icmp)> {
    let ethernet = EthernetFrame::new_checked(frame).ok()?;
    match ethernet.ethertype() {
        EthernetProtocol::Ipv4 => {
            let ip = Ipv4Packet::new_checked(ethernet.payload()).ok()?;
            if ip.next_header() != IpProtocol::Icmp {
                return None;
            }
            let icmp = Icmpv4Packet::new_checked(ip.payload()).ok()?;
            let (kind, code) = (icmp.msg_type(), icmp.msg_code());
            let unreachable = v4(kind, code)?;
            if !icmp.verify_checksum() {
                return None;
            }
            let (tuple, seq, quoted) = quoted_flow(ip.payload().get(8..)?)?;
            let needed = code == u8::from(Icmpv4DstUnreachable::FragRequired);
            if kind == Icmpv4Message::DstUnreachable && needed {
                // RFC 1191 4: in the lower half of what was the unused word.
                let mtu = u16::from_be_bytes([*ip.payload().get(6)?, *ip.payload().get(7)?]);
                return Some((tuple, seq, Icmp::TooBig(TooBig { mtu, quoted })));
            }
            Some((tuple, seq, Icmp::Unreachable(unreachable)))
        }
        EthernetProtocol::Ipv6 => {
            let ip = Ipv6Packet::new_checked(ethernet.payload()).ok()?;
            if ip.next_header() != IpProtocol::Icmpv6 {
                return None;
            }
            let icmp = Icmpv6Packet::new_checked(ip.payload()).ok()?;
            let kind = icmp.msg_type();
            let unreachable = v6(kind, icmp.msg_code())?;
            if !icmp.verify_checksum(&ip.src_addr(), &ip.dst_addr()) {
                return None;
            }
            let (tuple, seq, quoted) = quoted_flow(ip.payload().get(8..)?)?;
            if kind == Icmpv6Message::PktTooBig {
                let mtu = u16::try_from(icmp.pkt_too_big_mtu()).unwrap_or(u16::MAX);
                return Some((tuple, seq, Icmp::TooBig(TooBig { mtu, quoted })));
            }
            Some((tuple, seq, Icmp::Unreachable(unreachable)))
        }
        _ => None,
    }
}

/// What an error over IPv4 means. RFC 1122 4.2.3.9: protocol and port unreachable are hard
/// errors; net and host unreachable, a failed source route, time exceeded and a parameter
/// problem are soft ones. `None`: no error, or source quench (RFC 6633).
fn v4(kind: Icmpv4Message, code: u8) -> Option<Unreachable> {
    match kind {
        Icmpv4Message::DstUnreachable => Some(match Icmpv4DstUnreachable::from(code) {
            Icmpv4DstUnreachable::ProtoUnreachable => Unreachable::Protocol,
            Icmpv4DstUnreachable::PortUnreachable => Unreachable::Port,
            Icmpv4DstUnreachable::NetUnreachable => Unreachable::Network,
            Icmpv4DstUnreachable::CommProhibited
            | Icmpv4DstUnreachable::HostProhibited
            | Icmpv4DstUnreachable::NetProhibited => Unreachable::Prohibited,
            _ => Unreachable::Host,
        }),
        Icmpv4Message::TimeExceeded | Icmpv4Message::ParamProblem => Some(Unreachable::Host),
        _ => None,
    }
}

/// What an error over IPv6 means (RFC 4443 3). An unknown next header is what an unreachable
/// protocol is over IPv4.
fn v6(kind: Icmpv6Message, code: u8) -> Option<Unreachable> {
    /// RFC 4443 3.1: the source address is filtered; the route is one that rejects.
    const POLICY: [u8; 2] = [5, 6];
    /// RFC 4443 3.4.
    const UNKNOWN_NEXT_HEADER: u8 = 1;
    match kind {
        Icmpv6Message::DstUnreachable if POLICY.contains(&code) => Some(Unreachable::Prohibited),
        Icmpv6Message::DstUnreachable => Some(match Icmpv6DstUnreachable::from(code) {
            Icmpv6DstUnreachable::PortUnreachable => Unreachable::Port,
            Icmpv6DstUnreachable::NoRoute => Unreachable::Network,
            Icmpv6DstUnreachable::AdminProhibit => Unreachable::Prohibited,
            _ => Unreachable::Host,
        }),
        Icmpv6Message::ParamProblem if code == UNKNOWN_NEXT_HEADER => Some(Unreachable::Protocol),
        Icmpv6Message::TimeExceeded | Icmpv6Message::ParamProblem | Icmpv6Message::PktTooBig => {
            Some(Unreachable::Host)
        }
        _ => None,
    }
}

/// The flow, sequence number and length of an IP packet of ours, of which the first eight
/// bytes of the TCP header are there.
pub(super) fn quoted_flow(ip: &[u8]) -> Option<(FourTuple, SeqNum, u16)> {
    let (protocol, local, remote, header_len, len) = match ip.first()? >> 4 {
        4 if ip.len() >= 20 => {
            let packet = Ipv4Packet::new_unchecked(ip);
            let addrs = (IpAddr::V4(packet.src_addr()), IpAddr::V4(packet.dst_addr()));
            let (header_len, len) = (packet.header_len(), packet.total_len());
            (packet.next_header(), addrs.0, addrs.1, usize::from(header_len), len)
        }
        6 if ip.len() >= 40 => {
            let packet = Ipv6Packet::new_unchecked(ip);
            let addrs = (IpAddr::V6(packet.src_addr()), IpAddr::V6(packet.dst_addr()));
            let len = packet.payload_len().saturating_add(40);
            (packet.next_header(), addrs.0, addrs.1, 40, len)
        }
        _ => return None,
    };
    let l4 = ip.get(header_len..header_len + 8).filter(|_| protocol == IpProtocol::Tcp)?;
    let tuple = FourTuple {
        local: local.into(),
        remote: remote.into(),
        local_port: u16::from_be_bytes([l4[0], l4[1]]),
        remote_port: u16::from_be_bytes([l4[2], l4[3]]),
    };
    let seq = SeqNum(u32::from_be_bytes([l4[4], l4[5], l4[6], l4[7]]));
    Some((tuple, seq, len))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame with an error of this type and code over IPv4 or IPv6, in which a TCP segment
    /// of 1,500 bytes with sequence number 7 is quoted.
    fn error(ipv6: bool, kind: u8, code: u8) -> Vec<u8> {
        let mut icmp = vec![kind, code, 0, 0, 0, 0, 5, 100];
        let mut ip = if ipv6 {
            icmp.extend([0x60, 0, 0, 0, (1460u16 >> 8) as u8, 1460u16 as u8, 6, 64]);
            icmp.extend([1; 16].into_iter().chain([2; 16]));
            vec![0x60, 0, 0, 0, 0, 56, 58, 64]
        } else {
            icmp.extend([0x45, 0, (1500u16 >> 8) as u8, 1500u16 as u8, 0, 0, 0x40, 0, 64, 6, 0, 0]);
            icmp.extend([1, 1, 1, 1, 2, 2, 2, 2]);
            vec![0x45, 0, 0, 56, 0, 0, 0, 0, 64, 1, 0, 0, 9, 9, 9, 9, 1, 1, 1, 1]
        };
        icmp.extend([0, 80, 1, 0, 0, 0, 0, 7]);
        let mut frame = vec![0; 12];
        if ipv6 {
            ip.extend([9; 16].into_iter().chain([1; 16]));
            let (from, to) = ([9; 16].into(), [1; 16].into());
            Icmpv6Packet::new_unchecked(&mut icmp[..]).fill_checksum(&from, &to);
            frame.extend([0x86, 0xdd]);
        } else {
            Icmpv4Packet::new_unchecked(&mut icmp[..]).fill_checksum();
            frame.extend([8, 0]);
        }
        frame.extend(ip.into_iter().chain(icmp));
        frame
    }

    #[test]
    fn every_type_and_code_has_its_meaning() {
        use Unreachable::{Host, Network, Port, Prohibited, Protocol};
        let v4 = [
            (3, 0, Network),
            (3, 1, Host),
            (3, 2, Protocol),
            (3, 3, Port),
            (3, 5, Host),
            (3, 9, Prohibited),
            (3, 10, Prohibited),
            (3, 13, Prohibited),
            (3, 200, Host),
            (11, 0, Host),
            (11, 1, Host),
            (12, 0, Host),
        ];
        let v6 = [
            (1, 0, Network),
            (1, 1, Prohibited),
            (1, 3, Host),
            (1, 4, Port),
            (1, 5, Prohibited),
            (1, 6, Prohibited),
            (3, 0, Host),
            (4, 0, Host),
            (4, 1, Protocol),
        ];
        let cases = v4.map(|case| (false, case)).into_iter().chain(v6.map(|case| (true, case)));
        for (ipv6, (kind, code, meaning)) in cases {
            let mut frame = error(ipv6, kind, code);
            let (tuple, seq, said) = read(&frame).expect("an error");
            assert_eq!((tuple.local_port, tuple.remote_port, seq), (80, 256, SeqNum(7)));
            assert_eq!(said, Icmp::Unreachable(meaning), "{kind} {code}");
            let last = frame.len() - 1;
            for cut in 0..frame.len() {
                assert_eq!(read(&frame[..cut]), None);
            }
            frame[last] ^= 1;
            assert_eq!(read(&frame), None, "a wrong checksum");
        }
        for (ipv6, kind, code) in [(false, 3, 4), (true, 2, 0)] {
            let said = read(&error(ipv6, kind, code)).expect("an error").2;
            assert_eq!(said, Icmp::TooBig(TooBig { mtu: 0x564, quoted: 1_500 }));
        }
        // Echoes, redirects and source quench (RFC 6633).
        for (ipv6, kind) in [(false, 0), (false, 4), (false, 5), (false, 8), (true, 128)] {
            assert_eq!(read(&error(ipv6, kind, 0)), None);
        }
    }
}
