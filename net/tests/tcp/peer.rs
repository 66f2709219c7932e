//! One engine and a peer whose segments are written by hand.

use std::time::Duration;

use bytes::Bytes;
use throng_net::tcp::*;
use throng_runtime::Instant;

use crate::world::*;

pub struct Peer {
    pub engine: Engine,
    pub now: Instant,
    pub listener: ListenerId,
    pub conn: ConnId,
    /// As the engine sees it.
    pub tuple: FourTuple,
    /// The peer's next sequence number.
    pub seq: SeqNum,
    /// What the peer has acknowledged.
    pub ack: SeqNum,
    /// The engine's initial sequence number.
    pub iss: SeqNum,
    /// The peer's timestamp clock, if timestamps are on.
    pub ts: Option<u32>,
    pub window: u16,
    /// What passes between the SYN-ACK and its acknowledgement.
    pub rtt: Duration,
}

/// What the peer offers in its SYN.
pub fn everything() -> Options {
    Options {
        mss: Some(1460),
        window_scale: Some(7),
        sack_permitted: true,
        timestamps: Some((1000, 0)),
        sack: [None; 4],
    }
}

pub fn plain() -> Options {
    Options { mss: Some(1000), ..Options::default() }
}

pub const PEER_ISS: u32 = 5_000;

pub fn header(tuple: FourTuple, seq: SeqNum, ack: SeqNum, flags: Flags) -> Header {
    let options = Options::default();
    Header { tuple, seq, ack, flags, window: 0xffff, urgent: 0, ecn: 0, options }
}

impl Peer {
    /// A listening engine; nothing has come yet.
    pub fn listening(config: Config) -> Peer {
        let now = Instant::from_millis(10_000);
        let mut engine = Engine::new(config, [3; 32], now);
        let listener = engine.listen("10.0.0.2:80".parse().unwrap(), 4).unwrap();
        let t = tuple("10.0.0.2:80", "10.0.0.1:5555");
        // Any id at all, until there is one.
        let conn = {
            let mut other = Engine::new(Config::default(), [0; 32], now);
            other.connect(t, now).unwrap()
        };
        Peer {
            engine,
            now,
            listener,
            conn,
            tuple: t,
            seq: SeqNum(PEER_ISS),
            ack: SeqNum(0),
            iss: SeqNum(0),
            ts: None,
            window: 0xffff,
            rtt: Duration::ZERO,
        }
    }

    /// A connection the peer has opened with SACK (and timestamps, where `stamps`), over a path
    /// of 40 ms, and `data` queued on it. Its segments are of 1000 bytes.
    pub fn distant(config: Config, stamps: bool, data: usize) -> Peer {
        let mut p = Peer::listening(config);
        p.rtt = Duration::from_millis(40);
        let mss = if stamps { 1012 } else { 1000 };
        p.open(Options {
            mss: Some(mss),
            sack_permitted: true,
            timestamps: stamps.then_some((1000, 0)),
            ..Options::default()
        });
        p.accept();
        p.send(&vec![1; data]);
        p
    }

    /// A connection the peer has opened, with these options in its SYN.
    pub fn established_with(config: Config, options: Options) -> Peer {
        let mut p = Peer::listening(config);
        p.open(options);
        p.accept();
        p
    }

    pub fn accept(&mut self) {
        self.conn = self.engine.accept(self.listener).expect("accepted");
        self.events();
    }

    pub fn established(options: Options) -> Peer {
        Peer::established_with(Config::default(), options)
    }

    /// The peer's side of a passive open.
    pub fn open(&mut self, options: Options) -> Segment {
        self.ts = options.timestamps.map(|(value, _)| value);
        let mut syn = header(self.tuple, self.seq, SeqNum(0), Flags::SYN);
        syn.options = options;
        self.engine.on_segment(&syn, &[], self.now);
        let out = self.out();
        assert_eq!(out.len(), 1, "{out:?}");
        let syn_ack = out[0].clone();
        assert!(syn_ack.has(Flags::SYN | Flags::ACK));
        assert_eq!(syn_ack.header.ack, self.seq + 1);
        self.iss = syn_ack.header.seq;
        self.ack = self.iss + 1;
        self.seq += 1;
        self.now += self.rtt;
        self.inject(0, Flags::ACK, &[]);
        assert!(self.out().is_empty());
        syn_ack
    }

    pub fn header(&self, flags: Flags) -> Header {
        let mut h = header(self.tuple, self.seq, self.ack, flags);
        h.window = self.window;
        h.options.timestamps = self.ts.map(|ts| (ts, 0));
        h
    }

    /// A segment `ahead` of the peer's next sequence number; does not move it.
    pub fn inject(&mut self, ahead: i64, flags: Flags, payload: &[u8]) {
        let mut h = self.header(flags);
        h.seq += ahead as u32;
        self.engine.on_segment(&h, payload, self.now);
        self.engine.check_invariants();
    }

    /// Data in order.
    pub fn data(&mut self, payload: &[u8]) {
        self.inject(0, Flags::ACK | Flags::PSH, payload);
        self.seq += payload.len() as u32;
    }

    /// Acknowledges everything up to `ack`.
    pub fn acknowledge(&mut self, ack: SeqNum) {
        self.ack = ack;
        self.inject(0, Flags::ACK, &[]);
    }

    /// Repeats the acknowledgement and reports blocks, by their distance from the first byte
    /// of the stream.
    pub fn sack(&mut self, blocks: &[(u32, u32)]) {
        let mut h = self.header(Flags::ACK);
        for (to, (start, end)) in h.options.sack.iter_mut().zip(blocks) {
            let first = self.iss + 1;
            *to = Some(SackBlock { start: first + *start, end: first + *end });
        }
        self.engine.on_segment(&h, &[], self.now);
        self.engine.check_invariants();
    }

    /// Acknowledges the first `n` bytes of the stream, and reports blocks as [`Peer::sack`].
    pub fn take(&mut self, n: u32, blocks: &[(u32, u32)]) {
        self.ack = self.iss + 1 + n;
        self.sack(blocks);
    }

    /// Where what the engine sends now begins, by its distance from the first byte.
    pub fn starts(&mut self) -> Vec<u32> {
        let first = self.iss + 1;
        self.out().iter().map(|s| s.header.seq - first).collect()
    }

    /// Lets time pass; returns what was sent, by milliseconds and start as [`Peer::starts`].
    pub fn sends(&mut self, ms: u64) -> Vec<(u128, u32)> {
        let first = self.iss + 1;
        let sent = self.pass(Duration::from_millis(ms));
        sent.iter().map(|(at, s)| (at.as_millis(), s.header.seq - first)).collect()
    }

    /// What the engine sends now.
    pub fn out(&mut self) -> Vec<Segment> {
        let out = drain(&mut self.engine, self.now);
        self.engine.check_invariants();
        out
    }

    /// The one segment the engine sends now.
    pub fn one(&mut self) -> Segment {
        let out = self.out();
        assert_eq!(out.len(), 1, "{out:#?}");
        out.into_iter().next().unwrap()
    }

    /// The first segment of what the engine sends now.
    pub fn one_of_many(&mut self) -> Segment {
        self.out().into_iter().next().expect("a segment")
    }

    pub fn none(&mut self) {
        let out = self.out();
        assert!(out.is_empty(), "{out:#?}");
    }

    /// Lets time pass, running timers as they come up; returns what was sent, with times.
    pub fn pass(&mut self, time: Duration) -> Vec<(Duration, Segment)> {
        let start = self.now;
        let end = self.now + time;
        let mut sent = Vec::new();
        while let Some(at) = self.engine.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.engine.on_timeout(self.now);
            let out = self.out();
            sent.extend(out.into_iter().map(|s| (self.now - start, s)));
        }
        self.now = end;
        self.engine.on_timeout(self.now);
        let out = self.out();
        sent.extend(out.into_iter().map(|s| (time, s)));
        sent
    }

    pub fn send(&mut self, data: &[u8]) {
        self.engine.send(self.conn, Bytes::copy_from_slice(data), self.now).unwrap();
    }

    pub fn recv(&mut self) -> Result<Bytes, RecvError> {
        self.engine.recv(self.conn, usize::MAX, self.now)
    }

    /// Reads all there is in order.
    pub fn read(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        while let Ok(bytes) = self.recv() {
            if bytes.is_empty() {
                break;
            }
            all.extend_from_slice(&bytes);
        }
        all
    }

    pub fn state(&self) -> State {
        self.engine.state(self.conn)
    }

    pub fn info(&self) -> Info {
        self.engine.info(self.conn, self.now).unwrap()
    }

    pub fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.engine.pop_event()).collect()
    }
}
