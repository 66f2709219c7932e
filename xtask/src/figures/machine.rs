//! On what is measured: the machine, the versions, the commit.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use crate::host;
use crate::process::Cmd;

/// What a program prints on its standard output or error, if it can be run.
fn said(program: &str, args: &[&str]) -> Option<String> {
    let program = host::find_program(program)?;
    let limit = Duration::from_secs(20);
    let done = Cmd::new(program).args(args).dir(host::root()).limit(limit).run().ok()?;
    Some(done.output)
}

/// Now, UTC.
pub(crate) fn date() -> String {
    let date = said("date", &["-u", "+%Y-%m-%d %H:%M UTC"]).unwrap_or_default();
    date.trim().to_owned()
}

/// The machine in a line.
pub(crate) fn machine() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    described(&cpuinfo, &memory, &kernel)
}

fn described(cpuinfo: &str, memory: &str, kernel: &str) -> String {
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let cores = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    let name = field(cpuinfo, "model name").unwrap_or_else(|| "processor of no name".to_owned());
    let flags = field(cpuinfo, "flags").unwrap_or_default();
    let guest = flags.split(' ').any(|flag| flag == "hypervisor");
    let kind = if guest { "virtual cores" } else { "cores" };
    let kilobytes = field(memory, "MemTotal")
        .and_then(|total| total.split(' ').next().and_then(|number| number.parse::<f64>().ok()));
    let gigabytes = kilobytes.map_or("?".to_owned(), |size| format!("{:.0}", size / 1_048_576.0));
    // What follows the version is who built it.
    let kernel = kernel.trim().split('-').next().unwrap_or_default();
    format!("{cores} {kind} of {name}, {gigabytes} GiB of memory, Linux {kernel}")
}

/// Versions of what is compared, and of what it is made with.
pub(crate) fn versions() -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let lock = fs::read_to_string(host::root().join("benches/peers/Cargo.lock"));
    for name in ["tokio", "hyper", "tokio-tungstenite", "monoio"] {
        if let Some(version) = lock.as_ref().ok().and_then(|lock| locked(lock, name)) {
            all.insert(name.to_owned(), version);
        }
    }
    let programs: [(&str, &[&str]); 4] =
        [("nginx", &["-v"]), ("haproxy", &["-v"]), ("wrk", &["-v"]), ("rustc", &["--version"])];
    for (program, args) in programs {
        let first = said(program, args).and_then(|text| version(&text));
        all.extend(first.map(|version| (program.to_owned(), version)));
    }
    let dpdk = said("pkg-config", &["--modversion", "libdpdk"]).and_then(|text| version(&text));
    all.extend(dpdk.map(|version| ("dpdk".to_owned(), version)));
    all
}

/// The version of a package in a lock file.
fn locked(lock: &str, name: &str) -> Option<String> {
    let (_, rest) = lock.split_once(&format!("name = \"{name}\"\nversion = \""))?;
    Some(rest.split_once('"')?.0.to_owned())
}

/// The first word that begins with a digit, as in `nginx version: nginx/1.22.1`.
fn version(text: &str) -> Option<String> {
    let mut words = text.split(|c: char| c.is_whitespace() || c == '/');
    let digits = |word: &&str| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.');
    words.find(digits).map(|word| word.trim_end_matches([',', ')']).to_owned())
}

/// The last commit that changed more than documents and results; with `changed` where files differ from it.
pub(crate) fn commit() -> String {
    // What this is about is the code, and a committed result must not make the next one another's.
    let others = ["--", ".", ":!docs", ":!benches/results"];
    let git = |args: &[&str]| {
        let done = Cmd::new("git").args(args).args(others).dir(host::root()).stdout_only();
        let done = done.limit(Duration::from_secs(30)).run().ok().filter(|done| done.ok());
        done.map(|done| done.output.trim().to_owned())
    };
    let Some(commit) = git(&["log", "-1", "--format=%h"]).filter(|commit| !commit.is_empty())
    else {
        return "unknown".to_owned();
    };
    let status = git(&["status", "--porcelain", "--untracked-files=no"]).unwrap_or_default();
    if status.is_empty() { commit } else { format!("{commit}, changed") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_programs_say() {
        let texts = [
            ("nginx version: nginx/1.22.1\n", "1.22.1"),
            (
                "HAProxy version 2.6.12-1+deb12u2 2025/04/15 - https://haproxy.org/",
                "2.6.12-1+deb12u2",
            ),
            ("wrk debian/4.1.0-3build1 [epoll] Copyright (C) 2012", "4.1.0-3build1"),
            ("rustc 1.95.0 (59807616e 2026-04-14)", "1.95.0"),
        ];
        for (text, wanted) in texts {
            assert_eq!(version(text).as_deref(), Some(wanted));
        }
        assert_eq!(version("not found"), None);
        let lock = "[[package]]\nname = \"tokio-util\"\nversion = \"9.9\"\n\n\
                    [[package]]\nname = \"tokio\"\nversion = \"1.54.0\"\n";
        assert_eq!(locked(lock, "tokio").as_deref(), Some("1.54.0"));
        assert_eq!(locked(lock, "hyper"), None);
    }

    #[test]
    fn a_machine_is_described() {
        let cpuinfo = "processor\t: 0\nmodel name\t: A Processor\nflags\t\t: fpu hypervisor sse\n\
                       processor\t: 1\nmodel name\t: A Processor\n";
        let text =
            described(cpuinfo, "MemTotal:       24105912 kB\nMemFree: 1 kB\n", "6.1.0-34-amd64\n");
        assert_eq!(text, "2 virtual cores of A Processor, 23 GiB of memory, Linux 6.1.0");
    }
}
