//! Which packets a capture chooses: a subset of pcap-filter(7), with the meaning it has there.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use super::parse;

/// A condition on packets, written in the language of tcpdump.
///
/// | primitive | true of |
/// |---|---|
/// | `ip`, `ip6`, `arp` | frames of this type |
/// | `tcp`, `udp`, `icmp`, `icmp6` | packets of this protocol; `tcp` and `udp` in IPv4 and IPv6 |
/// | `host A` | IP packets from or to the address, and ARP that names it |
/// | `net N/L` | the same with the first `L` bits of the address |
/// | `port P`, `portrange P-Q` | TCP, UDP and SCTP from or to the port; no later fragments |
/// | `less L`, `greater L` | frames of at most, at least, `L` bytes |
///
/// `src` or `dst` before `host`, `net`, `port` and `portrange` asks for one side; `tcp` or
/// `udp` before `port` and `portrange` for one protocol; `ip`, `ip6` or `arp` before `host`
/// and `net` for one type of frame. After `src`, `dst` or nothing at all an address means
/// `host`. Primitives are joined by `not` (`!`), `and` (`&&`), `or` (`||`) and parentheses;
/// as in tcpdump `and` and `or` bind equally and from the left, `not` binds tightest.
///
/// A field that a packet is too short for equals nothing. Frames with a VLAN tag are of none
/// of the types.
///
/// ```
/// use throng_net::pcap::Filter;
/// let filter: Filter = "tcp port 80 and not src net 10.0.0.0/8".parse()?;
/// assert!("tcp prot 80".parse::<Filter>().unwrap_err().to_string().contains("prot"));
/// # Ok::<(), throng_net::pcap::FilterError>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Filter {
    text: String,
    /// In postfix order.
    program: Vec<Op>,
}

/// What is wrong with a filter's text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("filter: {0}")]
pub struct FilterError(pub(super) String);

/// Operands that may wait at a time: bits of a word.
pub(super) const MAX_DEPTH: usize = 64;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Op {
    Test(Test),
    Not,
    And,
    Or,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Test {
    /// Of this Ethernet type.
    Type(u16),
    /// Of this protocol, in IPv4 unless `v6_only`, in IPv6 unless it means something else there.
    Protocol(u8),
    /// An address within a prefix, in the frames of this type or of any.
    Net { side: Side, of: Option<u16>, prefix: [u8; 16], v4: bool, bits: u8 },
    /// A port within a range, of one protocol or any that has ports.
    Ports { side: Side, protocol: Option<u8>, low: u16, high: u16 },
    /// At most so long.
    Less(u32),
    /// At least so long.
    Greater(u32),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Side {
    Source,
    Destination,
    Either,
}

impl Side {
    fn any(self, source: bool, destination: bool) -> bool {
        match self {
            Side::Source => source,
            Side::Destination => destination,
            Side::Either => source || destination,
        }
    }
}

pub(super) const IPV4: u16 = 0x0800;
pub(super) const ARP: u16 = 0x0806;
/// Reverse ARP (RFC 903), which looks like ARP.
const RARP: u16 = 0x8035;
pub(super) const IPV6: u16 = 0x86dd;
pub(super) const ICMP: u8 = 1;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const ICMPV6: u8 = 58;
const SCTP: u8 = 132;
const FRAGMENT: u8 = 44;

impl FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Filter, FilterError> {
        Ok(Filter { text: text.trim().to_owned(), program: parse::parse(text)? })
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Filter({:?})", self.text)
    }
}

impl Filter {
    /// Whether it chooses this Ethernet frame.
    pub fn matches(&self, frame: &[u8]) -> bool {
        self.matches_part(frame, frame.len())
    }

    /// The same of a frame of `length` bytes that begins with `frame`.
    pub(crate) fn matches_part(&self, frame: &[u8], length: usize) -> bool {
        let view = View::new(frame, length);
        // The topmost operand is the lowest bit.
        let mut stack: u64 = 0;
        for op in &self.program {
            stack = match op {
                Op::Test(test) => stack << 1 | u64::from(view.is(test)),
                Op::Not => stack ^ 1,
                Op::And => stack >> 1 & (stack | !1),
                Op::Or => stack >> 1 | (stack & 1),
            };
        }
        stack & 1 == 1
    }
}

/// The fields of a frame that tests ask for.
struct View<'a> {
    frame: &'a [u8],
    length: usize,
    kind: u16,
    /// The protocol, and another one behind a fragment header.
    protocol: Option<u8>,
    fragmented: Option<u8>,
    ports: Option<(u16, u16)>,
}

impl<'a> View<'a> {
    fn new(frame: &'a [u8], length: usize) -> View<'a> {
        let mut view =
            View { frame, length, kind: 0, protocol: None, fragmented: None, ports: None };
        view.kind = view.word(12).unwrap_or(0);
        let transport = match view.kind {
            IPV4 => {
                view.protocol = view.byte(23);
                let later = view.word(20).is_none_or(|field| field & 0x1fff != 0);
                view.byte(14).filter(|_| !later).map(|byte| 14 + 4 * usize::from(byte & 15))
            }
            IPV6 => {
                view.protocol = view.byte(20);
                let behind = view.protocol == Some(FRAGMENT);
                view.fragmented = view.byte(54).filter(|_| behind);
                Some(54)
            }
            _ => None,
        };
        if let Some(at) = transport
            && matches!(view.protocol, Some(TCP | UDP | SCTP))
        {
            view.ports = view.word(at).zip(view.word(at + 2));
        }
        view
    }

    fn byte(&self, at: usize) -> Option<u8> {
        self.frame.get(at).copied()
    }

    fn word(&self, at: usize) -> Option<u16> {
        Some(u16::from_be_bytes(self.frame.get(at..at + 2)?.try_into().ok()?))
    }

    fn is(&self, test: &Test) -> bool {
        match *test {
            Test::Type(kind) => self.kind == kind,
            Test::Protocol(protocol) => {
                let foreign = match protocol {
                    ICMP => IPV6,
                    ICMPV6 => IPV4,
                    _ => 0,
                };
                let found = [self.protocol, self.fragmented].contains(&Some(protocol));
                found && self.kind != foreign
            }
            Test::Net { side, of, prefix, v4, bits } => {
                if of.is_some_and(|kind| kind != self.kind) {
                    return false;
                }
                let (source, destination) = match (self.kind, v4) {
                    (IPV4, true) => (26, 30),
                    (ARP | RARP, true) => (28, 38),
                    (IPV6, false) => (22, 38),
                    _ => return false,
                };
                let size = if v4 { 4 } else { 16 };
                let within = |at: usize| {
                    let found = self.frame.get(at..at + size);
                    found.is_some_and(|found| same_prefix(found, &prefix, bits))
                };
                side.any(within(source), within(destination))
            }
            Test::Ports { side, protocol, low, high } => {
                let Some((source, destination)) = self.ports else { return false };
                let range = low..=high;
                (protocol.is_none() || protocol == self.protocol)
                    && side.any(range.contains(&source), range.contains(&destination))
            }
            Test::Less(bound) => self.length <= bound as usize,
            Test::Greater(bound) => self.length >= bound as usize,
        }
    }
}

/// Whether the first `bits` bits are the same.
fn same_prefix(found: &[u8], prefix: &[u8; 16], bits: u8) -> bool {
    let (bytes, rest) = (usize::from(bits / 8), bits % 8);
    let mask = !(0xff_u16 >> rest) as u8;
    found[..bytes] == prefix[..bytes] && (rest == 0 || found[bytes] & mask == prefix[bytes] & mask)
}

impl Test {
    /// The test for an address within a prefix; `None` where bits beyond it are set.
    pub(super) fn net(side: Side, of: Option<u16>, ip: IpAddr, bits: u8) -> Option<Test> {
        let mut prefix = [0; 16];
        match ip {
            IpAddr::V4(ip) => prefix[..4].copy_from_slice(&ip.octets()),
            IpAddr::V6(ip) => prefix = ip.octets(),
        }
        let mut cut = [0; 16];
        for (at, byte) in prefix.iter().enumerate() {
            let kept = bits.saturating_sub(8 * at as u8).min(8);
            cut[at] = byte & !(0xff_u16 >> kept) as u8;
        }
        (cut == prefix).then_some(Test::Net { side, of, prefix, v4: ip.is_ipv4(), bits })
    }
}
