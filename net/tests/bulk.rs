//! Bulk transfer through the whole stack over a bad link, in virtual time, seed by seed:
//! every byte arrives once and in order, both ways, and both ends close.
//!
//! A failing seed prints itself; `BULK_SEED=<n>` runs that one alone and writes what its
//! client saw to `bulk-<n>.pcapng` in the temporary directory.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use futures::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use throng_net::device::faults::{self, Faults, Impairments};
use throng_net::device::memory::{self, Options};
use throng_net::device::{Device, pcap};
use throng_net::sim::{HostConfig, add_host};
use throng_net::{TcpListener, TcpStream, stats};
use throng_runtime::sim::World;
use throng_runtime::{Instant, ShardId};

const SEEDS: u64 = 200;
/// Bytes each way: some hundreds of segments, so that one in a hundred is several.
const LEN: u32 = 400_000;
const LIMIT: Instant = Instant::from_millis(600_000);

/// The byte at `offset` of the stream that `seed` sends: not periodic in any segment size.
fn byte(seed: u64, offset: u32) -> u8 {
    let mixed = (u64::from(offset) ^ seed << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 56) as u8
}

async fn send(mut stream: WriteHalf<TcpStream>, seed: u64) {
    let mut offset = 0;
    while offset < LEN {
        // Pieces of many sizes, from a byte to several segments.
        let len = (1 + u32::from(byte(seed, offset)) * 37).min(LEN - offset);
        let piece: Vec<u8> = (offset..offset + len).map(|at| byte(seed, at)).collect();
        stream.write_all(&piece).await.unwrap();
        offset += len;
    }
    stream.close().await.unwrap();
}

async fn receive(mut stream: ReadHalf<TcpStream>, seed: u64) {
    let mut offset = 0;
    let mut buffer = vec![0; 16_384];
    loop {
        let len = stream.read(&mut buffer).await.unwrap();
        if len == 0 {
            break;
        }
        for received in &buffer[..len] {
            assert_eq!(*received, byte(seed, offset), "seed {seed}: byte {offset}");
            offset += 1;
        }
    }
    assert_eq!(offset, LEN, "seed {seed}");
}

async fn both(stream: TcpStream, sends: u64, receives: u64) {
    let (reader, writer) = stream.split();
    futures::future::join(send(writer, sends), receive(reader, receives)).await;
}

fn run(seed: u64, capture: bool) -> Instant {
    let options = Options { latency: Duration::from_millis(1 + seed % 10), ..Options::default() };
    let (client, server) = memory::pair(1, options);
    let boxed = |queues: Vec<memory::MemoryQueue>| -> Vec<Box<dyn Device>> {
        queues.into_iter().map(|queue| Box::new(queue) as Box<dyn Device>).collect()
    };
    let impairments = Impairments {
        loss: 0.01,
        duplicate: 0.01,
        reorder: 0.02,
        reorder_by: Duration::from_millis(1 + seed % 7),
        ..Impairments::default()
    };
    let mut client = faults::wrap(boxed(client), &Faults::both(seed, impairments));
    if capture {
        let path = std::env::temp_dir().join(format!("bulk-{seed}.pcapng"));
        println!("capture in {}", path.display());
        client = pcap::Capture::create(&path, pcap::Options::default()).unwrap().wrap(client);
    }
    let mut world = World::new();
    let client = add_host(&mut world, client, &HostConfig::new(&["10.0.0.2/24"], seed));
    let server = add_host(&mut world, boxed(server), &HostConfig::new(&["10.0.0.1/24"], !seed));
    let done = Rc::new(Cell::new(0));
    let counted = done.clone();
    world.spawn(server, ShardId(0), async move {
        let listener = TcpListener::bind("0.0.0.0:80".parse().unwrap()).unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        both(stream, seed, !seed).await;
        counted.set(counted.get() + 1);
    });
    let counted = done.clone();
    world.spawn(client, ShardId(0), async move {
        let stream = TcpStream::connect("10.0.0.1:80").await.unwrap();
        both(stream, !seed, seed).await;
        counted.set(counted.get() + 1);
    });
    assert!(world.run_until(LIMIT, || done.get() == 2), "seed {seed}: not done in {LIMIT:?}");
    let took = world.now();
    // Both ends have closed: nothing but TIME_WAIT may be left, and that ends too.
    world.run_until(took + Duration::from_secs(300), || false);
    for host in [client, server] {
        let usage = world.enter(host, ShardId(0), stats::current).unwrap().usage;
        assert_eq!(usage.connections + usage.half_open + usage.time_wait, 0, "seed {seed}");
        assert_eq!((usage.send_memory, usage.recv_memory), (0, 0), "seed {seed}");
    }
    took
}

#[test]
fn every_byte_arrives_once_and_in_order() {
    if let Ok(seed) = std::env::var("BULK_SEED") {
        println!("took {:?}", run(seed.parse().expect("a number"), true));
        return;
    }
    let mut slowest = (Instant::ZERO, 0);
    for seed in 0..SEEDS {
        slowest = slowest.max((run(seed, false), seed));
    }
    println!("{SEEDS} seeds; the slowest, {}, took {:?} of virtual time", slowest.1, slowest.0);
}
