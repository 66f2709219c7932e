//! `cargo xtask demo`: builds the demo and runs it with the arguments given.

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use crate::cargo::{build_programs, cargo, features};
use crate::host;
use crate::hugepages::Hugepages;
use crate::process::Cmd;
use crate::report::Outcome;
use crate::setup::{self, HUGEPAGES, Need};

/// Package and binary of the demo.
pub(crate) const PACKAGE: &str = "throng-demo";

/// `cargo xtask demo args...`.
pub(crate) fn command(args: &[String]) -> io::Result<ExitCode> {
    setup::packages(Need::Build)?;
    if let Err(why) = host::dpdk() {
        println!("demo without DPDK: {why}");
    }
    let build = cargo(["build", "--release", "--quiet", "--package", PACKAGE]).arg(features());
    if !build.attached()?.success() {
        return Ok(ExitCode::FAILURE);
    }
    let pages = Hugepages::reserve(HUGEPAGES);
    let status = Cmd::new(host::target().join("release").join(PACKAGE)).args(args).attached()?;
    drop(pages);
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The demo in small, as a test: over the device it chooses, and over the memory device.
pub(crate) fn check() -> Outcome {
    let log = host::logs().join("demo.log");
    if let Err(why) = build_programs(log.clone()) {
        return Outcome::fail("demo", why);
    }
    let mut outcome = Outcome::default();
    for extra in [&[][..], &["--memory"]] {
        let done = Cmd::new(host::target().join("debug").join(PACKAGE))
            .args(["--connections", "2000", "--json"])
            .args(extra)
            .log(&log)
            .stdout_only()
            .limit(Duration::from_secs(120))
            .run();
        let name = format!("demo {}", extra.concat());
        outcome.add(match done {
            Ok(done) if done.ok() => match judge(&done.output) {
                Ok(()) => Outcome::pass(),
                Err(why) => Outcome::fail(name.trim_end(), why),
            },
            other => Outcome::of_check(name.trim_end(), other),
        });
    }
    outcome
}

/// The object on the demo's last line has what it must have, and says that all went well.
fn judge(output: &str) -> Result<(), String> {
    let last = output.lines().last().unwrap_or_default();
    let summary: serde_json::Value =
        serde_json::from_str(last).map_err(|error| format!("last line: {error}: {last}"))?;
    for key in ["device", "shards", "connections", "echoed", "errors", "bytes_per_connection"] {
        if summary.get(key).is_none() {
            return Err(format!("no '{key}' in {last}"));
        }
    }
    let fine =
        summary["connections"] == 2000 && summary["echoed"] == 2000 && summary["errors"] == 0;
    if fine { Ok(()) } else { Err(format!("not all echoed: {last}")) }
}
