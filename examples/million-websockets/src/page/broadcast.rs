//! Texts that a page has the server publish to all connections: one at a time, and counted.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use serde::Serialize;
use throng::runtime::{self, Instant};
use throng::ws::topic::Published;

use super::live::Live;
use crate::report::Phase;
use crate::stats::Snapshot;

/// Longest text, in characters.
const LONGEST: usize = 200;
/// Least time from the beginning of one to that of the next, whoever asks.
const APART: Duration = Duration::from_secs(1);
/// How often it is looked how far one is.
const LOOK: Duration = Duration::from_millis(50);
/// The shards leave their numbers more often than this: what they say then is of after the text.
const SETTLED: Duration = Duration::from_millis(200);
/// How long the server may take to take it, and it to reach all.
const TAKING: Duration = Duration::from_secs(10);
const REACHING: Duration = Duration::from_secs(60);
/// How long the client has to say that it has heard it.
const HEARING: Duration = Duration::from_secs(3);

/// How one is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    #[default]
    Going,
    Done,
    Failed,
}

/// A text and where it went.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Outcome {
    id: u64,
    text: String,
    state: State,
    /// Connections it was for, and shards that refused it because too much is under way.
    subscribers: u64,
    refused: u32,
    /// Connections whose send queue has it, and what slow ones missed or were disconnected for.
    delivered: u64,
    missed: u64,
    disconnected: u64,
    /// Connections of the client on which it has arrived, as the client says.
    heard: Option<u64>,
    seconds: f64,
}

/// All of them, of which one is under way at most.
#[derive(Default)]
pub(super) struct Broadcasts {
    last: RefCell<Option<Outcome>>,
    begun: Cell<Option<Instant>>,
}

impl Broadcasts {
    /// The last one.
    pub(super) fn last(&self) -> Option<Outcome> {
        self.last.borrow().clone()
    }

    /// Takes a text, or says why not.
    pub(super) fn begin(&self, text: &str, connections: u64, phase: Phase) -> Result<u64, String> {
        let text = text.trim();
        if text.is_empty() || text.chars().count() > LONGEST || text.contains(char::is_control) {
            return Err(format!("a text has 1 to {LONGEST} characters, all of one line"));
        }
        match phase {
            Phase::Broadcasting => return Err("the run itself is publishing just now".into()),
            Phase::Closing | Phase::Ended => return Err("the connections are closing".into()),
            _ if connections == 0 => return Err("nobody is connected".into()),
            _ => {}
        }
        let mut last = self.last.borrow_mut();
        if last.as_ref().is_some_and(|last| last.state == State::Going) {
            return Err("another broadcast is under way".into());
        }
        if self.begun.get().is_some_and(|begun| runtime::now() - begun < APART) {
            return Err("one broadcast a second is enough".into());
        }
        self.begun.set(Some(runtime::now()));
        let id = last.as_ref().map_or(0, |last| last.id) + 1;
        *last = Some(Outcome { id, text: text.to_owned(), ..Outcome::default() });
        Ok(id)
    }

    /// Publishes the text that was taken last, and tells all pages how far it is until all have
    /// it.
    pub(super) async fn run(&self, id: u64, live: &Live) {
        let text = self.last().map(|outcome| outcome.text).unwrap_or_default();
        let control = &live.control;
        let heard = || control.reported().map(|(_, report)| report.heard);
        let (before, heard_before) = (control.board.look(), heard());
        let begun = runtime::now();
        let taken = runtime::timeout(TAKING, control.published(text)).await;
        let Ok(Some(published)) = taken else {
            self.change(id, live, |outcome| outcome.state = State::Failed);
            return;
        };
        let is_late = |time: Duration| runtime::now() - begun > time;
        loop {
            let look = control.board.look();
            let all_took = look.sum(|shard| shard.waiting) == 0 && is_late(SETTLED);
            self.change(id, live, |outcome| {
                outcome.count(published, &look, &before);
                outcome.seconds = (runtime::now() - begun).as_secs_f64();
                if outcome.is_everywhere() || all_took {
                    outcome.state = State::Done;
                } else if is_late(REACHING) {
                    outcome.state = State::Failed;
                }
            });
            if self.last().is_none_or(|outcome| outcome.state != State::Going) {
                break;
            }
            runtime::sleep(LOOK).await;
        }
        // The client tells what it heard now and then.
        let Some(heard_before) = heard_before else { return };
        let until = runtime::now() + HEARING;
        while runtime::now() < until {
            let count = heard().unwrap_or(heard_before).saturating_sub(heard_before);
            if self.last().is_none_or(|outcome| outcome.id != id) {
                return;
            }
            self.change(id, live, |outcome| outcome.heard = Some(count));
            if count >= published.subscribers {
                return;
            }
            runtime::sleep(2 * LOOK).await;
        }
    }

    /// Changes what is known of a broadcast, and tells the pages.
    fn change(&self, id: u64, live: &Live, change: impl FnOnce(&mut Outcome)) {
        let mut last = self.last.borrow_mut();
        if let Some(outcome) = last.as_mut().filter(|outcome| outcome.id == id) {
            change(outcome);
            live.tell("broadcast", outcome);
        }
    }
}

impl Outcome {
    /// Counts what has happened since `before`. What rooms deliver meanwhile is among it.
    fn count(&mut self, published: Published, now: &Snapshot, before: &Snapshot) {
        let grown = |field: fn(&crate::stats::ShardStats) -> u64| {
            now.sum(field).saturating_sub(before.sum(field))
        };
        (self.subscribers, self.refused) = (published.subscribers, published.refused);
        self.delivered = grown(|shard| shard.delivered).min(published.subscribers);
        self.missed = grown(|shard| shard.missed);
        self.disconnected = grown(|shard| shard.disconnected);
    }

    fn is_everywhere(&self) -> bool {
        self.delivered + self.missed + self.disconnected >= self.subscribers
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::ShardStats;

    #[test]
    fn a_text_is_short_and_of_one_line_and_somebody_is_there() {
        let long = "x".repeat(LONGEST + 1);
        for (text, connections, phase) in [
            ("", 9, Phase::Holding),
            ("  ", 9, Phase::Holding),
            (long.as_str(), 9, Phase::Holding),
            ("two\nlines", 9, Phase::Holding),
            ("hello", 0, Phase::Holding),
            ("hello", 9, Phase::Closing),
            ("hello", 9, Phase::Broadcasting),
        ] {
            assert!(Broadcasts::default().begin(text, connections, phase).is_err(), "{text}");
        }
    }

    #[test]
    fn what_was_missed_does_not_keep_it_from_being_everywhere() {
        let shard = |delivered, missed| ShardStats { delivered, missed, ..Default::default() };
        let snapshot = |shards| Snapshot { shards, ..Default::default() };
        let before = snapshot(vec![shard(100, 1), shard(200, 0)]);
        let published = Published { subscribers: 50, ..Published::default() };
        let mut outcome = Outcome::default();
        outcome.count(published, &snapshot(vec![shard(120, 1), shard(229, 0)]), &before);
        assert_eq!((outcome.delivered, outcome.is_everywhere()), (49, false));
        outcome.count(published, &snapshot(vec![shard(120, 2), shard(229, 0)]), &before);
        assert!(outcome.is_everywhere());
    }
}
