//! HyStart++: the first slow start ends when round trips grow longer (RFC 9406).

use throng_net::tcp::*;

use crate::bottleneck::Bottleneck;
use crate::peer::*;
use crate::world::*;

/// Runs until slow start is over, on a path of 86 segments and a router with `room` for more.
fn started(congestion: CongestionControl, room: usize) -> Bottleneck {
    let mut b = Bottleneck::new(Config { congestion, ..Config::default() }, ms(100));
    (b.rate, b.room, b.left) = (1_250_000, room, 1 << 30);
    assert!(b.until(secs(10), |b| b.info().ssthresh < u32::MAX), "{:?}", b.info());
    b
}

#[test]
fn slow_start_ends_before_a_long_queue_is_full() {
    let b = started(CongestionControl::Cubic, 1_300);
    let info = b.info();
    assert_eq!(b.counters().hystart_exits, 1);
    assert_eq!((b.dropped, info.retransmits), (0, 0), "nothing was lost for it");
    let segments = info.cwnd / u32::from(info.mss);
    assert!((86..1_100).contains(&segments), "{segments} segments: the path is full");
    assert_eq!(info.ssthresh, info.cwnd);
    // Without it, the window goes on doubling until the queue overflows.
    let b = started(CongestionControl::NewReno, 1_300);
    assert_eq!(b.counters().hystart_exits, 0);
    assert!(b.dropped > 0);
}

#[test]
fn a_shorter_queue_overflows_by_less() {
    // Conservative rounds go on until the queue is full, by a quarter each and not by as much
    // again.
    let dropped = |congestion| started(congestion, 172).dropped;
    let (with, without) = (dropped(CongestionControl::Cubic), dropped(CongestionControl::NewReno));
    assert!(with > 0 && with * 2 < without, "{with}, {without}");
}

#[test]
fn a_path_without_a_queue_is_not_left_early() {
    let mut b = Bottleneck::new(Config::default(), ms(100));
    b.left = 1 << 30;
    b.run(secs(1));
    // 10 segments, doubled by nine round trips: more than the 8 MiB that may be queued.
    assert_eq!(b.counters().hystart_exits, 0);
    assert_eq!(b.info().ssthresh, u32::MAX);
    assert!(b.info().cwnd > 2 << 20, "{}", b.info().cwnd);
}

/// A connection with timestamps whose peer acknowledges each segment of a round after `rtt`
/// milliseconds.
struct Rounds(Peer);

const LEN: u32 = 1_448;

impl Rounds {
    fn new() -> Rounds {
        let config = Config { send_buffer: 64 << 20, ..Config::default() };
        let mut p = Peer::established_with(config, everything());
        p.window = 0xffff;
        p.send(&vec![1; 16 << 20]);
        Rounds(p)
    }

    /// Sends what may go and has it acknowledged; returns by how much the window has grown,
    /// in segments.
    fn round(&mut self, rtt: u64) -> u32 {
        let p = &mut self.0;
        let out = p.out();
        assert!(out.len() >= 8, "{}", out.len());
        let before = p.info().cwnd;
        p.now += ms(rtt);
        for segment in out {
            p.ack = segment.header.seq + segment.len() as u32;
            let mut h = p.header(Flags::ACK);
            let (value, _) = h.options.timestamps.unwrap();
            let (echo, _) = segment.header.options.timestamps.unwrap();
            h.options.timestamps = Some((value, echo));
            p.engine.on_segment(&h, &[], p.now);
        }
        (p.info().cwnd - before) / LEN
    }

    fn ended(&self) -> bool {
        self.0.info().ssthresh < u32::MAX
    }
}

#[test]
fn five_slower_rounds_then_avoidance() {
    let mut r = Rounds::new();
    assert_eq!(r.round(40), 10, "doubles");
    assert_eq!(r.round(40), 20);
    // An eighth of 40 ms is 5 ms more: one less is nothing.
    assert_eq!(r.round(44), 40);
    let before = r.0.info().cwnd / LEN;
    // 44 + 5.5: the eighth sample of the round says so; the rest of it counts a quarter.
    let grown = r.round(50);
    assert_eq!(before, 80);
    assert_eq!(grown, 7 + (80 - 7) / 4, "{grown}");
    // That was the first of five.
    let mut cwnd = f64::from(r.0.info().cwnd / LEN);
    for _ in 0..4 {
        let grown = f64::from(r.round(60));
        assert!((grown / cwnd - 0.25).abs() < 0.02, "{grown} of {cwnd}");
        assert!(!r.ended());
        cwnd += grown;
    }
    r.round(60);
    assert!(r.ended());
    assert_eq!(r.0.engine.counters().hystart_exits, 1);
}

#[test]
fn jitter_is_no_reason() {
    let mut r = Rounds::new();
    r.round(40);
    r.round(40);
    let slow = r.round(60);
    assert!(slow < 20, "{slow}");
    // Below the smallest of the round in which it began: it was no queue.
    let window = r.0.info().cwnd / LEN;
    let grown = r.round(41);
    assert!(grown > window * 8 / 10, "{grown} of {window}");
    assert!(!r.ended());
    assert_eq!(r.0.engine.counters().hystart_exits, 0);
}

#[test]
fn thresholds_are_four_and_sixteen_milliseconds() {
    // An eighth of 8 ms is one: four count. An eighth of 400 is fifty: sixteen do.
    for (rtt, more) in [(8, 4), (400, 16)] {
        let mut r = Rounds::new();
        r.round(rtt);
        assert_eq!(r.round(rtt), 20);
        assert_eq!(r.round(rtt + more - 1), 40, "{rtt} ms, less than the threshold");
        let mut r = Rounds::new();
        r.round(rtt);
        assert_eq!(r.round(rtt), 20);
        assert!(r.round(rtt + more) < 40, "{rtt} ms, the threshold");
    }
}

#[test]
fn a_loss_ends_it_as_ever() {
    let mut b = Bottleneck::new(Config::default(), ms(100));
    b.left = 1 << 30;
    assert!(b.until(secs(2), |b| b.info().cwnd > 100_000));
    b.lose = true;
    assert!(b.until(secs(1), |b| b.info().recovering));
    assert_eq!(b.counters().hystart_exits, 0);
    assert!(b.info().ssthresh < u32::MAX);
    // What comes after a timeout is plain slow start: longer round trips change nothing.
    b.run(secs(1));
    b.rtt = ms(300);
    b.run(secs(3));
    assert_eq!(b.counters().hystart_exits, 0);
}
