//! Between segments and IP packets, by the code the stack itself uses.

use smoltcp::wire::EthernetAddress;

use super::{Addr, FourTuple, Header, SeqNum, TooBig, Unreachable};
use crate::packet::Packet;
use crate::stack::emit::{self, Offload};
use crate::stack::icmp::{self, Icmp};
use crate::stack::parse::{self, Parsed};

/// What an IP packet has for the engine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Incoming {
    /// A segment, for [`Engine::on_segment`](super::Engine::on_segment), and its payload.
    Segment(Header, Vec<u8>),
    /// For [`Engine::on_icmp_unreachable`](super::Engine::on_icmp_unreachable): the flow and the
    /// sequence number that the message quotes, and what it says.
    Unreachable(FourTuple, SeqNum, Unreachable),
    /// For [`Engine::on_icmp_too_big`](super::Engine::on_icmp_too_big).
    TooBig(FourTuple, SeqNum, TooBig),
}

const ETHERNET: usize = 14;

/// Reads an IPv4 or IPv6 packet as the host it is addressed to would. `None`: it is malformed, a
/// checksum is wrong, or there is nothing for TCP in it.
pub fn decode(packet: &[u8]) -> Option<Incoming> {
    let (ethertype, to) = match packet.first()? >> 4 {
        4 => ([0x08, 0x00], <[u8; 4]>::try_from(packet.get(16..20)?).ok().map(v4)?),
        6 => ([0x86, 0xdd], Addr(packet.get(24..40)?.try_into().ok()?)),
        _ => return None,
    };
    // From one station that is not there to another.
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    frame.extend_from_slice(&ethertype);
    frame.extend_from_slice(packet);
    let frame = Packet::from(frame);
    match parse::parse(&frame, |addr| *addr == to).ok()? {
        Parsed::Tcp(header, range) => Some(Incoming::Segment(header, frame.data()[range].to_vec())),
        Parsed::Udp(..) => None,
        Parsed::Slow => {
            let (tuple, seq, said) = icmp::read(frame.data())?;
            Some(match said {
                Icmp::Unreachable(kind) => Incoming::Unreachable(tuple, seq, kind),
                Icmp::TooBig(said) => Incoming::TooBig(tuple, seq, said),
            })
        }
    }
}

fn v4(octets: [u8; 4]) -> Addr {
    Addr::from(std::net::IpAddr::from(octets))
}

/// The IP packet that carries `header` and `payload` from `header.tuple.local`, checksums filled
/// in. The payload is at most what an IP packet holds, some 65,000 bytes.
pub fn encode(header: &Header, payload: &[u8]) -> Vec<u8> {
    let link = EthernetAddress([0; 6]);
    let none = Offload { ip: false, tcp: false, udp: false };
    let pieces = std::iter::once(payload);
    let headers = emit::tcp((link, link), header, payload.len(), pieces, 0, none);
    let mut packet = headers.bytes()[ETHERNET..].to_vec();
    packet.extend_from_slice(payload);
    packet
}

#[cfg(test)]
mod tests {
    use super::super::{Flags, Options};
    use super::*;

    #[test]
    fn a_packet_comes_back_as_it_went() {
        for (local, remote) in
            [("10.0.0.1:5", "10.0.0.2:6"), ("[2001:db8::1]:5", "[2001:db8::2]:6")]
        {
            let tuple = FourTuple::new(local.parse().unwrap(), remote.parse().unwrap());
            let options =
                Options { mss: Some(1200), timestamps: Some((1, 2)), ..Options::default() };
            let header = Header {
                tuple,
                seq: SeqNum(7),
                ack: SeqNum(8),
                flags: Flags::SYN | Flags::ACK,
                window: 9,
                urgent: 0,
                ecn: 2,
                options,
            };
            let mut packet = encode(&header, b"payload");
            let read = decode(&packet);
            assert_eq!(read, Some(Incoming::Segment(header.flipped(), b"payload".to_vec())));
            *packet.last_mut().unwrap() ^= 1;
            assert_eq!(decode(&packet), None, "a wrong checksum");
        }
        assert_eq!(decode(&[]), None);
        assert_eq!(decode(&[0x45; 12]), None);
    }
}
