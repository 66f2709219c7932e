//! HTTP and WebSockets through the whole stack: hyper, tungstenite, our TCP, over a bad link
//! in virtual time. A failing seed prints itself; `WEB_SEED=<n>` runs that one alone.

use std::cell::Cell;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use futures::future::{join_all, join3};
use futures::{AsyncReadExt, AsyncWriteExt, SinkExt, StreamExt};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::{http1, http2};
use throng_http::rt::{LocalExecutor, ShardTimer};
use throng_http::{Running, Server};
use throng_net::device::Device;
use throng_net::device::faults::{self, Faults, Impairments};
use throng_net::device::memory::{self, MemoryQueue, Options};
use throng_net::sim::{HostConfig, add_host};
use throng_net::{TcpListener, TcpStream, stats};
use throng_runtime::sim::World;
use throng_runtime::{Instant, ShardId, spawn_local};
use throng_ws::{Message, Upgraded, WebSocket};

const SEEDS: u64 = 25;
const LIMIT: Instant = Instant::from_millis(900_000);
const WEB: &str = "10.0.0.1:80";
const SOCKETS: &str = "10.0.0.1:9001";

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i % 251) as u8).collect()
}

async fn echo<S>(mut socket: WebSocket<S>)
where
    S: futures::AsyncRead + futures::AsyncWrite + Unpin,
{
    while let Some(message) = socket.next().await {
        let message = message.unwrap();
        if message.is_text() || message.is_binary() {
            socket.send(message).await.unwrap();
        }
    }
}

async fn site(mut request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    if throng_ws::is_upgrade(&request) {
        let (response, socket) = throng_ws::upgrade(&mut request).unwrap();
        let serving = async move {
            let socket = socket.await.unwrap();
            assert!(matches!(socket.get_ref(), Upgraded::Tcp(_)), "hyper's box is gone");
            echo(socket).await;
        };
        spawn_local(serving).detach();
        return Ok(response);
    }
    if request.uri().path() == "/early" {
        return Ok(Response::new(Full::from("not read")));
    }
    let body = request.into_body().collect().await.unwrap().to_bytes();
    Ok(Response::new(Full::from(body)))
}

fn serve(server: &Running) {
    let running = server.clone();
    let listener = TcpListener::bind(address("0.0.0.0:80")).unwrap();
    let serving = async move {
        running.serve(listener, throng_http::service_fn(site)).await;
    };
    spawn_local(serving).detach();
    let listener = TcpListener::bind(address("0.0.0.0:9001")).unwrap();
    let accepting = async move {
        while let Ok((stream, _)) = listener.accept().await {
            let serving = async move { echo(throng_ws::accept(stream).await.unwrap()).await };
            spawn_local(serving).detach();
        }
    };
    spawn_local(accepting).detach();
}

async fn talk_http1() {
    let stream = TcpStream::connect(address(WEB)).await.unwrap();
    let (mut client, connection) = http1::handshake(stream).await.unwrap();
    spawn_local(async move { connection.await.unwrap() }).detach();
    for size in [0, 10, 100_000, 1, 30_000] {
        client.ready().await.unwrap();
        let body = Full::new(Bytes::from(pattern(size)));
        let request = Request::post("/").header("host", "x").body(body).unwrap();
        let response = client.send_request(request).await.unwrap();
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), pattern(size));
    }
}

async fn talk_http2() {
    let stream = TcpStream::connect(address(WEB)).await.unwrap();
    let builder = http2::Builder::new(LocalExecutor).timer(ShardTimer).clone();
    let (client, connection) = builder.handshake(stream).await.unwrap();
    spawn_local(async move { connection.await.unwrap() }).detach();
    let requests = (0..20_usize).map(|i| {
        let mut client = client.clone();
        async move {
            let body = Full::new(Bytes::from(pattern(i * 1000)));
            let request = Request::post("http://x/").body(body).unwrap();
            let response = client.send_request(request).await.unwrap();
            assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), pattern(i * 1000));
        }
    });
    join_all(requests).await;
}

async fn talk_websocket(server: &str) {
    let stream = TcpStream::connect(address(server)).await.unwrap();
    let (mut socket, _) = throng_ws::connect(format!("ws://{server}/"), stream).await.unwrap();
    for size in [1, 0, 125, 70_000, 126, 2_000] {
        let message = Message::binary(pattern(size));
        socket.send(message.clone()).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), message);
    }
    socket.close(None).await.unwrap();
}

fn world(seed: u64, impairments: Impairments, client: impl Future<Output = ()> + 'static) {
    let options = Options { latency: Duration::from_millis(1 + seed % 10), ..Options::default() };
    let (a, b) = memory::pair(1, options);
    let boxed = |queues: Vec<MemoryQueue>| -> Vec<Box<dyn Device>> {
        queues.into_iter().map(|queue| Box::new(queue) as Box<dyn Device>).collect()
    };
    let a = faults::wrap(boxed(a), &Faults::both(seed, impairments));
    let mut world = World::new();
    let client_host = add_host(&mut world, a, &HostConfig::new(&["10.0.0.2/24"], seed));
    let server_host = add_host(&mut world, boxed(b), &HostConfig::new(&["10.0.0.1/24"], !seed));
    let shard = ShardId(0);
    let server = Server::new().start();
    world.enter(server_host, shard, || serve(&server));
    let done = Rc::new(Cell::new(false));
    let set = done.clone();
    let client = world.spawn(client_host, shard, async move {
        client.await;
        set.set(true);
    });
    let finished = world.run_until(LIMIT, || done.get());
    assert!(finished, "seed {seed}: not done in {LIMIT:?}, or panicked");
    drop(client);
    // A drain ends what the clients have left open, and nothing stays behind.
    drop(world.enter(server_host, shard, || server.drain(Duration::from_secs(10))));
    let ended = world.now() + Duration::from_secs(300);
    world.run_until(ended, || false);
    assert_eq!(server.connections(), 0, "seed {seed}");
    for host in [client_host, server_host] {
        let usage = world.enter(host, shard, stats::current).unwrap().usage;
        assert_eq!(usage.connections + usage.half_open + usage.time_wait, 0, "seed {seed}");
        assert_eq!((usage.send_memory, usage.recv_memory), (0, 0), "seed {seed}");
    }
}

#[test]
fn everything_arrives_over_a_bad_link() {
    let one = std::env::var("WEB_SEED").ok().map(|seed| seed.parse().expect("a number"));
    let seeds = one.map_or(0..SEEDS, |seed: u64| seed..seed + 1);
    for seed in seeds {
        let impairments = Impairments {
            loss: 0.01,
            duplicate: 0.01,
            reorder: 0.02,
            corrupt: 0.005,
            reorder_by: Duration::from_millis(1 + seed % 7),
            ..Impairments::default()
        };
        world(seed, impairments, async {
            let sockets = join_all((0..4).flat_map(|_| [WEB, SOCKETS]).map(talk_websocket));
            join3(talk_http1(), talk_http2(), sockets).await;
        });
    }
}

/// A response to a request that is not read to its end must not be lost to a reset.
#[test]
fn a_response_survives_what_the_server_does_not_read() {
    world(0, Impairments::default(), async {
        for (head, rest, status) in [
            ("POST /early HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n", 100_000, "200"),
            ("GET / HTTP/1.1\r\nhost: x\r\nx: ", 100_000, "431"),
            ("rubbish\r\n\r\n", 100_000, "400"),
        ] {
            let mut stream = TcpStream::connect(address(WEB)).await.unwrap();
            stream.write_all(head.as_bytes()).await.unwrap();
            // Slower than the server answers.
            for _ in 0..10 {
                throng_runtime::sleep(Duration::from_millis(50)).await;
                stream.write_all(&vec![b'y'; rest / 10]).await.unwrap();
            }
            stream.close().await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
        }
    });
}

/// The same for a WebSocket's close frame.
#[test]
fn a_close_frame_survives_what_is_not_read() {
    world(0, Impairments::default(), async {
        let mut stream = TcpStream::connect(address(SOCKETS)).await.unwrap();
        let request = "GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
            sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        // A masked close frame with code 1000, then more and more pings.
        stream.write_all(&[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8]).await.unwrap();
        for _ in 0..10 {
            throng_runtime::sleep(Duration::from_millis(50)).await;
            stream.write_all(&[0x89, 0x80, 0, 0, 0, 0]).await.unwrap();
        }
        stream.close().await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert!(answer.ends_with(&[0x88, 2, 0x03, 0xe8]), "{answer:?}");
    });
}

/// A peer that does not read stops the sender, and costs the stack no more than its buffers.
#[test]
fn a_slow_reader_holds_the_sender_back_through_tcp() {
    world(0, Impairments::default(), async {
        const COUNT: usize = 2_000;
        let stream = TcpStream::connect(address(SOCKETS)).await.unwrap();
        let (socket, _) = throng_ws::connect(format!("ws://{SOCKETS}/"), stream).await.unwrap();
        let (mut sink, mut stream) = socket.split();
        let sent = Rc::new(Cell::new(0));
        let count = sent.clone();
        let sending = async move {
            for i in 0..COUNT {
                sink.send(Message::binary(pattern(10_000 + i))).await.unwrap();
                count.set(i + 1);
            }
            sink
        };
        let sending = spawn_local(sending);
        throng_runtime::sleep(Duration::from_secs(30)).await;
        // The server cannot send its echoes, so it reads no more, so we cannot send.
        let stuck = sent.get();
        assert!((1..COUNT / 2).contains(&stuck), "{stuck} messages went out");
        let usage = stats::current().unwrap().usage;
        assert!(usage.send_memory + usage.recv_memory < 2 << 20, "{usage:?}");
        throng_runtime::sleep(Duration::from_secs(30)).await;
        assert_eq!(sent.get(), stuck);
        for i in 0..COUNT {
            let message = stream.next().await.unwrap().unwrap();
            assert_eq!(message, Message::binary(pattern(10_000 + i)), "{i}");
        }
        let mut socket = sending.await.unwrap().reunite(stream).unwrap();
        socket.close(None).await.unwrap();
    });
}
