//! A segment for a synchronized connection that [`predict`](super::predict) has not taken in:
//! RFC 9293 3.10.7.4.

use super::autotune;
use super::cold::Cold;
use super::core::Core;
use super::ecn;
use super::error::Error;
use super::handshake::{establish, on_segment_syn_sent};
use super::options::TIMESTAMPS_LEN;
use super::recovery;
use super::segment::{Flags, Header, SackBlock};
use super::seq::SeqNum;

use super::state::{Conn, State, flag};
use super::timer::Clock;

/// Any segment for a connection.
pub(super) fn on_segment(
    conn: &mut Conn,
    core: &mut Core,
    header: &Header,
    payload: &[u8],
    now: Clock,
) {
    let tick = now.tick;
    match conn.state {
        State::Closed | State::TimeWait => return,
        State::SynSent => return on_segment_syn_sent(conn, core, header, now),
        _ => {}
    }
    let mut header = *header;
    let header = &mut header;
    let mut payload = payload;
    let mut scale = conn.snd_scale;
    if conn.state == State::SynReceived
        && header.flags.contains(Flags::SYN | Flags::ACK)
        && header.seq + 1 == conn.rcv_nxt
        && header.ack == conn.snd_nxt
    {
        // RFC 9293 3.5, figure 7: the other SYN of a simultaneous open, with its ACK. Its
        // number is used up already; what counts is the rest.
        header.seq += 1;
        header.flags.0 &= !Flags::SYN.0;
        // RFC 7323 2.2: the window beside a SYN is never scaled.
        scale = 0;
    }
    let announced = u32::from(header.window) << scale;
    let rst = header.flags.contains(Flags::RST);
    let syn = header.flags.contains(Flags::SYN);
    let mut fin = header.flags.contains(Flags::FIN);
    let len = payload.len() as u32 + u32::from(syn) + u32::from(fin);

    // RFC 7323 5.3 R1: PAWS, and the timestamp that must be there.
    if conn.has(flag::TIMESTAMPS) && !rst {
        match header.options.timestamps {
            Some((value, _)) => {
                // RFC 7323 5.5: after 24 days the remembered value says nothing.
                let stale = now.hour.wrapping_sub(conn.ts_hour) > 24 * 24;
                if (value.wrapping_sub(conn.ts_recent) as i32) < 0 && !stale {
                    core.counters.paws_dropped += 1;
                    if len > 0 {
                        report_old(conn, core, header.seq, payload.len() as u32);
                        core.ack_now(conn);
                    } else {
                        core.challenge(conn, tick);
                    }
                    return;
                }
            }
            None => {
                core.counters.timestamp_missing += 1;
                return;
            }
        }
    }

    // RFC 9293 3.10.7.4, first: sequence number. A pure ACK at the right edge is let through
    // as in Linux: it is what a peer sends that has filled the window.
    let window = conn.offered();
    let ahead = header.seq.0.wrapping_sub(conn.rcv_nxt.0);
    let starts_inside = ahead < window || ahead == 0 || (len == 0 && ahead == window);
    let overlaps = header.seq.before(conn.rcv_nxt) && (header.seq + len).after(conn.rcv_nxt);
    if !starts_inside && !overlaps {
        if rst {
            return;
        }
        core.counters.out_of_window += 1;
        if payload.is_empty() && !fin {
            core.challenge(conn, tick);
        } else {
            if header.seq.before(conn.rcv_nxt) {
                core.counters.duplicate_bytes += payload.len() as u64;
                report_old(conn, core, header.seq, payload.len() as u32);
            }
            core.ack_now(conn);
        }
        return;
    }

    // Second: RST (RFC 5961 3.2).
    if rst {
        if ahead == 0 {
            core.counters.resets_in += 1;
            let error = match conn.state {
                State::SynReceived => Some(Error::Refused),
                State::Closing | State::LastAck => None,
                _ => Some(Error::Reset),
            };
            core.end(conn, error);
        } else {
            core.challenge(conn, tick);
        }
        return;
    }
    // Fourth: SYN (RFC 5961 4.2).
    if syn {
        core.challenge(conn, tick);
        return;
    }
    // Fifth: ACK (RFC 5961 5.2).
    if !header.flags.contains(Flags::ACK) {
        core.counters.malformed += 1;
        return;
    }
    conn.last_rcv = tick;
    conn.keep_probes = 0;
    core.heard(conn);
    let acked = header.ack.0.wrapping_sub(conn.snd_una.0);
    if conn.state == State::SynReceived {
        if header.ack != conn.snd_nxt {
            core.counters.bad_ack += 1;
            core.reset_for(header, len, now);
            return;
        }
        conn.snd_una = header.ack;
        conn.snd_wnd = announced;
        conn.max_wnd = (announced >> conn.snd_scale) as u16;
        (conn.snd_wl1, conn.snd_wl2) = (header.seq, header.ack);
        recovery::sample_echo(conn, core, header, now);
        establish(conn, core, now);
    } else if acked > conn.flight() {
        // RFC 5961 5.2: at most the largest window behind, and nothing that was never sent.
        let behind = conn.snd_una.0.wrapping_sub(header.ack.0);
        let sent = u32::try_from(conn.bytes_acked + 1).unwrap_or(u32::MAX);
        if behind > conn.max_wnd().min(sent) {
            core.counters.bad_ack += 1;
            core.challenge(conn, tick);
            return;
        }
        // An old ACK overtaken on the way: its payload may still count.
    }
    take_timestamp(conn, header, now);
    if conn.has(flag::UNUSUAL) {
        autotune::sample(conn, header, payload.len() as u32, now);
    }
    if acked <= conn.flight() {
        let (flight, cwnd) = (conn.flight(), conn.congestion.cwnd);
        recovery::on_ack(conn, core, header, (len, announced), now);
        if header.flags.contains(Flags::ECE) {
            ecn::on_echo(conn, core, flight, cwnd);
        }
        // RFC 9293 3.10.7.4: the window, unless the segment is older than the last update. What
        // acknowledges more is newer, as in Linux, also where a retransmission carries it.
        if acked > 0
            || conn.snd_wl1.before(header.seq)
            || (conn.snd_wl1 == header.seq && conn.snd_wl2.at_or_before(header.ack))
        {
            (conn.snd_wl1, conn.snd_wl2) = (header.seq, header.ack);
            set_window(conn, core, announced);
        }
    } else if conn.has(flag::SACK) {
        recovery::on_sack_only(conn, core, header, now);
    }
    if conn.has(flag::FIN_SENT) && conn.snd_una == conn.snd_nxt {
        on_fin_acknowledged(conn, core, now);
        if matches!(conn.state, State::Closed | State::TimeWait) {
            return;
        }
    }

    // Sixth: URG. RFC 6093: urgent data is ordinary data.
    // Seventh: the payload, cut to the window, and to where the stream ends.
    if conn.has(flag::UNUSUAL)
        && let Some(early) = conn.cold.as_ref().and_then(|cold| cold.early())
    {
        let end = header.seq + payload.len() as u32;
        match early.fin {
            Some(at) if end.after(at) && (fin || !payload.is_empty()) => {
                let left = if header.seq.before(at) { at - header.seq } else { 0 };
                payload = &payload[..left as usize];
                fin = false;
                core.ack_now(conn);
            }
            // The first FIN counts.
            Some(at) if fin && at != end => fin = false,
            // No FIN stands before what has come already.
            None if fin && early.end().is_some_and(|held| held.after(end)) => {
                fin = false;
                core.ack_now(conn);
            }
            _ => {}
        }
    }
    if !payload.is_empty() {
        ecn::on_data(conn, core, header);
        let receiving =
            matches!(conn.state, State::Established | State::FinWait1 | State::FinWait2);
        if !receiving {
            payload = &[];
            fin = false;
        } else if conn.has(flag::ORPHAN) {
            // RFC 9293 3.6.1: nobody will read it, and the peer shall know.
            let beyond = (header.seq + payload.len() as u32).after(conn.rcv_nxt);
            if beyond {
                core.abort(conn);
                return;
            }
        } else {
            take_payload(conn, core, header.seq, payload, &mut fin);
        }
    }
    // Eighth: FIN.
    if fin {
        let at = header.seq + payload.len() as u32;
        if at == conn.rcv_nxt {
            on_fin(conn, core, now);
        } else if at.after(conn.rcv_nxt) && !conn.has(flag::PEER_FIN) {
            let cold = conn.cold.get_or_insert_with(|| core.pool.take());
            cold.extra().early.fin = Some(at);
            conn.set(flag::UNUSUAL);
            core.ack_now(conn);
        } else {
            core.ack_now(conn);
        }
    } else if conn
        .cold
        .as_ref()
        .is_some_and(|cold| cold.early().is_some_and(|e| e.fin == Some(conn.rcv_nxt)))
    {
        on_fin(conn, core, now);
    }
    conn.note_unusual();
    core.put_away(conn);
    core.want_transmit(conn);
}

/// Keeps the peer's timestamp for the echo (RFC 7323 4.3).
#[inline(always)]
pub(super) fn take_timestamp(conn: &mut Conn, header: &Header, now: Clock) {
    if let Some((value, _)) = header.options.timestamps
        && conn.has(flag::TIMESTAMPS)
        && header.seq.at_or_before(conn.last_ack)
    {
        conn.ts_recent = value;
        conn.ts_hour = now.hour;
    }
}

/// The peer's window has changed.
pub(super) fn set_window(conn: &mut Conn, core: &mut Core, window: u32) {
    if window > conn.snd_wnd && (conn.unsent() > 0 || conn.has(flag::FIN_QUEUED)) {
        core.want_transmit(conn);
    }
    conn.snd_wnd = window;
    conn.max_wnd = conn.max_wnd.max((window >> conn.snd_scale) as u16);
}

/// `len` bytes that begin at RCV.NXT, within window and budget, go to the receive queue.
#[inline(always)]
pub(super) fn deliver(conn: &mut Conn, core: &mut Core, len: u32, push: impl FnOnce(&mut Cold)) {
    let cold = core.pool.fill(&mut conn.cold);
    let before = cold.ready().charge();
    push(cold);
    // It may also shrink: what was gathered with room to spare has become an exact piece.
    core.recv_used = core.recv_used + u64::from(cold.ready().charge()) - u64::from(before);
    note_delivered(conn, core, len);
}

/// `len` bytes have gone to the receive queue.
#[inline(always)]
pub(super) fn note_delivered(conn: &mut Conn, core: &mut Core, len: u32) {
    core.counters.bytes_in += u64::from(len);
    conn.rcv_nxt += len;
    conn.bytes_received += u64::from(len);
}

/// Payload in order has come, a segment with `len` bytes last: has it acknowledged, every second
/// full segment at once, else soon (RFC 5681 4.2), and the reader told.
#[inline(always)]
pub(super) fn announce(conn: &mut Conn, core: &mut Core, len: u32) {
    let unacknowledged = conn.rcv_nxt - conn.last_ack;
    if len > u32::from(conn.rcv_mss) {
        note_longer(conn, core, len);
    }
    let full = unacknowledged >= 2 * u32::from(conn.rcv_mss);
    let mut flags = conn.flags | if full { flag::ACK_NOW } else { flag::ACK_LATER };
    // One load and one store: a load of them all soon after a store to one of their bytes waits.
    if flags & flag::QUEUED == 0 {
        flags |= flag::QUEUED;
        core.transmit.push_back(conn.slot());
    }
    if let Some(reader) = conn.reader.take() {
        reader.wake();
    } else if flags & (flag::EVENT_READ | flag::ORPHAN | flag::UNACCEPTED) == 0 {
        flags |= flag::EVENT_READ;
        core.events.readable(conn.id());
    }
    conn.flags = flags;
}

/// A longer segment than any before.
#[cold]
fn note_longer(conn: &mut Conn, core: &Core, len: u32) {
    // What merges segments (receive offload) may hand in longer ones than a peer sends, and
    // two of them count for two also where timestamps make them shorter than the MSS.
    let options = if conn.has(flag::TIMESTAMPS) { TIMESTAMPS_LEN } else { 0 };
    let most = core.mss(&conn.tuple).saturating_sub(options).max(1);
    conn.rcv_mss = len.min(most.into()) as u16;
}

/// Payload has come that is here already: the next segment says so (RFC 2883).
#[cold]
fn report_twice(conn: &mut Conn, core: &mut Core, start: SeqNum, len: u32) {
    if len == 0 || !conn.has(flag::SACK) {
        return;
    }
    let end = start + len;
    let cold = conn.cold.get_or_insert_with(|| core.pool.take());
    match &mut cold.extra().twice {
        // What goes on where the last one ended came in the same turn.
        Some(block) if block.end == start => block.end = end,
        twice => *twice = Some(SackBlock { start, end }),
    }
    conn.set(flag::UNUSUAL);
}

/// Reports what of a segment that is dropped lies below RCV.NXT. Late first copies of what was
/// sent twice have old timestamps.
#[cold]
fn report_old(conn: &mut Conn, core: &mut Core, seq: SeqNum, len: u32) {
    let behind = conn.rcv_nxt.0.wrapping_sub(seq.0);
    if behind < 1 << 30 {
        report_twice(conn, core, seq, len.min(behind));
    }
}

/// Payload of a segment that overlaps the window, anywhere in it.
fn take_payload(conn: &mut Conn, core: &mut Core, seq: SeqNum, payload: &[u8], fin: &mut bool) {
    let mut seq = seq;
    let mut data = payload;
    if seq.before(conn.rcv_nxt) {
        let known = (conn.rcv_nxt - seq).min(data.len() as u32);
        core.counters.duplicate_bytes += u64::from(known);
        report_twice(conn, core, seq, known);
        data = &data[known as usize..];
        seq += known;
        // RFC 5681 4.2: what comes twice is acknowledged at once.
        core.ack_now(conn);
    }
    let room = conn.rcv_adv.0.wrapping_sub(seq.0);
    if data.len() as u32 > room {
        // A peer that probes a closed window, or oversteps it.
        data = &data[..room as usize];
        *fin = false;
        core.ack_now(conn);
    }
    if data.is_empty() {
        return;
    }
    let kept = autotune::memory_for(conn, core, data.len() as u32, seq == conn.rcv_nxt);
    if kept < data.len() as u32 {
        core.counters.recv_memory_dropped += 1;
        *fin = false;
        core.ack_now(conn);
        data = &data[..kept as usize];
        if data.is_empty() {
            return;
        }
    }
    if seq != conn.rcv_nxt {
        // RFC 5681 4.2: out of order is acknowledged at once, with SACK.
        let max_ranges = core.config.max_ranges;
        let cold = conn.cold.get_or_insert_with(|| core.pool.take());
        let before = cold.charge();
        let stored = cold.extra().early.store(seq, data, max_ranges);
        conn.flags |= flag::UNUSUAL;
        core.recv_used = core.recv_used + u64::from(cold.charge()) - u64::from(before);
        core.counters.out_of_order += 1;
        core.counters.duplicate_bytes += u64::from(stored.duplicate);
        core.counters.ranges_dropped += u64::from(stored.dropped > 0);
        if let Some(block) = stored.first {
            report_twice(conn, core, block.start, block.end - block.start);
        }
        core.ack_now(conn);
        return;
    }
    deliver(conn, core, data.len() as u32, |cold| cold.receive(data));
    let next = conn.rcv_nxt;
    if conn.has(flag::UNUSUAL)
        && let Some(cold) = &mut conn.cold
        && let before = cold.charge()
        && let Some((ready, early)) = cold.receiving()
    {
        // RFC 5681 4.2: filling a hole, all or part of it, is acknowledged at once.
        let (next, duplicate) = early.advance(ready, next);
        core.recv_used = core.recv_used + u64::from(cold.charge()) - u64::from(before);
        core.counters.duplicate_bytes += u64::from(duplicate);
        let moved = next - conn.rcv_nxt;
        core.counters.bytes_in += u64::from(moved);
        conn.bytes_received += u64::from(moved);
        conn.rcv_nxt = next;
        core.ack_now(conn);
    }
    announce(conn, core, data.len() as u32);
}

/// The peer's FIN, in order (RFC 9293 3.10.7.4, eighth).
fn on_fin(conn: &mut Conn, core: &mut Core, now: Clock) {
    if conn.has(flag::PEER_FIN) {
        return;
    }
    if let Some(cold) = &mut conn.cold {
        let before = cold.charge();
        cold.forget_early();
        core.recv_used -= u64::from(before - cold.charge());
    }
    conn.rcv_nxt += 1;
    if conn.rcv_adv.before(conn.rcv_nxt) {
        conn.rcv_adv = conn.rcv_nxt;
    }
    conn.set(flag::PEER_FIN);
    core.ack_now(conn);
    core.readable(conn);
    match conn.state {
        State::Established => conn.state = State::CloseWait,
        State::FinWait1 => conn.state = State::Closing,
        State::FinWait2 => core.enter_time_wait(conn, now),
        _ => {}
    }
}

/// Our FIN is acknowledged.
fn on_fin_acknowledged(conn: &mut Conn, core: &mut Core, now: Clock) {
    match conn.state {
        State::FinWait1 => {
            conn.state = State::FinWait2;
            if conn.has(flag::ORPHAN) {
                let patience = super::rtt::millis(core.config.fin_wait_2);
                conn.keep_at = now.after(patience);
                core.arm(conn, now);
            }
        }
        State::Closing => core.enter_time_wait(conn, now),
        State::LastAck => core.end(conn, None),
        _ => {}
    }
}
