//! `memory:<link>`: two sides in one process, joined by rings.
//!
//! Queue `i` of one side sends to queue `i` of the other, as memif and vhost do: the
//! sender's queue decides the receiver's (with unequal numbers, the remainder does). With
//! [`Spread::Rss`] the link behaves like a NIC that hashes instead. Frames are handed over
//! without a copy, through one single-producer single-consumer ring for each pair of
//! queues that can meet; nothing locks, and a side driven by one thread is deterministic.
//!
//! Frames sent while the other side is not open (yet, or any more) are dropped and counted.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rtrb::{Consumer, Producer, RingBuffer};
use smoltcp::wire::EthernetAddress;
use throng_runtime::Instant;

use super::bell::Bell;
use super::offload::{self, ETHERNET_HEADER, MAX_SUPERFRAME, Segmenter};
use super::pool::Pool;
use super::{Capabilities, Counters, Device, Rss};
use crate::packet::{ChecksumStatus, Packet, RxMeta, TxMeta};
use crate::rss::{DEFAULT_RETA_SIZE, Reta, SYMMETRIC_KEY, Toeplitz, hash_frame};

mod registry;

pub use registry::open;

/// What a side of the link claims to do about checksums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksum {
    /// Nothing: the stack computes and verifies. The default, so that simulations
    /// exercise the software path.
    #[default]
    None,
    /// Frames sent get their checksums filled in.
    Fill,
    /// Frames sent with a TCP or UDP checksum left to the device keep it unfinished, and
    /// arrive with the verdict `Good`, since they never leave this machine.
    Trust,
}

/// What a side of the link claims to do about frames with `tso_segment` set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Segmentation {
    /// Nothing.
    #[default]
    None,
    /// They are cut into segments.
    Cut,
    /// They arrive whole, as after receive coalescing.
    Whole,
}

/// How frames find their queue on the other side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Spread {
    /// The sender's queue decides; nothing is claimed.
    #[default]
    SameQueue,
    /// By Toeplitz hash and redirection table, as claimed.
    Rss,
    /// Toeplitz is claimed, but the sender's queue decides: what a self-check must find out.
    FalseRss,
}

/// How one side of a link behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// Largest IP packet in bytes; 68 to 65535.
    pub mtu: usize,
    /// Frames a ring holds.
    pub ring: usize,
    /// Buffers of each queue's pool. A received frame occupies its sender's buffer until it
    /// is dropped.
    pub buffers: usize,
    /// Checksum offload.
    pub checksum: Checksum,
    /// Segmentation offload; needs checksum offload.
    pub segmentation: Segmentation,
    /// How this side *receives*.
    pub spread: Spread,
    /// RSS key for [`Spread::Rss`] and [`Spread::FalseRss`], at least 40 bytes.
    pub key: Vec<u8>,
    /// Whether received frames carry their hash where one is computed.
    pub report_hash: bool,
    /// Time each frame takes to arrive here, beside the time of sending it.
    pub latency: Duration,
    /// Rate at which each queue receives, in bits per second; `None`: no limit.
    pub rate: Option<u64>,
    /// The port's address; `None`: one derived from the link's name and the side.
    pub mac: Option<EthernetAddress>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            mtu: 1500,
            ring: 1024,
            buffers: 4096,
            checksum: Checksum::None,
            segmentation: Segmentation::None,
            spread: Spread::SameQueue,
            key: SYMMETRIC_KEY.to_vec(),
            report_hash: true,
            latency: Duration::ZERO,
            rate: None,
            mac: None,
        }
    }
}

/// A link of two sides with `queues` queues each (none counts as one).
pub fn pair(queues: usize, options: Options) -> (Vec<MemoryQueue>, Vec<MemoryQueue>) {
    pair_with((queues, options.clone()), (queues, options))
}

/// A link whose sides differ, each given by its number of queues and its options.
pub fn pair_with(a: (usize, Options), b: (usize, Options)) -> (Vec<MemoryQueue>, Vec<MemoryQueue>) {
    let (a, a_queues) = Side::new("memory:pair/a", a.0, a.1);
    let (b, b_queues) = Side::new("memory:pair/b", b.0, b.1);
    Side::join(&a, &b);
    (a_queues, b_queues)
}

/// One side of a link, seen from the outside: where its queues find their rings.
struct Side {
    slots: Vec<Arc<Slot>>,
    options: Options,
    hasher: Toeplitz,
    reta: Reta,
    /// Held by every queue; gone when the side is.
    alive: std::sync::Weak<()>,
}

/// How a queue that is already in use learns that the other side has opened.
struct Slot {
    ready: AtomicBool,
    rings: Mutex<Option<Box<Rings>>>,
    bell: Arc<Bell>,
}

/// A queue's ends of the rings.
struct Rings {
    /// One for each queue of the other side that this one sends to.
    out: Vec<Out>,
    /// One for each queue of the other side that sends here.
    incoming: Vec<Consumer<Packet>>,
    /// How the other side spreads, when it hashes.
    route: Option<(Toeplitz, Reta)>,
    /// The other side takes TSO frames whole.
    whole: bool,
}

struct Out {
    ring: Producer<Packet>,
    bell: Arc<Bell>,
    /// Frames were pushed since the bell was last rung.
    pushed: bool,
}

impl Side {
    fn new(name: &str, queues: usize, options: Options) -> (Side, Vec<MemoryQueue>) {
        let queues = queues.clamp(1, usize::from(u16::MAX));
        let hasher = Toeplitz::new(&options.key).unwrap_or_else(|_| Toeplitz::symmetric());
        let reta = Reta::even(queues as u16, DEFAULT_RETA_SIZE);
        let rss = match options.spread {
            Spread::SameQueue => Rss::None,
            Spread::Rss | Spread::FalseRss => {
                let (key, reta) = (hasher.key().to_vec(), reta.entries().to_vec());
                Rss::Toeplitz { key, reta, udp: true }
            }
        };
        let mac = options.mac.unwrap_or_else(|| super::local_mac(name));
        let alive = Arc::new(());
        let queues: Vec<MemoryQueue> = (0..queues)
            .map(|queue| {
                let name = format!("{name}#{queue}");
                MemoryQueue::new(name, mac, rss.clone(), &options, Arc::clone(&alive))
            })
            .collect();
        let slots = queues.iter().map(|queue| Arc::clone(&queue.slot)).collect();
        (Side { slots, options, hasher, reta, alive: Arc::downgrade(&alive) }, queues)
    }

    fn is_open(&self) -> bool {
        self.alive.strong_count() > 0
    }

    /// Makes the rings and puts them where the queues look for them.
    fn join(a: &Side, b: &Side) {
        let mut a_rings: Vec<Rings> = a.slots.iter().map(|_| Rings::towards(b)).collect();
        let mut b_rings: Vec<Rings> = b.slots.iter().map(|_| Rings::towards(a)).collect();
        Rings::connect(&mut a_rings, &mut b_rings, b);
        Rings::connect(&mut b_rings, &mut a_rings, a);
        for (side, rings) in [(a, a_rings), (b, b_rings)] {
            for (slot, rings) in side.slots.iter().zip(rings) {
                *slot.rings.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(rings));
                slot.ready.store(true, Ordering::Release);
                slot.bell.ring();
            }
        }
    }
}

impl Rings {
    fn towards(other: &Side) -> Rings {
        let hashes = other.options.spread == Spread::Rss;
        let route = hashes.then(|| (other.hasher.clone(), other.reta.clone()));
        Rings {
            out: Vec::new(),
            incoming: Vec::new(),
            route,
            whole: other.options.segmentation == Segmentation::Whole,
        }
    }

    fn connect(from: &mut [Rings], to: &mut [Rings], receiver: &Side) {
        let hashes = receiver.options.spread == Spread::Rss;
        for (i, sender) in from.iter_mut().enumerate() {
            let only = i % to.len();
            for (j, target) in to.iter_mut().enumerate() {
                if hashes || j == only {
                    let (ring, end) = RingBuffer::new(receiver.options.ring.max(1));
                    let bell = Arc::clone(&receiver.slots[j].bell);
                    sender.out.push(Out { ring, bell, pushed: false });
                    target.incoming.push(end);
                }
            }
        }
    }
}

/// One queue of one side: a [`Device`].
pub struct MemoryQueue {
    capabilities: Capabilities,
    checksum: Checksum,
    segmentation: Segmentation,
    report_hash: bool,
    pool: Pool,
    slot: Arc<Slot>,
    rings: Option<Box<Rings>>,
    /// Which incoming ring is served first: each gets its turn.
    turn: usize,
    link: Option<Link>,
    counters: Counters,
    _alive: Arc<()>,
}

/// Frames under way on a link that takes time. They are stamped when the receiver first
/// sees them, because the two sides' clocks need not have the same origin.
struct Link {
    latency: Duration,
    rate: Option<u64>,
    limit: usize,
    /// When the last frame has fully arrived.
    busy_until: Instant,
    under_way: VecDeque<(Instant, Packet)>,
}

impl Link {
    fn accept(&mut self, packet: Packet, now: Instant) {
        let bits = packet.len() as u64 * 8;
        let nanos = self.rate.map_or(0, |rate| bits.saturating_mul(1_000_000_000) / rate.max(1));
        self.busy_until = self.busy_until.max(now) + Duration::from_nanos(nanos);
        self.under_way.push_back((self.busy_until + self.latency, packet));
    }

    fn arrived(&mut self, now: Instant) -> Option<Packet> {
        let due = self.under_way.front().is_some_and(|(due, _)| *due <= now);
        if due { self.under_way.pop_front().map(|(_, packet)| packet) } else { None }
    }
}

impl MemoryQueue {
    fn new(
        name: String,
        mac: EthernetAddress,
        rss: Rss,
        options: &Options,
        alive: Arc<()>,
    ) -> MemoryQueue {
        let mtu = options.mtu.clamp(68, 65_535);
        let offload = options.checksum != Checksum::None;
        let tso = offload && options.segmentation != Segmentation::None;
        let capabilities = Capabilities {
            name,
            mac,
            mtu,
            max_frame: if options.segmentation == Segmentation::Whole {
                MAX_SUPERFRAME
            } else {
                mtu + ETHERNET_HEADER
            },
            rx_checksum: options.checksum == Checksum::Trust,
            tx_ip_checksum: offload,
            tx_tcp_checksum: offload,
            tx_udp_checksum: offload,
            // Both IP length fields hold the headers too; leave room for the largest.
            tso_max: if tso { 65_535 - 120 } else { 0 },
            rss,
        };
        let slow = options.latency > Duration::ZERO || options.rate.is_some();
        MemoryQueue {
            checksum: options.checksum,
            segmentation: options.segmentation,
            report_hash: options.report_hash,
            pool: Pool::new(options.buffers, (mtu + ETHERNET_HEADER).next_multiple_of(64)),
            slot: Arc::new(Slot {
                ready: AtomicBool::new(false),
                rings: Mutex::new(None),
                bell: Arc::new(Bell::new()),
            }),
            rings: None,
            turn: 0,
            link: slow.then(|| Link {
                latency: options.latency,
                rate: options.rate,
                limit: options.ring.max(1),
                busy_until: Instant::ZERO,
                under_way: VecDeque::new(),
            }),
            counters: Counters::default(),
            capabilities,
            _alive: alive,
        }
    }

    /// Takes the rings over once the other side has opened.
    fn attach(&mut self) {
        if self.rings.is_none() && self.slot.ready.load(Ordering::Acquire) {
            self.rings = self.slot.rings.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
    }

    /// Hands a frame up, or drops one that is too long for this side.
    fn deliver(&mut self, mut packet: Packet, frames: &mut Vec<Packet>) -> usize {
        if packet.len() > self.capabilities.max_frame {
            self.counters.rx_dropped += 1;
            return 0;
        }
        let offloaded = offload::wanted(&packet.tx);
        if offloaded && !self.capabilities.rx_checksum {
            // The sender trusted a link whose other side does not.
            offload::finish_received(packet.data_mut());
        }
        packet.rx = RxMeta {
            rss_hash: packet.rx.rss_hash.filter(|_| self.report_hash),
            checksum: if offloaded && self.capabilities.rx_checksum {
                ChecksumStatus::Good
            } else {
                ChecksumStatus::Unknown
            },
        };
        packet.tx = TxMeta::default();
        self.counters.rx_frames += 1;
        self.counters.rx_bytes += packet.len() as u64;
        frames.push(packet);
        1
    }

    /// Does what the frame asks for. `None`: the frame cannot be sent (counted).
    fn prepare(&mut self, mut packet: Packet) -> Option<Packet> {
        let limit = match packet.tx.tso_segment {
            0 => self.capabilities.mtu + ETHERNET_HEADER,
            _ => MAX_SUPERFRAME,
        };
        if packet.len() > limit || packet.len() < ETHERNET_HEADER {
            return None;
        }
        if packet.data().len() != packet.len() {
            packet = packet.try_clone().ok()?;
        }
        packet.rx = RxMeta::default();
        let tx = packet.tx;
        if !offload::wanted(&tx) {
            return Some(packet);
        }
        if self.checksum == Checksum::Trust {
            let ready = if tx.tso_segment > 0 {
                offload::prepare_superframe(packet.data_mut(), &tx)
            } else {
                // The IP header's checksum is no work, and then it is right everywhere.
                let ip_only = TxMeta { tcp_checksum: false, udp_checksum: false, ..tx };
                offload::fill_checksums(packet.data_mut(), &ip_only)
            };
            return ready.then_some(packet);
        }
        let ready = if tx.tso_segment > 0 {
            let ready = offload::prepare_superframe(packet.data_mut(), &tx);
            offload::finish_received(packet.data_mut());
            ready
        } else {
            offload::fill_checksums(packet.data_mut(), &tx)
        };
        packet.tx = TxMeta::default();
        ready.then_some(packet)
    }
}

impl Rings {
    /// The index in `out` for a frame, and its hash if one decides. Frames without a hash
    /// go to the first queue, as on a NIC.
    fn route(&self, frame: &[u8]) -> (usize, Option<u32>) {
        match &self.route {
            None => (0, None),
            Some((hasher, reta)) => match hash_frame(hasher, frame) {
                Some(hash) => (usize::from(reta.queue(hash)), Some(hash)),
                None => (0, None),
            },
        }
    }

    fn ring_bells(&mut self) {
        for out in &mut self.out {
            if std::mem::take(&mut out.pushed) {
                out.bell.ring();
            }
        }
    }
}

impl Device for MemoryQueue {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn receive(&mut self, frames: &mut Vec<Packet>, max: usize, now: Instant) -> usize {
        self.attach();
        let Some(mut rings) = self.rings.take() else { return 0 };
        let mut received = 0;
        let count = rings.incoming.len();
        for step in 0..count {
            let ring = &mut rings.incoming[(self.turn + step) % count];
            if let Some(link) = &mut self.link {
                while link.under_way.len() < link.limit
                    && let Ok(packet) = ring.pop()
                {
                    link.accept(packet, now);
                }
            } else {
                while received < max
                    && let Ok(packet) = ring.pop()
                {
                    received += self.deliver(packet, frames);
                }
            }
        }
        self.turn = self.turn.wrapping_add(1) % count.max(1);
        self.rings = Some(rings);
        while received < max
            && let Some(packet) = self.link.as_mut().and_then(|link| link.arrived(now))
        {
            received += self.deliver(packet, frames);
        }
        received
    }

    fn allocate(&mut self, len: usize) -> Option<Packet> {
        let buffer = self.pool.take(len);
        self.counters.no_buffer += u64::from(buffer.is_none());
        buffer.map(Packet::from)
    }

    fn transmit(&mut self, frames: &mut VecDeque<Packet>, _now: Instant) -> usize {
        self.attach();
        let mut taken = 0;
        let Some(mut rings) = self.rings.take() else {
            taken = frames.len();
            self.counters.tx_dropped += taken as u64;
            frames.clear();
            return taken;
        };
        while let Some(front) = frames.front() {
            let (index, hash) = rings.route(front.data());
            let Some(out) = rings.out.get_mut(index) else { break };
            let whole = rings.whole && self.segmentation == Segmentation::Whole;
            let cut = front.tx.tso_segment > 0 && !whole;
            // Of the first piece only: the number of segments needs the length, not the bytes.
            let needed = match usize::from(front.tx.tso_segment) {
                segment if cut => front.len().div_ceil(segment),
                _ => 1,
            };
            // A frame that would never fit is tried against an empty ring.
            let needed = needed.min(out.ring.buffer().capacity());
            let gone = out.ring.is_abandoned();
            if !gone && out.ring.slots() < needed {
                self.counters.tx_full += 1;
                break;
            }
            let Some(packet) = frames.pop_front() else { break };
            taken += 1;
            if gone {
                self.counters.tx_dropped += 1;
                continue;
            }
            if cut {
                self.send_segments(packet, hash, out);
                continue;
            }
            match self.prepare(packet) {
                Some(packet) => self.push(packet, hash, out),
                None => self.counters.tx_dropped += 1,
            }
        }
        rings.ring_bells();
        self.rings = Some(rings);
        taken
    }

    fn next_deadline(&self) -> Option<Instant> {
        let (due, _) = self.link.as_ref()?.under_way.front()?;
        Some(*due)
    }

    fn interrupt_fd(&self) -> Option<BorrowedFd<'_>> {
        self.slot.bell.fd()
    }

    fn arm(&mut self) -> bool {
        self.slot.bell.arm();
        // Looked at after arming: what comes later rings.
        let joined = self.rings.is_none() && self.slot.ready.load(Ordering::Acquire);
        let waiting = |rings: &Rings| rings.incoming.iter().any(|ring| !ring.is_empty());
        // A full link leaves frames in the ring; those wait for its deadline.
        let full = self.link.as_ref().is_some_and(|link| link.under_way.len() >= link.limit);
        if joined || (!full && self.rings.as_deref().is_some_and(waiting)) {
            self.slot.bell.unarm();
            return false;
        }
        true
    }

    fn disarm(&mut self) {
        self.slot.bell.disarm();
    }

    fn counters(&self) -> Counters {
        self.counters
    }
}

impl MemoryQueue {
    fn push(&mut self, mut packet: Packet, hash: Option<u32>, out: &mut Out) {
        packet.rx.rss_hash = hash;
        let bytes = packet.len() as u64;
        if out.ring.push(packet).is_ok() {
            out.pushed = true;
            self.counters.tx_frames += 1;
            self.counters.tx_bytes += bytes;
        } else {
            self.counters.tx_dropped += 1;
        }
    }

    fn send_segments(&mut self, mut packet: Packet, hash: Option<u32>, out: &mut Out) {
        if packet.data().len() != packet.len() {
            match packet.try_clone() {
                Ok(whole) => packet = whole,
                Err(_) => {
                    self.counters.tx_dropped += 1;
                    return;
                }
            }
        }
        let limit = self.capabilities.mtu + ETHERNET_HEADER;
        let segmenter = Segmenter::new(packet.data(), &packet.tx);
        let Some(segmenter) = segmenter.filter(|segmenter| segmenter.longest() <= limit) else {
            self.counters.tx_dropped += 1;
            return;
        };
        for index in 0..segmenter.count() {
            let buffer = self.pool.take(segmenter.longest()).map(Packet::from);
            let segment = buffer.or_else(|| Packet::heap(segmenter.longest()).ok());
            let segment = segment.and_then(|segment| segmenter.write(index, segment));
            match segment {
                Some(segment) => self.push(segment, hash, out),
                None => self.counters.tx_dropped += 1,
            }
        }
    }
}
