//! What both ends agree on: addresses, ports, limits.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use throng::{Builder, Limits};

/// The server's address.
pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(10, 254, 0, 1);
/// The client's first address, on the server's link. The server reaches the others by it.
pub(crate) const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 254, 0, 2);
/// Addresses that connections come from.
const SOURCES: u32 = 16;
/// A client beside the first one, or after it.
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 254, 0, 3);
const FIRST_PORT: u16 = 9_000;
/// What a run publishes to all itself.
pub(crate) const BROADCAST: &str = "to all of you";
/// Connections from one address to one port: well below the client's dynamic ports, of which
/// each shard has its share only.
const PER_PAIR: u32 = 12_000;

fn ports_for(connections: u32) -> u32 {
    connections.div_ceil(SOURCES * PER_PAIR).max(1)
}

/// The server's ports: as many as `connections` need.
pub(crate) fn ports(connections: u32) -> impl Iterator<Item = u16> + Clone {
    (0..ports_for(connections)).map(|i| FIRST_PORT + i as u16)
}

/// Whose addresses a client has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum House {
    /// The many that a crowd needs.
    Many,
    /// One that is none of them.
    Other,
}

/// From where to where connection `i` of `connections` goes.
pub(crate) fn endpoints(house: House, i: u32, connections: u32) -> (SocketAddr, SocketAddr) {
    let from = match house {
        House::Many => source(i % SOURCES),
        House::Other => OTHER,
    };
    let from = SocketAddr::new(IpAddr::V4(from), 0);
    let port = FIRST_PORT + (i / SOURCES % ports_for(connections)) as u16;
    (from, SocketAddr::new(IpAddr::V4(SERVER), port))
}

fn source(i: u32) -> Ipv4Addr {
    match i {
        0 => CLIENT,
        i => Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 253, 0, 0)) + i),
    }
}

/// The server's network.
pub(crate) fn server(device: &str, shards: u16, limits: Limits) -> Builder {
    Builder::new()
        .device(device)
        .address(format!("{SERVER}/24"))
        .gateway(IpAddr::V4(CLIENT))
        .shards(shards.into())
        .limits(limits)
}

/// The client's network.
pub(crate) fn client(device: &str, shards: u16, connections: u32) -> Builder {
    let builder = Builder::new().device(device).address(format!("{CLIENT}/24"));
    (1..SOURCES)
        .fold(builder, |builder, i| builder.address(format!("{}/32", source(i))))
        .shards(shards.into())
        .limits(limits(connections))
}

/// The network of a client in the other house.
pub(crate) fn other_client(device: &str, connections: u32) -> Builder {
    let builder = Builder::new().device(device).address(format!("{OTHER}/24"));
    builder.shards(1).limits(limits(connections))
}

/// Bounds with room for `connections`.
pub(crate) fn limits(connections: u32) -> Limits {
    let mut limits = Limits::default();
    limits.connections = connections as usize + 1_024;
    limits.tasks = connections as usize * 2 + 4_096;
    limits
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn connections_are_spread_over_addresses_and_ports() {
        for connections in [1, 10_000, 1_000_000] {
            let listening: Vec<_> = ports(connections).collect();
            let mut pairs = HashMap::<_, u32>::new();
            for i in 0..connections {
                let (from, to) = endpoints(House::Many, i, connections);
                assert!(listening.contains(&to.port()));
                *pairs.entry((from.ip(), to.port())).or_default() += 1;
            }
            assert!(pairs.into_values().all(|count| count <= PER_PAIR + 1));
        }
    }
}
