//! A wrapper that makes any device worse: loss, bursts of loss, duplication, reordering,
//! corruption, delay, a narrow link. One seed decides everything; time is the caller's.
//!
//! The wrapper hides segmentation offload, so that faults hit single segments, and checksum
//! offload where it corrupts, so that corruption can be found out.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::os::fd::BorrowedFd;
use std::time::Duration;

use throng_runtime::Instant;

use super::offload::{self, Transport};
use super::{Capabilities, Counters, Device};
use crate::packet::{ChecksumStatus, Packet, TxMeta};

/// What happens to the frames of one direction. Probabilities are per frame, 0 to 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Impairments {
    /// Probability of being lost.
    pub loss: f64,
    /// Probability that a burst of loss begins with this frame.
    pub burst: f64,
    /// Mean length of such a burst in frames, at least 1.
    pub burst_length: f64,
    /// Probability of arriving twice.
    pub duplicate: f64,
    /// Probability of being held back while others pass.
    pub reorder: f64,
    /// How long such a frame is held back at most; the time is drawn evenly.
    pub reorder_by: Duration,
    /// Probability of one bit flipped behind the Ethernet header. A frame without a checksum
    /// of its own (ARP, a fragment) is lost instead, as the link's check would see to.
    pub corrupt: f64,
    /// Time under way.
    pub delay: Duration,
    /// Added to it, drawn evenly from zero to this; reorders where it exceeds the gap.
    pub jitter: Duration,
    /// Width of the link in bits per second; `None`: no limit.
    pub rate: Option<u64>,
    /// Frames under way at most; more are lost (a tail-drop queue).
    pub queue: usize,
    /// Bytes of frames that may wait for the link's width; a frame that finds as many waiting
    /// is lost. Nothing waits without a `rate`.
    pub queue_bytes: u64,
}

impl Default for Impairments {
    /// No faults; the values that only shape a fault at 8 frames, 1 ms, 1000 frames, any number
    /// of bytes.
    fn default() -> Impairments {
        Impairments {
            loss: 0.0,
            burst: 0.0,
            burst_length: 8.0,
            duplicate: 0.0,
            reorder: 0.0,
            reorder_by: Duration::from_millis(1),
            corrupt: 0.0,
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            rate: None,
            queue: 1000,
            queue_bytes: u64::MAX,
        }
    }
}

impl Impairments {
    /// Whether any frame can be touched.
    pub fn any(&self) -> bool {
        let chances = [self.loss, self.burst, self.duplicate, self.reorder, self.corrupt];
        chances.iter().any(|&chance| chance > 0.0)
            || self.delay > Duration::ZERO
            || self.jitter > Duration::ZERO
            || self.rate.is_some()
    }
}

/// The faults of a port.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Faults {
    /// Decides all draws, together with the queue's number and the direction.
    pub seed: u64,
    /// Frames on their way out.
    pub send: Impairments,
    /// Frames on their way in.
    pub receive: Impairments,
}

impl Faults {
    /// The same faults in both directions.
    pub fn both(seed: u64, impairments: Impairments) -> Faults {
        Faults { seed, send: impairments.clone(), receive: impairments }
    }
}

/// What the wrapper did to one queue's frames, both directions together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultCounters {
    /// Lost, in bursts or not, also for being corrupted without a checksum.
    pub lost: u64,
    /// Sent twice.
    pub duplicated: u64,
    /// Held back.
    pub reordered: u64,
    /// One bit flipped.
    pub corrupted: u64,
    /// Lost because the queue of the link was full.
    pub overflowed: u64,
}

/// Wraps every queue of a port.
pub fn wrap(queues: Vec<Box<dyn Device>>, faults: &Faults) -> Vec<Box<dyn Device>> {
    let wrap = |(number, queue)| Box::new(FaultyQueue::new(queue, number, faults)) as _;
    queues.into_iter().enumerate().map(wrap).collect()
}

/// A queue with faults: a [`Device`].
pub struct FaultyQueue {
    inner: Box<dyn Device>,
    capabilities: Capabilities,
    /// Its place in the port, for the lanes' seeds.
    number: usize,
    send: Option<Lane>,
    receive: Option<Lane>,
    /// Frames that are due and that the inner device has no room for.
    outbox: VecDeque<Packet>,
    arrived: Vec<Packet>,
    /// The latest time seen.
    now: Instant,
    rx_frames: u64,
    rx_bytes: u64,
    tx_full: u64,
}

/// How soon a full inner device is tried again.
const RETRY: Duration = Duration::from_micros(100);

impl FaultyQueue {
    /// Wraps one queue; `number` is its place in the port and part of the seed.
    pub fn new(inner: Box<dyn Device>, number: usize, faults: &Faults) -> FaultyQueue {
        let mut capabilities = inner.capabilities().clone();
        capabilities.name.push_str("+faults");
        if faults.send.any() {
            capabilities.tso_max = 0;
        }
        if faults.send.corrupt > 0.0 {
            capabilities.tx_ip_checksum = false;
            capabilities.tx_tcp_checksum = false;
            capabilities.tx_udp_checksum = false;
        }
        capabilities.rx_checksum &= faults.receive.corrupt <= 0.0;
        let mut queue = FaultyQueue {
            capabilities,
            number,
            send: None,
            receive: None,
            inner,
            outbox: VecDeque::new(),
            arrived: Vec::new(),
            now: Instant::ZERO,
            rx_frames: 0,
            rx_bytes: 0,
            tx_full: 0,
        };
        queue.set(faults);
        queue
    }

    /// Other faults from here on; what is under way stays under way. The capabilities are a
    /// constant: a queue that shall ever corrupt, or touch what it sends, has to be made with
    /// such faults, which hide the offloads in question.
    pub fn set(&mut self, faults: &Faults) {
        let lanes = [(&mut self.send, &faults.send, 0), (&mut self.receive, &faults.receive, 1)];
        for (lane, impairments, direction) in lanes {
            match lane {
                Some(lane) => {
                    lane.impairments = impairments.clone();
                    lane.in_burst &= impairments.burst > 0.0;
                }
                None if impairments.any() => {
                    let place = self.number as u64 * 2 + direction;
                    let seed = Rng::mix(faults.seed ^ Rng::mix(place));
                    *lane = Some(Lane::new(impairments.clone(), seed));
                }
                None => {}
            }
        }
    }

    /// What has been done to frames so far.
    pub fn fault_counters(&self) -> FaultCounters {
        let mut sum = FaultCounters::default();
        for lane in [&self.send, &self.receive].into_iter().flatten() {
            sum.lost += lane.counters.lost;
            sum.duplicated += lane.counters.duplicated;
            sum.reordered += lane.counters.reordered;
            sum.corrupted += lane.counters.corrupted;
            sum.overflowed += lane.counters.overflowed;
        }
        sum
    }

    /// Passes on what is due to be sent.
    fn flush(&mut self) {
        if let Some(lane) = &mut self.send {
            while let Some(packet) = lane.due(self.now) {
                self.outbox.push_back(packet);
            }
            if !self.outbox.is_empty() {
                self.inner.transmit(&mut self.outbox, self.now);
            }
        }
    }
}

impl Device for FaultyQueue {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn receive(&mut self, frames: &mut Vec<Packet>, max: usize, now: Instant) -> usize {
        self.now = self.now.max(now);
        // Receiving is what every turn does, so what is due goes out here too.
        self.flush();
        let before = frames.len();
        if let Some(lane) = &mut self.receive {
            self.inner.receive(&mut self.arrived, max, now);
            for packet in self.arrived.drain(..) {
                lane.offer(packet, now);
            }
            while frames.len() - before < max
                && let Some(packet) = lane.due(now)
            {
                frames.push(packet);
            }
        } else {
            self.inner.receive(frames, max, now);
        }
        let received = &frames[before..];
        self.rx_frames += received.len() as u64;
        self.rx_bytes += received.iter().map(|packet| packet.len() as u64).sum::<u64>();
        received.len()
    }

    fn allocate(&mut self, len: usize) -> Option<Packet> {
        self.inner.allocate(len)
    }

    fn transmit(&mut self, frames: &mut VecDeque<Packet>, now: Instant) -> usize {
        self.now = self.now.max(now);
        let Some(lane) = &mut self.send else { return self.inner.transmit(frames, now) };
        let mut taken = 0;
        if self.outbox.is_empty() {
            taken = frames.len();
            for packet in frames.drain(..) {
                lane.offer(packet, now);
            }
        } else {
            self.tx_full += u64::from(!frames.is_empty());
        }
        self.flush();
        taken
    }

    fn next_deadline(&self) -> Option<Instant> {
        let lanes = [&self.send, &self.receive].into_iter().flatten();
        let retry = (!self.outbox.is_empty()).then(|| self.now + RETRY);
        let own = lanes.filter_map(Lane::next).chain(retry);
        own.chain(self.inner.next_deadline()).min()
    }

    fn interrupt_fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.interrupt_fd()
    }

    fn arm(&mut self) -> bool {
        self.inner.arm()
    }

    fn disarm(&mut self) {
        self.inner.disarm();
    }

    fn port_counters(&self) -> Vec<(String, u64)> {
        self.inner.port_counters()
    }

    fn counters(&self) -> Counters {
        let inner = self.inner.counters();
        let lost = |lane: &Option<Lane>| {
            lane.as_ref().map_or(0, |lane| lane.counters.lost + lane.counters.overflowed)
        };
        Counters {
            rx_frames: self.rx_frames,
            rx_bytes: self.rx_bytes,
            rx_dropped: inner.rx_dropped + lost(&self.receive),
            tx_dropped: inner.tx_dropped + lost(&self.send),
            tx_full: inner.tx_full + self.tx_full,
            ..inner
        }
    }
}

/// One direction of one queue.
struct Lane {
    impairments: Impairments,
    rng: Rng,
    /// Within a burst of loss.
    in_burst: bool,
    /// When the link has sent what it was given.
    busy_until: Instant,
    under_way: BinaryHeap<Reverse<UnderWay>>,
    /// Order of arrival, which decides between frames due at the same time.
    sequence: u64,
    counters: FaultCounters,
}

struct UnderWay {
    due: Instant,
    sequence: u64,
    packet: Packet,
}

impl Ord for UnderWay {
    fn cmp(&self, other: &UnderWay) -> std::cmp::Ordering {
        (self.due, self.sequence).cmp(&(other.due, other.sequence))
    }
}

impl PartialOrd for UnderWay {
    fn partial_cmp(&self, other: &UnderWay) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for UnderWay {
    fn eq(&self, other: &UnderWay) -> bool {
        self.sequence == other.sequence
    }
}

impl Eq for UnderWay {}

impl Lane {
    fn new(impairments: Impairments, seed: u64) -> Lane {
        Lane {
            impairments,
            rng: Rng(seed),
            in_burst: false,
            busy_until: Instant::ZERO,
            under_way: BinaryHeap::new(),
            sequence: 0,
            counters: FaultCounters::default(),
        }
    }

    /// A frame enters the link at `now`.
    fn offer(&mut self, mut packet: Packet, now: Instant) {
        let Impairments { loss, burst, burst_length, duplicate, corrupt, .. } = self.impairments;
        self.in_burst = if self.in_burst {
            !self.rng.chance(1.0 / burst_length.max(1.0))
        } else {
            self.rng.chance(burst)
        };
        if self.rng.chance(loss) || self.in_burst {
            self.counters.lost += 1;
            return;
        }
        if self.rng.chance(corrupt) {
            match self.corrupted(packet) {
                Some(corrupted) => packet = corrupted,
                None => {
                    self.counters.lost += 1;
                    return;
                }
            }
        }
        if self.rng.chance(duplicate)
            && let Ok(twin) = packet.try_clone()
        {
            self.counters.duplicated += 1;
            self.enter(twin, now);
        }
        self.enter(packet, now);
    }

    fn enter(&mut self, packet: Packet, now: Instant) {
        let Impairments { reorder, reorder_by, delay, jitter, rate, queue, queue_bytes, .. } =
            self.impairments;
        let behind = self.busy_until.saturating_since(now).as_nanos();
        let waiting = rate.map_or(0, |rate| behind * u128::from(rate) / 8_000_000_000);
        if self.under_way.len() >= queue.max(1) || waiting >= u128::from(queue_bytes) {
            self.counters.overflowed += 1;
            return;
        }
        let bits = packet.len() as u64 * 8;
        let nanos = rate.map_or(0, |rate| bits.saturating_mul(1_000_000_000) / rate.max(1));
        self.busy_until = self.busy_until.max(now) + Duration::from_nanos(nanos);
        let mut due = self.busy_until + delay + self.rng.up_to(jitter);
        if self.rng.chance(reorder) {
            self.counters.reordered += 1;
            due += self.rng.up_to(reorder_by);
        }
        self.sequence += 1;
        let sequence = self.sequence;
        self.under_way.push(Reverse(UnderWay { due, sequence, packet }));
    }

    /// One bit of the packet flipped. `None`: it has no checksum that would tell.
    fn corrupted(&mut self, mut packet: Packet) -> Option<Packet> {
        if packet.data().len() != packet.len() {
            packet = packet.try_clone().ok()?;
        }
        let tx = packet.tx;
        let frame = packet.data_mut();
        if offload::wanted(&tx) {
            offload::fill_checksums(frame, &tx);
        }
        let transport = Transport::find(frame)?;
        if packet.rx.checksum == ChecksumStatus::Good {
            offload::finish_received(packet.data_mut());
        }
        packet.tx = TxMeta::default();
        packet.rx.checksum = ChecksumStatus::Unknown;
        let frame = packet.data_mut();
        if !transport.checksum_holds(frame) {
            return None;
        }
        // An IPv6 header is covered from its addresses on (by the pseudo header).
        let from = if transport.ipv6 { transport.l3 + 8 } else { transport.l3 };
        let bits = (transport.end - from) as u64 * 8;
        let bit = self.rng.below(bits);
        frame[from + (bit / 8) as usize] ^= 1 << (bit % 8);
        self.counters.corrupted += 1;
        Some(packet)
    }

    fn due(&mut self, now: Instant) -> Option<Packet> {
        let ready = self.next().is_some_and(|due| due <= now);
        if ready { self.under_way.pop().map(|Reverse(next)| next.packet) } else { None }
    }

    fn next(&self) -> Option<Instant> {
        self.under_way.peek().map(|Reverse(next)| next.due)
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): small, and good enough to throw dice.
struct Rng(u64);

impl Rng {
    fn mix(x: u64) -> u64 {
        let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    }

    fn next(&mut self) -> u64 {
        let value = Rng::mix(self.0);
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        value
    }

    /// True with this probability. Always draws, so that one fault's probability does not
    /// change when the others strike.
    fn chance(&mut self, probability: f64) -> bool {
        let draw = (self.next() >> 11) as f64 / (1u64 << 53) as f64;
        draw < probability
    }

    /// Even over `0..limit`; zero for zero.
    fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(limit)) >> 64) as u64
    }

    fn up_to(&mut self, limit: Duration) -> Duration {
        Duration::from_nanos(self.below(u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX)))
    }
}
