//! The client: opens its share of the connections, echoes on each, keeps them, closes them.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use futures::{SinkExt, StreamExt};
use throng::ws::{Message, WebSocket};
use throng::{TcpStream, runtime};

use crate::host;

/// Connections that one shard opens, or echoes on, at a time.
const AT_ONCE: u32 = 256;
/// Longest wait for one connection or one echo.
const PATIENCE: Duration = Duration::from_secs(30);

/// What one shard of the client has done.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) opened: u32,
    pub(crate) echoed: u32,
    pub(crate) errors: u32,
    pub(crate) open_seconds: f64,
    pub(crate) echo_seconds: f64,
}

/// Where the shards of the client meet between two phases.
#[derive(Default)]
pub(crate) struct Phases {
    begun: AtomicBool,
    echoed: AtomicU32,
    measured: AtomicU32,
}

impl Phases {
    /// A shard of the client has run: the device and the link are there.
    pub(crate) fn begun(&self) -> bool {
        self.begun.load(Ordering::Acquire)
    }

    /// Waits, outside the runtime, until all `shards` have echoed.
    pub(crate) fn wait_echoed(&self, shards: u16) -> bool {
        let patience = Instant::now() + Duration::from_secs(600);
        while self.echoed.load(Ordering::Acquire) < u32::from(shards) {
            if Instant::now() > patience {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }

    /// Lets the shards go on to close.
    pub(crate) fn measured(&self) {
        self.measured.store(1, Ordering::Release);
    }

    /// A shard of the client failed before it could echo: nobody needs to wait for it.
    pub(crate) fn give_up(&self) {
        self.echoed.store(u32::MAX / 2, Ordering::Release);
    }
}

type Sockets = Rc<RefCell<Vec<WebSocket<TcpStream>>>>;

/// Runs connections `shard`, `shard + shards`, and so on.
pub(crate) async fn run(connections: u32, shard: u16, shards: u16, phases: &Phases) -> Outcome {
    phases.begun.store(true, Ordering::Release);
    let mine = (u32::from(shard)..connections).step_by(shards.into());
    let mut outcome = Outcome::default();
    let sockets = Sockets::default();
    let begin = Instant::now();
    let opened = sockets.clone();
    outcome.errors += each(mine, |i| open(i, opened.clone())).await;
    outcome.open_seconds = begin.elapsed().as_secs_f64();
    outcome.opened = sockets.borrow().len() as u32;
    let begin = Instant::now();
    let kept = Sockets::default();
    let failed = each(0..outcome.opened, |i| echo(i, sockets.clone(), kept.clone())).await;
    outcome.errors += failed;
    outcome.echoed = outcome.opened - failed;
    outcome.echo_seconds = begin.elapsed().as_secs_f64();
    phases.echoed.fetch_add(1, Ordering::AcqRel);
    while phases.measured.load(Ordering::Acquire) == 0 {
        runtime::sleep(Duration::from_millis(5)).await;
    }
    let closing = kept.borrow().len() as u32;
    outcome.errors += each(0..closing, |_| close(kept.clone())).await;
    outcome
}

/// Runs `task` for every number, some at a time. Returns how many failed. When the first
/// [`AT_ONCE`] have all failed, the other end is gone, and the rest is not waited for.
async fn each<F: Future<Output = io::Result<()>> + 'static>(
    mut numbers: impl Iterator<Item = u32> + 'static,
    mut task: impl FnMut(u32) -> F,
) -> u32 {
    let (mut failed, mut ended) = (0, 0);
    let mut running = futures::stream::FuturesUnordered::new();
    while let Some(number) = numbers.next() {
        running.push(task(number));
        if running.len() >= AT_ONCE as usize {
            failed += count(running.next().await);
            ended += 1;
        }
        if failed == AT_ONCE && ended == AT_ONCE {
            failed += numbers.by_ref().count() as u32;
        }
    }
    while let Some(result) = running.next().await {
        failed += count(Some(result));
    }
    failed
}

fn count(result: Option<io::Result<()>>) -> u32 {
    match result {
        Some(Err(error)) => {
            eprintln!("connection: {error}");
            1
        }
        _ => 0,
    }
}

async fn open(i: u32, sockets: Sockets) -> io::Result<()> {
    let endpoint = host::endpoint(i);
    let opening = async {
        let stream = TcpStream::connect(endpoint).await?;
        stream.set_nodelay(true)?;
        let connected = throng::ws::connect(format!("ws://{endpoint}/"), stream).await;
        let (socket, _) = connected.map_err(io::Error::other)?;
        sockets.borrow_mut().push(socket);
        Ok(())
    };
    runtime::timeout(PATIENCE, opening).await.unwrap_or_else(|_| Err(late("to open")))
}

async fn echo(i: u32, from: Sockets, to: Sockets) -> io::Result<()> {
    let Some(mut socket) = from.borrow_mut().pop() else {
        return Err(io::Error::other("a socket is missing"));
    };
    let sent = Message::text(format!("message {i} of a socket that is one of very many"));
    let echoing = async {
        socket.send(sent.clone()).await.map_err(io::Error::other)?;
        match socket.next().await {
            Some(Ok(received)) if received == sent => Ok(()),
            other => Err(io::Error::other(format!("not the echo: {other:?}"))),
        }
    };
    runtime::timeout(PATIENCE, echoing).await.unwrap_or_else(|_| Err(late("to echo")))?;
    to.borrow_mut().push(socket);
    Ok(())
}

async fn close(sockets: Sockets) -> io::Result<()> {
    let Some(mut socket) = sockets.borrow_mut().pop() else { return Ok(()) };
    let closing = async { socket.close(None).await.map_err(io::Error::other) };
    runtime::timeout(PATIENCE, closing).await.unwrap_or_else(|_| Err(late("to close")))
}

fn late(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("it took over 30 s {what}"))
}
