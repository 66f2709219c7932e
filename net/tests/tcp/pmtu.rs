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
    let first = p.iss + 1;
    p.engine.on_icmp_too_big(p.tuple, first + 1448, said(1000), p.now);
    // RFC 1191 6.5: by slow start, from the initial window.
    let out = p.out();
    assert_eq!(out.len(), 10);
    for (n, segment) in out.iter().enumerate() {
        assert_eq!((segment.header.seq, segment.len()), (first + n as u32 * 948, 948));
    }
    let info = p.info();
    assert_eq!((info.mss, info.cwnd, info.ssthresh), (948, 9_480, u32::MAX), "no congestion");
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
    let longer = TooBig { mtu: 1000, quoted: 14_480 + 40 + 41 };
    let fits = TooBig { mtu: 1400, quoted: 1400 };
    for (tuple, seq, said) in [
        (other, first, said(1000)),
        // Not in flight.
        (p.tuple, first - 1, said(1000)),
        (p.tuple, first + 14_480, said(1000)),
        (p.tuple, SeqNum(first.0 ^ 1 << 31), said(1000)),
        // Nothing of ours was so long, or it would have passed.
        (p.tuple, first, longer),
        (p.tuple, first + 13_032, TooBig { quoted: 3_000, ..longer }),
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
fn a_packet_that_was_yet_to_be_cut_is_quoted_whole() {
    // A router in the kernel that we are attached to sees what the device is to cut.
    for (at, quoted) in [(0, 14_480 + 52), (0, 14_480 + 80), (1_448, 13_032 + 52)] {
        let mut p = Peer::established(everything());
        p.send(&[7; 20_000]);
        let out = drain_tso(&mut p.engine, p.now, 65_000);
        assert_eq!(out.len(), 10);
        let first = p.iss + 1;
        let said = TooBig { mtu: 1_000, quoted };
        p.engine.on_icmp_too_big(p.tuple, first + at, said, p.now);
        assert_eq!((p.info().mss, p.one_of_many().len()), (948, 948), "{quoted}");
    }
    // One that names no MTU means less than a segment, not less than the whole.
    let mut p = flying();
    p.engine.on_icmp_too_big(p.tuple, p.iss + 1, TooBig { mtu: 0, quoted: 14_532 }, p.now);
    assert_eq!(p.info().mss, 1_492 - HEADERS - 12);
}

#[test]
fn falling_mtus_buy_few_flights() {
    // Whoever sees the segments can say what he likes: it costs us a few flights, not one each.
    let mut p = flying();
    let first = p.iss + 1;
    let mut sent = 0;
    for mtu in (600..1_500).rev() {
        p.engine.on_icmp_too_big(p.tuple, first, said(mtu), p.now);
        sent += p.out().iter().map(Segment::len).sum::<usize>();
    }
    assert!(sent < 5 * 14_480, "{sent}");
    assert_eq!(p.info().mss, 1_496 - HEADERS - 12, "the fifth awaits a timeout");
    assert_eq!(p.engine.counters().path_mtu_doubted, 1_496 - 600);
    // Which proves the last of them.
    let sent = p.pass(ms(250));
    assert_eq!(sent[0].1.len(), 600 - 40 - 12);
    assert_eq!(p.engine.counters().path_mtu_lowered, 5);
}

#[test]
fn what_has_passed_needs_a_timeout_to_be_disbelieved() {
    // RFC 5927 7.2: long segments have arrived all the time.
    let flowing = || {
        let mut p = flying();
        p.send(&[7; 100_000]);
        while p.info().bytes_acked < 40_000 {
            let last = p.out().pop().map_or(p.iss + 1 + 14_480, |s| s.header.seq + 1_448);
            p.acknowledge(last);
        }
        p.out();
        p
    };
    let mut p = flowing();
    let una = p.ack;
    p.engine.on_icmp_too_big(p.tuple, una, said(700), p.now);
    p.none();
    assert_eq!((p.info().mss, p.engine.counters().path_mtu_doubted), (1_448, 1));
    // They still do: it was a lie.
    p.acknowledge(una + 1_448);
    let sent = p.pass(ms(400));
    assert!(p.engine.counters().timeouts > 0);
    assert_eq!((sent[0].1.len(), p.info().mss), (1_448, 1_448));
    assert_eq!(p.engine.counters().path_mtu_lowered, 0);

    let mut p = flowing();
    p.engine.on_icmp_too_big(p.tuple, p.ack, said(700), p.now);
    let sent = p.pass(ms(400));
    // A probe of the tail comes first.
    assert_eq!((sent[1].1.len(), p.info().mss), (648, 648), "they do not");
    assert_eq!(p.engine.counters().path_mtu_lowered, 1);
    // After a timeout there is no doubt.
    let mut p = flowing();
    p.pass(ms(400));
    p.engine.on_icmp_too_big(p.tuple, p.ack, said(700), p.now);
    assert_eq!((p.info().mss, p.one_of_many().len()), (648, 648));
    // Nothing is kept of what is over.
    p.engine.abort(p.conn, p.now);
    p.out();
    p.engine.check_invariants();
}

fn holes() -> Config {
    Config { black_hole_detection: true, ..Config::default() }
}

/// A probe of the tail and three timeouts in a row, after which a shorter segment is out.
fn vanished() -> Peer {
    let mut p = flying_with(holes());
    let lens: Vec<usize> = p.pass(ms(1_500)).iter().map(|(_, s)| s.len()).collect();
    assert_eq!(lens, [1448, 1448, 1448, 718]);
    p
}

#[test]
fn full_segments_that_vanish_are_halved() {
    // Not where it is turned off.
    let mut p = flying_with(Config { black_hole_detection: false, ..Config::default() });
    let lens: Vec<usize> = p.pass(secs(40)).iter().map(|(_, s)| s.len()).collect();
    assert!(lens.len() > 6 && lens.iter().all(|len| *len == 1448), "{lens:?}");

    let mut p = flying_with(holes());
    let lens: Vec<usize> = p.pass(secs(60)).iter().map(|(_, s)| s.len()).collect();
    assert_eq!(lens[..4], [1448, 1448, 1448, 718], "a probe of the tail first");
    assert_eq!(lens[4..9], [500, 1448, 1448, 1448, 500], "rather an outage");

    let mut p = vanished();
    p.acknowledge(p.iss + 1 + 718);
    assert_eq!(p.info().mss, 718, "what has passed is kept");
    assert_eq!(p.engine.counters().path_mtu_suspected, 1);
    assert!(p.out().iter().all(|s| s.len() == 718));

    let mut p = vanished();
    p.acknowledge(p.iss + 1 + 1448);
    assert_eq!(p.info().mss, 1448, "it was only late");

    // Short ones say nothing about the path.
    let mut p = Peer::established_with(holes(), everything());
    p.send(&[7; 1_000]);
    p.out();
    let lens: Vec<usize> = p.pass(secs(20)).iter().map(|(_, s)| s.len()).collect();
    assert!(lens.len() > 4 && lens.iter().all(|len| *len == 1_000), "{lens:?}");
    assert_eq!(p.engine.counters().path_mtu_suspected, 0);
}

#[test]
fn a_lossy_peer_shortens_nobody_elses_segments() {
    let mut p = vanished();
    let first = p.tuple;
    p.acknowledge(p.iss + 1 + 718);
    p.out();
    assert_eq!(p.info().mss, 718);
    let lossy = p.conn;
    (p.tuple.remote_port, p.seq) = (7_777, SeqNum(77));
    p.open(everything());
    p.accept();
    assert_eq!(p.info().mss, 1_448);
    p.send(&[7; 20_000]);
    p.out();
    assert_eq!(p.info().mss, 1_448);
    assert_ne!(first, p.tuple);
    assert_eq!(p.engine.info(lossy, p.now).unwrap().mss, 718);
}

/// Acknowledges what comes until `time` is over, and sends more and more. Segments longer than
/// `passes` are lost, and others behind them reported. Returns the lengths of all of those.
fn flow(p: &mut Peer, time: u64, passes: usize) -> Vec<usize> {
    let mut lost = Vec::new();
    let mut missing: Vec<(SeqNum, SeqNum)> = Vec::new();
    let mut next = p.ack;
    for _ in 0..time / 50 {
        if p.info().send_queue < 10_000 {
            p.send(&[7; 10_000]);
        }
        for s in p.pass(ms(50)).into_iter().map(|(_, s)| s).chain(p.out()) {
            let (from, to) = (s.header.seq, s.header.seq + s.len() as u32);
            if s.len() > passes {
                lost.push(s.len());
                missing.push((from, to));
            } else {
                let inside = |(a, b): &(SeqNum, SeqNum)| from.at_or_after(*a) && from.before(*b);
                if let Some(at) = missing.iter().position(inside) {
                    missing[at].0 = to;
                    if to.at_or_after(missing[at].1) {
                        missing.remove(at);
                    }
                }
            }
            if to.after(next) {
                next = to;
            }
            p.ts = p.ts.map(|ts| ts + 1);
            let mut h = p.header(Flags::ACK);
            h.ack = missing.first().map_or(next, |(from, _)| *from);
            if let Some((_, end)) = missing.first().filter(|(_, end)| end.before(next)) {
                h.options.sack[0] = Some(SackBlock { start: *end, end: next });
            }
            p.ack = h.ack;
            p.engine.on_segment(&h, &[], p.now);
            p.engine.check_invariants();
        }
    }
    lost
}

#[test]
fn a_full_segment_is_tried_now_and_then() {
    // It was an outage: the first one tried arrives, after a second.
    let mut p = vanished();
    p.acknowledge(p.iss + 1 + 718);
    assert_eq!(flow(&mut p, 900, 5_000), []);
    assert_eq!(p.info().mss, 718);
    assert_eq!(flow(&mut p, 300, 5_000), []);
    assert_eq!(p.info().mss, 1_448);
    let counters = p.engine.counters();
    assert_eq!((counters.path_mtu_probes, counters.path_mtu_raised), (1, 1));

    // It is a black hole: one segment after a second, one after a quarter of a minute, and then
    // one in ten minutes, none of which costs a timeout.
    let mut p = vanished();
    p.acknowledge(p.iss + 1 + 718);
    let timeouts = p.engine.counters().timeouts;
    assert_eq!(flow(&mut p, 30_000, 800), [1_448, 1_448]);
    assert_eq!(flow(&mut p, 500_000, 800), []);
    assert_eq!(flow(&mut p, 110_000, 800), [1_448]);
    let counters = p.engine.counters();
    assert_eq!((counters.path_mtu_probes, counters.path_mtu_raised), (3, 0));
    assert_eq!((counters.timeouts - timeouts, p.info().mss), (0, 718));
}
