//! Opens very many WebSockets between two Throng runtimes, echoes on all of them, and says
//! what an idle one costs the server.
//!
//! With DPDK the server is a process of its own, joined by a memif pair, and its memory is
//! its own resident memory. Without, both live in this process, joined by the memory device,
//! and what is reported is both sides' memory together.

#![forbid(unsafe_code)]

mod client;
mod host;
mod memory;
mod server;
mod summary;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "throng-demo", about = "Opens very many WebSockets, echoes on all, counts bytes")]
struct Args {
    #[command(subcommand)]
    role: Option<Role>,
    /// WebSockets to open
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=20_000_000))]
    connections: u32,
    /// Shards of the server and queues of the link; default: the cores less the client's one
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=64))]
    shards: Option<u16>,
    /// Print one JSON object on the last line
    #[arg(long)]
    json: bool,
    /// Use the memory device even where DPDK is to be had
    #[arg(long)]
    memory: bool,
}

#[derive(Subcommand)]
enum Role {
    /// The server's side of the pair; started by the demo itself
    #[command(hide = true)]
    Server {
        #[arg(long)]
        device: String,
        #[arg(long)]
        shards: u16,
        #[arg(long)]
        connections: u32,
    },
}

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let args = Args::parse();
    let outcome = match args.role {
        Some(Role::Server { device, shards, connections }) => {
            server::run_process(&device, shards, connections)
        }
        None => {
            let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
            let shards = args.shards.unwrap_or((cores - 1).clamp(1, 64) as u16);
            summary::run(args.connections, shards, args.json, args.memory)
        }
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
