//! What shard 0 does with a frame of the slow path before smoltcp sees it.

use std::net::IpAddr;

use smoltcp::wire::{
    ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, Icmpv6Packet, Icmpv6Repr,
    IpProtocol, Ipv6Packet, NdiscNeighborFlags, NdiscRepr,
};
use throng_runtime::{Instant, ShardId};

use super::fragment::Reassembled;
use super::icmp::{self, Icmp};
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
        if let Some((tuple, seq, said)) = icmp::read(packet.data()) {
            let owner = self.steering.sharding().owner_of(&tuple);
            if owner == self.shard {
                self.on_icmp(tuple, seq, said, now);
            } else {
                self.tell(owner, Message::Icmp(tuple, seq, said));
            }
            return;
        }
        if let Some(slow) = &mut self.slow {
            slow.input(packet);
        }
    }

    /// What an ICMP error says of a flow of this shard's.
    pub(super) fn on_icmp(&mut self, tuple: FourTuple, seq: SeqNum, said: Icmp, now: Instant) {
        match said {
            Icmp::Unreachable(kind) => {
                self.engine.on_icmp_unreachable(tuple, seq, kind, now);
            }
            Icmp::TooBig(said) => self.engine.on_icmp_too_big(tuple, seq, said, now),
        }
    }

    /// A packet of ours waited in vain for its neighbour: what ICMP calls host unreachable.
    pub(super) fn neighbor_failed(&mut self, packet: &Packet, now: Instant) {
        if let Some((tuple, seq, _)) = packet.data().get(14..).and_then(icmp::quoted_flow) {
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
