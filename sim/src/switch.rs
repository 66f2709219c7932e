//! What a seed can switch on: each a reason for a run to be different, and for a failing run to
//! be searched for the few that it needs.

/// One of the things that a seed may draw.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[allow(missing_docs, reason = "`about` says what each is")]
pub enum Switch {
    Loss,
    Burst,
    Duplicate,
    Reorder,
    Jitter,
    Corrupt,
    Narrow,
    Outage,
    DeviceStall,
    ShardStall,
    Jump,
    SmallMtu,
    BlackHole,
    Marks,
    Vanish,
    NoSack,
    NoTimestamps,
    NoScale,
    LowMss,
    Delay,
    Shards,
    Rss,
    FalseRss,
    Checksums,
    Cutting,
    Whole,
    TinyRing,
    FewPackets,
    TinyBuffers,
    TinyMemory,
    FewConnections,
    FewRanges,
    FewTimeWait,
    Cookies,
    SmallBacklog,
    Ecn,
    Nodelay,
    OtherTimers,
    OtherWindow,
    OtherControl,
    Pacing,
    Detection,
    UserTimeout,
    Echo,
    Ask,
    Bulk,
    HalfClose,
    Short,
    Idle,
    Slow,
    Abort,
    Http,
    WebSocket,
    Udp,
}

use Switch::*;

/// All of them with the probability of each, and what it means.
pub const ALL: &[(Switch, f64, &str)] = &[
    (Loss, 0.4, "frames are lost, up to 20 %"),
    (Burst, 0.2, "frames are lost in bursts (Gilbert-Elliott)"),
    (Duplicate, 0.25, "frames arrive twice"),
    (Reorder, 0.3, "frames are overtaken"),
    (Jitter, 0.2, "frames take different times"),
    (Corrupt, 0.2, "bits flip"),
    (Narrow, 0.2, "the link has a width and a queue"),
    (Outage, 0.15, "for some seconds nothing passes, one way or both"),
    (DeviceStall, 0.15, "a device neither receives nor sends for a while"),
    (ShardStall, 0.15, "a shard's thread stands still for a while"),
    (Jump, 0.08, "the clock jumps ahead"),
    (SmallMtu, 0.15, "the path carries less than the link, and a router says so"),
    (BlackHole, 0.07, "the path carries less than the link, and nobody says so"),
    (Marks, 0.2, "routers mark packets for congestion"),
    (Vanish, 0.12, "a host disappears, and comes back with no memory"),
    (NoSack, 0.12, "one side does not know SACK"),
    (NoTimestamps, 0.12, "one side does not know timestamps"),
    (NoScale, 0.12, "one side does not know window scaling"),
    (LowMss, 0.1, "one side takes small segments only"),
    (Delay, 0.8, "the path takes time"),
    (Shards, 0.5, "hosts have up to three shards"),
    (Rss, 0.4, "devices spread flows by RSS"),
    (FalseRss, 0.1, "devices claim RSS and spread otherwise"),
    (Checksums, 0.35, "devices fill in or trust checksums"),
    (Cutting, 0.2, "devices cut segments"),
    (Whole, 0.12, "devices hand long segments over whole"),
    (TinyRing, 0.12, "transmit rings hold a few frames"),
    (FewPackets, 0.12, "devices have few packet buffers"),
    (TinyBuffers, 0.2, "send and receive buffers are small"),
    (TinyMemory, 0.12, "all connections together have little memory"),
    (FewConnections, 0.1, "a host takes a few connections"),
    (FewRanges, 0.1, "few out-of-order ranges are kept"),
    (FewTimeWait, 0.1, "few TIME_WAIT entries are kept"),
    (Cookies, 0.15, "SYNs are answered with cookies"),
    (SmallBacklog, 0.12, "listeners have a short queue, and accept late"),
    (Ecn, 0.4, "ECN is asked for"),
    (Nodelay, 0.4, "Nagle's algorithm is off"),
    (OtherTimers, 0.3, "other timeouts than the default ones"),
    (OtherWindow, 0.2, "another initial window, another burst"),
    (OtherControl, 0.3, "another congestion control than CUBIC"),
    (Pacing, 0.3, "pacing is the other way round"),
    (Detection, 0.3, "black-hole detection is on"),
    (UserTimeout, 0.08, "connections have a user timeout"),
    (Echo, 0.5, "a client sends and gets it back"),
    (Ask, 0.5, "requests and responses"),
    (Bulk, 0.45, "long streams, both ways"),
    (HalfClose, 0.3, "one side ends early, the other goes on"),
    (Short, 0.4, "many short connections"),
    (Idle, 0.3, "connections with long pauses, and keepalive"),
    (Slow, 0.25, "readers that take their time"),
    (Abort, 0.2, "clients that end with a reset"),
    (Http, 0.25, "HTTP/1.1 and HTTP/2 by hyper"),
    (WebSocket, 0.15, "WebSocket messages and their echoes"),
    (Udp, 0.25, "datagrams and their echoes"),
];

/// The clients among them: a run has one at least.
pub const JOBS: &[Switch] =
    &[Echo, Ask, Bulk, HalfClose, Short, Idle, Slow, Abort, Http, WebSocket, Udp];

impl Switch {
    /// Its name on the command line.
    pub fn name(self) -> String {
        let mut name = String::new();
        for letter in format!("{self:?}").chars() {
            if letter.is_uppercase() && !name.is_empty() {
                name.push('-');
            }
            name.extend(letter.to_lowercase());
        }
        name
    }

    /// The one of this name.
    pub fn by_name(name: &str) -> Option<Switch> {
        ALL.iter().map(|(switch, ..)| *switch).find(|switch| switch.name() == name)
    }
}

/// A set of switches.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Set(u64);

impl Set {
    /// Whether `switch` is in it.
    pub fn has(self, switch: Switch) -> bool {
        self.0 & 1 << switch as u64 != 0
    }

    /// Whether any of these is in it.
    pub fn any(self, switches: &[Switch]) -> bool {
        switches.iter().any(|switch| self.has(*switch))
    }

    /// With `switch`.
    #[must_use]
    pub fn with(self, switch: Switch) -> Set {
        Set(self.0 | 1 << switch as u64)
    }

    /// Without `switch`.
    #[must_use]
    pub fn without(self, switch: Switch) -> Set {
        Set(self.0 & !(1 << switch as u64))
    }

    /// Those in it.
    pub fn iter(self) -> impl Iterator<Item = Switch> {
        ALL.iter().map(|(switch, ..)| *switch).filter(move |switch| self.has(*switch))
    }

    /// Their names, with commas.
    pub fn names(self) -> String {
        self.iter().map(Switch::name).collect::<Vec<_>>().join(",")
    }

    /// Reads what `names` wrote.
    ///
    /// # Errors
    /// The name that nothing has.
    pub fn parse(names: &str) -> Result<Set, String> {
        let names = names.split(',').filter(|name| !name.is_empty());
        names.map(|name| Switch::by_name(name).ok_or_else(|| name.to_owned())).collect()
    }
}

impl FromIterator<Switch> for Set {
    fn from_iter<I: IntoIterator<Item = Switch>>(switches: I) -> Set {
        switches.into_iter().fold(Set::default(), Set::with)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back() {
        assert_eq!(Switch::NoTimestamps.name(), "no-timestamps");
        let all: Set = ALL.iter().map(|(switch, ..)| *switch).collect();
        assert_eq!(Set::parse(&all.names()), Ok(all));
        assert_eq!(all.iter().count(), Udp as usize + 1);
        assert_eq!(Set::parse("loss,lots"), Err("lots".to_owned()));
    }
}
