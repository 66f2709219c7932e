//! Bytes per idle WebSocket, all counted, part by part.
//!
//! The server is an ordinary one on a shard of its own; its clients ([`throng_bench::crowd`])
//! hold nothing, so what this process has resident is the server's. Each client has opened its
//! WebSocket and echoed a message before it falls silent. The program is started anew for each
//! way the server can be written, so that none finds what another has left, and for each peer
//! ([`throng_bench::idle_peer`]).

use std::io;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use throng_bench::count::Counting;
use throng_bench::idle::Style;
use throng_bench::resting::{self, Asked, number, print_left_over, print_parts};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes that issue 5 allows for an idle WebSocket.
const MOST: f64 = 600.0;
const WHAT: &str = "WebSocket";
/// Of `benches/peers`: the buffers as small as they can be, and as one gets them, which are 137 KB each
/// and so not of as many as are asked for.
const PEERS: [(&str, u32); 2] = [("tungstenite", u32::MAX), ("tungstenite-defaults", 20_000)];

#[derive(Parser)]
struct Args {
    #[command(flatten)]
    asked: Asked,
    /// Measure the loop's stages while all come, too, which takes longer
    #[arg(long)]
    stages: bool,
    /// Only the server that is written as it should be, not the others
    #[arg(long)]
    handler: bool,
    /// Measure this one only, in this process
    #[arg(long, hide = true)]
    only: Option<Written>,
}

/// How the server is written.
#[derive(Clone, Copy, ValueEnum)]
enum Written {
    Handler,
    Pinging,
    Loop,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("idle-ws: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> io::Result<bool> {
    let found = match (&args.asked.peer, args.only) {
        (Some(peer), _) => args.asked.measure_peer(peer)?,
        (None, Some(written)) => {
            let style = match written {
                Written::Handler => Style::Handler,
                Written::Pinging => Style::Pinging,
                Written::Loop => Style::Loop,
            };
            resting::measure(&args.asked.plan(style, args.stages))?
        }
        (None, None) => return all(args),
    };
    println!("{found}");
    Ok(true)
}

/// A process for each way; prints what they have found.
fn all(args: &Args) -> io::Result<bool> {
    let asked = &args.asked;
    let stages = args.stages.then_some("--stages");
    let child = |written: &str| {
        asked.again(&["--only", written].into_iter().chain(stages).collect::<Vec<_>>())
    };
    let handler = child("handler")?;
    print_parts(&handler, WHAT, &format!("   at most {MOST}"));
    println!("  {:<40} {:>8.1}", "with the process's start", number(&handler, "with_start"));
    let mut others = Vec::new();
    for (written, key, what) in [
        ("loop", "async_fn", "the server as an async fn with a loop"),
        ("pinging", "with_ping_timer", "with a ping timer each"),
    ] {
        if !args.handler {
            let found = child(written)?;
            println!("  {what:<40} {:>8.1}", number(&found, "bytes"));
            others.push((key, found));
        }
    }
    let peers = asked.measure_peers(&PEERS);
    peers.print();
    let gone = print_left_over(&handler);
    if let Some(longest) = handler["longest_stage_us"].as_f64() {
        println!("longest stage of the loop: {longest} us ({})", handler["longest_stage"]);
    }
    if asked.json {
        let mut line = asked.line("idle-ws", WHAT, &handler, &peers);
        for (key, found) in &others {
            line[*key] = found["bytes"].clone();
        }
        for key in ["longest_stage", "longest_stage_us"] {
            line[key] = handler[key].clone();
        }
        println!("{line}");
    }
    Ok(number(&handler, "bytes") <= MOST && gone && peers.are_well())
}
