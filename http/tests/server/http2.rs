//! HTTP/2 with prior knowledge, by hyper's own client.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use futures::{AsyncReadExt, AsyncWriteExt};
use http_body_util::{BodyExt, Empty, Full};
use hyper::client::conn::http2::{self, SendRequest};
use hyper::{Request, Response, body::Incoming};
use throng_http::Server;
use throng_http::rt::{LocalExecutor, ShardTimer};

use crate::site::{get, pattern, read_reply, send, serve_site};
use crate::support::{End, Pace, assert_passed, run, spawn};

const SECOND: Duration = Duration::from_secs(1);

async fn client(end: End) -> SendRequest<Full<Bytes>> {
    let (sender, connection) =
        http2::Builder::new(LocalExecutor).timer(ShardTimer).handshake(end).await.unwrap();
    spawn(async move {
        let _ = connection.await;
    });
    sender
}

fn request(path: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    Request::post(format!("http://x{path}")).body(Full::new(body.into())).unwrap()
}

async fn text(response: Response<Incoming>) -> String {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A connection that ends for what its client sends is told of; one that its client ends is not.
#[test]
fn what_is_no_http2_is_told() {
    for frame in [None, Some(b"\0\0\x01\0\0\0\0\0\0x"), Some(b"\0\0\x01\x06\0\0\0\0\0x")] {
        run(async move {
            let (dialer, server) = serve_site(Server::new());
            let told = Rc::new(RefCell::new(Vec::new()));
            let telling = told.clone();
            server.on_refused(move |refused| telling.borrow_mut().push(refused.clone()));
            let mut client = dialer.connect();
            let settings = b"\0\0\0\x04\0\0\0\0\0";
            let hello = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], settings].concat();
            client.write_all(&hello).await.unwrap();
            match frame {
                // DATA of no stream, a PING of one byte (RFC 9113 6.1, 6.7).
                Some(frame) => client.write_all(frame).await.unwrap(),
                None => client.close().await.unwrap(),
            }
            let mut rest = Vec::new();
            client.read_to_end(&mut rest).await.unwrap();
            throng_runtime::sleep(SECOND).await;
            assert_eq!(server.connections(), 0);
            let told = told.borrow();
            let wanted = usize::from(frame.is_some());
            assert_eq!((told.len(), server.counters().refused as usize), (wanted, wanted));
            for refused in told.iter() {
                assert_eq!(refused.status, 400);
                assert!(refused.why.starts_with("HTTP/2: "), "{refused}");
                assert_eq!(refused.peer.unwrap().ip().to_string(), "192.0.2.1");
            }
        });
    }
}

#[test]
fn many_requests_at_a_time() {
    for pace in [Pace::FAST, Pace { chunk: 5, stutter: true }] {
        run(async move {
            let (dialer, server) = serve_site(Server::new());
            let client = client(dialer.connect_at(1000, pace)).await;
            let begin = throng_runtime::now();
            let replies = join_all((0..100).map(|i| {
                let mut client = client.clone();
                let path = ["/slow", "/hello"][i % 2];
                async move { text(client.send_request(request(path, "")).await.unwrap()).await }
            }));
            for (i, reply) in replies.await.into_iter().enumerate() {
                assert_eq!(reply, ["slow", "hello"][i % 2]);
            }
            assert_passed(begin, 5 * SECOND);
            let counters = server.counters();
            assert_eq!((counters.accepted, counters.http2, counters.requests), (1, 1, 100));
        });
    }
}

#[test]
fn large_bodies_both_ways() {
    const SIZE: usize = 3_000_000;
    run(async {
        let (dialer, _server) = serve_site(Server::new());
        let mut client = client(dialer.connect_at(10_000, Pace::FAST)).await;
        let counted = client.send_request(request("/count", pattern(0, SIZE))).await.unwrap();
        assert_eq!(text(counted).await, SIZE.to_string());
        let large = client.send_request(request(&format!("/large?{SIZE}"), "")).await.unwrap();
        assert_eq!(large.into_body().collect().await.unwrap().to_bytes(), pattern(0, SIZE));
        let echo = client.send_request(request("/echo", pattern(0, SIZE))).await.unwrap();
        assert_eq!(echo.into_body().collect().await.unwrap().to_bytes(), pattern(0, SIZE));
    });
}

#[test]
fn a_slow_reader_of_an_answer_is_not_idle() {
    run(async {
        let (dialer, server) = serve_site(Server::new().idle_timeout(30 * SECOND));
        let mut client = client(dialer.connect_at(1000, Pace::FAST)).await;
        // hyper has all of it long before the reader does.
        let asked = pattern(0, 300_000);
        let response = client.send_request(request("/echo", asked.clone())).await.unwrap();
        let mut body = response.into_body();
        let mut got = Vec::new();
        while let Some(frame) = body.frame().await {
            got.extend_from_slice(&frame.unwrap().into_data().unwrap_or_default());
            throng_runtime::sleep(7 * SECOND).await;
        }
        assert_eq!(got, asked);
        // And then it is.
        throng_runtime::sleep(70 * SECOND).await;
        assert_eq!((server.counters().idle_timeouts, server.connections()), (1, 0));
    });
}

#[test]
fn an_idle_connection_is_told_to_go() {
    run(async {
        let (dialer, server) = serve_site(Server::new().idle_timeout(60 * SECOND));
        let mut client = client(dialer.connect()).await;
        for _ in 0..3 {
            throng_runtime::sleep(50 * SECOND).await;
            let reply = client.send_request(request("/slow", "")).await.unwrap();
            assert_eq!(text(reply).await, "slow");
        }
        throng_runtime::sleep(61 * SECOND).await;
        assert!(client.send_request(request("/hello", "")).await.is_err());
        assert_eq!((server.counters().idle_timeouts, server.connections()), (1, 0));
    });
}

#[test]
fn a_client_that_sends_only_the_preface_is_left() {
    run(async {
        let (dialer, server) = serve_site(Server::new().idle_timeout(60 * SECOND));
        let mut end = dialer.connect();
        send(&mut end, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        throng_runtime::sleep(200 * SECOND).await;
        assert_eq!(server.connections(), 0);
        // Half a preface counts as a head that does not come to its end.
        let mut end = dialer.connect();
        send(&mut end, "PRI * HTTP/2").await;
        let begin = throng_runtime::now();
        assert_eq!(read_reply(&mut end).await, None);
        assert_passed(begin, 10 * SECOND);
    });
}

#[test]
fn a_drain_lets_streams_finish() {
    run(async {
        let (dialer, server) = serve_site(Server::new());
        let client = client(dialer.connect()).await;
        let mut busy = client.clone();
        let slow = throng_runtime::spawn_local(async move {
            text(busy.send_request(request("/slow", "")).await.unwrap()).await
        });
        throng_runtime::sleep(SECOND).await;
        let begin = throng_runtime::now();
        let drained = server.drain(30 * SECOND).await;
        assert_eq!((drained.finished, drained.cut), (1, 0));
        assert_passed(begin, 4 * SECOND);
        assert_eq!(slow.await.unwrap(), "slow");
        let mut client = client;
        assert!(client.send_request(request("/hello", "")).await.is_err());
    });
}

#[test]
fn a_request_that_has_come_before_a_drain_is_answered() {
    run(async {
        let (dialer, server) = serve_site(Server::new());
        let mut end = dialer.connect();
        throng_runtime::sleep(SECOND).await;
        // Preface, empty SETTINGS, and HEADERS that end stream 1: GET /hello of "x".
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
        bytes.extend(b"\0\0\x0d\x01\x05\0\0\0\x01\x82\x86\x04\x06/hello\x01\x01x");
        end.write_all(&bytes).await.unwrap();
        // The server has not been woken yet.
        let drain = server.drain(30 * SECOND);
        throng_runtime::sleep(SECOND).await;
        let mut answer = vec![0; 4096];
        let n = end.read(&mut answer).await.unwrap();
        assert!(answer[..n].windows(5).any(|five| five == b"hello"), "{:?}", &answer[..n]);
        drop(end);
        assert_eq!(drain.await.finished, 1);
    });
}

#[test]
fn a_panicking_service_costs_one_stream() {
    run(async {
        let (dialer, _server) = serve_site(Server::new());
        let mut client = client(dialer.connect()).await;
        assert!(client.send_request(request("/panic", "")).await.is_err());
        assert!(client.send_request(request("/error", "")).await.is_err());
        assert_eq!(text(client.send_request(request("/hello", "")).await.unwrap()).await, "hello");
    });
}

#[test]
fn streams_beyond_the_limit_wait() {
    run(async {
        let (dialer, _server) = serve_site(Server::new().max_streams(10));
        let client = client(dialer.connect()).await;
        let mut first = client.clone();
        // The settings have to arrive before the limit binds the client.
        text(first.send_request(request("/hello", "")).await.unwrap()).await;
        let begin = throng_runtime::now();
        let replies = join_all((0..30).map(|_| {
            let mut client = client.clone();
            async move { text(client.send_request(request("/slow", "")).await.unwrap()).await }
        }));
        assert!(replies.await.iter().all(|reply| reply == "slow"));
        assert_passed(begin, 15 * SECOND);
    });
}

#[test]
fn either_protocol_can_be_switched_off() {
    run(async {
        let (dialer, _server) = serve_site(Server::new().http1(false));
        assert_eq!(get(&mut dialer.connect(), "/hello").await, None);
        let mut http2 = client(dialer.connect()).await;
        assert!(http2.send_request(request("/hello", "")).await.is_ok());

        let (dialer, _server) = serve_site(Server::new().http2(false));
        assert_eq!(get(&mut dialer.connect(), "/hello").await.unwrap().status, 200);
        let mut http2 = client(dialer.connect()).await;
        assert!(http2.send_request(request("/hello", "")).await.is_err());
    });
}

#[test]
fn hyper_client_over_http1_too() {
    run(async {
        let (dialer, server) = serve_site(Server::new());
        let (mut client, connection) =
            hyper::client::conn::http1::handshake(dialer.connect()).await.unwrap();
        spawn(async move {
            let _ = connection.await;
        });
        for _ in 0..5 {
            client.ready().await.unwrap();
            let request = Request::get("/hello").body(Empty::<Bytes>::new()).unwrap();
            assert_eq!(text(client.send_request(request).await.unwrap()).await, "hello");
        }
        assert_eq!(server.counters().accepted, 1);
    });
}
