//! Pings, dead peers, idle sockets, peers that do not read.

use std::time::Duration;

use futures::{SinkExt, StreamExt};
use throng_runtime::Instant;
use throng_ws::{Config, Error, Message, Role, WebSocket};

use crate::raw::{FIN, PING, PONG, TEXT, frame, read_close, read_frame, send};
use crate::support::{End, Pace, assert_passed, duplex, run, spawn};

const SECOND: Duration = Duration::from_secs(1);

fn server(end: End, config: Config) -> WebSocket<End> {
    WebSocket::from_stream(end, Role::Server, config, Vec::new())
}

#[test]
fn a_silent_peer_is_pinged_and_then_dead() {
    run(async {
        let (mut a, b) = duplex(1 << 16, Pace::FAST);
        let config = Config::default().ping_interval(30 * SECOND).pong_timeout(7 * SECOND);
        let mut server = server(b, config);
        let begin = throng_runtime::now();
        let end = throng_runtime::spawn_local(async move {
            assert!(matches!(server.next().await, Some(Err(Error::PingTimeout))));
            assert!(server.next().await.is_none());
        });
        assert_eq!(read_frame(&mut a).await, Some((FIN | PING, Vec::new())));
        assert_passed(begin, 30 * SECOND);
        end.await.unwrap();
        assert_passed(begin, 37 * SECOND);
    });
}

#[test]
fn a_peer_that_answers_lives_and_stays_parked_between_pings() {
    run(async {
        let (a, b) = duplex(1 << 16, Pace::FAST);
        let mut server = server(b, Config::default().ping_interval(30 * SECOND));
        let mut client = WebSocket::from_stream(a, Role::Client, Config::default(), Vec::new());
        spawn(async move { while client.next().await.is_some() {} });
        for _ in 0..100 {
            let pong = server.next().await.unwrap().unwrap();
            assert!(pong.is_pong());
        }
        let wait = throng_runtime::timeout(SECOND, server.next());
        assert!(wait.await.is_err());
        assert!(server.is_parked());
        assert_passed(Instant::ZERO, Duration::from_millis(3_001_000));
    });
}

#[test]
fn traffic_puts_pings_off() {
    run(async {
        let (mut a, b) = duplex(1 << 16, Pace::FAST);
        let mut server = server(b, Config::default().ping_interval(30 * SECOND));
        spawn(async move { while server.next().await.is_some() {} });
        for _ in 0..10 {
            throng_runtime::sleep(20 * SECOND).await;
            send(&mut a, &frame(FIN | TEXT, b"hi")).await;
        }
        assert_eq!(a.unread(), 0, "no ping was sent");
        assert_eq!(read_frame(&mut a).await, Some((FIN | PING, Vec::new())));
        assert_passed(Instant::ZERO, Duration::from_millis(230_000));
    });
}

#[test]
fn an_idle_socket_is_closed_with_1001() {
    run(async {
        let (mut a, b) = duplex(1 << 16, Pace::FAST);
        let config = Config::default().idle_timeout(60 * SECOND).ping_interval(10 * SECOND);
        let mut server = server(b, config);
        let end = throng_runtime::spawn_local(async move {
            loop {
                match server.next().await {
                    Some(Ok(_)) => {}
                    other => return other,
                }
            }
        });
        throng_runtime::sleep(5 * SECOND).await;
        send(&mut a, &frame(FIN | TEXT, b"only message")).await;
        // Pongs are no sign of use.
        for _ in 0..5 {
            assert_eq!(read_frame(&mut a).await, Some((FIN | PING, Vec::new())));
            send(&mut a, &frame(FIN | PONG, b"")).await;
        }
        assert_eq!(read_close(&mut a).await, Some(1001));
        assert_passed(Instant::ZERO, Duration::from_millis(65_000));
        drop(a);
        assert!(matches!(end.await.unwrap(), Some(Err(Error::IdleTimeout))));
    });
}

#[test]
fn a_peer_that_never_reads_fails_the_sender() {
    run(async {
        let (a, b) = duplex(1000, Pace::FAST);
        let mut server = server(b, Config::default().send_timeout(30 * SECOND));
        let begin = throng_runtime::now();
        let error = server.send(Message::binary(vec![0; 100_000])).await.unwrap_err();
        assert!(matches!(error, Error::SendTimeout));
        assert_passed(begin, 30 * SECOND);
        drop(a);
    });
}

#[test]
fn a_peer_that_reads_slowly_is_waited_for() {
    run(async {
        let (mut a, b) = duplex(1000, Pace::FAST);
        let mut server = server(b, Config::default().send_timeout(30 * SECOND));
        spawn(async move {
            let mut scratch = [0; 1000];
            loop {
                throng_runtime::sleep(20 * SECOND).await;
                if futures::AsyncReadExt::read(&mut a, &mut scratch).await.unwrap_or(0) == 0 {
                    break;
                }
            }
        });
        server.send(Message::binary(vec![0; 20_000])).await.unwrap();
        assert!(throng_runtime::now().as_millis() > 300_000);
    });
}
