//! What can go wrong, by whose fault it is.

use std::io;

use bytes::Bytes;

/// Why an operation or a connection failed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum Error {
    /// The peer answered the SYN with a reset.
    #[error("connection refused by the peer")]
    Refused,
    /// The peer reset the connection.
    #[error("connection reset by the peer")]
    Reset,
    /// The peer did not answer in time (retransmissions, keepalive or user timeout).
    #[error("connection timed out")]
    TimedOut,
    /// The path says that the peer's host cannot be reached.
    #[error("host unreachable")]
    HostUnreachable,
    /// The path says that the peer's network cannot be reached.
    #[error("network unreachable")]
    NetworkUnreachable,
    /// The caller asked for an address or a 4-tuple that is taken.
    #[error("address in use")]
    AddrInUse,
    /// The caller used a connection or listener that does not exist, or not any more.
    #[error("not connected")]
    NotConnected,
    /// The caller wrote after it had shut down writing.
    #[error("broken pipe")]
    BrokenPipe,
    /// Exhaustion: [`Config::max_connections`](super::Config::max_connections) are open.
    #[error("connection limit reached")]
    ConnectionLimit,
    /// Exhaustion: no memory.
    #[error("out of memory")]
    NoMemory,
}

impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        let kind = match error {
            Error::Refused => io::ErrorKind::ConnectionRefused,
            Error::Reset => io::ErrorKind::ConnectionReset,
            Error::TimedOut => io::ErrorKind::TimedOut,
            Error::HostUnreachable => io::ErrorKind::HostUnreachable,
            Error::NetworkUnreachable => io::ErrorKind::NetworkUnreachable,
            Error::AddrInUse => io::ErrorKind::AddrInUse,
            Error::NotConnected => io::ErrorKind::NotConnected,
            Error::BrokenPipe => io::ErrorKind::BrokenPipe,
            Error::ConnectionLimit => io::ErrorKind::QuotaExceeded,
            Error::NoMemory => io::ErrorKind::OutOfMemory,
        };
        io::Error::new(kind, error)
    }
}

/// Why [`Engine::recv`](super::Engine::recv) gave no data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RecvError {
    /// Nothing there yet; a `Readable` event follows.
    WouldBlock,
    /// The connection is over, and nothing is left to read.
    Closed(Error),
}

/// Why [`Engine::send`](super::Engine::send) took nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SendError {
    /// No room now; here are the bytes back. A `Writable` event follows.
    WouldBlock(Bytes),
    /// The connection takes no more data.
    Closed(Error),
}

/// What an ICMP message said about a segment of ours (RFC 1122 4.2.3.9, RFC 5461).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unreachable {
    /// Network unreachable: soft.
    Network,
    /// Host unreachable, or no route, or address unreachable: soft.
    Host,
    /// The host has no such protocol: hard.
    Protocol,
    /// Our own link layer found no neighbour to send to: hard while connecting.
    Neighbor,
    /// Nobody listens at the port: hard.
    Port,
    /// Forbidden by an administrator on the way: hard while connecting.
    Prohibited,
}

/// What an ICMP message says of a segment of ours that was longer than its path carries
/// (RFC 1191 4, RFC 4443 3.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooBig {
    /// The MTU of the next hop, in bytes of IP packet; 0: not said (RFC 1191 5).
    pub mtu: u16,
    /// The length of the packet that the message quotes, from its IP header.
    pub quoted: u16,
}

impl Unreachable {
    /// Whether it ends a connection attempt (it never ends a synchronized connection).
    pub(super) fn is_hard(self) -> bool {
        matches!(
            self,
            Unreachable::Neighbor
                | Unreachable::Protocol
                | Unreachable::Port
                | Unreachable::Prohibited
        )
    }

    pub(super) fn error(self) -> Error {
        match self {
            Unreachable::Network => Error::NetworkUnreachable,
            Unreachable::Host | Unreachable::Neighbor | Unreachable::Prohibited => {
                Error::HostUnreachable
            }
            Unreachable::Protocol | Unreachable::Port => Error::Refused,
        }
    }
}
