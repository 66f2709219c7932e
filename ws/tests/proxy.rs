//! A WebSocket through a small proxy: the server takes the request, the client sends it on,
//! and the two upgraded streams are joined.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use futures::{AsyncReadExt, AsyncWriteExt, SinkExt, StreamExt};
use http::{Request, Response, StatusCode, Uri, header};
use http_body_util::{Either, Empty, Full};
use hyper::body::{Bytes, Incoming};
use hyper::upgrade::OnUpgrade;
use throng_http::client::{Body, Client, Upgraded, upgrade};
use throng_http::{BoxError, Server, ServerIo, service_fn};
use throng_net::device::Device;
use throng_net::device::memory::{self, MemoryQueue, Options};
use throng_net::sim::{HostConfig, add_host};
use throng_net::{SendStream, TcpListener, TcpStream};
use throng_runtime::sim::World;
use throng_runtime::{Instant, ShardId, spawn_local};
use throng_ws::Message;

const LIMIT: Instant = Instant::from_millis(900_000);
const PROXY: &str = "10.0.0.2:80";
/// Behind the proxy, on the side of those who ask it.
const ORIGIN: &str = "10.0.0.1:80";

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// An echo that speaks first, at once after the handshake.
async fn origin(mut request: Request<Incoming>) -> Result<Response<Full<Bytes>>, BoxError> {
    if !throng_ws::is_upgrade(&request) {
        return Ok(Response::new(Full::from(request.uri().path().to_owned())));
    }
    let (response, socket) = throng_ws::upgrade(&mut request)?;
    let echo = async move {
        let mut socket = socket.await.unwrap();
        socket.send(Message::text("welcome")).await.unwrap();
        while let Some(Ok(message)) = socket.next().await {
            if message.is_text() || message.is_binary() {
                socket.send(message).await.unwrap();
            }
        }
    };
    spawn_local(echo).detach();
    Ok(response)
}

type Answer = Response<Either<Body, Empty<Bytes>>>;

async fn proxy(client: Client, mut request: Request<Incoming>) -> Result<Answer, BoxError> {
    let outer = hyper::upgrade::on(&mut request);
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    *request.uri_mut() = format!("http://{ORIGIN}{path}").parse::<Uri>()?;
    request.headers_mut().remove(header::HOST);
    let response = client.request(request).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(response.map(Either::Left));
    }
    let mut answer = Response::new(Either::Right(Empty::new()));
    *answer.status_mut() = response.status();
    *answer.headers_mut() = response.headers().clone();
    let joined = async move {
        let inner = upgrade(response).await.map_err(io::Error::from)?;
        join(outer, inner).await
    };
    spawn_local(async move { joined.await.unwrap() }).detach();
    Ok(answer)
}

/// Carries bytes both ways until both sides have ended.
async fn join(outer: OnUpgrade, mut inner: Upgraded) -> io::Result<()> {
    let outer = outer.await.map_err(io::Error::other)?;
    let outer = outer.downcast::<ServerIo<SendStream>>().expect("the server's own stream");
    let (stream, ahead) = outer.io.into_parts();
    inner.write_all(&[outer.read_buf, ahead].concat()).await?;
    let (from_outer, mut to_outer) = stream.into_inner().split();
    let (from_inner, mut to_inner) = inner.split();
    let up = async {
        futures::io::copy(from_outer, &mut to_inner).await?;
        to_inner.close().await
    };
    let down = async {
        futures::io::copy(from_inner, &mut to_outer).await?;
        to_outer.close().await
    };
    futures::try_join!(up, down).map(drop)
}

async fn ask(client: Client) {
    for i in 0..3 {
        let stream = TcpStream::connect(address(PROXY)).await.unwrap();
        let url = format!("ws://{PROXY}/{i}");
        let (mut socket, _) = throng_ws::connect(url, stream).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("welcome"));
        for size in [1, 0, 125, 70_000, 300_000, 2_000] {
            let message = Message::binary(vec![7; size]);
            socket.send(message.clone()).await.unwrap();
            assert_eq!(socket.next().await.unwrap().unwrap(), message);
        }
        socket.close(None).await.unwrap();
        // Beside it, ordinary requests go through the pool.
        let request = Request::get(format!("http://{PROXY}/{i}"));
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        let response = client.request(request).await.unwrap();
        let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap();
        assert_eq!(body.to_bytes(), format!("/{i}"));
    }
}

#[test]
fn a_websocket_through_a_proxy() {
    let options = Options { latency: Duration::from_millis(1), ..Options::default() };
    let (a, b) = memory::pair(1, options);
    let boxed = |queues: Vec<MemoryQueue>| -> Vec<Box<dyn Device>> {
        queues.into_iter().map(|queue| Box::new(queue) as Box<dyn Device>).collect()
    };
    let mut world = World::new();
    let outside = add_host(&mut world, boxed(a), &HostConfig::new(&["10.0.0.1/24"], 1));
    let between = add_host(&mut world, boxed(b), &HostConfig::new(&["10.0.0.2/24"], 2));
    let shard = ShardId(0);
    let stats = Rc::new(Cell::new(None));
    world.enter(outside, shard, || {
        let listener = TcpListener::bind(address("0.0.0.0:80")).unwrap();
        let serving = async move {
            Server::new().start().serve(listener, service_fn(origin)).await;
        };
        spawn_local(serving).detach();
    });
    let client = world.enter(between, shard, || {
        let client = Client::new();
        let proxying = client.clone();
        let listener = TcpListener::bind(address("0.0.0.0:80")).unwrap();
        let service = service_fn(move |request| proxy(proxying.clone(), request));
        let serving = async move {
            Server::new().start().serve(listener, service).await;
        };
        spawn_local(serving).detach();
        client
    });
    let set = stats.clone();
    let asking = world.spawn(outside, shard, async move {
        ask(Client::new()).await;
        throng_runtime::sleep(Duration::from_secs(10)).await;
        set.set(Some(()));
    });
    assert!(world.run_until(LIMIT, || stats.get().is_some()), "not done, or panicked");
    drop(asking);
    let seen = client.stats();
    // The first upgrade takes a connection, the request after it the next, which the next
    // upgrade takes away from the pool, and so on.
    assert_eq!((seen.opened, seen.reused, seen.retried), (4, 2, 0));
    assert_eq!((client.connections(), client.idle_connections()), (1, 1));
    world.enter(between, shard, || drop(client));
}
