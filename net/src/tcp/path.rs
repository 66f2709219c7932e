//! Path MTU discovery: what a path carries, learnt from ICMP (RFC 1191, RFC 8201). For paths
//! that say nothing see [`hole`](super::hole).
//!
//! What ICMP says about a destination holds for ten minutes, for connections opened meanwhile
//! and for those that are open: each looks when it has more than a segment to send.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use throng_runtime::Instant;

use super::core::Core;
use super::demux::Kind;
use super::engine::Engine;
use super::error::TooBig;
use super::hole::{self, Hole};
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
/// Segments' worth of data that has arrived before an ICMP message needs a timeout to be
/// believed: full-sized ones are taken to have passed by then (RFC 5927 7.2).
const PROVEN: u64 = 16;
/// How often in its life a connection believes ICMP at once and sends again what is out.
/// Further messages need a timeout, so that a row of falling MTUs buys no row of flights.
const AT_ONCE: u8 = 4;

/// The smallest MTU, and what IP and TCP headers take of it.
pub(super) fn constants(tuple: &FourTuple) -> (u16, u16) {
    if tuple.remote.is_ipv4() { (MIN_V4, 40) } else { (MIN_V6, 60) }
}

/// What paths carry that carry less than the link.
#[derive(Debug, Default)]
pub(super) struct Paths {
    /// MTUs by destination, each with when it was learnt.
    mtus: HashMap<Addr, (u16, Instant)>,
    /// What was learnt when, oldest first; an entry learnt again is here twice.
    order: VecDeque<(Addr, Instant)>,
    /// What single connections know, by index: those with the flag `OWN_PATH`.
    own: HashMap<u32, Own>,
}

/// What one connection knows of its path, and no other shall hear of.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Own {
    /// A size above which segments vanish, or are suspected to.
    pub(super) hole: Option<Hole>,
    /// An MTU that ICMP has named for what began at this number, and that a timeout would
    /// prove.
    doubted: Option<(u16, SeqNum)>,
    /// How often ICMP was believed at once.
    at_once: u8,
}

impl Paths {
    pub(super) fn is_empty(&self) -> bool {
        self.mtus.is_empty()
    }

    /// Returns whether it lowers what was known.
    fn learn(&mut self, to: Addr, mtu: u16, now: Instant) -> bool {
        let known = self.get(&to, now).unwrap_or(u16::MAX);
        let last = self.mtus.insert(to, (mtu.min(known), now));
        // Many messages of one burst have one time.
        if last.is_none_or(|(_, at)| at != now) {
            self.order.push_back((to, now));
        }
        while self.mtus.len() > MAX_PATHS {
            self.forget_oldest();
        }
        if self.order.len() > 2 * MAX_PATHS {
            // A few destinations are learnt about again and again.
            let mtus = &self.mtus;
            self.order.retain(|(to, at)| mtus.get(to).is_some_and(|(_, last)| last == at));
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

    /// What this connection alone knows, if anything.
    pub(super) fn own(&self, conn: &Conn) -> Option<&Own> {
        if conn.has(flag::OWN_PATH) { self.own.get(&conn.index) } else { None }
    }

    /// Changes what this connection alone knows.
    pub(super) fn change<T>(&mut self, conn: &mut Conn, change: impl FnOnce(&mut Own) -> T) -> T {
        conn.set(flag::OWN_PATH);
        change(self.own.entry(conn.index).or_default())
    }

    /// The connection is no more.
    pub(super) fn forget(&mut self, conn: &Conn) {
        if conn.has(flag::OWN_PATH) {
            self.own.remove(&conn.index);
            if self.own.is_empty() {
                self.own.shrink_to(64);
            }
        }
    }

    /// Connections that know something of their own.
    pub(super) fn owners(&self) -> usize {
        self.own.len()
    }

    /// Bytes of memory held, about.
    pub(super) fn memory(&self) -> usize {
        self.mtus.capacity() * size_of::<(Addr, (u16, Instant))>()
            + self.order.capacity() * size_of::<(Addr, Instant)>()
            + self.own.capacity() * size_of::<(u32, Own)>()
    }
}

/// The longest segment, options included, that both ends and what is known of the way to the
/// peer's host allow.
fn host_mss(conn: &Conn, core: &mut Core, now: Clock) -> u16 {
    let (_, headers) = constants(&conn.tuple);
    let known = core.paths.get(&conn.tuple.remote, now.instant);
    known.map_or(conn.full_mss, |mtu| conn.full_mss.min(mtu - headers))
}

/// The payload of such a segment, its options taken off.
pub(super) fn known_mss(conn: &Conn, core: &mut Core, now: Clock) -> u16 {
    host_mss(conn, core, now) - options_len(conn)
}

/// Makes the segments of `conn` as long as both ends and the path allow.
pub(super) fn fit(conn: &mut Conn, core: &mut Core, now: Clock) {
    let mut mss = host_mss(conn, core, now);
    if let Some(hole) = core.paths.own(conn).and_then(|own| own.hole) {
        mss = mss.min(hole.mss());
    }
    if mss < conn.full_mss {
        conn.set(flag::NARROW);
    } else {
        conn.unset(flag::NARROW);
    }
    set_mss(conn, mss);
}

fn options_len(conn: &Conn) -> u16 {
    if conn.has(flag::TIMESTAMPS) { TIMESTAMPS_LEN } else { 0 }
}

/// The longest segment sent at present, options included.
pub(super) fn whole_mss(conn: &Conn) -> u16 {
    conn.mss + options_len(conn)
}

fn set_mss(conn: &mut Conn, mss: u16) {
    conn.mss = mss - options_len(conn);
    // A window of less than a segment lets nothing out.
    conn.congestion.cwnd = conn.congestion.cwnd.max(conn.mss.into());
}

/// A retransmission timeout.
pub(super) fn on_timeout(conn: &mut Conn, core: &mut Core, now: Clock) {
    if let Some(Own { doubted: Some((mtu, seq)), .. }) = core.paths.own(conn) {
        let (mtu, seq) = (*mtu, *seq);
        core.paths.change(conn, |own| own.doubted = None);
        // RFC 5927 7.2: what the message was about is lost indeed.
        if seq.in_window(conn.snd_una, conn.flight()) {
            lower(conn, core, mtu, now);
            return;
        }
    }
    hole::on_timeout(conn, core, now);
}

/// Takes an MTU for the path's.
fn lower(conn: &mut Conn, core: &mut Core, mtu: u16, now: Clock) {
    if core.paths.learn(conn.tuple.remote, mtu, now.instant) {
        core.counters.path_mtu_lowered += 1;
    }
    fit(conn, core, now);
}

impl Engine {
    /// An ICMP message says that a segment we sent with sequence number `seq` was too long for
    /// the path (RFC 1191 6.3, RFC 8201 4). It is believed if that is in flight, and can have
    /// been so long and longer than the MTU named (RFC 5927 4.1, 7); where long segments have
    /// arrived before, only once there is a timeout (7.2). Connections to that host send
    /// shorter segments for ten minutes; this one sends again at once what is out, beginning
    /// as slow start does, for it is no sign of congestion.
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
        let before = conn.mss;
        let (_, headers) = constants(&tuple);
        if mtu - headers >= whole_mss(conn) {
            // What was on its way before the last message has come, or nothing new.
            lower(conn, core, mtu, now);
            return;
        }
        let proven = conn.bytes_acked >= PROVEN * u64::from(conn.full_mss);
        let often = core.paths.own(conn).is_some_and(|own| own.at_once >= AT_ONCE);
        if (proven || often) && conn.retries == 0 {
            core.counters.path_mtu_doubted += 1;
            core.paths.change(conn, |own| own.doubted = Some((mtu, seq)));
            return;
        }
        lower(conn, core, mtu, now);
        let open = !matches!(conn.state, State::SynSent | State::SynReceived);
        if conn.mss < before && open && conn.queued() > 0 {
            core.paths.change(conn, |own| own.at_once = own.at_once.saturating_add(1));
            recovery::send_again(conn, core, now);
        }
    }
}

/// The MTU to go by, if the message may be true and says anything new.
fn believable(conn: &Conn, seq: SeqNum, said: TooBig) -> Option<u16> {
    let (min, headers) = constants(&conn.tuple);
    let longest = conn.full_mss.saturating_add(headers);
    let mtu = match said.mtu {
        0 if conn.tuple.remote.is_ipv4() => {
            *PLATEAUS.iter().find(|plateau| **plateau < said.quoted.min(longest))?
        }
        // RFC 8201 4: less than the minimum is discarded.
        mtu if mtu < min && !conn.tuple.remote.is_ipv4() => return None,
        mtu => mtu.max(min),
    };
    // RFC 5927 4.1. A packet that is yet to be cut (TSO) may be quoted whole, so its length is
    // bounded by what is out and not by a segment's; up to 40 bytes of it are options.
    let known = seq.in_window(conn.snd_una, conn.flight());
    let payload = u32::from(said.quoted.saturating_sub(headers + 40));
    let possible = payload <= conn.snd_nxt.0.wrapping_sub(seq.0);
    (known && possible && said.quoted > mtu && mtu < longest).then_some(mtu)
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
        let last = 10 * MAX_PATHS as u32 - 1;
        for n in 0..=last {
            let now = Instant::from_millis(700_000 + u64::from(n));
            paths.learn(addr(n), 1000, now);
            paths.learn(addr(0), 1000, now);
        }
        assert_eq!(paths.mtus.len(), MAX_PATHS, "as many hosts, however often each is learnt");
        assert!(paths.order.len() <= 2 * MAX_PATHS);
        let known = (1..=last).filter(|n| paths.mtus.contains_key(&addr(*n)));
        assert!(
            known.eq(last + 2 - MAX_PATHS as u32..=last),
            "the latest, and the one that all is about"
        );
        assert_eq!(paths.get(&addr(0), at(750)), Some(1000));
        assert_eq!(paths.get(&addr(1), at(750)), None, "made room");
        // A burst has one time, and may be about two hosts in turn.
        let before = paths.order.len();
        for _ in 0..10_000 {
            paths.learn(addr(1), 1000, at(751));
            paths.learn(addr(2), 1000, at(751));
        }
        assert!(paths.order.len() <= before + 2);
        assert!(!paths.is_empty());
        paths.get(&addr(0), at(1351));
        assert!(paths.is_empty());
    }
}
