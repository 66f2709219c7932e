//! Segmentation offload at the link: what a device cuts out of long frames is, frame by frame and
//! byte by byte, what the stack sends where no device offers to cut. All but one field of what
//! arrives is compared: with DF set an IPv4 identification may be anything (RFC 6864 4.1), and
//! devices count it up.
//!
//! A failing seed prints itself.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use throng_net::device::memory::{self, Checksum, MemoryQueue, Options, Segmentation};
use throng_net::device::{Capabilities, Counters, Device};
use throng_net::packet::Packet;
use throng_net::sim::{HostConfig, add_host};
use throng_net::tcp::Ecn;
use throng_net::{TcpListener, TcpStream, stats};
use throng_runtime::sim::World;
use throng_runtime::{Instant, ShardId};

const SEEDS: u64 = 30;

struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// What came over a link, and when.
type Seen = Arc<Mutex<Vec<(Instant, Vec<u8>)>>>;

/// A device that notes what it receives, and marks every so manieth frame that allows it.
struct Eye {
    inner: MemoryQueue,
    seen: Seen,
    marks: usize,
}

impl Device for Eye {
    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }

    fn receive(&mut self, frames: &mut Vec<Packet>, max: usize, now: Instant) -> usize {
        let before = frames.len();
        let count = self.inner.receive(frames, max, now);
        let mut seen = self.seen.lock().unwrap();
        for packet in &mut frames[before..] {
            seen.push((now, packet.data().to_vec()));
            if self.marks > 0 && seen.len().is_multiple_of(self.marks) {
                mark(packet.data_mut());
            }
        }
        count
    }

    fn allocate(&mut self, len: usize) -> Option<Packet> {
        self.inner.allocate(len)
    }

    fn transmit(&mut self, frames: &mut VecDeque<Packet>, now: Instant) -> usize {
        self.inner.transmit(frames, now)
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.inner.next_deadline()
    }

    fn counters(&self) -> Counters {
        self.inner.counters()
    }
}

/// Congestion experienced, where the sender is capable of hearing of it (RFC 3168 5).
fn mark(frame: &mut [u8]) {
    match frame[12..14] {
        [0x08, 0] if frame[15] & 3 == 2 => {
            frame[15] |= 3;
            set_ipv4_checksum(frame);
        }
        [0x86, 0xdd] if frame[15] >> 4 & 3 == 2 => frame[15] |= 0x30,
        _ => {}
    }
}

fn set_ipv4_checksum(frame: &mut [u8]) {
    frame[24..26].copy_from_slice(&[0, 0]);
    let sum: u32 =
        frame[14..34].chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = !((folded & 0xffff) + (folded >> 16)) as u16;
    frame[24..26].copy_from_slice(&folded.to_be_bytes());
}

/// The frame but for its identification. The header's checksum must be right with it.
fn like(mut frame: Vec<u8>) -> Vec<u8> {
    if frame[12..14] == [0x08, 0] {
        let before = frame.clone();
        set_ipv4_checksum(&mut frame);
        assert_eq!(frame, before, "the checksum of an IPv4 header");
        assert_eq!(frame[20], 0x40, "not to be cut");
        frame[18..20].copy_from_slice(&[0, 0]);
        set_ipv4_checksum(&mut frame);
    }
    frame
}

/// Sends what `seed` has to send; returns what arrived, and how many frames the sender made.
fn run(seed: u64, segmentation: Segmentation) -> (Vec<(Instant, Vec<u8>)>, u64) {
    let mut rng = Rng(seed);
    let checksum = if segmentation == Segmentation::None { Checksum::None } else { Checksum::Fill };
    let mtu = [576, 1_280, 1_500, 4_000][rng.below(4) as usize];
    let options = Options {
        mtu,
        ring: 8_192,
        buffers: 32_768,
        latency: Duration::from_micros(200 + rng.below(5_000)),
        checksum,
        segmentation,
        ..Options::default()
    };
    let (client, server) = memory::pair(1, options);
    let seen = Seen::default();
    let marks = if rng.below(2) == 0 { 0 } else { 5 + rng.below(60) as usize };
    let ipv6 = mtu >= 1_280 && rng.below(2) == 0;
    let mut config = |addresses: &[&str], salt| {
        let mut config = HostConfig::new(addresses, seed * 2 + salt);
        config.tcp.ecn = [Ecn::On, Ecn::Passive][rng.below(2) as usize];
        config.tcp.nodelay = rng.below(2) == 0;
        config
    };
    let (here, there) =
        (config(&["10.0.0.2/24", "fd00::2/64"], 0), config(&["10.0.0.1/24", "fd00::1/64"], 1));
    let mut world = World::new();
    let client = client.into_iter().map(|queue| Box::new(queue) as Box<dyn Device>).collect();
    let eye = |inner| Box::new(Eye { inner, seen: seen.clone(), marks }) as Box<dyn Device>;
    let server = server.into_iter().map(eye).collect();
    let client = add_host(&mut world, client, &here);
    let server = add_host(&mut world, server, &there);
    let (arrived, sent) = (Rc::new(Cell::new(None)), Rc::new(Cell::new(0)));
    let all = arrived.clone();
    world.spawn(server, ShardId(0), async move {
        let any = if ipv6 { "[::]:80" } else { "0.0.0.0:80" };
        let listener = TcpListener::bind(any.parse().unwrap()).unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut total = 0;
        loop {
            let chunk = stream.read_chunk(1 << 20).await.unwrap();
            if chunk.is_empty() {
                break;
            }
            total += chunk.len();
        }
        all.set(Some(total));
    });
    let count = sent.clone();
    world.spawn(client, ShardId(0), async move {
        let to = if ipv6 { "[fd00::1]:80" } else { "10.0.0.1:80" };
        let mut stream = TcpStream::connect(to).await.unwrap();
        for piece in 0..20 + rng.below(40) {
            let most = [50, 3_000, 20_000, 200_000][rng.below(4) as usize];
            let len = 1 + rng.below(most) as usize;
            let data: Vec<u8> = (0..len).map(|at| (at as u64 * 7 + piece + seed) as u8).collect();
            stream.write_chunk(data.into()).await.unwrap();
            count.set(count.get() + len);
            if rng.below(3) == 0 {
                throng_runtime::sleep(Duration::from_micros(rng.below(40_000))).await;
            }
        }
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let _ = stream.read_chunk(1).await;
    });
    let done = world.run_until(Instant::from_millis(600_000), || arrived.get().is_some());
    assert!(done, "seed {seed}: not done");
    assert_eq!(arrived.get(), Some(sent.get()), "seed {seed}");
    let made = world.enter(client, ShardId(0), stats::current).unwrap().stack.tx_segments;
    let received = world.enter(server, ShardId(0), stats::current).unwrap().stack;
    assert_eq!((received.rx_bad_checksum, received.rx_malformed), (0, 0), "seed {seed}");
    let seen = std::mem::take(&mut *seen.lock().unwrap());
    (seen.into_iter().map(|(at, frame)| (at, like(frame))).collect(), made)
}

#[test]
fn what_a_device_cuts_is_what_is_sent_without() {
    let (mut cut, mut marked) = (0, 0);
    for seed in 0..SEEDS {
        let (expected, plain) = run(seed, Segmentation::None);
        let (found, made) = run(seed, Segmentation::Cut);
        for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert_eq!(found, expected, "seed {seed}: frame {i}");
        }
        assert_eq!(found.len(), expected.len(), "seed {seed}");
        assert!(made <= plain, "seed {seed}");
        cut += plain - made;
        // CWR: the flags are the 14th byte of the TCP header.
        let flags = |frame: &[u8]| frame[if frame[12] == 8 { 34 + 13 } else { 54 + 13 }];
        let ip = found.iter().filter(|(_, frame)| frame.len() > 68 && frame[13] != 6);
        marked += ip.filter(|(_, frame)| flags(frame) & 0x80 != 0).count();
    }
    assert!(cut > 5_000 && marked > 30, "{cut} {marked}");
}
