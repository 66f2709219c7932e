//! Calls of cargo.

use std::ffi::OsStr;

use crate::host;
use crate::process::Cmd;

/// All cargo features of the workspace that need nothing but what cargo fetches.
pub(crate) const PLAIN_FEATURES: &str = "tokio";

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
