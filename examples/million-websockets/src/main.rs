//! Opens very many WebSockets between two Throng runtimes, echoes on all of them while more
//! open, publishes to all, and says what an idle one costs.
//!
//! With DPDK the server is a process of its own, joined by a memif pair, and its memory is
//! its own resident memory. Without, both live in this process, joined by the memory device,
//! and what is reported is both sides' memory together. The README tells the rest.

#![forbid(unsafe_code)]

mod abuse;
mod client;
mod drive;
mod ends;
mod hold;
mod host;
mod memory;
mod page;
mod plan;
mod report;
mod server;
mod stats;
mod summary;
#[cfg(test)]
mod tests;
mod view;

use std::io;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "throng-demo", about = "Opens very many WebSockets, echoes on all, counts bytes")]
#[command(args_conflicts_with_subcommands = true)]
struct Args {
    #[command(subcommand)]
    role: Option<Role>,
    /// WebSockets to open, or fewer where memory is short; default: a million
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=20_000_000))]
    connections: Option<u32>,
    /// Open all of them though memory is short
    #[arg(long)]
    anyway: bool,
    /// Shards of the server and queues of the link; default: the cores less the client's one
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=64))]
    shards: Option<u16>,
    #[command(flatten)]
    load: client::Load,
    /// Print one JSON object on the last line
    #[arg(long)]
    json: bool,
    /// Use the memory device even where DPDK is to be had
    #[arg(long)]
    memory: bool,
    #[command(flatten)]
    settings: server::Settings,
    #[command(flatten)]
    page: page::Options,
    /// Keep everything up, with echoes at --rate, until Enter or Ctrl-C
    #[arg(long)]
    hold: bool,
}

#[derive(Subcommand)]
enum Role {
    /// The client alone, towards a server elsewhere
    Client {
        /// The device, as in THRONG_DEVICE
        #[arg(long)]
        device: String,
        /// Shards, each a queue of the device
        #[arg(long, default_value_t = 1)]
        shards: u16,
        /// WebSockets to open; the server must have been told the same number
        #[arg(long)]
        connections: u32,
        #[command(flatten)]
        load: client::Load,
        /// Print one JSON object on the last line
        #[arg(long)]
        json: bool,
    },
    /// What the server does at its limits, as scenarios that are judged
    Abuse(abuse::Abuse),
    /// Opens connections, says `open` and holds them until it is killed
    #[command(hide = true)]
    Hold {
        #[arg(long)]
        device: String,
        #[arg(long)]
        connections: u32,
    },
    /// The server alone; commands on its standard input, see the README
    Server {
        /// The device, as in THRONG_DEVICE
        #[arg(long)]
        device: String,
        /// Shards, each a queue of the device
        #[arg(long, default_value_t = 1)]
        shards: u16,
        /// Connections to have room and ports for
        #[arg(long)]
        connections: u32,
        #[command(flatten)]
        settings: server::Settings,
        #[command(flatten)]
        page: page::Options,
    },
}

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let args = Args::parse();
    let outcome = match args.role {
        Some(Role::Server { device, shards, connections, settings, page }) => {
            server::run_process(&device, shards, connections, &settings, page.page)
        }
        Some(Role::Client { device, shards, connections, load, json }) => {
            drive::client_alone(&device, shards, connections, load).and_then(|summary| {
                summary.print(json)?;
                Ok(summary.is_whole())
            })
        }
        Some(Role::Abuse(abuse)) => abuse::command(&abuse),
        Some(Role::Hold { device, connections }) => abuse::killed::hold(&device, connections),
        None => demo(args),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("throng-demo: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Returns whether every connection opened and echoed.
fn demo(args: Args) -> io::Result<bool> {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let shards = args.shards.unwrap_or((cores - 1).clamp(1, 64) as u16);
    let free = plan::free_memory();
    let wanted = args.connections.unwrap_or(plan::MANY);
    let connections = if args.anyway { wanted } else { plan::connections(wanted, free) };
    let gigabytes = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    println!(
        "{cores} cores, {:.1} GiB of memory to be had: {connections} connections, {shards} shards",
        gigabytes(free)
    );
    if plan::needed(wanted) > free {
        let needed = gigabytes(plan::needed(wanted));
        println!("memory is short: {wanted} connections may need {needed:.1} GiB");
    }
    let run = drive::Run {
        connections,
        shards,
        load: args.load,
        settings: args.settings,
        memory: args.memory,
        page: args.page.page,
        hold: args.hold,
    };
    let summary = drive::run(&run)?;
    summary.print(args.json)?;
    Ok(summary.is_whole())
}
