//! What a seed draws: two hosts, the path between them, faults and when they strike, and what
//! the applications do.
//!
//! Each thing has a stream of draws of its own, so a plan with a switch taken out is otherwise
//! the same plan.

use std::fmt;
use std::time::Duration;

use throng_net::device::faults::Impairments;
use throng_net::device::memory::{Checksum, Options, Segmentation, Spread};
use throng_net::tcp::{Config, CongestionControl, Ecn};

use crate::dice::Dice;
use crate::switch::{ALL, JOBS, Set, Switch};

/// One of the two hosts.
pub type Side = usize;

/// A whole run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where it comes from.
    pub seed: u64,
    /// What is on.
    pub on: Set,
    /// How long faults strike; after that the network is healthy.
    pub trouble: Duration,
    /// The hosts.
    pub hosts: [HostPlan; 2],
    /// What happens to frames on their way to each host, while faults strike and after.
    pub lanes: [Impairments; 2],
    /// Time under way, that stays.
    pub delay: Duration,
    /// What the way to each host does to packets.
    pub routers: [RouterPlan; 2],
    /// What strikes at a time, in order.
    pub events: Vec<(Duration, Event)>,
    /// What the clients do.
    pub jobs: Vec<JobPlan>,
    /// After how many sweeps of the world the engines' invariants are checked.
    pub check_every: u64,
}

/// A host.
#[derive(Clone, Debug)]
pub struct HostPlan {
    /// Its shards, and its device's queues.
    pub shards: usize,
    /// Its device.
    pub device: Options,
    /// Its engine.
    pub tcp: Config,
    /// Its listeners' backlog.
    pub backlog: usize,
    /// How long its servers take to accept the next connection.
    pub accept_after: Duration,
}

/// What the way to a host does to packets, beside [`Impairments`].
#[derive(Clone, Debug, Default)]
pub struct RouterPlan {
    /// The largest IP packet that passes; 0: any.
    pub mtu: usize,
    /// Whether the router says so when one is too large.
    pub speaks: bool,
    /// Probability that a packet is marked (RFC 3168), if its sender can have that.
    pub marks: f64,
    /// The options that disappear from SYNs: as if their sender did not know them.
    pub strip_sack: bool,
    #[allow(missing_docs)]
    pub strip_timestamps: bool,
    #[allow(missing_docs)]
    pub strip_scale: bool,
    /// The largest MSS that a SYN may announce; 0: any.
    pub mss: u16,
}

/// What strikes once.
#[derive(Clone, Debug)]
pub enum Event {
    /// Nothing reaches this host any more.
    Silence(Side),
    /// Frames reach it again.
    Sound(Side),
    /// The device of this host does nothing for so long.
    DeviceStall(Side, Duration),
    /// A shard of this host does nothing for so long.
    ShardStall(Side, usize, Duration),
    /// The clock jumps.
    Jump(Duration),
    /// The host disappears.
    Vanish(Side),
    /// It comes back.
    Return(Side),
}

/// What a client does.
#[derive(Clone, Debug)]
pub struct JobPlan {
    /// Which client it is: one of [`JOBS`].
    pub kind: Switch,
    /// When it begins.
    pub start: Duration,
    /// Which host is the client.
    pub from: Side,
    /// The shard it runs on; more than there are counts from zero again.
    pub shard: usize,
    /// Over IPv6.
    pub v6: bool,
    /// Decides everything else.
    pub seed: u64,
}

impl Plan {
    /// What `seed` draws, without what is in `without`.
    pub fn draw(seed: u64, without: Set) -> Plan {
        let mut on = Set::default();
        // Each run has its own share of faults: some are quiet, some are not.
        let eagerness = Dice::new(seed, "eagerness").one_of(&[0.3, 0.7, 1.0, 1.0, 1.4]);
        for (switch, probability, _) in ALL {
            let likely = if JOBS.contains(switch) { 1.0 } else { eagerness };
            if Dice::new(seed, &switch.name()).chance(probability * likely) {
                on = on.with(*switch);
            }
        }
        if !on.any(JOBS) {
            on = on.with(Dice::new(seed, "one job").one_of(JOBS));
        }
        on = without.iter().fold(on, Set::without);
        let mut dice = Dice::new(seed, "plan");
        let trouble = dice.millis(300, 40_000);
        let base = dice.one_of(&[50, 500, 2_000, 10_000, 40_000, 120_000]);
        let check_every = dice.one_of(&[1, 10, 100, 1_000]);
        let delay = match on.has(Switch::Delay) {
            true => Duration::from_micros(base),
            false => Duration::ZERO,
        };
        let hosts = [0, 1].map(|side| host(seed, on, side));
        let lanes = [0, 1].map(|side| lane(seed, on, side, delay));
        let routers = [0, 1].map(|side| router(seed, on, side));
        let events = events(seed, on, trouble);
        let jobs = jobs(seed, on, trouble);
        Plan { seed, on, trouble, hosts, lanes, delay, routers, events, jobs, check_every }
    }

    /// Whether connections may fail while faults strike. Where not, an error is a failure.
    pub fn is_severe(&self) -> bool {
        let severe = [
            Switch::Burst,
            Switch::Outage,
            Switch::DeviceStall,
            Switch::ShardStall,
            Switch::Jump,
            Switch::BlackHole,
            Switch::Vanish,
            Switch::TinyRing,
            Switch::FewPackets,
            Switch::TinyMemory,
            Switch::FewConnections,
            Switch::Cookies,
            Switch::SmallBacklog,
            Switch::OtherTimers,
            Switch::UserTimeout,
            Switch::Narrow,
        ];
        self.on.any(&severe) || self.lanes.iter().any(|lane| lane.loss > 0.05)
    }
}

fn host(seed: u64, on: Set, side: Side) -> HostPlan {
    let mut dice = Dice::new(seed, ["host 0", "host 1"][side]);
    // Each of them is struck by what is on, or its peer alone, or both.
    let has = |switch| {
        let mask = Dice::new(seed, &format!("{switch:?} of whom")).within(1, 3);
        on.has(switch) && mask & 1 << side != 0
    };
    let mut tcp = Config::default();
    let mut device = Options { ring: 256, buffers: 512, ..Options::default() };
    let shards = dice.within(1, 3) as usize;
    let shards = if has(Switch::Shards) { shards } else { 1 };
    if has(Switch::Rss) {
        device.spread = Spread::Rss;
    }
    if has(Switch::FalseRss) {
        device.spread = Spread::FalseRss;
    }
    device.report_hash = dice.chance(0.5);
    device.checksum = match (has(Switch::Checksums), dice.chance(0.5)) {
        (false, _) => Checksum::None,
        (true, true) => Checksum::Fill,
        (true, false) => Checksum::Trust,
    };
    // Frames longer than the path would be, or be corrupted as, are no frames of a path.
    let paths = [Switch::SmallMtu, Switch::BlackHole, Switch::Corrupt];
    if on.has(Switch::Whole) && !on.any(&paths) {
        device.segmentation = Segmentation::Whole;
        device.checksum = Checksum::Trust;
    } else if has(Switch::Cutting) {
        device.segmentation = Segmentation::Cut;
        device.checksum = if dice.chance(0.5) { Checksum::Fill } else { Checksum::Trust };
    }
    device.mtu = 1500;
    let ring = dice.scaled(4, 32) as usize;
    if has(Switch::TinyRing) {
        device.ring = ring;
    }
    let buffers = dice.scaled(24, 100) as usize;
    if has(Switch::FewPackets) {
        device.buffers = buffers;
    }
    let (send, recv) = (dice.scaled(2_048, 65_536) as u32, dice.scaled(2_048, 65_536) as u32);
    if has(Switch::TinyBuffers) {
        (tcp.send_buffer, tcp.recv_buffer) = (send, recv);
    }
    let (send, recv) = (dice.scaled(65_536, 1 << 20), dice.scaled(65_536, 1 << 20));
    if has(Switch::TinyMemory) {
        (tcp.send_memory, tcp.recv_memory) = (send, recv);
    }
    let few = dice.within(4, 12) as usize;
    if has(Switch::FewConnections) {
        tcp.max_connections = few;
    }
    let few = dice.within(1, 4) as usize;
    if has(Switch::FewRanges) {
        tcp.max_ranges = few;
    }
    let few = dice.within(1, 4) as usize;
    if has(Switch::FewTimeWait) {
        tcp.max_time_wait = few;
    }
    let few = dice.within(0, 2) as usize;
    if has(Switch::Cookies) {
        tcp.max_half_open = few;
    }
    let (few, late) = (dice.within(1, 4) as usize, dice.millis(10, 1_000));
    let (backlog, accept_after) =
        if has(Switch::SmallBacklog) { (few, late) } else { (1_024, Duration::ZERO) };
    let ecn = dice.one_of(&[Ecn::Off, Ecn::On, Ecn::On]);
    if has(Switch::Ecn) {
        tcp.ecn = ecn;
    }
    tcp.nodelay = has(Switch::Nodelay);
    let rto_min = dice.millis(20, 1_000);
    let rto_max = dice.millis(2_000, 120_000);
    let rto_initial = dice.millis(200, 3_000);
    let delayed_ack = dice.millis(1, 400);
    let ends = [dice.millis(500, 60_000), dice.millis(500, 60_000)];
    let challenge = dice.millis(1, 2_000);
    if has(Switch::OtherTimers) {
        tcp.rto_min = rto_min;
        tcp.rto_max = rto_max;
        tcp.rto_initial = rto_initial.clamp(rto_min, rto_max);
        tcp.delayed_ack = delayed_ack;
        [tcp.time_wait, tcp.fin_wait_2] = ends;
        tcp.challenge_interval = challenge;
    }
    let (window, burst) = (dice.within(1, 20) as u16, dice.scaled(1, 64) as u16);
    if has(Switch::OtherWindow) {
        (tcp.initial_window, tcp.burst) = (window, burst);
    }
    if has(Switch::OtherControl) {
        tcp.congestion = CongestionControl::NewReno;
    }
    tcp.pacing ^= has(Switch::Pacing);
    tcp.black_hole_detection = has(Switch::Detection) || on.has(Switch::BlackHole);
    HostPlan { shards, device, tcp, backlog, accept_after }
}

fn lane(seed: u64, on: Set, side: Side, delay: Duration) -> Impairments {
    let mut dice = Dice::new(seed, ["lane 0", "lane 1"][side]);
    let mut lane = Impairments { delay, queue: 4_096, ..Impairments::default() };
    let strikes = |switch: Switch| {
        // One way, the other, or both; more often both.
        let mask = Dice::new(seed, &format!("{switch:?} which way")).one_of(&[1, 2, 3, 3]);
        on.has(switch) && mask & 1 << side != 0
    };
    let loss = dice.scaled(1, 200) as f64 / 1_000.0;
    if strikes(Switch::Loss) {
        lane.loss = loss;
    }
    let (burst, length) = (dice.scaled(1, 30) as f64 / 1_000.0, dice.within(2, 30) as f64);
    if strikes(Switch::Burst) {
        (lane.burst, lane.burst_length) = (burst, length);
    }
    let share = dice.scaled(1, 300) as f64 / 1_000.0;
    if strikes(Switch::Duplicate) {
        lane.duplicate = share;
    }
    let (share, by) = (dice.scaled(1, 300) as f64 / 1_000.0, dice.millis(1, 100));
    if strikes(Switch::Reorder) {
        (lane.reorder, lane.reorder_by) = (share, by);
    }
    let jitter = Duration::from_micros(dice.scaled(20, 30_000));
    if strikes(Switch::Jitter) {
        lane.jitter = jitter;
    }
    let share = dice.scaled(1, 100) as f64 / 1_000.0;
    if strikes(Switch::Corrupt) {
        lane.corrupt = share;
    }
    let (rate, queue) = (dice.scaled(100_000, 100_000_000), dice.scaled(3_000, 500_000));
    if strikes(Switch::Narrow) {
        (lane.rate, lane.queue_bytes) = (Some(rate), queue);
    }
    lane
}

fn router(seed: u64, on: Set, side: Side) -> RouterPlan {
    let mut dice = Dice::new(seed, ["router 0", "router 1"][side]);
    let strikes = |switch: Switch| {
        let mask = Dice::new(seed, &format!("{switch:?} which way")).within(1, 3);
        on.has(switch) && mask & 1 << side != 0
    };
    let mut router = RouterPlan::default();
    let mtu = dice.one_of(&[1_280, 1_400, 1_492, 1_300]);
    if strikes(Switch::SmallMtu) {
        (router.mtu, router.speaks) = (mtu, true);
    }
    if strikes(Switch::BlackHole) {
        (router.mtu, router.speaks) = (mtu, false);
    }
    let share = dice.scaled(1, 500) as f64 / 1_000.0;
    if strikes(Switch::Marks) {
        router.marks = share;
    }
    router.strip_sack = strikes(Switch::NoSack);
    router.strip_timestamps = strikes(Switch::NoTimestamps);
    router.strip_scale = strikes(Switch::NoScale);
    let mss = dice.one_of(&[88, 536, 1_000, 1_220]);
    if strikes(Switch::LowMss) {
        router.mss = mss;
    }
    router
}

fn events(seed: u64, on: Set, trouble: Duration) -> Vec<(Duration, Event)> {
    let mut events = Vec::new();
    let millis = trouble.as_millis() as u64;
    // How often it strikes, when, and whom.
    let strikes = |switch: Switch, times: u64| {
        let mut dice = Dice::new(seed, &format!("{switch:?} when"));
        let count = if on.has(switch) { dice.within(1, times) } else { 0 };
        (0..count)
            .map(|_| {
                let at = Duration::from_millis(dice.within(0, millis));
                (at, dice.within(0, 1) as Side, dice.clone(), dice.number())
            })
            .collect::<Vec<_>>()
    };
    for (at, side, mut dice, _) in strikes(Switch::Outage, 2) {
        let end = at + dice.millis(100, 15_000);
        let sides = if dice.chance(0.5) { vec![0, 1] } else { vec![side] };
        for side in sides {
            events.push((at, Event::Silence(side)));
            events.push((end, Event::Sound(side)));
        }
    }
    for (at, side, mut dice, _) in strikes(Switch::DeviceStall, 4) {
        events.push((at, Event::DeviceStall(side, dice.millis(1, 5_000))));
    }
    for (at, side, mut dice, _) in strikes(Switch::ShardStall, 4) {
        let shard = dice.within(0, 2) as usize;
        events.push((at, Event::ShardStall(side, shard, dice.millis(1, 5_000))));
    }
    for (at, _, mut dice, _) in strikes(Switch::Jump, 2) {
        events.push((at, Event::Jump(dice.millis(100, 4_000_000))));
    }
    for (at, side, mut dice, _) in strikes(Switch::Vanish, 1) {
        let back = at + dice.millis(1, 30_000);
        events.push((at, Event::Vanish(side)));
        events.push((back, Event::Return(side)));
    }
    events.sort_by_key(|(at, _)| *at);
    events
}

fn jobs(seed: u64, on: Set, trouble: Duration) -> Vec<JobPlan> {
    let mut jobs = Vec::new();
    for kind in JOBS.iter().copied().filter(|kind| on.has(*kind)) {
        let mut dice = Dice::new(seed, &format!("{kind:?} job"));
        let most = match kind {
            Switch::Short => 6,
            Switch::Http | Switch::WebSocket => 2,
            _ => 3,
        };
        for _ in 0..dice.within(1, most) {
            let millis = trouble.as_millis() as u64 * 9 / 10;
            jobs.push(JobPlan {
                kind,
                start: Duration::from_millis(dice.within(0, millis)),
                from: usize::from(dice.chance(0.25)),
                shard: dice.within(0, 2) as usize,
                v6: dice.chance(0.35),
                seed: dice.number(),
            });
        }
    }
    jobs.sort_by_key(|job| job.start);
    jobs
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "switches: {}", self.on.names())?;
        writeln!(f, "faults for {:?}, delay {:?}", self.trouble, self.delay)?;
        for (side, host) in self.hosts.iter().enumerate() {
            writeln!(f, "host {side}: {host:?}")?;
            writeln!(f, "way to host {side}: {:?} {:?}", self.lanes[side], self.routers[side])?;
        }
        for (at, event) in &self.events {
            writeln!(f, "at {at:?}: {event:?}")?;
        }
        for job in &self.jobs {
            writeln!(f, "at {:?}: {job:?}", job.start)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_switch_taken_out_leaves_the_rest() {
        let plain = |plan: &Plan| (plan.hosts[0].shards, plan.trouble, plan.jobs.len());
        for seed in 0..200 {
            let whole = Plan::draw(seed, Set::default());
            let less = Plan::draw(seed, Set::default().with(Switch::Loss));
            assert_eq!(plain(&whole), plain(&less));
            assert_eq!(less.lanes[0].loss, 0.0);
            assert_eq!(
                Impairments { loss: whole.lanes[1].loss, ..less.lanes[1].clone() },
                whole.lanes[1]
            );
        }
    }

    #[test]
    fn seeds_differ_and_everything_is_drawn() {
        let plans: Vec<Plan> = (0..2_000).map(|seed| Plan::draw(seed, Set::default())).collect();
        for (switch, ..) in ALL {
            let count = plans.iter().filter(|plan| plan.on.has(*switch)).count();
            assert!((20..1_980).contains(&count), "{switch:?} in {count}");
        }
    }
}
