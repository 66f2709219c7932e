//! Two engines and a seeded virtual link between them, in virtual time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use throng_net::tcp::*;
use throng_runtime::Instant;

/// A small deterministic generator (SplitMix64).
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    pub fn chance(&mut self, p: f64) -> bool {
        (self.next() >> 11) as f64 / ((1u64 << 53) as f64) < p
    }
}

/// A segment on its way.
#[derive(Clone, Debug)]
pub struct Segment {
    pub header: Header,
    pub payload: Vec<u8>,
}

impl Segment {
    pub fn has(&self, flags: Flags) -> bool {
        self.header.flags.contains(flags)
    }
    pub fn len(&self) -> usize {
        self.payload.len()
    }
    /// The same segment as the other end sees it.
    pub fn flipped(mut self) -> Segment {
        let t = self.header.tuple;
        self.header.tuple = FourTuple {
            local: t.remote,
            remote: t.local,
            local_port: t.remote_port,
            remote_port: t.local_port,
        };
        self
    }
}

/// Collects what is sent; cuts GSO runs into segments.
#[derive(Default)]
pub struct Sink {
    pub segments: Vec<Segment>,
    pub tso: usize,
    pub room: usize,
}

impl Egress for Sink {
    fn send(&mut self, h: &Header, p: &Payload<'_>, gso: u16, _: &mut u32) -> Result<(), Full> {
        if self.segments.len() >= self.room {
            return Err(Full);
        }
        let all = p.to_vec();
        assert_eq!(all.len(), p.len());
        if gso == 0 {
            self.segments.push(Segment { header: *h, payload: all });
            return Ok(());
        }
        assert!(all.len() <= self.tso && all.len() > usize::from(gso));
        let count = all.len().div_ceil(gso.into());
        for (i, piece) in all.chunks(gso.into()).enumerate() {
            let mut header = *h;
            header.seq = h.seq + (i * usize::from(gso)) as u32;
            if i + 1 < count {
                header.flags.0 &= !(Flags::FIN.0 | Flags::PSH.0);
            }
            self.segments.push(Segment { header, payload: piece.to_vec() });
        }
        Ok(())
    }
    fn max_payload(&self) -> usize {
        self.tso
    }
}

/// Everything `engine` has to send now.
pub fn drain(engine: &mut Engine, now: Instant) -> Vec<Segment> {
    drain_tso(engine, now, 0)
}

pub fn drain_tso(engine: &mut Engine, now: Instant, tso: usize) -> Vec<Segment> {
    let mut sink = Sink { tso, room: usize::MAX, ..Sink::default() };
    while engine.poll_transmit(now, &mut sink) {}
    sink.segments
}

pub fn tuple(local: &str, remote: &str) -> FourTuple {
    let (l, r): (SocketAddr, SocketAddr) = (local.parse().unwrap(), remote.parse().unwrap());
    FourTuple {
        local: l.ip().into(),
        remote: r.ip().into(),
        local_port: l.port(),
        remote_port: r.port(),
    }
}

/// How the link treats segments.
#[derive(Clone, Debug)]
pub struct Link {
    pub delay: Duration,
    pub loss: f64,
    pub duplicate: f64,
    pub reorder: f64,
    /// A middlebox that takes these options out of SYNs.
    pub strip_sack: bool,
    pub strip_timestamps: bool,
    pub strip_scale: bool,
    /// Chance that a stretch of losses begins, each of some ten segments.
    pub bursts: f64,
}

impl Default for Link {
    fn default() -> Link {
        Link {
            delay: Duration::from_millis(5),
            loss: 0.0,
            duplicate: 0.0,
            reorder: 0.0,
            strip_sack: false,
            strip_timestamps: false,
            strip_scale: false,
            bursts: 0.0,
        }
    }
}

/// Called with the sender and a segment; `false` loses it.
pub type Filter = Box<dyn FnMut(usize, &Segment) -> bool>;

type Arrival = (Instant, u64, usize);

/// Two engines, 0 and 1, joined by a link.
pub struct World {
    pub engines: [Engine; 2],
    pub now: Instant,
    pub link: Link,
    pub rng: Rng,
    pub tso: usize,
    /// Keep a record of everything sent, with the sender.
    pub record: bool,
    pub sent: Vec<(Instant, usize, Segment)>,
    /// Called with sender, segment and its number; `false` loses it.
    pub filter: Option<Filter>,
    pub events: [Vec<Event>; 2],
    /// The tuple `connect` uses, if not a random one.
    pub fixed: Option<FourTuple>,
    /// Segments yet to be lost in the current stretch, by sender.
    doomed: [u32; 2],
    heap: BinaryHeap<Reverse<Arrival>>,
    flying: BTreeMap<u64, Segment>,
    count: u64,
    pub check: bool,
}

impl World {
    pub fn new(seed: u64) -> World {
        World::with(seed, Config::default(), Config::default())
    }

    pub fn with(seed: u64, a: Config, b: Config) -> World {
        let now = Instant::from_millis(1_000);
        let secret = |n: u8| std::array::from_fn(|i| (i as u8).wrapping_mul(7) ^ n ^ seed as u8);
        World {
            engines: [Engine::new(a, secret(1), now), Engine::new(b, secret(2), now)],
            now,
            link: Link::default(),
            rng: Rng(seed),
            tso: 0,
            record: false,
            sent: Vec::new(),
            filter: None,
            events: [Vec::new(), Vec::new()],
            fixed: None,
            doomed: [0, 0],
            heap: BinaryHeap::new(),
            flying: BTreeMap::new(),
            count: 0,
            check: true,
        }
    }

    /// Sends what both have to send over the link.
    pub fn transmit(&mut self) {
        for from in 0..2 {
            for segment in drain_tso(&mut self.engines[from], self.now, self.tso) {
                if self.record {
                    self.sent.push((self.now, from, segment.clone()));
                }
                if let Some(filter) = &mut self.filter
                    && !filter(from, &segment)
                {
                    continue;
                }
                self.put(from, segment);
            }
        }
    }

    fn put(&mut self, from: usize, mut segment: Segment) {
        let options = &mut segment.header.options;
        options.sack_permitted &= !self.link.strip_sack;
        if self.link.strip_timestamps {
            options.timestamps = None;
        }
        if self.link.strip_scale {
            options.window_scale = None;
        }
        if self.rng.chance(self.link.bursts) {
            self.doomed[from] = 1 + self.rng.below(20) as u32;
        }
        if self.doomed[from] > 0 {
            self.doomed[from] -= 1;
            return;
        }
        let copies = if self.rng.chance(self.link.duplicate) { 2 } else { 1 };
        for _ in 0..copies {
            if self.rng.chance(self.link.loss) {
                continue;
            }
            let mut at = self.now + self.link.delay;
            if self.rng.chance(self.link.reorder) {
                let nanos = self.link.delay.as_nanos() as u64;
                at += Duration::from_nanos(self.rng.below(nanos.max(1)));
            }
            self.count += 1;
            self.heap.push(Reverse((at, self.count, 1 - from)));
            self.flying.insert(self.count, segment.clone().flipped());
        }
    }

    fn collect_events(&mut self) {
        for (engine, events) in self.engines.iter_mut().zip(&mut self.events) {
            while let Some(event) = engine.pop_event() {
                events.push(event);
            }
        }
    }

    /// Time of the next thing to happen.
    pub fn next(&self) -> Option<Instant> {
        let arrival = self.heap.peek().map(|Reverse((at, ..))| *at);
        let timers = self.engines.iter().filter_map(|e| e.poll_timeout()).min();
        [arrival, timers].into_iter().flatten().min()
    }

    /// Moves time to the next thing and lets it happen. Returns whether there was any before
    /// `limit`.
    pub fn step(&mut self, limit: Instant) -> bool {
        self.transmit();
        let Some(next) = self.next().filter(|at| *at <= limit) else {
            self.now = self.now.max(limit);
            return false;
        };
        self.now = self.now.max(next);
        while let Some(Reverse((at, id, to))) = self.heap.peek().copied() {
            if at > self.now {
                break;
            }
            self.heap.pop();
            let segment = self.flying.remove(&id).unwrap();
            self.engines[to].on_segment(&segment.header, &segment.payload, self.now);
            if self.check {
                self.engines[to].check_invariants();
            }
        }
        for engine in &mut self.engines {
            engine.on_timeout(self.now);
            if self.check {
                engine.check_invariants();
            }
        }
        self.collect_events();
        self.transmit();
        true
    }

    /// Lets everything happen within `time`.
    pub fn run(&mut self, time: Duration) {
        let limit = self.now + time;
        while self.step(limit) {}
        self.collect_events();
    }

    /// Runs until `done` or `time` has passed; returns whether `done`.
    pub fn until(&mut self, time: Duration, mut done: impl FnMut(&mut World) -> bool) -> bool {
        let limit = self.now + time;
        loop {
            if done(self) {
                return true;
            }
            if !self.step(limit) {
                return done(self);
            }
        }
    }

    /// A listener on engine 1 at port 80, not bound to an address.
    pub fn listen(&mut self) -> ListenerId {
        self.engines[1].listen("[::]:80".parse().unwrap(), 128).unwrap()
    }

    /// A connection from engine 0 to `listener` of engine 1.
    pub fn connect(&mut self, listener: ListenerId) -> (ConnId, ConnId) {
        let port = 10_000 + (self.rng.next() % 50_000) as u16;
        let t = tuple(&format!("10.0.0.1:{port}"), "10.0.0.2:80");
        self.connect_tuple(listener, self.fixed.unwrap_or(t))
    }

    pub fn connect_tuple(&mut self, listener: ListenerId, t: FourTuple) -> (ConnId, ConnId) {
        let now = self.now;
        let client = self.engines[0].connect(t, now).unwrap();
        let mut server = None;
        let ok = self.until(Duration::from_secs(60), |w| {
            server = server.or_else(|| w.engines[1].accept(listener));
            server.is_some() && w.engines[0].state(client) == State::Established
        });
        assert!(ok, "no connection");
        (client, server.unwrap())
    }

    pub fn send(&mut self, engine: usize, conn: ConnId, data: &[u8]) {
        let now = self.now;
        self.engines[engine].send(conn, Bytes::copy_from_slice(data), now).unwrap();
    }

    /// Sends as soon as the connection is open.
    pub fn send_when_open(&mut self, engine: usize, conn: ConnId, data: &[u8]) {
        let ok = self.until(secs(2000), |w| w.engines[engine].send_capacity(conn) > 0);
        assert!(ok, "not open: {:?}", self.engines[engine].state(conn));
        self.send(engine, conn, data);
    }

    /// Reads everything there is.
    pub fn read(&mut self, engine: usize, conn: ConnId) -> Vec<u8> {
        let mut all = Vec::new();
        while let Ok(bytes) = self.engines[engine].recv(conn, usize::MAX, self.now) {
            if bytes.is_empty() {
                break;
            }
            all.extend_from_slice(&bytes);
        }
        all
    }

    pub fn assert_empty(&self) {
        for engine in &self.engines {
            let usage = engine.usage();
            assert_eq!(usage.connections, 0, "{usage:?}");
            assert_eq!(usage.half_open, 0, "{usage:?}");
            assert_eq!(usage.time_wait, 0, "{usage:?}");
            assert_eq!(usage.timers, 0, "{usage:?}");
            assert_eq!(usage.with_buffers, 0, "{usage:?}");
            assert_eq!((usage.send_memory, usage.recv_memory), (0, 0), "{usage:?}");
            engine.check_invariants();
        }
    }
}

pub fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}
