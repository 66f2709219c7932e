//! The PROXY protocol: whose connection it is that a proxy passes on, and telling servers.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use bytes::Bytes;
use throng::net::proxy_protocol::{Addresses, ProxyProtocol, Version, encode};
use throng::{TcpListener, TcpStream};

use crate::config::{FromProxies, ToServers};

/// What a listener is told of clients, noted in `all`.
pub(crate) fn expected(
    config: &Option<FromProxies>,
    all: &mut Vec<ProxyProtocol>,
) -> Option<ProxyProtocol> {
    /// Connections whose header may be waited for.
    const WAITING: usize = 4_096;
    let FromProxies { trusted, timeout } = config.clone()?;
    let is_trusted = move |peer| trusted.iter().any(|range| range.contains(peer));
    let settings = ProxyProtocol::with(Box::new(is_trusted), timeout.0, WAITING);
    all.push(settings.clone());
    Some(settings)
}

pub(crate) fn expecting(listener: TcpListener, settings: &Option<ProxyProtocol>) -> TcpListener {
    match settings {
        Some(settings) => listener.proxy_protocol(settings),
        None => listener,
    }
}

/// What a client connected to, as far as is known.
pub(crate) fn local(stream: &TcpStream) -> Option<SocketAddr> {
    match stream.proxied() {
        Some(addresses) => Some(addresses.destination),
        None => stream.local_addr().ok(),
    }
}

/// An address in 18 bytes in place of 32, for what lies beside every idle client. Without the zone
/// of one that is good on a link only, which means nothing to anybody else.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packed {
    ip: [u8; 16],
    port: u16,
}

impl From<SocketAddr> for Packed {
    fn from(at: SocketAddr) -> Packed {
        let ip = match at.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        Packed { ip: ip.octets(), port: at.port() }
    }
}

impl From<Packed> for SocketAddr {
    fn from(Packed { ip, port }: Packed) -> SocketAddr {
        // A mapped address is IPv4, wherever it comes from.
        SocketAddr::new(Ipv6Addr::from(ip).to_canonical(), port)
    }
}

/// The header for a connection to a server; without a client it is our own.
pub(crate) fn header(to: ToServers, client: Option<(SocketAddr, Option<SocketAddr>)>) -> Bytes {
    let version = match to {
        ToServers::V1 => Version::V1,
        ToServers::V2 => Version::V2,
    };
    let addresses = client
        .and_then(|(source, destination)| Some(Addresses { source, destination: destination? }));
    encode(version, addresses.as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_addresses_are_the_same() {
        for text in ["192.0.2.7:80", "0.0.0.0:0", "[2001:db8::7]:65535", "[::1]:1", "[::]:2"] {
            let at: SocketAddr = text.parse().unwrap();
            assert_eq!(SocketAddr::from(Packed::from(at)), at);
        }
        let mapped = "[::ffff:192.0.2.7]:80".parse::<SocketAddr>().unwrap();
        assert_eq!(SocketAddr::from(Packed::from(mapped)).to_string(), "192.0.2.7:80");
        assert!(size_of::<Packed>() == 18 && size_of::<SocketAddr>() == 32);
    }
}
