//! Bytes per idle keep-alive HTTP/1.1 connection, all counted, part by part.
//!
//! Each client has had one page before it falls silent; who they are, and what is counted, is
//! [`throng_bench::resting`]'s and, of peers, [`throng_bench::idle_peer`]'s to say. The program is started anew
//! for Throng and for each peer.

use std::io;
use std::process::ExitCode;

use clap::Parser;
use throng_bench::count::Counting;
use throng_bench::idle::Style;
use throng_bench::resting::{self, Asked, print_left_over, print_parts};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const WHAT: &str = "HTTP/1.1 connection";
/// hyper on tokio, and Debian's web servers, which answer by themselves.
const PEERS: [(&str, u32); 3] =
    [("tokio-http", u32::MAX), ("nginx", u32::MAX), ("haproxy", u32::MAX)];

#[derive(Parser)]
struct Args {
    #[command(flatten)]
    asked: Asked,
    /// Measure Throng only, in this process
    #[arg(long, hide = true)]
    alone: bool,
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
    let asked = &args.asked;
    let found = match &asked.peer {
        Some(peer) => asked.measure_peer(peer)?,
        None if args.alone => resting::measure(&asked.plan(Style::Pages, false))?,
        None => return all(asked),
    };
    println!("{found}");
    Ok(true)
}

/// A process for Throng and for each peer; prints what they have found.
fn all(asked: &Asked) -> io::Result<bool> {
    let throng = asked.again(&["--alone"])?;
    print_parts(&throng, WHAT, "");
    let peers = asked.measure_peers(&PEERS);
    peers.print();
    let gone = print_left_over(&throng);
    if asked.json {
        println!("{}", asked.line("idle-http", WHAT, &throng, &peers));
    }
    Ok(gone && peers.are_well())
}
