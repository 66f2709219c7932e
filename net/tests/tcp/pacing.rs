//! Pacing: how new data is spread over the round trip, and when it is not.

use std::time::Duration;

use throng_net::tcp::*;

use crate::bottleneck::Bottleneck;
use crate::peer::*;
use crate::world::*;

const MSS: usize = 1_000;

fn paced() -> Config {
    Config { pacing: true, ..Config::default() }
}

/// A connection whose handshake has taken `rtt`, so that this is what the engine knows.
fn peer(config: Config, rtt: Duration) -> Peer {
    let mut p = Peer::listening(config);
    let mut syn = header(p.tuple, p.seq, SeqNum(0), Flags::SYN);
    syn.options = plain();
    p.engine.on_segment(&syn, &[], p.now);
    let syn_ack = p.one();
    p.iss = syn_ack.header.seq;
    (p.seq, p.ack) = (p.seq + 1, p.iss + 1);
    p.now += rtt;
    p.inject(0, Flags::ACK, &[]);
    p.accept();
    assert_eq!(p.info().srtt, rtt);
    p
}

/// Sends an initial window, and has each of its segments acknowledged a round trip later, all
/// at one moment.
fn grown(config: Config, rtt: Duration) -> Peer {
    let mut p = peer(config, rtt);
    p.send(&[1; 200 * MSS]);
    assert_eq!(p.out().len(), 10, "the initial window is not paced");
    p.now += rtt;
    for n in 1..=10 {
        p.acknowledge(p.iss + 1 + n * MSS as u32);
    }
    assert_eq!(p.info().cwnd, 20 * MSS as u32);
    p
}

/// What a timer may be late: a tick of the wheel, and what the bucket's clock rounds off.
fn tick() -> Duration {
    Duration::from_nanos(65_536 + 5_000)
}

#[test]
fn what_is_more_than_an_initial_window_goes_at_the_rate() {
    let mut p = grown(paced(), ms(100));
    // 2 x 20 segments a round trip: 2.5 ms each, in portions of two. Ten go at once, and four
    // of them were saved up.
    assert_eq!(p.out().len(), 10);
    assert_eq!(p.info().pacing_rate, Some(400 * MSS as u64));
    assert!(!p.engine.wants_transmit(), "a timer sees to the rest");
    let out = p.pass(ms(99));
    assert_eq!(out.len(), 10);
    for (i, (at, segment)) in out.iter().enumerate() {
        let due = ms(20) + i as u32 / 2 * ms(5);
        assert!(*at >= due && *at < due + tick(), "segment {i}: {at:?}");
        assert_eq!(segment.len(), MSS);
    }
    assert_eq!(p.engine.counters().paced, 5);
    assert_eq!(p.info().in_flight, p.info().cwnd);
    assert!(!p.engine.wants_transmit());
}

#[test]
fn a_late_timer_is_made_up_for_by_one_portion() {
    let mut p = grown(paced(), ms(100));
    p.out();
    // The loop was busy elsewhere: at 32 ms there would have been six.
    p.now += ms(32);
    p.engine.on_timeout(p.now);
    assert_eq!(p.out().len(), 4, "two quanta are what a bucket holds");
    let out = p.pass(ms(30));
    let times: Vec<u64> = out.iter().map(|(at, _)| at.as_micros() as u64 / 1_000).collect();
    assert_eq!(times, [5, 5, 10, 10, 15, 15]);
}

#[test]
fn avoidance_is_paced_at_a_fifth_more_than_the_window() {
    let mut b = Bottleneck::new(paced(), ms(100));
    b.left = 1 << 30;
    assert!(b.until(secs(2), |b| b.info().cwnd > 200_000));
    b.lose = true;
    assert!(b.until(secs(2), |b| b.info().recovering));
    assert!(b.until(secs(2), |b| !b.info().recovering));
    b.run(ms(500));
    let rate = |b: &Bottleneck| {
        let info = b.info();
        f64::from(info.cwnd) * 1.2 / info.srtt.as_secs_f64()
    };
    let told = b.info().pacing_rate.expect("paced") as f64;
    assert!((told / rate(&b) - 1.0).abs() < 0.001, "{told} {}", rate(&b));
    // Two seconds of it: no ten milliseconds see more than the rate and what a bucket holds.
    b.sent.clear();
    b.run(secs(2));
    let bound = rate(&b) * 0.01 + 2.0 * (rate(&b) * 0.001).max(2.0 * 1448.0);
    for (i, (from, _)) in b.sent.iter().enumerate() {
        let near = b.sent[i..].iter().take_while(|(at, _)| at.saturating_since(*from) <= ms(10));
        let bytes: usize = near.map(|(_, len)| len).sum();
        assert!(bytes as f64 <= bound, "{bytes} bytes, not {bound}");
    }
    let all: usize = b.sent.iter().map(|(_, len)| len).sum();
    assert!(all as f64 > rate(&b) / 1.2 * 1.7, "{all} bytes in two seconds");
}

#[test]
fn short_round_trips_and_the_setting_turn_it_off() {
    for (config, rtt) in [(paced(), Duration::from_micros(900)), (Config::default(), ms(100))] {
        let mut p = grown(config, rtt);
        assert_eq!(p.out().len(), 20);
        assert_eq!(p.info().pacing_rate, None);
        assert_eq!(p.engine.counters().paced, 0);
    }
}

#[test]
fn acknowledgements_do_not_wait() {
    let mut p = grown(paced(), ms(100));
    p.out();
    p.data(b"request");
    p.data(b"another");
    let out = p.pass(ms(50));
    let first = out.iter().position(|(_, s)| s.header.ack == p.seq).expect("acknowledged");
    assert!(out[first].0 <= ms(40), "{:?}", out[first].0);
    assert_eq!(out.iter().filter(|(_, s)| s.len() > 0).count(), 10);
}

#[test]
fn a_bucket_is_full_after_any_silence() {
    // 18.3 minutes are once round its clock.
    for minutes in [1, 9, 18, 19, 35, 60, 71, 1_000] {
        let mut p = grown(paced(), ms(100));
        p.out();
        p.pass(ms(60));
        // The window stays shut for that long.
        p.ack = p.iss + 1 + 30 * MSS as u32;
        p.window = 0;
        p.inject(0, Flags::ACK, &[]);
        p.out();
        for _ in 0..minutes {
            p.pass(secs(60));
            p.inject(0, Flags::ACK, &[]);
        }
        p.pass(ms(1));
        p.window = 0xffff;
        p.inject(0, Flags::ACK, &[]);
        assert!(p.out().len() >= 10, "after {minutes} minutes");
        let more = p.pass(ms(100)).len();
        assert!(more <= 30, "{more} after {minutes} minutes");
    }
}

#[test]
fn an_offload_run_is_a_portion() {
    let mut b = Bottleneck::new(paced(), ms(20));
    (b.tso, b.left) = (64 << 10, 8 << 20);
    assert!(b.until(secs(5), |b| b.received == 8 << 20), "{:?}", b.info());
    let rate = |cwnd: f64| 2.0 * cwnd / 0.02;
    let most = rate(f64::from(b.info().cwnd)) * 0.001;
    // No millisecond saw more than twice what the rate and a bucket allow.
    let mut begin = 0;
    let mut bytes = 0;
    for i in 0..b.sent.len() {
        bytes += b.sent[i].1;
        while b.sent[i].0.saturating_since(b.sent[begin].0) > ms(1) {
            bytes -= b.sent[begin].1;
            begin += 1;
        }
        let bound = (most + 2.0 * 65_536.0).max(20_000.0);
        assert!((bytes as f64) < bound, "{bytes} bytes in a millisecond");
    }
    assert!(b.counters().paced > 50, "{}", b.counters().paced);
}

#[test]
fn a_path_that_is_never_full_is_as_fast_as_without() {
    let time = |pacing| {
        let mut b = Bottleneck::new(Config { pacing, ..Config::default() }, ms(20));
        let begin = b.now;
        b.left = 16 << 20;
        assert!(b.until(secs(20), |b| b.received == 16 << 20));
        b.now.saturating_since(begin).as_secs_f64()
    };
    let (plain, paced) = (time(false), time(true));
    assert!(paced < plain * 1.1, "{plain} s, paced {paced} s");
}

#[test]
fn a_shallow_queue_loses_less() {
    let losses = |pacing| {
        let mut b = Bottleneck::new(Config { pacing, ..Config::default() }, ms(40));
        // 16 Mbit/s, a BDP of 55 segments, room for 20, and a way back that clumps.
        (b.rate, b.room, b.left) = (2_000_000, 20, 20 << 20);
        b.clumps = ms(15);
        b.run(secs(8));
        (b.dropped, b.received)
    };
    let (plain, paced) = (losses(false), losses(true));
    let share = |(dropped, received): (u32, usize)| f64::from(dropped) / received as f64;
    assert!(share(paced) < share(plain), "plain {plain:?}, paced {paced:?}");
    assert!(paced.1 > plain.1, "plain {plain:?}, paced {paced:?}");
}

#[test]
fn a_burst_shorter_than_the_window_does_not_widen_it() {
    let rtt = ms(100);
    let mut p = grown(paced(), rtt);
    let mut sent = p.out().len() as u32 + 10;
    while sent < 200 {
        sent += p.pass(ms(50)).len() as u32;
        p.acknowledge(p.iss + 1 + sent * MSS as u32);
    }
    let before = p.info().cwnd;
    let burst = before / MSS as u32 / 3;
    assert!(burst > 30);
    for _ in 0..20 {
        p.send(&vec![1; burst as usize * MSS]);
        let out = (p.out().len() + p.pass(ms(3)).len()) as u32;
        assert!(out < burst, "the pace keeps some of it back");
        p.acknowledge(p.iss + 1 + (sent + out) * MSS as u32);
        p.pass(ms(97));
        sent += burst;
        p.acknowledge(p.iss + 1 + sent * MSS as u32);
        assert_eq!(p.info().cwnd, before);
    }
}
