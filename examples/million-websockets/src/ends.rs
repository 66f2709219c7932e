//! The server of a run, wherever it lives, and how it is spoken to.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::page::Setting;
use crate::report::Report;
use crate::server::{self, Control, Settings};
use crate::stats::Snapshot;

/// How long a server may take to end after its drain.
const END: Duration = Duration::from_secs(20);
/// How long it may take to start, or to answer its control.
const ANSWER: Duration = Duration::from_secs(60);

/// A running server.
pub(crate) enum Server {
    /// In a process of its own, directed by its standard input.
    Process { child: Child, out: Lines, patience: Duration, page: String },
    /// In a thread of this one.
    Thread { control: Arc<Control>, thread: JoinHandle<io::Result<()>>, patience: Duration },
    /// Somebody else's: it tells nothing.
    Elsewhere,
}

/// What another process prints, line by line, for one who does not wait for ever.
pub(crate) struct Lines(Receiver<io::Result<String>>);

impl Lines {
    /// Those of a pipe, read by a thread until its end.
    pub(crate) fn of(pipe: impl Read + Send + 'static) -> Lines {
        let (said, heard) = sync_channel(16);
        std::thread::spawn(move || {
            // Nobody may want to hear more.
            BufReader::new(pipe).lines().try_for_each(|line| said.send(line).ok())
        });
        Lines(heard)
    }

    /// The next one; `None` at the end.
    ///
    /// # Errors
    /// `TimedOut` when none has come within `patience`; those of the pipe.
    pub(crate) fn next(&mut self, patience: Duration) -> io::Result<Option<String>> {
        match self.0.recv_timeout(patience) {
            Ok(line) => line.map(Some),
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => {
                Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer in {patience:?}")))
            }
        }
    }
}

/// How long a server with these settings may take to end.
fn patience(settings: &Settings) -> Duration {
    END + Duration::from_secs(settings.drain.into())
}

impl Server {
    /// Starts a server process and waits until it listens. One that is `apart` hears nothing of
    /// the terminal's Ctrl-C.
    pub(crate) fn process(
        device: &str,
        shards: u16,
        connections: u32,
        settings: &Settings,
        page: Setting,
        apart: bool,
    ) -> io::Result<Server> {
        let mut command = Command::new(std::env::current_exe()?);
        if apart {
            command.process_group(0);
        }
        match settings.env() {
            (name, Some(value)) => command.env(name, value),
            (name, None) => command.env_remove(name),
        };
        let mut child = command
            .args(["server", "--device", device, "--shards", &shards.to_string()])
            .args(["--connections", &connections.to_string()])
            .args(settings.args())
            .args(page.args())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let patience = patience(settings);
        let out = child.stdout.take().map(Lines::of);
        let Some(mut out) = out else { return Err(io::Error::other("no pipe from the server")) };
        let mut page = String::new();
        loop {
            match out.next(ANSWER) {
                Ok(Some(line)) if line.trim() == "ready" => break,
                Ok(Some(line)) => {
                    if let Some(said) = line.strip_prefix("page ") {
                        said.trim().clone_into(&mut page);
                    }
                }
                outcome => {
                    let ended = Server::Process { child, out, patience, page }.stop();
                    let missing = || io::Error::other("the server process did not start");
                    return Err(outcome.err().or(ended.err()).unwrap_or_else(missing));
                }
            }
        }
        Ok(Server::Process { child, out, patience, page })
    }

    /// Where its page is, or why there is none, if it is a process.
    pub(crate) fn page(&self) -> Option<&str> {
        match self {
            Server::Process { page, .. } => Some(page),
            Server::Thread { .. } | Server::Elsewhere => None,
        }
    }

    /// Starts a server in this process and waits until it listens.
    pub(crate) fn thread(
        device: impl Into<String>,
        shards: u16,
        connections: u32,
        settings: &Settings,
    ) -> io::Result<Server> {
        let device = device.into();
        let control = Control::new(shards);
        let patience = patience(settings);
        let (shared, settings) = (control.clone(), settings.clone());
        let thread = std::thread::spawn(move || {
            server::run(&device, shards, connections, &settings, &shared)
        });
        while control.listening.load(Ordering::Acquire) < usize::from(shards) {
            if thread.is_finished() {
                Server::Thread { control, thread, patience }.stop()?;
                return Err(io::Error::other("the server ended before it listened"));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(Server::Thread { control, thread, patience })
    }

    /// Tells the server's process something.
    fn tell(&mut self, line: &str) -> io::Result<()> {
        match self {
            Server::Process { child, .. } => {
                let gone = || io::Error::other("no pipe to the server");
                let input = child.stdin.as_mut().ok_or_else(gone)?;
                writeln!(input, "{line}")
            }
            Server::Thread { .. } | Server::Elsewhere => Ok(()),
        }
    }

    /// What the server knows about itself now.
    pub(crate) fn snapshot(&mut self) -> io::Result<Snapshot> {
        self.tell("stats")?;
        match self {
            Server::Process { out, .. } => {
                let line = out.next(ANSWER)?.ok_or(io::ErrorKind::UnexpectedEof)?;
                serde_json::from_str(&line).map_err(io::Error::other)
            }
            Server::Thread { control, .. } => Ok(control.board.snapshot()),
            Server::Elsewhere => Ok(Snapshot::default()),
        }
    }

    /// Has the server measure the stages of its loops, or ends that.
    pub(crate) fn measure_stages(&mut self, on: bool) -> io::Result<()> {
        if let Server::Thread { control, .. } = self {
            control.board.stages.store(on, Ordering::Relaxed);
        }
        self.tell(if on { "stages on" } else { "stages off" })
    }

    /// Has the server publish a text to all.
    pub(crate) fn publish(&mut self, text: &str) -> io::Result<()> {
        if let Server::Thread { control, .. } = self {
            control.publish(text);
        }
        self.tell(&format!("publish {text}"))
    }

    /// What directs a server in this process.
    pub(crate) fn control(&self) -> Option<Arc<Control>> {
        match self {
            Server::Thread { control, .. } => Some(control.clone()),
            Server::Process { .. } | Server::Elsewhere => None,
        }
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// It does not, though nobody has ended it.
    pub(crate) fn check(&mut self) -> io::Result<()> {
        let ended = match self {
            Server::Process { child, .. } => {
                child.try_wait()?.map(|status| format!("the server ended: {status}"))
            }
            Server::Thread { thread, .. } => {
                thread.is_finished().then(|| "the server ended".to_owned())
            }
            Server::Elsewhere => None,
        };
        ended.map_or(Ok(()), |why| Err(io::Error::other(why)))
    }

    /// Tells the server's page how far the client is.
    pub(crate) fn report(&mut self, report: &Report) -> io::Result<()> {
        if let Server::Thread { control, .. } = self {
            control.report(report.clone());
            return Ok(());
        }
        let report = serde_json::to_string(report).map_err(io::Error::other)?;
        self.tell(&format!("report {report}"))
    }

    /// Ends it.
    pub(crate) fn stop(self) -> io::Result<()> {
        match self {
            Server::Process { mut child, patience, .. } => {
                drop(child.stdin.take());
                let until = Instant::now() + patience;
                while Instant::now() < until {
                    match child.try_wait()? {
                        Some(status) if status.success() => return Ok(()),
                        Some(status) => {
                            return Err(io::Error::other(format!("the server ended: {status}")));
                        }
                        None => std::thread::sleep(Duration::from_millis(10)),
                    }
                }
                child.kill()?;
                child.wait()?;
                Err(io::Error::other(format!("the server did not end in {patience:?}")))
            }
            Server::Elsewhere => Ok(()),
            Server::Thread { control, thread, patience } => {
                control.stop.store(true, Ordering::Release);
                let until = Instant::now() + patience;
                while !thread.is_finished() {
                    if Instant::now() > until {
                        return Err(io::Error::other(format!(
                            "no end of the server in {patience:?}"
                        )));
                    }
                    std::thread::sleep(Duration::from_millis(1));
                }
                thread.join().map_err(|_| io::Error::other("the server panicked"))?
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_says_nothing_is_not_waited_for_for_ever() {
        let (pipe, mut end) = io::pipe().unwrap();
        let mut lines = Lines::of(pipe);
        let silent = lines.next(Duration::from_millis(10)).unwrap_err();
        assert_eq!(silent.kind(), io::ErrorKind::TimedOut);
        writeln!(end, "late\nand more").unwrap();
        drop(end);
        let mut next = || lines.next(ANSWER).unwrap();
        assert_eq!(next().as_deref(), Some("late"));
        assert_eq!(next().as_deref(), Some("and more"));
        assert_eq!(next(), None);
    }
}
