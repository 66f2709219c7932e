//! Interop: our server on a device, real programs of the Linux kernel's side against it.
//!
//! Each backend gets a network namespace (and a process namespace) of its own, in which this
//! program runs itself again; all that was started there dies with it. See `docs/TESTING.md`.

mod balancer;
mod capture;
mod checks;
mod counters;
mod examples;
mod expert;
mod inside;
mod internet;
mod link;
mod tls;

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use crate::cargo::build_programs;
use crate::guest;
use crate::host;
use crate::hugepages::Hugepages;
use crate::process::Cmd;
use crate::report::{Outcome, Report};
use crate::setup::{self, HUGEPAGES, Need};

pub(crate) use inside::{Options as InsideOptions, command as inside};

/// Package and binary of the server.
const SERVER: &str = "throng-interop";

/// What the server works on, and what joins it to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Backend {
    /// DPDK's net_tap
    NetTap,
    /// DPDK's net_af_xdp on one end of a veth pair
    AfXdp,
    /// Plain Linux TAP, no DPDK
    Tap,
    /// An emulated PCI NIC in a guest under qemu (see `guest`)
    Guest,
    /// The examples, over plain TAP
    Examples,
    /// A router that marks or is narrow, and a flood of SYNs, over plain TAP
    Internet,
    /// throng-lb among real servers, at full size, on the host's sockets and net_tap
    Balancer,
}

impl Backend {
    /// Those of every run, in their order.
    pub(crate) const ALL: [Backend; 5] =
        [Backend::Examples, Backend::NetTap, Backend::AfXdp, Backend::Tap, Backend::Internet];

    /// Its name on the command line and in reports.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Backend::NetTap => "net-tap",
            Backend::AfXdp => "af-xdp",
            Backend::Tap => "tap",
            Backend::Guest => "guest",
            Backend::Examples => "examples",
            Backend::Internet => "internet",
            Backend::Balancer => "balancer",
        }
    }

    /// It can be run here; if not, why.
    fn available(self) -> Result<(), String> {
        host::can_own_network()?;
        match self {
            Backend::Tap | Backend::Examples | Backend::Balancer => Ok(()),
            Backend::Internet => nftables(),
            Backend::NetTap | Backend::Guest => host::dpdk(),
            Backend::AfXdp if !host::is_root() => Err("loading an XDP program needs root".into()),
            Backend::AfXdp => host::dpdk(),
        }
    }
}

/// The router can mark; if not, why.
fn nftables() -> Result<(), String> {
    let probe = Cmd::new("nft").args(["list", "tables"]).wrapped(host::own_network());
    match probe.limit(Duration::from_secs(20)).run() {
        Ok(done) if done.ok() => Ok(()),
        Ok(done) => Err(format!("nft: {}: {}", done.how(), done.output.trim())),
        Err(error) => Err(error.to_string()),
    }
}

/// Options of `cargo xtask interop`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only this backend (may be given again)
    #[arg(long, value_enum)]
    backend: Vec<Backend>,
    /// Only the checks whose name contains this (may be given again)
    #[arg(long = "only", value_name = "CHECK")]
    only: Vec<String>,
}

/// `cargo xtask interop`: the interop runs alone.
pub(crate) fn command(options: &Options) -> io::Result<ExitCode> {
    setup::packages(Need::Everything)?;
    let _pages = Hugepages::reserve(HUGEPAGES);
    let mut report = Report::new(&[], false);
    steps(&mut report, &options.backend, &options.only);
    Ok(if report.finish() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// One step of `report` for each backend, `only` the named checks.
pub(crate) fn steps(report: &mut Report, backends: &[Backend], only: &[String]) {
    let backends = if backends.is_empty() { &Backend::ALL[..] } else { backends };
    for &backend in backends {
        let name = match backend {
            Backend::Examples => "examples".to_owned(),
            _ => format!("interop {}", backend.name()),
        };
        report.step(&name, || match run(backend, only) {
            Ok(outcome) => outcome,
            Err(why) => Outcome::fail(backend.name(), why),
        });
    }
}

fn run(backend: Backend, only: &[String]) -> Result<Outcome, String> {
    let missing = |error: io::Error| error.to_string();
    if let Err(why) = backend.available() {
        return Ok(Outcome::skip(format!("interop {}", backend.name()), why));
    }
    let logs = host::logs().join(backend.name());
    let _ = std::fs::remove_dir_all(&logs);
    std::fs::create_dir_all(&logs).map_err(missing)?;

    if backend == Backend::Balancer {
        return Ok(balancer::run(&logs, only));
    }
    let server = match backend {
        Backend::Guest => guest::prepare(&logs)?,
        Backend::Examples => build_examples(&logs)?,
        _ => build_server(&logs)?,
    };
    let python = setup::python()?;
    let results = logs.join("results.jsonl");
    let this = std::env::current_exe().map_err(missing)?;
    let done = Cmd::new(this)
        .args(["interop-inside", "--backend", backend.name()])
        .arg("--server")
        .arg(server)
        .arg("--python")
        .arg(python)
        .arg("--logs")
        .arg(&logs)
        .args(only.iter().flat_map(|check| ["--only", check]))
        .wrapped(host::own_network())
        .log(logs.join("run.log"))
        .echo(true)
        .limit(Duration::from_secs(420))
        .run()
        .map_err(missing)?;

    let mut outcome = read_results(&results, backend);
    if !done.ok() && outcome.failed.is_empty() {
        let why = format!("{}\n{}", done.how(), done.tail(30));
        outcome.add(Outcome::fail(format!("{}: run", backend.name()), why));
    }
    Ok(outcome)
}

/// Builds the server. Returns its path.
pub(crate) fn build_server(logs: &Path) -> Result<PathBuf, String> {
    build_programs(logs.join("build.log"))?;
    Ok(host::target().join("debug").join(SERVER))
}

/// Builds the examples. Returns the directory they are in.
fn build_examples(logs: &Path) -> Result<PathBuf, String> {
    build_programs(logs.join("build.log"))?;
    Ok(host::target().join("debug/examples"))
}

fn read_results(path: &Path, backend: Backend) -> Outcome {
    let mut outcome = Outcome::default();
    let text = std::fs::read_to_string(path).unwrap_or_default();
    for line in text.lines() {
        // A line that was cut off is no result, and counts as a failure below.
        let value = serde_json::from_str::<serde_json::Value>(line).unwrap_or_default();
        let name = format!("{}: {}", backend.name(), value["check"].as_str().unwrap_or("?"));
        let detail = value["detail"].as_str().unwrap_or_default();
        outcome.add(match value["result"].as_str() {
            Some("passed") => Outcome::pass(),
            Some("skipped") => Outcome::skip(name, detail),
            _ => Outcome::fail(name, detail),
        });
    }
    outcome
}
