//! What both ends agree on: addresses, ports, limits.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use throng::Limits;

/// The server's address.
pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(10, 254, 0, 1);
/// The client's address.
pub(crate) const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 254, 0, 2);
const FIRST_PORT: u16 = 9_000;
/// Connections to one server port: well below the client's dynamic ports, of which each
/// shard has its share only.
const PER_PORT: u32 = 12_000;

/// The server's ports: as many as `connections` from one client address need.
pub(crate) fn ports(connections: u32) -> impl Iterator<Item = u16> + Clone {
    let count = connections.div_ceil(PER_PORT).max(1) as u16;
    (0..count).map(|i| FIRST_PORT + i)
}

/// The address at which connection number `i` is served.
pub(crate) fn endpoint(i: u32) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(SERVER), FIRST_PORT + (i / PER_PORT) as u16)
}

/// Bounds with room for `connections`.
pub(crate) fn limits(connections: u32) -> Limits {
    let mut limits = Limits::default();
    limits.connections = connections as usize + 1_024;
    limits.tasks = connections as usize * 2 + 4_096;
    limits
}
