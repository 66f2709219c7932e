//! What of the examples only other programs can say: Python's client, a router between two of them,
//! curl as the README has it. Every example over every backend is `tests/examples/`.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::checks::{self, Verdict};
use super::counters::ADMIN;
use super::inside::Run;
use super::link::{self, KERNEL_V4, SERVER_V4};
use crate::process::{Background, Cmd};

/// Interfaces of the server's link and of the client's, and the client's addresses.
const SERVER_TAP: &str = "tex0";
const CLIENT_TAP: &str = "tex1";
const CLIENT_V4: &str = "10.78.0.2";
const CLIENT_GATEWAY: &str = "10.78.0.1";

/// Runs the examples of `dir` and what is asked of each.
pub(crate) fn all(run: &mut Run, dir: &Path) {
    run.check("ws-echo and ws-client", |run| {
        let _server = serve(run, dir, "ws-echo", 9001)?;
        let script = crate::host::root().join("interop/ws_echo.py");
        let python = Cmd::new(&run.python).arg(script).arg(format!("ws://{SERVER_V4}:9001/"));
        checks::succeeds(python.limit(Duration::from_secs(60)), 8)?;
        client(run, dir)
    });
    run.check("a graceful end of http-hello", |run| {
        let server = serve(run, dir, "http-hello", 80)?;
        let mut stream = TcpStream::connect((SERVER_V4, 80)).map_err(|error| error.to_string())?;
        let patience = Some(Duration::from_secs(30));
        stream.set_read_timeout(patience).map_err(|error| error.to_string())?;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n").map_err(|error| error.to_string())?;
        let metrics = checks::get(&format!("http://{ADMIN}/metrics"), &["-m5"])?;
        if !metrics.contains("throng_http_open{shard=\"0\"}") {
            return Err(format!("no number of HTTP connections in\n{metrics}"));
        }
        // The rest of the request comes when the server has been told to end.
        let answer = thread::spawn(move || {
            thread::sleep(Duration::from_millis(500));
            let mut answer = String::new();
            let asked = stream.write_all(b"\r\n").and_then(|()| stream.read_to_string(&mut answer));
            asked.map(|_| answer).map_err(|error| error.to_string())
        });
        ends(server, "http-hello")?;
        let answer = answer.join().map_err(|_| "the client panicked")??;
        match answer.starts_with("HTTP/1.1 200") && answer.contains("hello from shard ") {
            true => Ok("the request under way was answered, exit code 0".into()),
            false => Err(format!("the answer is {answer:?}")),
        }
    });
    run.check("a graceful end of ws-echo", |run| {
        let server = serve(run, dir, "ws-echo", 9001)?;
        let health = checks::get(&format!("http://{ADMIN}/healthz"), &["-m5"])?;
        ends(server, "ws-echo")?;
        Ok(health.trim().into())
    });
    run.check("what the demo says to try", |run| {
        let demo = Cmd::new(dir.with_file_name(crate::demo::PACKAGE))
            .args(["--memory", "--connections", "10"])
            .stdout_only()
            .limit(Duration::from_secs(60))
            .run()
            .map_err(|error| error.to_string())?;
        let lines: Vec<&str> = demo.output.lines().flat_map(|line| line.split("&&")).collect();
        as_written(run, dir, &lines)
    });
    run.check("what the README says to try", |run| {
        let readme = crate::host::root().join("README.md");
        let text = std::fs::read_to_string(&readme).map_err(|error| error.to_string())?;
        let code: Vec<&str> = text.split('`').collect();
        as_written(run, dir, &code)
    });
}

/// Runs the three commands that a reader is told to try, as they stand in `text`: a server, an
/// address for the kernel's side, and curl.
fn as_written(run: &Run, dir: &Path, text: &[&str]) -> Verdict {
    let find = |what: &str| {
        let found = text.iter().find(|code| code.contains(what) && !code.contains("fn main"));
        found.map(|code| code.trim()).ok_or(format!("no '{what}' to try"))
    };
    let (server, address, curl) =
        (find("cargo run --example ")?, find("ip addr add ")?, find("curl http")?);
    // It is built already, with the features of the other tests.
    let program = format!("{}/", dir.display());
    let line = server.replace("cargo run --example ", &program).replace(" -- ", " ");
    let log = run.logs.join("as-written.log");
    let mut server = Cmd::new("sh")
        .args(["-c", &line])
        .log(&log)
        .background()
        .map_err(|error| format!("{line}: {error}"))?;
    let start = Instant::now();
    let mut trying = address;
    loop {
        let tried = Cmd::new("sh").args(["-c", trying]).limit(Duration::from_secs(5)).run();
        match tried {
            Ok(done) if done.ok() && trying == curl => {
                return Ok(format!("{curl}: {}", done.tail(1)));
            }
            Ok(done) if done.ok() => trying = curl,
            _ if server.alive() && start.elapsed() < Duration::from_secs(15) => {
                thread::sleep(Duration::from_millis(100));
            }
            failed => {
                let how = failed.map_or_else(|error| error.to_string(), |done| done.output);
                let said = std::fs::read_to_string(&log).unwrap_or_default();
                return Err(format!("{line}\n{trying}: {how}\nthe server said: {said}"));
            }
        }
    }
}

/// Asks a server to end by SIGTERM, and wants it to do so by itself and cleanly.
fn ends(server: Background, name: &str) -> Result<(), String> {
    let ended = server.stop(Signal::SIGTERM, Duration::from_secs(20));
    match ended.map_err(|error| format!("{name}: {error}"))? {
        (status, false) if status.success() => Ok(()),
        (status, killed) => Err(format!("{name}: {status}, killed: {killed}")),
    }
}

/// Starts a server on a TAP of its own and waits until it takes connections on `port`.
fn serve(run: &Run, dir: &Path, name: &str, port: u16) -> Result<Background, String> {
    let log = run.logs.join(format!("{name}.log"));
    let mut server = Cmd::new(dir.join(name))
        .args(["--device", &format!("tap:{SERVER_TAP}")])
        .env("THRONG_ADDRESS", format!("{SERVER_V4}/24"))
        .env("THRONG_GATEWAY", KERNEL_V4)
        .env("THRONG_SHARDS", "2")
        .env("THRONG_IDLE", "adaptive")
        .env("THRONG_ADMIN", ADMIN)
        .env("RUST_LOG", "info")
        .log(&log)
        .background()
        .map_err(|error| format!("{name}: {error}"))?;
    // For the operator's endpoint.
    link::bring_up("lo", &[])?;
    link::bring_up(SERVER_TAP, &[&format!("{KERNEL_V4}/24")])?;
    let start = Instant::now();
    while checks::connect(SERVER_V4, port).is_err() {
        if !server.alive() || start.elapsed() > Duration::from_secs(20) {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            return Err(format!("{name} takes no connections on port {port}; it said:\n{said}"));
        }
        thread::sleep(Duration::from_millis(100));
    }
    Ok(server)
}

/// ws-client against ws-echo: from another network, through the kernel as a router.
fn client(run: &Run, dir: &Path) -> Verdict {
    link::setting("net/ipv4/ip_forward", "1")?;
    let log = run.logs.join("ws-client.log");
    let client = Cmd::new(dir.join("ws-client"))
        .args(["--device", &format!("tap:{CLIENT_TAP}"), "--count", "5"])
        .arg(format!("{SERVER_V4}:9001"))
        .env("THRONG_ADDRESS", format!("{CLIENT_V4}/24"))
        .env("THRONG_GATEWAY", CLIENT_GATEWAY)
        .env("THRONG_IDLE", "adaptive")
        .log(&log)
        .background()
        .map_err(|error| format!("ws-client: {error}"))?;
    link::bring_up(CLIENT_TAP, &[&format!("{CLIENT_GATEWAY}/24")])?;
    let (status, killed) =
        client.wait(Duration::from_secs(30)).map_err(|error| format!("ws-client: {error}"))?;
    let said = std::fs::read_to_string(&log).unwrap_or_default();
    let echoed = said.lines().filter(|line| line.starts_with("message ")).count();
    if killed || !status.success() || echoed != 5 {
        return Err(format!("ws-client: {status}, 5 messages sent, {echoed} echoed\n{said}"));
    }
    Ok(format!("{echoed} messages echoed across a router"))
}
