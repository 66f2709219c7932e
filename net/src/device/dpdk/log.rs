//! DPDK's log as `tracing` events, and as the reason in errors.

use std::ffi::c_char;
use std::sync::Mutex;

use dpdk_sys as sys;

/// DPDK's `RTE_LOG_CRIT`, `RTE_LOG_ERR`, `RTE_LOG_WARNING` and `RTE_LOG_NOTICE`.
const CRITICAL: u32 = 3;
const ERROR: u32 = 4;
const WARNING: u32 = 5;
const NOTICE: u32 = 6;

/// Most lines kept for an error's message.
const KEPT: usize = 4;

/// What DPDK has complained of since [`forget`].
static COMPLAINTS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Takes DPDK's log over. Without it, DPDK writes to standard error and to syslog.
pub(super) fn take_over() {
    // SAFETY: the callback is a function for ever, and may be called by any thread.
    if unsafe { sys::throng_log_to(Some(line)) } != 0 {
        tracing::warn!("DPDK logs to standard error");
    }
}

/// Starts afresh, before a call that may fail.
pub(super) fn forget() {
    complaints().clear();
}

/// What DPDK has said about the failure, in front of which this is to stand: `": ..."`.
pub(super) fn reason() -> String {
    let said = std::mem::take(&mut *complaints());
    said.into_iter().map(|line| format!(": {line}")).collect()
}

fn complaints() -> std::sync::MutexGuard<'static, Vec<String>> {
    // Each change is one call on the vector: no half of it can be left by a panic.
    COMPLAINTS.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

unsafe extern "C" fn line(level: u32, text: *const c_char, len: usize) {
    // SAFETY: the caller hands over `len` readable bytes for the time of the call.
    let bytes = unsafe { std::slice::from_raw_parts(text.cast::<u8>(), len) };
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim();
    // A driver's error is often no trouble for us (net_tap complains of a missing qdisc).
    match level {
        0..=CRITICAL => tracing::error!(target: "dpdk", "{text}"),
        ERROR | WARNING => tracing::warn!(target: "dpdk", "{text}"),
        NOTICE => tracing::info!(target: "dpdk", "{text}"),
        _ => tracing::debug!(target: "dpdk", "{text}"),
    }
    if level <= ERROR {
        let mut complaints = complaints();
        if complaints.len() < KEPT {
            complaints.push(text.to_owned());
        }
    }
}
