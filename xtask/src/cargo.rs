//! Calls of cargo.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use crate::host;
use crate::process::Cmd;

/// All cargo features of the workspace that need nothing but what cargo fetches.
pub(crate) const PLAIN_FEATURES: &str = "redis,tls,tokio";

/// `cargo args...` in the workspace, with the cargo that started us.
pub(crate) fn cargo<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Cmd {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    Cmd::new(cargo).args(args).dir(host::root()).env("CARGO_TERM_COLOR", "never")
}

/// `--features` for everything that can be built here.
pub(crate) fn features() -> String {
    match host::dpdk() {
        Ok(()) => format!("--features=dpdk,{PLAIN_FEATURES}"),
        Err(_) => format!("--features={PLAIN_FEATURES}"),
    }
}

/// What came of building the programs: once is enough, and a second look would wait for whatever
/// is being built behind the tests in the same directory.
static PROGRAMS: OnceLock<Result<(), String>> = OnceLock::new();

/// Builds all programs and examples with every feature that is to be had, the first time.
///
/// The whole workspace with its tests, so that dependencies get the same features as in
/// `cargo test --workspace` and nothing is compiled once more with others.
///
/// # Errors
/// What the build said.
pub(crate) fn build_programs(log: PathBuf) -> Result<(), String> {
    PROGRAMS.get_or_init(|| build(log)).clone()
}

fn build(log: PathBuf) -> Result<(), String> {
    // Not this program itself: it is running, and would be another file afterwards.
    let build = cargo(["build", "--locked", "--quiet", "--workspace", "--exclude", "xtask"])
        .args(["--lib", "--bins", "--tests", "--examples"])
        .arg(features())
        .log(log)
        .limit(Duration::from_secs(900))
        .run()
        .map_err(|error| error.to_string())?;
    if build.ok() { Ok(()) } else { Err(format!("does not build: {}", build.tail(40))) }
}
