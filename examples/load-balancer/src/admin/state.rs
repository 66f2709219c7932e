//! What the shards say of themselves and of their servers.

use std::time::Duration;

use futures::future::join_all;
use serde::Serialize;
use throng::runtime::{now, shard_count};
use throng::{ShardId, spawn_on, timeout};

use crate::group::{self, Group};
use crate::histogram::BUCKETS;
use crate::shard::{Counts, Shard};

/// How long a shard may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a shard says of itself.
#[derive(Serialize)]
pub(super) struct ShardState {
    pub(super) shard: u16,
    pub(super) counts: Counts,
    pub(super) upstreams: Vec<UpstreamState>,
}

#[derive(Serialize)]
pub(super) struct UpstreamState {
    pub(super) name: String,
    /// Requests that wait for a server.
    pub(super) waiting: usize,
    /// Connections to its servers, and those of them that are idle.
    pub(super) connections: usize,
    pub(super) idle_connections: usize,
    pub(super) servers: Vec<ServerState>,
}

#[derive(Serialize)]
pub(super) struct ServerState {
    pub(super) address: String,
    /// What the active checks say.
    pub(super) up: bool,
    pub(super) ejected: bool,
    /// By the operator.
    pub(super) drained: bool,
    pub(super) in_flight: u32,
    /// Seconds to the head of a response, as the policy `latency` sees it.
    pub(super) latency: f64,
    /// Responses by the time to their head, see `latency_bounds`.
    pub(super) latencies: [u64; BUCKETS],
    #[serde(skip)]
    pub(super) latency_sum: f64,
    /// Whether there are active checks.
    pub(super) checked: bool,
    #[serde(flatten)]
    pub(super) counts: group::Counts,
}

pub(super) fn dropped() -> u64 {
    Shard::here().map_or(0, |shard| shard.log.dropped())
}

/// Every shard that answers.
pub(super) async fn states() -> Vec<ShardState> {
    let asked = (0..shard_count() as u16).map(|shard| async move {
        let state = spawn_on(ShardId(shard), move || async move { state(shard) });
        timeout(PATIENCE, state).await.ok()?.ok()?
    });
    join_all(asked).await.into_iter().flatten().collect()
}

fn state(number: u16) -> Option<ShardState> {
    let shard = Shard::here()?;
    let upstreams = shard.state().groups.values().map(|group| upstream(group)).collect();
    Some(ShardState { shard: number, counts: shard.counts(), upstreams })
}

fn upstream(group: &Group) -> UpstreamState {
    let millis = now().as_millis();
    let servers = group.servers().map(|server| ServerState {
        address: server.address.to_string(),
        up: server.vitals.is_up(),
        ejected: server.vitals.is_ejected(millis),
        drained: server.vitals.is_drained(),
        in_flight: server.in_flight.get(),
        latency: server.latency(),
        latencies: server.latencies.counts(),
        latency_sum: server.latencies.sum(),
        checked: group.config.health.is_some(),
        counts: server.counts.get(),
    });
    UpstreamState {
        name: group.name.clone(),
        waiting: group.waiting(),
        connections: group.client.connections(),
        idle_connections: group.client.idle_connections(),
        servers: servers.collect(),
    }
}
