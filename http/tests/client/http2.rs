//! HTTP/2: many requests on a connection, and its ends.

use std::rc::Rc;

use bytes::Bytes;
use futures::AsyncReadExt;
use futures::future::join_all;
use http_body_util::{BodyExt, Empty, Full};
use hyper::Request;
use hyper::service::Service;
use throng_http::Server;
use throng_http::client::{Builder, Client, ErrorKind, HttpVersion, Phase};
use throng_net::TcpStream;

use crate::world::{
    SECOND, assert_passed, counter, empty, get, pause, raw, serve, spawn, text, world, write,
};

fn http2() -> Builder {
    Client::builder().version(HttpVersion::Http2)
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
/// A whole header block: `:status: 200` (RFC 7541 appendix A, index 8).
const STATUS_200: &[u8] = &[0x88];

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

fn goaway(last: u32) -> Vec<u8> {
    frame(GOAWAY, 0, 0, &[last.to_be_bytes(), [0; 4]].concat())
}

/// SETTINGS with a bound on streams (RFC 9113 6.5.2, identifier 3).
fn settings(max_streams: u32) -> Vec<u8> {
    frame(SETTINGS, 0, 0, &[&[0, 3], &max_streams.to_be_bytes()[..]].concat())
}

fn answer(stream: u32) -> Vec<u8> {
    [frame(HEADERS, 4, stream, STATUS_200), frame(DATA, END_STREAM, stream, b"ok")].concat()
}

/// The next frame: its type and stream. `None` at the end.
async fn read_frame(io: &mut TcpStream) -> Option<(u8, u32)> {
    let mut head = [0; 9];
    io.read_exact(&mut head).await.ok()?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
    io.read_exact(&mut vec![0; length]).await.ok()?;
    if head[3] == SETTINGS && head[4] & ACK == 0 {
        write(io, frame(SETTINGS, ACK, 0, &[])).await;
    }
    Some((head[3], u32::from_be_bytes([head[5], head[6], head[7], head[8]])))
}

/// The stream of the next request.
async fn read_request(io: &mut TcpStream) -> Option<u32> {
    loop {
        match read_frame(io).await? {
            (HEADERS, stream) => return Some(stream),
            _ => continue,
        }
    }
}

/// Reads the client's preface and sends the server's.
async fn greet(io: &mut TcpStream, max_streams: u32) {
    let mut preface = [0; 24];
    io.read_exact(&mut preface).await.unwrap();
    assert_eq!(&preface, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    write(io, settings(max_streams)).await;
}

#[test]
fn requests_share_a_connection_at_the_same_time() {
    let server = Rc::new(std::cell::OnceCell::<throng_http::Running>::new());
    let seen = server.clone();
    world(move || assert!(server.set(serve(Server::new())).is_ok()), async move {
        let client = http2().build();
        let begin = throng_runtime::now();
        for reply in join_all((0..50).map(|_| get(&client, "/slow"))).await {
            assert_eq!(reply.unwrap(), "slow");
        }
        assert_passed(begin, SECOND);
        let body = Full::new(Bytes::from(vec![5; 300_000]));
        let request = Request::post("http://10.0.0.1/echo").body(body).unwrap();
        let reply = client.request(request).await.unwrap();
        let bytes = reply.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(bytes, vec![5; 300_000]);
        assert_eq!((client.stats().opened, client.stats().reused), (1, 50));
        assert_eq!((client.connections(), seen.get().unwrap().counters().accepted), (1, 1));
    });
}

#[test]
fn the_authority_is_the_hosts() {
    world(|| drop(serve(Server::new())), async {
        let client = http2().build();
        let shown = get(&client, "/show?a").await.unwrap();
        assert_eq!(shown, "GET /show {}");
        let request = Request::get("http://10.0.0.1/show").header("host", "example.org");
        let request = request.header("connection", "x-hop").header("x-hop", "1");
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        let shown = text(client.request(request).await.unwrap()).await.unwrap();
        assert_eq!(shown, "GET /show {}");
    });
}

#[test]
fn no_more_streams_than_the_peer_takes() {
    for connections in [1, 3] {
        let server = Rc::new(std::cell::OnceCell::<throng_http::Running>::new());
        let seen = server.clone();
        world(
            move || assert!(server.set(serve(Server::new().max_streams(2))).is_ok()),
            async move {
                let client = http2().max_connections_per_host(connections).build();
                get(&client, "/hello").await.unwrap();
                let begin = throng_runtime::now();
                for reply in join_all((0..6).map(|_| get(&client, "/slow"))).await {
                    assert_eq!(reply.unwrap(), "slow");
                }
                // Two streams on each connection.
                assert_passed(begin, SECOND * if connections == 1 { 3 } else { 1 });
                // A new connection's bound is known a round trip after its first requests.
                let retried = if connections == 1 { 0 } else { 2 };
                let stats = client.stats();
                assert_eq!((stats.opened, stats.retried), (connections as u64, retried));
                assert_eq!(seen.get().unwrap().counters().errors, 0);
            },
        );
    }
}

#[test]
fn a_refused_stream_is_tried_again() {
    // The peer's bound comes after the requests: it refuses those beyond it (RFC 9113 5.1.2).
    world(
        || {
            raw(|_, mut io| async move {
                let mut preface = [0; 24];
                io.read_exact(&mut preface).await.unwrap();
                let first = read_request(&mut io).await.unwrap();
                let second = read_request(&mut io).await.unwrap();
                write(&mut io, settings(1)).await;
                write(&mut io, frame(RST_STREAM, 0, second, &7_u32.to_be_bytes())).await;
                pause(SECOND).await;
                write(&mut io, answer(first)).await;
                let third = read_request(&mut io).await.unwrap();
                write(&mut io, answer(third)).await;
                pause(SECOND).await;
            });
        },
        async {
            let client = http2().max_connections_per_host(1).build();
            let ask = async |body: &'static str| {
                let request = Request::post("http://10.0.0.1/");
                let request = request.body(Full::new(Bytes::from(body))).unwrap();
                text(client.request(request).await.unwrap()).await.unwrap()
            };
            assert_eq!(join_all([ask(""), ask("twice")]).await, ["ok", "ok"]);
            assert_eq!((client.stats().opened, client.stats().retried), (1, 1));
        },
    );
}

#[test]
fn after_goaway_a_new_connection_takes_over() {
    world(
        || {
            raw(|n, mut io| async move {
                greet(&mut io, 100).await;
                let first = read_request(&mut io).await.unwrap();
                if n == 0 {
                    // The second is beyond the last one that is processed (RFC 9113 6.8).
                    read_request(&mut io).await.unwrap();
                    write(&mut io, goaway(first)).await;
                    pause(2 * SECOND).await;
                }
                write(&mut io, answer(first)).await;
                while let Some(stream) = read_request(&mut io).await {
                    write(&mut io, answer(stream)).await;
                }
            });
        },
        async {
            let client = http2().build();
            let begin = throng_runtime::now();
            let first = async {
                assert_eq!(get(&client, "/").await.unwrap(), "ok");
                assert_passed(begin, 2 * SECOND + SECOND / 10);
            };
            let second = async {
                pause(SECOND / 10).await;
                let response = client.request(empty("POST", "/")).await.unwrap();
                assert_eq!(text(response).await.unwrap(), "ok");
                assert_passed(begin, SECOND / 10);
            };
            let third = async {
                pause(SECOND).await;
                assert_eq!(get(&client, "/").await.unwrap(), "ok");
                assert_passed(begin, SECOND);
            };
            futures::join!(first, second, third);
            pause(SECOND).await;
            assert_eq!((client.stats().opened, client.stats().retried), (2, 1));
            assert_eq!(client.connections(), 1);
        },
    );
}

#[test]
fn a_server_may_leave_at_any_time() {
    world(
        || {
            let server = serve(Server::new());
            spawn(async move {
                pause(5 * SECOND).await;
                server.drain(60 * SECOND).await;
                serve(Server::new());
            });
        },
        async {
            let client = http2().build();
            for _ in 0..100 {
                // At 5 s: GOAWAY while one is under way, which is still answered.
                let reply = get(&client, "/slow").await;
                match reply {
                    Ok(reply) => assert_eq!(reply, "slow"),
                    // Between the two servers nobody listens.
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Connect, "{error}"),
                }
                pause(SECOND / 20).await;
            }
            assert_eq!(client.stats().opened, 2);
        },
    );
}

#[test]
fn a_connection_that_dies_under_requests() {
    // The first request was answered, so the connection was in use before; then it is cut.
    let server = || {
        raw(|n, mut io| async move {
            greet(&mut io, 100).await;
            let mut count = 0;
            while let Some(stream) = read_request(&mut io).await {
                count += 1;
                if n == 0 && count == 3 {
                    pause(SECOND / 100).await;
                    return io.abort();
                }
                if n > 0 || count == 1 {
                    write(&mut io, answer(stream)).await;
                }
            }
        });
    };
    world(server, async {
        let client = http2().build();
        assert_eq!(get(&client, "/").await.unwrap(), "ok");
        let (safe, unsafe_one) =
            futures::join!(get(&client, "/"), client.request(empty("POST", "/")));
        assert_eq!(safe.unwrap(), "ok");
        assert_eq!(unsafe_one.unwrap_err().kind(), ErrorKind::Closed);
        let stats = client.stats();
        assert_eq!((stats.opened, stats.retried, client.connections()), (2, 1, 1));
    });
}

#[test]
fn a_body_dropped_midway_resets_its_stream_only() {
    let (reset, count) = counter();
    world(
        move || {
            raw(move |_, mut io| {
                let count = count.clone();
                async move {
                    greet(&mut io, 1).await;
                    while let Some((kind, stream)) = read_frame(&mut io).await {
                        if kind == HEADERS {
                            write(&mut io, frame(HEADERS, 4, stream, STATUS_200)).await;
                            write(&mut io, frame(DATA, 0, stream, b"some")).await;
                        }
                        count.set(count.get() + u32::from(kind == RST_STREAM));
                    }
                }
            });
        },
        async move {
            // With room for one stream, each has to give its place back.
            let client = http2().max_connections_per_host(1).build();
            for i in 1..4 {
                let mut response = client.request(empty("GET", "/")).await.unwrap();
                let frame = response.body_mut().frame().await.unwrap().unwrap();
                assert_eq!(frame.into_data().unwrap(), "some");
                drop(response);
                pause(SECOND).await;
                assert_eq!((reset.get(), client.connections()), (i, 1));
            }
            // One that is given up while it waits for its head, too.
            throng_runtime::timeout(SECOND / 1000, client.request(empty("GET", "/")))
                .await
                .unwrap_err();
            pause(SECOND).await;
            assert_eq!((reset.get(), client.stats().opened), (4, 1));
        },
    );
}

#[test]
fn idle_and_old_connections_are_given_up() {
    world(|| drop(serve(Server::new())), async {
        let client = http2().idle_timeout(10 * SECOND).build();
        for _ in 0..3 {
            get(&client, "/slow").await.unwrap();
            pause(9 * SECOND).await;
        }
        assert_eq!((client.stats().opened, client.connections()), (1, 1));
        pause(2 * SECOND).await;
        assert_eq!((client.stats().evicted, client.connections()), (1, 0));

        let client = http2().max_lifetime(10 * SECOND).build();
        for _ in 0..5 {
            get(&client, "/hello").await.unwrap();
            pause(3 * SECOND).await;
        }
        assert_eq!((client.stats().opened, client.stats().reused), (2, 3));
        pause(10 * SECOND).await;
        assert_eq!(client.connections(), 0);
    });
}

#[test]
fn the_last_client_leaves_responses_their_connection() {
    let server = Rc::new(std::cell::OnceCell::<throng_http::Running>::new());
    let seen = server.clone();
    world(move || assert!(server.set(serve(Server::new())).is_ok()), async move {
        // As a service this time, which is how layers call it.
        let client = http2().build();
        let response = Service::call(&client, empty("GET", "/drip")).await.unwrap();
        drop(client);
        assert_eq!(text(response).await.unwrap(), "x".repeat(10));
        pause(SECOND).await;
        assert_eq!(seen.get().unwrap().connections(), 0);
    });
}

#[test]
fn a_silent_peer_is_found_out_by_pings() {
    for answers in [true, false] {
        let kind = world(
            move || {
                raw(move |_, mut io| async move {
                    greet(&mut io, 100).await;
                    read_request(&mut io).await.unwrap();
                    loop {
                        let mut head = [0; 9];
                        let Ok(()) = io.read_exact(&mut head).await else { return };
                        let mut payload = vec![0; usize::from(head[2])];
                        io.read_exact(&mut payload).await.unwrap();
                        if head[3] == PING && head[4] & ACK == 0 && answers {
                            write(&mut io, frame(PING, ACK, 0, &payload)).await;
                        }
                    }
                });
            },
            async {
                let client =
                    http2().http2_ping(SECOND, 2 * SECOND).head_timeout(20 * SECOND).build();
                let kind = get(&client, "/").await.unwrap_err().kind();
                assert_eq!(answers_late(throng_runtime::now()), kind != ErrorKind::Closed);
                kind
            },
        );
        let expected = if answers { ErrorKind::Timeout(Phase::Head) } else { ErrorKind::Closed };
        assert_eq!(kind, expected);
    }
}

fn answers_late(now: throng_runtime::Instant) -> bool {
    now.as_millis() > 10_000
}

#[test]
fn what_is_no_http2() {
    for garbage in ["HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n", "\0\0\0\x09\0\0\0\0\0"]
    {
        world(
            move || {
                raw(move |_, mut io| async move {
                    write(&mut io, garbage).await;
                    let _ = io.read_to_end(&mut Vec::new()).await;
                });
            },
            async {
                let client = http2().build();
                let error = get(&client, "/").await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Protocol, "{error}");
                pause(SECOND).await;
                assert_eq!(client.connections(), 0);
            },
        );
    }
}

#[test]
fn heads_are_bounded() {
    // A literal field of 20,000 bytes (RFC 7541 6.2.2), in a HEADERS frame and CONTINUATIONs.
    const CONTINUATION: u8 = 9;
    world(
        || {
            raw(|_, mut io| async move {
                greet(&mut io, 100).await;
                let stream = read_request(&mut io).await.unwrap();
                let mut block = vec![0x88, 0x00, 1, b'x', 0x7f, 0xa1, 0x9b, 0x01];
                block.extend([b'y'; 20_000]);
                write(&mut io, frame(HEADERS, 0, stream, &block[..16_000])).await;
                write(&mut io, frame(CONTINUATION, 4, stream, &block[16_000..])).await;
                while read_frame(&mut io).await.is_some() {}
            });
        },
        async {
            let client = http2().max_head_size(10_000).build();
            let error = get(&client, "/").await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Protocol, "{error}");
        },
    );
}

#[test]
fn a_peer_that_has_fallen_silent_gets_no_more_requests() {
    // The first connection's second request is answered by nobody; whether the third is tells
    // a peer that has gone from a slow answer.
    for gone in [true, false] {
        let server = move || {
            raw(move |n, mut io| async move {
                greet(&mut io, 100).await;
                let mut count = 0;
                while let Some(stream) = read_request(&mut io).await {
                    count += 1;
                    if n > 0 || count == 1 || (count > 2 && !gone) {
                        write(&mut io, answer(stream)).await;
                    }
                }
            });
        };
        world(server, async move {
            let client = http2().head_timeout(3 * SECOND).build();
            assert_eq!(get(&client, "/").await.unwrap(), "ok");
            let second = get(&client, "/");
            let third = async {
                pause(SECOND).await;
                get(&client, "/").await
            };
            let (second, third) = futures::join!(second, third);
            assert_eq!(second.unwrap_err().kind(), ErrorKind::Timeout(Phase::Head));
            assert_eq!(third.is_ok(), !gone);
            assert_eq!(get(&client, "/").await.unwrap(), "ok");
            assert_eq!(client.stats().opened, if gone { 2 } else { 1 });
            pause(SECOND).await;
            assert_eq!(client.connections(), 1);
        });
    }
}

#[test]
fn a_caller_that_gives_up_on_a_silent_peer_leaves_it_to_nobody() {
    let server = || {
        raw(|n, mut io| async move {
            greet(&mut io, 100).await;
            while let Some(stream) = read_request(&mut io).await {
                if n > 0 || stream == 1 {
                    write(&mut io, answer(stream)).await;
                }
            }
        });
    };
    world(server, async {
        let client = http2().build();
        assert_eq!(get(&client, "/").await.unwrap(), "ok");
        // In a hurry first.
        for (patience, connections) in [(SECOND / 2, 1), (2 * SECOND, 0)] {
            throng_runtime::timeout(patience, get(&client, "/")).await.unwrap_err();
            pause(SECOND / 10).await;
            assert_eq!(client.connections(), connections);
        }
        assert_eq!(get(&client, "/").await.unwrap(), "ok");
        assert_eq!(client.stats().opened, 2);
    });
}

#[test]
fn a_peer_that_takes_more_streams_gets_those_that_wait() {
    let server = || {
        raw(|_, mut io| async move {
            greet(&mut io, 1).await;
            let first = read_request(&mut io).await.unwrap();
            write(&mut io, answer(first)).await;
            let slow = read_request(&mut io).await.unwrap();
            pause(SECOND).await;
            write(&mut io, settings(2)).await;
            let waiting = read_request(&mut io).await.unwrap();
            write(&mut io, answer(waiting)).await;
            pause(5 * SECOND).await;
            write(&mut io, answer(slow)).await;
            pause(SECOND).await;
        });
    };
    world(server, async {
        let client = http2().max_connections_per_host(1).build();
        get(&client, "/").await.unwrap();
        let begin = throng_runtime::now();
        let waiting = async {
            assert_eq!(get(&client, "/").await.unwrap(), "ok");
            assert_passed(begin, SECOND);
        };
        let (slow, ()) = futures::join!(get(&client, "/"), waiting);
        assert_eq!(slow.unwrap(), "ok");
        assert_passed(begin, 6 * SECOND);
    });
}
