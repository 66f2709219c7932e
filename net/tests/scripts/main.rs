//! The packetdrill scripts under this directory, each of them a test.
//!
//!     cargo test -p throng-net --test scripts             # all
//!     cargo test -p throng-net --test scripts rto/        # those whose path contains this
//!     THRONG_SCRIPT=file.pkt cargo test -p throng-net --test scripts
//!
//! docs/TESTING.md says what of packetdrill's language is understood.

#![allow(unreachable_pub)]

mod calls;
mod code;
mod constants;
mod cursor;
mod flow;
mod notation;
mod parse;
mod parse_packet;
mod run;
mod script;
mod selfcheck;
mod settings;

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};

/// Scripts that say what is right and that the engine does not do yet, each with the reason.
const KNOWN_FAILURES: &str = include_str!("known_failures.txt");

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let mut files = Vec::new();
    if let Some(file) = std::env::var_os("THRONG_SCRIPT") {
        files.push(PathBuf::from(file));
    } else if let Err(error) = find(&root, &mut files) {
        eprintln!("{}: {error}", root.display());
        return ExitCode::FAILURE;
    }
    files.sort();
    let name = |file: &Path| {
        let name = file.strip_prefix(&root).unwrap_or(file);
        name.to_string_lossy().into_owned()
    };
    let known: Vec<&str> = KNOWN_FAILURES
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    let mut trials = selfcheck::trials();
    for gone in known.iter().filter(|known| !files.iter().any(|file| name(file) == **known)) {
        let why = format!("known_failures.txt: there is no script {gone}");
        trials.push(Trial::test(format!("known failure {gone}"), move || Err(why.into())));
    }
    for file in files {
        let name = name(&file);
        if known.contains(&name.as_str()) {
            let trial = Trial::test(name, move || match judge(&file) {
                Ok(()) => Err("it passes now: take it out of known_failures.txt".into()),
                Err(_) => Ok(()),
            });
            trials.push(trial.with_kind("known failure"));
        } else {
            trials.push(Trial::test(name, move || judge(&file).map_err(Failed::from)));
        }
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// The scripts under `directory`.
fn find(directory: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            find(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "pkt") {
            files.push(path);
        }
    }
    Ok(())
}

/// Runs a script; what is wrong begins with its place in the file.
fn judge(file: &Path) -> Result<(), String> {
    let text = std::fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
    judge_text(&text).map_err(|wrong| {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        format!("{name}:{}: {}", wrong.line, wrong.what)
    })
}

fn judge_text(text: &str) -> Result<(), script::Wrong> {
    run::run(&parse::parse(text)?)
}
