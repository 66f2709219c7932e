//! `cargo xtask bench [name]`: runs the workspace's benches, one of which is a test as well, and the
//! comparisons with peers, which are one program. The report of all is in [`crate::figures`].

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use crate::cargo::cargo;
use crate::figures;
use crate::host;
use crate::hugepages::Hugepages;
use crate::process::{Cmd, Finished};
use crate::report::Outcome;
use crate::setup::{self, HUGEPAGES, Need};

/// Building the bench, optimised, and counting may take this long, behind the tests.
const BUILD: Duration = Duration::from_secs(1_800);
const COUNT: Duration = Duration::from_secs(600);

/// The package whose program compares with peers.
const PACKAGE: &str = "throng-bench";
/// The balancer that it compares.
const BALANCER: &str = "throng-lb";
/// The benches beside it that do so, too.
const WITH_PEERS: [&str; 2] = ["idle-ws", "idle-http"];

/// `cargo xtask bench [name] args...`: without a name all, the comparisons last.
pub(crate) fn command(name: Option<&str>, args: &[String]) -> io::Result<ExitCode> {
    if name == Some("report") {
        return figures::command(args);
    }
    setup::packages(Need::Bench)?;
    let benches = benches()?;
    let wanted: Vec<&Bench> =
        benches.iter().filter(|bench| name.is_none_or(|name| name == bench.name)).collect();
    if let Some(name) = name
        && wanted.is_empty()
    {
        let others: Vec<&str> = benches.iter().map(|bench| bench.name.as_str()).collect();
        println!("one of the comparisons; beside them there are: {}", others.join(", "));
        return compare(name, args);
    }
    let _pages = Hugepages::reserve(HUGEPAGES);
    for Bench { package, name, dpdk } in wanted {
        println!("==> {package}: {name}");
        if *dpdk && let Err(why) = host::dpdk() {
            println!("skipped: {why}");
            continue;
        }
        let mut run = cargo(["bench", "--quiet", "--package", package, "--bench", name, ALONE]);
        if *dpdk {
            run = run.args(["--features", "dpdk"]);
        }
        if WITH_PEERS.contains(&name.as_str()) {
            setup::packages(Need::Compare)?;
            let Some(peers) = peers()? else { return Ok(ExitCode::FAILURE) };
            run = run.env("THRONG_PEERS", peers);
        }
        let run = run.arg("--").args(args);
        if !run.attached()?.success() {
            return Ok(ExitCode::FAILURE);
        }
    }
    if name.is_none() { compare("all", args) } else { Ok(ExitCode::SUCCESS) }
}

/// A comparison with peers, all of them built first; the program knows its names.
fn compare(name: &str, args: &[String]) -> io::Result<ExitCode> {
    setup::packages(Need::Compare)?;
    let build =
        ["build", "--release", "--quiet", "--locked", "--package", PACKAGE, "--bin", PACKAGE];
    let balancer = matches!(name, "lb" | "all");
    let build = cargo(build)
        .args(["--package", BALANCER, "--bin", BALANCER].iter().filter(|_| balancer))
        .args(host::dpdk().is_ok().then_some("--features=dpdk"));
    if !build.attached()?.success() {
        return Ok(ExitCode::FAILURE);
    }
    let Some(peers) = peers()? else { return Ok(ExitCode::FAILURE) };
    let _pages = Hugepages::reserve(HUGEPAGES);
    let status = Cmd::new(host::target().join("release").join(PACKAGE))
        .arg(name)
        .args(args)
        .env("THRONG_PEERS", peers)
        .attached()?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The bench that counts instructions.
const ICOUNT: [&str; 7] =
    ["bench", "--locked", "--quiet", "--package", "throng-bench", "--bench", "icount"];
/// Without the package's program, which cargo would build for every bench.
const ALONE: &str = "--no-default-features";

/// Builds the peers; returns their program, `None` when that fails.
fn peers() -> io::Result<Option<PathBuf>> {
    let target = host::target().join("peers");
    let build = cargo(["build", "--release", "--quiet", "--locked", "--manifest-path"])
        .arg(host::root().join("benches/peers/Cargo.toml"))
        .arg("--target-dir")
        .arg(&target);
    Ok(build.attached()?.success().then(|| target.join("release/throng-peers")))
}

/// The instruction counts as a test: each case is one, against the committed snapshot.
pub(crate) fn check(log: &Path) -> Outcome {
    let build = cargo(ICOUNT).args([ALONE, "--no-run"]).log(log).limit(BUILD).run();
    if !build.as_ref().is_ok_and(Finished::ok) {
        return Outcome::of_check("icount", build);
    }
    let count = [ALONE, "--offline", "--", "--json"];
    let counted = cargo(ICOUNT).args(count).log(log).limit(COUNT).run();
    let counted = match counted {
        Ok(counted) => counted,
        other => return Outcome::of_check("icount", other),
    };
    let last = counted.output.lines().rev().find(|line| line.starts_with('{')).unwrap_or_default();
    let Ok(found) = serde_json::from_str::<serde_json::Value>(last) else {
        return Outcome::of_check("icount", Ok(counted));
    };
    let mut outcome = Outcome::default();
    for (case, count) in found["throng"].as_object().into_iter().flatten() {
        let before = &found["before"][case];
        let why = format!("{count} instructions, the snapshot has {before}");
        let worse = found["worse"].as_array().is_none_or(|worse| worse.contains(&(**case).into()));
        outcome.add(match found["other_compiler"].as_str() {
            _ if !worse => Outcome::pass(),
            None => Outcome::fail(case, format!("{why} (benches/icount.json)")),
            // More may be the compiler's doing, and less would have passed.
            Some(other) => Outcome::skip(case, format!("{why}, made with {other}")),
        });
    }
    outcome
}

/// One bench of the workspace.
struct Bench {
    package: String,
    name: String,
    /// It asks for the feature; the others are built without, so that what they count does
    /// not depend on what is installed.
    dpdk: bool,
}

/// All of them.
fn benches() -> io::Result<Vec<Bench>> {
    let metadata = cargo(["metadata", "--no-deps", "--format-version=1"])
        .stdout_only()
        .limit(Duration::from_secs(60))
        .run()?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata.output)?;
    let list = |value: &serde_json::Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let mut benches = Vec::new();
    for package in list(&metadata["packages"]) {
        for target in list(&package["targets"]) {
            if list(&target["kind"]).contains(&"bench".into()) {
                benches.push(Bench {
                    package: text(&package["name"]),
                    name: text(&target["name"]),
                    dpdk: list(&target["required-features"]).contains(&"dpdk".into()),
                });
            }
        }
    }
    Ok(benches)
}
