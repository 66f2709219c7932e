//! The one door: `cargo xtask setup | demo | test | sim | fuzz | bench`.
//!
//! Each command does the set-up it needs by itself; CI calls `cargo xtask test` and
//! nothing else. What every level of the tests proves is in `docs/TESTING.md`.

#![forbid(unsafe_code)]

mod behind;
mod bench;
mod cargo;
mod demo;
mod differential;
mod figures;
mod fuzz;
mod guest;
mod host;
mod hugepages;
mod interop;
mod process;
mod report;
mod setup;
mod sim;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Throng's one door: set-up, demo, tests, benches")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what demo, test and bench need, or say what to run
    Setup,
    /// Build and run the demo; arguments are passed on to it
    #[command(disable_help_flag = true)]
    Demo {
        /// Arguments of the demo itself (`--help` lists them)
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Run every check and test
    Test(test::Options),
    /// Run the interop tests alone: real clients of the kernel's side against our server
    Interop(interop::Options),
    /// Play scripted exchanges with the kernel's TCP and with ours, and compare
    Differential(differential::Options),
    #[command(hide = true)]
    InteropInside(interop::InsideOptions),
    /// Run simulated hosts under faults, seed by seed; arguments are passed on
    #[command(disable_help_flag = true)]
    Sim {
        /// Arguments of the simulation itself (`--help` lists them)
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Run a fuzz target by cargo-fuzz: needs a nightly toolchain
    Fuzz(fuzz::Options),
    /// Run the benches, or the one that is named; `report` writes docs/PERFORMANCE.md's figures
    Bench {
        /// Name of one bench
        name: Option<String>,
        /// Arguments passed on to the bench
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

fn main() -> ExitCode {
    process::end_children_on_signals();
    let result = match Cli::parse().command {
        Command::Setup => setup::command(),
        Command::Demo { args } => demo::command(&args),
        Command::Test(options) => test::command(&options),
        Command::Interop(options) => interop::command(&options),
        Command::Differential(options) => differential::command(&options),
        Command::InteropInside(options) => interop::inside(&options),
        Command::Sim { args } => sim::command(&args),
        Command::Fuzz(options) => fuzz::command(&options),
        Command::Bench { name, args } => bench::command(name.as_deref(), &args),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}
