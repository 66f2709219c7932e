//! A shard's epoll instance: which of its host sockets have news, and whom to wake.
//!
//! Sockets are registered once, edge-triggered, for both directions. A [`Readiness`] notes
//! the edges; whoever finds a socket empty or full takes the note back and waits for the
//! next edge. All on one thread, between two waits: no edge is missed.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, Event, EventData, EventFlags};
use rustix::net::SocketType;
use slab::Slab;
use throng_runtime::Instant;
use throng_runtime::driver::wait_readable;

use super::stream::Socket;
use crate::tcp::CongestionControl;

/// Events taken at a time.
const EVENTS: usize = 256;
/// Bytes read from a socket at a time, no less than the largest datagram.
pub(super) const SCRATCH: usize = 64 << 10;
/// What epoll calls the descriptor that ends a sleep.
const UNPARK: u64 = u64::MAX;

/// The host sockets of a shard.
pub(crate) struct Reactor {
    epoll: OwnedFd,
    sources: RefCell<Slab<Source>>,
    /// Memory of `poll`.
    events: RefCell<Vec<Event>>,
    /// Where sockets are read into whose reader brings no buffer.
    scratch: RefCell<Vec<u8>>,
    /// Ports of this shard's listeners and UDP sockets: SO_REUSEPORT would let them be bound
    /// twice.
    bound: RefCell<Vec<(SocketType, SocketAddr)>>,
    /// The time of the shard's last turn: a socket may outlive the shard's own context.
    now: Cell<Instant>,
    /// When sources want to be looked at.
    alarms: RefCell<BTreeSet<(Instant, usize)>>,
    /// Sockets whose streams are gone and whose last chunk is not.
    orphans: Cell<usize>,
    /// Whether the descriptor that ends a sleep is registered.
    unpark: Cell<bool>,
    /// How new sockets react to congestion, if the configuration says.
    congestion: Cell<Option<CongestionControl>>,
}

impl std::fmt::Debug for Reactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reactor").field("sockets", &self.sources.borrow().len()).finish()
    }
}

/// What is registered.
#[derive(Clone)]
pub(super) enum Source {
    /// A listener or a UDP socket.
    Plain(Rc<Readiness>),
    /// A connection, which may have a chunk to send on its own.
    Stream(Rc<Socket>),
}

impl Reactor {
    /// # Errors
    /// Without a free descriptor.
    pub(crate) fn new() -> io::Result<Reactor> {
        Ok(Reactor {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            sources: RefCell::default(),
            events: RefCell::new(Vec::with_capacity(EVENTS)),
            scratch: RefCell::default(),
            bound: RefCell::default(),
            now: Cell::default(),
            alarms: RefCell::default(),
            orphans: Cell::new(0),
            unpark: Cell::new(false),
            congestion: Cell::default(),
        })
    }

    /// How TCP sockets made from now on react to congestion; `None`: as the host says.
    pub(crate) fn set_congestion(&self, control: Option<CongestionControl>) {
        self.congestion.set(control);
    }

    pub(super) fn congestion(&self) -> Option<CongestionControl> {
        self.congestion.get()
    }

    /// Wakes the tasks whose sockets have news. Returns whether there were any.
    pub(crate) fn poll(&self) -> bool {
        self.collect(Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))
    }

    /// Sleeps until a socket has news, `unpark` is readable or `timeout` has passed.
    pub(crate) fn park(&self, unpark: BorrowedFd<'_>, timeout: Option<Duration>) {
        if !self.unpark.get() {
            let added = epoll::add(&self.epoll, unpark, EventData::new_u64(UNPARK), EventFlags::IN);
            self.unpark.set(added.is_ok());
        }
        if !self.unpark.get() {
            // No memory in the host: a shorter way to the same end.
            wait_readable(&[unpark, self.epoll.as_fd()], timeout);
        } else if let Some(timeout) = timeout {
            // epoll itself counts in milliseconds.
            wait_readable(&[self.epoll.as_fd()], Some(timeout));
        } else {
            self.collect(None);
            return;
        }
        self.poll();
    }

    /// Readable when `poll` has something to do.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// The next time at which [`advance`](Reactor::advance) has work.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.alarms.borrow().first().map(|(at, _)| *at)
    }

    /// Looks at the sources whose time has come. Returns whether there were any.
    pub(crate) fn advance(&self, now: Instant) -> bool {
        self.now.set(now);
        let mut worked = false;
        while self.next_deadline().is_some_and(|at| at <= now) {
            let Some((_, key)) = self.alarms.borrow_mut().pop_first() else { break };
            worked = true;
            match self.source(key) {
                Some(Source::Plain(ready)) => ready.set(EventFlags::IN),
                Some(Source::Stream(socket)) if socket.give_up(now) => self.bury(key),
                _ => {}
            }
        }
        worked
    }

    /// Streams that are gone and have something to send.
    pub(crate) fn orphans(&self) -> usize {
        self.orphans.get()
    }

    fn collect(&self, timeout: Option<&Timespec>) -> bool {
        let mut events = self.events.take();
        events.clear();
        events.reserve(EVENTS);
        // A signal ends it early, which is as good as nothing.
        let _ = epoll::wait(&self.epoll, spare_capacity(&mut events), timeout);
        let mut any = false;
        for event in &events {
            let (data, flags) = (event.data, event.flags);
            if data.u64() == UNPARK {
                continue;
            }
            any = true;
            let key = data.u64() as usize;
            match self.source(key) {
                Some(Source::Plain(ready)) => ready.set(flags),
                Some(Source::Stream(socket)) => {
                    let over = socket.news(flags);
                    if over {
                        self.bury(key);
                    }
                }
                // Closed, and a child of this process held it a moment longer.
                None => {}
            }
        }
        self.events.replace(events);
        any
    }

    fn source(&self, key: usize) -> Option<Source> {
        self.sources.borrow().get(key).cloned()
    }

    /// Registers a socket. Returns its key.
    pub(super) fn add(&self, fd: BorrowedFd<'_>, source: Source) -> io::Result<usize> {
        let key = self.sources.borrow_mut().insert(source);
        let flags = EventFlags::IN | EventFlags::PRI | EventFlags::OUT | EventFlags::RDHUP;
        let flags = flags | EventFlags::ET;
        let added = epoll::add(&self.epoll, fd, EventData::new_u64(key as u64), flags);
        added.inspect_err(|_| self.remove(key)).map(|()| key).map_err(Into::into)
    }

    /// Forgets a source. Closing its descriptor takes it from the host's list.
    pub(super) fn remove(&self, key: usize) {
        let source = self.sources.borrow_mut().try_remove(key);
        drop(source);
    }

    /// Takes a descriptor from the host's list that will not be closed everywhere.
    pub(super) fn unwatch(&self, fd: BorrowedFd<'_>) {
        // It fails for one that is not there.
        let _ = epoll::delete(&self.epoll, fd);
    }

    /// The time, as of the shard's last turn.
    pub(super) fn now(&self) -> Instant {
        self.now.get()
    }

    /// Keeps a source whose stream is gone until its last chunk is sent, or to `until`.
    pub(super) fn adopt(&self, key: usize, until: Instant) {
        self.orphans.set(self.orphans.get() + 1);
        self.wake_at(key, until);
    }

    fn bury(&self, key: usize) {
        self.orphans.set(self.orphans.get() - 1);
        self.remove(key);
    }

    /// Looks at a source again at `at`.
    pub(super) fn wake_at(&self, key: usize, at: Instant) {
        self.alarms.borrow_mut().insert((at, key));
    }

    /// Lends the buffer for reading.
    pub(super) fn with_scratch<T>(&self, f: impl FnOnce(&mut [u8]) -> T) -> T {
        let mut scratch = self.scratch.borrow_mut();
        scratch.resize(SCRATCH, 0);
        f(&mut scratch)
    }

    /// Whether a socket of this shard has the address.
    ///
    /// # Errors
    /// `AddrInUse` if so.
    pub(super) fn check_free(&self, kind: SocketType, addr: SocketAddr) -> io::Result<()> {
        if addr.port() != 0 && self.bound.borrow().contains(&(kind, addr)) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        Ok(())
    }

    /// Notes the address of a bound socket.
    pub(super) fn note_bound(&self, kind: SocketType, addr: SocketAddr) {
        self.bound.borrow_mut().push((kind, addr));
    }

    /// Forgets one socket at it: of those that were adopted there may be others.
    pub(super) fn forget_bound(&self, kind: SocketType, addr: SocketAddr) {
        let mut bound = self.bound.borrow_mut();
        if let Some(at) = bound.iter().position(|entry| *entry == (kind, addr)) {
            bound.swap_remove(at);
        }
    }
}

impl Drop for Reactor {
    /// A chunk that is cut off here must not look like the end of its stream.
    fn drop(&mut self) {
        for (_, source) in self.sources.get_mut().iter() {
            if let Source::Stream(socket) = source {
                socket.cut_off();
            }
        }
    }
}

/// What is known of a socket, and who waits for more.
#[derive(Debug)]
pub(super) struct Readiness {
    read: Cell<bool>,
    write: Cell<bool>,
    /// The end or urgent data have been announced, and will not be again: there may be more behind
    /// a short read.
    more_behind: Cell<bool>,
    readers: RefCell<Vec<Waker>>,
    writers: RefCell<Vec<Waker>>,
}

/// A side of a socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Side {
    Read,
    Write,
}

impl Readiness {
    /// Ready for both until a try says otherwise.
    pub(super) fn new() -> Readiness {
        Readiness {
            read: Cell::new(true),
            write: Cell::new(true),
            more_behind: Cell::new(false),
            readers: RefCell::default(),
            writers: RefCell::default(),
        }
    }

    /// Whether a try is worth its while.
    pub(super) fn is_ready(&self, side: Side) -> bool {
        self.flag(side).get()
    }

    /// A try has found nothing.
    pub(super) fn clear(&self, side: Side) {
        self.flag(side).set(false);
    }

    /// A read has found less than it had room for: there is no more, and whatever comes is news
    /// (epoll(7), question 9), for it lies behind the read under the socket's lock, and its edge
    /// with it. Not so an end that was announced with what was read, nor what is behind urgent
    /// data, at which a read stops.
    pub(super) fn drained(&self) {
        if !self.more_behind.get() {
            self.clear(Side::Read);
        }
    }

    /// Registers the task of `cx` beside others.
    pub(super) fn wait(&self, side: Side, cx: &Context<'_>) {
        crate::stack::wait_in(&mut self.waiting(side).borrow_mut(), cx);
    }

    /// Registers the task of `cx` in place of another.
    pub(super) fn wait_alone(&self, side: Side, cx: &Context<'_>) {
        let mut waiting = self.waiting(side).borrow_mut();
        waiting.retain(|waker| waker.will_wake(cx.waker()));
        crate::stack::wait_in(&mut waiting, cx);
    }

    /// Wakes who waits.
    pub(super) fn wake(&self, side: Side) {
        self.waiting(side).borrow_mut().drain(..).for_each(Waker::wake);
    }

    /// Notes news from epoll.
    pub(super) fn set(&self, flags: EventFlags) {
        // Errors and the end of the connection are news for both sides.
        let over = EventFlags::ERR | EventFlags::HUP;
        if flags.intersects(over | EventFlags::RDHUP | EventFlags::PRI) {
            self.more_behind.set(true);
        }
        if flags.intersects(over | EventFlags::IN | EventFlags::RDHUP) {
            self.read.set(true);
            self.wake(Side::Read);
        }
        if flags.intersects(over | EventFlags::OUT) {
            self.write.set(true);
            self.wake(Side::Write);
        }
    }

    fn flag(&self, side: Side) -> &Cell<bool> {
        match side {
            Side::Read => &self.read,
            Side::Write => &self.write,
        }
    }

    fn waiting(&self, side: Side) -> &RefCell<Vec<Waker>> {
        match side {
            Side::Read => &self.readers,
            Side::Write => &self.writers,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_read_is_the_last_until_there_is_news() {
        let ready = Readiness::new();
        ready.drained();
        assert!(!ready.is_ready(Side::Read) && ready.is_ready(Side::Write));
        ready.set(EventFlags::IN | EventFlags::OUT);
        assert!(ready.is_ready(Side::Read));
        ready.drained();
        assert!(!ready.is_ready(Side::Read));
        // A buffer that comes free says nothing of what there is to read.
        ready.set(EventFlags::OUT);
        assert!(!ready.is_ready(Side::Read));
    }

    #[test]
    fn but_not_behind_what_is_announced_only_once() {
        for once in [EventFlags::RDHUP, EventFlags::HUP, EventFlags::ERR, EventFlags::PRI] {
            let ready = Readiness::new();
            ready.set(EventFlags::IN | once);
            ready.drained();
            assert!(ready.is_ready(Side::Read), "{once:?}");
            // An empty one is empty all the same.
            ready.clear(Side::Read);
            ready.set(EventFlags::IN);
            ready.drained();
            assert!(ready.is_ready(Side::Read), "{once:?}");
        }
    }
}
