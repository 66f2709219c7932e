//! Which segments are believed: sequence numbers, RFC 5961, PAWS, resets, amplification.

use throng_net::engine::wire;
use throng_net::tcp::*;

use crate::peer::*;
use crate::world::*;

#[test]
fn reset_only_at_the_exact_number() {
    let mut p = Peer::established(plain());
    p.inject(1, Flags::RST, &[]);
    let challenge = p.one();
    assert_eq!((challenge.header.flags, challenge.header.ack), (Flags::ACK, p.seq));
    assert_eq!(p.state(), State::Established);
    // Again at once: the limit of this connection.
    p.inject(2, Flags::RST, &[]);
    p.none();
    assert_eq!(p.engine.counters().challenge_limited, 1);
    p.pass(ms(500));
    p.inject(2, Flags::RST, &[]);
    p.one();
    // Outside of the window: nothing at all.
    p.inject(1 << 20, Flags::RST, &[]);
    p.inject(-1, Flags::RST, &[]);
    p.none();
    p.inject(0, Flags::RST, &[]);
    assert_eq!(p.state(), State::Closed);
}

#[test]
fn one_connections_challenges_do_not_limit_another() {
    let mut p = Peer::established(plain());
    let (t1, seq1) = (p.tuple, p.seq);
    p.tuple = tuple("10.0.0.2:80", "10.0.0.9:1");
    p.seq = SeqNum(77);
    p.open(plain());
    p.accept();
    for _ in 0..100 {
        p.inject(1, Flags::RST, &[]);
    }
    p.engine.on_segment(&header(t1, seq1 + 1, SeqNum(0), Flags::RST), &[], p.now);
    let out = p.out();
    assert_eq!(out.len(), 2);
    assert_eq!(out[1].header.tuple, t1);
}

#[test]
fn syn_in_an_established_connection_is_challenged() {
    let mut p = Peer::established(plain());
    for ahead in [-1, 0, 5, 1 << 30] {
        p.inject(ahead, Flags::SYN, &[]);
        let out = p.out();
        assert_eq!((out.len(), out[0].header.flags), (1, Flags::ACK));
        assert_eq!(p.state(), State::Established);
        p.pass(ms(600));
    }
}

#[test]
fn acks_outside_the_range_are_challenged_or_ignored() {
    let mut p = Peer::established(plain());
    let h = |p: &Peer, ack: SeqNum| {
        let mut h = p.header(Flags::ACK);
        h.ack = ack;
        h
    };
    // Of data never sent (RFC 5961 5.2).
    let future = h(&p, p.ack + 1);
    p.engine.on_segment(&future, b"evil", p.now);
    assert_eq!(p.one().header.ack, p.seq);
    assert_eq!(p.read(), b"");
    p.pass(secs(1));
    // Far older than any window.
    let past = h(&p, p.ack - (1 << 20));
    p.engine.on_segment(&past, b"evil", p.now);
    p.one();
    assert_eq!(p.read(), b"");
    // Older than anything that was sent, by however little.
    p.pass(secs(1));
    p.send(&[0; 20]);
    p.out();
    p.acknowledge(p.ack + 20);
    let before = h(&p, p.ack - 22);
    p.engine.on_segment(&before, b"evil", p.now);
    p.one();
    assert_eq!(p.read(), b"");
    assert_eq!(p.engine.counters().bad_ack, 3);
    // A little old: overtaken on the way; its payload counts.
    let old = h(&p, p.ack - 10);
    p.engine.on_segment(&old, b"good", p.now);
    assert_eq!(p.read(), b"good");
    assert_eq!(p.engine.counters().bad_ack, 3);
}

#[test]
fn a_window_bounds_how_old_an_ack_may_be() {
    // RFC 5961 5.2: MAX.SND.WND, however small that is.
    let mut p = Peer::listening(Config::default());
    p.window = 2_000;
    p.open(plain());
    p.accept();
    for _ in 0..4 {
        p.send(&[0; 1_000]);
        p.out();
        p.acknowledge(p.ack + 1_000);
    }
    // The SYN's window was 65,535, and counts: nothing narrower was ever said before it.
    let mut old = p.header(Flags::ACK);
    old.ack = p.ack - 4_001;
    p.engine.on_segment(&old, b"old", p.now);
    assert_eq!(p.read(), b"old");
    old.ack = p.ack - 4_002;
    old.seq += 3;
    p.engine.on_segment(&old, b"evil", p.now);
    assert_eq!(p.read(), b"");
}

#[test]
fn old_and_future_payload_is_answered_not_kept() {
    let mut p = Peer::established(plain());
    p.data(b"0123456789");
    p.inject(-10, Flags::ACK, b"0123456789");
    assert_eq!(p.one().header.ack, p.seq);
    p.inject(1 << 20, Flags::ACK, b"beyond");
    assert_eq!(p.one().header.ack, p.seq);
    assert_eq!(p.engine.counters().out_of_window, 2);
    // Partly old.
    p.inject(-3, Flags::ACK, b"789abc");
    p.one();
    assert_eq!(p.read(), b"0123456789abc");
    assert_eq!(p.engine.counters().duplicate_bytes, 13);
}

#[test]
fn paws() {
    let mut p = Peer::established(everything());
    p.ts = Some(2000);
    p.data(b"new");
    p.out();
    p.pass(ms(100));
    p.ts = Some(1500);
    p.inject(0, Flags::ACK, b"old");
    assert_eq!(p.one().header.ack, p.seq, "answered with an ACK");
    assert_eq!(p.engine.counters().paws_dropped, 1);
    // No timestamp where there must be one: dropped without a word.
    p.ts = None;
    p.inject(0, Flags::ACK, b"none");
    p.none();
    assert_eq!(p.engine.counters().timestamp_missing, 1);
    assert_eq!(p.read(), b"new");
    // A reset needs none.
    p.inject(0, Flags::RST, &[]);
    assert_eq!(p.state(), State::Closed);
}

#[test]
fn paws_forgets_after_24_days() {
    let mut p = Peer::established(everything());
    p.ts = Some(0x8000_0000);
    p.data(b"x");
    p.out();
    p.pass(secs(25 * 86_400));
    p.ts = Some(0x7fff_0000);
    p.data(b"y");
    assert_eq!(p.read(), b"xy");
}

#[test]
fn timestamps_are_echoed_by_the_rule() {
    let mut p = Peer::established(everything());
    p.ts = Some(3000);
    p.data(b"one");
    p.pass(ms(50));
    p.ts = Some(3100);
    // Out of order: not the one to echo (RFC 7323 4.3).
    p.inject(5, Flags::ACK, b"later");
    assert_eq!(p.one().header.options.timestamps.unwrap().1, 3000);
    p.ts = Some(3200);
    p.data(b"fills");
    assert_eq!(p.one().header.options.timestamps.unwrap().1, 3200);
}

#[test]
fn segments_to_nobody_are_reset_within_a_limit() {
    let config = Config { resets_per_second: 10, ..Config::default() };
    let mut p = Peer::listening(config);
    let t = tuple("10.0.0.2:81", "10.0.0.1:1");
    p.engine.on_segment(&header(t, SeqNum(7), SeqNum(9), Flags::ACK), b"abc", p.now);
    let rst = p.one();
    assert_eq!((rst.header.flags, rst.header.seq), (Flags::RST, SeqNum(9)));
    p.engine.on_segment(&header(t, SeqNum(7), SeqNum(9), Flags::SYN), &[], p.now);
    let rst = p.one();
    assert_eq!(rst.header.flags, Flags::RST | Flags::ACK);
    assert_eq!((rst.header.seq, rst.header.ack), (SeqNum(0), SeqNum(8)));
    // A reset is never answered.
    p.engine.on_segment(&header(t, SeqNum(7), SeqNum(9), Flags::RST), &[], p.now);
    p.none();
    for _ in 0..100 {
        p.engine.on_segment(&header(t, SeqNum(7), SeqNum(9), Flags::ACK), &[], p.now);
    }
    assert_eq!(p.out().len(), 8);
    assert_eq!(p.engine.counters().resets_limited, 92);
    p.pass(ms(500));
    for _ in 0..100 {
        p.engine.on_segment(&header(t, SeqNum(7), SeqNum(9), Flags::ACK), &[], p.now);
    }
    assert_eq!(p.out().len(), 5);
}

#[test]
fn the_resets_one_gets_say_nothing_of_those_of_others() {
    // Somebody forges segments of another's, to see from his own resets whether those hit a
    // connection: whatever comes of them, his own are all answered.
    let mut p = Peer::established(plain());
    let (known, other) = (p.tuple, tuple("10.0.0.2:80", "10.0.0.1:5556"));
    let mut counts = Vec::new();
    for forged in [known, other] {
        for _ in 0..2_000 {
            p.engine.on_segment(&header(forged, SeqNum(7), SeqNum(9), Flags::ACK), &[], p.now);
            p.out();
        }
        let own = tuple("10.0.0.2:81", "10.9.9.9:1");
        let mut answered = 0;
        for _ in 0..1_500 {
            p.engine.on_segment(&header(own, SeqNum(7), SeqNum(9), Flags::ACK), &[], p.now);
            answered += p.out().len();
        }
        counts.push(answered);
        p.pass(secs(2));
    }
    assert_eq!(counts, [1_000, 1_000]);
    assert_eq!(p.engine.counters().resets_limited, 2 * 500 + 1_000);
    // All of a /64 is one, and cannot multiply its share.
    let mut answered = 0;
    for host in 0..1_500 {
        let t = tuple("[fd00::2]:81", &format!("[fd00:1::{host:x}]:1"));
        p.engine.on_segment(&header(t, SeqNum(7), SeqNum(9), Flags::ACK), &[], p.now);
        answered += p.out().len();
    }
    assert_eq!(answered, 1_000);
}

/// Who forges an address gets no more sent there than he sends, but for options: what the first SYN
/// offered in the answer to its copies, timestamps and a report of what came twice in an ACK.
#[test]
fn no_answer_is_larger_than_its_cause() {
    let bytes = |header: &Header, payload: &[u8]| wire::encode(header, payload).len();
    let mut rng = Rng(9);
    let mut answers = [0; 6];
    for round in 0..6_000 {
        let state = round % 6;
        let none = Config { max_half_open: 0, ..Config::default() };
        let mut p = match state {
            0 => Peer::established(everything()),
            1 => Peer::established(plain()),
            2 => Peer::listening(Config::default()),
            3 => Peer::listening(none),
            4 => {
                let mut p = Peer::listening(Config::default());
                let mut syn = p.header(Flags::SYN);
                syn.options = everything();
                p.engine.on_segment(&syn, &[], p.now);
                p.ack = p.one().header.seq + 1;
                p.seq += 1;
                p
            }
            _ => {
                let mut p = Peer::established(everything());
                p.engine.close(p.conn, p.now);
                p.out();
                p.ack += 1;
                p.inject(0, Flags::ACK | Flags::FIN, &[]);
                p.seq += 1;
                p.one();
                assert_eq!(p.engine.usage().time_wait, 1);
                p
            }
        };
        let mut h = p.header(Flags(rng.next() as u8));
        h.seq = h.seq + (rng.below(40) as u32) - 20;
        h.ack = h.ack + (rng.below(40) as u32) - 20;
        if rng.chance(0.2) {
            h.tuple.local_port = 99;
        }
        h.options = match rng.below(4) {
            0 => Options::default(),
            1 => Options { timestamps: Some((rng.below(2_000) as u32, 0)), ..Options::default() },
            2 => everything(),
            _ => h.options,
        };
        let payload = vec![0; rng.below(3) as usize];
        p.engine.on_segment(&h, &payload, p.now);
        let out = p.out();
        assert!(out.len() <= 1, "{h:?}: {out:#?}");
        let sent: usize = out.iter().map(|s| bytes(&s.header, &s.payload)).sum();
        let more = sent.saturating_sub(bytes(&h.flipped(), &payload));
        assert!(more <= 24, "{more} more: {h:?}: {out:#?}");
        answers[state] += out.len();
        assert!(p.out().is_empty());
    }
    assert!(answers.iter().all(|answers| *answers > 100), "{answers:?}");
}

#[test]
fn two_engines_do_not_answer_each_other_for_ever() {
    // Both believe in a connection the other has different numbers for.
    let mut a = Peer::established(plain());
    let mut b = Peer::established(plain());
    let mut h = a.header(Flags::ACK);
    h.seq += 100_000;
    a.engine.on_segment(&h, b"poke", a.now);
    let mut total = 0;
    for _ in 0..50 {
        for s in a.out() {
            total += 1;
            let mut h = s.header;
            h.tuple = b.tuple;
            b.engine.on_segment(&h, &s.payload, b.now);
        }
        for s in b.out() {
            total += 1;
            let mut h = s.header;
            h.tuple = a.tuple;
            a.engine.on_segment(&h, &s.payload, a.now);
        }
    }
    assert!(total < 10, "{total}");
}
