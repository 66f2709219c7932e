//! What a review of the engine found wrong, one test each.

use crate::peer::*;
use crate::world::*;
use bytes::Bytes;
use std::time::Duration;
use throng_net::tcp::*;

/// Peer without timestamps; RTT 2 s steady after a short one. Acks each segment 2 s after first copy.
#[test]
fn karn_backoff_is_kept() {
    let mut p = Peer::established(plain());
    // quick sample
    p.send(&[0; 1000]);
    p.out();
    p.pass(ms(10));
    let a = p.ack + 1000;
    p.acknowledge(a);
    let mut spurious = Vec::new();
    for round in 0..10 {
        p.send(&[0; 1000]);
        let first = p.out();
        assert_eq!(first.len(), 1, "round {round}");
        let re = p.pass(secs(2));
        spurious.push(re.len());
        let a = p.ack + 1000;
        p.acknowledge(a);
        p.out();
    }
    // RFC 6298 5: the doubled timeout stays until there is a sample.
    assert!(spurious[4..].iter().all(|n| *n == 0), "{spurious:?} rto {:?}", p.info().rto);
}

#[test]
fn slow_syn_no_ts() {
    let now = throng_runtime::Instant::from_millis(10_000);
    let mut e = Engine::new(Config::default(), [3; 32], now);
    let t = tuple("10.0.0.2:80", "10.0.0.1:5555");
    let c = e.connect(t, now).unwrap();
    let syn = drain(&mut e, now);
    let n1 = now + ms(1000) + ms(1);
    e.on_timeout(n1);
    assert_eq!(drain(&mut e, n1).len(), 1);
    let n2 = now + ms(1500);
    let mut h = header(t, SeqNum(7), syn[0].header.seq + 1, Flags::SYN | Flags::ACK);
    h.options = plain();
    e.on_segment(&h, &[], n2);
    drain(&mut e, n2);
    // RFC 6298 5.7.
    assert_eq!(e.info(c, n2).unwrap().rto, secs(3));
}

#[test]
fn simultaneous_open_window_is_not_scaled() {
    let now = throng_runtime::Instant::from_millis(10_000);
    let mut e = Engine::new(Config::default(), [3; 32], now);
    let t = tuple("10.0.0.2:80", "10.0.0.1:5555");
    let c = e.connect(t, now).unwrap();
    let syn = drain(&mut e, now);
    let mut h = header(t, SeqNum(7), SeqNum(0), Flags::SYN);
    h.options = everything();
    h.window = 1000;
    e.on_segment(&h, &[], now);
    drain(&mut e, now);
    let mut h = header(t, SeqNum(7), syn[0].header.seq + 1, Flags::SYN | Flags::ACK);
    h.options = everything();
    h.window = 1000;
    e.on_segment(&h, &[], now);
    drain(&mut e, now);
    assert_eq!(e.state(c), State::Established);
    assert_eq!(e.info(c, now).unwrap().snd_wnd, 1000);
}

/// Keepalive probe of the peer 25 days after another challenge.
#[test]
fn challenge_after_25_days() {
    let mut p = Peer::established(plain());
    p.inject(-1, Flags::ACK, &[]);
    assert_eq!(p.out().len(), 1);
    p.pass(Duration::from_secs(25 * 86_400));
    for _ in 0..9 {
        p.inject(-1, Flags::ACK, &[]);
        assert_eq!(
            p.out().len(),
            1,
            "keepalive unanswered: {:?}",
            p.engine.counters().challenge_limited
        );
        p.pass(secs(75));
    }
}

/// Keepalive set on a connection silent for 30 days.
#[test]
fn keepalive_after_30_days() {
    let mut p = Peer::established(plain());
    p.pass(Duration::from_secs(30 * 86_400));
    let k = Keepalive { idle: secs(10), interval: secs(1), count: 3 };
    p.engine.set_keepalive(p.conn, Some(k));
    let sent = p.pass(secs(3600));
    assert!(!sent.is_empty(), "no probe in an hour");
}

/// With SACK, plain duplicate ACKs (no SACK news) are no sign of loss.
#[test]
fn duplicated_acks_with_sack() {
    let mut p = Peer::established(everything());
    p.send(&[0; 1448 * 4]);
    p.out();
    for _ in 0..3 {
        p.inject(0, Flags::ACK, &[]);
    }
    let out = p.out();
    assert!(
        out.is_empty() && !p.info().recovering,
        "{} segments, cwnd {}",
        out.len(),
        p.info().cwnd
    );
}

/// Recovery begun and ended in one burst leaves a forced retransmission.
#[test]
fn force_is_left_behind() {
    let mut p = Peer::established(plain());
    p.send(&[0; 5000]);
    let out = p.out();
    let base = p.ack;
    p.acknowledge(base);
    p.acknowledge(base);
    p.acknowledge(base);
    p.acknowledge(base + 5000);
    let _ = out;
    p.out();
    p.send(&[1; 1000]);
    let n = p.out().len();
    p.inject(0, Flags::ACK, &[]);
    let again = p.out().len();
    let m = {
        p.send(&[1; 1000]);
        p.out().len()
    };
    assert_eq!((n, again, m, p.engine.counters().retransmits), (1, 0, 1, 0));
}

/// One-byte segments, each acknowledged at once: is the window a bound?
#[test]
fn window_creeps() {
    let config = Config { recv_buffer: 1 << 20, ..Config::default() };
    let mut p = Peer::established_with(config, everything());
    let scale = p.info().rcv_scale.unwrap();
    let unit = 1usize << scale;
    // fill
    let piece = vec![1u8; 1400];
    while p.info().rcv_wnd as usize >= 1400 {
        p.data(&piece);
        p.out();
    }
    let before = p.info().recv_queue;
    let mut n = 0;
    for _ in 0..200_000 {
        let w = p.info().rcv_wnd as usize;
        if w < 1 {
            break;
        }
        let len = w.min(unit - 1).max(1);
        p.data(&vec![1u8; len]);
        p.inject(-1, Flags::ACK, &[0]); // forces an ACK
        p.out();
        n += 1;
        if n > 2000 {
            break;
        }
    }
    assert!(
        p.info().recv_queue <= (1 << 20) + unit,
        "{} held, {} at first, scale {scale}, n {n}",
        p.info().recv_queue,
        before
    );
}

#[test]
fn duplicate_syn_half_rtt() {
    let mut p = Peer::listening(Config::default());
    let mut syn = header(p.tuple, p.seq, SeqNum(0), Flags::SYN);
    syn.options = plain();
    p.engine.on_segment(&syn, &[], p.now);
    let out = p.out();
    p.now += ms(900);
    p.engine.on_segment(&syn, &[], p.now);
    p.out();
    p.now += ms(10);
    p.seq += 1;
    p.ack = out[0].header.seq + 1;
    p.inject(0, Flags::ACK, &[]);
    p.accept();
    let srtt = p.info().srtt;
    assert!(srtt.is_zero() || srtt >= ms(900), "srtt {srtt:?} rto {:?}", p.info().rto);
}

#[test]
fn starved_waits_between_seven_eighths_and_full() {
    let config = Config { send_memory: 80_000, send_buffer: 30_000, ..Config::default() };
    let mut p = Peer::established_with(config, plain());
    let first = (p.conn, p.tuple, p.seq, p.ack);
    p.tuple = tuple("10.0.0.2:80", "10.0.0.9:1");
    p.seq = SeqNum(77);
    p.open(plain());
    p.accept();
    // first fills the engine: 76,000 + 4,000
    p.engine.send(first.0, vec![0; 2_500].into(), p.now).unwrap();
    p.engine.send(first.0, vec![0; 78_000].into(), p.now).unwrap();
    // The segment that everybody may have, and one more.
    assert!(p.engine.send(p.conn, Bytes::from_static(b"x"), p.now).is_ok());
    let r = p.engine.send(p.conn, Bytes::from_static(b"x"), p.now);
    assert!(matches!(r, Err(SendError::WouldBlock(_))));
    p.out();
    let mut h = header(first.1, first.2, first.3 + 2_500, Flags::ACK);
    h.window = 0;
    p.engine.on_segment(&h, &[], p.now);
    let events = p.events();
    assert!(p.engine.send(p.conn, Bytes::from_static(b"x"), p.now).is_ok(), "room there is");
    assert!(
        events.contains(&Event::Writable(p.conn)),
        "{events:?} {:?}",
        p.engine.usage().send_memory
    );
}

/// set_keepalive on a closed connection turns EOF into an error.
#[test]
fn keepalive_on_closed() {
    let mut p = Peer::established(plain());
    p.inject(0, Flags::ACK | Flags::FIN, &[]);
    p.seq += 1;
    p.engine.shutdown_write(p.conn, p.now);
    p.out();
    let a = p.ack + 1;
    p.acknowledge(a);
    assert_eq!(p.state(), State::Closed);
    assert_eq!(p.recv(), Ok(Bytes::new()));
    p.engine.set_keepalive(p.conn, Some(Keepalive { idle: secs(1), interval: secs(1), count: 1 }));
    p.pass(secs(10));
    assert_eq!(p.recv(), Ok(Bytes::new()));
    assert_eq!(p.engine.counters().timed_out, 0);
}

/// A window shrunk to nothing while data is out; the peer answers everything.
#[test]
fn shrunk_window_does_not_kill() {
    let mut p = Peer::established(plain());
    p.send(&[0; 1000]);
    p.out();
    p.window = 0;
    for _ in 0..600 {
        let sent = p.pass(secs(10));
        if !sent.is_empty() && p.state() == State::Established {
            p.inject(0, Flags::ACK, &[]);
            p.out();
        }
    }
    assert_eq!(p.state(), State::Established);
}

/// No fast retransmit without SACK after 2^31 bytes.
#[test]
fn recover_goes_stale() {
    let mut p = Peer::established(plain());
    p.engine.check_invariants();
    p.window = 0xffff;
    let chunk = Bytes::from_static(&[0; 64_000]);
    let mut total = 0u64;
    while total < (1u64 << 31) + (1 << 20) {
        p.engine.send(p.conn, chunk.clone(), p.now).unwrap();
        let mut left = 64_000u32;
        while left > 0 {
            let n: usize = drain(&mut p.engine, p.now).iter().map(Segment::len).sum();
            assert!(n > 0);
            left -= n as u32;
            p.ack += n as u32;
            let h = p.header(Flags::ACK);
            p.engine.on_segment(&h, &[], p.now);
        }
        total += 64_000;
    }
    p.send(&[0; 8000]);
    p.out();
    let a = p.ack;
    for _ in 0..4 {
        p.acknowledge(a);
    }
    assert!(p.info().recovering, "no recovery after {total} bytes");
}

/// A soft ICMP error, then success: the attempt has not failed (RFC 1122 4.2.3.9).
#[test]
fn soft_error_then_established() {
    let now = throng_runtime::Instant::from_millis(10_000);
    let mut e = Engine::new(Config::default(), [3; 32], now);
    let t = tuple("10.0.0.2:80", "10.0.0.1:5555");
    let c = e.connect(t, now).unwrap();
    let syn = drain(&mut e, now);
    e.on_icmp_unreachable(t, syn[0].header.seq, Unreachable::Host, now);
    assert_eq!(e.state(c), State::SynSent);
    let mut h = header(t, SeqNum(7), syn[0].header.seq + 1, Flags::SYN | Flags::ACK);
    h.options = plain();
    e.on_segment(&h, &[], now);
    assert_eq!(e.state(c), State::Established);
    assert_eq!(e.take_error(c), None);
}

/// A chunk of more than 1 GiB is taken piece by piece.
#[test]
fn giant_chunk() {
    let mut p = Peer::established(plain());
    // Nothing of it is ever touched, so it is address space only.
    let r = p.engine.send(p.conn, Bytes::from(vec![0u8; (1 << 30) + 1]), p.now);
    let Err(SendError::WouldBlock(rest)) = r else { panic!("{r:?}") };
    assert_eq!((rest.len(), p.info().send_queue), (1, 1 << 30));
}

/// A window closed for want of memory opens when another connection's reader makes room.
#[test]
fn memory_that_comes_free_opens_windows() {
    let config = Config { recv_memory: 80_000, recv_buffer: 65_000, ..Config::default() };
    let mut p = Peer::established_with(config, plain());
    let first = p.conn;
    for _ in 0..60 {
        p.data(&[1; 1000]);
        p.out();
    }
    p.tuple = tuple("10.0.0.2:80", "10.0.0.9:1");
    p.seq = SeqNum(77);
    p.open(plain());
    p.accept();
    for _ in 0..100 {
        if p.info().rcv_wnd >= 1000 {
            p.data(&[2; 1000]);
            p.read();
            p.out();
        }
    }
    assert!(p.info().rcv_wnd < 10_000, "{}", p.info().rcv_wnd);
    while p.engine.recv(first, usize::MAX, p.now).is_ok() {}
    let out = p.out();
    let update = out.iter().find(|s| s.header.tuple == p.tuple).expect("a window update");
    assert!(update.header.window > 30_000, "{}", update.header.window);
}

/// SYN_RECEIVED of a simultaneous open answers what it does not accept.
#[test]
fn simultaneous_open_challenges() {
    let now = throng_runtime::Instant::from_millis(10_000);
    let mut e = Engine::new(Config::default(), [3; 32], now);
    let t = tuple("10.0.0.2:80", "10.0.0.1:5555");
    let c = e.connect(t, now).unwrap();
    let syn = drain(&mut e, now);
    let mut h = header(t, SeqNum(7), SeqNum(0), Flags::SYN);
    h.options = plain();
    e.on_segment(&h, &[], now);
    assert_eq!(drain(&mut e, now).len(), 1);
    assert_eq!(e.state(c), State::SynReceived);
    let beyond = header(t, SeqNum(8 + 100_000), syn[0].header.seq + 1, Flags::ACK);
    e.on_segment(&beyond, &[], now);
    let out = drain(&mut e, now);
    assert_eq!(out.len(), 1);
    assert_eq!((out[0].header.flags, out[0].header.ack), (Flags::ACK, SeqNum(8)));
    e.check_invariants();
}

/// A SYN that finds the backlog full leaves the TIME_WAIT entry alone.
#[test]
fn time_wait_outlives_a_dropped_syn() {
    let mut p = Peer::established(plain());
    p.engine.close(p.conn, p.now);
    let fin = p.one();
    p.acknowledge(fin.header.seq + 1);
    p.inject(0, Flags::FIN | Flags::ACK, &[]);
    p.one();
    let (old, seq) = (p.tuple, p.seq);
    for port in 0..4 {
        p.tuple = tuple("10.0.0.2:80", &format!("10.0.0.9:{}", port + 1));
        p.open(plain());
    }
    let mut syn = header(old, seq + 100, SeqNum(0), Flags::SYN);
    syn.options = plain();
    p.engine.on_segment(&syn, &[], p.now);
    p.none();
    assert_eq!((p.engine.usage().time_wait, p.engine.usage().half_open), (1, 0));
    assert_eq!(p.engine.counters().syn_dropped_backlog, 1);
}

/// Setting the user timeout again and again does not put off the retransmission.
#[test]
fn user_timeout_leaves_the_timer_alone() {
    let mut p = Peer::established(plain());
    p.send(&[0; 1000]);
    p.out();
    let rto = p.info().rto;
    let mut sent = 0;
    for _ in 0..10 {
        p.engine.set_user_timeout(p.conn, Some(secs(60)));
        sent += p.pass(rto / 4).len();
    }
    assert!(sent > 0);
    // One that cut it short and is taken back does not.
    p.engine.set_user_timeout(p.conn, Some(secs(61)));
    let left = p.info().rto;
    p.engine.set_user_timeout(p.conn, Some(rto * 3));
    p.engine.set_user_timeout(p.conn, None);
    assert!(p.pass(left / 2).is_empty());
    assert_eq!(p.state(), State::Established);
}

/// Half-open connections that come and go while the device takes nothing.
#[test]
fn stale_slots_are_dropped() {
    let mut p = Peer::listening(Config::default());
    let mut syn = header(p.tuple, p.seq, SeqNum(0), Flags::SYN);
    syn.options = plain();
    for _ in 0..500 {
        p.engine.on_segment(&syn, &[], p.now);
        let rst = header(p.tuple, p.seq + 1, SeqNum(0), Flags::RST);
        p.engine.on_segment(&rst, &[], p.now);
        p.engine.poll_transmit(p.now, &mut Sink::default());
        p.engine.check_invariants();
    }
    p.engine.on_segment(&syn, &[], p.now);
    p.engine.poll_transmit(p.now, &mut Sink::default());
    assert!(p.one().has(Flags::SYN | Flags::ACK));
}

/// Shorter segments than before are acknowledged as often in the end.
#[test]
fn shorter_segments_are_noticed() {
    let mut p = Peer::established(everything());
    for _ in 0..4 {
        p.data(&[0; 1400]);
        p.out();
    }
    for _ in 0..3 {
        p.data(&[0; 536]);
    }
    p.none();
    assert_eq!(p.pass(ms(50)).len(), 1);
    for _ in 0..3 {
        p.data(&[0; 536]);
    }
    p.one();
}

/// One ACK after a timeout, of much that had arrived all along, is no licence for a burst.
#[test]
fn growth_after_a_timeout_is_bounded() {
    let mut p = Peer::established(plain());
    p.send(&[0; 20_000]);
    assert_eq!(p.out().len(), 10);
    assert_eq!(p.pass(p.info().rto + ms(10)).len(), 1);
    let ack = p.ack + 8000;
    p.acknowledge(ack);
    assert_eq!(p.info().cwnd, 2000);
}

/// Nothing counts that comes after a FIN, and no other FIN.
#[test]
fn the_first_fin_ends_the_stream() {
    for later in [Flags::ACK, Flags::FIN | Flags::ACK] {
        let mut p = Peer::established(plain());
        p.inject(100, Flags::FIN | Flags::ACK, &[2; 10]);
        p.inject(105, later, &[3; 50]);
        p.inject(300, later, &[3; 50]);
        p.inject(50, Flags::FIN | Flags::ACK, &[2; 10]);
        p.data(&[1; 100]);
        let mut all = vec![1; 100];
        all.extend([2; 10]);
        assert_eq!(p.read(), all);
        assert_eq!(p.state(), State::CloseWait);
        assert_eq!(p.recv(), Ok(Bytes::new()));
    }
}

/// A FIN cannot stand before data that is here already.
#[test]
fn a_fin_before_held_data_is_ignored() {
    let mut p = Peer::established(plain());
    p.inject(100, Flags::ACK, &[2; 100]);
    p.inject(50, Flags::FIN | Flags::ACK, &[1; 10]);
    p.data(&[1; 100]);
    assert_eq!(p.read().len(), 200);
    assert_eq!(p.state(), State::Established);
}
