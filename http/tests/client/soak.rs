//! Many requests over a bad link to servers that close when they like. A failing seed prints
//! itself; `CLIENT_SEED=<n>` runs that one alone.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use futures::AsyncReadExt;
use futures::future::join_all;
use throng_http::client::{Builder, Client, ErrorKind};
use throng_net::device::faults::{self, Faults, Impairments};
use throng_net::device::memory;
use throng_net::sim::{HostConfig, add_host};
use throng_net::{TcpStream, stats};
use throng_runtime::sim::World;
use throng_runtime::{Instant, ShardId};

use crate::world::{SECOND, boxed, empty, pause, raw, read_head, text, write};

const SEEDS: u64 = 20;

/// Numbers for a seed, as splitmix64 makes them.
#[derive(Clone)]
struct Dice(Rc<Cell<u64>>);

impl Dice {
    fn below(&self, bound: u64) -> u64 {
        self.0.set(self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15));
        let mut z = self.0.get();
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// Answers with the path, in several ways, until it does not feel like it any more.
async fn moody(dice: Dice, mut stream: TcpStream) {
    // A first request is waited for: only a connection that was used before may be stale.
    let mut patience = 100 * SECOND;
    loop {
        let head = throng_runtime::timeout(patience, read_head(&mut stream)).await;
        let Ok(Some(head)) = head else { return };
        // Some connections end while they are idle, just when a request may be on its way.
        patience = Duration::from_millis(dice.below(400));
        let path = head.split(' ').nth(1).unwrap();
        pause(Duration::from_millis(dice.below(50))).await;
        let size = path.len();
        let response = match dice.below(5) {
            0 => format!("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{path}"),
            1 => format!(
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{size:x}\r\n{path}\r\n0\r\n\r\n"
            ),
            _ => format!("HTTP/1.1 200 OK\r\ncontent-length: {size}\r\n\r\n{path}"),
        };
        if futures::AsyncWriteExt::write_all(&mut stream, response.as_bytes()).await.is_err()
            || response.contains("connection: close")
            || dice.below(10) == 0
        {
            return;
        }
    }
}

async fn ask(client: Client, dice: Dice, who: usize) {
    for i in 0..40 {
        let path = format!("/{who}/{i}/{}", "x".repeat(dice.below(3000) as usize));
        let method = ["GET", "PUT", "POST"][dice.below(3) as usize];
        let hurry = dice.below(20) == 0;
        let request = async {
            let response = client.request(empty(method, &path)).await?;
            if dice.below(20) == 0 {
                return Ok(path.clone());
            }
            text(response).await
        };
        let limit = Duration::from_millis(if hurry { dice.below(100) } else { 100_000 });
        match throng_runtime::timeout(limit, request).await {
            Ok(Ok(reply)) => assert_eq!(reply, path),
            // A connection may end behind a request that is not to be sent twice.
            Ok(Err(error)) => {
                assert_eq!((method, error.kind()), ("POST", ErrorKind::Closed), "{error}");
            }
            Err(_) => assert!(hurry),
        }
        pause(Duration::from_millis(dice.below(500))).await;
    }
}

fn run(seed: u64, settings: Builder) {
    let impairments = Impairments {
        loss: 0.01,
        duplicate: 0.01,
        reorder: 0.02,
        reorder_by: Duration::from_millis(1 + seed % 7),
        ..Impairments::default()
    };
    let options =
        memory::Options { latency: Duration::from_millis(1 + seed % 5), ..Default::default() };
    let (a, b) = memory::pair(1, options);
    let a = faults::wrap(boxed(a), &Faults::both(seed, impairments));
    let mut world = World::new();
    let asking = add_host(&mut world, a, &HostConfig::new(&["10.0.0.2/24"], seed));
    let serving = add_host(&mut world, boxed(b), &HostConfig::new(&["10.0.0.1/24"], !seed));
    let dice = Dice(Rc::new(Cell::new(seed)));
    let thrown = dice.clone();
    world.enter(serving, ShardId(0), || raw(move |_, stream| moody(thrown.clone(), stream)));
    let done = Rc::new(Cell::new(None));
    let set = done.clone();
    let task = world.spawn(asking, ShardId(0), async move {
        let client = settings.build();
        join_all((0..8).map(|who| ask(client.clone(), dice.clone(), who))).await;
        pause(100 * SECOND).await;
        assert_eq!(client.connections(), 0);
        set.set(Some(client.stats()));
    });
    let finished = world.run_until(Instant::ZERO + 3600 * SECOND, || done.get().is_some());
    assert!(finished, "seed {seed}: not done, or panicked");
    drop(task);
    let seen = done.get().unwrap();
    assert!(seen.opened > 10 && seen.reused > 50, "seed {seed}: {seen:?}");
    let end = world.now() + 300 * SECOND;
    world.run_until(end, || false);
    let usage = world.enter(asking, ShardId(0), stats::current).unwrap().usage;
    assert_eq!((usage.connections, usage.time_wait, usage.recv_memory), (0, 0, 0), "seed {seed}");
}

#[test]
fn every_reply_is_the_right_one() {
    let one = std::env::var("CLIENT_SEED").ok().map(|seed| seed.parse().expect("a number"));
    for seed in one.map_or(0..SEEDS, |seed: u64| seed..seed + 1) {
        let settings = Client::builder().queue(100, 1000 * SECOND);
        run(seed, settings.max_connections_per_host([3, 100][seed as usize % 2]));
    }
}

/// A server that answers before it has read the request, and then reads no more.
#[test]
fn the_rest_of_a_request_nobody_reads_has_an_end() {
    crate::world::world(
        || {
            raw(|_, mut stream| async move {
                read_head(&mut stream).await.unwrap();
                write(&mut stream, crate::world::OK).await;
                pause(1000 * SECOND).await;
                let _ = stream.read(&mut [0]).await;
            });
        },
        async {
            let client = Client::builder().head_timeout(5 * SECOND).build();
            let body = http_body_util::Full::new(bytes::Bytes::from(vec![1; 10_000_000]));
            let request = hyper::Request::post("http://10.0.0.1/").body(body).unwrap();
            let response = client.request(request).await.unwrap();
            assert_eq!(text(response).await.unwrap(), "ok");
            pause(4 * SECOND).await;
            assert_eq!(client.connections(), 1);
            pause(2 * SECOND).await;
            assert_eq!(client.connections(), 0);
        },
    );
}
