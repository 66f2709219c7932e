//! The graceful end of everything a shard serves, on SIGTERM or on demand.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::future::{Either, select};
use throng_runtime::{Instant, sleep, spawn_local, timeout};

use crate::shared::Drained;
use crate::told::{Key, Told};

/// How long those that were cut may take to let go.
const LET_GO: Duration = Duration::from_secs(1);

/// How far a drain is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It has not begun.
    Serving,
    /// Nothing new is taken; what is under way ends by itself until then.
    Draining {
        /// When the rest is cut.
        until: Instant,
    },
    /// What is left ends now.
    Cut,
}

/// The graceful end of what one shard serves: servers ([`Running::serve_until`]), WebSockets
/// (`throng_ws::Config::drain`) and whatever else [`enter`](Drain::enter)s. Clones are the
/// same drain.
///
/// Accepting stops at once; requests and messages under way end, connections between two
/// requests are closed, WebSockets with code 1001; what is left at the deadline is cut.
///
/// ```no_run
/// # use std::time::Duration;
/// # use throng_http::{BoxError, Drain, Server, Service};
/// # use hyper::{Request, Response, body::Incoming};
/// # async fn example<S>(listener: throng_net::TcpListener, service: S) where
/// #     S: Service<Request<Incoming>, Response = Response<String>, Error = BoxError> + 'static,
/// #     S::Future: 'static {
/// // In the future that `Builder::run` runs on every shard:
/// let drain = Drain::on_terminate(Duration::from_secs(10));
/// Server::new().start().serve_until(&drain, listener, service).await;
/// let drained = drain.ended().await;
/// println!("{drained:?}");
/// # }
/// ```
///
/// [`Running::serve_until`]: crate::Running::serve_until
#[derive(Clone)]
pub struct Drain(Rc<Inner>);

struct Inner {
    stage: Cell<Stage>,
    guests: Cell<usize>,
    /// Guests when it began, and those of them that were cut.
    at_begin: Cell<usize>,
    cut: Cell<u64>,
    /// The tasks of guests, to be told of a new stage.
    tasks: Told,
    /// Tasks that wait for a stage, or for the last guest to leave.
    watchers: RefCell<Vec<Waker>>,
}

impl fmt::Debug for Drain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drain")
            .field("stage", &self.stage())
            .field("guests", &self.0.guests.get())
            .finish()
    }
}

impl Default for Drain {
    fn default() -> Drain {
        Drain::new()
    }
}

impl Drain {
    /// One that begins when [`begin`](Drain::begin) is called.
    pub fn new() -> Drain {
        Drain(Rc::new(Inner {
            stage: Cell::new(Stage::Serving),
            guests: Cell::new(0),
            at_begin: Cell::new(0),
            cut: Cell::new(0),
            tasks: Told::default(),
            watchers: RefCell::default(),
        }))
    }

    /// One that begins on SIGTERM or SIGINT ([`throng_runtime::signal::terminate`]), and gives
    /// what is under way `deadline` to end.
    ///
    /// # Panics
    /// When the thread runs no shard.
    pub fn on_terminate(deadline: Duration) -> Drain {
        let drain = Drain::new();
        let handle = drain.clone();
        let waiting = async move {
            throng_runtime::signal::terminate().await;
            tracing::info!(shard = %throng_runtime::current_shard(), ?deadline, "terminated: draining");
            handle.begin(deadline);
        };
        spawn_local(waiting).detach();
        drain
    }

    /// Begins, unless it has begun.
    ///
    /// # Panics
    /// When the thread runs no shard.
    pub fn begin(&self, deadline: Duration) {
        if self.0.stage.get() != Stage::Serving {
            return;
        }
        self.0.at_begin.set(self.0.guests.get());
        self.0.enter_stage(Stage::Draining { until: throng_runtime::now() + deadline });
        let inner = self.0.clone();
        let cutting = async move {
            sleep(deadline).await;
            inner.enter_stage(Stage::Cut);
        };
        spawn_local(cutting).detach();
    }

    /// How far it is.
    pub fn stage(&self) -> Stage {
        self.0.stage.get()
    }

    /// Waits until it begins.
    pub async fn begun(&self) {
        poll_fn(|cx| {
            if self.stage() != Stage::Serving {
                return Poll::Ready(());
            }
            self.0.watch(cx);
            Poll::Pending
        })
        .await;
    }

    /// What `future` gives, or `None` once the drain begins: for accept loops.
    pub async fn until<F: Future>(&self, future: F) -> Option<F::Output> {
        match select(pin!(self.begun()), pin!(future)).await {
            Either::Left(_) => None,
            Either::Right((output, _)) => Some(output),
        }
    }

    /// Counts something that the end waits for, until the guest is dropped.
    pub fn enter(&self) -> Guest {
        self.0.guests.set(self.0.guests.get() + 1);
        Guest { inner: self.0.clone(), key: None }
    }

    /// Waits until the drain has begun and everyone has left; for at most a second longer than
    /// its deadline. The connections of servers are counted, other guests, and servers that have
    /// not ended yet.
    pub async fn ended(&self) -> Drained {
        self.begun().await;
        let left = poll_fn(|cx| {
            if self.0.guests.get() == 0 {
                return Poll::Ready(());
            }
            self.0.watch(cx);
            Poll::Pending
        });
        if let Stage::Draining { until } = self.stage() {
            let patience = until.saturating_since(throng_runtime::now()) + LET_GO;
            let _ = timeout(patience, left).await;
        } else {
            let _ = timeout(LET_GO, left).await;
        }
        let cut = self.0.cut.get() + self.0.guests.get() as u64;
        let all = self.0.at_begin.get() as u64;
        Drained { finished: all.saturating_sub(cut), cut }
    }
}

impl Inner {
    fn enter_stage(&self, stage: Stage) {
        self.stage.set(stage);
        self.tasks.tell();
        self.notify();
    }

    fn watch(&self, cx: &Context<'_>) {
        let mut watchers = self.watchers.borrow_mut();
        if !watchers.iter().any(|waker| waker.will_wake(cx.waker())) {
            watchers.push(cx.waker().clone());
        }
    }

    fn notify(&self) {
        self.watchers.take().into_iter().for_each(Waker::wake);
    }
}

/// One of those a drain waits for.
pub struct Guest {
    inner: Rc<Inner>,
    key: Option<Key>,
}

impl fmt::Debug for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guest").field("stage", &self.stage()).finish_non_exhaustive()
    }
}

impl Guest {
    /// How far the drain is.
    pub fn stage(&self) -> Stage {
        self.inner.stage.get()
    }

    /// How far the drain is; the task is woken when that changes, the one that asked last.
    pub fn poll_stage(&mut self, cx: &Context<'_>) -> Stage {
        match self.key {
            Some(key) => self.inner.tasks.update(key, cx),
            None => self.key = Some(self.inner.tasks.insert(cx)),
        }
        self.inner.stage.get()
    }

    /// It was a server: its connections are counted instead of it.
    pub(crate) fn served(self, drained: Drained) {
        let inner = &self.inner;
        let all = drained.finished + drained.cut;
        inner.at_begin.set((inner.at_begin.get() + all as usize).saturating_sub(1));
        inner.cut.set(inner.cut.get() + drained.cut);
    }

    /// Notes that it does not end by itself but is cut.
    pub fn cut(&mut self) {
        self.inner.cut.set(self.inner.cut.get() + 1);
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.inner.tasks.remove(key);
        }
        self.inner.guests.set(self.inner.guests.get() - 1);
        if self.inner.guests.get() == 0 {
            self.inner.notify();
        }
    }
}
