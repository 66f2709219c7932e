//! An HTTP load balancer on Throng: the README tells what it does.

#![forbid(unsafe_code)]

mod admin;
mod balance;
mod config;
mod group;
mod handover;
mod health;
mod histogram;
mod life;
mod log;
mod notify;
mod proxied;
mod proxy;
mod random;
mod rate;
mod reload;
mod resolve;
mod route;
mod run;
mod shard;
mod sockets;
mod tcp;
mod tls;
mod tunnel;
mod vitals;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

#[derive(Parser)]
#[command(name = "throng-lb", about = "An HTTP load balancer", version)]
struct Args {
    /// The configuration; see --print-default
    #[arg(required_unless_present = "print_default")]
    config: Option<PathBuf>,
    /// Say whether the configuration is right, and end
    #[arg(long)]
    check: bool,
    /// Print a configuration with every key, and end
    #[arg(long)]
    print_default: bool,
    /// The device, such as tap:throng0, over what the configuration and THRONG_DEVICE say
    #[arg(long)]
    device: Option<String>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let Some(file) = args.config.filter(|_| !args.print_default) else {
        print!("{}", config::DEFAULT);
        return ExitCode::SUCCESS;
    };
    let world = match world::World::load(&file) {
        Ok(world) => world,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    if args.check {
        println!("{}: fine", file.display());
        return ExitCode::SUCCESS;
    }
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let begun = life::Life::begin();
    match begun.and_then(|(life, handed)| run::run(life, world.inherit(&handed), args.device)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("throng-lb: {error}");
            ExitCode::FAILURE
        }
    }
}
