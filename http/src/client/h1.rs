//! One HTTP/1 connection: its task, which runs hyper during an exchange and watches the
//! transport between two.
//!
//! ```text
//!            start                            the last byte is read, all is flushed
//! Moving ------------> Busy (hyper) ---------------------------------------------> Idle
//!    ^                   |    |                                                     |
//!    |   checked out     |    '--> Switched: after a 101 the transport is its user's |
//!    '-------------------|----------------------------------------------------------'
//!                        '--> Over <-- closed by the peer, too long idle, too old, evicted
//! ```
//!
//! Between exchanges hyper's state and buffers are gone; an idle connection is its stream and
//! this task.

use std::cell::{Cell, RefCell};
use std::mem;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use futures::FutureExt;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{Connection, Parts, SendRequest};
use hyper::{Request, Response};

use super::body::RequestBody;
use super::error::{Error, ErrorKind};
use super::pool::Host;
use super::rest::Rested;
use super::wire::{Notes, Wire};
use crate::rt::Alarm;

pub(super) struct H1 {
    host: Rc<Host>,
    pub(super) notes: Rc<Notes>,
    state: RefCell<State>,
    /// Requests begun.
    pub(super) uses: Cell<u64>,
    /// A switch of protocols was asked for and may still come.
    switching: Cell<bool>,
    /// The last of them whose response has been read, or given up.
    answered: Cell<u64>,
    task: RefCell<Option<Waker>>,
    /// Who waits for `Switched`.
    upgrading: RefCell<Option<Waker>>,
}

enum State {
    Idle(Wire),
    Busy(Box<Busy>),
    /// Someone has taken the state out and will put one back.
    Moving,
    Switched(Wire, Bytes),
    Over,
}

struct Busy {
    hyper: Connection<Wire, RequestBody>,
    sender: SendRequest<RequestBody>,
}

/// What became of a request: on failure it may come back, if none of it was sent.
pub(super) type Outcome = Result<Response<Incoming>, TrySendError<Request<RequestBody>>>;

impl H1 {
    /// A connection for `wire`, which has carried `uses` requests, and which the caller holds and
    /// passes to [`start`](Self::start).
    ///
    /// # Errors
    /// No room for a task.
    pub(super) fn spawn(wire: &Wire, uses: u64) -> Result<Rc<H1>, Error> {
        let connection = Rc::new(H1 {
            host: wire.host().clone(),
            notes: wire.notes.clone(),
            state: RefCell::new(State::Moving),
            uses: Cell::new(uses),
            switching: Cell::new(false),
            answered: Cell::new(uses),
            task: RefCell::default(),
            upgrading: RefCell::default(),
        });
        let driver =
            Driver { connection: connection.clone(), alarm: Alarm::default(), since: None };
        match throng_runtime::try_spawn_local(driver) {
            Ok(task) => task.detach(),
            Err(error) => return Err(Error::new(ErrorKind::Exhausted, error)),
        }
        Ok(connection)
    }

    pub(super) fn host(&self) -> &Rc<Host> {
        &self.host
    }

    /// Whether it is between two requests.
    pub(super) fn is_idle(&self) -> bool {
        matches!(*self.state.borrow(), State::Idle(_))
    }

    /// Takes the transport of an idle connection, if it is still of use.
    pub(super) fn check_out(&self, cx: &mut Context<'_>) -> Option<Wire> {
        if let State::Idle(mut wire) = self.state.replace(State::Moving) {
            if wire.poll_over(cx).is_pending() {
                return Some(wire);
            }
            self.host.pool.count(|stats| stats.evicted += 1);
        }
        self.close();
        None
    }

    /// Goes on without a task, and the task ends; `wire` was checked out.
    pub(super) fn retire(&self, wire: Wire) -> Rested {
        self.close();
        Rested::new(wire, self.uses.get())
    }

    /// Begins an exchange. The future may be dropped; the connection is then closed.
    ///
    /// # Errors
    /// None in practice: an HTTP/1 handshake with hyper sends nothing.
    pub(super) fn start(
        &self,
        wire: Wire,
        request: Request<RequestBody>,
        switching: bool,
    ) -> Result<impl Future<Output = Outcome> + use<>, Error> {
        wire.begin();
        self.switching.set(switching);
        self.uses.set(self.uses.get() + 1);
        let handshake = self.host.pool.http1.handshake(wire).now_or_never();
        let (mut sender, hyper) = match handshake {
            Some(Ok(parts)) => parts,
            failed => {
                self.close();
                let error = failed.and_then(Result::err).map(Error::of_hyper);
                return Err(error.unwrap_or_else(|| Error::of(ErrorKind::Protocol)));
            }
        };
        let outcome = sender.try_send_request(request);
        self.state.replace(State::Busy(Box::new(Busy { hyper, sender })));
        self.wake();
        Ok(outcome)
    }

    /// Ends an idle connection.
    pub(super) fn close(&self) {
        match self.state.replace(State::Over) {
            State::Idle(wire) => wire.part(),
            state => drop(state),
        }
        self.wake();
    }

    /// The response to this request, counted by `uses`, has been read or given up. The rest of
    /// the request, if there is any, has little time left.
    pub(super) fn answered(&self, request: u64) {
        self.answered.set(request);
        let busy = matches!(*self.state.borrow(), State::Busy(_));
        if busy {
            self.wake();
        }
    }

    /// The response switches no protocols after all.
    pub(super) fn stay(&self) {
        self.switching.set(false);
        let switched = matches!(*self.state.borrow(), State::Switched(..));
        if switched {
            self.close();
        }
    }

    /// The transport after a switch of protocols, and what was read ahead of it.
    pub(super) fn poll_switched(&self, cx: &mut Context<'_>) -> Poll<Option<(Wire, Bytes)>> {
        match self.state.replace(State::Over) {
            State::Switched(wire, ahead) => Poll::Ready(Some((wire, ahead))),
            State::Over => Poll::Ready(None),
            state => {
                self.state.replace(state);
                *self.upgrading.borrow_mut() = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn wake(&self) {
        let task = self.task.borrow();
        if let Some(waker) = &*task {
            waker.wake_by_ref();
        }
    }
}

/// The connection's task. It begins while its maker still holds the transport.
struct Driver {
    connection: Rc<H1>,
    alarm: Alarm,
    /// Since when it is idle, or has only the rest of a request to send.
    since: Option<throng_runtime::Instant>,
}

impl Driver {
    fn poll_idle(&mut self, mut wire: Wire, cx: &mut Context<'_>) -> Poll<()> {
        let host = &self.connection.host;
        let settings = &host.pool.settings;
        let since = *self.since.get_or_insert_with(throng_runtime::now);
        let mut until = since + settings.idle_timeout;
        if let Some(lifetime) = settings.max_lifetime {
            until = until.min(wire.born + lifetime);
        }
        if wire.poll_over(cx).is_pending() && self.alarm.poll_at(until, cx).is_pending() {
            self.connection.state.replace(State::Idle(wire));
            return Poll::Pending;
        }
        if host.remove_idle(&self.connection) {
            host.pool.count(|stats| stats.evicted += 1);
        }
        wire.part();
        Poll::Ready(())
    }

    /// `Ready(true)`: idle now; `Ready(false)`: over.
    fn poll_busy(&mut self, mut busy: Box<Busy>, cx: &mut Context<'_>) -> Poll<bool> {
        let connection = &self.connection;
        if let Poll::Ready(result) = busy.hyper.poll_without_shutdown(cx) {
            if let Err(error) = &result {
                tracing::debug!(%error, "HTTP/1 client connection failed");
            }
            if result.is_ok() && connection.switching.get() {
                let Parts { io, read_buf, .. } = busy.hyper.into_parts();
                connection.state.replace(State::Switched(io, read_buf));
            }
            return Poll::Ready(false);
        }
        // hyper asks for the next request when the exchange has ended and the connection may
        // be kept, but it may have something of the last one's left to write.
        if !busy.sender.is_ready() || connection.notes.unflushed.get() {
            if connection.answered.get() == connection.uses.get() {
                // The peer has answered without reading it all, and may never do so.
                let since = *self.since.get_or_insert_with(throng_runtime::now);
                let until = since + connection.host.pool.settings.head_timeout;
                if self.alarm.poll_at(until, cx).is_ready() {
                    return Poll::Ready(false);
                }
            } else {
                self.since = None;
            }
            connection.state.replace(State::Busy(busy));
            return Poll::Pending;
        }
        let Parts { io: wire, read_buf, .. } = busy.hyper.into_parts();
        let settings = &connection.host.pool.settings;
        let now = throng_runtime::now();
        let old = settings.max_lifetime.is_some_and(|lifetime| wire.born + lifetime <= now);
        // Bytes beyond the response were not asked for: what follows cannot be trusted.
        if old || !read_buf.is_empty() {
            connection.host.pool.count(|stats| stats.evicted += 1);
            return Poll::Ready(false);
        }
        self.since = None;
        connection.state.replace(State::Idle(wire));
        connection.host.put_idle(connection.clone());
        Poll::Ready(true)
    }

    fn end(&self) {
        let connection = &self.connection;
        let switched = matches!(*connection.state.borrow(), State::Switched(..));
        if !switched {
            let state = connection.state.replace(State::Over);
            drop(state);
        }
        if let Some(waker) = connection.upgrading.take() {
            waker.wake();
        }
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if this.connection.task.borrow().as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
            *this.connection.task.borrow_mut() = Some(cx.waker().clone());
        }
        loop {
            let state = mem::replace(&mut *this.connection.state.borrow_mut(), State::Moving);
            match state {
                State::Idle(wire) => return this.poll_idle(wire, cx),
                State::Busy(busy) => match this.poll_busy(busy, cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(true) => {}
                    Poll::Ready(false) => return Poll::Ready(()),
                },
                State::Moving => return Poll::Pending,
                state @ (State::Switched(..) | State::Over) => {
                    this.connection.state.replace(state);
                    return Poll::Ready(());
                }
            }
        }
    }
}

/// Also when the task is dropped unfinished: with its shard, or because hyper called code of
/// the user's that panicked.
impl Drop for Driver {
    fn drop(&mut self) {
        self.connection.host.remove_idle(&self.connection);
        self.end();
    }
}
