//! A deadline for every phase.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures::{AsyncReadExt, StreamExt};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::Request;
use hyper::body::Frame;
use throng_http::Server;
use throng_http::client::{Client, ErrorKind, Phase, Target, Transport};

use crate::world::{
    OK, SECOND, assert_passed, empty, get, pause, raw, read_head, serve, text, world, write,
};

const FAR: Duration = Duration::from_secs(1000);

fn patient() -> throng_http::client::Builder {
    Client::builder().queue(10, FAR).connect_timeout(FAR).head_timeout(FAR).body_timeout(FAR)
}

/// The error of a GET with this client, after this time.
fn fails_after(
    settings: throng_http::client::Builder,
    time: Duration,
    server: impl FnOnce(),
) -> ErrorKind {
    world(server, async move {
        let client = settings.build();
        let begin = throng_runtime::now();
        let error = get(&client, "/").await.unwrap_err();
        assert_passed(begin, time);
        pause(SECOND).await;
        assert_eq!(client.connections(), 0, "nothing is left of it");
        if error.is_timeout() {
            let kind = error.kind();
            assert_eq!(std::io::Error::from(error).kind(), std::io::ErrorKind::TimedOut);
            return kind;
        }
        error.kind()
    })
}

fn silent() {
    raw(|_, mut stream| async move {
        read_head(&mut stream).await.unwrap();
        pause(FAR).await;
    });
}

fn stalling() {
    raw(|_, mut stream| async move {
        read_head(&mut stream).await.unwrap();
        write(&mut stream, "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n").await;
        for _ in 0..3 {
            write(&mut stream, "x").await;
            pause(3 * SECOND).await;
        }
        pause(FAR).await;
    });
}

#[test]
fn connecting() {
    let never = |_: &Target| std::future::pending::<std::io::Result<Transport>>();
    let settings = patient().connector(never).connect_timeout(3 * SECOND);
    assert_eq!(fails_after(settings, 3 * SECOND, || {}), ErrorKind::Timeout(Phase::Connect));
}

#[test]
fn the_head() {
    let settings = patient().head_timeout(3 * SECOND);
    assert_eq!(fails_after(settings, 3 * SECOND, silent), ErrorKind::Timeout(Phase::Head));
}

#[test]
fn the_body() {
    // The wait is for each piece: six seconds pass before the one that is too long.
    let settings = patient().body_timeout(4 * SECOND);
    assert_eq!(fails_after(settings, 10 * SECOND, stalling), ErrorKind::Timeout(Phase::Body));
}

#[test]
fn all_of_it() {
    for server in [silent, stalling] {
        let settings = patient().total_timeout(5 * SECOND);
        assert_eq!(fails_after(settings, 5 * SECOND, server), ErrorKind::Timeout(Phase::Total));
    }
    let never = |_: &Target| std::future::pending::<std::io::Result<Transport>>();
    let settings = patient().connector(never).total_timeout(2 * SECOND);
    assert_eq!(fails_after(settings, 2 * SECOND, || {}), ErrorKind::Timeout(Phase::Total));
}

#[test]
fn a_slow_upload_is_not_a_late_answer() {
    world(|| drop(serve(Server::new())), async {
        let client = Client::builder().head_timeout(2 * SECOND).build();
        let pieces = futures::stream::iter(0..10).then(|_| async {
            pause(SECOND).await;
            Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"piece")))
        });
        let body = StreamBody::new(Box::pin(pieces));
        // The path answers with the request's head, but reads no body.
        let request = Request::post("http://10.0.0.1/echo").body(body).unwrap();
        let response = client.request(request).await.unwrap();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(bytes.len(), 50);
    });
}

#[test]
fn a_reader_may_take_its_time() {
    world(|| drop(serve(Server::new().idle_timeout(FAR))), async {
        let client = Client::builder().body_timeout(SECOND).build();
        let response = client.request(empty("GET", "/large")).await.unwrap();
        let mut body = response.into_body();
        let mut size = 0;
        while let Some(frame) = body.frame().await {
            size += frame.unwrap().into_data().unwrap().len();
            pause(5 * SECOND).await;
        }
        assert_eq!(size, 1_000_000);
    });
}

#[test]
fn a_slow_upload_of_a_whole_body_is_not_a_late_answer() {
    const SIZE: usize = 12_000_000;
    world(
        || {
            raw(|_, mut stream| async move {
                read_head(&mut stream).await.unwrap();
                let mut piece = vec![0; 100_000];
                for _ in 0..SIZE / piece.len() {
                    stream.read_exact(&mut piece).await.unwrap();
                    pause(SECOND / 10).await;
                }
                write(&mut stream, OK).await;
                pause(SECOND).await;
            });
        },
        async {
            let client = patient().head_timeout(4 * SECOND).build();
            let request = Request::post("http://10.0.0.1/").body(Full::new(vec![1; SIZE].into()));
            let begin = throng_runtime::now();
            let request: Request<Full<Bytes>> = request.unwrap();
            let response = client.request(request).await.unwrap();
            assert_eq!(text(response).await.unwrap(), "ok");
            assert_passed(begin, 12 * SECOND);
        },
    );
}

#[test]
fn all_of_it_while_something_is_always_there() {
    world(|| drop(serve(Server::new().idle_timeout(FAR))), async {
        let client = Client::builder().total_timeout(10 * SECOND).build();
        let begin = throng_runtime::now();
        let mut body = client.request(empty("GET", "/large")).await.unwrap().into_body();
        let error = loop {
            match body.frame().await.unwrap() {
                Ok(_) => pause(SECOND / 2).await,
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), ErrorKind::Timeout(Phase::Total));
        assert!(throng_runtime::now() - begin < 11 * SECOND);
    });
}
