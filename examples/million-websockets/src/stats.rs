//! What a running server knows about itself: a snapshot that a page, a script or the demo's own
//! summary is made from.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use throng::net;
use throng::runtime::stages::{Stage, StageTimes};

use crate::memory::Resident;

/// One shard's part of a [`Snapshot`]; totals count from the start.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct ShardStats {
    /// WebSockets that are open.
    pub(crate) connections: u64,
    /// Opening handshakes completed.
    pub(crate) handshakes: u64,
    /// Connections that did not become a WebSocket, and those of them for which the server was full.
    pub(crate) refused: u64,
    pub(crate) full: u64,
    /// Data messages received.
    pub(crate) received: u64,
    /// Data messages sent: echoes, and copies of what was published.
    pub(crate) sent: u64,
    /// Those of them that were copies, and what of the newest is still to be taken by somebody.
    pub(crate) delivered: u64,
    pub(crate) waiting: u64,
    /// Messages that slow consumers missed, and slow consumers that were disconnected.
    pub(crate) missed: u64,
    pub(crate) disconnected: u64,
    /// Pings sent, and peers found dead by them.
    pub(crate) pings: u64,
    pub(crate) dead: u64,
    /// Rooms, the topic of all included.
    pub(crate) rooms: u64,
    /// TCP connections of any state, and bytes in their queues.
    pub(crate) tcp: u64,
    pub(crate) queued: u64,
    /// What the network holds and has turned away.
    pub(crate) network: Network,
    /// What the backplane has done, on the shard that has one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) backplane: BTreeMap<String, u64>,
    /// How old these numbers are, in milliseconds: a shard that is stuck leaves no new ones.
    pub(crate) age: f64,
    /// Longest run of each stage of the loop since the snapshot before, in microseconds.
    pub(crate) stages: StageMicros,
    /// Stages that ever took a millisecond or longer.
    pub(crate) slow_stages: u64,
}

/// What the network of a shard holds now, and what it has turned away since the start.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Network {
    /// Handshakes under way, connections in TIME_WAIT, closed ones whose end is not there yet.
    pub(crate) half_open: u64,
    pub(crate) time_wait: u64,
    pub(crate) orphans: u64,
    /// Bytes queued to be sent, and received but not read.
    pub(crate) sending: u64,
    pub(crate) received: u64,
    /// SYNs dropped because there were too many connections, or too many to be accepted.
    pub(crate) syns_dropped: u64,
    /// SYNs answered with a cookie, and connections made of one.
    pub(crate) cookies_sent: u64,
    pub(crate) cookies_accepted: u64,
    /// For lack of memory: bytes dropped, windows made smaller or kept from growing, and pieces
    /// queued all the same for connections that had nothing queued.
    pub(crate) bytes_dropped: u64,
    pub(crate) windows_held: u64,
    pub(crate) pieces_forced: u64,
    /// Segments sent again, and timeouts that began it.
    pub(crate) retransmits: u64,
    pub(crate) timeouts: u64,
}

impl Network {
    /// Of the current shard; nothing where the host does the counting.
    pub(crate) fn of_shard() -> (Network, u64) {
        let Ok(net::stats::Stats { usage, tcp, .. }) = net::stats::current() else {
            return Default::default();
        };
        let network = Network {
            half_open: usage.half_open as u64,
            time_wait: usage.time_wait as u64,
            orphans: usage.orphans as u64,
            sending: usage.send_memory,
            received: usage.recv_memory,
            syns_dropped: tcp.syn_dropped_connections
                + tcp.syn_dropped_backlog
                + tcp.accept_overflow,
            cookies_sent: tcp.syn_cookies_sent,
            cookies_accepted: tcp.syn_cookies_accepted,
            bytes_dropped: tcp.recv_memory_dropped,
            windows_held: tcp.windows_held + tcp.windows_reduced,
            pieces_forced: tcp.send_memory_forced,
            retransmits: tcp.retransmits,
            timeouts: tcp.timeouts,
        };
        (network, usage.connections as u64)
    }
}

/// Microseconds by stage.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct StageMicros {
    pub(crate) inbox: f64,
    pub(crate) receive: f64,
    pub(crate) timers: f64,
    pub(crate) advance: f64,
    pub(crate) tasks: f64,
    pub(crate) transmit: f64,
}

impl StageMicros {
    fn of(times: &StageTimes) -> StageMicros {
        let micros = |stage| times.of(stage).longest.as_nanos() as f64 / 1_000.0;
        StageMicros {
            inbox: micros(Stage::Inbox),
            receive: micros(Stage::Receive),
            timers: micros(Stage::Timers),
            advance: micros(Stage::Advance),
            tasks: micros(Stage::Tasks),
            transmit: micros(Stage::Transmit),
        }
    }

    /// The longer of each.
    fn max(self, other: StageMicros) -> StageMicros {
        StageMicros {
            inbox: self.inbox.max(other.inbox),
            receive: self.receive.max(other.receive),
            timers: self.timers.max(other.timers),
            advance: self.advance.max(other.advance),
            tasks: self.tasks.max(other.tasks),
            transmit: self.transmit.max(other.transmit),
        }
    }

    /// The longest of all, and its stage.
    pub(crate) fn longest(&self) -> (&'static str, f64) {
        let all = [
            ("inbox", self.inbox),
            ("receive", self.receive),
            ("timers", self.timers),
            ("advance", self.advance),
            ("tasks", self.tasks),
            ("transmit", self.transmit),
        ];
        all.into_iter().fold(("inbox", 0.0), |a, b| if b.1 > a.1 { b } else { a })
    }
}

/// What all shards together know at one moment.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Snapshot {
    /// Seconds since the server started.
    pub(crate) at: f64,
    pub(crate) connections: u64,
    /// Handshakes and messages a second since the snapshot before.
    pub(crate) handshakes_per_second: f64,
    pub(crate) messages_per_second: f64,
    /// Resident memory of the process, hugepages included, and what of it has come since the
    /// server listened, by connections.
    pub(crate) memory: u64,
    pub(crate) bytes_per_connection: u64,
    /// Processor time of the process, in seconds.
    pub(crate) cpu: f64,
    /// By shard: how evenly the load is spread.
    pub(crate) shards: Vec<ShardStats>,
}

impl Snapshot {
    /// A number of all shards together.
    pub(crate) fn sum(&self, field: impl Fn(&ShardStats) -> u64) -> u64 {
        self.shards.iter().map(field).sum()
    }

    /// The longest of each stage of any shard since the snapshot before.
    pub(crate) fn stages(&self) -> StageMicros {
        self.shards.iter().map(|shard| shard.stages).reduce(StageMicros::max).unwrap_or_default()
    }

    /// The longest of all stages, and which.
    pub(crate) fn longest_stage(&self) -> (&'static str, f64) {
        self.stages().longest()
    }
}

/// Where shards leave their numbers, and from where they are taken.
pub(crate) struct Board {
    begun: Instant,
    shards: Vec<Mutex<Place>>,
    last: Mutex<Last>,
    /// Whether shards measure their stages.
    pub(crate) stages: AtomicBool,
}

/// A shard's numbers, and when it left them.
#[derive(Default)]
struct Place {
    stats: ShardStats,
    at: Option<Instant>,
}

#[derive(Default)]
struct Last {
    at: f64,
    handshakes: u64,
    messages: u64,
    /// Memory when the first snapshot was taken.
    base: Option<u64>,
}

impl Board {
    pub(crate) fn new(shards: u16) -> Arc<Board> {
        Arc::new(Board {
            begun: Instant::now(),
            shards: (0..shards).map(|_| Mutex::default()).collect(),
            last: Mutex::default(),
            stages: AtomicBool::new(false),
        })
    }

    /// A shard leaves its numbers. Its stages are kept until they are taken.
    pub(crate) fn put(&self, shard: usize, mut stats: ShardStats, times: Option<StageTimes>) {
        let mut place = self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner);
        place.at = Some(Instant::now());
        let place = &mut place.stats;
        (stats.stages, stats.slow_stages) = (place.stages, place.slow_stages);
        if let Some(times) = times {
            stats.stages = stats.stages.max(StageMicros::of(&times));
            stats.slow_stages += Stage::ALL.map(|stage| times.of(stage).slow).iter().sum::<u64>();
        }
        *place = stats;
    }

    /// Takes a snapshot; rates and stages count from the one before.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let take = |place: &Mutex<Place>| {
            let mut place = place.lock().unwrap_or_else(PoisonError::into_inner);
            let stats = self.read(&place);
            place.stats.stages = StageMicros::default();
            stats
        };
        let mut snapshot = self.gather(take);
        let handshakes = snapshot.sum(|shard| shard.handshakes);
        let messages = snapshot.sum(|shard| shard.received + shard.sent);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let time = (snapshot.at - last.at).max(1e-3);
        snapshot.handshakes_per_second = (handshakes - last.handshakes) as f64 / time;
        snapshot.messages_per_second = (messages - last.messages) as f64 / time;
        let base = *last.base.get_or_insert(snapshot.memory);
        *last = Last { at: snapshot.at, handshakes, messages, base: Some(base) };
        let grown = snapshot.memory.saturating_sub(base);
        snapshot.bytes_per_connection = grown / snapshot.connections.max(1);
        snapshot
    }

    /// Looks, and takes nothing: there are no rates in it, and bytes per connection only once a
    /// snapshot has said what the server has without any.
    pub(crate) fn look(&self) -> Snapshot {
        let mut snapshot =
            self.gather(|place| self.read(&place.lock().unwrap_or_else(PoisonError::into_inner)));
        let base = self.last.lock().unwrap_or_else(PoisonError::into_inner).base;
        let grown = base.map_or(0, |base| snapshot.memory.saturating_sub(base));
        snapshot.bytes_per_connection = grown / snapshot.connections.max(1);
        snapshot
    }

    fn read(&self, place: &Place) -> ShardStats {
        let age = place.at.unwrap_or(self.begun).elapsed().as_secs_f64() * 1e3;
        ShardStats { age, ..place.stats.clone() }
    }

    fn gather(&self, read: impl Fn(&Mutex<Place>) -> ShardStats) -> Snapshot {
        let mut snapshot = Snapshot {
            at: self.begun.elapsed().as_secs_f64(),
            memory: Resident::of_self().map_or(0, Resident::total),
            cpu: processor_time().as_secs_f64(),
            shards: self.shards.iter().map(read).collect(),
            ..Snapshot::default()
        };
        snapshot.connections = snapshot.sum(|shard| shard.connections);
        snapshot
    }

    /// Whether stages are to be measured.
    pub(crate) fn wants_stages(&self) -> bool {
        self.stages.load(Ordering::Relaxed)
    }
}

/// What this process has used of the processors.
fn processor_time() -> Duration {
    // utime and stime, the 14th and 15th field, in ticks of 1/100 s; the second may have spaces.
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks = fields.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<u64>().ok());
    Duration::from_millis(ticks.sum::<u64>() * 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_count_from_the_snapshot_before_and_stages_are_taken() {
        let board = Board::new(2);
        let stats = |connections, received| ShardStats {
            connections,
            handshakes: connections,
            received,
            ..ShardStats::default()
        };
        board.put(0, stats(10, 100), Some(StageTimes::default()));
        board.put(1, stats(20, 0), None);
        let first = board.snapshot();
        assert_eq!((first.connections, first.sum(|s| s.received)), (30, 100));
        assert!(first.handshakes_per_second > 0.0 && first.memory > 0);
        let look = board.look();
        assert_eq!((look.connections, look.sum(|s| s.received)), (30, 100));
        board.put(0, stats(11, 150), Some(StageTimes::default()));
        assert_eq!(board.look().connections, 31);
        board.put(0, stats(10, 100), None);
        std::thread::sleep(Duration::from_millis(5));
        let second = board.snapshot();
        assert_eq!((second.handshakes_per_second, second.messages_per_second), (0.0, 0.0));
        // It travels between the processes as JSON.
        let text = serde_json::to_string(&second).unwrap();
        let back: Snapshot = serde_json::from_str(&text).unwrap();
        assert_eq!((back.connections, back.shards.len()), (30, 2));
    }
}
