//! The same scripted exchanges, played against the Linux kernel's TCP and against ours.
//!
//! Both subjects run one program with sockets, in one process and network namespace: one on the
//! kernel's, behind the TAP `dkernel`; one on Throng's, on the TAP `dthrong`. The peer is this
//! program as well, which makes every segment by hand. What comes back is normalised
//! ([`exchange`]) and compared; the differences must be those of `docs/DIFFERENCES.md`.
//!
//! `cargo xtask differential` runs it, in a namespace of its own: it makes interfaces and
//! changes settings of the kernel.

#![forbid(unsafe_code)]

mod draft;
mod exchange;
mod exchanges;
mod frame;
mod known;
mod link;
mod subject;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use throng::net::device::tap;
use throng::{Builder, Limits};

use exchange::Exchange;
use exchanges::Script;
use known::{Known, difference};
use link::Link;
use subject::Subject;

/// Exchanges under way at once with each subject.
const AT_ONCE: usize = 24;
/// The largest receive window of both, small enough to be filled in a moment.
const RECEIVE_BUFFER: u32 = 256 << 10;
/// How often an exchange is played when it ends otherwise than it should.
const ATTEMPTS: usize = 3;

struct Options {
    /// Only exchanges whose name contains one of these.
    only: Vec<String>,
    /// Print whole transcripts.
    verbose: bool,
    /// Write the differences down as known.
    update: bool,
    list: PathBuf,
}

fn main() -> ExitCode {
    let mut options = Options {
        only: Vec::new(),
        verbose: false,
        update: false,
        list: Path::new("docs/DIFFERENCES.md").into(),
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--verbose" => options.verbose = true,
            "--update" => options.update = true,
            "--list" => options.list = arguments.next().unwrap_or_default().into(),
            _ => options.only.push(argument),
        }
    }
    match run(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("throng-differential: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> io::Result<bool> {
    let mut known = Known::read(&options.list)?;
    let subjects = [kernel()?, throng()?];
    let wanted = |script: &&Script| {
        options.only.is_empty() || options.only.iter().any(|only| script.name.contains(&**only))
    };
    let scripts: Vec<&Script> = exchanges::all().into_iter().filter(wanted).collect();
    let numbered: Vec<(usize, &Script)> = scripts.iter().copied().enumerate().collect();
    let begin = Instant::now();
    let mut found: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut open = numbered;
    for attempt in 0..ATTEMPTS {
        let played = play(&subjects, &open, attempt);
        open.retain(|(number, script)| {
            let [linux, ours] = &played[number];
            if options.verbose {
                println!("--- {} (attempt {attempt})", script.name);
                linux.iter().for_each(|line| println!("  linux  {line}"));
                ours.iter().for_each(|line| println!("  throng {line}"));
            }
            let difference = difference(linux, ours);
            // As it should be, or the same again: that is what it is.
            let settled = known.is(script.name, &difference)
                || found.get(script.name).is_some_and(|before| *before == difference);
            found.insert(script.name, difference);
            !settled
        });
        if open.is_empty() {
            break;
        }
    }
    let mut ok = true;
    for (name, difference) in &found {
        if known.is(name, difference) {
            println!("passed {name}");
        } else if options.update {
            println!("noted {name}");
            known.note(name, difference);
        } else {
            ok = false;
            println!("failed {name}");
            for line in known.explain(name, difference) {
                println!("    {line}");
            }
        }
    }
    if options.only.is_empty() {
        let names = exchanges::all().iter().map(|script| script.name).collect::<Vec<_>>();
        for stale in known.without(&names) {
            ok &= options.update;
            println!("failed {stale}: no exchange has this name");
        }
    }
    if options.update {
        known.write(&options.list)?;
    }
    if let Some(name) = known.unexplained() {
        ok = false;
        println!("failed {name}: {} does not explain it", options.list.display());
    }
    let same = found.values().filter(|difference| difference.is_empty()).count();
    println!(
        "{} exchanges in {:.0} s, {same} without a difference, kernel {}",
        found.len(),
        begin.elapsed().as_secs_f64(),
        std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim(),
    );
    Ok(ok)
}

/// Plays exchanges with both subjects. Returns their transcripts by number.
fn play(
    subjects: &[Subject; 2],
    scripts: &[(usize, &Script)],
    attempt: usize,
) -> BTreeMap<usize, [Vec<String>; 2]> {
    let todo = Mutex::new(scripts.iter());
    let done = Mutex::new(BTreeMap::new());
    thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(scripts.len()) {
            scope.spawn(|| {
                loop {
                    let next = lock(&todo).next();
                    let Some((number, script)) = next else { break };
                    let transcripts = thread::scope(|scope| {
                        let play = |subject| {
                            scope.spawn(move || {
                                let mut exchange =
                                    Exchange::new(*number, attempt, subject, script.ipv6);
                                (script.play)(&mut exchange);
                                exchange.into_lines()
                            })
                        };
                        let played = [play(&subjects[0]), play(&subjects[1])];
                        played.map(|one| one.join().unwrap_or_else(|_| vec!["# panic".into()]))
                    });
                    lock(&done).insert(*number, transcripts);
                }
            });
        }
    });
    done.into_inner().unwrap_or_default()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A TAP whose descriptor is the peer's. Without offload, so that checksums are on the wire.
fn peer_tap(interface: &str) -> io::Result<tap::TapQueue> {
    let options = tap::Options { offload: false, ..tap::Options::default() };
    tap::open(interface, 1, &options)?.pop().ok_or_else(|| io::Error::other("no queue"))
}

/// The kernel's TCP behind a TAP.
fn kernel() -> io::Result<Subject> {
    // Its own answers to everything, by what it would do on a host of its own.
    // A namespace may not choose every controller; the exchanges end before they differ.
    let controller = "net/ipv4/tcp_congestion_control";
    setting(controller, "cubic").or_else(|_| setting(controller, "reno"))?;
    setting("net/ipv4/tcp_rmem", &format!("4096 131072 {RECEIVE_BUFFER}"))?;
    // Exchanges must not learn from each other.
    setting("net/ipv4/tcp_no_metrics_save", "1")?;
    setting("net/ipv6/conf/default/accept_ra", "0")?;
    let device = peer_tap("dkernel")?;
    ip("link set dkernel address 02:00:00:00:00:01")?;
    ip("addr add 10.78.0.1/16 dev dkernel")?;
    ip("addr add fd78::1/64 dev dkernel nodad")?;
    let link = Link::start(device)?;
    let addresses = ([10, 78, 0, 1].into(), v6(0xfd78));
    Ok(Subject::start("kernel", Builder::new(), link, addresses.0, addresses.1))
}

/// Ours on a TAP, joined to the peer's by a bridge.
fn throng() -> io::Result<Subject> {
    // Nobody but our stack speaks on these.
    setting("net/ipv6/conf/default/disable_ipv6", "1")?;
    let link = Link::start(peer_tap("dpeer")?)?;
    let mut limits = Limits::default();
    limits.receive_buffer = RECEIVE_BUFFER;
    let builder = Builder::new()
        .limits(limits)
        .device("tap:dthrong")
        .mac("02:00:00:00:00:01")
        .address("10.79.0.1/16")
        .address("fd79::1/64");
    let subject = Subject::start("throng", builder, link, [10, 79, 0, 1].into(), v6(0xfd79));
    let end = Instant::now() + Duration::from_secs(20);
    while !Path::new("/sys/class/net/dthrong").exists() {
        if Instant::now() > end {
            return Err(io::Error::other("no interface dthrong"));
        }
        thread::sleep(Duration::from_millis(10));
    }
    ip("link add dbridge type bridge forward_delay 0 mcast_snooping 0")?;
    for interface in ["dpeer", "dthrong"] {
        ip(&format!("link set {interface} master dbridge up"))?;
    }
    ip("link set dbridge up")?;
    Ok(subject)
}

fn v6(first: u16) -> std::net::IpAddr {
    std::net::Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, 1).into()
}

fn setting(key: &str, value: &str) -> io::Result<()> {
    let path = Path::new("/proc/sys").join(key);
    std::fs::write(&path, value)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

fn ip(arguments: &str) -> io::Result<()> {
    let done = Command::new("ip").args(arguments.split_whitespace()).output()?;
    if done.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&done.stderr);
    Err(io::Error::other(format!("ip {arguments}: {}", said.trim())))
}
