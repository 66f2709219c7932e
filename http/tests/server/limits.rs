//! Limits and timeouts, and a listener that fails.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::AsyncReadExt;
use throng_http::{Accept, Server};

use crate::site::{get, read_reply, send, serve_site, site};
use crate::support::{End, Pace, assert_passed, run, spawn};

const SECOND: Duration = Duration::from_secs(1);

fn settings() -> Server {
    Server::new().header_timeout(10 * SECOND).idle_timeout(60 * SECOND)
}

#[test]
fn heads_too_large_get_431() {
    run(async {
        let (dialer, _server) = serve_site(Server::new().max_header_size(4096).max_headers(20));
        let mut client = dialer.connect();
        send(&mut client, &format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(5000))).await;
        assert_eq!(read_reply(&mut client).await.unwrap().status, 431);
        assert_eq!(read_reply(&mut client).await, None);
        let mut client = dialer.connect();
        send(&mut client, &format!("GET / HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(21))).await;
        assert_eq!(read_reply(&mut client).await.unwrap().status, 431);
        let mut client = dialer.connect();
        send(&mut client, &format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(3900))).await;
        assert_eq!(read_reply(&mut client).await.unwrap().status, 404);
    });
}

#[test]
fn a_silent_connection_ends_after_the_header_timeout() {
    run(async {
        let (dialer, server) = serve_site(settings());
        let mut client = dialer.connect();
        assert_eq!(read_reply(&mut client).await, None);
        assert_passed(throng_runtime::Instant::ZERO, 10 * SECOND);
        assert_eq!(server.counters().header_timeouts, 1);
    });
}

#[test]
fn a_slow_head_ends_with_408_counted_from_its_first_byte() {
    for (park, warm_up) in [(true, "GET"), (false, "GET"), (true, "POST")] {
        run(async move {
            let (dialer, server) = serve_site(settings().park(park));
            let mut client = dialer.connect();
            let request =
                format!("{warm_up} /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc");
            send(&mut client, &request).await;
            assert_eq!(read_reply(&mut client).await.unwrap().status, 200);
            throng_runtime::sleep(50 * SECOND).await;
            let begin = throng_runtime::now();
            for byte in ["G", "E", "T", " ", "/"] {
                send(&mut client, byte).await;
                throng_runtime::sleep(SECOND).await;
            }
            assert_eq!(read_reply(&mut client).await.unwrap().status, 408);
            assert_passed(begin, 10 * SECOND);
            assert_eq!(read_reply(&mut client).await, None);
            assert_eq!(server.counters().header_timeouts, 1);
        });
    }
}

#[test]
fn an_idle_connection_ends_after_the_idle_timeout() {
    for (park, method) in [(true, "GET"), (false, "GET"), (true, "POST")] {
        run(async move {
            let (dialer, server) = serve_site(settings().park(park));
            let mut client = dialer.connect();
            throng_runtime::sleep(5 * SECOND).await;
            let request =
                format!("{method} /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc");
            for _ in 0..3 {
                send(&mut client, &request).await;
                assert_eq!(read_reply(&mut client).await.unwrap().text(), "abc");
                throng_runtime::sleep(59 * SECOND).await;
            }
            assert_eq!(read_reply(&mut client).await, None);
            assert_passed(throng_runtime::Instant::ZERO, 5 * SECOND + 3 * 59 * SECOND + SECOND);
            assert_eq!(server.counters().idle_timeouts, 1);
            assert_eq!(server.connections(), 0);
        });
    }
}

#[test]
fn a_slow_service_is_not_idle() {
    run(async {
        let settings = settings().idle_timeout(SECOND).header_timeout(SECOND);
        let (dialer, _server) = serve_site(settings);
        let mut client = dialer.connect();
        assert_eq!(get(&mut client, "/slow").await.unwrap().text(), "slow");
        // A body that comes slowly is not idle either.
        send(&mut client, "POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n").await;
        for byte in ["h", "e", "l", "l", "o"] {
            throng_runtime::sleep(5 * SECOND).await;
            send(&mut client, byte).await;
        }
        assert_eq!(read_reply(&mut client).await.unwrap().text(), "hello");
        assert_eq!(get(&mut client, "/hello").await.unwrap().text(), "hello");
    });
}

const BODIES: [[&str; 3]; 2] = [
    ["content-length: 5", "he", "llo"],
    ["transfer-encoding: chunked", "2\r\nhe\r\n", "3\r\nllo\r\n0\r\n\r\n"],
];

#[test]
fn a_body_that_does_not_come_ends_with_408() {
    for [framing, part, _] in BODIES {
        run(async move {
            let (dialer, server) = serve_site(settings());
            let mut client = dialer.connect();
            send(&mut client, &format!("POST /count HTTP/1.1\r\n{framing}\r\n\r\n")).await;
            for byte in part.bytes() {
                throng_runtime::sleep(50 * SECOND).await;
                send(&mut client, std::str::from_utf8(&[byte]).unwrap()).await;
            }
            let begin = throng_runtime::now();
            assert_eq!(read_reply(&mut client).await.unwrap().status, 408);
            assert_passed(begin, 60 * SECOND);
            assert_eq!(read_reply(&mut client).await, None);
            assert_eq!((server.counters().body_timeouts, server.connections()), (1, 1));
            drop(client);
            throng_runtime::sleep(SECOND).await;
            assert_eq!(server.connections(), 0);
        });
    }
}

#[test]
fn a_body_that_stops_under_its_response_ends_the_connection() {
    run(async {
        let (dialer, server) = serve_site(settings().body_timeout(7 * SECOND));
        let mut client = dialer.connect();
        send(&mut client, "POST /echo HTTP/1.1\r\ncontent-length: 5\r\n\r\nhe").await;
        let begin = throng_runtime::now();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("he"), "{answer}");
        assert_passed(begin, 7 * SECOND);
        assert_eq!(server.counters().body_timeouts, 1);
    });
}

#[test]
fn a_service_may_take_its_time_with_a_body() {
    for [framing, part, rest] in BODIES {
        for path in ["/hold", "/think", "/ignore"] {
            run(async move {
                let (dialer, server) = serve_site(settings());
                let mut client = dialer.connect();
                let head = format!("POST {path} HTTP/1.1\r\n{framing}\r\n\r\n{part}");
                send(&mut client, &head).await;
                throng_runtime::sleep(SECOND).await;
                if path != "/ignore" {
                    send(&mut client, rest).await;
                }
                let answer = read_reply(&mut client).await.unwrap();
                assert_eq!(answer.text(), if path == "/ignore" { "ignored" } else { "hello" });
                assert_eq!(server.counters().body_timeouts, 0);
            });
        }
    }
}

#[test]
fn a_response_that_is_not_taken_ends_the_connection() {
    run(async {
        let (dialer, server) = serve_site(settings());
        let mut client = dialer.connect_at(1000, Pace::FAST);
        send(&mut client, "GET /large?100000 HTTP/1.1\r\nhost: x\r\n\r\n").await;
        let mut some = [0; 1000];
        for _ in 0..3 {
            throng_runtime::sleep(50 * SECOND).await;
            client.read_exact(&mut some).await.unwrap();
        }
        let begin = throng_runtime::now();
        while server.connections() > 0 {
            throng_runtime::sleep(SECOND / 100).await;
        }
        assert_passed(begin, 60 * SECOND);
        assert_eq!(server.counters().body_timeouts, 1);
    });
}

#[test]
fn a_head_behind_a_slow_request_has_its_time() {
    run(async {
        let (dialer, _server) = serve_site(settings());
        let mut client = dialer.connect();
        send(&mut client, "GET /think HTTP/1.1\r\n\r\nGET /hello HT").await;
        assert_eq!(read_reply(&mut client).await.unwrap().status, 200);
        throng_runtime::sleep(5 * SECOND).await;
        send(&mut client, "TP/1.1\r\n\r\n").await;
        assert_eq!(read_reply(&mut client).await.unwrap().text(), "hello");
        send(&mut client, "GET /think HTTP/1.1\r\n\r\nGET /hello HT").await;
        assert_eq!(read_reply(&mut client).await.unwrap().status, 200);
        let begin = throng_runtime::now();
        assert_eq!(read_reply(&mut client).await.unwrap().status, 408);
        assert_passed(begin, 10 * SECOND);
    });
}

#[test]
fn connections_beyond_the_limit_wait() {
    run(async {
        let (dialer, server) = serve_site(Server::new().max_connections(2));
        let mut first = dialer.connect();
        let mut second = dialer.connect();
        assert_eq!(get(&mut first, "/hello").await.unwrap().status, 200);
        assert_eq!(get(&mut second, "/hello").await.unwrap().status, 200);
        let mut third = dialer.connect();
        send(&mut third, "GET /hello HTTP/1.1\r\nhost: x\r\n\r\n").await;
        let mut byte = [0];
        let early = throng_runtime::timeout(5 * SECOND, third.read(&mut byte));
        assert!(early.await.is_err(), "the third connection is not served yet");
        assert_eq!((server.connections(), server.counters().accepted), (2, 2));
        assert!(server.counters().at_limit > 0);
        drop(first);
        assert_eq!(read_reply(&mut third).await.unwrap().text(), "hello");
        assert_eq!(get(&mut second, "/hello").await.unwrap().status, 200);
    });
}

#[test]
fn a_failing_listener_is_survived() {
    run(async {
        let (dialer, server) = serve_site(Server::new());
        dialer.fail(ErrorKind::ConnectionAborted);
        let begin = throng_runtime::now();
        assert_eq!(get(&mut dialer.connect(), "/hello").await.unwrap().status, 200);
        assert_passed(begin, Duration::ZERO);
        // The listener itself: pauses of 5, 10, 20, ... ms.
        for _ in 0..5 {
            dialer.fail(ErrorKind::OutOfMemory);
        }
        assert_eq!(get(&mut dialer.connect(), "/hello").await.unwrap().status, 200);
        let passed = throng_runtime::now() - begin;
        assert!((155..200).contains(&passed.as_millis()), "{passed:?}");
        assert_eq!(server.counters().accept_errors, 6);
    });
}

#[test]
fn connections_that_fail_one_after_the_other_leave_time_for_the_rest() {
    struct Failing;

    impl Accept for Failing {
        type Io = End;

        fn poll_accept(&self, _: &mut Context<'_>) -> Poll<io::Result<(End, SocketAddr)>> {
            Poll::Ready(Err(ErrorKind::ConnectionAborted.into()))
        }
    }

    run(async {
        let server = Server::new().start();
        let running = server.clone();
        spawn(async move {
            running.serve(Failing, throng_http::service_fn(site)).await;
        });
        for _ in 0..10 {
            throng_runtime::yield_now().await;
        }
        assert!(server.counters().accept_errors > 0);
        server.drain(SECOND).await;
    });
}
