//! Steps that run behind the others: what compiles, while tests wait.
//!
//! Most tests wait, for timers or for a peer, and leave cores free. What runs behind them has the
//! scheduler's idle class: a test that wants to run takes the core from it at once, so its timing
//! is that of a machine at rest.

use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::host;
use crate::process::{self, Cmd};
use crate::report::{Outcome, Report};

/// A step that does not care when it runs.
pub(crate) struct Job {
    pub(crate) name: &'static str,
    pub(crate) run: Box<dyn FnOnce() -> Outcome + Send>,
}

impl Job {
    pub(crate) fn new(name: &'static str, run: impl FnOnce() -> Outcome + Send + 'static) -> Job {
        Job { name, run: Box::new(run) }
    }
}

/// What came of a job.
struct Ended {
    outcome: Outcome,
    took: Duration,
    cpu: Duration,
}

enum Place {
    /// In a thread of its lane, which tells here when it has ended.
    Behind(Receiver<Ended>),
    /// Where there is no idle class it waits for the end.
    Later(Job),
}

/// Jobs that were started and are not reported yet, in their order.
#[derive(Default)]
pub(crate) struct Behind(Vec<(&'static str, Place)>);

impl Behind {
    /// Starts a lane: these jobs one after the other, beside the other lanes'. Jobs whose cargo
    /// builds in the same directory belong into one lane, or they wait for each other.
    pub(crate) fn start(&mut self, jobs: Vec<Job>) {
        if host::find_program("chrt").is_none() {
            self.0.extend(jobs.into_iter().map(|job| (job.name, Place::Later(job))));
            return;
        }
        let mut lane = Vec::new();
        for job in jobs {
            let (tell, told) = channel();
            self.0.push((job.name, Place::Behind(told)));
            lane.push((job, tell));
        }
        thread::spawn(move || {
            // The children's class, too; `chrt` is util-linux's, which every Debian has.
            let this = nix::unistd::gettid().to_string();
            let _ = Cmd::new("chrt").args(["--idle", "--pid", "0", &this]).run();
            for (job, tell) in lane {
                let (start, cpu) = (Instant::now(), process::cpu_of_children());
                let outcome = (job.run)();
                let cpu = process::cpu_of_children().saturating_sub(cpu);
                let _ = tell.send(Ended { outcome, took: start.elapsed(), cpu });
            }
        });
    }

    /// Reports the jobs that have ended, in `wait`'s case all of them when they have.
    pub(crate) fn report(&mut self, report: &mut Report, wait: bool) {
        let mut left = Vec::new();
        for (name, place) in std::mem::take(&mut self.0) {
            let told = match place {
                Place::Later(job) if wait => {
                    report.step(name, job.run);
                    continue;
                }
                Place::Behind(told) => told,
                later => {
                    left.push((name, later));
                    continue;
                }
            };
            let ended = if wait { told.recv().ok() } else { told.try_recv().ok() };
            match ended {
                Some(Ended { outcome, took, cpu }) => {
                    println!("==> {name}, which ran behind the others");
                    report.ended(name, outcome, took, cpu);
                }
                // Its thread is gone: a panic there is a bug here.
                None if wait => report.step(name, || Outcome::fail(name, "has not run")),
                None => left.push((name, Place::Behind(told))),
            }
        }
        self.0 = left;
    }
}

#[cfg(test)]
mod tests {
    use super::{Behind, Job};
    use crate::process::Cmd;
    use crate::report::{Outcome, Report};

    #[test]
    fn what_ran_behind_is_reported_and_its_failure_counts() {
        let shell = |script: &'static str| {
            move || Outcome::of_check("shell", Cmd::new("sh").args(["-c", script]).run())
        };
        for (script, good) in [("exit 0", true), ("exit 3", false)] {
            let mut report = Report::new(&[], false);
            let mut behind = Behind::default();
            behind.start(vec![Job::new("first", shell("exit 0")), Job::new("last", shell(script))]);
            behind.report(&mut report, true);
            assert_eq!(report.finish(), good, "{script}");
        }
    }

    #[test]
    fn what_has_not_ended_is_reported_later() {
        let mut report = Report::new(&[], false);
        let mut behind = Behind::default();
        let (end, wait) = std::sync::mpsc::channel::<()>();
        let job = move || if wait.recv().is_ok() { Outcome::pass() } else { Outcome::fail("", "") };
        behind.start(vec![Job::new("slow", job)]);
        behind.report(&mut report, false);
        assert!(!report.finish(), "nothing has been tested yet");
        end.send(()).expect("the job waits");
        behind.report(&mut report, true);
        assert!(report.finish());
    }
}
