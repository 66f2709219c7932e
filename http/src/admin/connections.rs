//! `GET /connections`.

use std::time::Duration;

use http::StatusCode;
use serde_json::{Value, json};
use throng_net::ShardId;
use throng_net::stats::{Connection, connections_of};
use throng_runtime::shard_count;

use super::{Answer, PATIENCE, failure, reply};

/// Connections in an answer, unless the request says otherwise, and at most.
const LIMIT: usize = 100;
const MAX_LIMIT: usize = 1_000;
/// How long all shards together may take, give or take one.
const ALL: Duration = Duration::from_secs(5);

/// What a request asks for.
#[derive(Debug, PartialEq, Eq)]
struct Query {
    limit: usize,
    /// This shard only.
    shard: Option<u16>,
    /// Where to begin: a shard and a place of its table.
    from: (u16, u32),
}

impl Query {
    fn parse(text: &str) -> Result<Query, String> {
        let mut query = Query { limit: LIMIT, shard: None, from: (0, 0) };
        let mut begins = None;
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let wrong = |accepted: &str| format!("{key} = {value:?}: accepted is {accepted}");
            match key {
                "limit" => {
                    let limit = value.parse::<usize>().ok().filter(|limit| *limit > 0);
                    query.limit = limit.ok_or_else(|| wrong("a number from 1 on"))?.min(MAX_LIMIT);
                }
                "shard" => {
                    let shard = value.parse().ok();
                    let shard = shard.filter(|shard| usize::from(*shard) < shard_count());
                    let accepted = || wrong(&format!("0 to {}", shard_count() - 1));
                    query.shard = Some(shard.ok_or_else(accepted)?);
                }
                "from" => {
                    let parts = value.split_once('.');
                    let parts = parts.and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
                    begins = Some(parts.ok_or_else(|| wrong("what `next` said"))?);
                }
                _ => return Err(format!("{key} is not known; there are limit, shard and from")),
            }
        }
        query.from = begins.unwrap_or((query.shard.unwrap_or(0), 0));
        Ok(query)
    }
}

pub(super) async fn answer(query: &str) -> Answer {
    let query = match Query::parse(query) {
        Ok(query) => query,
        Err(error) => return failure(StatusCode::BAD_REQUEST, error),
    };
    let until = throng_runtime::now() + ALL;
    let (mut found, mut unavailable) = (Vec::new(), Vec::new());
    let (mut shard, mut slot) = query.from;
    let end = query.shard.map_or(shard_count(), |shard| usize::from(shard) + 1);
    let mut next = None;
    while usize::from(shard) < end {
        if found.len() >= query.limit || throng_runtime::now() >= until {
            next = Some((shard, slot));
            break;
        }
        let rest = query.limit - found.len();
        match connections_of(ShardId(shard), slot, rest, PATIENCE).await {
            Ok(page) => {
                found.extend(page.connections.iter().map(describe));
                if let Some(slot) = page.next {
                    next = Some((shard, slot));
                    break;
                }
            }
            Err(error) => unavailable.push(json!({ "shard": shard, "error": error.to_string() })),
        }
        (shard, slot) = (shard + 1, 0);
    }
    let next = next.map(|(shard, slot)| format!("{shard}.{slot}"));
    let page = json!({ "connections": found, "unavailable": unavailable, "next": next });
    reply(StatusCode::OK, &page)
}

fn describe(connection: &Connection) -> Value {
    let info = &connection.info;
    let micros = |time: Duration| time.as_micros() as u64;
    json!({
        "id": connection.id.to_string(),
        "shard": connection.id.shard.0,
        "local": info.tuple.local_addr().to_string(),
        "peer": info.tuple.peer_addr().to_string(),
        "state": format!("{:?}", info.state),
        "error": info.error.map(|error| error.to_string()),
        "age_s": info.age.as_secs(),
        "bytes_received": info.bytes_received,
        "bytes_acked": info.bytes_acked,
        "send_queue": info.send_queue,
        "receive_queue": info.recv_queue,
        "out_of_order": info.out_of_order,
        "in_flight": info.in_flight,
        "srtt_us": micros(info.srtt),
        "rttvar_us": micros(info.rttvar),
        "min_rtt_us": micros(info.min_rtt),
        "rto_us": micros(info.rto),
        "mss": info.mss,
        "cwnd": info.cwnd,
        "ssthresh": info.ssthresh,
        "send_window": info.snd_wnd,
        "receive_window": info.rcv_wnd,
        "retransmits": info.retransmits,
        "retries": info.retries,
        "recovering": info.recovering,
    })
}
