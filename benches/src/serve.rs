//! Throng as the server of a comparison.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Poll, ready};

use bytes::Bytes;
use futures::{AsyncRead, AsyncWrite};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper::{Request, Response};
use serde_json::{Map, json};
use throng::http::Body;
use throng::runtime::stages::{self, Stage};
use throng::ws::topic::{Hub, Topic, TopicConfig};
use throng::{ShardId, TcpListener, TcpStream, UdpSocket, spawn_local, spawn_on};

use crate::helper;
use crate::role::{Role, Traffic};
use crate::websocket;

/// Bytes read at a time for an echo.
const MESSAGE: usize = 512;
/// Bytes written at a time in bulk.
const CHUNK: usize = 256 << 10;
/// What bulk is made of.
pub(crate) const BULK: u8 = 7;

/// Serves until standard input ends; prints `listening` when a client may come. A line `stages` has it
/// measure its loop's stages anew and print what was found since the last one, `null` at first; a line
/// `busy` has each shard do so, and prints the nanoseconds of their turns with work, a list.
///
/// # Errors
/// The device does not open, or a port is taken.
pub fn run(role: &Role) -> io::Result<()> {
    // At the end the client has gone, and nobody waits for what is left.
    let told = helper::lines(|| std::process::exit(0));
    let started = role.clone();
    let hub = Hub::new(role.shards, TopicConfig::default());
    let ended = role.builder().run(move |shard| {
        let (role, told, hub) = (started.clone(), told.clone(), hub.clone());
        async move {
            let all = hub.enter()?.topic("all");
            if shard.index() == 0 {
                spawn_local(obey(told, role.shards)).detach();
            }
            let mut accepting = Vec::new();
            for endpoint in role.endpoints() {
                if role.traffic == Traffic::Udp {
                    let socket = UdpSocket::bind(role.bind_at(endpoint))?;
                    accepting.push(spawn_local(datagrams(socket)));
                    continue;
                }
                let listener = TcpListener::bind_with_backlog(role.bind_at(endpoint), 65_535)?;
                accepting.push(spawn_local(accept(listener, role.traffic, role.size, all.clone())));
            }
            if shard.index() + 1 == role.shards {
                println!("listening");
            }
            for task in accepting {
                task.await.map_err(io::Error::other)??;
            }
            Ok(())
        }
    })?;
    ended.into_iter().collect()
}

/// What this shard is told.
async fn obey(told: helper::Lines, shards: usize) {
    loop {
        match told.next().await.as_str() {
            "stages" => {
                let found = stages::take().map(|times| {
                    let each = Stage::ALL.map(|stage| {
                        let time = times.of(stage);
                        let micros = time.longest.as_nanos() as f64 / 1e3;
                        let found = json!({ "longest_us": micros, "slow": time.slow });
                        (stage.name().to_owned(), found)
                    });
                    json!({ "turns": times.turns, "stages": Map::from_iter(each) })
                });
                stages::measure(true);
                println!("{}", json!(found));
            }
            "busy" => {
                let mut all = Vec::new();
                for shard in 0..shards as u16 {
                    all.push(spawn_on(ShardId(shard), busy).await.ok());
                }
                println!("{}", json!(all));
            }
            _ => {}
        }
    }
}

/// Nanoseconds of this shard's turns with work since the last call, which the first call begins to measure.
async fn busy() -> u64 {
    let times = stages::take();
    stages::measure(true);
    times.map_or(0, |times| times.busy.as_nanos() as u64)
}

async fn accept(
    listener: TcpListener,
    traffic: Traffic,
    size: usize,
    all: Topic,
) -> io::Result<()> {
    match traffic {
        Traffic::Websocket | Traffic::Upgrade => return websocket::echo(listener).await,
        Traffic::Broadcast => return websocket::broadcast(listener, all).await,
        _ => {}
    }
    let body = Bytes::from(page(size));
    if matches!(traffic, Traffic::Http | Traffic::HttpClose) {
        let answer = service_fn(move |_: Request<Body>| {
            let body = body.clone();
            async move { Ok::<_, Infallible>(Response::new(Full::new(body))) }
        });
        throng::http::serve(listener, answer).await;
        return Ok(());
    }
    let chunk = Bytes::from(vec![BULK; CHUNK]);
    loop {
        let (stream, _) = listener.accept().await?;
        let chunk = chunk.clone();
        match traffic {
            Traffic::Accept => drop(stream),
            Traffic::Download => spawn_local(send(stream, chunk)).detach(),
            // A client that goes away ends its own connection and nothing else.
            Traffic::Upload => spawn_local(read(stream)).detach(),
            _ => spawn_local(echo(stream)).detach(),
        }
    }
}

/// A body of this length: `hello` and more of the same.
pub(crate) fn page(len: usize) -> Vec<u8> {
    b"hello\n".iter().copied().cycle().take(len).collect()
}

/// Sends back what comes until the peer's end. While it waits it has no buffer: what is read lies on the
/// thread's stack until it is written, but for what the peer does not take yet.
///
/// # Errors
/// The connection's.
pub async fn echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut unsent = None;
    poll_fn(move |cx| {
        loop {
            ready!(stream.poll_write_chunk(cx, &mut unsent))?;
            let mut said = [0; MESSAGE];
            let len = ready!(Pin::new(&mut stream).poll_read(cx, &mut said))?;
            if len == 0 {
                return Poll::Ready(Ok(()));
            }
            let sent = match Pin::new(&mut stream).poll_write(cx, &said[..len])? {
                Poll::Ready(sent) => sent,
                Poll::Pending => 0,
            };
            if sent < len {
                unsent = Some(Bytes::copy_from_slice(&said[sent..len]));
            }
        }
    })
    .await
}

/// Sends back what comes, to whom it came from.
async fn datagrams(socket: UdpSocket) -> io::Result<()> {
    loop {
        let (said, from) = socket.recv_from().await?;
        socket.send_to(&said, from).await?;
    }
}

async fn send(mut stream: TcpStream, chunk: Bytes) -> io::Result<()> {
    loop {
        stream.write_chunk(chunk.clone()).await?;
    }
}

async fn read(mut stream: TcpStream) -> io::Result<()> {
    while !stream.read_chunk(usize::MAX).await?.is_empty() {}
    Ok(())
}
