//! How often strangers are answered: a limit for each of many groups of peers.
//!
//! A limit that all share tells each of them about the others: who sends segments with a forged
//! source, and then counts how many of his own are still answered, learns whether the forged
//! ones were (CVE-2016-5696). So peers fall into groups by a keyed hash of their address, and
//! the key changes, so that who has found an address in another's group has to start over.

use super::isn::siphash;
use super::segment::Addr;
use super::timer::{Clock, Tick};

/// Groups of peers.
const GROUPS: usize = 1024;
/// How long a key is used.
const KEY_MS: u64 = 60_000;

/// A token bucket for each group, which holds a second's share.
#[derive(Debug)]
pub(super) struct Limiter {
    /// Answers a second, and so thousandths of one each millisecond.
    rate: u32,
    key: [u64; 2],
    /// What is left, in thousandths, and when that was so; nothing before the first answer.
    groups: Vec<(u32, Tick)>,
}

impl Limiter {
    pub(super) fn new(rate: u32, key: [u64; 2]) -> Limiter {
        Limiter { rate: rate.min(u32::MAX / 1000), key, groups: Vec::new() }
    }

    /// Whether there may be an answer to this peer now.
    pub(super) fn take(&mut self, to: &Addr, now: Clock) -> bool {
        let full = self.rate * 1000;
        if self.groups.is_empty() {
            self.groups = vec![(full, now.tick); GROUPS];
        }
        // One who has an IPv6 address has all of its /64, and is one.
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| to.0[at + i]));
        let host = if to.is_ipv4() { word(8) } else { 0 };
        let period = now.instant.as_millis() / KEY_MS;
        let group = siphash(self.key, &[word(0), host, period]) as usize % GROUPS;
        let (left, at) = &mut self.groups[group];
        let earned = now.tick.age(*at).saturating_mul(self.rate);
        *left = left.saturating_add(earned).min(full);
        *at = now.tick;
        let enough = *left >= 1000;
        if enough {
            *left -= 1000;
        }
        enough
    }

    /// Bytes of memory held.
    pub(super) fn memory(&self) -> usize {
        self.groups.capacity() * size_of::<(u32, Tick)>()
    }
}
