//! Prediction changes nothing: the same traffic, with it and without, has every segment sent,
//! every byte read, every event and every figure of both ends the same, step by step.

use std::hash::{DefaultHasher, Hasher};
use std::time::Duration;

use bytes::Bytes;
use throng_runtime::Instant;

use crate::tcp::*;

/// SplitMix64.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// Once in so many times.
    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// Takes segments, at most `room` in a turn.
struct Wire {
    sent: Vec<(Header, Vec<u8>)>,
    room: usize,
}

impl Egress for Wire {
    fn send(&mut self, h: &Header, p: &Payload<'_>, gso: u16, _: &mut u32) -> Result<(), Full> {
        assert_eq!(gso, 0, "none was offered");
        if self.sent.len() >= self.room {
            return Err(Full);
        }
        self.sent.push((*h, p.to_vec()));
        Ok(())
    }

    fn max_payload(&self) -> usize {
        0
    }
}

/// What stands for bytes in a trace.
fn sum(bytes: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    format!("{} bytes, {:x}", bytes.len(), hasher.finish())
}

/// What goes wrong on the way, each once in so many segments.
struct Faults {
    lose: u64,
    repeat: u64,
    delay: u64,
    mark: u64,
}

/// A segment that arrives at one end at a time.
struct Flying {
    at: Instant,
    to: usize,
    header: Header,
    payload: Vec<u8>,
}

/// Two ends with one connection, and all that was seen of them.
struct Pair {
    ends: [Engine; 2],
    ids: [Option<ConnId>; 2],
    flying: Vec<Flying>,
    trace: Vec<String>,
    now: Instant,
}

const ADDR: [&str; 2] = ["10.0.0.1:1000", "10.0.0.2:80"];

fn config(rng: &mut Rng) -> Config {
    let buffer = 1 << (11 + rng.below(8));
    Config {
        nodelay: rng.one_in(2),
        recv_buffer: buffer,
        initial_recv_buffer: buffer / (1 + rng.below(4) as u32),
        send_buffer: 1 << (11 + rng.below(8)),
        recv_memory: if rng.one_in(4) { 6_000 } else { 1 << 30 },
        mss_v4: [536, 1_460, 9_000][rng.below(3) as usize],
        delayed_ack: Duration::from_millis(rng.below(60)),
        pacing: rng.one_in(2),
        ecn: if rng.one_in(2) { Ecn::On } else { Ecn::Off },
        congestion: if rng.one_in(3) {
            CongestionControl::NewReno
        } else {
            CongestionControl::Cubic
        },
        ..Config::default()
    }
}

impl Pair {
    fn new(rng: &mut Rng, off: bool) -> Pair {
        let now = Instant::from_millis(1_000 + rng.below(1 << 33));
        let mut ends =
            [Engine::new(config(rng), [1; 32], now), Engine::new(config(rng), [2; 32], now)];
        ends.iter_mut().for_each(|end| end.core.prediction_off = off);
        Pair { ends, ids: [None; 2], flying: Vec::new(), trace: Vec::new(), now }
    }

    /// Both ends send what they have to send.
    fn transmit(&mut self, rng: &mut Rng, faults: &Faults, strip: (bool, bool, bool)) {
        for (from, engine) in self.ends.iter_mut().enumerate() {
            let room = if rng.one_in(20) { rng.below(3) as usize } else { 64 };
            let mut wire = Wire { sent: Vec::new(), room };
            engine.poll_transmit(self.now, &mut wire);
            for (mut header, payload) in wire.sent {
                self.trace.push(format!("{from} sends {header:?} {}", sum(&payload)));
                let (sack, timestamps, scale) = strip;
                if header.flags.contains(Flags::SYN) {
                    header.options.sack_permitted &= !sack;
                    header.options.window_scale = header.options.window_scale.filter(|_| !scale);
                    header.options.timestamps = header.options.timestamps.filter(|_| !timestamps);
                }
                if header.ecn == 2 && rng.one_in(faults.mark) {
                    header.ecn = 3;
                }
                let copies = 1 + usize::from(rng.one_in(faults.repeat));
                for _ in 0..copies {
                    if rng.one_in(faults.lose) {
                        continue;
                    }
                    let late = if rng.one_in(faults.delay) { rng.below(30_000) } else { 0 };
                    let at = self.now + Duration::from_micros(500 + late);
                    let (header, payload) = (header.flipped(), payload.clone());
                    self.flying.push(Flying { at, to: 1 - from, header, payload });
                }
            }
        }
    }

    /// The clock goes on, and what has come by then goes in.
    fn arrive(&mut self, micros: u64) {
        self.now += Duration::from_micros(micros);
        let mut i = 0;
        while i < self.flying.len() {
            if self.flying[i].at > self.now {
                i += 1;
                continue;
            }
            let Flying { to, header, payload, .. } = self.flying.remove(i);
            self.ends[to].on_segment(&header, &payload, self.now);
        }
    }

    /// Applications read and write, and all there is to see is noted.
    fn look(&mut self, rng: &mut Rng, listener: ListenerId, writes: bool) {
        for (at, engine) in self.ends.iter_mut().enumerate() {
            engine.on_timeout(self.now);
            while let Some(event) = engine.pop_event() {
                self.trace.push(format!("{at} {event:?}"));
            }
            if at == 1 && self.ids[1].is_none() {
                self.ids[1] = engine.accept(listener);
            }
            let Some(id) = self.ids[at] else { continue };
            if !rng.one_in(3) {
                for _ in 0..rng.below(4) {
                    let most = if rng.one_in(3) { 1 + rng.below(200) } else { 1 << 16 };
                    let read = if rng.one_in(2) {
                        engine.recv(id, most as usize, self.now).map(|bytes| sum(&bytes))
                    } else {
                        let mut seen = None;
                        let take = |bytes: &[u8]| seen = Some(sum(bytes));
                        let len = engine.recv_with(id, most as usize, self.now, take);
                        len.map(|_| seen.expect("what was read"))
                    };
                    self.trace.push(format!("{at} reads {read:?}"));
                }
            }
            if writes && rng.one_in(2) {
                let len = if rng.one_in(3) { rng.below(20_000) } else { rng.below(200) };
                let first = rng.below(256);
                let bytes: Vec<u8> = (first..first + len).map(|n| n as u8).collect();
                let small = rng.one_in(2) && engine.send_small(id, &bytes, self.now);
                let taken = small || engine.send(id, Bytes::from(bytes), self.now).is_ok();
                self.trace.push(format!("{at} writes {len}: {taken}"));
            }
            if !writes && rng.one_in(8) {
                engine.shutdown_write(id, self.now);
            }
            let mut info = engine.info(id, self.now);
            if let Some(info) = &mut info {
                // Whose turn to send is to come keeps its box until then.
                info.owns_buffers &= info.send_queue + info.recv_queue > 0;
            }
            self.trace.push(format!("{at} {info:?}"));
            engine.check_invariants();
        }
    }
}

/// Everything seen of a run, and how many segments were predicted.
fn run(seed: u64, off: bool) -> (Vec<String>, u64) {
    let mut rng = Rng(seed);
    let mut pair = Pair::new(&mut rng, off);
    let rare = |rng: &mut Rng| [u64::MAX, 200, 30, 8][rng.below(4) as usize];
    let faults = Faults {
        lose: rare(&mut rng),
        repeat: rare(&mut rng),
        delay: rare(&mut rng),
        mark: rare(&mut rng),
    };
    let strip = (rng.one_in(4), rng.one_in(4), rng.one_in(4));
    let [here, there] = ADDR.map(|addr| addr.parse().expect("an address"));
    let listener = pair.ends[1].listen(there, 1).expect("a free port");
    pair.ids[0] = pair.ends[0].connect(FourTuple::new(here, there), pair.now).ok();
    for step in 0..400 {
        pair.transmit(&mut rng, &faults, strip);
        let micros = if rng.one_in(10) { rng.below(400_000) } else { rng.below(2_000) };
        pair.arrive(micros);
        pair.look(&mut rng, listener, step < 300);
    }
    let counters: Vec<Counters> = pair.ends.iter().map(|end| end.counters().clone()).collect();
    let predicted = counters.iter().map(|all| all.predicted).sum();
    for all in counters {
        pair.trace.push(format!("{:?}", Counters { predicted: 0, ..all }));
    }
    (pair.trace, predicted)
}

#[test]
fn it_changes_nothing() {
    let mut total = 0;
    for seed in 0..60 {
        let ((with, predicted), (without, none)) = (run(seed, false), run(seed, true));
        assert_eq!(none, 0, "turned off");
        total += predicted;
        if let Some(at) = (0..with.len()).find(|at| with.get(*at) != without.get(*at)) {
            panic!("seed {seed}, entry {at}:\n{}\nwithout:\n{:?}", with[at], without.get(at));
        }
        assert_eq!(with.len(), without.len(), "seed {seed}");
    }
    assert!(total > 4_000, "only {total} segments were predicted");
}
