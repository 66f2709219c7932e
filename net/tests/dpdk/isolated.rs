//! Runs a test's body in a process of its own, where needed in a network namespace of its own.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const CASE: &str = "THRONG_TEST_CASE";
const LIMIT: Duration = Duration::from_secs(100);

/// What a test's process needs.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Need {
    /// Nothing beside DPDK.
    Nothing,
    /// Interfaces of its own: a new network namespace, by root or by a user namespace.
    Network,
    /// Likewise, and DPDK's memory on ordinary pages, though there may be huge ones.
    NetworkOnSmallPages,
}

/// Runs `body` in a new process, this binary again, asked for the one test `name` (its
/// full path). A test that cannot run prints `skipped: <reason>`, which is how
/// `cargo xtask test` counts it.
pub(crate) fn isolated(name: &str, need: Need, body: fn()) {
    if std::env::var(CASE).as_deref() == Ok(name) {
        let _ = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::DEBUG)
            .with_writer(std::io::stderr)
            .try_init();
        return body();
    }
    let mut command = match need {
        Need::Nothing => again(name),
        Need::Network | Need::NetworkOnSmallPages => match namespace() {
            Ok(mut command) => {
                command.arg(this_program());
                only(command, name)
            }
            Err(reason) => {
                println!("skipped: {reason}");
                return;
            }
        },
    };
    if need == Need::NetworkOnSmallPages {
        command.env("THRONG_EAL_ARGS", "--no-huge");
    }
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (mut out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let errors = std::thread::spawn(move || {
        let mut text = String::new();
        let _ = err.read_to_string(&mut text);
        text
    });
    let output = std::thread::spawn(move || {
        let mut text = String::new();
        let _ = out.read_to_string(&mut text);
        text
    });
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break Ok(status);
        }
        if start.elapsed() > LIMIT {
            let _ = child.kill();
            break Err(child.wait().unwrap());
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let output = output.join().unwrap();
    // Behind "test <name> ... " if the test says nothing before.
    for reason in output.lines().filter_map(|line| line.find("skipped:").map(|at| &line[at..])) {
        println!("{reason}");
    }
    let errors = errors.join().unwrap();
    match status {
        Ok(status) if status.success() => {
            assert!(output.contains("test result: ok. 1 passed"), "no test {name}:\n{output}");
        }
        Ok(status) => panic!("{name}: {status}\n{output}\n{errors}"),
        Err(_) => panic!("{name}: not done after {LIMIT:?}\n{output}\n{errors}"),
    }
}

/// This program, asked for the one test `name`, whose body it will run.
pub(crate) fn again(name: &str) -> Command {
    only(Command::new(this_program()), name)
}

fn only(mut command: Command, name: &str) -> Command {
    command
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(CASE, name)
        .stdin(Stdio::null());
    command
}

fn this_program() -> std::path::PathBuf {
    std::env::current_exe().unwrap()
}

fn namespace() -> Result<Command, String> {
    let flags = if is_root() { "-n" } else { "-Urn" };
    let works = Command::new("unshare").args([flags, "true"]).output();
    match works {
        Ok(output) if output.status.success() => {
            let mut command = Command::new("unshare");
            command.arg(flags).arg("--");
            Ok(command)
        }
        Ok(output) => Err(format!(
            "no network namespace (unshare {flags}): {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )),
        Err(error) => Err(format!("unshare: {error}")),
    }
}

/// Whether this process is root where it matters: outside of a user namespace.
pub(crate) fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let root = status.lines().any(|line| line.starts_with("Uid:\t0\t"));
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    root && map.split_whitespace().collect::<Vec<_>>() == ["0", "0", "4294967295"]
}

/// Whether there are huge pages for a test. Says so if not.
pub(crate) fn has_huge_pages() -> bool {
    let count = |file: &str| -> usize {
        let path = format!("/sys/kernel/mm/hugepages/hugepages-2048kB/{file}");
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    };
    let refused = std::env::var("THRONG_EAL_ARGS").is_ok_and(|args| args.contains("--no-huge"));
    let enough = !refused && count("free_hugepages") > count("resv_hugepages") + 200;
    if !enough {
        println!("skipped: zero copy between processes needs huge pages (vm.nr_hugepages)");
    }
    enough
}

/// Runs a program of the host and expects it to succeed.
pub(crate) fn run(line: &str) {
    let mut words = line.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(
        output.status.success(),
        "{line}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
