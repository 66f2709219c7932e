//! The way out: next hop, headers, a buffer of the device, the transmit queue.

use std::collections::VecDeque;
use std::net::IpAddr;

use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol,
    EthernetRepr, Icmpv6Packet, Icmpv6Repr, IpAddress, IpProtocol, Ipv6Packet, Ipv6Repr, NdiscRepr,
};
use throng_runtime::Instant;

use super::counters::Counters;
use super::emit::{self, Offload};
use super::fragment::fragment;
use super::neighbor::{Lookup, Neighbors, Request};
use super::plain;
use super::random::Random;
use super::route::Routes;
use crate::device::Device;
use crate::packet::{Packet, TxMeta};
use crate::pcap::Tap;
use crate::tcp::segment::{Addr, FourTuple, Header};
use crate::tcp::{Egress, Full, Payload};

/// Payload of a frame that the device cuts into segments: with headers below 65,536 bytes.
const MAX_SEGMENTS: usize = 65_000;
/// Frames that may wait for the device's ring. Beyond it connections keep their data.
const MAX_QUEUED: usize = 512;
/// Beside them, of those that nobody keeps: where the ring is always full, lost requests for a neighbour's
/// address, or answers to its, would cut off all that have much to send.
const MORE: usize = 64;

/// The transmit half of a shard.
pub(crate) struct Link {
    pub(crate) device: Box<dyn Device>,
    /// A capture of what passes through the device.
    pub(crate) tap: Option<Box<Tap>>,
    pub(crate) routes: Routes,
    pub(crate) neighbors: Neighbors,
    pub(crate) queue: VecDeque<Packet>,
    pub(crate) mac: EthernetAddress,
    offload: Offload,
    tso_max: usize,
    mtu: usize,
    /// IP identifications at random: several shards send to the same hosts (RFC 7739 5.3).
    idents: Random,
    /// The time of this turn, for lookups made from within the engine.
    pub(crate) now: Instant,
    pub(crate) counters: Counters,
}

impl Link {
    pub(crate) fn new(
        device: Box<dyn Device>,
        routes: Routes,
        max_neighbors: usize,
        idents: Random,
    ) -> Link {
        let caps = device.capabilities();
        // IP's length field bounds a frame that the device will cut.
        let (mac, mtu, tso_max) = (caps.mac, caps.mtu, caps.tso_max.min(MAX_SEGMENTS));
        let offload = Offload::from(caps);
        Link {
            device,
            tap: None,
            routes,
            neighbors: Neighbors::new(max_neighbors),
            queue: VecDeque::new(),
            mac,
            offload,
            tso_max,
            mtu,
            idents,
            now: Instant::ZERO,
            counters: Counters::default(),
        }
    }

    /// What tells the fragments of one datagram from others'.
    pub(crate) fn random_ident(&mut self) -> u32 {
        self.idents.next() as u32
    }

    /// Whether another frame may be queued.
    pub(crate) fn has_room(&self) -> bool {
        self.queue.len() < MAX_QUEUED
    }

    /// Hands the queue to the device. Returns whether anything went.
    pub(crate) fn flush(&mut self) -> bool {
        self.send_requests();
        if self.queue.is_empty() {
            return false;
        }
        let taken = match &mut self.tap {
            None => self.device.transmit(&mut self.queue, self.now),
            Some(tap) => tap.transmit(&mut *self.device, &mut self.queue, self.now),
        };
        taken > 0
    }

    /// Notes a neighbour's address; what waited for it goes out.
    pub(crate) fn learn(&mut self, addr: Addr, link: EthernetAddress, create: bool) {
        let queue = &mut self.queue;
        self.neighbors.learn(addr, link, create, self.now, |packet| queue.push_back(packet));
    }

    /// Queues a finished frame, copied into the device's memory.
    pub(crate) fn send_frame(&mut self, frame: &[u8]) {
        if self.queue.len() >= MAX_QUEUED + MORE {
            self.counters.tx_queue_full += 1;
            return;
        }
        if let Some(mut packet) = self.device.allocate(frame.len())
            && packet.append(frame)
        {
            self.queue.push_back(packet);
        } else {
            self.counters.tx_no_buffer += 1;
        }
    }

    /// Sends a UDP datagram, in fragments where it is longer than the MTU.
    /// `Err` when the queue or the device has no room now.
    pub(crate) fn send_udp(
        &mut self,
        tuple: &FourTuple,
        payload: &[u8],
        cookie: &mut u32,
    ) -> Result<(), Full> {
        let ip_header = if tuple.local.is_ipv4() { 20 } else { 40 };
        if ip_header + 8 + payload.len() <= self.mtu {
            let hop = self.next_hop(&tuple.remote, cookie)?;
            let headers = emit::udp((self.mac, hop.link()), tuple, payload, self.offload);
            let payload = (std::iter::once(payload), payload.len());
            return self.send(headers.bytes(), headers.tx, payload, hop);
        }
        let datagram = emit::udp_datagram(tuple, payload);
        let hop = self.next_hop(&tuple.remote, cookie)?;
        let mut headers = emit::fragmentable((self.mac, hop.link()), tuple, datagram.len());
        headers.extend_from_slice(&datagram);
        if hop == Hop::Nowhere {
            return Ok(());
        }
        let mut packets = Vec::new();
        let ident = self.random_ident();
        for piece in fragment(&headers, self.mtu, ident) {
            let mut packet = self.device.allocate(piece.len()).ok_or(Full)?;
            if !packet.append(&piece) {
                return Err(Full);
            }
            packets.push(packet);
        }
        packets.into_iter().for_each(|packet| self.queue_or_hold(packet, hop));
        Ok(())
    }

    /// Where a packet for `dst` goes. A packet without a route is counted and reported as
    /// sent: the transport's own timers deal with it, like with any loss.
    fn next_hop(&mut self, dst: &Addr, cookie: &mut u32) -> Result<Hop, Full> {
        if !self.has_room() {
            return Err(Full);
        }
        if let Some(link) = self.neighbors.cached(*cookie, self.now) {
            return Ok(Hop::Link(link));
        }
        let Some(addr) = self.routes.next_hop(dst) else {
            self.counters.tx_no_route += 1;
            return Ok(Hop::Nowhere);
        };
        Ok(match self.neighbors.lookup(addr, cookie, self.now) {
            Lookup::Known(link) => Hop::Link(link),
            Lookup::Wait(slot) => Hop::Wait(slot),
            Lookup::Full => {
                self.counters.tx_no_neighbor += 1;
                Hop::Nowhere
            }
        })
    }

    /// `payload` has so many bytes.
    #[inline(always)]
    fn send<'a>(
        &mut self,
        headers: &[u8],
        tx: TxMeta,
        (payload, payload_len): (impl Iterator<Item = &'a [u8]>, usize),
        hop: Hop,
    ) -> Result<(), Full> {
        if hop == Hop::Nowhere {
            return Ok(());
        }
        let len = headers.len() + payload_len;
        let Some(mut packet) = self.device.allocate(len) else {
            self.counters.tx_no_buffer += 1;
            return Err(Full);
        };
        let mut complete = packet.append(headers);
        for piece in payload {
            complete = complete && packet.append(piece);
        }
        if !complete {
            self.counters.tx_no_buffer += 1;
            return Err(Full);
        }
        packet.tx = tx;
        self.queue_or_hold(packet, hop);
        Ok(())
    }

    /// A segment whatever its headers are.
    #[inline(never)]
    fn send_any(
        &mut self,
        segment: &Header,
        payload: &Payload<'_>,
        gso_size: u16,
        hop: Hop,
    ) -> Result<(), Full> {
        let (link, len) = ((self.mac, hop.link()), payload.len());
        let headers = emit::tcp(link, segment, len, payload.iter(), gso_size, self.offload);
        self.send(headers.bytes(), headers.tx, (payload.iter(), len), hop)
    }

    fn queue_or_hold(&mut self, packet: Packet, hop: Hop) {
        match hop {
            Hop::Link(_) => self.queue.push_back(packet),
            Hop::Wait(slot) => self.neighbors.hold(slot, packet),
            Hop::Nowhere => {}
        }
    }

    fn send_requests(&mut self) {
        for request in self.neighbors.take_requests() {
            match self.request_frame(&request) {
                Some(frame) => self.send_frame(&frame),
                None => self.counters.tx_no_route += 1,
            }
        }
    }

    /// An ARP request (RFC 826) or a neighbour solicitation (RFC 4861 7.2.2).
    fn request_frame(&self, request: &Request) -> Option<Vec<u8>> {
        let source = self.routes.source_for(&request.target)?;
        match (IpAddr::from(source), IpAddr::from(request.target)) {
            (IpAddr::V4(source), IpAddr::V4(target)) => {
                let arp = ArpRepr::EthernetIpv4 {
                    operation: ArpOperation::Request,
                    source_hardware_addr: self.mac,
                    source_protocol_addr: source,
                    target_hardware_addr: EthernetAddress([0; 6]),
                    target_protocol_addr: target,
                };
                let dst = request.link.unwrap_or(EthernetAddress::BROADCAST);
                let mut frame = self.ethernet(dst, EthernetProtocol::Arp, arp.buffer_len());
                arp.emit(&mut ArpPacket::new_unchecked(&mut frame[14..]));
                Some(frame)
            }
            (IpAddr::V6(source), IpAddr::V6(target)) => {
                let (group_link, group) = emit::solicited_node(&request.target);
                let (dst_link, dst) = match request.link {
                    Some(link) => (link, target),
                    None => (group_link, std::net::Ipv6Addr::from(group.0)),
                };
                let solicit = Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit {
                    target_addr: target,
                    lladdr: Some(self.mac.into()),
                });
                let ip = Ipv6Repr {
                    src_addr: source,
                    dst_addr: dst,
                    next_header: IpProtocol::Icmpv6,
                    payload_len: solicit.buffer_len(),
                    // RFC 4861 7.1.1: anything less came through a router.
                    hop_limit: 255,
                };
                let len = ip.buffer_len() + solicit.buffer_len();
                let mut frame = self.ethernet(dst_link, EthernetProtocol::Ipv6, len);
                ip.emit(&mut Ipv6Packet::new_unchecked(&mut frame[14..]));
                solicit.emit(
                    &source,
                    &dst,
                    &mut Icmpv6Packet::new_unchecked(&mut frame[14 + ip.buffer_len()..]),
                    &smoltcp::phy::ChecksumCapabilities::default(),
                );
                Some(frame)
            }
            _ => None,
        }
    }

    fn ethernet(&self, dst: EthernetAddress, ethertype: EthernetProtocol, len: usize) -> Vec<u8> {
        let mut frame = vec![0; 14 + len];
        EthernetRepr { src_addr: self.mac, dst_addr: dst, ethertype }
            .emit(&mut EthernetFrame::new_unchecked(&mut frame));
        frame
    }

    /// Whether `addr` may be a neighbour's: it is on a link of ours, or the gateway.
    pub(crate) fn is_neighbor(&self, addr: &Addr) -> bool {
        let ip = IpAddress::from(IpAddr::from(*addr));
        let gateway = self.routes.gateway(addr.is_ipv4()) == Some(*addr);
        gateway || self.routes.cidrs().iter().any(|cidr| cidr.contains_addr(&ip))
    }
}

/// Where a frame goes next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hop {
    Link(EthernetAddress),
    Wait(u32),
    Nowhere,
}

impl Hop {
    /// The destination to write; zeros until the neighbour has answered.
    fn link(self) -> EthernetAddress {
        match self {
            Hop::Link(link) => link,
            Hop::Wait(_) | Hop::Nowhere => EthernetAddress([0; 6]),
        }
    }
}

impl Egress for Link {
    fn send(
        &mut self,
        segment: &Header,
        payload: &Payload<'_>,
        gso_size: u16,
        cookie: &mut u32,
    ) -> Result<(), Full> {
        let hop = self.next_hop(&segment.tuple.remote, cookie)?;
        let link = (self.mac, hop.link());
        let len = payload.len();
        self.counters.tx_segments += 1;
        if gso_size == 0
            && matches!(hop, Hop::Link(_))
            && let Some(headers) = plain::emit(link, segment, len, payload.iter(), self.offload)
        {
            let total = headers.len + len;
            let Some(packet) = self.device.allocate(total) else {
                self.counters.tx_no_buffer += 1;
                return Err(Full);
            };
            // Written where it waits.
            self.queue.push_back(packet);
            if let Some(packet) = self.queue.back_mut()
                && let Some(frame) = packet.grow(total)
            {
                headers.write(frame);
                payload.copy_to(&mut frame[headers.len..]);
                packet.tx = headers.tx;
                return Ok(());
            }
            // Longer than one buffer.
            self.queue.pop_back();
        }
        self.send_any(segment, payload, gso_size, hop)
    }

    fn max_payload(&self) -> usize {
        self.tso_max
    }
}
