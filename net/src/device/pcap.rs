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
            written: 0,
            interfaces: 0,
            limit: options.limit,
            clock: options.clock,
            epoch: None,
            flushed: Instant::ZERO,
            stopped: false,
        };
        writer.section_header()?;
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
    /// Frames under inspection on their way out.
    batch: VecDeque<Packet>,
    /// Their copies, one after the other, and where each frame's copies end.
    copies: Vec<Vec<u8>>,
    ends: Vec<usize>,
}

/// Frames copied before the inner device is asked to take them.
const BATCH: usize = 64;

impl CapturedQueue {
    /// Wraps one queue, which becomes an interface of the capture.
    pub fn new(inner: Box<dyn Device>, capture: &Capture) -> CapturedQueue {
        let interface = capture.with(|writer| writer.interface(&inner.capabilities().name));
        CapturedQueue {
            inner,
            capture: capture.clone(),
            interface,
            batch: VecDeque::new(),
            copies: Vec::new(),
            ends: Vec::new(),
        }
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
        let mut total = 0;
        while !frames.is_empty() {
            self.batch.extend(frames.drain(..frames.len().min(BATCH)));
            self.copies.clear();
            self.ends.clear();
            for packet in &self.batch {
                sent_copies(packet, &mut self.copies);
                self.ends.push(self.copies.len());
            }
            let taken = self.inner.transmit(&mut self.batch, now);
            let copies = taken.checked_sub(1).map_or(0, |last| self.ends[last]);
            self.capture.with(|writer| {
                for copy in &self.copies[..copies] {
                    writer.frame(self.interface, Direction::Out, copy, now);
                }
                writer.flush_if_due(now);
            });
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

fn bytes_of(packet: &Packet) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(packet.len());
    packet.for_each_piece(|piece| bytes.extend_from_slice(piece));
    bytes
}

/// The frame as it was on the wire: a device that vouches for a checksum it has not seen
/// finished leaves finishing it to us.
fn received_copy(packet: &Packet) -> Vec<u8> {
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

#[derive(Clone, Copy)]
enum Direction {
    In = 1,
    Out = 2,
}

/// The file, in the format of draft-ietf-opsawg-pcapng, in the machine's byte order.
struct Writer {
    output: BufWriter<Box<dyn Write + Send>>,
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
    /// Section header block, 4.1.
    fn section_header(&mut self) -> io::Result<()> {
        let mut body = Vec::new();
        body.extend(0x1a2b_3c4d_u32.to_ne_bytes());
        body.extend(1u16.to_ne_bytes());
        body.extend(0u16.to_ne_bytes());
        body.extend((-1i64).to_ne_bytes());
        option(&mut body, 4, b"throng");
        end_of_options(&mut body);
        self.block(0x0a0d_0d0a, &body)?;
        self.output.flush()
    }

    /// Interface description block, 4.2. Returns the interface's number.
    fn interface(&mut self, name: &str) -> u32 {
        let number = self.interfaces;
        self.interfaces += 1;
        let mut body = Vec::new();
        body.extend(1u16.to_ne_bytes()); // LINKTYPE_ETHERNET
        body.extend(0u16.to_ne_bytes());
        body.extend(0u32.to_ne_bytes()); // frames are whole
        option(&mut body, 2, name.as_bytes());
        option(&mut body, 9, &[9]); // time stamps in 10^-9 s
        end_of_options(&mut body);
        let result = self.block(1, &body);
        self.check(result);
        number
    }

    /// Enhanced packet block, 4.3.
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
        let mut body = Vec::with_capacity(bytes.len() + 48);
        body.extend(interface.to_ne_bytes());
        body.extend(((time >> 32) as u32).to_ne_bytes());
        body.extend((time as u32).to_ne_bytes());
        body.extend((bytes.len() as u32).to_ne_bytes());
        body.extend((bytes.len() as u32).to_ne_bytes());
        body.extend(bytes);
        pad(&mut body);
        option(&mut body, 2, &(direction as u32).to_ne_bytes());
        end_of_options(&mut body);
        let result = self.block(6, &body);
        self.check(result);
    }

    fn block(&mut self, kind: u32, body: &[u8]) -> io::Result<()> {
        let length = body.len() as u32 + 12;
        self.output.write_all(&kind.to_ne_bytes())?;
        self.output.write_all(&length.to_ne_bytes())?;
        self.output.write_all(body)?;
        self.output.write_all(&length.to_ne_bytes())?;
        self.written += u64::from(length);
        Ok(())
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

fn pad(body: &mut Vec<u8>) {
    body.resize(body.len().next_multiple_of(4), 0);
}

fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    body.extend(code.to_ne_bytes());
    body.extend((value.len() as u16).to_ne_bytes());
    body.extend(value);
    pad(body);
}

fn end_of_options(body: &mut Vec<u8>) {
    body.extend([0; 4]);
}
