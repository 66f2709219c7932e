//! Other people's clients, which ask a peer the same as ours does: whether ours judges it fairly. All return
//! operations per second of the server's CPU time.

use std::io;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use crate::subject::{Ask, Match, Subject, no_peers, peers_program};

/// Has wrk ask `subject` for pages.
///
/// # Errors
/// wrk is missing, fails, or counts an error; or the server does not start.
pub fn wrk(subject: &Subject, ask: &Ask, time: Duration) -> io::Result<f64> {
    asked_by(subject, ask, by_wrk, |endpoint| {
        let mut command = Command::new("wrk");
        command.arg("-t1");
        command.args([format!("-c{}", ask.connections), format!("-d{}", time.as_secs().max(1))]);
        command.arg(format!("http://{endpoint}/"));
        command
    })
}

/// Has h2load ask `subject` for pages, by HTTP/1.1.
///
/// # Errors
/// As for [`wrk`].
pub fn h2load(subject: &Subject, ask: &Ask, time: Duration) -> io::Result<f64> {
    asked_by(subject, ask, by_h2load, |endpoint| {
        let mut command = Command::new("h2load");
        command.args(["--h1", "-t1"]);
        command.args([format!("-c{}", ask.connections), format!("-D{}", time.as_secs().max(1))]);
        command.arg(format!("http://{endpoint}/"));
        command
    })
}

/// Has tungstenite's own client ask `subject` for echoes, likewise.
///
/// # Errors
/// The peers are not built, their client fails, or the server does not start.
pub fn tungstenite(subject: &Subject, ask: &Ask, time: Duration) -> io::Result<f64> {
    let program = peers_program().ok_or_else(no_peers)?;
    let last = |text: &str| text.lines().last()?.trim().parse().ok();
    asked_by(subject, ask, last, |endpoint| {
        let mut command = Command::new(program);
        command.args(["tungstenite-client", "--listen", &endpoint.to_string()]);
        command.args(["--connections", &ask.connections.to_string()]);
        command.args(["--body", &ask.size.to_string()]);
        command.args(["--seconds", &time.as_secs_f64().to_string()]);
        command
    })
}

/// Operations per second of the server's CPU time as another program finds them, which runs on the
/// client's core and prints what `done` understands.
fn asked_by(
    subject: &Subject,
    ask: &Ask,
    done: impl Fn(&str) -> Option<u64>,
    command: impl FnOnce(SocketAddr) -> Command,
) -> io::Result<f64> {
    // One connection of ours, which only shows that the server is there.
    let this = subject.start(&Ask { connections: 1, window: 1, ..ask.clone() })?;
    let Match { servers, endpoint, .. } = &this;
    let cpu = || servers.iter().map(|server| server.cpu()).sum::<io::Result<Duration>>();
    let command = command(*endpoint);
    let name = command.get_program();
    // It is taskset that would not find it, and say so less clearly.
    if Command::new(name).arg("--version").output().is_err() {
        let text = format!("{} is not installed", name.display());
        return Err(io::Error::new(io::ErrorKind::NotFound, text));
    }
    let before = cpu()?;
    let output = Command::new("taskset")
        .args(["-c", &ask.cores[1].to_string()])
        .arg(command.get_program())
        .args(command.get_args())
        .output()?;
    let spent = cpu()? - before;
    let text = String::from_utf8_lossy(&output.stdout);
    let done = done(&text).filter(|_| output.status.success()).ok_or_else(|| {
        let said = String::from_utf8_lossy(&output.stderr);
        io::Error::other(format!("{:?}: {text}{said}", command.get_program()))
    })?;
    Ok(done as f64 / spent.as_secs_f64())
}

/// `  434005 requests in 2.00s, 40.1MB read`, and no line that tells of errors.
fn by_wrk(text: &str) -> Option<u64> {
    let wrong = ["Socket errors:", "Non-2xx or 3xx"];
    let line = text.lines().find(|line| line.contains(" requests in "))?;
    let done = line.split_whitespace().next()?.parse().ok();
    done.filter(|_| !wrong.iter().any(|wrong| text.contains(wrong)))
}

/// `requests: 9 total, 9 started, 9 done, 9 succeeded, 0 failed, 0 errored, 0 timeout`
fn by_h2load(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("requests: "))?;
    let of = |what: &str| {
        let count = line.split(", ").find_map(|part| part.strip_suffix(what))?;
        count.trim().parse::<u64>().ok()
    };
    let wrong = [" failed", " errored", " timeout"].map(of);
    of(" succeeded").filter(|_| wrong == [Some(0); 3])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrk_is_understood() {
        let text =
            "Running 1s test @ http://127.0.0.1:9000/\n  434005 requests in 2.00s, 40MB read\n";
        assert_eq!(by_wrk(text), Some(434_005));
        assert_eq!(by_wrk("unable to connect"), None);
        let wrong = format!("{text}  Socket errors: connect 0, read 1, write 0, timeout 0\n");
        assert_eq!(by_wrk(&wrong), None);
        assert_eq!(by_wrk(&format!("{text}  Non-2xx or 3xx responses: 7\n")), None);
    }

    #[test]
    fn h2load_is_understood() {
        let text = "finished in 3.00s, 3.00 req/s, 1.16KB/s\nrequests: 9 total, 9 started, 9 done, \
                    9 succeeded, 0 failed, 0 errored, 0 timeout\nstatus codes: 9 2xx, 0 3xx\n";
        assert_eq!(by_h2load(text), Some(9));
        assert_eq!(by_h2load(&text.replace("0 errored", "1 errored")), None);
        assert_eq!(by_h2load("starting benchmark..."), None);
    }
}
