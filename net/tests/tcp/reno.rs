//! NewReno, and what both controls have in common.

use throng_net::tcp::*;

use crate::bottleneck::Bottleneck;
use crate::peer::*;
use crate::world::*;

const MSS: u32 = 1_000;

fn reno() -> Config {
    Config { congestion: CongestionControl::NewReno, ..Config::default() }
}

/// A connection in congestion avoidance at a window of some `segments` of 1,448 bytes: one
/// segment was lost at twice (Reno) or 1.43 times (CUBIC) that.
fn after_a_loss(config: Config, segments: u32) -> Bottleneck {
    let mut b = Bottleneck::new(config, ms(100));
    b.left = 1 << 30;
    let beta = if b.info().congestion == Some(CongestionControl::NewReno) { 0.5 } else { 0.7 };
    let wanted = (f64::from(segments) / beta * 1448.0) as u32;
    assert!(b.until(secs(10), |b| b.info().cwnd >= wanted));
    b.lose = true;
    assert!(b.until(secs(1), |b| b.info().recovering));
    assert!(b.until(secs(1), |b| !b.info().recovering));
    b
}

/// The window in segments.
fn window(b: &Bottleneck) -> f64 {
    let info = b.info();
    f64::from(info.cwnd) / f64::from(info.mss)
}

#[test]
fn a_segment_more_each_round_trip() {
    let mut b = after_a_loss(reno(), 40);
    assert_eq!(b.info().congestion, Some(CongestionControl::NewReno));
    b.run(ms(100));
    let begin = window(&b);
    for round in 1..=30 {
        b.run(ms(100));
        let expected = begin + f64::from(round);
        let is = window(&b);
        assert!((is - expected).abs() <= 1.0 + expected * 0.02, "{round}: {is} for {expected}");
    }
}

#[test]
fn a_loss_halves_what_is_in_flight() {
    let mut b = after_a_loss(reno(), 40);
    b.run(secs(2));
    let before = b.info();
    b.lose = true;
    assert!(b.until(secs(1), |b| b.info().recovering));
    let after = b.info();
    let (was, is) = (f64::from(before.cwnd), f64::from(after.ssthresh));
    assert!((is / was - 0.5).abs() < 0.03, "{was} became {is}");
    // Not what the window would have allowed: what was in flight.
    let mut p = Peer::established_with(reno(), plain());
    p.send(&[1; 4 * MSS as usize]);
    p.out();
    for _ in 0..3 {
        p.inject(0, Flags::ACK, &[]);
    }
    assert_eq!(p.info().ssthresh, 2 * MSS, "half of four segments, the window was ten");
}

#[test]
fn the_sawtooth_of_a_bottleneck() {
    let mut b = Bottleneck::new(reno(), ms(50));
    // A BDP of 43 segments and room for as many: between 43 and 86.
    (b.rate, b.room, b.left) = (1_250_000, 43, 1 << 30);
    b.run(secs(20));
    let (mut least, mut most) = (f64::MAX, 0.0f64);
    let received = b.received;
    for _ in 0..400 {
        b.run(ms(50));
        if !b.info().recovering {
            least = least.min(window(&b));
            most = most.max(window(&b));
        }
    }
    assert!((80.0..=96.0).contains(&most), "{most}");
    assert!((least / most - 0.5).abs() < 0.07, "{least} of {most}");
    let goodput = (b.received - received) as f64 / 20.0 / 1_250_000.0;
    assert!(goodput > 0.97, "{goodput}: the queue never ran dry for long");
}

#[test]
fn the_control_can_be_changed_under_way() {
    let mut b = after_a_loss(Config::default(), 40);
    let cwnd = b.info().cwnd;
    b.engines[0].set_congestion(b.conn, CongestionControl::NewReno);
    assert_eq!(b.info().congestion, Some(CongestionControl::NewReno));
    assert_eq!(b.info().cwnd, cwnd, "the window stays");
    b.run(ms(100));
    let begin = window(&b);
    b.run(secs(1));
    assert!((window(&b) - begin - 10.0).abs() < 1.5, "{} from {begin}", window(&b));
    b.engines[0].set_congestion(b.conn, CongestionControl::Cubic);
    b.run(secs(5));
    // From there on the curve is convex, and rises by 0.4 * 5^3 = 50 or Reno's 50.
    assert!(window(&b) > begin + 50.0, "{}", window(&b));
    assert!(window(&b) < begin + 75.0, "{}", window(&b));
}

#[test]
fn listeners_give_theirs_to_their_connections() {
    let mut p = Peer::listening(Config::default());
    p.engine.set_listener_congestion(p.listener, CongestionControl::NewReno);
    p.open(everything());
    p.accept();
    assert_eq!(p.info().congestion, Some(CongestionControl::NewReno));
    // With cookies, too.
    let mut p = Peer::listening(Config { max_half_open: 0, ..Config::default() });
    p.engine.set_listener_congestion(p.listener, CongestionControl::NewReno);
    p.open(plain());
    p.accept();
    assert_eq!(p.info().congestion, Some(CongestionControl::NewReno));
}

#[test]
fn an_echo_does_not_raise_a_window_of_one_segment() {
    let config = Config { initial_window: 1, ecn: Ecn::Passive, ..reno() };
    let mut p = Peer::listening(config);
    let mut syn = header(p.tuple, p.seq, SeqNum(0), Flags::SYN | Flags::ECE | Flags::CWR);
    syn.options = plain();
    p.engine.on_segment(&syn, &[], p.now);
    p.iss = p.one().header.seq;
    (p.seq, p.ack) = (p.seq + 1, p.iss + 1);
    p.inject(0, Flags::ACK, &[]);
    p.accept();
    assert!(p.info().ecn);
    p.send(&[1; 10 * MSS as usize]);
    p.one();
    assert_eq!(p.info().cwnd, MSS);
    p.ack += MSS;
    p.inject(0, Flags::ACK | Flags::ECE, &[]);
    let info = p.info();
    assert_eq!((info.cwnd, info.ssthresh), (MSS, 2 * MSS));
    assert_eq!(p.engine.counters().ecn_reductions, 1);
}

#[test]
fn a_timeout_sets_the_threshold_though_data_goes_again_already() {
    // What was too long for the path goes again, which is no congestion; that it is lost once
    // more is.
    let mut p = Peer::established_with(reno(), everything());
    p.send(&[1; 20_000]);
    assert_eq!(p.out().len(), 10);
    let said = TooBig { mtu: 1_000, quoted: 1_500 };
    p.engine.on_icmp_too_big(p.tuple, p.iss + 1, said, p.now);
    assert_eq!((p.out().len(), p.info().ssthresh), (10, u32::MAX));
    p.pass(secs(2));
    let info = p.info();
    assert!(p.engine.counters().timeouts > 0);
    assert_eq!(info.cwnd, info.mss.into());
    assert_eq!(info.ssthresh, 5 * 948, "half of the initial window");
}
