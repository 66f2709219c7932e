//! What a reader sees of a shard: numbers under their names, connections page by page, and an
//! error where a shard does not answer.

use std::cell::Cell;
use std::collections::HashSet;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use throng_net::device::Device;
use throng_net::device::memory::{self, MemoryQueue, Options};
use throng_net::sim::{HostConfig, add_host};
use throng_net::tcp::State;
use throng_net::{Builder, TcpListener, TcpStream, stats};
use throng_runtime::metrics::{Measured, Metric};
use throng_runtime::sim::{HostId, World};
use throng_runtime::{ShardId, sleep};

const SECOND: Duration = Duration::from_secs(1);

fn world() -> (World, HostId, HostId) {
    let boxed = |queues: Vec<MemoryQueue>| -> Vec<Box<dyn Device>> {
        queues.into_iter().map(|queue| Box::new(queue) as _).collect()
    };
    let (client, server) = memory::pair(2, Options::default());
    let mut world = World::new();
    let client = add_host(&mut world, boxed(client), &HostConfig::new(&["10.0.0.2/24"], 1));
    let server = add_host(&mut world, boxed(server), &HostConfig::new(&["10.0.0.1/24"], 2));
    (world, client, server)
}

fn value(sheet: &stats::Sheet, group: &str, name: &str) -> u64 {
    let group = sheet.groups.iter().find(|found| found.name == group).expect(group);
    group.values.iter().find(|(metric, _)| metric.name == name).expect(name).1
}

#[test]
fn every_number_has_one_name_and_a_description() {
    for (group, tables) in stats::GROUPS {
        let mut names = HashSet::new();
        for metric in tables.iter().copied().flatten() {
            assert!(names.insert(metric.name), "{group}: {} twice", metric.name);
            assert!(metric.help.ends_with('.'), "{group}: {metric:?}");
            assert!(!metric.help.contains('['), "a link means nothing there: {metric:?}");
        }
    }
}

#[test]
fn connections_come_page_by_page_from_any_shard() {
    let (mut world, client, server) = world();
    for shard in [ShardId(0), ShardId(1)] {
        world.spawn(server, shard, async {
            let listener = TcpListener::bind("0.0.0.0:7".parse().unwrap()).unwrap();
            let mut held = Vec::new();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let _ = stream.read_chunk(100).await.unwrap();
                held.push(stream);
            }
        });
    }
    let opened = Rc::new(Cell::new(0));
    for shard in [ShardId(0), ShardId(1)] {
        let opened = opened.clone();
        world.spawn(client, shard, async move {
            let server: SocketAddr = "10.0.0.1:7".parse().unwrap();
            let mut held = Vec::new();
            for _ in 0..40 {
                let mut stream = TcpStream::connect(server).await.unwrap();
                stream.write_chunk(vec![1; 10].into()).await.unwrap();
                held.push(stream);
                opened.set(opened.get() + 1);
            }
            std::future::pending::<()>().await;
        });
    }
    let limit = world.now() + 100 * SECOND;
    assert!(world.run_until(limit, || opened.get() == 80));
    world.run_until(world.now() + 5 * SECOND, || false);

    let found = Rc::new(Cell::new(0));
    let result = found.clone();
    world.spawn(server, ShardId(0), async move {
        let mut seen = HashSet::new();
        for shard in [ShardId(0), ShardId(1)] {
            let sheet = stats::sheet_of(shard, SECOND).await.unwrap();
            assert_eq!(sheet.shard, shard);
            let before = seen.len();
            let (mut from, mut pages) = (Some(0), 0);
            while let Some(at) = from {
                let page = stats::connections_of(shard, at, 7, SECOND).await.unwrap();
                assert!(page.connections.len() <= 7);
                for connection in &page.connections {
                    assert_eq!(connection.id.shard, shard);
                    assert_eq!(connection.info.state, State::Established);
                    assert_eq!(connection.info.bytes_received, 10);
                    assert_eq!(connection.info.age.as_secs(), 5, "opened within milliseconds");
                    assert!(seen.insert(connection.info.tuple.peer_addr()));
                    assert_eq!(connection.id.to_string().split('.').count(), 3);
                }
                (from, pages) = (page.next, pages + 1);
            }
            let here = (seen.len() - before) as u64;
            assert!(pages as u64 > here / 7, "{pages} pages");
            assert_eq!(value(&sheet, "tcp", "connections"), here);
            assert_eq!(value(&sheet, "tcp", "accepts"), here);
            assert!(value(&sheet, "device", "rx_frames") > 0);
            assert!(value(&sheet, "stack", "rx_segments") >= 2 * here);
            assert!(value(&sheet, "runtime", "turns") > 0);
        }
        result.set(seen.len());
    });
    let limit = world.now() + 10 * SECOND;
    assert!(world.run_until(limit, || found.get() > 0));
    assert_eq!(found.get(), 80);
}

struct Two;

impl Measured for Two {
    fn measure(&self) -> Vec<(&'static Metric, u64)> {
        throng_runtime::Stats::METRICS.iter().take(1).map(|metric| (metric, 2)).collect()
    }
}

#[test]
fn sources_of_layers_above_are_added_up_while_they_live() {
    let outputs = Builder::new().shards(1).run(|_| async {
        let (one, other): (Rc<dyn Measured>, Rc<dyn Measured>) = (Rc::new(Two), Rc::new(Two));
        stats::register("above", one.clone()).unwrap();
        stats::register("above", other.clone()).unwrap();
        let both = stats::sheet().unwrap();
        drop(one);
        let rest = stats::sheet().unwrap();
        drop(other);
        let none = stats::sheet().unwrap();
        let names: Vec<_> = none.groups.iter().map(|group| group.name).collect();
        (value(&both, "above", "spawned"), value(&rest, "above", "spawned"), names)
    });
    assert_eq!(outputs.unwrap(), [(4, 2, vec!["runtime", "resolver"])]);
}

#[test]
fn a_shard_that_is_stuck_is_an_error_in_time() {
    let release = Arc::new(AtomicBool::new(false));
    let stuck = release.clone();
    let outcome = Builder::new().shards(2).run(move |shard| {
        let release = stuck.clone();
        async move {
            if shard == ShardId(1) {
                while !release.load(Ordering::Acquire) {
                    std::thread::sleep(Duration::from_millis(1));
                }
                // Until the other has had its answer.
                while release.load(Ordering::Acquire) {
                    sleep(Duration::from_millis(1)).await;
                }
                return;
            }
            let begun = Instant::now();
            let patience = Duration::from_millis(50);
            let error = stats::sheet_of(ShardId(1), patience).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::TimedOut);
            assert!(error.to_string().contains("shard 1"), "{error}");
            assert!(begun.elapsed() < 5 * SECOND);
            let error = stats::sheet_of(ShardId(9), patience).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotConnected);
            release.store(true, Ordering::Release);
            let sheet = stats::sheet_of(ShardId(1), 30 * SECOND).await.unwrap();
            assert_eq!(sheet.shard, ShardId(1));
            let error = stats::connections_of(ShardId(1), 0, 1, SECOND).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "the host keeps them");
            release.store(false, Ordering::Release);
        }
    });
    outcome.unwrap();
}
