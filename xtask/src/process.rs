//! Child processes: bounded in time, logged, and ended as a whole group.
//!
//! Every child leads its own process group. The group is killed when its time is up, when
//! its handle is dropped, and when a signal ends xtask: nothing outlives the run.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::{Pid, SysconfVar, sysconf};

/// Process groups that are alive, and what to undo, if a signal ends xtask.
static AT_EXIT: Mutex<AtExit> = Mutex::new(AtExit {
    groups: BTreeSet::new(),
    attached: BTreeSet::new(),
    undo: BTreeMap::new(),
    next: 0,
    ending: false,
});

struct AtExit {
    groups: BTreeSet<i32>,
    /// Children in our own group: the terminal's Ctrl-C reaches them, a plain `kill` of us
    /// does not.
    attached: BTreeSet<i32>,
    undo: BTreeMap<u64, fn()>,
    next: u64,
    /// A signal has come.
    ending: bool,
}

/// How long children in our own group may take for an end of their own, as the demo's that
/// closes its connections first.
const ORDERLY: Duration = Duration::from_secs(30);

/// Ends all children and undoes what was set when SIGINT, SIGTERM or SIGHUP arrives.
pub(crate) fn end_children_on_signals() {
    let handler = || {
        let lock = || AT_EXIT.lock().unwrap_or_else(|poison| poison.into_inner());
        let mut state = lock();
        state.ending = true;
        for &group in &state.groups {
            let _ = killpg(Pid::from_raw(group), Signal::SIGTERM);
        }
        for &child in &state.attached {
            let _ = kill(Pid::from_raw(child), Signal::SIGTERM);
        }
        let until = Instant::now() + ORDERLY;
        while !state.attached.is_empty() && Instant::now() < until {
            drop(state);
            thread::sleep(Duration::from_millis(20));
            state = lock();
        }
        thread::sleep(Duration::from_millis(300));
        for &group in &state.groups {
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        }
        for undo in state.undo.values() {
            undo();
        }
        std::process::exit(130);
    };
    if let Err(error) = ctrlc::set_handler(handler) {
        eprintln!("xtask: no signal handler ({error}); an interrupted run may leave children");
    }
}

/// Registers `undo` for the case that a signal ends xtask. Returns a key for [`forget`].
pub(crate) fn undo_on_signal(undo: fn()) -> u64 {
    let mut state = AT_EXIT.lock().unwrap_or_else(|poison| poison.into_inner());
    state.next += 1;
    let key = state.next;
    state.undo.insert(key, undo);
    key
}

/// Takes back what [`undo_on_signal`] registered.
pub(crate) fn forget(key: u64) {
    AT_EXIT.lock().unwrap_or_else(|poison| poison.into_inner()).undo.remove(&key);
}

thread_local! {
    static CPU: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// Processor time of the children that this thread has waited for, and of those they waited for.
pub(crate) fn cpu_of_children() -> Duration {
    CPU.get()
}

/// Adds to that what a child has used that has ended and is not waited for yet.
fn account(child: Pid) {
    let stat = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
    // What follows the name, which may hold anything: state is field 3, utime 14, cstime 17.
    let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
    let times = after.split_whitespace().skip(11).take(4);
    let ticks: u64 = times.filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    let second = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100).unsigned_abs();
    CPU.set(CPU.get() + Duration::from_millis(ticks * 1_000 / second.max(1)));
}

/// The process groups of the children that are alive.
pub(crate) fn groups() -> BTreeSet<i32> {
    AT_EXIT.lock().unwrap_or_else(|poison| poison.into_inner()).groups.clone()
}

/// A command to be run to its end.
#[derive(Clone)]
pub(crate) struct Cmd {
    program: OsString,
    args: Vec<OsString>,
    envs: Vec<(OsString, OsString)>,
    dir: Option<PathBuf>,
    limit: Duration,
    log: Option<PathBuf>,
    echo: bool,
    stdout_only: bool,
}

/// What became of a [`Cmd`].
#[derive(Debug)]
pub(crate) struct Finished {
    /// Exit code; `None` when a signal ended it.
    pub(crate) code: Option<i32>,
    /// The signal that ended it, if one did.
    pub(crate) signal: Option<i32>,
    /// It ran into its time limit and was killed.
    pub(crate) timed_out: bool,
    /// Standard output and error, in the order they were written (see [`Cmd::stdout_only`]).
    pub(crate) output: String,
}

impl Finished {
    /// It ended by itself with exit code 0.
    pub(crate) fn ok(&self) -> bool {
        self.code == Some(0) && !self.timed_out
    }

    /// How it ended, in words.
    pub(crate) fn how(&self) -> String {
        match (self.timed_out, self.code, self.signal) {
            (true, ..) => "killed at its time limit".into(),
            (_, Some(code), _) => format!("exit code {code}"),
            (_, _, Some(signal)) => format!("signal {signal}"),
            _ => "no exit status".into(),
        }
    }

    /// The last `lines` lines of the output.
    pub(crate) fn tail(&self, lines: usize) -> String {
        let all: Vec<&str> = self.output.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

impl Cmd {
    /// A command with a limit of ten minutes.
    pub(crate) fn new(program: impl AsRef<OsStr>) -> Cmd {
        Cmd {
            program: program.as_ref().into(),
            args: Vec::new(),
            envs: Vec::new(),
            dir: None,
            limit: Duration::from_secs(600),
            log: None,
            echo: false,
            stdout_only: false,
        }
    }

    /// Adds one argument.
    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Cmd {
        self.args.push(arg.as_ref().into());
        self
    }

    /// Adds arguments.
    pub(crate) fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Cmd {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_os_string()));
        self
    }

    /// Sets an environment variable.
    pub(crate) fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Cmd {
        self.envs.push((name.as_ref().into(), value.as_ref().into()));
        self
    }

    /// Runs it in this directory.
    pub(crate) fn dir(mut self, dir: impl Into<PathBuf>) -> Cmd {
        self.dir = Some(dir.into());
        self
    }

    /// Kills the process group after this time.
    pub(crate) fn limit(mut self, limit: Duration) -> Cmd {
        self.limit = limit;
        self
    }

    /// Appends the output to this file, too.
    pub(crate) fn log(mut self, path: impl Into<PathBuf>) -> Cmd {
        self.log = Some(path.into());
        self
    }

    /// Shows the output as it comes.
    pub(crate) fn echo(mut self, echo: bool) -> Cmd {
        self.echo = echo;
        self
    }

    /// Keeps standard output alone; standard error goes nowhere.
    pub(crate) fn stdout_only(mut self) -> Cmd {
        self.stdout_only = true;
        self
    }

    /// Puts `wrapper` in front: `wrapper... program args...`.
    pub(crate) fn wrapped<A: AsRef<OsStr>>(mut self, wrapper: impl IntoIterator<Item = A>) -> Cmd {
        let mut words: Vec<OsString> =
            wrapper.into_iter().map(|word| word.as_ref().to_os_string()).collect();
        if words.is_empty() {
            return self;
        }
        let program = words.remove(0);
        words.push(std::mem::replace(&mut self.program, program));
        words.append(&mut self.args);
        self.args = words;
        self
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.args).process_group(0);
        command.envs(self.envs.iter().map(|(name, value)| (name, value)));
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        command
    }

    /// The command line, for messages.
    pub(crate) fn line(&self) -> String {
        let mut line = self.program.to_string_lossy().into_owned();
        for arg in &self.args {
            let arg = arg.to_string_lossy();
            line.push(' ');
            if arg.is_empty() || arg.contains([' ', '"', '*']) {
                line.push_str(&format!("'{arg}'"));
            } else {
                line.push_str(&arg);
            }
        }
        line
    }

    /// Runs it to its end or its time limit, whichever comes first.
    ///
    /// # Errors
    /// The program could not be started; what it does itself is in [`Finished`].
    pub(crate) fn run(&self) -> io::Result<Finished> {
        let (reader, writer) = io::pipe()?;
        let mut command = self.command();
        command.stdin(Stdio::null());
        if self.stdout_only {
            command.stdout(writer).stderr(Stdio::null());
        } else {
            command.stdout(writer.try_clone()?).stderr(writer);
        }
        let group = Group::spawn(&mut command).map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {error}", self.program.to_string_lossy()))
        })?;
        // The write ends in `command` would keep the pipe open after the child has gone.
        drop(command);
        let output = self.collect(reader)?;
        let (status, timed_out) = group.wait(self.limit)?;
        let output = output.join().unwrap_or_default();
        Ok(Finished { code: status.code(), signal: status.signal(), timed_out, output })
    }

    fn collect(&self, reader: io::PipeReader) -> io::Result<JoinHandle<String>> {
        let mut log = self.log.as_deref().map(open_log).transpose()?;
        if let Some(log) = &mut log {
            writeln!(log, "$ {}", self.line())?;
        }
        let echo = self.echo;
        Ok(thread::spawn(move || {
            let mut reader = BufReader::new(reader);
            let mut output = String::new();
            let mut line = Vec::new();
            while matches!(reader.read_until(b'\n', &mut line), Ok(n) if n > 0) {
                let text = String::from_utf8_lossy(&line);
                if echo {
                    print!("{text}");
                }
                if let Some(log) = &mut log {
                    let _ = log.write_all(text.as_bytes());
                }
                output.push_str(&text);
                line.clear();
            }
            output
        }))
    }

    /// Runs it with this process's own terminal and no time limit.
    ///
    /// # Errors
    /// The program could not be started.
    pub(crate) fn attached(&self) -> io::Result<ExitStatus> {
        let mut command = self.command();
        // In the foreground group, so that Ctrl-C and reading from the terminal work.
        command.process_group(nix::unistd::getpgrp().as_raw());
        let at_exit = || AT_EXIT.lock().unwrap_or_else(|poison| poison.into_inner());
        let mut state = at_exit();
        let mut child = command.spawn()?;
        let id = child.id() as i32;
        state.attached.insert(id);
        drop(state);
        let status = child.wait();
        let mut state = at_exit();
        state.attached.remove(&id);
        if state.ending {
            drop(state);
            // The signal's handler ends this process; nothing else is to be begun.
            loop {
                thread::park();
            }
        }
        status
    }

    /// Starts it in the background; the output goes to the log file, or nowhere.
    ///
    /// # Errors
    /// The program or its log file could not be opened.
    pub(crate) fn background(&self) -> io::Result<Background> {
        let mut command = self.command();
        command.stdin(Stdio::null());
        match &self.log {
            Some(path) => {
                let log = open_log(path)?;
                command.stdout(log.try_clone()?).stderr(log);
            }
            None => {
                command.stdout(Stdio::null()).stderr(Stdio::null());
            }
        }
        Ok(Background { group: Some(Group::spawn(&mut command)?) })
    }
}

fn open_log(path: &Path) -> io::Result<File> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    File::options().create(true).append(true).open(path)
}

/// A child that runs beside us until it is stopped or dropped.
pub(crate) struct Background {
    group: Option<Group>,
}

impl Background {
    /// Its process.
    pub(crate) fn id(&self) -> Pid {
        self.group.as_ref().expect("only stop() and wait() take the group").id
    }

    /// It has not ended yet.
    pub(crate) fn alive(&mut self) -> bool {
        match &mut self.group {
            Some(group) => matches!(group.try_wait(), Ok(None)),
            None => false,
        }
    }

    /// Asks it to end (`signal`), and kills it when it has not within `limit`. Returns its
    /// status and whether it had to be killed.
    pub(crate) fn stop(
        mut self,
        signal: Signal,
        limit: Duration,
    ) -> io::Result<(ExitStatus, bool)> {
        let group = self.group.take().expect("only stop() and wait() take the group");
        let _ = kill(group.id, signal);
        group.wait(limit)
    }

    /// Waits until it ends by itself, and kills it when it has not within `limit`. Returns
    /// its status and whether it had to be killed.
    pub(crate) fn wait(mut self, limit: Duration) -> io::Result<(ExitStatus, bool)> {
        self.group.take().expect("only stop() and wait() take the group").wait(limit)
    }
}

/// A child and its process group; killed when dropped.
struct Group {
    child: Child,
    id: Pid,
}

impl Group {
    fn spawn(command: &mut Command) -> io::Result<Group> {
        let mut state = AT_EXIT.lock().unwrap_or_else(|poison| poison.into_inner());
        let child = command.spawn()?;
        let id = Pid::from_raw(child.id() as i32);
        state.groups.insert(id.as_raw());
        Ok(Group { child, id })
    }

    /// Its status once it has ended.
    fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        match waitid(Id::Pid(self.id), flags) {
            Ok(WaitStatus::StillAlive) => return Ok(None),
            Ok(_) => account(self.id),
            // It was waited for before; its status is kept.
            Err(_) => {}
        }
        self.child.try_wait()
    }

    fn wait(mut self, limit: Duration) -> io::Result<(ExitStatus, bool)> {
        let start = Instant::now();
        let mut pause = Duration::from_millis(1);
        loop {
            if let Some(status) = self.try_wait()? {
                return Ok((status, false));
            }
            let left = limit.saturating_sub(start.elapsed());
            if left.is_zero() {
                break;
            }
            thread::sleep(pause.min(left));
            pause = (pause * 2).min(Duration::from_millis(50));
        }
        let _ = killpg(self.id, Signal::SIGTERM);
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(2) {
            if let Some(status) = self.try_wait()? {
                return Ok((status, true));
            }
            thread::sleep(Duration::from_millis(20));
        }
        let _ = killpg(self.id, Signal::SIGKILL);
        Ok((self.child.wait()?, true))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // What the child has left behind in its group goes with it.
        let _ = killpg(self.id, Signal::SIGKILL);
        if waitid(Id::Pid(self.id), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).is_ok() {
            account(self.id);
        }
        let _ = self.child.wait();
        let mut state = AT_EXIT.lock().unwrap_or_else(|poison| poison.into_inner());
        state.groups.remove(&self.id.as_raw());
    }
}
