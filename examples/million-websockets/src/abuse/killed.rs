//! The process of all clients is killed: nobody says goodbye. Another machine's clients come at
//! once and are served, while heartbeats find the dead ones, all of them, in their time.

use std::io::{self, BufRead};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use throng::runtime;

use super::crowd::Crowd;
use super::{PATIENCE, RATE, Scene};
use crate::ends::Lines;
use crate::host::{self, House};
use crate::server::Settings;

/// Seconds of silence before a ping, for so many connections at most: with more it is longer.
const PING: u32 = 1;
const PINGED: u32 = 100_000;
/// For what takes no time where nobody else uses the machine, and what it takes to free so many.
const SLACK: Duration = Duration::from_secs(3);
const FREED: u32 = 50_000;
/// Connections that the clients open each second, at least.
const OPENED: u32 = 2_000;
/// Connections from the other machine.
const OTHERS: u32 = 100;

fn ping(connections: u32) -> u32 {
    PING.max(connections / PINGED)
}

pub(super) fn settings(settings: Settings, connections: u32) -> Settings {
    Settings { ping: Some(ping(connections)), ..settings }
}

pub(super) fn act(scene: &Arc<Scene>) -> io::Result<()> {
    let mut holder = Command::new(std::env::current_exe()?)
        .args(["hold", "--device", &scene.device])
        .args(["--connections", &scene.connections.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let patience = PATIENCE + Duration::from_secs((scene.connections / OPENED).into());
    let heard = holder.stdout.take().map(|out| Lines::of(out).next(patience)).transpose();
    // SIGKILL: it has no time to close anything.
    holder.kill()?;
    holder.wait()?;
    if heard?.flatten().as_deref() != Some("open") {
        return Err(io::Error::other("the client did not open its connections"));
    }
    let other = host::other_client(&scene.device, OTHERS);
    other.run(|_| after(scene.clone()))?.into_iter().collect()
}

async fn after(scene: Arc<Scene>) -> io::Result<()> {
    let findings = &scene.findings;
    let begin = runtime::now();
    let crowd = Crowd::open(House::Other, 0..OTHERS, scene.connections).await?;
    findings.fact("others_open_after_ms", (runtime::now() - begin).as_millis() as u64);
    // One interval until the visit that asks, one for the answer, one because a visit may come
    // just before the silence has lasted for an interval; and half a one to let all go.
    let interval = Duration::from_secs(ping(scene.connections).into());
    let freeing = Duration::from_secs((scene.connections / FREED).into());
    let in_time = interval * 7 / 2 + SLACK + freeing;
    let (freed, echoes) = crowd
        .echo_while(RATE, async {
            let freed = scene.watch.until(in_time * 2, |now| {
                now.connections == u64::from(OTHERS)
                    && now.sum(|shard| shard.tcp) == u64::from(OTHERS)
            });
            let freed = freed.await;
            (freed, runtime::now() - begin)
        })
        .await;
    scene.judge(&crowd, echoes);
    let (freed, after) = freed;
    let now = scene.watch.latest();
    findings.fact("dead_all_freed_after_ms", after.as_millis() as u64);
    findings.fact("found_dead", now.sum(|shard| shard.dead));
    findings.expect(freed, || format!("not all dead ones are freed: {now:?}"));
    findings.expect(after <= in_time, || format!("freed after {after:?} only"));
    findings.expect(now.sum(|shard| shard.dead) == u64::from(scene.connections), || {
        format!("{} were found dead", now.sum(|shard| shard.dead))
    });
    runtime::timeout(PATIENCE, scene.end(&crowd)).await.map_err(io::Error::other)
}

/// `throng-demo hold`: opens connections, says `open`, and keeps them until it is killed.
pub(crate) fn hold(device: &str, connections: u32) -> io::Result<bool> {
    let outcomes = host::client(device, 1, connections).run(|_| async move {
        let _crowd = Crowd::open(House::Many, 0..connections, connections).await?;
        println!("open");
        // Whoever started it may end otherwise than as it should.
        let gone = || io::stdin().lock().read_line(&mut String::new());
        std::thread::spawn(move || gone().map(|_| std::process::exit(1)));
        std::future::pending::<io::Result<()>>().await
    })?;
    outcomes.into_iter().collect::<io::Result<()>>()?;
    Ok(true)
}
