//! Clients of a scenario: crowds that behave for as long as they are to, and single sockets.

use std::cell::Cell;
use std::io;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::join_all;
use throng::net::stats;
use throng::runtime;
use throng::ws::{self, WebSocket};
use throng::{TcpSocket, TcpStream};

use crate::client::latency::Percentiles;
use crate::client::{Load, Progress, Shard};
use crate::host::{self, House};

pub(super) type Socket = WebSocket<TcpStream>;

/// Connections opened at a time.
const AT_ONCE: u32 = 256;
/// Bytes of a message.
const SIZE: u32 = 64;
/// Connections that may have something to send for the device to take at a time, and how long to wait then.
const WAITING: usize = 64;
const REST: Duration = Duration::from_micros(50);
/// How often a connection of the crowd is tried: a machine that others use, too, may stall both ends for
/// longer than a handshake may take, and what is looked at begins when all are there.
const TRIES: u32 = 4;

/// Connections that read what comes, and echo at a rate; or read nothing any more.
pub(super) struct Crowd {
    shard: Rc<Shard>,
    progress: Arc<Progress>,
    /// Those that were cut.
    gone: Cell<u32>,
}

impl Crowd {
    /// Opens those of these numbers, of so many that the server listens for.
    pub(super) async fn open(house: House, numbers: Range<u32>, of: u32) -> io::Result<Crowd> {
        Crowd::open_for(house, numbers, of, SIZE).await
    }

    /// As [`open`](Self::open), with messages of `size` bytes.
    pub(super) async fn open_for(
        house: House,
        numbers: Range<u32>,
        of: u32,
        size: u32,
    ) -> io::Result<Crowd> {
        let load = Load {
            open_rate: 0,
            echoes: 0,
            ramp_echo_rate: 0,
            rate: 0,
            seconds: 0,
            size,
            tries: TRIES,
        };
        let progress = Progress::new();
        let count = numbers.end - numbers.start;
        let shard = Shard::new(load, house, (numbers, of), (0, 1), progress.clone());
        shard.open_all().await;
        let opened = progress.opened.load(Ordering::Relaxed);
        match opened == count {
            true => Ok(Crowd { shard, progress, gone: Cell::new(0) }),
            false => Err(io::Error::other(format!("{opened} of {count} connections opened"))),
        }
    }

    /// Echoes at a rate on random ones while something else happens, and until all are back.
    pub(super) async fn echo_while<T>(
        &self,
        rate: u32,
        what: impl Future<Output = T>,
    ) -> (T, Percentiles) {
        let sending = self.shard.clone();
        let sending =
            runtime::spawn_local(async move { sending.send_at(rate.into(), u64::MAX).await });
        let outcome = what.await;
        sending.abort();
        self.shard.all_echoed().await;
        let latencies = self.shard.pool().latencies.take();
        (outcome, latencies.percentiles())
    }

    /// How many there were at the beginning.
    pub(super) fn len(&self) -> u32 {
        self.shard.pool().len()
    }

    /// How many took more than one try to open.
    pub(super) fn reopened(&self) -> u32 {
        self.progress.reopened.load(Ordering::Relaxed)
    }

    /// They read nothing any more.
    pub(super) fn deafen(&self) {
        self.shard.pool().deafen();
    }

    /// Sends a message on each that takes one, and waits for no answer.
    pub(super) async fn send_each(&self) {
        for place in 0..self.len() {
            // Those who behave have the same network stack: what they send is to wait for the server, not
            // behind all of these in a queue of our own.
            while stats::transmit_waiting() >= WAITING {
                runtime::sleep(REST).await;
            }
            // Who is disconnected cannot, and nobody cares.
            self.shard.pool().send(place, self.progress.clock.now());
            runtime::coop::consume_budget().await;
        }
    }

    /// Drops so many of them, without a word.
    pub(super) async fn cut(&self, count: u32) {
        let from = self.gone.get();
        for place in from..(from + count).min(self.len()) {
            self.gone.set(place + 1);
            self.shard.pool().cut(place);
            runtime::coop::consume_budget().await;
        }
    }

    /// Copies of what was published that they have received.
    pub(super) fn heard(&self) -> u64 {
        let counts = &self.shard.pool().counts;
        counts.heard.get() + counts.heard_of_others.get()
    }

    /// What went wrong with them so far: connections lost, wrong, missing and unsent echoes.
    pub(super) fn trouble(&self) -> [u64; 4] {
        let counts = &self.shard.pool().counts;
        let progress = &self.progress;
        let [missing, skipped] =
            [&progress.missing, &progress.skipped].map(|count| count.load(Ordering::Relaxed));
        [counts.lost.get(), counts.wrong.get(), missing, skipped]
    }

    /// Closes all in order; returns how many did not in time.
    pub(super) async fn close(&self) -> u32 {
        self.shard.close().await;
        self.progress.stuck.load(Ordering::Relaxed)
    }
}

/// Opens one socket; it does nothing by itself.
pub(super) async fn connect(number: u32, of: u32) -> Result<Socket, ws::Error> {
    let (from, to) = host::endpoints(House::Many, number, of);
    let stream = TcpSocket::new().bind(from).connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(ws::connect(format!("ws://{to}/echo"), stream).await?.0)
}

/// What became of an attempt, and how long it took.
pub(super) type Attempt = (Result<Socket, ws::Error>, Duration);

/// Tries to open the sockets of these numbers, some at a time.
pub(super) async fn attempts(numbers: Range<u32>, of: u32) -> Vec<Attempt> {
    let next = Rc::new(Cell::new(numbers.start));
    let opener = |_| {
        let (next, end) = (next.clone(), numbers.end);
        runtime::spawn_local(async move {
            let mut done = Vec::new();
            while next.get() < end {
                let number = next.replace(next.get() + 1);
                let begin = runtime::now();
                let outcome = connect(number, of).await;
                done.push((outcome, runtime::now() - begin));
            }
            done
        })
    };
    let all = join_all((0..AT_ONCE).map(opener)).await;
    all.into_iter().filter_map(Result::ok).flatten().collect()
}
