//! `cargo xtask sim`: seeds, many of them, or one of them closely.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use serde_json::json;
use throng_sim::goodput;
use throng_sim::plan::Plan;
use throng_sim::run::{Options, Outcome, note_panics, run};
use throng_sim::shrink::shrink;
use throng_sim::struck::Struck;
use throng_sim::switch::{ALL, Set};

/// Whole hosts under faults, in virtual time, by seed
#[derive(Parser)]
struct Args {
    /// How many seeds
    #[arg(long, default_value_t = 500)]
    seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// This one alone, and what it draws
    #[arg(long)]
    seed: Option<u64>,
    /// How many run at a time; 0: one for each processor
    #[arg(long, default_value_t = 0)]
    jobs: usize,
    /// Names of what is switched off, with commas (`--list` has them all)
    #[arg(long, default_value = "", value_parser = Set::parse)]
    without: Set,
    /// With --seed: where to write what passed through both devices
    #[arg(long)]
    pcap: Option<PathBuf>,
    /// Do not search for the least that a failing seed needs
    #[arg(long)]
    no_shrink: bool,
    /// Run each of so many seeds twice, which has to come to the same; 0: none
    #[arg(long, default_value_t = 20)]
    twice: u64,
    /// No further seeds after so many seconds
    #[arg(long)]
    seconds: Option<u64>,
    /// Fewer seeds than this are a failure, whatever the time
    #[arg(long, default_value_t = 1)]
    at_least: u64,
    /// One JSON object on the last line
    #[arg(long)]
    json: bool,
    /// Instead: what a stream achieves over the cheap paths of the goodput table
    #[arg(long)]
    goodput: bool,
    /// Name what a seed can switch on, and end
    #[arg(long)]
    list: bool,
}

/// Of so many seeds every fault strikes some.
const ENOUGH: u64 = 200;
/// A seed that takes longer, in real time, hangs.
const HANGS: Duration = Duration::from_secs(300);

fn main() -> ExitCode {
    let args = Args::parse();
    if args.list {
        for (switch, probability, about) in ALL {
            println!("{:<16} {:>3.0} %  {about}", switch.name(), probability * 100.0);
        }
        return ExitCode::SUCCESS;
    }
    if args.goodput {
        return goodput();
    }
    note_panics(args.seed.is_some());
    match args.seed {
        Some(seed) => one(seed, &args),
        None => many(&args),
    }
}

/// The cheap part of `cargo xtask bench goodput`.
fn goodput() -> ExitCode {
    let cells: Vec<_> = goodput::table().into_iter().filter(goodput::Shape::is_cheap).collect();
    let snapshot = match goodput::snapshot() {
        Ok(snapshot) => snapshot,
        Err(error) => {
            eprintln!("no snapshot: {error}");
            return ExitCode::FAILURE;
        }
    };
    let (_, worse) = goodput::measure(&cells, &snapshot);
    worse.iter().for_each(|text| println!("WORSE: {text}"));
    if worse.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// How to run a seed again.
fn command(seed: u64, without: Set) -> String {
    let without = match without == Set::default() {
        true => String::new(),
        false => format!(" --without {}", without.names()),
    };
    format!("cargo xtask sim --seed {seed}{without}")
}

fn one(seed: u64, args: &Args) -> ExitCode {
    let options = Options { without: args.without, pcap: args.pcap.clone() };
    println!("seed {seed}\n{}", Plan::draw(seed, args.without));
    let outcome = run(seed, &options);
    println!(
        "{} frames, {} bytes compared, {} tasks done, {} excused, {:?} of virtual time, \
         {} sweeps, trace {:016x}",
        outcome.frames,
        outcome.bytes,
        outcome.finished,
        outcome.excused,
        outcome.took,
        outcome.sweeps,
        outcome.trace
    );
    println!("faults: {}", outcome.struck);
    for failure in &outcome.failures {
        println!("FAILED: {failure}");
    }
    if outcome.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[derive(Default)]
struct Total {
    seeds: u64,
    twice: u64,
    failed: Vec<u64>,
    frames: u64,
    bytes: u64,
    finished: u64,
    excused: u64,
    took: Duration,
    slowest: (Duration, u64),
    struck: Struck,
    /// How many seeds had each thing on.
    on: BTreeMap<String, u64>,
}

fn many(args: &Args) -> ExitCode {
    let jobs = match args.jobs {
        0 => thread::available_parallelism().map_or(1, usize::from),
        jobs => jobs,
    };
    let begun = Instant::now();
    let next = AtomicU64::new(0);
    let total = Mutex::new(Total::default());
    let at_work: Vec<Mutex<Option<(u64, Instant)>>> = (0..jobs).map(|_| Mutex::new(None)).collect();
    let in_time = || args.seconds.is_none_or(|limit| begun.elapsed().as_secs() < limit);
    thread::scope(|scope| {
        for mine in &at_work {
            let (next, total, in_time) = (&next, &total, &in_time);
            scope.spawn(move || {
                while in_time() {
                    let offset = next.fetch_add(1, Ordering::Relaxed);
                    if offset >= args.seeds {
                        break;
                    }
                    let seed = args.first + offset;
                    *hold(mine) = Some((seed, Instant::now()));
                    work(seed, args, total);
                    *hold(mine) = None;
                }
                *hold(mine) = Some((u64::MAX, Instant::now()));
            });
        }
        watch(&at_work);
    });
    report(args, &total.into_inner().unwrap_or_else(PoisonError::into_inner), begun.elapsed())
}

fn hold<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Until all workers are done: a seed that hangs ends the program, with its name.
fn watch(at_work: &[Mutex<Option<(u64, Instant)>>]) {
    loop {
        let state: Vec<_> = at_work.iter().map(|one| *hold(one)).collect();
        if state.iter().all(|one| one.is_some_and(|(seed, _)| seed == u64::MAX)) {
            return;
        }
        for (seed, since) in state.into_iter().flatten() {
            if seed != u64::MAX && since.elapsed() > HANGS {
                println!("seed {seed} hangs: {}", command(seed, Set::default()));
                std::process::exit(2);
            }
        }
        thread::sleep(Duration::from_millis(50));
    }
}

fn work(seed: u64, args: &Args, total: &Mutex<Total>) {
    let options = Options { without: args.without, pcap: None };
    let begun = Instant::now();
    let mut outcome = run(seed, &options);
    let took = begun.elapsed();
    let again = args.twice > 0 && seed.is_multiple_of(args.twice);
    if again && outcome.failures.is_empty() {
        let second = run(seed, &options);
        if (second.trace, second.sweeps) != (outcome.trace, outcome.sweeps) {
            outcome.failures.push("the same seed ran otherwise the second time".to_owned());
        }
    }
    if !outcome.failures.is_empty() {
        tell(seed, args, &outcome);
    }
    let mut total = hold(total);
    total.seeds += 1;
    total.twice += u64::from(again);
    total.frames += outcome.frames;
    total.bytes += outcome.bytes;
    total.finished += outcome.finished;
    total.excused += outcome.excused;
    total.took += outcome.took;
    total.struck += outcome.struck;
    total.slowest = total.slowest.max((took, seed));
    for switch in Plan::draw(seed, args.without).on.iter() {
        *total.on.entry(switch.name()).or_default() += 1;
    }
    if !outcome.failures.is_empty() {
        total.failed.push(seed);
    }
}

fn tell(seed: u64, args: &Args, outcome: &Outcome) {
    let mut text = format!("seed {seed} FAILED: {}\n", command(seed, args.without));
    for failure in &outcome.failures {
        text += &format!("  {failure}\n");
    }
    if args.no_shrink {
        text += &format!("  with {}\n", Plan::draw(seed, args.without).on.names());
    } else {
        let (without, outcome) = shrink(seed, &Options { without: args.without, pcap: None });
        let least = Plan::draw(seed, without);
        text += &format!("  it takes no more than {}\n", least.on.names());
        text += &format!("  {}\n", command(seed, without));
        for failure in &outcome.failures {
            text += &format!("    {failure}\n");
        }
    }
    println!("{text}");
}

fn report(args: &Args, total: &Total, wall: Duration) -> ExitCode {
    println!(
        "{} seeds from {} in {:.1} s ({} of them twice): {} failed; {} tasks done, {} excused, \
         {} MB compared, {} frames, {:.1} h of virtual time; the slowest, {}, took {:.1} s",
        total.seeds,
        args.first,
        wall.as_secs_f64(),
        total.twice,
        total.failed.len(),
        total.finished,
        total.excused,
        total.bytes / 1_000_000,
        total.frames,
        total.took.as_secs_f64() / 3_600.0,
        total.slowest.1,
        total.slowest.0.as_secs_f64(),
    );
    println!("faults: {}", total.struck);
    if args.json {
        let line = json!({
            "first": args.first, "seeds": total.seeds, "failed": total.failed,
            "twice": total.twice, "finished": total.finished, "excused": total.excused,
            "bytes": total.bytes, "frames": total.frames, "wall_seconds": wall.as_secs_f64(),
            "virtual_seconds": total.took.as_secs_f64(), "switches": total.on,
            "struck": total.struck.named().into_iter().collect::<BTreeMap<_, _>>(),
        });
        println!("{line}");
    }
    let mut good = total.failed.is_empty();
    let wanted = args.at_least.min(args.seeds);
    if total.seeds < wanted {
        println!("FAILED: only {} seeds, of {wanted} at least", total.seeds);
        good = false;
    }
    // Faults that do not strike any more would make every seed a good one.
    if total.seeds >= ENOUGH && args.without == Set::default() {
        for (name, _) in total.struck.named().into_iter().filter(|(_, count)| *count == 0) {
            println!("FAILED: in {} seeds none of the faults '{name}'", total.seeds);
            good = false;
        }
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
