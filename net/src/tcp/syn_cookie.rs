//! SYN cookies: a passive open that costs no memory until the peer has proved its address
//! (RFC 4987 3.6). They are sent while the half-open table is full.
//!
//! ```text
//!   ISN        period's parity (1) | MSS, an index (4) | keyed hash (27)
//!   timestamp  ... the clock's upper bits ... | ECN (1) | SACK (1) | scale (4)
//! ```
//!
//! The hash covers the tuple, the peer's ISN, the MSS and the period, whose key it is made
//! with: a forged acknowledgement is right once in 2^27 times. The options come back in the
//! echo of a timestamp, so a peer that offers none goes without (as in Linux); what an echo
//! says is the peer's own loss if it lies. What is lost with cookies: a final ACK that gets
//! lost is not asked for again, so a peer that waits for our first word waits in vain.

use std::collections::BTreeSet;

use throng_runtime::Instant;

use super::config::Ecn;
use super::core::plain;
use super::demux::{Kind, Slot};
use super::ecn;
use super::engine::Engine;
use super::handshake::syn_window;
use super::isn::{siphash, words};
use super::options::{self, Offer};
use super::segment::{Flags, FourTuple, Header};
use super::seq::SeqNum;
use super::state::{Conn, State, flag};
use super::time_wait::Last;
use super::timer::Clock;

/// How long a key makes cookies. One is good in its own period and in the next.
const PERIOD_MS: u64 = 64_000;
/// What a cookie can say of the peer's MSS: rounded down to one of these.
const MSS: [u16; 16] = [
    options::MIN_MSS,
    96,
    216,
    384,
    536,
    800,
    1024,
    1220,
    1300,
    1360,
    1380,
    1400,
    1440,
    1452,
    1460,
    8940,
];
const HASH_BITS: u32 = 27;
/// Bits of a timestamp that carry options, and of those the scale.
const OPTION_BITS: u32 = 6;
const SCALE_MASK: u32 = 0xf;
const NO_SCALE: u32 = 0xf;
const SACK_BIT: u32 = 1 << 4;
const ECN_BIT: u32 = 1 << 5;
/// Accepted cookies remembered per period, 16 bytes or so each. Those beyond are accepted and
/// not remembered: a copy of their final ACK that outlives the connection would open another.
const MAX_SPENT: usize = 1 << 16;

/// What cookies need of an engine's memory: nothing per cookie sent.
pub(super) struct Cookies {
    secret: [u64; 2],
    /// Keys made lately, by the parity of their period, each with that period.
    keys: [(u64, [u64; 2]); 2],
    /// The period in which one was last sent.
    sent: Option<u64>,
    /// Accepted in `spent_in`, and in the period before it.
    spent: [BTreeSet<u64>; 2],
    spent_in: u64,
}

fn period(now: Instant) -> u64 {
    now.as_millis() / PERIOD_MS
}

impl Cookies {
    pub(super) fn new(secret: [u64; 2]) -> Cookies {
        let none = (u64::MAX, [0; 2]);
        Cookies { secret, keys: [none; 2], sent: None, spent: Default::default(), spent_in: 0 }
    }

    /// Bytes of memory held, about: nodes of the sets are two thirds full.
    pub(super) fn memory(&self) -> usize {
        self.spent.iter().map(|spent| spent.len() * 2 * size_of::<u64>()).sum()
    }

    fn key(&mut self, period: u64) -> [u64; 2] {
        let place = &mut self.keys[(period & 1) as usize];
        if place.0 != period {
            *place = (period, [0, 1].map(|half| siphash(self.secret, &[period, half])));
        }
        place.1
    }

    /// Whether an acknowledgement may be of a cookie: one was sent in this or the last period.
    pub(super) fn are_out(&self, now: Instant) -> bool {
        self.sent.is_some_and(|sent| period(now) <= sent + 1)
    }

    fn cookie(&mut self, tuple: &FourTuple, irs: SeqNum, index: usize, period: u64) -> SeqNum {
        let key = self.key(period);
        let [a, b, c, d, e] = words(tuple);
        let peer = u64::from(irs.0) << 32 | index as u64;
        let hash = siphash(key, &[a, b, c, d, e, peer]) as u32 & ((1 << HASH_BITS) - 1);
        SeqNum((period as u32 & 1) << 31 | (index as u32) << HASH_BITS | hash)
    }

    /// The ISN that answers a SYN of `irs` from a peer that takes segments of `mss`.
    fn make(&mut self, tuple: &FourTuple, irs: SeqNum, mss: u16, now: Instant) -> SeqNum {
        let index = MSS.iter().rposition(|&known| known <= mss).unwrap_or(0);
        self.sent = Some(period(now));
        self.cookie(tuple, irs, index, period(now))
    }

    /// The peer's MSS, if `iss` is a cookie of ours for this SYN.
    fn check(&mut self, tuple: &FourTuple, irs: SeqNum, iss: SeqNum, now: Instant) -> Option<u16> {
        let age = (period(now) as u32 ^ iss.0 >> 31) & 1;
        let made = period(now).checked_sub(u64::from(age))?;
        let index = (iss.0 >> HASH_BITS & 0xf) as usize;
        (self.cookie(tuple, irs, index, made) == iss).then_some(MSS[index])
    }

    /// Takes note that a cookie was accepted. `false`: it was already.
    fn spend(&mut self, tuple: &FourTuple, irs: SeqNum, iss: SeqNum, now: Instant) -> bool {
        let now = period(now);
        if now != self.spent_in {
            let last = std::mem::take(&mut self.spent[0]);
            self.spent[1] = if now == self.spent_in + 1 { last } else { BTreeSet::new() };
            self.spent_in = now;
        }
        let [a, b, c, d, e] = words(tuple);
        let both = u64::from(irs.0) << 32 | u64::from(iss.0);
        let name = siphash(self.secret, &[a, b, c, d, e, both]);
        if self.spent[1].contains(&name) || self.spent[0].contains(&name) {
            return false;
        }
        if self.spent[0].len() < MAX_SPENT {
            self.spent[0].insert(name);
        }
        true
    }
}

/// The timestamp nearest to `clock`, and not after it, that carries the options of `offer`.
fn carry(offer: &Offer, clock: u32) -> u32 {
    let scale = offer.scale.map_or(NO_SCALE, u32::from);
    let bits =
        scale | if offer.sack { SACK_BIT } else { 0 } | if offer.ecn != 0 { ECN_BIT } else { 0 };
    let low = (1 << OPTION_BITS) - 1;
    let back = (clock & low).wrapping_sub(bits) & low;
    clock.wrapping_sub(back)
}

/// What the peer offered, from the timestamp it echoes; `None` if we cannot have sent that.
fn carried(echo: u32, clock: u32) -> Option<(Option<u8>, bool, bool)> {
    let age = clock.wrapping_sub(echo);
    if u64::from(age) > 2 * PERIOD_MS + (1 << OPTION_BITS) {
        return None;
    }
    let scale = echo & SCALE_MASK;
    let scale = (scale != NO_SCALE).then_some(scale as u8);
    Some((scale, echo & SACK_BIT != 0, echo & ECN_BIT != 0))
}

impl Engine {
    /// Answers a SYN and forgets it. `after`: the tuple is in TIME_WAIT, and what is left of
    /// the old connection ends there.
    pub(super) fn send_cookie(&mut self, syn: &Header, after: Option<&Last>, now: Clock) {
        let core = &mut self.core;
        let tuple = syn.tuple;
        let our_mss = core.mss(&tuple);
        let mut offer = Offer::read(syn, our_mss);
        if offer.timestamp.is_none() {
            (offer.scale, offer.sack) = (None, false);
        } else {
            offer.ecn = ecn::passive(ecn::is_asked(syn, core.config.ecn), false);
        }
        let iss = core.cookies.make(&tuple, syn.seq, offer.mss, now.instant);
        if let Some(last) = after
            && !(last.timestamps && offer.timestamp.is_some())
            && !iss.after(last.snd_nxt)
        {
            // Timestamps would tell the peer's old segments from new ones (RFC 6191 2). Without
            // them our numbers have to, and those of a cookie are what they are.
            core.counters.syn_dropped_half_open += 1;
            return;
        }
        let clock = now.tick.0.wrapping_add(core.secret.timestamp_offset(&tuple));
        let mut flags = Flags::SYN | Flags::ACK;
        if offer.ecn != 0 {
            flags = flags | Flags::ECE;
        }
        let mut answer = plain(tuple, iss, syn.seq + 1, flags, syn_window(core));
        answer.options = options::syn_ack(&offer, our_mss, core.rcv_scale, carry(&offer, clock));
        if core.reply(answer) {
            core.counters.syn_cookies_sent += 1;
        }
    }

    /// An acknowledgement that belongs to nothing, or to what a cookie may replace: `from`, a
    /// half-open connection or a TIME_WAIT entry. Returns whether it was that of a cookie,
    /// which then is a connection, or is dropped where there is no room for one.
    pub(super) fn on_cookie(
        &mut self,
        from: Option<Slot>,
        header: &Header,
        payload: &[u8],
        now: Clock,
    ) -> bool {
        const ONLY: u8 = Flags::ACK.0 | Flags::SYN.0 | Flags::RST.0;
        if !self.core.cookies.are_out(now.instant) || header.flags.0 & ONLY != Flags::ACK.0 {
            return false;
        }
        let Some(listener) = self.listeners.find(&header.tuple) else { return false };
        let Some((iss, offer)) = self.read_cookie(header, now) else {
            // What belongs to something else was hardly meant for one.
            self.core.counters.syn_cookies_rejected += u64::from(from.is_none());
            return false;
        };
        if !self.has_place(listener) {
            if self.core.config.abort_on_overflow {
                self.core.reset_for(header, 0, now);
            }
            return true;
        }
        let irs = header.seq - 1;
        let core = &mut self.core;
        if !core.cookies.spend(&header.tuple, irs, iss, now.instant) {
            core.counters.syn_cookies_rejected += 1;
            return false;
        }
        core.counters.syn_cookies_accepted += 1;
        let ts_offset = core.secret.timestamp_offset(&header.tuple);
        let mut conn = Conn::open(core, header.tuple, State::Established, iss, ts_offset, now);
        conn.snd_una = iss + 1;
        conn.negotiate(core, &offer, irs, header.window, now);
        conn.set(flag::UNACCEPTED);
        match from.map(|slot| (slot.kind(), slot.index())) {
            Some((Kind::Half, index)) => self.release_half(index),
            Some((Kind::Wait, index)) => {
                self.core.counters.time_wait_reused += 1;
                self.core.waits.remove(index);
            }
            _ => {}
        }
        self.promote(listener, conn, from, header, payload, now);
        true
    }

    fn read_cookie(&mut self, header: &Header, now: Clock) -> Option<(SeqNum, Offer)> {
        let core = &mut self.core;
        let (iss, irs) = (header.ack - 1, header.seq - 1);
        let mss = core.cookies.check(&header.tuple, irs, iss, now.instant)?;
        let mut offer = Offer { mss, scale: None, sack: false, timestamp: None, ecn: 0 };
        if let Some((value, echo)) = header.options.timestamps {
            let clock = now.tick.0.wrapping_add(core.secret.timestamp_offset(&header.tuple));
            let (scale, sack, ecn) = carried(echo, clock)?;
            (offer.scale, offer.sack) = (scale, sack);
            offer.ecn = ecn::passive(ecn && core.config.ecn != Ecn::Off, false);
            offer.timestamp = Some(value);
        }
        Some((iss, offer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_survive_a_timestamp() {
        for clock in [0, 5, 63, 64, 1 << 31, u32::MAX, 0x1234_5678] {
            for scale in (0..=14).map(Some).chain([None]) {
                for sack in [false, true] {
                    let ecn = sack ^ scale.is_some_and(|scale| scale % 2 == 0);
                    let offer =
                        Offer { mss: 1460, scale, sack, timestamp: Some(1), ecn: u8::from(ecn) };
                    let sent = carry(&offer, clock);
                    assert!(clock.wrapping_sub(sent) < 64, "{clock:x}: not after the clock");
                    for later in [0, 1, 1_000, 128_000] {
                        let read = carried(sent, clock.wrapping_add(later));
                        assert_eq!(read, Some((scale, sack, ecn)));
                    }
                    assert_eq!(carried(sent, clock.wrapping_add(128_128)), None, "too old");
                    assert_eq!(carried(clock.wrapping_add(1), clock), None, "not sent yet");
                }
            }
        }
    }

    #[test]
    fn what_was_accepted_is_remembered_for_as_long_as_it_is_good() {
        let mut cookies = Cookies::new([1, 2]);
        let tuple = FourTuple {
            local: super::super::segment::Addr([0; 16]),
            remote: super::super::segment::Addr([1; 16]),
            local_port: 1,
            remote_port: 2,
        };
        let at = |ms: u64| Instant::from_millis(ms);
        let start = at(10 * PERIOD_MS);
        let iss = cookies.make(&tuple, SeqNum(7), 1459, start);
        assert_eq!(cookies.check(&tuple, SeqNum(7), iss, start), Some(1452));
        assert_eq!(cookies.check(&tuple, SeqNum(8), iss, start), None);
        assert_eq!(cookies.memory(), 0);
        assert!(cookies.spend(&tuple, SeqNum(7), iss, start));
        assert!(cookies.memory() > 0);
        let late = at(12 * PERIOD_MS - 1);
        assert_eq!(cookies.check(&tuple, SeqNum(7), iss, late), Some(1452));
        assert!(!cookies.spend(&tuple, SeqNum(7), iss, late), "in the next period, too");
        let over = at(12 * PERIOD_MS);
        assert_eq!(cookies.check(&tuple, SeqNum(7), iss, over), None);
        // Two periods on the parity is the same again; the key is not.
        assert_eq!(cookies.check(&tuple, SeqNum(7), iss, at(20 * PERIOD_MS)), None);
    }
}
