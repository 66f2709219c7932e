//! Checksum and segmentation offload done in software: for devices that take such frames
//! without hardware to do it, and for captures, which want frames as they are on the wire.

use crate::packet::{Packet, TxMeta};

pub(crate) const ETHERNET_HEADER: usize = 14;
const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
const TCP_HEADER: usize = 20;
const TCP: u8 = 6;
const UDP: u8 = 17;
const FIN_PSH: u8 = 0x09;
pub(crate) const CWR: u8 = 0x80;

/// Largest frame a TSO packet becomes: an IP packet of 65,535 bytes.
pub(crate) const MAX_SUPERFRAME: usize = ETHERNET_HEADER + 65_535;

/// Ones' complement sum of the 16-bit words (RFC 1071), not inverted; an odd last byte
/// counts as the high one.
pub(crate) fn sum(bytes: &[u8]) -> u16 {
    let mut total = 0u64;
    let (words, rest) = bytes.as_chunks::<4>();
    for word in words {
        // 2^32 words would have to come together before this overflows.
        total += u64::from(u32::from_be_bytes(*word));
    }
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    total += u64::from(u32::from_be_bytes(last));
    fold(total)
}

/// Carries added back in until 16 bits are left.
fn fold(mut total: u64) -> u16 {
    while total > 0xffff {
        total = (total >> 16) + (total & 0xffff);
    }
    total as u16
}

fn add(a: u16, b: u16) -> u16 {
    fold(u64::from(a) + u64::from(b))
}

fn get16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn put16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// Sum of the pseudo header (RFC 9293 3.1, RFC 8200 8.1) of the IP header at `l3`, for
/// `length` bytes of `protocol`.
fn pseudo_header(frame: &[u8], l3: usize, ipv6: bool, protocol: u8, length: usize) -> u16 {
    let addresses =
        if ipv6 { &frame[l3 + 8..l3 + IPV6_HEADER] } else { &frame[l3 + 12..l3 + IPV4_HEADER] };
    fold(u64::from(sum(addresses)) + u64::from(protocol) + length as u64)
}

fn ipv4_checksum(frame: &mut [u8], l3: usize, l3_len: usize) {
    put16(frame, l3 + 10, 0);
    let checksum = !sum(&frame[l3..l3 + l3_len]);
    put16(frame, l3 + 10, checksum);
}

/// Offset of the checksum in the header of `protocol`.
fn checksum_offset(protocol: u8) -> usize {
    if protocol == TCP { 16 } else { 6 }
}

/// Writes the transport checksum of the segment `l4..end`, from scratch.
fn transport_checksum(
    frame: &mut [u8],
    l3: usize,
    l4: usize,
    end: usize,
    ipv6: bool,
    protocol: u8,
) {
    let field = l4 + checksum_offset(protocol);
    put16(frame, field, 0);
    let pseudo = pseudo_header(frame, l3, ipv6, protocol, end - l4);
    let checksum = !add(pseudo, sum(&frame[l4..end]));
    // Zero means "none" in UDP (RFC 768); its other form stands for it.
    let checksum = if protocol == UDP && checksum == 0 { 0xffff } else { checksum };
    put16(frame, field, checksum);
}

/// Where the headers of a frame are, taken from its metadata and checked against its length.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub(crate) l3: usize,
    pub(crate) l4: usize,
    /// First byte behind all headers; counts for TCP and UDP.
    pub(crate) payload: usize,
    pub(crate) ipv6: bool,
}

impl Layout {
    /// `None` when the metadata does not fit the frame.
    pub(crate) fn of(frame: &[u8], tx: &TxMeta) -> Option<Layout> {
        let l3 = usize::from(tx.l2_len);
        let l4 = l3 + usize::from(tx.l3_len);
        let payload = l4 + usize::from(tx.l4_len);
        let smallest_ip = if tx.ipv6 { IPV6_HEADER } else { IPV4_HEADER };
        let smallest_l4 = match () {
            () if tx.tcp_checksum || tx.tso_segment > 0 => TCP_HEADER,
            () if tx.udp_checksum => 8,
            () => 0,
        };
        let fits = l3 >= ETHERNET_HEADER
            && l4 - l3 >= smallest_ip
            && payload - l4 >= smallest_l4
            && frame.len() >= payload;
        fits.then_some(Layout { l3, l4, payload, ipv6: tx.ipv6 })
    }
}

/// Whether the frame asks the device for anything.
pub(crate) fn wanted(tx: &TxMeta) -> bool {
    tx.ip_checksum || tx.tcp_checksum || tx.udp_checksum || tx.tso_segment > 0
}

/// Fills in the checksums the metadata asks for; TSO is not looked at. Returns whether the
/// metadata fitted the frame.
pub(crate) fn fill_checksums(frame: &mut [u8], tx: &TxMeta) -> bool {
    let Some(layout) = Layout::of(frame, tx) else { return false };
    if tx.ip_checksum && !tx.ipv6 {
        ipv4_checksum(frame, layout.l3, layout.l4 - layout.l3);
    }
    let protocol = match () {
        () if tx.tcp_checksum => TCP,
        () if tx.udp_checksum => UDP,
        () => return true,
    };
    let end = ip_end(frame, layout.l3, tx.ipv6).unwrap_or(frame.len());
    transport_checksum(frame, layout.l3, layout.l4, end.max(layout.payload), tx.ipv6, protocol);
    true
}

/// Where the IP packet ends by its own length field, if that lies within the frame.
fn ip_end(frame: &[u8], l3: usize, ipv6: bool) -> Option<usize> {
    let length = if ipv6 {
        IPV6_HEADER + usize::from(get16(frame, l3 + 4))
    } else {
        usize::from(get16(frame, l3 + 2))
    };
    Some(l3 + length).filter(|&end| end <= frame.len())
}

/// The transport header of a complete TCP or UDP packet (no fragment, no extension
/// headers): what a device can check or hash.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transport {
    pub(crate) l3: usize,
    pub(crate) l4: usize,
    pub(crate) end: usize,
    pub(crate) ipv6: bool,
    pub(crate) protocol: u8,
}

impl Transport {
    /// Finds it. `None` for every other frame and for a malformed one.
    pub(crate) fn find(frame: &[u8]) -> Option<Transport> {
        let l3 = ETHERNET_HEADER;
        let ip = frame.get(l3..)?;
        let (ipv6, l4, protocol) = match get16(frame, 12) {
            0x0800 if ip.len() >= IPV4_HEADER && ip[0] >> 4 == 4 => {
                let header = usize::from(ip[0] & 0x0f) * 4;
                let fragment = get16(ip, 6) & 0x3fff != 0;
                if fragment || header < IPV4_HEADER {
                    return None;
                }
                (false, l3 + header, ip[9])
            }
            0x86dd if ip.len() >= IPV6_HEADER && ip[0] >> 4 == 6 => (true, l3 + IPV6_HEADER, ip[6]),
            _ => return None,
        };
        let smallest = match protocol {
            TCP => TCP_HEADER,
            UDP => 8,
            _ => return None,
        };
        let end = ip_end(frame, l3, ipv6)?;
        (end >= l4 + smallest).then_some(Transport { l3, l4, end, ipv6, protocol })
    }

    /// Whether the transport checksum is right (a UDP checksum over IPv4 may be absent).
    pub(crate) fn checksum_holds(&self, frame: &[u8]) -> bool {
        let stored = get16(frame, self.l4 + checksum_offset(self.protocol));
        if self.protocol == UDP && stored == 0 {
            return !self.ipv6;
        }
        let length = self.end - self.l4;
        let pseudo = pseudo_header(frame, self.l3, self.ipv6, self.protocol, length);
        add(pseudo, sum(&frame[self.l4..self.end])) == 0xffff
    }
}

/// Makes the checksums of a received frame right that its device vouched for without
/// filling them in (the frame never left this machine).
pub(crate) fn finish_received(frame: &mut [u8]) {
    if let Some(t) = Transport::find(frame) {
        if !t.ipv6 {
            ipv4_checksum(frame, t.l3, t.l4 - t.l3);
        }
        if !t.checksum_holds(frame) {
            transport_checksum(frame, t.l3, t.l4, t.end, t.ipv6, t.protocol);
        }
    }
}

/// Writes the length of the whole frame into the IP header of a TSO frame, the sum of the
/// pseudo header over that length into the TCP checksum field, and the IPv4 checksum: what
/// virtio and Linux expect of a segmentation-offload packet. (DPDK leaves the length out.)
pub(crate) fn prepare_superframe(frame: &mut [u8], tx: &TxMeta) -> bool {
    let Some(layout) = Layout::of(frame, tx) else { return false };
    let Layout { l3, l4, ipv6, .. } = layout;
    if !set_ip_length(frame, l3, ipv6) {
        return false;
    }
    if !ipv6 {
        ipv4_checksum(frame, l3, l4 - l3);
    }
    let pseudo = pseudo_header(frame, l3, ipv6, TCP, frame.len() - l4);
    put16(frame, l4 + 16, pseudo);
    true
}

/// Makes the IP packet end with the frame. `false` when it is too long for the field.
fn set_ip_length(frame: &mut [u8], l3: usize, ipv6: bool) -> bool {
    let length = frame.len() - l3;
    let (at, value) = if ipv6 { (l3 + 4, length - IPV6_HEADER) } else { (l3 + 2, length) };
    match u16::try_from(value) {
        Ok(value) => {
            put16(frame, at, value);
            true
        }
        Err(_) => false,
    }
}

/// A TSO frame on its way to becoming segments.
pub(crate) struct Segmenter<'a> {
    frame: &'a [u8],
    layout: Layout,
    segment: usize,
}

impl<'a> Segmenter<'a> {
    /// `None` when the metadata asks for no segmentation or does not fit the frame.
    pub(crate) fn new(frame: &'a [u8], tx: &TxMeta) -> Option<Segmenter<'a>> {
        let segment = usize::from(tx.tso_segment);
        let layout = Layout::of(frame, tx)?;
        (segment > 0).then_some(Segmenter { frame, layout, segment })
    }

    /// Into how many segments it is cut (one when there is no payload).
    pub(crate) fn count(&self) -> usize {
        (self.frame.len() - self.layout.payload).div_ceil(self.segment).max(1)
    }

    /// Length of the longest segment's frame in bytes.
    pub(crate) fn longest(&self) -> usize {
        self.frame.len().min(self.layout.payload + self.segment)
    }

    /// Appends the frame of segment `index` to `out`, with all its checksums: IPv4
    /// identification counted up, PSH and FIN only on the last, CWR only on the first
    /// (RFC 3168 6.1.2). `None` when there was no memory for it.
    pub(crate) fn write(&self, index: usize, mut out: Packet) -> Option<Packet> {
        let Layout { l3, l4, payload, ipv6 } = self.layout;
        let offset = index * self.segment;
        let from = payload + offset;
        let to = (from + self.segment).min(self.frame.len());
        if !out.append(&self.frame[..payload]) || !out.append(&self.frame[from..to]) {
            return None;
        }
        let frame = out.data_mut();
        if !set_ip_length(frame, l3, ipv6) {
            return None;
        }
        if !ipv6 {
            let id = get16(frame, l3 + 4).wrapping_add(index as u16);
            put16(frame, l3 + 4, id);
            ipv4_checksum(frame, l3, l4 - l3);
        }
        let seq = [frame[l4 + 4], frame[l4 + 5], frame[l4 + 6], frame[l4 + 7]];
        let seq = u32::from_be_bytes(seq).wrapping_add(offset as u32);
        frame[l4 + 4..l4 + 8].copy_from_slice(&seq.to_be_bytes());
        if index + 1 < self.count() {
            frame[l4 + 13] &= !FIN_PSH;
        }
        if index > 0 {
            frame[l4 + 13] &= !CWR;
        }
        let end = frame.len();
        transport_checksum(frame, l3, l4, end, ipv6, TCP);
        Some(out)
    }
}
