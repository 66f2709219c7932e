//! The engine's face: what the stack calls.

use std::net::SocketAddr;

use bytes::Bytes;
use throng_runtime::{Instant, ShardWaker};

use super::autotune::send_room;
use super::config::Config;
use super::core::Core;
use super::counters::Counters;
use super::demux::{Kind, Slot};
use super::error::{Error, RecvError, SendError};
use super::half::Half;
use super::info::Info;
use super::listen::Listeners;
use super::output;
use super::rtt::millis;
use super::segment::FourTuple;
use super::snd::SMALL;
use super::state::{Conn, State, flag};
use super::timer::{Clock, Tick};
use throng_runtime::slab::Slab;

/// Names a connection of an engine. Stays unique: an id is not used again after
/// [`Engine::close`] or [`Engine::abort`], though its index is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ConnId {
    pub(super) index: u32,
    pub(super) generation: u32,
}

impl ConnId {
    /// A small number, unique among the connections open at one time: good as an index of
    /// the stack's own table.
    pub fn index(self) -> u32 {
        self.index
    }

    /// Tells apart the connections that have had this index.
    pub fn generation(self) -> u32 {
        self.generation
    }
}

/// Names a listener of an engine.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ListenerId {
    pub(super) index: u32,
    pub(super) generation: u32,
}

impl ListenerId {
    /// A small number, unique among the listeners open at one time.
    pub fn index(self) -> u32 {
        self.index
    }

    /// Tells apart the listeners that have had this index.
    pub fn generation(self) -> u32 {
        self.generation
    }
}

/// What has happened to a connection or listener. Edge-triggered: told once, until popped;
/// the receiver of an event tries the operation until it would block.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Event {
    /// There is data, the end of data, or an error.
    Readable(ConnId),
    /// There is room again after `send` said `WouldBlock`; or the connection is
    /// established; or there is an error.
    Writable(ConnId),
    /// There is a connection to accept.
    Acceptable(ListenerId),
}

/// TCP for one shard: segments in, segments out, time passed in.
///
/// Call order, once per turn: [`prefetch`](Engine::prefetch), [`locate`](Engine::locate),
/// [`warm`](Engine::warm), [`warm_payload`](Engine::warm_payload) and
/// [`on_segment_at`](Engine::on_segment_at), each over the whole burst received;
/// [`on_timeout`](Engine::on_timeout);
/// [`pop_event`](Engine::pop_event) until there is none; what the application does
/// (`recv`, `send`, `accept`, ...); [`poll_transmit`](Engine::poll_transmit). Everything the
/// engine wants to send, ACKs included, waits for `poll_transmit`, so an answer the
/// application gives in the same turn carries the ACK. Where `now` goes back, the latest time told
/// holds until it is past that.
pub struct Engine {
    pub(super) conns: Slab<Conn>,
    pub(super) halves: Slab<Half>,
    pub(super) listeners: Listeners,
    pub(super) core: Core,
    /// The clock at the last call that told it.
    pub(super) clock: Clock,
    /// When timers were run last.
    pub(super) timers_at: Instant,
    /// What timers are due for, kept empty.
    pub(super) due: Vec<Slot>,
}

impl Engine {
    /// An engine with nothing in it. `secret` seeds sequence numbers, timestamp offsets and
    /// hash keys; it must be random and stay unknown to peers.
    pub fn new(config: Config, secret: [u8; 32], now: Instant) -> Engine {
        Engine {
            conns: Slab::new(),
            halves: Slab::new(),
            listeners: Listeners::default(),
            core: Core::new(config, &secret),
            clock: Clock::new(now),
            timers_at: now,
            due: Vec::new(),
        }
    }

    /// Starts to listen at `addr`; the unspecified address stands for all of its family,
    /// `[::]` for both families. At most `backlog` (at least 1) connections wait to be
    /// accepted; while that many do, SYNs are dropped and handshakes stay unfinished.
    ///
    /// # Errors
    /// [`Error::AddrInUse`].
    pub fn listen(&mut self, addr: SocketAddr, backlog: usize) -> Result<ListenerId, Error> {
        self.listeners.insert(addr, backlog)
    }

    /// Where the listener listens.
    pub fn local_addr(&self, id: ListenerId) -> Option<SocketAddr> {
        self.listeners.get(id).map(|listener| listener.addr)
    }

    /// Stops listening; connections nobody accepted are reset.
    pub fn close_listener(&mut self, id: ListenerId) {
        let Some(listener) = self.listeners.remove(id) else { return };
        for conn in listener.ready {
            if let Some(c) = self.owned(conn) {
                c.unset(flag::UNACCEPTED);
            }
            self.abort(conn, self.clock.instant);
        }
    }

    /// Takes the connection that has waited longest. It may have ended meanwhile; the first
    /// `recv` says so.
    pub fn accept(&mut self, id: ListenerId) -> Option<ConnId> {
        let conn = self.listeners.get_mut(id)?.ready.pop_front()?;
        let block = self.conns.get_mut(conn.index);
        block.unset(flag::UNACCEPTED);
        super::trace::accepted(&self.core, block);
        Some(conn)
    }

    /// Starts an active open. `Readable` and `Writable` follow when it has succeeded or
    /// failed; see [`Engine::state`] and [`Engine::take_error`].
    ///
    /// # Errors
    /// [`Error::AddrInUse`], [`Error::ConnectionLimit`].
    pub fn connect(&mut self, tuple: FourTuple, now: Instant) -> Result<ConnId, Error> {
        let now = self.tell(now);
        self.open(tuple, now)
    }

    /// Whether a connection, half-open connection or TIME_WAIT entry has this tuple.
    pub fn tuple_in_use(&self, tuple: &FourTuple) -> bool {
        self.lookup(self.core.demux.hash(tuple), tuple).is_some()
    }

    /// Takes received bytes, at most `max` (not 0) and at most one piece of what is held.
    /// Empty: the peer has closed its side and all is read.
    ///
    /// # Errors
    /// [`RecvError::WouldBlock`], or [`RecvError::Closed`] with why it ended.
    pub fn recv(&mut self, id: ConnId, max: usize, now: Instant) -> Result<Bytes, RecvError> {
        self.tell(now);
        let Some(conn) = get_owned(&mut self.conns, id) else {
            return Err(RecvError::Closed(Error::NotConnected));
        };
        let core = &mut self.core;
        if let Some(cold) = &mut conn.cold
            && !cold.ready().is_empty()
        {
            // Several ways to the end, so that what almost every call returns is moved once.
            if let Some(message) = cold.small_message(max) {
                let bytes = Bytes::copy_from_slice(message);
                core.recv_used -= u64::from(cold.end_message());
                note_read(conn, core);
                return Ok(bytes);
            }
            let ready = cold.ready_mut();
            let before = ready.charge();
            if let Some(bytes) = ready.pop_whole(max) {
                core.recv_used -= u64::from(before - ready.charge());
                note_read(conn, core);
                return Ok(bytes);
            }
            let bytes = ready.pop(max.max(1));
            core.recv_used -= u64::from(before - ready.charge());
            note_read(conn, core);
            return Ok(bytes);
        }
        if let Some(error) = conn.error() {
            return Err(RecvError::Closed(error));
        }
        if conn.has(flag::PEER_FIN) {
            return Ok(Bytes::new());
        }
        match conn.state {
            State::Closed => Err(RecvError::Closed(Error::NotConnected)),
            _ => Err(RecvError::WouldBlock),
        }
    }

    /// The same for who copies the bytes anyway: `take` gets what [`recv`](Engine::recv) would
    /// return, which need not be allocated. Returns how many that were.
    ///
    /// # Errors
    /// Those of [`recv`](Engine::recv); `take` is not called.
    #[inline(always)]
    pub fn recv_with(
        &mut self,
        id: ConnId,
        max: usize,
        now: Instant,
        take: impl FnOnce(&[u8]),
    ) -> Result<usize, RecvError> {
        if let Some(conn) = get_owned(&mut self.conns, id)
            && let Some(cold) = &mut conn.cold
            && let Some(message) = cold.small_message(max)
        {
            let len = message.len();
            take(message);
            self.core.recv_used -= u64::from(cold.end_message());
            note_read(conn, &mut self.core);
            return Ok(len);
        }
        let bytes = self.recv(id, max, now)?;
        take(&bytes);
        Ok(bytes.len())
    }

    /// Has `waker` wait for what a `Readable` event tells of: it is woken in place of the event, once.
    /// `None`: nobody waits any more. Who waited before does so no longer.
    pub fn set_reader(&mut self, id: ConnId, waker: Option<ShardWaker>) {
        if let Some(conn) = get_owned(&mut self.conns, id) {
            conn.reader = waker;
        }
    }

    /// Who waits to read, and now does so no longer.
    pub fn take_reader(&mut self, id: ConnId) -> Option<ShardWaker> {
        get_owned(&mut self.conns, id)?.reader.take()
    }

    /// Bytes received in order and not read.
    pub fn readable_bytes(&self, id: ConnId) -> usize {
        let cold = self.peek(id).and_then(|conn| conn.cold.as_ref());
        cold.map_or(0, |cold| cold.ready().len() as usize)
    }

    /// Connections that wait for the device to take what they have to send, but for those that repeat what
    /// nobody has answered: these have every other turn, and nobody waits behind all of them.
    pub fn transmit_waiting(&self) -> usize {
        self.core.transmit.len()
    }

    /// How much `send` would take now without going over the buffer; 0: it would answer
    /// `WouldBlock` or `Closed`.
    pub fn send_capacity(&self, id: ConnId) -> usize {
        let Some(conn) = self.peek(id).filter(|conn| can_send(conn)) else { return 0 };
        if self.core.send_used >= self.core.config.send_memory {
            return if conn.queued() == 0 { conn.mss.into() } else { 0 };
        }
        send_room(conn, &self.core) as usize
    }

    /// Queues bytes to be sent. All of them are taken if there is any room, or the first GiB
    /// of more than that; a segment of them where there is no send memory left and nothing queued.
    ///
    /// # Errors
    /// [`SendError::WouldBlock`] gives back what was not taken, and a `Writable` event follows
    /// when there is room for it; [`SendError::Closed`] says why none will be taken any more.
    // Inlined, so that the bytes go to their queue in registers.
    #[inline(always)]
    pub fn send(&mut self, id: ConnId, bytes: Bytes, now: Instant) -> Result<(), SendError> {
        self.tell(now);
        let Some(conn) = get_owned(&mut self.conns, id) else {
            return Err(SendError::Closed(Error::NotConnected));
        };
        let core = &mut self.core;
        if !can_send(conn) {
            if matches!(conn.state, State::SynSent | State::SynReceived)
                && !conn.has(flag::FIN_QUEUED)
            {
                conn.set(flag::WANT_WRITE);
                return Err(SendError::WouldBlock(bytes));
            }
            return Err(SendError::Closed(conn.error().unwrap_or(Error::BrokenPipe)));
        }
        if bytes.is_empty() {
            return Ok(());
        }
        if core.send_used >= core.config.send_memory {
            return send_least(conn, core, bytes);
        }
        // An empty queue has room, whatever its bounds.
        if conn.queued() > 0 && send_room(conn, core) == 0 {
            conn.set(flag::WANT_WRITE);
            return Err(SendError::WouldBlock(bytes));
        }
        if bytes.len() > MAX_PIECE {
            return Err(SendError::WouldBlock(send_piece(conn, core, bytes)));
        }
        let cold = conn.cold.get_or_insert_with(|| core.pool.take());
        core.send_used += u64::from(cold.snd.push(bytes));
        core.want_transmit(conn);
        Ok(())
    }

    /// Queues a copy of a few bytes where there is nothing to be decided: on an open connection with
    /// nothing queued and no small message unread, of an engine with send memory. False, having done nothing, for any other, or for
    /// none or too many bytes; [`send`](Engine::send) them then.
    #[inline(always)]
    pub fn send_small(&mut self, id: ConnId, bytes: &[u8], now: Instant) -> bool {
        self.tell(now);
        let core = &mut self.core;
        if bytes.is_empty() || bytes.len() > SMALL || core.send_used >= core.config.send_memory {
            return false;
        }
        let Some(conn) = get_owned(&mut self.conns, id) else { return false };
        if !can_send(conn) || conn.queued() > 0 {
            return false;
        }
        let cold = core.pool.fill(&mut conn.cold);
        if !cold.snd.borrowed().is_empty() {
            return false;
        }
        core.send_used += u64::from(cold.snd.put_small(bytes));
        core.want_transmit(conn);
        true
    }

    /// Asks for a `Writable` event when `send` has room again, as a refused `send` does.
    pub fn want_write(&mut self, id: ConnId) {
        let exhausted = self.core.send_used >= self.core.config.send_memory;
        if let Some(conn) = get_owned(&mut self.conns, id) {
            conn.set(flag::WANT_WRITE);
            if exhausted && conn.queued() > 0 {
                self.core.starve(conn);
            } else if can_send(conn) && send_room(conn, &self.core) > 0 {
                self.core.writable(conn);
            }
        }
    }

    /// No more data from us: a FIN follows what is queued (RFC 9293 3.10.4). Reading goes on.
    pub fn shutdown_write(&mut self, id: ConnId, now: Instant) {
        self.tell(now);
        if let Some(conn) = get_owned(&mut self.conns, id) {
            finish_writing(conn, &mut self.core);
        }
    }

    /// The application is done with the connection, and the id becomes invalid. What is
    /// queued is still sent, then a FIN; but a reset where received data was not read
    /// (RFC 9293 3.6.1) or the linger time is zero.
    pub fn close(&mut self, id: ConnId, now: Instant) {
        let now = self.tell(now);
        let Some(conn) = get_owned(&mut self.conns, id) else { return };
        conn.reader = None;
        let core = &mut self.core;
        let unread = conn.cold.as_ref().is_some_and(|cold| !cold.ready().is_empty());
        let open = !matches!(conn.state, State::Closed | State::TimeWait);
        let linger = core.settings.get(conn.settings).linger;
        let many = open && core.orphans >= core.config.max_orphans;
        if conn.state == State::SynSent || open && (unread || linger == 1) || many {
            core.counters.orphans_reset += u64::from(many);
            core.abort(conn);
        }
        conn.set(flag::ORPHAN);
        core.orphans += 1;
        conn.unset(flag::WANT_WRITE);
        conn.keep_at = Tick::NONE;
        if open && conn.state != State::Closed {
            finish_writing(conn, core);
            if conn.state == State::FinWait2 {
                // All is acknowledged, there is nothing to linger for.
                conn.keep_at = now.after(millis(core.config.fin_wait_2));
            } else if linger > 1 {
                conn.set(flag::LINGERING);
                conn.keep_at = now.after(u32::from(linger - 1) * 1000);
            }
            core.arm(conn, now);
        } else {
            core.drop_queues(conn, false);
        }
        self.settle(id.index);
    }

    /// Ends the connection at once, with a reset to the peer; the id becomes invalid.
    pub fn abort(&mut self, id: ConnId, now: Instant) {
        self.tell(now);
        let Some(conn) = get_owned(&mut self.conns, id) else { return };
        conn.reader = None;
        self.core.abort(conn);
        conn.set(flag::ORPHAN);
        self.core.orphans += 1;
        self.core.drop_queues(conn, false);
        self.settle(id.index);
    }

    /// A snapshot.
    pub fn info(&self, id: ConnId, now: Instant) -> Option<Info> {
        self.peek(id).map(|conn| Info::of(conn, &self.core, now))
    }

    /// Looks at `slots` places of the connection table, from the place `from` on, and calls
    /// `visit` for each connection found there, closing ones included whose application has
    /// let go of them; what that returns says whether to go on. Returns where the next look
    /// begins; `None` at the table's end.
    ///
    /// A walk in several steps sees every connection that is open all the while.
    pub fn scan(
        &self,
        from: u32,
        slots: u32,
        now: Instant,
        mut visit: impl FnMut(ConnId, Info) -> bool,
    ) -> Option<u32> {
        let end = from.saturating_add(slots).min(self.conns.end());
        for index in from..end {
            // Where a chunk was given back there is nothing, but there may be behind it.
            let Some(conn) = self.conns.try_get(index) else { continue };
            if conn.has(flag::LIVE) && !visit(conn.id(), Info::of(conn, &self.core, now)) {
                return Some(index + 1);
            }
        }
        (end < self.conns.end()).then_some(end)
    }

    /// Addresses and ports.
    pub fn tuple(&self, id: ConnId) -> Option<FourTuple> {
        self.peek(id).map(|conn| conn.tuple)
    }

    /// The state; `Closed` for an id that is not valid (any more).
    pub fn state(&self, id: ConnId) -> State {
        self.peek(id).map_or(State::Closed, |conn| conn.state)
    }

    /// The stack's own number, kept with the connection; 0 at first.
    pub fn cookie(&self, id: ConnId) -> u32 {
        self.peek(id).map_or(0, |conn| conn.cookie)
    }

    /// Sets the number that [`Egress::send`](super::Egress::send) is given with this connection's segments.
    pub fn set_cookie(&mut self, id: ConnId, cookie: u32) {
        if let Some(conn) = get_owned(&mut self.conns, id) {
            conn.cookie = cookie;
        }
    }

    /// Why the connection ended, if it has. What ICMP says while it lives is no error, only
    /// what a later timeout gives for its reason (RFC 1122 4.2.3.9, RFC 5461).
    pub fn take_error(&mut self, id: ConnId) -> Option<Error> {
        get_owned(&mut self.conns, id)?.error()
    }

    /// Totals.
    pub fn counters(&self) -> &Counters {
        &self.core.counters
    }

    /// Frees a block that nobody needs any more.
    pub(super) fn settle(&mut self, index: u32) {
        let conn = self.conns.get_mut(index);
        if conn.has(flag::ORPHAN)
            && conn.has(flag::LIVE)
            && !conn.has(flag::MAPPED | flag::SEND_RST)
        {
            self.core.orphans -= 1;
            self.core.drop_queues(conn, false);
            if let Some(node) = conn.node.take() {
                self.core.wheel.remove(node);
            }
            self.core.settings.release(std::mem::take(&mut conn.settings));
            self.core.paths.forget(conn);
            let starved = conn.has(flag::STARVED);
            conn.flags = 0;
            conn.generation = conn.generation.wrapping_add(1);
            self.conns.remove(index);
            if starved {
                let conns = &self.conns;
                let is_gone = |id: ConnId| {
                    conns.try_get(id.index).is_none_or(|conn| conn.generation != id.generation)
                };
                self.core.forget_starved(is_gone);
            }
        }
    }

    /// Takes note of the clock, which never goes back.
    #[inline(always)]
    pub(super) fn tell(&mut self, now: Instant) -> Clock {
        if now > self.clock.instant {
            self.go_on(now);
        }
        self.clock
    }

    /// Most often once a turn.
    #[inline(never)]
    fn go_on(&mut self, now: Instant) {
        self.clock = Clock::new(now);
    }

    pub(super) fn lookup(&self, hash: u32, tuple: &FourTuple) -> Option<Slot> {
        self.core.demux.find(hash, |slot| {
            let index = slot.index();
            let found = match slot.kind() {
                Kind::Conn => &self.conns.get(index).tuple,
                Kind::Half => &self.halves.get(index).tuple,
                Kind::Wait => &self.core.waits.get(index).tuple,
            };
            found == tuple
        })
    }

    fn peek(&self, id: ConnId) -> Option<&Conn> {
        let conn = self.conns.try_get(id.index)?;
        (conn.generation == id.generation && conn.is_owned()).then_some(conn)
    }

    fn owned(&mut self, id: ConnId) -> Option<&mut Conn> {
        get_owned(&mut self.conns, id)
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("usage", &self.usage()).finish_non_exhaustive()
    }
}

impl Conn {
    pub(super) fn id(&self) -> ConnId {
        ConnId { index: self.index, generation: self.generation }
    }
}

pub(super) fn get_owned(conns: &mut Slab<Conn>, id: ConnId) -> Option<&mut Conn> {
    let conn = conns.try_get_mut(id.index)?;
    (conn.generation == id.generation && conn.is_owned()).then_some(conn)
}

/// Sequence space bounds a single piece.
const MAX_PIECE: usize = 1 << 30;

/// Queues the first piece of what is too long for one; returns the rest.
#[cold]
fn send_piece(conn: &mut Conn, core: &mut Core, mut bytes: Bytes) -> Bytes {
    let piece = bytes.split_to(MAX_PIECE);
    let cold = conn.cold.get_or_insert_with(|| core.pool.take());
    core.send_used += u64::from(cold.snd.push(piece));
    conn.set(flag::WANT_WRITE);
    core.want_transmit(conn);
    bytes
}

/// There is no send memory left. A connection that has nothing queued may have a segment all the
/// same, as in Linux: others whose peers read nothing must not be the end of it. It is copied
/// lest it keep a larger buffer alive; what others share is not.
#[cold]
fn send_least(conn: &mut Conn, core: &mut Core, mut bytes: Bytes) -> Result<(), SendError> {
    if conn.queued() == 0 {
        let shared = !bytes.is_unique();
        let first = bytes.split_to(bytes.len().min(conn.mss.into()));
        let piece = if shared { first } else { Bytes::copy_from_slice(&first) };
        core.counters.send_memory_forced += 1;
        let cold = conn.cold.get_or_insert_with(|| core.pool.take());
        core.send_used += u64::from(cold.snd.push(piece));
        core.want_transmit(conn);
        if bytes.is_empty() {
            return Ok(());
        }
    }
    conn.set(flag::WANT_WRITE);
    core.starve(conn);
    Err(SendError::WouldBlock(bytes))
}

/// The application has read something.
#[inline(always)]
fn note_read(conn: &mut Conn, core: &mut Core) {
    // Where its turn to transmit is still to come, that puts the box away, unless an answer lies
    // in it by then.
    if conn.state != State::Established || !conn.has(flag::QUEUED) {
        core.put_away(conn);
    }
    // RFC 9293 3.8.6.2.2: say so when a good part of the window is free again.
    if conn.offered() < conn.room() / 2 {
        output::offer_more(conn, core);
    }
}

pub(super) fn can_send(conn: &Conn) -> bool {
    matches!(conn.state, State::Established | State::CloseWait) && !conn.has(flag::FIN_QUEUED)
}

fn finish_writing(conn: &mut Conn, core: &mut Core) {
    if conn.has(flag::FIN_QUEUED) {
        return;
    }
    conn.state = match conn.state {
        State::Established => State::FinWait1,
        State::CloseWait => State::LastAck,
        // The FIN follows once the other side has answered.
        State::SynSent | State::SynReceived => conn.state,
        _ => return,
    };
    conn.set(flag::FIN_QUEUED);
    core.want_transmit(conn);
}
