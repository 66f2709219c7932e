//! Two hosts on a link, servers by hand, and a client to ask them with.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures::{AsyncReadExt, AsyncWriteExt};
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::{Request, Response};
use throng_http::client::{Body, Client, Error};
use throng_http::{BoxError, Running, Server};
use throng_net::device::Device;
use throng_net::device::memory::{self, MemoryQueue, Options};
use throng_net::resolver::Source;
use throng_net::sim::{HostConfig, add_host};
use throng_net::{TcpListener, TcpStream};
use throng_runtime::sim::World;
use throng_runtime::{Instant, ShardId};

pub(crate) const SECOND: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_secs(3600);

/// Runs `server`, which spawns what it needs, on 10.0.0.1 and `client` on 10.0.0.2.
pub(crate) fn world<T: 'static>(
    server: impl FnOnce(),
    client: impl Future<Output = T> + 'static,
) -> T {
    let options = Options { latency: Duration::from_millis(1), ..Options::default() };
    let (a, b) = memory::pair(1, options);
    let mut world = World::new();
    let mut config = HostConfig::new(&["10.0.0.2/24"], 1);
    config.names.hosts = Source::Text("10.0.0.1 web.test\n".to_owned());
    let client_host = add_host(&mut world, boxed(a), &config);
    let server_host = add_host(&mut world, boxed(b), &HostConfig::new(&["10.0.0.1/24"], 2));
    let shard = ShardId(0);
    world.enter(server_host, shard, server);
    let output = Rc::new(RefCell::new(None));
    let slot = output.clone();
    let task = world.spawn(client_host, shard, async move {
        let value = client.await;
        *slot.borrow_mut() = Some(value);
    });
    let limit = world.now() + LIMIT;
    world.run_until(limit, || output.borrow().is_some());
    drop(task);
    let value = output.borrow_mut().take();
    value.expect("the test's future panicked or stood still")
}

pub(crate) fn boxed(queues: Vec<MemoryQueue>) -> Vec<Box<dyn Device>> {
    queues.into_iter().map(|queue| Box::new(queue) as Box<dyn Device>).collect()
}

pub(crate) fn spawn(task: impl Future<Output = ()> + 'static) {
    throng_runtime::spawn_local(task).detach();
}

pub(crate) async fn pause(time: Duration) {
    throng_runtime::sleep(time).await;
}

#[track_caller]
pub(crate) fn assert_passed(begin: Instant, expected: Duration) {
    let passed = throng_runtime::now() - begin;
    assert!(passed.abs_diff(expected) < Duration::from_millis(50), "{passed:?}");
}

/// A server written by hand on port 80: `talk` gets each connection and its number.
pub(crate) fn raw<F>(mut talk: impl FnMut(u32, TcpStream) -> F + 'static)
where
    F: Future<Output = ()> + 'static,
{
    let any: SocketAddr = "0.0.0.0:80".parse().unwrap();
    let listener = TcpListener::bind(any).unwrap();
    spawn(async move {
        for n in 0.. {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            spawn(talk(n, stream));
        }
    });
}

/// This crate's server on port 80, with [`site`].
pub(crate) fn serve(settings: Server) -> Running {
    let any: SocketAddr = "0.0.0.0:80".parse().unwrap();
    let listener = TcpListener::bind(any).unwrap();
    let server = settings.start();
    let running = server.clone();
    spawn(async move {
        running.serve(listener, throng_http::service_fn(site)).await;
    });
    server
}

type SiteBody = Pin<Box<dyn hyper::body::Body<Data = Bytes, Error = BoxError>>>;

fn full(text: impl Into<Bytes>) -> SiteBody {
    Box::pin(Full::new(text.into()).map_err(|never| match never {}))
}

/// `/hello`, `/slow` (one second), `/echo`, `/drip` (a byte a second, ten of them), `/large`
/// (a million bytes); anything else shows the request's head.
async fn site(request: Request<Incoming>) -> Result<Response<SiteBody>, BoxError> {
    let (parts, body) = request.into_parts();
    let body = match parts.uri.path() {
        "/hello" => full("hello"),
        "/slow" => {
            pause(SECOND).await;
            full("slow")
        }
        "/echo" => Box::pin(body.map_err(BoxError::from)),
        "/drip" => {
            let bytes = futures::stream::unfold(0, |n| async move {
                pause(SECOND).await;
                (n < 10).then(|| (Ok(Frame::data(Bytes::from_static(b"x"))), n + 1))
            });
            Box::pin(StreamBody::new(bytes))
        }
        "/large" => full(vec![7; 1_000_000]),
        path => full(format!("{} {path} {:?}", parts.method, parts.headers)),
    };
    Ok(Response::new(body))
}

/// Reads a message's head, to the empty line; `None` at the end of the stream or a reset.
pub(crate) async fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte).await.ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    Some(String::from_utf8(head).unwrap())
}

pub(crate) async fn write(stream: &mut TcpStream, bytes: impl AsRef<[u8]>) {
    stream.write_all(bytes.as_ref()).await.unwrap();
}

pub(crate) const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// Answers `OK` to every request without a body, until the peer ends.
pub(crate) async fn answer_all(mut stream: TcpStream) {
    while read_head(&mut stream).await.is_some() {
        write(&mut stream, OK).await;
    }
}

pub(crate) fn empty(method: &str, path: &str) -> Request<Empty<Bytes>> {
    let uri = format!("http://10.0.0.1{path}");
    Request::builder().method(method).uri(uri).body(Empty::new()).unwrap()
}

pub(crate) async fn text(response: Response<Body>) -> Result<String, Error> {
    let bytes = response.into_body().collect().await?.to_bytes();
    Ok(String::from_utf8(bytes.to_vec()).unwrap())
}

pub(crate) async fn get(client: &Client, path: &str) -> Result<String, Error> {
    text(client.request(empty("GET", path)).await?).await
}

/// A number both hosts see.
pub(crate) fn counter() -> (Rc<Cell<u32>>, Rc<Cell<u32>>) {
    let count = Rc::new(Cell::new(0));
    (count.clone(), count)
}
