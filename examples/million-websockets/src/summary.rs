//! What came of a run, for people and for scripts.

use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Serialize;

use crate::client::Progress;
use crate::client::latency::Percentiles;
use crate::stats::{Snapshot, StageMicros};

/// The last line of `--json`. Times are in seconds, latencies in microseconds.
#[derive(Serialize)]
pub(crate) struct Summary {
    pub(crate) device: &'static str,
    pub(crate) shards: u16,
    pub(crate) connections: u32,
    pub(crate) opened: u32,
    /// Connections that were to echo once, and those on which the echo came back as it was sent.
    pub(crate) echoes_wanted: u64,
    pub(crate) echoed: u64,
    /// Everything that went wrong, below it by kind.
    pub(crate) errors: u64,
    pub(crate) failed: u32,
    pub(crate) lost: u64,
    pub(crate) wrong: u64,
    pub(crate) missing: u64,
    pub(crate) skipped: u64,
    pub(crate) stuck: u32,
    pub(crate) bytes_per_connection: u64,
    /// The client's, where it is a process of its own.
    pub(crate) client_bytes_per_connection: Option<u64>,
    pub(crate) measured: &'static str,
    pub(crate) memory_before: u64,
    pub(crate) memory_idle: u64,
    pub(crate) open_seconds: f64,
    pub(crate) opens_per_second: u64,
    /// Processor time of the server while connections opened.
    pub(crate) open_cpu_seconds: f64,
    pub(crate) echo_seconds: f64,
    pub(crate) echoes_per_second: u64,
    /// Echoes while connections opened, and at the rate asked for.
    pub(crate) ramp: Percentiles,
    pub(crate) load: Percentiles,
    /// The longest stage of a loop while connections opened.
    pub(crate) longest_stage: &'static str,
    pub(crate) longest_stage_us: f64,
    pub(crate) slow_stages: u64,
    /// The longest of each stage then, over all shards.
    pub(crate) ramp_stages: StageMicros,
    pub(crate) client_longest_stage_us: f64,
    pub(crate) broadcast_subscribers: u64,
    pub(crate) broadcast_received: u64,
    pub(crate) broadcast_seconds: f64,
    pub(crate) broadcast_memory_growth: u64,
    pub(crate) close_seconds: f64,
    /// The server when all were idle.
    pub(crate) server: Snapshot,
}

/// How long the steps took, and what the server said between them.
#[derive(Default)]
pub(crate) struct Measured {
    pub(crate) before: Snapshot,
    pub(crate) ramped: Snapshot,
    pub(crate) idle: Snapshot,
    pub(crate) after_broadcast: Snapshot,
    pub(crate) client_before: u64,
    pub(crate) client_idle: u64,
    pub(crate) open: Duration,
    pub(crate) echo: Duration,
    pub(crate) broadcast: Duration,
    pub(crate) close: Duration,
    pub(crate) echoes_wanted: u64,
    pub(crate) echoed: u64,
    pub(crate) heard: u64,
    /// Connections that a broadcast did not reach.
    pub(crate) unheard: u64,
}

impl Summary {
    pub(crate) fn new(
        device: &'static str,
        one_process: bool,
        shards: u16,
        connections: u32,
        measured: Measured,
        progress: &Progress,
    ) -> Summary {
        let opened = progress.opened.load(Ordering::Relaxed);
        let per = |bytes: u64| bytes / u64::from(opened.max(1));
        let rate =
            |count: u64, time: Duration| (count as f64 / time.as_secs_f64().max(1e-9)) as u64;
        let failed = progress.failed.load(Ordering::Relaxed);
        let lost = progress.lost.load(Ordering::Relaxed);
        let wrong = progress.wrong.load(Ordering::Relaxed);
        let missing = progress.missing.load(Ordering::Relaxed);
        let skipped = progress.skipped.load(Ordering::Relaxed);
        let stuck = progress.stuck.load(Ordering::Relaxed);
        let errors = u64::from(failed)
            + lost
            + wrong
            + missing
            + skipped
            + u64::from(stuck)
            + measured.unheard;
        let m = measured;
        let (longest_stage, longest_stage_us) = m.ramped.longest_stage();
        Summary {
            device,
            shards,
            connections,
            opened,
            echoes_wanted: m.echoes_wanted,
            echoed: m.echoed,
            errors,
            failed,
            lost,
            wrong,
            missing,
            skipped,
            stuck,
            bytes_per_connection: per(m.idle.memory.saturating_sub(m.before.memory)),
            client_bytes_per_connection: (!one_process)
                .then(|| per(m.client_idle.saturating_sub(m.client_before))),
            measured: match one_process {
                true => "growth of this process's resident memory: server and client together",
                false => "growth of the server process's resident memory, hugepages included",
            },
            memory_before: m.before.memory,
            memory_idle: m.idle.memory,
            open_seconds: m.open.as_secs_f64(),
            opens_per_second: rate(opened.into(), m.open),
            open_cpu_seconds: m.ramped.cpu - m.before.cpu,
            echo_seconds: m.echo.as_secs_f64(),
            echoes_per_second: rate(m.echoed, m.echo),
            ramp: progress.ramp.percentiles(),
            load: progress.load.percentiles(),
            longest_stage,
            longest_stage_us,
            ramp_stages: m.ramped.stages(),
            slow_stages: m.ramped.sum(|shard| shard.slow_stages),
            client_longest_stage_us: progress.longest_stage.load(Ordering::Relaxed) as f64 / 1e3,
            broadcast_subscribers: m.idle.connections,
            broadcast_received: m.heard,
            broadcast_seconds: m.broadcast.as_secs_f64(),
            broadcast_memory_growth: m.after_broadcast.memory.saturating_sub(m.idle.memory),
            close_seconds: m.close.as_secs_f64(),
            server: m.idle,
        }
    }

    /// Whether every connection opened and echoed, and nothing went wrong.
    pub(crate) fn is_whole(&self) -> bool {
        self.opened == self.connections && self.echoed == self.echoes_wanted && self.errors == 0
    }

    pub(crate) fn print(&self, json: bool) -> io::Result<()> {
        println!("opened     {:>10} of {}", self.opened, self.connections);
        println!("           {:>10} per second, {:.1} s", self.opens_per_second, self.open_seconds);
        latencies("meanwhile", &self.ramp);
        println!(
            "           longest stage of the server's loop: {} {:.0} us ({} of 1 ms or more)",
            self.longest_stage, self.longest_stage_us, self.slow_stages
        );
        println!("echoed     {:>10} of {}", self.echoed, self.echoes_wanted);
        println!("           {:>10} per second", self.echoes_per_second);
        latencies("at a rate", &self.load);
        println!(
            "broadcast  {:>10} received in {:.2} s",
            self.broadcast_received, self.broadcast_seconds
        );
        println!("closed     in {:.1} s", self.close_seconds);
        println!("errors     {:>10}", self.errors);
        println!("memory     {:>10} bytes per idle connection", self.bytes_per_connection);
        println!("           ({})", self.measured);
        if let Some(bytes) = self.client_bytes_per_connection {
            println!("           {bytes:>10} bytes per connection of the client");
        }
        println!();
        println!(
            "try it with your own curl, over a TAP (as root; the second line in another shell):"
        );
        println!(
            "  THRONG_DEVICE=tap:throng0 THRONG_ADDRESS=10.9.0.2/24 cargo run --example http-hello"
        );
        println!("  ip addr add 10.9.0.1/24 dev throng0 && curl http://10.9.0.2/");
        if json {
            println!("{}", serde_json::to_string(self).map_err(io::Error::other)?);
        }
        Ok(())
    }
}

fn latencies(when: &str, p: &Percentiles) {
    if p.count > 0 {
        println!(
            "{when:10} {:>10} echoes: p50 {:.0} us, p99 {:.0} us, p99.9 {:.0} us, longest {:.0} us",
            p.count, p.p50, p.p99, p.p999, p.max
        );
    }
}
