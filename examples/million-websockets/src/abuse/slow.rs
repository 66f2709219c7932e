//! Half of all read nothing while much is published: they miss it or are disconnected, the others
//! get everything, and what is kept for the slow ones is bounded.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use throng::{Builder, Limits, runtime};

use super::crowd::Crowd;
use super::{PATIENCE, RATE, Scene};
use crate::client::latency::Latencies;
use crate::host::{self, House};
use crate::server::{Settings, SlowPolicy};

/// What may wait for one connection in the server, in bytes.
const QUEUE: u32 = 2_048;
/// What is published, so often: more than queue, window and backlog hold.
const TEXT: usize = 500;
const TIMES: u64 = 100;
/// Seconds of silence before a ping, and connections for each second of it where they are many.
const PING: u32 = 60;
const PUBLISHED: u32 = 500;
/// How soon everybody who reads has to have it.
const SOON: Duration = Duration::from_secs(1);

pub(super) fn settings(settings: Settings, slow: SlowPolicy, connections: u32) -> Settings {
    // The policy is looked at: who takes nothing is not to be disconnected for that, as long as all that is
    // published to so many takes.
    let ping = Some(PING.max(connections / PUBLISHED));
    Settings { queue: QUEUE, slow, ping, ..settings }
}

/// A client that takes little of what nobody reads.
pub(super) fn client(scene: &Scene) -> Builder {
    host::client(&scene.device, 1, scene.connections).limits(limits(scene.connections))
}

pub(super) fn limits(connections: u32) -> Limits {
    let mut limits = host::limits(connections);
    limits.initial_receive_buffer = 2_048;
    limits.receive_buffer = 2_048;
    limits
}

pub(super) async fn left_behind(scene: Arc<Scene>) -> io::Result<()> {
    let (crowd, slow) = publish(&scene).await?;
    let findings = &scene.findings;
    let slow_ones = u64::from(slow.len());
    let at_least = slow_ones * (TIMES / 4);
    let missed = scene.watch.until(PATIENCE, |now| now.sum(|shard| shard.missed) >= at_least);
    let missed = missed.await;
    let now = scene.watch.latest();
    findings.fact("missed", now.sum(|shard| shard.missed));
    findings.expect(missed, || format!("the slow ones missed too little: {now:?}"));
    findings.expect(now.connections == u64::from(scene.connections), || {
        format!("{} of all are connected", now.connections)
    });
    slow.cut(slow.len()).await;
    scene.end(&crowd).await;
    Ok(())
}

pub(super) async fn disconnected(scene: Arc<Scene>) -> io::Result<()> {
    let (crowd, slow) = publish(&scene).await?;
    let (slow_ones, half) = (u64::from(slow.len()), u64::from(scene.half()));
    let gone = scene.watch.until(PATIENCE, |now| {
        now.sum(|shard| shard.disconnected) == slow_ones
            && now.connections == half
            && now.sum(|shard| shard.tcp) <= half
    });
    let gone = gone.await;
    let now = scene.watch.latest();
    scene.findings.fact("disconnected", now.sum(|shard| shard.disconnected));
    scene.findings.expect(gone, || format!("not all slow ones are gone: {now:?}"));
    slow.cut(slow.len()).await;
    scene.end(&crowd).await;
    Ok(())
}

/// Opens both halves and publishes to them.
async fn publish(scene: &Scene) -> io::Result<(Crowd, Crowd)> {
    let (half, all) = (scene.half(), scene.connections);
    let crowd = Crowd::open(House::Many, 0..half, all).await?;
    let slow = Crowd::open(House::Many, half..all, all).await?;
    slow.deafen();
    let publishing = async {
        let mut times = Latencies::default();
        for number in 1..=TIMES {
            let begin = runtime::now();
            scene.watch.publish(format!("{number:0TEXT$}"));
            while crowd.heard() < number * u64::from(half) {
                runtime::sleep(Duration::from_millis(1)).await;
                if runtime::now() - begin > PATIENCE {
                    return Err(format!("{} heard of number {number}", crowd.heard()));
                }
            }
            times.record((runtime::now() - begin).as_nanos() as u64);
        }
        Ok(times)
    };
    let (published, echoes) = crowd.echo_while(RATE, publishing).await;
    scene.judge(&crowd, echoes);
    let findings = &scene.findings;
    match published {
        Ok(times) => {
            let times = times.percentiles();
            findings.fact("heard_by_all_who_read_within_us_p99", times.p99 as u64);
            // With very many it is the time that so many copies take.
            let soon = SOON.as_micros() as f64 * f64::from(half).max(50_000.0) / 50_000.0;
            findings.expect(times.p99 <= soon, || format!("late for who reads: {times:?}"));
        }
        Err(missing) => findings.expect(false, || missing),
    }
    findings.fact("heard", crowd.heard());
    findings.expect(crowd.heard() == TIMES * u64::from(half), || "heard by some only".into());
    // What waits for a slow one is what its queue holds, and one message more.
    let most = u64::from(QUEUE) + TEXT as u64 + 100;
    let queued = scene.watch.seen().most_queued;
    findings.expect(queued <= most * u64::from(slow.len()) + (1 << 20), || {
        format!("{queued} bytes were queued at once")
    });
    Ok((crowd, slow))
}
