//! From the first SYN to the end: the arrows of RFC 9293 3.3.2, figure 5, segment by segment, and
//! the limits on the way.

use throng_net::tcp::*;
use throng_runtime::Instant;

use crate::peer::*;
use crate::world::*;

/// An active open by hand: the engine's SYN is out.
struct Active {
    e: Engine,
    conn: ConnId,
    t: FourTuple,
    now: Instant,
    /// The engine's initial sequence number.
    iss: SeqNum,
}

const PEER: SeqNum = SeqNum(9_000);

impl Active {
    fn open() -> Active {
        Active::open_with(Config::default())
    }

    fn open_with(config: Config) -> Active {
        let now = Instant::from_millis(1_000);
        let t = tuple("10.0.0.1:5", "10.0.0.2:6");
        let mut e = Engine::new(config, [5; 32], now);
        let conn = e.connect(t, now).unwrap();
        let out = drain(&mut e, now);
        assert_eq!((out.len(), out[0].header.flags), (1, Flags::SYN));
        Active { e, conn, t, now, iss: out[0].header.seq }
    }

    fn inject(&mut self, seq: SeqNum, ack: SeqNum, flags: Flags) {
        self.e.on_segment(&header(self.t, seq, ack, flags), &[], self.now);
        self.e.check_invariants();
    }

    /// What goes out, as flags, sequence and acknowledgement number.
    fn out(&mut self) -> Vec<(Flags, SeqNum, SeqNum)> {
        let all = drain(&mut self.e, self.now);
        all.iter().map(|s| (s.header.flags, s.header.seq, s.header.ack)).collect()
    }

    fn state(&self) -> State {
        self.e.state(self.conn)
    }

    /// Both SYNs have crossed.
    fn crossed(&mut self) {
        self.inject(PEER, SeqNum(0), Flags::SYN);
        assert_eq!(self.state(), State::SynReceived);
        assert_eq!(self.out(), [(Flags::SYN | Flags::ACK, self.iss, PEER + 1)]);
    }

    fn established(&mut self) {
        self.inject(PEER, self.iss + 1, Flags::SYN | Flags::ACK);
        assert_eq!(self.state(), State::Established);
        assert_eq!(self.out(), [(Flags::ACK, self.iss + 1, PEER + 1)]);
    }
}

const FIN: Flags = Flags(Flags::FIN.0 | Flags::ACK.0);
const SYN_ACK: Flags = Flags(Flags::SYN.0 | Flags::ACK.0);

#[test]
fn closed_to_syn_sent_and_back() {
    // "CLOSE, delete TCB": nothing is said.
    let mut a = Active::open();
    a.e.close(a.conn, a.now);
    assert_eq!((a.out(), a.e.usage().connections), (vec![], 0));
    // And refused.
    let mut a = Active::open();
    a.inject(SeqNum(0), a.iss + 1, Flags::RST | Flags::ACK);
    assert_eq!((a.state(), a.e.take_error(a.conn)), (State::Closed, Some(Error::Refused)));
}

#[test]
fn syn_sent_to_established() {
    Active::open().established();
}

#[test]
fn simultaneous_open_to_established() {
    let mut a = Active::open();
    a.crossed();
    // "rcv ACK of SYN"; the peer's own second SYN carries it.
    a.inject(PEER, a.iss + 1, SYN_ACK);
    assert_eq!(a.state(), State::Established);
    // The bare ACK does as well.
    let mut a = Active::open();
    a.crossed();
    a.inject(PEER + 1, a.iss + 1, Flags::ACK);
    assert_eq!((a.state(), a.out()), (State::Established, vec![]));
}

#[test]
fn syn_received_to_fin_wait_1() {
    // "CLOSE, snd FIN": as soon as our SYN is acknowledged.
    let mut a = Active::open();
    a.crossed();
    a.e.shutdown_write(a.conn, a.now);
    assert_eq!(a.out(), []);
    a.inject(PEER + 1, a.iss + 1, Flags::ACK);
    assert_eq!(a.state(), State::FinWait1);
    assert_eq!(a.out(), [(FIN, a.iss + 1, PEER + 1)]);
}

#[test]
fn listen_to_syn_received_to_established_and_back() {
    let mut p = Peer::listening(Config::default());
    let syn = header(p.tuple, p.seq, SeqNum(0), Flags::SYN);
    p.engine.on_segment(&syn, &[], p.now);
    assert_eq!((p.engine.usage().half_open, p.engine.usage().connections), (1, 0));
    let syn_ack = p.one();
    assert_eq!((syn_ack.header.flags, syn_ack.header.ack), (SYN_ACK, p.seq + 1));
    // "SYN-RCVD, rcv RST": back to listening.
    p.engine.on_segment(&header(p.tuple, p.seq + 1, SeqNum(0), Flags::RST), &[], p.now);
    assert_eq!((p.engine.usage().half_open, p.engine.counters().resets_in), (0, 1));
    p.open(plain());
    p.accept();
    assert_eq!(p.state(), State::Established);
}

#[test]
fn the_active_closer() {
    // FIN-WAIT-1, FIN-WAIT-2, TIME-WAIT, CLOSED.
    let mut a = Active::open();
    a.established();
    a.e.shutdown_write(a.conn, a.now);
    assert_eq!(a.state(), State::FinWait1);
    assert_eq!(a.out(), [(FIN, a.iss + 1, PEER + 1)]);
    a.inject(PEER + 1, a.iss + 2, Flags::ACK);
    assert_eq!((a.state(), a.out()), (State::FinWait2, vec![]));
    a.inject(PEER + 1, a.iss + 2, FIN);
    assert_eq!(a.state(), State::TimeWait);
    assert_eq!(a.out(), [(Flags::ACK, a.iss + 2, PEER + 2)]);
    assert_eq!(a.e.usage().time_wait, 1);
    // RFC 9293 3.10.8: the time runs out.
    a.e.on_timeout(a.now + secs(59));
    assert_eq!(a.e.usage().time_wait, 1);
    a.e.on_timeout(a.now + secs(61));
    assert_eq!((a.e.usage().time_wait, a.e.tuple_in_use(&a.t)), (0, false));
}

#[test]
fn fin_wait_1_to_time_wait_at_once() {
    // "rcv FIN and ACK of FIN" in one segment.
    let mut a = Active::open();
    a.established();
    a.e.shutdown_write(a.conn, a.now);
    a.out();
    a.inject(PEER + 1, a.iss + 2, FIN);
    assert_eq!(a.state(), State::TimeWait);
    assert_eq!(a.out(), [(Flags::ACK, a.iss + 2, PEER + 2)]);
}

#[test]
fn simultaneous_close() {
    // FIN-WAIT-1, CLOSING, TIME-WAIT.
    let mut a = Active::open();
    a.established();
    a.e.shutdown_write(a.conn, a.now);
    a.out();
    a.inject(PEER + 1, a.iss + 1, FIN);
    assert_eq!(a.state(), State::Closing);
    assert_eq!(a.out(), [(Flags::ACK, a.iss + 2, PEER + 2)]);
    a.inject(PEER + 2, a.iss + 2, Flags::ACK);
    assert_eq!((a.state(), a.out()), (State::TimeWait, vec![]));
}

#[test]
fn the_passive_closer() {
    // CLOSE-WAIT, LAST-ACK, CLOSED.
    let mut a = Active::open();
    a.established();
    a.inject(PEER + 1, a.iss + 1, FIN);
    assert_eq!(a.state(), State::CloseWait);
    assert_eq!(a.out(), [(Flags::ACK, a.iss + 1, PEER + 2)]);
    a.e.shutdown_write(a.conn, a.now);
    assert_eq!(a.state(), State::LastAck);
    assert_eq!(a.out(), [(FIN, a.iss + 1, PEER + 2)]);
    a.inject(PEER + 2, a.iss + 2, Flags::ACK);
    assert_eq!((a.state(), a.out()), (State::Closed, vec![]));
    assert_eq!((a.e.take_error(a.conn), a.e.usage().time_wait), (None, 0));
}

#[test]
fn a_reset_ends_any_synchronized_state() {
    type Go = fn(&mut Active);
    let to: [(State, Go); 5] = [
        (State::Established, |_| ()),
        (State::CloseWait, |a| a.inject(PEER + 1, a.iss + 1, FIN)),
        (State::FinWait1, |a| a.e.shutdown_write(a.conn, a.now)),
        (State::FinWait2, |a| {
            a.e.shutdown_write(a.conn, a.now);
            a.out();
            a.inject(PEER + 1, a.iss + 2, Flags::ACK);
        }),
        (State::LastAck, |a| {
            a.inject(PEER + 1, a.iss + 1, FIN);
            a.e.shutdown_write(a.conn, a.now);
        }),
    ];
    for (state, go) in to {
        let mut a = Active::open();
        a.established();
        go(&mut a);
        a.out();
        assert_eq!(a.state(), state);
        let next = if matches!(state, State::CloseWait | State::LastAck) { 2 } else { 1 };
        a.inject(PEER + next, SeqNum(0), Flags::RST);
        assert_eq!((a.state(), a.out()), (State::Closed, vec![]), "{state:?}");
    }
}

#[test]
fn a_refused_retry_says_so_and_silence_times_out() {
    // Six SYNs more, then the error; a user timeout cuts it short.
    for (limit, count, end) in [(None, 6, 127), (Some(secs(10)), 3, 10)] {
        let mut a = Active::open();
        a.e.set_user_timeout(a.conn, limit);
        let start = a.now;
        let mut sent = Vec::new();
        while a.state() == State::SynSent {
            a.now = a.e.poll_timeout().unwrap();
            a.e.on_timeout(a.now);
            sent.extend(a.out());
        }
        assert_eq!(sent, vec![(Flags::SYN, a.iss, SeqNum(0)); count]);
        assert_eq!((a.now - start).as_secs(), end);
        assert_eq!(a.e.recv(a.conn, 1, a.now), Err(RecvError::Closed(Error::TimedOut)));
        assert_eq!(a.e.counters().connect_failures, 1);
        assert!(!a.e.tuple_in_use(&a.t));
    }
    let config = Config { syn_retries: 0, ..Config::default() };
    let mut a = Active::open_with(config);
    while a.state() == State::SynSent {
        a.now = a.e.poll_timeout().unwrap();
        a.e.on_timeout(a.now);
        assert_eq!(a.out(), []);
    }
    assert_eq!((a.now - Instant::from_millis(1_000)).as_millis(), 1_000);
}

#[test]
fn the_accept_queue_overflows_by_policy() {
    for abort in [false, true] {
        let config = Config { abort_on_overflow: abort, ..Config::default() };
        let mut p = Peer::listening(config);
        let tuples: Vec<_> =
            (0..5).map(|i| tuple("10.0.0.2:80", &format!("10.0.0.1:{}", 7000 + i))).collect();
        let mut last = header(p.tuple, SeqNum(2), SeqNum(0), Flags::ACK);
        let mut acks = Vec::new();
        for t in &tuples {
            let mut syn = header(*t, SeqNum(1), SeqNum(0), Flags::SYN);
            syn.options = plain();
            p.engine.on_segment(&syn, &[], p.now);
            last = header(*t, SeqNum(2), p.one().header.seq + 1, Flags::ACK);
            acks.push(last);
        }
        // The queue holds four.
        for ack in &acks[..4] {
            p.engine.on_segment(ack, &[], p.now);
        }
        p.none();
        p.engine.on_segment(&last, &[], p.now);
        assert_eq!(p.engine.counters().accept_overflow, 1);
        let half_open = p.engine.usage().half_open;
        if abort {
            // The peer hears of it.
            let reset = p.one();
            assert_eq!((reset.header.flags, reset.header.seq), (Flags::RST, last.ack));
            assert_eq!(half_open, 0);
        } else {
            // The final ACK was as if lost: the SYN-ACK goes again, and with a place free the ACK
            // that answers it counts.
            p.none();
            assert_eq!(half_open, 1);
            let sent = p.pass(ms(1_002));
            assert_eq!((sent.len(), sent[0].1.header.flags), (1, SYN_ACK));
            assert_eq!(sent[0].1.header.seq + 1, last.ack);
            p.engine.accept(p.listener).unwrap();
            p.engine.on_segment(&last, &[], p.now);
            assert_eq!(p.engine.usage().half_open, 0);
        }
        p.engine.check_invariants();
    }
}

#[test]
fn orphans_are_counted_and_bounded() {
    let config = Config { max_orphans: 2, ..Config::default() };
    let mut p = Peer::listening(config);
    let mut conns = Vec::new();
    for port in 0..4u16 {
        p.tuple.remote_port = 6000 + port;
        p.seq = SeqNum(100);
        p.open(plain());
        p.accept();
        conns.push((p.tuple, p.conn, p.ack));
    }
    for (_, conn, _) in &conns[..2] {
        p.engine.close(*conn, p.now);
    }
    assert!(p.out().iter().all(|s| s.has(Flags::FIN)));
    assert_eq!(p.engine.usage().orphans, 2);
    // One more is reset.
    p.engine.close(conns[2].1, p.now);
    let reset = p.one();
    assert_eq!((reset.header.flags, reset.header.tuple), (Flags::RST | Flags::ACK, conns[2].0));
    assert_eq!((p.engine.usage().orphans, p.engine.counters().orphans_reset), (2, 1));
    // One that ends makes room.
    let (t, _, ack) = conns[0];
    p.engine.on_segment(&header(t, SeqNum(101), ack + 1, FIN), &[], p.now);
    p.out();
    assert_eq!((p.engine.usage().orphans, p.engine.usage().time_wait), (1, 1));
    p.engine.close(conns[3].1, p.now);
    assert!(p.one().has(Flags::FIN));
    p.engine.check_invariants();
    p.pass(secs(300));
    assert_eq!((p.engine.usage().orphans, p.engine.usage().connections), (0, 0));
}

#[test]
fn what_time_wait_costs() {
    // A connection at a time, fifty thousand in TIME_WAIT: 72 bytes for an entry, and 8 for each place
    // of a table that is three quarters full at most, and doubles then.
    const COUNT: usize = 50_000;
    let mut p = Peer::listening(Config::default());
    let before = p.engine.usage().tables;
    let mut now = p.now;
    for i in 0..COUNT {
        let t = tuple("10.0.0.2:80", &format!("10.1.{}.{}:7", i >> 8, i & 255));
        p.engine.on_segment(&header(t, SeqNum(0), SeqNum(0), Flags::SYN), &[], now);
        let iss = drain(&mut p.engine, now)[0].header.seq;
        p.engine.on_segment(&header(t, SeqNum(1), iss + 1, Flags::ACK), &[], now);
        let conn = p.engine.accept(p.listener).unwrap();
        p.engine.close(conn, now);
        drain(&mut p.engine, now);
        p.engine.on_segment(&header(t, SeqNum(1), iss + 2, FIN), &[], now);
        drain(&mut p.engine, now);
        if i % 1_000 == 0 {
            let each = (p.engine.usage().tables - before) / (i + 1);
            assert!(i < 10_000 || each <= 104, "{each} bytes");
            now += ms(1);
            p.engine.on_timeout(now);
        }
    }
    let usage = p.engine.usage();
    assert_eq!((usage.time_wait, usage.connections), (COUNT, 0));
    let each = (usage.tables - before) / COUNT;
    assert!(each <= 104, "{each} bytes");
    p.engine.check_invariants();
    // They all go, and their memory serves the next.
    while p.engine.usage().time_wait > 0 {
        now = p.engine.poll_timeout().unwrap().max(now);
        p.engine.on_timeout(now);
    }
    p.engine.check_invariants();
}

#[test]
fn time_wait_is_taken_over_by_what_is_newer_only() {
    // RFC 6191 2, RFC 9293 3.10.7.4: by timestamp where both have them, then by number.
    let taken = |old: Option<u32>, new: Option<u32>, ahead: i32| {
        let options = Options { timestamps: old.map(|ts| (ts, 0)), ..plain() };
        let mut p = Peer::established(options);
        p.engine.close(p.conn, p.now);
        let fin = p.one();
        p.acknowledge(fin.header.seq + 1);
        p.inject(0, FIN, &[]);
        p.one();
        assert_eq!(p.engine.usage().time_wait, 1);
        let next = p.seq + 1;
        let mut syn = header(p.tuple, next + ahead as u32, SeqNum(0), Flags::SYN);
        syn.options = Options { timestamps: new.map(|ts| (ts, 0)), ..plain() };
        p.engine.on_segment(&syn, &[], p.now);
        let answer = p.one();
        let taken = p.engine.counters().time_wait_reused == 1;
        assert_eq!(answer.has(SYN_ACK), taken);
        assert_eq!(taken, p.engine.usage().time_wait == 0);
        if taken {
            assert!(answer.header.seq.after(fin.header.seq + 65_535), "beyond any old segment");
        } else {
            assert_eq!((answer.header.flags, answer.header.ack), (Flags::ACK, next));
        }
        taken
    };
    assert!(taken(Some(100), Some(101), -50));
    assert!(taken(Some(100), Some(100), 1));
    assert!(!taken(Some(100), Some(100), 0));
    assert!(!taken(Some(100), Some(99), 1_000));
    assert!(taken(Some(u32::MAX), Some(3), -50), "clocks wrap");
    assert!(taken(None, None, 1));
    assert!(!taken(None, None, 0));
    assert!(!taken(None, None, -1));
    assert!(taken(None, Some(1), 1));
    assert!(!taken(Some(100), None, -1));
}

#[test]
fn a_user_timeout_counts_from_the_first_byte_that_waits() {
    // Unacknowledged.
    let mut p = Peer::established(plain());
    p.engine.set_user_timeout(p.conn, Some(ms(2_500)));
    p.pass(secs(10));
    p.send(b"one");
    p.out();
    p.pass(ms(1_000));
    p.acknowledge(p.iss + 1 + 3);
    // What is acknowledged starts it anew.
    p.send(b"two");
    p.out();
    p.pass(ms(2_499));
    assert_eq!(p.state(), State::Established);
    p.pass(ms(2));
    assert_eq!(p.recv(), Err(RecvError::Closed(Error::TimedOut)));
    assert_eq!(p.engine.counters().timed_out, 1);

    // Kept back by a window that stays closed, although the peer answers.
    let mut p = Peer::established(plain());
    p.window = 0;
    p.inject(0, Flags::ACK, &[]);
    p.engine.set_user_timeout(p.conn, Some(secs(5)));
    p.send(b"never");
    p.out();
    let start = p.now;
    while p.state() == State::Established {
        p.now = p.engine.poll_timeout().unwrap();
        p.engine.on_timeout(p.now);
        if !p.out().is_empty() {
            p.inject(0, Flags::ACK, &[]);
        }
    }
    assert_eq!((p.now - start).as_secs(), 5);

    // Silence that keepalive has found out.
    let mut p = Peer::established(plain());
    let keepalive = Keepalive { idle: secs(10), interval: secs(1), count: 2 };
    p.engine.set_keepalive(p.conn, Some(keepalive));
    p.engine.set_user_timeout(p.conn, Some(secs(15)));
    assert_eq!(p.pass(ms(14_999)).len(), 5, "more than two probes");
    assert_eq!(p.state(), State::Established);
    p.pass(ms(1_000));
    assert_eq!(p.state(), State::Closed);
}

#[test]
fn a_walk_sees_what_lies_behind_memory_that_was_given_back() {
    let now = Instant::ZERO;
    let mut e = Engine::new(Config::default(), [5; 32], now);
    let mut sink = Sink { room: usize::MAX, ..Sink::default() };
    // Some chunks of the table: see `throng_runtime::chunks`.
    let conns: Vec<ConnId> = (0..40_000u32)
        .map(|n| tuple(&format!("10.0.{}.1:{}", n >> 15, 1 + n % (1 << 15)), "10.0.0.2:6"))
        .map(|t| e.connect(t, now).unwrap())
        .collect();
    // A turn is bounded, whatever the egress takes.
    e.poll_transmit(now, &mut sink);
    assert!((1..1_024).contains(&sink.segments.len()), "{}", sink.segments.len());
    while e.poll_transmit(now, &mut sink) {}
    assert_eq!(sink.segments.len(), conns.len());
    let full = e.usage().blocks;
    let (first, last) = (conns[0], conns[conns.len() - 1]);
    conns[1..conns.len() - 1].iter().for_each(|conn| e.abort(*conn, now));
    for _ in 0..1_000 {
        e.poll_transmit(now, &mut sink);
    }
    assert!(e.usage().blocks < full - (2 << 20), "{} of {full}", e.usage().blocks);
    let (mut seen, mut at) = (Vec::new(), Some(0));
    while let Some(from) = at {
        at = e.scan(from, 256, now, |conn, _| {
            seen.push(conn);
            true
        });
    }
    assert_eq!(seen, [first, last]);
}
