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
fn handshakes_beyond_the_bound_wait_their_turn() {
    let mut pair = pair();
    let listener = pair.serve(1, || echo_on(listen().max_handshakes(2))).remove(0);
    pair.run(async {
        let mut silent = Vec::new();
        for _ in 0..2 {
            silent.push(TcpStream::connect(server_address()).await.unwrap());
        }
        sleep(Duration::from_millis(100)).await;
        let begin = now();
        // Waits in the backlog until the silent ones are given up: two places, so both at once.
        let mut streams = Vec::new();
        for _ in 0..5 {
            streams.push(connect(&connector(), "a.test").await.unwrap());
        }
        let passed = now() - begin;
        assert!(passed > Duration::from_secs(9) && passed < Duration::from_secs(11), "{passed:?}");
        for stream in &mut streams {
            say(stream, "my turn").await;
        }
    });
    let counters = listener.counters();
    assert!(counters.at_limit > 0, "{counters:?}");
    assert_eq!((counters.timed_out, counters.finished, counters.failed), (2, 5, 0));
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
