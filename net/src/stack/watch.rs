//! Warnings where a shard reaches its limits: each counter at most once in ten seconds, and
//! then with all that has come together. The counters themselves cost nothing more for it.

use std::collections::HashMap;
use std::time::Duration;

use throng_runtime::Instant;
use throng_runtime::metrics::{Kind, Measured};

use super::Stack;

/// How often a busy shard looks.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long a counter keeps quiet after a warning.
const QUIET: Duration = Duration::from_secs(10);

/// What has been said already.
#[derive(Default)]
pub(super) struct Watch {
    due: Instant,
    /// The sum of all limits when all had been said.
    settled: u64,
    /// By counter: what was said last, and until when it keeps quiet.
    said: HashMap<&'static str, (u64, Instant)>,
}

impl Watch {
    /// Whether a busy shard should look.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        now >= self.due
    }
}

impl Stack {
    /// Warns of limits that were reached since the last warning.
    pub(super) fn look_for_limits(&mut self, now: Instant) {
        self.watch.due = now + INTERVAL;
        let sum = self.link.counters.limits().wrapping_add(self.engine.counters().limits());
        if sum != self.watch.settled {
            self.warn_of_limits(sum, now);
        }
    }

    #[cold]
    fn warn_of_limits(&mut self, sum: u64, now: Instant) {
        let shard = self.shard;
        let mut settled = true;
        let counted = [self.link.counters.measure(), self.engine.counters().measure()];
        for (metric, total) in counted.into_iter().flatten() {
            if metric.kind != Kind::Limit {
                continue;
            }
            let (told, quiet) = self.watch.said.entry(metric.name).or_default();
            if *told == total {
                continue;
            }
            if now < *quiet {
                settled = false;
                continue;
            }
            let count = total - *told;
            (*told, *quiet) = (total, now + QUIET);
            let name = metric.name;
            tracing::warn!(target: "throng::limits", %shard, limit = name, count, total, "{}", metric.help);
        }
        if settled {
            self.watch.settled = sum;
        }
    }
}
