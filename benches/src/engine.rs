//! The TCP engine alone, fed with segments made by hand.

use std::hint::black_box;
use std::net::IpAddr;

use bytes::Bytes;
use throng::net::tcp::{
    Addr, Config, ConnId, Egress, Engine, Event, Flags, FourTuple, Full, Header, Options, Payload,
    SeqNum,
};
use throng::runtime::{Instant, prefetch_read};

/// Segments that go through the stages together, as a burst from a device does.
pub const BURST: usize = 32;

/// Segments of one connection in a row.
pub const ROW: usize = 16;

/// Established connections and their peers.
pub struct Bed {
    /// The engine under test.
    pub engine: Engine,
    peers: Vec<Peer>,
    ids: Vec<ConnId>,
    now: Instant,
    sink: Sink,
    /// The application's.
    buffer: Box<[u8; 4_096]>,
}

/// The peer's side of a connection, as far as writing its segments takes.
#[derive(Clone, Copy)]
struct Peer {
    seq: u32,
    ack: u32,
}

/// Takes segments as a stack would: looks at all of a header, and keeps its sequence number.
#[derive(Default)]
struct Sink(Vec<SeqNum>);

impl Egress for Sink {
    fn send(
        &mut self,
        header: &Header,
        data: &Payload<'_>,
        _: u16,
        _: &mut u32,
    ) -> Result<(), Full> {
        data.iter().for_each(|slice| {
            black_box(slice[0]);
        });
        black_box(header);
        self.0.push(header.seq);
        Ok(())
    }

    fn max_payload(&self) -> usize {
        0
    }
}

impl Bed {
    /// `connections` of them, all accepted.
    ///
    /// # Panics
    /// When the engine does not open them: nothing could be measured then.
    pub fn new(connections: usize) -> Bed {
        let now = Instant::from_millis(1_000);
        let config = Config { nodelay: true, ..Config::default() };
        let mut bed = Bed {
            engine: Engine::new(config, [7; 32], now),
            peers: vec![Peer { seq: 1, ack: 0 }; connections],
            ids: Vec::new(),
            now,
            sink: Sink::default(),
            buffer: Box::new([0; 4_096]),
        };
        let any = "[::]:80".parse().expect("an address");
        let listener = bed.engine.listen(any, connections).expect("a free port");
        for i in 0..connections {
            let mut syn = header(i, Peer { seq: 0, ack: 0 }, Flags::SYN);
            syn.options.mss = Some(1460);
            syn.options.window_scale = Some(7);
            syn.options.sack_permitted = true;
            bed.engine.on_segment(&syn, &[], now);
            bed.engine.poll_transmit(now, &mut bed.sink);
            let answer = bed.sink.0.pop().expect("a SYN-ACK");
            bed.peers[i].ack = answer.0.wrapping_add(1);
            bed.engine.on_segment(&header(i, bed.peers[i], Flags::ACK), &[], now);
            bed.ids.push(bed.engine.accept(listener).expect("an established connection"));
        }
        while bed.engine.pop_event().is_some() {}
        bed
    }

    /// One segment of `payload` for each of the first [`BURST`] connections; the application
    /// reads it and, if `echo`, sends it back.
    ///
    /// # Panics
    /// When an echo does not come out.
    pub fn burst(&mut self, payload: &[u8], echo: bool) {
        self.burst_of(|i| i, 10_000, payload, echo);
    }

    /// The same for [`BURST`] different connections that lie anywhere, of which there are more. With
    /// `at_once` the peers acknowledge the echoes then, not with what they send next.
    ///
    /// # Panics
    /// As for [`burst`](Bed::burst).
    pub fn scattered_burst(&mut self, random: u64, payload: &[u8], at_once: bool) {
        let all = self.peers.len();
        let first = ((u128::from(random) * all as u128) >> 64) as usize;
        // A prime, so that no two meet. And little time goes by, so that no timer is due before a
        // connection's next turn.
        let pick = |i| (first + i * 104_729) % all;
        self.burst_of(pick, 100, payload, true);
        if at_once {
            self.acknowledge(pick);
        }
    }

    /// A segment without data of each of these.
    fn acknowledge(&mut self, pick: impl Fn(usize) -> usize) {
        let now = self.now;
        let headers: [Header; BURST] =
            std::array::from_fn(|i| header(pick(i), self.peers[pick(i)], Flags::ACK));
        let mut lookups: [_; BURST] =
            std::array::from_fn(|i| self.engine.prefetch(&headers[i].tuple));
        for lookup in &mut lookups {
            self.engine.locate(lookup);
        }
        lookups.iter().for_each(|lookup| self.engine.warm(lookup));
        lookups.iter().for_each(|lookup| self.engine.warm_payload(lookup));
        for (lookup, header) in lookups.iter().zip(&headers) {
            self.engine.on_segment_at(lookup, header, &[], now);
        }
        while self.engine.pop_event().is_some() {}
        self.engine.poll_transmit(now, &mut self.sink);
    }

    #[inline(always)]
    fn burst_of(&mut self, pick: impl Fn(usize) -> usize, nanos: u64, payload: &[u8], echo: bool) {
        self.now = Instant::from_nanos(self.now.as_nanos() + nanos);
        let now = self.now;
        let count = BURST.min(self.peers.len());
        // A device has its segments ready: what they are made of here is not the engine's to wait for.
        let picks: [usize; BURST] = std::array::from_fn(|i| pick(i % count));
        picks.iter().for_each(|at| prefetch_read(&self.peers[*at]));
        let headers: [Header; BURST] =
            picks.map(|at| header(at, self.peers[at], Flags::ACK | Flags::PSH));
        let (engine, buffer) = (&mut self.engine, &mut *self.buffer);
        engine.on_timeout(now);
        let mut lookups: [_; BURST] = std::array::from_fn(|i| engine.prefetch(&headers[i].tuple));
        for lookup in &mut lookups {
            engine.locate(lookup);
        }
        lookups.iter().for_each(|lookup| engine.warm(lookup));
        lookups.iter().for_each(|lookup| engine.warm_payload(lookup));
        for i in 0..count {
            engine.on_segment_at(&lookups[i], &headers[i], payload, now);
        }
        while let Some(event) = engine.pop_event() {
            let Event::Readable(id) = event else { continue };
            if echo {
                // As a stream's reads and writes do, by way of the reader's buffer.
                let max = buffer.len();
                let take = |bytes: &[u8]| buffer[..bytes.len()].copy_from_slice(bytes);
                let len = engine.recv_with(id, max, now, take);
                let message = &buffer[..len.expect("what was just received")];
                if !engine.send_small(id, message, now) {
                    let message = Bytes::copy_from_slice(message);
                    engine.send(id, message, now).expect("room to send");
                }
            } else {
                black_box(engine.recv(id, 65_536, now).expect("what was just received"));
            }
        }
        self.sink.0.clear();
        engine.poll_transmit(now, &mut self.sink);
        assert!(!echo || self.sink.0.len() == count, "{} of {count} echoes", self.sink.0.len());
        for at in &picks[..count] {
            let peer = &mut self.peers[*at];
            peer.seq = peer.seq.wrapping_add(payload.len() as u32);
            peer.ack = peer.ack.wrapping_add(if echo { payload.len() as u32 } else { 0 });
        }
    }

    /// [`ROW`] segments of `payload` for one connection, one after the other or merged into one
    /// run as the stack does; the application reads all of it.
    pub fn row(&mut self, payload: &[u8], merged: bool) {
        self.now = Instant::from_nanos(self.now.as_nanos() + 10_000);
        let (now, engine, peer) = (self.now, &mut self.engine, &mut self.peers[0]);
        engine.on_timeout(now);
        let first = header(0, *peer, Flags::ACK);
        if merged {
            let mut lookup = engine.prefetch(&first.tuple);
            engine.locate(&mut lookup);
            engine.warm(&lookup);
            engine.on_run_at(&lookup, &first, &[payload; ROW], now);
        } else {
            let mut lookups: [_; ROW] = std::array::from_fn(|_| engine.prefetch(&first.tuple));
            for lookup in &mut lookups {
                engine.locate(lookup);
            }
            lookups.iter().for_each(|lookup| engine.warm(lookup));
            let mut one = first;
            for lookup in &lookups {
                engine.on_segment_at(lookup, &one, payload, now);
                one.seq += payload.len() as u32;
            }
        }
        while let Some(event) = engine.pop_event() {
            let Event::Readable(id) = event else { continue };
            while let Ok(bytes) = engine.recv(id, 65_536, now) {
                black_box(bytes);
            }
        }
        self.sink.0.clear();
        engine.poll_transmit(now, &mut self.sink);
        peer.seq = peer.seq.wrapping_add((ROW * payload.len()) as u32);
    }
}

fn header(i: usize, peer: Peer, flags: Flags) -> Header {
    let remote = Addr::from(IpAddr::from([10, 1, (i >> 14) as u8, 1]));
    let local = Addr::from(IpAddr::from([10, 0, 0, 1]));
    let remote_port = 1_024 + (i & 0x3fff) as u16;
    Header {
        tuple: FourTuple { local, remote, local_port: 80, remote_port },
        seq: SeqNum(peer.seq),
        ack: SeqNum(peer.ack),
        flags,
        window: 1_000,
        urgent: 0,
        ecn: 0,
        options: Options { timestamps: Some((1, 0)), ..Options::default() },
    }
}
