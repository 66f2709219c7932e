//! Connections and messages that are due by the clock, whatever became of those before.

use std::io;
use std::time::{Duration, Instant as Clock};

use serde_json::{Value, json};

use super::{OPENING, Raw};
use crate::stats::Histogram;

/// Connections that are there before, for the messages to go over.
pub(super) const FIRST: usize = 1_000;
/// How long messages go on when all connections are there.
pub(super) const AFTER: Duration = Duration::from_secs(3);

/// What is due.
pub(super) struct Pace {
    begin: Clock,
    /// Connections that were there at the beginning, and how many more each second.
    first: usize,
    connections: f64,
    /// Messages each second.
    messages: f64,
    asked: u64,
    /// From when a message was due to its echo.
    pub(super) times: Histogram,
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
            last: now,
            pause: Duration::ZERO,
            held: 0,
        }
    }

    fn to_json(&self) -> Value {
        let [p50, p99, p999, most] = [0.5, 0.99, 0.999, 1.0].map(|part| self.times.at(part));
        json!({
            "echoes": self.times.total(),
            "p50_us": p50,
            "p99_us": p99,
            "p999_us": p999,
            "max_us": most,
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
        pace.pause = pace.pause.max(now - pace.last);
        pace.last = now;
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
