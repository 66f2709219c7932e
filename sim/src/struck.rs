//! What the faults did: seeds under which nothing happens prove nothing, so it is counted.

use std::fmt;
use std::ops::AddAssign;

/// How often each fault has struck.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Struck {
    /// Frames lost, in bursts or alone.
    pub lost: u64,
    /// Frames lost in front of a narrow link.
    pub overflowed: u64,
    /// Frames that came twice.
    pub duplicated: u64,
    /// Frames that were overtaken.
    pub reordered: u64,
    /// Frames with a flipped bit.
    pub corrupted: u64,
    /// Frames that the path did not carry for their length.
    pub too_long: u64,
    /// Frames that were marked for congestion.
    pub marked: u64,
    /// Frames that came while nothing came in.
    pub unheard: u64,
    /// Turns for which a device stood still.
    pub held: u64,
    /// Times that a shard stood still.
    pub stalls: u64,
    /// Hosts that disappeared.
    pub vanished: u64,
    /// Jumps of the clock.
    pub jumps: u64,
}

impl Struck {
    /// Each with what it is called.
    pub fn named(&self) -> [(&'static str, u64); 12] {
        [
            ("lost", self.lost),
            ("overflowed", self.overflowed),
            ("duplicated", self.duplicated),
            ("reordered", self.reordered),
            ("corrupted", self.corrupted),
            ("too long", self.too_long),
            ("marked", self.marked),
            ("unheard", self.unheard),
            ("held", self.held),
            ("stalls", self.stalls),
            ("vanished", self.vanished),
            ("jumps", self.jumps),
        ]
    }
}

impl AddAssign for Struck {
    fn add_assign(&mut self, other: Struck) {
        self.lost += other.lost;
        self.overflowed += other.overflowed;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.corrupted += other.corrupted;
        self.too_long += other.too_long;
        self.marked += other.marked;
        self.unheard += other.unheard;
        self.held += other.held;
        self.stalls += other.stalls;
        self.vanished += other.vanished;
        self.jumps += other.jumps;
    }
}

impl fmt::Display for Struck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let each = self.named().map(|(name, count)| format!("{count} {name}"));
        f.write_str(&each.join(", "))
    }
}
