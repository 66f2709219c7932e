//! Pings, dead peers, idle sockets, peers that do not read.

use std::time::Duration;

use futures::{AsyncReadExt, SinkExt, StreamExt};
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
fn a_peer_that_takes_what_is_before_the_ping_is_alive_and_one_that_stops_is_dead() {
    run(async {
        let (mut a, b) = duplex(64, Pace::FAST);
        let config = Config::default().ping_interval(30 * SECOND).pong_timeout(7 * SECOND);
        let mut server = server(b, config);
        server.feed(Message::binary(vec![b'x'; 1_200])).await.unwrap();
        let begin = throng_runtime::now();
        let end = throng_runtime::spawn_local(async move {
            assert!(matches!(server.next().await, Some(Err(Error::PingTimeout))));
        });
        // The ping is due in the middle of this, and still waits at its end.
        for _ in 0..18 {
            throng_runtime::sleep(5 * SECOND).await;
            let mut piece = [0; 64];
            a.read_exact(&mut piece).await.unwrap();
        }
        end.await.unwrap();
        assert_passed(begin, (18 * 5 + 7) * SECOND);
    });
}

#[test]
fn a_peer_is_dead_whatever_is_sent_behind_the_ping() {
    run(async {
        let (_gone, b) = duplex(1 << 16, Pace::FAST);
        let config = Config::default().ping_interval(30 * SECOND).pong_timeout(7 * SECOND);
        let mut server = server(b, config);
        let begin = throng_runtime::now();
        let mut end = None;
        // Not at the second at which the ping is due.
        while end.is_none() && throng_runtime::now() < begin + 100 * SECOND {
            server.send(Message::text("tick")).await.unwrap();
            end = throng_runtime::timeout(Duration::from_millis(900), server.next()).await.ok();
        }
        assert!(matches!(end, Some(Some(Err(Error::PingTimeout)))), "{end:?}");
        assert_passed(begin, 37 * SECOND);
    });
}

#[test]
fn a_peer_in_the_middle_of_a_long_message_is_alive() {
    run(async {
        let (mut a, b) = duplex(1 << 16, Pace::FAST);
        let config = Config::default().ping_interval(30 * SECOND).pong_timeout(7 * SECOND);
        let mut server = server(b, config);
        let reader = throng_runtime::spawn_local(async move { (server.next().await, server) });
        // No pong can come before this frame is through.
        for piece in frame(FIN | TEXT, &[b'x'; 100]).chunks(20) {
            throng_runtime::sleep(20 * SECOND).await;
            send(&mut a, piece).await;
        }
        let (message, _server) = reader.await.unwrap();
        assert_eq!(message.unwrap().unwrap().len(), 100);
        assert_eq!(a.unread(), 0, "no ping was sent");
    });
}

#[test]
fn a_message_that_stops_is_closed_with_1008() {
    let whole = frame(FIN | TEXT, b"only message");
    for (cut, start) in [(1, &whole[..]), (8, &whole), (18, &frame(TEXT, b"only message"))] {
        let start = start[..cut].to_vec();
        run(async move {
            let (mut a, b) = duplex(1 << 16, Pace::FAST);
            let mut server = server(b, Config::default());
            let end = throng_runtime::spawn_local(async move { server.next().await });
            throng_runtime::sleep(100 * SECOND).await;
            for byte in start {
                throng_runtime::sleep(50 * SECOND).await;
                send(&mut a, &[byte]).await;
            }
            let begin = throng_runtime::now();
            assert_eq!(read_close(&mut a).await, Some(1008));
            assert_passed(begin, 60 * SECOND);
            drop(a);
            assert!(matches!(end.await.unwrap(), Some(Err(Error::ReceiveTimeout))));
        });
    }
}

#[test]
fn a_socket_between_messages_does_not_wait_for_one() {
    for config in [Config::default(), Config::default().idle_timeout(1000 * SECOND)] {
        run(async move { message_after_message(config).await });
    }
}

async fn message_after_message(config: Config) {
    let (mut a, b) = duplex(1 << 16, Pace::FAST);
    let mut server = server(b, config);
    let message = frame(FIN | TEXT, b"message");
    for _ in 0..3 {
        send(&mut a, &message[..5]).await;
        let wait = throng_runtime::timeout(SECOND, server.next());
        assert!(wait.await.is_err());
        send(&mut a, &message[5..]).await;
        assert!(server.next().await.unwrap().unwrap().is_text());
        let wait = throng_runtime::timeout(100 * SECOND, server.next());
        assert!(wait.await.is_err());
        assert!(server.is_parked());
    }
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
