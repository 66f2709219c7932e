//! The graceful end.

use std::time::Duration;

use futures::future::join;
use throng_http::{Drain, Server, Stage};

use crate::site::{get, read_reply, send, serve_site, site};
use crate::support::listener::listen;
use crate::support::{assert_passed, run};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn requests_in_flight_finish_and_the_rest_ends() {
    for park in [true, false] {
        run(async move { drained_between_requests(park).await });
    }
}

async fn drained_between_requests(park: bool) {
    let (dialer, server) = serve_site(Server::new().park(park));
    let mut busy = dialer.connect();
    let mut parked = dialer.connect();
    let mut silent = dialer.connect();
    assert_eq!(get(&mut parked, "/hello").await.unwrap().status, 200);
    let mut idle = dialer.connect();
    send(&mut idle, "POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\na").await;
    assert_eq!(read_reply(&mut idle).await.unwrap().status, 200);
    send(&mut busy, "GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await;
    throng_runtime::sleep(SECOND).await;
    assert_eq!(server.connections(), 4);

    let begin = throng_runtime::now();
    let (drained, reply) = join(server.drain(30 * SECOND), read_reply(&mut busy)).await;
    let reply = reply.unwrap();
    assert_eq!(reply.text(), "slow");
    assert!(reply.head.contains("connection: close"), "{}", reply.head);
    assert_passed(begin, 4 * SECOND);
    assert_eq!((drained.finished, drained.cut), (4, 0));
    for end in [&mut busy, &mut parked, &mut silent, &mut idle] {
        assert_eq!(read_reply(end).await, None);
    }
    // The listener has gone: new connections are refused.
    let mut late = dialer.connect();
    assert_eq!(read_reply(&mut late).await, None);
    assert_eq!(server.counters().accepted, 4);
}

/// Of connections without a request: one that never had any, one between two, and one whose
/// client says nothing more.
#[test]
fn a_request_that_is_on_its_way_is_answered() {
    for park in [true, false] {
        run(async move { answered_in_a_drain(park).await });
    }
}

async fn answered_in_a_drain(park: bool) {
    let (dialer, server) = serve_site(Server::new().park(park).drain_idle(4 * SECOND));
    let mut new = dialer.connect();
    let mut parked = dialer.connect();
    let mut silent = dialer.connect();
    for used in [&mut parked, &mut silent] {
        assert_eq!(get(used, "/hello").await.unwrap().status, 200);
    }
    throng_runtime::sleep(SECOND).await;
    assert_eq!(server.connections(), 3);
    let begin = throng_runtime::now();
    let asking = async {
        throng_runtime::sleep(2 * SECOND).await;
        for client in [&mut new, &mut parked] {
            let reply = get(client, "/hello").await.unwrap();
            assert_eq!(reply.status, 200);
            assert!(reply.head.contains("connection: close"), "{}", reply.head);
            assert_eq!(read_reply(client).await, None);
        }
    };
    let (drained, ()) = join(server.drain(30 * SECOND), asking).await;
    assert_passed(begin, 4 * SECOND);
    assert_eq!((drained.finished, drained.cut), (3, 0));
    assert_eq!(read_reply(&mut silent).await, None);
    let counters = server.counters();
    assert_eq!((counters.idle_timeouts, counters.header_timeouts), (0, 0));
}

#[test]
fn a_request_that_has_come_is_answered() {
    run(async {
        let (dialer, server) = serve_site(Server::new());
        let mut first = dialer.connect();
        let mut second = dialer.connect();
        assert_eq!(get(&mut second, "/hello").await.unwrap().status, 200);
        let mut half = dialer.connect();
        throng_runtime::sleep(SECOND).await;
        for client in [&mut first, &mut second] {
            send(client, "GET /hello HTTP/1.1\r\nhost: x\r\n\r\n").await;
        }
        send(&mut half, "GET /hello HTTP/1.1\r\n").await;
        // Nobody has been woken yet.
        let drain = server.drain(30 * SECOND);
        for client in [&mut first, &mut second] {
            let reply = read_reply(client).await.unwrap();
            assert_eq!(reply.text(), "hello");
            assert!(reply.head.contains("connection: close"), "{}", reply.head);
            assert_eq!(read_reply(client).await, None);
        }
        send(&mut half, "\r\n").await;
        assert_eq!(read_reply(&mut half).await.unwrap().text(), "hello");
        let drained = drain.await;
        assert_eq!((drained.finished, drained.cut), (3, 0));
    });
}

#[test]
fn the_deadline_holds_without_the_accept_loop() {
    for awaited in [true, false] {
        run(async move {
            let (dialer, listener) = listen();
            let server = Server::new().start();
            let mut busy = dialer.connect();
            send(&mut busy, "GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await;
            let serve = server.serve(listener, throng_http::service_fn(site));
            assert!(throng_runtime::timeout(SECOND, serve).await.is_err());
            let begin = throng_runtime::now();
            let drain = server.drain(2 * SECOND);
            if awaited {
                assert_eq!(drain.await.cut, 1);
            }
            assert_eq!(read_reply(&mut busy).await, None);
            assert_passed(begin, 2 * SECOND);
        });
    }
}

#[test]
fn the_deadline_cuts_what_is_left() {
    run(async {
        let (dialer, server) = serve_site(Server::new());
        let mut busy = dialer.connect();
        let mut quick = dialer.connect();
        send(&mut busy, "GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await;
        send(&mut quick, "GET /hello HTTP/1.1\r\nhost: x\r\n\r\n").await;
        throng_runtime::sleep(SECOND).await;
        let begin = throng_runtime::now();
        let drained = server.drain(2 * SECOND).await;
        assert_passed(begin, 2 * SECOND);
        assert_eq!((drained.finished, drained.cut), (1, 1));
        assert_eq!(read_reply(&mut quick).await.unwrap().text(), "hello");
        assert_eq!(read_reply(&mut busy).await, None);
    });
}

#[test]
fn serve_returns_when_drained_even_if_nobody_waits_for_the_drain() {
    run(async {
        let (dialer, listener) = listen();
        let server = Server::new().start();
        let mut busy = dialer.connect();
        send(&mut busy, "GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await;
        let stopper = async {
            throng_runtime::sleep(SECOND).await;
            drop(server.drain(2 * SECOND));
        };
        let (drained, ()) =
            join(server.serve(listener, throng_http::service_fn(site)), stopper).await;
        assert_eq!((drained.finished, drained.cut), (0, 1));
        assert_passed(throng_runtime::Instant::ZERO, 3 * SECOND);
    });
}

#[test]
fn one_drain_ends_servers_accept_loops_and_guests() {
    run(async {
        let drain = Drain::new();
        let (dialer, listener) = listen();
        let server = Server::new().start();
        let serving = {
            let (server, drain) = (server.clone(), drain.clone());
            throng_runtime::spawn_local(async move {
                server.serve_each_until(&drain, listener, |_| throng_http::service_fn(site)).await
            })
        };
        let mut quick = dialer.connect();
        assert_eq!(get(&mut quick, "/hello").await.unwrap().status, 200);
        let mut busy = dialer.connect();
        send(&mut busy, "GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await;
        throng_runtime::sleep(SECOND).await;
        assert_eq!(drain.until(std::future::ready(7)).await, Some(7));
        assert_eq!(drain.stage(), Stage::Serving);
        // One leaves by itself, one never.
        let (early, late) = (drain.enter(), drain.enter());

        let begin = throng_runtime::now();
        let starter = async {
            throng_runtime::sleep(SECOND).await;
            drain.begin(2 * SECOND);
            drain.begin(100 * SECOND);
        };
        let accepting = drain.until(std::future::pending::<()>());
        let (none, ()) = join(accepting, starter).await;
        assert_eq!(none, None);
        assert_passed(begin, SECOND);
        drop(early);
        let drained = drain.ended().await;
        assert_passed(begin, 4 * SECOND);
        assert_eq!((drained.finished, drained.cut), (2, 2), "a connection and a guest each");
        assert_eq!(late.stage(), Stage::Cut);
        let served = serving.await.unwrap();
        assert_eq!((served.finished, served.cut), (1, 1));
        assert_eq!(drain.until(std::future::pending::<()>()).await, None);
    });
}
