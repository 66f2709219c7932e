//! The engine's other face, towards the wire: segments, transmission, events.

use throng_runtime::{Instant, ShardWaker};

use super::demux::{Kind, Slot};
use super::egress::{Egress, Full};
use super::engine::{Engine, Event, get_owned};
use super::error::Unreachable;
use super::half::Admission;
use super::output::{self, Turn};
use super::segment::{Flags, FourTuple, Header};
use super::seq::SeqNum;
use super::snd::Payload;
use super::state::{State, flag};
use super::timer::Clock;
use super::{arrival, predict, time_wait};

/// Connections that have a turn in one `poll_transmit`. The egress may take them all: what goes to a
/// neighbour that does not answer is dropped.
const BUDGET: usize = 512;

/// A segment's way through the stages of a burst; see [`Engine::prefetch`].
#[derive(Clone, Copy, Debug)]
pub struct Lookup {
    hash: u32,
    /// The index of the connection that was located, or [`NO_CONN`].
    conn: u32,
}

/// Above all indices.
const NO_CONN: u32 = u32::MAX;

impl Lookup {
    /// The index of the connection that was located, if it is one.
    #[inline(always)]
    fn conn(&self) -> Option<u32> {
        (self.conn != NO_CONN).then_some(self.conn)
    }
}

impl Engine {
    /// Stage 1 for a burst: hashes the tuple and asks the cache for the table's line.
    #[inline]
    pub fn prefetch(&self, tuple: &FourTuple) -> Lookup {
        let hash = self.core.demux.hash(tuple);
        self.core.demux.prefetch(hash);
        Lookup { hash, conn: NO_CONN }
    }

    /// Stage 2 for a burst: finds what the segment (most likely) belongs to and asks the
    /// cache for it. Returns whether there is anything.
    #[inline]
    pub fn locate(&self, lookup: &mut Lookup) -> bool {
        let Some(slot) = self.core.demux.find_first(lookup.hash) else { return false };
        if slot.kind() == Kind::Conn {
            lookup.conn = slot.index();
            self.conns.get(slot.index()).prefetch();
        }
        true
    }

    /// Stage 3 for a burst, worth it where connections are many: asks the cache for the
    /// buffers of what was located, if it has any.
    #[inline]
    pub fn warm(&self, lookup: &Lookup) {
        let Some(index) = lookup.conn() else { return };
        if let Some(cold) = &self.conns.get(index).cold {
            cold.prefetch();
        }
    }

    /// Who waits to read from what was located, if anybody does.
    pub fn reader(&self, lookup: &Lookup) -> Option<&ShardWaker> {
        self.conns.get(lookup.conn()?).reader.as_ref()
    }

    /// Stage 4 for a burst, as stage 3: asks the cache for the payload in flight, which an
    /// acknowledgement is about to free.
    #[inline]
    pub fn warm_payload(&self, lookup: &Lookup) {
        if let Some(index) = lookup.conn()
            && let Some(cold) = &self.conns.get(index).cold
        {
            cold.snd.prefetch_payload();
        }
    }

    /// Last stage: a segment has come. `payload` is copied as far as it is kept; checksums
    /// are verified already. `lookup` is of this segment's tuple; what other segments of the
    /// burst have changed since it was made does not matter.
    pub fn on_segment_at(
        &mut self,
        lookup: &Lookup,
        header: &Header,
        payload: &[u8],
        now: Instant,
    ) {
        let clock = self.tell(now);
        if let Some(index) = lookup.conn() {
            let conn = self.conns.get_mut(index);
            if conn.has(flag::MAPPED) && conn.tuple == header.tuple {
                self.core.counters.segments_in += 1;
                if !predict::predict(conn, &mut self.core, header, payload, clock) {
                    self.on_segment_conn(index, header, payload, clock);
                }
                return;
            }
        }
        self.dispatch(lookup.hash, header, payload, clock);
    }

    /// The same for a run of segments, one after the other without a gap: `header` is the first
    /// one's, with PSH where the last one has it, and all that the others differ in is their
    /// numbers. `parts` is what each carries: something, and none more than the first.
    ///
    /// It does what [`on_segment_at`](Engine::on_segment_at) would for each of them, at once where
    /// none is unusual. The application finds the payload in one piece then.
    pub fn on_run_at(&mut self, lookup: &Lookup, header: &Header, parts: &[&[u8]], now: Instant) {
        let clock = self.tell(now);
        if let Some(index) = lookup.conn() {
            let conn = self.conns.get_mut(index);
            if conn.has(flag::MAPPED)
                && conn.tuple == header.tuple
                && predict::predict_run(conn, &mut self.core, header, parts, clock)
            {
                self.core.counters.segments_in += parts.len() as u64;
                return;
            }
        }
        let mut one = *header;
        for (i, part) in parts.iter().enumerate() {
            let last = i + 1 == parts.len();
            one.flags = if last { header.flags } else { Flags(header.flags.0 & !Flags::PSH.0) };
            self.on_segment_at(lookup, &one, part, now);
            one.seq += part.len() as u32;
        }
    }

    /// What a segment with this tuple belongs to, without the stages.
    pub fn find(&self, tuple: &FourTuple) -> Option<Slot> {
        self.lookup(self.core.demux.hash(tuple), tuple)
    }

    /// Whether a connection or a listener is there for segments with this tuple.
    pub fn claims(&self, tuple: &FourTuple) -> bool {
        self.find(tuple).is_some() || self.listeners.find(tuple).is_some()
    }

    /// All stages in one, for a segment that comes alone.
    pub fn on_segment(&mut self, header: &Header, payload: &[u8], now: Instant) {
        let clock = self.tell(now);
        self.dispatch(self.core.demux.hash(&header.tuple), header, payload, clock);
    }

    fn dispatch(&mut self, hash: u32, header: &Header, payload: &[u8], now: Clock) {
        self.core.counters.segments_in += 1;
        match self.lookup(hash, &header.tuple) {
            Some(slot) if slot.kind() == Kind::Conn => {
                let conn = self.conns.get_mut(slot.index());
                if !predict::predict(conn, &mut self.core, header, payload, now) {
                    self.on_segment_conn(slot.index(), header, payload, now);
                }
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
        seq: SeqNum,
        kind: Unreachable,
        now: Instant,
    ) {
        self.tell(now);
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
            conn.set_soft_error(Some(kind.error()));
        }
        self.settle(slot.index());
    }

    /// Sends what waits to be sent, connection by connection in the order they asked, those that repeat
    /// what was not acknowledged by turns with the others, until
    /// nothing is left, `egress` is full, or so many connections have had their turn that others of the
    /// loop's stages should. Returns whether anything was sent, or others are to have a turn.
    pub fn poll_transmit(&mut self, now: Instant, egress: &mut impl Egress) -> bool {
        let now = self.tell(now);
        let before = self.core.counters.segments_out;
        while let Some(id) = self.core.pop_squeezed() {
            if let Some(conn) = get_owned(&mut self.conns, id) {
                conn.unset(flag::SQUEEZED);
                output::offer_more(conn, &mut self.core);
            }
        }
        while let Some(reply) = self.core.replies.front() {
            if egress.send(reply, &Payload::EMPTY, 0, &mut 0).is_err() {
                return self.core.counters.segments_out != before;
            }
            self.core.replies.pop_front();
            self.core.counters.segments_out += 1;
        }
        let mut turns = 0;
        while turns < BUDGET
            && let Some((slot, repeats)) = self.core.next_turn()
        {
            turns += 1;
            let done = match slot.kind() {
                Kind::Half => self.transmit_half(slot.index(), egress, now),
                _ => self.transmit_conn(slot.index(), egress, now),
            };
            if done.is_err() {
                let queue = if repeats { &mut self.core.repeats } else { &mut self.core.transmit };
                queue.push_front(slot);
                self.drop_stale();
                turns = 0;
                break;
            }
            self.core.repeated = repeats;
        }
        if self.core.waiting() == 0 {
            // Neither the queues nor a burst's lookups name what is free.
            self.conns.shrink();
            self.halves.shrink();
            self.core.waits.shrink();
        }
        self.core.pool.shrink();
        self.core.counters.segments_out != before || turns == BUDGET
    }

    /// Drops slots whose connections are gone from the transmit queue, when those are the
    /// most of it: connections may come and go while the device takes nothing.
    fn drop_stale(&mut self) {
        if self.core.waiting() <= 64 + 2 * (self.conns.len() + self.halves.len()) {
            return;
        }
        let Engine { conns, halves, core, .. } = self;
        let mut put = |slot: Slot, from: bool, to: bool| match slot.kind() {
            Kind::Half => {
                let half = halves.get_mut(slot.index());
                let found = half.is_queued() == from;
                half.set_queued(to);
                found
            }
            _ => {
                let conn = conns.get_mut(slot.index());
                let found = conn.has(flag::QUEUED) == from;
                if to {
                    conn.set(flag::QUEUED);
                } else {
                    conn.unset(flag::QUEUED);
                }
                found
            }
        };
        // A place used again may stand in the queues twice: its first slot stays.
        core.transmit.retain(|slot| put(*slot, true, false));
        core.repeats.retain(|slot| put(*slot, true, false));
        core.transmit.iter().chain(&core.repeats).for_each(|slot| {
            put(*slot, false, true);
        });
    }

    fn transmit_conn(
        &mut self,
        index: u32,
        egress: &mut impl Egress,
        now: Clock,
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
        if conn.has(flag::ORPHAN) {
            self.settle(index);
        }
        Ok(())
    }

    /// Whether `poll_transmit` has anything to try.
    pub fn wants_transmit(&self) -> bool {
        self.core.waiting() > 0 || !self.core.replies.is_empty()
    }

    /// The next event, if there is one.
    #[inline(always)]
    pub fn pop_event(&mut self) -> Option<Event> {
        if self.core.has_starved() {
            self.wake_starved();
        }
        while let Some(event) = self.core.events.pop() {
            if let Event::Readable(id) = event {
                if let Some(conn) = get_owned(&mut self.conns, id) {
                    conn.unset(flag::EVENT_READ);
                    return Some(event);
                }
            } else if self.is_news(event) {
                return Some(event);
            }
        }
        self.core.end_promises();
        None
    }

    /// Takes note that an event, which is none of `Readable`, was told. `false`: nobody is there to hear it.
    #[inline(never)]
    fn is_news(&mut self, event: Event) -> bool {
        match event {
            Event::Readable(id) | Event::Writable(id) => {
                let conn = get_owned(&mut self.conns, id);
                conn.map(|conn| conn.unset(flag::EVENT_WRITE)).is_some()
            }
            Event::Acceptable(id) => {
                let listener = self.listeners.get_mut(id);
                listener.map(|listener| listener.event = false).is_some()
            }
        }
    }

    /// Tells connections that waited for send memory that there is some: as many as will
    /// use it up, those that have waited longest first. The rest has its turn when these
    /// have written (see [`Engine::poll_timeout`]).
    #[cold]
    pub(super) fn wake_starved(&mut self) {
        while self.core.has_starved()
            && let Some(id) = self.core.pop_starved()
        {
            let conn = self.conns.try_get_mut(id.index).filter(|conn| conn.id() == id);
            let Some(conn) = conn else {
                self.core.found_gone();
                continue;
            };
            conn.unset(flag::STARVED);
            if conn.is_owned() {
                self.core.writable(conn);
                self.core.promise();
            }
        }
    }

    /// A segment for a connection, which need not be one that is predicted.
    #[inline(never)]
    pub(super) fn on_segment_conn(
        &mut self,
        index: u32,
        header: &Header,
        payload: &[u8],
        now: Clock,
    ) {
        let conn = self.conns.get_mut(index);
        arrival::on_segment(conn, &mut self.core, header, payload, now);
        if conn.has(flag::ORPHAN) {
            self.settle(index);
        }
    }

    fn on_segment_wait(&mut self, index: u32, header: &Header, payload: &[u8], now: Clock) {
        let flags = header.flags;
        let syn = flags.contains(Flags::SYN) && !flags.contains(Flags::ACK);
        let entry = self.core.waits.get(index);
        if syn && !flags.contains(Flags::RST) && entry.yields_to(header) {
            let last = entry.last();
            if let Some(listener) = self.listeners.find(&header.tuple) {
                // A SYN that is dropped leaves the entry as it was.
                match self.admits(listener) {
                    Admission::Table => {
                        self.core.counters.time_wait_reused += 1;
                        self.core.drop_wait(index, &header.tuple);
                        self.on_syn(listener, header, Some(last.snd_nxt), now);
                    }
                    // The entry stays until the peer has proved its address.
                    Admission::Cookie => self.send_cookie(header, Some(&last), now),
                    Admission::No => {}
                }
                return;
            }
        }
        // The acknowledgement of a cookie that has answered such a SYN.
        let opening = Header { seq: header.seq - 1, ..*header };
        if !syn && entry.yields_to(&opening) {
            let from = Slot::new(Kind::Wait, index);
            if self.on_cookie(Some(from), header, payload, now) {
                return;
            }
        }
        let len = segment_len(header, payload);
        time_wait::on_segment(&mut self.core, index, header, len, now);
    }

    fn on_segment_none(&mut self, header: &Header, payload: &[u8], now: Clock) {
        let flags = header.flags;
        if flags.contains(Flags::RST) {
            self.core.counters.no_connection += 1;
            return;
        }
        if flags.0 & (Flags::SYN.0 | Flags::ACK.0 | Flags::FIN.0) == Flags::SYN.0
            && let Some(listener) = self.listeners.find(&header.tuple)
        {
            match self.admits(listener) {
                Admission::Table => self.on_syn(listener, header, None, now),
                Admission::Cookie => self.send_cookie(header, None, now),
                Admission::No => {}
            }
            return;
        }
        if flags.contains(Flags::SYN | Flags::FIN) {
            self.core.counters.malformed += 1;
            return;
        }
        // RFC 9293 3.10.7.2, fourth: what is neither RST, ACK nor SYN is dropped by a listener.
        if flags.0 & (Flags::ACK.0 | Flags::SYN.0) == 0
            && self.listeners.find(&header.tuple).is_some()
        {
            self.core.counters.malformed += 1;
            return;
        }
        if self.on_cookie(None, header, payload, now) {
            return;
        }
        // RFC 9293 3.10.7.1 and 3.10.7.2.
        self.core.counters.no_connection += 1;
        self.core.reset_for(header, segment_len(header, payload), now);
    }
}

/// What a segment takes of sequence space (RFC 9293 3.4).
fn segment_len(header: &Header, payload: &[u8]) -> u32 {
    payload.len() as u32
        + u32::from(header.flags.contains(Flags::SYN))
        + u32::from(header.flags.contains(Flags::FIN))
}
