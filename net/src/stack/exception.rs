//! The exception path: what is not for us goes to the host's kernel by a TAP beside the port,
//! and what the kernel sends there leaves by the port.
//!
//! The TAP has the port's own MAC address, so the two hosts behind it look like one machine
//! with several addresses. Each shard forwards what its own queue receives to its own queue of
//! the TAP, and back: a flow of the kernel's stays in order.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Packet, Ipv6Packet,
};
use throng_runtime::Instant;

use super::Stack;
use super::fragment::fragment;
use super::receive::BURST;
use crate::device::{Device, offload};
use crate::packet::{ChecksumStatus, Packet, TxMeta};
use crate::tcp::segment::Addr;

/// Frames that may wait for the TAP's ring; beyond it they are dropped and counted.
const MAX_QUEUED: usize = 512;
/// How often a busy shard looks at a quiet TAP, which costs a system call.
const QUIET: Duration = Duration::from_micros(100);

/// A shard's queue of the TAP.
pub(crate) struct Exception {
    device: Box<dyn Device>,
    /// The kernel has our addresses, too: what no socket of ours claims is its.
    pub(super) shared: bool,
    out: VecDeque<Packet>,
    frames: Vec<Packet>,
    due: Instant,
}

impl Exception {
    pub(crate) fn new(device: Box<dyn Device>, shared: bool) -> Exception {
        let (out, frames) = (VecDeque::new(), Vec::new());
        Exception { device, shared, out, frames, due: Instant::ZERO }
    }

    /// Before a sleep. `false`: there is something to do first.
    pub(super) fn arm(&mut self) -> bool {
        // The sleep may be long.
        self.due = Instant::ZERO;
        self.device.interrupt_fd().is_none() || self.device.arm()
    }

    /// What becomes readable when the kernel sends.
    pub(super) fn interrupt_fd(&self) -> Option<BorrowedFd<'_>> {
        self.device.interrupt_fd()
    }
}

/// Whom a frame is for that the fast path does not handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    Ours,
    TheKernels,
    /// Both: a broadcast, or news of a neighbour.
    Both,
}

/// Sorts a frame of the slow path. `mac`: the port's. `shared`: the kernel has our
/// addresses, too.
pub(super) fn whose(
    frame: &[u8],
    mac: EthernetAddress,
    shared: bool,
    local: impl Fn(&Addr) -> bool,
) -> Whose {
    let Ok(ethernet) = EthernetFrame::new_checked(frame) else { return Whose::Ours };
    let unicast = ethernet.dst_addr().is_unicast();
    if unicast && ethernet.dst_addr() != mac {
        // A port that hears everything: for neither.
        return Whose::Ours;
    }
    let both = |dst: &Addr| if shared || is_link_local(dst) { Whose::Both } else { Whose::Ours };
    match ethernet.ethertype() {
        // Requests come as broadcasts; the answers to ours and to the kernel's look alike.
        EthernetProtocol::Arp => Whose::Both,
        _ if !unicast => Whose::Both,
        EthernetProtocol::Ipv4 => {
            let Ok(ip) = Ipv4Packet::new_checked(ethernet.payload()) else { return Whose::Ours };
            let dst = Addr::from(IpAddr::V4(ip.dst_addr()));
            if !local(&dst) {
                return Whose::TheKernels;
            }
            // Of ICMP only an echo request is not about somebody's own packet.
            let request = ip.frag_offset() == 0 && ip.payload().first() == Some(&8);
            if ip.next_header() == IpProtocol::Icmp && !request { both(&dst) } else { Whose::Ours }
        }
        EthernetProtocol::Ipv6 => {
            let Ok(ip) = Ipv6Packet::new_checked(ethernet.payload()) else { return Whose::Ours };
            let icmp = match ip.next_header() {
                IpProtocol::Icmpv6 => ip.payload().first().copied(),
                _ => None,
            };
            let dst = Addr::from(IpAddr::V6(ip.dst_addr()));
            match icmp {
                // RFC 4861 4: what neighbours and routers say.
                Some(133..=137) => Whose::Both,
                _ if !local(&dst) => Whose::TheKernels,
                Some(kind) if kind != 128 => both(&dst),
                _ => Whose::Ours,
            }
        }
        _ => Whose::TheKernels,
    }
}

/// Whether it is a link-local address of IPv6. It follows from the MAC address (RFC 4291
/// appendix A), so ours is the kernel's, too.
fn is_link_local(addr: &Addr) -> bool {
    matches!(addr.0, [0xfe, 0x80, ..])
}

impl Stack {
    /// Whether what no socket of ours claims at `addr`, an address of ours, is the kernel's.
    pub(super) fn shares(&self, addr: &Addr) -> bool {
        self.exception.as_ref().is_some_and(|exception| exception.shared || is_link_local(addr))
    }

    /// Hands a frame of the slow path to the kernel if it is the kernel's; returns it if it is
    /// ours (too).
    pub(super) fn divert(&mut self, packet: Packet) -> Option<Packet> {
        let Some(exception) = &self.exception else { return Some(packet) };
        let local = |addr: &Addr| self.link.routes.is_local(addr);
        match whose(packet.data(), self.link.mac, exception.shared, local) {
            Whose::Ours => Some(packet),
            Whose::TheKernels => {
                self.give_kernel(packet);
                None
            }
            Whose::Both => {
                match packet.try_clone() {
                    Ok(copy) => self.give_kernel(copy),
                    Err(_) => self.link.counters.exception_dropped += 1,
                }
                Some(packet)
            }
        }
    }

    /// Queues a frame for the kernel.
    pub(super) fn give_kernel(&mut self, mut packet: Packet) {
        let Some(exception) = &mut self.exception else { return };
        if exception.out.len() >= MAX_QUEUED {
            self.link.counters.exception_dropped += 1;
            return;
        }
        let mtu = exception.device.capabilities().mtu;
        packet.tx = TxMeta::default();
        if packet.rx.checksum == ChecksumStatus::Good {
            // The port may have vouched for a checksum that nobody has filled in.
            offload::finish_received(packet.data_mut());
            packet.tx = whole(packet.data(), mtu);
        }
        exception.out.push_back(packet);
    }

    /// The same for a packet that passed the parser, which may have been put together of
    /// fragments here: the kernel then gets it in fragments, as it came.
    pub(super) fn give_kernel_unclaimed(&mut self, packet: Packet) {
        let mtu = self.exception.as_ref().map_or(0, |it| it.device.capabilities().mtu);
        let joined_here = packet.rx.checksum == ChecksumStatus::Unknown;
        if joined_here && packet.len() > mtu + offload::ETHERNET_HEADER {
            let ident = self.link.random_ident();
            for piece in fragment(packet.data(), mtu, ident) {
                self.give_kernel(Packet::from(piece));
            }
        } else {
            self.give_kernel(packet);
        }
    }

    /// Both directions of the TAP. Returns whether there was anything.
    pub(super) fn exception_turn(&mut self, now: Instant) -> bool {
        let Some(exception) = &mut self.exception else { return false };
        let mut worked = false;
        if !exception.out.is_empty() {
            let dropped = |device: &dyn Device| device.counters().tx_dropped;
            let before = dropped(&*exception.device);
            let taken = exception.device.transmit(&mut exception.out, now);
            // Of an interface that is down or gone, all.
            let lost = dropped(&*exception.device) - before;
            self.link.counters.exception_out += (taken as u64).saturating_sub(lost);
            self.link.counters.exception_dropped += lost;
            worked = taken > 0;
        }
        if exception.due > now || !self.link.has_room() {
            return worked;
        }
        let received = exception.device.receive(&mut exception.frames, BURST, now);
        if received == 0 {
            exception.due = now + QUIET;
            return worked;
        }
        self.link.counters.exception_in += received as u64;
        for frame in exception.frames.drain(..) {
            self.link.send_frame(frame.data());
        }
        true
    }

    /// When to look at the TAP's ring again, if it had no room for what waits.
    pub(super) fn exception_deadline(&self) -> Option<Instant> {
        let waiting = |exception: &&Exception| !exception.out.is_empty();
        self.exception.as_ref().filter(waiting).map(|_| self.link.now + QUIET)
    }
}

/// What a TCP packet longer than the MTU needs to pass as one: a device has joined segments.
fn whole(frame: &[u8], mtu: usize) -> TxMeta {
    let none = TxMeta::default();
    if frame.len() <= mtu + offload::ETHERNET_HEADER {
        return none;
    }
    const TCP: u8 = 6;
    let Some(at) = offload::Transport::find(frame).filter(|at| at.protocol == TCP) else {
        return none;
    };
    let l4_len = (frame[at.l4 + 12] >> 4) * 4;
    let headers = at.l4 - at.l3 + usize::from(l4_len);
    TxMeta {
        l2_len: at.l3 as u8,
        l3_len: (at.l4 - at.l3) as u8,
        l4_len,
        ipv6: at.ipv6,
        ip_checksum: !at.ipv6,
        tcp_checksum: true,
        udp_checksum: false,
        tso_segment: (mtu - headers.min(mtu - 1)) as u16,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 1]);

    fn frame(dst: EthernetAddress, ethertype: u16, payload: &[u8]) -> Vec<u8> {
        let mut frame = dst.0.to_vec();
        frame.extend([2, 0, 0, 0, 0, 9]);
        frame.extend(ethertype.to_be_bytes());
        frame.extend(payload);
        frame
    }

    fn v4(last: u8, protocol: u8, kind: u8) -> Vec<u8> {
        let mut ip = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, protocol, 0, 0, 10, 0, 0, 9, 10, 0, 0];
        ip.extend([last, kind, 0, 0, 0, 0, 0, 0, 0]);
        frame(MAC, 0x0800, &ip)
    }

    fn v6(last: u8, next: u8, kind: u8) -> Vec<u8> {
        let mut ip = vec![0x60, 0, 0, 0, 0, 8, next, 255];
        ip.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]);
        ip.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
        ip.extend([kind, 0, 0, 0, 0, 0, 0, 0]);
        frame(MAC, 0x86dd, &ip)
    }

    fn link_local(next: u8, kind: u8) -> Vec<u8> {
        let mut frame = v6(2, next, kind);
        frame[38..40].copy_from_slice(&[0xfe, 0x80]);
        frame
    }

    fn sort(frame: &[u8], shared: bool) -> Whose {
        whose(frame, MAC, shared, |addr| match IpAddr::from(*addr) {
            IpAddr::V4(addr) => addr.octets()[3] == 2,
            IpAddr::V6(addr) => addr.octets()[15] == 2,
        })
    }

    #[test]
    fn another_address_is_the_kernels_and_a_broadcast_is_for_both() {
        let cases = [
            (v4(2, 17, 0), Whose::Ours, Whose::Ours),
            (v4(3, 17, 0), Whose::TheKernels, Whose::TheKernels),
            (v4(2, 1, 8), Whose::Ours, Whose::Ours),
            (v4(2, 1, 0), Whose::Ours, Whose::Both),
            (v4(2, 1, 3), Whose::Ours, Whose::Both),
            (v6(3, 6, 0), Whose::TheKernels, Whose::TheKernels),
            (v6(2, 58, 128), Whose::Ours, Whose::Ours),
            (v6(2, 58, 129), Whose::Ours, Whose::Both),
            (v6(2, 58, 136), Whose::Both, Whose::Both),
            (v6(3, 58, 136), Whose::Both, Whose::Both),
            (link_local(58, 128), Whose::Ours, Whose::Ours),
            (link_local(58, 129), Whose::Both, Whose::Both),
            (link_local(58, 1), Whose::Both, Whose::Both),
            (
                frame(EthernetAddress::BROADCAST, 0x0800, &v4(3, 17, 0)[14..]),
                Whose::Both,
                Whose::Both,
            ),
            (frame(MAC, 0x0806, &[0; 28]), Whose::Both, Whose::Both),
            (frame(MAC, 0x88cc, &[0; 28]), Whose::TheKernels, Whose::TheKernels),
            (
                frame(EthernetAddress([2, 9, 9, 9, 9, 9]), 0x0800, &v4(3, 6, 0)[14..]),
                Whose::Ours,
                Whose::Ours,
            ),
        ];
        for (index, (frame, apart, shared)) in cases.iter().enumerate() {
            assert_eq!(sort(frame, false), *apart, "case {index}, addresses of its own");
            assert_eq!(sort(frame, true), *shared, "case {index}, shared addresses");
            for short in 0..frame.len() {
                sort(&frame[..short], true);
            }
        }
    }
}
