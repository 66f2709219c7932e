//! Taking a reduction of the window back when what was taken for lost turns out to have been
//! late: by timestamps (RFC 3522), by what a timeout's first answers acknowledge (F-RTO,
//! RFC 5682), by D-SACKs (RFC 3708). The window and what its controller knew are restored
//! (RFC 4015 3.2, RFC 9438 4.9).

use super::congestion::Congestion;
use super::core::Core;
use super::rack::{self, News};
use super::segment::{Header, SackBlock};
use super::seq::SeqNum;
use super::state::{Conn, Phase, flag, mark};

/// What is remembered of a reduction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Undo {
    /// The window as it was.
    before: Congestion,
    /// Whether a timeout was the reason.
    timeout: bool,
    /// SND.UNA and SND.NXT then.
    start: SeqNum,
    end: SeqNum,
    /// The end of the first segment that went again, and its timestamp (RetransmitTS).
    first: Option<(SeqNum, u32)>,
    /// Whether what covers that has been acknowledged, and said what it had to say.
    asked: bool,
    /// One past the highest byte that went again.
    high: SeqNum,
    /// Bytes that went again and were not reported as having come twice.
    unexplained: u32,
    frto: Frto,
}

/// How far F-RTO has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Frto {
    Off,
    /// The first segment went again; its answer is to come (step 1).
    First,
    /// It has moved SND.UNA, and new data goes (step 2).
    Second,
}

/// The window is about to be reduced, for a timeout or in fast recovery.
pub(super) fn begin(conn: &mut Conn, timeout: bool) {
    let (start, end, before) = (conn.snd_una, conn.snd_nxt, conn.congestion);
    let frto = if timeout { Frto::First } else { Frto::Off };
    if let Some(extra) = rack::log(conn) {
        let high = start;
        extra.undo = Some(Undo {
            before,
            timeout,
            start,
            end,
            first: None,
            asked: false,
            high,
            unexplained: 0,
            frto,
        });
    }
}

/// It was reduced once more, or for another reason: it cannot be told any more what for.
pub(super) fn forget(conn: &mut Conn) {
    if conn.marks & mark::LOGGED != 0
        && let Some(extra) = rack::log(conn)
    {
        extra.undo = None;
    }
}

/// Another timeout while the first is being repaired: F-RTO is over (RFC 5682 3.1, step 1).
pub(super) fn give_up_frto(conn: &mut Conn) {
    if let Some(extra) = rack::log(conn)
        && let Some(undo) = &mut extra.undo
    {
        undo.frto = Frto::Off;
    }
}

impl Undo {
    /// `from..end` goes again, with `timestamp`.
    pub(super) fn note_resent(&mut self, from: SeqNum, end: SeqNum, timestamp: u32) {
        self.first.get_or_insert((end, timestamp));
        if end.after(self.high) {
            self.high = end;
        }
        self.unexplained = self.unexplained.saturating_add(end - from);
    }

    /// Whether retransmissions wait for what new data will tell (F-RTO).
    pub(super) fn holds_back(&self) -> bool {
        self.frto == Frto::Second
    }

    /// Whether the first copy of what went again has arrived, by the timestamp that is echoed
    /// (RFC 3522 3.2, steps 4 and 5). Asked once.
    fn by_timestamp(&mut self, header: &Header) -> bool {
        let (Some((end, sent)), Some((_, echo))) = (self.first, header.options.timestamps) else {
            return false;
        };
        if self.asked || header.ack.before(end) {
            return false;
        }
        // The first acknowledgement that covers it says all: timestamps that come later tell
        // of other segments.
        self.asked = true;
        echo != 0 && (echo.wrapping_sub(sent) as i32) < 0
    }

    /// RFC 3708: all that went again had arrived before.
    fn by_duplicate(&mut self, block: SackBlock) -> bool {
        if block.start.before(self.start) || block.end.after(self.high) || self.unexplained == 0 {
            return false;
        }
        self.unexplained = self.unexplained.saturating_sub(block.end - block.start);
        self.unexplained == 0
    }

    /// RFC 5682 3.1 with SACK and 2.1 without. `forward`: SND.UNA has moved; `fresh`: data that
    /// was out at the timeout, and never went again, has arrived; `room`: there is new data,
    /// and a window for it. Returns whether the timeout was spurious, once that is known.
    fn by_frto(
        &mut self,
        ack: SeqNum,
        forward: bool,
        fresh: bool,
        sacks: bool,
        room: bool,
    ) -> Option<bool> {
        match self.frto {
            Frto::Off => {}
            // Reports alone decide nothing yet.
            Frto::First if !forward && sacks => {}
            Frto::First => {
                let partial = forward && ack.before(self.end);
                self.frto = if partial && room { Frto::Second } else { Frto::Off };
            }
            Frto::Second => {
                self.frto = Frto::Off;
                return Some(fresh);
            }
        }
        None
    }
}

/// An acknowledgement has come; `forward`: it has moved SND.UNA; `told`: or is a duplicate. Takes
/// the last reduction back if that was a mistake.
pub(super) fn on_ack(
    conn: &mut Conn,
    core: &mut Core,
    header: &Header,
    news: &News,
    (forward, told): (bool, bool),
) {
    if conn.cold.as_ref().is_none_or(|cold| cold.undo().is_none()) {
        return;
    }
    let sacks = conn.has(flag::SACK);
    let (una, phase) = (conn.snd_una, conn.phase);
    let mss = u32::from(conn.mss);
    let unsent = conn.unsent();
    // What Nagle's algorithm keeps back will not go, and so tell nothing.
    let held =
        unsent < mss && !conn.has(flag::NODELAY | flag::OVERRIDE) && conn.short_end.after(una);
    let window = conn.snd_wnd.saturating_sub(conn.flight());
    let room = unsent > 0 && !held && window >= unsent.min(mss);
    let stamps = conn.has(flag::TIMESTAMPS);
    let Some(mut undo) = rack::log(conn).and_then(|extra| extra.undo.take()) else { return };
    let mut spurious = false;
    if let Some(block) = news.duplicate {
        spurious |= undo.by_duplicate(block);
    }
    spurious |= stamps && forward && undo.by_timestamp(header);
    if phase == Phase::Loss {
        let verdict = if told { undo.by_frto(una, forward, news.fresh, sacks, room) } else { None };
        spurious |= verdict == Some(true);
        if verdict == Some(false) {
            // Step 3a: beside the two new segments, room for what is lost.
            conn.congestion.cwnd = 3 * mss;
        }
    } else {
        undo.frto = Frto::Off;
    }
    if spurious {
        take_back(conn, core, &undo);
    } else if let Some(extra) = rack::log(conn) {
        extra.undo = Some(undo);
    }
}

fn take_back(conn: &mut Conn, core: &mut Core, undo: &Undo) {
    conn.congestion.undo(&undo.before);
    if undo.timeout {
        core.counters.spurious_timeouts += 1;
    } else {
        core.counters.spurious_recoveries += 1;
        // It was late by more than the reordering window.
        conn.marks |= mark::REORDERS;
    }
    if conn.phase != Phase::Open {
        conn.phase = Phase::Open;
        conn.dup_acks = 0;
        conn.unset(flag::FORCE_RETRANSMIT);
        rack::on_recovered(conn);
        if let Some(extra) = rack::log(conn) {
            extra.sent.forgive();
            extra.rack.doubt();
        }
    }
    core.want_transmit(conn);
}
