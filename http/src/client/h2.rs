//! One HTTP/2 connection: shared by as many requests as the peer takes streams.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use hyper::Request;
use hyper::client::conn::http2::{Connection, SendRequest};
use throng_runtime::Instant;

use super::body::RequestBody;
use super::error::{Error, ErrorKind};
use super::h1::Outcome;
use super::pool::Host;
use super::wire::{Notes, Wire};
use crate::rt::{Alarm, LocalExecutor};

pub(super) struct H2 {
    host: Rc<Host>,
    notes: Rc<Notes>,
    born: Instant,
    /// Gone when the connection gets no more requests; hyper then ends it after the last.
    sender: RefCell<Option<SendRequest<RequestBody>>>,
    /// Out while it is polled.
    hyper: RefCell<Option<Connection<Wire, RequestBody, LocalExecutor>>>,
    /// Streams in use.
    streams: Cell<usize>,
    /// Streams the peer takes, when hyper was asked last.
    max_streams: Cell<usize>,
    /// Requests begun.
    pub(super) uses: Cell<u64>,
    task: RefCell<Option<Waker>>,
}

impl H2 {
    /// Shakes hands over `wire`.
    ///
    /// # Errors
    /// The transport's, or no room for a task.
    pub(super) async fn connect(host: Rc<Host>, wire: Wire) -> Result<Rc<H2>, Error> {
        let notes = wire.notes.clone();
        let (sender, hyper) = host
            .pool
            .http2
            .handshake(wire)
            .await
            .map_err(|error| Error::new(ErrorKind::Connect, error))?;
        let connection = Rc::new(H2 {
            host,
            notes,
            born: throng_runtime::now(),
            sender: RefCell::new(Some(sender)),
            max_streams: Cell::new(hyper.current_max_send_streams()),
            hyper: RefCell::new(Some(hyper)),
            streams: Cell::new(0),
            uses: Cell::new(0),
            task: RefCell::default(),
        });
        let driver =
            Driver { connection: connection.clone(), alarm: Alarm::default(), since: None };
        match throng_runtime::try_spawn_local(driver) {
            Ok(task) => task.detach(),
            Err(error) => return Err(Error::new(ErrorKind::Exhausted, error)),
        }
        Ok(connection)
    }

    /// Whether it takes another request now.
    pub(super) fn has_room(&self) -> bool {
        let usable = self.sender.borrow().as_ref().is_some_and(|sender| !sender.is_closed());
        self.note_max_streams();
        usable && self.streams.get() < self.max_streams.get()
    }

    /// Whether the peer takes more streams than it did.
    fn note_max_streams(&self) -> bool {
        let hyper = self.hyper.borrow();
        let Some(most) = hyper.as_ref().map(Connection::current_max_send_streams) else {
            return false;
        };
        self.max_streams.replace(most) < most
    }

    /// It has failed, or its peer takes no more.
    pub(super) fn give_up(self: &Rc<Self>) {
        self.host.remove_http2(self);
        self.retire();
    }

    /// Gives it no more requests.
    pub(super) fn retire(&self) {
        let sender = self.sender.take();
        drop(sender);
        self.wake();
    }

    pub(super) fn wake(&self) {
        if let Some(waker) = &*self.task.borrow() {
            waker.wake_by_ref();
        }
    }
}

/// A caller that gives up after less than this was in a hurry; after more, the peer is in doubt.
const PATIENCE: Duration = Duration::from_secs(1);

/// The right to one request.
pub(super) struct Stream(pub(super) Rc<H2>, Cell<Option<Instant>>);

impl Stream {
    pub(super) fn new(connection: Rc<H2>) -> Self {
        connection.streams.set(connection.streams.get() + 1);
        Stream(connection, Cell::new(None))
    }

    /// Sends. The future may be dropped; the stream is then reset. `None`: the connection has
    /// been retired meanwhile, and nothing was sent.
    pub(super) fn start(
        &self,
        request: Request<RequestBody>,
    ) -> Option<impl Future<Output = Outcome> + use<>> {
        self.0.uses.set(self.0.uses.get() + 1);
        self.1.set(Some(throng_runtime::now()));
        let mut sender = self.0.sender.borrow().clone()?;
        Some(sender.try_send_request(request))
    }

    /// The head of the response is here.
    pub(super) fn answered(&self) {
        self.1.set(None);
    }

    /// An answer has been waited for in vain since then. A peer that has said nothing at all
    /// meanwhile may be gone: its connection gets no more requests.
    pub(super) fn doubt(&self, since: Instant) {
        if self.0.notes.heard.get().is_none_or(|heard| heard <= since) {
            self.0.give_up();
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // Outside a shard (a client dropped after its world) there is no clock to read.
        if let Some(since) = self.1.get()
            && throng_runtime::try_current_shard().is_some()
            && since + PATIENCE <= throng_runtime::now()
        {
            self.doubt(since);
        }
        let connection = &self.0;
        connection.streams.set(connection.streams.get() - 1);
        if connection.streams.get() == 0 {
            connection.wake();
        }
        connection.host.pump();
    }
}

struct Driver {
    connection: Rc<H2>,
    alarm: Alarm,
    /// Since when no stream is in use.
    since: Option<Instant>,
}

impl Driver {
    /// When the connection has been idle or alive for too long.
    fn deadline(&mut self) -> Option<Instant> {
        let connection = &self.connection;
        let settings = &connection.host.pool.settings;
        if connection.streams.get() > 0 {
            self.since = None;
        } else {
            self.since.get_or_insert_with(throng_runtime::now);
        }
        let idle = self.since.map(|since| since + settings.idle_timeout);
        let old = settings.max_lifetime.map(|lifetime| connection.born + lifetime);
        idle.into_iter().chain(old).min()
    }

    fn retire(&self) {
        if self.connection.host.remove_http2(&self.connection) && self.since.is_some() {
            self.connection.host.pool.count(|stats| stats.evicted += 1);
        }
        self.connection.retire();
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        *this.connection.task.borrow_mut() = Some(cx.waker().clone());
        let hyper = this.connection.hyper.take();
        let Some(mut hyper) = hyper else { return Poll::Ready(()) };
        if let Poll::Ready(result) = Pin::new(&mut hyper).poll(cx) {
            if let Err(error) = result {
                tracing::debug!(%error, "HTTP/2 client connection failed");
            }
            return Poll::Ready(());
        }
        *this.connection.hyper.borrow_mut() = Some(hyper);
        // hyper reads in a task of its own: `Host::heard` has woken this one.
        if this.connection.note_max_streams() {
            this.connection.host.pump();
        }
        let retired = this.connection.sender.borrow().is_none();
        if !retired
            && let Some(at) = this.deadline()
            && this.alarm.poll_at(at, cx).is_ready()
        {
            this.retire();
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.retire();
        let hyper = self.connection.hyper.take();
        drop(hyper);
        // Its place may be free for a successor.
        self.connection.host.pump();
    }
}
