//! What the connections of one server share on one shard: settings, counters, the drain.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use throng_runtime::Instant;
use throng_runtime::metrics::{Measured, Metric};

use crate::builders::Builders;
use crate::plain::Scratch;
use crate::refused::Refused;
use crate::server::Server;
use crate::told::{Key, Told};

throng_runtime::metrics! {
    /// Totals of one server on one shard since it was made.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    #[non_exhaustive]
    pub struct Counters {
        /// Connections taken from the listener.
        counter accepted: u64,
        /// Times the listener failed.
        counter accept_errors: u64,
        /// Times accepting paused because the most allowed were open.
        limit at_limit: u64,
        /// Connections dropped because the shard had no room for a task.
        limit no_task: u64,
        /// Requests handed to the service.
        counter requests: u64,
        /// Connections that spoke HTTP/2.
        counter http2: u64,
        /// Times a connection between two requests gave hyper's state back.
        counter parked: u64,
        /// Connections closed because a request's head, or the first one's first byte, came too
        /// slowly.
        counter header_timeouts: u64,
        /// Connections closed because a body stood still for too long.
        counter body_timeouts: u64,
        /// Connections closed because no further request came.
        counter idle_timeouts: u64,
        /// Requests of HTTP/1 answered with an error before a service saw them: malformed,
        /// ambiguous, too large, too slow; and connections of HTTP/2 ended for a breach of it.
        counter refused: u64,
        /// Connections that ended with an error of hyper's: malformed requests, resets, failed
        /// services.
        counter errors: u64,
        /// Connections whose service panicked.
        counter panics: u64,
        /// Connections cut at the end of a drain.
        counter cut: u64,
        /// Connections open now.
        gauge open: usize,
    }
}

/// The result of a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Drained {
    /// Connections that ended by themselves after the drain had begun.
    pub finished: u64,
    /// Connections cut at the deadline.
    pub cut: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Serving,
    /// No new connections; those open end after the request they are in.
    Draining {
        until: Instant,
        /// Until when connections between two requests may stay.
        idle: Instant,
    },
    /// All connections end now.
    Cut,
}

type OnRefused = Rc<dyn Fn(&Refused)>;

pub(crate) struct Shared {
    pub(crate) settings: Server,
    pub(crate) builders: Builders,
    /// For the heads of plain requests.
    pub(crate) scratch: RefCell<Scratch>,
    counters: Cell<Counters>,
    phase: Cell<Phase>,
    open: Cell<usize>,
    open_at_drain: Cell<usize>,
    /// The tasks of open connections, to be told of a drain.
    connections: Told,
    /// Who wants to hear of requests that no service sees.
    on_refused: RefCell<Option<OnRefused>>,
    /// Tasks that wait for `open` or `phase` to change: accept loops, drains.
    watchers: RefCell<Vec<Waker>>,
}

impl Shared {
    pub(crate) fn new(settings: Server) -> Self {
        Shared {
            builders: Builders::new(&settings),
            settings,
            scratch: RefCell::default(),
            counters: Cell::default(),
            phase: Cell::new(Phase::Serving),
            open: Cell::new(0),
            open_at_drain: Cell::new(0),
            connections: Told::default(),
            on_refused: RefCell::default(),
            watchers: RefCell::default(),
        }
    }

    pub(crate) fn count(&self, change: impl FnOnce(&mut Counters)) {
        let mut counters = self.counters.get();
        change(&mut counters);
        self.counters.set(counters);
    }

    pub(crate) fn on_refused(&self, hook: impl Fn(&Refused) + 'static) {
        let old = self.on_refused.replace(Some(Rc::new(hook)));
        drop(old);
    }

    /// Counts a refusal, and tells of it; `refused` is not made for nobody.
    pub(crate) fn refused(&self, refused: impl FnOnce() -> Refused) {
        self.count(|counters| counters.refused += 1);
        // Not while the cell is borrowed: the hook may set another one.
        let hook = self.on_refused.borrow().clone();
        if let Some(hook) = hook {
            hook(&refused());
        }
    }

    pub(crate) fn counters(&self) -> Counters {
        Counters { open: self.open.get(), ..self.counters.get() }
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase.get()
    }

    pub(crate) fn open(&self) -> usize {
        self.open.get()
    }

    pub(crate) fn has_room(&self) -> bool {
        self.open.get() < self.settings.max_connections
    }

    pub(crate) fn watch(&self, cx: &Context<'_>) {
        let mut watchers = self.watchers.borrow_mut();
        if !watchers.iter().any(|waker| waker.will_wake(cx.waker())) {
            watchers.push(cx.waker().clone());
        }
    }

    fn notify(&self) {
        for waker in self.watchers.take() {
            waker.wake();
        }
    }

    pub(crate) fn drain(&self, deadline: Duration) {
        if self.phase.get() == Phase::Serving {
            self.open_at_drain.set(self.open.get());
            let now = throng_runtime::now();
            let idle = now + self.settings.drain_idle.min(deadline);
            self.phase.set(Phase::Draining { until: now + deadline, idle });
            self.connections.tell();
            self.notify();
        }
    }

    pub(crate) fn cut(&self) {
        self.phase.set(Phase::Cut);
        self.connections.tell();
        self.notify();
    }

    /// Ready when the drain is over.
    pub(crate) fn poll_drained(&self, cx: &mut Context<'_>) -> Poll<Drained> {
        if self.phase.get() != Phase::Serving && self.open.get() == 0 {
            let cut = self.counters.get().cut;
            let all = self.open_at_drain.get() as u64;
            return Poll::Ready(Drained { finished: all.saturating_sub(cut), cut });
        }
        self.watch(cx);
        Poll::Pending
    }
}

impl Measured for Shared {
    fn measure(&self) -> Vec<(&'static Metric, u64)> {
        self.counters().measure()
    }
}

/// One open connection in the books of its server.
pub(crate) struct Membership {
    pub(crate) shared: Rc<Shared>,
    key: Option<Key>,
}

impl Membership {
    pub(crate) fn new(shared: Rc<Shared>) -> Self {
        shared.open.set(shared.open.get() + 1);
        Membership { shared, key: None }
    }

    /// The task that a drain has to wake; a task does not change its waker.
    pub(crate) fn register(&mut self, cx: &Context<'_>) {
        if self.key.is_none() {
            self.key = Some(self.shared.connections.insert(cx));
        }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.shared.connections.remove(key);
        }
        let was_full = !self.shared.has_room();
        self.shared.open.set(self.shared.open.get() - 1);
        if was_full || self.shared.phase() != Phase::Serving {
            self.shared.notify();
        }
    }
}
