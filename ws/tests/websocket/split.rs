//! A socket shared by a reading and a writing task: no wake may reach only one of them.

use std::time::Duration;

use futures::{SinkExt, StreamExt};
use throng_runtime::Instant;
use throng_ws::{Config, Error, Message, Role, WebSocket};

use crate::raw::{FIN, PING, PONG, TEXT, frame, read_close, read_frame, send};
use crate::support::{Pace, assert_passed, duplex, run, spawn};

#[test]
fn echo_through_two_tasks_against_a_slow_peer() {
    for capacity in [1, 10, 200] {
        run(async move {
            let (a, b) = duplex(capacity, Pace { chunk: 7, stutter: true });
            let server = WebSocket::from_stream(b, Role::Server, Config::default(), Vec::new());
            let (mut sink, mut stream) = server.split();
            let (tx, mut rx) = futures::channel::mpsc::unbounded();
            spawn(async move {
                while let Some(Ok(message)) = stream.next().await {
                    if message.is_binary() {
                        tx.unbounded_send(message).unwrap();
                    }
                }
            });
            spawn(async move {
                while let Some(message) = rx.next().await {
                    sink.send(message).await.unwrap();
                }
                sink.close().await.unwrap();
            });
            let client = WebSocket::from_stream(a, Role::Client, Config::default(), Vec::new());
            let (mut sink, mut stream) = client.split();
            spawn(async move {
                for i in 0..100_u32 {
                    sink.send(Message::Ping(vec![0; 50].into())).await.unwrap();
                    sink.send(Message::binary(vec![i as u8; 300])).await.unwrap();
                }
            });
            let mut next = 0;
            while next < 100 {
                let message = stream.next().await.unwrap().unwrap();
                if message.is_binary() {
                    assert_eq!(message, Message::binary(vec![next; 300]));
                    next += 1;
                }
            }
        });
    }
}

/// The trap itself: the writer waits for room; then a ping arrives, and the reader's attempt
/// to answer takes the stream's only write waker.
#[test]
fn a_pong_under_way_does_not_steal_the_writers_wake() {
    run(async {
        let (mut a, b) = duplex(10, Pace::FAST);
        let server = WebSocket::from_stream(b, Role::Server, Config::default(), Vec::new());
        let (mut sink, mut stream) = server.split();
        let writer = throng_runtime::spawn_local(async move {
            sink.send(Message::binary(vec![7; 5000])).await.unwrap();
            sink
        });
        throng_runtime::sleep(Duration::from_millis(1)).await;
        let reader = throng_runtime::spawn_local(async move {
            assert!(stream.next().await.unwrap().unwrap().is_ping());
            // The reader goes away without polling again: only the writer is left to write.
            stream
        });
        send(&mut a, &frame(FIN | PING, b"1")).await;
        let stream = reader.await.unwrap();
        assert_eq!(read_frame(&mut a).await, Some((FIN | 2, vec![7; 5000])));
        assert_eq!(read_frame(&mut a).await, Some((FIN | PONG, b"1".to_vec())));
        drop((writer.await.unwrap(), stream));
    });
}

/// The other way round: the reader has a pong waiting, then a writer takes the waker.
#[test]
fn a_message_under_way_does_not_steal_the_readers_wake() {
    run(async {
        let (mut a, b) = duplex(1 << 12, Pace::FAST);
        // Full already: nothing of the server's gets out.
        let server = WebSocket::from_stream(b, Role::Server, Config::default(), Vec::new());
        server.get_ref().set_capacity(0);
        let (mut sink, mut stream) = server.split();
        let reader = throng_runtime::spawn_local(async move {
            let mut seen = Vec::new();
            while let Some(Ok(message)) = stream.next().await {
                seen.push(message);
            }
            (seen, stream)
        });
        send(&mut a, &frame(FIN | PING, b"1")).await;
        throng_runtime::sleep(Duration::from_millis(1)).await;
        // This future is polled once, takes the waker and is dropped.
        let send_one = throng_runtime::timeout(Duration::ZERO, sink.send(Message::text("x")));
        assert!(send_one.await.is_err());
        send(&mut a, &frame(FIN | TEXT, b"t")).await;
        throng_runtime::sleep(Duration::from_millis(1)).await;
        // Room again: the reader alone must bring its pong out.
        a.open_peer(1 << 12);
        assert_eq!(read_frame(&mut a).await, Some((FIN | PONG, b"1".to_vec())));
        sink.flush().await.unwrap();
        assert_eq!(read_frame(&mut a).await, Some((FIN | TEXT, b"x".to_vec())));
        drop(a);
        let (seen, _stream) = reader.await.unwrap();
        assert_eq!(seen.len(), 2);
    });
}

#[test]
fn a_close_by_the_writer_starts_the_readers_deadline() {
    run(async {
        let (a, b) = duplex(1 << 12, Pace::FAST);
        let server = WebSocket::from_stream(b, Role::Server, Config::default(), Vec::new());
        let (mut sink, mut stream) = server.split();
        let reader = throng_runtime::spawn_local(async move { stream.next().await });
        throng_runtime::sleep(Duration::from_secs(1)).await;
        sink.close().await.unwrap();
        assert!(matches!(reader.await.unwrap(), Some(Err(Error::CloseTimeout))));
        assert_passed(Instant::ZERO, Duration::from_millis(11_000));
        drop(a);
    });
}

#[test]
fn the_reader_learns_that_sending_has_failed() {
    for reset in [true, false] {
        run(async move {
            let (a, b) = duplex(1 << 12, Pace::FAST);
            let config = Config::default().send_timeout(Duration::from_secs(5));
            let server = WebSocket::from_stream(b, Role::Server, config, Vec::new());
            let (mut sink, mut stream) = server.split();
            let reader = throng_runtime::spawn_local(async move {
                let first = stream.next().await;
                assert!(stream.next().await.is_none());
                first
            });
            throng_runtime::sleep(Duration::from_secs(1)).await;
            if reset {
                // Only writing fails: the reader has nothing else that would wake it.
                a.abandon();
            }
            assert!(sink.send(Message::binary(vec![0; 10_000])).await.is_err());
            let end = reader.await.unwrap();
            assert!(matches!(end, Some(Err(Error::ClosedAbnormally))), "{end:?}");
            drop(a);
        });
    }
}

#[test]
fn the_readers_end_wakes_a_waiting_writer() {
    run(async {
        let (a, b) = duplex(10, Pace::FAST);
        let server = WebSocket::from_stream(b, Role::Server, Config::default(), Vec::new());
        let (mut sink, mut stream) = server.split();
        let writer = throng_runtime::spawn_local(async move {
            sink.send(Message::binary(vec![0; 1000])).await.unwrap_err()
        });
        throng_runtime::sleep(Duration::from_secs(1)).await;
        drop(a);
        assert!(stream.next().await.unwrap().is_err());
        writer.await.unwrap();
    });
}

#[test]
fn a_violation_is_answered_behind_a_message_under_way() {
    run(async {
        let (mut a, b) = duplex(100, Pace::FAST);
        let server = WebSocket::from_stream(b, Role::Server, Config::default(), Vec::new());
        let (mut sink, mut stream) = server.split();
        let writer = throng_runtime::spawn_local(async move {
            sink.send(Message::binary(vec![7; 100_000])).await.unwrap_err()
        });
        let reader = throng_runtime::spawn_local(async move { stream.next().await });
        throng_runtime::sleep(Duration::from_millis(1)).await;
        send(&mut a, &frame(FIN | 3, b"reserved opcode")).await;
        throng_runtime::sleep(Duration::from_millis(1)).await;
        assert_eq!(read_frame(&mut a).await, Some((FIN | 2, vec![7; 100_000])));
        assert_eq!(read_close(&mut a).await, Some(1002));
        drop(a);
        assert!(matches!(reader.await.unwrap(), Some(Err(Error::Protocol(_)))));
        assert!(matches!(writer.await.unwrap(), Error::Closed));
    });
}
