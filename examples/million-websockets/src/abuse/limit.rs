//! More connections than the server holds: those beyond are told so at once (503), the others live,
//! and a place that comes free is taken.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use throng::runtime;
use throng::ws::{self, HandshakeError};

use super::crowd::{Crowd, attempts, connect};
use super::{PATIENCE, RATE, Scene};
use crate::client::latency::Latencies;
use crate::host::House;
use crate::server::Settings;

/// How soon who is refused has to hear it.
const SOON: Duration = Duration::from_secs(1);

pub(super) fn settings(settings: Settings, connections: u32) -> Settings {
    Settings { max_connections: Some(connections), ..settings }
}

pub(super) async fn act(scene: Arc<Scene>) -> io::Result<()> {
    let (half, all) = (scene.half(), scene.connections);
    let findings = &scene.findings;
    let crowd = Crowd::open(House::Many, 0..half, all).await?;
    let held = Crowd::open(House::Many, half..all, all).await?;
    let beyond = (all / 10).min(10_000);
    let (tried, echoes) = crowd.echo_while(RATE, attempts(all..all + beyond, all)).await;
    scene.judge(&crowd, echoes);

    let (mut refused, mut late, mut times) = (0, 0, Latencies::default());
    for (outcome, took) in &tried {
        times.record(took.as_nanos() as u64);
        late += u64::from(*took > SOON);
        refused += u64::from(is_full(outcome));
    }
    findings.fact("refused", refused);
    findings.fact("refused_within_us_p99", times.percentiles().p99 as u64);
    findings.expect(refused == u64::from(beyond), || format!("{refused} of {beyond} were refused"));
    findings.expect(late <= u64::from(beyond) / 100, || format!("{late} heard of it late"));
    let counted = scene.watch.until(PATIENCE, |now| {
        now.sum(|shard| shard.full) == refused && now.connections == u64::from(all)
    });
    let counted = counted.await;
    findings.expect(counted, || format!("not counted: {:?}", scene.watch.latest()));

    // Some leave, and as many come in.
    let places = held.len().min(100);
    held.cut(places).await;
    let mut come = Vec::new();
    for number in 0..places {
        let coming = async {
            loop {
                match connect(all + number, all).await {
                    outcome if is_full(&outcome) => runtime::sleep(Duration::from_millis(5)).await,
                    outcome => break outcome,
                }
            }
        };
        let socket = runtime::timeout(PATIENCE, coming).await.map_err(io::Error::other)?;
        come.push(socket.map_err(io::Error::other)?);
    }
    findings.fact("let_in_after_others_left", places.into());
    drop(come);
    held.cut(held.len()).await;
    scene.end(&crowd).await;
    Ok(())
}

fn is_full<T>(outcome: &Result<T, ws::Error>) -> bool {
    let full = ::http::StatusCode::SERVICE_UNAVAILABLE;
    matches!(outcome, Err(ws::Error::Handshake(HandshakeError::Refused(status))) if *status == full)
}
