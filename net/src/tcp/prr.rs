//! Proportional rate reduction: what fast recovery may send follows what arrives, so that the
//! flight shrinks to the new threshold in one round trip, neither stalling nor bursting
//! (RFC 9937, which replaces RFC 6937).

use super::rack::{self, News};
use super::recovery::pipe;
use super::state::{Conn, Phase, flag};

/// The sums of one recovery, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Prr {
    /// What was in the network before (RecoverFS).
    flight: u32,
    /// What has arrived since (prr_delivered).
    delivered: u32,
    /// What was sent since (prr_out).
    out: u32,
    /// What duplicates without SACK are taken to have delivered and no acknowledgement has
    /// covered.
    assumed: u32,
}

impl Prr {
    /// `len` bytes went out, new or again.
    pub(super) fn note_sent(&mut self, len: u32) {
        self.out = self.out.saturating_add(len);
    }
}

/// Recovery has begun with the acknowledgement that brought `news`.
pub(super) fn begin(conn: &mut Conn, news: &News) {
    let sacked = rack::log(conn).map_or(0, |extra| extra.sent.sacked());
    // Of the duplicates without SACK the last one is news.
    let assumed = assumed(conn);
    let mss = u32::from(conn.mss);
    let before = sacked + assumed.saturating_sub(if assumed > 0 { mss } else { 0 });
    let flight = (conn.flight() + news.delivered).saturating_sub(before);
    if let Some(extra) = rack::log(conn) {
        extra.prr = Prr { flight: flight.max(mss), assumed: before - sacked, ..Prr::default() };
    }
}

/// What the duplicates of a peer without SACK stand for.
fn assumed(conn: &Conn) -> u32 {
    if conn.has(flag::SACK) {
        return 0;
    }
    (u32::from(conn.dup_acks) * u32::from(conn.mss)).min(conn.flight())
}

/// Sets the window after an acknowledgement in recovery, or the end of a reordering window.
/// `safe`: SND.UNA has moved and no other loss has shown (SafeACK).
pub(super) fn reduce(conn: &mut Conn, news: &News, safe: bool) {
    if conn.phase != Phase::Recovery {
        return;
    }
    let (pipe, ssthresh, mss) = (pipe(conn), conn.congestion.ssthresh, u32::from(conn.mss));
    let assumed = assumed(conn);
    let Some(extra) = rack::log(conn) else { return };
    let prr = &mut extra.prr;
    let delivered = (news.delivered + assumed).saturating_sub(prr.assumed);
    prr.assumed = assumed;
    prr.delivered = prr.delivered.saturating_add(delivered);
    let mut room = if pipe > ssthresh {
        let share = u64::from(prr.delivered) * u64::from(ssthresh);
        let share = share.div_ceil(u64::from(prr.flight.max(1)));
        (share as u32).saturating_sub(prr.out)
    } else {
        // What has left the network, and slow start where all goes well.
        let arrived = prr.delivered.saturating_sub(prr.out).max(delivered);
        (arrived + if safe { mss } else { 0 }).min(ssthresh - pipe)
    };
    if prr.out == 0 {
        // The first retransmission goes in any case.
        room = room.max(mss);
    }
    conn.congestion.cwnd = (pipe + room).max(mss);
}
