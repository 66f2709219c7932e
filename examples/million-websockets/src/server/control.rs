//! How the outside directs a server, in its process or by its standard input.

use std::io::{self, BufRead, Write};
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::channel::oneshot;
use throng::ws::topic::Published;

use super::Settings;
use crate::page::{self, Page};
use crate::report::Report;
use crate::stats::Board;

/// What the outside tells a running server, and hears from it.
pub(crate) struct Control {
    /// Shards that listen.
    pub(crate) listening: AtomicUsize,
    /// Set to end the server.
    pub(crate) stop: AtomicBool,
    pub(crate) board: Arc<Board>,
    /// What is to be published to all, oldest first.
    publish: Mutex<Vec<Publication>>,
    /// What the client said last, and when.
    report: Mutex<Option<(Instant, Report)>>,
}

/// A text for all connections.
pub(crate) struct Publication {
    pub(crate) text: String,
    /// Who wants to know where it went.
    pub(crate) answer: Option<oneshot::Sender<Published>>,
}

impl Control {
    pub(crate) fn new(shards: u16) -> Arc<Control> {
        Arc::new(Control {
            listening: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            board: Board::new(shards),
            publish: Mutex::default(),
            report: Mutex::default(),
        })
    }

    /// Has the server publish a text to all.
    pub(crate) fn publish(&self, text: &str) {
        self.add(Publication { text: text.to_owned(), answer: None });
    }

    /// Has the server publish a text to all, and says where it went; `None` when the server has
    /// ended.
    pub(crate) async fn published(&self, text: String) -> Option<Published> {
        let (answer, answered) = oneshot::channel();
        self.add(Publication { text, answer: Some(answer) });
        answered.await.ok()
    }

    fn add(&self, publication: Publication) {
        self.publish.lock().unwrap_or_else(PoisonError::into_inner).push(publication);
    }

    /// The client says how far it is.
    pub(crate) fn report(&self, report: Report) {
        let mut last = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Some((Instant::now(), report));
    }

    /// What the client said last, and how long ago.
    pub(crate) fn reported(&self) -> Option<(Duration, Report)> {
        let last = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        last.as_ref().map(|(at, report)| (at.elapsed(), report.clone()))
    }

    /// Takes what is to be published.
    pub(crate) fn publications(&self) -> Vec<Publication> {
        mem::take(&mut self.publish.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The server as a process: prints where its page is, and `ready`, and then obeys the lines of its
/// standard input: `stats` prints a snapshot, `stages on` and `stages off` measure the loop's stages,
/// `publish TEXT` sends a text to all, `report JSON` is for the page. It ends when its input
/// does.
pub(crate) fn run_process(
    device: &str,
    shards: u16,
    connections: u32,
    settings: &Settings,
    page: page::Setting,
) -> io::Result<bool> {
    let control = Control::new(shards);
    let watcher = control.clone();
    let about = page::About {
        device: device.split(',').next().unwrap_or_default().to_owned(),
        shards,
        wanted: connections,
        one_process: false,
    };
    let watching = std::thread::spawn(move || {
        while watcher.listening.load(Ordering::Acquire) < usize::from(shards) {
            std::thread::sleep(Duration::from_millis(1));
        }
        // Where nobody listens any more, nobody will tell us anything either.
        let page = Page::start(page, about, watcher.clone());
        let mut said = say(&format!("page {}", page.said())).and_then(|()| say("ready"));
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            said = said.and_then(|()| obey(&line, &watcher));
            if said.is_err() {
                break;
            }
        }
        watcher.stop.store(true, Ordering::Release);
        page
    });
    super::run(device, shards, connections, settings, &control)?;
    // It has told the server to end, so it has nothing left to do.
    if let Ok(page) = watching.join() {
        page.end();
    }
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
        ("report", report) => {
            match serde_json::from_str(report) {
                Ok(report) => control.report(report),
                Err(error) => eprintln!("not a report: {error}: {report}"),
            }
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
        let texts: Vec<_> = control.publications().into_iter().map(|p| p.text).collect();
        assert_eq!(texts, ["one", "two words"]);
        assert!(control.publications().is_empty());
    }
}
