//! Bytes per idle WebSocket, all counted, part by part.
//!
//! The server is an ordinary one on a shard of its own; its clients ([`throng_bench::crowd`])
//! hold nothing, so what this process has resident is the server's. Each client has opened its
//! WebSocket and echoed a message before it falls silent. The program is started anew for each
//! way the server can be written, so that none finds what another has left, and for each peer
//! ([`throng_bench::idle_peer`]).

use std::io;
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use serde_json::{Map, Value, json};
use throng::net::device::memory;
use throng::runtime::stages::{self, Stage};
use throng::{Builder, Limits, runtime};
use throng_bench::clocked::{Clocked, PATIENCE};
use throng_bench::count::{Counting, Heap};
use throng_bench::crowd::{Crowd, SERVER};
use throng_bench::idle_peer;
use throng_bench::idle_ws::{self, Server, Style};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes that issue 5 allows for an idle WebSocket.
const MOST: f64 = 600.0;
/// Clients on their way at a time.
const AT_ONCE: u32 = 128;
/// How long all are silent before memory is measured: every timer of the traffic before is over.
const REST: Duration = Duration::from_secs(4);
const QUICK_REST: Duration = Duration::from_millis(500);
/// What may be left of it all a minute after the clients have gone, in bytes.
const LEFT_OVER: i64 = 16 << 20;
const MINUTE: Duration = Duration::from_secs(60);
const LINK: &str = "idle-ws";
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

/// Memory at one moment.
struct Snapshot {
    resident: i64,
    heap: Heap,
    server: Server,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    server: Mutex<Option<Server>>,
    /// Whether to measure the loop's stages, and the one that took longest.
    stages: bool,
    longest: Mutex<Option<(Stage, Duration)>>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let outcome = match args.only {
        None if args.peer.is_some() => peer(&args),
        Some(Written::Handler) => alone(&args, Style::Handler),
        Some(Written::Pinging) => alone(&args, Style::Pinging),
        Some(Written::Loop) => alone(&args, Style::Loop),
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

/// Throng's server of one kind.
fn child(args: &Args, written: &str) -> io::Result<Value> {
    let connections = args.connections().to_string();
    let mut all = vec!["--only", written, "--connections", &connections];
    all.extend(args.stages.then_some("--stages"));
    all.extend(args.quick.then_some("--quick"));
    again(&all)
}

/// This program again; returns the object it prints.
fn again(arguments: &[&str]) -> io::Result<Value> {
    let output = Command::new(std::env::current_exe()?)
        .args(arguments)
        .stderr(std::process::Stdio::inherit())
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let found = text.lines().last().and_then(|line| serde_json::from_str(line).ok());
    found
        .filter(|_| output.status.success())
        .ok_or_else(|| io::Error::other(format!("{arguments:?} failed: {text}")))
}

/// Measures one kind of server in this process.
fn alone(args: &Args, style: Style) -> io::Result<bool> {
    let (connections, resting) = (args.connections(), args.rest());
    let shared = Arc::new(Shared { stages: args.stages, ..Shared::default() });
    let mut limits = Limits::default();
    limits.connections = connections as usize + 1_024;
    limits.tasks = connections as usize + 1_024;
    let inside = shared.clone();
    let server = thread::spawn(move || {
        let builder = Builder::new()
            .device(format!("memory:{LINK}"))
            .address(format!("{SERVER}/8"))
            .limits(limits);
        builder.shards(1).run(move |_| serve(style, inside.clone()))?.into_iter().collect()
    });
    let measured = measure(connections, resting, &shared);
    shared.stop.store(true, Ordering::Release);
    let served: io::Result<()> =
        server.join().map_err(|_| io::Error::other("the server panicked"))?;
    let (before, after, left, seconds) = measured?;
    served?;
    let mut found = found(style, connections, &before, &after, seconds);
    found["left_over"] = (left - before.resident).into();
    let longest = *shared.longest.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((stage, took)) = longest {
        found["longest_stage"] = stage.name().into();
        found["longest_stage_us"] = (took.as_nanos() as f64 / 1e3).into();
    }
    println!("{found}");
    Ok(true)
}

/// Opens all, lets them rest, and has them go; returns memory before and with them, what is resident
/// in the end, and how long opening took.
fn measure(
    connections: u32,
    resting: Duration,
    shared: &Shared,
) -> io::Result<(Snapshot, Snapshot, i64, f64)> {
    let queue = memory::open(LINK, 1, memory::Options::default())?.into_iter().next();
    let queue = queue.ok_or_else(|| io::Error::other("a link without a queue"))?;
    // One frame each way, so that what the link allocates at first is there.
    let mut crowd = Clocked::new(Crowd::new(AT_ONCE, connections), queue)?;
    crowd.rest(resting / 4);
    let before = snapshot(shared)?;
    let seconds = crowd.open(connections)?.as_secs_f64();
    crowd.rest(resting);
    shared.server.lock().unwrap_or_else(PoisonError::into_inner).take();
    let after = snapshot(shared)?;
    let (there, wrong) = (after.server.usage.connections, crowd.wrong());
    if wrong > 0 || there != connections as usize {
        let text = format!("{there} of {connections} are there, {wrong} segments wrong");
        return Err(io::Error::other(text));
    }
    crowd.leave(connections)?;
    let gone = Instant::now();
    while gone.elapsed() < MINUTE && resident()? > before.resident + LEFT_OVER {
        crowd.rest(Duration::from_millis(500));
    }
    let left = resident()?;
    Ok((before, after, left, seconds))
}

/// What the server says of itself next, and what the kernel says of the process.
fn snapshot(shared: &Shared) -> io::Result<Snapshot> {
    let begin = Instant::now();
    while begin.elapsed() < PATIENCE {
        let said = shared.server.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(server) = said {
            return Ok(Snapshot { resident: resident()?, heap: Heap::now(), server });
        }
        thread::sleep(Duration::from_millis(5));
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, "the server said nothing"))
}

/// Bytes of this process in memory, to the page, hugepages included.
fn resident() -> io::Result<i64> {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup")?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<i64>().ok()
    };
    let rss = field("Rss:").ok_or_else(|| io::Error::other("no Rss in smaps_rollup"))?;
    let huge = field("Private_Hugetlb:").unwrap_or(0) + field("Shared_Hugetlb:").unwrap_or(0);
    Ok((rss + huge) * 1024)
}

async fn serve(style: Style, shared: Arc<Shared>) -> io::Result<()> {
    runtime::spawn_local(idle_ws::accept(style)).detach();
    stages::measure(shared.stages);
    while !shared.stop.load(Ordering::Acquire) {
        runtime::sleep(Duration::from_millis(20)).await;
        if let Some(longest) = stages::take().map(|times| times.longest()) {
            let mut known = shared.longest.lock().unwrap_or_else(PoisonError::into_inner);
            if known.is_none_or(|(_, took)| took < longest.1) {
                *known = Some(longest);
            }
        }
        let said = Server::now()?;
        *shared.server.lock().unwrap_or_else(PoisonError::into_inner) = Some(said);
    }
    Ok(())
}

fn found(
    style: Style,
    connections: u32,
    before: &Snapshot,
    after: &Snapshot,
    seconds: f64,
) -> Value {
    let each = |bytes: i64| (bytes as f64 / f64::from(connections) * 100.0).round() / 100.0;
    let (old, new) = ((&before.server, &before.heap), (&after.server, &after.heap));
    let parts = idle_ws::parts(style, connections, old, new);
    let total = after.resident - before.resident;
    let named: i64 = parts.iter().map(|(_, bytes)| bytes).sum();
    let mut breakdown: Map<String, Value> =
        parts.into_iter().map(|(part, bytes)| (part.to_owned(), each(bytes).into())).collect();
    breakdown.insert("remainder, in none of these".to_owned(), each(total - named).into());
    let small: Vec<Value> = idle_ws::small_blocks(connections, &before.heap, &after.heap)
        .into_iter()
        .map(|(size, count)| json!({ "size": size, "each": count }))
        .collect();
    json!({
        "bytes": each(total),
        "with_start": each(after.resident),
        "start": before.resident,
        "breakdown": breakdown,
        "small_blocks": small,
        "seconds": seconds,
    })
}
