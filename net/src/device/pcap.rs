//! A wrapper that writes what passes through a device to a file that Wireshark reads:
//! pcapng, nanoseconds, one interface for each queue, the direction of each frame.
//!
//! The file shows frames as they are on the wire. Where a checksum was left to the device,
//! or a packet to be cut into segments, the copy in the file is finished in software.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use throng_runtime::Instant;

use super::offload::{self, Segmenter};
use super::pcapng::{self, Direction};
use super::{Capabilities, Counters, Device};
use crate::packet::{ChecksumStatus, Packet};

/// What the time stamps count from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Clock {
    /// The date: the first frame gets the time of day, the others follow it by the
    /// caller's clock.
    #[default]
    Wall,
    /// The caller's clock as it is, so that a simulation writes the same file each time.
    Virtual,
}

/// How much of what to write.
#[derive(Clone, Debug)]
pub struct Options {
    /// The file does not grow over this many bytes; what comes later is left out.
    pub limit: u64,
    /// What the time stamps count from.
    pub clock: Clock,
}

impl Default for Options {
    /// 1 GiB, the time of day.
    fn default() -> Options {
        Options { limit: 1 << 30, clock: Clock::Wall }
    }
}

/// A capture file, shared by the queues that write to it. Dropping the last handle
/// completes the file; until then it lags behind by a tenth of a second at most.
#[derive(Clone)]
pub struct Capture {
    writer: Arc<Mutex<Writer>>,
}

impl Capture {
    /// Creates the file, or empties it.
    ///
    /// # Errors
    /// When it cannot be created or written to.
    pub fn create(path: &Path, options: Options) -> io::Result<Capture> {
        let explain = |error: io::Error| {
            io::Error::new(error.kind(), format!("capture file `{}`: {error}", path.display()))
        };
        let file = File::create(path).map_err(explain)?;
        Capture::write_to(Box::new(file), options).map_err(explain)
    }

    /// Writes the capture to anything.
    ///
    /// # Errors
    /// When the header cannot be written.
    pub fn write_to(output: Box<dyn Write + Send>, options: Options) -> io::Result<Capture> {
        let mut writer = Writer {
            output: BufWriter::with_capacity(1 << 16, output),
            block: Vec::new(),
            written: 0,
            interfaces: 0,
            limit: options.limit,
            clock: options.clock,
            epoch: None,
            flushed: Instant::ZERO,
            stopped: false,
        };
        pcapng::section_header(&mut writer.block);
        writer.write_block()?;
        writer.output.flush()?;
        Ok(Capture { writer: Arc::new(Mutex::new(writer)) })
    }

    /// Wraps every queue of a port.
    pub fn wrap(&self, queues: Vec<Box<dyn Device>>) -> Vec<Box<dyn Device>> {
        queues.into_iter().map(|queue| Box::new(CapturedQueue::new(queue, self)) as _).collect()
    }

    fn with<T>(&self, f: impl FnOnce(&mut Writer) -> T) -> T {
        f(&mut self.writer.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A queue whose frames are written down: a [`Device`].
pub struct CapturedQueue {
    inner: Box<dyn Device>,
    capture: Capture,
    interface: u32,
    outgoing: Outgoing,
}

impl CapturedQueue {
    /// Wraps one queue, which becomes an interface of the capture.
    pub fn new(inner: Box<dyn Device>, capture: &Capture) -> CapturedQueue {
        let interface = capture.with(|writer| writer.interface(&inner.capabilities().name));
        CapturedQueue { inner, capture: capture.clone(), interface, outgoing: Outgoing::default() }
    }
}

impl Device for CapturedQueue {
    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }

    fn receive(&mut self, frames: &mut Vec<Packet>, max: usize, now: Instant) -> usize {
        let before = frames.len();
        let received = self.inner.receive(frames, max, now);
        self.capture.with(|writer| {
            for packet in &frames[before..] {
                if writer.stopped {
                    return;
                }
                let copy = received_copy(packet);
                writer.frame(self.interface, Direction::In, &copy, now);
            }
            writer.flush_if_due(now);
        });
        received
    }

    fn allocate(&mut self, len: usize) -> Option<Packet> {
        self.inner.allocate(len)
    }

    fn transmit(&mut self, frames: &mut VecDeque<Packet>, now: Instant) -> usize {
        if self.capture.with(|writer| writer.stopped) {
            return self.inner.transmit(frames, now);
        }
        let (capture, interface) = (&self.capture, self.interface);
        self.outgoing.transmit(
            &mut *self.inner,
            frames,
            now,
            |_| true,
            |copies| {
                capture.with(|writer| {
                    for copy in copies {
                        writer.frame(interface, Direction::Out, copy, now);
                    }
                    writer.flush_if_due(now);
                });
            },
        )
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.inner.next_deadline()
    }

    fn interrupt_fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.interrupt_fd()
    }

    fn arm(&mut self) -> bool {
        // A shard that sleeps should not sit on the last lines of the story.
        self.capture.with(Writer::flush);
        self.inner.arm()
    }

    fn disarm(&mut self) {
        self.inner.disarm();
    }

    fn port_counters(&self) -> Vec<(String, u64)> {
        self.inner.port_counters()
    }

    fn counters(&self) -> Counters {
        self.inner.counters()
    }
}

/// Frames on their way out through a device, under inspection.
#[derive(Default)]
pub(crate) struct Outgoing {
    /// Those the device is being asked to take.
    batch: VecDeque<Packet>,
    /// Copies of the wanted ones, one after the other, and where each frame's copies end.
    copies: Vec<Vec<u8>>,
    ends: Vec<usize>,
}

/// Frames copied before the device is asked to take them.
const BATCH: usize = 64;

impl Outgoing {
    /// What [`Device::transmit`] does; `sent` is shown copies of the `wanted` frames that were
    /// taken, as they are on the wire.
    pub(crate) fn transmit(
        &mut self,
        device: &mut dyn Device,
        frames: &mut VecDeque<Packet>,
        now: Instant,
        wanted: impl Fn(&Packet) -> bool,
        mut sent: impl FnMut(&[Vec<u8>]),
    ) -> usize {
        let mut total = 0;
        while !frames.is_empty() {
            self.batch.extend(frames.drain(..frames.len().min(BATCH)));
            self.copies.clear();
            self.ends.clear();
            for packet in &self.batch {
                if wanted(packet) {
                    sent_copies(packet, &mut self.copies);
                }
                self.ends.push(self.copies.len());
            }
            let taken = device.transmit(&mut self.batch, now);
            let copies = taken.checked_sub(1).map_or(0, |last| self.ends[last]);
            sent(&self.copies[..copies]);
            total += taken;
            if !self.batch.is_empty() {
                while let Some(packet) = self.batch.pop_back() {
                    frames.push_front(packet);
                }
                break;
            }
        }
        total
    }
}

fn bytes_of(packet: &Packet) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(packet.len());
    packet.for_each_piece(|piece| bytes.extend_from_slice(piece));
    bytes
}

/// The frame as it was on the wire: a device that vouches for a checksum it has not seen
/// finished leaves finishing it to us.
pub(crate) fn received_copy(packet: &Packet) -> Vec<u8> {
    let mut copy = bytes_of(packet);
    if packet.rx.checksum == ChecksumStatus::Good {
        offload::finish_received(&mut copy);
    }
    copy
}

/// The frame or frames that go out for this one.
fn sent_copies(packet: &Packet, copies: &mut Vec<Vec<u8>>) {
    let mut whole = bytes_of(packet);
    let segmenter = Segmenter::new(&whole, &packet.tx);
    if let Some(segmenter) = segmenter {
        for index in 0..segmenter.count() {
            let room = Packet::from(Vec::with_capacity(segmenter.longest()));
            if let Some(segment) = segmenter.write(index, room) {
                copies.push(bytes_of(&segment));
            }
        }
    } else {
        if offload::wanted(&packet.tx) {
            offload::fill_checksums(&mut whole, &packet.tx);
        }
        copies.push(whole);
    }
}

/// The file.
struct Writer {
    output: BufWriter<Box<dyn Write + Send>>,
    /// The block being made.
    block: Vec<u8>,
    written: u64,
    interfaces: u32,
    limit: u64,
    clock: Clock,
    /// The date of the caller's clock's origin, known from the first frame on.
    epoch: Option<Duration>,
    flushed: Instant,
    stopped: bool,
}

const FLUSH_INTERVAL: Duration = Duration::from_millis(100);

impl Writer {
    /// Describes an interface and returns its number.
    fn interface(&mut self, name: &str) -> u32 {
        let number = self.interfaces;
        self.interfaces += 1;
        pcapng::interface(&mut self.block, name, 0);
        let result = self.write_block();
        self.check(result);
        number
    }

    fn frame(&mut self, interface: u32, direction: Direction, bytes: &[u8], now: Instant) {
        if self.stopped {
            return;
        }
        if self.written + bytes.len() as u64 + 64 > self.limit {
            self.stopped = true;
            tracing::warn!(limit = self.limit, "the capture file is full, the rest is left out");
            self.flush();
            return;
        }
        let since_origin = Duration::from_nanos(now.as_nanos());
        let clock = self.clock;
        let epoch = *self.epoch.get_or_insert_with(|| match clock {
            Clock::Virtual => Duration::ZERO,
            Clock::Wall => SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap_or_default()
                .saturating_sub(since_origin),
        });
        let time = (epoch + since_origin).as_nanos() as u64;
        pcapng::packet(&mut self.block, interface, direction, time, bytes, usize::MAX);
        let result = self.write_block();
        self.check(result);
    }

    fn write_block(&mut self) -> io::Result<()> {
        let result = self.output.write_all(&self.block);
        self.written += self.block.len() as u64;
        self.block.clear();
        result
    }

    fn flush_if_due(&mut self, now: Instant) {
        if now.saturating_since(self.flushed) >= FLUSH_INTERVAL {
            self.flushed = now;
            self.flush();
        }
    }

    fn flush(&mut self) {
        let result = self.output.flush();
        self.check(result);
    }

    /// A capture that cannot be written ends; the device goes on.
    fn check(&mut self, result: io::Result<()>) {
        if let Err(error) = result
            && !self.stopped
        {
            self.stopped = true;
            tracing::warn!(%error, "the capture file cannot be written, the rest is left out");
        }
    }
}
