//! A shard's side of a capture, and what its shards and its writer share.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use throng_runtime::{Instant, Unparker};

use super::{End, Options, Status};
use crate::device::Device;
use crate::device::pcap::{Outgoing, received_copy};
use crate::device::pcapng::{self, Direction};
use crate::packet::Packet;

/// What the shards, the writer and the handles of one capture share.
#[derive(Debug)]
pub(super) struct Shared {
    options: Options,
    began: std::time::Instant,
    over: AtomicBool,
    /// The writer has written all there will be.
    written: AtomicBool,
    end: Mutex<Option<End>>,
    packets: AtomicU64,
    bytes: AtomicU64,
    missed: AtomicU64,
    sleepers: Vec<Unparker>,
}

impl Shared {
    pub(super) fn new(options: Options, bytes: u64, sleepers: Vec<Unparker>) -> Shared {
        Shared {
            options,
            began: std::time::Instant::now(),
            over: AtomicBool::new(false),
            written: AtomicBool::new(false),
            end: Mutex::new(None),
            packets: AtomicU64::new(0),
            bytes: AtomicU64::new(bytes),
            missed: AtomicU64::new(0),
            sleepers,
        }
    }

    /// Ends the capture, unless it has ended for another reason.
    pub(super) fn finish(&self, end: End) {
        self.end.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(end);
        self.over.store(true, Ordering::Release);
        // A shard that sleeps lets go of its buffer now.
        self.sleepers.iter().for_each(Unparker::unpark);
    }

    /// Ends it because the file cannot be written, which counts more than any other reason.
    pub(super) fn fail(&self, error: &std::io::Error) {
        *self.end.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(End::Error(error.to_string()));
        self.finish(End::Stopped);
    }

    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    pub(super) fn is_written(&self) -> bool {
        self.written.load(Ordering::Acquire)
    }

    pub(super) fn set_written(&self) {
        self.written.store(true, Ordering::Release);
    }

    /// Whether its time is over.
    pub(super) fn is_late(&self) -> bool {
        self.began.elapsed() >= self.options.duration
    }

    pub(super) fn status(&self) -> Status {
        Status {
            end: self.end.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            packets: self.packets.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            missed: self.missed.load(Ordering::Relaxed),
        }
    }

    /// Makes room under the limits for a packet of so many bytes; without room it ends.
    /// Returns which packet it is, counted from 1.
    fn admit(&self, bytes: u64) -> Option<u64> {
        let before = self.packets.fetch_add(1, Ordering::Relaxed);
        if before >= self.options.packets {
            self.packets.fetch_sub(1, Ordering::Relaxed);
            self.finish(End::Packets);
            return None;
        }
        if self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes > self.options.bytes {
            self.give_back(bytes);
            self.finish(End::Bytes);
            return None;
        }
        Some(before + 1)
    }

    fn give_back(&self, bytes: u64) {
        self.packets.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// A shard's end of a capture: looks at what passes through the device.
pub(crate) struct Tap {
    outgoing: Outgoing,
    recorder: Recorder,
}

struct Recorder {
    shared: Arc<Shared>,
    ring: rtrb::Producer<u8>,
    interface: u32,
    /// The date of the shard's clock's origin, from the first packet on.
    epoch: Option<Duration>,
    /// The block being made.
    block: Vec<u8>,
}

impl Tap {
    pub(super) fn new(shared: Arc<Shared>, ring: rtrb::Producer<u8>, interface: u32) -> Tap {
        let recorder = Recorder { shared, ring, interface, epoch: None, block: Vec::new() };
        Tap { outgoing: Outgoing::default(), recorder }
    }

    /// Whether the capture has ended, so that the shard may let go of it.
    pub(crate) fn is_over(&self) -> bool {
        self.recorder.shared.is_over()
    }

    /// Looks at a burst received.
    pub(crate) fn received(&mut self, frames: &[Packet], now: Instant) {
        for packet in frames {
            if self.recorder.wants(packet) && self.recorder.has_room(packet.len()) {
                self.recorder.record(Direction::In, &received_copy(packet), now);
            }
        }
    }

    /// What [`Device::transmit`] does, looking at what is taken.
    pub(crate) fn transmit(
        &mut self,
        device: &mut dyn Device,
        frames: &mut VecDeque<Packet>,
        now: Instant,
    ) -> usize {
        let filter = self.recorder.shared.clone();
        let wanted = |packet: &Packet| wants(&filter.options, packet);
        let recorder = &mut self.recorder;
        self.outgoing.transmit(device, frames, now, wanted, |copies| {
            for copy in copies {
                recorder.record(Direction::Out, copy, now);
            }
        })
    }
}

fn wants(options: &Options, packet: &Packet) -> bool {
    let filter = options.filter.as_ref();
    filter.is_none_or(|filter| filter.matches_part(packet.data(), packet.len()))
}

impl Recorder {
    fn wants(&self, packet: &Packet) -> bool {
        wants(&self.shared.options, packet)
    }

    /// Whether a packet of `length` bytes will fit, asked before it is copied and its checksums
    /// are made: behind a slow disk that would be in vain. One that does not is missed.
    fn has_room(&self, length: usize) -> bool {
        let kept = length.min(self.shared.options.snaplen as usize);
        let fits = self.ring.slots() >= kept;
        if !fits && !self.shared.is_over() {
            self.shared.missed.fetch_add(1, Ordering::Relaxed);
        }
        fits
    }

    fn record(&mut self, direction: Direction, frame: &[u8], now: Instant) {
        let shared = &*self.shared;
        if shared.is_over() {
            return;
        }
        let since_origin = Duration::from_nanos(now.as_nanos());
        let epoch = *self.epoch.get_or_insert_with(|| {
            let today = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            today.unwrap_or_default().saturating_sub(since_origin)
        });
        let time = (epoch + since_origin).as_nanos() as u64;
        let snaplen = shared.options.snaplen as usize;
        self.block.clear();
        pcapng::packet(&mut self.block, self.interface, direction, time, frame, snaplen);
        let bytes = self.block.len() as u64;
        let Some(number) = shared.admit(bytes) else { return };
        if self.ring.push_entire_slice(&self.block).is_err() {
            shared.give_back(bytes);
            shared.missed.fetch_add(1, Ordering::Relaxed);
        } else if number == shared.options.packets {
            // Not with the next one, which may never come.
            shared.finish(End::Packets);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_with_the_last_packet_that_is_wanted() {
        let options = Options { packets: 2, ..Options::default() };
        let shared = Arc::new(Shared::new(options, 0, Vec::new()));
        let (ring, consumer) = rtrb::RingBuffer::new(4_096);
        let mut tap = Tap::new(shared.clone(), ring, 0);
        let frame = || [Packet::from(vec![0; 60])];
        tap.received(&frame(), Instant::ZERO);
        assert_eq!((shared.status().end, shared.status().packets), (None, 1));
        tap.received(&frame(), Instant::ZERO);
        assert_eq!((shared.status().end, shared.status().packets), (Some(End::Packets), 2));
        let written = consumer.slots();
        tap.received(&frame(), Instant::ZERO);
        assert_eq!((shared.status().packets, consumer.slots()), (2, written));
    }

    #[test]
    fn what_the_buffer_has_no_room_for_is_missed_once() {
        let shared = Arc::new(Shared::new(Options::default(), 0, Vec::new()));
        let (ring, consumer) = rtrb::RingBuffer::new(256);
        let mut tap = Tap::new(shared.clone(), ring, 0);
        // One fits, one does not with its header, one not at all.
        for (length, missed) in [(60, 0), (120, 1), (1_000, 2)] {
            tap.received(&[Packet::from(vec![0; length])], Instant::ZERO);
            let status = shared.status();
            assert_eq!((status.packets, status.missed), (1, missed), "{length}");
            assert_eq!(status.bytes, consumer.slots() as u64);
        }
    }
}
