//! The PROXY protocol: whose connection it is that a proxy passes on, and telling servers.

use std::net::SocketAddr;

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
