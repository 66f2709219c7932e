//! `cargo xtask sim`: the seeded swarm of `sim/`.

use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use crate::cargo::{build_programs, cargo};
use crate::host;
use crate::process::{Cmd, Finished};
use crate::report::Outcome;

const LIMIT: Duration = Duration::from_secs(600);
/// What a run of all tests has time for, unoptimised. The seeds stay the same, so that a
/// failure is somebody's change; long runs look at others.
const SEEDS: &str = "500";
const SECONDS: &str = "40";
/// What the slowest machine manages; fewer are no test.
const AT_LEAST: &str = "250";

/// `cargo xtask sim args...`, optimised.
pub(crate) fn command(args: &[String]) -> io::Result<ExitCode> {
    let run = cargo(["run", "--quiet", "--profile", "sim", "--package", "throng-sim", "--"]);
    let ended = run.args(args).attached()?;
    Ok(if ended.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A run of the program as it is built with all the others: optimising it would take longer than
/// these runs do without.
fn built(log: &Path, args: &[&str]) -> io::Result<Finished> {
    build_programs(log.to_owned()).map_err(io::Error::other)?;
    let program = host::target().join("debug/throng-sim");
    Cmd::new(program).args(args).dir(host::root()).log(log).limit(LIMIT).run()
}

/// Some seeds as a test.
pub(crate) fn check(log: &Path) -> Outcome {
    let done = built(log, &["--seeds", SEEDS, "--seconds", SECONDS, "--at-least", AT_LEAST]);
    if let Ok(done) = &done {
        // How many there was time for.
        done.output.lines().filter(|line| line.contains(" seeds from ")).for_each(say);
    }
    Outcome::of_check("sim", done)
}

/// What a stream achieves over the paths that are cheap to simulate, against the snapshot.
pub(crate) fn check_goodput(log: &Path) -> Outcome {
    Outcome::of_check("goodput", built(log, &["--goodput"]))
}

fn say(line: &str) {
    println!("    {line}");
}
