//! `cargo xtask test`: every check and every test, in order, from cheap to dear.

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use crate::ahead::Ahead;
use crate::bench;
use crate::cargo::{cargo, features};
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

/// A step's command may take this long, building included.
const LIMIT: Duration = Duration::from_secs(900);

/// `cargo xtask test`.
pub(crate) fn command(options: &Options) -> io::Result<ExitCode> {
    let mut report = Report::new(&options.only, options.list);
    let pages = if options.list {
        None
    } else {
        let _ = std::fs::remove_dir_all(host::logs());
        std::fs::create_dir_all(host::logs())?;
        setup::packages(if options.guest { Need::Guest } else { Need::Everything })?;
        if let Err(why) = host::dpdk() {
            println!("without DPDK: {why}");
        }
        Some(Hugepages::reserve(HUGEPAGES))
    };
    if options.guest {
        interop::steps(&mut report, &[Backend::Guest], &[]);
    } else {
        static_checks(&mut report);
        cargo_tests(&mut report, options.only.is_empty());
        cargo_deny(&mut report);
        report.step("sim", || sim::check(&log_of("sim")));
        report.step("goodput", || sim::check_goodput(&log_of("goodput")));
        interop::steps(&mut report, &[], &[]);
        differential::step(&mut report, &differential::Options::default());
        report.step("demo", demo::check);
        report.step("instructions", || bench::check(&log_of("instructions")));
    }
    drop(pages);
    Ok(if report.finish() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A cargo command whose output goes to the step's log.
fn logged(step: &str, args: &[&str]) -> Cmd {
    cargo(args).log(log_of(step)).limit(LIMIT)
}

fn log_of(step: &str) -> std::path::PathBuf {
    host::logs().join(format!("{}.log", step.replace([' ', ',', '/'], "-")))
}

fn static_checks(report: &mut Report) {
    let with = features();
    let check = |report: &mut Report, name: &str, command: Cmd| {
        report.step(name, || Outcome::of_check(name, command.run()));
    };

    check(report, "rustfmt", logged("rustfmt", &["fmt", "--all", "--check"]));

    let clippy = ["clippy", "--locked", "--quiet", "--workspace", "--all-targets"];
    let deny = ["--", "-D", "warnings"];
    check(report, "clippy", logged("clippy", &clippy).args(deny));
    let name = "clippy with features";
    check(report, name, logged(name, &clippy).arg(&with).args(deny));

    let doc = ["doc", "--locked", "--quiet", "--workspace", "--no-deps"];
    let command = logged("rustdoc", &doc).arg(&with).env("RUSTDOCFLAGS", "-D warnings");
    check(report, "rustdoc", command);
}

fn cargo_deny(report: &mut Report) {
    report.step("cargo-deny", || match setup::cargo_deny() {
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
    });
}

/// `cargo test` in all its kinds; `all` when every later step is to come, too.
fn cargo_tests(report: &mut Report, all: bool) {
    let with = features();
    let own_network = host::can_own_network();
    let run = ["--no-fail-fast", "--", "--show-output"];

    // Building is apart from running, so that a broken build and a slow test are told apart,
    // and because the runs below have no way to the registry.
    let tests = |report: &mut Report, name: &str, extra: &[&str], meanwhile: Vec<Cmd>| {
        report.step(name, || {
            // The peers of some tests, which cannot be fetched any more when they run.
            if let Err(why) = setup::python() {
                println!("without Python's packages: {why}");
            }
            let test = || logged(name, &["test", "--locked"]).args(extra);
            let build = test().args(["--no-run", "--quiet"]).run();
            match build {
                Ok(done) if done.ok() => {}
                other => return Outcome::of_check(name, other),
            }
            let _meanwhile = Ahead::start(meanwhile);
            let mut command = test().arg("--offline").args(run);
            if own_network.is_ok() {
                command = command.wrapped(host::own_network());
            }
            Outcome::of_tests(name, command.run())
        });
    };
    // These have code that is there or not by feature; clippy builds the rest without.
    let by_feature = ["--package=throng-net", "--lib", "--test=api", "--test=memory"];
    tests(report, "tests without features", &by_feature, Vec::new());
    // Another cfg makes other artifacts of every dependency: they get a place of their own.
    let loom = logged("loom", &["test", "--locked", "--package", "throng-runtime"])
        .args(["--test", "loom", "--target-dir"])
        .arg(host::target().join("loom"))
        .env("RUSTFLAGS", "--cfg loom");
    // What the steps to come would build, if all of them are to come.
    let mut ahead = Vec::new();
    if all {
        ahead.push(bench::build_icount(&log_of("instructions")));
        ahead.push(loom.clone().arg("--no-run"));
        ahead.push(sim::build(&log_of("sim")));
        ahead.extend(setup::build_cargo_deny());
    }
    tests(report, "tests", &["--workspace", "--lib", "--bins", "--tests", &with], ahead);

    report.step("doctests", || {
        let command = logged("doctests", &["test", "--locked", "--workspace", "--doc"]);
        Outcome::of_tests("doctests", command.arg(&with).args(run).run())
    });

    report.step("loom", || Outcome::of_tests("loom", loom.args(run).run()));
}
