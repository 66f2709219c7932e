//! Whatever comes, in whatever order: no panic, and the invariants hold.

use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::{ProptestConfig, prop_assert_eq, proptest};
use throng_net::tcp::*;

use crate::peer::*;
use crate::transfer::transfer;
use crate::world::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// Sequence arithmetic is the same wherever on the circle it happens.
    #[test]
    fn sequence_numbers_wrap(base: u32, a in 0u32..1 << 30, b in 0u32..1 << 30) {
        let (x, y) = (SeqNum(base) + a, SeqNum(base) + b);
        prop_assert_eq!(x.before(y), a < b);
        prop_assert_eq!(x.after(y), a > b);
        prop_assert_eq!(x.at_or_before(y), a <= b);
        prop_assert_eq!(x.at_or_after(y), a >= b);
        prop_assert_eq!(x - SeqNum(base), a);
        prop_assert_eq!(x.in_window(SeqNum(base), b), a < b);
    }
}

/// A number near something that matters to the connection.
fn near(rng: &mut Rng, base: SeqNum) -> SeqNum {
    match rng.below(10) {
        0 => SeqNum(rng.next() as u32),
        1 => base + (rng.below(1 << 17) as u32) - (1 << 16),
        _ => base + (rng.below(40) as u32) - 20,
    }
}

fn any_options(rng: &mut Rng, p: &Peer) -> Options {
    let mut options = Options::default();
    if rng.chance(0.7) {
        let value = p.ts.unwrap_or(1).wrapping_add(rng.below(20) as u32).wrapping_sub(5);
        options.timestamps = Some((value, rng.next() as u32));
    }
    if rng.chance(0.2) {
        options.mss = Some(rng.next() as u16);
        options.window_scale = Some(rng.below(20) as u8);
        options.sack_permitted = true;
    }
    for block in options.sack.iter_mut().take(rng.below(5) as usize) {
        if rng.chance(0.5) {
            break;
        }
        *block = Some(SackBlock {
            start: near(rng, p.ack) + rng.below(6000) as u32,
            end: near(rng, p.ack) + rng.below(6000) as u32,
        });
    }
    options
}

/// One random thing to do to an engine.
fn act(rng: &mut Rng, p: &mut Peer) {
    match rng.below(22) {
        0..=9 => {
            let flags = match rng.below(6) {
                0 => Flags(rng.next() as u8),
                1 => Flags::ACK | Flags::FIN,
                2 => Flags::SYN,
                _ => Flags::ACK,
            };
            // Resets end the fun too soon.
            let flags = if rng.chance(0.9) { Flags(flags.0 & !Flags::RST.0) } else { flags };
            let mut h = header(p.tuple, near(rng, p.seq), near(rng, p.ack), flags);
            h.options = any_options(rng, p);
            h.window = if rng.chance(0.3) { rng.below(3000) as u16 } else { rng.next() as u16 };
            if rng.chance(0.05) {
                h.tuple.remote_port = rng.below(4) as u16;
            }
            let payload = vec![1; rng.below(60) as usize];
            p.engine.on_segment(&h, &payload, p.now);
        }
        10 | 11 => p.data(&vec![2; rng.below(3000) as usize]),
        12 => {
            let ack = p.ack + rng.below(3000) as u32;
            p.acknowledge(ack);
        }
        13 => {
            let bytes = vec![3; rng.below(5000) as usize];
            if !p.engine.send_small(p.conn, &bytes, p.now) {
                drop(p.engine.send(p.conn, Bytes::from(bytes), p.now));
            }
        }
        14 => drop(p.engine.recv(p.conn, 1 + rng.below(3000) as usize, p.now)),
        15 => drop(p.engine.recv_with(p.conn, 1 + rng.below(3000) as usize, p.now, |_| ())),
        16 => {
            let time = match rng.below(3) {
                0 => Duration::from_micros(rng.below(1000)),
                1 => ms(rng.below(1000)),
                _ => secs(rng.below(100)),
            };
            p.pass(time);
        }
        17 => {
            let mut sink = Sink { room: rng.below(3) as usize, ..Sink::default() };
            sink.tso = if rng.chance(0.5) { 20_000 } else { 0 };
            p.engine.poll_transmit(p.now, &mut sink);
        }
        18 => match rng.below(40) {
            0 => p.engine.shutdown_write(p.conn, p.now),
            1 => p.engine.close(p.conn, p.now),
            2 => p.engine.abort(p.conn, p.now),
            3 => p.engine.set_linger(p.conn, Some(secs(rng.below(3)))),
            4 => p.engine.set_user_timeout(p.conn, Some(secs(rng.below(30)))),
            5 => {
                let keepalive = Keepalive { idle: secs(5), interval: secs(1), count: 3 };
                p.engine.set_keepalive(p.conn, Some(keepalive));
            }
            6 => p.engine.set_nodelay(p.conn, rng.chance(0.5)),
            7 => p.engine.on_icmp_unreachable(p.tuple, p.ack, Unreachable::Host, p.now),
            _ => {}
        },
        19 => {
            if let Some(conn) = p.engine.accept(p.listener) {
                p.conn = conn;
            }
        }
        20 => {
            p.events();
        }
        _ => {
            if rng.chance(0.1) {
                let port = rng.below(4) as u16;
                let t = tuple("10.0.0.2:80", &format!("10.0.0.1:{port}"));
                let _ = p.engine.connect(t, p.now);
            }
        }
    }
}

#[test]
fn random_streams_keep_the_invariants() {
    for seed in 0..400 {
        let mut rng = Rng(seed);
        let config = Config {
            send_memory: 40_000,
            recv_memory: 40_000,
            recv_buffer: 20_000,
            max_ranges: 5,
            max_time_wait: 2,
            max_half_open: 3,
            max_connections: 5,
            ..Config::default()
        };
        let options = if seed % 3 == 0 { plain() } else { everything() };
        let mut p = Peer::established_with(config, options);
        for step in 0..400 {
            act(&mut rng, &mut p);
            let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                p.engine.check_invariants();
            }));
            assert!(caught.is_ok(), "seed {seed} step {step}");
            if rng.chance(0.3) {
                p.out();
            }
        }
        // All of it comes to an end, whatever state it is in.
        p.events();
        while let Some(conn) = p.engine.accept(p.listener) {
            p.engine.abort(conn, p.now);
        }
        p.engine.close_listener(p.listener);
        p.engine.close(p.conn, p.now);
        p.out();
        p.pass(secs(20_000));
        let usage = p.engine.usage();
        assert_eq!((usage.half_open, usage.time_wait), (0, 0), "seed {seed}");
    }
}

#[test]
fn sequence_numbers_wrap_in_the_middle_of_a_transfer() {
    for seed in 0..20 {
        // The ISN runs with the clock: wait until it is shortly before the wrap.
        let probe = World::new(seed);
        let mut engine = probe.engines.into_iter().next().unwrap();
        let t = tuple("10.0.0.1:1234", "10.0.0.2:80");
        engine.connect(t, probe.now).unwrap();
        let isn = drain(&mut engine, probe.now)[0].header.seq;
        let wait = Duration::from_micros(4 * u64::from((SeqNum(0) - 30_000) - isn));
        let mut w = World::new(seed);
        w.now += wait;
        w.link = Link { loss: 0.01, duplicate: 0.01, reorder: 0.03, ..Link::default() };
        w.fixed = Some(t);
        w.record = true;
        transfer(&mut w, 100_000);
        let first = w.sent.iter().find(|(_, from, _)| *from == 0).unwrap();
        assert!(first.2.header.seq.0 > u32::MAX - 31_000, "{:?}", first.2.header.seq);
    }
}
