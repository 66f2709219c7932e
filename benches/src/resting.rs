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

use serde_json::{Map, Value, json};
use throng::net::device::memory;
use throng::runtime::stages::{self, Stage};
use throng::{Builder, Limits, runtime};

use crate::clocked::{Clocked, PATIENCE};
use crate::count::Heap;
use crate::crowd::{Crowd, SERVER};
use crate::idle::{self, Server, Style};

/// Clients on their way at a time.
const AT_ONCE: u32 = 128;
/// What may be left of it all a minute after the clients have gone, in bytes.
pub const LEFT_OVER: i64 = 16 << 20;
const MINUTE: Duration = Duration::from_secs(60);
const LINK: &str = "idle";

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
///
/// # Errors
/// It fails.
pub fn again(arguments: &[&str]) -> io::Result<Value> {
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
