//! SYN cookies: a passive open that costs no memory until the peer has proved its address
//! (RFC 4987 3.6). They are sent while the half-open table is full.
//!
//! ```text
//!   ISN        period's parity (1) | MSS, an index (3) | keyed hash (28)
//!   timestamp  ... the clock's upper bits ... | ECN (1) | SACK (1) | scale (4)
//! ```
//!
//! The hash covers the tuple, the peer's ISN, the MSS and the period, whose key it is made
//! with: a forged acknowledgement is right once in 2^28 times. The options come back in the
//! echo of a timestamp, so a peer that offers none goes without (as in Linux); what an echo
//! says is the peer's own loss if it lies. What is lost with cookies: a final ACK that gets
//! lost is not asked for again, so a peer that waits for our first word waits in vain.

use std::collections::BTreeSet;

use throng_runtime::Instant;

use super::config::Ecn;
use super::core::plain;
use super::ecn;
use super::engine::Engine;
use super::handshake::syn_window;
use super::isn::{siphash, words};
use super::options::{self, Offer};
use super::segment::{Flags, FourTuple, Header};
use super::seq::SeqNum;
use super::state::{Conn, State, flag};
use super::timer::Clock;

/// How long a key makes cookies. One is good in its own period and in the next.
const PERIOD_MS: u64 = 64_000;
/// What a cookie can say of the peer's MSS: rounded down to one of these.
const MSS: [u16; 8] = [options::MIN_MSS, 536, 1220, 1360, 1400, 1440, 1460, 8940];
const HASH_BITS: u32 = 28;
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
        Cookies { secret, sent: None, spent: Default::default(), spent_in: 0 }
    }

    /// Whether an acknowledgement may be of a cookie: one was sent in this or the last period.
    pub(super) fn are_out(&self, now: Instant) -> bool {
        self.sent.is_some_and(|sent| period(now) <= sent + 1)
    }

    fn cookie(&self, tuple: &FourTuple, irs: SeqNum, index: usize, period: u64) -> SeqNum {
        let key = [0, 1].map(|half| siphash(self.secret, &[period, half]));
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
    fn check(&self, tuple: &FourTuple, irs: SeqNum, iss: SeqNum, now: Instant) -> Option<u16> {
        let age = (period(now) as u32 ^ iss.0 >> 31) & 1;
        let made = period(now).checked_sub(u64::from(age))?;
        let index = (iss.0 >> HASH_BITS & 7) as usize;
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
    let bits = scale | if offer.sack { SACK_BIT } else { 0 } | if offer.ecn { ECN_BIT } else { 0 };
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
    /// Answers a SYN and forgets it.
    pub(super) fn send_cookie(&mut self, syn: &Header, now: Clock) {
        let core = &mut self.core;
        let tuple = syn.tuple;
        let our_mss = core.mss(&tuple);
        let mut offer = Offer::read(syn, our_mss);
        if offer.timestamp.is_none() {
            (offer.scale, offer.sack) = (None, false);
        } else {
            offer.ecn = ecn::is_asked(syn, core.config.ecn);
        }
        let iss = core.cookies.make(&tuple, syn.seq, offer.mss, now.instant);
        let clock = now.tick.0.wrapping_add(core.secret.timestamp_offset(&tuple));
        let mut flags = Flags::SYN | Flags::ACK;
        if offer.ecn {
            flags = flags | Flags::ECE;
        }
        let mut answer = plain(tuple, iss, syn.seq + 1, flags, syn_window(core));
        answer.options = options::syn_ack(&offer, our_mss, core.rcv_scale, carry(&offer, clock));
        if core.reply(answer) {
            core.counters.syn_cookies_sent += 1;
        }
    }

    /// An acknowledgement that belongs to nothing. Returns whether it was that of a cookie,
    /// which then is a connection, or is dropped where there is no room for one.
    pub(super) fn on_cookie(&mut self, header: &Header, payload: &[u8], now: Clock) -> bool {
        const ONLY: u8 = Flags::ACK.0 | Flags::SYN.0 | Flags::RST.0;
        if !self.core.cookies.are_out(now.instant) || header.flags.0 & ONLY != Flags::ACK.0 {
            return false;
        }
        let Some(listener) = self.listeners.find(&header.tuple) else { return false };
        let Some((iss, offer)) = self.read_cookie(header, now) else {
            self.core.counters.syn_cookies_rejected += 1;
            return false;
        };
        if !self.has_place(listener) {
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
        self.promote(listener, conn, None, header, payload, now);
        true
    }

    /// Whether a segment of a half-open connection acknowledges a cookie.
    pub(super) fn is_cookie(&self, header: &Header, now: Clock) -> bool {
        self.core.cookies.are_out(now.instant) && self.read_cookie(header, now).is_some()
    }

    fn read_cookie(&self, header: &Header, now: Clock) -> Option<(SeqNum, Offer)> {
        let core = &self.core;
        let (iss, irs) = (header.ack - 1, header.seq - 1);
        let mss = core.cookies.check(&header.tuple, irs, iss, now.instant)?;
        let mut offer = Offer { mss, scale: None, sack: false, timestamp: None, ecn: false };
        if let Some((value, echo)) = header.options.timestamps {
            let clock = now.tick.0.wrapping_add(core.secret.timestamp_offset(&header.tuple));
            (offer.scale, offer.sack, offer.ecn) = carried(echo, clock)?;
            offer.ecn &= core.config.ecn != Ecn::Off;
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
                    let offer = Offer { mss: 1460, scale, sack, timestamp: Some(1), ecn };
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
        assert_eq!(cookies.check(&tuple, SeqNum(7), iss, start), Some(1440));
        assert_eq!(cookies.check(&tuple, SeqNum(8), iss, start), None);
        assert!(cookies.spend(&tuple, SeqNum(7), iss, start));
        let late = at(12 * PERIOD_MS - 1);
        assert_eq!(cookies.check(&tuple, SeqNum(7), iss, late), Some(1440));
        assert!(!cookies.spend(&tuple, SeqNum(7), iss, late), "in the next period, too");
        let over = at(12 * PERIOD_MS);
        assert_eq!(cookies.check(&tuple, SeqNum(7), iss, over), None);
        // Two periods on the parity is the same again; the key is not.
        assert_eq!(cookies.check(&tuple, SeqNum(7), iss, at(20 * PERIOD_MS)), None);
    }
}
