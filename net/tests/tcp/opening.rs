//! Opening: options, backlog, simultaneous open, refusals, retries.

use std::time::Duration;

use throng_net::tcp::*;
use throng_runtime::Instant;

use crate::peer::*;
use crate::world::*;

#[test]
fn syn_ack_offers_what_the_syn_did() {
    let mut p = Peer::listening(Config::default());
    let syn_ack = p.open(everything());
    let o = syn_ack.header.options;
    assert_eq!((o.mss, o.window_scale, o.sack_permitted), (Some(1460), Some(7), true));
    assert_eq!(o.timestamps.unwrap().1, 1000, "the peer's timestamp comes back");
    p.accept();
    let info = p.info();
    assert_eq!((info.mss, info.snd_scale, info.rcv_scale), (1448, Some(7), Some(7)));
    assert_eq!(info.cwnd, 10 * 1448);

    let mut p = Peer::listening(Config::default());
    let o = p.open(plain()).header.options;
    assert_eq!((o.mss, o.window_scale, o.sack_permitted), (Some(1460), None, false));
    assert_eq!(o.timestamps, None);
    p.accept();
    let info = p.info();
    assert_eq!((info.mss, info.snd_scale, info.rcv_scale), (1000, None, None));
}

#[test]
fn ipv6() {
    let mut w = World::new(1);
    let listener = w.listen();
    let t = tuple("[fd00::1]:1234", "[fd00::2]:80");
    let (client, server) = w.connect_tuple(listener, t);
    assert_eq!(w.engines[0].info(client, w.now).unwrap().mss, 1440 - 12);
    w.send(0, client, b"six");
    w.run(ms(50));
    assert_eq!(w.read(1, server), b"six");
}

#[test]
fn isn_is_keyed_and_moves_with_the_clock() {
    let now = Instant::from_millis(10);
    let t = tuple("10.0.0.1:1", "10.0.0.2:2");
    let isn = |secret: u8, now: Instant| {
        let mut e = Engine::new(Config::default(), [secret; 32], now);
        e.connect(t, now).unwrap();
        drain(&mut e, now)[0].header.seq
    };
    assert_eq!(isn(1, now), isn(1, now));
    assert_ne!(isn(1, now), isn(2, now));
    assert_eq!(isn(1, now + ms(1)) - isn(1, now), 250, "4 us a number");
}

#[test]
fn refused() {
    let mut w = World::new(2);
    let now = w.now;
    let c = w.engines[0].connect(tuple("10.0.0.1:5", "10.0.0.2:81"), now).unwrap();
    w.run(secs(1));
    assert_eq!(w.engines[0].state(c), State::Closed);
    assert_eq!(w.engines[0].take_error(c), Some(Error::Refused));
    assert_eq!(w.engines[0].recv(c, 1, w.now), Err(RecvError::Closed(Error::Refused)));
    assert!(w.events[0].contains(&Event::Writable(c)));
    assert!(w.events[0].contains(&Event::Readable(c)));
    let now = w.now;
    w.engines[0].close(c, now);
    w.assert_empty();
}

#[test]
fn syn_retries_back_off_and_end() {
    let mut w = World::new(3);
    w.record = true;
    w.filter = Some(Box::new(|_, _| false));
    let start = w.now;
    let c = w.engines[0].connect(tuple("10.0.0.1:5", "10.0.0.2:80"), start).unwrap();
    w.run(secs(300));
    let times: Vec<u64> = w.sent.iter().map(|(at, ..)| (*at - start).as_secs()).collect();
    assert_eq!(times, [0, 1, 3, 7, 15, 31, 63]);
    assert_eq!(w.engines[0].take_error(c), Some(Error::TimedOut));
}

#[test]
fn syn_ack_retries_and_expiry() {
    let mut p = Peer::listening(Config::default());
    let mut syn = header(p.tuple, p.seq, SeqNum(0), Flags::SYN);
    syn.options = plain();
    p.engine.on_segment(&syn, &[], p.now);
    assert_eq!(p.out().len(), 1);
    assert_eq!(p.engine.usage().half_open, 1);
    // The SYN again is answered again.
    p.engine.on_segment(&syn, &[], p.now);
    assert!(p.one().has(Flags::SYN | Flags::ACK));
    let sent = p.pass(secs(100));
    let times: Vec<u64> = sent.iter().map(|(at, _)| at.as_secs()).collect();
    assert_eq!(times, [1, 3, 7, 15, 31]);
    assert_eq!(p.engine.usage().half_open, 0);
    assert_eq!(p.engine.counters().half_open_expired, 1);
}

#[test]
fn a_flood_is_answered_fewer_times() {
    // As in Linux: the fuller the table, the less patience with those who say nothing.
    for (open, answers) in [(8, 6), (9, 3), (12, 3), (13, 2), (16, 2)] {
        let mut p = Peer::listening(Config { max_half_open: 16, ..Config::default() });
        for port in 1..=open {
            let t = tuple("10.0.0.2:80", &format!("10.0.0.1:{port}"));
            p.engine.on_segment(&header(t, SeqNum(1), SeqNum(0), Flags::SYN), &[], p.now);
        }
        let mut last = p.out().pop().unwrap().header.tuple;
        last.remote_port = 1;
        let sent = p.pass(secs(100));
        let first = sent.iter().filter(|(_, s)| s.header.tuple == last).count();
        assert_eq!(first + 1, answers, "{open} of 16");
        assert_eq!(p.engine.usage().half_open, 0);
    }
}

#[test]
fn backlog_overflow_drops_the_ack_and_recovers() {
    // A backlog of 4: four wait, the fifth's handshake stays unfinished until one is taken.
    let mut p = Peer::listening(Config::default());
    let tuples: Vec<_> =
        (0..5).map(|i| tuple("10.0.0.2:80", &format!("10.0.0.1:{}", 7000 + i))).collect();
    let mut acks = Vec::new();
    for t in &tuples {
        let mut syn = header(*t, SeqNum(1), SeqNum(0), Flags::SYN);
        syn.options = plain();
        p.engine.on_segment(&syn, &[], p.now);
        let syn_ack = p.one();
        acks.push(header(*t, SeqNum(2), syn_ack.header.seq + 1, Flags::ACK));
    }
    for ack in &acks {
        p.engine.on_segment(ack, &[], p.now);
        p.engine.check_invariants();
    }
    assert_eq!(p.engine.counters().accept_overflow, 1);
    assert_eq!((p.engine.usage().connections, p.engine.usage().half_open), (4, 1));
    assert_eq!(p.events(), [Event::Acceptable(p.listener)]);
    // With the queue full, SYNs are dropped too.
    let t = tuple("10.0.0.2:80", "10.0.0.1:9000");
    p.engine.on_segment(&header(t, SeqNum(1), SeqNum(0), Flags::SYN), &[], p.now);
    p.none();
    assert_eq!(p.engine.counters().syn_dropped_backlog, 1);

    assert!(p.engine.accept(p.listener).is_some());
    // The peer believes it is connected; the SYN-ACK that comes again makes it repeat.
    let sent = p.pass(secs(2));
    assert!(sent[0].1.has(Flags::SYN | Flags::ACK));
    p.engine.on_segment(&acks[4], b"data", p.now);
    assert_eq!((p.engine.usage().connections, p.engine.usage().half_open), (5, 0));
    for _ in 0..4 {
        assert!(p.engine.accept(p.listener).is_some());
    }
    assert_eq!(p.engine.accept(p.listener), None);
}

#[test]
fn limits_bound_half_open_ones_and_refuse_connects() {
    let mut p =
        Peer::listening(Config { max_half_open: 1, max_connections: 1, ..Config::default() });
    for port in 1..=2 {
        let t = tuple("10.0.0.2:80", &format!("10.0.0.1:{port}"));
        p.engine.on_segment(&header(t, SeqNum(1), SeqNum(0), Flags::SYN), &[], p.now);
    }
    assert_eq!(p.out().len(), 2, "the second by a cookie");
    assert_eq!((p.engine.usage().half_open, p.engine.counters().syn_cookies_sent), (1, 1));
    let t = |n| tuple("10.0.0.2:1000", &format!("10.0.0.3:{n}"));
    p.engine.connect(t(1), p.now).unwrap();
    assert_eq!(p.engine.connect(t(2), p.now), Err(Error::ConnectionLimit));
    assert_eq!(p.engine.listen("10.0.0.2:80".parse().unwrap(), 1), Err(Error::AddrInUse));
}

#[test]
fn tuple_in_use() {
    let mut p = Peer::established(plain());
    assert!(p.engine.tuple_in_use(&p.tuple));
    assert_eq!(p.engine.connect(p.tuple, p.now), Err(Error::AddrInUse));
}

#[test]
fn simultaneous_open() {
    let mut w = World::new(4);
    let now = w.now;
    let a = w.engines[0].connect(tuple("10.0.0.1:5", "10.0.0.2:6"), now).unwrap();
    let b = w.engines[1].connect(tuple("10.0.0.2:6", "10.0.0.1:5"), now).unwrap();
    let done = w.until(secs(5), |w| {
        w.engines[0].state(a) == State::Established && w.engines[1].state(b) == State::Established
    });
    assert!(done);
    w.send(0, a, b"crossed");
    w.send(1, b, b"over");
    w.run(ms(100));
    assert_eq!((w.read(1, b), w.read(0, a)), (b"crossed".to_vec(), b"over".to_vec()));
    let now = w.now;
    w.engines[0].close(a, now);
    w.engines[1].close(b, now);
    w.run(secs(100));
    w.assert_empty();
}

#[test]
fn simultaneous_open_with_losses() {
    // Half of the exchanges come to nothing, so the default number is too few for all seeds.
    let config = Config { syn_retries: 15, ..Config::default() };
    for seed in 0..50 {
        let mut w = World::with(seed, config.clone(), config.clone());
        w.link = Link { loss: 0.3, ..Link::default() };
        let now = w.now;
        let a = w.engines[0].connect(tuple("10.0.0.1:5", "10.0.0.2:6"), now).unwrap();
        let b = w.engines[1].connect(tuple("10.0.0.2:6", "10.0.0.1:5"), now).unwrap();
        w.send_when_open(0, a, b"x");
        w.send_when_open(1, b, b"y");
        let done = w.until(secs(3000), |w| {
            w.engines[0].readable_bytes(a) == 1 && w.engines[1].readable_bytes(b) == 1
        });
        assert!(done, "seed {seed}: {:?} {:?}", w.engines[0].state(a), w.engines[1].state(b));
    }
}

#[test]
fn listener_addresses() {
    let mut e = Engine::new(Config::default(), [1; 32], Instant::ZERO);
    let any4 = e.listen("0.0.0.0:80".parse().unwrap(), 1).unwrap();
    let exact = e.listen("10.0.0.2:80".parse().unwrap(), 1).unwrap();
    let any6 = e.listen("[::]:81".parse().unwrap(), 1).unwrap();
    for (local, listener) in [("10.0.0.3:80", any4), ("10.0.0.2:80", exact), ("10.0.0.2:81", any6)]
    {
        let t = tuple(local, "10.0.0.9:9");
        e.on_segment(&header(t, SeqNum(1), SeqNum(0), Flags::SYN), &[], Instant::ZERO);
        let iss = drain(&mut e, Instant::ZERO)[0].header.seq;
        e.on_segment(&header(t, SeqNum(2), iss + 1, Flags::ACK), &[], Instant::ZERO);
        assert!(e.accept(listener).is_some(), "{local}");
    }
    let t = tuple("[fd00::1]:80", "[fd00::2]:9");
    e.on_segment(&header(t, SeqNum(1), SeqNum(0), Flags::SYN), &[], Instant::ZERO);
    assert!(drain(&mut e, Instant::ZERO)[0].has(Flags::RST), "0.0.0.0 is not for IPv6");
}

#[test]
fn closing_a_listener_resets_what_waits() {
    let mut p = Peer::listening(Config::default());
    p.open(plain());
    p.engine.close_listener(p.listener);
    assert!(p.one().has(Flags::RST));
    assert_eq!(p.engine.usage().connections, 0);
    assert_eq!(p.engine.local_addr(p.listener), None);
    p.engine.check_invariants();
}

#[test]
fn hard_icmp_ends_an_attempt_and_soft_icmp_explains_it() {
    let now = Instant::from_millis(1000);
    let t = tuple("10.0.0.1:5", "10.0.0.2:6");
    let mut e = Engine::new(Config::default(), [1; 32], now);
    let c = e.connect(t, now).unwrap();
    let seq = drain(&mut e, now)[0].header.seq;
    e.on_icmp_unreachable(t, seq + 5, Unreachable::Port, now);
    assert_eq!(e.state(c), State::SynSent, "not in flight: not believed");
    e.on_icmp_unreachable(t, seq, Unreachable::Port, now);
    assert_eq!((e.state(c), e.take_error(c)), (State::Closed, Some(Error::Refused)));

    let mut e = Engine::new(Config::default(), [1; 32], now);
    let c = e.connect(t, now).unwrap();
    let seq = drain(&mut e, now)[0].header.seq;
    e.on_icmp_unreachable(t, seq, Unreachable::Host, now);
    assert_eq!(e.state(c), State::SynSent);
    let mut clock = now;
    while e.state(c) == State::SynSent {
        clock += Duration::from_millis(500);
        e.on_timeout(clock);
        drain(&mut e, clock);
    }
    assert_eq!(e.recv(c, 1, clock), Err(RecvError::Closed(Error::HostUnreachable)));
}

#[test]
fn handshake_answers() {
    // Bad ACK in SYN-RECEIVED: a reset with its number (RFC 9293 3.10.7.4).
    let mut p = Peer::listening(Config::default());
    let syn = header(p.tuple, p.seq, SeqNum(0), Flags::SYN);
    p.engine.on_segment(&syn, &[], p.now);
    let iss = p.one().header.seq;
    p.engine.on_segment(&header(p.tuple, p.seq + 1, iss + 7, Flags::ACK), &[], p.now);
    let rst = p.one();
    assert_eq!((rst.header.flags, rst.header.seq), (Flags::RST, iss + 7));
    assert_eq!(p.engine.usage().half_open, 1);
    // A reset in the window but not at its edge is challenged; at the edge it counts.
    p.engine.on_segment(&header(p.tuple, p.seq + 9, SeqNum(0), Flags::RST), &[], p.now);
    let challenge = p.one();
    assert_eq!((challenge.header.flags, challenge.header.ack), (Flags::ACK, p.seq + 1));
    p.engine.on_segment(&header(p.tuple, p.seq + 1, SeqNum(0), Flags::RST), &[], p.now);
    p.none();
    assert_eq!(p.engine.usage().half_open, 0);
    p.engine.check_invariants();
}

#[test]
fn syn_sent_ignores_what_is_not_its_answer() {
    let now = Instant::from_millis(1000);
    let t = tuple("10.0.0.1:5", "10.0.0.2:6");
    let mut e = Engine::new(Config::default(), [1; 32], now);
    let c = e.connect(t, now).unwrap();
    let seq = drain(&mut e, now)[0].header.seq;
    // An ACK of something else is reset, a reset without our ACK ignored.
    e.on_segment(&header(t, SeqNum(1), seq + 9, Flags::ACK), &[], now);
    let out = drain(&mut e, now);
    assert_eq!((out[0].header.flags, out[0].header.seq), (Flags::RST, seq + 9));
    e.on_segment(&header(t, SeqNum(1), SeqNum(0), Flags::RST), &[], now);
    e.on_segment(&header(t, SeqNum(1), seq + 9, Flags::RST | Flags::ACK), &[], now);
    e.on_segment(&header(t, SeqNum(1), seq + 1, Flags::ACK), &[], now);
    assert_eq!(e.state(c), State::SynSent);
    e.on_segment(&header(t, SeqNum(1), seq + 1, Flags::SYN | Flags::ACK), &[], now);
    assert_eq!(e.state(c), State::Established);
    let ack = drain(&mut e, now);
    assert_eq!((ack.len(), ack[0].header.ack), (1, SeqNum(2)));
}

#[test]
fn a_peer_that_names_no_mss_gets_the_default() {
    let (v4, v6) = (("10.0.0.2:80", "10.0.0.1:5"), ("[fd00::2]:80", "[fd00::1]:5"));
    // One of zero is none.
    for ((local, remote), named, mss) in
        [(v4, None, 536), (v6, None, 1220), (v4, Some(0), 536), (v4, Some(1), 48)]
    {
        let mut e = Engine::new(Config::default(), [1; 32], Instant::ZERO);
        let listener = e.listen("[::]:80".parse().unwrap(), 1).unwrap();
        let t = tuple(local, remote);
        let mut syn = header(t, SeqNum(1), SeqNum(0), Flags::SYN);
        syn.options.mss = named;
        e.on_segment(&syn, &[], Instant::ZERO);
        let iss = drain(&mut e, Instant::ZERO)[0].header.seq;
        e.on_segment(&header(t, SeqNum(2), iss + 1, Flags::ACK), &[], Instant::ZERO);
        let conn = e.accept(listener).unwrap();
        assert_eq!(e.info(conn, Instant::ZERO).unwrap().mss, mss);
    }
}

#[test]
fn an_old_connection_of_the_peers_is_reset_and_the_syn_goes_again_at_once() {
    let mut now = Instant::from_millis(10);
    let mut e = Engine::new(Config::default(), [1; 32], now);
    let t = tuple("10.0.0.1:1", "10.0.0.2:2");
    e.connect(t, now).unwrap();
    let syn = drain(&mut e, now)[0].header.seq;
    let mut resent = Vec::new();
    for _ in 0..2 {
        // What a connection that we know nothing of says to the SYN.
        e.on_segment(&header(t, SeqNum(70), SeqNum(500), Flags::ACK), &[], now);
        let out = drain(&mut e, now);
        assert_eq!((out[0].header.flags, out[0].header.seq), (Flags::RST, SeqNum(500)));
        let begin = now;
        let mut out = Vec::new();
        while out.is_empty() {
            now = e.poll_timeout().unwrap();
            e.on_timeout(now);
            out = drain(&mut e, now);
        }
        assert_eq!((out[0].header.flags, out[0].header.seq), (Flags::SYN, syn));
        resent.push((now - begin).as_millis());
    }
    // Once only: nobody is to make us send at their pace.
    assert!(resent[0] <= 4 && resent[1] >= 1_000, "{resent:?}");

    // Nor to put it off by saying so again and again.
    let t = tuple("10.0.0.1:1", "10.0.0.3:2");
    e.connect(t, now).unwrap();
    drain(&mut e, now);
    let mut syns = 0;
    for _ in 0..10 {
        e.on_segment(&header(t, SeqNum(70), SeqNum(500), Flags::ACK), &[], now);
        now += ms(1);
        e.on_timeout(now);
        syns += drain(&mut e, now).iter().filter(|s| s.header.flags == Flags::SYN).count();
    }
    assert_eq!(syns, 1);
}
