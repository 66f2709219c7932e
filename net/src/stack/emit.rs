//! From a [`Header`] to bytes: Ethernet, IP and TCP or UDP headers in one small array.

use smoltcp::wire::EthernetAddress;

use super::checksum::{Sum, checksum};
use crate::device::Capabilities;
use crate::packet::TxMeta;
use crate::tcp::segment::{Addr, FourTuple, Header, Options};

/// Ethernet 14, IPv6 40, TCP 60.
const MAX_HEADERS: usize = 114;

const ETHERNET: usize = 14;
const TTL: u8 = 64;
const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_UDP: u8 = 17;

/// What the device takes off our hands, in the form the transmit path asks for it.
#[derive(Clone, Copy)]
pub(crate) struct Offload {
    pub(crate) ip: bool,
    pub(crate) tcp: bool,
    pub(crate) udp: bool,
}

impl From<&Capabilities> for Offload {
    fn from(caps: &Capabilities) -> Offload {
        Offload { ip: caps.tx_ip_checksum, tcp: caps.tx_tcp_checksum, udp: caps.tx_udp_checksum }
    }
}

/// The headers of one frame and what the device has to do with it.
pub(crate) struct Headers {
    bytes: [u8; MAX_HEADERS],
    len: usize,
    pub(crate) tx: TxMeta,
}

impl Headers {
    /// The bytes to put before the payload.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn new() -> Headers {
        Headers { bytes: [0; MAX_HEADERS], len: 0, tx: TxMeta::default() }
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    fn ethernet(&mut self, src: EthernetAddress, dst: EthernetAddress, ipv6: bool) {
        self.push(&dst.0);
        self.push(&src.0);
        self.push(if ipv6 { &[0x86, 0xdd] } else { &[0x08, 0x00] });
        self.tx.l2_len = ETHERNET as u8;
        self.tx.ipv6 = ipv6;
    }

    /// The IP header for `l4_len` bytes (header and payload) of `protocol`.
    fn ip(
        &mut self,
        tuple: &FourTuple,
        protocol: u8,
        l4_len: usize,
        ecn: u8,
        ident: Option<u16>,
        offload: Offload,
    ) {
        if self.tx.ipv6 {
            self.push(&[0x60, ecn << 4, 0, 0]);
            // A TSO frame beyond 65,535 bytes does not exist: tso_max is bounded.
            self.push(&(l4_len as u16).to_be_bytes());
            self.push(&[protocol, TTL]);
            self.push(&tuple.local.0);
            self.push(&tuple.remote.0);
            self.tx.l3_len = 40;
        } else {
            let start = self.len;
            self.push(&[0x45, ecn]);
            self.push(&((20 + l4_len) as u16).to_be_bytes());
            // RFC 6864 4.1: an atomic datagram's identification may be anything.
            self.push(&ident.unwrap_or(0).to_be_bytes());
            self.push(if ident.is_none() { &[0x40, 0] } else { &[0, 0] });
            self.push(&[TTL, protocol, 0, 0]);
            self.push(&tuple.local.0[12..]);
            self.push(&tuple.remote.0[12..]);
            self.tx.l3_len = 20;
            if offload.ip {
                self.tx.ip_checksum = true;
            } else {
                let sum = checksum(&self.bytes[start..self.len]);
                self.bytes[start + 10..start + 12].copy_from_slice(&sum);
            }
        }
    }

    /// Fills in the checksum at `at` of a transport header that starts at `start`.
    fn l4_checksum<'a>(
        &mut self,
        mut sum: Sum,
        start: usize,
        at: usize,
        offloaded: bool,
        payload: impl Iterator<Item = &'a [u8]>,
    ) {
        if offloaded {
            self.bytes[at..at + 2].copy_from_slice(&sum.partial());
            return;
        }
        sum.add(&self.bytes[start..self.len]);
        for piece in payload {
            sum.add(piece);
        }
        self.bytes[at..at + 2].copy_from_slice(&sum.finish());
    }
}

/// The headers of a TCP segment. `segment_size` is non-zero for a frame the device cuts.
pub(crate) fn tcp<'a>(
    link: (EthernetAddress, EthernetAddress),
    header: &Header,
    payload_len: usize,
    payload: impl Iterator<Item = &'a [u8]>,
    segment_size: u16,
    offload: Offload,
) -> Headers {
    let mut out = Headers::new();
    let tuple = &header.tuple;
    out.ethernet(link.0, link.1, !tuple.local.is_ipv4());
    let (options, options_len) = tcp_options(&header.options);
    let tcp_len = 20 + options_len;
    out.ip(tuple, PROTOCOL_TCP, tcp_len + payload_len, header.ecn, None, offload);
    let start = out.len;
    out.push(&tuple.local_port.to_be_bytes());
    out.push(&tuple.remote_port.to_be_bytes());
    out.push(&header.seq.0.to_be_bytes());
    out.push(&header.ack.0.to_be_bytes());
    out.push(&[((tcp_len / 4) as u8) << 4, header.flags.0]);
    out.push(&header.window.to_be_bytes());
    out.push(&[0, 0]);
    out.push(&header.urgent.to_be_bytes());
    out.push(&options[..options_len]);
    out.tx.l4_len = tcp_len as u8;
    out.tx.tcp_checksum = offload.tcp;
    out.tx.tso_segment = segment_size;
    let sum = Sum::pseudo_header(&tuple.local, &tuple.remote, PROTOCOL_TCP, tcp_len + payload_len);
    out.l4_checksum(sum, start, start + 16, offload.tcp, payload);
    out
}

/// The headers of a UDP datagram that fits one frame.
pub(crate) fn udp(
    link: (EthernetAddress, EthernetAddress),
    tuple: &FourTuple,
    payload: &[u8],
    offload: Offload,
) -> Headers {
    let mut out = Headers::new();
    out.ethernet(link.0, link.1, !tuple.local.is_ipv4());
    out.ip(tuple, PROTOCOL_UDP, 8 + payload.len(), 0, None, offload);
    push_udp(&mut out, tuple, payload, offload.udp);
    out
}

/// A whole UDP datagram without link and IP header, for fragmentation.
pub(crate) fn udp_datagram(tuple: &FourTuple, payload: &[u8]) -> Vec<u8> {
    let mut out = Headers::new();
    push_udp(&mut out, tuple, payload, false);
    let mut datagram = Vec::with_capacity(out.len + payload.len());
    datagram.extend_from_slice(out.bytes());
    datagram.extend_from_slice(payload);
    datagram
}

/// The link and IP header of a datagram of `len` bytes that will be cut into fragments.
pub(crate) fn fragmentable(
    link: (EthernetAddress, EthernetAddress),
    tuple: &FourTuple,
    len: usize,
) -> Vec<u8> {
    let mut out = Headers::new();
    out.ethernet(link.0, link.1, !tuple.local.is_ipv4());
    let none = Offload { ip: false, tcp: false, udp: false };
    out.ip(tuple, PROTOCOL_UDP, len, 0, Some(0), none);
    out.bytes().to_vec()
}

fn push_udp(out: &mut Headers, tuple: &FourTuple, payload: &[u8], offloaded: bool) {
    let start = out.len;
    let len = 8 + payload.len();
    out.push(&tuple.local_port.to_be_bytes());
    out.push(&tuple.remote_port.to_be_bytes());
    out.push(&(len as u16).to_be_bytes());
    out.push(&[0, 0]);
    out.tx.l4_len = 8;
    out.tx.udp_checksum = offloaded;
    let sum = Sum::pseudo_header(&tuple.local, &tuple.remote, PROTOCOL_UDP, len);
    out.l4_checksum(sum, start, start + 6, offloaded, std::iter::once(payload));
    // RFC 768: a computed zero is sent as all ones.
    if !offloaded && out.bytes[start + 6..start + 8] == [0, 0] {
        out.bytes[start + 6..start + 8].copy_from_slice(&[0xff, 0xff]);
    }
}

/// The options as bytes, padded to a multiple of four.
fn tcp_options(options: &Options) -> ([u8; 40], usize) {
    let mut bytes = [0u8; 40];
    let mut len = 0;
    let mut push = |piece: &[u8]| {
        bytes[len..len + piece.len()].copy_from_slice(piece);
        len += piece.len();
    };
    if let Some(mss) = options.mss {
        let [high, low] = mss.to_be_bytes();
        push(&[2, 4, high, low]);
    }
    if let Some(shift) = options.window_scale {
        push(&[1, 3, 3, shift]);
    }
    if options.sack_permitted {
        push(&[1, 1, 4, 2]);
    }
    if let Some((value, echo)) = options.timestamps {
        push(&[1, 1, 8, 10]);
        push(&value.to_be_bytes());
        push(&echo.to_be_bytes());
    }
    // RFC 2018 3: three blocks fit beside timestamps, four without.
    let room = if options.timestamps.is_some() { 3 } else { 4 };
    let blocks = options.sack.iter().map_while(|block| *block).take(room);
    let count = blocks.clone().count();
    if count > 0 {
        push(&[1, 1, 5, (2 + 8 * count) as u8]);
        for block in blocks {
            push(&block.start.0.to_be_bytes());
            push(&block.end.0.to_be_bytes());
        }
    }
    (bytes, len)
}

/// The solicited-node group's link address (RFC 2464 7, RFC 4291 2.7.1), and the group.
pub(crate) fn solicited_node(target: &Addr) -> (EthernetAddress, Addr) {
    let [.., a, b, c] = target.0;
    let group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c];
    (EthernetAddress([0x33, 0x33, 0xff, a, b, c]), Addr(group))
}
