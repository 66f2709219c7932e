//! Starts both ends, measures the idle server, prints what came of it.

use std::io::{self, BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde::Serialize;
use throng::Builder;

use crate::client::{self, Outcome, Phases};
use crate::memory::Resident;
use crate::{host, server};

/// How long both ends rest before the server is measured.
const REST: Duration = Duration::from_secs(2);

/// The last line of `--json`.
#[derive(Serialize)]
struct Summary {
    device: &'static str,
    shards: u16,
    connections: u32,
    opened: u32,
    echoed: u32,
    errors: u32,
    bytes_per_connection: u64,
    measured: &'static str,
    memory_before: u64,
    memory_idle: u64,
    open_seconds: f64,
    opens_per_second: u64,
    echo_seconds: f64,
    echoes_per_second: u64,
}

/// How long the server's process may take to end.
const END: Duration = Duration::from_secs(20);

/// How a run over DPDK came to nothing.
enum Failure {
    /// DPDK or the link was not to be had; the memory device may do.
    Start(io::Error),
    /// Both ends ran, and then something went wrong: that is the demo's result.
    Run(io::Error),
}

/// The server, wherever it lives.
enum Server {
    Process(Child),
    Thread(Arc<server::Control>, std::thread::JoinHandle<io::Result<()>>),
}

/// Runs the demo. Returns whether every connection opened and echoed.
pub(crate) fn run(connections: u32, shards: u16, json: bool, memory: bool) -> io::Result<bool> {
    let without_dpdk = match memory {
        true => Some("asked for with --memory"),
        false if !cfg!(feature = "dpdk") => Some("this build is without DPDK (libdpdk not found)"),
        false => None,
    };
    let summary = match without_dpdk {
        Some(why) => {
            println!("device: memory, both ends in this process; {why}");
            run_in_memory(connections, shards)?
        }
        None => run_with_dpdk(connections, shards)?,
    };
    print(&summary, json)?;
    let whole = summary.opened == connections && summary.echoed == connections;
    Ok(whole && summary.errors == 0)
}

/// Over memif; over the memory device where DPDK does not start.
fn run_with_dpdk(connections: u32, shards: u16) -> io::Result<Summary> {
    println!("device: dpdk net_memif, server and client are two processes");
    match run_on_memif(connections, shards) {
        Ok(summary) => Ok(summary),
        Err(Failure::Run(error)) => Err(error),
        Err(Failure::Start(error)) => {
            println!("device: memory, both ends in this process; DPDK did not start: {error}");
            run_in_memory(connections, shards)
        }
    }
}

fn run_on_memif(connections: u32, shards: u16) -> Result<Summary, Failure> {
    // In the abstract name space there is no file that an interrupted run could leave behind.
    let socket = format!("throng-demo-{}", std::process::id());
    let common = format!("id=0,socket={socket},socket-abstract=yes");
    let program = std::env::current_exe().map_err(Failure::Start)?;
    let mut child = Command::new(program)
        .args(["server", "--device", &format!("dpdk:net_memif0,role=server,{common}")])
        .args(["--shards", &shards.to_string(), "--connections", &connections.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(Failure::Start)?;
    let stdout = child.stdout.take().map(BufReader::new);
    let pid = child.id();
    let server = Server::Process(child);
    let ready = stdout
        .is_some_and(|stdout| stdout.lines().map_while(Result::ok).any(|line| line == "ready"));
    if !ready {
        let why = server.stop().err();
        let why = why.unwrap_or_else(|| io::Error::other("the server process did not start"));
        return Err(Failure::Start(why));
    }
    let device = format!("dpdk:net_memif0,role=client,{common}");
    let measured = "growth of the server process's resident memory, hugepages included";
    let outcome = drive(&device, connections, shards, || Resident::of(pid));
    let stopped = server.stop();
    let (outcomes, before, idle) = outcome?;
    stopped.map_err(Failure::Run)?;
    Ok(Summary::new("dpdk:net_memif", measured, connections, shards, &outcomes, before, idle))
}

fn run_in_memory(connections: u32, shards: u16) -> io::Result<Summary> {
    let control = Arc::new(server::Control::default());
    let shared = control.clone();
    let thread =
        std::thread::spawn(move || server::run("memory:demo", shards, connections, &shared));
    let server = Server::Thread(control.clone(), thread);
    while control.listening.load(Ordering::Acquire) < usize::from(shards) {
        if let Server::Thread(_, thread) = &server
            && thread.is_finished()
        {
            server.stop()?;
            return Err(io::Error::other("the server ended before it listened"));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let measured = "growth of this process's resident memory: server and client together";
    let outcome = drive("memory:demo", connections, shards, Resident::of_self);
    let stopped = server.stop();
    let (outcomes, before, idle) = outcome.map_err(|failure| match failure {
        Failure::Start(error) | Failure::Run(error) => error,
    })?;
    stopped?;
    Ok(Summary::new("memory", measured, connections, shards, &outcomes, before, idle))
}

/// Runs the client and measures with `resident` before it opens and while all are idle.
fn drive(
    device: &str,
    connections: u32,
    shards: u16,
    resident: impl Fn() -> io::Result<Resident> + Sync,
) -> Result<(Vec<Outcome>, Resident, Resident), Failure> {
    let before = resident().map_err(Failure::Run)?;
    let phases = Arc::new(Phases::default());
    let builder = Builder::new()
        .device(device)
        .address(format!("{}/24", host::CLIENT))
        .shards(shards.into())
        .limits(host::limits(connections));
    std::thread::scope(|scope| {
        let measuring = scope.spawn(|| {
            let idle = if phases.wait_echoed(shards) {
                std::thread::sleep(REST);
                resident()
            } else {
                Err(io::Error::other("the client did not echo on all in 600 s"))
            };
            phases.measured();
            idle
        });
        let client = phases.clone();
        let outcomes = builder.run(move |shard| {
            let phases = client.clone();
            async move { client::run(connections, shard.0, shards, &phases).await }
        });
        if outcomes.is_err() {
            phases.give_up();
        }
        let idle = measuring.join().map_err(|_| Failure::Run(io::Error::other("measuring")))?;
        let kind = if phases.begun() { Failure::Run } else { Failure::Start };
        Ok((outcomes.map_err(kind)?, before, idle.map_err(Failure::Run)?))
    })
}

impl Server {
    fn stop(self) -> io::Result<()> {
        match self {
            Server::Process(mut child) => {
                drop(child.stdin.take());
                let patience = Instant::now() + END;
                while Instant::now() < patience {
                    match child.try_wait()? {
                        Some(status) if status.success() => return Ok(()),
                        Some(status) => {
                            return Err(io::Error::other(format!("the server ended: {status}")));
                        }
                        None => std::thread::sleep(Duration::from_millis(10)),
                    }
                }
                child.kill()?;
                child.wait()?;
                Err(io::Error::other(format!("the server did not end in {} s", END.as_secs())))
            }
            Server::Thread(control, thread) => {
                control.stop.store(true, Ordering::Release);
                thread.join().map_err(|_| io::Error::other("the server panicked"))?
            }
        }
    }
}

impl Summary {
    fn new(
        device: &'static str,
        measured: &'static str,
        connections: u32,
        shards: u16,
        outcomes: &[Outcome],
        before: Resident,
        idle: Resident,
    ) -> Summary {
        let sum = |field: fn(&Outcome) -> u32| outcomes.iter().map(field).sum::<u32>();
        let slowest = |field: fn(&Outcome) -> f64| outcomes.iter().map(field).fold(0.0, f64::max);
        let (opened, echoed) = (sum(|o| o.opened), sum(|o| o.echoed));
        let (open_seconds, echo_seconds) =
            (slowest(|o| o.open_seconds), slowest(|o| o.echo_seconds));
        let grown = idle.total().saturating_sub(before.total());
        Summary {
            device,
            shards,
            connections,
            opened,
            echoed,
            errors: sum(|o| o.errors),
            bytes_per_connection: grown / u64::from(opened.max(1)),
            measured,
            memory_before: before.total(),
            memory_idle: idle.total(),
            open_seconds,
            opens_per_second: (f64::from(opened) / open_seconds.max(1e-9)) as u64,
            echo_seconds,
            echoes_per_second: (f64::from(echoed) / echo_seconds.max(1e-9)) as u64,
        }
    }
}

fn print(summary: &Summary, json: bool) -> io::Result<()> {
    println!("opened   {:>10} of {}", summary.opened, summary.connections);
    println!("         {:>10} per second", summary.opens_per_second);
    println!("echoed   {:>10}", summary.echoed);
    println!("         {:>10} per second", summary.echoes_per_second);
    println!("errors   {:>10}", summary.errors);
    println!("memory   {:>10} bytes per idle connection", summary.bytes_per_connection);
    println!("         ({})", summary.measured);
    println!();
    println!("try it with your own curl, over a TAP (as root; the second line in another shell):");
    println!(
        "  THRONG_DEVICE=tap:throng0 THRONG_ADDRESS=10.9.0.2/24 cargo run --example http-hello"
    );
    println!("  ip addr add 10.9.0.1/24 dev throng0 && curl http://10.9.0.2/");
    if json {
        println!("{}", serde_json::to_string(summary).map_err(io::Error::other)?);
    }
    Ok(())
}
