//! Processes of a bench: servers, clients, peers; ended with it.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

/// How long one may take to end by itself when its standard input has.
const END: Duration = Duration::from_secs(2);

/// A process that is told what to do by lines and answers by lines.
pub struct Helper {
    child: Child,
    says: Receiver<String>,
    name: String,
    patience: Duration,
}

impl Helper {
    /// Starts `command` with its standard input and output connected to us.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(command: &mut Command) -> io::Result<Helper> {
        // Its file's name alone: what it says is kept with the results, wherever the program lay.
        let program = Path::new(command.get_program());
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("{name}: {error}")))?;
        let (tell, says) = channel();
        if let Some(output) = child.stdout.take() {
            // The pipe is read when it ends, too, so that the child never waits for us.
            std::thread::spawn(move || {
                let lines = BufReader::new(output).lines();
                lines.map_while(Result::ok).for_each(|line| drop(tell.send(line)));
            });
        }
        Ok(Helper { child, says, name, patience: END })
    }

    /// This program again, with these arguments.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn of_this<A: AsRef<std::ffi::OsStr>>(
        args: impl IntoIterator<Item = A>,
    ) -> io::Result<Helper> {
        Helper::start(Command::new(std::env::current_exe()?).args(args))
    }

    /// It does not care about its standard input.
    #[must_use]
    pub fn ended_by_signal(mut self) -> Helper {
        self.patience = Duration::ZERO;
        self
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The next line it prints.
    ///
    /// # Errors
    /// `TimedOut`, and whatever error its end is.
    pub fn line(&mut self, patience: Duration) -> io::Result<String> {
        use std::sync::mpsc::RecvTimeoutError::{Disconnected, Timeout};
        self.says.recv_timeout(patience).map_err(|error| match error {
            Timeout => io::Error::new(
                io::ErrorKind::TimedOut,
                format!("{} said nothing in {patience:?}", self.name),
            ),
            Disconnected => io::Error::other(format!("{} ended", self.name)),
        })
    }

    /// Waits for a line that is this word.
    ///
    /// # Errors
    /// As for [`line`](Helper::line).
    pub fn expect(&mut self, word: &str, patience: Duration) -> io::Result<()> {
        while self.line(patience)?.trim() != word {}
        Ok(())
    }

    /// Writes a line to it.
    ///
    /// # Errors
    /// It has ended.
    pub fn tell(&mut self, line: &str) -> io::Result<()> {
        let input = self.child.stdin.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        input.write_all(format!("{line}\n").as_bytes())
    }

    /// CPU time of all its threads so far, to the nanosecond.
    ///
    /// # Errors
    /// It has ended.
    pub fn cpu(&self) -> io::Result<Duration> {
        let mut sum = 0;
        for task in std::fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            // The first number of schedstat is nanoseconds on a CPU; a thread may have ended.
            let text = std::fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
            sum += text.split(' ').next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0);
        }
        Ok(Duration::from_nanos(sum))
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let end = Instant::now() + self.patience;
        while Instant::now() < end {
            if let Ok(Some(_)) = self.child.try_wait() {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Lines of standard input, for a task to wait for.
#[derive(Clone, Default)]
pub struct Lines(Arc<Mutex<Waiting>>);

#[derive(Default)]
struct Waiting {
    lines: VecDeque<String>,
    waker: Option<Waker>,
}

impl Lines {
    /// The next line, without its end.
    pub async fn next(&self) -> String {
        poll_fn(|cx| {
            let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(line) = waiting.lines.pop_front() {
                return Poll::Ready(line);
            }
            waiting.waker = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    fn push(&self, line: String) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.lines.push_back(line);
        if let Some(waker) = waiting.waker.take() {
            waker.wake();
        }
    }
}

/// Reads standard input on a thread, and runs `then` there when it ends: who started this process has
/// gone, or has had enough of it.
pub fn lines(then: impl FnOnce() + Send + 'static) -> Lines {
    let lines = Lines::default();
    let told = lines.clone();
    std::thread::spawn(move || {
        while let Some(line) = next_line() {
            told.push(line);
        }
        then();
    });
    lines
}

/// The next line of standard input; `None` at its end.
pub fn next_line() -> Option<String> {
    io::stdin().lines().next()?.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_helper_answers_and_ends() {
        let mut cat = Helper::start(&mut Command::new("cat")).expect("cat");
        cat.tell("one").expect("it reads");
        cat.tell("two").expect("it reads");
        cat.expect("two", Duration::from_secs(10)).expect("it writes");
        assert!(cat.cpu().expect("it runs") < Duration::from_secs(10));
        let quiet = cat.line(Duration::from_millis(1)).expect_err("nothing to say");
        assert_eq!(quiet.kind(), io::ErrorKind::TimedOut);
        let begin = Instant::now();
        drop(cat);
        assert!(begin.elapsed() < END, "cat ends with its input");
        let mut gone = Helper::start(&mut Command::new("true")).expect("true");
        assert!(gone.line(Duration::from_secs(10)).is_err());
        assert!(Helper::start(&mut Command::new("/no/such/program")).is_err());
    }
}
