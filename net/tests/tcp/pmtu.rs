//! Path MTU discovery: whom the engine believes, and what it does then.

use throng_net::tcp::*;

use crate::peer::*;
use crate::world::*;

const HEADERS: u16 = 40;

fn flying() -> Peer {
    flying_with(Config::default())
}

fn flying_with(config: Config) -> Peer {
    let mut p = Peer::established_with(config, everything());
    p.send(&[7; 20_000]);
    let out = p.out();
    assert_eq!((out.len(), out[0].len()), (10, 1448));
    p
}

fn said(mtu: u16) -> TooBig {
    TooBig { mtu, quoted: 1500 }
}

#[test]
fn what_is_out_goes_again_in_shorter_segments() {
    let mut p = flying();
    let cwnd = p.info().cwnd;
    let first = p.iss + 1;
    p.engine.on_icmp_too_big(p.tuple, first + 1448, said(1000), p.now);
    let mut next = first;
    while next.before(first + 14_000) {
        let out = p.out();
        assert!(!out.is_empty());
        for segment in out {
            assert_eq!((segment.header.seq, segment.len()), (next, 1000 - 40 - 12));
            next += segment.len() as u32;
        }
    }
    let info = p.info();
    assert_eq!((info.mss, info.cwnd, info.ssthresh), (948, cwnd, u32::MAX), "no congestion");
    let counters = p.engine.counters().clone();
    assert_eq!((counters.path_mtu_lowered, counters.timeouts, counters.recoveries), (1, 0, 0));
    // The same news again, of another of those segments.
    p.engine.on_icmp_too_big(p.tuple, first, said(1000), p.now);
    p.none();
    p.acknowledge(first + 14_480);
    assert!(p.out().iter().all(|s| s.len() <= 948));
    assert!(!p.info().recovering);
}

#[test]
fn what_the_peer_has_is_not_sent_again() {
    let mut p = flying();
    let first = p.iss + 1;
    let block = SackBlock { start: first + 1448, end: first + 2 * 1448 };
    let mut ack = p.header(Flags::ACK);
    ack.options.sack[0] = Some(block);
    p.engine.on_segment(&ack, &[], p.now);
    p.out();
    p.engine.on_icmp_too_big(p.tuple, first, said(1000), p.now);
    for segment in p.out() {
        let end = segment.header.seq + segment.len() as u32;
        assert!(end.at_or_before(block.start) || segment.header.seq.at_or_after(block.end));
    }
}

#[test]
fn forgeries_are_ignored() {
    let mut p = flying();
    let first = p.iss + 1;
    let mut other = p.tuple;
    other.remote_port += 1;
    let longer = TooBig { mtu: 1000, quoted: 1501 };
    let fits = TooBig { mtu: 1400, quoted: 1400 };
    for (tuple, seq, said) in [
        (other, first, said(1000)),
        // Not in flight.
        (p.tuple, first - 1, said(1000)),
        (p.tuple, first + 14_480, said(1000)),
        (p.tuple, SeqNum(first.0 ^ 1 << 31), said(1000)),
        // Nothing of ours was so long, or it would have passed.
        (p.tuple, first, longer),
        (p.tuple, first, fits),
        (p.tuple, first, said(1500)),
        (p.tuple, first, said(u16::MAX)),
    ] {
        let ignored = p.engine.counters().icmp_ignored;
        p.engine.on_icmp_too_big(tuple, seq, said, p.now);
        assert_eq!(p.engine.counters().icmp_ignored, ignored + 1, "{seq:?} {said:?}");
        p.none();
        assert_eq!(p.info().mss, 1448);
    }
    // Nothing at all is out.
    p.acknowledge(first + 14_480);
    let out = p.out();
    let end = out.last().unwrap();
    p.acknowledge(end.header.seq + end.len() as u32);
    p.none();
    p.engine.on_icmp_too_big(p.tuple, p.ack, said(1000), p.now);
    assert_eq!(p.info().mss, 1448);
    p.engine.check_invariants();
}

#[test]
fn there_are_least_mtus() {
    for mtu in [1, 68, 551, 552] {
        let mut p = flying();
        p.engine.on_icmp_too_big(p.tuple, p.iss + 1, said(mtu), p.now);
        assert_eq!(p.info().mss, 552 - HEADERS - 12, "{mtu}");
    }
    let mut p = flying();
    p.engine.on_icmp_too_big(p.tuple, p.iss + 1, said(0), p.now);
    assert_eq!(p.info().mss, 1492 - HEADERS - 12, "the next plateau");

    let mut w = World::new(3);
    let listener = w.listen();
    let t = tuple("[fd00::1]:1234", "[fd00::2]:80");
    let (client, _) = w.connect_tuple(listener, t);
    w.run(ms(100));
    w.record = true;
    w.send(0, client, &[1; 5_000]);
    w.transmit();
    let seq = w.sent[0].2.header.seq;
    let now = w.now;
    for mtu in [0, 1, 1279] {
        w.engines[0].on_icmp_too_big(t, seq, said(mtu), now);
        assert_eq!(w.engines[0].info(client, now).unwrap().mss, 1428, "RFC 8201 4");
    }
    w.engines[0].on_icmp_too_big(t, seq, said(1280), now);
    assert_eq!(w.engines[0].info(client, now).unwrap().mss, 1280 - 60 - 12);
}

#[test]
fn other_connections_to_that_host_follow_and_new_ones_start_so() {
    let mut p = flying();
    let open = |p: &mut Peer, from: &str| {
        let t = tuple("10.0.0.2:80", from);
        let mut syn = header(t, SeqNum(1), SeqNum(0), Flags::SYN);
        syn.options = Options { timestamps: None, ..everything() };
        p.engine.on_segment(&syn, &[], p.now);
        let out = p.out();
        let answer = out.iter().find(|s| s.header.tuple == t).unwrap().header;
        let ack = header(t, SeqNum(2), answer.seq + 1, Flags::ACK);
        p.engine.on_segment(&ack, &[], p.now);
        (p.engine.accept(p.listener).unwrap(), answer.options.mss)
    };
    let (early, _) = open(&mut p, "10.0.0.1:777");
    let (stranger, _) = open(&mut p, "10.0.0.9:777");
    p.engine.on_icmp_too_big(p.tuple, p.iss + 1, said(1000), p.now);
    p.out();
    let (late, offered) = open(&mut p, "10.0.0.1:778");
    assert_eq!(offered, Some(1460), "what we receive is another matter");
    let mss = |p: &Peer, conn| p.engine.info(conn, p.now).unwrap().mss;
    assert_eq!(mss(&p, late), 960);
    for conn in [early, stranger] {
        p.engine.send(conn, vec![0; 5_000].into(), p.now).unwrap();
    }
    p.out();
    assert_eq!((mss(&p, early), mss(&p, stranger)), (960, 1460));
    let conn = p.engine.connect(tuple("10.0.0.2:1", "10.0.0.1:1"), p.now).unwrap();
    assert_eq!(mss(&p, conn), 1460);
    let syn = p.out().into_iter().find(|s| s.has(Flags::SYN)).unwrap().header;
    let mut answer = header(syn.tuple, SeqNum(9), syn.seq + 1, Flags::SYN | Flags::ACK);
    answer.options = plain();
    p.engine.on_segment(&answer, &[], p.now);
    assert_eq!(mss(&p, conn), 960, "the peer takes 1000");
    // Ten minutes later all send what both ends take.
    p.pass(secs(601));
    for (conn, full) in [(late, 1460), (conn, 1000)] {
        p.engine.send(conn, vec![0; 5_000].into(), p.now).unwrap();
        p.out();
        assert_eq!(mss(&p, conn), full);
    }
}

#[test]
fn full_segments_that_vanish_are_halved() {
    // Not unless asked for.
    let mut p = flying();
    let lens: Vec<usize> = p.pass(secs(40)).iter().map(|(_, s)| s.len()).collect();
    assert!(lens.len() > 6 && lens.iter().all(|len| *len == 1448), "{lens:?}");

    let flying = || flying_with(Config { black_hole_detection: true, ..Config::default() });
    let mut p = flying();
    let lens: Vec<usize> = p.pass(secs(40)).iter().map(|(_, s)| s.len()).collect();
    assert_eq!(lens[..6], [1448, 718, 500, 1448, 1448, 1448], "then it is rather an outage");
    let mut p = flying();
    let sent = p.pass(ms(700));
    assert_eq!(sent[1].1.len(), 718);
    p.acknowledge(p.iss + 1 + 718);
    assert_eq!(p.info().mss, 718, "what has passed is kept");
    assert_eq!(p.engine.counters().path_mtu_suspected, 1);
    assert!(p.out().iter().all(|s| s.len() == 718));

    let mut p = flying();
    p.pass(ms(700));
    p.acknowledge(p.iss + 1 + 1448);
    assert_eq!(p.info().mss, 1448, "it was only late");

    // Short ones say nothing about the path.
    let mut p = Peer::established_with(
        Config { black_hole_detection: true, ..Config::default() },
        everything(),
    );
    p.send(&[7; 1_000]);
    p.out();
    let lens: Vec<usize> = p.pass(secs(20)).iter().map(|(_, s)| s.len()).collect();
    assert!(lens.len() > 4 && lens.iter().all(|len| *len == 1_000), "{lens:?}");
    assert_eq!(p.engine.counters().path_mtu_suspected, 0);
}
