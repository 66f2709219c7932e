//! Explicit congestion notification: who agrees to it, what is marked, who slows down.

use throng_net::tcp::*;

use crate::peer::*;
use crate::world::*;

const ECT: u8 = 2;
const CE: u8 = 3;

fn asking() -> Config {
    Config { ecn: Ecn::On, ..Config::default() }
}

/// A connection whose peer has asked for it.
fn agreed() -> Peer {
    let mut p = Peer::listening(Config::default());
    p.ts = Some(1000);
    let mut syn = header(p.tuple, p.seq, SeqNum(0), Flags::SYN | Flags::ECE | Flags::CWR);
    syn.options = everything();
    p.engine.on_segment(&syn, &[], p.now);
    let answer = p.one().header;
    assert_eq!(answer.flags, Flags::SYN | Flags::ACK | Flags::ECE);
    assert_eq!(answer.ecn, 0, "RFC 3168 6.1.1");
    (p.iss, p.ack) = (answer.seq, answer.seq + 1);
    p.seq += 1;
    p.inject(0, Flags::ACK, &[]);
    p.accept();
    p
}

/// A segment of the peer's, marked by a router or not.
fn data(p: &mut Peer, flags: Flags, ecn: u8, payload: &[u8]) {
    let mut h = p.header(Flags::ACK | flags);
    h.ecn = ecn;
    p.engine.on_segment(&h, payload, p.now);
    p.engine.check_invariants();
    p.seq += payload.len() as u32;
}

#[test]
fn who_agrees() {
    let off = || Config { ecn: Ecn::Off, ..Config::default() };
    for (client, server, agreed) in [
        (asking(), Config::default(), true),
        (asking(), asking(), true),
        (asking(), off(), false),
        (Config::default(), asking(), false),
        (off(), asking(), false),
    ] {
        for half_open in [0, 64] {
            let server = Config { max_half_open: half_open, ..server.clone() };
            let mut w = World::with(1, client.clone(), server);
            w.record = true;
            let listener = w.listen();
            let (a, b) = w.connect(listener);
            w.send(0, a, &[1; 20_000]);
            w.send(1, b, &[2; 20_000]);
            w.run(secs(1));
            assert_eq!((w.read(1, b).len(), w.read(0, a).len()), (20_000, 20_000));
            assert_eq!(w.engines[0].info(a, w.now).unwrap().ecn, agreed);
            assert_eq!(w.engines[1].info(b, w.now).unwrap().ecn, agreed);
            for (_, _, segment) in &w.sent {
                let expected = if agreed && segment.len() > 0 { ECT } else { 0 };
                assert_eq!(segment.header.ecn, expected, "data only");
            }
        }
    }
}

#[test]
fn answers_that_do_not_agree() {
    for (flags, ecn) in [
        (Flags(0), false),
        (Flags::ECE, true),
        // Reflected by a host that does not look.
        (Flags::ECE | Flags::CWR, false),
        (Flags::CWR, false),
    ] {
        let mut p = Peer::listening(asking());
        p.conn = p.engine.connect(tuple("10.0.0.2:1", "10.0.0.1:1"), p.now).unwrap();
        let syn = p.one().header;
        assert_eq!(syn.flags, Flags::SYN | Flags::ECE | Flags::CWR);
        let flags = Flags::SYN | Flags::ACK | flags;
        let mut answer = header(syn.tuple, SeqNum(9), syn.seq + 1, flags);
        answer.options = plain();
        p.engine.on_segment(&answer, &[], p.now);
        assert_eq!(p.info().ecn, ecn, "{flags:?}");
    }
    // A SYN that is marked itself, or half asks.
    for (flags, ecn) in [(Flags::ECE | Flags::CWR, ECT), (Flags::ECE, 0), (Flags::CWR, 0)] {
        let mut p = Peer::listening(asking());
        let mut syn = header(p.tuple, p.seq, SeqNum(0), Flags::SYN | flags);
        syn.ecn = ecn;
        p.engine.on_segment(&syn, &[], p.now);
        assert_eq!(p.one().header.flags, Flags::SYN | Flags::ACK);
    }
    // A path that swallows SYNs which ask.
    let mut p = Peer::listening(asking());
    p.engine.connect(tuple("10.0.0.2:1", "10.0.0.1:1"), p.now).unwrap();
    assert!(p.one().has(Flags::ECE));
    let flags: Vec<Flags> = p.pass(secs(8)).iter().map(|(_, s)| s.header.flags).collect();
    assert_eq!(flags, [Flags::SYN | Flags::ECE | Flags::CWR, Flags::SYN, Flags::SYN]);
}

#[test]
fn a_mark_is_echoed_until_the_sender_has_slowed_down() {
    let mut p = agreed();
    data(&mut p, Flags(0), ECT, &[1; 100]);
    p.none();
    data(&mut p, Flags(0), CE, &[1; 100]);
    assert!(p.one().has(Flags::ECE), "at once");
    for _ in 0..3 {
        data(&mut p, Flags(0), ECT, &[1; 3000]);
        assert!(p.one().has(Flags::ECE), "again and again");
    }
    p.send(b"on data, too");
    let out = p.one();
    assert!(out.has(Flags::ECE) && !out.has(Flags::CWR) && out.header.ecn == ECT);
    // CWR on a segment without data says nothing.
    data(&mut p, Flags::CWR, 0, &[]);
    data(&mut p, Flags::PSH, ECT, &[1; 3000]);
    assert!(p.one().has(Flags::ECE));
    data(&mut p, Flags::CWR, ECT, &[1; 3000]);
    assert!(!p.one().has(Flags::ECE));
    // Slowed down, and marked once more.
    data(&mut p, Flags::CWR, CE, &[1; 3000]);
    assert!(p.one().has(Flags::ECE));
    assert_eq!(p.engine.counters().ecn_marks, 2);
    assert_eq!(p.engine.counters().retransmits, 0);
}

#[test]
fn an_echo_reduces_the_window_once_a_round_trip() {
    let mut p = agreed();
    p.send(&[5; 200_000]);
    let out = p.out();
    assert_eq!(out.len(), 10);
    assert!(out.iter().all(|s| s.header.ecn == ECT && !s.has(Flags::CWR)));
    let before = p.info().cwnd;
    let first = p.iss + 1;
    for ack in 1..=10 {
        p.ack = first + ack * 1448;
        p.inject(0, Flags::ACK | Flags::ECE, &[]);
        let info = p.info();
        let reduced = before / 10 * 7;
        assert!(info.cwnd.abs_diff(reduced) <= 1448, "{} of {before}", info.cwnd);
        assert_eq!(info.ssthresh.abs_diff(reduced) / 1448, 0);
        assert!(!info.recovering);
    }
    assert_eq!(p.engine.counters().ecn_reductions, 1);
    let out = p.out();
    let told: Vec<bool> = out.iter().map(|s| s.has(Flags::CWR)).collect();
    assert!(told[0] && !told[1..].contains(&true), "CWR once: {told:?}");
    // The next round trip, another mark.
    let end = out.last().unwrap();
    p.ack = end.header.seq + end.len() as u32;
    p.inject(0, Flags::ACK | Flags::ECE, &[]);
    assert_eq!(p.engine.counters().ecn_reductions, 2);
    assert!(p.out()[0].has(Flags::CWR));
    assert_eq!(p.engine.counters().retransmits, 0);
}

#[test]
fn a_mark_in_a_flight_that_also_lost_reduces_no_further() {
    let mut p = agreed();
    p.send(&[5; 14_480]);
    p.out();
    p.pass(ms(250));
    let after_loss = p.info().ssthresh;
    // Marked, too: on the way through recovery, and on the ACK that ends it.
    for acked in [1, 10] {
        let before = p.info().cwnd;
        p.ack = p.iss + 1 + acked * 1448;
        p.inject(0, Flags::ACK | Flags::ECE, &[]);
        assert!(p.info().cwnd >= before, "it grows from one segment");
        p.out();
    }
    assert_eq!((p.engine.counters().ecn_reductions, p.info().ssthresh), (0, after_loss));
}

#[test]
fn what_goes_again_is_not_marked_and_a_loss_is_told() {
    let mut p = agreed();
    p.send(&[5; 100_000]);
    p.out();
    // A probe with new data, then the timeout.
    let sent = p.pass(ms(250));
    assert_eq!((sent[0].1.len(), sent[0].1.header.ecn), (1448, ECT));
    assert_eq!((sent[1].1.len(), sent[1].1.header.ecn), (1448, 0), "RFC 3168 6.1.5");
    assert!(!sent[1].1.has(Flags::CWR));
    p.acknowledge(p.iss + 1 + 14_480 + 1448);
    let out = p.out();
    assert!(out[0].has(Flags::CWR) && out[0].header.ecn == ECT);
    // Without an agreement an echo is noise.
    let mut p = Peer::established(everything());
    p.send(&[5; 100_000]);
    assert!(p.out().iter().all(|s| s.header.ecn == 0));
    let before = p.info().cwnd;
    p.ack = p.iss + 1 + 1448;
    p.inject(0, Flags::ACK | Flags::ECE, &[]);
    data(&mut p, Flags(0), CE, &[1; 3000]);
    assert!(p.info().cwnd >= before);
    assert!(p.out().iter().all(|s| !s.has(Flags::ECE) && s.header.ecn == 0));
    assert_eq!(p.engine.counters().ecn_marks, 0);
}

#[test]
fn a_router_that_marks_slows_a_transfer_without_loss() {
    for tso in [0, 65_000] {
        let mut w = World::with(4, asking(), Config::default());
        w.tso = tso;
        let listener = w.listen();
        let (client, server) = w.connect(listener);
        w.send(0, client, &[9; 250_000]);
        let mut got = 0;
        let mut turn = 0;
        while got < 250_000 {
            // One segment in fifty is marked, on both ways.
            let mut late = Vec::new();
            for from in 0..2 {
                for segment in drain_tso(&mut w.engines[from], w.now, tso) {
                    let mut segment = segment.flipped();
                    turn += 1;
                    if segment.header.ecn == ECT && turn % 50 == 0 {
                        segment.header.ecn = CE;
                    }
                    late.push((1 - from, segment));
                }
            }
            w.now += ms(5);
            for (to, segment) in late {
                w.engines[to].on_segment(&segment.header, &segment.payload, w.now);
                w.engines[to].check_invariants();
            }
            w.engines.iter_mut().for_each(|engine| {
                engine.on_timeout(w.now);
            });
            got += w.read(1, server).len();
        }
        let (sender, receiver) = (w.engines[0].counters(), w.engines[1].counters());
        assert!(receiver.ecn_marks > 0 && sender.ecn_reductions > 0);
        assert!(sender.ecn_reductions <= receiver.ecn_marks);
        assert_eq!((sender.retransmits, receiver.duplicate_bytes), (0, 0));
    }
}

/// An active open whose peer answers SYN number `answered` (from 0) with these bits.
fn opened(answered: u64, flags: Flags, ecn: u8) -> Peer {
    let mut p = Peer::listening(asking());
    p.conn = p.engine.connect(tuple("10.0.0.2:1", "10.0.0.1:1"), p.now).unwrap();
    let syn = p.one().header;
    p.pass(ms(1_000 * ((1 << answered) - 1) + 100));
    let mut answer = header(syn.tuple, SeqNum(9), syn.seq + 1, Flags::SYN | Flags::ACK | flags);
    (answer.options, answer.ecn) = (plain(), ecn);
    p.engine.on_segment(&answer, &[], p.now);
    (p.tuple, p.seq, p.ack, p.iss) = (syn.tuple, SeqNum(10), syn.seq + 1, syn.seq);
    p.out();
    p
}

#[test]
fn a_late_agreement_is_kept_in_part() {
    // RFC 3168 6.1.1: the peer may believe in it, so its marks are echoed; but who has sent a
    // SYN that does not ask sends nothing that may be marked. The same where the path has
    // written into the SYN-ACK's field.
    for (answered, bits, markable) in
        [(0, 0, true), (1, 0, true), (2, 0, false), (3, 0, false), (0, CE, false), (0, ECT, false)]
    {
        let mut p = opened(answered, Flags::ECE, bits);
        assert!(p.info().ecn);
        p.send(b"question");
        assert_eq!(p.one().header.ecn == ECT, markable, "{answered} {bits}");
        p.acknowledge(p.ack + 8);
        data(&mut p, Flags(0), CE, b"answer");
        assert!(p.one().has(Flags::ECE));
    }
    assert!(!opened(3, Flags(0), 0).info().ecn);
}

#[test]
fn who_was_told_of_an_agreement_is_echoed() {
    // The SYN comes again without asking, our first answer having been late or not.
    let mut p = Peer::listening(Config::default());
    let asks = header(p.tuple, p.seq, SeqNum(0), Flags::SYN | Flags::ECE | Flags::CWR);
    p.engine.on_segment(&asks, &[], p.now);
    assert!(p.one().has(Flags::ECE));
    p.engine.on_segment(&Header { flags: Flags::SYN, ..asks }, &[], p.now);
    let answer = p.one().header;
    assert_eq!(answer.flags, Flags::SYN | Flags::ACK);
    (p.iss, p.ack) = (answer.seq, answer.seq + 1);
    p.seq += 1;
    p.inject(0, Flags::ACK, &[]);
    p.accept();
    data(&mut p, Flags(0), CE, b"marked");
    assert!(p.one().has(Flags::ECE));
    p.send(b"not markable");
    assert_eq!(p.one().header.ecn, 0);
}

#[test]
fn a_path_that_swallows_what_may_be_marked_is_given_up_on() {
    let mut p = agreed();
    for round in 0..3 {
        p.send(&[5; 1_000]);
        let out = p.one();
        // The first copy is lost where it says that it may be marked; the second arrives.
        assert_eq!(out.header.ecn, if round < 2 { ECT } else { 0 });
        if out.header.ecn == ECT {
            let again = p.pass(ms(250 << round)).remove(0).1;
            assert_eq!((again.header.ecn, again.len()), (0, 1_000));
        }
        p.acknowledge(out.header.seq + 1_000);
    }
    assert_eq!(p.engine.counters().ecn_given_up, 1);
    assert!(p.info().ecn, "the peer's marks are still echoed");
    // A path that loses something, and not all of it, is another matter.
    let mut p = agreed();
    p.send(&[5; 10_000]);
    p.out();
    p.acknowledge(p.iss + 1 + 10_000);
    for _ in 0..4 {
        p.send(&[5; 1_000]);
        let seq = p.one().header.seq;
        p.pass(ms(900));
        p.acknowledge(seq + 1_000);
    }
    p.send(b"more");
    assert_eq!((p.one().header.ecn, p.engine.counters().ecn_given_up), (ECT, 0));
}

#[test]
fn an_echo_while_nothing_is_out_means_nothing() {
    let mut p = agreed();
    p.send(&[5; 14_480]);
    p.out();
    p.acknowledge(p.iss + 1 + 14_480);
    p.out();
    let before = p.info();
    for _ in 0..3 {
        data(&mut p, Flags::ECE, ECT, b"?");
        p.out();
    }
    let after = p.info();
    assert_eq!((after.cwnd, after.ssthresh), (before.cwnd, before.ssthresh));
    assert_eq!(p.engine.counters().ecn_reductions, 0);
}
