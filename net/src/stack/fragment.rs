//! IP fragments: put together on the way in, cut on the way out (RFC 791 3.2, RFC 8200 4.5).
//!
//! Both families here, because smoltcp reassembles no IPv6; the slow path's `Interface`
//! sees whole datagrams only. Bounded in datagrams, bytes and time; a fragment that
//! overlaps another throws its datagram away (RFC 5722 3, and RFC 1858 for IPv4).

use std::time::Duration;

use smoltcp::wire::{EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Packet, Ipv6Packet};
use throng_runtime::Instant;

use super::checksum::checksum;
use crate::packet::Packet;
use crate::tcp::segment::Addr;

const ETHERNET: usize = 14;
/// How long a datagram may take to arrive whole (RFC 8200 4.5 says 60 s, Linux 30 s).
const TIMEOUT: Duration = Duration::from_secs(30);
/// Datagrams that may be under way at once.
const MAX_DATAGRAMS: usize = 64;
/// Largest value of IP's length field.
const MAX_LENGTH: usize = 65_535;

#[derive(Clone, Copy, PartialEq, Eq)]
struct Key {
    src: Addr,
    dst: Addr,
    ident: u32,
    protocol: u8,
}

/// One fragment's place in its datagram.
struct Fragment {
    key: Key,
    /// Offset of the first byte in the datagram's payload.
    offset: usize,
    more: bool,
    /// Where the fragment's payload lies in its frame.
    start: usize,
    end: usize,
}

struct Datagram {
    key: Key,
    deadline: Instant,
    /// The headers up to the payload, of the fragment at offset zero.
    headers: Vec<u8>,
    payload: Vec<u8>,
    /// Received ranges, in order, not touching.
    ranges: Vec<(usize, usize)>,
    total: Option<usize>,
}

/// What came of a frame.
pub(crate) enum Reassembled {
    /// It is no fragment: here it is again.
    NotAFragment(Packet),
    /// Kept, or thrown away (counted).
    Pending,
    /// The datagram is whole, in one frame that may be longer than any on the wire.
    Whole(Packet),
}

/// Datagrams that are not whole yet.
#[derive(Default)]
pub(crate) struct Reassembler {
    datagrams: Vec<Datagram>,
    /// Datagrams given up: late, overlapping, too long or too many.
    pub(crate) dropped: u64,
}

impl Reassembler {
    /// Takes a frame.
    ///
    /// `local` says whether an address is ours: fragments for others are not kept.
    pub(crate) fn input(
        &mut self,
        packet: Packet,
        local: impl Fn(&Addr) -> bool,
        now: Instant,
    ) -> Reassembled {
        let Some(fragment) = locate(packet.data()) else {
            return Reassembled::NotAFragment(packet);
        };
        if !local(&fragment.key.dst) {
            return Reassembled::Pending;
        }
        self.expire(now);
        let position = match self.datagrams.iter().position(|d| d.key == fragment.key) {
            Some(position) => position,
            None => {
                if self.datagrams.len() == MAX_DATAGRAMS {
                    self.datagrams.remove(0);
                    self.dropped += 1;
                }
                self.datagrams.push(Datagram {
                    key: fragment.key,
                    deadline: now + TIMEOUT,
                    headers: Vec::new(),
                    payload: Vec::new(),
                    ranges: Vec::new(),
                    total: None,
                });
                self.datagrams.len() - 1
            }
        };
        match self.datagrams[position].add(&fragment, packet.data()) {
            Ok(false) => Reassembled::Pending,
            Ok(true) => {
                let datagram = self.datagrams.remove(position);
                if datagram.is_too_long() {
                    self.dropped += 1;
                    return Reassembled::Pending;
                }
                let mut whole = Packet::from(datagram.into_frame());
                whole.rx = packet.rx;
                // The device judged the pieces, not the whole.
                whole.rx.checksum = crate::packet::ChecksumStatus::Unknown;
                Reassembled::Whole(whole)
            }
            Err(()) => {
                self.datagrams.remove(position);
                self.dropped += 1;
                Reassembled::Pending
            }
        }
    }

    fn expire(&mut self, now: Instant) {
        let before = self.datagrams.len();
        self.datagrams.retain(|datagram| now < datagram.deadline);
        self.dropped += (before - self.datagrams.len()) as u64;
    }
}

impl Datagram {
    /// Adds a fragment. Returns whether the datagram is whole; `Err` where it has to go.
    fn add(&mut self, fragment: &Fragment, frame: &[u8]) -> Result<bool, ()> {
        let bytes = &frame[fragment.start..fragment.end];
        let end = fragment.offset + bytes.len();
        // IPv4's length counts the header, IPv6's does not.
        let header = if fragment.key.src.is_ipv4() { fragment.start - ETHERNET } else { 0 };
        // RFC 8200 4.5: every fragment but the last is a multiple of eight bytes long.
        if header + end > MAX_LENGTH
            || bytes.is_empty()
            || (fragment.more && !bytes.len().is_multiple_of(8))
        {
            return Err(());
        }
        if self.total.is_some_and(|total| end > total || (!fragment.more && end != total)) {
            return Err(());
        }
        if !fragment.more {
            if self.ranges.last().is_some_and(|last| last.1 > end) {
                return Err(());
            }
            self.total = Some(end);
        }
        let at = self.ranges.partition_point(|range| range.0 < fragment.offset);
        let duplicate = self.ranges.iter().any(|r| r.0 <= fragment.offset && end <= r.1);
        if !duplicate {
            let overlaps_left = at > 0 && self.ranges[at - 1].1 > fragment.offset;
            let overlaps_right = self.ranges.get(at).is_some_and(|right| right.0 < end);
            if overlaps_left || overlaps_right {
                return Err(());
            }
            self.ranges.insert(at, (fragment.offset, end));
            self.merge();
            if self.payload.len() < end {
                self.payload.resize(end, 0);
            }
            self.payload[fragment.offset..end].copy_from_slice(bytes);
        }
        if fragment.offset == 0 {
            self.headers = frame[..fragment.start].to_vec();
        }
        Ok(self.ranges.len() == 1 && self.ranges[0].0 == 0 && Some(self.ranges[0].1) == self.total)
    }

    fn merge(&mut self) {
        let mut merged: Vec<(usize, usize)> = Vec::with_capacity(self.ranges.len());
        for &(start, end) in &self.ranges {
            match merged.last_mut() {
                Some(last) if last.1 == start => last.1 = end,
                _ => merged.push((start, end)),
            }
        }
        self.ranges = merged;
    }

    /// The first fragment's header may be longer than those that were checked on the way.
    fn is_too_long(&self) -> bool {
        self.key.src.is_ipv4() && self.headers.len() - ETHERNET + self.payload.len() > MAX_LENGTH
    }

    /// The whole datagram as a frame without any trace of fragmentation.
    fn into_frame(mut self) -> Vec<u8> {
        let mut frame = std::mem::take(&mut self.headers);
        if self.key.src.is_ipv4() {
            let header_len = frame.len() - ETHERNET;
            let total = (header_len + self.payload.len()) as u16;
            let ip = &mut frame[ETHERNET..];
            ip[2..4].copy_from_slice(&total.to_be_bytes());
            ip[6..8].copy_from_slice(&[0, 0]);
            ip[10..12].copy_from_slice(&[0, 0]);
            let sum = checksum(ip);
            ip[10..12].copy_from_slice(&sum);
        } else {
            frame.truncate(ETHERNET + 40);
            frame[ETHERNET + 4..ETHERNET + 6]
                .copy_from_slice(&(self.payload.len() as u16).to_be_bytes());
            frame[ETHERNET + 6] = self.key.protocol;
        }
        frame.extend_from_slice(&self.payload);
        frame
    }
}

/// Whether `frame` is a fragment, and which.
fn locate(frame: &[u8]) -> Option<Fragment> {
    let ethernet = EthernetFrame::new_checked(frame).ok()?;
    match ethernet.ethertype() {
        EthernetProtocol::Ipv4 => {
            let ip = Ipv4Packet::new_checked(ethernet.payload()).ok()?;
            if !ip.more_frags() && ip.frag_offset() == 0 {
                return None;
            }
            let start = ETHERNET + usize::from(ip.header_len());
            Some(Fragment {
                key: Key {
                    src: Addr::from(std::net::IpAddr::V4(ip.src_addr())),
                    dst: Addr::from(std::net::IpAddr::V4(ip.dst_addr())),
                    ident: u32::from(ip.ident()),
                    protocol: ip.next_header().into(),
                },
                offset: usize::from(ip.frag_offset()),
                more: ip.more_frags(),
                start,
                end: ETHERNET + usize::from(ip.total_len()),
            })
        }
        EthernetProtocol::Ipv6 => {
            let ip = Ipv6Packet::new_checked(ethernet.payload()).ok()?;
            // Only a fragment header right behind the fixed one: what hosts send in practice.
            if ip.next_header() != IpProtocol::Ipv6Frag {
                return None;
            }
            let header = ip.payload().get(..8)?;
            let offset_flags = u16::from_be_bytes([header[2], header[3]]);
            Some(Fragment {
                key: Key {
                    src: Addr::from(std::net::IpAddr::V6(ip.src_addr())),
                    dst: Addr::from(std::net::IpAddr::V6(ip.dst_addr())),
                    ident: u32::from_be_bytes([header[4], header[5], header[6], header[7]]),
                    protocol: header[0],
                },
                offset: usize::from(offset_flags & !7),
                more: offset_flags & 1 == 1,
                start: ETHERNET + 40 + 8,
                end: ETHERNET + ip.total_len(),
            })
        }
        _ => None,
    }
}

/// Cuts `frame`, whose IP packet is longer than `mtu`, into frames that fit. `ident` tells
/// this datagram's fragments from others' between the same hosts.
pub(crate) fn fragment(frame: &[u8], mtu: usize, ident: u32) -> Vec<Vec<u8>> {
    let ipv6 = frame[12..14] == [0x86, 0xdd];
    let header_len = if ipv6 { 40 } else { usize::from(frame[ETHERNET] & 0xf) * 4 };
    let payload = &frame[ETHERNET + header_len..];
    let overhead = header_len + if ipv6 { 8 } else { 0 };
    let room = (mtu - overhead) & !7;
    let count = payload.len().div_ceil(room);
    let mut frames = Vec::with_capacity(count);
    for (i, piece) in payload.chunks(room).enumerate() {
        let more = i + 1 < count;
        let offset = i * room;
        let mut out = Vec::with_capacity(ETHERNET + overhead + piece.len());
        out.extend_from_slice(&frame[..ETHERNET + header_len]);
        let ip = &mut out[ETHERNET..];
        if ipv6 {
            let next = ip[6];
            ip[4..6].copy_from_slice(&((8 + piece.len()) as u16).to_be_bytes());
            ip[6] = IpProtocol::Ipv6Frag.into();
            let offset_flags = offset as u16 | u16::from(more);
            out.extend_from_slice(&[next, 0]);
            out.extend_from_slice(&offset_flags.to_be_bytes());
            out.extend_from_slice(&ident.to_be_bytes());
        } else {
            ip[2..4].copy_from_slice(&((header_len + piece.len()) as u16).to_be_bytes());
            ip[4..6].copy_from_slice(&(ident as u16).to_be_bytes());
            let offset_flags = (offset / 8) as u16 | if more { 0x2000 } else { 0 };
            ip[6..8].copy_from_slice(&offset_flags.to_be_bytes());
            ip[10..12].copy_from_slice(&[0, 0]);
            let sum = checksum(ip);
            ip[10..12].copy_from_slice(&sum);
        }
        out.extend_from_slice(piece);
        frames.push(out);
    }
    frames
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(ipv6: bool, payload: usize) -> Vec<u8> {
        let mut frame = vec![2u8; 12];
        let body: Vec<u8> = (0..payload).map(|i| (i % 251) as u8).collect();
        if ipv6 {
            frame.extend_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend_from_slice(&(payload as u16).to_be_bytes());
            frame.extend_from_slice(&[58, 64]);
            frame.extend_from_slice(&[0xfd; 32]);
        } else {
            frame.extend_from_slice(&[0x08, 0, 0x45, 0]);
            frame.extend_from_slice(&((20 + payload) as u16).to_be_bytes());
            frame.extend_from_slice(&[0, 7, 0, 0, 64, 1, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
            let sum = checksum(&frame[14..34]);
            frame[24..26].copy_from_slice(&sum);
        }
        frame.extend_from_slice(&body);
        frame
    }

    fn reassemble(frames: impl IntoIterator<Item = Vec<u8>>) -> Option<Vec<u8>> {
        let mut reassembler = Reassembler::default();
        let mut whole = None;
        for frame in frames {
            if let Reassembled::Whole(packet) =
                reassembler.input(Packet::from(frame), |_| true, Instant::ZERO)
            {
                whole = Some(packet.data().to_vec());
            }
        }
        whole
    }

    #[test]
    fn cut_and_put_together_is_the_same_in_any_order() {
        for ipv6 in [false, true] {
            for len in [1481, 3008, 9000, 60_000] {
                let original = frame(ipv6, len);
                let mut pieces = fragment(&original, 1500, 7);
                assert!(pieces.iter().all(|piece| piece.len() <= 1514));
                assert!(reassemble(pieces.clone()).as_deref() == Some(&original[..]));
                pieces.reverse();
                let again = pieces[0].clone();
                pieces.insert(1, again);
                assert!(reassemble(pieces).as_deref() == Some(&original[..]));
            }
        }
    }

    #[test]
    fn an_overlap_throws_the_datagram_away() {
        for ipv6 in [false, true] {
            let mut pieces = fragment(&frame(ipv6, 4000), 1500, 7);
            let shifted = fragment(&frame(ipv6, 4000), 1400, 7);
            pieces.insert(1, shifted[1].clone());
            assert!(reassemble(pieces).is_none());
        }
    }

    #[test]
    fn time_and_number_are_bounded() {
        let mut reassembler = Reassembler::default();
        for ident in 0..MAX_DATAGRAMS as u32 + 5 {
            let first = fragment(&frame(true, 3000), 1500, ident).remove(0);
            reassembler.input(Packet::from(first), |_| true, Instant::ZERO);
        }
        assert_eq!((reassembler.datagrams.len(), reassembler.dropped), (MAX_DATAGRAMS, 5));
        let late = fragment(&frame(true, 3000), 1500, 60).remove(1);
        let when = Instant::ZERO + TIMEOUT;
        assert!(matches!(
            reassembler.input(Packet::from(late), |_| true, when),
            Reassembled::Pending
        ));
        assert_eq!(reassembler.datagrams.len(), 1);
    }

    #[test]
    fn a_whole_packet_is_none_of_its_business() {
        let mut reassembler = Reassembler::default();
        let packet = Packet::from(frame(false, 100));
        assert!(matches!(
            reassembler.input(packet, |_| true, Instant::ZERO),
            Reassembled::NotAFragment(_)
        ));
    }
}
