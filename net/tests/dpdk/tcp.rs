//! TCP segments by hand, with nothing summed that a device can sum.

use throng_net::device::Device;
use throng_net::packet::TxMeta;

pub(crate) const KERNEL: [u8; 4] = [10, 77, 0, 1];
pub(crate) const OURS: [u8; 4] = [10, 77, 0, 2];
const OUR_PORT: u16 = 4000;

/// The sum of the pseudo header (RFC 9293 3.1) from us to the kernel, not complemented.
pub(crate) fn pseudo_header(protocol: u8, len: usize) -> [u8; 2] {
    let addresses = [OURS, KERNEL].concat();
    let words = addresses.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum = words.sum::<u32>() + u32::from(protocol) + len as u32;
    (((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes()
}

/// The Ethernet and IPv4 headers for `len` bytes of a protocol, from us to the kernel.
pub(crate) fn ip(device: &dyn Device, to: [u8; 6], protocol: u8, len: usize) -> Vec<u8> {
    let mut frame = to.to_vec();
    frame.extend(device.capabilities().mac.0);
    frame.extend([0x08, 0x00, 0x45, 0]);
    frame.extend((20 + len as u16).to_be_bytes());
    frame.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
    frame.extend(OURS);
    frame.extend(KERNEL);
    frame
}

/// Where a connection to the kernel stands.
#[derive(Clone, Copy, Default)]
pub(crate) struct Position {
    pub(crate) port: u16,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
}

/// A TCP segment at `position` with all checksums left to the device.
pub(crate) fn segment_at(
    device: &dyn Device,
    to: [u8; 6],
    position: Position,
    flags: u8,
    payload: &[u8],
) -> (Vec<u8>, TxMeta) {
    let len = 20 + payload.len();
    let mut frame = ip(device, to, 6, len);
    frame.extend(OUR_PORT.to_be_bytes());
    frame.extend(position.port.to_be_bytes());
    frame.extend(position.seq.to_be_bytes());
    frame.extend(position.ack.to_be_bytes());
    frame.extend([0x50, flags, 0xff, 0xff]);
    frame.extend(pseudo_header(6, len));
    frame.extend([0, 0]);
    frame.extend(payload);
    let tx = TxMeta {
        l2_len: 14,
        l3_len: 20,
        l4_len: 20,
        ip_checksum: device.capabilities().tx_ip_checksum,
        tcp_checksum: true,
        ..TxMeta::default()
    };
    (frame, tx)
}

/// A TCP segment of no connection.
pub(crate) fn segment(
    device: &dyn Device,
    to: [u8; 6],
    seq: u32,
    flags: u8,
    payload: &[u8],
) -> (Vec<u8>, TxMeta) {
    let (mut frame, tx) =
        segment_at(device, to, Position { seq, ..Position::default() }, flags, payload);
    if !tx.ip_checksum {
        let sum: u32 =
            frame[14..34].chunks(2).map(|p| u32::from(u16::from_be_bytes([p[0], p[1]]))).sum();
        let folded = (sum & 0xffff) + (sum >> 16);
        let check = !(((folded & 0xffff) + (folded >> 16)) as u16);
        frame[24..26].copy_from_slice(&check.to_be_bytes());
    }
    (frame, tx)
}

/// The header fields and payload of a TCP segment over IPv4: sequence number,
/// acknowledgement, flags.
pub(crate) fn parse(frame: &[u8]) -> Option<(u32, u32, u8, &[u8])> {
    if frame.get(12..14)? != [0x08, 0x00] || *frame.get(23)? != 6 {
        return None;
    }
    let total = usize::from(u16::from_be_bytes([frame[16], frame[17]]));
    let header = &frame[34..];
    let number = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().unwrap());
    let start = 34 + usize::from(header[12] >> 4) * 4;
    Some((number(4), number(8), header[13], &frame[start..14 + total]))
}

/// The payload of a TCP segment over IPv4.
pub(crate) fn payload(frame: &[u8]) -> Option<&[u8]> {
    parse(frame).map(|(_, _, _, payload)| payload)
}
