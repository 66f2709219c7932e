//! What the fuzz targets found (`fuzz/`), in exact segments.

use std::time::Duration;

use throng_net::tcp::*;

use crate::peer::*;
use crate::world::*;

/// The wheel was left with the initial timeout of a second, when the first sample, taken on the
/// fast path, allowed a fifth of that.
#[test]
fn the_first_sample_makes_an_armed_timer_shorter() {
    // A cookie's connection has no sample from its handshake.
    let config = Config { max_half_open: 0, ..Config::default() };
    let mut p = Peer::established_with(config, plain());
    p.send(&[7; 3_000]);
    let first = p.out()[0].len() as u32;
    p.now += ms(20);
    let ack = p.ack + first;
    p.acknowledge(ack);
    let sent = p.pass(ms(400));
    assert!(sent.iter().any(|(_, segment)| segment.len() > 0), "{sent:?}");
}

/// RFC 9293 3.10.7.4 looks at the sequence number first, so that the window beside a
/// retransmission counted for nothing, and its acknowledgement moved the right edge.
#[test]
fn the_window_of_a_segment_that_acknowledges_more_counts_though_its_number_is_old() {
    let mut p = Peer::established(plain());
    p.window = 1_000;
    p.inject(0, Flags::ACK, &[]);
    p.send(&[7; 4_000]);
    assert_eq!(p.one().len(), 1_000);
    // One overtakes the other, which says that the window is closed now.
    p.inject(100, Flags::ACK | Flags::PSH, &[1; 100]);
    (p.ack, p.window) = (p.ack + 1_000, 0);
    p.inject(0, Flags::ACK | Flags::PSH, &[1; 100]);
    assert_eq!(p.info().snd_wnd, 0);
    assert_eq!(p.one().len(), 0);
}

/// Deadlines compare within 24 days; after more, one that had passed long ago was taken for
/// one to come.
#[test]
fn a_clock_that_jumps_weeks_ahead_forgets_no_timer() {
    for days in [1, 23, 25, 30, 49, 50, 75] {
        let mut p = Peer::established(everything());
        p.send(&[7; 100]);
        assert_eq!(p.one().len(), 100);
        p.now += Duration::from_secs(days * 86_400);
        p.engine.on_timeout(p.now);
        p.engine.check_invariants();
        let out = p.out();
        let again = out.iter().any(|segment| segment.len() == 100);
        assert!(again, "after {days} days: {out:?}, {:?}", p.info());
    }
}

/// Times of sending compare within 35 minutes. What was reported after a clock had jumped by more
/// counted as sent after everything else, which then was lost, and went again, with every
/// acknowledgement, and its timer put the retransmission timer off for ever.
#[test]
fn what_was_sent_before_a_clock_jumped_orders_nothing() {
    let mut p = Peer::distant(Config::default(), true, 4_000);
    assert_eq!(p.starts(), [0, 1_000, 2_000, 3_000]);
    p.now += Duration::from_secs(2_200);
    p.engine.on_timeout(p.now);
    assert_eq!(p.starts(), [3_000], "a probe of the tail");
    assert!(p.sends(1_000).iter().any(|(_, start)| *start == 0));
    // The first copy of the last but one has come after all.
    let again: usize = (0..20)
        .map(|_| {
            p.now += ms(1);
            p.sack(&[(2_000, 3_000)]);
            p.starts().len()
        })
        .sum();
    assert!(again <= 3, "sent again {again} times in 20 ms");
    assert!(p.sends(20_000).iter().any(|(_, start)| *start == 0), "no timer is left");
}
