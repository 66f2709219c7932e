//! Test support: a byte pipe in memory with faults, and a world that runs one future on it.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

pub mod listener;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use throng_runtime::driver::NoDriver;
use throng_runtime::sim::World;
use throng_runtime::{Instant, ShardId};

/// Runs `main` on a shard of its own under virtual time, for at most an hour of it.
pub fn run<T: 'static>(main: impl Future<Output = T> + 'static) -> T {
    let mut world = World::new();
    let host = world.add_host(vec![Box::new(NoDriver)]);
    let output = Rc::new(RefCell::new(None));
    let slot = output.clone();
    let task = world.spawn(host, ShardId(0), async move {
        let value = main.await;
        *slot.borrow_mut() = Some(value);
    });
    let limit = world.now() + Duration::from_secs(3600);
    world.run_until(limit, || output.borrow().is_some());
    drop(task);
    let value = output.borrow_mut().take();
    value.expect("the test's future panicked or stood still")
}

/// Sends `bytes` cut at these places, with a pause after each piece in which the peer rests.
pub async fn send_in_pieces(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8], cuts: &[usize]) {
    let mut sent = 0;
    for &cut in cuts.iter().chain([&bytes.len()]) {
        // The peer may have closed already.
        if to.write_all(&bytes[sent..cut]).await.is_err() {
            break;
        }
        sent = cut;
        throng_runtime::sleep(Duration::from_millis(1)).await;
    }
}

/// Places to cut `len` bytes at, from fractions of it.
pub fn places(fractions: &[f64], len: usize) -> Vec<usize> {
    let mut cuts: Vec<usize> = fractions.iter().map(|at| (at * len as f64) as usize).collect();
    cuts.sort_unstable();
    cuts
}

/// Runs `task` beside the caller.
pub fn spawn(task: impl Future<Output = ()> + 'static) {
    throng_runtime::spawn_local(task).detach();
}

/// Asserts that `expected` has passed since `begin`, as exactly as timers are.
#[track_caller]
pub fn assert_passed(begin: Instant, expected: Duration) {
    let passed = throng_runtime::now() - begin;
    assert!(passed.abs_diff(expected) < Duration::from_millis(20), "{passed:?}");
}

/// How an end behaves towards its user.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Most bytes one read or write moves.
    pub chunk: usize,
    /// Every second read and write is `Pending` first, though it could go on.
    pub stutter: bool,
}

impl Pace {
    /// No limit.
    pub const FAST: Pace = Pace { chunk: usize::MAX, stutter: false };
    /// One byte at a time, `Pending` before each.
    pub const SLOW: Pace = Pace { chunk: 1, stutter: true };
}

/// Two connected ends; each direction holds at most `capacity` bytes.
pub fn duplex(capacity: usize, pace: Pace) -> (End, End) {
    let (ab, ba) = (Pipe::new(capacity), Pipe::new(capacity));
    let a = End {
        inbound: ba.clone(),
        outbound: ab.clone(),
        pace,
        read_turn: false,
        write_turn: false,
    };
    let b = End { inbound: ab, outbound: ba, pace, read_turn: false, write_turn: false };
    (a, b)
}

/// One end of a [`duplex`]. Like a socket it keeps one waker per direction, the last one
/// seen. Dropping it ends both directions.
pub struct End {
    inbound: Arc<Mutex<Pipe>>,
    outbound: Arc<Mutex<Pipe>>,
    pub pace: Pace,
    read_turn: bool,
    write_turn: bool,
}

struct Pipe {
    bytes: VecDeque<u8>,
    capacity: usize,
    /// The writer has shut this direction.
    finished: bool,
    /// The reader has gone.
    abandoned: bool,
    reset: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Pipe {
    fn new(capacity: usize) -> Arc<Mutex<Pipe>> {
        Arc::new(Mutex::new(Pipe {
            bytes: VecDeque::new(),
            capacity,
            finished: false,
            abandoned: false,
            reset: false,
            reader: None,
            writer: None,
        }))
    }

    fn wake(&mut self) {
        for waker in [self.reader.take(), self.writer.take()].into_iter().flatten() {
            waker.wake();
        }
    }
}

fn lock(pipe: &Mutex<Pipe>) -> MutexGuard<'_, Pipe> {
    pipe.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl End {
    /// Bytes sent to us and not read.
    pub fn unread(&self) -> usize {
        lock(&self.inbound).bytes.len()
    }

    /// Our writes succeed up to this many bytes beyond what the peer has read.
    pub fn set_capacity(&self, capacity: usize) {
        let mut pipe = lock(&self.outbound);
        pipe.capacity = capacity;
        pipe.wake();
    }

    /// The peer's writes succeed up to this many bytes beyond what we have read.
    pub fn open_peer(&self, capacity: usize) {
        let mut pipe = lock(&self.inbound);
        pipe.capacity = capacity;
        pipe.wake();
    }

    /// The peer's writes fail from now on; ours go on.
    pub fn abandon(&self) {
        let mut pipe = lock(&self.inbound);
        pipe.abandoned = true;
        pipe.wake();
    }

    /// Both directions fail from now on, as after a TCP RST.
    pub fn reset(&self) {
        for pipe in [&self.inbound, &self.outbound] {
            let mut pipe = lock(pipe);
            pipe.reset = true;
            pipe.wake();
        }
    }

    fn stutter(turn: &mut bool, pace: Pace, cx: &mut Context<'_>) -> bool {
        *turn = !*turn;
        if pace.stutter && *turn {
            cx.waker().wake_by_ref();
            return true;
        }
        false
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let mut pipe = lock(&self.outbound);
        pipe.finished = true;
        pipe.wake();
        drop(pipe);
        let mut pipe = lock(&self.inbound);
        pipe.abandoned = true;
        pipe.wake();
    }
}

impl End {
    fn poll_take(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<io::Result<Vec<u8>>> {
        let mut pipe = lock(&self.inbound);
        if pipe.reset {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if pipe.bytes.is_empty() {
            if pipe.finished {
                return Poll::Ready(Ok(Vec::new()));
            }
            pipe.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        if End::stutter(&mut self.read_turn, self.pace, cx) {
            return Poll::Pending;
        }
        let n = most.min(self.pace.chunk).min(pipe.bytes.len());
        let taken = pipe.bytes.drain(..n).collect();
        if let Some(waker) = pipe.writer.take() {
            waker.wake();
        }
        Poll::Ready(Ok(taken))
    }
}

impl AsyncRead for End {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_take(cx, buf.len()).map_ok(|bytes| {
            buf[..bytes.len()].copy_from_slice(&bytes);
            bytes.len()
        })
    }
}

impl AsyncWrite for End {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let mut pipe = lock(&this.outbound);
        if pipe.reset {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if pipe.finished || pipe.abandoned {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let room = pipe.capacity.saturating_sub(pipe.bytes.len());
        if room == 0 {
            pipe.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        if End::stutter(&mut this.write_turn, this.pace, cx) {
            return Poll::Pending;
        }
        let n = buf.len().min(this.pace.chunk).min(room);
        pipe.bytes.extend(&buf[..n]);
        if let Some(waker) = pipe.reader.take() {
            waker.wake();
        }
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut pipe = lock(&self.outbound);
        pipe.finished = true;
        pipe.wake();
        Poll::Ready(Ok(()))
    }
}

impl hyper::rt::Read for End {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_take(cx, buf.remaining()).map_ok(|bytes| buf.put_slice(&bytes))
    }
}

impl hyper::rt::Write for End {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write(self, cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_flush(self, cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_close(self, cx)
    }
}
