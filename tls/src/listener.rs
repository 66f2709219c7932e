//! A listening socket whose connections come with their handshake done.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::mem;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use slab::Slab;
use throng_net::{SendStream, TcpListener, TcpStream};
use throng_runtime::{Instant, JoinHandle, now, timeout, try_spawn_local};

use crate::server::Acceptor;
use crate::stream::TlsStream;

/// Handshakes a listener keeps under way where nobody says otherwise.
const MAX_HANDSHAKES: usize = 1_024;
/// Handshakes begun in one poll, before others have their turn.
const BURST: usize = 64;
/// How long a handshake keeps its place whoever waits for one: enough for the round trips of a
/// slow path.
const GRACE: Duration = Duration::from_secs(1);

/// Totals of one [`TlsListener`] since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Handshakes begun.
    pub started: u64,
    /// Handshakes that made a connection.
    pub finished: u64,
    /// Those of them that resumed an earlier session.
    pub resumed: u64,
    /// Handshakes that failed: the peer left, or does not speak TLS as we do.
    pub failed: u64,
    /// Handshakes that took too long.
    pub timed_out: u64,
    /// Handshakes ended before their time because others waited for their places.
    pub displaced: u64,
    /// Times accepting paused because all places were taken, see [`TlsListener::max_handshakes`].
    pub at_limit: u64,
    /// Connections dropped because the shard had no room for a task.
    pub no_task: u64,
}

/// A TCP listener on this shard that hands out connections after their TLS handshake.
///
/// Each handshake is a task of the shard, so that a slow client keeps nobody waiting. At most
/// [`max_handshakes`](TlsListener::max_handshakes) connections are in one, or have it behind
/// them and wait for [`accept`](TlsListener::accept). The next one takes the place of the
/// oldest handshake that has lasted over a second, so that clients that say nothing keep others
/// out for no longer; where there is none such, it waits in the TCP listener's backlog, and
/// when that is full, SYNs are dropped and tried again.
///
/// A handshake that fails is counted and said in a debug event; `accept` does not return it.
/// Dropping the listener ends the handshakes under way.
#[derive(Debug)]
pub struct TlsListener {
    /// Until it is closed to new connections.
    tcp: RefCell<Option<TcpListener>>,
    acceptor: Acceptor,
    max_handshakes: usize,
    shared: Rc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    under_way: RefCell<Slab<Handshake>>,
    ready: RefCell<VecDeque<(TlsStream, SocketAddr)>>,
    waiting: RefCell<Vec<Waker>>,
    counters: Cell<Counters>,
}

#[derive(Debug)]
struct Handshake {
    task: JoinHandle<()>,
    /// When it began; `None`: it has been ended, and its task will be gone in the next turn.
    since: Option<Instant>,
}

impl TlsListener {
    /// Hands out the connections of `tcp`; they get TCP_NODELAY, as records are worth a
    /// segment each.
    pub fn new(tcp: TcpListener, acceptor: Acceptor) -> TlsListener {
        let tcp = RefCell::new(Some(tcp));
        TlsListener { tcp, acceptor, max_handshakes: MAX_HANDSHAKES, shared: Rc::default() }
    }

    /// Most connections, at least one, in a handshake or waiting to be accepted after it.
    /// Default 1,024; one in a handshake holds some 10 KiB, at worst 64 KiB.
    #[must_use]
    pub fn max_handshakes(mut self, max: usize) -> Self {
        self.max_handshakes = max.max(1);
        self
    }

    /// The next connection that has its handshake behind it, and its peer's address.
    ///
    /// # Errors
    /// As for [`TcpListener::accept`].
    pub async fn accept(&self) -> io::Result<(TlsStream, SocketAddr)> {
        poll_fn(|cx| self.poll_accept(cx)).await
    }

    /// Polls for the next connection, and begins handshakes. Several tasks may wait at once.
    pub fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(TlsStream, SocketAddr)>> {
        if let Some(accepted) = self.shared.ready.borrow_mut().pop_front() {
            return Poll::Ready(Ok(accepted));
        }
        self.shared.wait(cx);
        for _ in 0..BURST {
            let full = self.shared.held() >= self.max_handshakes;
            let displaced = if full { self.shared.oldest() } else { None };
            if full && displaced.is_none() {
                self.shared.count(|counters| counters.at_limit += 1);
                return Poll::Pending;
            }
            let accepted = match &*self.tcp.borrow() {
                Some(tcp) => tcp.poll_accept(cx),
                None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
            };
            match accepted {
                Poll::Ready(Ok((stream, peer))) => {
                    if let Some(key) = displaced {
                        self.shared.displace(key);
                    }
                    self.begin(stream, peer);
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Closes it to new connections, and polls for the next one of those whose handshakes are
    /// under way, or whose [header](TcpListener::proxy_protocol) is; `None` when there are none left.
    /// [`poll_accept`](TlsListener::poll_accept) is of no use from then on.
    pub fn poll_last(&self, cx: &mut Context<'_>) -> Poll<Option<(TlsStream, SocketAddr)>> {
        let mut tcp = self.tcp.borrow_mut();
        while let Some(last) = tcp.as_ref().map(|tcp| tcp.poll_last(cx)) {
            match last {
                Poll::Ready(Some((stream, peer))) => self.begin(stream, peer),
                Poll::Ready(None) => *tcp = None,
                Poll::Pending => break,
            }
        }
        let accepted = self.shared.ready.borrow_mut().pop_front();
        if accepted.is_none() && (tcp.is_some() || self.handshakes() > 0) {
            self.shared.wait(cx);
            return Poll::Pending;
        }
        Poll::Ready(accepted)
    }

    /// The address it listens at.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match &*self.tcp.borrow() {
            Some(tcp) => tcp.local_addr(),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Handshakes under way.
    pub fn handshakes(&self) -> usize {
        self.shared.under_way.borrow().len()
    }

    /// Totals so far.
    pub fn counters(&self) -> Counters {
        self.shared.counters.get()
    }

    fn begin(&self, stream: TcpStream, peer: SocketAddr) {
        // It fails only for a connection that is over, which the handshake will find out.
        let _ = stream.set_nodelay(true);
        let handshake = self.acceptor.accept::<SendStream>(stream.into_send());
        // Not to be held over the spawning: a task that is refused gives its place back at once.
        let key = self.shared.under_way.borrow().vacant_key();
        let place = Place { shared: self.shared.clone(), key };
        let task = async move {
            let mut handshake = pin!(handshake);
            let result = match timeout(GRACE, &mut handshake).await {
                Ok(result) => result,
                Err(_) => {
                    // From now on whoever waits may have this place.
                    place.shared.wake();
                    handshake.await
                }
            };
            place.shared.on_result(result, peer);
        };
        match try_spawn_local(task) {
            Ok(task) => {
                let task = task.cancel_on_drop();
                let handshake = Handshake { task, since: Some(now()) };
                self.shared.under_way.borrow_mut().insert(handshake);
                self.shared.count(|counters| counters.started += 1);
            }
            Err(_) => self.shared.count(|counters| counters.no_task += 1),
        }
    }
}

impl Drop for TlsListener {
    fn drop(&mut self) {
        drop(mem::take(&mut *self.shared.under_way.borrow_mut()));
        drop(mem::take(&mut *self.shared.ready.borrow_mut()));
    }
}

impl Shared {
    fn held(&self) -> usize {
        self.under_way.borrow().len() + self.ready.borrow().len()
    }

    /// The handshake that has lasted longest, where that is over its grace.
    fn oldest(&self) -> Option<usize> {
        let under_way = self.under_way.borrow();
        let begun = under_way.iter().filter_map(|(key, handshake)| Some((handshake.since?, key)));
        begun.min().filter(|(since, _)| *since + GRACE <= now()).map(|(_, key)| key)
    }

    /// Ends a handshake. Its place is free when its task is gone.
    fn displace(&self, key: usize) {
        if let Some(handshake) = self.under_way.borrow_mut().get_mut(key) {
            handshake.since = None;
            handshake.task.abort();
            self.count(|counters| counters.displaced += 1);
        }
    }

    fn count(&self, change: impl FnOnce(&mut Counters)) {
        let mut counters = self.counters.get();
        change(&mut counters);
        self.counters.set(counters);
    }

    fn on_result(&self, result: io::Result<TlsStream>, peer: SocketAddr) {
        match result {
            Ok(stream) => {
                self.count(|counters| {
                    counters.finished += 1;
                    counters.resumed += u64::from(stream.resumed());
                });
                self.ready.borrow_mut().push_back((stream, peer));
            }
            Err(error) => {
                tracing::debug!(%peer, %error, "TLS handshake failed");
                self.count(|counters| match error.kind() {
                    io::ErrorKind::TimedOut => counters.timed_out += 1,
                    _ => counters.failed += 1,
                });
            }
        }
    }

    fn wait(&self, cx: &Context<'_>) {
        let mut waiting = self.waiting.borrow_mut();
        if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            waiting.push(cx.waker().clone());
        }
    }

    fn wake(&self) {
        for waker in self.waiting.take() {
            waker.wake();
        }
    }
}

/// A handshake's place among those under way, given back at the end of its task.
struct Place {
    shared: Rc<Shared>,
    key: usize,
}

impl Drop for Place {
    fn drop(&mut self) {
        // Not there if the listener has gone, or if there was no room for the task.
        let removed = self.shared.under_way.borrow_mut().try_remove(self.key);
        if let Some(handshake) = removed {
            handshake.task.detach();
        }
        self.shared.wake();
    }
}
