//! Reductions of the window taken back, over a path of 40 ms.

use throng_net::tcp::*;

use crate::peer::*;
use crate::world::*;

fn taken_back(p: &Peer) -> (u64, u64) {
    let counters = p.engine.counters();
    (counters.spurious_timeouts, counters.spurious_recoveries)
}

/// An acknowledgement of `n` bytes that echoes the timestamp `echo`.
fn echo(p: &mut Peer, n: u32, echo: u32, blocks: &[(u32, u32)]) {
    p.ack = p.iss + 1 + n;
    let mut h = p.header(Flags::ACK);
    h.options.timestamps = Some((p.ts.unwrap(), echo));
    for (to, (start, end)) in h.options.sack.iter_mut().zip(blocks) {
        let first = p.iss + 1;
        *to = Some(SackBlock { start: first + *start, end: first + *end });
    }
    p.engine.on_segment(&h, &[], p.now);
    p.engine.check_invariants();
}

fn stamp(s: &Segment) -> u32 {
    s.header.options.timestamps.unwrap().0
}

/// Ten segments are out, a probe of the tail and a timeout have gone unanswered. With the
/// timestamps of the first copies and of the retransmission.
fn timed_out(stamps: bool, more: usize) -> (Peer, u32, u32) {
    let mut p = Peer::distant(Config::default(), stamps, 10_000 + more);
    let first = p.out();
    let again = p.pass(ms(400)).pop().unwrap().1;
    assert_eq!(again.header.seq, p.iss + 1);
    assert_eq!((p.engine.counters().timeouts, p.info().cwnd), (1, 1000));
    let stamp = |s: &Segment| if stamps { stamp(s) } else { 0 };
    (p, stamp(&first[0]), stamp(&again))
}

#[test]
fn a_timestamp_shows_that_a_timeout_was_spurious() {
    let (mut p, first, _) = timed_out(true, 0);
    echo(&mut p, 1000, first, &[]);
    assert_eq!(taken_back(&p), (1, 0));
    assert_eq!((p.info().cwnd, p.info().ssthresh), (10_000, u32::MAX));
    assert_eq!((p.info().recovering, p.info().lost), (false, 0));
    assert_eq!(p.starts(), [], "nothing goes again");

    // The answer to the retransmission shows nothing of the kind.
    let (mut p, first, again) = timed_out(true, 0);
    echo(&mut p, 1000, again, &[]);
    assert!(p.info().recovering);
    assert_eq!(p.starts(), [1000, 2000]);
    // Nor does what comes later, of whatever age.
    echo(&mut p, 2000, first, &[]);
    assert_eq!(taken_back(&p), (0, 0));
}

#[test]
fn new_data_shows_that_a_timeout_was_spurious() {
    let (mut p, ..) = timed_out(false, 10_000);
    // RFC 5682 3.1: the answer to the retransmission, or to the first copy; new data goes.
    p.take(1000, &[]);
    assert_eq!(p.starts(), [11_000, 12_000], "behind the probe of the tail");
    // 3b: more is acknowledged that never went again.
    p.take(2000, &[]);
    assert_eq!(taken_back(&p), (1, 0));
    assert_eq!((p.info().cwnd, p.info().recovering, p.info().lost), (10_000, false, 0));

    // 3a: only the new data is reported: the timeout was right, and the rest goes again.
    let (mut p, ..) = timed_out(false, 10_000);
    p.take(1000, &[]);
    assert_eq!(p.out().len(), 2);
    p.sack(&[(11_000, 12_000)]);
    assert_eq!(taken_back(&p), (0, 0));
    assert_eq!(p.starts()[0], 1000);
    p.sack(&[(1000, 2000), (11_000, 12_000)]);
    assert_eq!(taken_back(&p), (0, 0), "decided");
}

#[test]
fn without_new_data_or_beyond_the_mark_a_timeout_is_repaired_as_ever() {
    let (mut p, ..) = timed_out(false, 0);
    p.take(1000, &[]);
    assert_eq!(p.starts(), [1000, 2000]);
    let (mut p, ..) = timed_out(false, 10_000);
    // All that was out, the probe included, in one.
    p.take(11_000, &[]);
    assert_eq!((taken_back(&p), p.info().recovering, p.info().cwnd), ((0, 0), false, 2000));
    // A second timeout of the same data: no F-RTO any more.
    let (mut p, ..) = timed_out(false, 10_000);
    p.pass(secs(1));
    assert_eq!(p.engine.counters().timeouts, 2);
    p.take(1000, &[]);
    assert_eq!(p.starts(), [1000, 2000]);
}

#[test]
fn without_sack_the_second_acknowledgement_decides() {
    let timed_out = || {
        let mut p = Peer::listening(Config::default());
        p.rtt = ms(40);
        p.open(plain());
        p.accept();
        p.send(&[1; 20_000]);
        p.out();
        assert_eq!(p.pass(ms(300)).len(), 1);
        p.take(1000, &[]);
        assert_eq!(p.starts(), [10_000, 11_000]);
        p
    };
    let mut p = timed_out();
    p.take(2000, &[]);
    assert_eq!((taken_back(&p), p.info().cwnd), ((1, 0), 10_000));
    let mut p = timed_out();
    p.sack(&[]);
    assert_eq!(taken_back(&p), (0, 0));
    assert_eq!(p.starts(), [1000], "what is lost goes again");
}

/// The first of ten segments went again for three reports.
fn recovering(stamps: bool) -> (Peer, u32) {
    let mut p = Peer::distant(Config::default(), stamps, 10_000);
    let first = p.out();
    let at = if stamps { stamp(&first[0]) } else { 0 };
    p.pass(ms(40));
    let ack = p.ack - (p.iss + 1);
    if stamps {
        echo(&mut p, ack, at, &[(1000, 5000)])
    } else {
        p.sack(&[(1000, 5000)])
    }
    assert_eq!(p.starts(), [0]);
    assert_eq!((p.info().recovering, p.info().ssthresh), (true, 7000));
    p.pass(ms(5));
    (p, at)
}

#[test]
fn a_timestamp_shows_that_a_recovery_was_spurious() {
    let (mut p, at) = recovering(true);
    echo(&mut p, 5000, at, &[]);
    assert_eq!(taken_back(&p), (0, 1));
    assert_eq!((p.info().cwnd, p.info().ssthresh), (10_000, u32::MAX));
    assert!(!p.info().recovering && p.info().reordering);
    let (mut p, at) = recovering(true);
    echo(&mut p, 5000, at + 40, &[]);
    assert_eq!((taken_back(&p), p.info().recovering), ((0, 0), true));
}

#[test]
fn d_sacks_of_all_that_went_again_take_a_recovery_back() {
    let (mut p, _) = recovering(false);
    p.take(10_000, &[]);
    assert_eq!((p.info().recovering, p.info().cwnd), (false, 7000));
    // The application reads nothing into this: the connection has something to send on.
    p.send(&[1; 1000]);
    p.out();
    // RFC 3708: both copies have arrived.
    let (mut q, _) = recovering(false);
    q.take(9000, &[]);
    q.sack(&[(0, 1000)]);
    assert_eq!(taken_back(&q), (0, 1));
    assert_eq!((q.info().cwnd, q.info().recovering), (10_000, false));
    // Of what was not sent again, a D-SACK says nothing.
    let (mut q, _) = recovering(false);
    q.take(9000, &[]);
    q.sack(&[(3000, 4000)]);
    assert_eq!((taken_back(&q), q.info().cwnd <= 7000), ((0, 0), true));
}

#[test]
fn a_timeout_in_recovery_reduces_no_further() {
    let (mut p, _) = recovering(false);
    p.pass(secs(1));
    assert!(p.engine.counters().timeouts > 0);
    // RFC 5681 3.1: the threshold is of what was out when it began.
    assert_eq!((p.info().ssthresh, p.info().cwnd), (7000, 1000));
}

#[test]
fn who_chooses_another_control_meanwhile_keeps_it() {
    let (mut p, at) = recovering(true);
    p.engine.set_congestion(p.conn, CongestionControl::NewReno);
    echo(&mut p, 5000, at, &[]);
    assert_eq!(taken_back(&p), (0, 1));
    assert_eq!((p.info().cwnd, p.info().ssthresh), (10_000, u32::MAX));
    assert_eq!(p.info().congestion, Some(CongestionControl::NewReno));
}

#[test]
fn a_path_that_stalls_costs_no_window() {
    // The path stands still for 400 ms and delivers all then, in order.
    let mut w = World::new(9);
    w.link.delay = ms(20);
    let listener = w.listen();
    let (client, server) = w.connect(listener);
    for round in 1..=2 {
        w.send(0, client, &[7; 60_000]);
        let end = w.now + secs(2);
        let stalled = w.now + ms(400);
        while w.now < end {
            w.link.delay = ms(20) + stalled.saturating_since(w.now);
            w.read(1, server);
            let soon = w.now + ms(5);
            w.step(soon);
        }
        let info = w.engines[0].info(client, w.now).unwrap();
        assert_eq!((info.send_queue, info.recovering), (0, false));
        assert_eq!(info.ssthresh, u32::MAX, "round {round}: {:?}", w.engines[0].counters());
    }
    assert!(w.engines[0].counters().spurious_timeouts > 0);
}

#[test]
fn what_nagle_keeps_back_is_no_new_data() {
    // Without SACK there is no probe of the tail. The last segment out is short, so that what
    // is written next waits for it.
    let mut p = Peer::established(plain());
    p.send(&[1; 2500]);
    assert_eq!(p.out().len(), 3);
    p.send(&[1; 100]);
    p.none();
    let again = p.pass(p.info().rto + ms(2));
    assert_eq!(again.len(), 1, "the first, at the timeout");
    assert!(p.info().recovering);
    p.take(1000, &[]);
    // RFC 5682 2.1, step 2b: with nothing new to send, the rest goes again.
    assert_eq!(p.starts(), [1000, 2000]);
}
