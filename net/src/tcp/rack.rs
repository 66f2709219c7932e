//! RACK: what was sent before something that has arrived, and long enough ago, is lost
//! (RFC 8985 6). Where SACK was not agreed on, [`recovery`](super::recovery) counts duplicates.

use super::cold::Extra;
use super::core::Core;
use super::prr;
use super::recovery;
use super::scoreboard::{Delivered, Sending};
use super::segment::{Header, SackBlock};
use super::seq::SeqNum;
use super::state::{Armed, Conn, Phase, flag, mark};
use super::timer::{Clock, Tick};
use super::tlp;

/// Recoveries for which a wider reordering window stays (RFC 8985 6.2, step 4).
const PERSIST: u8 = 16;
/// Microseconds after which an arrival stands for nothing: times compare within half of their
/// circle, and a clock can jump.
const LONG_AGO: u32 = 1 << 30;

/// What is known of the latest segment that arrived.
#[derive(Debug, Default)]
pub(super) struct Rack {
    /// RACK.xmit_ts and RACK.end_seq; `None` before anything is known.
    latest: Option<Sending>,
    /// RACK.rtt, in microseconds.
    rtt: u32,
    /// RACK.fack: one past the highest byte that arrived.
    fack: SeqNum,
    /// RACK.dsack_round: until this is acknowledged, D-SACKs widen the window no more.
    dsack_round: Option<SeqNum>,
}

/// What an acknowledgement has told.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct News {
    /// Bytes newly reported.
    pub(super) sacked: u32,
    /// Bytes newly reported or acknowledged without a report; nothing where no scoreboard is
    /// needed.
    pub(super) delivered: u32,
    /// Whether any of those up to `recover` were sent once only.
    pub(super) fresh: bool,
    /// What came twice, if that was reported (RFC 2883).
    pub(super) duplicate: Option<SackBlock>,
    /// Whether it acknowledges no more than the one before.
    pub(super) repeats: bool,
}

impl Rack {
    /// RACK_update and RACK_detect_reordering of RFC 8985 6.2. Returns whether `part` arrived
    /// out of order.
    fn deliver(&mut self, part: Delivered, ack: &Times) -> bool {
        let rtt = ack.now.wrapping_sub(part.at);
        if part.end.after(self.fack) {
            self.fack = part.end;
        } else if part.end.before(self.fack) && !part.twice {
            return true;
        }
        if rtt >= LONG_AGO {
            return false;
        }
        if part.twice {
            // Which copy it was, nobody can tell for sure. The first, if the timestamp is older
            // than the second (by more than rounding) or the answer came too soon.
            let first = ack.echo_age.is_some_and(|age| age > rtt / 1000 + 1);
            if first || rtt < ack.min_rtt {
                return false;
            }
        }
        let sending = Sending { at: part.at, end: part.end };
        if self.latest.is_none_or(|latest| sending.is_after(latest)) {
            self.latest = Some(sending);
            self.rtt = rtt;
        }
        false
    }
}

impl Rack {
    /// What was taken for the arrival of something sent again was the first copy's.
    pub(super) fn doubt(&mut self) {
        self.latest = None;
    }

    fn forget_long_ago(&mut self, now: u32) {
        self.latest = self.latest.filter(|latest| now.wrapping_sub(latest.at) < LONG_AGO);
    }

    /// The peer may have dropped what it reported: whatever comes now from `una` on is in order.
    pub(super) fn forget_arrivals(&mut self, una: SeqNum) {
        self.fack = una;
    }
}

/// What an acknowledgement's times are compared with.
struct Times {
    /// In microseconds.
    now: u32,
    min_rtt: u32,
    /// How old the timestamp is that the peer echoes, in milliseconds.
    echo_age: Option<u32>,
}

impl Times {
    fn of(conn: &Conn, header: &Header, now: Clock) -> Times {
        let clock = now.tick.0.wrapping_add(conn.ts_offset);
        let echo_age = match header.options.timestamps {
            Some((_, echo)) if echo != 0 && conn.has(flag::TIMESTAMPS) => {
                Some(clock.wrapping_sub(echo)).filter(|age| *age < 1 << 31)
            }
            _ => None,
        };
        Times { now: now.micros, min_rtt: conn.rtt.min(), echo_age }
    }
}

/// The log of what is out, up to date; `None` where a lone FIN needs none.
pub(super) fn log(conn: &mut Conn) -> Option<&mut Extra> {
    let (una, nxt, at) = (conn.snd_una, conn.snd_nxt, conn.rtt_at);
    let extra = conn.cold.as_mut()?.extra();
    if conn.marks & mark::LOGGED == 0 {
        conn.marks |= mark::LOGGED;
        extra.sent.begin(una, nxt, at);
        extra.rack = Rack { fack: una, ..Rack::default() };
        extra.undo = None;
    } else {
        extra.sent.forget_below(una);
        if extra.rack.fack.before(una) {
            extra.rack.fack = una;
        }
    }
    Some(extra)
}

/// New data goes out at another time than what is out: `len` numbers from SND.NXT on.
pub(super) fn note_sent(conn: &mut Conn, core: &Core, len: u32, now: Clock) {
    let end = conn.snd_nxt + len;
    if let Some(extra) = log(conn) {
        extra.sent.sent(end, now.micros);
        extra.prr.note_sent(len);
    }
    if conn.armed == Armed::Probe {
        tlp::put_off(conn, core, len, now);
    }
}

/// `from..end` went again.
pub(super) fn note_resent(conn: &mut Conn, from: SeqNum, end: SeqNum, now: Clock) {
    let timestamp = now.tick.0.wrapping_add(conn.ts_offset);
    if let Some(extra) = log(conn) {
        extra.sent.resent(from, end, now.micros);
        extra.prr.note_sent(end - from);
        if let Some(undo) = &mut extra.undo {
            undo.note_resent(from, end, timestamp);
        }
        conn.set(flag::UNUSUAL);
    }
}

/// Takes in what a segment acknowledges, up to `una`, and reports.
pub(super) fn take_in(
    conn: &mut Conn,
    core: &mut Core,
    header: &Header,
    una: SeqNum,
    now: Clock,
) -> News {
    let mut news = News { repeats: una == conn.snd_una, ..News::default() };
    let reports = conn.has(flag::SACK) && header.options.sack[0].is_some();
    if !reports && !conn.has(flag::UNUSUAL) {
        return news;
    }
    let mut blocks = if reports { header.options.sack } else { [None; 4] };
    if is_duplicate(&blocks, header.ack) {
        news.duplicate = blocks[0].take();
        on_duplicate(conn, core);
    }
    let (out, recover) = (conn.snd_nxt - una, conn.recover);
    let times = Times::of(conn, header, now);
    let Some(Extra { sent, rack, .. }) = log(conn) else { return news };
    rack.forget_long_ago(times.now);
    let mut reordered = false;
    let (mut delivered, mut fresh) = (0, false);
    let mut seen = |part: Delivered| {
        delivered += part.len;
        fresh |= !part.twice && part.end.at_or_before(recover);
        reordered |= rack.deliver(part, &times);
    };
    sent.acknowledge(una, &mut seen);
    // In order of their numbers, lest a report look like reordering.
    blocks.sort_by_key(|block| block.map(|block| block.start.0.wrapping_sub(una.0)));
    for block in blocks.iter().flatten() {
        // What is not out, or acknowledged, is nonsense or old.
        if block.start.before(block.end)
            && block.start.0.wrapping_sub(una.0) < out
            && block.end.0.wrapping_sub(una.0) <= out
        {
            news.sacked += sent.sack(block.start, block.end, &mut seen);
        }
    }
    let marked = sent.is_marked();
    (news.delivered, news.fresh) = (delivered, fresh);
    if reordered && conn.marks & mark::REORDERS == 0 {
        conn.marks |= mark::REORDERS;
        core.counters.reordering_paths += 1;
    }
    if marked {
        conn.set(flag::UNUSUAL);
    }
    news
}

/// Whether the first block reports what came twice (RFC 2883 4): it lies below the
/// acknowledgement, or within the second block.
fn is_duplicate(blocks: &[Option<SackBlock>; 4], ack: SeqNum) -> bool {
    let Some(first) = blocks[0] else { return false };
    let within = |outer: SackBlock| {
        outer.start.at_or_before(first.start) && first.end.at_or_before(outer.end)
    };
    first.start.before(first.end) && (first.end.at_or_before(ack) || blocks[1].is_some_and(within))
}

/// RFC 8985 6.2, step 4: something was sent again too soon, so the reordering window widens,
/// once a round trip.
fn on_duplicate(conn: &mut Conn, core: &mut Core) {
    core.counters.dsacks_in += 1;
    if conn.retransmits == 0 {
        // It was the network that sent twice.
        return;
    }
    let (una, nxt) = (conn.snd_una, conn.snd_nxt);
    let Some(Extra { rack, .. }) = log(conn) else { return };
    // An old mark must not come to look like a new one half the circle later.
    let lasts = |round: SeqNum| round.after(una) && round.at_or_before(nxt);
    if !rack.dsack_round.is_some_and(lasts) {
        rack.dsack_round = Some(nxt);
        conn.reo_steps = conn.reo_steps.saturating_add(1);
        conn.reo_persist = PERSIST;
    }
}

/// A recovery has ended (RFC 8985 6.2, step 4).
pub(super) fn on_recovered(conn: &mut Conn) {
    conn.reo_persist = conn.reo_persist.saturating_sub(1);
    if conn.reo_persist == 0 {
        conn.reo_steps = 0;
    }
}

/// RACK_update_reo_wnd of RFC 8985 6.2, in microseconds.
fn reordering_window(conn: &Conn, enough: bool) -> u32 {
    if conn.marks & mark::REORDERS == 0 && (conn.phase != Phase::Open || enough) {
        return 0;
    }
    let steps = u32::from(conn.reo_steps) + 1;
    (conn.rtt.min() / 4).saturating_mul(steps).min(conn.rtt.srtt())
}

/// How long something may be out before the loss of it is certain, in microseconds, on a
/// timeout (RFC 8985 6.3).
pub(super) fn patience(conn: &mut Conn) -> u32 {
    let (srtt, window) = (conn.rtt.srtt(), reordering_window(conn, false));
    let rtt = log(conn).map(|extra| &extra.rack).filter(|rack| rack.latest.is_some());
    rtt.map_or(srtt, |rack| rack.rtt).saturating_add(window)
}

/// Finds out what is lost, and when more may be (RFC 8985 6.2, step 5). Returns whether
/// anything is.
pub(super) fn detect(conn: &mut Conn, core: &mut Core, now: Clock) -> bool {
    if !conn.has(flag::SACK) || !conn.has(flag::UNUSUAL) {
        return false;
    }
    let mss = u32::from(conn.mss);
    let enough = u32::from(conn.dup_acks) >= super::scoreboard::DUP_THRESH
        || log(conn).is_some_and(|extra| extra.sent.is_dup_thresh(mss));
    let window = reordering_window(conn, enough);
    let Some(Extra { sent, rack, .. }) = log(conn) else { return false };
    rack.forget_long_ago(now.micros);
    let Some(latest) = rack.latest else { return false };
    let patience = rack.rtt.saturating_add(window);
    let (any, wait) = sent.lose_older(latest, patience, now.micros);
    let marked = sent.is_marked();
    if conn.armed == Armed::Reordering || conn.armed == Armed::Probe && marked {
        conn.rexmit_at = Tick::NONE;
    }
    if wait > 0 {
        let at = now.after(wait.div_ceil(1000));
        if !conn.rexmit_at.is_some() || conn.rexmit_at.since(at) > 0 {
            (conn.rexmit_at, conn.armed) = (at, Armed::Reordering);
            core.arm(conn, now);
        }
    }
    if conn.flight() > 0 && !conn.rexmit_at.is_some() {
        recovery::resume_timer(conn, core, now);
    }
    if any {
        core.want_transmit(conn);
    }
    any
}

/// The reordering window has ended: what has not arrived in it is lost.
pub(super) fn on_timeout(conn: &mut Conn, core: &mut Core, now: Clock) {
    // What it ran for may be all that is out by now, and nothing else be known of that.
    conn.set(flag::UNUSUAL);
    if detect(conn, core, now) {
        core.counters.reordering_timeouts += 1;
    }
    recovery::react(conn, core, &News::default());
    prr::reduce(conn, &News::default(), false);
    if !conn.rexmit_at.is_some() {
        recovery::resume_timer(conn, core, now);
    }
    conn.note_unusual();
}
