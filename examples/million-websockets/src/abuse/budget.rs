//! Half of all, or 20,000, have much echoed and read nothing, and the memory for that is little: what waits
//! is bounded, who reads is answered, and who takes nothing goes.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use throng::{Builder, runtime};

use super::crowd::Crowd;
use super::{PATIENCE, RATE, Scene, slow};
use crate::host::{self, House};
use crate::server::Settings;
use crate::stats::{Network, Snapshot};

/// Bytes that may be queued, and bytes that may be received and not read, on the shard.
const SEND: u64 = 256 << 10;
const RECEIVE: u64 = 256 << 10;
/// What one connection may queue.
const QUEUE: u32 = 8 << 10;
/// What is to be echoed at a time, and so often.
const SIZE: u32 = 4 << 10;
const TIMES: u32 = 8;
/// Most that are greedy: what they have to send lies in the client's memory.
const GREEDY: u32 = 20_000;
/// Seconds after which who takes nothing is disconnected, for so many connections at most.
const PING: u32 = 2;
const PINGED: u32 = 50_000;

fn ping(connections: u32) -> u32 {
    PING.max(connections / PINGED)
}

pub(super) fn settings(settings: Settings, connections: u32) -> Settings {
    Settings {
        send_memory: SEND,
        receive_memory: RECEIVE,
        queue: QUEUE,
        ping: Some(ping(connections)),
        ..settings
    }
}

/// A client with room for all that the greedy ones have to send: it is to be the server's memory that
/// is short.
pub(super) fn client(scene: &Scene) -> Builder {
    let mut limits = slow::limits(scene.connections);
    limits.send_memory += u64::from(SIZE * TIMES * 2) * u64::from(greedy(scene));
    host::client(&scene.device, 1, scene.connections).limits(limits)
}

fn greedy(scene: &Scene) -> u32 {
    scene.half().min(GREEDY)
}

pub(super) async fn act(scene: Arc<Scene>) -> io::Result<()> {
    let all = scene.connections;
    let rest = all - greedy(&scene);
    let findings = &scene.findings;
    let crowd = Crowd::open(House::Many, 0..rest, all).await?;
    let greedy = Crowd::open_for(House::Many, rest..all, all, SIZE).await?;
    greedy.deafen();
    let abusing = async {
        let begin = runtime::now();
        for _ in 0..TIMES {
            greedy.send_each().await;
            runtime::sleep(Duration::from_millis(5)).await;
        }
        let gone = |now: &Snapshot| now.connections <= u64::from(rest);
        let patience = PATIENCE + 4 * Duration::from_secs(ping(all).into());
        scene.watch.until(patience, gone).await;
        runtime::now() - begin
    };
    let (took, echoes) = crowd.echo_while(RATE, abusing).await;
    scene.judge(&crowd, echoes);
    let now = scene.watch.latest();
    let sum = |field: fn(&Network) -> u64| now.sum(|shard| field(&shard.network));
    findings.fact("greedy_gone_after_ms", took.as_millis() as u64);
    findings.fact("received_bytes_dropped", sum(|n| n.bytes_dropped));
    findings.fact("windows_held", sum(|n| n.windows_held));
    findings.fact("pieces_forced", sum(|n| n.pieces_forced));
    findings.expect(now.connections == u64::from(rest), || {
        format!("{} are left, {rest} behave", now.connections)
    });
    let limited = sum(|n| n.bytes_dropped + n.windows_held + n.pieces_forced);
    findings.expect(limited > 0, || "no limit was reached".to_owned());
    // Beyond the bounds: what a connection may have that has nothing else, a segment each way.
    let most = SEND + RECEIVE + u64::from(all) * 2 * 1_500;
    let queued = scene.watch.seen().most_queued;
    findings.expect(queued <= most, || format!("{queued} bytes were queued, of {most}"));
    greedy.cut(greedy.len()).await;
    scene.end(&crowd).await;
    Ok(())
}
