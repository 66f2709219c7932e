//! The listener: its bound, its end.

use std::io::ErrorKind;
use std::rc::Rc;
use std::time::Duration;

use futures::AsyncReadExt;
use throng_net::{TcpListener, TcpStream};
use throng_runtime::{now, sleep, spawn_local};
use throng_tls::TlsListener;

use crate::support::{acceptor, connector, server_address};
use crate::{connect, echo_on, pair, say};

fn listen() -> TlsListener {
    TlsListener::new(TcpListener::bind(server_address()).unwrap(), acceptor())
}

#[test]
fn a_silent_client_loses_its_place_to_one_that_waits() {
    let mut pair = pair();
    let listener = pair.serve(1, || echo_on(listen().max_handshakes(2))).remove(0);
    pair.run(async {
        let begin = now();
        let mut first = TcpStream::connect(server_address()).await.unwrap();
        sleep(Duration::from_millis(500)).await;
        let mut second = TcpStream::connect(server_address()).await.unwrap();
        // Waits in the backlog until the first has had its second; then there is a place.
        for _ in 0..5 {
            let mut stream = connect(&connector(), "a.test").await.unwrap();
            say(&mut stream, "my turn").await;
            let passed = now() - begin;
            assert!(passed.abs_diff(Duration::from_secs(1)) < Duration::from_millis(100));
        }
        let end = first.read(&mut [0; 1]).await;
        assert!(!matches!(end, Ok(1..)), "{end:?}");
        assert!(now() - begin < Duration::from_secs(2));
        // Nobody waits for the other's place, so that has it for all of its ten seconds.
        let end = second.read(&mut [0; 1]).await;
        assert!(!matches!(end, Ok(1..)), "{end:?}");
        let passed = now() - begin;
        assert!(passed.abs_diff(Duration::from_millis(10_500)) < Duration::from_millis(100));
    });
    let counters = listener.counters();
    assert!(counters.at_limit > 0, "{counters:?}");
    assert_eq!((counters.started, counters.finished, counters.failed), (7, 5, 0), "{counters:?}");
    assert_eq!((counters.displaced, counters.timed_out), (1, 1), "{counters:?}");
    assert_eq!(listener.handshakes(), 0);
}

/// Silent clients, many more than there are places: one that speaks gets through among them.
#[test]
fn a_flood_of_silent_clients_does_not_keep_others_out() {
    let mut pair = pair();
    let listener = pair.serve(1, || echo_on(listen().max_handshakes(8))).remove(0);
    pair.run(async {
        let mut silent = Vec::new();
        for _ in 0..100 {
            silent.push(TcpStream::connect(server_address()).await.unwrap());
        }
        let begin = now();
        let connector = connector().handshake_timeout(Duration::from_secs(60));
        let mut stream = connect(&connector, "a.test").await.unwrap();
        say(&mut stream, "through").await;
        // A hundred before it, eight in a second.
        assert!(now() - begin < Duration::from_secs(14), "{:?}", now() - begin);
    });
    let counters = listener.counters();
    assert!(counters.displaced > 80 && counters.finished == 1, "{counters:?}");
    assert!(listener.handshakes() <= 8);
}

/// Connections that nobody accepts count, too.
#[test]
fn a_server_that_does_not_accept_holds_no_more_than_the_bound() {
    let mut pair = pair();
    let listener = pair.serve(1, || Rc::new(listen().max_handshakes(3))).remove(0);
    let accepting = listener.clone();
    pair.world.enter(pair.server, throng_runtime::ShardId(0), || {
        let task = async move {
            let mut kept = Vec::new();
            loop {
                kept.push(accepting.accept().await.unwrap());
                // One, and the listener is not asked again for a while.
                sleep(Duration::from_secs(5)).await;
            }
        };
        spawn_local(task).detach();
    });
    pair.run(async {
        let tasks = (0..8).map(|_| connect_and_keep());
        let begin = now();
        let streams = futures::future::join_all(tasks).await;
        assert_eq!(streams.len(), 8);
        assert!(now() - begin > Duration::from_secs(4));
        // The server's side of the last handshakes ends after the client's.
        sleep(Duration::from_secs(30)).await;
    });
    let counters = listener.counters();
    assert_eq!((counters.started, counters.finished), (8, 8), "{counters:?}");
}

async fn connect_and_keep() -> throng_tls::TlsStream<TcpStream> {
    let connector = connector().handshake_timeout(Duration::from_secs(60));
    connect(&connector, "a.test").await.unwrap()
}

#[test]
fn dropping_the_listener_ends_handshakes_under_way() {
    let mut pair = pair();
    pair.serve(1, || {
        let listener = Rc::new(listen());
        let task = async move {
            let accepting = listener.accept();
            let _ = throng_runtime::timeout(Duration::from_secs(2), accepting).await;
        };
        spawn_local(task).detach();
    });
    pair.run(async {
        let mut silent = TcpStream::connect(server_address()).await.unwrap();
        let begin = now();
        assert_eq!(silent.read(&mut [0; 1]).await.unwrap(), 0);
        assert!(now() - begin < Duration::from_secs(3), "not at its own time limit");
        let refused = TcpStream::connect(server_address()).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    });
}
