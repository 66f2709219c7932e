//! A run of the demo: both ends, step by step, measured between the steps.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::client::steps::{Step, Steps};
use crate::client::{self, Load, PATIENCE, Progress};
use crate::ends::Server;
use crate::hold;
use crate::host;
use crate::memory::Resident;
use crate::page::{About, Page, Setting};
use crate::report::{Phase, Reporter};
use crate::server::Settings;
use crate::summary::{Measured, Summary};
use crate::view::View;

/// How long both ends rest before memory is measured.
const REST: Duration = Duration::from_secs(2);

/// What is to be run.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) connections: u32,
    pub(crate) load: Load,
    pub(crate) shards: u16,
    pub(crate) settings: Settings,
    /// The memory device even where DPDK is to be had.
    pub(crate) memory: bool,
    pub(crate) page: Setting,
    /// Echoes go on until the user ends the run.
    pub(crate) hold: bool,
}

/// How a run over DPDK came to nothing.
enum Failure {
    /// DPDK or the link was not to be had; the memory device may do.
    Start(io::Error),
    /// Both ends ran, and then something went wrong: that is the demo's result.
    Run(io::Error),
}

impl From<Failure> for io::Error {
    fn from(failure: Failure) -> io::Error {
        match failure {
            Failure::Start(error) | Failure::Run(error) => error,
        }
    }
}

/// Runs the demo over DPDK where it is to be had, else over the memory device.
pub(crate) fn run(run: &Run) -> io::Result<Summary> {
    let without_dpdk = match run.memory {
        true => Some("asked for with --memory"),
        false if !cfg!(feature = "dpdk") => Some("this build is without DPDK (libdpdk not found)"),
        false => None,
    };
    if let Some(why) = without_dpdk {
        println!("device: memory, both ends in this process; {why}");
        return in_memory("memory:demo", run);
    }
    println!("device: dpdk net_memif, server and client are two processes");
    match on_memif(run) {
        Err(Failure::Start(error)) => {
            println!("device: memory, both ends in this process; DPDK did not start: {error}");
            in_memory("memory:demo", run)
        }
        result => Ok(result?),
    }
}

fn on_memif(run: &Run) -> Result<Summary, Failure> {
    // In the abstract name space there is no file that an interrupted run could leave behind.
    let socket = format!("throng-demo-{}", std::process::id());
    let common = format!("id=0,socket={socket},socket-abstract=yes");
    let device = format!("dpdk:net_memif0,role=server,{common}");
    // In a run that is held, Ctrl-C asks for an orderly end, of which the server's is the last.
    let mut server =
        Server::process(&device, run.shards, run.connections, &run.settings, run.page, run.hold)
            .map_err(Failure::Start)?;
    println!("page: {}", server.page().unwrap_or("none"));
    let device = format!("dpdk:net_memif0,role=client,{common}");
    let outcome = drive(&device, run, &mut server);
    let stopped = server.stop();
    let (measured, progress) = outcome?;
    stopped.map_err(Failure::Run)?;
    Ok(Summary::new("dpdk:net_memif", false, run.shards, run.connections, measured, &progress))
}

/// Runs both ends in this process, joined by `device`, a memory device.
pub(crate) fn in_memory(device: &'static str, run: &Run) -> io::Result<Summary> {
    let mut server = Server::thread(device, run.shards, run.connections, &run.settings)?;
    let about = About {
        device: "memory".to_owned(),
        shards: run.shards,
        wanted: run.connections,
        one_process: true,
    };
    let page = server.control().map(|control| Page::start(run.page, about, control));
    if let Some(page) = &page {
        println!("page: {}", page.said());
    }
    let outcome = drive(device, run, &mut server);
    let stopped = server.stop();
    page.into_iter().for_each(Page::end);
    let (measured, progress) = outcome?;
    stopped?;
    Ok(Summary::new("memory", true, run.shards, run.connections, measured, &progress))
}

/// Runs the client towards a server that somebody else has started.
pub(crate) fn client_alone(
    device: &str,
    shards: u16,
    connections: u32,
    load: Load,
) -> io::Result<Summary> {
    let settings = Settings::default();
    let page = Setting::Off;
    let run = Run { connections, load, shards, settings, memory: false, page, hold: false };
    let (measured, progress) = drive(device, &run, &mut Server::Elsewhere)?;
    Ok(Summary::new("client alone", false, shards, connections, measured, &progress))
}

/// Runs the client, and directs both ends.
fn drive(
    device: &str,
    run: &Run,
    server: &mut Server,
) -> Result<(Measured, Arc<Progress>), Failure> {
    let (load, connections, shards) = (run.load, run.connections, run.shards);
    let (steps, progress) = (Arc::new(Steps::default()), Progress::new());
    let builder = host::client(device, shards, connections);
    std::thread::scope(|scope| {
        let client = (steps.clone(), progress.clone());
        let running = scope.spawn(move || {
            let (steps, progress) = client;
            let shared = steps.clone();
            let outcome = builder.run(move |shard| {
                client::run(load, connections, shard.0, shards, shared.clone(), progress.clone())
            });
            steps.give_up();
            outcome
        });
        let measured = direct(run, server, &steps, &progress);
        if measured.is_err() {
            // The client's shards wait for a step that will not come.
            steps.let_all();
        }
        let outcome = running.join().map_err(|_| Failure::Run(io::Error::other("the client")))?;
        let kind = if steps.is_running() { Failure::Run } else { Failure::Start };
        outcome.map_err(kind)?;
        Ok((measured.map_err(Failure::Run)?, progress.clone()))
    })
}

/// Lets the client do its steps, and measures.
fn direct(
    run: &Run,
    server: &mut Server,
    steps: &Steps,
    progress: &Progress,
) -> io::Result<Measured> {
    let total = u64::from(run.connections);
    let echoes = total.min(run.load.echoes.into());
    let ended = || io::Error::other("the client ended early");
    // What the device takes is not the connections'.
    steps.all_running(run.shards).ok_or_else(ended)?;
    let mut measured = Measured {
        before: server.snapshot()?,
        client_before: Resident::of_self()?.total(),
        ..Measured::default()
    };
    server.measure_stages(true)?;
    let mut reporter = Reporter::new();
    reporter.begin(Phase::Opening, total, server, progress);
    let mut view = View::new("opening", total);
    let opened = || u64::from(progress.opened.load(Ordering::Relaxed));
    let look = || {
        view.at(opened(), progress);
        reporter.look(opened(), server, progress);
    };
    measured.open = steps.run(Step::Open, run.shards, look).ok_or_else(ended)?;
    drop(view);
    measured.ramped = server.snapshot()?;
    server.measure_stages(false)?;

    let before = progress.echoed.load(Ordering::Relaxed);
    let echoed = || progress.echoed.load(Ordering::Relaxed) - before;
    reporter.begin(Phase::Echoing, echoes, server, progress);
    let mut view = View::new("echoing", echoes);
    let look = || {
        view.at(echoed(), progress);
        reporter.look(echoed(), server, progress);
    };
    measured.echo = steps.run(Step::Echo, run.shards, look).ok_or_else(ended)?;
    measured.echoed = echoed();
    measured.echoes_wanted = echoes;
    drop(view);
    let load = u64::from(run.load.rate) * u64::from(run.load.seconds);
    let before = progress.echoed.load(Ordering::Relaxed);
    let echoed = || progress.echoed.load(Ordering::Relaxed) - before;
    reporter.begin(Phase::Loading, load, server, progress);
    let look = || reporter.look(echoed(), server, progress);
    steps.run(Step::Load, run.shards, look).ok_or_else(ended)?;
    reporter.begin(Phase::Resting, 0, server, progress);
    let rest = Instant::now();
    while rest.elapsed() < REST {
        std::thread::sleep(REST / 40);
        reporter.look(0, server, progress);
    }
    measured.idle = server.snapshot()?;
    measured.client_idle = Resident::of_self()?.total();

    steps.run(Step::Broadcast, run.shards, || {}).ok_or_else(ended)?;
    reporter.begin(Phase::Broadcasting, total, server, progress);
    let before = progress.heard.load(Ordering::Relaxed);
    let begin = Instant::now();
    server.publish(host::BROADCAST)?;
    let mut view = View::new("broadcast", total);
    let expected = if matches!(server, Server::Elsewhere) { 0 } else { opened() };
    let mut last = (0, begin);
    while last.0 < expected && last.1.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(1));
        let heard = progress.heard.load(Ordering::Relaxed) - before;
        if heard > last.0 {
            last = (heard, Instant::now());
        }
        view.at(heard, progress);
        reporter.look(heard, server, progress);
    }
    measured.broadcast = begin.elapsed();
    measured.heard = progress.heard.load(Ordering::Relaxed) - before;
    measured.unheard = expected.saturating_sub(measured.heard);
    drop(view);
    measured.after_broadcast = server.snapshot()?;
    if run.hold {
        steps.allow(Step::Hold);
        reporter.begin(Phase::Holding, 0, server, progress);
        hold::until_ended(|| {
            reporter.look(0, server, progress);
            server.check()
        })?;
    }
    reporter.begin(Phase::Closing, total, server, progress);
    let look = || reporter.look(0, server, progress);
    measured.close = steps.run(Step::Close, run.shards, look).ok_or_else(ended)?;
    reporter.begin(Phase::Ended, 0, server, progress);
    Ok(measured)
}
