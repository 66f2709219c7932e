//! A device with something between it and the wire: frames of others' on their way out, and a
//! router whose next link is narrow.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use throng_net::device::memory::MemoryQueue;
use throng_net::device::{Capabilities, Counters, Device};
use throng_net::packet::Packet;
use throng_runtime::Instant;

/// What the hop does to frames, shared with the test.
#[derive(Default)]
pub(crate) struct Hop {
    /// Frames to send beside the host's own.
    pub(crate) injected: VecDeque<Packet>,
    /// The largest IP packet it lets through; 0: any.
    pub(crate) mtu: usize,
    /// Whether it says so when a packet is too long.
    pub(crate) speaks: bool,
    /// Whether the MTU is in what it says over IPv4 (routers older than RFC 1191).
    pub(crate) names_mtu: bool,
    /// Packets that were too long.
    pub(crate) dropped: usize,
    /// The longest IP packets that went through lately, out and in.
    pub(crate) longest: [usize; 2],
    /// What it has to say to the host on this side.
    inwards: Vec<Packet>,
}

impl Hop {
    /// Takes a look at a packet under way. Whether it passes, and what the router says if not.
    fn pass(&mut self, frame: &[u8], direction: usize) -> (bool, Option<Packet>) {
        let len = frame.len() - 14;
        let is_ip = matches!(frame[12..14], [8, 0] | [0x86, 0xdd]);
        if self.mtu == 0 || !is_ip || len <= self.mtu {
            self.longest[direction] = self.longest[direction].max(len);
            return (true, None);
        }
        if frame[14] >> 4 == 4 {
            assert_ne!(frame[20] & 0x40, 0, "a segment says that it is not to be cut");
        }
        self.dropped += 1;
        let mtu = if self.names_mtu { self.mtu as u16 } else { 0 };
        (false, self.speaks.then(|| Packet::from(too_big(frame, mtu))))
    }
}

fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let sum: u32 = words.map(|w| u32::from(w[0]) << 8 | u32::from(*w.get(1).unwrap_or(&0))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    (!(folded as u16).wrapping_add((folded >> 16) as u16)).to_be_bytes()
}

/// What a router answers to `frame` (RFC 1191 4, RFC 4443 3.2).
pub(crate) fn too_big(frame: &[u8], mtu: u16) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(&frame[6..12]);
    out.extend_from_slice(&[2, 7, 7, 7, 7, 7]);
    out.extend_from_slice(&frame[12..14]);
    let [high, low] = mtu.to_be_bytes();
    if frame[14] >> 4 == 4 {
        let mut icmp = vec![3, 4, 0, 0, 0, 0, high, low];
        icmp.extend_from_slice(&frame[14..14 + 28]);
        let sum = checksum(&[&icmp]);
        icmp[2..4].copy_from_slice(&sum);
        let mut ip = vec![0x45, 0, 0, 20 + icmp.len() as u8, 0, 0, 0, 0, 64, 1, 0, 0];
        ip.extend_from_slice(&[10, 0, 0, 254]);
        ip.extend_from_slice(&frame[26..30]);
        let sum = checksum(&[&ip]);
        ip[10..12].copy_from_slice(&sum);
        out.extend_from_slice(&ip);
        out.extend_from_slice(&icmp);
    } else {
        let mut icmp = vec![2, 0, 0, 0, 0, 0, high, low];
        icmp.extend_from_slice(&frame[14..14 + 60]);
        let mut ip = vec![0x60, 0, 0, 0, 0, icmp.len() as u8, 58, 64];
        ip.extend_from_slice(&[0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 254]);
        ip.extend_from_slice(&frame[22..38]);
        let sum = checksum(&[&ip[8..], &[0, 0, 0, icmp.len() as u8, 0, 0, 0, 58], &icmp]);
        icmp[2..4].copy_from_slice(&sum);
        out.extend_from_slice(&ip);
        out.extend_from_slice(&icmp);
    }
    out
}

/// The device of a host behind a [`Hop`].
pub(crate) struct Behind {
    inner: MemoryQueue,
    hop: Arc<Mutex<Hop>>,
}

impl Behind {
    pub(crate) fn new(inner: MemoryQueue) -> (Behind, Arc<Mutex<Hop>>) {
        let hop = Hop { names_mtu: true, ..Hop::default() };
        let hop = Arc::new(Mutex::new(hop));
        (Behind { inner, hop: hop.clone() }, hop)
    }
}

impl Device for Behind {
    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }

    fn receive(&mut self, frames: &mut Vec<Packet>, max: usize, now: Instant) -> usize {
        let mut hop = self.hop.lock().unwrap();
        let before = frames.len();
        let mut came = Vec::new();
        self.inner.receive(&mut came, max, now);
        for packet in came {
            let (passes, answer) = hop.pass(packet.data(), 1);
            hop.injected.extend(answer);
            frames.extend(passes.then_some(packet));
        }
        frames.append(&mut hop.inwards);
        self.inner.transmit(&mut hop.injected, now);
        frames.len() - before
    }

    fn allocate(&mut self, len: usize) -> Option<Packet> {
        self.inner.allocate(len)
    }

    fn transmit(&mut self, frames: &mut VecDeque<Packet>, now: Instant) -> usize {
        let mut hop = self.hop.lock().unwrap();
        let mut taken = 0;
        while let Some(packet) = frames.front() {
            let (passes, answer) = hop.pass(packet.data(), 0);
            if passes {
                let one = frames.pop_front();
                let mut one = VecDeque::from_iter(one);
                if self.inner.transmit(&mut one, now) == 0 {
                    frames.push_front(one.remove(0).unwrap());
                    break;
                }
            } else {
                frames.pop_front();
            }
            hop.inwards.extend(answer);
            taken += 1;
        }
        taken
    }

    fn next_deadline(&self) -> Option<Instant> {
        // Something to tell this side: at once, for a clock that stands still meanwhile.
        let told = !self.hop.lock().unwrap().inwards.is_empty();
        told.then_some(Instant::ZERO).or(self.inner.next_deadline())
    }

    fn counters(&self) -> Counters {
        self.inner.counters()
    }
}
