//! Losses found by time (RFC 8985 6), over a path of 40 ms.

use throng_net::tcp::*;

use crate::peer::*;
use crate::world::*;

/// Ten segments are out since 40 ms, and `more` bytes are queued behind them.
fn flying(more: usize) -> Peer {
    let mut p = Peer::distant(Config::default(), false, 10_000 + more);
    assert_eq!(p.starts(), [0, 1000, 2000, 3000, 4000, 5000, 6000, 7000, 8000, 9000]);
    p.pass(ms(40));
    p
}

#[test]
fn one_report_is_enough_after_a_quarter_of_a_round_trip() {
    let mut p = flying(0);
    p.sack(&[(1000, 2000)]);
    p.none();
    assert_eq!(p.info().lost, 0);
    // RFC 8985 6.2, step 4: min_RTT / 4.
    assert_eq!(p.sends(20), [(10, 0)]);
    assert_eq!((p.info().lost, p.info().sacked), (1000, 1000));
    assert!(p.info().recovering);
    assert_eq!((p.engine.counters().reordering_timeouts, p.engine.counters().timeouts), (1, 0));
}

#[test]
fn three_segments_reported_are_enough_at_once() {
    let mut p = flying(0);
    p.sack(&[(1000, 3000)]);
    p.none();
    p.sack(&[(1000, 4000)]);
    assert_eq!(p.starts(), [0]);
    assert_eq!(p.info().ssthresh, 7000);
}

#[test]
fn what_was_sent_before_an_arrived_retransmission_is_lost() {
    let mut p = flying(0);
    // 0, 8 and 9 are lost: no report can lie above the last two.
    p.sack(&[(1000, 8000)]);
    assert_eq!(p.starts(), [0]);
    p.pass(ms(40));
    p.take(8000, &[]);
    assert_eq!(p.starts(), [8000, 9000]);
    p.pass(ms(40));
    p.take(10_000, &[]);
    assert_eq!((p.info().recovering, p.info().retransmits), (false, 3));
    assert_eq!(p.engine.counters().timeouts, 0);
}

#[test]
fn a_lost_retransmission_goes_a_third_time() {
    let mut p = flying(10_000);
    p.sack(&[(1000, 9000)]);
    // Room for the lost one and for new ones.
    assert_eq!(p.starts()[..2], [0, 10_000]);
    p.pass(ms(40));
    // What was sent with it but after it has arrived.
    p.sack(&[(1000, 9000), (10_000, 11_000)]);
    assert_eq!(p.starts()[0], 0);
    assert_eq!(p.engine.counters().timeouts, 0);
}

#[test]
fn reordering_is_no_loss_and_teaches_patience() {
    let mut p = flying(10_000);
    p.sack(&[(1000, 2000)]);
    p.out();
    p.pass(ms(5));
    assert!(!p.info().reordering);
    p.take(2000, &[]);
    p.out();
    assert_eq!((p.info().retransmits, p.info().recovering, p.info().reordering), (0, false, true));
    assert_eq!(p.engine.counters().reordering_paths, 1);
    // Now even three reports wait for the end of the reordering window.
    p.sack(&[(3000, 7000)]);
    let new = p.out();
    assert!(new.iter().all(|s| s.header.seq.at_or_after(p.iss + 10_001)), "{new:?}");
    let sent = p.sends(11);
    // The answer came after 45 ms, and a quarter of 40 ms is the window.
    assert_eq!(sent, [(10, 2000)]);
}

#[test]
fn duplicates_reported_widen_the_window_for_sixteen_recoveries() {
    let mut p = Peer::distant(Config { initial_window: 4, ..Config::default() }, false, 4000);
    let mut at = 0;
    // The path reorders.
    p.out();
    p.pass(ms(40));
    p.sack(&[(1000, 2000)]);
    p.take(4000, &[]);
    assert!(p.info().reordering);
    at += 4000;
    let mut waits = Vec::new();
    for round in 0..20 {
        p.send(&[1; 2000]);
        p.out();
        assert_eq!(p.sends(40), []);
        p.sack(&[(at + 1000, at + 2000)]);
        p.none();
        let sent = p.sends(30);
        assert_eq!((sent.len(), sent[0].1), (1, at), "{sent:?}");
        waits.push(sent[0].0);
        at += 2000;
        p.ack = p.iss + 1 + at;
        if round == 0 {
            // It had only been late.
            p.sack(&[(at - 2000, at - 1000)]);
        } else {
            p.sack(&[]);
        }
    }
    assert_eq!(p.engine.counters().dsacks_in, 1);
    assert_eq!(waits[0], 10);
    // The recovery that it was reported for counts for one.
    assert_eq!(waits[1..16], [20; 15]);
    assert_eq!(waits[16..], [10; 4]);
}

#[test]
fn a_timeout_leaves_alone_what_went_a_moment_ago() {
    let mut p = Peer::distant(Config::default(), false, 3000);
    p.out();
    // A probe of the tail, after which the timeout starts anew.
    assert_eq!(p.sends(83), [(82, 2000)]);
    p.pass(p.info().rto - ms(10));
    p.send(&[1; 2000]);
    assert_eq!(p.out().len(), 2);
    // RFC 8985 6.3.
    let sent = p.sends(14);
    assert_eq!((sent.len(), sent[0].1), (1, 0));
    assert_eq!(p.info().lost, 3000);
    assert_eq!(p.engine.counters().timeouts, 1);
}

#[test]
fn a_million_little_blocks_take_bounded_memory() {
    let mut p = Peer::distant(Config { initial_window: 64, ..Config::default() }, false, 60_000);
    p.out();
    p.pass(ms(40));
    for n in (0..20_000).step_by(4) {
        let block = |k: u32| (3 * (n + k) % 57_000 + 1, 3 * (n + k) % 57_000 + 2);
        // The invariants bound the scoreboard.
        p.sack(&[block(0), block(1), block(2), block(3)]);
    }
    assert_eq!(p.info().sacked, 1024);
    p.out();
    p.take(60_000, &[]);
    assert_eq!((p.info().in_flight, p.info().owns_buffers), (0, false));
}

#[test]
fn a_fin_is_lost_and_found_with_the_tail() {
    let mut p = Peer::distant(Config::default(), false, 10_000);
    p.engine.shutdown_write(p.conn, p.now);
    assert!(p.out()[9].has(Flags::FIN));
    p.pass(ms(40));
    p.sack(&[(1000, 9000)]);
    assert_eq!(p.starts(), [0]);
    p.pass(ms(40));
    p.take(9000, &[]);
    let last = p.one();
    assert!(last.has(Flags::FIN) && last.len() == 1000, "{last:?}");
    p.pass(ms(40));
    p.take(10_001, &[]);
    assert_eq!((p.state(), p.engine.counters().timeouts), (State::FinWait2, 0));
}

#[test]
fn a_narrower_path_in_the_middle_of_recovery() {
    let mut p = flying(20_000);
    p.sack(&[(1000, 4000)]);
    p.out();
    let una = p.ack;
    p.engine.on_icmp_too_big(p.tuple, una, TooBig { mtu: 640, quoted: 1040 }, p.now);
    p.engine.check_invariants();
    // Whatever is out and was not reported goes again, in short segments.
    let mut high = 0;
    for _ in 0..100 {
        let out = p.out();
        high =
            out.iter().map(|s| s.header.seq + s.len() as u32 - (p.iss + 1)).max().unwrap_or(high);
        p.pass(ms(40));
        p.take(high.max(p.ack - (p.iss + 1)), &[]);
    }
    let info = p.info();
    assert_eq!((info.in_flight, info.send_queue, info.recovering, info.lost), (0, 0, false, 0));
    assert_eq!(info.mss, 600);
}

#[test]
fn a_window_that_shuts_in_recovery_keeps_nothing_back_for_ever() {
    let mut p = flying(10_000);
    p.window = 0;
    p.sack(&[(1000, 4000)]);
    // What the peer was promised room for goes again; nothing new does.
    assert_eq!(p.starts(), [0]);
    p.pass(ms(40));
    p.take(4000, &[]);
    p.pass(secs(3));
    p.window = 0xffff;
    p.take(10_000, &[]);
    let mut acked = 10_000;
    for _ in 0..20 {
        acked += p.out().iter().map(Segment::len).sum::<usize>() as u32;
        p.take(acked, &[]);
    }
    assert_eq!((p.info().in_flight, p.info().send_queue), (0, 0));
}

#[test]
fn what_is_known_of_times_grows_old() {
    let mut p = flying(1000);
    p.sack(&[(1000, 9000)]);
    assert_eq!(p.starts(), [0, 10_000]);
    p.pass(ms(40));
    p.take(10_000, &[]);
    assert_eq!(p.info().in_flight, 1000);
    // Always something is out, and for more than 35 minutes, half of what a clock of
    // microseconds in 32 bits can tell, nothing is reported.
    let mut sent = 11_000;
    for _ in 0..36 * 60 * 10 {
        p.pass(ms(100));
        p.send(&[1; 1000]);
        assert_eq!(p.starts(), [sent]);
        p.take(sent, &[]);
        sent += 1000;
    }
    p.send(&[1; 5000]);
    assert_eq!(p.out().len(), 5);
    p.pass(ms(100));
    p.sack(&[(sent, sent + 1000)]);
    p.none();
    assert_eq!(p.info().lost, 0);
    p.pass(ms(11));
    assert_eq!(p.info().lost, 1000, "one was sent before what has arrived");
}

#[test]
fn what_a_peer_drops_again_does_not_look_reordered() {
    let mut p = flying(0);
    p.sack(&[(1000, 2000), (5000, 6000)]);
    p.out();
    // Timeouts one after the other: what was reported may be there no more.
    while p.engine.counters().timeouts < 2 {
        p.pass(ms(100));
    }
    assert_eq!(p.info().sacked, 0);
    p.take(10_000, &[]);
    assert_eq!(p.engine.counters().reordering_paths, 0);
}
