//! Opening connections at a rate.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::join_all;
use throng::runtime::{self, Instant};
use throng::ws;
use throng::{TcpSocket, TcpStream};

use super::{PATIENCE, Shard};
use crate::host;

/// Connections that one shard opens at a time: so many that the two ends keep each other busy
/// where a round trip takes milliseconds, as on a machine that both share with others. Where it
/// does not, the rate keeps them few: whatever is under way stands before an echo in line.
const AT_ONCE: u32 = 512;
/// When so many in a row have failed, and none has opened for so long, the other end is gone. One stall of
/// either end fails all that are under way.
const HOPELESS: (u32, Duration) = (AT_ONCE, Duration::from_secs(45));
/// Errors that are printed.
const PRINTED: u32 = 10;

/// What the openers of a shard share.
struct Opening {
    begin: Instant,
    next: Cell<u32>,
    /// Failures since one has opened, and when that was.
    in_a_row: Cell<u32>,
    opened_at: Cell<Instant>,
}

impl Opening {
    fn is_hopeless(&self) -> bool {
        self.in_a_row.get() >= HOPELESS.0 && runtime::now() - self.opened_at.get() >= HOPELESS.1
    }
}

impl Shard {
    /// Opens this shard's connections, at the rate that was asked for.
    pub(crate) async fn open_all(self: &Rc<Self>) {
        let (begin, next) = (runtime::now(), Cell::new(self.first));
        let (in_a_row, opened_at) = (Cell::new(0), Cell::new(begin));
        let opening = Rc::new(Opening { begin, next, in_a_row, opened_at });
        // Tasks, because a future that joins a thousand would poll them all at a time.
        let opener = |_| runtime::spawn_local(self.clone().open_some(opening.clone()));
        join_all((0..AT_ONCE).map(opener)).await;
    }

    /// Opens one after the other until there are no more.
    async fn open_some(self: Rc<Self>, opening: Rc<Opening>) {
        while let Some(number) = self.take_number(&opening) {
            self.await_turn(number, &opening).await;
            if !self.try_to_open(number, &opening).await {
                self.progress.failed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Opens a connection, with as many tries as it may take.
    async fn try_to_open(self: &Rc<Self>, number: u32, opening: &Opening) -> bool {
        for try_ in 1..=self.load.tries {
            if opening.is_hopeless() {
                break;
            }
            let opened = runtime::timeout(PATIENCE, self.open(number)).await;
            match opened.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(()) => {
                    self.progress.opened.fetch_add(1, Ordering::Relaxed);
                    self.progress.reopened.fetch_add(u32::from(try_ > 1), Ordering::Relaxed);
                    opening.in_a_row.set(0);
                    opening.opened_at.set(runtime::now());
                    return true;
                }
                Err(error) => {
                    self.say(number, &error);
                    opening.in_a_row.set(opening.in_a_row.get() + 1);
                }
            }
        }
        false
    }

    fn take_number(&self, opening: &Opening) -> Option<u32> {
        let number = opening.next.get();
        opening.next.set(number.saturating_add(self.shards));
        (number < self.end).then_some(number)
    }

    async fn await_turn(&self, number: u32, opening: &Opening) {
        if self.load.open_rate > 0 {
            let at = f64::from(number) / f64::from(self.load.open_rate);
            let at = opening.begin + Duration::from_secs_f64(at);
            if at > runtime::now() {
                runtime::sleep_until(at).await;
            }
        }
    }

    fn say(&self, number: u32, error: &io::Error) {
        if self.progress.errors_said.fetch_add(1, Ordering::Relaxed) < PRINTED {
            eprintln!("connection {number}: {error}");
        }
    }

    async fn open(self: &Rc<Self>, number: u32) -> io::Result<()> {
        let (from, to) = host::endpoints(self.house, number, self.of);
        let stream: TcpStream = TcpSocket::new().bind(from).connect(to).await?;
        stream.set_nodelay(true)?;
        let connected = ws::connect(format!("ws://{to}/echo"), stream).await;
        let (socket, _) = connected.map_err(io::Error::other)?;
        self.pool.insert(socket)
    }
}
