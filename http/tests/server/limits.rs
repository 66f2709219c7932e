//! Limits and timeouts, and a listener that fails.

use std::io::ErrorKind;
use std::time::Duration;

use futures::AsyncReadExt;
use throng_http::Server;

use crate::site::{get, read_reply, send, serve_site};
use crate::support::{assert_passed, run};

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
