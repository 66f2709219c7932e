//! A path in real time: frames of one TAP come out of another, after what the path does to them.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant as Clock;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use throng::net::device::Device;
use throng::net::device::faults::{Faults, FaultyQueue};
use throng::net::device::tap::{Options, TapQueue, open};
use throng::net::packet::Packet;
use throng::net::sim::Path;
use throng::runtime::Instant;

/// Frames lost on the way of the data so far: by chance, and to a full queue.
#[derive(Default)]
pub struct Losses {
    /// By chance.
    pub random: AtomicU64,
    /// To a full queue.
    pub queue: AtomicU64,
}

/// Opens the relay's end of a TAP, on which the kernel cuts and sums everything itself. The
/// interface belongs to the network namespace of the calling thread.
///
/// # Errors
/// As for [`open`].
pub fn end(interface: &str) -> io::Result<TapQueue> {
    let options = Options { offload: false, buffers: 32_768, ..Options::default() };
    open(interface, 1, &options)?.pop().ok_or_else(|| io::Error::other("no queue"))
}

/// Relays between two TAPs for as long as the process runs: what comes from `left` is the data, what
/// comes from `right` its acknowledgements.
pub fn start(left: TapQueue, right: TapQueue, path: Path, seed: u64) -> Arc<Losses> {
    let faults = |receive| Faults { seed, receive, ..Faults::default() };
    let mut left = FaultyQueue::new(Box::new(left), 0, &faults(path.forth()));
    let mut right = FaultyQueue::new(Box::new(right), 1, &faults(path.back()));
    let losses = Arc::new(Losses::default());
    let told = losses.clone();
    thread::spawn(move || {
        let begin = Clock::now();
        let (mut forth, mut back) = (Lane::default(), Lane::default());
        loop {
            let now = Instant::from_nanos(begin.elapsed().as_nanos() as u64);
            let busy =
                forth.pass(&mut left, &mut right, now) | back.pass(&mut right, &mut left, now);
            let lost = left.fault_counters();
            losses.random.store(lost.lost, Ordering::Relaxed);
            losses.queue.store(lost.overflowed, Ordering::Relaxed);
            if !busy && let Err(error) = wait(&left, &right, begin) {
                eprintln!("the relay ended: {error}");
                return;
            }
        }
    });
    told
}

/// One direction's frames on their way through this program.
#[derive(Default)]
struct Lane {
    arrived: Vec<Packet>,
    out: VecDeque<Packet>,
}

impl Lane {
    /// Returns whether there was anything.
    fn pass(&mut self, from: &mut FaultyQueue, to: &mut FaultyQueue, now: Instant) -> bool {
        let busy = from.receive(&mut self.arrived, 64, now) > 0;
        self.out.extend(self.arrived.drain(..));
        to.transmit(&mut self.out, now);
        busy
    }
}

/// Waits for a frame at either end, or for one that is due.
fn wait(left: &FaultyQueue, right: &FaultyQueue, begin: Clock) -> io::Result<()> {
    let due = [left.next_deadline(), right.next_deadline()].into_iter().flatten().min();
    let left_for = due.map(|due| {
        let now = Instant::from_nanos(begin.elapsed().as_nanos() as u64);
        let time = due.saturating_since(now);
        Timespec { tv_sec: time.as_secs() as i64, tv_nsec: time.subsec_nanos().into() }
    });
    let ends = left.interrupt_fd().zip(right.interrupt_fd());
    let (left, right) = ends.ok_or(io::ErrorKind::NotConnected)?;
    let mut fds = [left, right].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    match poll(&mut fds, left_for.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
