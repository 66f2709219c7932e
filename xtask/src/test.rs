//! `cargo xtask test`: every check and every test.

use std::io;
use std::process::ExitCode;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::behind::{Behind, Job};
use crate::bench;
use crate::cargo::{build_programs, cargo, features};
use crate::demo;
use crate::differential;
use crate::host;
use crate::hugepages::Hugepages;
use crate::interop::{self, Backend};
use crate::process::Cmd;
use crate::report::{Outcome, Report};
use crate::setup::{self, HUGEPAGES, Need};
use crate::sim;

/// Options of `cargo xtask test`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Run only the steps whose name contains this (may be given again)
    #[arg(long = "only", value_name = "STEP")]
    only: Vec<String>,
    /// Instead of everything else: our server in a guest with an emulated PCI NIC
    #[arg(long)]
    guest: bool,
    /// Name the steps and end
    #[arg(long)]
    list: bool,
}

/// A step's command may take this long, building included, behind others or not.
const LIMIT: Duration = Duration::from_secs(1_800);

/// `cargo xtask test`.
///
/// A run of everything has its compilers busy while tests wait: first what the tests need is
/// built, and then, behind the tests and the interop runs, what checks and counts need.
pub(crate) fn command(options: &Options) -> io::Result<ExitCode> {
    let mut report = Report::new(&options.only, options.list);
    let mut tools = Tools(None);
    let pages = if options.list {
        None
    } else {
        let _ = std::fs::remove_dir_all(host::logs());
        std::fs::create_dir_all(host::logs())?;
        setup::packages(Need::Build)?;
        tools.install(if options.guest { Need::Guest } else { Need::Everything });
        if let Err(why) = host::dpdk() {
            println!("without DPDK: {why}");
        }
        Some(Hugepages::reserve(HUGEPAGES))
    };
    if options.guest {
        tools.ready();
        interop::steps(&mut report, &[Backend::Guest], &[]);
    } else {
        let mut behind = Behind::default();
        let all = options.only.is_empty() && !options.list;
        every_step(&mut report, &mut tools, all.then_some(&mut behind));
        behind.report(&mut report, true);
    }
    tools.ready();
    drop(pages);
    Ok(if report.finish() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// All steps in their order; what can run behind the others does so, if `behind` is given, and
/// comes last otherwise.
fn every_step(report: &mut Report, tools: &mut Tools, mut behind: Option<&mut Behind>) {
    report.step("rustfmt", || {
        let command = logged("rustfmt", &["fmt", "--all", "--check"]);
        Outcome::of_check("rustfmt", command.run())
    });
    // Those two build in directories of their own.
    let mut apart = vec![cargo_deny(), loom()];
    if let Some(behind) = &mut behind {
        behind.start(std::mem::take(&mut apart));
    }
    // These have code that is there or not by feature; clippy builds the rest without.
    let by_feature = ["--package=throng-net", "--lib", "--test=api", "--test=memory"];
    report.step("tests without features", || {
        let name = "tests without features";
        build_tests(name, &by_feature, tools).unwrap_or_else(|| run_tests(name, &by_feature))
    });

    // The first has another directory than the others, which is what the tests run from and what
    // cargo looks through at the begin of their run.
    let mut checks = vec![
        Job::new("instructions", || bench::check(&log_of("instructions"))),
        clippy("clippy with features", Some(features())),
        clippy("clippy", None),
        rustdoc(),
        doctests(),
    ];
    let with = features();
    let everything = ["--workspace", "--lib", "--bins", "--tests", &with];
    report.step("tests", || {
        if let Some(failed) = build_tests("tests", &everything, tools) {
            return failed;
        }
        if let Some(behind) = &mut behind {
            // What the steps to come run; what is wrong with it they say.
            let _ = build_programs(log_of("programs"));
            behind.start(std::mem::take(&mut checks));
        }
        run_tests("tests", &everything)
    });
    let mut then = |report: &mut Report| {
        if let Some(behind) = &mut behind {
            behind.report(report, false);
        }
    };
    tools.ready();
    then(report);
    report.step("sim", || sim::check(&log_of("sim")));
    report.step("goodput", || sim::check_goodput(&log_of("goodput")));
    for backend in Backend::ALL {
        then(report);
        interop::steps(report, &[backend], &[]);
    }
    differential::step(report, &differential::Options::default());
    then(report);
    report.step("demo", demo::check);
    // What was not started, because it was not to be or because the tests do not build.
    for job in apart.into_iter().chain(checks) {
        report.step(job.name, job.run);
    }
}

/// The packages that no build needs, which are installed meanwhile.
struct Tools(Option<JoinHandle<io::Result<()>>>);

impl Tools {
    fn install(&mut self, need: Need) {
        self.0 = Some(thread::spawn(move || setup::packages(need)));
    }

    /// Waits until they are there, or cannot be had, which what needs them says.
    fn ready(&mut self) {
        if let Some(Ok(Err(error))) = self.0.take().map(JoinHandle::join) {
            println!("packages: {error}");
        }
    }
}

/// A cargo command whose output goes to the step's log.
fn logged(step: &str, args: &[&str]) -> Cmd {
    cargo(args).log(log_of(step)).limit(LIMIT)
}

fn log_of(step: &str) -> std::path::PathBuf {
    host::logs().join(format!("{}.log", step.replace([' ', ',', '/'], "-")))
}

fn clippy(name: &'static str, features: Option<String>) -> Job {
    let command = logged(name, &["clippy", "--locked", "--quiet", "--workspace", "--all-targets"])
        .args(features)
        .args(["--", "-D", "warnings"]);
    Job::new(name, move || Outcome::of_check(name, command.run()))
}

fn rustdoc() -> Job {
    let command = logged("rustdoc", &["doc", "--locked", "--quiet", "--workspace", "--no-deps"])
        .arg(features())
        .env("RUSTDOCFLAGS", "-D warnings");
    Job::new("rustdoc", move || Outcome::of_check("rustdoc", command.run()))
}

fn doctests() -> Job {
    let command =
        logged("doctests", &["test", "--locked", "--workspace", "--doc"]).arg(features()).args(RUN);
    Job::new("doctests", move || Outcome::of_tests("doctests", command.run()))
}

fn loom() -> Job {
    // Another cfg makes other artifacts of every dependency: they get a place of their own.
    let command = logged("loom", &["test", "--locked", "--package", "throng-runtime"])
        .args(["--test", "loom", "--target-dir"])
        .arg(host::target().join("loom"))
        .env("RUSTFLAGS", "--cfg loom")
        .args(RUN);
    Job::new("loom", move || Outcome::of_tests("loom", command.run()))
}

fn cargo_deny() -> Job {
    Job::new("cargo-deny", || match setup::cargo_deny() {
        Ok(program) => Outcome::of_check(
            "cargo-deny",
            Cmd::new(program)
                .args(["--all-features", "--locked", "check", "licenses", "bans", "sources"])
                .dir(host::root())
                .log(log_of("cargo-deny"))
                .limit(LIMIT)
                .run(),
        ),
        Err(why) => Outcome::fail("cargo-deny", why),
    })
}

/// What `cargo test` is told about running.
const RUN: [&str; 3] = ["--no-fail-fast", "--", "--show-output"];

fn test(name: &str, which: &[&str]) -> Cmd {
    logged(name, &["test", "--locked"]).args(which)
}

/// Builds tests; what came of it if they cannot be run.
///
/// Building is apart from running, so that a broken build and a slow test are told apart,
/// and because the runs have no way to the registry.
fn build_tests(name: &str, which: &[&str], tools: &mut Tools) -> Option<Outcome> {
    let build = test(name, which).args(["--no-run", "--quiet"]).run();
    tools.ready();
    // The peers of some tests, which cannot be fetched any more when they run.
    if let Err(why) = setup::python() {
        println!("without Python's packages: {why}");
    }
    match build {
        Ok(done) if done.ok() => None,
        other => Some(Outcome::of_check(name, other)),
    }
}

fn run_tests(name: &str, which: &[&str]) -> Outcome {
    let mut command = test(name, which).arg("--offline").args(RUN);
    if host::can_own_network().is_ok() {
        command = command.wrapped(host::own_network());
    }
    Outcome::of_tests(name, command.run())
}
