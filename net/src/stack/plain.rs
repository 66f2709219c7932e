//! The frame almost every frame is, on both ways: TCP over IPv4, without options of IP, and of TCP
//! with none or timestamps alone. Every field is where it always is, so each is read or written once,
//! and the sums are made of numbers on the way.
//!
//! What is anything else is [`parse`](super::parse)'s and [`emit`](super::emit)'s, which do the same with these
//! frames; so does what is wrong with one. The tests compare.

use std::ops::Range;

use smoltcp::wire::EthernetAddress;

use super::checksum::Sum;
use super::emit::Offload;
use crate::packet::{ChecksumStatus, TxMeta};
use crate::tcp::segment::{Addr, Flags, FourTuple, Header, Options};
use crate::tcp::seq::SeqNum;

/// Ethernet 14, IPv4 20, TCP 20.
const HEADERS: usize = 54;
const ETHERNET: usize = 14;
/// With NOP, NOP, timestamps (RFC 7323 appendix A).
const LONGEST: usize = HEADERS + 12;
const NOP_NOP_TIMESTAMPS: u32 = 0x0101_080a;
const TCP: u32 = 6;
const TTL: u8 = 64;

/// The prefix of an IPv4-mapped address (RFC 4291 2.5.5.2).
const MAPPED: u128 = 0xffff << 32;

#[inline(always)]
fn short(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

#[inline(always)]
fn long(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[inline(always)]
fn mapped(addr: u32) -> Addr {
    Addr((MAPPED | u128::from(addr)).to_be_bytes())
}

/// Both halves of each number, added up, as sums of 16 bits have them (RFC 1071).
#[inline(always)]
fn sum<const N: usize>(numbers: [u32; N]) -> u64 {
    numbers.into_iter().map(u64::from).sum()
}

#[inline(always)]
fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// The segment in `frame` and where in it the payload is. `local` says whether an address is one of ours.
#[inline(always)]
pub(super) fn parse(
    frame: &[u8],
    checksum: ChecksumStatus,
    local: impl Fn(&Addr) -> bool,
) -> Option<(Header, Range<usize>)> {
    let head: &[u8; HEADERS] = frame.first_chunk()?;
    let total = usize::from(short(head, 16));
    // To one station, IPv4 without options; no fragment, whatever DF says; TCP.
    let is_plain = head[0] & 1 == 0
        && short(head, 12) == 0x0800
        && head[14] == 0x45
        && short(head, 20) & 0xbfff == 0
        && u32::from(head[23]) == TCP;
    // RFC 1122 3.2.1.3: an address that names no single host is not a source.
    let is_source = matches!(head[26], 1..=126 | 128..=223);
    if !is_plain || !is_source {
        return None;
    }
    let (timestamps, start) = match (head[46] >> 4, frame.get(HEADERS..LONGEST)) {
        (5, _) => (None, HEADERS),
        (8, Some(options)) if long(options, 0) == NOP_NOP_TIMESTAMPS => {
            (Some((long(options, 4), long(options, 8))), LONGEST)
        }
        _ => return None,
    };
    let payload = start..14 + total;
    if payload.start > payload.end || payload.end > frame.len() {
        return None;
    }
    let (remote, dst) = (long(head, 26), long(head, 30));
    let addresses = sum([remote, dst]);
    let [ports, seq, ack, rest, last] = [34, 38, 42, 46, 50].map(|at| long(head, at));
    match checksum {
        ChecksumStatus::Good => {}
        ChecksumStatus::Bad => return None,
        ChecksumStatus::Unknown => {
            let words = sum([long(head, 14), long(head, 18), long(head, 22)]);
            if fold(addresses + words) != 0xffff {
                return None;
            }
            let mut data = Sum::default();
            data.add(&frame[payload.clone()]);
            let data = u32::from(u16::from_be_bytes(data.partial()));
            let mut all =
                addresses + sum([TCP + total as u32 - 20, ports, seq, ack, rest, last, data]);
            if let Some((value, echo)) = timestamps {
                all += sum([NOP_NOP_TIMESTAMPS, value, echo]);
            }
            if fold(all) != 0xffff {
                return None;
            }
        }
    }
    let tuple = FourTuple {
        local: mapped(dst),
        remote: mapped(remote),
        local_port: ports as u16,
        remote_port: (ports >> 16) as u16,
    };
    if !local(&tuple.local) || local(&tuple.remote) {
        return None;
    }
    let header = Header {
        tuple,
        seq: SeqNum(seq),
        ack: SeqNum(ack),
        flags: Flags((rest >> 16) as u8),
        window: rest as u16,
        urgent: last as u16,
        ecn: head[15] & 3,
        options: Options { timestamps, ..Options::default() },
    };
    Some((header, payload))
}

/// Headers of a frame, and what the device has to do with it.
pub(super) struct Headers {
    link: (EthernetAddress, EthernetAddress),
    /// What follows them.
    longs: [u32; (LONGEST - ETHERNET) / 4],
    pub(super) len: usize,
    pub(super) tx: TxMeta,
}

impl Headers {
    /// Writes them to the start of a frame.
    #[inline(always)]
    pub(super) fn write(&self, frame: &mut [u8]) {
        let (ethernet, rest) = frame[..self.len].split_at_mut(ETHERNET);
        ethernet[..6].copy_from_slice(&self.link.1.0);
        ethernet[6..12].copy_from_slice(&self.link.0.0);
        ethernet[12..].copy_from_slice(&[0x08, 0x00]);
        for (place, long) in rest.as_chunks_mut().0.iter_mut().zip(self.longs) {
            *place = long.to_be_bytes();
        }
    }
}

/// The headers of a segment that is one frame with `payload_len` bytes of `payload`.
#[inline(always)]
pub(super) fn emit<'a>(
    link: (EthernetAddress, EthernetAddress),
    header: &Header,
    payload_len: usize,
    payload: impl Iterator<Item = &'a [u8]>,
    offload: Offload,
) -> Option<Headers> {
    let Header { tuple, seq, ack, flags, window, urgent, ecn, options } = header;
    let Options { mss, window_scale, sack_permitted, timestamps, sack } = options;
    let is_plain = tuple.local.is_ipv4()
        && mss.is_none()
        && window_scale.is_none()
        && !sack_permitted
        && sack[0].is_none();
    if !is_plain {
        return None;
    }
    let len = if timestamps.is_some() { LONGEST } else { HEADERS };
    let l4_len = (len - 34 + payload_len) as u32;
    let (src, dst) = (long(&tuple.local.0, 12), long(&tuple.remote.0, 12));
    let ports = u32::from(tuple.local_port) << 16 | u32::from(tuple.remote_port);
    let rest = ((len - 34) as u32 / 4) << 28 | u32::from(flags.0) << 16 | u32::from(*window);
    // RFC 6864 4.1: the identification of what is never cut may be anything. DF.
    let [first, second] = [0x4500_0000 | u32::from(*ecn) << 16 | (20 + l4_len), 0x4000];
    let third = u32::from(TTL) << 24 | TCP << 16;
    let addresses = sum([src, dst]);
    let ip_sum = match offload.ip {
        true => 0,
        false => !fold(addresses + sum([first, second, third])),
    };
    let pseudo = addresses + sum([TCP + l4_len]);
    let tcp_sum = match offload.tcp {
        true => fold(pseudo),
        false => {
            let mut data = Sum::default();
            payload.for_each(|piece| data.add(piece));
            let data = u32::from(u16::from_be_bytes(data.partial()));
            let mut all = pseudo + sum([ports, seq.0, ack.0, rest, u32::from(*urgent), data]);
            if let Some((value, echo)) = timestamps {
                all += sum([NOP_NOP_TIMESTAMPS, *value, *echo]);
            }
            !fold(all)
        }
    };
    let (value, echo) = timestamps.unwrap_or_default();
    let longs = [
        first,
        second,
        third | u32::from(ip_sum),
        src,
        dst,
        ports,
        seq.0,
        ack.0,
        rest,
        u32::from(tcp_sum) << 16 | u32::from(*urgent),
        NOP_NOP_TIMESTAMPS,
        value,
        echo,
    ];
    let tx = TxMeta {
        l2_len: 14,
        l3_len: 20,
        l4_len: (len - 34) as u8,
        ip_checksum: offload.ip,
        tcp_checksum: offload.tcp,
        ..TxMeta::default()
    };
    Some(Headers { link, longs, len, tx })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Packet;
    use crate::stack::emit;
    use crate::stack::parse::{Parsed, parse as parse_any};
    use crate::stack::random::Random;
    use crate::tcp::segment::SackBlock;

    const LINK: (EthernetAddress, EthernetAddress) =
        (EthernetAddress([2, 0, 0, 0, 0, 1]), EthernetAddress([2, 0, 0, 0, 0, 2]));

    /// A header that is plain more often than not.
    fn any_header(random: &mut Random) -> Header {
        let mut next = || random.next() as u32;
        let host = |n: u32| ([10, (n >> 16) as u8, (n >> 8) as u8, n as u8], n as u16).into();
        let mut tuple = FourTuple::new(host(next()), host(next()));
        if next().is_multiple_of(8) {
            tuple.local = Addr([0x20; 16]);
            tuple.remote = Addr([0x21; 16]);
        }
        let rarely = |n: u32, what: u32| n.is_multiple_of(16).then_some(what);
        Header {
            tuple,
            seq: SeqNum(next()),
            ack: SeqNum(next()),
            flags: Flags(next() as u8),
            window: next() as u16,
            urgent: next() as u16,
            ecn: next() as u8 & 3,
            options: Options {
                mss: rarely(next(), next()).map(|mss| mss as u16),
                window_scale: rarely(next(), 7).map(|shift| shift as u8),
                sack_permitted: rarely(next(), 0).is_some(),
                timestamps: (!next().is_multiple_of(3)).then_some((next(), next())),
                sack: [
                    rarely(next(), 0).map(|_| SackBlock { start: SeqNum(1), end: SeqNum(9) }),
                    None,
                    None,
                    None,
                ],
            },
        }
    }

    #[test]
    fn what_is_emitted_is_what_any_frame_would_be() {
        let mut plain = 0;
        for seed in 0..20_000 {
            let mut random = Random::new(seed);
            let header = any_header(&mut random);
            let bits = random.next();
            let offload = Offload { ip: bits & 1 != 0, tcp: bits & 2 != 0, udp: false };
            let payload: Vec<u8> = (0..bits >> 8 & 0x7f).map(|_| random.next() as u8).collect();
            let (a, b) = payload.split_at(payload.len() / 3);
            let pieces = || [a, b].into_iter();
            let Some(ours) = emit(LINK, &header, payload.len(), pieces(), offload) else {
                continue;
            };
            plain += 1;
            let other = emit::tcp(LINK, &header, payload.len(), pieces(), 0, offload);
            let mut bytes = vec![0xee; ours.len];
            ours.write(&mut bytes);
            assert_eq!(bytes, other.bytes(), "seed {seed}");
            assert_eq!(format!("{:?}", ours.tx), format!("{:?}", other.tx), "seed {seed}");
        }
        assert!((10_000..19_000).contains(&plain), "{plain}");
    }

    #[test]
    fn what_is_parsed_is_what_any_frame_would_be() {
        let (mut plain, mut other) = (0, 0);
        for seed in 0..60_000 {
            let mut random = Random::new(seed);
            let header = any_header(&mut random);
            let none = Offload { ip: false, tcp: false, udp: false };
            let payload: Vec<u8> = (0..random.next() & 0x7f).map(|_| random.next() as u8).collect();
            let pieces = std::iter::once(&payload[..]);
            let headers = emit::tcp(LINK, &header, payload.len(), pieces, 0, none);
            let mut frame = [headers.bytes(), &payload].concat();
            // Padding, cut off, or bits turned over.
            let bits = random.next();
            match bits % 8 {
                0 => frame.resize(frame.len() + 9, 0xee),
                1 => frame.truncate((bits >> 8) as usize % frame.len()),
                2..=4 => {
                    let at = (bits >> 8) as usize % frame.len().min(70);
                    frame[at] ^= 1 << ((bits >> 4) & 7);
                }
                _ => {}
            }
            let mut packet = Packet::from(frame);
            packet.rx.checksum = match bits >> 32 & 3 {
                0 => ChecksumStatus::Good,
                1 => ChecksumStatus::Bad,
                _ => ChecksumStatus::Unknown,
            };
            // The receiver's own address, more often than not.
            let ours = if bits >> 40 & 7 == 0 { header.tuple.local } else { header.tuple.remote };
            let local = |addr: &Addr| *addr == ours;
            match parse(packet.data(), packet.rx.checksum, local) {
                None => other += 1,
                Some((header, payload)) => {
                    plain += 1;
                    let Ok(Parsed::Tcp(expected, range)) = parse_any(&packet, local) else {
                        panic!("seed {seed}: not for the plain way");
                    };
                    assert_eq!((header, payload), (expected, range), "seed {seed}");
                }
            }
        }
        assert!(plain > 10_000 && other > 10_000, "{plain} {other}");
    }
}
