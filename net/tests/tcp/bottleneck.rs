//! Two engines and between them, one way, a router with a queue: in virtual time.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use throng_net::tcp::*;
use throng_runtime::Instant;

use crate::world::*;

/// Engine 0 sends to engine 1 as much as the window lets it.
pub struct Bottleneck {
    pub engines: [Engine; 2],
    pub conn: ConnId,
    pub peer: ConnId,
    pub now: Instant,
    /// Bytes a second, headers not counted; 0: no bottleneck.
    pub rate: u64,
    /// There and back together.
    pub rtt: Duration,
    /// Segments that fit the router's queue.
    pub room: usize,
    /// Segments lost there for lack of room.
    pub dropped: u32,
    /// Lose the next segment with data.
    pub lose: bool,
    /// When each segment with data was sent, and its length.
    pub sent: Vec<(Instant, usize)>,
    forth: VecDeque<(Instant, Segment)>,
    back: VecDeque<(Instant, Segment)>,
    /// When the router has sent what it holds.
    busy: Instant,
    pub tso: usize,
    /// Acknowledgements arrive at multiples of this, if it is not zero.
    pub clumps: Duration,
    /// What the application has yet to give.
    pub left: usize,
    pub received: usize,
}

const CHUNK: usize = 64 << 10;

impl Bottleneck {
    /// A connection over a path of that round trip, without a bottleneck at first.
    pub fn new(config: Config, rtt: Duration) -> Bottleneck {
        let now = Instant::from_millis(5_000);
        const AMPLE: u32 = 8 << 20;
        let ample = Config {
            send_buffer: AMPLE,
            initial_send_buffer: AMPLE,
            recv_buffer: AMPLE,
            initial_recv_buffer: AMPLE,
            ..config
        };
        let mut engines = [1, 2].map(|n| Engine::new(ample.clone(), [n; 32], now));
        let listener = engines[1].listen("[::]:80".parse().unwrap(), 8).unwrap();
        let conn = engines[0].connect(tuple("10.0.0.1:4000", "10.0.0.2:80"), now).unwrap();
        let mut b = Bottleneck {
            engines,
            conn,
            peer: conn,
            now,
            rate: 0,
            rtt,
            room: usize::MAX,
            dropped: 0,
            lose: false,
            sent: Vec::new(),
            forth: VecDeque::new(),
            back: VecDeque::new(),
            busy: now,
            tso: 0,
            clumps: Duration::ZERO,
            left: 0,
            received: 0,
        };
        b.run(2 * rtt);
        b.peer = b.engines[1].accept(listener).expect("accepted");
        assert_eq!(b.engines[0].state(conn), State::Established);
        b
    }

    pub fn info(&self) -> Info {
        self.engines[0].info(self.conn, self.now).unwrap()
    }

    pub fn counters(&self) -> &Counters {
        self.engines[0].counters()
    }

    /// The router has lost what it holds.
    pub fn mend(&mut self) {
        self.busy = self.now;
    }

    /// The clock jumps.
    pub fn leap(&mut self, time: Duration) {
        self.now += time;
    }

    /// Segments that wait at the router.
    pub fn queue(&self) -> usize {
        let ahead = self.busy.saturating_since(self.now).as_nanos() as u64;
        (ahead * self.rate / 1_000_000_000 / 1_400) as usize
    }

    fn transmit(&mut self) {
        let out = drain_tso(&mut self.engines[0], self.now, self.tso);
        for segment in out {
            let len = segment.len();
            if len > 0 {
                self.sent.push((self.now, len));
                if std::mem::take(&mut self.lose) {
                    continue;
                }
                if self.rate > 0 && self.queue() >= self.room {
                    self.dropped += 1;
                    continue;
                }
            }
            if let Some(time) = (len as u64 * 1_000_000_000).checked_div(self.rate) {
                self.busy = self.busy.max(self.now) + Duration::from_nanos(time);
            }
            let at = self.busy.max(self.now) + self.rtt / 2;
            self.forth.push_back((at, segment.flipped()));
        }
        for segment in drain(&mut self.engines[1], self.now) {
            let mut at = self.now + self.rtt / 2;
            if !self.clumps.is_zero() {
                let clump = self.clumps.as_nanos() as u64;
                at = Instant::from_nanos(at.as_nanos().next_multiple_of(clump));
            }
            self.back.push_back((at, segment.flipped()));
        }
    }

    /// Lets the next thing happen, if there is one until `limit`.
    pub fn step(&mut self, limit: Instant) -> bool {
        while self.left > 0 && self.engines[0].send_capacity(self.conn) >= CHUNK {
            let len = self.left.min(CHUNK);
            self.left -= len;
            let chunk = Bytes::from(vec![7; len]);
            self.engines[0].send(self.conn, chunk, self.now).unwrap();
        }
        self.transmit();
        let arrivals = [self.forth.front(), self.back.front()];
        let next = arrivals.iter().flatten().map(|(at, _)| *at);
        let next = next.chain(self.engines.iter().filter_map(|e| e.poll_timeout())).min();
        let Some(next) = next.filter(|at| *at <= limit) else {
            self.now = self.now.max(limit);
            return false;
        };
        self.now = self.now.max(next);
        for (to, queue) in [(1, &mut self.forth), (0, &mut self.back)] {
            while queue.front().is_some_and(|(at, _)| *at <= self.now) {
                let (_, segment) = queue.pop_front().unwrap();
                self.engines[to].on_segment(&segment.header, &segment.payload, self.now);
            }
        }
        for engine in &mut self.engines {
            engine.on_timeout(self.now);
            engine.check_invariants();
            while engine.pop_event().is_some() {}
        }
        while let Ok(bytes) = self.engines[1].recv(self.peer, usize::MAX, self.now) {
            if bytes.is_empty() {
                break;
            }
            self.received += bytes.len();
        }
        self.transmit();
        true
    }

    pub fn run(&mut self, time: Duration) {
        let limit = self.now + time;
        while self.step(limit) {}
    }

    /// Runs until `done` or for `time`; returns whether `done`.
    pub fn until(&mut self, time: Duration, done: impl Fn(&Bottleneck) -> bool) -> bool {
        let limit = self.now + time;
        while !done(self) {
            if !self.step(limit) {
                return done(self);
            }
        }
        true
    }
}
