//! Who may use which connection: one [`Host`] per target, with its idle connections, its
//! HTTP/2 connections, the places of its limit and the queue for all of these.
//!
//! ```text
//! acquire -> a stream of an HTTP/2 connection | an idle connection | a place | the queue
//!                    ^                                ^                 |        |
//!                    |                                |                 v        |
//!                    '---------------- pump <---------+----- connect, exchange   |
//!                                        '-----------------------> first in line '
//! ```
//!
//! A place ([`Permit`]) goes with the transport it was taken for and comes back when that is
//! dropped, whoever holds it. Whatever comes free goes to the first in line, so nobody is
//! overtaken. Nothing is dropped while a host is borrowed: a drop may come back here.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use hyper::client::conn::{http1, http2};
use throng_runtime::Instant;

use super::config::{Builder, HttpVersion};
use super::connect::Target;
use super::error::{Error, ErrorKind, Phase};
use super::h1::H1;
use super::h2::{H2, Stream};
use super::rest::{Keeper, Rested};
use super::within;
use crate::rt::{LocalExecutor, ShardTimer};

/// hyper's least buffer for a head.
const MIN_BUFFER: usize = 8192;

/// Totals of one client since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Connections made.
    pub opened: u64,
    /// Requests sent on a connection that had carried one before.
    pub reused: u64,
    /// Requests sent again because their connection turned out to be over.
    pub retried: u64,
    /// Idle connections given up: closed by the peer, too many, too long idle, too old.
    pub evicted: u64,
    /// Requests refused because the queue was full.
    pub refused: u64,
}

pub(super) struct Pool {
    pub(super) settings: Builder,
    pub(super) http1: http1::Builder,
    pub(super) http2: http2::Builder<LocalExecutor>,
    hosts: RefCell<HashMap<Target, Rc<Host>>>,
    stats: Cell<Stats>,
    /// Connections of all hosts that are idle.
    idle: Cell<usize>,
    /// Where there may be only so many: all of them, the one idle for longest first.
    line: RefCell<Line>,
    /// The last client has gone: nothing is kept any more.
    closed: Cell<bool>,
    /// There is a [`Keeper`].
    pub(super) kept: Cell<bool>,
}

/// Connections by when they became idle, with what `uses` was then; those that have not stayed so
/// are found out when their turn comes.
type Line = VecDeque<(Weak<H1>, u64)>;

/// How many of these are left in it, beside as many as there are others.
const STALE: usize = 64;

/// How many resting connections are looked at in one go: fewer than a task may read streams in one
/// poll, or it would be woken by that and never come further.
const LOOKS: u32 = 64;

/// What is left after a look at the resting connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Swept {
    /// None of them.
    None,
    /// Some, and all have been looked at.
    All,
    /// Some that have not.
    Some,
}

pub(super) struct Host {
    pub(super) pool: Rc<Pool>,
    target: Target,
    inner: RefCell<Inner>,
}

#[derive(Default)]
struct Inner {
    /// The one used last at the end, which is the next to be used.
    idle: Vec<Rc<H1>>,
    /// Those without a task, in the same order.
    rested: VecDeque<Rested>,
    http2: Vec<Rc<H2>>,
    permits: usize,
    /// How many of them have no connection yet.
    connecting: usize,
    /// Whether the last connection spoke HTTP/2.
    speaks_http2: Option<bool>,
    waiters: VecDeque<Rc<Waiter>>,
    /// Who has looked the host up and keeps it.
    visitors: usize,
}

impl Inner {
    fn idle(&self) -> usize {
        self.idle.len() + self.rested.len()
    }

    /// Takes the one that has been idle for longest, of those without a task if there is one.
    fn oldest(&mut self) -> Option<Evicted> {
        if let Some(rested) = self.rested.pop_front() {
            return Some(Evicted::Rested(rested));
        }
        (!self.idle.is_empty()).then(|| Evicted::Idle(self.idle.remove(0)))
    }
}

/// A connection that is idle no more.
enum Evicted {
    Idle(Rc<H1>),
    Rested(Rested),
}

/// What a request may use.
pub(super) enum Lease {
    Idle(Rc<H1>),
    Rested(Rested),
    Stream(Stream),
    Permit(Permit, Connecting),
}

/// A place among a host's connections.
pub(super) struct Permit(pub(super) Rc<Host>);

/// An attempt to connect, until it is known how it went.
pub(super) struct Connecting(Rc<Host>);

#[derive(Default)]
struct Waiter {
    given: RefCell<Option<Lease>>,
    waker: RefCell<Option<Waker>>,
}

impl Pool {
    pub(super) fn new(settings: Builder) -> Self {
        let mut http1 = http1::Builder::new();
        http1
            .max_header_size(settings.max_head_size)
            .max_buf_size(MIN_BUFFER.max(2 * settings.max_head_size));
        if let Some(count) = settings.max_headers {
            http1.max_headers(count);
        }
        let mut http2 = http2::Builder::new(LocalExecutor);
        let head = u32::try_from(settings.max_head_size).unwrap_or(u32::MAX);
        http2.timer(ShardTimer).max_header_list_size(head);
        if let Some((interval, timeout)) = settings.http2_ping {
            http2.keep_alive_interval(interval).keep_alive_timeout(timeout);
        }
        Pool {
            settings,
            http1,
            http2,
            hosts: RefCell::default(),
            stats: Cell::default(),
            idle: Cell::new(0),
            line: RefCell::default(),
            closed: Cell::new(false),
            kept: Cell::new(false),
        }
    }

    pub(super) fn count(&self, change: impl FnOnce(&mut Stats)) {
        let mut stats = self.stats.get();
        change(&mut stats);
        self.stats.set(stats);
    }

    pub(super) fn stats(&self) -> Stats {
        self.stats.get()
    }

    /// Connections of all hosts, those being made included, and those of them that are idle.
    pub(super) fn connections(&self) -> (usize, usize) {
        self.hosts.borrow().values().fold((0, 0), |(all, idle), host| {
            let inner = host.inner.borrow();
            (all + inner.permits, idle + inner.idle())
        })
    }

    pub(super) fn host(self: &Rc<Self>, target: &Target) -> Rc<Host> {
        if let Some(host) = self.hosts.borrow().get(target) {
            return host.clone();
        }
        let (pool, inner) = (self.clone(), RefCell::default());
        let host = Rc::new(Host { pool, target: target.clone(), inner });
        self.hosts.borrow_mut().insert(target.clone(), host.clone());
        host
    }

    fn count_idle(&self, more: isize) {
        self.idle.set(self.idle.get().saturating_add_signed(more));
    }

    /// Of all hosts' idle connections, those that are too many: `connection` has become one.
    fn take_excess(&self, connection: &Rc<H1>) -> Vec<Rc<H1>> {
        let Some(max) = self.settings.max_idle_in_all else { return Vec::new() };
        let mut line = self.line.borrow_mut();
        let resting = |(connection, uses): &(Weak<H1>, u64)| {
            let there = connection.upgrade();
            there.filter(|there| there.is_idle() && there.uses.get() == *uses)
        };
        line.push_back((Rc::downgrade(connection), connection.uses.get()));
        if line.len() > 2 * self.idle.get() + STALE {
            line.retain(|entry| resting(entry).is_some());
        }
        let mut excess = Vec::new();
        while self.idle.get() > max {
            let Some(first) = line.pop_front() else { break };
            // Not one that was given to a request this moment.
            excess.extend(resting(&first).filter(|oldest| oldest.host().remove_idle(oldest)));
        }
        excess
    }

    /// Ends all that is idle, and keeps nothing from now on.
    pub(super) fn close(&self) {
        self.closed.set(true);
        self.idle.set(0);
        let line = self.line.take();
        drop(line);
        let hosts: Vec<_> = self.hosts.borrow().values().cloned().collect();
        for host in hosts {
            let (idle, rested, http2) = {
                let mut inner = host.inner.borrow_mut();
                let rested = std::mem::take(&mut inner.rested);
                (std::mem::take(&mut inner.idle), rested, std::mem::take(&mut inner.http2))
            };
            idle.iter().for_each(|connection| connection.close());
            rested.into_iter().for_each(|rested| rested.wire.part());
            http2.iter().for_each(|connection| connection.retire());
        }
    }

    /// Looks at the connections without a task that were not looked at since `round`, and at so
    /// many only: a task may not read any number of streams in one poll.
    pub(super) fn sweep(&self, round: Instant, now: Instant, cx: &mut Context<'_>) -> Swept {
        let hosts: Vec<_> = self.hosts.borrow().values().cloned().collect();
        let (mut looks, mut swept) = (LOOKS, Swept::None);
        for host in hosts {
            let all = std::mem::take(&mut host.inner.borrow_mut().rested);
            let (mut stay, mut over) = (VecDeque::with_capacity(all.len()), Vec::new());
            for mut rested in all {
                if rested.looked < round && looks > 0 {
                    (looks, rested.looked) = (looks - 1, now);
                    if rested.is_over(self, now, cx) {
                        over.push(rested);
                        continue;
                    }
                }
                let left = if rested.looked < round { Swept::Some } else { Swept::All };
                swept = swept.max(left);
                stay.push_back(rested);
            }
            // In front of what has come meanwhile.
            let mut inner = host.inner.borrow_mut();
            stay.append(&mut inner.rested);
            inner.rested = stay;
            drop(inner);
            self.count_idle(-(over.len() as isize));
            over.into_iter().for_each(|rested| host.evict(Evicted::Rested(rested)));
        }
        swept
    }
}

impl Host {
    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    /// Something to send a request on; `fresh`: not a connection that has been idle.
    pub(super) async fn acquire(
        self: &Rc<Self>,
        fresh: bool,
        total: Option<Instant>,
    ) -> Result<Lease, Error> {
        if let Some(lease) = self.take(fresh) {
            return Ok(lease);
        }
        let settings = &self.pool.settings;
        let waiter = Rc::new(Waiter::default());
        {
            let mut inner = self.inner.borrow_mut();
            if inner.waiters.len() >= settings.max_waiting {
                self.pool.count(|stats| stats.refused += 1);
                return Err(Error::of(ErrorKind::Exhausted));
            }
            inner.waiters.push_back(waiter.clone());
        }
        let waiting = Waiting { host: self, waiter };
        let until = throng_runtime::now() + settings.queue_timeout;
        within(until, Phase::Queue, total, waiting.lease()).await
    }

    /// Without waiting, unless others are.
    fn take(self: &Rc<Self>, fresh: bool) -> Option<Lease> {
        if !self.inner.borrow().waiters.is_empty() {
            return None;
        }
        if !fresh {
            return self.take_next();
        }
        let (idle, rested) = {
            let mut inner = self.inner.borrow_mut();
            (std::mem::take(&mut inner.idle), std::mem::take(&mut inner.rested))
        };
        let lease = self.take_next();
        let mut inner = self.inner.borrow_mut();
        (inner.idle, inner.rested) = (idle, rested);
        let full = inner.permits >= self.pool.settings.max_connections;
        if lease.is_some() || !full {
            return lease;
        }
        // Every place is taken, and one of them by an idle connection: it goes to this request
        // before it comes free, so that the host is not forgotten in between.
        let oldest = inner.oldest()?;
        self.pool.count_idle(-1);
        let lease = self.place(&mut inner);
        drop(inner);
        self.evict(oldest);
        Some(lease)
    }

    /// An idle connection, unless others wait for one.
    pub(super) fn take_idle(&self) -> Option<Lease> {
        let mut inner = self.inner.borrow_mut();
        if !inner.waiters.is_empty() {
            return None;
        }
        let idle = match inner.rested.pop_back() {
            Some(rested) => Lease::Rested(rested),
            None => Lease::Idle(inner.idle.pop()?),
        };
        self.pool.count_idle(-1);
        Some(idle)
    }

    /// Whether what was idle is still of use.
    pub(super) fn look(&self, mut rested: Rested, cx: &mut Context<'_>) -> Option<Rested> {
        if !rested.is_over(&self.pool, throng_runtime::now(), cx) {
            return Some(rested);
        }
        self.evict(Evicted::Rested(rested));
        None
    }

    /// Is kept, though nobody may use it.
    pub(super) fn enter(&self) {
        self.inner.borrow_mut().visitors += 1;
    }

    pub(super) fn leave(&self) {
        self.inner.borrow_mut().visitors -= 1;
        self.forget();
    }

    /// Leaves the pool if it is of no use.
    fn forget(&self) {
        let useless = {
            let inner = self.inner.borrow();
            inner.permits == 0 && inner.waiters.is_empty() && inner.visitors == 0
        };
        if useless {
            let mut hosts = self.pool.hosts.borrow_mut();
            // Whoever still had this one when it was forgotten may have used it since.
            let is_this = hosts.get(&self.target).is_some_and(|host| std::ptr::eq(&**host, self));
            let removed = is_this.then(|| hosts.remove(&self.target));
            drop(hosts);
            drop(removed);
        }
    }

    fn place(self: &Rc<Self>, inner: &mut Inner) -> Lease {
        inner.permits += 1;
        inner.connecting += 1;
        Lease::Permit(Permit(self.clone()), Connecting(self.clone()))
    }

    fn take_next(self: &Rc<Self>) -> Option<Lease> {
        let mut inner = self.inner.borrow_mut();
        if let Some(connection) = inner.http2.iter().find(|connection| connection.has_room()) {
            return Some(Lease::Stream(Stream::new(connection.clone())));
        }
        if let Some(connection) = inner.idle.pop() {
            self.pool.count_idle(-1);
            return Some(Lease::Idle(connection));
        }
        if let Some(rested) = inner.rested.pop_back() {
            self.pool.count_idle(-1);
            return Some(Lease::Rested(rested));
        }
        let settings = &self.pool.settings;
        let may_be_http2 = match settings.version {
            HttpVersion::Http1 => false,
            HttpVersion::Http2 => true,
            HttpVersion::Negotiated => self.target.is_https() && inner.speaks_http2 != Some(false),
        };
        // Where one connection may serve all, the first is waited for.
        let too_many = may_be_http2 && inner.connecting > 0;
        if too_many || inner.permits >= settings.max_connections {
            return None;
        }
        Some(self.place(&mut inner))
    }

    /// A connection has read something, which may be that its peer takes more streams.
    pub(super) fn heard(&self) {
        let inner = self.inner.borrow();
        if !inner.waiters.is_empty() {
            inner.http2.iter().for_each(|connection| connection.wake());
        }
    }

    /// Gives what is free to those who wait for it.
    pub(super) fn pump(self: &Rc<Self>) {
        while !self.inner.borrow().waiters.is_empty() {
            let Some(lease) = self.take_next() else { return };
            let waiter = self.inner.borrow_mut().waiters.pop_front();
            if let Some(waiter) = waiter {
                waiter.give(lease);
            }
        }
    }

    /// A connection that can take another request.
    pub(super) fn put_idle(self: &Rc<Self>, connection: Rc<H1>) {
        if self.pool.closed.get() {
            connection.close();
            return;
        }
        self.inner.borrow_mut().idle.push(connection.clone());
        self.pool.count_idle(1);
        self.pump();
        self.trim();
        for oldest in self.pool.take_excess(&connection) {
            oldest.host().evict(Evicted::Idle(oldest.clone()));
        }
    }

    /// The same with one that needs no task.
    pub(super) fn put_rested(self: &Rc<Self>, rested: Rested) {
        if self.pool.closed.get() || !Keeper::ensure(&self.pool) {
            return rested.wire.part();
        }
        self.inner.borrow_mut().rested.push_back(rested);
        self.pool.count_idle(1);
        if self.inner.borrow().waiters.is_empty() {
            self.trim();
        } else {
            self.pump();
        }
    }

    /// Keeps no more idle connections than are wanted.
    fn trim(&self) {
        let oldest = {
            let mut inner = self.inner.borrow_mut();
            let settings = &self.pool.settings;
            let in_all = settings.max_idle_in_all.is_some_and(|max| self.pool.idle.get() > max);
            // Of all hosts' the ones without a task stand in no line: this host's go.
            let too_many = inner.idle() > settings.max_idle || in_all && !inner.rested.is_empty();
            too_many.then(|| inner.oldest()).flatten()
        };
        if let Some(oldest) = oldest {
            self.pool.count_idle(-1);
            self.evict(oldest);
        }
    }

    fn evict(&self, connection: Evicted) {
        self.pool.count(|stats| stats.evicted += 1);
        match connection {
            Evicted::Idle(connection) => connection.close(),
            Evicted::Rested(rested) => rested.wire.part(),
        }
    }

    /// An idle connection that has ended. Whether it was still here.
    pub(super) fn remove_idle(&self, connection: &Rc<H1>) -> bool {
        let mut inner = self.inner.borrow_mut();
        let at = inner.idle.iter().position(|idle| Rc::ptr_eq(idle, connection));
        let removed = at.map(|at| inner.idle.remove(at)).is_some();
        self.pool.count_idle(-isize::from(removed));
        removed
    }

    /// A new connection for many requests at a time.
    pub(super) fn add_http2(self: &Rc<Self>, connection: Rc<H2>) {
        if self.pool.closed.get() {
            connection.retire();
            return;
        }
        self.inner.borrow_mut().http2.push(connection);
        self.pump();
    }

    pub(super) fn remove_http2(&self, connection: &Rc<H2>) -> bool {
        let mut inner = self.inner.borrow_mut();
        let at = inner.http2.iter().position(|other| Rc::ptr_eq(other, connection));
        at.map(|at| inner.http2.swap_remove(at)).is_some()
    }
}

impl Connecting {
    pub(super) fn host(&self) -> Rc<Host> {
        self.0.clone()
    }

    /// It went well.
    pub(super) fn done(self, http2: bool) {
        self.0.inner.borrow_mut().speaks_http2 = Some(http2);
    }
}

impl Drop for Connecting {
    fn drop(&mut self) {
        self.0.inner.borrow_mut().connecting -= 1;
        self.0.pump();
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let host = &self.0;
        host.inner.borrow_mut().permits -= 1;
        host.pump();
        host.forget();
    }
}

impl Waiter {
    fn give(&self, lease: Lease) {
        *self.given.borrow_mut() = Some(lease);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// A place in the queue. Dropped, it leaves, and passes on what it may have been given.
struct Waiting<'h> {
    host: &'h Rc<Host>,
    waiter: Rc<Waiter>,
}

impl Waiting<'_> {
    async fn lease(&self) -> Lease {
        poll_fn(|cx| match self.waiter.given.take() {
            Some(lease) => Poll::Ready(lease),
            None => {
                *self.waiter.waker.borrow_mut() = Some(cx.waker().clone());
                Poll::Pending
            }
        })
        .await
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.host.inner.borrow_mut().waiters.retain(|other| !Rc::ptr_eq(other, &self.waiter));
        let given = self.waiter.given.take();
        match given {
            // It may have ended since, and would then be kept with its host for good.
            Some(Lease::Idle(connection)) if connection.is_idle() => self.host.put_idle(connection),
            Some(Lease::Rested(rested)) => self.host.put_rested(rested),
            given => drop(given),
        }
    }
}
