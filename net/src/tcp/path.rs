//! Path MTU discovery: what a path carries, learnt from ICMP (RFC 1191, RFC 8201) or from
//! silence (in the spirit of RFC 4821).
//!
//! What is learnt about a destination holds for ten minutes, for connections opened meanwhile
//! and for those that are open: each looks when it has more than a segment to send.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use throng_runtime::Instant;

use super::core::Core;
use super::demux::Kind;
use super::engine::Engine;
use super::error::TooBig;
use super::options::TIMESTAMPS_LEN;
use super::recovery;
use super::segment::{Addr, FourTuple};
use super::seq::SeqNum;
use super::state::{Conn, State, flag};
use super::timer::Clock;

/// How long a path's MTU is believed (RFC 1191 6.3, RFC 8201 5.3).
const LIFETIME: Duration = Duration::from_secs(600);
/// Destinations remembered; beyond it the one learnt about first is forgotten, whose
/// connections will learn again.
const MAX_PATHS: usize = 4096;
/// Less is taken for this over IPv4, as in Linux: no path is that narrow, but a forger
/// would have us send dust.
const MIN_V4: u16 = 552;
/// RFC 8200 5.
const MIN_V6: u16 = 1280;
/// What routers that name no MTU are likely to mean (RFC 1191 7.1), largest first.
const PLATEAUS: [u16; 8] = [32_000, 17_914, 8_166, 4_352, 2_002, 1_492, 1_006, MIN_V4];

/// The smallest MTU, and what IP and TCP headers take of it.
fn constants(tuple: &FourTuple) -> (u16, u16) {
    if tuple.remote.is_ipv4() { (MIN_V4, 40) } else { (MIN_V6, 60) }
}

/// The MTUs of paths that carry less than the link.
#[derive(Debug, Default)]
pub(super) struct Paths {
    /// Each with when it was learnt.
    mtus: HashMap<Addr, (u16, Instant)>,
    /// What was learnt when, oldest first; an entry learnt again is here twice.
    order: VecDeque<(Addr, Instant)>,
}

impl Paths {
    pub(super) fn is_empty(&self) -> bool {
        self.mtus.is_empty()
    }

    /// Returns whether it lowers what was known.
    fn learn(&mut self, to: Addr, mtu: u16, now: Instant) -> bool {
        let known = self.get(&to, now).unwrap_or(u16::MAX);
        self.mtus.insert(to, (mtu.min(known), now));
        if self.order.back() != Some(&(to, now)) {
            self.order.push_back((to, now));
        }
        while self.order.len() > MAX_PATHS {
            self.forget_oldest();
        }
        mtu < known
    }

    fn get(&mut self, to: &Addr, now: Instant) -> Option<u16> {
        while self.order.front().is_some_and(|(_, at)| now.saturating_since(*at) >= LIFETIME) {
            self.forget_oldest();
        }
        self.mtus.get(to).map(|(mtu, _)| *mtu)
    }

    fn forget_oldest(&mut self) {
        if let Some((to, at)) = self.order.pop_front()
            && self.mtus.get(&to).is_some_and(|(_, learnt)| *learnt == at)
        {
            self.mtus.remove(&to);
        }
    }

    /// Bytes of memory held, about.
    pub(super) fn memory(&self) -> usize {
        self.mtus.capacity() * size_of::<(Addr, (u16, Instant))>()
            + self.order.capacity() * size_of::<(Addr, Instant)>()
    }
}

/// Makes the segments of `conn` as long as both ends and the path allow.
pub(super) fn fit(conn: &mut Conn, core: &mut Core, now: Clock) {
    if conn.has(flag::BLACK_HOLE) {
        // It is finding out for itself.
        return;
    }
    let (_, headers) = constants(&conn.tuple);
    let known = core.paths.get(&conn.tuple.remote, now.instant);
    let mss = known.map_or(conn.full_mss, |mtu| conn.full_mss.min(mtu - headers));
    if mss < conn.full_mss {
        conn.set(flag::NARROW);
    } else {
        conn.unset(flag::NARROW);
    }
    set_mss(conn, mss);
}

/// The longest segment, options included.
fn whole_mss(conn: &Conn) -> u16 {
    conn.mss + if conn.has(flag::TIMESTAMPS) { TIMESTAMPS_LEN } else { 0 }
}

fn set_mss(conn: &mut Conn, mss: u16) {
    conn.mss = mss - if conn.has(flag::TIMESTAMPS) { TIMESTAMPS_LEN } else { 0 };
    // A window of less than a segment lets nothing out.
    conn.congestion.cwnd = conn.congestion.cwnd.max(conn.mss.into());
}

/// A timeout, of which `conn.retries` counts the ones in a row. From the second on segments
/// of full size are suspected of vanishing without a word: half of it is tried, then the
/// smallest. If that vanishes, too, the path is more likely down than narrow: the full size is
/// tried again, and the smallest only every fourth time. What is acknowledged decides.
pub(super) fn on_timeout(conn: &mut Conn, core: &mut Core, now: Clock) {
    let (min, headers) = constants(&conn.tuple);
    let floor = (min - headers).min(conn.full_mss);
    let sent = conn.flight().min(conn.queued());
    if !core.config.black_hole_detection
        || conn.retries < 2
        || sent < u32::from(conn.mss) && !conn.has(flag::BLACK_HOLE)
    {
        return;
    }
    if conn.retries > 2 && conn.retries % 4 != 3 {
        conn.unset(flag::BLACK_HOLE);
        fit(conn, core, now);
        return;
    }
    let last = whole_mss(conn);
    let next = if conn.retries == 2 { (last / 2).max(floor) } else { floor };
    if next < last {
        core.counters.path_mtu_suspected += 1;
        conn.set(flag::BLACK_HOLE);
        set_mss(conn, next);
    }
}

/// The first `acked` bytes since segments are shorter than usual.
#[cold]
pub(super) fn on_passage(conn: &mut Conn, core: &mut Core, acked: u32, now: Clock) {
    let (_, headers) = constants(&conn.tuple);
    conn.unset(flag::BLACK_HOLE);
    // A timeout sends one segment. More than that, and one of full size was not lost but late.
    if acked <= u32::from(conn.mss) {
        core.paths.learn(conn.tuple.remote, whole_mss(conn) + headers, now.instant);
    }
    fit(conn, core, now);
}

impl Engine {
    /// An ICMP message says that a segment we sent with sequence number `seq` was too long for
    /// the path (RFC 1191 6.3, RFC 8201 4). It is believed if that is in flight, and can have
    /// been so long and longer than the MTU named (RFC 5927 4.1, 7). Connections to that host
    /// send shorter segments for ten minutes; this one sends again at once what is out, which
    /// is no sign of congestion.
    pub fn on_icmp_too_big(&mut self, tuple: FourTuple, seq: SeqNum, said: TooBig, now: Instant) {
        let now = self.tell(now);
        let slot = self
            .lookup(self.core.demux.hash(&tuple), &tuple)
            .filter(|slot| slot.kind() == Kind::Conn);
        let conn = slot.map(|slot| self.conns.get_mut(slot.index()));
        let core = &mut self.core;
        let believed = conn.and_then(|conn| Some((believable(conn, seq, said)?, conn)));
        let Some((mtu, conn)) = believed else {
            core.counters.icmp_ignored += 1;
            return;
        };
        if core.paths.learn(tuple.remote, mtu, now.instant) {
            core.counters.path_mtu_lowered += 1;
        }
        conn.unset(flag::BLACK_HOLE);
        let before = conn.mss;
        fit(conn, core, now);
        let open = !matches!(conn.state, State::SynSent | State::SynReceived);
        if conn.mss < before && open && conn.queued() > 0 {
            recovery::send_again(conn, core, now);
        }
    }
}

/// The MTU to go by, if the message may be true and says anything new.
fn believable(conn: &Conn, seq: SeqNum, said: TooBig) -> Option<u16> {
    let (min, headers) = constants(&conn.tuple);
    let mtu = match said.mtu {
        0 if conn.tuple.remote.is_ipv4() => {
            *PLATEAUS.iter().find(|plateau| **plateau < said.quoted)?
        }
        // RFC 8201 4: less than the minimum is discarded.
        mtu if mtu < min && !conn.tuple.remote.is_ipv4() => return None,
        mtu => mtu.max(min),
    };
    let known = seq.in_window(conn.snd_una, conn.flight());
    let longest = u32::from(conn.full_mss) + u32::from(headers);
    let fits = said.quoted > mtu && u32::from(said.quoted) <= longest;
    (known && fits).then_some(mtu)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_bounded_and_age() {
        let mut paths = Paths::default();
        let addr = |n: u32| {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&n.to_be_bytes());
            Addr(bytes)
        };
        let at = |s: u64| Instant::from_millis(s * 1000);
        paths.learn(addr(1), 1400, at(0));
        paths.learn(addr(1), 1500, at(10));
        assert_eq!(paths.get(&addr(1), at(10)), Some(1400), "the narrower one");
        assert_eq!(paths.get(&addr(1), at(609)), Some(1400), "from the last message on");
        assert_eq!(paths.get(&addr(1), at(610)), None);
        assert!(paths.is_empty() && paths.order.is_empty());
        for n in 0..10 * MAX_PATHS as u32 {
            let now = Instant::from_millis(700_000 + u64::from(n));
            paths.learn(addr(n), 1000, now);
            paths.learn(addr(0), 1000, now);
        }
        assert!(paths.mtus.len() <= MAX_PATHS && paths.order.len() <= MAX_PATHS);
        assert_eq!(paths.get(&addr(0), at(750)), Some(1000));
        assert_eq!(paths.get(&addr(1), at(750)), None, "made room");
        assert!(!paths.is_empty());
        paths.get(&addr(0), at(1350));
        assert!(paths.is_empty());
    }
}
