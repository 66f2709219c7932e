//! The server: echo, rooms, a topic of all; limits, heartbeats, drain.

mod control;
mod session;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::{Args, ValueEnum};
use throng::redis::{self, Redis};
use throng::runtime::metrics::Measured;
use throng::runtime::{self, stages};
use throng::ws::topic::{Hub, Slow, Topic, TopicConfig, Topics};
use throng::ws::{Config, Frame};
use throng::{Limits, ShardId, TcpListener};

pub(crate) use control::{Control, Publication, run_process};

use crate::host;
use crate::stats::{Board, Network, ShardStats};

/// The topic that everybody is subscribed to.
const ALL: &str = "";
/// How often a shard leaves its numbers on the board, and looks for something to do.
const LOOK: Duration = Duration::from_millis(20);
/// Frames that a room keeps for members who are behind.
const BACKLOG: usize = 64;

/// Seconds of silence before a ping where nobody said otherwise,
const PING: u32 = 60;
/// and pings a second that are not exceeded then.
const PINGS: u32 = 25_000;

/// Where the backplane is, for who does not want its password among a process' arguments.
const BACKPLANE: &str = "THRONG_BACKPLANE";

/// Settings of the server.
#[derive(Args, Clone, Debug)]
pub(crate) struct Settings {
    /// Largest message the server takes, in bytes
    #[arg(long, default_value_t = Settings::default().max_message)]
    pub(crate) max_message: u32,
    /// WebSockets the server holds, at most, each shard an equal part; default: as many as are
    /// opened
    #[arg(long)]
    pub(crate) max_connections: Option<u32>,
    /// TCP handshakes under way on a shard, at most, before SYNs are answered with cookies
    #[arg(long, default_value_t = Settings::default().half_open, value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    pub(crate) half_open: u32,
    /// Bytes queued for one connection, at most, before what is published waits in its room
    #[arg(long, default_value_t = Settings::default().queue, value_parser = clap::value_parser!(u32).range(2048..))]
    pub(crate) queue: u32,
    /// What becomes of a consumer who is 64 messages behind
    #[arg(long, value_enum, default_value_t)]
    pub(crate) slow: SlowPolicy,
    /// Bytes queued for all connections of a shard, at most, before writes wait
    #[arg(long, default_value_t = Settings::default().send_memory, value_parser = clap::value_parser!(u64).range(65_536..))]
    pub(crate) send_memory: u64,
    /// Bytes received on all connections of a shard and not read, at most, before peers are slowed
    #[arg(long, default_value_t = Settings::default().receive_memory, value_parser = clap::value_parser!(u64).range(65_536..))]
    pub(crate) receive_memory: u64,
    /// Seconds of silence after which a connection is pinged; after as many again it is dead.
    /// 0: never; default: 60, or with very many so long that pings are 25,000 a second
    #[arg(long)]
    pub(crate) ping: Option<u32>,
    /// Seconds that connections have to close when the server ends
    #[arg(long, default_value_t = Settings::default().drain)]
    pub(crate) drain: u32,
    /// Redis that joins the rooms of several servers, as in redis://user:password@host:port,
    /// reached by the host's own sockets; default: none
    #[arg(long, env = BACKPLANE, hide_env_values = true)]
    pub(crate) backplane: Option<String>,
}

/// What becomes of a slow consumer.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(crate) enum SlowPolicy {
    /// It misses the oldest messages
    #[default]
    Drop,
    /// It is disconnected
    Disconnect,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            max_message: 64 << 10,
            max_connections: None,
            half_open: Limits::default().half_open as u32,
            queue: 32 << 10,
            slow: SlowPolicy::default(),
            send_memory: Limits::default().send_memory,
            receive_memory: Limits::default().receive_memory,
            ping: None,
            drain: 10,
            backplane: None,
        }
    }
}

impl Settings {
    /// As arguments of the server's own process, which everybody can see; the rest is
    /// [`env`](Self::env).
    pub(crate) fn args(&self) -> Vec<String> {
        let slow = self.slow.to_possible_value().map_or(String::new(), |v| v.get_name().into());
        let mut args = Vec::new();
        for (name, value) in [
            ("--max-message", self.max_message.to_string()),
            ("--half-open", self.half_open.to_string()),
            ("--queue", self.queue.to_string()),
            ("--slow", slow),
            ("--send-memory", self.send_memory.to_string()),
            ("--receive-memory", self.receive_memory.to_string()),
            ("--drain", self.drain.to_string()),
        ] {
            args.extend([name.to_owned(), value]);
        }
        for (name, value) in [("--max-connections", self.max_connections), ("--ping", self.ping)] {
            args.extend(value.into_iter().flat_map(|value| [name.to_owned(), value.to_string()]));
        }
        args
    }

    /// What the environment of the server's own process says, or does not.
    pub(crate) fn env(&self) -> (&'static str, Option<&str>) {
        (BACKPLANE, self.backplane.as_deref())
    }

    /// WebSockets that each of `shards` holds, at most.
    fn most(&self, shards: u16) -> u64 {
        self.max_connections.map_or(u64::MAX, |most| u64::from(most / u32::from(shards)).max(1))
    }

    /// Those of each of `shards`: with room for some handshakes beyond what it holds, whose
    /// answer is that it is full.
    fn limits(&self, connections: u32, shards: u16) -> Limits {
        let most = u32::try_from(self.most(shards)).unwrap_or(connections);
        let mut limits = host::limits(most);
        limits.half_open = self.half_open as usize;
        limits.send_buffer = self.queue;
        limits.initial_send_buffer = self.queue;
        limits.send_memory = self.send_memory;
        limits.receive_memory = self.receive_memory;
        limits
    }

    /// How long a connection may be silent, with so many.
    fn silence(&self, connections: u32) -> Option<Duration> {
        let seconds = self.ping.unwrap_or(PING.max(connections / PINGS));
        (seconds > 0).then(|| Duration::from_secs(seconds.into()))
    }

    /// The engine between servers.
    fn backplane(&self) -> io::Result<Option<redis::Config>> {
        let config = |url: &String| {
            let config = redis::Config::from_url(url).map_err(io::Error::other)?;
            Ok(config.kernel(true).max_message(self.max_message as usize))
        };
        self.backplane.as_ref().map(config).transpose()
    }

    fn topics(&self) -> TopicConfig {
        let slow = match self.slow {
            SlowPolicy::Drop => Slow::Drop,
            SlowPolicy::Disconnect => Slow::Disconnect,
        };
        TopicConfig::default().backlog(BACKLOG).slow(slow)
    }
}

/// One shard of the server: what its connections share.
struct Shard {
    topics: Topics,
    all: Topic,
    config: Rc<Config>,
    /// WebSockets it holds, at most.
    most: u64,
    stats: Counts,
}

/// What a shard counts itself.
#[derive(Default)]
struct Counts {
    connections: Cell<u64>,
    handshakes: Cell<u64>,
    refused: Cell<u64>,
    full: Cell<u64>,
    received: Cell<u64>,
    echoed: Cell<u64>,
}

/// Serves until told to stop.
pub(crate) fn run(
    device: &str,
    shards: u16,
    connections: u32,
    settings: &Settings,
    control: &Arc<Control>,
) -> io::Result<()> {
    let hub = Hub::new(shards.into(), settings.topics());
    // Before anything has started: a URL that is wrong is an error of the caller's.
    settings.backplane()?;
    let builder = host::server(device, shards, settings.limits(connections, shards));
    let outcomes = builder
        .run(|shard| serve(shard, hub.clone(), connections, settings.clone(), control.clone()))?;
    outcomes.into_iter().collect()
}

async fn serve(
    id: ShardId,
    hub: Hub,
    connections: u32,
    settings: Settings,
    control: Arc<Control>,
) -> io::Result<()> {
    let topics = hub.enter()?;
    if let Some(config) = settings.backplane()?.filter(|_| id == ShardId(0)) {
        topics.attach(|inbound| Redis::start(config, inbound))?;
    }
    let heartbeat = settings.silence(connections);
    // Everybody is in this one, so its heartbeat is everybody's.
    let all = topics.topic_with(ALL, settings.topics().heartbeat(heartbeat));
    let config = Config::default()
        .max_message_size(settings.max_message as usize)
        .max_frame_size(settings.max_message as usize)
        // A peer that takes nothing is not read either, so no ping would find it out.
        .send_timeout(heartbeat);
    let shard = Rc::new(Shard {
        topics,
        all,
        config: Rc::new(config),
        most: settings.most(runtime::shard_count() as u16),
        stats: Counts::default(),
    });
    let mut accepting = Vec::new();
    for port in host::ports(connections) {
        let listener = TcpListener::bind(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port))?;
        accepting.push(runtime::spawn_local(session::accept(listener, shard.clone())));
    }
    control.listening.fetch_add(1, Ordering::AcqRel);
    while !control.stop.load(Ordering::Acquire) {
        runtime::sleep(LOOK).await;
        shard.tell(id, &control.board);
        if id == ShardId(0) {
            for Publication { text, answer } in control.publications() {
                let published = shard.all.publish(&Frame::text(text));
                // Who asked may have gone.
                let _ = answer.map(|answer| answer.send(published));
            }
        }
    }
    // The end: nobody new, and everybody is sent away, as fast as the shard can.
    accepting.iter().for_each(|task| task.abort());
    shard.all.close();
    let until = runtime::now() + Duration::from_secs(settings.drain.into());
    while shard.stats.connections.get() > 0 && runtime::now() < until {
        runtime::sleep(LOOK).await;
        shard.tell(id, &control.board);
    }
    Ok(())
}

impl Shard {
    /// The backplane's counters, on the shard that has it.
    fn backplane(&self) -> BTreeMap<String, u64> {
        let stats = self.topics.backplane().map_or_else(Vec::new, |stats| stats.measure());
        stats.into_iter().map(|(metric, value)| (metric.name.to_owned(), value)).collect()
    }

    /// Leaves this shard's numbers on the board.
    fn tell(&self, id: ShardId, board: &Board) {
        let times = stages::take();
        if times.is_some() != board.wants_stages() {
            stages::measure(board.wants_stages());
        }
        let (own, hub) = (&self.stats, self.topics.stats());
        let (network, tcp) = Network::of_shard();
        let stats = ShardStats {
            connections: own.connections.get(),
            handshakes: own.handshakes.get(),
            refused: own.refused.get(),
            full: own.full.get(),
            received: own.received.get(),
            sent: own.echoed.get() + hub.delivered,
            delivered: hub.delivered,
            waiting: self.all.waiting() as u64,
            backplane: self.backplane(),
            missed: hub.missed,
            disconnected: hub.disconnected,
            pings: hub.pings,
            dead: hub.dead,
            rooms: self.topics.len() as u64,
            tcp,
            queued: network.sending + network.received,
            network,
            ..ShardStats::default()
        };
        board.put(id.index(), stats, times);
    }
}
