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
            if icmp.msg_type() != Icmpv4Message::DstUnreachable || !icmp.verify_checksum() {
                return None;
            }
            let (tuple, seq, quoted) = quoted_flow(icmp.data())?;
            let kind = match Icmpv4DstUnreachable::from(icmp.msg_code()) {
                Icmpv4DstUnreachable::FragRequired => {
                    // RFC 1191 4: in the lower half of what was the unused word.
                    let mtu = u16::from_be_bytes([*ip.payload().get(6)?, *ip.payload().get(7)?]);
                    return Some((tuple, seq, Icmp::TooBig(TooBig { mtu, quoted })));
                }
                // RFC 1122 4.2.3.9: protocol and port unreachable are hard errors.
                Icmpv4DstUnreachable::ProtoUnreachable => Unreachable::Protocol,
                Icmpv4DstUnreachable::PortUnreachable => Unreachable::Port,
                Icmpv4DstUnreachable::NetUnreachable => Unreachable::Network,
                Icmpv4DstUnreachable::CommProhibited
                | Icmpv4DstUnreachable::HostProhibited
                | Icmpv4DstUnreachable::NetProhibited => Unreachable::Prohibited,
                _ => Unreachable::Host,
            };
            Some((tuple, seq, Icmp::Unreachable(kind)))
        }
        EthernetProtocol::Ipv6 => {
            let ip = Ipv6Packet::new_checked(ethernet.payload()).ok()?;
            if ip.next_header() != IpProtocol::Icmpv6 {
                return None;
            }
            let icmp = Icmpv6Packet::new_checked(ip.payload()).ok()?;
            let kind = icmp.msg_type();
            if !matches!(kind, Icmpv6Message::DstUnreachable | Icmpv6Message::PktTooBig)
                || !icmp.verify_checksum(&ip.src_addr(), &ip.dst_addr())
            {
                return None;
            }
            let (tuple, seq, quoted) = quoted_flow(ip.payload().get(8..)?)?;
            if kind == Icmpv6Message::PktTooBig {
                let mtu = u16::try_from(icmp.pkt_too_big_mtu()).unwrap_or(u16::MAX);
                return Some((tuple, seq, Icmp::TooBig(TooBig { mtu, quoted })));
            }
            let kind = match Icmpv6DstUnreachable::from(icmp.msg_code()) {
                Icmpv6DstUnreachable::PortUnreachable => Unreachable::Port,
                Icmpv6DstUnreachable::NoRoute => Unreachable::Network,
                Icmpv6DstUnreachable::AdminProhibit => Unreachable::Prohibited,
                _ => Unreachable::Host,
            };
            Some((tuple, seq, Icmp::Unreachable(kind)))
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
