//! What a peer may do to be a burden: to the processor, to the memory all share, to the clock.

use bytes::Bytes;
use throng_net::tcp::*;
use throng_runtime::Instant;

use crate::peer::*;
use crate::world::*;

/// A range of pieces that grows at its start is not moved for each of them.
#[test]
fn single_bytes_from_the_last_to_the_first_cost_no_more_than_any_others() {
    const BYTES: u32 = 40_000;
    let mut p = Peer::established(everything());
    let start = std::time::Instant::now();
    for i in (1..BYTES).rev() {
        let mut h = p.header(Flags::ACK);
        h.seq += i;
        p.engine.on_segment(&h, &[i as u8], p.now);
    }
    assert_eq!(p.info().out_of_order, BYTES as usize - 1);
    p.inject(0, Flags::ACK, &[0]);
    // They took half a minute when they were moved.
    assert!(start.elapsed() < std::time::Duration::from_secs(8), "{:?}", start.elapsed());
    assert!(p.read().iter().zip(0u32..).all(|(byte, i)| *byte == i as u8));
    assert_eq!(p.info().bytes_received, BYTES.into());
    assert_eq!(p.engine.usage().recv_memory, 0);
}

/// Ranges of any number of pieces, grown at either end and joined, come out in order.
#[test]
fn ranges_join_whichever_is_the_longer() {
    let reference: Vec<u8> = (0..3000u32).map(|i| (i * 7 + i / 256) as u8).collect();
    for seed in 0..200 {
        let mut rng = Rng(seed);
        let mut p = Peer::established(everything());
        let mut cuts: Vec<usize> = (0..60).map(|_| rng.below(3000) as usize).collect();
        cuts.extend([0, 3000]);
        cuts.sort_unstable();
        cuts.dedup();
        assert!(cuts.len() > 31);
        let mut pieces: Vec<(usize, usize)> = cuts.windows(2).map(|w| (w[0], w[1])).collect();
        match seed % 3 {
            0 => pieces.reverse(),
            1 => pieces.sort_by_key(|(from, _)| (from * 2_654_435_761) & 0xffff),
            _ => pieces.rotate_left(30),
        }
        for (from, to) in pieces {
            p.inject(from as i64, Flags::ACK, &reference[from..to]);
        }
        assert!(p.read() == reference, "seed {seed}");
    }
}

/// A peer that reads nothing holds what was sent to it for as long as it likes; who has nothing
/// queued still gets a segment out at a time.
#[test]
fn who_holds_all_send_memory_stops_nobody_else() {
    let config = Config { send_memory: 50_000, ..Config::default() };
    let mut p = Peer::established_with(config, plain());
    let hog = p.conn;
    p.send(&[0; 60_000]);
    p.out();
    p.tuple = tuple("10.0.0.2:80", "10.0.0.9:1");
    p.seq = SeqNum(77);
    p.open(plain());
    p.accept();
    let used = p.engine.usage().send_memory;
    assert!(used >= 50_000);
    assert_eq!(p.engine.send_capacity(hog), 0);

    let mut left = Bytes::from((0..10_000u32).map(|i| i as u8).collect::<Vec<u8>>());
    let mut got = Vec::new();
    for _ in 0..10 {
        assert_eq!(p.engine.send_capacity(p.conn), 1000, "a segment");
        match p.engine.send(p.conn, left.clone(), p.now) {
            Ok(()) => left.clear(),
            Err(SendError::WouldBlock(rest)) => left = rest,
            Err(closed) => panic!("{closed:?}"),
        }
        assert_eq!(p.engine.send_capacity(p.conn), 0);
        assert!(p.engine.usage().send_memory <= used + 1000 + 64, "a copy, and no more");
        let sent = p.one();
        got.extend_from_slice(&sent.payload);
        p.events();
        p.acknowledge(p.ack + sent.len() as u32);
        let wakes = p.events().contains(&Event::Writable(p.conn));
        assert_eq!(wakes, !left.is_empty());
    }
    assert!(left.is_empty());
    assert!(got.iter().zip(0u32..).all(|(byte, i)| *byte == i as u8) && got.len() == 10_000);
    assert_eq!(p.engine.counters().send_memory_forced, 10);

    // Nothing to say, and room for it: a writer that asks is told at once.
    p.engine.want_write(p.conn);
    assert!(p.events().contains(&Event::Writable(p.conn)));
    p.engine.abort(hog, p.now);
    p.out();
    p.send(&[1; 5_000]);
    assert_eq!(p.out().len(), 5);
}

/// A caller whose clock goes back: the time is the latest that was ever told.
#[test]
fn a_clock_that_goes_back_measures_nothing() {
    let mut p = Peer::established(plain());
    p.now += ms(50);
    p.send(b"x");
    p.out();
    p.now = Instant::from_millis(1_000);
    p.acknowledge(p.ack + 1);
    p.now = Instant::from_millis(20_000);
    assert!(p.info().srtt < secs(1), "{:?}", p.info().srtt);
    assert!(p.info().rto < secs(2), "{:?}", p.info().rto);
    p.send(b"y");
    p.out();
    assert_eq!(p.pass(secs(2)).len(), 3, "and timers run");
}

/// More timers than one call runs, and entries in TIME-WAIT, none of which has one of its own.
#[test]
fn a_clock_that_jumps_weeks_ahead_ends_every_wait() {
    for days in [1, 25, 30, 45, 49, 75] {
        let mut now = Instant::from_millis(10_000);
        let mut engine = Engine::new(Config::default(), [3; 32], now);
        for port in 0..10_000u16 {
            let from = tuple(&format!("10.0.0.2:{}", port + 1), "10.0.0.1:80");
            engine.connect(from, now).unwrap();
        }
        drain(&mut engine, now);
        now += secs(days * 86_400);
        for _ in 0..100 {
            engine.on_timeout(now);
        }
        engine.check_invariants();
        assert_eq!(drain(&mut engine, now).len(), 10_000, "after {days} days");

        let mut p = Peer::established(everything());
        p.engine.shutdown_write(p.conn, p.now);
        p.out();
        p.acknowledge(p.ack + 1);
        p.ts = Some(1001);
        p.inject(0, Flags::ACK | Flags::FIN, &[]);
        p.engine.close(p.conn, p.now);
        p.out();
        assert_eq!(p.engine.usage().time_wait, 1);
        p.now += secs(days * 86_400);
        p.engine.on_timeout(p.now);
        assert_eq!(p.engine.usage().time_wait, 0, "after {days} days");
        assert_eq!(p.engine.poll_timeout(), None);
    }
}

/// A linger time is for what is not acknowledged; waiting for the peer's FIN has its own.
#[test]
fn a_linger_time_does_not_prolong_fin_wait_2() {
    let mut p = Peer::established(plain());
    p.engine.set_linger(p.conn, Some(secs(36_000)));
    p.engine.shutdown_write(p.conn, p.now);
    p.out();
    p.acknowledge(p.ack + 1);
    assert_eq!(p.state(), State::FinWait2);
    p.engine.close(p.conn, p.now);
    p.pass(secs(61));
    assert_eq!(p.engine.usage().connections, 0);
}

/// A server that uses cookies knows nothing of a connection whose first segment is lost or late,
/// and resets it for the second: so the handshake does not wait for data.
#[test]
fn the_handshake_is_finished_before_data_is_sent() {
    let now = Instant::from_millis(1_000);
    let config = Config { max_half_open: 0, ..Config::default() };
    let mut client = Engine::new(Config::default(), [1; 32], now);
    let mut server = Engine::new(config, [2; 32], now);
    let listener = server.listen("10.0.0.2:80".parse().unwrap(), 4).unwrap();
    let conn = client.connect(tuple("10.0.0.1:4000", "10.0.0.2:80"), now).unwrap();
    let carry = |segments: Vec<Segment>, to: &mut Engine| {
        for segment in segments {
            let segment = segment.flipped();
            to.on_segment(&segment.header, &segment.payload, now);
            to.check_invariants();
        }
    };
    carry(drain(&mut client, now), &mut server);
    carry(drain(&mut server, now), &mut client);
    // The application writes in the turn that it hears of the connection.
    client.send(conn, vec![7; 5_000].into(), now).unwrap();
    let mut sent = drain(&mut client, now);
    assert_eq!((sent[0].len(), sent[0].header.flags), (0, Flags::ACK));
    assert!(sent[0].header.options.timestamps.is_some());
    let first = sent.remove(1);
    assert_eq!(sent.len(), 4, "{sent:#?}");
    carry(sent, &mut server);
    carry(vec![first], &mut server);
    let accepted = server.accept(listener).expect("it opens");
    assert_eq!(server.readable_bytes(accepted), 5_000);
    assert_eq!(server.counters().resets_out, 0);
}
