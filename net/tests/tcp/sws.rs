//! Silly windows, avoided on both ends (RFC 9293 3.8.6.2), Nagle's algorithm beside them, and the
//! probes of closed windows (3.8.6.1).

use throng_net::tcp::*;

use crate::peer::*;
use crate::world::*;

fn lens(out: &[Segment]) -> Vec<usize> {
    out.iter().map(Segment::len).collect()
}

/// A peer without options whose window is `window` bytes, after it once was `largest`.
fn narrowed(largest: u16, window: u16) -> Peer {
    let mut p = Peer::listening(Config::default());
    p.window = largest;
    let mut syn = header(p.tuple, p.seq, SeqNum(0), Flags::SYN);
    syn.options = plain();
    syn.window = largest;
    p.engine.on_segment(&syn, &[], p.now);
    p.iss = p.one().header.seq;
    p.ack = p.iss + 1;
    p.seq += 1;
    p.inject(0, Flags::ACK, &[]);
    p.accept();
    p.window = window;
    p.inject(0, Flags::ACK, &[]);
    p
}

#[test]
fn part_of_a_segment_waits_for_half_of_the_largest_window() {
    // MSS 1,000. RFC 9293 3.8.6.2.1 (3): half of the largest window there was is enough, less is
    // not, and a whole segment always is.
    for (largest, window, sent) in [
        (1_600, 800, vec![800]),
        (1_600, 799, vec![]),
        (4_000, 999, vec![]),
        (4_000, 1_000, vec![1_000]),
        (4_000, 1_999, vec![1_000]),
        (4_000, 2_000, vec![1_000, 1_000]),
        (100, 60, vec![60]),
        (100, 49, vec![]),
    ] {
        let mut p = narrowed(largest, window);
        p.send(&[1; 5_000]);
        assert_eq!(lens(&p.out()), sent, "{window} of {largest}");
    }
    // (2): all there is, where it fits, is no part.
    let mut p = narrowed(4_000, 300);
    p.send(&[1; 300]);
    assert_eq!(lens(&p.out()), [300]);
}

#[test]
fn the_override_timer_sends_what_the_window_has_room_for() {
    // (4): once, after a retransmission timeout's time.
    let mut p = narrowed(4_000, 300);
    p.send(&[1; 5_000]);
    p.none();
    let sent = p.pass(ms(300));
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].1.len(), 300);
    assert!(!sent[0].1.has(Flags::PSH));
    assert!(sent[0].0 >= ms(200));
    assert_eq!(p.engine.counters().probes, 0);
    // The next one has to wait for its own.
    p.acknowledge(sent[0].1.header.seq + 300);
    p.none();
    // A window worth it ends the wait.
    p.window = 2_000;
    p.inject(0, Flags::ACK, &[]);
    assert_eq!(lens(&p.out()), [1_000, 1_000]);
}

#[test]
fn a_reader_in_small_steps_opens_the_window_by_segments() {
    // RFC 9293 3.8.6.2.2: with a window closed, byte after byte is read, and updates come by
    // segments, not by bytes.
    let config = Config { recv_buffer: 20_000, ..Config::default() };
    let mut p = Peer::established_with(config, plain());
    for _ in 0..20 {
        p.data(&[1; 1_000]);
        p.out();
    }
    p.pass(ms(100));
    assert_eq!(p.info().rcv_wnd, 0);
    let mut updates = Vec::new();
    for _ in 0..20_000 {
        p.engine.recv(p.conn, 1, p.now).unwrap();
        updates.extend(p.out().iter().map(|s| u32::from(s.header.window)));
    }
    // Two segments at a time, until half of it is open; the rest waits for the next ACK.
    assert_eq!(updates, [2_000, 4_000, 6_000, 8_000, 10_000]);
    p.data(&[1; 1_000]);
    p.data(&[1; 1_000]);
    assert!(p.one().header.window >= 18_000);
}

#[test]
fn a_buffer_of_less_than_a_segment_still_opens() {
    // Half of the buffer is what counts where it holds no two segments.
    let config = Config { recv_buffer: 1_000, ..Config::default() };
    let mut p = Peer::established_with(config, plain());
    p.data(&[1; 1_000]);
    p.out();
    p.pass(ms(100));
    assert_eq!(p.info().rcv_wnd, 0);
    p.engine.recv(p.conn, 499, p.now).unwrap();
    p.none();
    p.engine.recv(p.conn, 1, p.now).unwrap();
    assert_eq!(p.one().header.window, 500);
}

#[test]
fn minshall_lets_one_short_segment_go_and_not_two() {
    let mut p = Peer::established(plain());
    // A short one goes while only full ones are out: RFC 9293 3.7.4 would hold it back.
    p.send(&[1; 1_000]);
    p.out();
    p.send(&[1; 10]);
    assert_eq!(lens(&p.out()), [10]);
    // The next short one waits, a full one does not.
    p.send(&[1; 10]);
    p.none();
    p.send(&[1; 1_500]);
    assert_eq!(lens(&p.out()), [1_000]);
    // The short one's acknowledgement lets the next go, whatever else is out.
    p.acknowledge(p.iss + 1 + 1_010);
    assert_eq!(lens(&p.out()), [510]);
    p.send(b"x");
    p.none();
    p.engine.set_nodelay(p.conn, true);
    assert_eq!(lens(&p.out()), [1]);
}

#[test]
fn probes_of_a_closed_window_back_off_to_their_bound_and_carry_nothing() {
    let mut p = Peer::established(plain());
    p.window = 0;
    p.inject(0, Flags::ACK, &[]);
    p.send(&[1; 2_000]);
    p.none();
    let mut times = Vec::new();
    let start = p.now;
    while times.len() < 14 {
        p.now = p.engine.poll_timeout().unwrap();
        p.engine.on_timeout(p.now);
        for probe in p.out() {
            assert_eq!((probe.len(), probe.header.seq), (0, p.ack - 1), "an old number, no data");
            assert_eq!(probe.header.flags, Flags::ACK);
            times.push((p.now - start).as_millis() as u64);
            // Answered: it may go on for ever (RFC 9293 3.8.6.1).
            p.inject(0, Flags::ACK, &[]);
            p.none();
        }
    }
    let waits: Vec<u64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(waits.windows(2).all(|w| w[1] >= w[0] && w[1] <= 2 * w[0] + 1), "{waits:?}");
    assert!((110_000..=121_000).contains(waits.last().unwrap()), "{waits:?}");
    assert_eq!(p.engine.counters().probes, 14);
    assert_eq!((p.info().retries > 0, p.state()), (true, State::Established));
    // It opens: everything goes at once, nothing twice, and the backoff is forgotten.
    p.window = 0xffff;
    p.inject(0, Flags::ACK, &[]);
    let out = p.out();
    assert_eq!((lens(&out), out[0].header.seq), (vec![1_000, 1_000], p.ack));
    p.acknowledge(p.ack + 2_000);
    assert_eq!(p.info().retries, 0);
    assert!(p.pass(secs(300)).is_empty());
}

#[test]
fn a_lost_window_update_is_found_out_by_a_probe() {
    // The update is lost; the probe's answer carries the window.
    let mut p = Peer::established(plain());
    p.window = 0;
    p.inject(0, Flags::ACK, &[]);
    p.send(b"waits");
    p.none();
    let sent = p.pass(ms(1_500));
    assert!(!sent.is_empty());
    p.window = 100;
    p.inject(0, Flags::ACK, &[]);
    assert_eq!(lens(&p.out()), [5]);
}

#[test]
fn a_closed_window_holds_a_fin_back_too() {
    let mut p = Peer::established(plain());
    p.window = 0;
    p.inject(0, Flags::ACK, &[]);
    p.engine.shutdown_write(p.conn, p.now);
    p.none();
    assert_eq!(p.state(), State::FinWait1);
    let sent = p.pass(secs(2));
    assert!(!sent.is_empty() && sent.iter().all(|(_, s)| !s.has(Flags::FIN)));
    p.window = 1;
    p.inject(0, Flags::ACK, &[]);
    assert!(p.one().has(Flags::FIN));
}

#[test]
fn a_peer_that_draws_its_window_back_gets_nothing_new_and_no_silly_pieces() {
    // RFC 9293 3.8.6: not to be done, and to be borne.
    let mut p = Peer::established(plain());
    p.window = 8_000;
    p.inject(0, Flags::ACK, &[]);
    p.send(&[1; 20_000]);
    assert_eq!(p.out().len(), 8);
    // Two are acknowledged, and the edge comes back by four.
    p.window = 2_000;
    p.acknowledge(p.ack + 2_000);
    p.none();
    p.window = 0;
    p.inject(0, Flags::ACK, &[]);
    p.none();
    // What is out goes again when its time comes: its acknowledgement opens the window anew.
    let again = p.pass(secs(3));
    assert!(again.iter().all(|(_, s)| s.header.seq.before(p.iss + 1 + 8_000)));
    p.window = 3_000;
    p.acknowledge(p.iss + 1 + 8_000);
    assert!(!p.out().is_empty());
    p.engine.check_invariants();
}

#[test]
fn windows_of_every_scale_are_read_as_they_are_meant() {
    for scale in 0..=15u8 {
        let options = Options { window_scale: Some(scale), timestamps: None, ..everything() };
        let mut p = Peer::established(options);
        // RFC 7323 2.3: more than 14 is 14.
        let shift = scale.min(14);
        p.window = 1;
        p.inject(0, Flags::ACK, &[]);
        assert_eq!(p.info().snd_wnd, 1 << shift);
        p.window = 0xffff;
        p.inject(0, Flags::ACK, &[]);
        assert_eq!(p.info().snd_wnd, 0xffff << shift);
        // Half of the largest is a silly-window matter at any scale.
        p.window = 0;
        p.inject(0, Flags::ACK, &[]);
        p.send(&[1; 3_000]);
        p.none();
        p.window = 0x7fff;
        p.inject(0, Flags::ACK, &[]);
        assert!(!p.out().is_empty());
        p.engine.check_invariants();
    }
}

#[test]
fn windows_and_numbers_wrap() {
    // The peer's numbers wrap within its window, and within the measurement of the reader.
    let config = Config { recv_buffer: 1 << 20, ..Config::default() };
    let mut p = Peer::listening(config);
    p.seq = SeqNum(u32::MAX - 100_000);
    p.open(Options { timestamps: None, ..everything() });
    p.accept();
    let mut edge = p.seq;
    for i in 0..3_000u32 {
        p.data(&[i as u8; 1_000]);
        assert_eq!(p.read(), [i as u8; 1_000]);
        for s in p.out() {
            let right = s.header.ack + (u32::from(s.header.window) << p.info().rcv_scale.unwrap());
            assert!((right + 32).at_or_after(edge), "the right edge never retreats");
            edge = right;
        }
    }
    assert!(p.seq.0 < 4_000_000, "it wrapped");
    assert_eq!(p.info().rcv_buffer, 1 << 20);
}
