//! Probes of the tail (RFC 8985 7), over a path of 40 ms.

use throng_net::tcp::*;

use crate::peer::*;
use crate::world::*;

/// When a probe of more than two segments comes: two round trips, 2 ms of grace, and what
/// timers round up.
const PROBE: u128 = 82;

/// `n` segments of 1000 bytes have just gone, and nothing is queued.
fn flying(n: usize) -> Peer {
    let mut p = Peer::distant(Config::default(), false, n * 1000);
    assert_eq!(p.out().len(), n);
    p
}

fn probes(p: &Peer) -> (u64, u64, u64) {
    let counters = p.engine.counters();
    (counters.tail_probes, counters.tail_losses, counters.timeouts)
}

#[test]
fn the_last_segment_goes_again_and_repairs_the_loss() {
    let mut p = flying(5);
    p.pass(ms(40));
    p.take(4000, &[]);
    // The last one is lost. Less than two segments: the peer may delay its answer, so the
    // probe comes when the timeout would.
    let rto = p.info().rto;
    let sent = p.sends(rto.as_millis() as u64 + 2);
    assert_eq!((sent.len(), sent[0].1), (1, 4000), "{sent:?}");
    let cwnd = p.info().cwnd;
    p.pass(ms(40));
    p.take(5000, &[]);
    assert_eq!((probes(&p), p.info().cwnd), ((1, 0, 0), cwnd), "nobody knows yet");
    assert!(!p.info().owns_buffers, "what is idle keeps nothing for that");
    // RFC 8985 7.4.2: the next acknowledgement without a D-SACK says that one copy was lost.
    p.send(&[1; 1000]);
    p.out();
    p.pass(ms(40));
    p.take(6000, &[]);
    assert_eq!(probes(&p), (1, 1, 0));
    assert!(p.info().cwnd < cwnd && !p.info().recovering);
    assert!(!p.info().owns_buffers);
}

#[test]
fn a_probe_for_nothing_costs_nothing() {
    let mut p = flying(3);
    assert_eq!(p.sends(90), [(PROBE, 2000)]);
    let cwnd = p.info().cwnd;
    p.take(3000, &[]);
    // Both copies have arrived.
    p.sack(&[(2000, 3000)]);
    assert!(!p.info().owns_buffers);
    p.send(&[1; 1000]);
    p.out();
    p.take(4000, &[]);
    assert_eq!((probes(&p), p.info().cwnd), ((1, 0, 0), cwnd));

    // A peer that does not report duplicates repeats its acknowledgement.
    let mut p = flying(3);
    p.sends(90);
    let cwnd = p.info().cwnd;
    p.take(3000, &[]);
    p.take(3000, &[]);
    p.send(&[1; 1000]);
    p.out();
    p.take(4000, &[]);
    assert_eq!((probes(&p), p.info().cwnd), ((1, 0, 0), cwnd));
}

#[test]
fn the_answer_to_a_probe_shows_what_else_is_lost() {
    // 5 to 9 are lost: without the probe only a timeout would tell.
    let mut p = flying(10);
    p.pass(ms(40));
    p.take(5000, &[]);
    p.none();
    let sent = p.sends(90);
    assert_eq!(sent, [(PROBE, 9000)]);
    p.pass(ms(40));
    p.sack(&[(9000, 10_000)]);
    // They have been out for longer than a reordering window.
    assert_eq!(p.info().lost, 4000);
    let mut again = p.starts();
    p.pass(ms(40));
    p.take(6000, &[(9000, 10_000)]);
    again.extend(p.starts());
    p.take(7000, &[(9000, 10_000)]);
    again.extend(p.starts());
    assert_eq!(again, [5000, 6000, 7000, 8000]);
    p.take(10_000, &[]);
    assert_eq!((probes(&p), p.info().recovering), ((1, 0, 0), false));
}

#[test]
fn new_data_is_the_better_probe() {
    let mut p = Peer::distant(Config { initial_window: 3, ..Config::default() }, false, 20_000);
    assert_eq!(p.starts(), [0, 1000, 2000]);
    assert_eq!(p.info().cwnd, 3000);
    assert_eq!(p.sends(90), [(PROBE, 3000)]);
    assert_eq!(p.info().retransmits, 0);
    let cwnd = p.info().cwnd;
    p.take(4000, &[]);
    p.out();
    assert_eq!(probes(&p), (1, 0, 0));
    assert!(p.info().cwnd >= cwnd);

    // Where the peer's window has no room for it, what is out goes again.
    let mut p = Peer::listening(Config::default());
    (p.rtt, p.window) = (ms(40), 3000);
    p.open(Options { sack_permitted: true, ..plain() });
    p.accept();
    p.send(&[1; 20_000]);
    assert_eq!(p.starts(), [0, 1000, 2000]);
    assert_eq!(p.sends(90), [(PROBE, 2000)]);
}

#[test]
fn one_probe_then_the_timeout() {
    let mut p = flying(4);
    let rto = p.info().rto.as_millis();
    let sent = p.sends(1_000);
    assert_eq!(sent[..2], [(PROBE, 3000), (PROBE + rto + 1, 0)], "{sent:?}");
    assert_eq!(p.info().retries, 2);
    assert_eq!(probes(&p).0, 1);
    // Without SACK there is none (RFC 8985 7).
    let mut p = Peer::listening(Config::default());
    p.rtt = ms(40);
    p.open(plain());
    p.accept();
    p.send(&[1; 4000]);
    p.out();
    assert_eq!(p.sends(300), [(rto, 0)]);
}

#[test]
fn new_data_puts_the_probe_off_but_not_beyond_the_timeout() {
    let mut p = flying(4);
    let mut sent = Vec::new();
    let mut waited = 0;
    while sent.is_empty() && waited < 1000 {
        sent = p.sends(60);
        waited += 60;
        p.send(&[1; 1000]);
        if sent.is_empty() {
            p.out();
        }
    }
    // At 60, 120, 180: each time some 82 ms more; at 240 the timeout ends that.
    assert_eq!(probes(&p).0, 1);
    assert!((240..=300).contains(&waited), "{waited} {sent:?}");
}

#[test]
fn a_lost_fin_is_probed_for() {
    let mut p = Peer::distant(Config::default(), false, 3000);
    p.engine.shutdown_write(p.conn, p.now);
    assert_eq!(p.out().len(), 3);
    p.pass(ms(40));
    p.take(3000, &[]);
    p.none();
    let rto = p.info().rto;
    let sent = p.pass(rto + ms(2));
    assert_eq!(sent.len(), 1);
    assert!(sent[0].1.has(Flags::FIN) && sent[0].1.len() == 0);
    assert_eq!(probes(&p), (1, 0, 0));
    p.take(3001, &[]);
    assert_eq!(p.state(), State::FinWait2);
    p.inject(0, Flags::FIN | Flags::ACK, &[]);
    p.one();
    assert_eq!(p.engine.usage().with_buffers, 0);
}

#[test]
fn a_closed_window_is_probed_by_window_probes_only() {
    let mut p = flying(3);
    p.pass(ms(40));
    p.window = 0;
    p.take(3000, &[]);
    p.send(&[1; 1000]);
    p.none();
    p.pass(secs(3));
    assert_eq!(probes(&p), (0, 0, 0));
    assert!(p.engine.counters().probes > 0);
}

#[test]
fn a_peer_that_only_sends_tells_by_reporting_nothing() {
    let mut p = flying(3);
    assert_eq!(p.sends(90), [(PROBE, 2000)]);
    let cwnd = p.info().cwnd;
    p.take(3000, &[]);
    // A long answer: it acknowledges no more, and would have a D-SACK in it.
    p.data(&[1; 1000]);
    p.read();
    assert_eq!((probes(&p), p.info().cwnd), ((1, 0, 0), cwnd), "it may still come");
    p.pass(ms(300));
    p.data(&[1; 1000]);
    p.read();
    assert_eq!(probes(&p), (1, 1, 0));
    assert!(p.info().cwnd < cwnd);
    p.pass(ms(300));
    assert!(!p.info().owns_buffers);
}
