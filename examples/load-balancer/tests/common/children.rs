//! The processes of a test, which end with it, and waiting for what they do.

use std::fs;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

/// What nothing here should take, on a machine that is busy with others.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

/// Processes, by numbers from 0 on. They are killed when this is dropped.
#[derive(Debug, Default)]
pub(crate) struct Children(Vec<Child>);

impl Children {
    /// Takes a process over; returns its number.
    pub(crate) fn adopt(&mut self, child: Child) -> usize {
        self.0.push(child);
        self.count() - 1
    }

    /// How many there have been.
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn pid(&self, number: usize) -> u32 {
        self.0[number].id()
    }

    pub(crate) fn signal(&self, number: usize, signal: Signal) {
        signal::kill(Pid::from_raw(self.pid(number) as i32), signal).unwrap();
    }

    /// How one has ended, if it has.
    pub(crate) fn status(&mut self, number: usize) -> Option<ExitStatus> {
        self.0[number].try_wait().unwrap()
    }

    /// Bytes of memory that one has: resident now, and at most ever.
    pub(crate) fn memory(&self, number: usize) -> [u64; 2] {
        let text = fs::read_to_string(format!("/proc/{}/status", self.pid(number))).unwrap();
        ["VmRSS:", "VmHWM:"].map(|name| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            let kib: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
            kib << 10
        })
    }

    /// Waits until one has ended; whether well.
    pub(crate) fn ended(&mut self, number: usize) -> bool {
        let mut status = None;
        wait_until("the process ends", || {
            status = self.status(number);
            status.is_some()
        });
        status.is_some_and(|status| status.success())
    }

    pub(crate) fn kill(&mut self, number: usize) {
        let _ = self.0[number].kill();
        let _ = self.0[number].wait();
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        (0..self.count()).for_each(|number| self.kill(number));
    }
}

pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < LIMIT, "{what}: not in {LIMIT:?}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// What starts nginx here; `None`, said, where nothing does.
pub(crate) fn nginx() -> Option<&'static str> {
    let found = ["nginx", "/usr/sbin/nginx"].into_iter().find(|program| {
        let version = Command::new(program).arg("-v").stderr(Stdio::null()).status();
        version.is_ok_and(|status| status.success())
    });
    if found.is_none() {
        println!("skipped: nginx is not installed (Debian: nginx-light)");
    }
    found
}
