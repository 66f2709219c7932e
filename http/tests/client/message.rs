//! What goes over the wire: heads, bodies without length, trailers, 100-continue, and what a
//! server must not send.

use std::cell::Cell;
use std::rc::Rc;

use bytes::Bytes;
use futures::{AsyncReadExt, StreamExt};
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::Frame;
use hyper::{HeaderMap, Request};
use throng_http::Server;
use throng_http::client::{Client, Error, ErrorKind, Target};

use crate::world::{
    OK, SECOND, assert_passed, counter, empty, get, pause, raw, read_head, serve, text, world,
    write,
};

/// The kind of error a response gives.
fn judged(
    settings: throng_http::client::Builder,
    response: impl Into<Vec<u8>>,
) -> Option<ErrorKind> {
    let response = response.into();
    world(
        move || {
            raw(move |_, mut stream| {
                let response = response.clone();
                async move {
                    read_head(&mut stream).await.unwrap();
                    // The client may end before all is written.
                    let _ = futures::AsyncWriteExt::write_all(&mut stream, &response).await;
                }
            });
        },
        async move {
            let client = settings.build();
            let result = get(&client, "/").await;
            pause(SECOND).await;
            assert_eq!(client.connections(), 0);
            result.err().map(|error| error.kind())
        },
    )
}

#[test]
fn the_head_of_a_request() {
    let heads = Rc::new(std::cell::RefCell::new(Vec::new()));
    let seen = heads.clone();
    world(
        move || {
            raw(move |_, mut stream| {
                let seen = seen.clone();
                async move {
                    while let Some(head) = read_head(&mut stream).await {
                        seen.borrow_mut().push(head);
                        write(&mut stream, OK).await;
                    }
                }
            });
        },
        async {
            let client = Client::new();
            for uri in ["http://10.0.0.1", "http://10.0.0.1/a/b?c=d#e", "http://10.0.0.1:80?x"] {
                let request = Request::get(uri).body(Empty::<Bytes>::new()).unwrap();
                text(client.request(request).await.unwrap()).await.unwrap();
            }
            let request = Request::get("http://10.0.0.1/own")
                .header("host", "example.org")
                .header("te", "trailers")
                .header("connection", "te")
                .body(Empty::<Bytes>::new())
                .unwrap();
            text(client.request(request).await.unwrap()).await.unwrap();
            let request = Request::get("http://web.test/").body(Empty::<Bytes>::new()).unwrap();
            text(client.request(request).await.unwrap()).await.unwrap();
        },
    );
    let head = |target: &str| format!("GET {target} HTTP/1.1\r\nhost: 10.0.0.1\r\n\r\n");
    let named = "GET / HTTP/1.1\r\nhost: web.test\r\n\r\n";
    let own = "GET /own HTTP/1.1\r\nhost: example.org\r\nte: trailers\r\nconnection: te\r\n\r\n";
    assert_eq!(
        *heads.borrow(),
        [head("/"), head("/a/b?c=d"), head("/?x"), own.into(), named.into()]
    );
}

#[test]
fn uris_that_cannot_be_used() {
    world(|| {}, async {
        let client = Client::new();
        let uris = [
            "/path",
            "10.0.0.1:80",
            "ftp://10.0.0.1/",
            "https://10.0.0.1/",
            "http://user:secret@10.0.0.1/",
            "http://10.0.0.1:99999/",
            "http://:80/",
            "http://10.0.0.999/",
        ];
        for uri in uris {
            let Ok(request) = Request::get(uri).body(Empty::<Bytes>::new()) else { continue };
            let error = client.request(request).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::BadUri, "{uri}: {error}");
            assert!(!error.to_string().contains("secret"));
            assert_eq!(std::io::Error::from(error).kind(), std::io::ErrorKind::InvalidInput);
        }
        assert_eq!(client.connections(), 0);
    });
}

#[test]
fn one_place_has_one_target() {
    let target = |uri: &str| Target::of(&uri.parse().unwrap()).unwrap();
    let same = [
        ["http://example.org/", "http://EXAMPLE.org:80/x"],
        ["https://example.org:443", "https://example.org:/"],
        ["http://[fd00::1]", "http://[FD00::1]:80/"],
    ];
    for [a, b] in same {
        assert_eq!(target(a), target(b));
    }
    let different = ["http://a/", "https://a/", "http://a:81/", "http://b/", "http://a:443/"];
    for (i, a) in different.into_iter().enumerate() {
        for b in &different[i + 1..] {
            assert_ne!(target(a), target(b));
        }
    }
    let six = target("https://[fd00::1]:8443/path");
    assert_eq!((six.host(), six.port(), six.is_https()), ("fd00::1", 8443, true));
    assert_eq!(six.to_string(), "https://[fd00::1]:8443");
}

#[test]
fn responses_without_a_body() {
    world(
        || {
            raw(|_, mut stream| async move {
                while let Some(head) = read_head(&mut stream).await {
                    let response = match head.split(' ').nth(1).unwrap() {
                        "/head" => "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n",
                        "/204" => "HTTP/1.1 204 No Content\r\n\r\n",
                        "/304" => "HTTP/1.1 304 Not Modified\r\ncontent-length: 10\r\n\r\n",
                        _ => "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
                    };
                    write(&mut stream, response).await;
                }
            });
        },
        async {
            let client = Client::new();
            for (method, path) in
                [("HEAD", "/head"), ("GET", "/204"), ("GET", "/304"), ("GET", "/0")]
            {
                let response = client.request(empty(method, path)).await.unwrap();
                // Nothing to read, so nothing has to be read for the connection to be free.
                assert!(hyper::body::Body::is_end_stream(response.body()));
                let length = response.headers().get("content-length").cloned();
                if path == "/head" {
                    assert_eq!(length.unwrap(), "1000");
                }
                assert_eq!(text(response).await.unwrap(), "");
            }
            assert_eq!((client.stats().opened, client.stats().reused), (1, 3));
        },
    );
}

#[test]
fn trailers_both_ways() {
    world(
        || {
            raw(|_, mut stream| async move {
                let head = read_head(&mut stream).await.unwrap();
                assert!(head.contains("transfer-encoding: chunked"), "{head}");
                let rest = read_head(&mut stream).await.unwrap();
                assert_eq!(rest, "3\r\none\r\n3\r\ntwo\r\n0\r\nsum: 6\r\n\r\n");
                let response = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\
                     trailer: digest\r\n\r\n4;ext=1\r\nabcd\r\n0\r\ndigest: x\r\n\r\n";
                write(&mut stream, response).await;
                assert!(read_head(&mut stream).await.is_some());
                write(&mut stream, OK).await;
                pause(SECOND).await;
            });
        },
        async {
            let client = Client::new();
            let mut trailers = HeaderMap::new();
            trailers.insert("sum", "6".parse().unwrap());
            let frames = [
                Frame::data(Bytes::from("one")),
                Frame::data(Bytes::from("two")),
                Frame::trailers(trailers),
            ];
            let frames = futures::stream::iter(frames).map(Ok::<_, Error>);
            let request = Request::post("http://10.0.0.1/")
                .header("trailer", "sum")
                .body(StreamBody::new(frames))
                .unwrap();
            let response = client.request(request).await.unwrap();
            let all = response.into_body().collect().await.unwrap();
            assert_eq!(all.trailers().unwrap()["digest"], "x");
            assert_eq!(all.to_bytes(), "abcd");
            get(&client, "/").await.unwrap();
            assert_eq!(client.stats().reused, 1);
        },
    );
}

#[test]
fn a_body_until_the_end_of_the_connection() {
    for version in ["1.1", "1.0"] {
        let response = format!("HTTP/{version} 200 OK\r\n\r\nall of it");
        assert_eq!(judged(Client::builder(), response), None);
    }
}

#[test]
fn a_body_cut_short_is_an_error() {
    for response in [
        "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nshort",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nshort\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nsho",
        "HTTP/1.1 200 OK\r\ncontent-le",
        "",
    ] {
        assert_eq!(judged(Client::builder(), response), Some(ErrorKind::Closed), "{response:?}");
    }
}

#[test]
fn what_is_no_response() {
    for response in [
        "SSH-2.0-OpenSSH_9.2\r\n\r\n",
        "HTTP/3.7 200 OK\r\n\r\n",
        "HTTP/1.1 20x OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nbad header\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nno size\r\n0\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    ] {
        let kind = judged(Client::builder(), response);
        assert_eq!(kind, Some(ErrorKind::Protocol), "{response:?}");
    }
}

#[test]
fn heads_are_bounded() {
    let long = format!("HTTP/1.1 200 OK\r\nx: {}\r\ncontent-length: 0\r\n\r\n", "y".repeat(20_000));
    let many = format!("HTTP/1.1 200 OK\r\n{}content-length: 0\r\n\r\n", "x: y\r\n".repeat(200));
    let endless = format!("HTTP/1.1 200 OK\r\n{}", "x: y\r\n".repeat(1 << 20));
    let with = Client::builder;
    assert_eq!(judged(with(), long.clone()), None);
    assert_eq!(judged(with().max_head_size(10_000), long), Some(ErrorKind::Protocol));
    assert_eq!(judged(with(), many.clone()), Some(ErrorKind::Protocol));
    assert_eq!(judged(with().max_headers(300), many), None);
    assert_eq!(judged(with().max_headers(usize::MAX), endless), Some(ErrorKind::Protocol));
}

/// Sends `expect: 100-continue` to a server that does `answer` with the head; returns when
/// the body came there and what the client got.
fn expecting(answer: &'static str, wait: u32) -> (Option<f64>, String, usize) {
    let arrival = Rc::new(Cell::new(None));
    let seen = arrival.clone();
    let (text, connections) = world(
        move || {
            raw(move |_, mut stream| {
                let seen = seen.clone();
                async move {
                    let head = read_head(&mut stream).await.unwrap();
                    assert!(head.contains("expect: 100-continue\r\n"), "{head}");
                    pause(SECOND * wait / 10).await;
                    write(&mut stream, answer).await;
                    let mut body = [0; 4];
                    if stream.read_exact(&mut body).await.is_err() {
                        return;
                    }
                    assert_eq!(&body, b"body");
                    seen.set(Some((throng_runtime::now().as_millis() / 100) as f64 / 10.0));
                    if !answer.contains("HTTP/1.1 2") {
                        write(&mut stream, OK).await;
                    }
                    assert_eq!(read_head(&mut stream).await, None);
                }
            });
        },
        async {
            let client = Client::new();
            let request = Request::put("http://10.0.0.1/").header("expect", "100-continue");
            let request = request.body(Full::new(Bytes::from("body"))).unwrap();
            let response = client.request(request).await.unwrap();
            let status = response.status().as_u16();
            let body = text(response).await.unwrap();
            pause(3 * SECOND).await;
            (format!("{status} {body}"), client.connections())
        },
    );
    (arrival.get(), text, connections)
}

#[test]
fn a_body_waits_until_it_is_asked_for() {
    let go_on = "HTTP/1.1 100 Continue\r\n\r\n";
    assert_eq!(expecting(go_on, 5), (Some(0.5), "200 ok".into(), 1));
    // A server that does not know of it.
    assert_eq!(expecting("", 0), (Some(1.0), "200 ok".into(), 1));
    // One that does not want the body: it is not sent, and the connection, in the middle of a
    // request, is of no more use.
    let no = "HTTP/1.1 417 Expectation Failed\r\ncontent-length: 2\r\n\r\nno";
    assert_eq!(expecting(no, 5), (None, "417 no".into(), 0));
}

#[test]
fn an_unread_body_holds_its_server_back() {
    let (sent, count) = counter();
    world(
        move || {
            raw(move |_, mut stream| {
                let count = count.clone();
                async move {
                    read_head(&mut stream).await.unwrap();
                    write(&mut stream, "HTTP/1.1 200 OK\r\ncontent-length: 10000000\r\n\r\n").await;
                    for _ in 0..1000 {
                        write(&mut stream, [1; 10_000]).await;
                        count.set(count.get() + 1);
                    }
                }
            });
        },
        async move {
            let client = Client::new();
            let response = client.request(empty("GET", "/")).await.unwrap();
            pause(20 * SECOND).await;
            let waiting = sent.get();
            assert!(waiting < 200, "{waiting} pieces of 10 kB went to nobody");
            let all = response.into_body().collect().await.unwrap().to_bytes();
            assert_eq!((all.len(), sent.get()), (10_000_000, 1000));
        },
    );
}

#[test]
fn an_upload_goes_no_faster_than_its_server_reads() {
    let (made, count) = counter();
    world(
        || {
            raw(|_, mut stream| async move {
                let head = read_head(&mut stream).await.unwrap();
                assert!(head.contains("content-length") || head.contains("chunked"));
                pause(20 * SECOND).await;
                let mut all = Vec::new();
                let mut piece = [0; 10_000];
                while !all.ends_with(b"0\r\n\r\n") {
                    let n = stream.read(&mut piece).await.unwrap();
                    all.extend_from_slice(&piece[..n]);
                }
                write(&mut stream, OK).await;
                pause(SECOND).await;
            });
        },
        async move {
            let pieces = futures::stream::iter(0..1000).map(move |_| {
                count.set(count.get() + 1);
                Ok::<_, Error>(Frame::data(Bytes::from_static(&[1; 10_000])))
            });
            let request = Request::post("http://10.0.0.1/").body(StreamBody::new(pieces)).unwrap();
            let client = Client::new();
            let begin = throng_runtime::now();
            let watch = async {
                pause(19 * SECOND).await;
                assert!(made.get() < 200, "{} pieces of 10 kB were made", made.get());
            };
            let (response, ()) = futures::join!(client.request(request), watch);
            assert_eq!(text(response.unwrap()).await.unwrap(), "ok");
            assert!(throng_runtime::now() - begin < 60 * SECOND);
            assert_eq!(made.get(), 1000);
        },
    );
}

#[test]
fn the_callers_body_may_fail() {
    world(|| drop(serve(Server::new())), async {
        let pieces = futures::stream::iter([
            Ok(Frame::data(Bytes::from("begun"))),
            Err(std::io::Error::other("the disk is gone")),
        ]);
        let request = Request::post("http://10.0.0.1/echo").body(StreamBody::new(pieces)).unwrap();
        let client = Client::new();
        let begin = throng_runtime::now();
        let error = match client.request(request).await {
            Ok(response) => response.into_body().collect().await.unwrap_err(),
            Err(error) => error,
        };
        assert_passed(begin, SECOND / 100);
        assert!(matches!(error.kind(), ErrorKind::RequestBody | ErrorKind::Closed), "{error}");
        pause(SECOND).await;
        assert_eq!(client.connections(), 0);
    });
}

#[test]
fn connect_names_the_port() {
    world(
        || {
            raw(|_, mut stream| async move {
                let head = read_head(&mut stream).await.unwrap();
                assert!(head.starts_with("CONNECT 10.0.0.1:80 HTTP/1.1\r\n"), "{head}");
                write(&mut stream, "HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n").await;
            });
        },
        async {
            let response = Client::new().request(empty("CONNECT", "")).await.unwrap();
            assert_eq!(response.status(), 403);
        },
    );
}

#[test]
fn a_length_without_a_body_is_not_sent() {
    world(|| raw(|_, stream| crate::world::answer_all(stream)), async {
        let client = Client::new();
        for (length, refused) in [("5", true), ("0", false)] {
            let request = Request::post("http://10.0.0.1/").header("content-length", length);
            let request = request.body(Empty::<Bytes>::new()).unwrap();
            let kind = client.request(request).await.err().map(|error| error.kind());
            assert_eq!(kind, refused.then_some(ErrorKind::RequestBody));
        }
        assert_eq!(client.stats().opened, 1);
    });
}
