//! What the connections of an engine share: settings, queues towards the stack, timers,
//! budgets.

use std::collections::VecDeque;

use super::cold::Pool;
use super::config::Config;
use super::counters::Counters;
use super::demux::{Demux, Kind, Slot};
use super::engine::ConnId;
use super::error::Error;
use super::events::Events;
use super::isn::Secret;
use super::limiter::Limiter;
use super::path::Paths;
use super::ports::Ports;
use super::rtt::{RtoLimits, millis};
use super::segment::{Flags, FourTuple, Header, Options};
use super::seq::SeqNum;
use super::settings::SettingsTable;
use super::state::{Conn, State, flag, mark};
use super::syn_cookie::Cookies;
use super::time_wait::{TimeWait, WaitTable};
use super::timer::{Clock, NodeBy, Tick};
use super::trace;
use throng_runtime::wheel::TimerWheel;

/// Armed timers from which on those of idle connections are taken out of the wheel.
const MANY_ARMED: usize = 4096;

/// Replies that wait for room on the way out; more are dropped and counted.
const MAX_REPLIES: usize = 1024;

pub(super) struct Core {
    pub(super) config: Config,
    pub(super) rto: RtoLimits,
    pub(super) delayed_ack_ms: u32,
    pub(super) challenge_ms: u32,
    /// Shift of the windows we advertise.
    pub(super) rcv_scale: u8,
    pub(super) secret: Secret,
    pub(super) cookies: Cookies,
    pub(super) demux: Demux,
    pub(super) waits: WaitTable,
    pub(super) wheel: TimerWheel<Slot>,
    pub(super) events: Events,
    pub(super) transmit: VecDeque<Slot>,
    /// Those that ask because they heard nothing: they have every other turn only, see
    /// [`next_turn`](Core::next_turn).
    pub(super) repeats: VecDeque<Slot>,
    /// The last turn was one of theirs. It is remembered, for the device may have room for one at a time.
    pub(super) repeated: bool,
    pub(super) replies: VecDeque<Header>,
    pub(super) counters: Counters,
    pub(super) pool: Pool,
    pub(super) send_used: u64,
    pub(super) recv_used: u64,
    /// Connections whose application has let go of them.
    pub(super) orphans: usize,
    /// Connections refused for engine-wide send memory, in the order they asked.
    starved: VecDeque<ConnId>,
    /// How many of them are gone.
    starved_gone: usize,
    /// Send memory that those are expected to take who are being told.
    promised: u64,
    /// Connections whose windows wait for engine-wide receive memory.
    squeezed: VecDeque<ConnId>,
    pub(super) settings: SettingsTable,
    pub(super) paths: Paths,
    pub(super) resets: Limiter,
    pub(super) ports: Ports,
    /// Every segment goes the long way.
    #[cfg(test)]
    pub(super) prediction_off: bool,
}

impl Core {
    pub(super) fn new(config: Config, secret: &[u8; 32]) -> Core {
        let secret = Secret::new(secret);
        let config = within_bounds(config);
        let min = millis(config.rto_min).max(1);
        Core {
            rto: RtoLimits {
                min,
                max: millis(config.rto_max).max(min),
                initial: millis(config.rto_initial).max(min),
            },
            delayed_ack_ms: millis(config.delayed_ack),
            challenge_ms: millis(config.challenge_interval),
            rcv_scale: (0..14).find(|s| config.recv_buffer >> s <= 0xffff).unwrap_or(14),
            demux: Demux::new(secret.demux),
            cookies: Cookies::new(secret.cookies),
            ports: Ports::new(secret.ports),
            waits: WaitTable::new(millis(config.time_wait), config.max_time_wait),
            wheel: TimerWheel::new(),
            events: Events::default(),
            transmit: VecDeque::new(),
            repeats: VecDeque::new(),
            repeated: false,
            replies: VecDeque::new(),
            counters: Counters::default(),
            pool: Pool::default(),
            send_used: 0,
            recv_used: 0,
            orphans: 0,
            starved: VecDeque::new(),
            starved_gone: 0,
            promised: 0,
            squeezed: VecDeque::new(),
            settings: SettingsTable::default(),
            paths: Paths::default(),
            resets: Limiter::new(config.resets_per_second, secret.limits),
            secret,
            config,
            #[cfg(test)]
            prediction_off: false,
        }
    }

    /// Whether a test wants nothing predicted, neither of segments in nor of turns to transmit.
    #[inline(always)]
    pub(super) fn is_prediction_off(&self) -> bool {
        #[cfg(test)]
        return self.prediction_off;
        #[cfg(not(test))]
        false
    }

    /// The largest segment for this tuple's address family, options included.
    pub(super) fn mss(&self, tuple: &FourTuple) -> u16 {
        if tuple.remote.is_ipv4() { self.config.mss_v4 } else { self.config.mss_v6 }
    }

    /// Puts a connection into the transmit queue, once.
    pub(super) fn want_transmit(&mut self, conn: &mut Conn) {
        let flags = conn.flags;
        if flags & flag::QUEUED == 0 {
            conn.flags = flags | flag::QUEUED;
            self.transmit.push_back(conn.slot());
        }
    }

    /// Puts a connection that has heard nothing for too long into its queue, once: a million peers that
    /// died together are not to stand before those that live.
    pub(super) fn want_repeat(&mut self, conn: &mut Conn) {
        if !conn.has(flag::QUEUED) {
            conn.set(flag::QUEUED);
            conn.marks |= mark::REPEATS;
            self.repeats.push_back(conn.slot());
        }
    }

    /// The peer of `conn` is heard: if it waits among those that are not, it does so no longer.
    #[inline(always)]
    pub(super) fn heard(&mut self, conn: &mut Conn) {
        if conn.marks & mark::REPEATS != 0 {
            self.leave_repeats(conn);
        }
    }

    #[cold]
    fn leave_repeats(&mut self, conn: &mut Conn) {
        conn.marks &= !mark::REPEATS;
        if conn.has(flag::QUEUED) {
            // Whichever of its slots comes first is its turn, and the other one's is nobody's.
            self.transmit.push_back(conn.slot());
        }
    }

    /// Connections in both queues.
    pub(super) fn waiting(&self) -> usize {
        self.transmit.len() + self.repeats.len()
    }

    /// Who has the next turn, and whether it is one that repeats: by turns, where there are both.
    #[inline]
    pub(super) fn next_turn(&mut self) -> Option<(Slot, bool)> {
        if !self.repeats.is_empty()
            && (!self.repeated || self.transmit.is_empty())
            && let Some(slot) = self.repeats.pop_front()
        {
            return Some((slot, true));
        }
        self.transmit.pop_front().map(|slot| (slot, false))
    }

    /// An ACK has to go out at once.
    pub(super) fn ack_now(&mut self, conn: &mut Conn) {
        conn.set(flag::ACK_NOW);
        self.want_transmit(conn);
    }

    /// Sends a challenge ACK unless this connection had one lately (RFC 5961 7, with a limit
    /// per connection: a shared one tells strangers about each other, CVE-2016-5696).
    pub(super) fn challenge(&mut self, conn: &mut Conn, now: Tick) {
        if conn.challenge_at.is_some() && now.age(conn.challenge_at) < self.challenge_ms {
            self.counters.challenge_limited += 1;
            return;
        }
        conn.challenge_at = now;
        self.counters.challenge_acks += 1;
        self.ack_now(conn);
    }

    pub(super) fn readable(&mut self, conn: &mut Conn) {
        if let Some(reader) = conn.reader.take() {
            reader.wake();
        } else if conn.flags & (flag::EVENT_READ | flag::ORPHAN | flag::UNACCEPTED) == 0 {
            conn.set(flag::EVENT_READ);
            self.events.readable(conn.id());
        }
    }

    pub(super) fn writable(&mut self, conn: &mut Conn) {
        conn.unset(flag::WANT_WRITE);
        if conn.flags & (flag::EVENT_WRITE | flag::ORPHAN | flag::UNACCEPTED) == 0 {
            conn.set(flag::EVENT_WRITE);
            self.events.writable(conn.id());
        }
    }

    /// Notes that `conn` waits for engine-wide send memory.
    pub(super) fn starve(&mut self, conn: &mut Conn) {
        if !conn.has(flag::STARVED) {
            conn.set(flag::STARVED);
            self.starved.push_back(conn.id());
        }
    }

    /// Whether a connection waits for send memory that is there, and that was not promised
    /// to others since [`Core::end_promises`].
    pub(super) fn has_starved(&self) -> bool {
        !self.starved.is_empty() && self.send_used + self.promised < self.config.send_memory
    }

    /// The connection that has waited longest for send memory.
    pub(super) fn pop_starved(&mut self) -> Option<ConnId> {
        self.starved.pop_front()
    }

    /// What was waiting for send memory has been told so, and takes a piece of it.
    pub(super) fn promise(&mut self) {
        self.promised += u64::from(self.config.initial_send_buffer / 4).max(1);
    }

    /// One of those that waited is no more. Their ids are dropped when they are the most.
    #[cold]
    pub(super) fn forget_starved(&mut self, is_gone: impl Fn(ConnId) -> bool) {
        self.starved_gone += 1;
        if self.starved_gone > self.starved.len() / 2 {
            self.starved.retain(|id| !is_gone(*id));
            self.starved_gone = 0;
        }
    }

    /// One of those forgotten was taken off the queue.
    pub(super) fn found_gone(&mut self) {
        self.starved_gone = self.starved_gone.saturating_sub(1);
    }

    /// Whoever was told has had the chance to write.
    pub(super) fn end_promises(&mut self) {
        self.promised = 0;
    }

    /// Whether so little receive memory is left that windows are kept small.
    pub(super) fn is_recv_memory_short(&self) -> bool {
        let limit = self.config.recv_memory;
        limit.saturating_sub(self.recv_used) < limit / 4
    }

    /// Notes that the window of `conn` is to grow when there is receive memory again.
    pub(super) fn squeeze(&mut self, conn: &mut Conn) {
        if !conn.has(flag::SQUEEZED) {
            conn.set(flag::SQUEEZED);
            if self.squeezed.len() >= self.config.max_connections {
                // For the most part they must be gone; a peer's probes help the others.
                self.squeezed.pop_front();
            }
            self.squeezed.push_back(conn.id());
        }
    }

    /// A connection whose window may grow now, if there is one.
    pub(super) fn pop_squeezed(&mut self) -> Option<ConnId> {
        if self.squeezed.is_empty() || self.is_recv_memory_short() {
            return None;
        }
        self.squeezed.pop_front()
    }

    /// Makes sure that the wheel calls at or before the earliest deadline of `conn`.
    #[inline(always)]
    pub(super) fn arm(&mut self, conn: &mut Conn, now: Clock) {
        let earliest = conn.deadline();
        if earliest.is_some()
            && (conn.node.is_none() || !conn.node_by.is_in_time(earliest, now.tick))
        {
            self.arm_at(conn, earliest, now);
        }
    }

    /// After the last of the deadlines of `conn` has gone: takes its node out of the wheel where many
    /// are armed. With few of them it stays for the next deadline, see [`timer`](super::timer). With
    /// many, nobody would look at the connection before the node comes up in vain, and both lie far
    /// from the cache then.
    #[inline(always)]
    pub(super) fn disarm_idle(&mut self, conn: &mut Conn) {
        if conn.node.is_some()
            && self.wheel.len() > MANY_ARMED
            && !conn.deadline().is_some()
            && let Some(node) = conn.node.take()
        {
            self.wheel.remove(node);
        }
    }

    #[inline(never)]
    fn arm_at(&mut self, conn: &mut Conn, earliest: Tick, now: Clock) {
        let at = earliest.instant(now.instant);
        if let Some(node) = conn.node {
            // One that is overdue is in the wheel for now.
            if !self.wheel.is_later(node, at.max(now.instant)) {
                return;
            }
            self.wheel.remove(node);
        }
        conn.node = Some(self.wheel.insert(at, conn.slot()));
        conn.node_by = NodeBy::new(earliest, now.tick);
    }

    /// Queues a segment that belongs to no connection (any more). Returns whether there was
    /// room for it.
    pub(super) fn reply(&mut self, header: Header) -> bool {
        let room = self.replies.len() < MAX_REPLIES;
        if room {
            self.replies.push_back(header);
        } else {
            self.counters.replies_dropped += 1;
        }
        room
    }

    /// The reset that answers `segment` (RFC 9293 3.10.7.1), within the rate limit.
    pub(super) fn reset_for(&mut self, segment: &Header, len: u32, now: Clock) {
        if segment.flags.contains(Flags::RST) {
            return;
        }
        if !self.resets.take(&segment.tuple.remote, now) {
            self.counters.resets_limited += 1;
            return;
        }
        self.counters.resets_out += 1;
        let (seq, ack, flags) = if segment.flags.contains(Flags::ACK) {
            (segment.ack, SeqNum(0), Flags::RST)
        } else {
            (SeqNum(0), segment.seq + len, Flags::RST | Flags::ACK)
        };
        self.reply(plain(segment.tuple, seq, ack, flags, 0));
    }

    /// Takes a connection out of the demultiplexing table.
    pub(super) fn unmap(&mut self, conn: &mut Conn) {
        if conn.has(flag::MAPPED) {
            conn.unset(flag::MAPPED);
            let hash = self.demux.hash(&conn.tuple);
            let removed = self.demux.remove(hash, conn.slot());
            debug_assert!(removed, "a mapped connection is in the table");
            self.ports.release(&conn.tuple);
        }
    }

    /// Gives back what the queues of `conn` hold: all of it, or all but what the application
    /// may still read.
    pub(super) fn drop_queues(&mut self, conn: &mut Conn, keep_ready: bool) {
        let Some(cold) = &mut conn.cold else { return };
        self.send_used -= u64::from(cold.snd.clear());
        cold.forget_sent();
        conn.marks &= !mark::LOGGED;
        let before = cold.charge();
        cold.forget_early();
        if !keep_ready {
            cold.clear_ready();
        }
        self.recv_used -= u64::from(before - cold.charge());
        self.put_away(conn);
    }

    /// Gives the cold box back if it is drained.
    #[inline(always)]
    pub(super) fn put_away(&mut self, conn: &mut Conn) {
        let drained = conn.cold.as_ref().is_some_and(|cold| {
            // Out-of-order ranges lie further off in the box: only where there are any.
            cold.snd.is_empty()
                && cold.ready().is_empty()
                && (!conn.has(flag::UNUSUAL) || cold.is_empty())
        });
        if drained {
            self.put_away_drained(conn);
        }
    }

    #[inline(never)]
    fn put_away_drained(&mut self, conn: &mut Conn) {
        if let Some(cold) = conn.cold.take() {
            if conn.has(flag::UNUSUAL) && conn.marks & mark::PROBED == 0 {
                conn.unset(flag::UNUSUAL);
            }
            conn.marks &= !mark::LOGGED;
            self.pool.give(cold);
        }
    }

    /// Ends a connection: no more segments, no timers; the application is told.
    pub(super) fn end(&mut self, conn: &mut Conn, error: Option<Error>) {
        match &error {
            Some(error) => self.end_for(conn, Some(*error), error),
            None => self.end_for(conn, None, &"closed"),
        }
    }

    fn end_for(&mut self, conn: &mut Conn, error: Option<Error>, reason: &dyn std::fmt::Display) {
        if conn.state != State::Closed {
            trace::ended(self, conn, reason);
        }
        conn.state = State::Closed;
        conn.set_error(error);
        self.retire(conn);
        self.unmap(conn);
    }

    /// Stops timers and queues of a connection that takes part no more.
    fn retire(&mut self, conn: &mut Conn) {
        (conn.rexmit_at, conn.ack_at, conn.keep_at) = (Tick::NONE, Tick::NONE, Tick::NONE);
        conn.unset(
            flag::ACK_NOW | flag::ACK_LATER | flag::SEND_SYN | flag::SEND_PROBE | flag::PERSIST,
        );
        let keep_ready = !conn.has(flag::ORPHAN);
        self.drop_queues(conn, keep_ready);
        self.readable(conn);
        self.writable(conn);
    }

    /// Ends a connection for lack of an answer.
    pub(super) fn time_out(&mut self, conn: &mut Conn) {
        self.counters.timed_out += 1;
        let error = conn.soft_error().unwrap_or(Error::TimedOut);
        if conn.state == State::SynSent {
            self.counters.connect_failures += 1;
        }
        self.end(conn, Some(error));
    }

    /// Ends a connection with a reset to the peer.
    pub(super) fn abort(&mut self, conn: &mut Conn) {
        let tell = !matches!(conn.state, State::Closed | State::SynSent | State::TimeWait);
        self.end_for(conn, None, &"aborted by us");
        if tell {
            conn.set(flag::SEND_RST);
            self.want_transmit(conn);
        }
    }

    /// Moves a connection both of whose directions are closed to the TIME_WAIT table.
    pub(super) fn enter_time_wait(&mut self, conn: &mut Conn, now: Clock) {
        let entry = TimeWait::new(conn);
        let ack = entry.ack(now);
        let send_ack = conn.has(flag::ACK_NOW | flag::ACK_LATER);
        let hash = self.demux.hash(&conn.tuple);
        while self.waits.is_full() {
            // The defined answer at the bound: the oldest entry makes room.
            self.counters.time_wait_recycled += 1;
            self.drop_oldest_wait();
        }
        if conn.has(flag::MAPPED) {
            let index = self.waits.insert(entry, now);
            self.demux.replace(hash, conn.slot(), Slot::new(Kind::Wait, index));
            conn.unset(flag::MAPPED);
        }
        if send_ack {
            self.reply(ack);
        }
        trace::ended(self, conn, &"closed");
        conn.state = State::TimeWait;
        self.retire(conn);
    }

    /// Removes the TIME_WAIT entry that expires first.
    pub(super) fn drop_oldest_wait(&mut self) {
        if let Some((index, tuple)) = self.waits.oldest() {
            self.drop_wait(index, &tuple);
        }
    }

    /// Removes a TIME_WAIT entry.
    pub(super) fn drop_wait(&mut self, index: u32, tuple: &FourTuple) {
        let hash = self.demux.hash(tuple);
        let removed = self.demux.remove(hash, Slot::new(Kind::Wait, index));
        debug_assert!(removed, "a TIME_WAIT entry is in the table");
        self.ports.release(tuple);
        self.waits.remove(index);
    }
}

/// The nearest settings that the protocol can carry.
fn within_bounds(config: Config) -> Config {
    Config {
        // Room for options and some payload, at least.
        mss_v4: config.mss_v4.max(88),
        mss_v6: config.mss_v6.max(88),
        // RFC 7323 2.3: a window scaled as far as it goes.
        recv_buffer: config.recv_buffer.clamp(1, 0xffff << 14),
        initial_recv_buffer: config.initial_recv_buffer.max(1),
        send_buffer: config.send_buffer.clamp(1, 1 << 30),
        initial_send_buffer: config.initial_send_buffer.max(1),
        ..config
    }
}

/// A header without options.
pub(super) fn plain(
    tuple: FourTuple,
    seq: SeqNum,
    ack: SeqNum,
    flags: Flags,
    window: u16,
) -> Header {
    Header { tuple, seq, ack, flags, window, urgent: 0, ecn: 0, options: Options::default() }
}
