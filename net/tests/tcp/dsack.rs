//! Reports of what came twice (RFC 2883 4, 4.1), and the order of blocks (RFC 2018 4).

use throng_net::tcp::*;

use crate::peer::*;
use crate::world::*;

fn receiving() -> Peer {
    Peer::established(Options { sack_permitted: true, ..plain() })
}

/// The blocks of the one segment that is sent now, by their distance from the first byte.
fn blocks(p: &mut Peer) -> Vec<(u32, u32)> {
    let first = SeqNum(PEER_ISS + 1);
    let sent = p.one();
    let blocks = sent.header.options.sack;
    blocks.iter().flatten().map(|b| (b.start - first, b.end - first)).collect()
}

#[test]
fn a_segment_that_comes_twice_is_reported_once() {
    let mut p = receiving();
    p.data(&[1; 500]);
    p.data(&[1; 500]);
    p.read();
    p.out();
    assert!(!p.info().owns_buffers);
    p.inject(-500, Flags::ACK, &[1; 500]);
    assert_eq!(blocks(&mut p), [(500, 1000)]);
    assert!(!p.info().owns_buffers, "nothing is kept of it");
    p.inject(0, Flags::ACK | Flags::PSH, &[]);
    p.seq += 10_000_000;
    p.inject(0, Flags::ACK, &[1]);
    assert_eq!(blocks(&mut p), [], "only once");
    assert_eq!(p.engine.counters().dsacks_out, 1);
}

#[test]
fn the_part_that_came_before_is_reported() {
    let mut p = receiving();
    p.data(&[1; 500]);
    p.out();
    p.pass(ms(50));
    // 200 old ones and 300 new ones.
    p.inject(-200, Flags::ACK, &[1; 500]);
    assert_eq!(blocks(&mut p), [(300, 500)]);
    p.seq += 300;
    assert_eq!(p.read().len(), 800);
}

#[test]
fn out_of_order_too_before_the_block_it_lies_in() {
    let mut p = receiving();
    p.inject(1000, Flags::ACK, &[1; 500]);
    assert_eq!(blocks(&mut p), [(1000, 1500)]);
    p.inject(2000, Flags::ACK, &[1; 500]);
    assert_eq!(blocks(&mut p), [(2000, 2500), (1000, 1500)]);
    p.inject(1200, Flags::ACK, &[1; 100]);
    assert_eq!(blocks(&mut p), [(1200, 1300), (1000, 1500), (2000, 2500)]);
    // RFC 2883 4.1.2: partly new, the first stretch that is not.
    p.inject(1400, Flags::ACK, &[1; 700]);
    assert_eq!(blocks(&mut p), [(1400, 1500), (1000, 2500)]);
    // Below the acknowledgement, with holes left.
    p.data(&[1; 500]);
    p.out();
    p.inject(-500, Flags::ACK, &[1; 500]);
    assert_eq!(blocks(&mut p), [(0, 500), (1000, 2500)]);
}

#[test]
fn four_blocks_at_most_and_three_beside_timestamps() {
    for (options, most) in [(Options { sack_permitted: true, ..plain() }, 4), (everything(), 3)] {
        let mut p = Peer::established(options);
        for n in 1..=6 {
            p.inject(n * 1000, Flags::ACK, &[1; 100]);
        }
        p.out();
        p.inject(2000, Flags::ACK, &[1; 100]);
        let expected = [(2000, 2100), (2000, 2100), (6000, 6100), (5000, 5100)];
        assert_eq!(blocks(&mut p), expected[..most]);
    }
}

#[test]
fn duplicates_of_one_turn_that_lie_in_a_row_are_one_report() {
    let mut p = receiving();
    p.data(&[1; 900]);
    p.out();
    p.inject(-900, Flags::ACK, &[1; 300]);
    p.inject(-600, Flags::ACK, &[1; 300]);
    assert_eq!(blocks(&mut p), [(0, 600)]);
    // Else it is the latest.
    p.inject(-900, Flags::ACK, &[1; 300]);
    p.inject(-300, Flags::ACK, &[1; 300]);
    assert_eq!(blocks(&mut p), [(600, 900)]);
}

#[test]
fn a_late_first_copy_is_reported_although_its_timestamp_is_old() {
    let mut p = Peer::established(everything());
    p.ts = Some(2_000);
    p.data(&[1; 500]);
    p.out();
    p.ts = Some(1_500);
    p.inject(-500, Flags::ACK, &[1; 500]);
    assert_eq!(blocks(&mut p), [(0, 500)]);
    assert_eq!(p.engine.counters().paws_dropped, 1);
    // Not what would be new.
    p.inject(100, Flags::ACK, &[1; 500]);
    assert_eq!(blocks(&mut p), []);
    assert_eq!(p.info().out_of_order, 0);
}

#[test]
fn no_report_without_sack_and_none_of_an_empty_probe() {
    let mut p = Peer::established(plain());
    p.data(&[1; 500]);
    p.inject(-500, Flags::ACK, &[1; 500]);
    assert_eq!(blocks(&mut p), []);
    let mut p = receiving();
    p.data(&[1; 500]);
    p.out();
    p.inject(-1, Flags::ACK, &[]);
    assert_eq!(blocks(&mut p), []);
    assert_eq!(p.engine.counters().dsacks_out, 0);
}

#[test]
fn two_engines_agree_on_what_was_sent_twice() {
    // Every data segment is doubled by the network: reported, but nobody sent too soon.
    let mut w = World::new(3);
    w.link.duplicate = 1.0;
    let listener = w.listen();
    let (client, server) = w.connect(listener);
    w.send(0, client, &[7; 60_000]);
    w.run(secs(1));
    assert_eq!(w.read(1, server).len(), 60_000);
    assert!(w.engines[1].counters().dsacks_out > 2);
    assert!(w.engines[0].counters().dsacks_in > 2);
    let sender = w.engines[0].info(client, w.now).unwrap();
    assert_eq!((sender.retransmits, sender.reordering), (0, false));
}
