//! The header as bytes: pure functions. Section numbers are those of HAProxy's proxy-protocol.txt.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::Bytes;

/// What version 2 begins with (2.2).
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// What version 1 begins with (2.1).
const WORD: &[u8] = b"PROXY ";
/// Longest line of version 1, its end included (2.1).
const LONGEST_LINE: usize = 107;
/// Longest header of version 2 that is taken: the addresses, and room for what proxies add.
const LONGEST: usize = 4096;
/// Up to the length, in version 2.
const FIXED: usize = 16;
/// The checksum among what proxies add (2.2.3).
const CRC32C: u8 = 3;

/// How a header is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// The two ends of the connection that a proxy passes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The client's.
    pub source: SocketAddr,
    /// What the client connected to.
    pub destination: SocketAddr,
}

/// What a proxy says of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// Nothing: it is the proxy's own (a health check), or of a kind without internet addresses.
    Local,
    /// It is passed on for these.
    Proxied(Addresses),
}

/// Why bytes are no header, or one that cannot be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(&'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no PROXY protocol header: {}", self.0)
    }
}

impl std::error::Error for Malformed {}

const BEGINNING: Malformed = Malformed("it begins otherwise");

/// How many more bytes are part of the header that `begun` is the beginning of: at least so many,
/// so that nothing behind it is taken; 0 when it is whole.
///
/// # Errors
/// It is none, or too long.
pub fn missing(begun: &[u8]) -> Result<usize, Malformed> {
    let signature = SIGNATURE.len();
    if begun.len() < signature {
        let may_be =
            SIGNATURE.starts_with(begun) || WORD.starts_with(&begun[..begun.len().min(WORD.len())]);
        // No line is shorter than the signature.
        return may_be.then_some(signature - begun.len()).ok_or(BEGINNING);
    }
    if !begun.starts_with(SIGNATURE) {
        if !begun.starts_with(WORD) {
            return Err(BEGINNING);
        }
        return match begun.ends_with(b"\n") {
            true => Ok(0),
            false if begun.len() < LONGEST_LINE => Ok(1),
            false => Err(Malformed("the line does not end")),
        };
    }
    let Some(length) = begun.get(FIXED - 2..FIXED) else { return Ok(FIXED - begun.len()) };
    let whole = FIXED + usize::from(u16::from_be_bytes([length[0], length[1]]));
    match whole <= LONGEST {
        true => Ok(whole.saturating_sub(begun.len())),
        false => Err(Malformed("it is too long")),
    }
}

/// Understands a whole header, of either version, as [`missing`] delimits it.
///
/// # Errors
/// What is wrong with it.
pub fn parse(header: &[u8]) -> Result<Header, Malformed> {
    if missing(header)? != 0 {
        return Err(Malformed("it is not whole"));
    }
    match header.strip_prefix(SIGNATURE) {
        Some(rest) => parse_v2(header, rest),
        None => parse_v1(header),
    }
}

fn parse_v1(line: &[u8]) -> Result<Header, Malformed> {
    let text = line.strip_suffix(b"\r\n").ok_or(Malformed("the line ends without a CR"))?;
    let text = std::str::from_utf8(text).map_err(|_| Malformed("the line is not ASCII"))?;
    let mut words = text.split(' ').skip(1);
    let family = words.next().unwrap_or_default();
    // 2.1: whatever follows this is to be ignored.
    if family == "UNKNOWN" {
        return Ok(Header::Local);
    }
    let bad = Malformed("an address is malformed");
    let mut address = || {
        let word = words.next().ok_or(bad)?;
        match family {
            "TCP4" => word.parse().map(IpAddr::V4).map_err(|_| bad),
            "TCP6" => word.parse().map(IpAddr::V6).map_err(|_| bad),
            _ => Err(Malformed("neither TCP4, TCP6 nor UNKNOWN")),
        }
    };
    let (source, destination) = (address()?, address()?);
    let mut port = || {
        let word = words.next().unwrap_or_default();
        let plain = word.bytes().all(|byte| byte.is_ascii_digit())
            && (word == "0" || !word.starts_with('0'));
        word.parse::<u16>().ok().filter(|_| plain).ok_or(Malformed("a port is malformed"))
    };
    let source = SocketAddr::new(source, port()?);
    let destination = SocketAddr::new(destination, port()?);
    match words.next() {
        None => Ok(Header::Proxied(Addresses { source, destination })),
        Some(_) => Err(Malformed("something follows the ports")),
    }
}

fn parse_v2(header: &[u8], rest: &[u8]) -> Result<Header, Malformed> {
    let (command, kind, rest) = (rest[0], rest[1], &rest[4..]);
    if command >> 4 != 2 {
        return Err(Malformed("neither version 1 nor 2"));
    }
    if command & 0xf > 1 {
        return Err(Malformed("an unknown command"));
    }
    if kind >> 4 > 3 || kind & 0xf > 2 {
        return Err(Malformed("an unknown family or protocol"));
    }
    let local = command & 0xf == 0;
    let size = match kind >> 4 {
        1 => 12,
        2 => 36,
        3 => 216,
        _ => 0,
    };
    // 2.2: of LOCAL everything is to be ignored.
    if local {
        return Ok(Header::Local);
    }
    let addresses = rest.get(..size).ok_or(Malformed("the addresses are cut"))?;
    check_additions(header, header.len() - rest.len() + size)?;
    let port = |at: usize| u16::from_be_bytes([addresses[at], addresses[at + 1]]);
    let v4 = |at: usize| {
        let octets: [u8; 4] = addresses[at..at + 4].try_into().unwrap_or_default();
        IpAddr::V4(Ipv4Addr::from(octets))
    };
    let v6 = |at: usize| {
        let octets: [u8; 16] = addresses[at..at + 16].try_into().unwrap_or_default();
        IpAddr::V6(Ipv6Addr::from(octets))
    };
    Ok(match kind {
        0x11 => Header::Proxied(Addresses {
            source: SocketAddr::new(v4(0), port(8)),
            destination: SocketAddr::new(v4(4), port(10)),
        }),
        0x21 => Header::Proxied(Addresses {
            source: SocketAddr::new(v6(0), port(32)),
            destination: SocketAddr::new(v6(16), port(34)),
        }),
        // UDP, unix sockets, and what is not said.
        _ => Header::Local,
    })
}

/// Goes over what follows the addresses (2.2): types, lengths and values. A checksum has to be
/// right (2.2.3).
fn check_additions(header: &[u8], from: usize) -> Result<(), Malformed> {
    let (mut at, cut) = (from, Malformed("an addition is cut"));
    while at < header.len() {
        let head = header.get(at..at + 3).ok_or(cut)?;
        let value = at + 3..at + 3 + usize::from(u16::from_be_bytes([head[1], head[2]]));
        let said = header.get(value.clone()).ok_or(cut)?;
        if head[0] == CRC32C {
            let bytes = header.iter().enumerate();
            let sum = crc32c(bytes.map(|(n, byte)| if value.contains(&n) { 0 } else { *byte }));
            if said != sum.to_be_bytes() {
                return Err(Malformed("the checksum is wrong"));
            }
        }
        at = value.end;
    }
    Ok(())
}

/// RFC 9260 appendix A, reflected.
fn crc32c(bytes: impl Iterator<Item = u8>) -> u32 {
    !bytes.fold(!0, |sum, byte| {
        (0..8).fold(sum ^ u32::from(byte), |sum, _| {
            (sum >> 1) ^ if sum & 1 == 1 { 0x82f6_3b78 } else { 0 }
        })
    })
}

/// The header that tells of `addresses`, or of a connection of one's own.
pub fn encode(version: Version, addresses: Option<&Addresses>) -> Bytes {
    let Some(Addresses { source, destination }) = addresses else {
        return match version {
            Version::V1 => Bytes::from_static(b"PROXY UNKNOWN\r\n"),
            Version::V2 => Bytes::from([SIGNATURE, &[0x20, 0, 0, 0]].concat()),
        };
    };
    let ports = [source.port(), destination.port()];
    let ips = [source.ip().to_canonical(), destination.ip().to_canonical()];
    // Where they are of two families both are written in the wider one.
    let narrow = ips.iter().all(IpAddr::is_ipv4);
    match version {
        Version::V1 => {
            let family = if narrow { "TCP4" } else { "TCP6" };
            let [from, to] = ips.map(|ip| match (ip, narrow) {
                (IpAddr::V4(v4), false) => IpAddr::V6(v4.to_ipv6_mapped()),
                (ip, _) => ip,
            });
            Bytes::from(format!("PROXY {family} {from} {to} {} {}\r\n", ports[0], ports[1]))
        }
        Version::V2 => {
            let octets = ips.map(|ip| match (ip, narrow) {
                (IpAddr::V4(v4), true) => v4.octets().to_vec(),
                (IpAddr::V4(v4), false) => v4.to_ipv6_mapped().octets().to_vec(),
                (IpAddr::V6(v6), _) => v6.octets().to_vec(),
            });
            let (kind, size) = if narrow { (0x11, 12) } else { (0x21, 36) };
            let ports = ports.map(u16::to_be_bytes).concat();
            Bytes::from([SIGNATURE, &[0x21, kind, 0, size], &octets.concat(), &ports].concat())
        }
    }
}

#[cfg(test)]
mod tests;
