//! TIME_WAIT, compact (RFC 9293 3.6, RFC 1337, RFC 6191).

use throng_runtime::Instant;

use super::core::{Core, plain};
use super::segment::{Flags, FourTuple, Header};
use super::seq::SeqNum;
use super::state::{Conn, flag};
use super::timer::{Clock, Tick};
use throng_runtime::slab::{Entry, Slab};

/// What is left of a connection in TIME_WAIT.
#[derive(Debug)]
pub(super) struct TimeWait {
    pub(super) tuple: FourTuple,
    snd_nxt: SeqNum,
    rcv_nxt: SeqNum,
    ts_recent: u32,
    ts_offset: u32,
    expires: Tick,
    /// Last answer to a segment, for the rate limit.
    answered: Tick,
    previous: u32,
    next: u32,
    window: u16,
    timestamps: bool,
}

const _: () = assert!(size_of::<TimeWait>() <= 72, "TIME_WAIT is compact");

/// What a new connection with the same tuple has to mind.
#[derive(Clone, Copy, Debug)]
pub(super) struct Last {
    /// The old one's numbers end here.
    pub(super) snd_nxt: SeqNum,
    /// Its segments bore timestamps.
    pub(super) timestamps: bool,
}

const NONE: u32 = u32::MAX;

impl TimeWait {
    pub(super) fn new(conn: &Conn) -> TimeWait {
        TimeWait {
            tuple: conn.tuple,
            snd_nxt: conn.snd_nxt,
            rcv_nxt: conn.rcv_nxt,
            ts_recent: conn.ts_recent,
            ts_offset: conn.ts_offset,
            expires: Tick::NONE,
            answered: Tick::NONE,
            previous: NONE,
            next: NONE,
            window: (conn.offered() >> conn.rcv_scale).min(0xffff) as u16,
            timestamps: conn.has(flag::TIMESTAMPS),
        }
    }

    /// The ACK it answers with.
    pub(super) fn ack(&self, now: Clock) -> Header {
        let mut header = plain(self.tuple, self.snd_nxt, self.rcv_nxt, Flags::ACK, self.window);
        if self.timestamps {
            let value = now.tick.0.wrapping_add(self.ts_offset);
            header.options.timestamps = Some((value, self.ts_recent));
        }
        header
    }

    /// Where the old connection's numbers end.
    pub(super) fn last(&self) -> Last {
        Last { snd_nxt: self.snd_nxt, timestamps: self.timestamps }
    }

    /// Whether a SYN may take over: its timestamp or, failing that, its sequence number is
    /// beyond what this connection saw (RFC 6191 2, RFC 9293 3.10.7.4).
    pub(super) fn yields_to(&self, syn: &Header) -> bool {
        match syn.options.timestamps {
            Some((value, _)) if self.timestamps => {
                let newer = value.wrapping_sub(self.ts_recent) as i32;
                newer > 0 || newer == 0 && syn.seq.after(self.rcv_nxt)
            }
            _ => syn.seq.after(self.rcv_nxt),
        }
    }
}

impl Entry for TimeWait {
    fn link(&mut self) -> &mut u32 {
        &mut self.next
    }
}

/// All TIME_WAIT entries, oldest first. They all last the same time, so the order of
/// insertion is the order of expiry and no timer is needed but the first one's.
#[derive(Debug)]
pub(super) struct WaitTable {
    slab: Slab<TimeWait>,
    head: u32,
    tail: u32,
    lifetime_ms: u32,
    limit: usize,
}

impl WaitTable {
    pub(super) fn new(lifetime_ms: u32, limit: usize) -> WaitTable {
        WaitTable { slab: Slab::new(), head: NONE, tail: NONE, lifetime_ms, limit: limit.max(1) }
    }

    pub(super) fn len(&self) -> usize {
        self.slab.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.slab.len() >= self.limit
    }

    pub(super) fn get(&self, index: u32) -> &TimeWait {
        self.slab.get(index)
    }

    /// See [`Slab::shrink`].
    pub(super) fn shrink(&mut self) {
        self.slab.shrink();
    }

    pub(super) fn memory(&self) -> usize {
        self.slab.memory()
    }

    pub(super) fn insert(&mut self, entry: TimeWait, now: Clock) -> u32 {
        let index = self.slab.insert(entry);
        self.append(index, now);
        index
    }

    fn append(&mut self, index: u32, now: Clock) {
        let (tail, expires) = (self.tail, now.after(self.lifetime_ms));
        let entry = self.slab.get_mut(index);
        (entry.previous, entry.next, entry.expires) = (tail, NONE, expires);
        match tail {
            NONE => self.head = index,
            tail => self.slab.get_mut(tail).next = index,
        }
        self.tail = index;
    }

    fn unlink(&mut self, index: u32) {
        let entry = self.slab.get(index);
        let (previous, next) = (entry.previous, entry.next);
        match previous {
            NONE => self.head = next,
            previous => self.slab.get_mut(previous).next = next,
        }
        match next {
            NONE => self.tail = previous,
            next => self.slab.get_mut(next).previous = previous,
        }
    }

    pub(super) fn remove(&mut self, index: u32) {
        self.unlink(index);
        self.slab.remove(index);
    }

    /// The entry that expires first, and its tuple.
    pub(super) fn oldest(&self) -> Option<(u32, FourTuple)> {
        (self.head != NONE).then(|| (self.head, self.slab.get(self.head).tuple))
    }

    /// Whether the oldest entry's time is over.
    pub(super) fn is_due(&self, now: Clock) -> bool {
        self.head != NONE && self.slab.get(self.head).expires.is_due(now.tick)
    }

    /// When the oldest entry expires, `now` being near.
    pub(super) fn deadline(&self, now: Clock) -> Option<Instant> {
        (self.head != NONE).then(|| self.slab.get(self.head).expires.instant(now.instant))
    }
}

/// A segment for a TIME_WAIT entry that does not take it over (RFC 9293 3.10.7.4).
pub(super) fn on_segment(core: &mut Core, index: u32, header: &Header, len: u32, now: Clock) {
    // RFC 1337: a reset does not cut TIME_WAIT short.
    if header.flags.contains(Flags::RST) {
        return;
    }
    let tick = now.tick;
    let entry = core.waits.slab.get_mut(index);
    let again = header.flags.contains(Flags::FIN) && header.seq + len == entry.rcv_nxt;
    // A mere ACK needs no answer, and two ends in TIME_WAIT must not answer each other.
    if len == 0 && header.seq == entry.rcv_nxt {
        return;
    }
    if entry.answered.is_some() && tick.age(entry.answered) < core.challenge_ms && !again {
        core.counters.challenge_limited += 1;
        return;
    }
    entry.answered = tick;
    let ack = entry.ack(now);
    if again {
        // The peer's FIN again, so our ACK was lost: the time starts anew.
        core.waits.unlink(index);
        core.waits.append(index, now);
    }
    core.reply(ack);
}
