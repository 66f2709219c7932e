//! Acknowledgements and loss: what is out of the network, what is lost, what goes again
//! (RFC 5681, RFC 6675, RFC 6582, RFC 6298). With SACK, [`rack`](super::rack) finds losses.

use super::autotune;
use super::congestion;
use super::core::Core;
use super::ecn;
use super::hole;
use super::path;
use super::prr;
use super::rack::{self, News};
use super::scoreboard::{DUP_THRESH, Scoreboard};
use super::segment::Header;
use super::seq::SeqNum;
use super::state::{Armed, Conn, Phase, flag};
use super::timer::{Clock, Tick};
use super::tlp;
use super::undo::{self, Undo};

/// An acknowledgement in SND.UNA..=SND.NXT of a segment with `len` of its own; `window` is
/// what it announces, scaled.
pub(super) fn on_ack(
    conn: &mut Conn,
    core: &mut Core,
    header: &Header,
    (len, window): (u32, u32),
    now: Clock,
) {
    let news = rack::take_in(conn, core, header, header.ack, now);
    // RFC 6675 2 where there is SACK: what tells nothing new is no sign of anything; else
    // RFC 5681 2, and RFC 6582 3.2 (1) after a timeout.
    let is_duplicate = if conn.has(flag::SACK) {
        news.sacked > 0
    } else {
        len == 0 && window == conn.snd_wnd && !conn.has(flag::ECHOES)
    };
    let forward = header.ack != conn.snd_una;
    if forward {
        acknowledge(conn, core, header, now);
    } else if conn.flight() > 0 && is_duplicate {
        conn.dup_acks = conn.dup_acks.saturating_add(1);
    }
    tlp::on_ack(conn, core, header, (len, &news), now);
    undo::on_ack(conn, core, header, &news, (forward, forward || is_duplicate));
    let lost = rack::detect(conn, core, now);
    react(conn, core, &news);
    // Without SACK a partial acknowledgement shows another loss.
    prr::reduce(conn, &news, forward && !lost && conn.has(flag::SACK));
    if news.sacked > 0 || conn.dup_acks > 0 {
        core.want_transmit(conn);
    }
}

/// Starts recovery where something is lost and none is under way.
pub(super) fn react(conn: &mut Conn, core: &mut Core, news: &News) {
    if conn.phase == Phase::Open && conn.flight() > 0 && is_lost(conn) {
        enter_recovery(conn, core, news);
    }
}

/// An acknowledgement that was overtaken on its way: what it reports may still be news.
pub(super) fn on_sack_only(conn: &mut Conn, core: &mut Core, header: &Header, now: Clock) {
    if conn.flight() == 0 {
        return;
    }
    let news = rack::take_in(conn, core, header, conn.snd_una, now);
    undo::on_ack(conn, core, header, &news, (false, news.sacked > 0));
    if news.sacked > 0 {
        rack::detect(conn, core, now);
        react(conn, core, &news);
        prr::reduce(conn, &news, false);
        core.want_transmit(conn);
    }
}

/// SND.UNA moves to the segment's ACK, which is after it.
fn acknowledge(conn: &mut Conn, core: &mut Core, header: &Header, now: Clock) {
    advance(conn, core, header, now);
}

/// The same, as a part of its caller: of [`predict`](super::predict), for which most of it is
/// settled beforehand.
#[inline(always)]
pub(super) fn advance(conn: &mut Conn, core: &mut Core, header: &Header, now: Clock) {
    let acked = header.ack - conn.snd_una;
    let flight = conn.flight();
    sample_rtt(conn, core, header, now);
    // The FIN is the last of the sequence space and not in the queue.
    let fin = conn.has(flag::FIN_SENT) && header.ack == conn.snd_nxt;
    let payload = acked - u32::from(fin);
    conn.snd_una = header.ack;
    conn.bytes_acked += u64::from(payload);
    if let Some(cold) = &mut conn.cold {
        core.send_used -= u64::from(cold.snd.release(payload));
    }
    if conn.has(flag::PERSIST | flag::ECHOES) {
        conn.unset(flag::PERSIST | flag::ECHOES);
    }
    if conn.phase == Phase::Open {
        conn.dup_acks = 0;
        // An old mark must not come to look like a new one half the circle later.
        if conn.short_end.before(conn.snd_una) {
            conn.short_end = conn.snd_una;
        }
        congestion::on_progress(conn, core, header, (acked, flight), now);
    } else {
        repair(conn, core, header, acked, now);
    }
    // RFC 6298 5.2, 5.3.
    if conn.retries > 0 {
        note_answer(conn, core, acked, now);
    }
    conn.progress_at = now.tick;
    conn.rexmit_at = Tick::NONE;
    if conn.flight() > 0 {
        start_timer(conn, core, now);
    }
    if conn.has(flag::WANT_WRITE) {
        autotune::wake_writer(conn, core);
    }
}

/// `acked` bytes more are acknowledged while something is repaired.
#[inline(never)]
fn repair(conn: &mut Conn, core: &mut Core, header: &Header, acked: u32, now: Clock) {
    let mss = u32::from(conn.mss);
    match conn.phase {
        Phase::Open => {}
        Phase::Recovery if header.ack.at_or_after(conn.recover) => {
            conn.phase = Phase::Open;
            rack::on_recovered(conn);
            conn.unset(flag::FORCE_RETRANSMIT);
            conn.dup_acks = 0;
            // RFC 9937 6.
            conn.congestion.cwnd = conn.congestion.ssthresh;
            if !conn.has(flag::SACK) {
                // RFC 6582 3.2 (1): not a burst. With SACK the window was kept full.
                let out = conn.flight().max(mss) + mss;
                conn.congestion.cwnd = conn.congestion.ssthresh.min(out.max(2 * mss));
                note_echoes(conn);
            }
        }
        Phase::Recovery => {
            if !conn.has(flag::SACK) {
                // RFC 6582 3.2 (2): a partial acknowledgement names the next loss. All that it
                // covers but the retransmission was a duplicate's reason.
                let segments = acked.div_ceil(mss).min(256) as u8;
                conn.dup_acks = conn.dup_acks.saturating_sub(segments.saturating_sub(1));
                conn.set(flag::FORCE_RETRANSMIT);
                lose_head(conn);
            }
            core.want_transmit(conn);
        }
        Phase::Loss => {
            conn.dup_acks = 0;
            if header.ack.at_or_after(conn.recover) {
                conn.phase = Phase::Open;
                rack::on_recovered(conn);
                conn.unset(flag::FORCE_RETRANSMIT);
                note_echoes(conn);
            }
            congestion::on_repair(conn, acked, now);
            core.want_transmit(conn);
        }
    }
}

/// `acked` bytes are the answer after timeouts or probes without one.
#[cold]
fn note_answer(conn: &mut Conn, core: &mut Core, acked: u32, now: Clock) {
    conn.retries = 0;
    conn.set_soft_error(None);
    if conn.has(flag::OWN_PATH) {
        hole::on_passage(conn, core, acked, now);
    }
}

/// Starts the retransmission timer from now, or that of a probe of the tail where one may
/// come first; not beyond the user timeout.
#[inline(always)]
pub(super) fn start_timer(conn: &mut Conn, core: &mut Core, now: Clock) {
    set_timer(conn, core, now);
    // It comes earlier, if it has shrunk by more than it has been waited for.
    core.arm(conn, now);
}

/// The same for who calls [`Core::arm`] in the end.
#[inline(always)]
pub(super) fn set_timer(conn: &mut Conn, core: &Core, now: Clock) {
    // Probes of a window back off for themselves: they say nothing about the round trip.
    let backoff = if conn.has(flag::PERSIST) { conn.retries } else { 0 };
    let mut wait = conn.rtt.rto_ms(&core.rto, backoff);
    conn.armed = Armed::Timeout;
    if conn.flags & (flag::SACK | flag::PERSIST) == flag::SACK && tlp::may_probe(conn) {
        wait = wait.min(tlp::wait_ms(conn, conn.flight()));
        conn.armed = Armed::Probe;
    }
    conn.rexmit_at = now.after(wait);
    if conn.settings != 0 {
        let limit = conn.user_limit(core.settings.get(conn.settings).user_timeout);
        conn.rexmit_at = conn.rexmit_at.earliest(limit);
    }
}

/// Takes the retransmission timer up again after another one that ran in its place: it has been
/// running since the last progress, or since what it is for went again. Else timers that come one
/// after the other would put it off for ever.
pub(super) fn resume_timer(conn: &mut Conn, core: &mut Core, now: Clock) {
    let mut waited = now.tick.age(conn.progress_at);
    if conn.phase != Phase::Open
        && let Some(at) = rack::log(conn).and_then(|extra| extra.sent.head_sent())
    {
        waited = waited.min(now.micros.wrapping_sub(at) / 1000);
    }
    let rest = now.after(conn.rtt.rto_ms(&core.rto, 0).saturating_sub(waited).max(1));
    start_timer(conn, core, now);
    if rest.since(conn.rexmit_at) < 0 {
        (conn.rexmit_at, conn.armed) = (rest, Armed::Timeout);
        core.want_transmit(conn);
    }
}

#[inline(always)]
fn sample_rtt(conn: &mut Conn, core: &Core, header: &Header, now: Clock) {
    if conn.has(flag::TIMING) {
        if header.ack.at_or_after(conn.rtt_seq) {
            conn.unset(flag::TIMING);
            conn.rtt.sample(now.micros.wrapping_sub(conn.rtt_at), &core.rto);
        }
        return;
    }
    // RFC 7323 4.1: after retransmissions only the echoed timestamp is unambiguous.
    // Otherwise its milliseconds would only blur what the timed segments say.
    if conn.phase != Phase::Open {
        sample_echo(conn, core, header, now);
    }
}

/// Takes the time since what the peer's timestamp echoes as a sample (RFC 7323 4.1).
pub(super) fn sample_echo(conn: &mut Conn, core: &Core, header: &Header, now: Clock) {
    if conn.has(flag::TIMESTAMPS)
        && let Some((_, echo)) = header.options.timestamps
        && echo != 0
    {
        let clock = now.tick.0.wrapping_add(conn.ts_offset);
        let ms = clock.wrapping_sub(echo);
        if ms < 1 << 20 {
            conn.rtt.sample(ms.max(1) * 1000, &core.rto);
        }
    }
}

/// Whether anything counts as lost that has not gone again (RFC 8985, or RFC 5681 3.2).
fn is_lost(conn: &Conn) -> bool {
    if !conn.has(flag::SACK) {
        return u32::from(conn.dup_acks) >= DUP_THRESH;
    }
    marked(conn).is_some_and(|board| board.due() > 0)
}

/// The scoreboard, where there is anything on it.
pub(super) fn marked(conn: &Conn) -> Option<&Scoreboard> {
    if conn.has(flag::UNUSUAL) { conn.cold.as_ref()?.marked() } else { None }
}

/// What was sent again has arrived, with all else that was out then and nothing after it
/// (RFC 6582 3.2, step 1).
fn note_echoes(conn: &mut Conn) {
    if conn.snd_una == conn.recover {
        conn.set(flag::ECHOES);
    }
}

/// The segment at SND.UNA is lost, whether it went again or not.
fn lose_head(conn: &mut Conn) {
    let una = conn.snd_una;
    let end = una + conn.flight().min(conn.mss.into());
    if let Some(extra) = rack::log(conn) {
        extra.sent.lose(una, end);
        conn.set(flag::UNUSUAL);
    }
}

fn enter_recovery(conn: &mut Conn, core: &mut Core, news: &News) {
    core.counters.recoveries += 1;
    tlp::forget(conn);
    undo::begin(conn, false);
    conn.phase = Phase::Recovery;
    conn.recover = conn.snd_nxt;
    prr::begin(conn, news);
    if !conn.has(flag::SACK) {
        lose_head(conn);
    }
    conn.congestion.on_loss(conn.flight(), u32::from(conn.mss));
    ecn::on_loss(conn);
    conn.set(flag::FORCE_RETRANSMIT);
    core.want_transmit(conn);
}

/// The retransmission timeout (RFC 6298 5.4 to 5.7).
pub(super) fn on_timeout(conn: &mut Conn, core: &mut Core, now: Clock) {
    core.counters.timeouts += 1;
    let first = conn.retries == 0;
    conn.retries = conn.retries.saturating_add(1);
    path::on_timeout(conn, core, now);
    ecn::on_timeout(conn, core);
    tlp::forget(conn);
    conn.rtt.back_off(&core.rto);
    let flight = conn.flight();
    match conn.phase {
        Phase::Open => undo::begin(conn, true),
        Phase::Loss if !first => undo::give_up_frto(conn),
        _ => undo::forget(conn),
    }
    ecn::on_loss(conn);
    // In recovery the threshold is of this very flight; what is left of that says nothing.
    let reduces = first && conn.phase != Phase::Recovery;
    conn.congestion.on_timeout(flight, u32::from(conn.mss), reduces);
    conn.phase = Phase::Loss;
    conn.recover = conn.snd_nxt;
    conn.dup_acks = 0;
    conn.unset(flag::ECHOES);
    // Karn's rule: what is sent again is not timed.
    conn.unset(flag::TIMING);
    // RFC 8985 6.3: what went a moment ago may well arrive. Without SACK nothing would tell.
    let age = if conn.has(flag::SACK) { rack::patience(conn) } else { 0 };
    let (again, una) = (conn.retries > 1, conn.snd_una);
    if let Some(extra) = rack::log(conn) {
        if again || extra.sent.is_reneged() {
            // RFC 2018 8: the peer may have dropped what it reported.
            extra.sent.forget_sacked();
            extra.rack.forget_arrivals(una);
        }
        extra.sent.lose_aged(age, now.micros);
    }
    lose_head(conn);
    conn.set(flag::FORCE_RETRANSMIT);
    start_timer(conn, core, now);
    core.want_repeat(conn);
}

/// What is out was too long for the path and is lost: all of it goes again, as far as the
/// peer has not reported it. The window is not reduced, but reached by slow start
/// (RFC 1191 6.5), from the initial window on.
pub(super) fn send_again(conn: &mut Conn, core: &mut Core, now: Clock) {
    undo::forget(conn);
    tlp::forget(conn);
    conn.congestion.start_again(conn.initial_window(core));
    conn.phase = Phase::Loss;
    conn.recover = conn.snd_nxt;
    conn.dup_acks = 0;
    let (una, nxt) = (conn.snd_una, conn.snd_nxt);
    if let Some(extra) = rack::log(conn) {
        extra.sent.lose(una, nxt);
        conn.set(flag::UNUSUAL);
    }
    // Karn's rule.
    conn.unset(flag::ECHOES | flag::TIMING);
    conn.set(flag::FORCE_RETRANSMIT);
    start_timer(conn, core, now);
    core.want_transmit(conn);
}

/// Bytes that are believed to be in the network (RFC 6675 4, SetPipe).
pub(super) fn pipe(conn: &Conn) -> u32 {
    let flight = conn.flight();
    let pipe = marked(conn).map_or(flight, |board| board.pipe(flight));
    if conn.has(flag::SACK) || conn.phase == Phase::Loss {
        return pipe;
    }
    // RFC 5681 3.2 (4): each duplicate says that a segment has left the network.
    pipe.saturating_sub(u32::from(conn.dup_acks) * u32::from(conn.mss))
}

/// What goes again next, and up to where at most: what is lost, or has to go in any case. Of more
/// than `most` numbers, that many need be told.
pub(super) fn next_lost(conn: &mut Conn, most: u32) -> Option<(SeqNum, SeqNum)> {
    let (force, unusual) = (conn.has(flag::FORCE_RETRANSMIT), conn.has(flag::UNUSUAL));
    let undo = conn.cold.as_ref().and_then(|cold| cold.undo());
    if undo.is_some_and(Undo::holds_back) && !force {
        // RFC 5682 3.1, step 2: new data, to see what the old did.
        return None;
    }
    let cold = conn.cold.as_mut().filter(|_| unusual);
    if let Some(due) = cold.and_then(|cold| cold.next_due(most)) {
        return Some(due);
    }
    if !force || conn.flight() == 0 {
        return None;
    }
    let end = marked(conn).and_then(Scoreboard::first_sacked).unwrap_or(conn.snd_nxt);
    Some((conn.snd_una, end))
}
