//! CUBIC's window against the equations of RFC 9438, worked out here once more.

use throng_net::tcp::*;

use crate::bottleneck::Bottleneck;
use crate::world::*;

const C: f64 = 0.4;
const BETA: f64 = 0.7;

/// A path without a bottleneck, on which a segment was lost at some `segments`. Returns it, at
/// the end of recovery, with what was in flight at the loss.
fn after_a_loss(rtt: u64, segments: f64) -> (Bottleneck, f64) {
    let mut b = Bottleneck::new(Config::default(), ms(rtt));
    b.left = 1 << 30;
    assert!(b.until(secs(10), |b| window(b) >= segments));
    let prior = lose(&mut b);
    (b, prior)
}

/// Loses a segment and waits for it to be repaired. Returns the window that was reduced.
fn lose(b: &mut Bottleneck) -> f64 {
    b.lose = true;
    assert!(b.until(secs(2), |b| b.info().recovering));
    let info = b.info();
    let prior = f64::from(info.ssthresh) / f64::from(info.mss) / BETA;
    assert!(b.until(secs(2), |b| !b.info().recovering));
    prior
}

fn window(b: &Bottleneck) -> f64 {
    let info = b.info();
    f64::from(info.cwnd) / f64::from(info.mss)
}

/// Waits for the first growth: avoidance begins with it. Returns the window before.
fn begin(b: &mut Bottleneck) -> f64 {
    let cwnd = b.info().cwnd;
    assert!(b.until(secs(2), |b| b.info().cwnd > cwnd));
    f64::from(cwnd) / f64::from(b.info().mss)
}

/// Figure 1 of RFC 9438 4.2, with K from figure 2.
fn w_cubic(t: f64, w_max: f64, epoch: f64) -> f64 {
    let k = ((w_max - epoch) / C).cbrt();
    C * (t - k).powi(3) + w_max
}

/// Runs for `seconds`, and compares the window with what `expected` says for each time since
/// the stage began.
fn follow(b: &mut Bottleneck, seconds: u64, tolerance: f64, expected: impl Fn(f64) -> f64) {
    let start = b.now;
    for _ in 0..seconds * 5 {
        b.run(ms(200));
        let t = b.now.saturating_since(start).as_secs_f64();
        let (is, should) = (window(b), expected(t));
        assert!((is / should - 1.0).abs() < tolerance, "at {t} s: {is}, not {should}");
    }
}

#[test]
fn the_window_follows_the_curve() {
    let (mut b, w_max) = after_a_loss(100, 400.0);
    let reduced = f64::from(b.info().ssthresh) / f64::from(b.info().mss);
    assert!((reduced / w_max - BETA).abs() < 0.01);
    let epoch = begin(&mut b);
    // Concave up to K, some 10 s, then convex. What is acknowledged now was sent by the window of
    // a round trip ago, and the window aims a round trip ahead.
    follow(&mut b, 14, 0.02, |t| w_cubic(t, w_max, epoch));
    assert!(window(&b) > w_max * 1.01);
}

#[test]
fn on_short_paths_it_is_as_fast_as_reno() {
    let (mut b, w_max) = after_a_loss(10, 60.0);
    let epoch = begin(&mut b);
    // Figure 4: 0.53 segments a round trip up to where the loss was, then one.
    let alpha = 3.0 * (1.0 - BETA) / (1.0 + BETA);
    let w_est = |t: f64| {
        let rounds = t / 0.01;
        let slow = (w_max - epoch) / alpha;
        if rounds < slow { epoch + rounds * alpha } else { w_max + rounds - slow }
    };
    assert!(w_est(0.5) > w_cubic(0.51, w_max, epoch), "Reno-friendly");
    follow(&mut b, 2, 0.03, w_est);
    assert!(window(&b) > w_max + 30.0, "{} {w_max}", window(&b));
}

#[test]
fn a_second_loss_below_the_first_gives_room() {
    let (mut b, first) = after_a_loss(100, 400.0);
    begin(&mut b);
    b.run(secs(2));
    let second = lose(&mut b);
    assert!(second < first * 0.97, "{second} {first}");
    let epoch = begin(&mut b);
    // RFC 9438 4.7: the plateau is lower than where it was lost.
    let w_max = second * (1.0 + BETA) / 2.0;
    follow(&mut b, 8, 0.02, |t| w_cubic(t, w_max, epoch));
}

#[test]
fn after_a_timeout_the_curve_begins_flat() {
    let (mut b, _) = after_a_loss(100, 200.0);
    b.run(secs(1));
    // The path is cut for as long as it takes.
    b.room = 0;
    b.rate = 1;
    assert!(b.until(secs(2), |b| b.counters().timeouts > 0));
    let ssthresh = f64::from(b.info().ssthresh) / f64::from(b.info().mss);
    assert_eq!(b.info().cwnd, b.info().mss.into());
    (b.rate, b.room) = (0, usize::MAX);
    b.mend();
    assert!(b.until(secs(20), |b| window(b) >= ssthresh && !b.info().recovering));
    let epoch = begin(&mut b);
    // Avoidance began with the acknowledgement that reached the threshold, a round trip ago.
    follow(&mut b, 6, 0.03, |t| epoch + (C * (t + 0.1).powi(3)).max(0.53 * t / 0.1));
}

#[test]
fn time_without_data_does_not_count() {
    let (mut b, w_max) = after_a_loss(100, 400.0);
    let epoch = begin(&mut b);
    b.run(secs(1));
    // A little now and then for five seconds: less than the window.
    let left = std::mem::take(&mut b.left);
    assert!(b.until(secs(60), |b| b.info().in_flight == 0 && b.info().send_queue == 0));
    let before = window(&b);
    for _ in 0..25 {
        let (conn, now) = (b.conn, b.now);
        b.engines[0].send(conn, vec![1; 10_000].into(), now).unwrap();
        b.run(ms(200));
    }
    assert_eq!(window(&b), before, "what is not used does not grow");
    // The queue was drained without the window being in the way for some of that time.
    let t = ((before - w_max) / C).cbrt() + ((w_max - epoch) / C).cbrt();
    b.left = left;
    b.run(ms(300));
    follow(&mut b, 4, 0.02, |later| w_cubic(t + 0.3 + later, w_max, epoch));
}

#[test]
fn silence_restarts_and_begins_a_new_stage() {
    let (mut b, w_max) = after_a_loss(100, 400.0);
    begin(&mut b);
    b.run(secs(4));
    b.left = 0;
    assert!(b.until(secs(60), |b| b.info().in_flight == 0 && b.info().send_queue == 0));
    b.run(secs(30));
    let before = window(&b);
    b.left = 1 << 30;
    b.step(b.now + ms(1));
    let info = b.info();
    assert_eq!(info.cwnd, 10 * u32::from(info.mss));
    let threshold = f64::from(info.ssthresh) / f64::from(info.mss);
    assert!((threshold / before - 0.75).abs() < 0.01, "{threshold} of {before}");
    assert!(b.until(secs(20), |b| window(b) >= threshold));
    let epoch = begin(&mut b);
    follow(&mut b, 8, 0.03, |t| w_cubic(t, w_max, epoch));
}

#[test]
fn neither_time_nor_size_makes_it_leap() {
    // An acknowledgement, whatever the clock says, is worth half of what it acknowledges.
    for jump in [1, 100, 86_400, 30 * 86_400, 60 * 86_400] {
        let (mut b, _) = after_a_loss(100, 100.0);
        begin(&mut b);
        b.run(ms(500));
        let before = window(&b);
        b.leap(secs(jump));
        b.run(ms(110));
        assert!(window(&b) <= before * 1.6 + 2.0, "{} from {before}", window(&b));
        assert!(b.info().cwnd >= b.info().mss.into());
    }
}
