//! `cargo xtask differential`: scripted exchanges with the kernel's TCP and with ours, compared.
//! What is played, and how it is compared, is in `interop/src/bin/throng-differential/`.

use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use crate::cargo::build_programs;
use crate::host;
use crate::process::Cmd;
use crate::report::{Outcome, Report};
use crate::setup::{self, Need};

/// Where the known differences are written down and explained.
const LIST: &str = "docs/DIFFERENCES.md";

/// What the list says before the version of its kernel.
const OF_KERNEL: &str = "The kernel was Linux ";

/// Options of `cargo xtask differential`.
#[derive(clap::Args, Default)]
pub(crate) struct Options {
    /// Only the exchanges whose name contains this (may be given again)
    #[arg(long = "only", value_name = "EXCHANGE")]
    only: Vec<String>,
    /// Print whole transcripts
    #[arg(long)]
    verbose: bool,
    /// Write what differs to docs/DIFFERENCES.md, where it then has to be explained
    #[arg(long)]
    update: bool,
}

/// `cargo xtask differential`.
pub(crate) fn command(options: &Options) -> io::Result<ExitCode> {
    setup::packages(Need::Everything)?;
    let mut report = Report::new(&[], false);
    step(&mut report, options);
    Ok(if report.finish() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The run as a step of `report`.
pub(crate) fn step(report: &mut Report, options: &Options) {
    report.step("differential", || run(options).unwrap_or_else(|why| Outcome::fail("run", why)));
}

fn run(options: &Options) -> Result<Outcome, String> {
    if let Err(why) = host::can_own_network() {
        return Ok(Outcome::skip("differential", why));
    }
    std::fs::create_dir_all(host::logs()).map_err(|error| error.to_string())?;
    build_programs(host::logs().join("differential-build.log"))?;
    let flag = |set, flag| if set { vec![flag] } else { vec![] };
    let done = Cmd::new(host::target().join("debug/throng-differential"))
        .args(["--list", LIST])
        .args(flag(options.verbose, "--verbose"))
        .args(flag(options.update, "--update"))
        .args(&options.only)
        .dir(host::root())
        .wrapped(host::own_network())
        .log(host::logs().join("differential.log"))
        .echo(options.verbose || options.update)
        .limit(Duration::from_secs(180))
        .run()
        .map_err(|error| error.to_string())?;
    let mut outcome = Outcome::default();
    let mut lines = done.output.lines().peekable();
    while let Some(line) = lines.next() {
        if line.starts_with("passed ") {
            outcome.add(Outcome::pass());
        } else if let Some(name) = line.strip_prefix("failed ") {
            let mut why = Vec::new();
            while let Some(more) = lines.next_if(|line| line.starts_with("    ")) {
                why.push(more);
            }
            outcome.add(Outcome::fail(name, why.join("\n")));
        }
    }
    if !done.ok() && outcome.failed.is_empty() {
        let why = format!("{}\n{}", done.how(), done.tail(30));
        outcome.add(Outcome::fail("differential", why));
    } else if let Some(why) = other_kernel()? {
        // What differs here may be this kernel's.
        for (name, what) in std::mem::take(&mut outcome.failed) {
            outcome.add(Outcome::skip(name, format!("{why}\n{what}")));
        }
    }
    Ok(outcome)
}

/// Why the list does not hold here, if the kernel is another than the one it is of.
fn other_kernel() -> Result<Option<String>, String> {
    let read = |file: &Path| {
        std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))
    };
    let list = read(&host::root().join(LIST))?;
    let (_, after) = list.split_once(OF_KERNEL).ok_or(format!("{LIST}: no \"{OF_KERNEL}\""))?;
    let listed = after.split_whitespace().next().unwrap_or_default();
    let here = read(Path::new("/proc/sys/kernel/osrelease"))?;
    let same = here
        .trim()
        .strip_prefix(listed)
        .is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()));
    Ok((!same).then(|| format!("{LIST} is of Linux {listed}, this is {}", here.trim())))
}
