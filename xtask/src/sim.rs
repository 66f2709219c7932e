//! `cargo xtask sim`: the seeded swarm of `sim/`.

use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use crate::cargo::cargo;
use crate::report::Outcome;

/// Building takes a part of it.
const LIMIT: Duration = Duration::from_secs(600);
/// What a run of all tests has time for, unoptimised. The seeds stay the same, so that a
/// failure is somebody's change; long runs look at others.
const SEEDS: &str = "500";
const SECONDS: &str = "40";

/// `cargo xtask sim args...`, optimised.
pub(crate) fn command(args: &[String]) -> io::Result<ExitCode> {
    let run = cargo(["run", "--quiet", "--profile", "sim", "--package", "throng-sim", "--"]);
    let ended = run.args(args).attached()?;
    Ok(if ended.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Some seeds as a test.
pub(crate) fn check(log: &Path) -> Outcome {
    let run = ["run", "--locked", "--quiet", "--package", "throng-sim", "--"];
    let seeds = ["--seeds", SEEDS, "--seconds", SECONDS];
    Outcome::of_check("sim", cargo(run).args(seeds).log(log).limit(LIMIT).run())
}

/// What a stream achieves over the paths that are cheap to simulate, against the snapshot.
pub(crate) fn check_goodput(log: &Path) -> Outcome {
    let run = ["run", "--locked", "--quiet", "--package", "throng-sim", "--", "--goodput"];
    Outcome::of_check("goodput", cargo(run).log(log).limit(LIMIT).run())
}
