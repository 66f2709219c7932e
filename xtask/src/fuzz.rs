//! `cargo xtask fuzz TARGET`: a long run of a fuzz target by cargo-fuzz and libFuzzer.
//!
//! What it finds on the way goes to `target/fuzz-corpus/TARGET`, which grows, not to the small
//! corpus in `fuzz/corpus`, which is in git; `--merge` takes into that what covers more. A
//! short run without any of this, on stable, is part of `cargo xtask test`
//! (`fuzz/bodies/tests/corpus.rs`).

use std::io;
use std::process::ExitCode;

use crate::host;
use crate::process::Cmd;
use crate::setup;

/// Options of `cargo xtask fuzz`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// A file of fuzz/fuzz_targets, without its ending
    target: String,
    /// How many inputs to run
    #[arg(long, default_value_t = 1_000_000)]
    runs: u64,
    /// Longest input, in bytes: some 150 events
    #[arg(long, default_value_t = 512)]
    max_len: u32,
    /// Instead of running: the smallest part of what was found that covers all of it, into
    /// fuzz/corpus
    #[arg(long)]
    merge: bool,
    /// With AddressSanitizer; without, for the code of ours that it runs has no unsafe block
    /// but the runtime's
    #[arg(long)]
    asan: bool,
    /// Arguments passed on to libFuzzer
    #[arg(last = true)]
    args: Vec<String>,
}

/// `cargo xtask fuzz`.
pub(crate) fn command(options: &Options) -> io::Result<ExitCode> {
    let target = &options.target;
    let committed = host::root().join("fuzz/corpus").join(target);
    if !committed.is_dir() {
        let text =
            format!("no fuzz target is called '{target}': {} is missing", committed.display());
        return Err(io::Error::other(text));
    }
    let program = setup::cargo_fuzz().map_err(io::Error::other)?;
    let nightly = Cmd::new("rustup").args(["run", "nightly", "rustc", "--version"]).run();
    if !nightly.is_ok_and(|done| done.ok()) {
        let text = "cargo-fuzz needs nightly's instrumentation: rustup toolchain install nightly";
        return Err(io::Error::other(text));
    }
    let found = host::target().join("fuzz-corpus").join(target);
    std::fs::create_dir_all(&found)?;
    let folders = if options.merge { [&committed, &found] } else { [&found, &committed] };
    let mut run = Cmd::new("rustup").args(["run", "nightly"]).arg(program).args(["fuzz", "run"]);
    // Under cfg(fuzzing) smoltcp calls every checksum right: that would be another stack. And
    // inputs are decisions, in which the numbers that code compares do not stand as such.
    run = run.args(["--no-cfg-fuzzing", "--no-trace-compares"]);
    if !options.asan {
        run = run.args(["--sanitizer", "none"]);
    }
    run = run.arg(target).args(folders).arg("--").arg(format!("-max_len={}", options.max_len));
    run = match options.merge {
        // By places reached, not by how often: some hundred files instead of thousands.
        true => run.args(["-merge=1", "-use_counters=0"]),
        // A run that takes seconds hangs; they take under a millisecond.
        // What it makes of compared memory is bytes of the streams; and weighing the corpus by
        // how rare a feature is takes longer than a run of the engine.
        false => run.arg(format!("-runs={}", options.runs)).args([
            "-timeout=20",
            "-use_cmp=0",
            "-entropic=0",
        ]),
    };
    // An engine's tables are a few allocations of a megabyte, of which a short run touches
    // little: from and to the kernel they would be most of its time.
    let many = (1u32 << 30).to_string();
    for key in ["MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"] {
        run = run.env(key, &many);
    }
    let status = run.args(&options.args).dir(host::root()).attached()?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
