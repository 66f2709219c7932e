//! What an idle HTTP connection costs, counted by the allocator.

mod support;

#[path = "support/counting.rs"]
mod counting;

use std::convert::Infallible;
use std::time::Duration;

use futures::{AsyncReadExt, AsyncWriteExt};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response};
use throng_http::{Body, RequestBody, Server, service_fn, size_of_connection};

use counting::live;
use support::listener::{Listener, listen};
use support::{End, run, spawn};

/// What the service is asked with.
trait Asked: RequestBody + hyper::body::Body<Data = Bytes, Error = hyper::Error> {}
impl<In: RequestBody + hyper::body::Body<Data = Bytes, Error = hyper::Error>> Asked for In {}

async fn hello<In: Asked>(request: Request<In>) -> Result<Response<Full<Bytes>>, Infallible> {
    let _ = request.into_body().collect().await;
    Ok(Response::new(Full::from("hello")))
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
const POST: &[u8] = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello";

async fn ask(client: &mut End, request: &[u8]) {
    client.write_all(request).await.unwrap();
    let mut answer = [0; 500];
    assert!(client.read(&mut answer).await.unwrap() > 0);
}

/// Bytes of one keep-alive connection between two requests: its task, its part of the
/// server's books, hyper's state if that is there; not its stream's buffers.
fn idle_bytes<In: Asked>(settings: Server, request: &'static [u8]) -> isize {
    const COUNT: usize = 1000;
    run(async move {
        let (dialer, listener) = listen();
        let server = settings.start();
        let running = server.clone();
        spawn(async move {
            running.serve(listener, service_fn(hello::<In>)).await;
        });
        let mut clients: Vec<End> = Vec::with_capacity(COUNT);
        let connect = |_| {
            let client = dialer.connect();
            client.set_capacity(500);
            client
        };
        // The pipes by themselves, with buffers as large as this traffic makes them.
        let before = live();
        let mut pipes = Vec::with_capacity(COUNT);
        for _ in 0..COUNT {
            let (mut a, mut b) = support::duplex(500, support::Pace::FAST);
            let mut bytes = [0; 500];
            a.write_all(request).await.unwrap();
            b.read_exact(&mut bytes[..request.len()]).await.unwrap();
            b.write_all(&bytes[..113]).await.unwrap();
            a.read_exact(&mut bytes[..113]).await.unwrap();
            pipes.push((a, b));
        }
        let pipe = (live() - before) / COUNT as isize - size_of::<End>() as isize;
        drop(pipes);
        let before = live();
        clients.extend((0..COUNT).map(connect));
        for client in &mut clients {
            ask(client, request).await;
        }
        throng_runtime::sleep(Duration::from_millis(1)).await;
        (live() - before) / COUNT as isize - pipe
    })
}

#[test]
fn an_idle_connection_holds_no_state_of_hypers() {
    for (what, request) in [("GET", GET), ("POST with a body", POST)] {
        let parked = idle_bytes::<Incoming>(Server::new(), request);
        let unparked = idle_bytes::<Incoming>(Server::new().park(false), request);
        let plain = idle_bytes::<Body>(Server::new(), request);
        println!(
            "an HTTP/1 connection after a {what}: {parked} bytes parked, {unparked} not, \
             {plain} without hyper"
        );
        assert!(parked < 600, "{parked} after a {what}");
        // The shard's memory for requests and answers is among it, one for all.
        assert!(plain <= parked + 16, "{plain} after a {what} without hyper");
        let ours = size_of_connection::<Listener, _, _, _>(&service_fn(hello::<Body>));
        let hypers = size_of_connection::<Listener, _, _, _>(&service_fn(hello::<Incoming>));
        assert!(ours <= hypers && ours <= 120, "{ours} {hypers}");
    }
}
