//! Source ports of active opens.

use std::cell::Cell;
use std::collections::HashSet;
use std::ops::RangeInclusive;

use throng_net::rss::Sharding;
use throng_net::tcp::*;
use throng_runtime::{Instant, ShardId};

use crate::peer::*;
use crate::world::*;

const NOW: Instant = Instant::ZERO;
const RANGE: RangeInclusive<u16> = 32_768..=65_534;

fn engine(secret: u8) -> Engine {
    Engine::new(Config::default(), [secret; 32], NOW)
}

/// All ports of `range` once, from `first` on.
fn around(range: RangeInclusive<u16>, first: u16) -> impl Iterator<Item = u16> {
    (first..=*range.end()).chain(*range.start()..first)
}

fn to(remote: &str) -> FourTuple {
    tuple("10.0.0.1:0", remote)
}

/// Opens a connection from a chosen port.
fn open(e: &mut Engine, remote: &str, range: RangeInclusive<u16>) -> Option<(ConnId, u16)> {
    let t = to(remote);
    let port = e.choose_port(&t, range.clone(), |first| around(range, first))?;
    let conn = e.connect(FourTuple { local_port: port, ..t }, NOW).unwrap();
    Some((conn, port))
}

#[test]
fn every_port_serves_every_destination() {
    // Ten destinations and a listener, a thousand ports: ten thousand connections.
    let mut e = engine(1);
    let range = 40_000..=40_999;
    e.listen("10.0.0.1:40500".parse().unwrap(), 1).unwrap();
    for port in 1..=10 {
        let remote = format!("10.0.0.2:{port}");
        let ports: HashSet<u16> =
            (0..1000).map(|_| open(&mut e, &remote, range.clone()).unwrap().1).collect();
        assert_eq!(ports.len(), 1000);
        assert!(ports.iter().all(|port| range.contains(port)));
        assert_eq!(open(&mut e, &remote, range.clone()), None);
    }
    assert_eq!((e.usage().connections, e.counters().ports_exhausted), (10_000, 10));
}

#[test]
fn exhaustion_is_found_out_once() {
    let mut e = engine(1);
    let remote = "10.0.0.2:443";
    let looked_at = Cell::new(0);
    let choose = |e: &mut Engine| {
        let count = |_: &u16| looked_at.set(looked_at.get() + 1);
        e.choose_port(&to(remote), RANGE, |first| around(RANGE, first).inspect(count))
    };
    let mut conns = Vec::new();
    while let Some(port) = choose(&mut e) {
        let t = FourTuple { local_port: port, ..to(remote) };
        conns.push((e.connect(t, NOW).unwrap(), port));
    }
    assert_eq!(conns.len(), RANGE.len());
    // All of them, although each search but the last found its port within few steps.
    assert!(looked_at.get() < 4 * RANGE.len(), "{}", looked_at.get());
    looked_at.set(0);
    for _ in 0..1000 {
        assert_eq!(choose(&mut e), None);
    }
    assert_eq!((looked_at.get(), e.counters().ports_exhausted), (0, 1));
    // Other destinations have theirs.
    assert!(open(&mut e, "10.0.0.2:80", RANGE).is_some());
    assert!(open(&mut e, "10.0.0.3:443", RANGE).is_some());
    // What comes free is found at once, and again where nobody took it.
    let (conn, port) = conns[777];
    e.abort(conn, NOW);
    assert_eq!(choose(&mut e), Some(port));
    assert_eq!(choose(&mut e), Some(port));
    let attempt = |e: &mut Engine| e.connect(FourTuple { local_port: port, ..to(remote) }, NOW);
    for _ in 0..2_000 {
        // One who is refused comes free at once; that makes it no more ports.
        let conn = attempt(&mut e).unwrap();
        e.abort(conn, NOW);
        assert_eq!((choose(&mut e), looked_at.get()), (Some(port), 0));
    }
    attempt(&mut e).unwrap();
    assert_eq!((choose(&mut e), looked_at.get()), (None, 0));
    // With plenty of them it is a destination like any other.
    for (conn, _) in &conns[1_000..3_000] {
        e.abort(*conn, NOW);
    }
    assert!(choose(&mut e).is_some());
    assert!(looked_at.get() > 0);
    e.check_invariants();
}

#[test]
fn a_port_in_time_wait_is_in_use() {
    let mut e = engine(1);
    let (conn, port) = open(&mut e, "10.0.0.2:443", 50_000..=50_000).unwrap();
    let t = e.tuple(conn).unwrap();
    let iss = drain(&mut e, NOW)[0].header.seq;
    e.on_segment(&header(t, SeqNum(1), iss + 1, Flags::SYN | Flags::ACK), &[], NOW);
    e.close(conn, NOW);
    drain(&mut e, NOW);
    e.on_segment(&header(t, SeqNum(2), iss + 2, Flags::FIN | Flags::ACK), &[], NOW);
    assert_eq!((e.usage().time_wait, e.usage().connections), (1, 0));
    assert_eq!(open(&mut e, "10.0.0.2:443", 50_000..=50_000), None);
    e.on_timeout(NOW + secs(61));
    assert_eq!(e.usage().time_wait, 0);
    assert_eq!(open(&mut e, "10.0.0.2:443", 50_000..=50_000).map(|(_, port)| port), Some(port));
}

#[test]
fn sequences_are_secret_and_their_own_for_each_destination() {
    let ports = |secret: u8, remote: &str| -> Vec<u16> {
        let mut e = engine(secret);
        (0..50).map(|_| open(&mut e, remote, RANGE).unwrap().1).collect()
    };
    let one = ports(1, "10.0.0.2:443");
    assert_eq!(one, ports(1, "10.0.0.2:443"));
    assert_ne!(one[0], ports(2, "10.0.0.2:443")[0]);
    assert_ne!(one[0], ports(1, "10.0.0.2:444")[0]);
    assert_ne!(one[0], ports(1, "10.0.0.3:443")[0]);
    // Onwards, with gaps now and then.
    let ahead = |pair: &[u16]| (i32::from(pair[1]) - i32::from(pair[0])).rem_euclid(32_767);
    assert!(one.windows(2).all(|pair| (1..=2).contains(&ahead(pair))), "{one:?}");
    assert!(one.windows(2).any(|pair| ahead(pair) == 2), "{one:?}");
    // Connections to others do not show in the ports one of them sees, but by chance.
    let mut e = engine(1);
    let mut seen = Vec::new();
    for i in 0..50 {
        seen.push(open(&mut e, "10.0.0.2:443", RANGE).unwrap().1);
        open(&mut e, &format!("10.1.0.{i}:443"), RANGE).unwrap();
    }
    assert!(seen.windows(2).all(|pair| (1..=4).contains(&ahead(pair))), "{seen:?}");
}

#[test]
fn closed_connections_do_not_bring_their_port_back_soon() {
    let mut e = engine(1);
    let mut last = HashSet::new();
    for _ in 0..1000 {
        let (conn, port) = open(&mut e, "10.0.0.2:443", RANGE).unwrap();
        e.abort(conn, NOW);
        assert!(last.insert(port));
    }
}

#[test]
fn answers_come_back_to_the_shard() {
    let sharding = Sharding::symmetric(4);
    let remote = "10.0.0.2:443";
    let mut all = HashSet::new();
    for shard in (0..4).map(ShardId) {
        let mut e = engine(shard.0 as u8);
        let t = to(remote);
        let mut count = 0;
        while let Some(port) = e.choose_port(&t, RANGE, |first| {
            sharding.source_ports(t.local.into(), t.peer_addr(), shard, RANGE, first)
        }) {
            let t = FourTuple { local_port: port, ..t };
            assert_eq!(sharding.owner_of(&t), shard);
            e.connect(t, NOW).unwrap();
            assert!(all.insert(port), "a port of one shard only");
            count += 1;
        }
        assert!((7_500..9_000).contains(&count), "{count}");
    }
    assert_eq!(all.len(), RANGE.len());
}
