//! The crate redis on our stream, with Debian's redis-server.

use std::process::{Command, Stdio};

use crate::support::{KERNELS, Running, example, find, free_address, on_tap, start, succeed, tap};

const REDIS: &str = env!("CARGO_BIN_EXE_redis");

const EXPECTED: &str = "get: Throng
get: 1000000 bytes, the same
pipeline: 41 42
at once: 100 answers, the sum 4200
published to 1: throng:news says it works
";

/// A server that keeps nothing.
fn server(address: &str) -> Option<Running> {
    let (host, port) = address.rsplit_once(':').expect("an address");
    let mut server = Command::new(find("redis-server")?);
    server.args(["--bind", host, "--port", port, "--save", "", "--appendonly", "no"]);
    server.args(["--daemonize", "no", "--protected-mode", "no"]);
    server.current_dir(env!("CARGO_TARGET_TMPDIR")).stdout(Stdio::null());
    Some(start(&mut server).until_open(address))
}

#[test]
fn commands_pipelines_and_subscriptions_work() {
    let address = free_address();
    let Some(_server) = server(&address) else { return };
    assert_eq!(succeed(example(REDIS).arg(&address)), EXPECTED);
}

#[test]
fn commands_pipelines_and_subscriptions_work_over_our_own_stack() {
    if find("redis-server").is_none() || !tap() {
        return;
    }
    let address = format!("{KERNELS}:6379");
    let Some(_server) = server(&address) else { return };
    assert_eq!(succeed(on_tap(REDIS).arg(&address)), EXPECTED);
}
