//! SYN cookies: what a flood leaves to real clients, what forgers get, what is kept.

use throng_net::tcp::*;
use throng_runtime::Instant;

use crate::peer::*;
use crate::world::*;

fn always() -> Config {
    Config { max_half_open: 0, ..Config::default() }
}

/// A SYN with these options and the answer to it.
fn ask(p: &mut Peer, options: Options) -> Segment {
    p.ts = options.timestamps.map(|(value, _)| value);
    let mut syn = header(p.tuple, p.seq, SeqNum(0), Flags::SYN);
    syn.options = options;
    p.engine.on_segment(&syn, &[], p.now);
    let answer = p.one();
    assert!(answer.has(Flags::SYN | Flags::ACK));
    assert_eq!(answer.header.ack, p.seq + 1);
    assert_eq!(p.engine.usage().half_open, 0, "nothing is kept");
    answer
}

/// The acknowledgement that completes what `answer` began.
fn completion(p: &Peer, answer: &Segment) -> Header {
    let mut ack = header(p.tuple, p.seq + 1, answer.header.seq + 1, Flags::ACK);
    let echo = answer.header.options.timestamps.map(|(value, _)| value);
    ack.options.timestamps = p.ts.zip(echo);
    ack
}

fn complete(p: &mut Peer, answer: &Segment) {
    let ack = completion(p, answer);
    p.engine.on_segment(&ack, &[], p.now);
    (p.seq, p.ack, p.iss) = (p.seq + 1, ack.ack, answer.header.seq);
    p.none();
    p.accept();
}

/// Spoofed SYNs to the listener of `engine`.
fn flood(engine: &mut Engine, count: u32, now: Instant) {
    for i in 0..count {
        let from = format!("172.16.{}.{}:{}", i >> 8 & 255, i & 255, 1024 + i % 60_000);
        let mut syn = header(tuple("10.0.0.2:80", &from), SeqNum(i), SeqNum(0), Flags::SYN);
        syn.options = everything();
        engine.on_segment(&syn, &[], now);
    }
}

#[test]
fn real_clients_connect_through_a_flood() {
    const HALF_OPEN: usize = 64;
    let server = Config { max_half_open: HALF_OPEN, ..Config::default() };
    let mut w = World::with(1, Config::default(), server);
    let listener = w.listen();
    for round in 0..10 {
        let now = w.now;
        flood(&mut w.engines[1], 10 * HALF_OPEN as u32, now);
        assert_eq!(w.engines[1].usage().half_open, HALF_OPEN);
        let (client, server) = w.connect(listener);
        w.send(0, client, b"hello");
        w.send(1, server, &[round; 60_000]);
        let ok = w.until(secs(10), |w| w.engines[0].readable_bytes(client) == 60_000);
        assert!(ok, "round {round}");
        assert_eq!(w.read(1, server), b"hello");
        for (engine, conn) in [(0, client), (1, server)] {
            let info = w.engines[engine].info(conn, w.now).unwrap();
            assert!(info.timestamps && info.sack, "options are kept");
            assert_eq!((info.mss, info.snd_scale, info.rcv_scale), (1448, Some(7), Some(7)));
        }
    }
    let counters = w.engines[1].counters();
    assert_eq!((counters.syn_cookies_accepted, counters.accepts), (10, 10));
    assert!(counters.syn_cookies_sent > 9 * 10 * HALF_OPEN as u64 - 1_000);
    assert_eq!(counters.syn_cookies_rejected, 0);
    assert!(counters.replies_dropped < 100, "{}", counters.replies_dropped);
}

#[test]
fn options_are_kept_with_timestamps_and_degrade_without() {
    for mss in [1, 48, 535, 536, 1000, 1300, 1400, 1460, 9000] {
        let known = match mss {
            1 => 48,
            535 => 384,
            1000 => 800,
            9000 => 1460,
            exact => exact,
        };
        for scale in [None, Some(0), Some(7), Some(14)] {
            for sack in [false, true] {
                let options = Options {
                    mss: Some(mss),
                    window_scale: scale,
                    sack_permitted: sack,
                    ..everything()
                };
                let mut p = Peer::listening(always());
                let answer = ask(&mut p, options);
                let said = answer.header.options;
                assert_eq!(said.window_scale, scale.map(|_| 7));
                assert_eq!((said.sack_permitted, said.timestamps.unwrap().1), (sack, 1000));
                complete(&mut p, &answer);
                let info = p.info();
                assert_eq!((info.snd_scale, info.sack, info.timestamps), (scale, sack, true));
                assert_eq!(info.mss, known - 12);
                assert_eq!(info.snd_wnd, 0xffff << scale.unwrap_or(0));

                let mut p = Peer::listening(always());
                let answer = ask(&mut p, Options { timestamps: None, ..options });
                let said = answer.header.options;
                let bare = Options { mss: Some(1460), ..Options::default() };
                assert_eq!(said, bare, "nothing is promised that cannot be kept");
                complete(&mut p, &answer);
                let info = p.info();
                assert_eq!((info.snd_scale, info.sack, info.timestamps), (None, false, false));
                assert_eq!((info.mss, info.snd_wnd), (known, 0xffff));
            }
        }
    }
}

#[test]
fn data_on_the_completing_ack_is_delivered() {
    let mut p = Peer::listening(always());
    let answer = ask(&mut p, everything());
    let ack = completion(&p, &answer);
    p.engine.on_segment(&Header { flags: Flags::ACK | Flags::FIN, ..ack }, b"question", p.now);
    p.engine.check_invariants();
    p.accept();
    assert_eq!(p.read(), b"question");
    assert_eq!(p.recv(), Ok(bytes::Bytes::new()), "the FIN counts, too");
    p.send(b"answer");
    let out = p.out();
    let data = out.iter().find(|s| s.len() > 0).unwrap();
    assert_eq!((data.payload.as_slice(), data.header.seq), (&b"answer"[..], ack.ack));
    assert_eq!(data.header.ack, ack.seq + 9);
}

#[test]
fn forgeries_are_rejected() {
    let mut p = Peer::listening(always());
    let answer = ask(&mut p, everything());
    let good = completion(&p, &answer);
    let mut rng = Rng(5);
    for round in 0..200_000 {
        let mut forged = good;
        forged.ack = SeqNum(rng.next() as u32);
        if round % 2 == 0 {
            // Somebody else's cookie, too.
            forged.tuple.remote_port ^= 1 + (rng.next() as u16 & 0x7fff);
            forged.ack = good.ack;
        }
        p.engine.on_segment(&forged, b"evil", p.now);
    }
    // One of 2^28 is right by luck.
    assert!(p.engine.counters().syn_cookies_rejected >= 199_999);
    assert!(p.engine.usage().connections <= 1);
    let rejected = p.engine.counters().syn_cookies_rejected;
    for change in 0..5 {
        let mut forged = good;
        match change {
            0 => forged.seq += 1,
            1 => forged.ack += 1,
            2 => forged.tuple.remote.0[15] ^= 1,
            3 => forged.options.timestamps = Some((1000, good.options.timestamps.unwrap().1 + 64)),
            _ => forged.options.timestamps = Some((1000, 77)),
        }
        p.engine.on_segment(&forged, &[], p.now);
        assert_eq!(p.engine.counters().syn_cookies_rejected, rejected + 1 + change);
    }
    let answers = p.out();
    assert!(answers.iter().all(|s| s.has(Flags::RST)), "the normal answer");
    assert!(answers.len() <= 1_005, "rate-limited");
    p.engine.on_segment(&good, &[], p.now);
    assert_eq!(p.engine.counters().syn_cookies_accepted, 1);
}

#[test]
fn a_cookie_lasts_one_to_two_periods() {
    for (wait, good) in [(0, true), (63, true), (128, false), (200, false), (10_000, false)] {
        let mut p = Peer::listening(always());
        let answer = ask(&mut p, everything());
        p.pass(secs(wait));
        let ack = completion(&p, &answer);
        p.engine.on_segment(&ack, &[], p.now);
        assert_eq!(p.engine.counters().syn_cookies_accepted, u64::from(good), "{wait} s");
        // With none sent lately nothing is even looked at.
        assert_eq!(p.engine.counters().syn_cookies_rejected, 0);
        assert_eq!(p.engine.counters().no_connection, u64::from(!good));
        assert_eq!(p.out().len(), usize::from(!good), "a reset, if it is none");
        // Old ones are rejected for what they are while new ones are out.
        if !good {
            let other = tuple("10.0.0.2:80", "10.0.0.7:7");
            p.engine.on_segment(&header(other, SeqNum(1), SeqNum(0), Flags::SYN), &[], p.now);
            p.engine.on_segment(&ack, &[], p.now);
            assert_eq!(p.engine.counters().syn_cookies_rejected, 1);
        }
    }
}

#[test]
fn clocks_and_numbers_wrap() {
    let mut rng = Rng(9);
    for round in 0..300 {
        // Around where the millisecond clock, and with it the timestamp, wraps.
        let now = Instant::from_millis((1 << 32) - 200 + rng.below(400));
        let mut secret = [0; 32];
        secret[..8].copy_from_slice(&rng.next().to_le_bytes());
        let mut p = Peer::listening(always());
        p.engine = Engine::new(always(), secret, now);
        p.listener = p.engine.listen("10.0.0.2:80".parse().unwrap(), 4).unwrap();
        p.now = now;
        p.seq = SeqNum([u32::MAX, 0, u32::MAX - 1, 1 << 31][round % 4]);
        let theirs = [u32::MAX - 1, 5, 1 << 31][round % 3];
        let answer = ask(&mut p, Options { timestamps: Some((theirs, 0)), ..everything() });
        p.now += ms(rng.below(1_000));
        p.ts = Some(theirs.wrapping_add(2));
        complete(&mut p, &answer);
        p.data(b"over the edge");
        assert_eq!(p.read(), b"over the edge");
        p.send(b"and back");
        let data = p.out().into_iter().find(|s| s.len() > 0).unwrap();
        let (sent, began) = (data.header.options.timestamps, answer.header.options.timestamps);
        let age = sent.unwrap().0.wrapping_sub(began.unwrap().0);
        assert!(age < 1_100, "timestamps do not go back: {age}");
        p.acknowledge(p.iss + 9);
        assert_eq!(p.info().in_flight, 0);
    }
}

#[test]
fn no_cookie_makes_two_connections() {
    for reset in [false, true] {
        let mut p = Peer::listening(always());
        let answer = ask(&mut p, everything());
        let ack = completion(&p, &answer);
        complete(&mut p, &answer);
        p.engine.on_segment(&ack, &[], p.now);
        assert_eq!(p.engine.counters().accepts, 1, "it finds the connection");
        if reset {
            p.engine.abort(p.conn, p.now);
            p.out();
        } else {
            // Closed by the peer: no TIME_WAIT on this side.
            p.inject(0, Flags::ACK | Flags::FIN, &[]);
            p.seq += 1;
            p.engine.close(p.conn, p.now);
            p.out();
            p.acknowledge(answer.header.seq + 2);
        }
        assert_eq!((p.engine.usage().connections, p.engine.usage().time_wait), (0, 0));
        for _ in 0..2 {
            p.engine.on_segment(&ack, b"replay", p.now);
            assert!(p.one().has(Flags::RST));
            p.pass(secs(50));
        }
        let counters = p.engine.counters();
        assert_eq!((counters.accepts, counters.syn_cookies_rejected), (1, 2));
    }
}

#[test]
fn a_full_accept_queue_still_drops() {
    let mut p = Peer::listening(always());
    let first = p.tuple;
    let mut acks = Vec::new();
    for port in 0..6 {
        p.tuple.remote_port = 7_000 + port;
        let answer = ask(&mut p, everything());
        acks.push(completion(&p, &answer));
    }
    for ack in &acks {
        p.engine.on_segment(ack, &[], p.now);
        p.engine.check_invariants();
    }
    let counters = p.engine.counters();
    assert_eq!((counters.accepts, counters.accept_overflow), (4, 2));
    p.none();
    p.tuple = first;
    let syn = header(first, SeqNum(1), SeqNum(0), Flags::SYN);
    p.engine.on_segment(&syn, &[], p.now);
    p.none();
    assert_eq!(p.engine.counters().syn_dropped_backlog, 1);
    // Once there is room, what the peer says next completes it.
    assert!(p.engine.accept(p.listener).is_some());
    p.engine.on_segment(&acks[5], b"data", p.now);
    assert_eq!(p.engine.counters().syn_cookies_accepted, 5);
}

#[test]
fn a_connection_limit_still_drops() {
    let mut p = Peer::listening(Config { max_connections: 1, ..always() });
    let answer = ask(&mut p, everything());
    let ack = completion(&p, &answer);
    let taken = p.engine.connect(tuple("10.0.0.2:9", "10.0.0.3:9"), p.now).unwrap();
    assert_eq!(p.out().len(), 1);
    p.engine.on_segment(&ack, &[], p.now);
    assert_eq!(p.engine.counters().syn_dropped_connections, 1);
    p.engine.abort(taken, p.now);
    p.none();
    p.engine.on_segment(&ack, &[], p.now);
    assert_eq!(p.engine.counters().accepts, 1);
}

#[test]
fn the_table_and_cookies_take_turns() {
    let mut p = Peer::listening(Config { max_half_open: 1, ..Config::default() });
    flood(&mut p.engine, 1, p.now);
    p.out();
    let answer = ask_again(&mut p);
    // The place is free when the same SYN comes again, and the cookie's ACK comes late.
    let blocked = tuple("10.0.0.2:80", "172.16.0.0:1024");
    let rst = header(blocked, SeqNum(1), SeqNum(0), Flags::RST);
    p.engine.on_segment(&rst, &[], p.now);
    assert_eq!(p.engine.usage().half_open, 0);
    let second = ask_again(&mut p);
    assert_eq!(p.engine.usage().half_open, 1);
    assert_ne!(second.header.seq, answer.header.seq);
    p.ts = Some(1000);
    let ack = completion(&p, &answer);
    p.engine.on_segment(&ack, &[], p.now);
    p.none();
    assert_eq!((p.engine.usage().half_open, p.engine.usage().connections), (0, 1));
    assert_eq!(p.engine.counters().syn_cookies_accepted, 1);
    p.engine.check_invariants();
}

fn ask_again(p: &mut Peer) -> Segment {
    let mut syn = header(p.tuple, p.seq, SeqNum(0), Flags::SYN);
    syn.options = everything();
    p.engine.on_segment(&syn, &[], p.now);
    p.one()
}

#[test]
fn stray_segments_open_nothing() {
    let mut p = Peer::listening(always());
    let answer = ask(&mut p, everything());
    let ack = completion(&p, &answer);
    for flags in [Flags::RST | Flags::ACK, Flags::SYN | Flags::ACK, Flags::FIN, Flags(0)] {
        p.engine.on_segment(&Header { flags, ..ack }, &[], p.now);
        p.out();
    }
    // Nobody listens any more.
    p.engine.close_listener(p.listener);
    p.engine.on_segment(&ack, &[], p.now);
    assert!(p.one().has(Flags::RST));
    assert_eq!(p.engine.counters().accepts, 0);
    assert_eq!(p.engine.counters().syn_cookies_rejected, 0);
}

/// A connection opened by a cookie and closed by us: its tuple is in TIME_WAIT.
fn in_time_wait(options: Options) -> (Peer, Header) {
    let mut p = Peer::listening(always());
    let answer = ask(&mut p, options);
    let ack = completion(&p, &answer);
    complete(&mut p, &answer);
    p.send(&[1; 500]);
    p.engine.close(p.conn, p.now);
    p.out();
    p.ack = answer.header.seq + 502;
    p.inject(0, Flags::ACK | Flags::FIN, &[]);
    p.seq += 1;
    p.out();
    assert_eq!(p.engine.usage().time_wait, 1);
    (p, ack)
}

#[test]
fn a_cookie_takes_time_wait_over_when_it_comes_back() {
    let (mut p, first) = in_time_wait(everything());
    p.now += ms(100);
    p.seq += 100_000;
    let options = Options { timestamps: Some((5_000, 0)), ..everything() };
    let answer = ask(&mut p, options);
    // A SYN proves nothing: the entry stays, and forged ones are nothing to it.
    assert_eq!((p.engine.usage().time_wait, p.engine.counters().time_wait_reused), (1, 0));
    // Neither does a late copy of the ACK that opened the first connection.
    p.engine.on_segment(&first, &[], p.now);
    p.out();
    assert_eq!((p.engine.usage().time_wait, p.engine.counters().accepts), (1, 1));
    let ack = completion(&p, &answer);
    for forged in [
        Header { ack: ack.ack + 1, ..ack },
        Header { seq: ack.seq + 1, ..ack },
        Header { flags: Flags::ACK | Flags::RST, ..ack },
    ] {
        p.engine.on_segment(&forged, &[], p.now);
        p.out();
        assert_eq!(p.engine.usage().time_wait, 1);
    }
    complete(&mut p, &answer);
    let counters = p.engine.counters();
    assert_eq!((counters.time_wait_reused, counters.syn_cookies_accepted), (1, 2));
    assert_eq!((p.engine.usage().time_wait, p.engine.usage().connections), (0, 1));
    p.data(b"again");
    assert_eq!(p.read(), b"again");
    p.engine.check_invariants();
}

#[test]
fn without_timestamps_a_cookie_lies_beyond_what_was_sent_or_is_not_sent() {
    let options = Options { timestamps: None, ..everything() };
    let mut sent = 0;
    for port in 0..40 {
        let (mut p, _) = in_time_wait(options);
        let end = p.ack;
        p.seq += 100_000 + port;
        let mut syn = header(p.tuple, p.seq, SeqNum(0), Flags::SYN);
        syn.options = options;
        p.engine.on_segment(&syn, &[], p.now);
        let out = p.out();
        let dropped = p.engine.counters().syn_dropped_half_open;
        assert_eq!(out.len() as u64 + dropped, 1);
        if let Some(answer) = out.first() {
            assert!(answer.header.seq.after(end));
            complete(&mut p, answer);
            assert_eq!(p.engine.usage().time_wait, 0);
            sent += 1;
        }
    }
    assert!((5..35).contains(&sent), "{sent}: about half of them");
}

#[test]
fn a_half_open_connection_outlasts_a_cookie_that_finds_no_place() {
    let mut p = Peer::listening(Config { max_half_open: 1, ..Config::default() });
    flood(&mut p.engine, 1, p.now);
    p.out();
    let answer = ask_again(&mut p);
    let blocked = tuple("10.0.0.2:80", "172.16.0.0:1024");
    p.engine.on_segment(&header(blocked, SeqNum(1), SeqNum(0), Flags::RST), &[], p.now);
    let second = ask_again(&mut p);
    assert_eq!(p.engine.usage().half_open, 1);
    p.ts = Some(1000);
    let (late, ack) = (completion(&p, &answer), completion(&p, &second));
    // The accept queue is full meanwhile.
    let tuples: Vec<_> = (0..4).map(|n| tuple("10.0.0.2:80", &format!("10.0.0.9:{n}"))).collect();
    for t in &tuples {
        let mut syn = header(*t, SeqNum(9), SeqNum(0), Flags::SYN);
        syn.options = plain();
        p.engine.on_segment(&syn, &[], p.now);
        let cookie = p.one().header.seq;
        p.engine.on_segment(&header(*t, SeqNum(10), cookie + 1, Flags::ACK), &[], p.now);
    }
    p.engine.on_segment(&late, &[], p.now);
    p.none();
    assert_eq!((p.engine.usage().half_open, p.engine.counters().accept_overflow), (1, 1));
    while p.engine.accept(p.listener).is_some() {}
    p.engine.on_segment(&ack, &[], p.now);
    assert_eq!((p.engine.usage().half_open, p.engine.usage().connections), (0, 5));
    p.engine.check_invariants();
}

#[test]
fn accepted_cookies_are_in_the_count_of_memory() {
    let mut p = Peer::listening(always());
    let before = p.engine.usage().tables;
    for port in 1..=200 {
        let t = tuple("10.0.0.2:80", &format!("10.0.0.9:{port}"));
        p.engine.on_segment(&header(t, SeqNum(9), SeqNum(0), Flags::SYN), &[], p.now);
        let cookie = p.one().header.seq;
        p.engine.on_segment(&header(t, SeqNum(10), cookie + 1, Flags::ACK), &[], p.now);
        let conn = p.engine.accept(p.listener).unwrap();
        p.engine.abort(conn, p.now);
        p.out();
    }
    assert_eq!(p.engine.usage().connections, 0);
    assert!(p.engine.usage().tables >= before + 200 * 16);
}
