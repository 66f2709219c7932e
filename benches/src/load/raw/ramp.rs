//! Connections and messages that are due by the clock, whatever became of those before.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant as Clock};

use serde_json::{Value, json};

use super::{OPENING, Raw};
use crate::stats::Histogram;

/// Connections that are there before, for the messages to go over.
pub(super) const FIRST: usize = 1_000;
/// How long messages go on when all connections are there.
pub(super) const AFTER: Duration = Duration::from_secs(3);

/// Longer than this between two turns is a pause of the client's: it demonstrably did not look.
const PAUSE: Duration = Duration::from_micros(100);
/// Pauses that are remembered.
const PAUSES: usize = 65_536;

/// When the client did not look.
#[derive(Default)]
struct Pauses(VecDeque<(Clock, Clock)>);

impl Pauses {
    fn add(&mut self, from: Clock, to: Clock) {
        if to - from >= PAUSE {
            if self.0.len() == PAUSES {
                self.0.pop_front();
            }
            self.0.push_back((from, to));
        }
    }

    /// What of this time the client looked.
    fn looked(&self, from: Clock, to: Clock) -> Duration {
        let overlapping = self.0.iter().rev().take_while(|pause| pause.1 > from);
        let away: Duration = overlapping
            .map(|pause| pause.1.min(to).saturating_duration_since(pause.0.max(from)))
            .sum();
        (to - from).saturating_sub(away)
    }
}

/// What is due.
pub(super) struct Pace {
    begin: Clock,
    /// Connections that were there at the beginning, and how many more each second.
    first: usize,
    connections: f64,
    /// Messages each second.
    messages: f64,
    asked: u64,
    /// From when a message was due to its echo; and what of that the client looked.
    times: Histogram,
    looked: Histogram,
    pauses: Pauses,
    /// The last turn, and the longest time from one to the next: what the client itself stalled.
    last: Clock,
    pub(super) pause: Duration,
    /// Turns in which a connection was due and too many others were on their way.
    held: u64,
}

impl Pace {
    fn new(first: usize, connections: f64, messages: f64) -> Pace {
        let now = Clock::now();
        Pace {
            begin: now,
            first,
            connections,
            messages,
            asked: 0,
            times: Histogram::default(),
            looked: Histogram::default(),
            pauses: Pauses::default(),
            last: now,
            pause: Duration::ZERO,
            held: 0,
        }
    }

    /// The client looks.
    fn looks(&mut self, now: Clock) {
        self.pause = self.pause.max(now - self.last);
        self.pauses.add(self.last, now);
        self.last = now;
    }

    /// The echo of a message that was due at `due` is there.
    pub(super) fn echoed(&mut self, due: Clock) {
        let now = Clock::now().max(due);
        // It is seen in the first turn after a pause, before that turn has looked at what is due.
        self.looks(now);
        self.times.add(now - due);
        self.looked.add(self.pauses.looked(due, now));
    }

    fn to_json(&self) -> Value {
        let [p50, p99, p999, most] = [0.5, 0.99, 0.999, 1.0].map(|part| self.times.at(part));
        json!({
            "echoes": self.times.total(),
            "p50_us": p50,
            "p99_us": p99,
            "p999_us": p999,
            "max_us": most,
            "p999_us_looked": self.looked.at(0.999),
            "pauses_of_client": self.pauses.0.len(),
            "client_pause_us": self.pause.as_nanos() as f64 / 1e3,
            "held_turns": self.held,
        })
    }
}

impl Raw {
    /// Opens the connections that are not there at `rate` a second, with messages meanwhile and for
    /// so long after; returns what both found.
    pub(super) fn ramp(&mut self, rate: f64, after: Duration) -> io::Result<Value> {
        let messages = self.load.rate.unwrap_or(0.0);
        let (errors, first) = (self.errors, self.established);
        self.pace = Some(Pace::new(first, rate, messages));
        println!("begun");
        let all = self.conns.len();
        self.wanted = all;
        let begin = Clock::now();
        self.until("opening", |raw| raw.established == all)?;
        let seconds = begin.elapsed().as_secs_f64();
        let meanwhile = self.pace.replace(Pace::new(all, 0.0, messages));
        self.for_a_while(after);
        // Nothing more is due, but what is on its way counts.
        if let Some(pace) = &mut self.pace {
            pace.messages = 0.0;
        }
        self.until("the last echo", |raw| raw.on_way == 0)?;
        let after = self.pace.take();
        Ok(json!({
            "opened": all - first,
            "seconds": seconds,
            "errors": self.errors - errors,
            "meanwhile": meanwhile.map(|pace| pace.to_json()),
            "after": after.map(|pace| pace.to_json()),
        }))
    }

    /// Begins what is due.
    pub(super) fn keep_pace(&mut self) {
        let Some(pace) = &mut self.pace else { return };
        let now = Clock::now();
        pace.looks(now);
        let since = (now - pace.begin).as_secs_f64();
        let connections = pace.first + (since * pace.connections) as usize;
        let messages = (since * pace.messages) as u64;
        let (begin, rate, mut asked) = (pace.begin - self.begin, pace.messages, pace.asked);
        while asked < messages
            && let Some(index) = self.pick()
        {
            asked += 1;
            let due = begin + Duration::from_secs_f64(asked as f64 / rate);
            self.on_way += 1;
            self.ask_websocket(index, due.as_nanos() as u64);
        }
        if let Some(pace) = &mut self.pace {
            pace.asked = asked;
        }
        while self.next < connections.min(self.conns.len()) {
            if self.next - self.established >= OPENING {
                if let Some(pace) = &mut self.pace {
                    pace.held += 1;
                }
                return;
            }
            self.open_next();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_client_was_away_is_taken_off() {
        let begin = Clock::now();
        let at = |micros: u64| begin + Duration::from_micros(micros);
        let mut pauses = Pauses::default();
        for (from, to) in [(1_000, 2_000), (2_000, 2_050), (3_000, 4_000)] {
            pauses.add(at(from), at(to));
        }
        assert_eq!(pauses.0.len(), 2, "a short turn is none");
        let looked = |from, to| pauses.looked(at(from), at(to)).as_micros();
        assert_eq!(looked(0, 500), 500, "before them");
        assert_eq!(looked(1_500, 2_500), 500, "due in one");
        assert_eq!(looked(0, 5_000), 3_000, "both");
        assert_eq!(looked(2_000, 3_500), 1_000, "one that goes on");
        assert_eq!(looked(4_000, 9_000), 5_000, "a stall that is not the client's stays");
    }
}
