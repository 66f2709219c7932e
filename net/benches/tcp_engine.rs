//! The TCP engine alone: time per echoed segment and memory per connection.
//!
//! `cargo bench -p throng-net --bench tcp_engine -- [CONNECTIONS...]` (default 1,000 and
//! 1,000,000; `TCP_ENGINE_BURSTS` bursts a round, default 20,000). Random connections, 64-byte payload, timestamps on, bursts of 32 through the
//! three stages; the segments are made outside the measured time.

use std::hint::black_box;
use std::time::{Duration, Instant as Wall};

use bytes::Bytes;
use throng_net::tcp::*;
use throng_runtime::Instant;

const BURST: usize = 32;
const PAYLOAD: usize = 64;

/// The peer's side of a connection, as far as it is needed to write its segments.
#[derive(Clone, Copy)]
struct Peer {
    seq: u32,
    ack: u32,
}

fn tuple(i: usize) -> FourTuple {
    let remote = Addr::from(std::net::IpAddr::from([10, 1 + (i >> 22) as u8, (i >> 14) as u8, 1]));
    let local = Addr::from(std::net::IpAddr::from([10, 0, 0, 1]));
    let remote_port = 1024 + (i & 0x3fff) as u16;
    FourTuple { local, remote, local_port: 80, remote_port }
}

fn header(i: usize, peer: Peer, flags: Flags) -> Header {
    let options = Options { timestamps: Some((1, 0)), ..Options::default() };
    Header {
        tuple: tuple(i),
        seq: SeqNum(peer.seq),
        ack: SeqNum(peer.ack),
        flags,
        window: 1000,
        urgent: 0,
        ecn: 0,
        options,
    }
}

/// Takes headers, as a stack would write them into packets.
struct Sink(Vec<Header>);

impl Egress for Sink {
    fn send(&mut self, h: &Header, p: &Payload<'_>, _: u16, _: &mut u32) -> Result<(), Full> {
        p.iter().for_each(|slice| {
            black_box(slice[0]);
        });
        self.0.push(*h);
        Ok(())
    }
    fn max_payload(&self) -> usize {
        0
    }
}

fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4096
}

fn run(connections: usize, rounds: usize) {
    let mut peers = vec![Peer { seq: 1, ack: 0 }; connections];
    let mut sink = Sink(Vec::with_capacity(4096));
    let before = resident();
    let mut now = Instant::from_millis(1000);
    // At 1,000,000 connections a peer comes round every 200 ms or so, and this one never
    // acknowledges but with its next message: the timeout must not mistake that for a loss.
    let rto_min = Duration::from_secs(100);
    let config = Config { max_connections: 1 << 22, nodelay: true, rto_min, ..Config::default() };
    let mut engine = Engine::new(config, [7; 32], now);
    let listener = engine.listen("[::]:80".parse().expect("an address"), 1024).expect("free");
    let mut ids = Vec::with_capacity(connections);

    let begin = Wall::now();
    let start = begin;
    for (i, peer) in peers.iter_mut().enumerate() {
        let mut syn = header(i, Peer { seq: 0, ack: 0 }, Flags::SYN);
        syn.options.mss = Some(1460);
        syn.options.window_scale = Some(7);
        syn.options.sack_permitted = true;
        engine.on_segment(&syn, &[], now);
        sink.0.clear();
        engine.poll_transmit(now, &mut sink);
        peer.ack = sink.0[0].seq.0.wrapping_add(1);
        engine.on_segment(&header(i, *peer, Flags::ACK), &[], now);
        ids.push(engine.accept(listener).expect("a connection"));
        engine.poll_transmit(now, &mut sink);
    }
    while engine.pop_event().is_some() {}
    let setup = start.elapsed();
    let memory = resident().saturating_sub(before);
    let usage = engine.usage();
    println!(
        "{connections:>9} connections: {:.0} ns to open each, {} B of tables and {} B resident each",
        setup.as_nanos() as f64 / connections as f64,
        usage.tables / connections,
        (memory.saturating_sub(connections * size_of::<ConnId>())) / connections,
    );

    let payload = [0x55u8; PAYLOAD];
    let mut random = 88_172_645_463_325_252u64;
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let mut samples = Vec::new();
    let bursts = std::env::var("TCP_ENGINE_BURSTS").ok().and_then(|n| n.parse().ok());
    let bursts: usize = bursts.unwrap_or(20_000);
    let mut burst = Vec::with_capacity(BURST);
    let mut lookups = Vec::with_capacity(BURST);
    let mut chosen = [0usize; BURST];
    let mut warm = 0;
    for round in 0..rounds {
        let mut spent = Duration::ZERO;
        // The first round goes over all connections once and is not counted.
        let bursts = if round == 0 { connections.div_ceil(BURST) } else { bursts };
        for _ in 0..bursts {
            burst.clear();
            for slot in &mut chosen {
                *slot = (next() % connections as u64) as usize;
                if round == 0 {
                    *slot = warm % connections;
                    warm += 1;
                }
            }
            // A connection has one message in flight, so at most one segment of a burst.
            chosen.sort_unstable();
            let mut last = usize::MAX;
            for &i in &chosen {
                if i != last {
                    burst.push((i, header(i, peers[i], Flags::ACK | Flags::PSH)));
                }
                last = i;
            }
            now = Instant::from_nanos(1_000_000_000 + begin.elapsed().as_nanos() as u64);
            sink.0.clear();
            for swap in (1..burst.len()).rev() {
                burst.swap(swap, (next() % (swap as u64 + 1)) as usize);
            }

            let start = Wall::now();
            engine.on_timeout(now);
            lookups.clear();
            for (_, header) in &burst {
                lookups.push(engine.prefetch(&header.tuple));
            }
            for lookup in &mut lookups {
                engine.locate(lookup);
            }
            for lookup in &lookups {
                engine.warm(lookup);
            }
            for lookup in &lookups {
                engine.warm_payload(lookup);
            }
            for ((_, header), lookup) in burst.iter().zip(&lookups) {
                engine.on_segment_at(lookup, header, &payload, now);
            }
            while let Some(event) = engine.pop_event() {
                if let Event::Readable(id) = event {
                    let bytes: Bytes = engine.recv(id, 65536, now).expect("data");
                    engine.send(id, bytes, now).expect("room");
                }
            }
            engine.poll_transmit(now, &mut sink);
            spent += start.elapsed();

            assert_eq!(sink.0.len(), burst.len(), "{:?}", engine.counters());
            for (i, header) in &burst {
                let peer = &mut peers[*i];
                peer.seq = header.seq.0.wrapping_add(PAYLOAD as u32);
                peer.ack = peer.ack.wrapping_add(PAYLOAD as u32);
            }
        }
        if round > 0 {
            samples.push(spent.as_nanos() as f64 / (bursts * BURST) as f64);
        }
    }
    samples.sort_by(f64::total_cmp);
    println!(
        "{connections:>9} connections: {:.1} ns per echoed segment (median of {}; {:.1} to {:.1}); predicted {:.1} %",
        samples[samples.len() / 2],
        samples.len(),
        samples[0],
        samples[samples.len() - 1],
        100.0 * engine.counters().predicted as f64 / engine.counters().segments_in as f64,
    );
    black_box(ids);
}

fn main() {
    let sizes: Vec<usize> = std::env::args().filter_map(|arg| arg.parse().ok()).collect();
    let sizes = if sizes.is_empty() { vec![1_000, 1_000_000] } else { sizes };
    for connections in sizes {
        run(connections, if connections >= 100_000 { 12 } else { 7 });
    }
}
