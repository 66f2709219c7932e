//! Everything random of a run: one seed, any number of independent streams.

use std::time::Duration;

/// A stream of draws (SplitMix64, Steele, Lea, Flood 2014).
#[derive(Clone, Debug)]
pub struct Dice(u64);

fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

impl Dice {
    /// The stream called `name` of a seed. What one stream draws does not depend on how much
    /// the others have drawn, so that switching a fault off leaves the rest as it was.
    pub fn new(seed: u64, name: &str) -> Dice {
        let name = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        Dice(mix(seed ^ mix(name)))
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        let drawn = mix(self.0);
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        drawn
    }

    /// Evenly one of `low..=high`.
    pub fn within(&mut self, low: u64, high: u64) -> u64 {
        let span = u128::from(high.saturating_sub(low)) + 1;
        low + ((u128::from(self.number()) * span) >> 64) as u64
    }

    /// One of `low..=high` (both above zero), each order of magnitude as likely as another.
    pub fn scaled(&mut self, low: u64, high: u64) -> u64 {
        let (from, to) = ((low as f64).ln(), (high as f64).ln());
        ((from + (to - from) * self.share()).exp().round() as u64).clamp(low, high)
    }

    /// Evenly within 0 to 1.
    pub fn share(&mut self) -> f64 {
        (self.number() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// True with this probability.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.share() < probability
    }

    /// One of these.
    ///
    /// # Panics
    /// When there is none.
    pub fn one_of<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.within(0, all.len() as u64 - 1) as usize].clone()
    }

    /// A time of `low` to `high` milliseconds, each order of magnitude as likely as another.
    pub fn millis(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_millis(self.scaled(low, high))
    }
}
