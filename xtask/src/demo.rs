//! `cargo xtask demo`: builds the demo and runs it with the arguments given; `cargo xtask demo abuse`
//! runs what it does at its limits.

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use crate::cargo::{build_programs, cargo};
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
    if !package("build").args(["--release", "--quiet"]).attached()?.success() {
        return Ok(ExitCode::FAILURE);
    }
    let pages = Hugepages::reserve(HUGEPAGES);
    let status = Cmd::new(host::target().join("release").join(PACKAGE)).args(args).attached()?;
    drop(pages);
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// `cargo subcommand` on the demo's package, with DPDK where it is to be had. Of the
/// workspace's other features a package need not know any.
fn package(subcommand: &str) -> Cmd {
    let dpdk = host::dpdk().is_ok().then_some("--features=dpdk");
    cargo([subcommand, "--package", PACKAGE]).args(dpdk)
}

/// Connections of the demo as a test: enough over DPDK for what an end costs in all to matter
/// little beside what a connection costs.
const OVER_DPDK: u32 = 20_000;
const IN_MEMORY: u32 = 2_000;

/// Connections of a client whose process is killed.
const KILLED: u32 = 3_000;

/// What an idle connection may cost a server on its own, in bytes. With so few, chunks of 2 MiB that are
/// not full weigh as much as what is in them; the exact figure is another test's.
const MOST_BYTES: u64 = 1_536;

/// The demo in small, as a test: over DPDK where it is to be had, and over the memory device.
pub(crate) fn check() -> Outcome {
    let log = host::logs().join("demo.log");
    if let Err(why) = build_programs(log.clone()) {
        return Outcome::fail("demo", why);
    }
    // The features of a build by itself, which the workspace's build says nothing about.
    let resolved = package("tree").args(["--locked", "--depth=0"]).log(&log).run();
    let mut outcome = Outcome::of_check("demo's own build", resolved);
    for (device, connections, extra) in
        [("dpdk:net_memif", OVER_DPDK, None), ("memory", IN_MEMORY, Some("--memory"))]
    {
        if let (None, Err(why)) = (extra, host::dpdk()) {
            outcome.add(Outcome::skip(format!("demo on {device}"), why));
            continue;
        }
        let done = Cmd::new(host::target().join("debug").join(PACKAGE))
            .args(["--connections", &connections.to_string(), "--json"])
            .args(["--rate", "2000", "--seconds", "1", "--page", "127.0.0.1:0"])
            .args(extra)
            .log(&log)
            .stdout_only()
            .limit(Duration::from_secs(120))
            .run();
        let name = format!("demo on {device}");
        outcome.add(match done {
            Ok(done) if done.ok() => match judge(&done.output, device, connections) {
                Ok(()) => Outcome::pass(),
                Err(why) => Outcome::fail(name, why),
            },
            other => Outcome::of_check(&name, other),
        });
    }
    // The other scenarios are tests of the package's own.
    match host::dpdk() {
        Err(why) => outcome.add(Outcome::skip("demo whose clients are killed".to_owned(), why)),
        Ok(_) => {
            let killed = Cmd::new(host::target().join("debug").join(PACKAGE))
                .args(["abuse", "killed", "--connections", &KILLED.to_string()])
                .log(&log)
                .limit(Duration::from_secs(120))
                .run();
            outcome.add(Outcome::of_check("demo whose clients are killed", killed));
        }
    }
    outcome.add(page());
    outcome
}

/// The demo's page and the load balancer's in Chromium, on a desktop and on a phone; pictures of
/// them are left among the logs.
fn page() -> Outcome {
    let name = "live pages";
    let Some(chromium) = host::find_program("chromium") else {
        return Outcome::skip(name, "chromium was not found");
    };
    let python = match setup::python() {
        Ok(python) => python,
        Err(why) => return Outcome::fail(name, why),
    };
    // Two processes where there is DPDK: what the client knows has to come over to the page.
    let device = host::dpdk().is_err().then_some("--memory");
    let programs = host::target().join("debug");
    let done = Cmd::new(python)
        .arg(host::root().join("interop/pages.py"))
        .arg(chromium)
        .arg(host::logs().join("pages"))
        .args([programs.join("throng-lb"), programs.join(PACKAGE)])
        .args(device)
        .log(host::logs().join("pages.log"))
        .limit(Duration::from_secs(120))
        .run();
    Outcome::of_check(name, done)
}

/// The object on the demo's last line has what it must have, and says that all went well, on
/// the device that was meant and not on one it fell back to.
fn judge(output: &str, device: &str, connections: u32) -> Result<(), String> {
    let last = output.lines().last().unwrap_or_default();
    let summary: serde_json::Value =
        serde_json::from_str(last).map_err(|error| format!("last line: {error}: {last}"))?;
    for key in ["device", "shards", "errors", "bytes_per_connection", "longest_stage_us", "server"]
    {
        if summary.get(key).is_none() {
            return Err(format!("no '{key}' in {last}"));
        }
    }
    let wrong = if summary["device"] != device {
        "another device"
    } else if summary["connections"] != connections
        || summary["echoed"] != connections
        || summary["broadcast_received"] != connections
        || summary["load"]["count"] != 2_000
        || summary["errors"] != 0
    {
        "not all echoed and heard the broadcast"
    } else {
        match summary["bytes_per_connection"].as_u64() {
            None | Some(0) => "memory was not measured",
            // In memory it is both ends' together, and few connections.
            Some(bytes) if bytes > MOST_BYTES && device != "memory" => "too much memory",
            _ => return Ok(()),
        }
    };
    Err(format!("{wrong}: {last}"))
}
