//! HTTP/1.1: keep-alive, pipelining, bodies, errors, parking.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use throng_http::Server;

use crate::site::{READ_LATER, get, pattern, read_reply, send, serve_site, serve_site_by_hyper};
use crate::support::{Pace, assert_passed, run};

#[test]
fn keep_alive_and_parking_between_requests() {
    for park in [true, false] {
        run(async move {
            let (dialer, server) = serve_site_by_hyper(Server::new().park(park));
            let mut client = dialer.connect();
            for i in 0..10 {
                let reply = get(&mut client, "/hello").await.unwrap();
                assert_eq!((reply.status, reply.text()), (200, "hello"));
                throng_runtime::sleep(Duration::from_secs(i)).await;
            }
            assert_eq!(get(&mut client, "/nowhere").await.unwrap().status, 404);
            throng_runtime::sleep(Duration::from_millis(1)).await;
            let counters = server.counters();
            assert_eq!((counters.accepted, counters.requests, counters.errors), (1, 11, 0));
            assert_eq!(counters.parked, if park { 11 } else { 0 });
            drop(client);
            throng_runtime::sleep(Duration::from_millis(1)).await;
            assert_eq!(server.connections(), 0);
        });
    }
}

#[test]
fn parking_after_a_body() {
    let length = "POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc";
    let chunked = "POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n\
                   1\r\na\r\n2;x=y\r\nbc\r\n0\r\nt: u\r\n\r\n";
    for request in [length, chunked] {
        for pace in [Pace::FAST, Pace::SLOW] {
            run(async move {
                let (dialer, server) = serve_site_by_hyper(Server::new());
                let mut client = dialer.connect_at(100, pace);
                for i in 1..4 {
                    send(&mut client, request).await;
                    assert_eq!(read_reply(&mut client).await.unwrap().text(), "abc");
                    throng_runtime::sleep(Duration::from_secs(1)).await;
                    assert_eq!(server.counters().parked, i);
                }
                // The last byte of a body comes after the response has ended.
                let request = request.replace("echo", "later").replace("abc", "\0\x01\x02");
                let request = request.replace("a\r", "\0\r").replace("bc", "\x01\x02");
                for cut in 1..12 {
                    READ_LATER.set(None);
                    let (start, end) = request.split_at(request.len() - cut);
                    send(&mut client, start).await;
                    throng_runtime::sleep(Duration::from_secs(5)).await;
                    send(&mut client, end).await;
                    assert_eq!(read_reply(&mut client).await.unwrap().text(), "later");
                    assert_eq!(get(&mut client, "/hello").await.unwrap().text(), "hello");
                    throng_runtime::sleep(Duration::from_secs(10)).await;
                    assert_eq!(READ_LATER.get(), Some(3), "the last {cut} bytes later");
                }
                assert_eq!((server.counters().accepted, server.counters().errors), (1, 0));
            });
        }
    }
}

#[test]
fn a_body_still_being_read_does_not_park() {
    for length in [true, false] {
        run(async move {
            let (dialer, server) = serve_site_by_hyper(Server::new());
            let mut client = dialer.connect();
            let mut request = b"POST /later HTTP/1.1\r\nhost: x\r\n".to_vec();
            if length {
                request.extend(b"content-length: 100\r\n\r\n");
                request.extend(pattern(0, 100));
            } else {
                request.extend(b"transfer-encoding: chunked\r\n\r\n");
                for chunk in 0..10 {
                    request.extend(b"a\r\n");
                    request.extend(pattern(10 * chunk, 10));
                    request.extend(b"\r\n");
                }
                request.extend(b"0\r\n\r\n");
            }
            READ_LATER.set(None);
            futures::AsyncWriteExt::write_all(&mut client, &request).await.unwrap();
            assert_eq!(read_reply(&mut client).await.unwrap().text(), "later");
            throng_runtime::sleep(Duration::from_millis(1)).await;
            // What is read after the response, hyper is not done with.
            assert_eq!(server.counters().parked, u64::from(length));
            assert_eq!(get(&mut client, "/hello").await.unwrap().text(), "hello");
            throng_runtime::sleep(Duration::from_secs(20)).await;
            assert_eq!(READ_LATER.get(), Some(100));
            assert_eq!(server.counters().parked, 1 + u64::from(length));
        });
    }
}

#[test]
fn newlines_between_requests_are_passed_over() {
    run(async {
        let (dialer, server) = serve_site(Server::new());
        let mut client = dialer.connect();
        assert_eq!(get(&mut client, "/hello").await.unwrap().status, 200);
        send(&mut client, "\r\n").await;
        throng_runtime::sleep(Duration::from_secs(50)).await;
        assert_eq!(get(&mut client, "/hello").await.unwrap().status, 200);
        send(&mut client, "\r\n\n").await;
        let begin = throng_runtime::now();
        assert_eq!(read_reply(&mut client).await, None);
        assert_passed(begin, Duration::from_secs(60));
        assert_eq!((server.counters().idle_timeouts, server.counters().header_timeouts), (1, 0));
    });
}

#[test]
fn a_request_in_every_cut() {
    let request = "GET /hello HTTP/1.1\r\nhost: x\r\n\r\n";
    run(async move {
        let (dialer, server) = serve_site(Server::new());
        let mut client = dialer.connect();
        for cut in 0..request.len() {
            // Two requests and the beginning of a third, on a connection that parks.
            send(&mut client, request).await;
            send(&mut client, request).await;
            send(&mut client, &request[..cut]).await;
            throng_runtime::sleep(Duration::from_millis(1)).await;
            send(&mut client, &request[cut..]).await;
            for _ in 0..3 {
                assert_eq!(read_reply(&mut client).await.unwrap().text(), "hello");
            }
        }
        assert_eq!(server.counters().accepted, 1);
    });
}

#[test]
fn byte_by_byte() {
    run(async {
        let (dialer, _server) = serve_site(Server::new());
        let mut client = dialer.connect_at(1, Pace::SLOW);
        for _ in 0..3 {
            assert_eq!(get(&mut client, "/hello").await.unwrap().text(), "hello");
        }
        // Begins like the HTTP/2 preface and is none.
        let mut client = dialer.connect_at(1, Pace::SLOW);
        send(&mut client, "PRI /hello HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert_eq!(read_reply(&mut client).await.unwrap().status, 200);
    });
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    run(async {
        let (dialer, server) = serve_site(Server::new());
        let mut client = dialer.connect();
        let mut all = String::new();
        for i in 0..100 {
            let path = ["/hello", "/nowhere", "/slow"][i % 3];
            all += &format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
        }
        send(&mut client, &all).await;
        for i in 0..100 {
            let reply = read_reply(&mut client).await.unwrap();
            assert_eq!(reply.text(), ["hello", "nothing here", "slow"][i % 3]);
        }
        assert_eq!(server.counters().requests, 100);
    });
}

#[test]
fn chunked_bodies_both_ways() {
    run(async {
        let (dialer, _server) = serve_site(Server::new());
        let mut client = dialer.connect();
        for _ in 0..2 {
            send(
                &mut client,
                "POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n\
                 3\r\nabc\r\n10;ext=1\r\n0123456789abcdef\r\n0\r\ntrailer: t\r\n\r\n",
            )
            .await;
            let reply = read_reply(&mut client).await.unwrap();
            assert!(reply.head.contains("transfer-encoding: chunked"), "{}", reply.head);
            assert_eq!(reply.text(), "abc0123456789abcdef");
            // The connection goes on, parked or not.
            assert_eq!(get(&mut client, "/hello").await.unwrap().text(), "hello");
        }
    });
}

#[test]
fn large_bodies_stream_through_a_small_pipe() {
    const SIZE: usize = 5_000_000;
    run(async {
        let (dialer, _server) = serve_site(Server::new());
        let mut client = dialer.connect_at(3000, Pace { chunk: 1000, stutter: true });
        let reply = get(&mut client, &format!("/large?{SIZE}")).await.unwrap();
        assert_eq!(reply.body, pattern(0, SIZE));
        send(
            &mut client,
            &format!("POST /count HTTP/1.1\r\nhost: x\r\ncontent-length: {SIZE}\r\n\r\n"),
        )
        .await;
        for offset in (0..SIZE).step_by(50_000) {
            futures::AsyncWriteExt::write_all(&mut client, &pattern(offset, 50_000)).await.unwrap();
        }
        assert_eq!(read_reply(&mut client).await.unwrap().text(), SIZE.to_string());
    });
}

#[test]
fn expect_100_continue() {
    run(async {
        let (dialer, _server) = serve_site(Server::new());
        let mut client = dialer.connect();
        send(
            &mut client,
            "POST /count HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n",
        )
        .await;
        assert_eq!(read_reply(&mut client).await.unwrap().status, 100);
        send(&mut client, "\0\x01\x02\x03\x04").await;
        assert_eq!(read_reply(&mut client).await.unwrap().text(), "5");
    });
}

#[test]
fn a_body_nobody_reads_does_not_spoil_the_next_request() {
    run(async {
        let (dialer, _server) = serve_site(Server::new());
        let mut client = dialer.connect();
        send(&mut client, "POST /early HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello")
            .await;
        assert_eq!(read_reply(&mut client).await.unwrap().text(), "did not read the body");
        // hyper may close or go on; it must not take the body for a request.
        if let Some(reply) = get(&mut client, "/hello").await {
            assert_eq!(reply.text(), "hello");
        }
    });
}

#[test]
fn connections_close_when_the_client_says_so() {
    run(async {
        let (dialer, _server) = serve_site(Server::new());
        let mut client = dialer.connect();
        send(&mut client, "GET /hello HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
        assert_eq!(read_reply(&mut client).await.unwrap().text(), "hello");
        assert_eq!(read_reply(&mut client).await, None);
        let mut client = dialer.connect();
        send(&mut client, "GET /hello HTTP/1.0\r\n\r\n").await;
        assert_eq!(read_reply(&mut client).await.unwrap().text(), "hello");
        assert_eq!(read_reply(&mut client).await, None);
    });
}

#[test]
fn malformed_requests_get_400_and_the_connection_ends() {
    for request in [
        "rubbish\r\n\r\n",
        "GET /\0 HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nno colon\r\n\r\n",
        "POST / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        "POST / HTTP/1.1\r\ntransfer-encoding: bogus\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\x01\x7c\x03\x03",
    ] {
        run(async move {
            let (dialer, server) = serve_site(Server::new());
            let mut client = dialer.connect();
            send(&mut client, request).await;
            assert_eq!(read_reply(&mut client).await.unwrap().status, 400, "{request:?}");
            assert_eq!(read_reply(&mut client).await, None);
            assert_eq!(server.counters().errors, 1);
        });
    }
}

#[test]
fn what_another_may_read_in_another_way_reaches_no_service_and_is_told() {
    const CHUNKED: &str = "transfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    let good = "GET /hello HTTP/1.1\r\nhost: x\r\n\r\n";
    for (status, why, request) in [
        (400, "both", format!("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n{CHUNKED}")),
        (
            400,
            "more than once",
            "POST / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\na".into(),
        ),
        (400, "CR LF", "GET /hello HTTP/1.1\nhost: x\r\n\r\n".into()),
        (400, "header", "GET /hello HTTP/1.1\r\nhost : x\r\n\r\n".into()),
        (431, "large", format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(20_000))),
        (408, "in time", "GET / HTT".into()),
    ] {
        run(async move {
            let (dialer, server) = serve_site(Server::new());
            let told = Rc::new(RefCell::new(Vec::new()));
            let telling = told.clone();
            server.on_refused(move |refused| telling.borrow_mut().push(refused.clone()));
            let mut client = dialer.connect();
            // What follows on the connection is not looked at, what came before is answered.
            send(&mut client, &format!("{good}{request}")).await;
            if status == 400 {
                send(&mut client, good).await;
            }
            assert_eq!(read_reply(&mut client).await.unwrap().text(), "hello", "{request:?}");
            assert_eq!(read_reply(&mut client).await.unwrap().status, status, "{request:?}");
            assert_eq!(read_reply(&mut client).await, None);
            let counters = server.counters();
            assert_eq!((counters.requests, counters.refused), (1, 1));
            let told = told.borrow();
            assert_eq!(told.len(), 1);
            assert_eq!(told[0].status, status);
            assert!(told[0].why.contains(why), "{}", told[0]);
            assert_eq!(told[0].peer.unwrap().ip().to_string(), "192.0.2.1");
        });
    }
    // After what is wrong with trailers nothing was refused if nothing was asked.
    run(async move {
        let (dialer, server) = serve_site(Server::new());
        let mut client = dialer.connect();
        let ambiguous = CHUNKED.replace("0\r\n\r\n", "0\r\n\n");
        send(&mut client, &format!("POST /hello HTTP/1.1\r\nhost: x\r\n{ambiguous}")).await;
        assert_eq!(read_reply(&mut client).await.unwrap().text(), "hello");
        assert_eq!(read_reply(&mut client).await, None);
        let counters = server.counters();
        assert_eq!((counters.requests, counters.refused), (1, 0));
    });
    run(async move {
        let (dialer, server) = serve_site(Server::new().strict(false));
        let mut client = dialer.connect();
        for _ in 0..2 {
            send(&mut client, "GET /hello HTTP/1.1\nhost: x\n\n").await;
            assert_eq!(read_reply(&mut client).await.unwrap().text(), "hello");
        }
        assert_eq!(server.counters().refused, 0);
    });
}

#[test]
fn a_malformed_request_after_a_park_is_malformed() {
    run(async {
        let (dialer, _server) = serve_site(Server::new());
        let mut client = dialer.connect();
        assert_eq!(get(&mut client, "/hello").await.unwrap().status, 200);
        send(&mut client, "rubbish\r\n\r\n").await;
        assert_eq!(read_reply(&mut client).await.unwrap().status, 400);
        assert_eq!(read_reply(&mut client).await, None);
        // HTTP/2 begins with a connection, not in the middle of one.
        let mut client = dialer.connect();
        assert_eq!(get(&mut client, "/hello").await.unwrap().status, 200);
        send(&mut client, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        assert_eq!(read_reply(&mut client).await.unwrap().status, 400);
        assert_eq!(read_reply(&mut client).await, None);
    });
}

#[test]
fn a_panicking_or_failing_service_costs_one_connection() {
    run(async {
        let (dialer, server) = serve_site(Server::new());
        let mut bystander = dialer.connect();
        assert_eq!(get(&mut bystander, "/hello").await.unwrap().status, 200);
        for path in ["/panic", "/error"] {
            let mut client = dialer.connect();
            assert_eq!(get(&mut client, path).await, None);
        }
        assert_eq!(get(&mut bystander, "/hello").await.unwrap().status, 200);
        let counters = server.counters();
        assert_eq!((counters.panics, counters.errors), (1, 1));
        assert_eq!(server.connections(), 1);
    });
}

#[test]
fn a_peer_that_resets_is_forgotten() {
    run(async {
        let (dialer, server) = serve_site(Server::new());
        let mut client = dialer.connect();
        send(&mut client, "POST /count HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nhalf")
            .await;
        throng_runtime::sleep(Duration::from_secs(1)).await;
        client.reset();
        throng_runtime::sleep(Duration::from_millis(1)).await;
        assert_eq!(server.connections(), 0);
        let begin = throng_runtime::now();
        assert_eq!(get(&mut dialer.connect(), "/hello").await.unwrap().status, 200);
        assert_passed(begin, Duration::ZERO);
    });
}
