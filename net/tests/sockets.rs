//! The public sockets in a simulated world, two hosts on the memory device and virtual time: what
//! takes several shards, or much time. What holds on every backend is in `api/`.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use futures::{AsyncReadExt, AsyncWriteExt};
use throng_net::device::Device;
use throng_net::device::memory::{self, Options, Spread};
use throng_net::sim::{HostConfig, add_host};
use throng_net::{TcpListener, TcpSocket, TcpStream, UdpSocket, stats};
use throng_runtime::sim::{HostId, World};
use throng_runtime::{ShardId, spawn_local, timeout};

const SERVER_V4: &str = "10.0.0.1";
const SERVER_V6: &str = "fd00::1";

struct Pair {
    world: World,
    client: HostId,
    server: HostId,
    shards: u16,
}

fn boxed(queues: Vec<memory::MemoryQueue>) -> Vec<Box<dyn Device>> {
    queues.into_iter().map(|queue| Box::new(queue) as Box<dyn Device>).collect()
}

impl Pair {
    fn new(shards: u16, options: Options) -> Pair {
        let (client, server) = memory::pair(shards.into(), options);
        let mut world = World::new();
        let config = HostConfig::new(&["10.0.0.2/24", "fd00::2/64"], 1);
        let client = add_host(&mut world, boxed(client), &config);
        let config = HostConfig::new(&["10.0.0.1/24", "fd00::1/64"], 2);
        let server = add_host(&mut world, boxed(server), &config);
        Pair { world, client, server, shards }
    }

    fn plain(shards: u16) -> Pair {
        Pair::new(shards, Options::default())
    }

    /// Spawns an echo server for port 7 on every shard of the server.
    fn serve_echo(&mut self) {
        for shard in 0..self.shards {
            self.world.spawn(self.server, ShardId(shard), echo_server());
        }
    }

    /// Runs `future` on a shard of the client to its end, within `limit` of virtual time.
    fn run<T: 'static>(&mut self, shard: u16, future: impl Future<Output = T> + 'static) -> T {
        let limit = self.world.now() + Duration::from_secs(300);
        let done = std::rc::Rc::new(std::cell::RefCell::new(None));
        let output = done.clone();
        self.world.spawn(self.client, ShardId(shard), async move {
            *output.borrow_mut() = Some(future.await);
        });
        assert!(self.world.run_until(limit, || done.borrow().is_some()), "it did not end");
        done.take().unwrap()
    }
}

async fn echo_server() {
    let listener = TcpListener::bind("[::]:7".parse().unwrap()).unwrap();
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        spawn_local(async move {
            while let Ok(chunk) = stream.read_chunk(65_536).await {
                if chunk.is_empty() || stream.write_chunk(chunk).await.is_err() {
                    break;
                }
            }
        });
    }
}

fn at(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), port)
}

#[test]
fn every_way_of_spreading_serves_on_all_shards() {
    for spread in [Spread::SameQueue, Spread::Rss, Spread::FalseRss] {
        let mut pair = Pair::new(4, Options { spread, ..Options::default() });
        pair.serve_echo();
        for shard in 0..4 {
            pair.run(shard, async move {
                for i in 0..40u32 {
                    let mut stream = TcpStream::connect(at(SERVER_V4, 7)).await.unwrap();
                    let text = format!("{shard} {i}");
                    stream.write_all(text.as_bytes()).await.unwrap();
                    let mut back = vec![0; text.len()];
                    stream.read_exact(&mut back).await.unwrap();
                    assert_eq!(back, text.as_bytes());
                }
            });
        }
        let mut served = Vec::new();
        for shard in 0..4 {
            let stats = pair.world.enter(pair.server, ShardId(shard), stats::current).unwrap();
            assert_eq!(stats.stack.steer_dropped, 0);
            served.push(stats.tcp.accepts);
        }
        assert_eq!(served.iter().sum::<u64>(), 160, "{spread:?}");
        assert!(served.iter().all(|count| *count > 15), "{spread:?}: {served:?}");
    }
}

#[test]
fn datagrams_of_every_size_arrive_over_both_families() {
    for ip in [SERVER_V4, SERVER_V6] {
        let mut pair = Pair::plain(2);
        for shard in 0..2 {
            pair.world.spawn(pair.server, ShardId(shard), async {
                let socket = UdpSocket::bind("[::]:7".parse().unwrap()).unwrap();
                loop {
                    let (payload, from) = socket.recv_from().await.unwrap();
                    socket.send_to(&payload, from).await.unwrap();
                }
            });
        }
        // The answers come back to the owner of the flow, so both shards listen.
        let (sender, receiver) = std::sync::mpsc::channel();
        let other = sender.clone();
        pair.world.spawn(pair.client, ShardId(1), async move {
            let socket = UdpSocket::bind("[::]:5000".parse().unwrap()).unwrap();
            while let Ok((payload, _)) = socket.recv_from().await {
                other.send(payload).unwrap();
            }
        });
        pair.run(0, async move {
            let socket = UdpSocket::bind("[::]:5000".parse().unwrap()).unwrap();
            for len in [0usize, 1, 1452, 1472, 1473, 3000, 20_000, 65_507] {
                let payload = vec![len as u8; len];
                socket.send_to(&payload, at(ip, 7)).await.unwrap();
                if let Ok(Ok((back, _))) =
                    timeout(Duration::from_millis(100), socket.recv_from()).await
                {
                    sender.send(back).unwrap();
                }
            }
            let too_long = socket.send_to(&vec![0; 65_508], at(ip, 7)).await.unwrap_err();
            assert_eq!(too_long.kind(), ErrorKind::InvalidInput);
        });
        let mut lens: Vec<_> = receiver
            .try_iter()
            .map(|payload| {
                assert!(payload.iter().all(|byte| *byte == payload.len() as u8));
                payload.len()
            })
            .collect();
        lens.sort_unstable();
        assert_eq!(lens, [0, 1, 1452, 1472, 1473, 3000, 20_000, 65_507], "{ip}");
    }
}

#[test]
fn sockets_outside_a_shard_are_refused() {
    assert!(TcpListener::bind("0.0.0.0:1".parse().unwrap()).is_err());
}

#[test]
fn a_simulated_world_has_no_host_sockets() {
    Pair::plain(1).run(0, async {
        let error = TcpListener::bind_kernel(at("127.0.0.1", 0)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        let error = TcpSocket::kernel().connect(at("127.0.0.1", 9)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    });
}

#[test]
fn ten_thousand_come_and_go_and_nothing_is_left() {
    let mut pair = Pair::plain(2);
    pair.serve_echo();
    for shard in 0..2 {
        pair.run(shard, async {
            for _ in 0..50 {
                let opening = (0..100).map(|_| TcpStream::connect(at(SERVER_V4, 7)));
                for stream in futures::future::join_all(opening).await {
                    let mut stream = stream.unwrap();
                    stream.write_all(b"x").await.unwrap();
                    assert_eq!(stream.read_chunk(1).await.unwrap().len(), 1);
                }
            }
        });
    }
    // Past every TIME_WAIT.
    let later = pair.world.now() + Duration::from_secs(120);
    pair.world.run_until(later, || false);
    for host in [pair.client, pair.server] {
        for shard in 0..2 {
            let stats = pair.world.enter(host, ShardId(shard), stats::current).unwrap();
            assert_eq!(stats.usage.connections + stats.usage.time_wait, 0);
        }
    }
}
