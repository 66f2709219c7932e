//! What the fuzz targets do with their input: bytes in, a panic where something does not hold.
//!
//! Each body reads its input as a list of decisions ([`draw::Draw`]), so that any bytes are a
//! run and a small change of them is a small change of the run. `cargo fuzz` finds inputs with
//! coverage in mind (`fuzz/`, driven by `cargo xtask fuzz`); `tests/corpus.rs` replays the
//! committed corpus, and bytes of a seeded generator, on stable.

#![forbid(unsafe_code)]

use std::sync::OnceLock;

pub mod draw;
pub mod duel;
pub mod engine;
pub mod frames;
pub mod heads;
pub mod http1;
pub mod remote;
pub mod settings;
pub mod websocket;
pub mod wire;

// The measure of the tests of WebSockets, and what that and HTTP need.
#[allow(dead_code, reason = "the tests use the rest")]
#[path = "../../../ws/tests/websocket/plain.rs"]
mod plain;
#[allow(dead_code, reason = "the tests use the rest")]
#[path = "../../../ws/tests/websocket/raw.rs"]
mod raw;
#[path = "../../../http/tests/support/mod.rs"]
mod support;

/// A fuzz target.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// As in `fuzz/fuzz_targets` and `fuzz/corpus`.
    pub name: &'static str,
    /// Runs one input.
    ///
    /// # Panics
    /// When something that must hold does not.
    pub run: fn(&[u8]),
    /// A good length of random input, in bytes.
    pub length: usize,
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "wire", run: wire::run, length: 600 },
    Target { name: "engine", run: engine::run, length: 800 },
    Target { name: "duel", run: duel::run, length: 600 },
    Target { name: "websocket", run: websocket::run, length: 300 },
    Target { name: "http1", run: http1::run, length: 200 },
    Target { name: "heads", run: heads::run, length: 100 },
];

/// Says on standard error what happens, where the environment variable `FUZZ_TRACE` is set.
pub(crate) fn trace(what: impl FnOnce() -> String) {
    static WANTED: OnceLock<bool> = OnceLock::new();
    if *WANTED.get_or_init(|| std::env::var_os("FUZZ_TRACE").is_some()) {
        eprintln!("{}", what());
    }
}
