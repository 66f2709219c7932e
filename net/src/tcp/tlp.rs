//! Tail loss probes: where the end of a flight may be lost nothing comes after it that could
//! tell, so something is sent that makes the peer tell (RFC 8985 7).

use super::core::Core;
use super::ecn;
use super::rack::News;
use super::recovery::marked;
use super::segment::Header;
use super::seq::SeqNum;
use super::state::{Conn, Phase, State, flag, mark};
use super::timer::{Clock, Tick};
use super::undo;

/// The longest that a peer may delay an acknowledgement, in microseconds (WCDelAckT).
const DELAYED_ACK: u32 = 200_000;
/// What is added otherwise, as in Linux: timers here and there count milliseconds.
const GRACE: u32 = 2_000;

/// What a probe is up to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Probe {
    #[default]
    None,
    /// It shall be sent.
    Due,
    /// It was sent.
    Out {
        /// SND.NXT after it (TLP.end_seq).
        end: SeqNum,
        /// Whether it was sent before, without the probe (TLP.is_retrans).
        again: bool,
        /// What was out then.
        flight: u32,
    },
    /// It sent old data again, and all of that is acknowledged. No connection has this in its
    /// cold part: it may be idle now, and a [mark](mark::PROBED) is enough.
    Answered,
}

/// Whether the state of the connection allows a probe: nothing is known to be lost or reported,
/// and none is out (RFC 8985 7.2).
#[inline(always)]
pub(super) fn may_probe(conn: &Conn) -> bool {
    conn.phase == Phase::Open
        && !matches!(conn.state, State::SynSent | State::SynReceived)
        && (!conn.has(flag::UNUSUAL) || is_clear(conn))
}

/// Whether nothing is reported, and no probe is out.
#[inline(never)]
fn is_clear(conn: &Conn) -> bool {
    marked(conn).is_none() && probe(conn) == Probe::None
}

fn probe(conn: &Conn) -> Probe {
    if conn.marks & mark::PROBED != 0 {
        return Probe::Answered;
    }
    conn.cold.as_ref().map_or(Probe::None, |cold| cold.probe())
}

/// How long to wait before a probe, in milliseconds (TLP_calc_PTO of RFC 8985 7.2). A peer may
/// delay its acknowledgement of less than two full segments (RFC 5681 4.2).
pub(super) fn wait_ms(conn: &Conn, flight: u32) -> u32 {
    let srtt = conn.rtt.srtt();
    if srtt == 0 {
        return 1000;
    }
    let delayed = flight < 2 * u32::from(conn.mss);
    (2 * srtt + if delayed { DELAYED_ACK } else { GRACE }).div_ceil(1000)
}

/// New data goes out, `len` numbers of it: a probe is due only some time after that (RFC 8985
/// 7.2), but not after the timeout for what is out.
pub(super) fn put_off(conn: &mut Conn, core: &Core, len: u32, now: Clock) {
    if conn.rexmit_at.is_some() {
        let timeout = conn.progress_at.0.wrapping_add(conn.rtt.rto_ms(&core.rto, 0));
        let probe = now.after(wait_ms(conn, conn.flight() + len));
        let limit = conn.user_limit(core.settings.get(conn.settings).user_timeout);
        conn.rexmit_at = probe.earliest(Tick(timeout.max(1))).earliest(limit);
    }
}

/// It is time for a probe.
pub(super) fn on_timeout(conn: &mut Conn, core: &mut Core) {
    let cold = conn.cold.get_or_insert_with(|| core.pool.take());
    cold.extra().probe = Probe::Due;
    conn.set(flag::UNUSUAL);
    core.want_repeat(conn);
}

/// Whether a probe shall be sent.
pub(super) fn is_due(conn: &Conn) -> bool {
    conn.has(flag::UNUSUAL) && probe(conn) == Probe::Due
}

/// The probe was sent, which is old data where it is `again`; the timeout comes next.
pub(super) fn note_sent(conn: &mut Conn, core: &mut Core, again: bool, now: Clock) {
    let (end, flight) = (conn.snd_nxt, conn.flight());
    if let Some(cold) = &mut conn.cold {
        cold.extra().probe =
            if flight > 0 { Probe::Out { end, again, flight } } else { Probe::None };
    }
    if flight > 0 {
        core.counters.tail_probes += 1;
        conn.rexmit_at = Tick::NONE;
        super::recovery::start_timer(conn, core, now);
    } else {
        conn.note_unusual();
    }
}

/// Recovery begins, and will see to it.
pub(super) fn forget(conn: &mut Conn) {
    conn.marks &= !mark::PROBED;
    if conn.has(flag::UNUSUAL)
        && let Some(cold) = &mut conn.cold
        && cold.probe() != Probe::None
    {
        cold.extra().probe = Probe::None;
    }
}

/// An acknowledgement of a segment with `len` of its own: it may tell what the probe has found
/// (TLP_process_ack of RFC 8985 7.4.2).
pub(super) fn on_ack(
    conn: &mut Conn,
    core: &mut Core,
    header: &Header,
    said: (u32, &News),
    now: Clock,
) {
    if !conn.has(flag::UNUSUAL) {
        return;
    }
    if conn.flight() == 0 && probe(conn) == Probe::Due {
        // What it was to ask for has come.
        forget(conn);
        return;
    }
    let (len, news) = said;
    let (again, flight, more, both) = match probe(conn) {
        Probe::None | Probe::Due => return,
        Probe::Out { end, .. } if header.ack.before(end) => return,
        Probe::Out { end, again, flight } => {
            let both = news.duplicate.is_some_and(|block| block.end == end);
            (again, flight, header.ack.after(end), both)
        }
        // Since then nothing was acknowledged. What was out is forgotten, and the window counts,
        // as in Linux.
        Probe::Answered => (true, conn.congestion.cwnd, !news.repeats, news.duplicate.is_some()),
    };
    // Without an option and again the same number: both copies arrived at a peer without D-SACK.
    let bare = header.options.sack[0].is_none() && len == 0 && news.repeats;
    // A peer that only sends acknowledges nothing new, but would have reported a second copy
    // by now.
    let late =
        conn.flight() == 0 && news.repeats && now.tick.age(conn.progress_at) > wait_ms(conn, 0);
    let more = more || late;
    forget(conn);
    if again && !both && !more && !bare {
        // Whether one copy arrived or both, the next acknowledgement will tell.
        conn.marks |= mark::PROBED;
        return;
    }
    if again && !both && !bare && more && conn.phase == Phase::Open {
        // The probe has repaired a loss, which calls for an answer all the same.
        core.counters.tail_losses += 1;
        undo::forget(conn);
        conn.congestion.on_loss(flight, conn.mss.into());
        conn.recover = conn.snd_nxt;
        ecn::on_loss(conn);
    }
}
