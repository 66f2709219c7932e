//! What a path does to packets: says that they are too long, marks them, and takes options out
//! of SYNs.

use crate::dice::Dice;
use crate::plan::RouterPlan;

const ETHERNET: usize = 14;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// What becomes of a packet.
pub(crate) enum Verdict {
    /// It goes on.
    Pass,
    /// It goes on and says that there is congestion.
    Marked,
    /// It does not; this goes back to its sender, if anything does.
    Drop(Option<Vec<u8>>),
}

/// Looks at a frame on its way, and changes it.
pub(crate) fn pass(plan: &RouterPlan, dice: &mut Dice, frame: &mut [u8]) -> Verdict {
    let Some(packet) = frame.get(ETHERNET..).filter(|packet| packet.len() >= 20) else {
        return Verdict::Pass;
    };
    let v6 = match frame[12..14] {
        [0x08, 0x00] => false,
        [0x86, 0xdd] if packet.len() >= 40 => true,
        _ => return Verdict::Pass,
    };
    // What may be cut is: as if it were, and put together again.
    let may_cut = !v6 && packet[6] & 0x40 == 0;
    if plan.mtu > 0 && packet.len() > plan.mtu && !may_cut {
        return Verdict::Drop(plan.speaks.then(|| too_big(frame, v6, plan.mtu as u16)));
    }
    let marked = plan.marks > 0.0 && dice.chance(plan.marks) && mark(&mut frame[ETHERNET..], v6);
    let (protocol, header) = match v6 {
        true => (frame[ETHERNET + 6], 40),
        false => (frame[ETHERNET + 9], usize::from(frame[ETHERNET] & 15) * 4),
    };
    // A corrupted header may claim any length.
    if protocol == 6
        && let Some(tcp) = frame.get_mut(ETHERNET + header..)
    {
        edit_syn(plan, tcp);
    }
    if marked { Verdict::Marked } else { Verdict::Pass }
}

/// Writes the word at `at`, even from the checksum's point of view, and mends the checksum
/// (RFC 1624 3).
fn put(bytes: &mut [u8], at: usize, value: [u8; 2], checksum: usize) {
    let word = |bytes: &[u8], at: usize| u32::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]));
    let sum = (!word(bytes, checksum) & 0xffff)
        + (!word(bytes, at) & 0xffff)
        + u32::from(u16::from_be_bytes(value));
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    bytes[at..at + 2].copy_from_slice(&value);
    bytes[checksum..checksum + 2].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}

/// RFC 3168 5: what is capable of it gets both bits. Returns whether it is.
fn mark(packet: &mut [u8], v6: bool) -> bool {
    let capable = packet[1] & if v6 { 0x30 } else { 3 } != 0;
    match (capable, v6) {
        (false, _) => {}
        (true, true) => packet[1] |= 0x30,
        (true, false) => put(packet, 0, [packet[0], packet[1] | 3], 10),
    }
    capable
}

fn edit_syn(plan: &RouterPlan, tcp: &mut [u8]) {
    if tcp.len() < 20 || tcp[13] & SYN == 0 {
        return;
    }
    let end = (usize::from(tcp[12] >> 4) * 4).min(tcp.len());
    let mut at = 20;
    while at < end {
        let kind = tcp[at];
        let len = match kind {
            0 => return,
            1 => 1,
            _ if at + 1 < end => usize::from(tcp[at + 1]).max(2),
            _ => return,
        };
        if at + len > end {
            return;
        }
        // An answer has only what was asked for, so what is taken out of the question is
        // enough, and no side is left to believe in what the other has not heard.
        let asks = tcp[13] & ACK == 0;
        let strip = asks
            && match kind {
                3 => plan.strip_scale,
                4 => plan.strip_sack,
                8 => plan.strip_timestamps,
                _ => false,
            };
        for place in (at..at + len).filter(|_| strip) {
            set(tcp, place, 1);
        }
        if kind == 2 && len == 4 && plan.mss > 0 {
            let mss = u16::from_be_bytes([tcp[at + 2], tcp[at + 3]]).min(plan.mss).to_be_bytes();
            set(tcp, at + 2, mss[0]);
            set(tcp, at + 3, mss[1]);
        }
        at += len;
    }
}

/// Writes a byte of a TCP header.
fn set(tcp: &mut [u8], at: usize, value: u8) {
    let even = at & !1;
    let mut word = [tcp[even], tcp[even + 1]];
    word[at & 1] = value;
    put(tcp, even, word, 16);
}

fn internet_checksum(parts: &[&[u8]]) -> [u8; 2] {
    let mut sum = 0_u32;
    for pair in parts.iter().flat_map(|part| part.chunks(2)) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

/// What a router answers to a packet longer than the next link carries (RFC 1191 4, RFC 4443
/// 3.2).
fn too_big(frame: &[u8], v6: bool, mtu: u16) -> Vec<u8> {
    let packet = &frame[ETHERNET..];
    let mtu = mtu.to_be_bytes();
    let mut answer = [&frame[6..12], &[2, 0, 0, 0, 9, 9], &frame[12..14]].concat();
    if v6 {
        let router = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 254];
        let quoted = &packet[..packet.len().min(600)];
        let mut icmp = [&[2, 0, 0, 0, 0, 0, mtu[0], mtu[1]], quoted].concat();
        let length = (icmp.len() as u16).to_be_bytes();
        let pseudo = [0, 0, length[0], length[1], 0, 0, 0, 58];
        let sum = internet_checksum(&[&router, &packet[8..24], &pseudo, &icmp]);
        icmp[2..4].copy_from_slice(&sum);
        answer.extend([0x60, 0, 0, 0, length[0], length[1], 58, 64]);
        answer.extend(router);
        answer.extend(&packet[8..24]);
        answer.extend(icmp);
    } else {
        let quoted = &packet[..packet.len().min(28)];
        let mut icmp = [&[3, 4, 0, 0, 0, 0, mtu[0], mtu[1]], quoted].concat();
        let sum = internet_checksum(&[&icmp]);
        icmp[2..4].copy_from_slice(&sum);
        let length = (20 + icmp.len() as u16).to_be_bytes();
        let mut ip =
            [0x45, 0, length[0], length[1], 0, 0, 0, 0, 64, 1, 0, 0, 10, 0, 0, 254].to_vec();
        ip.extend(&packet[12..16]);
        let sum = internet_checksum(&[&ip]);
        ip[10..12].copy_from_slice(&sum);
        answer.extend(ip);
        answer.extend(icmp);
    }
    answer
}
