//! How the outside directs a server, in its process or by its standard input.

use std::io::{self, BufRead, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use throng::ws::topic::Published;

use super::Settings;
use crate::stats::Board;

/// What the outside tells a running server, and hears from it.
pub(crate) struct Control {
    /// Shards that listen.
    pub(crate) listening: AtomicUsize,
    /// Set to end the server.
    pub(crate) stop: AtomicBool,
    pub(crate) board: Arc<Board>,
    /// What was last to be published to all, and its number.
    publish: Mutex<(u64, String)>,
    /// Subscribers that publications were given to.
    given: AtomicU64,
}

impl Control {
    pub(crate) fn new(shards: u16) -> Arc<Control> {
        Arc::new(Control {
            listening: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            board: Board::new(shards),
            publish: Mutex::default(),
            given: AtomicU64::new(0),
        })
    }

    /// Has the server publish a text to all.
    pub(crate) fn publish(&self, text: &str) {
        let mut publish = self.publish.lock().unwrap_or_else(PoisonError::into_inner);
        *publish = (publish.0 + 1, text.to_owned());
    }

    /// What is to be published, if it came after number `after`.
    pub(super) fn publication(&self, after: u64) -> Option<(u64, String)> {
        let publish = self.publish.lock().unwrap_or_else(PoisonError::into_inner);
        (publish.0 > after).then(|| publish.clone())
    }

    pub(super) fn published(&self, published: Published) {
        self.given.fetch_add(published.subscribers, Ordering::AcqRel);
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
