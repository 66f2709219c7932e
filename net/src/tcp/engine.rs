//! The engine's face: what the stack calls.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use throng_runtime::Instant;

use super::config::{Config, Keepalive};
use super::core::Core;
use super::counters::Counters;
use super::demux::{Kind, Slot};
use super::egress::{Egress, Full};
use super::error::{Error, RecvError, SendError, Unreachable};
use super::handshake::Half;
use super::info::Info;
use super::listen::Listeners;
use super::output::{self, Turn};
use super::rtt::millis;
use super::segment::{Flags, FourTuple, Header};
use super::slab::Slab;
use super::snd::Payload;
use super::state::{Conn, Phase, State, flag};
use super::timer::Tick;
use super::{arrival, time_wait};

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
/// Call order, once per turn: [`prefetch`](Engine::prefetch), [`find`](Engine::find) and
/// [`on_segment`](Engine::on_segment) for the burst received; [`on_timeout`](Engine::on_timeout);
/// [`pop_event`](Engine::pop_event) until there is none; what the application does
/// (`recv`, `send`, `accept`, ...); [`poll_transmit`](Engine::poll_transmit). Everything the
/// engine wants to send, ACKs included, waits for `poll_transmit`, so an answer the
/// application gives in the same turn carries the ACK. `now` never goes back.
pub struct Engine {
    pub(super) conns: Slab<Conn>,
    pub(super) halves: Slab<Half>,
    pub(super) listeners: Listeners,
    pub(super) core: Core,
    /// The clock at the last call that told it.
    pub(super) now: Instant,
}

impl Engine {
    /// An engine with nothing in it. `secret` seeds sequence numbers, timestamp offsets and
    /// hash keys; it must be random and stay unknown to peers.
    pub fn new(config: Config, secret: [u8; 32], now: Instant) -> Engine {
        Engine {
            conns: Slab::new(),
            halves: Slab::new(),
            listeners: Listeners::default(),
            core: Core::new(config, &secret, now),
            now,
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
            self.abort(conn, self.now);
        }
    }

    /// Takes the connection that has waited longest. It may have ended meanwhile; the first
    /// `recv` says so.
    pub fn accept(&mut self, id: ListenerId) -> Option<ConnId> {
        let conn = self.listeners.get_mut(id)?.ready.pop_front()?;
        self.conns.get_mut(conn.index).unset(flag::UNACCEPTED);
        Some(conn)
    }

    /// Starts an active open. `Readable` and `Writable` follow when it has succeeded or
    /// failed; see [`Engine::state`] and [`Engine::take_error`].
    ///
    /// # Errors
    /// [`Error::AddrInUse`], [`Error::ConnectionLimit`].
    pub fn connect(&mut self, tuple: FourTuple, now: Instant) -> Result<ConnId, Error> {
        self.now = now;
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
        self.now = now;
        let Some(conn) = get_owned(&mut self.conns, id) else {
            return Err(RecvError::Closed(Error::NotConnected));
        };
        let core = &mut self.core;
        if let Some(cold) = &mut conn.cold
            && !cold.rcv.ready.is_empty()
        {
            let before = cold.rcv.ready.charge();
            let bytes = cold.rcv.ready.pop(max.max(1));
            core.recv_used -= u64::from(before - cold.rcv.ready.charge());
            if cold.is_empty() {
                core.put_away(conn);
            }
            // RFC 9293 3.8.6.2.2: say so when a good part of the window is free again.
            let fresh = output::free_window(conn, core);
            let step = (core.config.recv_buffer / 2).min(2 * u32::from(conn.rcv_mss));
            if conn.has(flag::MAPPED)
                && !conn.has(flag::PEER_FIN)
                && conn.offered() < core.config.recv_buffer / 2
                && fresh >= conn.offered() + step
            {
                core.ack_now(conn);
            }
            return Ok(bytes);
        }
        if let Some(error) = conn.error {
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

    /// Bytes received in order and not read.
    pub fn readable_bytes(&self, id: ConnId) -> usize {
        let cold = self.peek(id).and_then(|conn| conn.cold.as_ref());
        cold.map_or(0, |cold| cold.rcv.ready.len() as usize)
    }

    /// How much `send` would take now without going over the buffer; 0: it would answer
    /// `WouldBlock` or `Closed`.
    pub fn send_capacity(&self, id: ConnId) -> usize {
        let Some(conn) = self.peek(id) else { return 0 };
        if !can_send(conn) || self.core.send_used >= self.core.config.send_memory {
            return 0;
        }
        self.core.config.send_buffer.saturating_sub(conn.queued()) as usize
    }

    /// Queues bytes to be sent. All of them are taken if there is any room.
    ///
    /// # Errors
    /// [`SendError::WouldBlock`] gives the bytes back, and a `Writable` event follows when
    /// there is room; [`SendError::Closed`] says why none will be taken any more.
    pub fn send(&mut self, id: ConnId, bytes: Bytes, now: Instant) -> Result<(), SendError> {
        self.now = now;
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
            return Err(SendError::Closed(conn.error.unwrap_or(Error::BrokenPipe)));
        }
        if bytes.is_empty() {
            return Ok(());
        }
        if core.send_used >= core.config.send_memory {
            conn.set(flag::WANT_WRITE);
            core.starve(conn);
            return Err(SendError::WouldBlock(bytes));
        }
        // Sequence space bounds a single chunk too.
        if conn.queued() >= core.config.send_buffer || bytes.len() > 1 << 30 {
            conn.set(flag::WANT_WRITE);
            return Err(SendError::WouldBlock(bytes));
        }
        let cold = conn.cold.get_or_insert_with(|| core.pool.take());
        core.send_used += u64::from(cold.snd.push(bytes));
        core.want_transmit(conn);
        Ok(())
    }

    /// Asks for a `Writable` event when `send` has room again, as a refused `send` does.
    pub fn want_write(&mut self, id: ConnId) {
        let exhausted = self.core.send_used >= self.core.config.send_memory;
        if let Some(conn) = get_owned(&mut self.conns, id) {
            conn.set(flag::WANT_WRITE);
            if exhausted {
                self.core.starve(conn);
            } else if can_send(conn) && conn.queued() < self.core.config.send_buffer {
                self.core.writable(conn);
            }
        }
    }

    /// No more data from us: a FIN follows what is queued (RFC 9293 3.10.4). Reading goes on.
    pub fn shutdown_write(&mut self, id: ConnId, now: Instant) {
        self.now = now;
        if let Some(conn) = get_owned(&mut self.conns, id) {
            finish_writing(conn, &mut self.core);
        }
    }

    /// The application is done with the connection, and the id becomes invalid. What is
    /// queued is still sent, then a FIN; but a reset where received data was not read
    /// (RFC 9293 3.6.1) or the linger time is zero.
    pub fn close(&mut self, id: ConnId, now: Instant) {
        self.now = now;
        let Some(conn) = get_owned(&mut self.conns, id) else { return };
        let core = &mut self.core;
        let unread = conn.cold.as_ref().is_some_and(|cold| !cold.rcv.ready.is_empty());
        let open = !matches!(conn.state, State::Closed | State::TimeWait);
        if conn.state == State::SynSent || open && (unread || conn.linger == 1) {
            core.abort(conn);
        }
        conn.set(flag::ORPHAN);
        conn.unset(flag::WANT_WRITE);
        conn.keep_at = Tick::NONE;
        if open && conn.state != State::Closed {
            finish_writing(conn, core);
            if conn.linger > 1 {
                conn.set(flag::LINGERING);
                conn.keep_at = Tick::after(now, u32::from(conn.linger - 1) * 1000);
            } else if conn.state == State::FinWait2 {
                conn.keep_at = Tick::after(now, millis(core.config.fin_wait_2));
            }
            core.arm(conn, now);
        } else {
            core.drop_queues(conn, false);
        }
        self.settle(id.index);
    }

    /// Ends the connection at once, with a reset to the peer; the id becomes invalid.
    pub fn abort(&mut self, id: ConnId, now: Instant) {
        self.now = now;
        let Some(conn) = get_owned(&mut self.conns, id) else { return };
        self.core.abort(conn);
        conn.set(flag::ORPHAN);
        self.core.drop_queues(conn, false);
        self.settle(id.index);
    }

    /// Turns Nagle's algorithm off (`true`) or on.
    pub fn set_nodelay(&mut self, id: ConnId, nodelay: bool) {
        if let Some(conn) = get_owned(&mut self.conns, id) {
            if nodelay {
                conn.set(flag::NODELAY);
                self.core.want_transmit(conn);
            } else {
                conn.unset(flag::NODELAY);
            }
        }
    }

    /// Turns keepalive on or off.
    pub fn set_keepalive(&mut self, id: ConnId, keepalive: Option<Keepalive>) {
        let Some(conn) = get_owned(&mut self.conns, id) else { return };
        conn.keepalive = keepalive.map_or(0, |k| self.core.intern_keepalive(k));
        conn.keep_probes = 0;
        conn.keep_at = match keepalive {
            Some(keepalive) if can_send(conn) || conn.has(flag::FIN_QUEUED) => {
                Tick::after(self.now, millis(keepalive.idle))
            }
            _ => Tick::NONE,
        };
        self.core.arm(conn, self.now);
    }

    /// How long sent data may stay unacknowledged before the connection fails (RFC 5482).
    /// Resolution 1 ms, at most 24 days.
    pub fn set_user_timeout(&mut self, id: ConnId, timeout: Option<Duration>) {
        if let Some(conn) = get_owned(&mut self.conns, id) {
            conn.user_timeout = timeout.map_or(0, |t| millis(t).max(1));
            if conn.rexmit_at.is_some() {
                super::recovery::start_timer(conn, &self.core, self.now);
                self.core.arm(conn, self.now);
            }
        }
    }

    /// What [`Engine::close`] does with data not yet acknowledged: `None`: sends it in the
    /// background; zero: drops it and resets; else a reset after that time, whole seconds
    /// rounded up, at most 18 hours.
    pub fn set_linger(&mut self, id: ConnId, linger: Option<Duration>) {
        if let Some(conn) = get_owned(&mut self.conns, id) {
            let seconds = |t: Duration| t.as_nanos().div_ceil(1_000_000_000).min(65_000) as u16;
            conn.linger = linger.map_or(0, |t| seconds(t) + 1);
        }
    }

    /// A snapshot.
    pub fn info(&self, id: ConnId, _now: Instant) -> Option<Info> {
        let conn = self.peek(id)?;
        let micros = |us: u32| Duration::from_micros(us.into());
        let cold = conn.cold.as_ref();
        Some(Info {
            tuple: conn.tuple,
            state: conn.state,
            error: conn.error,
            mss: conn.mss,
            srtt: micros(conn.rtt.srtt()),
            rttvar: micros(conn.rtt.rttvar()),
            min_rtt: micros(conn.rtt.min()),
            rto: Duration::from_millis(conn.rtt.rto_ms(&self.core.rto, conn.retries).into()),
            cwnd: conn.congestion.cwnd,
            ssthresh: conn.congestion.ssthresh,
            snd_wnd: conn.snd_wnd,
            rcv_wnd: conn.offered(),
            snd_scale: conn.has(flag::SCALE).then_some(conn.snd_scale),
            rcv_scale: conn.has(flag::SCALE).then_some(conn.rcv_scale),
            timestamps: conn.has(flag::TIMESTAMPS),
            sack: conn.has(flag::SACK),
            recovering: conn.phase != Phase::Open,
            in_flight: conn.flight(),
            send_queue: conn.queued() as usize,
            recv_queue: cold.map_or(0, |cold| cold.rcv.ready.len() as usize),
            out_of_order: cold.map_or(0, |cold| cold.rcv.out_of_order() as usize),
            bytes_acked: conn.bytes_acked,
            bytes_received: conn.bytes_received,
            retransmits: conn.retransmits,
            retries: conn.retries,
            timer_armed: conn.node.is_some(),
            owns_buffers: cold.is_some(),
        })
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

    /// Sets the number that [`Egress::send`] is given with this connection's segments.
    pub fn set_cookie(&mut self, id: ConnId, cookie: u32) {
        if let Some(conn) = get_owned(&mut self.conns, id) {
            conn.cookie = cookie;
        }
    }

    /// Stage 1 for a burst: asks the cache for the table's line.
    pub fn prefetch(&self, tuple: &FourTuple) {
        self.core.demux.prefetch(self.core.demux.hash(tuple));
    }

    /// Stage 2 for a burst: what the segment belongs to, and asks the cache for it.
    pub fn find(&self, tuple: &FourTuple) -> Option<Slot> {
        let slot = self.core.demux.find_first(self.core.demux.hash(tuple))?;
        if slot.kind() == Kind::Conn {
            throng_runtime::prefetch_read(self.conns.get(slot.index()));
        }
        Some(slot)
    }

    /// Stage 3: a segment has come. `payload` is copied as far as it is kept; checksums are
    /// verified already.
    pub fn on_segment(&mut self, header: &Header, payload: &[u8], now: Instant) {
        self.now = now;
        self.core.counters.segments_in += 1;
        let tuple = &header.tuple;
        match self.lookup(self.core.demux.hash(tuple), tuple) {
            Some(slot) if slot.kind() == Kind::Conn => {
                self.on_segment_conn(slot.index(), header, payload, now);
            }
            Some(slot) if slot.kind() == Kind::Half => {
                self.on_segment_half(slot.index(), header, payload, now);
            }
            Some(slot) => self.on_segment_wait(slot.index(), header, payload, now),
            None => self.on_segment_none(header, payload, now),
        }
    }

    /// An ICMP error about a segment we sent with sequence number `seq`. It is believed if
    /// that is in flight (RFC 5927 4.1); it ends a connection attempt if it is hard, and
    /// otherwise is what a later timeout reports (RFC 5461).
    pub fn on_icmp_unreachable(
        &mut self,
        tuple: FourTuple,
        seq: super::seq::SeqNum,
        kind: Unreachable,
        now: Instant,
    ) {
        self.now = now;
        let slot = self.lookup(self.core.demux.hash(&tuple), &tuple);
        let Some(slot) = slot.filter(|slot| slot.kind() == Kind::Conn) else {
            self.core.counters.icmp_ignored += 1;
            return;
        };
        let conn = self.conns.get_mut(slot.index());
        if !seq.in_window(conn.snd_una, conn.flight()) {
            self.core.counters.icmp_ignored += 1;
            return;
        }
        if conn.state == State::SynSent && kind.is_hard() {
            self.core.counters.connect_failures += 1;
            self.core.end(conn, Some(kind.error()));
        } else {
            conn.soft_error = Some(kind.error());
        }
        self.settle(slot.index());
    }

    /// Sends what waits to be sent, connection by connection in the order they asked, until
    /// nothing is left or `egress` is full. Returns whether anything was sent.
    pub fn poll_transmit(&mut self, now: Instant, egress: &mut impl Egress) -> bool {
        self.now = now;
        let before = self.core.counters.segments_out;
        while let Some(reply) = self.core.replies.front() {
            if egress.send(reply, &Payload::EMPTY, 0, &mut 0).is_err() {
                return self.core.counters.segments_out != before;
            }
            self.core.replies.pop_front();
            self.core.counters.segments_out += 1;
        }
        while let Some(slot) = self.core.transmit.pop_front() {
            let done = match slot.kind() {
                Kind::Half => self.transmit_half(slot.index(), egress, now),
                _ => self.transmit_conn(slot.index(), egress, now),
            };
            if done.is_err() {
                self.core.transmit.push_front(slot);
                break;
            }
        }
        self.core.counters.segments_out != before
    }

    fn transmit_conn(
        &mut self,
        index: u32,
        egress: &mut impl Egress,
        now: Instant,
    ) -> Result<(), Full> {
        let conn = self.conns.get_mut(index);
        if !conn.has(flag::QUEUED) {
            // Freed since, and perhaps in use again.
            return Ok(());
        }
        let turn = output::transmit(conn, &mut self.core, egress, now)?;
        conn.unset(flag::QUEUED);
        if turn == Turn::Again {
            self.core.want_transmit(conn);
        }
        self.settle(index);
        Ok(())
    }

    /// Whether `poll_transmit` has anything to try.
    pub fn wants_transmit(&self) -> bool {
        !self.core.transmit.is_empty() || !self.core.replies.is_empty()
    }

    /// The next event, if there is one.
    pub fn pop_event(&mut self) -> Option<Event> {
        if self.core.has_starved() {
            for id in self.core.take_starved() {
                if let Some(conn) = get_owned(&mut self.conns, id) {
                    conn.unset(flag::STARVED);
                    self.core.writable(conn);
                }
            }
        }
        loop {
            let event = self.core.events.pop_front()?;
            match event {
                Event::Readable(id) => {
                    if let Some(conn) = get_owned(&mut self.conns, id) {
                        conn.unset(flag::EVENT_READ);
                        return Some(event);
                    }
                }
                Event::Writable(id) => {
                    if let Some(conn) = get_owned(&mut self.conns, id) {
                        conn.unset(flag::EVENT_WRITE);
                        return Some(event);
                    }
                }
                Event::Acceptable(id) => {
                    if let Some(listener) = self.listeners.get_mut(id) {
                        listener.event = false;
                        return Some(event);
                    }
                }
            }
        }
    }

    /// Why the connection ended, told once here (and always by `recv` and `send`).
    pub fn take_error(&mut self, id: ConnId) -> Option<Error> {
        let conn = get_owned(&mut self.conns, id)?;
        conn.error.or(conn.soft_error.take())
    }

    /// Totals.
    pub fn counters(&self) -> &Counters {
        &self.core.counters
    }

    pub(super) fn on_segment_conn(
        &mut self,
        index: u32,
        header: &Header,
        payload: &[u8],
        now: Instant,
    ) {
        let conn = self.conns.get_mut(index);
        if !arrival::predict(conn, &mut self.core, header, payload, now) {
            arrival::on_segment(conn, &mut self.core, header, payload, now);
            self.settle(index);
        }
    }

    fn on_segment_wait(&mut self, index: u32, header: &Header, payload: &[u8], now: Instant) {
        let flags = header.flags;
        let syn = flags.contains(Flags::SYN) && !flags.contains(Flags::ACK);
        let entry = self.core.waits.get(index);
        if syn && !flags.contains(Flags::RST) && entry.yields_to(header) {
            let beyond = entry.snd_nxt;
            if let Some(listener) = self.listeners.find(&header.tuple) {
                self.core.counters.time_wait_reused += 1;
                self.core.drop_wait(index, &header.tuple);
                self.on_syn(listener, header, Some(beyond), now);
                return;
            }
        }
        let len = segment_len(header, payload);
        time_wait::on_segment(&mut self.core, index, header, len, now);
    }

    fn on_segment_none(&mut self, header: &Header, payload: &[u8], now: Instant) {
        let flags = header.flags;
        if flags.contains(Flags::RST) {
            self.core.counters.no_connection += 1;
            return;
        }
        if flags.0 & (Flags::SYN.0 | Flags::ACK.0 | Flags::FIN.0) == Flags::SYN.0
            && let Some(listener) = self.listeners.find(&header.tuple)
        {
            self.on_syn(listener, header, None, now);
            return;
        }
        if flags.contains(Flags::SYN | Flags::FIN) {
            self.core.counters.malformed += 1;
            return;
        }
        // RFC 9293 3.10.7.1 and 3.10.7.2.
        self.core.counters.no_connection += 1;
        self.core.reset_for(header, segment_len(header, payload), now);
    }

    /// Frees a block that nobody needs any more.
    pub(super) fn settle(&mut self, index: u32) {
        let conn = self.conns.get_mut(index);
        if conn.has(flag::ORPHAN)
            && conn.has(flag::LIVE)
            && !conn.has(flag::MAPPED | flag::SEND_RST)
        {
            self.core.drop_queues(conn, false);
            if let Some(node) = conn.node.take() {
                self.core.wheel.remove(node);
            }
            conn.flags = 0;
            conn.generation = conn.generation.wrapping_add(1);
            self.conns.remove(index);
        }
    }

    fn lookup(&self, hash: u32, tuple: &FourTuple) -> Option<Slot> {
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

fn get_owned(conns: &mut Slab<Conn>, id: ConnId) -> Option<&mut Conn> {
    conns.try_get(id.index)?;
    let conn = conns.get_mut(id.index);
    (conn.generation == id.generation && conn.is_owned()).then_some(conn)
}

fn can_send(conn: &Conn) -> bool {
    matches!(conn.state, State::Established | State::CloseWait) && !conn.has(flag::FIN_QUEUED)
}

/// What a segment takes of sequence space (RFC 9293 3.4).
fn segment_len(header: &Header, payload: &[u8]) -> u32 {
    payload.len() as u32
        + u32::from(header.flags.contains(Flags::SYN))
        + u32::from(header.flags.contains(Flags::FIN))
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
