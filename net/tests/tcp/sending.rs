//! Sending: windows, Nagle, silly windows, probes, loss, timeouts, fairness, offload.

use std::time::Duration;

use bytes::Bytes;
use throng_net::tcp::*;

use crate::peer::*;
use crate::world::*;

fn lens(out: &[Segment]) -> Vec<usize> {
    out.iter().map(Segment::len).collect()
}

#[test]
fn initial_window_then_slow_start() {
    let mut p = Peer::established(plain());
    p.send(&[1; 60_000]);
    let out = p.out();
    assert_eq!(lens(&out), [1000; 10]);
    assert!(out[..9].iter().all(|s| !s.has(Flags::PSH)));
    p.acknowledge(out[1].header.seq + 1000);
    assert_eq!(p.out().len(), 4, "two acknowledged: two more, and as many for growth");
    assert_eq!(p.info().cwnd, 12_000);
    assert_eq!(p.info().in_flight, 12_000);
}

#[test]
fn push_when_the_queue_is_empty() {
    let mut p = Peer::established(plain());
    p.send(&[1; 2500]);
    let out = p.out();
    assert_eq!(lens(&out), [1000, 1000, 500]);
    let pushes: Vec<bool> = out.iter().map(|s| s.has(Flags::PSH)).collect();
    assert_eq!(pushes, [false, false, true]);
}

#[test]
fn nagle_holds_the_second_short_segment() {
    let mut p = Peer::established(plain());
    p.send(b"a");
    assert_eq!(lens(&p.out()), [1]);
    p.send(b"b");
    p.send(b"c");
    p.none();
    // A full segment goes; its tail waits on.
    p.send(&[1; 1500]);
    assert_eq!(lens(&p.out()), [1000]);
    p.acknowledge(p.iss + 2);
    assert_eq!(lens(&p.out()), [502]);

    let mut p = Peer::established(plain());
    p.engine.set_nodelay(p.conn, true);
    for _ in 0..3 {
        p.send(b"a");
        assert_eq!(lens(&p.out()), [1]);
    }
}

#[test]
fn nagle_lets_the_last_go_with_the_fin() {
    let mut p = Peer::established(plain());
    p.send(b"a");
    p.out();
    p.send(b"b");
    p.none();
    p.engine.shutdown_write(p.conn, p.now);
    let s = p.one();
    assert!(s.len() == 1 && s.has(Flags::FIN | Flags::PSH));
}

#[test]
fn gathers_many_pieces_without_copying_twice() {
    let mut p = Peer::established(plain());
    let shared = Bytes::from_static(b"0123456789");
    for _ in 0..250 {
        p.engine.send(p.conn, shared.clone(), p.now).unwrap();
    }
    let out = p.out();
    assert_eq!(lens(&out), [1000, 1000, 500]);
    let all: Vec<u8> = out.iter().flat_map(|s| s.payload.clone()).collect();
    assert_eq!(all, b"0123456789".repeat(250));
    p.acknowledge(p.ack + 1005);
    assert_eq!(p.info().send_queue, 1495);
    let sent = p.pass(ms(400));
    assert_eq!(
        sent[0].1.payload,
        [b"56789".to_vec(), b"0123456789".repeat(99), b"01234".to_vec()].concat()
    );
}

#[test]
fn offload_runs_and_full_egress() {
    let mut p = Peer::established(plain());
    p.send(&[5; 9500]);
    struct Runs(Vec<(usize, u16)>, usize);
    impl Egress for Runs {
        fn send(
            &mut self,
            _: &Header,
            p: &Payload<'_>,
            gso: u16,
            cookie: &mut u32,
        ) -> Result<(), Full> {
            *cookie = 42;
            if self.0.len() == self.1 {
                return Err(Full);
            }
            self.0.push((p.len(), gso));
            Ok(())
        }
        fn max_payload(&self) -> usize {
            4500
        }
    }
    let mut runs = Runs(Vec::new(), 2);
    assert!(p.engine.poll_transmit(p.now, &mut runs));
    assert_eq!(runs.0, [(4000, 1000), (4000, 1000)]);
    assert!(p.engine.wants_transmit());
    p.engine.check_invariants();
    runs.1 = 9;
    p.engine.poll_transmit(p.now, &mut runs);
    assert_eq!(runs.0[2..], [(1500, 1000)]);
    assert!(!p.engine.wants_transmit());
    assert_eq!(p.engine.cookie(p.conn), 42);
}

#[test]
fn turns_are_fair() {
    let config = Config { initial_window: 100, burst: 4, ..Config::default() };
    let mut p = Peer::established_with(config, plain());
    let first = (p.conn, p.tuple);
    p.tuple = tuple("10.0.0.2:80", "10.0.0.9:1");
    p.seq = SeqNum(77);
    p.open(plain());
    p.accept();
    let second = p.conn;
    for conn in [first.0, second] {
        p.engine.send(conn, vec![0; 10_000].into(), p.now).unwrap();
    }
    let order: Vec<bool> = p.out().iter().map(|s| s.header.tuple == first.1).collect();
    let expected: Vec<bool> =
        [4, 4, 4, 4, 2, 2].iter().enumerate().flat_map(|(i, n)| vec![i % 2 == 0; *n]).collect();
    assert_eq!(order, expected);
}

#[test]
fn who_lives_does_not_wait_behind_repetitions() {
    let mut p = Peer::established(plain());
    let living = (p.conn, p.tuple);
    let mut open = |port| {
        p.tuple = tuple("10.0.0.2:80", &format!("10.0.0.9:{port}"));
        p.seq = SeqNum(77);
        p.open(plain());
        p.accept();
        p.conn
    };
    let silent: Vec<ConnId> = (1..=20).map(&mut open).collect();
    for conn in silent {
        p.engine.send(conn, b"into silence".to_vec().into(), p.now).unwrap();
    }
    assert_eq!(p.out().len(), 20);
    p.now += secs(2);
    while p.engine.on_timeout(p.now) {}
    assert_eq!(p.engine.transmit_waiting(), 0, "nobody else waits behind these");
    // The device has room for two, or for one at a time.
    for (polls, room) in [(1, 2), (2, 1), (2, 1)] {
        p.engine.send(living.0, b"alive".to_vec().into(), p.now).unwrap();
        let mut sent = Vec::new();
        for _ in 0..polls {
            let mut sink = Sink { room, ..Sink::default() };
            p.engine.poll_transmit(p.now, &mut sink);
            p.engine.check_invariants();
            sent.append(&mut sink.segments);
        }
        let alive: Vec<&Segment> = sent.iter().filter(|s| s.header.tuple == living.1).collect();
        assert_eq!((alive.len(), sent.len()), (1, 2), "by turns");
        let end = alive[0].header.seq + alive[0].len() as u32;
        let heard = header(living.1, alive[0].header.ack, end, Flags::ACK);
        p.engine.on_segment(&heard, &[], p.now);
    }
    assert_eq!(p.out().len(), 17, "every one of the others once");
    assert!(!p.engine.wants_transmit());
}

#[test]
fn who_is_heard_again_does_not_wait_behind_repetitions() {
    let mut p = Peer::established(plain());
    let mut conns = vec![(p.conn, p.tuple, p.ack)];
    for port in 1..=20 {
        p.tuple = tuple("10.0.0.2:80", &format!("10.0.0.9:{port}"));
        p.seq = SeqNum(77);
        p.open(plain());
        p.accept();
        conns.push((p.conn, p.tuple, p.ack));
    }
    for (conn, ..) in &conns {
        p.engine.send(*conn, b"into silence".to_vec().into(), p.now).unwrap();
    }
    assert_eq!(p.out().len(), 21);
    p.now += secs(2);
    while p.engine.on_timeout(p.now) {}
    // The acknowledgement was late, and the next message is for who is there.
    let (conn, tuple, ack) = conns[20];
    p.engine.on_segment(&header(tuple, SeqNum(78), ack + 12, Flags::ACK), &[], p.now);
    p.engine.send(conn, b"alive".to_vec().into(), p.now).unwrap();
    let mut sink = Sink { room: 2, ..Sink::default() };
    p.engine.poll_transmit(p.now, &mut sink);
    p.engine.check_invariants();
    let alive = sink.segments.iter().filter(|s| s.header.tuple == tuple);
    assert_eq!(alive.map(|s| s.payload.len()).collect::<Vec<_>>(), [5]);
    assert!(p.out().iter().all(|s| s.header.tuple != tuple), "once");
    assert!(!p.engine.wants_transmit());
}

#[test]
fn the_peers_window_holds() {
    let mut p = Peer::listening(Config::default());
    p.window = 2500;
    p.open(plain());
    p.accept();
    p.send(&[1; 10_000]);
    // Two whole segments; the 500 that would fit are a silly window.
    assert_eq!(lens(&p.out()), [1000, 1000]);
    p.window = 500;
    p.acknowledge(p.ack + 2000);
    p.none();
    // The override timer sends the part after all.
    let sent = p.pass(ms(1100));
    assert_eq!(sent[0].1.len(), 500, "{sent:?}");
}

#[test]
fn zero_window_is_probed_for_as_long_as_the_peer_answers() {
    let mut p = Peer::established(plain());
    p.send(&[1; 3000]);
    assert_eq!(p.out().len(), 3);
    p.window = 0;
    p.acknowledge(p.ack + 3000);
    p.send(&[2; 10]);
    p.none();
    let mut last = Duration::ZERO;
    let mut gaps = Vec::new();
    for _ in 0..40 {
        let mut waited = Duration::ZERO;
        loop {
            let sent = p.pass(ms(100));
            waited += ms(100);
            if let Some((_, probe)) = sent.first() {
                assert_eq!((sent.len(), probe.len(), probe.header.seq), (1, 0, p.ack - 1));
                break;
            }
            assert!(waited < secs(130));
        }
        gaps.push(waited);
        assert!(waited + ms(100) >= last.min(secs(120)), "backs off: {gaps:?}");
        last = waited;
        p.inject(0, Flags::ACK, &[]);
        p.none();
    }
    assert_eq!(p.state(), State::Established);
    p.window = 1000;
    p.inject(0, Flags::ACK, &[]);
    assert_eq!(lens(&p.out()), [10]);
    assert_eq!(p.info().retries, 0);
}

#[test]
fn zero_window_without_answers_ends() {
    let mut p = Peer::established(plain());
    p.window = 0;
    p.inject(0, Flags::ACK, &[]);
    p.send(b"x");
    p.none();
    let sent = p.pass(secs(3600));
    assert_eq!(sent.len(), 15);
    assert_eq!(p.recv(), Err(RecvError::Closed(Error::TimedOut)));
}

#[test]
fn timeout_backs_off_and_karn() {
    let mut p = Peer::established(plain());
    p.send(b"lost");
    p.one();
    let sent = p.pass(secs(7));
    let times: Vec<u128> = sent.iter().map(|(at, _)| at.as_millis()).collect();
    // The handshake gave a sample of next to nothing, so the first timeout is the minimum.
    assert_eq!(times, [201, 604, 1409, 3018, 6235]);
    assert!(sent.iter().all(|(_, s)| s.payload == b"lost"));
    let before = p.info().srtt;
    p.acknowledge(p.ack + 4);
    assert_eq!(p.info().srtt, before, "an ACK of what was sent twice is no sample");
    assert_eq!((p.info().retries, p.info().in_flight), (0, 0));
    assert_eq!(p.info().cwnd, 1000 + 4);
}

#[test]
fn data_retries_end_in_timed_out() {
    let mut p = Peer::established_with(Config { data_retries: 4, ..Config::default() }, plain());
    p.send(b"lost");
    p.one();
    let sent = p.pass(secs(60));
    assert_eq!(sent.len(), 4);
    assert_eq!(p.recv(), Err(RecvError::Closed(Error::TimedOut)));
    assert_eq!(p.engine.counters().timed_out, 1);
    assert!(p.events().contains(&Event::Writable(p.conn)));
}

#[test]
fn user_timeout_cuts_it_short() {
    let mut p = Peer::established(plain());
    p.engine.set_user_timeout(p.conn, Some(secs(2)));
    p.send(b"lost");
    p.one();
    p.pass(ms(1990));
    assert_eq!(p.state(), State::Established);
    p.pass(ms(20));
    assert_eq!(p.recv(), Err(RecvError::Closed(Error::TimedOut)));
}

#[test]
fn fast_retransmit_without_sack() {
    let mut p = Peer::established(plain());
    p.send(&[1; 10_000]);
    let out = p.out();
    for n in 1..=3 {
        p.inject(0, Flags::ACK, &[]);
        let again = p.out();
        if n < 3 {
            assert!(again.is_empty());
        } else {
            assert_eq!((again.len(), again[0].header.seq), (1, out[0].header.seq));
        }
    }
    assert!(p.info().recovering);
    assert_eq!(p.info().ssthresh, 7000);
    // A partial ACK: the next hole goes at once (RFC 6582).
    p.acknowledge(p.ack + 4000);
    assert_eq!(p.one().header.seq, out[4].header.seq);
    p.acknowledge(p.iss + 1 + 10_000);
    assert!(!p.info().recovering);
    assert_eq!(p.info().retransmits, 2);
    assert_eq!(p.engine.counters().timeouts, 0);
}

#[test]
fn sack_driven_recovery_sends_only_what_is_missing() {
    let mut p = Peer::distant(Config::default(), false, 10_000);
    assert_eq!(p.out().len(), 10);
    p.pass(ms(40));
    // 0, 2 and 4 are lost.
    p.sack(&[(1000, 2000)]);
    p.none();
    p.sack(&[(3000, 4000), (1000, 2000)]);
    p.none();
    p.sack(&[(5000, 6000), (3000, 4000), (1000, 2000)]);
    assert_eq!(p.starts()[0], 0);
    p.sack(&[(5000, 10_000), (3000, 4000), (1000, 2000)]);
    p.out();
    p.pass(ms(40));
    p.take(10_000, &[]);
    assert_eq!((p.info().retransmits, p.info().recovering), (3, false));
    assert_eq!(p.engine.counters().timeouts, 0);
    assert!(!p.info().owns_buffers);
}

#[test]
fn nonsense_sack_is_ignored() {
    let mut p = Peer::distant(Config::default(), false, 5_000);
    p.out();
    let below = 0u32.wrapping_sub(3000);
    p.sack(&[(20_000, 30_000), (2000, 1000), (1000, 1000), (below, below + 500)]);
    p.none();
    p.sack(&[(4000, 6000)]);
    assert_eq!((p.info().recovering, p.info().sacked), (false, 0));
    p.none();
}

#[test]
fn reneging_is_survived() {
    let mut p = Peer::distant(Config::default(), false, 5_000);
    p.out();
    p.pass(ms(40));
    p.sack(&[(1000, 5000)]);
    assert_eq!(p.starts(), [0]);
    // The peer takes the first, and has thrown the rest away.
    p.take(1000, &[]);
    let sent = p.sends(2000);
    assert!(sent.iter().any(|(_, start)| *start == 1000), "{sent:?}");
}

#[test]
fn limited_transmit() {
    // RFC 3042: the first two duplicates let new segments out.
    let mut p = Peer::established(plain());
    p.send(&[1; 15_000]);
    assert_eq!(p.out().len(), 10);
    for _ in 0..2 {
        p.inject(0, Flags::ACK, &[]);
        assert_eq!(p.out().len(), 1);
    }
}

#[test]
fn window_restarts_after_idle() {
    let mut p = Peer::established(plain());
    for _ in 0..6 {
        p.send(&[1; 40_000]);
        loop {
            let out = p.out();
            let Some(last) = out.last() else { break };
            p.acknowledge(last.header.seq + last.len() as u32);
        }
    }
    assert!(p.info().cwnd > 20_000, "{}", p.info().cwnd);
    p.pass(secs(5));
    p.send(&[1; 40_000]);
    assert_eq!(p.out().len(), 10);
}

#[test]
fn an_unused_window_does_not_grow() {
    let mut p = Peer::established(plain());
    for _ in 0..100 {
        p.send(b"x");
        p.one();
        p.acknowledge(p.ack + 1);
    }
    assert_eq!(p.info().cwnd, 10_000);
}

#[test]
fn cubic_avoidance_grows_back_to_where_it_was() {
    let mut w = World::new(1);
    w.check = false;
    w.link.delay = ms(20);
    let listener = w.listen();
    let (client, server) = w.connect(listener);
    let mut lost = false;
    let mut count = 0u32;
    w.filter = Some(Box::new(move |from, s| {
        if from == 0 && s.len() > 0 {
            count += 1;
            if count == 300 && !lost {
                lost = true;
                return false;
            }
        }
        true
    }));
    let mut at_loss = 0;
    let mut after = 0;
    let data = Bytes::from(vec![7; 50_000]);
    let end = w.now + secs(10);
    while w.now < end {
        while w.engines[0].send(client, data.clone(), w.now).is_ok() {}
        w.read(1, server);
        let soon = w.now + ms(5);
        w.step(soon);
        let info = w.engines[0].info(client, w.now).unwrap();
        if w.engines[0].counters().recoveries == 0 {
            at_loss = info.cwnd;
        } else if !info.recovering {
            after = after.max(info.cwnd);
        }
    }
    assert_eq!(w.engines[0].counters().recoveries, 1);
    assert_eq!(w.engines[0].counters().timeouts, 0);
    // The receiver's window ends it.
    let goal = at_loss.min(256 << 10);
    assert!(f64::from(after) > 0.95 * f64::from(goal), "{after} of {goal}");
}

#[test]
fn send_buffer_and_writable() {
    let config = Config { send_buffer: 10_000, ..Config::default() };
    let mut p = Peer::established_with(config, plain());
    assert_eq!(p.engine.send_capacity(p.conn), 10_000);
    p.send(&[1; 9_999]);
    p.send(&[2; 5_000]);
    assert_eq!(p.engine.send_capacity(p.conn), 0);
    let full = p.engine.send(p.conn, Bytes::from_static(b"no"), p.now);
    assert_eq!(full, Err(SendError::WouldBlock(Bytes::from_static(b"no"))));
    assert_eq!(p.out().len(), 10);
    p.events();
    p.acknowledge(p.ack + 2_000);
    assert_eq!(p.events(), [], "still 13,000 of 10,000");
    p.acknowledge(p.ack + 7_000);
    assert_eq!(p.events(), [Event::Writable(p.conn)]);
    p.engine.want_write(p.conn);
    assert_eq!(p.events(), [Event::Writable(p.conn)]);
}

#[test]
fn send_memory_is_shared_and_its_end_wakes() {
    let config = Config { send_memory: 20_000, ..Config::default() };
    let mut p = Peer::established_with(config, plain());
    let first = p.conn;
    let first_ack = p.header(Flags::ACK);
    p.tuple = tuple("10.0.0.2:80", "10.0.0.9:1");
    p.seq = SeqNum(77);
    p.open(plain());
    p.accept();
    p.engine.send(first, vec![1; 20_000].into(), p.now).unwrap();
    // Who has nothing queued may queue a segment, and no more.
    p.send(&[1; 10]);
    let refused = p.engine.send(p.conn, vec![1; 10].into(), p.now);
    assert!(matches!(refused, Err(SendError::WouldBlock(_))));
    assert_eq!(p.engine.send_capacity(p.conn), 0);
    // A broadcast's payload is not this engine's memory: only its bookkeeping counts.
    p.out();
    p.events();
    for n in 1..=4u32 {
        let mut ack = first_ack;
        ack.ack += n * 5_000;
        p.engine.on_segment(&ack, &[], p.now);
        p.out();
    }
    assert!(p.events().contains(&Event::Writable(p.conn)));
    p.acknowledge(p.ack + 10);
    assert_eq!(p.engine.usage().send_memory, 0);
    let shared = Bytes::from(vec![1; 100_000]);
    p.engine.send(p.conn, shared.clone(), p.now).unwrap();
    assert!(p.engine.usage().send_memory < 200);
}

#[test]
fn keepalive_probes_then_ends() {
    let mut p = Peer::established(plain());
    let keepalive = Keepalive { idle: secs(10), interval: secs(2), count: 3 };
    p.engine.set_keepalive(p.conn, Some(keepalive));
    let sent = p.pass(secs(11));
    assert_eq!(sent.len(), 1);
    assert_eq!((sent[0].0.as_millis(), sent[0].1.len()), (10_000, 0));
    assert_eq!(sent[0].1.header.seq, p.ack - 1);
    // Answered: all is well for another ten seconds.
    p.inject(0, Flags::ACK, &[]);
    p.none();
    assert!(p.pass(ms(8900)).is_empty());
    let sent = p.pass(secs(60));
    assert_eq!(sent.len(), 4, "{sent:?}");
    // The end is told, should the peer only have been deaf.
    assert!(sent[3].1.has(Flags::RST | Flags::ACK) && sent[3].1.header.seq == p.ack);
    assert_eq!(p.recv(), Err(RecvError::Closed(Error::TimedOut)));
    assert_eq!(p.engine.usage().timers, 0);

    let mut p = Peer::established(plain());
    p.engine.set_keepalive(p.conn, Some(keepalive));
    p.engine.set_keepalive(p.conn, None);
    assert!(p.pass(secs(3600)).is_empty());
    assert_eq!(p.engine.usage().timers, 0);
}

#[test]
fn a_shrunk_window_is_respected() {
    let mut p = Peer::established(plain());
    p.send(&[1; 5_000]);
    p.out();
    // RFC 9293 3.8.6: shrinking is discouraged but must be survived.
    p.window = 1000;
    p.acknowledge(p.ack + 1000);
    p.send(&[1; 5_000]);
    p.none();
    p.window = 0xffff;
    p.acknowledge(p.ack + 4000);
    assert_eq!(p.out().len(), 5);
}

#[test]
fn every_connection_keeps_its_own_keepalive() {
    // More distinct settings than sixteen bits number, on connections that change theirs.
    const CHANGES: u64 = 70_000;
    let mut p = Peer::established(plain());
    let setting = |idle: u64| Keepalive { idle: ms(idle), interval: secs(1), count: 1 };
    p.engine.set_keepalive(p.conn, Some(setting(60_000)));
    let t = |port: u16| tuple("10.0.0.2:80", &format!("10.0.0.3:{port}"));
    let mut others = Vec::new();
    for port in 0..20 {
        others.push(p.engine.connect(t(1 + port), p.now).unwrap());
    }
    let before = p.engine.usage().tables;
    for change in 0..CHANGES {
        let conn = others[change as usize % others.len()];
        p.engine.set_keepalive(conn, Some(setting(1_000_000 + change)));
    }
    p.engine.check_invariants();
    assert!(p.engine.usage().tables < before + 8_192, "only what is in use is kept");
    for conn in others {
        p.engine.abort(conn, p.now);
    }
    p.out();
    p.engine.check_invariants();
    let sent = p.pass(ms(60_500));
    assert_eq!(sent.len(), 1, "its own time: {sent:?}");
    assert_eq!((sent[0].0.as_millis(), sent[0].1.len()), (60_000, 0));
    p.engine.set_keepalive(p.conn, None);
    p.pass(secs(600));
    assert_eq!(p.state(), State::Established);
    assert!(p.engine.usage().tables < before, "and nothing at all in the end");
}
