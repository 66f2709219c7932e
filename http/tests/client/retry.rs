//! What is sent again when a pooled connection turns out to be over, and what is not.

use std::cell::RefCell;
use std::rc::Rc;

use bytes::Bytes;
use futures::AsyncReadExt;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::Request;
use hyper::body::Frame;
use throng_http::client::{Client, Error, ErrorKind};
use throng_net::TcpStream;

use crate::world::{OK, SECOND, empty, get, pause, raw, read_head, text, world, write};

type Seen = Rc<RefCell<Vec<String>>>;

/// A server that answers the first request of each connection and then, when the second has
/// come, does what `second` says; it notes the request lines.
fn treacherous<F>(second: impl Fn(TcpStream) -> F + Copy + 'static) -> (Seen, impl FnOnce())
where
    F: Future<Output = ()> + 'static,
{
    let seen = Seen::default();
    let noted = seen.clone();
    let server = move || {
        raw(move |n, mut stream| {
            let noted = noted.clone();
            async move {
                for i in 0.. {
                    let Some(head) = read_head(&mut stream).await else { return };
                    let line = head.lines().next().unwrap().to_owned();
                    noted.borrow_mut().push(format!("{n} {line}"));
                    if i == 1 && n == 0 {
                        return second(stream).await;
                    }
                    if let Some(length) =
                        head.lines().find_map(|line| line.strip_prefix("content-length: "))
                    {
                        let mut body = vec![0; length.parse().unwrap()];
                        stream.read_exact(&mut body).await.unwrap();
                    }
                    write(&mut stream, OK).await;
                }
            }
        });
    };
    (seen, server)
}

async fn close(_: TcpStream) {}

async fn reset(stream: TcpStream) {
    stream.abort();
}

async fn begin_and_close(mut stream: TcpStream) {
    write(&mut stream, "HTTP/1.1 2").await;
    pause(SECOND / 10).await;
}

async fn continue_and_close(mut stream: TcpStream) {
    write(&mut stream, "HTTP/1.1 103 Early Hints\r\n\r\n").await;
    pause(SECOND / 10).await;
}

async fn send(client: &Client, method: &str, body: &'static str) -> Result<String, Error> {
    let request = Request::builder().method(method).uri("http://10.0.0.1/x");
    let request = request.body(Full::new(Bytes::from_static(body.as_bytes()))).unwrap();
    text(client.request(request).await?).await
}

#[test]
fn an_idempotent_request_survives_a_stale_connection() {
    for method in ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"] {
        for kind in 0..2 {
            let body = if method == "PUT" { "a body" } else { "" };
            let client = async move {
                let client = Client::new();
                get(&client, "/").await.unwrap();
                let reply = send(&client, method, body).await.unwrap();
                assert_eq!(reply, if method == "HEAD" { "" } else { "ok" });
                let stats = client.stats();
                assert_eq!((stats.opened, stats.reused, stats.retried), (2, 1, 1));
            };
            let (seen, server) = match kind {
                0 => {
                    let (seen, server) = treacherous(close);
                    (seen, Box::new(server) as Box<dyn FnOnce()>)
                }
                _ => {
                    let (seen, server) = treacherous(reset);
                    (seen, Box::new(server) as Box<dyn FnOnce()>)
                }
            };
            world(server, client);
            let line = format!("{method} /x HTTP/1.1");
            let expected = ["0 GET / HTTP/1.1".into(), format!("0 {line}"), format!("1 {line}")];
            assert_eq!(*seen.borrow(), expected);
        }
    }
}

#[test]
fn others_are_not_sent_twice() {
    for method in ["POST", "PATCH", "CUSTOM"] {
        let (seen, server) = treacherous(close);
        world(server, async move {
            let client = Client::new();
            get(&client, "/").await.unwrap();
            let error = send(&client, method, "").await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Closed);
            let io = std::io::Error::from(error);
            assert_eq!(io.kind(), std::io::ErrorKind::UnexpectedEof);
            assert_eq!((client.stats().retried, client.connections()), (0, 0));
            // The client is none the worse for it.
            assert_eq!(get(&client, "/").await.unwrap(), "ok");
        });
        assert_eq!(seen.borrow().len(), 3);
    }
}

#[test]
fn nothing_is_sent_again_once_a_response_has_begun() {
    let (seen, server) = treacherous(begin_and_close);
    world(server, async {
        let client = Client::new();
        get(&client, "/").await.unwrap();
        get(&client, "/").await.unwrap_err();
        assert_eq!(client.stats().retried, 0);
    });
    assert_eq!(seen.borrow().len(), 2);
    let (seen, server) = treacherous(continue_and_close);
    world(server, async {
        let client = Client::new();
        get(&client, "/").await.unwrap();
        get(&client, "/").await.unwrap_err();
        assert_eq!(client.stats().retried, 0);
    });
    assert_eq!(seen.borrow().len(), 2);
}

#[test]
fn a_stream_that_has_begun_is_not_sent_again() {
    let (seen, server) = treacherous(close);
    world(server, async {
        let client = Client::new();
        get(&client, "/").await.unwrap();
        let pieces = futures::stream::iter(["a", "b"]);
        let pieces = futures::StreamExt::map(pieces, |piece| {
            Ok::<_, std::io::Error>(Frame::data(Bytes::from_static(piece.as_bytes())))
        });
        let request = Request::put("http://10.0.0.1/x").body(StreamBody::new(pieces)).unwrap();
        let error = client.request(request).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Closed);
        assert_eq!(client.stats().retried, 0);
    });
    assert_eq!(seen.borrow().len(), 2);
}

#[test]
fn a_new_connection_that_fails_is_not_tried_again() {
    let seen = Rc::new(RefCell::new(0));
    let count = seen.clone();
    world(
        move || {
            raw(move |_, mut stream| {
                *count.borrow_mut() += 1;
                async move {
                    read_head(&mut stream).await;
                }
            });
        },
        async {
            let client = Client::new();
            assert_eq!(get(&client, "/").await.unwrap_err().kind(), ErrorKind::Closed);
            assert_eq!(client.stats().retried, 0);
        },
    );
    assert_eq!(*seen.borrow(), 1);
}

/// The server closes just when the client sends: whatever the order of events on the wire,
/// an idempotent request succeeds.
#[test]
fn the_race_between_a_close_and_a_request_is_not_seen() {
    world(
        || {
            raw(|_, mut stream| async move {
                read_head(&mut stream).await.unwrap();
                write(&mut stream, OK).await;
                pause(SECOND).await;
            });
        },
        async {
            let client = Client::new();
            for i in 0..100 {
                assert_eq!(get(&client, "/").await.unwrap(), "ok");
                // The close is 1 ms on its way.
                let around = SECOND - SECOND / 200 + i * SECOND / 10_000;
                pause(around).await;
            }
            let stats = client.stats();
            assert_eq!(stats.opened, 100);
            assert!(stats.retried > 5 && stats.evicted > 20, "{stats:?}");
        },
    );
}

#[test]
fn with_all_places_taken_by_idle_connections_one_makes_room_for_the_new() {
    let (seen, server) = treacherous(close);
    world(server, async {
        let client = Client::builder().max_connections_per_host(1).build();
        get(&client, "/").await.unwrap();
        assert_eq!(get(&client, "/").await.unwrap(), "ok");
        let response = client.request(empty("GET", "/")).await.unwrap();
        assert!(response.into_body().collect().await.is_ok());
        assert_eq!((client.stats().retried, client.connections()), (1, 1));
    });
    assert_eq!(seen.borrow().len(), 4);
}
