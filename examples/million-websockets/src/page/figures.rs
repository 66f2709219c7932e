//! The page's numbers: looks at the server, rates between them, and a history of them.

use std::collections::VecDeque;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

use crate::client::latency::Percentiles;
use crate::report::{Phase, Report};
use crate::server::Control;
use crate::stats::{ShardStats, Snapshot};

/// How often the page looks.
pub(super) const EVERY: Duration = Duration::from_millis(500);
/// Looks that are kept for the charts: five minutes.
const KEPT: usize = 600;
/// A client that has said nothing for so long is not heard any more.
const SILENCE: Duration = Duration::from_secs(3);
/// With fewer connections what each costs says nothing.
const FEW: u64 = 1_000;

/// One look, as the page gets it. Rates count from the look before.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Tick {
    /// Seconds since the server started.
    at: f64,
    phase: Phase,
    done: u64,
    total: u64,
    pub(super) connections: u64,
    handshakes_per_second: u64,
    messages_per_second: u64,
    /// Of echoes, as the client measures them; none where it has none, or is not heard.
    latency: Option<Percentiles>,
    memory: u64,
    bytes_per_connection: Option<u64>,
    /// Processors in use.
    cores: f64,
    shards: Vec<ShardTick>,
    /// Handshakes refused, copies missed by slow consumers, consumers disconnected, peers dead.
    refused: u64,
    missed: u64,
    disconnected: u64,
    dead: u64,
    /// What the client said last, and whether that was a while ago.
    client: Option<Report>,
    client_silent: bool,
    /// Pages that look.
    pages: usize,
}

#[derive(Clone, Debug, Default, Serialize)]
struct ShardTick {
    connections: u64,
    messages_per_second: u64,
    /// Bytes in its connections' queues.
    queued: u64,
}

/// What the charts need of a look.
#[derive(Clone, Copy, Debug)]
struct Point {
    at: f64,
    handshakes: u64,
    messages: u64,
    latency: Option<Percentiles>,
    memory: u64,
    cores: f64,
}

/// Looks so far.
#[derive(Default)]
pub(super) struct Figures {
    before: Snapshot,
    last: Tick,
    points: VecDeque<Point>,
    /// Memory before the first handshake.
    base: u64,
}

fn messages(shard: &ShardStats) -> u64 {
    shard.received + shard.sent
}

impl Figures {
    /// Looks once more.
    pub(super) fn look(&mut self, control: &Control, pages: usize) -> Tick {
        let tick = self.tick(control.board.look(), control.reported(), pages);
        self.last = tick.clone();
        tick
    }

    fn tick(&mut self, look: Snapshot, reported: Option<(Duration, Report)>, pages: usize) -> Tick {
        let time = (look.at - self.before.at).max(1e-3);
        let rate = |now: u64, before: u64| (now.saturating_sub(before) as f64 / time) as u64;
        let grown = |field: fn(&ShardStats) -> u64| rate(look.sum(field), self.before.sum(field));
        let none = ShardStats::default();
        let shards = look.shards.iter().enumerate().map(|(i, shard)| ShardTick {
            connections: shard.connections,
            messages_per_second: rate(
                messages(shard),
                messages(self.before.shards.get(i).unwrap_or(&none)),
            ),
            queued: shard.queued,
        });
        let (client_silent, client) = match reported {
            Some((ago, report)) => (ago > SILENCE && report.phase != Phase::Ended, Some(report)),
            None => (false, None),
        };
        let told = client.as_ref().filter(|_| !client_silent);
        let phase = told.map_or(Phase::Waiting, |report| report.phase);
        let closing = matches!(phase, Phase::Closing | Phase::Ended);
        if look.sum(|shard| shard.handshakes) == 0 {
            self.base = look.memory;
        }
        let cost = match look.bytes_per_connection {
            0 => look.memory.saturating_sub(self.base) / look.connections.max(1),
            known => known,
        };
        let tick = Tick {
            at: look.at,
            phase,
            // How many are open the server knows best, and first.
            done: told.map_or(0, |report| match phase {
                Phase::Opening => report.done.max(look.connections).min(report.total),
                Phase::Closing => report.total.saturating_sub(look.connections),
                _ => report.done,
            }),
            total: told.map_or(0, |report| report.total),
            connections: look.connections,
            handshakes_per_second: grown(|shard| shard.handshakes),
            messages_per_second: grown(messages),
            latency: told.map(|report| report.latency).filter(|latency| latency.count > 0),
            memory: look.memory,
            bytes_per_connection: (look.connections >= FEW && !closing).then_some(cost),
            cores: (look.cpu - self.before.cpu).max(0.0) / time,
            shards: shards.collect(),
            refused: look.sum(|shard| shard.refused),
            missed: look.sum(|shard| shard.missed),
            disconnected: look.sum(|shard| shard.disconnected),
            dead: look.sum(|shard| shard.dead),
            client,
            client_silent,
            pages,
        };
        self.points.push_back(Point {
            at: tick.at,
            handshakes: tick.handshakes_per_second,
            messages: tick.messages_per_second,
            latency: tick.latency,
            memory: tick.memory,
            cores: tick.cores,
        });
        if self.points.len() > KEPT {
            self.points.pop_front();
        }
        self.before = look;
        tick
    }

    /// The last look.
    pub(super) fn last(&self) -> &Tick {
        &self.last
    }

    /// What the charts begin with: a column of each number, oldest first.
    pub(super) fn history(&self) -> Value {
        let column = |field: &dyn Fn(&Point) -> Value| -> Vec<Value> {
            self.points.iter().map(field).collect()
        };
        let latency = |of: fn(&Percentiles) -> f64| {
            column(&move |point| point.latency.as_ref().map_or(Value::Null, |l| json!(of(l))))
        };
        json!({
            "at": column(&|point| json!(point.at)),
            "handshakes": column(&|point| json!(point.handshakes)),
            "messages": column(&|point| json!(point.messages)),
            "p50": latency(|latency| latency.p50),
            "p99": latency(|latency| latency.p99),
            "p999": latency(|latency| latency.p999),
            "memory": column(&|point| json!(point.memory)),
            "cores": column(&|point| json!(point.cores)),
        })
    }

    pub(super) fn connections(&self) -> u64 {
        self.last.connections
    }

    pub(super) fn phase(&self) -> Phase {
        self.last.phase
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(at: f64, connections: u64, received: u64, memory: u64) -> Snapshot {
        let shard =
            ShardStats { connections, handshakes: connections, received, ..Default::default() };
        let half = ShardStats { connections: 0, received: 10, ..Default::default() };
        Snapshot { at, connections, memory, shards: vec![shard, half], ..Default::default() }
    }

    fn report(phase: Phase, ago: u64) -> Option<(Duration, Report)> {
        let latency = Percentiles { count: 3, p50: 1.0, ..Percentiles::default() };
        let report = Report { phase, done: 7, total: 2_000, latency, ..Report::default() };
        Some((Duration::from_secs(ago), report))
    }

    #[test]
    fn rates_are_between_looks_and_memory_is_counted_from_the_first_handshake() {
        let mut figures = Figures::default();
        figures.tick(look(1.0, 0, 0, 50_000_000), None, 0);
        let tick = figures.tick(look(1.5, 2_000, 4_000, 51_000_000), report(Phase::Opening, 0), 1);
        assert_eq!((tick.connections, tick.handshakes_per_second), (2_000, 4_000));
        assert_eq!(tick.messages_per_second, 8_000);
        assert_eq!(tick.bytes_per_connection, Some(500));
        assert_eq!((tick.done, tick.total, tick.phase), (2_000, 2_000, Phase::Opening));
        assert_eq!(tick.latency.map(|latency| latency.count), Some(3));
        assert_eq!(tick.shards[1].messages_per_second, 0);
        // What is closed is what the server no longer has.
        let tick = figures.tick(look(2.0, 500, 4_000, 51_000_000), report(Phase::Closing, 0), 1);
        assert_eq!((tick.done, tick.total, tick.bytes_per_connection), (1_500, 2_000, None));
        // A client that is gone says nothing true any more.
        let tick = figures.tick(look(2.5, 500, 4_000, 51_000_000), report(Phase::Loading, 4), 1);
        assert!(tick.client_silent && tick.latency.is_none());
        assert_eq!(tick.phase, Phase::Waiting);
    }

    #[test]
    fn the_history_has_an_end_and_equal_columns() {
        let mut figures = Figures::default();
        for i in 0..KEPT + 10 {
            figures.tick(look(i as f64, 1, 0, 1), None, 0);
        }
        let history = figures.history();
        for column in history.as_object().unwrap().values() {
            assert_eq!(column.as_array().unwrap().len(), KEPT);
        }
        assert_eq!(history["at"][0], 10.0);
    }
}
