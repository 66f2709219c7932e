//! Explicit congestion notification (RFC 3168): what a router marks, the receiver echoes until
//! the sender says that it has slowed down.

use super::config::Ecn;
use super::core::Core;
use super::segment::{Flags, Header};
use super::state::Conn;

/// Both ends have agreed to it.
pub(super) const AGREED: u8 = 1 << 0;
/// A mark has come: ECE goes with every ACK until the peer says CWR.
pub(super) const ECHO: u8 = 1 << 1;
/// The window was reduced: CWR goes with the next new data.
pub(super) const TELL: u8 = 1 << 2;
/// It was reduced, for an echo or a loss, when SND.NXT was `recover`.
const REDUCED: u8 = 1 << 3;

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

/// Whether a SYN-ACK grants what our SYN asked for. A peer that reflects both bits does not.
pub(super) fn is_granted(conn: &Conn, core: &Core, syn_ack: &Header) -> bool {
    asks(conn, core) && syn_ack.flags.0 & ASKS.0 == Flags::ECE.0
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
    if conn.ecn & AGREED == 0 {
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
