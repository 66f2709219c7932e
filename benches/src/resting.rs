//! What idle connections of Throng's server take in memory, all counted, in a process that is for
//! nothing else.
//!
//! The server is an ordinary one on a shard of its own; its clients ([`crowd`](crate::crowd)) hold
//! nothing, so what the process has resident is the server's.

use std::io;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Map, Value, json};
use throng::net::device::memory;
use throng::runtime::stages::{self, Stage};
use throng::{Builder, Limits, runtime};

use crate::clocked::{Clocked, PATIENCE};
use crate::count::Heap;
use crate::crowd::{Crowd, SERVER};
use crate::idle::{self, Server, Style};
use crate::idle_peer;

/// Clients on their way at a time.
const AT_ONCE: u32 = 128;
/// What may be left of it all a minute after the clients have gone, in bytes.
pub const LEFT_OVER: i64 = 16 << 20;
const MINUTE: Duration = Duration::from_secs(60);
const LINK: &str = "idle";

/// How long all are silent before memory is measured: every timer of the traffic before is over.
const REST: Duration = Duration::from_secs(4);
const QUICK_REST: Duration = Duration::from_millis(500);
/// Connections of a quick run, Throng's and a peer's.
const QUICK: [u32; 2] = [20_000, 4_000];

/// What the benches of idle connections take.
#[derive(Clone, Debug, Args)]
pub struct Asked {
    /// Connections of Throng
    #[arg(long, default_value_t = 1_000_000,
        value_parser = clap::value_parser!(u32).range(1_000..=10_000_000))]
    connections: u32,
    /// At most 20,000 of them, 4,000 of a peer, and less time for what they leave behind to go
    #[arg(long)]
    quick: bool,
    /// One JSON object on the last line
    #[arg(long)]
    pub json: bool,
    /// Connections of each peer
    #[arg(long, default_value_t = 100_000,
        value_parser = clap::value_parser!(u32).range(1_000..=200_000))]
    peer_connections: u32,
    /// Only the peers whose name contains this; `none` for none
    #[arg(long)]
    peers: Option<String>,
    /// Measure this peer only, in this process
    #[arg(long, hide = true)]
    pub peer: Option<String>,
    /// What cargo passes to every bench
    #[arg(long, hide = true)]
    bench: bool,
}

impl Asked {
    /// Connections of Throng.
    pub fn connections(&self) -> u32 {
        if self.quick { self.connections.min(QUICK[0]) } else { self.connections }
    }

    /// Connections of a peer that is to have `most`.
    fn of_peer(&self, most: u32) -> u32 {
        self.peer_connections.min(if self.quick { QUICK[1] } else { most })
    }

    /// What is measured of a server of this kind, the loop's stages too or not.
    pub fn plan(&self, style: Style, stages: bool) -> Plan {
        let resting = if self.quick { QUICK_REST } else { REST };
        Plan { style, connections: self.connections(), resting, stages }
    }

    /// This program again, for Throng alone: what its arguments are beside `others`.
    ///
    /// # Errors
    /// It fails.
    pub fn again(&self, others: &[&str]) -> io::Result<Value> {
        let connections = self.connections().to_string();
        let mut all = vec!["--connections", &connections];
        all.extend(others);
        all.extend(self.quick.then_some("--quick"));
        again(&all)
    }

    /// Measures a peer in this process.
    ///
    /// # Errors
    /// It fails.
    pub fn measure_peer(&self, kind: &str) -> io::Result<Value> {
        idle_peer::measure(kind, self.peer_connections)
    }

    /// Those of `all` that are wanted, each in a process of its own and with at most as many connections as stand
    /// beside its name.
    pub fn measure_peers(&self, all: &[(&str, u32)]) -> Peers {
        let wanted =
            |name: &str| self.peers.as_ref().is_none_or(|part| name.contains(part.as_str()));
        let mut peers = Peers::default();
        for (name, most) in all.iter().filter(|(name, _)| wanted(name)) {
            let connections = self.of_peer(*most).to_string();
            match again(&["--peer", name, "--peer-connections", &connections]) {
                Ok(one) => drop(peers.found.insert((*name).to_owned(), one)),
                Err(error) => peers.failures.push(format!("{name}: {error}")),
            }
        }
        peers
    }

    /// The object that `--json` prints, of Throng's server and of the peers.
    pub fn line(&self, bench: &str, what: &str, throng: &Value, peers: &Peers) -> Value {
        let total = number(throng, "bytes");
        let by_bytes = |(_, a): &(&String, &Value), (_, b): &(&String, &Value)| {
            f64::total_cmp(&number(a, "bytes"), &number(b, "bytes"))
        };
        let best = peers.found.iter().min_by(by_bytes);
        let bytes = peers.found.iter().map(|(name, peer)| (name.clone(), peer["bytes"].clone()));
        json!({
            "bench": bench,
            "params": {
                "connections": throng["connections"],
                "peers_connections": self.of_peer(u32::MAX),
                "quick": self.quick,
            },
            "unit": format!("bytes per idle {what}, resident"),
            "throng": total,
            // Measured once.
            "spread": null,
            "peers": bytes.collect::<Map<_, _>>(),
            "best_peer": best.map(|(name, _)| name),
            "ratio": best.map(|(_, peer)| total / number(peer, "bytes")),
            // Bytes are the same beside other work; what of it is not is in the details.
            "noisy": false,
            "failures": peers.failures,
            "details": peers.found,
            "connections": throng["connections"],
            "bytes_per_connection": total,
            "breakdown": throng["breakdown"],
            "start_bytes": throng["start"],
            "left_over_bytes": throng["left_over"],
            "small_blocks": throng["small_blocks"],
            "open_seconds": throng["seconds"],
        })
    }
}

/// What the peers take, by their names, and who failed.
#[derive(Clone, Debug, Default)]
pub struct Peers {
    found: Map<String, Value>,
    failures: Vec<String>,
}

impl Peers {
    /// Whether none failed.
    pub fn are_well(&self) -> bool {
        self.failures.is_empty()
    }

    /// A line for each.
    pub fn print(&self) {
        for (name, found) in &self.found {
            println!(
                "{name}, of {}: {:.1}, {:.1} of its own and {:.1} of the kernel's; all slabs {:.1}, \
                 no longer free {:.1}",
                found["connections"],
                number(found, "bytes"),
                number(found, "user"),
                number(found, "kernel"),
                number(found, "all_slabs"),
                number(found, "no_longer_free"),
            );
        }
        for failure in &self.failures {
            println!("FAILED: {failure}");
        }
    }
}

/// Prints the parts of what `throng` has measured of a `what`, and their sum with `remark` behind it.
pub fn print_parts(throng: &Value, what: &str, remark: &str) {
    println!("bytes per idle {what}, of {}:", throng["connections"]);
    for (part, bytes) in throng["breakdown"].as_object().into_iter().flatten() {
        println!("  {part:<40} {:>8.1}", bytes.as_f64().unwrap_or(f64::NAN));
    }
    println!("  {:<40} {:>8.1}{remark}", "resident", number(throng, "bytes"));
    println!("opened, and the first answer given to each, in {:.1} s", number(throng, "seconds"));
}

/// Prints what is left when all have gone; returns whether it is as little as it is to be.
pub fn print_left_over(throng: &Value) -> bool {
    let (left, most) = (number(throng, "left_over"), LEFT_OVER as f64);
    println!(
        "when all have gone: {:.1} MB more than before they came, at most {:.1}",
        left / 1e6,
        most / 1e6
    );
    left <= most
}

/// A figure of what was measured; NaN where there is none.
pub fn number(of: &Value, key: &str) -> f64 {
    of[key].as_f64().unwrap_or(f64::NAN)
}

/// What is to be measured.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How the server is written, and so what it serves.
    pub style: Style,
    /// How many connections.
    pub connections: u32,
    /// How long all are silent before memory is measured.
    pub resting: Duration,
    /// Whether to measure the loop's stages while all come, too, which takes longer.
    pub stages: bool,
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

/// Measures a server of Throng's in this process, which is to be for nothing else.
///
/// # Errors
/// The server fails, or a client gets what it did not ask for, or nothing.
pub fn measure(plan: &Plan) -> io::Result<Value> {
    let Plan { style, connections, resting, .. } = *plan;
    let shared = Arc::new(Shared { stages: plan.stages, ..Shared::default() });
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
    let measured = come_and_go(plan, resting, &shared);
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
    Ok(found)
}

/// Opens all, lets them rest, and has them go; returns memory before and with them, what is resident
/// in the end, and how long opening took.
fn come_and_go(
    plan: &Plan,
    resting: Duration,
    shared: &Shared,
) -> io::Result<(Snapshot, Snapshot, i64, f64)> {
    let connections = plan.connections;
    let queue = memory::open(LINK, 1, memory::Options::default())?.into_iter().next();
    let queue = queue.ok_or_else(|| io::Error::other("a link without a queue"))?;
    // One frame each way, so that what the link allocates at first is there.
    let mut crowd = Clocked::new(Crowd::new(plan.style.wish(), AT_ONCE, connections), queue)?;
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
    runtime::spawn_local(idle::accept(style)).detach();
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
    let parts = idle::parts(style, connections, old, new);
    let total = after.resident - before.resident;
    let named: i64 = parts.iter().map(|(_, bytes)| bytes).sum();
    let mut breakdown: Map<String, Value> =
        parts.into_iter().map(|(part, bytes)| (part.to_owned(), each(bytes).into())).collect();
    breakdown.insert("remainder, in none of these".to_owned(), each(total - named).into());
    let small: Vec<Value> = idle::small_blocks(connections, &before.heap, &after.heap)
        .into_iter()
        .map(|(size, count)| json!({ "size": size, "each": count }))
        .collect();
    json!({
        "connections": connections,
        "bytes": each(total),
        "with_start": each(after.resident),
        "start": before.resident,
        "breakdown": breakdown,
        "small_blocks": small,
        "seconds": seconds,
    })
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
