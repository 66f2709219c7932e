//! `cargo xtask demo`: builds the demo and runs it with the arguments given.

use std::io;
use std::process::ExitCode;

use crate::cargo::{cargo, features};
use crate::host;
use crate::hugepages::Hugepages;
use crate::process::Cmd;
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
