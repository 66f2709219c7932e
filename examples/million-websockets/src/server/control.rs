//! How the outside directs a server, in its process or by its standard input.

use std::io::{self, BufRead, Write};
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::Settings;
use crate::stats::Board;

/// What the outside tells a running server, and hears from it.
pub(crate) struct Control {
    /// Shards that listen.
    pub(crate) listening: AtomicUsize,
    /// Set to end the server.
    pub(crate) stop: AtomicBool,
    pub(crate) board: Arc<Board>,
    /// What is to be published to all, oldest first.
    publish: Mutex<Vec<String>>,
}

impl Control {
    pub(crate) fn new(shards: u16) -> Arc<Control> {
        Arc::new(Control {
            listening: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            board: Board::new(shards),
            publish: Mutex::default(),
        })
    }

    /// Has the server publish a text to all.
    pub(crate) fn publish(&self, text: &str) {
        self.publish.lock().unwrap_or_else(PoisonError::into_inner).push(text.to_owned());
    }

    /// Takes what is to be published.
    pub(super) fn publications(&self) -> Vec<String> {
        mem::take(&mut self.publish.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The server as a process: prints `ready`, and then obeys the lines of its standard input:
/// `stats` prints a snapshot, `stages on` and `stages off` measure the loop's stages,
/// `publish TEXT` sends a text to all. It ends when its input does.
pub(crate) fn run_process(
    device: &str,
    shards: u16,
    connections: u32,
    settings: &Settings,
) -> io::Result<bool> {
    let control = Control::new(shards);
    let watcher = control.clone();
    std::thread::spawn(move || {
        while watcher.listening.load(Ordering::Acquire) < usize::from(shards) {
            std::thread::sleep(Duration::from_millis(1));
        }
        // Where nobody listens any more, nobody will tell us anything either.
        let mut said = say("ready");
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            said = said.and_then(|()| obey(&line, &watcher));
            if said.is_err() {
                break;
            }
        }
        watcher.stop.store(true, Ordering::Release);
    });
    super::run(device, shards, connections, settings, &control)?;
    Ok(true)
}

fn obey(line: &str, control: &Control) -> io::Result<()> {
    match line.split_once(' ').unwrap_or((line, "")) {
        ("stats", _) => {
            let snapshot = control.board.snapshot();
            say(&serde_json::to_string(&snapshot).map_err(io::Error::other)?)
        }
        ("stages", on) => {
            control.board.stages.store(on == "on", Ordering::Relaxed);
            Ok(())
        }
        ("publish", text) => {
            control.publish(text);
            Ok(())
        }
        _ => {
            eprintln!("not a command: {line}");
            Ok(())
        }
    }
}

fn say(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_published_in_one_look_is_all_published() {
        let control = Control::new(1);
        for line in ["publish one", "publish two words"] {
            obey(line, &control).unwrap();
        }
        assert_eq!(control.publications(), ["one", "two words"]);
        assert!(control.publications().is_empty());
    }
}
