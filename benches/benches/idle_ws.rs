//! Bytes per idle WebSocket, all counted, part by part.
//!
//! The server is an ordinary one on a shard of its own; its clients ([`throng_bench::crowd`])
//! hold nothing, so what this process has resident is the server's. Each client has opened its
//! WebSocket and echoed a message before it falls silent. The program is started anew for each
//! way the server can be written, so that none finds what another has left, and for each peer
//! ([`throng_bench::idle_peer`]).

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use serde_json::{Map, Value, json};
use throng_bench::count::Counting;
use throng_bench::idle::Style;
use throng_bench::idle_peer;
use throng_bench::resting::{self, LEFT_OVER, Plan, again};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes that issue 5 allows for an idle WebSocket.
const MOST: f64 = 600.0;
/// How long all are silent before memory is measured: every timer of the traffic before is over.
const REST: Duration = Duration::from_secs(4);
const QUICK_REST: Duration = Duration::from_millis(500);
/// Of `benches/peers`: the buffers as small as they can be, and as one gets them, which are 137 KB each
/// and so not of as many as are asked for.
const PEERS: [(&str, u32); 2] = [("tungstenite", u32::MAX), ("tungstenite-defaults", 20_000)];

#[derive(Parser)]
struct Args {
    /// WebSockets to open
    #[arg(long, default_value_t = 1_000_000,
        value_parser = clap::value_parser!(u32).range(1_000..=10_000_000))]
    connections: u32,
    /// At most 100,000 of them, and less time for what they leave behind to go
    #[arg(long)]
    quick: bool,
    /// One JSON object on the last line
    #[arg(long)]
    json: bool,
    /// WebSockets of each peer
    #[arg(long, default_value_t = 100_000,
        value_parser = clap::value_parser!(u32).range(1_000..=200_000))]
    peer_connections: u32,
    /// Only the peers whose name contains this; `none` for none
    #[arg(long)]
    peers: Option<String>,
    /// Measure the loop's stages while all come, too, which takes longer
    #[arg(long)]
    stages: bool,
    /// Measure this one only, in this process
    #[arg(long, hide = true)]
    only: Option<Written>,
    /// Measure this peer only, in this process
    #[arg(long, hide = true)]
    peer: Option<String>,
    /// What cargo passes to every bench
    #[arg(long, hide = true)]
    bench: bool,
}

/// How the server is written.
#[derive(Clone, Copy, ValueEnum)]
enum Written {
    Handler,
    Pinging,
    Loop,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let outcome = match args.only {
        None if args.peer.is_some() => peer(&args),
        Some(written) => alone(&args, written),
        None => all(&args),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("idle-ws: {error}");
            ExitCode::FAILURE
        }
    }
}

impl Args {
    fn connections(&self) -> u32 {
        if self.quick { self.connections.min(100_000) } else { self.connections }
    }

    fn of_peer(&self, most: u32) -> u32 {
        self.peer_connections.min(if self.quick { 4_000 } else { most })
    }

    /// How long all are silent before memory is measured.
    fn rest(&self) -> Duration {
        if self.quick { QUICK_REST } else { REST }
    }
}

/// A process for each way; prints what they have found.
fn all(args: &Args) -> io::Result<bool> {
    let handler = child(args, "handler")?;
    let (pinging, by_loop) = (child(args, "pinging")?, child(args, "loop")?);
    let connections = args.connections();
    println!("bytes per idle WebSocket, of {connections}:");
    let number = |of: &Value, key: &str| of[key].as_f64().unwrap_or(f64::NAN);
    for (part, bytes) in handler["breakdown"].as_object().into_iter().flatten() {
        println!("  {part:<40} {:>8.1}", bytes.as_f64().unwrap_or(f64::NAN));
    }
    let total = number(&handler, "bytes");
    println!("  {:<40} {total:>8.1}   at most {MOST}", "resident");
    println!("  {:<40} {:>8.1}", "  with the process's start", number(&handler, "with_start"));
    println!(
        "  {:<40} {:>8.1}",
        "the server as an async fn with a loop",
        number(&by_loop, "bytes")
    );
    println!("  {:<40} {:>8.1}", "with a ping timer each", number(&pinging, "bytes"));
    println!("opened in {:.1} s", number(&handler, "seconds"));
    let (peers, failures) = peers(args);
    for failure in &failures {
        println!("FAILED: {failure}");
    }
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
    let left_over = number(&handler, "left_over");
    println!(
        "when all have gone: {:.1} MB more than before they came, at most {:.1}",
        left_over / 1e6,
        LEFT_OVER as f64 / 1e6
    );
    if let Some(longest) = handler["longest_stage_us"].as_f64() {
        println!("longest stage of the loop: {longest} us ({})", handler["longest_stage"]);
    }
    if args.json {
        let best = peers
            .iter()
            .min_by(|(_, a), (_, b)| f64::total_cmp(&number(a, "bytes"), &number(b, "bytes")));
        let line = json!({
            "bench": "idle-ws",
            "params": { "connections": connections, "quick": args.quick },
            "unit": "bytes per idle WebSocket, resident",
            "throng": total,
            // Measured once.
            "spread": null,
            "peers": peers.iter().map(|(name, peer)| (name.clone(), peer["bytes"].clone()))
                .collect::<Map<_, _>>(),
            "best_peer": best.map(|(name, _)| name),
            "ratio": best.map(|(_, peer)| total / number(peer, "bytes")),
            // Bytes are the same beside other work; what of it is not is in the details.
            "noisy": false,
            "failures": failures,
            "details": peers,
            "connections": connections,
            "bytes_per_connection": total,
            "breakdown": handler["breakdown"],
            "start_bytes": handler["start"],
            "left_over_bytes": handler["left_over"],
            "small_blocks": handler["small_blocks"],
            "async_fn": by_loop["bytes"],
            "with_ping_timer": pinging["bytes"],
            "open_seconds": handler["seconds"],
            "longest_stage": handler["longest_stage"],
            "longest_stage_us": handler["longest_stage_us"],
        });
        println!("{line}");
    }
    Ok(total <= MOST && left_over <= LEFT_OVER as f64 && failures.is_empty())
}

/// What the peers take that are wanted, by their names, and what failed.
fn peers(args: &Args) -> (Map<String, Value>, Vec<String>) {
    let wanted = |name: &str| args.peers.as_ref().is_none_or(|part| name.contains(part.as_str()));
    let (mut found, mut failures) = (Map::new(), Vec::new());
    for (name, most) in PEERS.into_iter().filter(|(name, _)| wanted(name)) {
        let connections = args.of_peer(most).to_string();
        match again(&["--peer", name, "--peer-connections", &connections]) {
            Ok(one) => drop(found.insert(name.to_owned(), one)),
            Err(error) => failures.push(format!("{name}: {error}")),
        }
    }
    (found, failures)
}

fn peer(args: &Args) -> io::Result<bool> {
    let kind = args.peer.as_deref().unwrap_or_default();
    println!("{}", idle_peer::measure(kind, args.peer_connections)?);
    Ok(true)
}

fn alone(args: &Args, written: Written) -> io::Result<bool> {
    let style = match written {
        Written::Handler => Style::Handler,
        Written::Pinging => Style::Pinging,
        Written::Loop => Style::Loop,
    };
    let (connections, resting) = (args.connections(), args.rest());
    let plan = Plan { style, connections, resting, stages: args.stages };
    println!("{}", resting::measure(&plan)?);
    Ok(true)
}

/// Throng's server of one kind.
fn child(args: &Args, written: &str) -> io::Result<Value> {
    let connections = args.connections().to_string();
    let mut all = vec!["--only", written, "--connections", &connections];
    all.extend(args.stages.then_some("--stages"));
    all.extend(args.quick.then_some("--quick"));
    again(&all)
}
