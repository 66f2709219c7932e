//! Connections whose header is waited for, each in a task of its own, so that a slow proxy keeps
//! nobody waiting: no other proxy as long as there is room, and no direct client ever.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use slab::Slab;
use throng_runtime::{JoinHandle, timeout, try_spawn_local};

use super::{Header, ProxyProtocol, Settings};
use crate::TcpStream;

/// Connections taken from the listener in one poll, before others have their turn.
const BURST: usize = 64;

type Accepted = (TcpStream, SocketAddr);

/// What stands between a listener and its user.
#[derive(Debug)]
pub(crate) struct Gate {
    settings: ProxyProtocol,
    shared: Rc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    reading: RefCell<Slab<JoinHandle<()>>>,
    /// Those that come when as many as may are read; at most as many again. Nobody looks at them.
    held: RefCell<VecDeque<Accepted>>,
    ready: RefCell<VecDeque<Accepted>>,
    waiting: RefCell<Vec<Waker>>,
}

impl Gate {
    pub(crate) fn new(settings: ProxyProtocol) -> Gate {
        Gate { settings, shared: Rc::default() }
    }

    /// The next connection whose beginning is known; `accept` takes new ones.
    pub(crate) fn poll_accept(
        &self,
        cx: &mut Context<'_>,
        mut accept: impl FnMut(&mut Context<'_>) -> Poll<io::Result<Accepted>>,
    ) -> Poll<io::Result<Accepted>> {
        let (shared, settings) = (&self.shared, &self.settings.0);
        for _ in 0..BURST {
            self.begin_held();
            if let Some(accepted) = shared.ready.borrow_mut().pop_front() {
                return Poll::Ready(Ok(accepted));
            }
            shared.wait(cx);
            let (stream, peer) = std::task::ready!(accept(cx))?;
            if !(settings.trusted)(peer.ip().to_canonical()) {
                settings.count(|counters| counters.direct += 1);
                return Poll::Ready(Ok((stream, peer)));
            }
            if shared.reading.borrow().len() < settings.max_waiting {
                self.begin(stream, peer);
            } else if shared.held.borrow().len() < settings.max_waiting {
                settings.count(|counters| counters.at_limit += 1);
                shared.held.borrow_mut().push_back((stream, peer));
            } else {
                // In the backlog it would have direct clients wait behind it.
                settings.count(|counters| counters.turned_away += 1);
                stream.abort();
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Reads those whose turn it is.
    fn begin_held(&self) {
        while self.shared.reading.borrow().len() < self.settings.0.max_waiting {
            let next = self.shared.held.borrow_mut().pop_front();
            let Some((stream, peer)) = next else { return };
            self.begin(stream, peer);
        }
    }

    /// The next of those that were taken already; `None` when there are none left.
    pub(crate) fn poll_last(&self, cx: &mut Context<'_>) -> Poll<Option<Accepted>> {
        self.begin_held();
        let accepted = self.shared.ready.borrow_mut().pop_front();
        if accepted.is_none() && !self.shared.reading.borrow().is_empty() {
            self.shared.wait(cx);
            return Poll::Pending;
        }
        Poll::Ready(accepted)
    }

    fn begin(&self, mut stream: TcpStream, peer: SocketAddr) {
        // Not to be held over the spawning: a task that is refused gives its place back at once.
        let key = self.shared.reading.borrow().vacant_key();
        let place = Place { shared: self.shared.clone(), key };
        let settings = self.settings.0.clone();
        let reading = async move {
            let read = timeout(settings.timeout, stream.read_proxy_header()).await;
            let read = read.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            match settings.judge(read, peer) {
                Some(peer) => place.shared.ready.borrow_mut().push_back((stream, peer)),
                // Nothing of such a peer is answered.
                None => stream.abort(),
            }
        };
        match try_spawn_local(reading) {
            Ok(task) => drop(self.shared.reading.borrow_mut().insert(task.cancel_on_drop())),
            Err(_) => self.settings.0.count(|counters| counters.no_task += 1),
        }
    }
}

impl Settings {
    /// Whose connection it is; `None`: one to be closed.
    fn judge(&self, read: io::Result<Header>, peer: SocketAddr) -> Option<SocketAddr> {
        match read {
            Ok(Header::Proxied(addresses)) => {
                self.count(|counters| counters.headers += 1);
                Some(addresses.source)
            }
            Ok(Header::Local) => {
                self.count(|counters| {
                    counters.headers += 1;
                    counters.local += 1;
                });
                Some(peer)
            }
            Err(error) => {
                tracing::debug!(%peer, %error, "no PROXY protocol header");
                self.count(|counters| match error.kind() {
                    io::ErrorKind::TimedOut => counters.timed_out += 1,
                    _ => counters.malformed += 1,
                });
                None
            }
        }
    }
}

/// The tasks hold what is shared, and would hold themselves.
impl Drop for Gate {
    fn drop(&mut self) {
        drop(std::mem::take(&mut *self.shared.reading.borrow_mut()));
        drop(std::mem::take(&mut *self.shared.held.borrow_mut()));
        drop(std::mem::take(&mut *self.shared.ready.borrow_mut()));
    }
}

impl Shared {
    fn wait(&self, cx: &Context<'_>) {
        let mut waiting = self.waiting.borrow_mut();
        if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            waiting.push(cx.waker().clone());
        }
    }
}

/// A connection's place among those whose header is waited for, given back at its task's end.
struct Place {
    shared: Rc<Shared>,
    key: usize,
}

impl Drop for Place {
    fn drop(&mut self) {
        // Not there if the listener has gone, or if there was no room for the task.
        let removed = self.shared.reading.borrow_mut().try_remove(self.key);
        if let Some(task) = removed {
            task.detach();
        }
        for waker in self.shared.waiting.take() {
            waker.wake();
        }
    }
}
