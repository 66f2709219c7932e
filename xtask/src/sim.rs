//! `cargo xtask sim`: the seeded swarm of `sim/`.

use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use crate::cargo::cargo;
use crate::process::Cmd;
use crate::report::Outcome;

/// Building takes a part of it.
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

/// What [`check`] and [`check_goodput`] run first.
pub(crate) fn build(log: &Path) -> Cmd {
    cargo(["build", "--locked", "--quiet", "--package", "throng-sim"]).log(log).limit(LIMIT)
}

/// Some seeds as a test.
pub(crate) fn check(log: &Path) -> Outcome {
    let run = ["run", "--locked", "--quiet", "--package", "throng-sim", "--"];
    let seeds = ["--seeds", SEEDS, "--seconds", SECONDS, "--at-least", AT_LEAST];
    let done = cargo(run).args(seeds).log(log).limit(LIMIT).run();
    if let Ok(done) = &done {
        // How many there was time for.
        done.output.lines().filter(|line| line.contains(" seeds from ")).for_each(say);
    }
    Outcome::of_check("sim", done)
}

/// What a stream achieves over the paths that are cheap to simulate, against the snapshot.
pub(crate) fn check_goodput(log: &Path) -> Outcome {
    let run = ["run", "--locked", "--quiet", "--package", "throng-sim", "--", "--goodput"];
    Outcome::of_check("goodput", cargo(run).log(log).limit(LIMIT).run())
}

fn say(line: &str) {
    println!("    {line}");
}
