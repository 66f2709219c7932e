//! Buffers that grow: the receive window with its reader, the send queue with the congestion
//! window, both within the shard's memory.

use std::time::Duration;

use bytes::Bytes;
use throng_net::tcp::*;
use throng_runtime::Instant;

use crate::peer::*;
use crate::world::*;

const INITIAL: u32 = 64 << 10;

/// A peer that sends `bytes` bytes in segments of 1,000 within `rtt`, evenly, and sees to it that
/// they are read; the window each segment carried is checked on the way: the edge never retreats.
fn round(p: &mut Peer, edge: &mut SeqNum, bytes: usize, rtt: Duration, read: bool) {
    let segments = bytes / 1000;
    for _ in 0..segments {
        p.tick();
        p.data(&[1; 1000]);
        if read {
            p.read();
        }
        let sent = p.pass(rtt / segments as u32);
        for (_, s) in sent.iter().filter(|(_, s)| s.header.tuple == p.tuple) {
            advance(edge, s, p.info().rcv_scale.unwrap_or(0));
        }
    }
}

/// The right edge never retreats, but for what the window field cannot say (RFC 7323 2.4).
fn advance(edge: &mut SeqNum, s: &Segment, scale: u8) {
    let right = s.header.ack + (u32::from(s.header.window) << scale);
    assert!((right + (1 << scale)).after(*edge), "the right edge never retreats");
    if right.after(*edge) {
        *edge = right;
    }
}

trait Clocked {
    fn tick(&mut self);
}

impl Clocked for Peer {
    /// The peer's timestamp clock follows the engine's time.
    fn tick(&mut self) {
        if let Some(ts) = &mut self.ts {
            *ts = self.now.as_millis() as u32;
        }
    }
}

/// A connection whose handshake took `rtt`.
fn with_rtt(config: Config, options: Options, rtt: Duration) -> Peer {
    let mut p = Peer::listening(config);
    p.ts = options.timestamps.map(|(value, _)| value);
    let mut syn = header(p.tuple, p.seq, SeqNum(0), Flags::SYN);
    syn.options = options;
    p.engine.on_segment(&syn, &[], p.now);
    let syn_ack = p.one();
    p.iss = syn_ack.header.seq;
    p.ack = p.iss + 1;
    p.seq += 1;
    p.now += rtt;
    p.inject(0, Flags::ACK, &[]);
    p.accept();
    p
}

fn big() -> Config {
    Config { recv_buffer: 1 << 20, ..Config::default() }
}

#[test]
fn the_window_doubles_while_much_of_it_is_read_in_a_round_trip() {
    let mut p = with_rtt(big(), Options { timestamps: None, ..everything() }, ms(20));
    assert_eq!(p.info().rcv_buffer, INITIAL);
    assert_eq!(p.info().srtt.as_millis(), 20);
    let mut edge = p.seq;
    // 24,000 bytes a round trip are less than three eighths.
    for _ in 0..20 {
        round(&mut p, &mut edge, 24_000, ms(20), true);
    }
    assert_eq!((p.info().rcv_buffer, p.engine.counters().windows_grown), (INITIAL, 0));
    // 40,000 are more: it doubles, once.
    for _ in 0..20 {
        round(&mut p, &mut edge, 40_000, ms(20), true);
    }
    assert_eq!((p.info().rcv_buffer, p.engine.counters().windows_grown), (2 * INITIAL, 1));
    // As a sender in slow start has it, the window is ahead; at its bound it stays.
    for _ in 0..5 {
        round(&mut p, &mut edge, 120_000, ms(20), true);
        round(&mut p, &mut edge, 240_000, ms(20), true);
    }
    assert!(p.info().rcv_buffer >= 512 << 10, "{:?}", p.info());
    for _ in 0..10 {
        round(&mut p, &mut edge, 500_000, ms(10), true);
    }
    assert_eq!(p.info().rcv_buffer, 1 << 20);
    assert!(p.info().rcv_wnd >= (1 << 20) - 4_000, "and it is offered");
}

#[test]
fn what_nobody_reads_makes_nothing_grow() {
    let mut p = with_rtt(big(), everything(), ms(20));
    let mut edge = p.seq;
    round(&mut p, &mut edge, 60_000, ms(5), false);
    assert_eq!(p.info().rcv_buffer, INITIAL);
    assert!(p.info().rcv_wnd < 6_000, "{}", p.info().rcv_wnd);
}

#[test]
fn a_longer_way_is_noticed_by_the_echo_of_timestamps() {
    // The handshake took 10 ms, then the path is of 200 ms, over which the sender spreads a full
    // window: 3,000 bytes in the time of the old path.
    for echoed in [false, true] {
        let mut p = with_rtt(big(), everything(), ms(10));
        p.data(&[1; 1000]);
        p.data(&[1; 1000]);
        let clock = p.one().header.options.timestamps.unwrap().0;
        let offset = clock.wrapping_sub(p.now.as_millis() as u32);
        p.read();
        for _ in 0..600 {
            let mut h = p.header(Flags::ACK);
            let now = p.now.as_millis() as u32;
            let echo = if echoed { (now - 200).wrapping_add(offset) } else { 0 };
            h.options.timestamps = Some((now, echo));
            p.engine.on_segment(&h, &[1; 1000], p.now);
            p.seq += 1000;
            p.read();
            p.pass(Duration::from_micros(3_300));
        }
        let info = p.info();
        assert_eq!(info.srtt.as_millis(), 10, "no sample for the retransmission timer");
        let expected = if echoed { 4 * INITIAL } else { INITIAL };
        assert_eq!(info.rcv_buffer, expected);
    }
}

#[test]
fn without_scaling_a_window_stays_in_its_field() {
    let config = Config { initial_recv_buffer: 10_000, ..Config::default() };
    let mut p = with_rtt(config, plain(), ms(20));
    assert_eq!(p.info().rcv_buffer, 10_000);
    let mut edge = p.seq;
    for _ in 0..20 {
        round(&mut p, &mut edge, 9_000, ms(2), true);
    }
    assert_eq!(p.info().rcv_buffer, 0xffff);
    assert!(p.info().rcv_wnd > 60_000);
}

#[test]
fn the_scale_follows_from_the_largest_window() {
    for (largest, scale) in [
        (0xffff, 0),
        (0x1_0000, 1),
        (256 << 10, 3),
        (6 << 20, 7),
        (64 << 20, 11),
        (0xffff << 14, 14),
        (u32::MAX, 14),
    ] {
        let config = Config { recv_buffer: largest, ..Config::default() };
        let mut p = Peer::listening(config);
        let syn_ack = p.open(everything());
        assert_eq!(syn_ack.header.options.window_scale, Some(scale), "{largest}");
        p.accept();
        p.data(&[1; 1000]);
        p.data(&[1; 1000]);
        p.read();
        p.out();
        assert!(p.info().rcv_buffer <= INITIAL && p.info().rcv_wnd <= INITIAL);
    }
}

#[test]
fn nothing_grows_while_half_of_the_memory_is_used_and_what_has_grown_shrinks() {
    // One connection nobody reads takes more than half of the memory, then most of it.
    let config = Config { recv_memory: 400_000, initial_recv_buffer: 32 << 10, ..big() };
    let mut p = with_rtt(config, everything(), ms(20));
    let reader = p.conn;
    let mut edge = p.seq;
    for _ in 0..4 {
        round(&mut p, &mut edge, 40_000, ms(10), true);
    }
    let grown = p.info().rcv_buffer;
    assert!(grown >= 128 << 10, "{grown}");
    let mut hogs = Vec::new();
    let hog = |p: &mut Peer, port: u16| {
        let (tuple, seq, ack) = (p.tuple, p.seq, p.ack);
        p.tuple.remote_port = port;
        p.seq = SeqNum(77);
        p.open(everything());
        p.accept();
        let hog = p.conn;
        for _ in 0..30 {
            p.data(&[1; 1000]);
            p.out();
        }
        (p.tuple, p.seq, p.ack, p.conn) = (tuple, seq, ack, reader);
        hog
    };
    for port in 0..8 {
        hogs.push(hog(&mut p, 7_000 + port));
    }
    assert!((200_000..300_000).contains(&p.engine.usage().recv_memory));
    for _ in 0..4 {
        round(&mut p, &mut edge, 100_000, ms(10), true);
    }
    assert_eq!(p.info().rcv_buffer, grown, "it stopped growing");
    assert!(p.engine.counters().windows_held > 0);
    assert_eq!(p.engine.counters().windows_reduced, 0);
    for port in 8..11 {
        hogs.push(hog(&mut p, 7_000 + port));
    }
    assert!(p.engine.usage().recv_memory > 300_000);
    for _ in 0..20 {
        round(&mut p, &mut edge, 30_000, ms(30), true);
    }
    assert_eq!(p.info().rcv_buffer, 32 << 10, "back to where it began");
    assert!(p.engine.counters().windows_reduced >= 2);
    // With memory it grows again.
    for hog in hogs {
        p.engine.abort(hog, p.now);
    }
    for _ in 0..10 {
        round(&mut p, &mut edge, 60_000, ms(10), true);
    }
    assert!(p.info().rcv_buffer >= grown);
}

#[test]
fn ten_thousand_slow_readers_leave_the_others_their_pace() {
    // Peers that fill whatever window they get, in order or with a hole, and applications that
    // never read.
    let config = Config { recv_memory: 16 << 20, max_half_open: 1 << 16, ..Config::default() };
    let limit = config.recv_memory;
    let mut engine = Engine::new(config, [9; 32], Instant::from_millis(10_000));
    let listener = engine.listen("10.0.0.2:80".parse().unwrap(), 20_000).unwrap();
    let mut now = Instant::from_millis(10_000);
    let payload = [7; 1460];
    let open = |engine: &mut Engine, t: FourTuple, now: Instant| {
        let mut syn = header(t, SeqNum(0), SeqNum(0), Flags::SYN);
        syn.options = Options { timestamps: None, ..everything() };
        engine.on_segment(&syn, &[], now);
        let ack = drain(engine, now)[0].header.seq + 1;
        engine.on_segment(&header(t, SeqNum(1), ack, Flags::ACK), &[], now);
        (engine.accept(listener).unwrap(), ack)
    };
    let mut conns = Vec::new();
    for i in 0..10_000u32 {
        let t = tuple("10.0.0.2:80", &format!("10.9.{}.{}:99", i >> 8, i & 255));
        let (_, ack) = open(&mut engine, t, now);
        // Every second one begins behind a hole.
        let at = if i % 2 == 0 { 1 } else { 2 };
        conns.push((t, ack, SeqNum(at)));
    }
    for _ in 0..10 {
        for (t, ack, seq) in &mut conns {
            engine.on_segment(&header(*t, *seq, *ack, Flags::ACK), &payload, now);
            *seq += payload.len() as u32;
        }
        drain(&mut engine, now);
        now += ms(1);
    }
    let used = engine.usage().recv_memory;
    assert!(used > limit / 2, "{used}");
    assert!(used <= limit + 10_000 * (1460 + 64), "{used}");
    assert!(engine.counters().recv_memory_dropped > 10_000);
    engine.check_invariants();

    // One that reads gets on: what it is sent within its window is kept, and the window is
    // never shut for long.
    let t = tuple("10.0.0.2:80", "10.0.0.1:1234");
    let (conn, ack) = open(&mut engine, t, now);
    let (mut seq, mut got) = (SeqNum(1), 0);
    let mut edge = seq + 0xffff;
    let end = now + secs(10);
    while now < end {
        let mut budget = (edge - seq).min(2 * 1460) / 1460;
        while budget > 0 {
            engine.on_segment(&header(t, seq, ack, Flags::ACK), &payload, now);
            seq += 1460;
            budget -= 1;
            while let Ok(bytes) = engine.recv(conn, usize::MAX, now) {
                got += bytes.len();
            }
        }
        for s in drain(&mut engine, now).iter().filter(|s| s.header.tuple == t) {
            assert_eq!(s.header.ack, seq, "nothing it sent was dropped");
            advance(&mut edge, s, 7);
        }
        now += ms(10);
        engine.on_timeout(now);
    }
    assert!(got > 1_000_000, "{got} bytes in ten seconds");
    assert!(engine.usage().recv_memory <= used + 1460 + 64);
    engine.check_invariants();
}

#[test]
fn at_the_bound_the_first_segment_of_a_merged_one_is_kept() {
    let config = Config { recv_memory: 40_000, initial_recv_buffer: 50_000, ..Config::default() };
    let mut p = Peer::established_with(config, Options { timestamps: None, ..everything() });
    // Somebody holds all of it.
    let (t, seq, ack, reader) = (p.tuple, p.seq, p.ack, p.conn);
    p.tuple.remote_port = 7_000;
    p.seq = SeqNum(77);
    p.open(Options { timestamps: None, ..everything() });
    p.accept();
    while p.engine.usage().recv_memory < 38_600 {
        p.data(&[1; 100]);
        p.out();
    }
    (p.tuple, p.seq, p.ack, p.conn) = (t, seq, ack, reader);
    for _ in 0..3 {
        p.inject(0, Flags::ACK, &[2; 5_000]);
        p.seq += 1_460;
        assert_eq!(p.one().header.ack, p.seq);
        // With something unread, nothing more.
        p.inject(0, Flags::ACK, &[2; 5_000]);
        assert_eq!(p.one().header.ack, p.seq);
        assert_eq!(p.read(), [2; 1_460]);
        p.out();
    }
    assert_eq!(p.engine.counters().recv_memory_forced, 3);
    assert_eq!(p.engine.counters().recv_memory_dropped, 6);
}

#[test]
fn a_long_path_is_not_held_back_by_a_small_beginning() {
    // 100 ms there and back and no loss: it takes no longer than with large buffers at once.
    let time = |config: Config| {
        let mut w = World::with(5, config.clone(), config);
        w.link.delay = ms(50);
        w.check = false;
        let listener = w.listen();
        let (client, server) = w.connect(listener);
        let data = Bytes::from(vec![5; 64 << 10]);
        let (start, mut got) = (w.now, 0);
        let ok = w.until(secs(60), |w| {
            while w.engines[0].send(client, data.clone(), w.now).is_ok() {}
            got += w.read(1, server).len();
            got > 8 << 20
        });
        assert!(ok, "{got}");
        let cwnd = w.engines[0].info(client, w.now).unwrap().cwnd;
        let buffer = w.engines[1].info(server, w.now).unwrap().rcv_buffer;
        assert!(buffer >= (2 * cwnd).min(6 << 20), "{buffer} {cwnd}");
        w.engines[1].check_invariants();
        w.now - start
    };
    let most =
        Config { initial_recv_buffer: 6 << 20, initial_send_buffer: 4 << 20, ..Config::default() };
    let (large, small) = (time(most), time(Config::default()));
    assert!(small <= large + ms(200), "{small:?} {large:?}");
}

#[test]
fn the_send_queue_is_two_congestion_windows() {
    let config = Config {
        send_buffer: 100_000,
        initial_send_buffer: 20_000,
        send_memory: 150_000,
        ..Config::default()
    };
    let mut p = Peer::established_with(config, everything());
    assert_eq!(p.info().cwnd, 14_480);
    assert_eq!((p.info().snd_buffer, p.engine.send_capacity(p.conn)), (28_960, 28_960));
    // It grows with the window, up to its bound.
    while p.info().cwnd < 60_000 {
        p.send(&[1; 40_000]);
        while let Some(last) = p.out().last() {
            let end = last.header.seq + last.len() as u32;
            p.acknowledge(end);
        }
    }
    assert_eq!(p.engine.send_capacity(p.conn), 100_000);
    // With more than half of the memory used it is as small as at first.
    p.send(&[1; 76_000]);
    assert_eq!(p.info().snd_buffer, 20_000);
    assert_eq!(p.engine.send_capacity(p.conn), 0);
}

#[test]
fn writable_only_below_the_mark_of_what_is_unsent() {
    let mut p = Peer::established(everything());
    p.window = 20;
    p.inject(0, Flags::ACK, &[]);
    p.engine.set_nodelay(p.conn, true);
    p.engine.set_notsent_lowat(p.conn, Some(10_000));
    assert_eq!(p.engine.send_capacity(p.conn), 10_000);
    // The window of 2,560 bytes lets one segment go; what stays is under the mark.
    p.send(&[1; 4_000]);
    p.out();
    let unsent = p.info().send_queue as u32 - p.info().in_flight;
    assert!((1_000..3_000).contains(&unsent), "{unsent}");
    assert_eq!(p.engine.send_capacity(p.conn) as u32, 10_000 - unsent);
    // A chunk that passes the mark is taken; the next is not.
    p.send(&[2; 12_000]);
    let refused = p.engine.send(p.conn, "x".into(), p.now);
    assert_eq!(refused, Err(SendError::WouldBlock("x".into())));
    assert_eq!((p.engine.send_capacity(p.conn), p.events()), (0, vec![]));
    // The window opens by little: more than half of the mark is unsent.
    let in_flight = p.info().in_flight;
    p.acknowledge(p.ack + in_flight);
    p.out();
    assert_eq!(p.events(), []);
    // By more: as soon as it has gone, acknowledged or not, there is room.
    p.window = 80;
    let in_flight = p.info().in_flight;
    p.acknowledge(p.ack + in_flight);
    assert_eq!(p.events(), []);
    p.out();
    assert_eq!(p.events(), [Event::Writable(p.conn)]);
    assert!(p.info().send_queue > 5_000, "most of it is in flight");
    p.send(b"x");
    // Without the mark only the buffer counts.
    p.send(&[2; 12_000]);
    assert!(p.engine.send(p.conn, "x".into(), p.now).is_err());
    p.engine.set_notsent_lowat(p.conn, None);
    assert_eq!(p.events(), [Event::Writable(p.conn)]);
    p.send(&[2; 12_000]);
    p.engine.check_invariants();
}

#[test]
fn settings_are_shared_and_given_back() {
    let mut p = Peer::established(plain());
    let keepalive = Keepalive { idle: secs(10), interval: secs(1), count: 3 };
    let before = p.engine.usage().tables;
    for _ in 0..3 {
        p.engine.set_keepalive(p.conn, Some(keepalive));
        p.engine.set_user_timeout(p.conn, Some(secs(5)));
        p.engine.set_linger(p.conn, Some(secs(2)));
        p.engine.set_notsent_lowat(p.conn, Some(1));
        p.engine.check_invariants();
    }
    assert!(p.engine.usage().tables > before);
    p.engine.set_keepalive(p.conn, None);
    p.engine.set_user_timeout(p.conn, None);
    p.engine.set_linger(p.conn, None);
    p.engine.set_notsent_lowat(p.conn, None);
    assert_eq!(p.engine.usage().tables, before);
    p.engine.check_invariants();
}
