//! `cargo xtask bench [name]`: runs the workspace's benches.

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use crate::cargo::cargo;
use crate::host;
use crate::hugepages::Hugepages;
use crate::setup::{self, HUGEPAGES, Need};

/// `cargo xtask bench [name] args...`.
pub(crate) fn command(name: Option<&str>, args: &[String]) -> io::Result<ExitCode> {
    setup::packages(Need::Bench)?;
    let benches = benches()?;
    let names: Vec<&str> = benches.iter().map(|bench| bench.name.as_str()).collect();
    let wanted: Vec<&Bench> =
        benches.iter().filter(|bench| name.is_none_or(|name| name == bench.name)).collect();
    match name {
        Some(name) if wanted.is_empty() => {
            let there = names.join(", ");
            return Err(io::Error::other(format!(
                "no bench is called '{name}'; there are: {there}"
            )));
        }
        None if wanted.is_empty() => println!("there are no benches yet"),
        _ => {}
    }
    let _pages = Hugepages::reserve(HUGEPAGES);
    for Bench { package, name, dpdk } in wanted {
        println!("==> {package}: {name}");
        let mut run = cargo(["bench", "--quiet", "--package", package, "--bench", name]);
        if *dpdk && host::dpdk().is_ok() {
            run = run.args(["--features", "dpdk"]);
        }
        let run = run.arg("--").args(args);
        if !run.attached()?.success() {
            return Ok(ExitCode::FAILURE);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// One bench of the workspace.
struct Bench {
    package: String,
    name: String,
    /// Its package has the feature.
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
                    dpdk: !package["features"]["dpdk"].is_null(),
                });
            }
        }
    }
    Ok(benches)
}
