//! A host's end of the wire: the device that its shard sees. Everything that happens to frames
//! happens on their way *in*, where segments have been cut and are what a network carries.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use throng_net::device::faults::FaultyQueue;
use throng_net::device::{Capabilities, Counters, Device};
use throng_net::packet::Packet;
use throng_runtime::Instant;

use crate::dice::Dice;
use crate::plan::RouterPlan;
use crate::router::{self, Verdict};

/// What the run decides about a host's port while it lasts.
pub(crate) struct Control {
    /// Until then the device does nothing.
    pub(crate) stalled: Instant,
    /// Nobody is at the other end.
    pub(crate) alone: bool,
    /// Nothing comes in.
    pub(crate) deaf: bool,
    pub(crate) router: RouterPlan,
    pub(crate) dice: Dice,
    /// Everything that passed, in order, in one number.
    pub(crate) trace: u64,
    /// Frames that came in.
    pub(crate) frames: u64,
    /// Frames that were too long for the path, that were marked, that came while nothing came
    /// in, and bursts for which the device stood still.
    pub(crate) too_long: u64,
    pub(crate) marked: u64,
    pub(crate) unheard: u64,
    pub(crate) held: u64,
}

pub(crate) type Shared<T> = Arc<Mutex<T>>;

pub(crate) fn lock<T>(shared: &Shared<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One queue of a port: a [`Device`]. The queue beneath outlives the host, for the one that
/// comes back.
pub(crate) struct Port {
    queue: Shared<FaultyQueue>,
    control: Shared<Control>,
    capabilities: Capabilities,
    arrived: Vec<Packet>,
    /// What a router of the path has to tell the other side.
    answers: VecDeque<Packet>,
}

impl Port {
    pub(crate) fn new(queue: &Shared<FaultyQueue>, control: &Shared<Control>) -> Port {
        Port {
            capabilities: lock(queue).capabilities().clone(),
            queue: queue.clone(),
            control: control.clone(),
            arrived: Vec::new(),
            answers: VecDeque::new(),
        }
    }
}

impl Control {
    fn note(&mut self, inwards: bool, packet: &Packet, now: Instant) {
        let data = packet.data();
        let mut word = now.as_nanos() ^ (data.len() as u64) << 48 ^ u64::from(inwards) << 63;
        // Of TCP the header without its checksum: WebSocket masks are not the seed's, and
        // what payload there is, the applications look at.
        let headers = match data.get(12..14) {
            Some([0x08, 0x00]) if data.len() >= 54 && data[23] == 6 => 50,
            Some([0x86, 0xdd]) if data.len() >= 74 && data[20] == 6 => 70,
            // ICMP's checksum covers what it quotes.
            Some([0x86, 0xdd]) if data.len() >= 74 && data[20] == 58 => 56,
            _ => 80,
        };
        for piece in data[..data.len().min(headers)].chunks(8) {
            let mut bytes = [0; 8];
            bytes[..piece.len()].copy_from_slice(piece);
            word = (word ^ u64::from_le_bytes(bytes)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            word ^= word >> 32;
        }
        self.trace = (self.trace.rotate_left(5) ^ word).wrapping_mul(0x0000_0100_0000_01b3);
    }
}

impl Device for Port {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn receive(&mut self, frames: &mut Vec<Packet>, max: usize, now: Instant) -> usize {
        let mut control = lock(&self.control);
        let mut queue = lock(&self.queue);
        if now < control.stalled {
            control.held += 1;
            return 0;
        }
        control.stalled = Instant::ZERO;
        queue.receive(&mut self.arrived, max, now);
        let before = frames.len();
        let Control { router, dice, too_long, marked, .. } = &mut *control;
        let mut passed = Vec::new();
        for mut packet in self.arrived.drain(..) {
            match router::pass(router, dice, packet.data_mut()) {
                Verdict::Pass => passed.push(packet),
                Verdict::Marked => {
                    *marked += 1;
                    passed.push(packet);
                }
                Verdict::Drop(answer) => {
                    *too_long += 1;
                    self.answers.extend(answer.map(Packet::from));
                }
            }
        }
        if control.deaf {
            control.unheard += passed.len() as u64;
            passed.clear();
        } else if !self.answers.is_empty() {
            queue.transmit(&mut self.answers, now);
        }
        // What the ring has no room for is lost.
        self.answers.clear();
        for packet in passed {
            control.note(true, &packet, now);
            control.frames += 1;
            frames.push(packet);
        }
        frames.len() - before
    }

    fn allocate(&mut self, len: usize) -> Option<Packet> {
        lock(&self.queue).allocate(len)
    }

    fn transmit(&mut self, frames: &mut VecDeque<Packet>, now: Instant) -> usize {
        let mut control = lock(&self.control);
        if now < control.stalled {
            return 0;
        }
        if control.alone {
            let taken = frames.len();
            frames.clear();
            return taken;
        }
        frames.iter().for_each(|packet| control.note(false, packet, now));
        lock(&self.queue).transmit(frames, now)
    }

    fn next_deadline(&self) -> Option<Instant> {
        let control = lock(&self.control);
        let next = lock(&self.queue).next_deadline();
        // At the end of a stall the ring is looked at.
        let stalled = (control.stalled > Instant::ZERO).then_some(control.stalled);
        next.map(|next| next.max(control.stalled)).into_iter().chain(stalled).min()
    }

    fn counters(&self) -> Counters {
        lock(&self.queue).counters()
    }
}
