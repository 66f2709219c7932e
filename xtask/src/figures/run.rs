//! Measuring what is planned, one result after the other, each kept as soon as it is there.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::machine;
use super::plan::{Entry, How};
use super::results::{Kept, Results};
use super::tables::figure;
use crate::host;
use crate::process::Cmd;

/// Building all that the benches need may take this long.
const BUILD: Duration = Duration::from_secs(1_800);
/// A bench may take so many times its estimate, and this more.
const PATIENCE: u32 = 4;
const MORE: Duration = Duration::from_secs(180);

/// What became of a run.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) kept: usize,
    pub(crate) noisy: Vec<&'static str>,
    /// Those without a result, and why.
    pub(crate) failed: Vec<(&'static str, String)>,
}

/// Measures `entries` and keeps each result in `dir`; with `resume` those that are there already, of this
/// code, by this command, on a quiet machine and of all subjects, are left as they are.
///
/// # Errors
/// A result cannot be kept.
pub(crate) fn measure(
    entries: &[&'static Entry],
    how: How,
    resume: bool,
    dir: &Path,
) -> io::Result<Outcome> {
    let before = Results::read(dir)?;
    let commit = machine::commit();
    let done = |entry: &Entry| {
        let same = |kept: &&Kept| kept.commit == commit && kept.command == command(entry, how);
        let whole = |kept: &Kept| !kept.noisy() && !kept.failed();
        resume && before.get(entry.name).filter(same).is_some_and(whole)
    };
    let entries: Vec<&Entry> = entries.iter().copied().filter(|entry| !done(entry)).collect();
    let estimate = |entry: &Entry| {
        let took = before.get(entry.name).filter(|kept| kept.command == command(entry, how));
        took.and_then(|kept| kept.took).map_or(entry.estimate(how), |took| took.ceil() as u64)
    };
    let all: u64 = entries.iter().map(|entry| estimate(entry)).sum();
    println!("{} to measure, about {} when all is built", entries.len(), minutes(all));
    // What does not build says so in its own turn, too; the others may work.
    build(entries.iter().map(|entry| entry.bench))?;
    let about = (machine::machine(), machine::versions());
    let mut outcome = Outcome::default();
    for (i, entry) in entries.iter().enumerate() {
        let left: u64 = entries[i..].iter().map(|entry| estimate(entry)).sum();
        println!(
            "==> {} of {}, {}: about {} s; {} left",
            i + 1,
            entries.len(),
            entry.name,
            estimate(entry),
            minutes(left)
        );
        let (date, begin) = (machine::date(), Instant::now());
        let limit = MORE + PATIENCE * Duration::from_secs(estimate(entry));
        let found = match one(entry, how, limit) {
            Ok(found) => found,
            Err(why) => {
                println!("{}: {why}", entry.name);
                outcome.failed.push((entry.name, why));
                continue;
            }
        };
        let kept = Kept {
            date,
            command: command(entry, how),
            commit: commit.clone(),
            machine: about.0.clone(),
            versions: about.1.clone(),
            took: Some((begin.elapsed().as_secs_f64() * 10.0).round() / 10.0),
            found,
        };
        let noisy = if kept.noisy() { ", noisy" } else { "" };
        let said = kept.cases().first().and_then(|case| case.throng()).map(figure);
        let was = before.get(entry.name).filter(|was| replaces_not(was, &kept));
        if was.is_some() {
            println!("{}: noisy; the quiet result of the same code stays", entry.name);
        } else {
            kept.write(dir, entry.name)?;
            println!("{}: {}{noisy}", entry.name, said.unwrap_or_else(|| "kept".to_owned()));
        }
        if kept.noisy() && was.is_none() {
            outcome.noisy.push(entry.name);
        }
        outcome.kept += 1;
    }
    Ok(outcome)
}

/// A noisy result tells less than a quiet one of the same code by the same command.
fn replaces_not(was: &Kept, now: &Kept) -> bool {
    now.noisy() && !was.noisy() && was.commit == now.commit && was.command == now.command
}

fn command(entry: &Entry, how: How) -> String {
    format!("cargo xtask bench {}", entry.words(how).join(" "))
}

/// This program again, which builds what a bench needs and runs it. By this name it is there even when its
/// file was replaced by a build meanwhile.
fn xtask(words: &[String]) -> Cmd {
    Cmd::new("/proc/self/exe").arg("bench").args(words).dir(host::root()).echo(true)
}

/// Builds what the benches need, so that it is in no bench's time; returns whether all did.
pub(crate) fn build<'a>(benches: impl Iterator<Item = &'a str>) -> io::Result<bool> {
    let mut all = true;
    for bench in benches.collect::<BTreeSet<_>>() {
        println!("==> building for {bench}");
        let built = xtask(&[bench.to_owned(), "--".to_owned(), "--help".to_owned()]);
        let built = built.echo(false).limit(BUILD).run()?;
        if !built.ok() {
            println!("{bench}: {}: {}", built.how(), built.tail(20));
            all = false;
        }
    }
    Ok(all)
}

/// One bench; returns the object that it printed.
fn one(entry: &Entry, how: How, limit: Duration) -> Result<Value, String> {
    let done = xtask(&entry.words(how)).limit(limit).run().map_err(|error| error.to_string())?;
    let Some(mut found) = object(&done.output) else {
        return Err(format!("{}, and no result", done.how()));
    };
    // Some fail when a figure is above what their issue asks for, with all figures said.
    if !done.ok() {
        found["remark"] = json!(format!("the bench ended with {}", done.how()));
    }
    Ok(found)
}

/// The last line that is a bench's object.
fn object(output: &str) -> Option<Value> {
    let objects = output.lines().rev().filter(|line| line.starts_with('{'));
    let mut objects = objects.filter_map(|line| serde_json::from_str::<Value>(line).ok());
    objects.find(|value| value["bench"].is_string())
}

fn minutes(seconds: u64) -> String {
    match seconds {
        0..90 => format!("{seconds} s"),
        _ => format!("{} min", seconds.div_ceil(60)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::kept;
    use super::*;

    #[test]
    fn the_last_object_counts() {
        let output = "echo, 1 connection\n{\"bench\":\"a\"}\n{\"bench\":\"b\",\"throng\":1.0}\n\
                      {\"cell\":1}\n{ not json\nthe end\n";
        assert_eq!(object(output).unwrap()["bench"], "b");
        assert_eq!(object("no object\n"), None);
        assert_eq!((minutes(80), minutes(100)), ("80 s".to_owned(), "2 min".to_owned()));
    }

    #[test]
    fn a_quiet_result_is_not_replaced_by_a_noisy_one() {
        let of = |noisy: bool| kept(json!({ "bench": "echo", "noisy": noisy }));
        assert!(replaces_not(&of(false), &of(true)));
        assert!(!replaces_not(&of(true), &of(true)) && !replaces_not(&of(false), &of(false)));
        let other = Kept { commit: "another".into(), ..of(true) };
        assert!(!replaces_not(&of(false), &other), "another code's figures are newer");
    }
}
