//! What a scenario found.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use crate::client::latency::Percentiles;

/// What one scenario found. Latencies are in microseconds.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) scenario: String,
    pub(crate) device: &'static str,
    pub(crate) connections: u32,
    pub(crate) seconds: f64,
    /// The server's answers to its control.
    pub(crate) control: Percentiles,
    /// How old the numbers were that it answered with.
    pub(crate) age: Percentiles,
    /// Its page, fetched with a connection of its own each time, where it is a process.
    pub(crate) page: Percentiles,
    /// Echoes of the connections that behave, while others do not.
    pub(crate) echoes: Percentiles,
    /// What was counted.
    pub(crate) facts: BTreeMap<&'static str, u64>,
    /// What should have been otherwise; nothing else is a failure.
    pub(crate) wrong: Vec<String>,
}

impl Report {
    pub(crate) fn print(&self, json: bool) -> io::Result<()> {
        let verdict = if self.wrong.is_empty() { "as it should be" } else { "NOT as it should be" };
        let Report { scenario, connections, device, seconds, .. } = self;
        println!("{scenario}: {connections} connections, {device}, {seconds:.1} s: {verdict}");
        for (name, p) in [
            ("echoes", &self.echoes),
            ("control", &self.control),
            ("its numbers' age", &self.age),
            ("page", &self.page),
        ] {
            if p.count > 0 {
                println!(
                    "  {name:28} {:>10}: p50 {:.0} us, p99 {:.0} us, longest {:.0} us",
                    p.count, p.p50, p.p99, p.max
                );
            }
        }
        for (name, value) in &self.facts {
            println!("  {:28} {value:>10}", name.replace('_', " "));
        }
        for what in &self.wrong {
            println!("  wrong: {what}");
        }
        if json {
            println!("{}", serde_json::to_string(self).map_err(io::Error::other)?);
        }
        Ok(())
    }
}

/// A report in the making, written by whoever finds something.
#[derive(Default)]
pub(super) struct Findings(Mutex<Report>);

impl Findings {
    fn lock(&self) -> MutexGuard<'_, Report> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number to be reported.
    pub(super) fn fact(&self, name: &'static str, value: u64) {
        self.lock().facts.insert(name, value);
    }

    /// Something that has to be so.
    pub(super) fn expect(&self, is_so: bool, otherwise: impl FnOnce() -> String) {
        if !is_so {
            self.lock().wrong.push(otherwise());
        }
    }

    pub(super) fn echoes(&self, echoes: Percentiles) {
        self.lock().echoes = echoes;
    }

    pub(super) fn take(&self) -> Report {
        std::mem::take(&mut self.lock())
    }
}
