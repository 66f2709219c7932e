//! Closing: half-close, simultaneous close, resets, linger, orphans, TIME_WAIT.

use throng_net::tcp::*;

use crate::peer::*;
use crate::world::*;

#[test]
fn half_close_both_ways() {
    let mut w = World::new(1);
    let listener = w.listen();
    let (client, server) = w.connect(listener);
    let now = w.now;
    w.send(0, client, b"question");
    w.engines[0].shutdown_write(client, now);
    w.run(ms(50));
    assert_eq!(w.read(1, server), b"question");
    assert_eq!(w.engines[0].state(client), State::FinWait2);
    let refused = w.engines[0].send(client, "more".into(), w.now);
    assert_eq!(refused, Err(SendError::Closed(Error::BrokenPipe)));
    // The other direction goes on, for as long as it likes.
    w.run(secs(600));
    w.send(1, server, &[9; 60_000]);
    w.run(secs(1));
    assert_eq!(w.read(0, client).len(), 60_000);
    let now = w.now;
    w.engines[1].shutdown_write(server, now);
    w.run(ms(50));
    assert_eq!(w.engines[0].recv(client, 10, w.now).unwrap().len(), 0);
    assert_eq!(w.engines[0].state(client), State::TimeWait);
    assert_eq!(w.engines[1].state(server), State::Closed);
    assert_eq!(w.engines[1].take_error(server), None);
    let now = w.now;
    w.engines[0].close(client, now);
    w.engines[1].close(server, now);
    w.run(secs(61));
    w.assert_empty();
}

#[test]
fn simultaneous_close() {
    let mut w = World::new(2);
    let listener = w.listen();
    let (client, server) = w.connect(listener);
    let now = w.now;
    w.engines[0].shutdown_write(client, now);
    w.engines[1].shutdown_write(server, now);
    w.run(ms(7));
    assert_eq!(w.engines[0].state(client), State::Closing);
    assert_eq!(w.engines[1].state(server), State::Closing);
    w.run(ms(50));
    assert_eq!(w.engines[0].state(client), State::TimeWait);
    assert_eq!(w.engines[1].state(server), State::TimeWait);
    let now = w.now;
    w.engines[0].close(client, now);
    w.engines[1].close(server, now);
    w.run(secs(61));
    w.assert_empty();
}

#[test]
fn close_with_queued_data_sends_it_all() {
    let mut w = World::new(3);
    let listener = w.listen();
    let (client, server) = w.connect(listener);
    w.send(0, client, &[3; 200_000]);
    let now = w.now;
    w.engines[0].close(client, now);
    let mut got = 0;
    w.until(secs(10), |w| {
        got += w.read(1, server).len();
        got == 200_000
    });
    assert_eq!(got, 200_000);
    w.run(ms(50));
    assert_eq!(w.engines[1].recv(server, 1, w.now).unwrap().len(), 0);
    let now = w.now;
    w.engines[1].close(server, now);
    w.run(secs(61));
    w.assert_empty();
}

#[test]
fn close_with_unread_data_resets() {
    let mut p = Peer::established(plain());
    p.data(b"nobody reads this");
    p.engine.close(p.conn, p.now);
    let out = p.out();
    assert!(out[0].has(Flags::RST), "{out:?}");
    assert_eq!(out[0].header.seq, p.ack);
    let left = p.engine.usage();
    let Usage { tables, blocks, demux, timer_memory, .. } = left;
    assert_eq!(left, Usage { tables, blocks, demux, timer_memory, ..Usage::default() });
}

#[test]
fn data_after_close_resets() {
    let mut p = Peer::established(plain());
    p.engine.close(p.conn, p.now);
    let fin = p.one();
    assert!(fin.has(Flags::FIN | Flags::ACK));
    p.acknowledge(fin.header.seq + 1);
    p.data(b"too late");
    assert!(p.one().has(Flags::RST));
    assert_eq!(p.engine.usage().connections, 0);
}

#[test]
fn linger_zero_and_abort_reset() {
    let mut p = Peer::established(plain());
    p.send(b"gone");
    p.engine.set_linger(p.conn, Some(secs(0)));
    p.engine.close(p.conn, p.now);
    assert!(p.one().has(Flags::RST));
    assert_eq!(p.engine.usage().connections, 0);

    let mut p = Peer::established(plain());
    p.engine.abort(p.conn, p.now);
    assert!(p.one().has(Flags::RST));
    assert_eq!(p.engine.usage().connections, 0);
    assert_eq!(p.recv(), Err(RecvError::Closed(Error::NotConnected)));
}

#[test]
fn linger_time_bounds_an_orphan() {
    let mut p = Peer::established(plain());
    p.send(b"never acknowledged");
    p.engine.set_linger(p.conn, Some(secs(3)));
    p.engine.close(p.conn, p.now);
    let sent = p.pass(secs(5));
    let (at, last) = sent.last().unwrap();
    assert!(last.has(Flags::RST) && at.as_secs() == 3, "{sent:?}");
    assert_eq!(p.engine.usage().connections, 0);
}

#[test]
fn orphan_in_fin_wait_2_times_out() {
    let mut p = Peer::established(plain());
    p.engine.close(p.conn, p.now);
    let fin = p.one();
    p.acknowledge(fin.header.seq + 1);
    assert_eq!(p.engine.usage().connections, 1);
    p.pass(secs(59));
    assert_eq!(p.engine.usage().connections, 1);
    p.pass(secs(2));
    assert_eq!(p.engine.usage().connections, 0);
    assert_eq!(p.engine.usage().timers, 0);
}

#[test]
fn fin_is_retransmitted() {
    let mut p = Peer::established(plain());
    p.engine.shutdown_write(p.conn, p.now);
    let fin = p.one();
    let sent = p.pass(secs(1));
    assert!(sent.len() >= 2 && sent[0].1.has(Flags::FIN) && sent[0].1.header.seq == fin.header.seq);
    p.acknowledge(fin.header.seq + 1);
    assert_eq!(p.state(), State::FinWait2);
    assert!(p.pass(secs(10)).is_empty());
}

#[test]
fn time_wait_answers_and_is_reused() {
    for timestamps in [false, true] {
        let mut p = Peer::established(if timestamps { everything() } else { plain() });
        p.engine.close(p.conn, p.now);
        let fin = p.one();
        p.acknowledge(fin.header.seq + 1);
        p.inject(0, Flags::FIN | Flags::ACK, &[]);
        let ack = p.one();
        assert_eq!(ack.header.ack, p.seq + 1);
        assert_eq!((p.engine.usage().time_wait, p.engine.usage().connections), (1, 0));
        assert!(p.engine.tuple_in_use(&p.tuple));
        // The FIN again: the ACK again, and the time starts anew.
        p.pass(secs(40));
        p.inject(0, Flags::FIN | Flags::ACK, &[]);
        assert_eq!(p.one().header.ack, p.seq + 1);
        p.pass(secs(40));
        assert_eq!(p.engine.usage().time_wait, 1);
        // RFC 1337: a reset does not end it. A mere ACK is not answered.
        p.inject(1, Flags::RST, &[]);
        p.inject(1, Flags::ACK, &[]);
        p.none();
        assert_eq!(p.engine.usage().time_wait, 1);
        // An old SYN is answered with an ACK, a new one opens anew.
        let mut old = p.header(Flags::SYN);
        old.seq = old.seq - 10;
        if let Some((value, _)) = &mut old.options.timestamps {
            *value -= 1;
        }
        p.engine.on_segment(&old, &[], p.now);
        assert_eq!(p.one().header.flags, Flags::ACK);
        let mut new = header(p.tuple, p.seq + 100, SeqNum(0), Flags::SYN);
        new.options = if timestamps { everything() } else { plain() };
        if let Some((value, _)) = &mut new.options.timestamps {
            *value += 100;
        }
        p.engine.on_segment(&new, &[], p.now);
        let syn_ack = p.one();
        assert!(syn_ack.has(Flags::SYN | Flags::ACK));
        assert!(syn_ack.header.seq.after(fin.header.seq), "beyond the old connection");
        assert_eq!((p.engine.usage().time_wait, p.engine.usage().half_open), (0, 1));
        assert_eq!(p.engine.counters().time_wait_reused, 1);
        p.engine.check_invariants();
    }
}

#[test]
fn time_wait_is_bounded_by_recycling_the_oldest() {
    let mut p = Peer::listening(Config { max_time_wait: 3, ..Config::default() });
    for port in 0..5u16 {
        p.tuple = tuple("10.0.0.2:80", &format!("10.0.0.1:{}", 6000 + port));
        p.seq = SeqNum(100);
        p.open(plain());
        p.accept();
        p.engine.close(p.conn, p.now);
        let fin = p.one();
        p.ack = fin.header.seq + 1;
        p.inject(0, Flags::FIN | Flags::ACK, &[]);
        p.one();
        p.pass(ms(10));
    }
    assert_eq!(p.engine.usage().time_wait, 3);
    assert_eq!(p.engine.counters().time_wait_recycled, 2);
    assert!(!p.engine.tuple_in_use(&tuple("10.0.0.2:80", "10.0.0.1:6001")));
    assert!(p.engine.tuple_in_use(&tuple("10.0.0.2:80", "10.0.0.1:6002")));
    p.pass(secs(60));
    assert_eq!(p.engine.usage().time_wait, 0);
    p.engine.check_invariants();
}

#[test]
fn peer_resets_keep_what_was_received() {
    let mut p = Peer::established(plain());
    p.data(b"last words");
    p.inject(0, Flags::RST, &[]);
    assert_eq!(p.state(), State::Closed);
    assert_eq!(p.recv().unwrap(), "last words");
    assert_eq!(p.recv(), Err(RecvError::Closed(Error::Reset)));
    let send = p.engine.send(p.conn, "x".into(), p.now);
    assert_eq!(send, Err(SendError::Closed(Error::Reset)));
    assert!(!p.engine.tuple_in_use(&p.tuple));
    p.engine.close(p.conn, p.now);
    p.none();
    assert_eq!(p.engine.usage().connections, 0);
    p.engine.check_invariants();
}

#[test]
fn fin_with_data_and_out_of_order_fin() {
    let mut p = Peer::established(everything());
    // The FIN comes first, the data before it later.
    p.inject(4, Flags::FIN | Flags::ACK, b"late");
    p.one();
    assert_eq!(p.state(), State::Established);
    p.inject(0, Flags::ACK, b"soon");
    let ack = p.one();
    assert_eq!(ack.header.ack, p.seq + 9);
    assert_eq!(p.state(), State::CloseWait);
    assert_eq!(p.read(), b"soonlate");
    assert_eq!(p.recv().unwrap().len(), 0);
    p.engine.check_invariants();
}

#[test]
fn closing_a_connection_attempt() {
    let mut w = World::new(7);
    let now = w.now;
    let c = w.engines[0].connect(tuple("10.0.0.1:5", "10.0.0.2:6"), now).unwrap();
    w.transmit();
    w.engines[0].close(c, now);
    assert_eq!(w.engines[0].usage().connections, 0);
    w.run(secs(1));
    w.assert_empty();
}

#[test]
fn last_ack_retransmits_and_gives_up() {
    let mut p = Peer::established(plain());
    p.inject(0, Flags::FIN | Flags::ACK, &[]);
    p.seq += 1;
    p.one();
    p.engine.close(p.conn, p.now);
    assert!(p.one().has(Flags::FIN));
    let sent = p.pass(secs(3600));
    assert_eq!(sent.len(), 8, "orphan_retries");
    assert_eq!(p.engine.usage().connections, 0);
}
