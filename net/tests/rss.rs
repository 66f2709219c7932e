//! The Toeplitz hash against the published vectors, and the search for source ports.

use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;
use throng_net::rss::{Reta, SYMMETRIC_KEY, Sharding, Toeplitz};
use throng_net::tcp::segment::FourTuple;
use throng_runtime::ShardId;

/// The key of "Verifying the RSS Hash Calculation", Microsoft.
const MICROSOFT_KEY: [u8; 40] = [
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0,
    0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c,
    0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
];

/// Destination, source, hash without ports, hash with them.
const VECTORS: &[(&str, &str, u32, u32)] = &[
    ("161.142.100.80:1766", "66.9.149.187:2794", 0x323e_8fc2, 0x51cc_c178),
    ("65.69.140.83:4739", "199.92.111.2:14230", 0xd718_262a, 0xc626_b0ea),
    ("12.22.207.184:38024", "24.19.198.95:12898", 0xd2d0_a5de, 0x5c2b_394a),
    ("209.142.163.6:2217", "38.27.205.30:48228", 0x8298_9176, 0xafc7_327f),
    ("202.188.127.2:1303", "153.39.163.191:44251", 0x5d18_09c5, 0x10e8_28a2),
    ("[3ffe:2501:200:3::1]:1766", "[3ffe:2501:200:1fff::7]:2794", 0x2cc1_8cd5, 0x4020_7d3d),
    ("[ff02::1]:4739", "[3ffe:501:8::260:97ff:fe40:efab]:14230", 0x0f0c_461c, 0xdde5_1bbf),
    (
        "[fe80::200:f8ff:fe21:67cf]:38024",
        "[3ffe:1900:4545:3:200:f8ff:fe21:67cf]:44251",
        0x4b61_e985,
        0x02d1_feef,
    ),
];

fn tuple(local: SocketAddr, remote: SocketAddr) -> FourTuple {
    FourTuple {
        local: local.ip().into(),
        remote: remote.ip().into(),
        local_port: local.port(),
        remote_port: remote.port(),
    }
}

/// The definition, bit by bit.
fn reference(key: &[u8], input: &[u8]) -> u32 {
    let bit = |bytes: &[u8], i: usize| bytes[i / 8] >> (7 - i % 8) & 1;
    let mut hash = 0;
    for i in (0..input.len() * 8).filter(|&i| bit(input, i) == 1) {
        hash ^= (i..i + 32).fold(0, |window, k| window << 1 | u32::from(bit(key, k)));
    }
    hash
}

fn input(tuple: &FourTuple) -> Vec<u8> {
    let octets = |addr| match IpAddr::from(addr) {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let mut bytes = octets(tuple.remote);
    bytes.extend(octets(tuple.local));
    bytes.extend(tuple.remote_port.to_be_bytes());
    bytes.extend(tuple.local_port.to_be_bytes());
    bytes
}

#[test]
fn published_vectors() {
    let hasher = Toeplitz::new(&MICROSOFT_KEY).unwrap();
    assert!(!hasher.is_symmetric());
    for &(destination, source, addresses, ports) in VECTORS {
        let (local, remote): (SocketAddr, SocketAddr) =
            (destination.parse().unwrap(), source.parse().unwrap());
        assert_eq!(hasher.hash_addresses(remote.ip(), local.ip()), addresses, "{destination}");
        assert_eq!(hasher.hash_tuple(&tuple(local, remote)), ports, "{destination}");
    }
}

#[test]
fn short_key_is_refused() {
    assert!(Toeplitz::new(&[1; 39]).is_err());
    assert!(Toeplitz::new(&[1; 52]).is_ok());
}

#[test]
fn reta_rejects_what_does_not_fit() {
    assert!(Reta::from_device(&[0, 1, 0], 2).is_none());
    assert!(Reta::from_device(&[0, 2], 2).is_none());
    assert!(Reta::from_device(&[], 2).is_none());
    assert!(Reta::from_device(&[0, 1], 2).is_some());
    assert_eq!(Reta::even(3, 128).entries().len(), 128);
    assert_eq!(Reta::even(0, 0).queue(7), 0);
}

#[test]
fn source_ports_come_home() {
    for (key, shards) in [(&SYMMETRIC_KEY, 4), (&MICROSOFT_KEY, 3)] {
        let sharding = Sharding::new(Toeplitz::new(key).unwrap(), Reta::even(shards, 128));
        for remote in ["10.1.2.3:80", "[2001:db8::9]:443"] {
            let remote: SocketAddr = remote.parse().unwrap();
            let local: IpAddr =
                if remote.is_ipv4() { "10.0.0.1" } else { "2001:db8::1" }.parse().unwrap();
            let mut all = Vec::new();
            for shard in (0..shards).map(ShardId) {
                let ports: Vec<u16> =
                    sharding.source_ports(local, remote, shard, 49152..=65535, 60000).collect();
                assert!(ports.len() > 16384 / usize::from(shards) / 2, "{}", ports.len());
                for &port in &ports {
                    let tuple = tuple(SocketAddr::new(local, port), remote);
                    assert_eq!(sharding.owner_of(&tuple), shard);
                }
                all.extend(ports);
            }
            all.sort_unstable();
            assert_eq!(all, (49152..=65535).collect::<Vec<u16>>());
        }
    }
    let remote = "10.1.2.3:80".parse().unwrap();
    let local = "10.0.0.1".parse().unwrap();
    let one = Sharding::symmetric(1);
    let ports: Vec<u16> = one.source_ports(local, remote, ShardId(0), 7..=9, 8).collect();
    assert_eq!(ports, [8, 9, 7]);
    assert_eq!(one.source_ports(local, remote, ShardId(0), 0..=65535, 3).count(), 65536);
}

fn any_addr() -> impl Strategy<Value = SocketAddr> {
    prop_oneof![
        any::<([u8; 4], u16)>().prop_map(SocketAddr::from),
        any::<([u8; 16], u16)>().prop_map(SocketAddr::from)
    ]
}

proptest! {
    #[test]
    fn agrees_with_the_definition(a in any_addr(), b in any_addr(), key: [u8; 40]) {
        prop_assume!(a.is_ipv4() == b.is_ipv4());
        let tuple = tuple(a, b);
        let input = input(&tuple);
        for key in [&key, &SYMMETRIC_KEY] {
            let hasher = Toeplitz::new(key).unwrap();
            let expected = reference(key, &input);
            prop_assert_eq!(hasher.hash_bytes(&input), expected);
            // A v4-mapped IPv6 address counts as IPv4 in a tuple.
            prop_assume!(a.is_ipv4() || !tuple.local.is_ipv4() && !tuple.remote.is_ipv4());
            prop_assert_eq!(hasher.hash_tuple(&tuple), expected);
        }
    }

    #[test]
    fn symmetric_key_is_symmetric(a in any_addr(), b in any_addr()) {
        let hasher = Toeplitz::symmetric();
        prop_assert_eq!(hasher.hash_tuple(&tuple(a, b)), hasher.hash_tuple(&tuple(b, a)));
    }
}
