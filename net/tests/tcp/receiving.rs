//! Receiving: ACK policy, SACK blocks, windows, memory.

use throng_net::tcp::*;

use crate::peer::*;
use crate::world::*;

#[test]
fn delayed_ack() {
    let mut p = Peer::established(plain());
    p.data(b"one");
    p.none();
    let sent = p.pass(ms(100));
    assert_eq!(sent.len(), 1);
    assert_eq!((sent[0].0.as_millis(), sent[0].1.header.ack), (40, p.seq));
    // Every second full segment at once.
    p.data(&[0; 1000]);
    p.none();
    p.data(&[0; 1000]);
    assert_eq!(p.one().header.ack, p.seq);
    // An answer carries it.
    p.data(b"question");
    p.send(b"answer");
    let answer = p.one();
    assert_eq!((answer.len(), answer.header.ack), (6, p.seq));
    p.acknowledge(p.ack + 6);
    assert!(p.pass(secs(1)).is_empty());
}

#[test]
fn sack_blocks_latest_first() {
    let mut p = Peer::established(Options { sack_permitted: true, ..plain() });
    let at =
        |p: &Peer, from: u32, to: u32| Some(SackBlock { start: p.seq + from, end: p.seq + to });
    p.inject(100, Flags::ACK, &[1; 100]);
    assert_eq!(p.one().header.options.sack[0], at(&p, 100, 200));
    p.inject(300, Flags::ACK, &[1; 100]);
    let ack = p.one();
    assert_eq!(ack.header.ack, p.seq, "a duplicate ACK");
    assert_eq!(ack.header.options.sack[..3], [at(&p, 300, 400), at(&p, 100, 200), None]);
    p.inject(500, Flags::ACK, &[1; 100]);
    p.one();
    p.inject(700, Flags::ACK, &[1; 100]);
    p.one();
    p.inject(900, Flags::ACK, &[1; 100]);
    let sack = p.one().header.options.sack;
    assert_eq!(sack, [at(&p, 900, 1000), at(&p, 700, 800), at(&p, 500, 600), at(&p, 300, 400)]);
    // A block that grows becomes the latest.
    p.inject(200, Flags::ACK, &[1; 50]);
    assert_eq!(p.one().header.options.sack[0], at(&p, 100, 250));
    assert_eq!(p.info().out_of_order, 550);
    // The hole closes: the ACK jumps, at once.
    p.inject(0, Flags::ACK, &[1; 100]);
    assert_eq!(p.one().header.ack, p.seq + 250);
    assert_eq!(p.read().len(), 250);
}

#[test]
fn three_blocks_beside_timestamps_and_none_unless_agreed() {
    let mut p = Peer::established(everything());
    for i in 0..4 {
        p.inject(100 + 200 * i, Flags::ACK, &[1; 100]);
        p.out();
    }
    p.send(b"x");
    let s = p.one();
    assert_eq!(s.header.options.sack.iter().flatten().count(), 3);
    let mut p = Peer::established(plain());
    p.inject(100, Flags::ACK, &[1; 100]);
    assert_eq!(p.one().header.options.sack, [None; 4]);
}

#[test]
fn blocks_leave_room_in_data_segments() {
    let mut p = Peer::established(everything());
    p.inject(100, Flags::ACK, &[1; 100]);
    p.send(&[1; 3000]);
    let out = p.out();
    assert_eq!(out[0].len(), 1448 - 12);
    assert!(out[0].header.options.sack[0].is_some());
}

#[test]
fn any_overlap_comes_out_right() {
    let reference: Vec<u8> = (0..3000u32).map(|i| (i * 7 + i / 256) as u8).collect();
    for seed in 0..300 {
        let mut rng = Rng(seed);
        let mut p = Peer::established(if seed % 2 == 0 { plain() } else { everything() });
        let mut got = Vec::new();
        for _ in 0..2000 {
            let start = rng.below(3400).saturating_sub(400) as usize;
            let end = (start + 1 + rng.below(400) as usize).min(3000);
            let ahead = start as i64;
            p.inject(ahead, Flags::ACK, &reference[start..end]);
            p.out();
            if rng.chance(0.1) {
                got.extend(p.read());
            }
            if got.len() == 3000 {
                break;
            }
        }
        got.extend(p.read());
        assert!(got == reference, "seed {seed}");
        assert!(!p.info().owns_buffers);
        assert_eq!(p.engine.usage().recv_memory, 0);
    }
}

#[test]
fn range_limit() {
    let config = Config { max_ranges: 3, ..Config::default() };
    let mut p = Peer::established_with(config, everything());
    for i in 0..5 {
        p.inject(10 + 20 * i, Flags::ACK, &[1; 10]);
    }
    assert_eq!(p.engine.counters().ranges_dropped, 2);
    assert_eq!(p.info().out_of_order, 30);
    // Growing a range and filling the hole still work.
    p.inject(0, Flags::ACK, &[1; 30]);
    assert_eq!(p.read().len(), 60 - 20);
}

#[test]
fn the_window_closes_and_opens_in_worthwhile_steps() {
    let config = Config { recv_buffer: 10_000, ..Config::default() };
    let mut p = Peer::established_with(config, plain());
    let edge = p.seq + 10_000;
    let mut last_edge = p.seq;
    for _ in 0..10 {
        p.data(&[7; 1000]);
        for s in p.out() {
            let right = s.header.ack + u32::from(s.header.window);
            assert!(right.at_or_after(last_edge), "the right edge never retreats");
            assert!(right.at_or_before(edge));
            last_edge = right;
        }
    }
    p.pass(ms(50));
    // Full: a probe of one byte is answered with a zero window and not kept.
    p.inject(0, Flags::ACK, b"x");
    assert_eq!(p.one().header.window, 0);
    // A small read opens nothing (RFC 9293 3.8.6.2.2) ...
    assert_eq!(p.engine.recv(p.conn, 500, p.now).unwrap().len(), 500);
    p.none();
    // ... a larger one does.
    assert_eq!(p.engine.recv(p.conn, 500, p.now).unwrap().len(), 500);
    assert_eq!(p.engine.recv(p.conn, 1000, p.now).unwrap().len(), 1000);
    assert_eq!(p.one().header.window, 2000);
    assert_eq!(p.read().len(), 8000);
}

#[test]
fn tiny_segments_cannot_pin_much_memory() {
    let config = Config { initial_recv_buffer: 256 << 10, ..Config::default() };
    let mut p = Peer::established_with(config, everything());
    for _ in 0..100_000 {
        p.data(b"x");
        p.out();
    }
    let used = p.engine.usage().recv_memory;
    assert!(used < 2 * 100_000 + 20_000, "{used} bytes for 100,000");
    assert_eq!(p.read().len(), 100_000);
    assert_eq!(p.engine.usage().recv_memory, 0);
}

#[test]
fn receive_memory_is_bounded_and_windows_shrink_before() {
    let config =
        Config { recv_memory: 100_000, initial_recv_buffer: 256 << 10, ..Config::default() };
    let mut p = Peer::established_with(config, everything());
    let mut smallest = u16::MAX;
    for _ in 0..300 {
        p.data(&[1; 1000]);
        for s in p.out() {
            smallest = smallest.min(s.header.window);
        }
        let info = p.info();
        if info.rcv_wnd < 1000 {
            break;
        }
    }
    assert!(p.engine.usage().recv_memory <= 100_000);
    assert!(p.engine.counters().recv_memory_dropped > 0 || smallest < 1000);
    // Dropped is not acknowledged; reading makes room again, and what is sent again comes in.
    let got = p.read().len();
    p.seq = SeqNum(PEER_ISS + 1 + got as u32);
    p.data(&[1; 1000]);
    assert!(p.read().len() >= 1000);
}

#[test]
fn events_are_edges() {
    let mut p = Peer::established(plain());
    p.data(b"a");
    p.data(b"b");
    assert_eq!(p.events(), [Event::Readable(p.conn)]);
    assert_eq!(p.events(), []);
    p.data(b"c");
    assert_eq!(p.events(), [Event::Readable(p.conn)]);
    assert_eq!(p.engine.readable_bytes(p.conn), 3);
    p.inject(0, Flags::FIN | Flags::ACK, &[]);
    assert_eq!(p.events(), [Event::Readable(p.conn)]);
    // After close, none.
    p.engine.abort(p.conn, p.now);
    assert_eq!(p.events(), []);
}

#[test]
fn stale_ids_do_nothing() {
    let mut p = Peer::established(plain());
    let old = p.conn;
    p.engine.abort(old, p.now);
    p.out();
    p.seq = SeqNum(900);
    p.open(plain());
    p.accept();
    assert_eq!((old.index(), old.generation() + 1), (p.conn.index(), p.conn.generation()));
    p.data(b"mine");
    assert_eq!(p.engine.recv(old, 10, p.now), Err(RecvError::Closed(Error::NotConnected)));
    let gone = p.engine.send(old, "x".into(), p.now);
    assert_eq!(gone, Err(SendError::Closed(Error::NotConnected)));
    p.engine.close(old, p.now);
    p.engine.shutdown_write(old, p.now);
    assert_eq!((p.engine.info(old, p.now), p.engine.tuple(old)), (None, None));
    assert_eq!(p.read(), b"mine");
}

#[test]
fn urgent_data_is_ordinary_data() {
    let mut p = Peer::established(plain());
    let mut h = p.header(Flags::ACK | Flags::URG);
    h.urgent = 1;
    p.engine.on_segment(&h, b"urgent", p.now);
    assert_eq!(p.read(), b"urgent");
}
