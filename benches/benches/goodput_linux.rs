//! Goodput in real time beside the kernel's CUBIC, over the same path: one bulk transfer at a time from
//! the kernel's sockets and from ours to a kernel receiver, and from the kernel to ours.
//!
//! A cell of the grid is a process in a network namespace of its own: the senders behind one TAP,
//! the receivers, in another namespace, behind a second one, and between the two a relay that is the
//! path ([`throng_bench::relay`]). Goodput is what the receiver's program has read in the given
//! time after it accepted, slow start included. Transfers alternate; a cell's figure is the
//! median of its rounds.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener as StdListener, TcpStream as StdStream};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Parser;
use rustix::net::sockopt::{set_socket_linger, set_tcp_congestion};
use serde_json::{Value, json};
use throng::net::device::tap::TapQueue;
use throng::net::sim::Path;
use throng::{Builder, TcpListener, TcpStream};
use throng_bench::{network, relay};

const CHUNK: usize = 64 << 10;
/// Within this share of the kernel's goodput is what issue 4 asks for.
const WITHIN: f64 = 0.9;
const LOSSES: [f64; 4] = [0.0, 0.1, 1.0, 3.0];
const DELAYS: [f64; 3] = [0.1, 10.0, 100.0];
const RATES: [u64; 2] = [10, 100];
const PORT: u16 = 5001;

#[derive(Parser)]
struct Args {
    /// One round of a few cells
    #[arg(long)]
    quick: bool,
    /// One JSON object on the last line
    #[arg(long)]
    json: bool,
    /// Transfers of each kind in a cell
    #[arg(long, default_value_t = 3)]
    rounds: u64,
    /// Cells measured at once; those of 100 Mbit/s count twice
    #[arg(long, default_value_t = 4)]
    at_once: u64,
    /// Cells as LOSS:RTT:RATE in percent, milliseconds and Mbit/s, in place of the grid
    #[arg(long)]
    cell: Vec<String>,
    /// Length of each transfer in seconds, in place of what suits the path
    #[arg(long)]
    seconds: Option<f64>,
    /// Measure this cell, in this process
    #[arg(long, hide = true)]
    measure: Option<String>,
    /// Leave a capture of the cell's data here
    #[arg(long)]
    capture: Option<String>,
    /// What `cargo bench` passes
    #[arg(long, hide = true)]
    bench: bool,
}

/// A path of the grid, as it is named.
#[derive(Clone, Copy)]
struct Cell {
    loss: f64,
    rtt: f64,
    rate: u64,
}

impl Cell {
    fn parse(text: &str) -> io::Result<Cell> {
        let parts: Vec<f64> = text.split(':').filter_map(|part| part.parse().ok()).collect();
        match parts[..] {
            [loss, rtt, rate] => Ok(Cell { loss, rtt, rate: rate as u64 }),
            _ => Err(io::Error::other(format!("{text} is no cell, as 0.1:10:100 is"))),
        }
    }

    fn name(&self) -> String {
        format!("{}:{}:{}", self.loss, self.rtt, self.rate)
    }

    fn path(&self) -> Path {
        Path::new(Duration::from_secs_f64(self.rtt / 1e3), self.rate * 1_000_000, self.loss / 1e2)
    }

    /// Long enough for slow start to be a small part, and for some dozens of losses.
    fn time(&self) -> Duration {
        Duration::from_secs_f64(4.0 + if self.rtt >= 50.0 { 8.0 } else { 0.0 })
    }

    fn weight(&self) -> u64 {
        1 + u64::from(self.rate >= 100) + 2 * u64::from(self.rate >= 1_000)
    }
}

fn main() -> io::Result<ExitCode> {
    let args = Args::parse();
    if let Some(cell) = &args.measure {
        println!("{}", measure(Cell::parse(cell)?, &args)?);
        return Ok(ExitCode::SUCCESS);
    }
    let mut cells = Vec::new();
    for text in &args.cell {
        cells.push(Cell::parse(text)?);
    }
    if cells.is_empty() {
        for rate in RATES {
            for rtt in DELAYS {
                cells.extend(LOSSES.map(|loss| Cell { loss, rtt, rate }));
            }
        }
        if args.quick {
            cells.retain(|cell| cell.rate == 10 && cell.rtt == 10.0);
        }
    }
    let results = all(&cells, &args)?;
    println!("  loss     RTT      rate |  kernel   ours  ratio |  kernel to ours  ratio");
    let mut worst: f64 = f64::INFINITY;
    for (cell, result) in cells.iter().zip(&results) {
        let of = |key: &str| result[key].as_f64().unwrap_or(f64::NAN);
        let (kernel, ours, received) = (of("kernel"), of("throng"), of("received"));
        worst = worst.min(ours / kernel);
        println!(
            "{:>5} % {:>5} ms {:>4} Mb/s | {kernel:>7.2} {ours:>6.2} {:>6.2} | {received:>15.2} {:>6.2}",
            cell.loss,
            cell.rtt,
            cell.rate,
            ours / kernel,
            received / kernel,
        );
    }
    let within = results.iter().filter(|one| one["ratio"].as_f64() >= Some(WITHIN)).count();
    println!("{within} of {} cells within 10 % of the kernel or above", results.len());
    if args.json {
        let report = json!({
            "bench": "goodput-linux",
            "unit": "ours / kernel, least of all cells",
            "throng": worst,
            "params": { "rounds": args.rounds, "quick": args.quick },
            "cells": results,
        });
        println!("{report}");
    }
    Ok(ExitCode::SUCCESS)
}

/// Measures the cells in processes of their own, some at once; results in the cells' order.
fn all(cells: &[Cell], args: &Args) -> io::Result<Vec<Value>> {
    let mut results = vec![Value::Null; cells.len()];
    let mut running: Vec<(usize, Child)> = Vec::new();
    let mut next = 0;
    while next < cells.len() || !running.is_empty() {
        let load: u64 = running.iter().map(|(at, _)| cells[*at].weight()).sum();
        if let Some(cell) = cells.get(next)
            && (load == 0 || load + cell.weight() <= args.at_once)
        {
            let mut command = Command::new(std::env::current_exe()?);
            command.args(["--measure", &cell.name(), "--rounds"]);
            command.arg(if args.quick { "1".into() } else { args.rounds.to_string() });
            if let Some(seconds) = args.seconds {
                command.args(["--seconds", &seconds.to_string()]);
            }
            if let Some(capture) = &args.capture {
                command.args(["--capture", capture]);
            }
            running.push((next, command.stdout(Stdio::piped()).spawn()?));
            next += 1;
            continue;
        }
        let done = running.iter_mut().position(|(_, child)| !matches!(child.try_wait(), Ok(None)));
        let Some(done) = done else {
            thread::sleep(Duration::from_millis(50));
            continue;
        };
        let (at, child) = running.remove(done);
        let output = child.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let line = text.lines().last().unwrap_or_default();
        results[at] = serde_json::from_str(line)
            .map_err(|_| io::Error::other(format!("cell {} failed", cells[at].name())))?;
        eprintln!("{line}");
    }
    Ok(results)
}

/// One cell, in a namespace of its own.
fn measure(cell: Cell, args: &Args) -> io::Result<Value> {
    network::own()?;
    let left = relay::end("gleft")?;
    network::ip("link add gbridge type bridge forward_delay 0 mcast_snooping 0")?;
    network::ip("link set gleft master gbridge up")?;
    network::bring_up("gbridge", "10.80.0.1/24")?;
    let ours = ours("gsend", "10.80.0.2/24", send_ours)?;
    network::ip("link set gsend master gbridge up")?;

    let (right, end) = Right::start()?;
    let losses = relay::start(left, end, cell.path(), 1);
    let capture = args.capture.as_ref().map(|file| {
        let arguments = ["-i", "gleft", "-s", "100", "-B", "16384", "-w", file, "tcp"];
        Command::new("tcpdump").args(arguments).stderr(Stdio::null()).spawn()
    });

    let time = args.seconds.map_or(cell.time(), Duration::from_secs_f64);
    let (mut kernel, mut throng, mut received) = (Vec::new(), Vec::new(), Vec::new());
    let mut notes = Vec::new();
    for _ in 0..args.rounds {
        for (kind, rates) in [&mut kernel, &mut throng, &mut received].into_iter().enumerate() {
            let before =
                (losses.random.load(Ordering::Relaxed), losses.queue.load(Ordering::Relaxed));
            let resent = resent()?;
            let by_ours = kind == 2;
            let reading = right.receive(by_ours, time);
            let to = SocketAddr::new([10, 80, 0, if by_ours { 101 } else { 100 }].into(), PORT);
            let note = if kind == 1 {
                ours.ask(to, time)?
            } else {
                send_kernel(to, time)?;
                format!("{} sent again", self::resent()? - resent)
            };
            let bytes = reading.recv().map_err(io::Error::other)??;
            rates.push(bytes as f64 * 8.0 / time.as_secs_f64() / 1e6);
            let lost = losses.random.load(Ordering::Relaxed) - before.0;
            let full = losses.queue.load(Ordering::Relaxed) - before.1;
            notes.push(format!(
                "{}: {note}, {lost} lost, {full} beyond the queue",
                ["kernel", "ours", "to ours"][kind]
            ));
            // What is still under way arrives, and finds nobody.
            thread::sleep(Duration::from_millis(250 + 2 * cell.rtt as u64));
        }
    }
    if let Some(Ok(mut capture)) = capture {
        thread::sleep(Duration::from_millis(500));
        let _ = Command::new("kill").arg(capture.id().to_string()).status();
        let _ = capture.wait();
    }
    let (all, ours) = ([kernel.clone(), throng.clone(), received.clone()], median(&mut throng));
    let (kernel, received) = (median(&mut kernel), median(&mut received));
    Ok(json!({
        "cell": cell.name(),
        "kernel": kernel,
        "throng": ours,
        "received": received,
        "ratio": ours / kernel,
        "rounds": all,
        "notes": notes,
    }))
}

fn median(rates: &mut [f64]) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates.get(rates.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Segments this namespace's kernel has sent again so far.
fn resent() -> io::Result<u64> {
    // As the thread's namespace has it, not the process's.
    let text = std::fs::read_to_string("/proc/thread-self/net/snmp")?;
    let values = text.lines().filter(|line| line.starts_with("Tcp:")).nth(1).unwrap_or_default();
    Ok(values.split(' ').nth(12).and_then(|value| value.parse().ok()).unwrap_or(0))
}

/// Sends for a while from the kernel's sockets, then gives up what is queued.
fn send_kernel(to: SocketAddr, time: Duration) -> io::Result<()> {
    let mut stream = StdStream::connect(to)?;
    set_tcp_congestion(&stream, "cubic")?;
    let end = Instant::now() + time + Duration::from_millis(200);
    stream.set_write_timeout(Some(Duration::from_millis(100)))?;
    let chunk = vec![7; CHUNK];
    while Instant::now() < end {
        match stream.write(&chunk) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // The receiver has had enough.
            Err(_) => break,
        }
    }
    set_socket_linger(&stream, Some(Duration::ZERO))?;
    Ok(())
}

type Job<T> = (SocketAddr, Duration, mpsc::Sender<io::Result<T>>);

/// A stack of ours on a TAP, with one kind of job.
struct Ours<T> {
    jobs: futures::channel::mpsc::UnboundedSender<Job<T>>,
}

impl<T> Ours<T> {
    fn begin(&self, addr: SocketAddr, time: Duration) -> mpsc::Receiver<io::Result<T>> {
        let (tell, told) = mpsc::channel();
        let _ = self.jobs.unbounded_send((addr, time, tell));
        told
    }

    fn ask(&self, addr: SocketAddr, time: Duration) -> io::Result<T> {
        self.begin(addr, time).recv().map_err(io::Error::other)?
    }
}

/// Starts a stack in the calling thread's namespace and waits for its interface.
fn ours<T, F>(
    interface: &'static str,
    address: &'static str,
    job: fn(SocketAddr, Duration) -> F,
) -> io::Result<Ours<T>>
where
    T: Send + 'static,
    F: Future<Output = io::Result<T>> + 'static,
{
    let (jobs, todo) = futures::channel::mpsc::unbounded::<Job<T>>();
    let todo = std::sync::Mutex::new(Some(todo));
    let builder = Builder::new().device(format!("tap:{interface}")).address(address);
    thread::spawn(move || {
        let ended = builder.shards(1).run(|_| {
            let todo = todo.lock().ok().and_then(|mut todo| todo.take());
            async move {
                use futures::StreamExt;
                let Some(mut todo) = todo else { return };
                while let Some((addr, time, tell)) = todo.next().await {
                    let _ = tell.send(job(addr, time).await);
                }
            }
        });
        eprintln!("{interface} ended: {ended:?}");
    });
    let end = Instant::now() + Duration::from_secs(20);
    while network::ip(&format!("link show {interface}")).is_err() {
        if Instant::now() > end {
            return Err(io::Error::other(format!("no {interface}")));
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(Ours { jobs })
}

/// Sends for a while; returns what the connection says of itself.
async fn send_ours(to: SocketAddr, time: Duration) -> io::Result<String> {
    let mut stream = TcpStream::connect(to).await?;
    let end = Instant::now() + time + Duration::from_millis(200);
    let chunk = Bytes::from(vec![7; CHUNK]);
    while Instant::now() < end {
        let write = stream.write_chunk(chunk.clone());
        if let Ok(Err(_)) = throng::timeout(Duration::from_millis(100), write).await {
            break;
        }
    }
    let info = stream.info()?;
    stream.abort();
    Ok(format!(
        "{} sent again, window {}, threshold {}, smoothed RTT {:?}",
        info.retransmits, info.cwnd, info.ssthresh, info.srtt
    ))
}

/// Accepts one connection and reads for a while.
async fn receive_ours(at: SocketAddr, time: Duration) -> io::Result<u64> {
    let listener = TcpListener::bind(at)?;
    let (mut stream, _) = listener.accept().await?;
    let end = Instant::now() + time;
    let mut bytes = 0;
    while Instant::now() < end {
        let left = end.saturating_duration_since(Instant::now());
        match throng::timeout(left, stream.read_chunk(usize::MAX)).await {
            Ok(Ok(chunk)) if !chunk.is_empty() => bytes += chunk.len() as u64,
            _ => break,
        }
    }
    stream.abort();
    Ok(bytes)
}

/// The receivers, in a namespace of theirs.
struct Right {
    jobs: mpsc::Sender<(bool, Duration, mpsc::Sender<io::Result<u64>>)>,
}

impl Right {
    /// A thread moves to a namespace of its own, makes the interfaces there, and receives. Returns
    /// the relay's end, too.
    fn start() -> io::Result<(Right, TapQueue)> {
        let (ready, made) = mpsc::channel();
        let (jobs, todo) = mpsc::channel::<(bool, Duration, mpsc::Sender<io::Result<u64>>)>();
        thread::spawn(move || {
            let prepared = prepare_right();
            let (end, ours, listener) = match prepared {
                Ok(prepared) => prepared,
                Err(error) => return drop(ready.send(Err(error))),
            };
            let _ = ready.send(Ok(end));
            while let Ok((by_ours, time, tell)) = todo.recv() {
                if by_ours {
                    let at = SocketAddr::new([10, 80, 0, 101].into(), PORT);
                    let _ = tell.send(ours.ask(at, time));
                } else {
                    let _ = tell.send(receive_kernel(&listener, time));
                }
            }
        });
        let end = made.recv().map_err(io::Error::other)??;
        Ok((Right { jobs }, end))
    }

    /// Begins to receive one transfer; its bytes come later.
    fn receive(&self, by_ours: bool, time: Duration) -> mpsc::Receiver<io::Result<u64>> {
        let (tell, told) = mpsc::channel();
        let _ = self.jobs.send((by_ours, time, tell));
        if by_ours {
            // Its listener is made for each transfer.
            thread::sleep(Duration::from_millis(50));
        }
        told
    }
}

type Prepared = (TapQueue, Ours<u64>, StdListener);

fn prepare_right() -> io::Result<Prepared> {
    network::own()?;
    let end = relay::end("gright")?;
    network::ip("link add gbridge type bridge forward_delay 0 mcast_snooping 0")?;
    network::ip("link set gright master gbridge up")?;
    network::bring_up("gbridge", "10.80.0.100/24")?;
    let ours = ours("greceive", "10.80.0.101/24", receive_ours)?;
    network::ip("link set greceive master gbridge up")?;
    Ok((end, ours, StdListener::bind(("10.80.0.100", PORT))?))
}

fn receive_kernel(listener: &StdListener, time: Duration) -> io::Result<u64> {
    let (mut stream, _) = listener.accept()?;
    let end = Instant::now() + time;
    let mut buffer = vec![0; 4 * CHUNK];
    let mut bytes = 0;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut buffer) {
            Ok(count) if count > 0 => bytes += count as u64,
            _ => break,
        }
    }
    set_socket_linger(&stream, Some(Duration::ZERO))?;
    Ok(bytes)
}
