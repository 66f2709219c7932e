//! What recovery sends, acknowledgement by acknowledgement (RFC 9937), over a path of 40 ms.

use throng_net::tcp::*;

use crate::peer::*;
use crate::world::*;

/// Twenty segments are out since 40 ms, the first is lost, and three were reported.
fn recovering(sack: bool) -> (Peer, Vec<u32>) {
    let config = Config { initial_window: 20, ..Config::default() };
    let mut p = Peer::listening(config);
    p.rtt = ms(40);
    p.open(Options { sack_permitted: sack, ..plain() });
    p.accept();
    p.send(&[1; 60_000]);
    assert_eq!(p.out().len(), 20);
    p.pass(ms(40));
    let mut sent = Vec::new();
    for n in 1..=3 {
        if sack {
            p.sack(&[(1000, 1000 + n * 1000)])
        } else {
            p.sack(&[])
        }
        sent.extend(p.starts());
    }
    assert!(p.info().recovering);
    (p, sent)
}

#[test]
fn the_flight_shrinks_in_proportion_to_what_arrives() {
    let (mut p, mut sent) = recovering(true);
    // RFC 3042 let two go before; the first retransmission goes at once.
    assert_eq!(sent, [20_000, 21_000, 0]);
    assert_eq!(p.info().ssthresh, 14_000, "seven tenths of 20");
    sent.clear();
    for n in 4..=19 {
        p.sack(&[(1000, 1000 + n * 1000)]);
        let now = p.starts();
        assert!(now.len() <= 1, "never a burst: {now:?}");
        sent.extend(now);
    }
    // Of 19 that arrived since 16, and with them 12 went: neither silence nor a burst. RFC 6675
    // would have sent nothing for the first six and one for each of the rest.
    assert_eq!(sent.len(), 11, "{sent:?}");
    let in_network = p.info().in_flight - p.info().sacked - p.info().lost + 1000;
    assert!((12_000..=14_000).contains(&in_network), "{in_network}");
    p.pass(ms(40));
    p.take(20_000, &[(20_000, 22_000)]);
    p.take(22_000, &[]);
    assert_eq!((p.info().recovering, p.info().cwnd), (false, 14_000));
}

#[test]
fn after_heavy_loss_the_flight_grows_no_faster_than_slow_start() {
    // 3 of 20 arrive, 17 are lost: the network holds less than the threshold at once.
    let mut p = Peer::distant(Config { initial_window: 20, ..Config::default() }, false, 20_000);
    assert_eq!(p.out().len(), 20);
    p.pass(ms(40));
    p.sack(&[(17_000, 18_000)]);
    p.sack(&[(17_000, 19_000)]);
    p.out();
    p.sack(&[(17_000, 20_000)]);
    assert_eq!(p.info().lost, 17_000);
    // The bound is what has arrived (CRB): not 13 segments in a burst.
    assert_eq!(p.starts(), [0]);
    p.pass(ms(40));
    // SafeACK: one for what has arrived, one more.
    p.take(1000, &[(17_000, 20_000)]);
    assert_eq!(p.starts(), [1000, 2000]);
    p.pass(ms(40));
    p.take(3000, &[(17_000, 20_000)]);
    assert_eq!(p.starts(), [3000, 4000, 5000]);
}

#[test]
fn duplicates_without_sack_count_for_a_segment_each() {
    let (mut p, mut sent) = recovering(false);
    assert_eq!(sent, [20_000, 21_000, 0]);
    sent.clear();
    for _ in 4..=19 {
        p.sack(&[]);
        let now = p.starts();
        assert!(now.len() <= 1, "{now:?}");
        sent.extend(now);
    }
    assert_eq!(sent.len(), 11, "{sent:?}");
    // A partial acknowledgement: the next hole, and nothing else.
    p.pass(ms(40));
    p.take(10_000, &[]);
    assert_eq!(p.starts()[0], 10_000);
    p.take(22_000, &[]);
    assert!(!p.info().recovering);
    assert!(p.info().cwnd <= 14_000);
}
