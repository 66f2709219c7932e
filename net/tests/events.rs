//! What the log says of connections and of limits, and how often.
//!
//! One test, alone in its binary: see steering_log.rs.

#[path = "common/log.rs"]
mod log;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use log::logged;
use throng_net::device::Device;
use throng_net::device::memory::{self, MemoryQueue, Options};
use throng_net::sim::{HostConfig, add_host};
use throng_net::{TcpListener, TcpStream};
use throng_runtime::sim::{HostId, World};
use throng_runtime::{ShardId, sleep};

struct Pair {
    world: World,
    client: HostId,
    server: HostId,
}

fn pair(max_connections: usize) -> Pair {
    let boxed = |queues: Vec<MemoryQueue>| -> Vec<Box<dyn Device>> {
        queues.into_iter().map(|queue| Box::new(queue) as _).collect()
    };
    let (client, server) = memory::pair(1, Options::default());
    let mut world = World::new();
    let client = add_host(&mut world, boxed(client), &HostConfig::new(&["10.0.0.2/24"], 1));
    let mut config = HostConfig::new(&["10.0.0.1/24"], 2);
    config.tcp.max_connections = max_connections;
    let server = add_host(&mut world, boxed(server), &config);
    Pair { world, client, server }
}

impl Pair {
    fn spawn(&mut self, host: HostId, future: impl Future<Output = ()> + 'static) {
        self.world.spawn(host, ShardId(0), future);
    }

    fn pass(&mut self, time: Duration) {
        let until = self.world.now() + time;
        self.world.run_until(until, || false);
    }
}

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], port))
}

#[test]
fn lives_under_their_names_and_limits_now_and_then() {
    a_connections_life_is_told_under_its_name();
    a_limit_is_warned_of_now_and_then();
}

fn a_connections_life_is_told_under_its_name() {
    let names: Rc<RefCell<Vec<String>>> = Rc::default();
    let told = names.clone();
    let lines = logged(tracing::Level::TRACE, || {
        let mut pair = pair(100);
        let (client, server) = (pair.client, pair.server);
        let names = told.clone();
        pair.spawn(server, async move {
            let listener = TcpListener::bind("0.0.0.0:7".parse().unwrap()).unwrap();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                names.borrow_mut().push(format!("server {}", stream.id().unwrap()));
                if stream.read_chunk(100).await.unwrap()[..] == b"reset"[..] {
                    stream.abort();
                }
            }
        });
        let names = told.clone();
        pair.spawn(client, async move {
            for word in ["close", "reset"] {
                let mut stream = TcpStream::connect(at(7)).await.unwrap();
                names.borrow_mut().push(format!("client {}", stream.id().unwrap()));
                stream.write_chunk(word.as_bytes().into()).await.unwrap();
                assert_eq!(stream.read_chunk(100).await.is_err(), word == "reset");
            }
            assert!(TcpStream::connect(at(8)).await.is_err());
            // Nobody has this address.
            let nowhere = SocketAddr::from(([10, 0, 0, 99], 7));
            assert!(TcpStream::connect(nowhere).await.is_err());
        });
        pair.pass(Duration::from_secs(300));
    });
    let names = names.borrow();
    let count = |parts: &[&str]| {
        lines.iter().filter(|line| parts.iter().all(|part| line.contains(part))).count()
    };
    let all = || lines.join("\n");
    assert_eq!(names.len(), 4);
    for name in names.iter() {
        let (_, id) = name.split_once(' ').unwrap();
        let conn = format!("conn={id} ");
        // Both hosts have a shard 0, and may have the same name for a connection.
        assert!(count(&["established", &conn]) >= 1, "{name}\n{}", all());
        assert!(count(&["ended", &conn, "reason="]) >= 1, "{name}\n{}", all());
    }
    assert_eq!(count(&["throng::connection", "connecting", "peer=10.0.0.1:7"]), 2, "{}", all());
    assert_eq!(count(&["throng::connection", "accepted", "local=10.0.0.1:7"]), 2);
    assert_eq!(count(&["ended", "local=10.0.0.1:7", "reason=aborted by us", "received=5"]), 1);
    assert_eq!(count(&["ended", "peer=10.0.0.1:7", "reset by the peer"]), 1, "{}", all());
    assert_eq!(count(&["ended", "peer=10.0.0.1:8", "refused"]), 1);
    assert_eq!(count(&["ended", "reason=closed", "peer=10.0.0.1:7"]), 1);
    assert_eq!(count(&["ended", "peer=10.0.0.99:7"]), 1);
    let ended = count(&["throng::connection", " ended "]);
    assert_eq!(ended, 6, "each connection ends once on either side\n{}", all());
}

fn a_limit_is_warned_of_now_and_then() {
    let attempts = 400;
    let lines = logged(tracing::Level::WARN, || {
        let mut pair = pair(1);
        let (client, server) = (pair.client, pair.server);
        pair.spawn(server, async move {
            let listener = TcpListener::bind("0.0.0.0:7".parse().unwrap()).unwrap();
            let _held = listener.accept().await.unwrap();
            std::future::pending::<()>().await;
        });
        pair.spawn(client, async move {
            let _held = TcpStream::connect(at(7)).await.unwrap();
            for _ in 0..attempts {
                // Each sends one SYN.
                let connecting = TcpStream::connect(at(7));
                let _ = throng_runtime::timeout(Duration::from_millis(100), connecting).await;
            }
            sleep(Duration::from_secs(60)).await;
        });
        pair.pass(Duration::from_secs(200));
    });
    let warnings: Vec<&String> =
        lines.iter().filter(|line| line.contains("syn_dropped_connections")).collect();
    // 40 seconds of it: at once, and every ten seconds.
    assert!((4..=6).contains(&warnings.len()), "{warnings:#?}");
    assert!(warnings[0].contains("WARN throng::limits: SYNs dropped"), "{warnings:#?}");
    let total: u64 = warnings
        .iter()
        .map(|line| {
            let count = line.split("count=").nth(1).unwrap().split(' ').next().unwrap();
            count.parse::<u64>().unwrap()
        })
        .sum();
    assert!((300..=attempts).contains(&total), "{total} of {attempts}");
}
