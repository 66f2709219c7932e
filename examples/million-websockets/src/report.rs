//! What the client tells the server's page, now and then: how far the run is, and what only the
//! client can know.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::client::Progress;
use crate::client::latency::Percentiles;
use crate::ends::Server;
use crate::memory::Resident;

/// How often the client reports.
const EVERY: Duration = Duration::from_millis(500);

/// What a run is at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Phase {
    /// The client is not there yet, or somebody else's.
    #[default]
    Waiting,
    Opening,
    /// Once on every connection.
    Echoing,
    /// Random ones, at a rate.
    Loading,
    Resting,
    Broadcasting,
    /// As when loading, for as long as the user wants.
    Holding,
    Closing,
    Ended,
}

/// How far the client is; totals count from the start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) phase: Phase,
    /// How much of the phase is done, where that can be counted.
    pub(crate) done: u64,
    pub(crate) total: u64,
    pub(crate) opened: u64,
    /// Everything that went wrong, by kind: see the summary.
    pub(crate) failed: u64,
    pub(crate) lost: u64,
    pub(crate) wrong: u64,
    pub(crate) missing: u64,
    pub(crate) skipped: u64,
    pub(crate) stuck: u64,
    /// Texts received that others than the run had published.
    pub(crate) heard: u64,
    /// Of the echoes since it was last told; a report that a phase begins tells none.
    pub(crate) latency: Percentiles,
    /// Resident memory of the client, where it is a process of its own.
    pub(crate) memory: Option<u64>,
}

/// Sends reports.
pub(crate) struct Reporter {
    phase: Phase,
    total: u64,
    last: Instant,
}

impl Reporter {
    /// Before the first phase.
    pub(crate) fn new() -> Reporter {
        Reporter { phase: Phase::Waiting, total: 0, last: Instant::now() }
    }

    /// A phase begins, which is done at `total`; 0 where nothing is counted.
    pub(crate) fn begin(
        &mut self,
        phase: Phase,
        total: u64,
        server: &mut Server,
        progress: &Progress,
    ) {
        (self.phase, self.total) = (phase, total);
        self.send(0, Percentiles::default(), server, progress);
    }

    /// Reports, if it is time to.
    pub(crate) fn look(&mut self, done: u64, server: &mut Server, progress: &Progress) {
        if self.last.elapsed() >= EVERY {
            self.last = Instant::now();
            self.send(done, progress.recent.take(), server, progress);
        }
    }

    fn send(&self, done: u64, latency: Percentiles, server: &mut Server, progress: &Progress) {
        let wide = |count: &std::sync::atomic::AtomicU32| u64::from(count.load(Ordering::Relaxed));
        // A server that is gone is found out by those who need an answer of it.
        let _ = server.report(&Report {
            phase: self.phase,
            done,
            total: self.total,
            opened: wide(&progress.opened),
            failed: wide(&progress.failed),
            lost: progress.lost.load(Ordering::Relaxed),
            wrong: progress.wrong.load(Ordering::Relaxed),
            missing: progress.missing.load(Ordering::Relaxed),
            skipped: progress.skipped.load(Ordering::Relaxed),
            stuck: wide(&progress.stuck),
            heard: progress.heard_of_others.load(Ordering::Relaxed),
            latency,
            memory: match server {
                Server::Process { .. } => Resident::of_self().ok().map(Resident::total),
                _ => None,
            },
        });
    }
}
