//! Black holes: paths that swallow long segments without a word (RFC 4821, RFC 8899).
//!
//! What is found out here holds for the connection that found it out and for no other, and not
//! for ever: a peer or a path that loses a lot must not make others send short segments. After
//! [`SUSPICIOUS`] timeouts in a row shorter segments are tried. Once one of those has passed,
//! the connection goes on with them, and sends a segment of full size now and then, with others
//! behind it that show its loss: where that arrives, the path was never narrow.

use super::core::Core;
use super::path::{self, constants, fit, whole_mss};
use super::seq::SeqNum;
use super::state::{Conn, Phase};
use super::timer::{Clock, Tick};

/// Timeouts in a row before full-sized segments are suspected of vanishing: as many as Linux
/// waits for (`tcp_retries1`).
const SUSPICIOUS: u8 = 3;
/// Segments behind one of full size, whose arrival shows its loss (RFC 4821 7.4).
const COMPANY: u32 = 4;
/// How long to wait before the first, the second and each later segment of full size, in
/// milliseconds. RFC 1191 6.3: ten minutes, when it is known that nothing longer passes.
const WAITS: [u32; 3] = [1_000, 15_000, 600_000];

/// What a connection knows about its black hole.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hole {
    /// The longest segment that it sends, options included.
    mss: u16,
    /// Whether one of that length has arrived where longer ones had not.
    found: bool,
    /// When the next segment of full size may go.
    probe_at: Tick,
    /// Those that went.
    probes: u8,
    /// Where the last one ends, while that is not acknowledged, and how much had been sent
    /// again before it.
    out: Option<(SeqNum, u32)>,
}

impl Hole {
    /// The longest segment to send, options included.
    pub(super) fn mss(&self) -> u16 {
        self.mss
    }
}

/// A timeout (RFC 4821 7.7), of which `conn.retries` counts the ones in a row. Half of the full size is
/// tried, then the smallest. If that vanishes, too, the path is more likely down than narrow:
/// the full size is tried again, and the smallest only every fourth time. What is acknowledged
/// decides.
pub(super) fn on_timeout(conn: &mut Conn, core: &mut Core, now: Clock) {
    let retries = conn.retries;
    if !core.config.black_hole_detection || retries < SUSPICIOUS {
        return;
    }
    let hole = core.paths.own(conn).and_then(|own| own.hole);
    let sent = conn.flight().min(conn.queued());
    if sent < u32::from(conn.mss) && hole.is_none() {
        // Short ones say nothing about the path.
        return;
    }
    let (min, headers) = constants(&conn.tuple);
    let floor = (min - headers).min(conn.full_mss);
    if retries > SUSPICIOUS && !retries.is_multiple_of(4) {
        if hole.is_some() {
            set(conn, core, None);
            fit(conn, core, now);
        }
        return;
    }
    let last = whole_mss(conn);
    let mss = if retries == SUSPICIOUS { (last / 2).max(floor) } else { floor };
    if mss < last {
        core.counters.path_mtu_suspected += 1;
        let hole = Hole { mss, found: false, probe_at: Tick::NONE, probes: 0, out: None };
        set(conn, core, Some(hole));
        fit(conn, core, now);
    }
}

/// The first `acked` bytes since a timeout.
#[cold]
pub(super) fn on_passage(conn: &mut Conn, core: &mut Core, acked: u32, now: Clock) {
    let Some(mut hole) = core.paths.own(conn).and_then(|own| own.hole) else { return };
    if hole.found {
        return;
    }
    // A timeout sends one segment. More than that, and one of full size was not lost but late.
    if acked > u32::from(conn.mss) {
        set(conn, core, None);
    } else {
        hole.found = true;
        hole.probe_at = now.after(WAITS[0]);
        set(conn, core, Some(hole));
    }
    fit(conn, core, now);
}

/// The payload of the segment of full size to send now, if it is time for one and enough waits
/// to be sent behind it; `unsent` bytes and `room` in the windows are there. What became of the
/// last one is found out here, too.
#[cold]
pub(super) fn probe(
    conn: &mut Conn,
    core: &mut Core,
    (unsent, room): (u32, u32),
    now: Clock,
) -> Option<u32> {
    let mut hole = core.paths.own(conn)?.hole?;
    if let Some((end, retransmits)) = hole.out {
        if conn.snd_una.before(end) {
            return None;
        }
        hole.out = None;
        let arrived = conn.retransmits == retransmits;
        set(conn, core, if arrived { None } else { Some(hole) });
        if arrived {
            core.counters.path_mtu_raised += 1;
            fit(conn, core, now);
            return None;
        }
    }
    let mss = u32::from(conn.mss);
    let longer = u32::from(path::known_mss(conn, core, now));
    let enough = longer + COMPANY * mss;
    let due = hole.found && hole.probe_at.is_due(now.tick) && conn.phase == Phase::Open;
    (due && longer > mss && unsent >= enough && room >= enough).then_some(longer)
}

/// A segment of full size is out, up to SND.NXT.
#[cold]
pub(super) fn on_probe(conn: &mut Conn, core: &mut Core, now: Clock) {
    let Some(mut hole) = core.paths.own(conn).and_then(|own| own.hole) else { return };
    hole.probes = hole.probes.saturating_add(1);
    hole.probe_at = now.after(WAITS[usize::from(hole.probes).min(WAITS.len() - 1)]);
    hole.out = Some((conn.snd_nxt, conn.retransmits));
    core.counters.path_mtu_probes += 1;
    set(conn, core, Some(hole));
}

fn set(conn: &mut Conn, core: &mut Core, hole: Option<Hole>) {
    core.paths.change(conn, |own| own.hole = hole);
}
