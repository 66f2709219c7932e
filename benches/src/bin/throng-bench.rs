//! `throng-bench NAME`: Throng beside what people would use instead, measured in the same run.
//!
//! `cargo xtask bench NAME` builds this program and the peers, and runs it. Server and client of each
//! measurement are processes of their own, which are this program again, on a core each.

#![forbid(unsafe_code)]

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use serde_json::{Value, json};
use throng_bench::alone;
use throng_bench::compare::{Comparison, Measure, peers_are_built, tungstenite, wrk};
use throng_bench::load::{self, Load};
use throng_bench::network;
use throng_bench::path::{self, Server};
use throng_bench::ramp::measure as measure_ramp;
use throng_bench::report::Report;
use throng_bench::role::{Role, Traffic};
use throng_bench::serve;
use throng_bench::subject::{Ask, Link, Subject};

#[derive(Parser)]
#[command(name = "throng-bench", about = "Throng beside its peers, measured in the same run")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Messages of 64 bytes and back
    Echo(Options),
    /// HTTP/1.1 requests on kept connections
    Http(Options),
    /// HTTP/1.1 requests, a connection each
    HttpClose(Options),
    /// Connections that are accepted and closed
    ConnectRate(Options),
    /// How long a message and back take
    Latency(Options),
    /// As much as goes, both ways
    Bulk(Options),
    /// WebSocket messages of 64 bytes and back
    WsEcho(Options),
    /// Connections that become WebSockets
    UpgradeRate(Options),
    /// Messages to all WebSockets
    Broadcast(Options),
    /// Messages while very many WebSockets are opened
    Ramp(Options),
    /// The TCP engine by itself, in nanoseconds
    Engine(Options),
    /// A message's whole path through the server by itself, in nanoseconds
    Path(Options),
    /// All of these
    All(Options),
    #[command(hide = true)]
    Serve(Role),
    #[command(hide = true)]
    Load(Load),
}

#[derive(Clone, clap::Args)]
struct Options {
    /// One short round
    #[arg(long)]
    quick: bool,
    /// One JSON object on the last line
    #[arg(long)]
    json: bool,
    /// These numbers of connections in place of the usual ones
    #[arg(long, value_delimiter = ',')]
    connections: Vec<usize>,
    /// Bytes of a message or a body
    #[arg(long)]
    size: Option<usize>,
    /// Most operations on their way at a time
    #[arg(long)]
    window: Option<usize>,
    /// Operations that fall due each second, of `latency` on many connections, default: half of what
    /// tokio can do; of `ramp`, default: 1,000
    #[arg(long)]
    rate: Option<f64>,
    /// WebSockets that `ramp` opens each second
    #[arg(long, default_value_t = 40_000.0)]
    opens: f64,
    /// How often each is measured
    #[arg(long)]
    rounds: Option<usize>,
    /// For how many seconds
    #[arg(long)]
    seconds: Option<f64>,
    /// What joins Throng's server with the client; default: memif-zero-copy, or memif where there are
    /// too few hugepages for it
    #[arg(long)]
    link: Option<Link>,
    /// The client of Throng's server has a stack, Throng's own, in place of frames made by hand
    #[arg(long)]
    with_stack: bool,
    /// Throng's server may sleep, as it does on devices that can wake it
    #[arg(long)]
    adaptive: bool,
    /// The cores of server and client
    #[arg(long, value_delimiter = ',', default_values_t = [0, 1])]
    cores: Vec<usize>,
    /// Only the peers whose name contains this; `none` for none
    #[arg(long)]
    peers: Option<String>,
}

/// A bench: a report for each number of connections.
type Bench = fn(&Options) -> io::Result<Vec<Report>>;

const ALL: &[Bench] = &[
    echo,
    http,
    http_close,
    connect_rate,
    latency,
    bulk,
    ws_echo,
    upgrade_rate,
    broadcast,
    ramp,
    engine,
    path,
];

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Serve(role) => serve::run(&role),
        Command::Load(load) => load::run(&load),
        command => compare(command),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("throng-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn compare(command: Command) -> io::Result<()> {
    network::own()?;
    // Of this namespace: bursts of connects shall not wait for a second try.
    for (file, value) in [
        ("/proc/sys/net/core/somaxconn", "65535"),
        ("/proc/sys/net/ipv4/tcp_max_syn_backlog", "65535"),
        ("/proc/sys/net/ipv4/ip_local_port_range", "20000 65000"),
    ] {
        if let Err(error) = std::fs::write(file, value) {
            eprintln!("{file}: {error}");
        }
    }
    let (benches, options): (&[Bench], _) = match &command {
        Command::Echo(options) => (&[echo], options),
        Command::Http(options) => (&[http], options),
        Command::HttpClose(options) => (&[http_close], options),
        Command::ConnectRate(options) => (&[connect_rate], options),
        Command::Latency(options) => (&[latency], options),
        Command::Bulk(options) => (&[bulk], options),
        Command::WsEcho(options) => (&[ws_echo], options),
        Command::UpgradeRate(options) => (&[upgrade_rate], options),
        Command::Broadcast(options) => (&[broadcast], options),
        Command::Ramp(options) => (&[ramp], options),
        Command::Engine(options) => (&[engine], options),
        Command::Path(options) => (&[path], options),
        Command::All(options) => (ALL, options),
        Command::Serve(_) | Command::Load(_) => return Ok(()),
    };
    for bench in benches {
        let reports = bench(options)?;
        if options.json {
            println!("{}", whole(&reports));
        }
    }
    Ok(())
}

/// One object for all of a bench: the first one's, with the others beside it.
fn whole(reports: &[Report]) -> Value {
    let all: Vec<Value> = reports.iter().map(Report::to_json).collect();
    let mut first = all.first().cloned().unwrap_or_else(|| json!({}));
    if all.len() > 1
        && let Some(first) = first.as_object_mut()
    {
        first.insert("cases".to_owned(), all.into());
    }
    first
}

impl Options {
    fn connections(&self, usual: &[usize], quick: &[usize]) -> Vec<usize> {
        match self.connections.is_empty() {
            true if self.quick => quick.to_vec(),
            true => usual.to_vec(),
            false => self.connections.clone(),
        }
    }

    fn ask(&self, traffic: Traffic, connections: usize, size: usize, window: usize) -> Ask {
        let core = |i: usize| self.cores.get(i).or(self.cores.first()).copied().unwrap_or(0);
        Ask {
            traffic,
            connections,
            size: self.size.unwrap_or(size),
            window: self.window.unwrap_or(window),
            rate: None,
            ramp: None,
            timed: false,
            spinning: false,
            with_stack: self.with_stack,
            adaptive: self.adaptive,
            cores: [core(0), core(1)],
        }
    }

    /// Throng, and those of `peers` that are wanted and there.
    fn subjects(&self, peers: &[Subject]) -> Vec<Subject> {
        let built = peers_are_built();
        let wanted = |peer: &&Subject| {
            let name = peer.name();
            (built || !matches!(peer, Subject::Peer(_)))
                && self.peers.as_ref().is_none_or(|part| name.contains(part.as_str()))
        };
        let link = self.link.unwrap_or_else(Link::best);
        let peers = peers.iter().filter(wanted).cloned();
        std::iter::once(Subject::Throng(link)).chain(peers).collect()
    }

    fn comparison(
        &self,
        bench: &'static str,
        measure: Measure,
        ask: Ask,
        subjects: Vec<Subject>,
    ) -> Comparison {
        let (rounds, seconds) = if self.quick { (1, 0.2) } else { (5, 3.0) };
        let time = Duration::from_secs_f64(self.seconds.unwrap_or(seconds));
        let rounds = self.rounds.unwrap_or(rounds);
        let of_peers = usize::MAX;
        Comparison { bench, ask, subjects, rounds, time, measure, of_peers }
    }

    fn run(
        &self,
        bench: &'static str,
        measure: Measure,
        ask: Ask,
        peers: &[Subject],
    ) -> io::Result<Report> {
        eprintln!("{bench}, {} connections", ask.connections);
        let report = self.comparison(bench, measure, ask, self.subjects(peers)).run()?;
        report.print();
        Ok(report)
    }
}

fn engine(options: &Options) -> io::Result<Vec<Report>> {
    // Beside the machine's other work, whose share of the caches shows.
    let (rounds, seconds) = if options.quick { (1, 0.1) } else { (5, 1.0) };
    let mut reports = Vec::new();
    for connections in options.connections(&[1_000, 1_000_000], &[1_000]) {
        let time = Duration::from_secs_f64(options.seconds.unwrap_or(seconds));
        for at_once in [false, true] {
            let rounds = options.rounds.unwrap_or(rounds);
            let report = alone::measure(connections, at_once, rounds, time)?;
            report.print();
            reports.push(report);
        }
    }
    Ok(reports)
}

fn path(options: &Options) -> io::Result<Vec<Report>> {
    let (rounds, seconds) = if options.quick { (1, 0.1) } else { (5, 1.0) };
    let mut reports = Vec::new();
    for connections in options.connections(&[1_000, 1_000_000], &[1_000]) {
        let time = Duration::from_secs_f64(options.seconds.unwrap_or(seconds));
        for server in [Server::Echo, Server::WebSocket] {
            let rounds = options.rounds.unwrap_or(rounds);
            let report = path::measure(server, connections, rounds, time)?;
            report.print();
            reports.push(report);
        }
    }
    Ok(reports)
}

/// Most connections over the host's sockets.
const MOST_OF_HOST: usize = 200_000;

fn echo(options: &Options) -> io::Result<Vec<Report>> {
    let mut reports = Vec::new();
    for connections in options.connections(&[1, 1_000, 100_000, 1_000_000], &[100]) {
        let ask = options.ask(Traffic::Echo, connections, 64, 1_024);
        let peers = [Subject::Peer("tokio-echo"), Subject::Peer("monoio-echo"), Subject::OnKernel];
        // A million of the host's sockets, twice, is more memory than most machines have.
        let peers = if connections <= MOST_OF_HOST { &peers[..] } else { &[] };
        reports.push(options.run("echo", Measure::Rate, ask, peers)?);
    }
    Ok(reports)
}

const PAGES: [Subject; 3] = [Subject::Peer("tokio-http"), Subject::Nginx, Subject::OnKernel];

fn http(options: &Options) -> io::Result<Vec<Report>> {
    let mut reports = Vec::new();
    for connections in options.connections(&[64, 4_096], &[64]) {
        let ask = options.ask(Traffic::Http, connections, 6, connections);
        let mut report = options.run("http", Measure::Rate, ask.clone(), &PAGES)?;
        if let Some(tokio) = PAGES.first().filter(|tokio| options.subjects(&PAGES).contains(tokio))
        {
            match wrk(tokio, &ask, Duration::from_secs(if options.quick { 1 } else { 3 })) {
                Ok(rate) => {
                    println!("  wrk: tokio-http {rate:.0} per second of its CPU time");
                    report.more.insert("wrk".into(), json!({ "tokio-http": rate }));
                }
                Err(error) => eprintln!("  wrk: {error}"),
            }
        }
        reports.push(report);
    }
    Ok(reports)
}

fn http_close(options: &Options) -> io::Result<Vec<Report>> {
    // As many connections as there are ports of the server for: eight times 20,000.
    let ask = options.ask(Traffic::HttpClose, 160_000, 6, 256);
    Ok(vec![options.run("http-close", Measure::Rate, ask, &PAGES)?])
}

fn connect_rate(options: &Options) -> io::Result<Vec<Report>> {
    let ask = options.ask(Traffic::Accept, 160_000, 0, 256);
    let peers = [Subject::Peer("tokio-accept"), Subject::OnKernel];
    Ok(vec![options.run("connect-rate", Measure::Rate, ask, &peers)?])
}

/// Most connections of one process over the host's sockets.
const MOST_OF_ONE: usize = 16_000;

/// Connections that a peer broadcasts to: it has one process, and so few descriptors.
const PEERS_BROADCAST: usize = 10_000;

const TUNGSTENITE: [Subject; 3] =
    [Subject::Peer("tungstenite"), Subject::Peer("tungstenite-defaults"), Subject::OnKernel];

fn ws_echo(options: &Options) -> io::Result<Vec<Report>> {
    let mut reports = Vec::new();
    for connections in options.connections(&[1_000, 1_000_000], &[100]) {
        let ask = options.ask(Traffic::Websocket, connections, 64, 1_024);
        let peers = if connections <= MOST_OF_HOST { &TUNGSTENITE[..] } else { &[] };
        let mut report = options.run("ws-echo", Measure::Rate, ask.clone(), peers)?;
        let peer = options.subjects(peers).into_iter().find(|peer| *peer == TUNGSTENITE[0]);
        if let Some(peer) = peer.filter(|_| connections <= MOST_OF_ONE) {
            let time = Duration::from_millis(if options.quick { 300 } else { 3_000 });
            match tungstenite(&peer, &ask, time) {
                Ok(rate) => {
                    println!(
                        "  tungstenite's client: {rate:.0} per second of its server's CPU time"
                    );
                    report.more.insert("tungstenite_client".into(), json!({ "tungstenite": rate }));
                }
                Err(error) => eprintln!("  tungstenite's client: {error}"),
            }
        }
        reports.push(report);
    }
    Ok(reports)
}

fn upgrade_rate(options: &Options) -> io::Result<Vec<Report>> {
    let ask = options.ask(Traffic::Upgrade, 160_000, 64, 256);
    Ok(vec![options.run("upgrade-rate", Measure::Rate, ask, &TUNGSTENITE)?])
}

fn broadcast(options: &Options) -> io::Result<Vec<Report>> {
    let mut reports = Vec::new();
    for connections in options.connections(&[1_000_000, PEERS_BROADCAST], &[1_000]) {
        let ask = options.ask(Traffic::Broadcast, connections, 64, connections);
        let peers = [Subject::Peer("tungstenite-broadcast"), Subject::OnKernel];
        eprintln!("broadcast, {connections} connections");
        let subjects = options.subjects(&peers);
        let all = options.comparison("broadcast", Measure::Rate, ask, subjects);
        let report = Comparison { of_peers: PEERS_BROADCAST, ..all }.run()?;
        report.print();
        reports.push(report);
    }
    Ok(reports)
}

fn ramp(options: &Options) -> io::Result<Vec<Report>> {
    let link = options.link.unwrap_or_else(Link::best);
    let rounds = options.rounds.unwrap_or(if options.quick { 1 } else { 3 });
    let mut reports = Vec::new();
    for connections in options.connections(&[1_000_000], &[50_000]) {
        let mut ask = options.ask(Traffic::Websocket, connections, 64, 1);
        (ask.ramp, ask.rate) = (Some(options.opens), Some(options.rate.unwrap_or(1_000.0)));
        // The client that keeps time makes its frames by hand.
        ask.with_stack = false;
        eprintln!("ramp, {connections} connections");
        let report = measure_ramp(&ask, link, rounds)?;
        report.print();
        reports.push(report);
    }
    Ok(reports)
}

/// One connection, everybody spinning; then a thousand, on which messages fall due by the clock, half as
/// many as tokio can answer.
fn latency(options: &Options) -> io::Result<Vec<Report>> {
    let tokio = Subject::Peer("tokio-echo");
    let mut reports = Vec::new();
    for connections in options.connections(&[1, 1_000], &[1]) {
        let mut ask = options.ask(Traffic::Echo, connections, 64, connections);
        ask.timed = true;
        ask.spinning = connections == 1;
        ask.rate = options.rate;
        if !ask.spinning && ask.rate.is_none() {
            let most =
                options.comparison("latency", Measure::Rate, ask.clone(), vec![tokio.clone()]);
            let most = Comparison { rounds: 1, ..most }.run()?;
            let rate = most.more["details"]["tokio-echo"]["per_second"].as_f64();
            ask.rate = rate.map(|rate| (rate / 2.0).round());
        }
        let peers: &[Subject] = match ask.spinning {
            true => &[tokio.clone(), Subject::Peer("spinning-echo")],
            false => &[tokio.clone(), Subject::OnKernel],
        };
        reports.push(options.run("latency", Measure::Latency, ask, peers)?);
    }
    Ok(reports)
}

fn bulk(options: &Options) -> io::Result<Vec<Report>> {
    let mut reports = Vec::new();
    for connections in options.connections(&[1, 100], &[1]) {
        for (bench, traffic) in
            [("bulk-download", Traffic::Download), ("bulk-upload", Traffic::Upload)]
        {
            let ask = options.ask(traffic, connections, 0, connections);
            let peers = [Subject::Peer("tokio-bulk"), Subject::OnKernel];
            reports.push(options.run(bench, Measure::Gigabits, ask, &peers)?);
        }
    }
    Ok(reports)
}
