//! What shard 0 does with a frame of the slow path before smoltcp sees it.

use std::net::IpAddr;

use smoltcp::wire::{
    ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, Icmpv4DstUnreachable,
    Icmpv4Message, Icmpv4Packet, Icmpv6DstUnreachable, Icmpv6Message, Icmpv6Packet, Icmpv6Repr,
    IpProtocol, Ipv4Packet, Ipv6Packet, NdiscNeighborFlags, NdiscRepr,
};
use throng_runtime::{Instant, ShardId};

use super::fragment::Reassembled;
use super::parse::{Parsed, parse};
use super::{Message, News, Stack};
use crate::packet::Packet;
use crate::tcp::Unreachable;
use crate::tcp::segment::{Addr, FourTuple};
use crate::tcp::seq::SeqNum;

impl Stack {
    /// A frame for the slow path. On shard 0 only.
    pub(super) fn slow_input(&mut self, packet: Packet, now: Instant) {
        let routes = &self.link.routes;
        let packet = match self.reassembler.input(packet, |addr| routes.is_local(addr), now) {
            Reassembled::NotAFragment(packet) => packet,
            Reassembled::Pending => return,
            Reassembled::Whole(packet) => match self.claim_whole(packet, now) {
                Some(packet) => packet,
                None => return,
            },
        };
        if let Some(news) = self.neighbor_news(packet.data()) {
            self.link.learn(news.addr, news.link, news.create);
            for to in 1..self.shards {
                self.tell(ShardId(to as u16), Message::Neighbor(news));
            }
        }
        if let Some((tuple, seq, kind)) = unreachable(packet.data()) {
            let owner = self.steering.sharding().owner_of(&tuple);
            if owner == self.shard {
                self.engine.on_icmp_unreachable(tuple, seq, kind, now);
            } else {
                self.tell(owner, Message::Unreachable(tuple, seq, kind));
            }
            return;
        }
        if let Some(slow) = &mut self.slow {
            slow.input(packet);
        }
    }

    /// A packet of ours waited in vain for its neighbour: what ICMP calls host unreachable.
    pub(super) fn neighbor_failed(&mut self, packet: &Packet, now: Instant) {
        if let Some((tuple, seq)) = packet.data().get(14..).and_then(quoted_flow) {
            self.engine.on_icmp_unreachable(tuple, seq, Unreachable::Neighbor, now);
        }
    }

    /// A reassembled datagram goes to the shard of its flow if it is TCP or UDP for a
    /// socket; what is not comes back.
    fn claim_whole(&mut self, packet: Packet, now: Instant) -> Option<Packet> {
        let tuple = match parse(&packet, |addr| self.link.routes.is_local(addr)) {
            Ok(Parsed::Tcp(header, _)) => header.tuple,
            Ok(Parsed::Udp(tuple, _)) => tuple,
            Ok(Parsed::Slow) => return Some(packet),
            Err(_) => {
                self.link.counters.rx_malformed += 1;
                return None;
            }
        };
        let owner = self.steering.sharding().owner_of(&tuple);
        if owner == self.shard {
            self.process(&mut vec![packet], false, now);
        } else {
            self.tell(owner, Message::Flow(packet));
        }
        None
    }

    /// A neighbour's address that this frame tells, and whether that neighbour spoke to us
    /// (RFC 826 "Packet Reception", RFC 4861 7.2.3 and 7.2.5).
    fn neighbor_news(&self, frame: &[u8]) -> Option<News> {
        let ethernet = EthernetFrame::new_checked(frame).ok()?;
        let (addr, link, create) = match ethernet.ethertype() {
            EthernetProtocol::Arp => {
                let arp = ArpPacket::new_checked(ethernet.payload()).ok()?;
                let ArpRepr::EthernetIpv4 {
                    source_hardware_addr,
                    source_protocol_addr,
                    target_protocol_addr,
                    ..
                } = ArpRepr::parse(&arp).ok()?
                else {
                    return None;
                };
                let target = Addr::from(IpAddr::V4(target_protocol_addr));
                let source = Addr::from(IpAddr::V4(source_protocol_addr));
                (source, source_hardware_addr, self.link.routes.is_local(&target))
            }
            EthernetProtocol::Ipv6 => {
                let ip = Ipv6Packet::new_checked(ethernet.payload()).ok()?;
                // RFC 4861 7.1: a hop limit below 255 came through a router.
                if ip.next_header() != IpProtocol::Icmpv6 || ip.hop_limit() != 255 {
                    return None;
                }
                let icmp = Icmpv6Packet::new_checked(ip.payload()).ok()?;
                let caps = smoltcp::phy::ChecksumCapabilities::default();
                let repr = Icmpv6Repr::parse(&ip.src_addr(), &ip.dst_addr(), &icmp, &caps).ok()?;
                let (addr, lladdr, create) = match repr {
                    // RFC 4861 7.2.5: without either flag it replaces nothing.
                    Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert { flags, target_addr, lladdr })
                        if flags.intersects(
                            NdiscNeighborFlags::OVERRIDE | NdiscNeighborFlags::SOLICITED,
                        ) =>
                    {
                        (target_addr, lladdr, false)
                    }
                    Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit { target_addr, lladdr }) => {
                        let target = Addr::from(IpAddr::V6(target_addr));
                        (ip.src_addr(), lladdr, self.link.routes.is_local(&target))
                    }
                    _ => return None,
                };
                if addr.to_ipv4_mapped().is_some() {
                    return None;
                }
                let bytes: [u8; 6] = lladdr?.as_bytes().try_into().ok()?;
                (Addr::from(IpAddr::V6(addr)), EthernetAddress(bytes), create)
            }
            _ => return None,
        };
        // An address that is on no link of ours, or our own, is not a neighbour's.
        let acceptable = self.link.is_neighbor(&addr) && !self.link.routes.is_local(&addr);
        acceptable.then_some(News { addr, link, create })
    }
}

/// The TCP flow that an ICMP error is about, the sequence number it quotes, and what it says.
fn unreachable(frame: &[u8]) -> Option<(FourTuple, SeqNum, Unreachable)> {
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
            let kind = match Icmpv4DstUnreachable::from(icmp.msg_code()) {
                // RFC 1122 4.2.3.9: protocol and port unreachable are hard errors.
                Icmpv4DstUnreachable::ProtoUnreachable => Unreachable::Protocol,
                Icmpv4DstUnreachable::PortUnreachable => Unreachable::Port,
                Icmpv4DstUnreachable::FragRequired => return None,
                Icmpv4DstUnreachable::NetUnreachable => Unreachable::Network,
                Icmpv4DstUnreachable::CommProhibited
                | Icmpv4DstUnreachable::HostProhibited
                | Icmpv4DstUnreachable::NetProhibited => Unreachable::Prohibited,
                _ => Unreachable::Host,
            };
            let (tuple, seq) = quoted_flow(icmp.data())?;
            Some((tuple, seq, kind))
        }
        EthernetProtocol::Ipv6 => {
            let ip = Ipv6Packet::new_checked(ethernet.payload()).ok()?;
            if ip.next_header() != IpProtocol::Icmpv6 {
                return None;
            }
            let icmp = Icmpv6Packet::new_checked(ip.payload()).ok()?;
            if icmp.msg_type() != Icmpv6Message::DstUnreachable
                || !icmp.verify_checksum(&ip.src_addr(), &ip.dst_addr())
            {
                return None;
            }
            let kind = match Icmpv6DstUnreachable::from(icmp.msg_code()) {
                Icmpv6DstUnreachable::PortUnreachable => Unreachable::Port,
                Icmpv6DstUnreachable::NoRoute => Unreachable::Network,
                Icmpv6DstUnreachable::AdminProhibit => Unreachable::Prohibited,
                _ => Unreachable::Host,
            };
            let (tuple, seq) = quoted_flow(ip.payload().get(8..)?)?;
            Some((tuple, seq, kind))
        }
        _ => None,
    }
}

/// The flow and sequence number of an IP packet of ours, of which the first eight bytes of
/// the TCP header are there.
fn quoted_flow(ip: &[u8]) -> Option<(FourTuple, SeqNum)> {
    let (protocol, local, remote, header_len) = match ip.first()? >> 4 {
        4 if ip.len() >= 20 => {
            let packet = Ipv4Packet::new_unchecked(ip);
            let addrs = (IpAddr::V4(packet.src_addr()), IpAddr::V4(packet.dst_addr()));
            (packet.next_header(), addrs.0, addrs.1, usize::from(packet.header_len()))
        }
        6 if ip.len() >= 40 => {
            let packet = Ipv6Packet::new_unchecked(ip);
            let addrs = (IpAddr::V6(packet.src_addr()), IpAddr::V6(packet.dst_addr()));
            (packet.next_header(), addrs.0, addrs.1, 40)
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
    Some((tuple, SeqNum(u32::from_be_bytes([l4[4], l4[5], l4[6], l4[7]]))))
}
