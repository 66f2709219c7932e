//! A TCP segment as the engine sees it: parsed once, formats left behind.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::seq::SeqNum;

/// An IP address in sixteen bytes; IPv4 as IPv4-mapped IPv6 (RFC 4291 2.5.5.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Addr(pub [u8; 16]);

impl Addr {
    /// Whether it stands for an IPv4 address.
    pub fn is_ipv4(&self) -> bool {
        self.0[..12] == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]
    }
}

impl From<IpAddr> for Addr {
    fn from(ip: IpAddr) -> Addr {
        match ip {
            IpAddr::V4(v4) => Addr(v4.to_ipv6_mapped().octets()),
            IpAddr::V6(v6) => Addr(v6.octets()),
        }
    }
}

impl From<Addr> for IpAddr {
    fn from(addr: Addr) -> IpAddr {
        let v6 = Ipv6Addr::from(addr.0);
        v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4)
    }
}

impl std::fmt::Debug for Addr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        IpAddr::from(*self).fmt(f)
    }
}

/// What identifies a connection on this host (RFC 9293 3.3.1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FourTuple {
    /// Our address.
    pub local: Addr,
    /// The peer's address.
    pub remote: Addr,
    /// Our port.
    pub local_port: u16,
    /// The peer's port.
    pub remote_port: u16,
}

impl FourTuple {
    /// The tuple of a connection between these two.
    pub fn new(local: SocketAddr, remote: SocketAddr) -> FourTuple {
        FourTuple {
            local: local.ip().into(),
            remote: remote.ip().into(),
            local_port: local.port(),
            remote_port: remote.port(),
        }
    }

    /// The same connection as the other end sees it.
    pub fn flipped(&self) -> FourTuple {
        FourTuple {
            local: self.remote,
            remote: self.local,
            local_port: self.remote_port,
            remote_port: self.local_port,
        }
    }

    /// Our end.
    pub fn local_addr(&self) -> SocketAddr {
        SocketAddr::new(self.local.into(), self.local_port)
    }

    /// The peer's end.
    pub fn peer_addr(&self) -> SocketAddr {
        SocketAddr::new(self.remote.into(), self.remote_port)
    }
}

/// The control bits of the TCP header (RFC 9293 3.1), as on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Flags(pub u8);

impl Flags {
    /// No more data from the sender.
    pub const FIN: Flags = Flags(0x01);
    /// Synchronize sequence numbers.
    pub const SYN: Flags = Flags(0x02);
    /// Reset the connection.
    pub const RST: Flags = Flags(0x04);
    /// Push.
    pub const PSH: Flags = Flags(0x08);
    /// The acknowledgement field counts.
    pub const ACK: Flags = Flags(0x10);
    /// The urgent pointer counts.
    pub const URG: Flags = Flags(0x20);
    /// ECN echo (RFC 3168).
    pub const ECE: Flags = Flags(0x40);
    /// Congestion window reduced (RFC 3168).
    pub const CWR: Flags = Flags(0x80);

    /// Whether every bit of `other` is set.
    pub const fn contains(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }
}

impl std::ops::BitOr for Flags {
    type Output = Flags;
    fn bitor(self, rhs: Flags) -> Flags {
        Flags(self.0 | rhs.0)
    }
}

/// A block of sequence space, `start` inclusive to `end` exclusive (RFC 2018).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SackBlock {
    /// First sequence number of the block.
    pub start: SeqNum,
    /// The one after the last.
    pub end: SeqNum,
}

/// The options of a segment that the engine understands.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Options {
    /// Maximum segment size, in bytes; SYN only (RFC 9293 3.7.1).
    pub mss: Option<u16>,
    /// Window scale shift, 0 to 14; SYN only (RFC 7323 2).
    pub window_scale: Option<u8>,
    /// SACK permitted; SYN only (RFC 2018 2).
    pub sack_permitted: bool,
    /// Timestamp value and echo reply (RFC 7323 3).
    pub timestamps: Option<(u32, u32)>,
    /// SACK blocks, in the order of the wire, at most 4; the first `None` ends them (RFC 2018 3).
    pub sack: [Option<SackBlock>; 4],
}

/// The header of a segment, received or to be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// The connection it belongs to, seen from this host.
    pub tuple: FourTuple,
    /// Sequence number of the first byte (or of the SYN).
    pub seq: SeqNum,
    /// Acknowledgement number; counts where [`Flags::ACK`] is set.
    pub ack: SeqNum,
    /// Control bits.
    pub flags: Flags,
    /// Window field as on the wire, not scaled.
    pub window: u16,
    /// Urgent pointer; counts where [`Flags::URG`] is set.
    pub urgent: u16,
    /// The IP header's ECN field, 0 to 3 (RFC 3168 5).
    pub ecn: u8,
    /// The options.
    pub options: Options,
}

impl Header {
    /// The same segment as the other end sees it: what one sent, as the other receives it.
    pub fn flipped(mut self) -> Header {
        self.tuple = self.tuple.flipped();
        self
    }
}
