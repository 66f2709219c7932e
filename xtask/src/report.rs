//! What the steps of a run came to: counted, timed, printed.

use std::time::{Duration, Instant};

use crate::process::{self, Finished};

/// What one step came to, in tests (a step that is one check counts as one test).
#[derive(Default)]
pub(crate) struct Outcome {
    pub(crate) passed: usize,
    /// Name and reason of each failed test.
    pub(crate) failed: Vec<(String, String)>,
    /// Name and reason of each skipped test.
    pub(crate) skipped: Vec<(String, String)>,
}

impl Outcome {
    /// One check that passed.
    pub(crate) fn pass() -> Outcome {
        Outcome { passed: 1, ..Outcome::default() }
    }

    /// One check that failed.
    pub(crate) fn fail(name: impl Into<String>, why: impl Into<String>) -> Outcome {
        Outcome { failed: vec![(name.into(), why.into())], ..Outcome::default() }
    }

    /// One check that could not be made.
    pub(crate) fn skip(name: impl Into<String>, why: impl Into<String>) -> Outcome {
        Outcome { skipped: vec![(name.into(), why.into())], ..Outcome::default() }
    }

    /// A command that is one check.
    pub(crate) fn of_check(name: &str, done: std::io::Result<Finished>) -> Outcome {
        match done {
            Ok(done) if done.ok() => Outcome::pass(),
            Ok(done) => Outcome::fail(name, format!("{}\n{}", done.how(), done.tail(60))),
            Err(error) => Outcome::fail(name, error.to_string()),
        }
    }

    /// A command that is a run of `cargo test ... -- --show-output`.
    pub(crate) fn of_tests(name: &str, done: std::io::Result<Finished>) -> Outcome {
        match done {
            Ok(done) => {
                let mut outcome = count_tests(&done.output);
                if !done.ok() && outcome.failed.is_empty() {
                    // It did not compile, a test binary aborted, or the time was up.
                    let why = format!("{}\n{}", done.how(), done.tail(60));
                    outcome.failed.push((name.to_owned(), why));
                }
                outcome
            }
            Err(error) => Outcome::fail(name, error.to_string()),
        }
    }

    /// A step that tested nothing at all has not passed: a filter that fits no test, or a
    /// test that is gone, must not look like success.
    fn or_nothing(self, name: &str) -> Outcome {
        if self.passed == 0 && self.failed.is_empty() && self.skipped.is_empty() {
            return Outcome::fail(name, "nothing was tested");
        }
        self
    }

    /// Adds the counts of another one.
    pub(crate) fn add(&mut self, other: Outcome) {
        self.passed += other.passed;
        self.failed.extend(other.failed);
        self.skipped.extend(other.skipped);
    }
}

/// Reads what libtest printed. A test that could not do its work prints a line
/// `skipped: reason` and returns; it is taken out of the passed ones.
fn count_tests(output: &str) -> Outcome {
    let mut outcome = Outcome::default();
    let mut binary = String::new();
    let mut failed_count = 0;
    // The test whose captured output the lines belong to.
    let mut block: Option<String> = None;
    let mut skipped_inside = 0;
    for line in output.lines() {
        let text = line.trim_start();
        if let Some(running) = text.strip_prefix("Running ") {
            binary = running.split(" (").next().unwrap_or(running).to_owned();
            block = None;
        } else if let Some(package) = text.strip_prefix("Doc-tests ") {
            binary = format!("doc {package}");
            block = None;
        } else if let Some(header) = line.strip_prefix("---- ") {
            block = header.split(" std").next().map(str::to_owned);
        } else if let Some(result) = line.strip_prefix("test result: ") {
            let number = |word: &str| {
                let before = result.split(';').find(|part| part.trim_end().ends_with(word));
                before.and_then(|part| {
                    part.split_whitespace().rev().nth(1).and_then(|n| n.parse::<usize>().ok())
                })
            };
            outcome.passed += number("passed").unwrap_or(0).saturating_sub(skipped_inside);
            failed_count += number("failed").unwrap_or(0);
            skipped_inside = 0;
            block = None;
        } else if let Some(rest) = line.strip_prefix("test ") {
            if let Some(test) = rest.strip_suffix(" ... FAILED") {
                outcome.failed.push((format!("{binary}: {test}"), String::new()));
            } else if let Some((test, reason)) = rest.split_once(" ... ignored") {
                let reason = reason.trim_start_matches([',', ' ']);
                let reason = if reason.is_empty() { "ignored, no reason given" } else { reason };
                outcome.skipped.push((format!("{binary}: {test}"), reason.to_owned()));
            }
        } else if let Some(test) = &block {
            let lower = text.get(..8).map(str::to_ascii_lowercase);
            if lower.as_deref() == Some("skipped:") {
                outcome.skipped.push((format!("{binary}: {test}"), text[8..].trim().to_owned()));
                skipped_inside += 1;
                // Said once or five times, it is one test.
                block = None;
            }
        }
    }
    for unnamed in outcome.failed.len()..failed_count {
        outcome.failed.push((format!("{binary}: failure {unnamed}"), String::new()));
    }
    for (name, why) in &mut outcome.failed {
        let test = name.rsplit(": ").next().unwrap_or(name);
        *why = captured(output, test);
    }
    outcome
}

/// What libtest captured of a failed test, its last 40 lines.
fn captured(output: &str, test: &str) -> String {
    let header = format!("---- {test} stdout ----");
    let Some((_, rest)) = output.rsplit_once(&header) else { return String::new() };
    let lines: Vec<&str> = rest
        .lines()
        .skip(1)
        .take_while(|line| !line.starts_with("---- ") && !line.starts_with("failures:"))
        .collect();
    lines[lines.len().saturating_sub(40)..].join("\n").trim().to_owned()
}

/// A step that has ended.
struct Done {
    name: String,
    took: Duration,
    /// Processor time of all its children: what is left of `took` on a machine that is shared.
    cpu: Duration,
    outcome: Outcome,
}

/// All steps of a run.
pub(crate) struct Report {
    start: Instant,
    done: Vec<Done>,
    only: Vec<String>,
    list: bool,
}

impl Report {
    /// A report of the steps whose names contain one of `only` (all, when it is empty). With
    /// `list`, steps are named and not run.
    pub(crate) fn new(only: &[String], list: bool) -> Report {
        Report { start: Instant::now(), done: Vec::new(), only: only.to_vec(), list }
    }

    /// This step is asked for.
    pub(crate) fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| name.contains(only.as_str()))
    }

    /// Runs a step, if it is asked for, and says how it went.
    pub(crate) fn step(&mut self, name: &str, run: impl FnOnce() -> Outcome) {
        if !self.wants(name) {
            return;
        }
        if self.list {
            println!("{name}");
            return;
        }
        println!("==> {name}");
        let (start, cpu) = (Instant::now(), process::cpu_of_children());
        let outcome = run();
        let cpu = process::cpu_of_children().saturating_sub(cpu);
        self.ended(name, outcome, start.elapsed(), cpu);
    }

    /// Says how a step went that is asked for and has been run.
    pub(crate) fn ended(&mut self, name: &str, outcome: Outcome, took: Duration, cpu: Duration) {
        let outcome = outcome.or_nothing(name);
        for (test, why) in &outcome.skipped {
            println!("    skipped {test}: {why}");
        }
        for (test, why) in &outcome.failed {
            println!("    FAILED {test}");
            for line in why.lines() {
                println!("        {line}");
            }
        }
        println!("    {} in {:.1} s", counts(&outcome), took.as_secs_f64());
        self.done.push(Done { name: name.to_owned(), took, cpu, outcome });
    }

    /// Prints the table and the closing line. Returns whether nothing failed.
    pub(crate) fn finish(&self) -> bool {
        if self.list {
            return true;
        }
        let width = self.done.iter().map(|done| done.name.len()).max().unwrap_or(4).max(4);
        println!("\n{:width$}      time       cpu  passed  failed  skipped", "step");
        for Done { name, took, cpu, outcome } in &self.done {
            println!(
                "{name:width$}  {:>6.1} s  {:>6.1} s  {:>6}  {:>6}  {:>7}",
                took.as_secs_f64(),
                cpu.as_secs_f64(),
                outcome.passed,
                outcome.failed.len(),
                outcome.skipped.len()
            );
        }
        let took = self.start.elapsed();
        let cpu: Duration = self.done.iter().map(|done| done.cpu).sum();
        println!("{:width$}  {:>6.1} s  {:>6.1} s", "all", took.as_secs_f64(), cpu.as_secs_f64());
        let mut total = Outcome::default();
        for kind in ["skipped", "FAILED"] {
            for done in &self.done {
                let those =
                    if kind == "FAILED" { &done.outcome.failed } else { &done.outcome.skipped };
                for (test, why) in those {
                    println!("{kind} [{}] {test}: {}", done.name, why.lines().next().unwrap_or(""));
                }
            }
        }
        for done in &self.done {
            total.passed += done.outcome.passed;
            total.failed.extend(done.outcome.failed.iter().cloned());
            total.skipped.extend(done.outcome.skipped.iter().cloned());
        }
        if self.done.is_empty() {
            println!("no step is called so: {}; --list names them", self.only.join(", "));
        }
        println!("\n{}", counts(&total));
        total.failed.is_empty() && total.passed > 0
    }
}

fn counts(outcome: &Outcome) -> String {
    format!(
        "{} passed, {} failed, {} skipped",
        outcome.passed,
        outcome.failed.len(),
        outcome.skipped.len()
    )
}

#[cfg(test)]
mod tests {
    use super::{Outcome, Report, count_tests};

    #[test]
    fn a_step_that_tested_nothing_has_failed() {
        let mut report = Report::new(&[], false);
        report.step("something", Outcome::pass);
        report.step("empty", || count_tests("running 0 tests\n"));
        assert!(!report.finish());
    }

    #[test]
    fn counts_what_libtest_prints() {
        let output = "\
     Running unittests src/lib.rs (target/debug/deps/x-1)
test a ... ok
test b ... ok
test c ... ignored, too slow here
test d ... FAILED

successes:

---- b stdout ----
skipped: needs root
skipped: needs root

failures:

---- d stdout ----
thread 'd' panicked at x.rs:1:1:
boom

failures:
    d

test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s
   Doc-tests throng
test src/lib.rs - (line 3) ... ok
test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
";
        let outcome = count_tests(output);
        assert_eq!(outcome.passed, 2);
        assert_eq!(outcome.skipped.len(), 2);
        assert_eq!(outcome.skipped[1].1, "needs root");
        assert_eq!(outcome.failed.len(), 1);
        assert!(outcome.failed[0].1.contains("boom"));
    }
}
