//! Header prediction (Van Jacobson): the segment almost every segment is, next in order and nothing
//! unusual about it, in one pass.
//!
//! [`arrival::on_segment`](super::arrival::on_segment) would do the same with it, step by step. What
//! it asks is answered beforehand by what [`is_predicted`] asks: of the segment, that it has no flags
//! but ACK and PSH, no report of SACK and no mark, that it begins at RCV.NXT and not before the one
//! that told of the window last, ends inside the window, and acknowledges what is out; of the
//! connection, that it is established and repairs nothing, and that what its cold box holds is plain
//! queues (`UNUSUAL` is not set); of the memory, that there is some. So no check of RFC 9293 3.10.7.4
//! or RFC 5961 can fail, no FIN or range waits behind it, and neither scoreboard, probe nor undo has
//! anything to learn. The tests compare the two.

use bytes::Bytes;

use super::arrival::{announce, deliver, note_delivered, set_window, take_timestamp};
use super::core::Core;
use super::ecn;
use super::queue::CHUNK_OVERHEAD;
use super::recovery;
use super::segment::{Flags, Header};
use super::snd::SMALL;
use super::state::{Conn, Phase, State, flag};
use super::timer::Clock;

/// Takes in a segment that is predicted. Returns `false`, having done nothing, for any other.
#[inline(always)]
pub(super) fn predict(
    conn: &mut Conn,
    core: &mut Core,
    header: &Header,
    payload: &[u8],
    now: Clock,
) -> bool {
    let len = payload.len() as u32;
    if !is_predicted(conn, core, header, len) {
        return false;
    }
    if payload.len() > SMALL {
        // First, for moving it right after it was made would wait until its fields, stored one by
        // one, have left for the cache.
        let copy = match &conn.cold {
            Some(cold) => cold.ready().copied(payload),
            None => Some(Bytes::copy_from_slice(payload)),
        };
        take_header(conn, core, header, now);
        deliver(conn, core, len, |cold| match copy {
            Some(copy) => cold.ready_mut().push_copy(copy),
            None => cold.ready_mut().gather(payload),
        });
        announce(conn, core, len);
    } else if len > 0 {
        // An answer that this acknowledges leaves its place to what has come.
        take_header(conn, core, header, now);
        let cold = core.pool.fill(&mut conn.cold);
        if cold.receive_small(payload) {
            core.recv_used += u64::from(cold.ready().charge());
            note_delivered(conn, core, len);
        } else {
            deliver(conn, core, len, |cold| cold.ready_mut().push(payload));
        }
        announce(conn, core, len);
    } else {
        take_header(conn, core, header, now);
        core.put_away(conn);
        core.disarm_idle(conn);
        if conn.unsent() > 0 || conn.has(flag::FIN_QUEUED) {
            core.want_transmit(conn);
        }
    }
    true
}

/// The same for a run of segments as one: `header` is the first one's, `parts` what each carries,
/// the last one no more than the others.
pub(super) fn predict_run(
    conn: &mut Conn,
    core: &mut Core,
    header: &Header,
    parts: &[&[u8]],
    now: Clock,
) -> bool {
    let len = parts.iter().map(|part| part.len() as u32).sum();
    if len == 0 || !is_predicted(conn, core, header, len) {
        return false;
    }
    take_header(conn, core, header, now);
    core.counters.predicted += parts.len() as u64 - 1;
    deliver(conn, core, len, |cold| cold.ready_mut().push_all(parts, len));
    // The last one's number, as if they had come one by one (RFC 9293 3.10.7.4, SND.WL1).
    let last = parts.last().map_or(0, |part| part.len() as u32);
    conn.snd_wl1 = conn.rcv_nxt - last;
    announce(conn, core, parts[0].len() as u32);
    true
}

/// Whether a segment with `len` bytes of payload is predicted.
#[inline(always)]
fn is_predicted(conn: &Conn, core: &Core, header: &Header, len: u32) -> bool {
    const OTHERS: u8 = !(Flags::ACK.0 | Flags::PSH.0);
    if conn.state != State::Established
        || header.flags.0 & (OTHERS | Flags::ACK.0) != Flags::ACK.0
        || header.seq != conn.rcv_nxt
        // Something later has told of a window: this one is older (RFC 9293 3.10.7.4).
        || conn.snd_wl1.after(header.seq)
        || conn.phase != Phase::Open
        || conn.has(flag::UNUSUAL)
        || header.ecn == ecn::MARKED
        || header.options.sack[0].is_some()
        || core.is_prediction_off()
    {
        return false;
    }
    let acked = header.ack.0.wrapping_sub(conn.snd_una.0);
    if acked > conn.flight() || len > conn.offered() || (acked == 0 && len == 0) {
        return false;
    }
    match header.options.timestamps {
        Some((value, _)) if conn.has(flag::TIMESTAMPS) => {
            if (value.wrapping_sub(conn.ts_recent) as i32) < 0 {
                return false;
            }
        }
        None if !conn.has(flag::TIMESTAMPS) => {}
        _ => return false,
    }
    core.recv_used + u64::from(len + CHUNK_OVERHEAD) <= core.config.recv_memory
}

/// Takes in the header of a predicted segment.
#[inline(always)]
fn take_header(conn: &mut Conn, core: &mut Core, header: &Header, now: Clock) {
    let acked = header.ack.0.wrapping_sub(conn.snd_una.0);
    core.counters.predicted += 1;
    conn.last_rcv = now.tick;
    conn.keep_probes = 0;
    take_timestamp(conn, header, now);
    if acked > 0 {
        recovery::advance(conn, core, header, now);
    }
    let window = u32::from(header.window) << conn.snd_scale;
    if window != conn.snd_wnd {
        set_window(conn, core, window);
    }
    (conn.snd_wl1, conn.snd_wl2) = (header.seq, header.ack);
}

#[cfg(test)]
mod tests;
