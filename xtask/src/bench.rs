//! `cargo xtask bench [name]`: runs the benches of throng-bench.

use std::io;
use std::process::ExitCode;

use crate::cargo::{cargo, features};
use crate::host;
use crate::hugepages::Hugepages;
use crate::setup::{self, HUGEPAGES, Need};

/// `cargo xtask bench [name] args...`.
pub(crate) fn command(name: Option<&str>, args: &[String]) -> io::Result<ExitCode> {
    setup::packages(Need::Bench)?;
    let benches = names()?;
    if benches.is_empty() {
        println!("there are no benches in benches/benches yet");
        return Ok(ExitCode::SUCCESS);
    }
    let wanted: Vec<&String> =
        benches.iter().filter(|bench| name.is_none_or(|name| name == bench.as_str())).collect();
    if wanted.is_empty() {
        let name = name.unwrap_or_default();
        return Err(io::Error::other(format!(
            "no bench is called '{name}'; there are: {}",
            benches.join(", ")
        )));
    }
    let _pages = Hugepages::reserve(HUGEPAGES);
    for bench in wanted {
        let run = cargo(["bench", "--quiet", "--package", "throng-bench", "--bench", bench])
            .arg(features())
            .arg("--")
            .args(args);
        if !run.attached()?.success() {
            return Ok(ExitCode::FAILURE);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The benches there are, by file.
fn names() -> io::Result<Vec<String>> {
    let dir = host::root().join("benches/benches");
    if !dir.is_dir() {
        return Ok(Vec::new());
    }
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs")
            && let Some(name) = path.file_stem()
        {
            names.push(name.to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}
