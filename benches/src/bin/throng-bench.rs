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
use throng_bench::balancer::Balancer;
use throng_bench::compare::{Comparison, Measure};
use throng_bench::cross;
use throng_bench::load::{self, Load};
use throng_bench::network;
use throng_bench::options::Options;
use throng_bench::path::{self, Server};
use throng_bench::ramp::measure as measure_ramp;
use throng_bench::report::Report;
use throng_bench::role::{Role, Traffic};
use throng_bench::scaling::measure as measure_scaling;
use throng_bench::serve;
use throng_bench::subject::{Ask, Link, Subject};
use throng_bench::web::Web;

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
    /// Datagrams of 64 bytes and back
    Udp(Options),
    /// Echoes of two shards beside those of one
    Scaling(Options),
    /// WebSocket messages of 64 bytes and back
    WsEcho(Options),
    /// Connections that become WebSockets
    UpgradeRate(Options),
    /// Messages to all WebSockets
    Broadcast(Options),
    /// Messages while very many WebSockets are opened
    Ramp(Options),
    /// Balancers: requests passed on to a server, connections kept on both sides
    Lb(Options),
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

/// A bench: a report for each number of connections.
type Bench = fn(&Options) -> io::Result<Vec<Report>>;

const ALL: &[Bench] = &[
    echo,
    http,
    http_close,
    connect_rate,
    latency,
    bulk,
    udp,
    scaling,
    ws_echo,
    upgrade_rate,
    broadcast,
    ramp,
    lb,
    engine,
    path,
];

fn main() -> ExitCode {
    // A server that cannot accept says so here, and nowhere else.
    let log =
        tracing_subscriber::fmt().with_max_level(tracing_subscriber::filter::LevelFilter::WARN);
    log.with_writer(io::stderr).init();
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
        Command::Udp(options) => (&[udp], options),
        Command::Scaling(options) => (&[scaling], options),
        Command::WsEcho(options) => (&[ws_echo], options),
        Command::UpgradeRate(options) => (&[upgrade_rate], options),
        Command::Broadcast(options) => (&[broadcast], options),
        Command::Ramp(options) => (&[ramp], options),
        Command::Lb(options) => (&[lb], options),
        Command::Engine(options) => (&[engine], options),
        Command::Path(options) => (&[path], options),
        Command::All(options) => (ALL, options),
        Command::Serve(_) | Command::Load(_) => return Ok(()),
    };
    let mut failures = 0;
    for bench in benches {
        let reports = bench(options)?;
        if options.json {
            println!("{}", whole(&reports));
        }
        failures += reports.iter().map(|report| report.failures.len()).sum::<usize>();
    }
    match failures {
        0 => Ok(()),
        failures => {
            Err(io::Error::other(format!("{failures} of what was measured failed, see above")))
        }
    }
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
        // Many take long to open: messages alone, and full turns.
        let few = connections < path::MANY;
        let servers = if few { &Server::ALL[..] } else { &[Server::Echo, Server::WebSocket] };
        // A turn with little in it shows what each costs by itself.
        let bursts = if few { &[path::BURST, 8, 1][..] } else { &[path::BURST] };
        let wanted = |server: &&Server| {
            options.peers.as_ref().is_none_or(|part| server.name().contains(part.as_str()))
        };
        for &server in servers.iter().filter(wanted) {
            for burst in options.of(&options.bursts, bursts, &[path::BURST]) {
                let rounds = options.rounds.unwrap_or(rounds);
                let report = path::measure(server, connections, burst, rounds, time)?;
                report.print();
                reports.push(report);
            }
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

const PAGES: [Subject; 4] = [
    Subject::Peer("tokio-http"),
    Subject::Web(Web::Nginx),
    Subject::Web(Web::Haproxy),
    Subject::OnKernel,
];

/// `hello`, and other bodies.
const HELLO: usize = 6;
const BODIES: [usize; 4] = [HELLO, 0, 1 << 10, 100 << 10];

fn http(options: &Options) -> io::Result<Vec<Report>> {
    let sizes: Vec<usize> = options.size.into_iter().collect();
    let mut reports = Vec::new();
    for size in options.of(&sizes, &BODIES, &[HELLO, 100 << 10]) {
        for connections in options.connections(&[64, 4_096], &[64]) {
            let mut ask = options.ask(Traffic::Http, connections, size, connections);
            ask.size = size;
            let mut report = options.run("http", Measure::Rate, ask.clone(), &PAGES)?;
            if size == HELLO && options.subjects(&PAGES).contains(&PAGES[0]) {
                for (name, check) in [("wrk", cross::wrk as Check), ("h2load", cross::h2load)] {
                    let time = Duration::from_secs(if options.quick { 1 } else { 3 });
                    let rate = check(&PAGES[0], &ask, time);
                    checked(&mut report, name, "tokio-http", rate);
                }
            }
            reports.push(report);
        }
    }
    Ok(reports)
}

/// What somebody else's client finds of a peer.
type Check = fn(&Subject, &Ask, Duration) -> io::Result<f64>;

fn checked(report: &mut Report, name: &str, peer: &str, rate: io::Result<f64>) {
    match rate {
        Ok(rate) => {
            println!("  {name}: {peer} {rate:.0} per second of its CPU time");
            report.more.insert(name.into(), json!({ peer: rate }));
        }
        Err(error) => {
            println!("  FAILED: {name}: {error}");
            report.failures.push(format!("{name}: {error}"));
        }
    }
}

/// Datagrams on their way at a time, fewer than the kernel keeps for a socket: 212,992 bytes, of which it
/// lets a quarter go late, some 768 of them each. What it drops all the same is asked for again.
const DATAGRAMS: usize = 192;

fn udp(options: &Options) -> io::Result<Vec<Report>> {
    let mut reports = Vec::new();
    for connections in options.connections(&[1_000], &[100]) {
        for sockets in options.of(&options.sockets, &[1, 64], &[1, 8]) {
            let mut ask = options.ask(Traffic::Udp, connections, 64, DATAGRAMS);
            ask.sockets = sockets;
            let peers = [Subject::Peer("tokio-udp"), Subject::OnKernel];
            reports.push(options.run("udp", Measure::Rate, ask, &peers)?);
        }
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

fn scaling(options: &Options) -> io::Result<Vec<Report>> {
    let link = options.link.unwrap_or_else(Link::best);
    let (rounds, seconds) = if options.quick { (1, 0.2) } else { (5, 3.0) };
    let rounds = options.rounds.unwrap_or(rounds);
    let time = Duration::from_secs_f64(options.seconds.unwrap_or(seconds));
    let mut reports = Vec::new();
    for connections in options.connections(&[1_000, 100_000], &[100]) {
        let ask = options.ask(Traffic::Echo, connections, 64, 1_024);
        eprintln!("scaling, {connections} connections");
        let report = measure_scaling(&ask, link, rounds, time)?;
        report.print();
        reports.push(report);
    }
    Ok(reports)
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
        let wanted = options.subjects(peers).contains(&TUNGSTENITE[0]);
        if wanted && connections <= MOST_OF_ONE {
            let time = Duration::from_millis(if options.quick { 300 } else { 3_000 });
            let rate = cross::tungstenite(&TUNGSTENITE[0], &ask, time);
            checked(&mut report, "tungstenite_client", "tungstenite", rate);
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
        let plain = &report.more["plain"];
        println!(
            "  longest stage {:.0} us; with memory as it is needed: {:.0} us, longest stage {:.0} us",
            report.more["longest_stage_us"].as_f64().unwrap_or(f64::NAN),
            plain["p999_us"].as_f64().unwrap_or(f64::NAN),
            plain["longest_stage_us"].as_f64().unwrap_or(f64::NAN),
        );
        reports.push(report);
    }
    Ok(reports)
}

/// One connection, everybody spinning; then a thousand, on which messages fall due by the clock, half as
/// many as tokio can answer. Then the same of a server that sleeps when it has nothing to do.
fn latency(options: &Options) -> io::Result<Vec<Report>> {
    let tokio = Subject::Peer("tokio-echo");
    let modes: &[bool] = match options.adaptive {
        true => &[true],
        false if options.connections.is_empty() => &[false, true],
        false => &[false],
    };
    let mut reports = Vec::new();
    // One rate for both: half of what tokio can do.
    let mut half = None;
    for &adaptive in modes {
        let options = &Options { adaptive, ..options.clone() };
        for connections in options.connections(&[1, 1_000], &[1]) {
            let mut ask = options.ask(Traffic::Echo, connections, 64, connections);
            ask.timed = true;
            ask.spinning = connections == 1;
            ask.rate = options.rate;
            if !ask.spinning && ask.rate.is_none() {
                if half.is_none() {
                    half = Some(half_of_tokio(options, &ask, &tokio)?);
                }
                ask.rate = half;
            }
            let peers: &[Subject] = match ask.spinning {
                true => &[tokio.clone(), Subject::Peer("spinning-echo")],
                false => &[tokio.clone(), Subject::OnKernel],
            };
            reports.push(options.run("latency", Measure::Latency, ask, peers)?);
        }
    }
    Ok(reports)
}

fn half_of_tokio(options: &Options, ask: &Ask, tokio: &Subject) -> io::Result<f64> {
    let most = options.comparison("latency", Measure::Rate, ask.clone(), vec![tokio.clone()]);
    let most = Comparison { rounds: 1, ..most }.run()?;
    let rate = most.more["details"]["tokio-echo"]["per_second"].as_f64();
    rate.map(|rate| (rate / 2.0).round()).ok_or_else(|| {
        let why = most.failures.join("; ");
        io::Error::other(format!("what tokio can do is not known, so say --rate: {why}"))
    })
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

fn lb(options: &Options) -> io::Result<Vec<Report>> {
    let peers = [Balancer::Nginx, Balancer::Haproxy, Balancer::OnKernel];
    let wanted = |peer: &&Balancer| {
        options.peers.as_ref().is_none_or(|part| peer.name().contains(part.as_str()))
    };
    let mut reports = Vec::new();
    for connections in options.connections(&[64, 512], &[64]) {
        let mut ask = options.ask(Traffic::Http, connections, 6, connections);
        ask.timed = true;
        let link = options.link.unwrap_or_else(Link::best);
        let peers = peers.iter().filter(wanted).copied();
        let subjects = std::iter::once(Balancer::Throng(link)).chain(peers);
        let subjects = subjects.map(Subject::Balancer).collect();
        eprintln!("lb, {connections} connections");
        let mut report = options.comparison("lb", Measure::Rate, ask, subjects).run()?;
        let median = |name: &str| {
            let found = report.peers.iter().find(|(peer, _)| peer == name);
            found.map_or(f64::NAN, |(_, samples)| samples.median())
        };
        let best = median("nginx").max(median("haproxy"));
        let ratios = [
            ("ratio_on_device", report.throng.median() / best),
            ("ratio_on_kernel", median("throng-on-kernel") / best),
        ];
        report.print();
        for (name, ratio) in ratios {
            println!("  {name:<16} {ratio:>14.2}  to the faster of nginx and HAProxy");
            report.more.insert(name.to_owned(), json!(ratio));
        }
        reports.push(report);
    }
    Ok(reports)
}
