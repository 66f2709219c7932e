//! Steps that run behind the others: what compiles, while tests wait.
//!
//! Most tests wait, for timers or for a peer, and leave cores free. What runs behind them has the
//! scheduler's idle class: a test that wants to run takes the core from it at once, so its timing
//! is that of a machine at rest.

use std::fs;
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
        if wait && !self.0.is_empty() {
            // Nothing goes before them any more but what others run on this machine.
            hurry();
        }
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

/// Takes this process and its children out of the idle class, as far as we may.
fn hurry() {
    let mut all = vec![std::process::id().to_string()];
    let groups = process::groups();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // After the name, which may hold anything: the state, the parent and the group.
        let group = stat.rsplit_once(')').and_then(|(_, after)| after.split_whitespace().nth(2));
        if group.and_then(|group| group.parse().ok()).is_some_and(|group| groups.contains(&group)) {
            all.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    for process in all {
        let _ = Cmd::new("chrt").args(["--other", "--all-tasks", "--pid", "0", &process]).run();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, MutexGuard, PoisonError};

    use super::{Behind, Job};
    use crate::process::Cmd;
    use crate::report::{Outcome, Report};

    /// One at a time: who waits takes all of this process out of the idle class.
    fn alone() -> MutexGuard<'static, ()> {
        static ALONE: Mutex<()> = Mutex::new(());
        ALONE.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[test]
    fn what_ran_behind_is_reported_and_its_failure_counts() {
        let _alone = alone();
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
    fn it_is_idle_until_it_is_waited_for() {
        let _alone = alone();
        let class = std::env::temp_dir().join(format!("throng-behind-{}", std::process::id()));
        let say = format!(
            "chrt -p $$ > {0}.1; while chrt -p $$ | grep -q IDLE; do sleep 0.02; done; \
             chrt -p $$ > {0}.2",
            class.display()
        );
        let mut report = Report::new(&[], false);
        let mut behind = Behind::default();
        let limit = std::time::Duration::from_secs(30);
        behind.start(vec![Job::new("class", move || {
            Outcome::of_check("class", Cmd::new("sh").args(["-c", &say]).limit(limit).run())
        })]);
        let said = |file: &str| std::fs::read_to_string(class.with_extension(file));
        while !said("1").is_ok_and(|said| said.contains("priority")) {
            // Not spinning: what runs behind has this core only while nobody else wants it.
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        assert!(said("1").expect("it is there").contains("SCHED_IDLE"));
        behind.report(&mut report, true);
        let [_, hurried] =
            ["1", "2"].map(|file| std::fs::remove_file(class.with_extension(file)).is_ok());
        let good = report.finish() && hurried;
        assert!(good || !crate::host::is_root(), "only root may hurry");
    }

    #[test]
    fn what_has_not_ended_is_reported_later() {
        let _alone = alone();
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
