//! What can be connected to: an address, several, or a name with a port.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// What keeps [`Destination`] this crate's: nobody else can name it.
#[derive(Debug)]
pub struct Token;

/// A destination as it has been read.
#[derive(Debug)]
pub enum Start {
    /// One address, which is not looked up.
    At(SocketAddr),
    /// Several; any of them will do.
    Any(Vec<SocketAddr>),
    /// A name, and a port.
    Name(String, u16),
    /// No destination.
    Bad(io::Error),
}

/// What [`TcpStream::connect`](crate::TcpStream::connect) and [`lookup_host`] take, much as
/// `std::net::ToSocketAddrs`: a `SocketAddr`, an IP address or a name with a port, text as in
/// `"example.com:80"` or `"[fd00::1]:80"`, or a slice of addresses, any of which will do.
///
/// Text that is an address is never looked up. It is this crate's own: it cannot be
/// implemented elsewhere.
///
/// [`lookup_host`]: super::lookup_host
pub trait Destination {
    /// Reads it.
    #[doc(hidden)]
    fn start(self, token: Token) -> Start;
}

impl Destination for SocketAddr {
    fn start(self, _: Token) -> Start {
        Start::At(self)
    }
}

impl Destination for SocketAddrV4 {
    fn start(self, _: Token) -> Start {
        Start::At(self.into())
    }
}

impl Destination for SocketAddrV6 {
    fn start(self, _: Token) -> Start {
        Start::At(self.into())
    }
}

impl Destination for (IpAddr, u16) {
    fn start(self, _: Token) -> Start {
        Start::At(self.into())
    }
}

impl Destination for (Ipv4Addr, u16) {
    fn start(self, _: Token) -> Start {
        Start::At(self.into())
    }
}

impl Destination for (Ipv6Addr, u16) {
    fn start(self, _: Token) -> Start {
        Start::At(self.into())
    }
}

impl Destination for &[SocketAddr] {
    fn start(self, _: Token) -> Start {
        match self {
            [] => Start::Bad(invalid("no addresses".to_owned())),
            [addr] => Start::At(*addr),
            addrs => Start::Any(addrs.to_vec()),
        }
    }
}

impl Destination for (&str, u16) {
    fn start(self, _: Token) -> Start {
        let (host, port) = self;
        // An address of IPv6 may be in brackets, as in a URI (RFC 3986 3.2.2).
        let inner = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let literal = match inner {
            Some(inner) => inner.parse().map(IpAddr::V6).ok(),
            None => host.parse().ok(),
        };
        match literal {
            Some(ip) => Start::At(SocketAddr::new(ip, port)),
            None => Start::Name(host.to_owned(), port),
        }
    }
}

impl Destination for (String, u16) {
    fn start(self, token: Token) -> Start {
        (self.0.as_str(), self.1).start(token)
    }
}

impl Destination for &str {
    fn start(self, token: Token) -> Start {
        if let Ok(addr) = self.parse() {
            return Start::At(addr);
        }
        let parts =
            self.rsplit_once(':').filter(|(host, _)| !host.contains(':') || host.ends_with(']'));
        match parts.and_then(|(host, port)| Some((host, port.parse().ok()?))) {
            Some(parts) => parts.start(token),
            None => Start::Bad(invalid(format!("{self:?} is not host:port"))),
        }
    }
}

impl Destination for String {
    fn start(self, token: Token) -> Start {
        self.as_str().start(token)
    }
}

impl<T: Destination + Clone> Destination for &T {
    fn start(self, token: Token) -> Start {
        self.clone().start(token)
    }
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(destination: impl Destination) -> String {
        match destination.start(Token) {
            Start::At(addr) => format!("at {addr}"),
            Start::Any(addrs) => format!("any {addrs:?}"),
            Start::Name(name, port) => format!("name {name} {port}"),
            Start::Bad(error) => {
                assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
                "bad".to_owned()
            }
        }
    }

    #[test]
    fn literals_are_addresses_and_the_rest_are_names() {
        let addr: SocketAddr = "10.0.0.1:80".parse().unwrap();
        assert_eq!(read(addr), "at 10.0.0.1:80");
        let borrowed = &addr;
        assert_eq!(read(borrowed), "at 10.0.0.1:80");
        assert_eq!(read((addr.ip(), 81)), "at 10.0.0.1:81");
        assert_eq!(read((Ipv6Addr::LOCALHOST, 81)), "at [::1]:81");
        assert_eq!(read([addr, addr].as_slice()), "any [10.0.0.1:80, 10.0.0.1:80]");
        assert_eq!(read([addr].as_slice()), "at 10.0.0.1:80");
        assert_eq!(read("10.0.0.1:80"), "at 10.0.0.1:80");
        assert_eq!(read("[fd00::1]:80"), "at [fd00::1]:80");
        assert_eq!(read(("fd00::1", 80)), "at [fd00::1]:80");
        assert_eq!(read(("[fd00::1]", 80)), "at [fd00::1]:80");
        assert_eq!(read("www.example.com:80"), "name www.example.com 80");
        assert_eq!(read(("www".to_owned(), 80)), "name www 80");
        assert_eq!(read("www:0".to_owned()), "name www 0");
        assert_eq!(read([].as_slice()), "bad");
        for bad in ["", "www", "www:", "www:http", "www:65536", "fd00::1:80", ":80:80"] {
            assert_eq!(read(bad), "bad", "{bad}");
        }
    }
}
