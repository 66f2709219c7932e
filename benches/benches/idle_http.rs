//! Bytes per idle keep-alive HTTP/1.1 connection, all counted, part by part.
//!
//! Each client has had one page before it falls silent; who they are, and what is counted, is
//! [`throng_bench::resting`]'s and, of peers, [`throng_bench::idle_peer`]'s to say. The program is started anew
//! for Throng and for each peer.

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use serde_json::{Map, Value, json};
use throng_bench::count::Counting;
use throng_bench::idle::Style;
use throng_bench::idle_peer;
use throng_bench::resting::{self, LEFT_OVER, Plan, again};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How long all are silent before memory is measured: every timer of the traffic before is over.
const REST: Duration = Duration::from_secs(4);
const QUICK_REST: Duration = Duration::from_millis(500);
const QUICK: u32 = 20_000;
/// hyper on tokio, and Debian's web servers, which answer by themselves.
const PEERS: [&str; 3] = ["tokio-http", "nginx", "haproxy"];

#[derive(Parser)]
struct Args {
    /// Connections of Throng
    #[arg(long, default_value_t = 1_000_000,
        value_parser = clap::value_parser!(u32).range(1_000..=10_000_000))]
    connections: u32,
    /// At most 20,000 of them, 4,000 of a peer
    #[arg(long)]
    quick: bool,
    /// One JSON object on the last line
    #[arg(long)]
    json: bool,
    /// Connections of each peer
    #[arg(long, default_value_t = 100_000,
        value_parser = clap::value_parser!(u32).range(1_000..=200_000))]
    peer_connections: u32,
    /// Only the peers whose name contains this; `none` for none
    #[arg(long)]
    peers: Option<String>,
    /// Measure Throng only, in this process
    #[arg(long, hide = true)]
    alone: bool,
    /// Measure this peer only, in this process
    #[arg(long, hide = true)]
    peer: Option<String>,
    /// What cargo passes to every bench
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("idle-http: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> io::Result<bool> {
    let connections = if args.quick { args.connections.min(QUICK) } else { args.connections };
    let found = match &args.peer {
        Some(peer) => idle_peer::measure(peer, args.peer_connections)?,
        None if args.alone => resting::measure(&Plan {
            style: Style::Pages,
            connections,
            resting: if args.quick { QUICK_REST } else { REST },
            stages: false,
        })?,
        None => return all(args, connections),
    };
    println!("{found}");
    Ok(true)
}

/// A process for Throng and for each peer; prints what they have found.
fn all(args: &Args, connections: u32) -> io::Result<bool> {
    let count = connections.to_string();
    let mut arguments = vec!["--alone", "--connections", &count];
    arguments.extend(args.quick.then_some("--quick"));
    let throng = again(&arguments)?;
    let (total, left_over) = (number(&throng, "bytes"), number(&throng, "left_over"));
    println!("bytes per idle HTTP/1.1 connection, of {connections}:");
    for (part, bytes) in throng["breakdown"].as_object().into_iter().flatten() {
        println!("  {part:<40} {:>8.1}", bytes.as_f64().unwrap_or(f64::NAN));
    }
    println!("  {:<40} {total:>8.1}", "resident");
    println!("opened, and a page given to each, in {:.1} s", number(&throng, "seconds"));
    let (peers, mut failures) = peers(args);
    for (name, found) in &peers {
        println!(
            "{name}, of {}: {:.1}, {:.1} of its own and {:.1} of the kernel's; all slabs {:.1}, no \
             longer free {:.1}",
            found["connections"],
            number(found, "bytes"),
            number(found, "user"),
            number(found, "kernel"),
            number(found, "all_slabs"),
            number(found, "no_longer_free"),
        );
    }
    println!("when all have gone: {:.1} MB more than before they came", left_over / 1e6);
    if left_over > LEFT_OVER as f64 {
        failures.push(format!("throng: {left_over} bytes left over, more than {LEFT_OVER}"));
    }
    for failure in &failures {
        println!("FAILED: {failure}");
    }
    if args.json {
        println!("{}", line(args, &throng, &peers, &failures));
    }
    Ok(failures.is_empty())
}

fn line(args: &Args, throng: &Value, peers: &Map<String, Value>, failures: &[String]) -> Value {
    let total = number(throng, "bytes");
    let best = peers
        .iter()
        .min_by(|(_, a), (_, b)| f64::total_cmp(&number(a, "bytes"), &number(b, "bytes")));
    let bytes = peers.iter().map(|(name, peer)| (name.clone(), peer["bytes"].clone()));
    json!({
        "bench": "idle-http",
        "params": {
            "connections": throng["connections"],
            "peers_connections": args.of_peer(),
            "quick": args.quick,
        },
        "unit": "bytes per idle HTTP/1.1 connection, resident",
        "throng": total,
        // Measured once.
        "spread": null,
        "peers": bytes.collect::<Map<_, _>>(),
        "best_peer": best.map(|(name, _)| name),
        "ratio": best.map(|(_, peer)| total / number(peer, "bytes")),
        // Bytes are the same beside other work; what of it is not is in the details.
        "noisy": false,
        "failures": failures,
        "details": peers,
        "connections": throng["connections"],
        "bytes_per_connection": total,
        "breakdown": throng["breakdown"],
        "start_bytes": throng["start"],
        "left_over_bytes": throng["left_over"],
        "small_blocks": throng["small_blocks"],
        "open_seconds": throng["seconds"],
    })
}

/// What the peers take that are wanted, by their names, and what failed.
fn peers(args: &Args) -> (Map<String, Value>, Vec<String>) {
    let wanted = |name: &str| args.peers.as_ref().is_none_or(|part| name.contains(part.as_str()));
    let (mut found, mut failures) = (Map::new(), Vec::new());
    let connections = args.of_peer().to_string();
    for name in PEERS.into_iter().filter(|name| wanted(name)) {
        match again(&["--peer", name, "--peer-connections", &connections]) {
            Ok(one) => drop(found.insert(name.to_owned(), one)),
            Err(error) => failures.push(format!("{name}: {error}")),
        }
    }
    (found, failures)
}

impl Args {
    fn of_peer(&self) -> u32 {
        if self.quick { self.peer_connections.min(4_000) } else { self.peer_connections }
    }
}

fn number(of: &Value, key: &str) -> f64 {
    of[key].as_f64().unwrap_or(f64::NAN)
}
