//! What an idle connection of the HTTP client's costs, counted by the allocator.

mod support;

#[path = "support/counting.rs"]
mod counting;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use futures::{AsyncReadExt, AsyncWriteExt};
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use throng_http::client::{Client, Target, Transport};

use counting::live;
use support::{End, Pace, duplex, run, spawn};

const COUNT: usize = 1000;
/// Bytes of what is sent each way.
const REQUEST: usize = 31;
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// A connection whose pipe has been used as an exchange uses it.
async fn used_pipe() -> (End, End) {
    let (mut a, mut b) = duplex(500, Pace::FAST);
    let mut bytes = [0; 500];
    a.write_all(&bytes[..REQUEST]).await.unwrap();
    b.read_exact(&mut bytes[..REQUEST]).await.unwrap();
    b.write_all(RESPONSE).await.unwrap();
    a.read_exact(&mut bytes[..RESPONSE.len()]).await.unwrap();
    (a, b)
}

/// Answers one request.
async fn answer(mut end: End, kept: Rc<RefCell<Vec<End>>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut bytes = [0; 100];
        let n = end.read(&mut bytes).await.unwrap();
        head.extend_from_slice(&bytes[..n]);
    }
    end.write_all(RESPONSE).await.unwrap();
    kept.borrow_mut().push(end);
}

#[test]
fn an_idle_connection_holds_no_state_of_hypers() {
    let bytes = run(async {
        let before = live();
        let mut pipes = Vec::with_capacity(COUNT);
        for _ in 0..COUNT {
            pipes.push(used_pipe().await);
        }
        let pipe = (live() - before) / COUNT as isize;
        drop(pipes);

        let before = live();
        let kept = Rc::new(RefCell::new(Vec::with_capacity(COUNT)));
        let keeping = kept.clone();
        let connector = move |_: &Target| {
            let (ours, theirs) = duplex(500, Pace::FAST);
            spawn(answer(theirs, keeping.clone()));
            std::future::ready(Ok(Transport::new(ours)))
        };
        let settings = Client::builder().connector(connector);
        let settings = settings.max_connections_per_host(COUNT).max_idle_per_host(COUNT);
        let client = settings.idle_timeout(Duration::from_secs(100)).build();
        let replies = join_all((0..COUNT).map(|_| async {
            let request = Request::get("http://h/").body(Empty::<Bytes>::new()).unwrap();
            let response = client.request(request).await.unwrap();
            response.into_body().collect().await.unwrap().to_bytes()
        }));
        assert!(replies.await.iter().all(|reply| reply == "ok"));
        throng_runtime::sleep(Duration::from_millis(1)).await;
        assert_eq!(client.idle_connections(), COUNT);
        (live() - before) / COUNT as isize - pipe
    });
    println!("an idle HTTP/1 connection of a client: {bytes} bytes beside its stream");
    assert!(bytes < 800, "{bytes}");
}
