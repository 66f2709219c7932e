//! The whole stack over every kind of link the memory device can be: offloads, hashing,
//! unequal numbers of shards, faults. Whatever a device claims, the bytes arrive.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use futures::future::join;
use futures::{AsyncReadExt, AsyncWriteExt};
use throng_net::device::faults::{self, Faults, Impairments};
use throng_net::device::memory::{self, Checksum, Options, Segmentation, Spread};
use throng_net::device::{Device, pcap};
use throng_net::sim::{HostConfig, add_host};
use throng_net::{TcpListener, TcpStream};
use throng_runtime::sim::World;
use throng_runtime::{ShardId, spawn_local};

const LENGTH: usize = 150_000;
const CONNECTIONS: usize = 6;

fn boxed(queues: Vec<memory::MemoryQueue>) -> Vec<Box<dyn Device>> {
    queues.into_iter().map(|queue| Box::new(queue) as Box<dyn Device>).collect()
}

async fn echo() {
    let listener = TcpListener::bind("[::]:7".parse().unwrap()).unwrap();
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        spawn_local(async move {
            while let Ok(chunk) = stream.read_chunk(1 << 16).await {
                if chunk.is_empty() || stream.write_chunk(chunk).await.is_err() {
                    break;
                }
            }
        });
    }
}

async fn bytes_come_back(server: SocketAddr, salt: usize) {
    let stream = TcpStream::connect(server).await.unwrap();
    let sent: Vec<u8> = (0..LENGTH).map(|i| ((i + salt) * 31 % 251) as u8).collect();
    let (mut reader, mut writer) = stream.split();
    let mut received = Vec::new();
    let send = async {
        writer.write_all(&sent).await.unwrap();
        writer.close().await.unwrap();
    };
    let (_, result) = join(send, reader.read_to_end(&mut received)).await;
    result.unwrap();
    assert!(sent == received, "{} of {LENGTH} bytes", received.len());
}

/// Clients on every shard of one host, echo servers on every shard of the other, over both
/// families.
fn transfer(client: (usize, Options), server: (usize, Options), faults: Option<Faults>) {
    let (client_shards, server_shards) = (client.0, server.0);
    let (client, server) = memory::pair_with(client, server);
    let mut client = boxed(client);
    if let Some(faults) = &faults {
        client = faults::wrap(client, faults);
    }
    // Capturing must change nothing either.
    let capture = pcap::Options { clock: pcap::Clock::Virtual, ..pcap::Options::default() };
    let capture = pcap::Capture::write_to(Box::new(std::io::sink()), capture).unwrap();
    let client = capture.wrap(client);
    let mut world = World::new();
    let config = HostConfig::new(&["10.0.0.2/24", "fd00::2/64"], 1);
    let client = add_host(&mut world, client, &config);
    let config = HostConfig::new(&["10.0.0.1/24", "fd00::1/64"], 2);
    let server = add_host(&mut world, boxed(server), &config);
    for shard in 0..server_shards {
        world.spawn(server, ShardId(shard as u16), echo());
    }
    let done = Rc::new(Cell::new(0));
    for n in 0..CONNECTIONS {
        let address = if n % 2 == 0 { "10.0.0.1:7" } else { "[fd00::1]:7" }.parse().unwrap();
        let done = Rc::clone(&done);
        world.spawn(client, ShardId((n % client_shards) as u16), async move {
            bytes_come_back(address, n).await;
            done.set(done.get() + 1);
        });
    }
    let limit = world.now() + Duration::from_secs(600);
    let ended = world.run_until(limit, || done.get() == CONNECTIONS);
    assert!(ended, "{} of {CONNECTIONS} transfers ended", done.get());
}

fn equal(shards: usize, options: Options) {
    transfer((shards, options.clone()), (shards, options), None);
}

#[test]
fn no_offload() {
    equal(1, Options::default());
    equal(3, Options::default());
}

#[test]
fn checksums_filled_in_and_packets_cut() {
    let (checksum, segmentation) = (Checksum::Fill, Segmentation::Cut);
    equal(2, Options { checksum, segmentation, ..Options::default() });
}

#[test]
fn checksums_trusted_and_packets_whole() {
    let (checksum, segmentation) = (Checksum::Trust, Segmentation::Whole);
    equal(2, Options { checksum, segmentation, ..Options::default() });
}

#[test]
fn one_side_offloads_and_the_other_does_not() {
    let offload = Options {
        checksum: Checksum::Trust,
        segmentation: Segmentation::Whole,
        ..Options::default()
    };
    transfer((2, offload.clone()), (2, Options::default()), None);
    transfer((2, Options::default()), (2, offload), None);
}

#[test]
fn a_link_that_hashes_truly_or_falsely() {
    for spread in [Spread::Rss, Spread::FalseRss] {
        for report_hash in [true, false] {
            equal(3, Options { spread, report_hash, ..Options::default() });
        }
    }
    let key = (0..52).map(|i| (i * 37 + 11) as u8).collect();
    equal(3, Options { spread: Spread::Rss, key, ..Options::default() });
}

#[test]
fn unequal_numbers_of_shards() {
    for spread in [Spread::SameQueue, Spread::Rss] {
        let options = Options { spread, ..Options::default() };
        transfer((1, options.clone()), (3, options.clone()), None);
        transfer((3, options.clone()), (2, options), None);
    }
}

#[test]
fn small_and_large_packets() {
    equal(1, Options { mtu: 1280, ..Options::default() });
    equal(1, Options { mtu: 9000, ..Options::default() });
}

#[test]
fn few_buffers_and_small_rings() {
    equal(2, Options { ring: 8, buffers: 16, ..Options::default() });
}

#[test]
fn a_slow_and_long_link() {
    let latency = Duration::from_millis(20);
    equal(1, Options { latency, rate: Some(50_000_000), ring: 64, ..Options::default() });
}

#[test]
fn faults_of_every_kind() {
    let shape = Impairments {
        loss: 0.01,
        burst: 0.001,
        burst_length: 4.0,
        duplicate: 0.01,
        reorder: 0.02,
        corrupt: 0.01,
        delay: Duration::from_millis(2),
        jitter: Duration::from_micros(50),
        ..Impairments::default()
    };
    for seed in 0..10 {
        let faults = Faults::both(seed, shape.clone());
        transfer((2, Options::default()), (2, Options::default()), Some(faults));
        let trust = Options { checksum: Checksum::Trust, ..Options::default() };
        let faults = Faults::both(seed, shape.clone());
        transfer((2, trust.clone()), (2, trust), Some(faults));
    }
}
