//! The turn almost every turn is: nothing lost, closed or out of order, and at most one segment to
//! send, or an ACK. What header prediction is on the way in, this is on the way out.

use super::*;

/// A turn of that kind. `None`, having done nothing, for any other.
#[inline(always)]
pub(super) fn transmit(
    conn: &mut Conn,
    core: &mut Core,
    egress: &mut impl Egress,
    now: Clock,
) -> Option<Result<Turn, Full>> {
    const OTHERS: u32 = flag::SEND_RST
        | flag::SEND_SYN
        | flag::SEND_PROBE
        | flag::FIN_QUEUED
        | flag::FORCE_RETRANSMIT
        | flag::OVERRIDE
        | flag::WANT_WRITE
        | flag::UNUSUAL;
    if conn.state != State::Established
        || conn.phase != Phase::Open
        || conn.has(OTHERS)
        || conn.dup_acks > 0
        || conn.ecn & (ecn::ECHO | ecn::TELL) != 0
        || core.is_prediction_off()
    {
        return None;
    }
    let flight = conn.flight();
    let (queued, paced) =
        conn.cold.as_ref().map_or((0, false), |cold| (cold.snd.len(), cold.snd.pace.is_set()));
    let len = queued - flight;
    let mss = u32::from(conn.mss);
    if len > 0 {
        let room = conn.snd_wnd.min(conn.congestion.cwnd).saturating_sub(flight);
        let held = len < mss && !conn.has(flag::NODELAY) && conn.short_end.after(conn.snd_una);
        if len > mss || len > room || flight == 0 && is_restart(conn, core, now) || held || paced {
            return None;
        }
    } else if !conn.has(flag::ACK_NOW) {
        core.put_away(conn);
        if conn.has(flag::ACK_LATER) && !conn.ack_at.is_some() {
            conn.ack_at = now.after(core.delayed_ack_ms);
        }
        core.arm(conn, now);
        return Some(Ok(Turn::Done));
    }
    if len == 0 {
        core.put_away(conn);
    }
    let window = window(conn, core, now);
    let flags = if len > 0 { Flags::ACK | Flags::PSH } else { Flags::ACK };
    let mut header = plain(conn.tuple, conn.snd_nxt, conn.rcv_nxt, flags, 0);
    header.window = (window >> conn.rcv_scale).min(0xffff) as u16;
    if len > 0 && conn.ecn & ecn::MARKABLE != 0 {
        header.ecn = ecn::CAPABLE;
    }
    if conn.has(flag::TIMESTAMPS) {
        let clock = now.tick.0.wrapping_add(conn.ts_offset);
        header.options.timestamps = Some((clock, conn.ts_recent));
    }
    let payload = match &mut conn.cold {
        Some(cold) if len > 0 => cold.snd.gather(flight, len),
        _ => Payload::EMPTY,
    };
    if let Err(full) = egress.send(&header, &payload, 0, &mut conn.cookie) {
        return Some(Err(full));
    }
    core.counters.segments_out += 1;
    conn.rcv_adv = conn.rcv_nxt + window;
    conn.last_ack = conn.rcv_nxt;
    conn.ack_at = Tick::NONE;
    const SAID: u32 = flag::ACK_NOW | flag::ACK_LATER | flag::CWND_LIMITED;
    if len > 0 {
        core.counters.bytes_out += u64::from(len);
        note_sent(conn, core, len, len < mss, SAID, now);
        if !conn.rexmit_at.is_some() {
            recovery::set_timer(conn, core, now);
        }
    } else {
        conn.unset(SAID);
    }
    core.arm(conn, now);
    Some(Ok(Turn::Done))
}

/// New sequence space went out: `len` numbers from SND.NXT on. `said` are flags that it settles.
#[inline(always)]
pub(super) fn note_sent(
    conn: &mut Conn,
    core: &Core,
    len: u32,
    short: bool,
    said: u32,
    now: Clock,
) {
    // One load and one store of all flags: a load of them soon after a store to one of their bytes
    // waits until that is in the cache.
    let mut flags = conn.flags & !(said | flag::OVERRIDE);
    if conn.flight() == 0 {
        conn.congestion.pause(now.tick.age(conn.progress_at));
        conn.progress_at = now.tick;
        // What ran so far was the probe timer, if any.
        flags &= !flag::PERSIST;
        conn.rexmit_at = Tick::NONE;
        conn.retries = 0;
        conn.marks &= !mark::LOGGED;
    } else if conn.marks & mark::LOGGED != 0 || conn.rtt_at != now.micros {
        rack::note_sent(conn, core, len, now);
    }
    let first = conn.snd_nxt;
    conn.snd_nxt += len;
    if short {
        conn.short_end = conn.snd_nxt;
    }
    if flags & flag::TIMING == 0 && conn.phase == Phase::Open {
        flags |= flag::TIMING;
        // Of a run, the first segment.
        conn.rtt_seq = first + len.min(conn.mss.into());
        conn.rtt_at = now.micros;
    }
    conn.flags = flags;
    conn.last_snd = now.tick;
}
