//! An operator's eye on the server, all the while: what it says, how soon, and how old that is.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use throng::runtime;

use super::PATIENCE;
use crate::client::latency::Latencies;
use crate::ends::Server;
use crate::stats::Snapshot;

/// Rest between two questions.
const REST: Duration = Duration::from_millis(10);
/// The page is asked for with one of so many questions.
const PAGE: u32 = 10;
/// How soon the server's control has to answer, and how old its shards' numbers may be.
pub(super) const SOON: Duration = Duration::from_millis(100);

/// What has been seen so far.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) latest: Snapshot,
    /// How long answers took, and how old the oldest shard's numbers were.
    pub(super) answers: Latencies,
    pub(super) ages: Latencies,
    /// How long the server's page took, where it has one.
    pub(super) pages: Latencies,
    /// Answers and pages that took longer than [`SOON`], and numbers older than that.
    pub(super) late: u64,
    pub(super) most_queued: u64,
    pub(super) most_memory: u64,
    /// Memory when the server was first looked at.
    pub(super) memory_before: u64,
    /// The server did not answer, or not sensibly.
    pub(super) error: Option<String>,
}

/// Asks the server all the time.
#[derive(Default)]
pub(super) struct Watch {
    seen: Mutex<Seen>,
    /// What the server is to publish.
    publish: Mutex<Vec<String>>,
    ended: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watch {
    /// Looks until told to end, or the server does not answer in its time; gives the server back.
    pub(super) fn look(&self, mut server: Server) -> Server {
        let mut looks = (0..PAGE).cycle();
        while !self.ended.load(Ordering::Acquire) {
            let with_page = looks.next() == Some(0);
            if let Err(error) = self.look_once(&mut server, with_page) {
                lock(&self.seen).error = Some(error.to_string());
                break;
            }
            std::thread::sleep(REST);
        }
        server
    }

    fn look_once(&self, server: &mut Server, with_page: bool) -> io::Result<()> {
        for text in std::mem::take(&mut *lock(&self.publish)) {
            server.publish(&text)?;
        }
        let begin = Instant::now();
        let snapshot = server.snapshot()?;
        let took = begin.elapsed();
        let age = snapshot.shards.iter().map(|shard| shard.age).fold(0.0, f64::max);
        let age = Duration::from_secs_f64(age / 1e3);
        let page = server.page().filter(|_| with_page).map(fetch).transpose()?;
        let mut seen = lock(&self.seen);
        if seen.memory_before == 0 {
            seen.memory_before = snapshot.memory;
        }
        if let Some(took) = page {
            seen.pages.record(took.as_nanos() as u64);
            seen.late += u64::from(took > SOON);
        }
        seen.answers.record(took.as_nanos() as u64);
        seen.ages.record(age.as_nanos() as u64);
        seen.late += u64::from(took > SOON || age > SOON);
        seen.most_queued = seen.most_queued.max(snapshot.sum(|shard| shard.queued));
        seen.most_memory = seen.most_memory.max(snapshot.memory);
        seen.latest = snapshot;
        Ok(())
    }

    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }

    /// What was seen.
    pub(super) fn seen(&self) -> MutexGuard<'_, Seen> {
        lock(&self.seen)
    }

    /// Waits until the server has answered, or will not.
    pub(super) fn first_look(&self) {
        self.wait(PATIENCE, |seen| seen.memory_before > 0);
    }

    /// Waits, outside the runtime, until it is so, or the server does not answer; false where it is not so
    /// in time.
    pub(super) fn wait(&self, patience: Duration, is_so: impl Fn(&Seen) -> bool) -> bool {
        let begin = Instant::now();
        loop {
            {
                let seen = lock(&self.seen);
                if is_so(&seen) {
                    return true;
                }
                if seen.error.is_some() || begin.elapsed() > patience {
                    return false;
                }
            }
            std::thread::sleep(REST);
        }
    }

    /// The server's newest numbers.
    pub(super) fn latest(&self) -> Snapshot {
        lock(&self.seen).latest.clone()
    }

    /// Has the server publish a text to all.
    pub(super) fn publish(&self, text: String) {
        lock(&self.publish).push(text);
    }

    /// Waits until the server's numbers are so; false where they are not in time.
    pub(super) async fn until(
        &self,
        patience: Duration,
        is_so: impl Fn(&Snapshot) -> bool,
    ) -> bool {
        let begin = runtime::now();
        loop {
            let found = {
                let seen = lock(&self.seen);
                is_so(&seen.latest) || seen.error.is_some()
            };
            if found {
                return lock(&self.seen).error.is_none();
            }
            if runtime::now() - begin > patience {
                return false;
            }
            runtime::sleep(REST).await;
        }
    }
}

/// Fetches a page; says how long that took.
fn fetch(url: &str) -> io::Result<Duration> {
    let begin = Instant::now();
    let no_page = || io::Error::other(format!("no page: {url}"));
    let host = url.strip_prefix("http://").and_then(|rest| rest.split('/').next());
    let host = host.and_then(|host| host.parse::<SocketAddr>().ok()).ok_or_else(no_page)?;
    let mut stream = TcpStream::connect_timeout(&host, PATIENCE)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(stream, "GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    loop {
        // A limit of each read alone would be none of all of them.
        let left = PATIENCE.checked_sub(begin.elapsed()).filter(|left| !left.is_zero());
        stream.set_read_timeout(Some(left.ok_or(io::ErrorKind::TimedOut)?))?;
        let mut piece = [0; 4_096];
        let read = stream.read(&mut piece)?;
        if read == 0 {
            break;
        }
        answer.extend_from_slice(&piece[..read]);
    }
    match answer.starts_with(b"HTTP/1.1 200 ") {
        true => Ok(begin.elapsed()),
        false => Err(no_page()),
    }
}
