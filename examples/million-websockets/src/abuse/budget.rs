//! Half of all have much echoed and read nothing, and the memory for that is little: what waits is
//! bounded, who reads is answered, and who takes nothing goes.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures::Sink;
use throng::runtime;
use throng::ws::Message;

use super::crowd::{Crowd, Socket, sockets};
use super::{PATIENCE, RATE, Scene};
use crate::host::House;
use crate::server::Settings;
use crate::stats::{Network, Snapshot};

/// Bytes that may be queued, and bytes that may be received and not read, on the shard.
const SEND: u64 = 256 << 10;
const RECEIVE: u64 = 256 << 10;
/// What one connection may queue.
const QUEUE: u32 = 8 << 10;
/// What is to be echoed at a time, and so often.
const SIZE: usize = 4 << 10;
const TIMES: u32 = 8;
/// Seconds after which who takes nothing is disconnected.
const PING: u32 = 2;

pub(super) fn settings(settings: Settings) -> Settings {
    Settings {
        send_memory: SEND,
        receive_memory: RECEIVE,
        queue: QUEUE,
        ping: Some(PING),
        ..settings
    }
}

pub(super) async fn act(scene: Arc<Scene>) -> io::Result<()> {
    let (half, all) = (scene.half(), scene.connections);
    let findings = &scene.findings;
    let crowd = Crowd::open(House::Many, half).await?;
    let mut greedy = sockets(half..all, all).await?;
    let abusing = async {
        let begin = runtime::now();
        for _ in 0..TIMES {
            for socket in &mut greedy {
                send_some(socket);
                runtime::coop::consume_budget().await;
            }
            runtime::sleep(Duration::from_millis(5)).await;
        }
        let gone = |now: &Snapshot| now.connections <= u64::from(half);
        scene.watch.until(PATIENCE, gone).await;
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
    findings.expect(now.connections == u64::from(half), || {
        format!("{} are left, {half} behave", now.connections)
    });
    let limited = sum(|n| n.bytes_dropped + n.windows_held + n.pieces_forced);
    findings.expect(limited > 0, || "no limit was reached".to_owned());
    // Beyond the bounds: what a connection may have that has nothing else, a segment each way.
    let most = SEND + RECEIVE + u64::from(all) * 2 * 1_500;
    let queued = scene.watch.seen().most_queued;
    findings.expect(queued <= most, || format!("{queued} bytes were queued, of {most}"));
    drop(greedy);
    scene.end(&crowd).await;
    Ok(())
}

/// Sends what goes without waiting; reads nothing.
fn send_some(socket: &mut Socket) {
    static ZEROES: [u8; SIZE] = [0; SIZE];
    let mut cx = Context::from_waker(Waker::noop());
    let mut socket = Pin::new(socket);
    if matches!(socket.as_mut().poll_ready(&mut cx), Poll::Ready(Ok(()))) {
        let message = Message::Binary(Bytes::from_static(&ZEROES));
        // Who is disconnected hears it here, and nobody cares.
        let _ = socket.as_mut().start_send(message);
    }
    let _ = socket.poll_flush(&mut cx);
}
