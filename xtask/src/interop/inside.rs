//! The run of one backend, inside its namespace: link, server, capture, checks, end.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use super::Backend;
use super::capture::Capture;
use super::checks::{self, Verdict};
use super::counters;
use super::examples;
use super::internet;
use super::link::{self, Link};
use super::tls;
use crate::process::{Background, Cmd};

/// Options of `cargo xtask interop-inside`, which only `interop` calls.
#[derive(clap::Args)]
pub(crate) struct Options {
    #[arg(long, value_enum)]
    backend: Backend,
    #[arg(long)]
    server: PathBuf,
    #[arg(long)]
    python: PathBuf,
    #[arg(long)]
    logs: PathBuf,
    #[arg(long)]
    only: Vec<String>,
}

/// The server answers within this time of its start, or the run fails. A guest has to boot.
const START: Duration = Duration::from_secs(40);
const START_GUEST: Duration = Duration::from_secs(150);

/// A run under way.
pub(crate) struct Run {
    /// Logs, captures and reports go here.
    pub(crate) logs: PathBuf,
    /// The interpreter that has our clients.
    pub(crate) python: PathBuf,
    only: Vec<String>,
    results: File,
    failed: bool,
}

impl Run {
    /// Makes a check, if it is asked for, and writes down what came of it.
    pub(crate) fn check(&mut self, name: &str, check: impl FnOnce(&Run) -> Verdict) {
        if self.only.is_empty() || self.only.iter().any(|only| name.contains(only.as_str())) {
            let start = Instant::now();
            let verdict = check(self);
            self.record(name, verdict, start.elapsed());
        }
    }

    fn exit_code(&self) -> ExitCode {
        if self.failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }

    fn record(&mut self, name: &str, verdict: Verdict, took: Duration) {
        let (result, detail) = match verdict {
            Ok(detail) => ("passed", detail),
            Err(detail) => ("failed", detail),
        };
        self.failed |= result == "failed";
        let first = detail.lines().next().unwrap_or_default();
        println!("    {result} {name} in {:.1} s: {first}", took.as_secs_f64());
        // A failure's other lines are printed with the step's results.
        let line = json!({ "check": name, "result": result, "detail": detail });
        if let Err(error) = writeln!(self.results, "{line}") {
            eprintln!("xtask: results: {error}");
        }
    }
}

/// `cargo xtask interop-inside`.
pub(crate) fn command(options: &Options) -> io::Result<ExitCode> {
    let results =
        File::options().create(true).append(true).open(options.logs.join("results.jsonl"))?;
    let mut run = Run {
        logs: options.logs.clone(),
        python: options.python.clone(),
        only: options.only.clone(),
        results,
        failed: false,
    };
    if options.backend == Backend::Examples {
        examples::all(&mut run, &options.server);
        tls::all(&mut run, &options.server);
        return Ok(run.exit_code());
    }
    if options.backend == Backend::Internet {
        internet::all(&mut run, &options.server);
        return Ok(run.exit_code());
    }
    let start = Instant::now();
    match start_server(options) {
        Ok((link, server)) => all_checks(&mut run, options, &link, server),
        Err(why) => run.record("start", Err(why), start.elapsed()),
    }
    Ok(run.exit_code())
}

fn start_server(options: &Options) -> Result<(Link, Background), String> {
    let link = Link::prepare(options.backend)?;
    let log = options.logs.join("server.log");
    let limit = if options.backend == Backend::Guest { START_GUEST } else { START };
    let start = Instant::now();
    let mut server = Cmd::new(&options.server)
        .env("THRONG_DEVICE", &link.device)
        .env("THRONG_ADDRESS", format!("{}/24,{}/64", link::SERVER_V4, link::SERVER_V6))
        .env("THRONG_SHARDS", "2")
        .env("THRONG_ADMIN", counters::ADMIN)
        // Two busy shards would leave nothing of two cores for the clients.
        .env("THRONG_IDLE", "adaptive")
        .env("RUST_LOG", "info")
        .env("RUST_BACKTRACE", "1")
        .log(&log)
        .background()
        .map_err(|error| format!("server: {error}"))?;
    let said = || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(25)..].join("\n")
    };
    link.bring_up().map_err(|why| format!("{why}; the server said:\n{}", said()))?;
    loop {
        if checks::get(&format!("http://{}/", link::SERVER_V4), &["--http1.1", "-m2"]).is_ok() {
            return Ok((link, server));
        }
        if !server.alive() {
            return Err(format!("the server ended at once; it said:\n{}", said()));
        }
        if start.elapsed() > limit {
            return Err(format!("no answer after {limit:?}; the server said:\n{}", said()));
        }
        thread::sleep(Duration::from_millis(200));
    }
}

fn all_checks(run: &mut Run, options: &Options, link: &Link, server: Background) {
    if options.backend == Backend::Guest {
        checks::basics(run);
        run.check("server log", |run| checks::server_log(run, Some("by the device's RSS")));
        return;
    }
    let before = checks::kernel_counters();
    // What moves much is captured apart and only its beginning: more says nothing new.
    captured(run, link, "functional", None, checks::functional);
    captured(run, link, "bodies", Some(200_000), checks::bodies);
    captured(run, link, "load", Some(150_000), checks::load);

    run.check("kernel counters", |_| checks::compare_counters(&before));
    run.check("retransmissions", |_| checks::retransmissions(&before, link));
    run.check("server log", |run| checks::server_log(run, None));
    run.check("graceful end", |_| checks::ends_gracefully(server));
}

/// Makes some checks under a capture of at most `packets`, if given, and judges that.
fn captured(
    run: &mut Run,
    link: &Link,
    name: &str,
    packets: Option<u32>,
    checks: impl FnOnce(&mut Run),
) {
    let capture = Capture::start(run, link, name, packets);
    checks(run);
    run.check(&format!("capture: {name}"), |_| capture.and_then(|capture| capture.judge(link)));
}
