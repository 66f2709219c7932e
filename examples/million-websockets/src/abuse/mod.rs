//! What the server does at its limits. Each scenario is a run of its own against a server of its
//! own, judged: the server's control answers soon all the while, connections that behave go on,
//! what is shed is counted, and what died is freed.

mod budget;
mod crowd;
mod flood;
pub(crate) mod killed;
mod limit;
mod report;
mod slow;
#[cfg(test)]
mod tests;
mod watch;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use throng::Builder;

use crate::client::latency::Percentiles;
use crate::ends::Server;
use crate::host;
use crate::page::Setting;
use crate::plan;
use crate::server::{Settings, SlowPolicy};
use crowd::Crowd;
use report::{Findings, Report};
use watch::Watch;

/// How long anything may take that takes no time on a machine of one's own.
const PATIENCE: Duration = Duration::from_secs(60);
/// How soon memory has to come back when all have gone, and how much it is worth asking about: what stays are
/// a chunk of each table and what the network's device has touched.
const MEMORY: Duration = Duration::from_secs(60);
const MUCH: u64 = 64 << 20;
/// The server's page, of which a process has one.
const ANY_PORT: Setting = Setting::At(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0));
/// Echoes a second of the connections that behave.
const RATE: u32 = 1_000;

/// What is done to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scenario {
    /// More connections than it holds
    Limit,
    /// Half of them read nothing while much is published, and are left behind
    SlowDrop,
    /// Half of them read nothing while much is published, and are disconnected
    SlowDisconnect,
    /// A flood of SYNs from addresses that do not exist
    Flood,
    /// The process of all clients is killed (-9); needs DPDK
    Killed,
    /// Half of them have much echoed and read nothing, and its memory for that is little
    Budget,
}

/// Settings of `throng-demo abuse`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Abuse {
    /// What to do to the server; default: everything, one after the other
    #[arg(value_enum)]
    scenarios: Vec<Scenario>,
    /// Connections that are live meanwhile, those of the abuser included
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(100..=20_000_000))]
    connections: u32,
    /// Use the memory device even where DPDK is to be had
    #[arg(long)]
    memory: bool,
    /// Print one JSON object after each scenario
    #[arg(long)]
    json: bool,
}

/// Returns whether the server did as it should.
pub(crate) fn command(abuse: &Abuse) -> io::Result<bool> {
    let free = plan::free_memory();
    let connections = plan::connections(abuse.connections, free);
    if connections < abuse.connections {
        println!("memory is short: {connections} connections instead of {}", abuse.connections);
    }
    let link = if cfg!(feature = "dpdk") && !abuse.memory { Link::Memif } else { Link::Memory };
    if let [scenario] = abuse.scenarios[..] {
        if scenario == Scenario::Killed && link == Link::Memory {
            println!("killed: skipped, for it takes two processes, and so DPDK");
            return Ok(true);
        }
        let report = run(scenario, connections, link)?;
        report.print(abuse.json)?;
        return Ok(report.wrong.is_empty());
    }
    let all = match &abuse.scenarios[..] {
        [] => Scenario::value_variants(),
        some => some,
    };
    let mut whole = true;
    for scenario in all {
        // In a process of its own: what one leaves behind is not the next one's.
        let mut again = Command::new(std::env::current_exe()?);
        again.args(["abuse", name(*scenario).as_str()]);
        again.args(["--connections", &connections.to_string()]);
        again.args(abuse.memory.then_some("--memory")).args(abuse.json.then_some("--json"));
        whole &= again.status()?.success();
    }
    Ok(whole)
}

/// What joins both ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    /// DPDK's memif: the server is a process.
    Memif,
    /// The memory device: the server is a thread.
    Memory,
}

fn name(scenario: Scenario) -> String {
    scenario.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

/// The two ends of the link of a scenario, the server's first.
fn devices(scenario: Scenario, link: Link) -> (String, String) {
    let name = format!("throng-{}-{}", name(scenario), std::process::id());
    match link {
        Link::Memory => (format!("memory:{name}"), format!("memory:{name}")),
        Link::Memif => {
            let end = |role| {
                format!("dpdk:net_memif0,role={role},id=0,socket={name},socket-abstract=yes")
            };
            (end("server"), end("client"))
        }
    }
}

/// What a scenario has to do with.
struct Scene {
    connections: u32,
    /// The client's end of the link, for who opens it himself.
    device: String,
    watch: Watch,
    findings: Findings,
}

impl Scene {
    /// Half of the connections: those that behave.
    fn half(&self) -> u32 {
        self.connections / 2
    }

    /// Reports echoes and what went wrong with the connections that behave, which is nothing.
    fn judge(&self, crowd: &Crowd, echoes: Percentiles) {
        let [lost, wrong, missing, skipped] = crowd.trouble();
        let trouble = lost + wrong + missing + skipped;
        self.findings.expect(trouble == 0 && echoes.count > 0, || {
            format!(
                "of who behaves: {lost} lost, {wrong} wrong, {missing} missing, {skipped} unsent, \
                 {} echoes",
                echoes.count
            )
        });
        self.findings.echoes(echoes);
        if crowd.reopened() > 0 {
            self.findings.fact("opened_by_a_later_try", crowd.reopened().into());
        }
    }

    /// Waits until the server has given back the memory that it took for clients who have all gone: all but
    /// an eighth of that, or little.
    fn memory_back(&self) {
        let (before, most) = {
            let seen = self.watch.seen();
            (seen.memory_before, seen.most_memory)
        };
        let stays = (most.saturating_sub(before) / 8).max(MUCH);
        let begin = Instant::now();
        let back = self.watch.wait(MEMORY, |seen| seen.latest.memory <= before + stays);
        let after = self.watch.latest().memory;
        self.findings.fact("memory_before_bytes", before);
        self.findings.fact("memory_after_bytes", after);
        self.findings.fact("memory_back_after_ms", begin.elapsed().as_millis() as u64);
        self.findings.expect(back, || {
            format!("of {most} bytes it still had {after} after {MEMORY:?}, {before} before")
        });
    }

    /// Closes who behaves, and waits until the server holds nothing any more.
    async fn end(&self, crowd: &Crowd) {
        let stuck = crowd.close().await;
        self.findings.expect(stuck == 0, || format!("{stuck} connections did not close"));
        let freed = self.watch.until(PATIENCE, |now| {
            now.connections == 0 && now.sum(|shard| shard.tcp + shard.queued) == 0
        });
        let freed = freed.await;
        self.findings.expect(freed, || format!("not all is freed: {:?}", self.watch.latest()));
    }
}

/// How the server is set up for a scenario.
fn settings(scenario: Scenario, connections: u32) -> Settings {
    let settings = Settings::default();
    match scenario {
        Scenario::Limit => limit::settings(settings, connections),
        Scenario::SlowDrop => slow::settings(settings, SlowPolicy::Drop, connections),
        Scenario::SlowDisconnect => slow::settings(settings, SlowPolicy::Disconnect, connections),
        Scenario::Flood => flood::settings(settings, connections),
        Scenario::Killed => killed::settings(settings, connections),
        Scenario::Budget => budget::settings(settings, connections),
    }
}

/// Runs a scenario with its own server.
pub(crate) fn run(scenario: Scenario, connections: u32, link: Link) -> io::Result<Report> {
    let begin = Instant::now();
    let (device, client) = devices(scenario, link);
    let settings = settings(scenario, connections);
    let server = match link {
        Link::Memif => Server::process(&device, 1, connections, &settings, ANY_PORT, false)?,
        Link::Memory => Server::thread(device, 1, connections, &settings)?,
    };
    let scene = Arc::new(Scene {
        connections,
        device: client,
        watch: Watch::default(),
        findings: Findings::default(),
    });
    let (outcome, server) = std::thread::scope(|scope| {
        let watching = scope.spawn(|| scene.watch.look(server));
        scene.watch.first_look();
        let outcome = act(scenario, &scene);
        if outcome.is_ok() {
            scene.memory_back();
        }
        scene.watch.end();
        (outcome, watching.join())
    });
    let server = server.map_err(|_| io::Error::other("the watch panicked"))?;
    // An error of the client's is told before one that came of it.
    let stopped = server.stop();
    outcome?;
    stopped?;
    Ok(finish(scenario, link, &scene, begin.elapsed()))
}

fn finish(scenario: Scenario, link: Link, scene: &Scene, took: Duration) -> Report {
    let seen = scene.watch.seen();
    let (answers, late) = (seen.answers.percentiles(), seen.late);
    scene.findings.fact("late_answers", late);
    // On a machine that others use, too, a thread is not let run now and then.
    scene.findings.expect(late <= 1 + answers.count / 20, || {
        format!("{late} of {} answers of the control came late", answers.count)
    });
    scene.findings.expect(seen.error.is_none(), || format!("the server: {:?}", seen.error));
    scene.findings.fact("most_queued_bytes", seen.most_queued);
    scene.findings.fact("most_memory_bytes", seen.most_memory);
    Report {
        scenario: name(scenario),
        device: if link == Link::Memif { "dpdk:net_memif" } else { "memory" },
        connections: scene.connections,
        seconds: took.as_secs_f64(),
        control: answers,
        age: seen.ages.percentiles(),
        page: seen.pages.percentiles(),
        ..scene.findings.take()
    }
}

/// The client's part.
fn act(scenario: Scenario, scene: &Arc<Scene>) -> io::Result<()> {
    let many = || host::client(&scene.device, 1, scene.connections);
    match scenario {
        Scenario::Limit => client(many(), scene, limit::act),
        Scenario::SlowDrop => client(slow::client(scene), scene, slow::left_behind),
        Scenario::SlowDisconnect => client(slow::client(scene), scene, slow::disconnected),
        Scenario::Flood => flood::act(scene),
        Scenario::Killed => killed::act(scene),
        Scenario::Budget => client(budget::client(scene), scene, budget::act),
    }
}

/// Runs a client with one shard.
fn client<F>(builder: Builder, scene: &Arc<Scene>, act: fn(Arc<Scene>) -> F) -> io::Result<()>
where
    F: Future<Output = io::Result<()>> + 'static,
{
    let outcomes = builder.run(|_| act(scene.clone()))?;
    outcomes.into_iter().collect()
}
