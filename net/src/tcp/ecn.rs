//! Explicit congestion notification (RFC 3168): what a router marks, the receiver echoes until
//! the sender says that it has slowed down.

use super::config::Ecn;
use super::core::Core;
use super::segment::{Flags, Header};
use super::state::Conn;
use super::undo;

/// Both ends may have agreed to it: marks are echoed, and echoes heard.
pub(super) const AGREED: u8 = 1 << 0;
/// A mark has come: ECE goes with every ACK until the peer says CWR.
pub(super) const ECHO: u8 = 1 << 1;
/// The window was reduced: CWR goes with the next new data.
pub(super) const TELL: u8 = 1 << 2;
/// It was reduced, for an echo or a loss, when SND.NXT was `recover`.
const REDUCED: u8 = 1 << 3;
/// What is sent says that it may be marked.
pub(super) const MARKABLE: u8 = 1 << 4;

/// The IP field of a segment that may be marked, ECT(0), and of one that is.
pub(super) const CAPABLE: u8 = 2;
pub(super) const MARKED: u8 = 3;

/// What a SYN that asks for it has (RFC 3168 6.1.1).
pub(super) const ASKS: Flags = Flags(Flags::ECE.0 | Flags::CWR.0);
/// SYNs that ask; those sent after them do not, lest one that is lost for asking be lost for
/// ever (RFC 3168 6.1.1.1).
const ASKING: u8 = 2;

/// Whether the next SYN of an active open asks.
pub(super) fn asks(conn: &Conn, core: &Core) -> bool {
    core.config.ecn == Ecn::On && conn.retries < ASKING
}

/// Whether a SYN asks, and may.
pub(super) fn is_asked(syn: &Header, config: Ecn) -> bool {
    config != Ecn::Off && syn.flags.contains(ASKS) && syn.ecn == 0
}

/// What a SYN-ACK leaves of what our first SYN asked for. A peer that reflects both bits grants
/// nothing. Where a SYN was sent that did not ask, and where the path has rewritten the SYN-ACK's
/// field, nothing is sent that may be marked; but the peer may believe in an agreement, so its
/// marks are echoed (RFC 3168 6.1.1).
pub(super) fn granted(conn: &Conn, core: &Core, syn_ack: &Header) -> u8 {
    if core.config.ecn != Ecn::On || syn_ack.flags.0 & ASKS.0 != Flags::ECE.0 {
        0
    } else if conn.retries >= ASKING || syn_ack.ecn != 0 {
        AGREED
    } else {
        AGREED | MARKABLE
    }
}

/// What a SYN and our answers to it agreed on: `asked` by the last of its copies, `told` that
/// we agree by any of our answers.
pub(super) fn passive(asked: bool, told: bool) -> u8 {
    match (asked, told) {
        (true, _) => AGREED | MARKABLE,
        // RFC 3168 6.1.1: it may have believed the first answer.
        (false, true) => AGREED,
        (false, false) => 0,
    }
}

/// A retransmission timeout. Where nothing has arrived but what was sent again, which is never
/// marked, the path may swallow what says that it may be: nothing says so from now on.
pub(super) fn on_timeout(conn: &mut Conn, core: &mut Core) {
    let again = u64::from(conn.retransmits) * u64::from(conn.full_mss);
    if conn.ecn & MARKABLE != 0 && conn.retransmits > 0 && conn.bytes_acked <= again {
        conn.ecn &= !MARKABLE;
        core.counters.ecn_given_up += 1;
    }
}

/// A segment with payload has come (RFC 3168 6.1.3).
pub(super) fn on_data(conn: &mut Conn, core: &mut Core, header: &Header) {
    if conn.ecn & AGREED == 0 {
        return;
    }
    if header.flags.contains(Flags::CWR) {
        conn.ecn &= !ECHO;
    }
    if header.ecn == MARKED {
        core.counters.ecn_marks += 1;
        if conn.ecn & ECHO == 0 {
            // As in Linux: the sender shall hear of it at once.
            core.ack_now(conn);
        }
        conn.ecn |= ECHO;
    }
}

/// An acknowledgement has come that echoes a mark; before it `flight` bytes were out and the
/// window was `cwnd`. It is reduced once for all that was out (RFC 3168 6.1.2).
pub(super) fn on_echo(conn: &mut Conn, core: &mut Core, flight: u32, cwnd: u32) {
    if conn.ecn & AGREED == 0 || flight == 0 {
        // Nothing was out that could have been marked, or slowed down.
        return;
    }
    if conn.phase != super::state::Phase::Open {
        // Recovery has reduced the window already, and has to make its way.
        return;
    }
    conn.congestion.cwnd = conn.congestion.cwnd.min(cwnd.max(conn.mss.into()));
    let out = conn.flight();
    let left = conn.recover.0.wrapping_sub(conn.snd_una.0);
    let same = conn.ecn & REDUCED != 0 && left <= out;
    if same {
        return;
    }
    core.counters.ecn_reductions += 1;
    undo::forget(conn);
    conn.congestion.on_mark(flight, conn.mss.into());
    conn.recover = conn.snd_nxt;
    conn.ecn |= REDUCED | TELL;
}

/// The window was reduced for a loss: the peer is told, too (RFC 3168 6.1.2).
pub(super) fn on_loss(conn: &mut Conn) {
    if conn.ecn & AGREED != 0 {
        conn.ecn |= REDUCED | TELL;
    }
}
