//! From a frame to a [`Header`]: every field read once.
//!
//! What comes out as [`Parsed::Tcp`] or [`Parsed::Udp`] has passed every check a packet can
//! be put to by itself; [`Parsed::Slow`] is for the slow path; a [`Malformed`] is counted.

use std::net::IpAddr;
use std::ops::Range;

use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Packet, Ipv6Packet,
    TcpOption, TcpPacket, UdpPacket,
};

use super::checksum::{Sum, checksum};
use crate::packet::{ChecksumStatus, Packet};
use crate::tcp::segment::{Addr, Flags, FourTuple, Header, Options, SackBlock};
use crate::tcp::seq::SeqNum;

/// A frame, looked at.
pub(crate) enum Parsed {
    /// A TCP segment; the range is its payload within the frame.
    Tcp(Header, Range<usize>),
    /// A UDP datagram; the range is its payload within the frame.
    Udp(FourTuple, Range<usize>),
    /// Something the fast path does not handle.
    Slow,
}

/// Why a frame was thrown away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Malformed {
    /// A header is too short or contradicts the frame's length.
    Header,
    /// A checksum is wrong.
    Checksum,
    /// A source address that no host can have.
    Source,
}

/// Reads `packet`. `local` says whether an address is one of ours.
pub(crate) fn parse(packet: &Packet, local: impl Fn(&Addr) -> bool) -> Result<Parsed, Malformed> {
    let frame = packet.data();
    let ethernet = EthernetFrame::new_checked(frame).map_err(|_| Malformed::Header)?;
    let l3 = EthernetFrame::<&[u8]>::header_len();
    match ethernet.ethertype() {
        EthernetProtocol::Ipv4 => parse_ipv4(packet, frame, l3, ethernet.dst_addr(), local),
        EthernetProtocol::Ipv6 => parse_ipv6(packet, frame, l3, ethernet.dst_addr(), local),
        _ => Ok(Parsed::Slow),
    }
}

fn parse_ipv4(
    packet: &Packet,
    frame: &[u8],
    l3: usize,
    link_dst: EthernetAddress,
    local: impl Fn(&Addr) -> bool,
) -> Result<Parsed, Malformed> {
    let ip = Ipv4Packet::new_checked(&frame[l3..]).map_err(|_| Malformed::Header)?;
    if ip.version() != 4 || ip.header_len() < 20 {
        return Err(Malformed::Header);
    }
    let header_len = usize::from(ip.header_len());
    if packet.rx.checksum != ChecksumStatus::Good && checksum(&frame[l3..l3 + header_len]) != [0, 0]
    {
        return Err(Malformed::Checksum);
    }
    let dst = Addr::from(IpAddr::V4(ip.dst_addr()));
    let l4 = l3 + header_len..l3 + usize::from(ip.total_len());
    // Broadcasts, fragments and foreign addresses are the slow path's.
    if ip.more_frags() || ip.frag_offset() != 0 {
        return Ok(Parsed::Slow);
    }
    if !link_dst.is_unicast() || !local(&dst) {
        // What a DHCP server sends comes this way, and nobody looks at its checksum later.
        if ip.next_header() == IpProtocol::Udp {
            parse_udp(packet, l4, Addr::from(IpAddr::V4(ip.src_addr())), dst)?;
        }
        return Ok(Parsed::Slow);
    }
    // RFC 1122 3.2.1.3: an address that names no single host is not a source.
    let src = ip.src_addr();
    if src.is_unspecified() || src.is_multicast() || src.is_broadcast() || src.is_loopback() {
        return Err(Malformed::Source);
    }
    let src = Addr::from(IpAddr::V4(src));
    if local(&src) {
        return Err(Malformed::Source);
    }
    match ip.next_header() {
        IpProtocol::Tcp => parse_tcp(packet, l4, src, dst, ip.ecn()),
        IpProtocol::Udp => parse_udp(packet, l4, src, dst),
        _ => Ok(Parsed::Slow),
    }
}

fn parse_ipv6(
    packet: &Packet,
    frame: &[u8],
    l3: usize,
    link_dst: EthernetAddress,
    local: impl Fn(&Addr) -> bool,
) -> Result<Parsed, Malformed> {
    let ip = Ipv6Packet::new_checked(&frame[l3..]).map_err(|_| Malformed::Header)?;
    if ip.version() != 6 {
        return Err(Malformed::Header);
    }
    // RFC 4038 4.2: mapped addresses do not belong on a wire; to us they would look like IPv4.
    if ip.src_addr().to_ipv4_mapped().is_some() || ip.dst_addr().to_ipv4_mapped().is_some() {
        return Err(Malformed::Source);
    }
    let dst = Addr::from(IpAddr::V6(ip.dst_addr()));
    if !link_dst.is_unicast() || !local(&dst) {
        return Ok(Parsed::Slow);
    }
    // RFC 4291 2.5.3, 2.7: neither loopback nor multicast is a source on a wire.
    let src = ip.src_addr();
    if src.is_unspecified() || src.is_multicast() || src.is_loopback() {
        return Err(Malformed::Source);
    }
    let l4 = l3 + ip.header_len()..l3 + ip.total_len();
    let src = Addr::from(IpAddr::V6(src));
    if local(&src) {
        return Err(Malformed::Source);
    }
    match ip.next_header() {
        IpProtocol::Tcp => parse_tcp(packet, l4, src, dst, ip.traffic_class() & 3),
        IpProtocol::Udp => parse_udp(packet, l4, src, dst),
        _ => Ok(Parsed::Slow),
    }
}

fn verify_l4(
    packet: &Packet,
    l4: &Range<usize>,
    src: &Addr,
    dst: &Addr,
    protocol: u8,
) -> Result<(), Malformed> {
    match packet.rx.checksum {
        ChecksumStatus::Good => Ok(()),
        ChecksumStatus::Bad => Err(Malformed::Checksum),
        ChecksumStatus::Unknown => {
            let mut sum = Sum::pseudo_header(src, dst, protocol, l4.len());
            sum.add(&packet.data()[l4.clone()]);
            if sum.is_good() { Ok(()) } else { Err(Malformed::Checksum) }
        }
    }
}

/// Reads a TCP segment at `l4` of the frame, from `src` to `dst`.
pub(crate) fn parse_tcp(
    packet: &Packet,
    l4: Range<usize>,
    src: Addr,
    dst: Addr,
    ecn: u8,
) -> Result<Parsed, Malformed> {
    let frame = packet.data();
    let tcp = TcpPacket::new_checked(&frame[l4.clone()]).map_err(|_| Malformed::Header)?;
    if tcp.header_len() < 20 {
        return Err(Malformed::Header);
    }
    verify_l4(packet, &l4, &src, &dst, 6)?;
    let header_len = usize::from(tcp.header_len());
    let header = Header {
        tuple: FourTuple {
            local: dst,
            remote: src,
            local_port: tcp.dst_port(),
            remote_port: tcp.src_port(),
        },
        seq: SeqNum(tcp.seq_number().0 as u32),
        ack: SeqNum(tcp.ack_number().0 as u32),
        flags: Flags(frame[l4.start + 13]),
        window: tcp.window_len(),
        urgent: tcp.urgent_at(),
        ecn,
        options: parse_options(tcp.options()),
    };
    Ok(Parsed::Tcp(header, l4.start + header_len..l4.end))
}

/// Reads the options; an option that does not parse ends them (RFC 9293 3.1, MUST-7: a
/// segment with a bad option is not an error).
fn parse_options(mut bytes: &[u8]) -> Options {
    let mut options = Options::default();
    // The common case by far: NOP NOP timestamps, nothing else (RFC 7323 appendix A).
    if let [1, 1, 8, 10, a, b, c, d, e, f, g, h] = *bytes {
        let value = u32::from_be_bytes([a, b, c, d]);
        let echo = u32::from_be_bytes([e, f, g, h]);
        options.timestamps = Some((value, echo));
        return options;
    }
    while !bytes.is_empty() {
        // smoltcp keeps three SACK blocks of the possible four, so they are read here.
        if bytes[0] == 5 {
            let Some(block) = bytes.get(..usize::from(*bytes.get(1).unwrap_or(&0))) else { break };
            if block.len() < 10 || !(block.len() - 2).is_multiple_of(8) {
                break;
            }
            for (slot, edges) in options.sack.iter_mut().zip(block[2..].chunks_exact(8)) {
                *slot =
                    Some(SackBlock { start: read_seq(&edges[..4]), end: read_seq(&edges[4..]) });
            }
            bytes = &bytes[block.len()..];
            continue;
        }
        let Ok((rest, option)) = TcpOption::parse(bytes) else { break };
        match option {
            TcpOption::EndOfList => break,
            TcpOption::MaxSegmentSize(mss) => options.mss = Some(mss),
            // RFC 7323 2.3: a shift above 14 counts as 14.
            TcpOption::WindowScale(shift) => options.window_scale = Some(shift.min(14)),
            TcpOption::SackPermitted => options.sack_permitted = true,
            TcpOption::TimeStamp { tsval, tsecr } => options.timestamps = Some((tsval, tsecr)),
            _ => {}
        }
        bytes = rest;
    }
    options
}

fn read_seq(bytes: &[u8]) -> SeqNum {
    SeqNum(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

/// Reads a UDP datagram at `l4` of the frame, from `src` to `dst`.
pub(crate) fn parse_udp(
    packet: &Packet,
    l4: Range<usize>,
    src: Addr,
    dst: Addr,
) -> Result<Parsed, Malformed> {
    let frame = packet.data();
    let udp = UdpPacket::new_checked(&frame[l4.clone()]).map_err(|_| Malformed::Header)?;
    let len = usize::from(udp.len());
    let l4 = l4.start..l4.start + len;
    // RFC 768: a checksum of zero means none was computed; RFC 8200 8.1 forbids that for IPv6.
    if udp.checksum() != 0 {
        verify_l4(packet, &l4, &src, &dst, 17)?;
    } else if !dst.is_ipv4() {
        return Err(Malformed::Checksum);
    }
    let tuple = FourTuple {
        local: dst,
        remote: src,
        local_port: udp.dst_port(),
        remote_port: udp.src_port(),
    };
    Ok(Parsed::Udp(tuple, l4.start + 8..l4.end))
}
