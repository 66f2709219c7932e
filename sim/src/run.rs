//! One seed from beginning to end, and what has to hold.
//!
//! Faults strike for some time of the plan, then the network is healthy. Whatever happens:
//!
//! * what a reader gets is a prefix of what was sent, byte by byte, and the stream's end comes
//!   after its last byte only;
//! * where nothing severe strikes, no connection fails;
//! * once the network is healthy every task comes to an end, in bounded virtual time, and new
//!   connections of each kind come about and end without an error;
//! * after everything has ended nothing is left: connections, TIME_WAIT, timers, memory, tasks,
//!   packet buffers;
//! * the engines' invariants hold at every look, nothing panics, counters agree;
//! * a run has no more work than a bound (nobody sends for ever).

use std::backtrace::Backtrace;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use throng_net::device::faults::{Faults, FaultyQueue, Impairments};
use throng_net::device::memory::{self, MemoryQueue};
use throng_net::device::{Device, pcap};
use throng_net::sim::{HostConfig, add_host, check_invariants};
use throng_net::stats;
use throng_runtime::sim::{HostId, World};
use throng_runtime::{Instant, ShardId};

use crate::dice::Dice;
use crate::jobs;
use crate::ledger::Ledger;
use crate::plan::{Event, JobPlan, Plan, RouterPlan, Side};
use crate::port::{Control, Port, Shared, lock};
use crate::servers::Servers;
use crate::struck::Struck;
use crate::switch::{JOBS, Set, Switch};

/// How long after the faults everything has to be done, in virtual time.
const PATIENCE: Duration = Duration::from_secs(2_400);
/// How long clients of a healthy network may take.
const HEALTHY: Duration = Duration::from_secs(700);
/// How long what is closed may still need.
const REST: Duration = Duration::from_secs(1_500);
/// Sweeps of the world that a run may take.
const WORK: u64 = 6_000_000;

/// How to run a seed.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What is switched off, whatever the seed draws.
    pub without: Set,
    /// Where to write what passed through both hosts' devices.
    pub pcap: Option<PathBuf>,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// What did not hold; empty for a good run.
    pub failures: Vec<String>,
    /// A number that is another one where anything on the wire was.
    pub trace: u64,
    /// Frames received by both hosts.
    pub frames: u64,
    /// Tasks that ended well, and those whose connection failed for the faults.
    pub finished: u64,
    /// See `finished`.
    pub excused: u64,
    /// Bytes compared.
    pub bytes: u64,
    /// Virtual time.
    pub took: Duration,
    /// Sweeps of the world.
    pub sweeps: u64,
    /// What the faults did.
    pub struck: Struck,
}

thread_local! {
    static PANICS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Has panics of runs noted instead of printed, with where they came from if that is asked
/// for. Once, before the first run.
pub fn note_panics(backtraces: bool) {
    std::panic::set_hook(Box::new(move |panic| {
        let backtrace = match backtraces {
            true => format!("\n{}", Backtrace::force_capture()),
            false => String::new(),
        };
        PANICS.with_borrow_mut(|panics| panics.push(format!("{panic}{backtrace}")));
    }));
}

/// Runs a seed.
pub fn run(seed: u64, options: &Options) -> Outcome {
    let plan = Plan::draw(seed, options.without);
    PANICS.with_borrow_mut(Vec::clear);
    let mut outcome = Outcome::default();
    let ended = catch_unwind(AssertUnwindSafe(|| {
        let mut run = Run::new(&plan, options);
        run.all();
        run.outcome()
    }));
    if let Ok(ended) = ended {
        outcome = ended;
    }
    // A panic of a task ends the task only.
    PANICS.with_borrow_mut(|panics| outcome.failures.append(panics));
    outcome
}

/// What is under a host.
struct Machine {
    queues: Vec<Shared<FaultyQueue>>,
    control: Shared<Control>,
}

struct Run<'a> {
    plan: &'a Plan,
    capture: Option<pcap::Capture>,
    world: World,
    machines: [Machine; 2],
    hosts: [Option<HostId>; 2],
    servers: [Option<Servers>; 2],
    ledger: Rc<Ledger>,
    sweeps: u64,
    /// Those of the faults that strike hosts, not frames.
    struck: Struck,
    /// How often a host has come into being, for its secrets.
    births: u64,
}

impl<'a> Run<'a> {
    fn new(plan: &'a Plan, options: &Options) -> Run<'a> {
        let [a, b] = &plan.hosts;
        let (a, b) = memory::pair_with((a.shards, a.device.clone()), (b.shards, b.device.clone()));
        let machine = |side: Side, queues: Vec<MemoryQueue>| {
            let faults = Faults {
                seed: plan.seed ^ side as u64,
                receive: plan.lanes[side].clone(),
                ..Faults::default()
            };
            let queue = |(number, queue)| {
                Arc::new(Mutex::new(FaultyQueue::new(Box::new(queue), number, &faults)))
            };
            let control = Control {
                stalled: Instant::ZERO,
                alone: false,
                deaf: false,
                router: plan.routers[side].clone(),
                dice: Dice::new(plan.seed, ["dice 0", "dice 1"][side]),
                trace: 0,
                frames: 0,
                too_long: 0,
                marked: 0,
                unheard: 0,
                held: 0,
            };
            let queues = queues.into_iter().enumerate().map(queue).collect();
            Machine { queues, control: Arc::new(Mutex::new(control)) }
        };
        let machines = [machine(0, a), machine(1, b)];
        let clock = pcap::Options { clock: pcap::Clock::Virtual, ..pcap::Options::default() };
        let capture = options.pcap.as_ref().map(|path| {
            pcap::Capture::create(path, clock).unwrap_or_else(|error| panic!("{error}"))
        });
        let ledger = Rc::new(Ledger::default());
        ledger.lenient.set(plan.is_severe());
        Run {
            plan,
            capture,
            world: World::new(),
            machines,
            hosts: [None; 2],
            servers: [None, None],
            ledger,
            sweeps: 0,
            struck: Struck::default(),
            births: 0,
        }
    }

    /// Brings a host into being.
    fn boot(&mut self, side: Side) {
        let plan = &self.plan.hosts[side];
        let machine = &self.machines[side];
        let port = |queue| Box::new(Port::new(queue, &machine.control)) as Box<dyn Device>;
        let mut devices: Vec<_> = machine.queues.iter().map(port).collect();
        if let Some(capture) = &self.capture {
            devices = capture.wrap(devices);
        }
        self.births += 1;
        let seed = Dice::new(self.plan.seed, &format!("host {} of birth", self.births)).number();
        let addresses = [["10.0.0.1/24", "fd00::1/64"], ["10.0.0.2/24", "fd00::2/64"]];
        let mut config = HostConfig::new(&addresses[side], seed);
        config.tcp = plan.tcp.clone();
        let host = add_host(&mut self.world, devices, &config);
        self.hosts[side] = Some(host);
        self.servers[side] = Some(Servers::start(&self.world, host, side, plan, &self.ledger));
        lock(&self.machines[1 - side].control).alone = false;
    }

    /// Starts a client, where its host is there.
    fn begin(&mut self, job: &JobPlan) {
        let Some(host) = self.hosts[job.from] else { return };
        let shard = ShardId((job.shard % self.plan.hosts[job.from].shards) as u16);
        let what = format!("{:?} from {:?}", job.kind, job.start);
        let ticket = self.ledger.begin(job.from, what);
        let client = jobs::client(job.clone(), self.plan.on, self.ledger.clone(), ticket);
        self.world.spawn(host, shard, client).detach();
    }

    fn strike(&mut self, event: &Event) {
        let now = self.world.now();
        match *event {
            Event::Silence(side) => lock(&self.machines[side].control).deaf = true,
            Event::Sound(side) => lock(&self.machines[side].control).deaf = false,
            Event::DeviceStall(side, time) => {
                lock(&self.machines[side].control).stalled = now + time;
            }
            Event::ShardStall(side, shard, time) => {
                if let Some(host) = self.hosts[side] {
                    let shard = ShardId((shard % self.plan.hosts[side].shards) as u16);
                    self.world.stall(host, shard, now + time);
                    self.struck.stalls += 1;
                }
            }
            Event::Jump(time) => {
                self.world.jump(time);
                self.struck.jumps += 1;
            }
            Event::Vanish(side) => {
                if let Some(host) = self.hosts[side].take() {
                    self.struck.vanished += 1;
                    self.ledger.forget(side);
                    self.world.remove_host(host);
                    self.servers[side] = None;
                    lock(&self.machines[1 - side].control).alone = true;
                }
            }
            Event::Return(side) if self.hosts[side].is_none() => self.boot(side),
            Event::Return(_) => {}
        }
    }

    /// From here on nothing is wrong with the network.
    fn heal(&mut self) {
        for side in [0, 1] {
            let machine = &self.machines[side];
            let healthy =
                Impairments { delay: self.plan.delay, queue: usize::MAX, ..Impairments::default() };
            let faults = Faults { receive: healthy, ..Faults::default() };
            machine.queues.iter().for_each(|queue| lock(queue).set(&faults));
            let mut control = lock(&machine.control);
            control.deaf = false;
            let router = self.plan.routers[side].clone();
            // What a path can be like for ever stays; but who has sent a cookie knows only the
            // first segment for the cookie's, and resets what comes after the loss of it.
            let lasting = router.speaks && !self.plan.on.has(Switch::Cookies);
            control.router =
                RouterPlan { marks: 0.0, mtu: if lasting { router.mtu } else { 0 }, ..router };
        }
        for side in [0, 1] {
            if self.hosts[side].is_none() {
                self.boot(side);
            }
        }
    }

    /// Lets time pass until `limit`, or until all tasks are done where that is asked for.
    /// Returns whether they are.
    fn pass(&mut self, limit: Instant, until_done: bool) -> bool {
        let shards = self.shards();
        let (ledger, every, sweeps) = (&self.ledger, self.plan.check_every, &mut self.sweeps);
        self.world.run_watched(limit, |world| {
            *sweeps += 1;
            if sweeps.is_multiple_of(every) {
                look(world, &shards);
            }
            if *sweeps > WORK {
                let now = world.now();
                panic!("{WORK} sweeps, and it is {now:?}: {:?}", ledger.open());
            }
            until_done && ledger.all_done()
        });
        look(&self.world, &shards);
        self.ledger.all_done()
    }

    fn shards(&self) -> Vec<(Side, HostId, ShardId)> {
        let of = |side: Side| {
            let shards = 0..self.plan.hosts[side].shards as u16;
            self.hosts[side]
                .into_iter()
                .flat_map(move |host| shards.clone().map(move |shard| (side, host, ShardId(shard))))
        };
        of(0).chain(of(1)).collect()
    }

    fn all(&mut self) {
        self.boot(0);
        self.boot(1);
        let end = Instant::ZERO + self.plan.trouble;
        // A jump of the clock moves what comes after it: the faults go on for as long.
        self.ledger.healthy.set(Instant::MAX);
        let jobs = self.plan.jobs.iter().map(|job| (job.start, Err(job)));
        let events = self.plan.events.iter().map(|(at, event)| (*at, Ok(event)));
        let mut agenda: Vec<(Duration, Result<&Event, &JobPlan>)> = events.chain(jobs).collect();
        agenda.sort_by_key(|(at, _)| *at);
        let mut jumped = Duration::ZERO;
        for (at, what) in agenda {
            self.pass(Instant::ZERO + jumped + at, false);
            match what {
                Ok(event) => self.strike(event),
                Err(job) => self.begin(job),
            }
            if let Ok(Event::Jump(time)) = what {
                jumped += *time;
            }
        }
        self.pass(end + jumped, false);
        self.heal();
        let now = self.world.now();
        self.ledger.healthy.set(now + Duration::from_secs(5));
        if !self.pass(now + PATIENCE, true) {
            let open = self.ledger.open().join("\n    ");
            self.ledger
                .fail(format!("after {PATIENCE:?} without faults there are still\n    {open}"));
            return;
        }
        self.prove_health();
        self.end();
    }

    /// New connections of every kind, one after the other and from both sides, with no excuse.
    fn prove_health(&mut self) {
        // What the faults have left behind has its time to end; a flood of SYNs has not.
        let now = self.world.now();
        self.pass(now + Duration::from_secs(300), false);
        self.ledger.lenient.set(false);
        for (number, kind) in JOBS.iter().filter(|kind| **kind != Switch::Abort).enumerate() {
            let from = number % 2;
            let mut dice = Dice::new(self.plan.seed, &format!("{kind:?} in health"));
            let v6 = dice.chance(0.5);
            let seed = dice.number();
            if self.plan.on.has(Switch::UserTimeout) || !dice.chance(0.4) {
                continue;
            }
            let start = self.world.now() - Instant::ZERO;
            let job = JobPlan { kind: *kind, start, from, shard: 0, v6, seed };
            self.begin(&job);
            let limit = self.world.now() + HEALTHY;
            if !self.pass(limit, true) {
                let open = self.ledger.open().join("\n    ");
                self.ledger.fail(format!("in good health there are still\n    {open}"));
                return;
            }
        }
    }

    /// Everything is closed; nothing may be left.
    fn end(&mut self) {
        self.ledger.lenient.set(true);
        for servers in &mut self.servers {
            if let Some(servers) = servers.take() {
                servers.stop(&self.world);
            }
        }
        let now = self.world.now();
        self.pass(now + REST, false);
        for (side, host, shard) in self.shards() {
            let (stats, tasks) =
                self.world.enter(host, shard, || (stats::current(), throng_runtime::stats()));
            let Ok(stats) = stats else { continue };
            let usage = &stats.usage;
            let left = [
                ("connections", usage.connections as u64),
                ("half-open connections", usage.half_open as u64),
                ("TIME_WAIT entries", usage.time_wait as u64),
                ("timers of the engine", usage.timers as u64),
                ("buffers", usage.with_buffers as u64),
                ("send memory", usage.send_memory),
                ("receive memory", usage.recv_memory),
                ("tasks", tasks.tasks),
            ];
            for (what, count) in left.into_iter().filter(|(_, count)| *count > 0) {
                self.ledger.fail(format!("host {side}, {shard}: {count} {what} are left"));
            }
            let tcp = &stats.tcp;
            // A GSO send counts once, and a reset or SYN-ACK is no segment of a connection.
            if stats.stack.rx_segments < tcp.segments_in {
                let text = format!("{} in, {} handed up", tcp.segments_in, stats.stack.rx_segments);
                self.ledger.fail(format!("host {side}, {shard}: segments: {text}"));
            }
        }
        self.count_buffers();
    }

    /// Every packet buffer is back.
    fn count_buffers(&mut self) {
        for (side, machine) in self.machines.iter().enumerate() {
            let expected = self.plan.hosts[side].device.buffers;
            for (number, queue) in machine.queues.iter().enumerate() {
                let mut queue = lock(queue);
                let all: Vec<_> = std::iter::from_fn(|| queue.allocate(64)).collect();
                if all.len() != expected {
                    let text = format!("{} of {expected} packet buffers are left", all.len());
                    self.ledger.fail(format!("host {side}, queue {number}: {text}"));
                }
            }
        }
    }

    fn outcome(&self) -> Outcome {
        let struck = self.struck();
        let controls = self.machines.each_ref().map(|machine| lock(&machine.control));
        Outcome {
            failures: self.ledger.failures(),
            trace: controls[0].trace ^ controls[1].trace.rotate_left(1),
            frames: controls.iter().map(|control| control.frames).sum(),
            finished: self.ledger.finished.get(),
            excused: self.ledger.excused.get(),
            bytes: self.ledger.bytes.get(),
            took: self.world.now() - Instant::ZERO,
            sweeps: self.sweeps,
            struck,
        }
    }

    fn struck(&self) -> Struck {
        let mut struck = self.struck;
        for machine in &self.machines {
            for queue in &machine.queues {
                let faults = lock(queue).fault_counters();
                struck.lost += faults.lost;
                struck.overflowed += faults.overflowed;
                struck.duplicated += faults.duplicated;
                struck.reordered += faults.reordered;
                struck.corrupted += faults.corrupted;
            }
            let control = lock(&machine.control);
            struck.too_long += control.too_long;
            struck.marked += control.marked;
            struck.unheard += control.unheard;
            struck.held += control.held;
        }
        struck
    }
}

/// The engines' own invariants.
fn look(world: &World, shards: &[(Side, HostId, ShardId)]) {
    for (_, host, shard) in shards {
        if let Err(error) = world.enter(*host, *shard, check_invariants) {
            panic!("no invariants: {error}");
        }
    }
}
