//! How connections end: closing handshakes, violations, vanished peers.

use std::time::Duration;

use futures::{AsyncWriteExt, SinkExt, StreamExt};
use throng_ws::{CloseCode, CloseFrame, Config, Error, Message, Role, WebSocket};

use crate::raw::{BINARY, CLOSE, CONTINUE, FIN, PING, TEXT, frame, read_close, read_frame, send};
use crate::support::{End, Pace, assert_passed, duplex, run, spawn};

fn pair(pace: Pace) -> (WebSocket<End>, WebSocket<End>) {
    let (a, b) = duplex(1 << 16, pace);
    let client = WebSocket::from_stream(a, Role::Client, Config::default(), Vec::new());
    let server = WebSocket::from_stream(b, Role::Server, Config::default(), Vec::new());
    (client, server)
}

fn away() -> CloseFrame {
    CloseFrame { code: CloseCode::Away, reason: "bye".into() }
}

/// Reads to the end and returns the close frame seen on the way.
async fn to_end(socket: &mut WebSocket<End>) -> Option<CloseFrame> {
    let mut seen = None;
    while let Some(message) = socket.next().await {
        if let Message::Close(frame) = message.unwrap() {
            seen = frame;
        }
    }
    seen
}

#[test]
fn either_side_closes() {
    for pace in [Pace::FAST, Pace::SLOW] {
        for client_begins in [true, false] {
            run(async move {
                let (client, server) = pair(pace);
                let (mut first, mut second) =
                    if client_begins { (client, server) } else { (server, client) };
                let other = throng_runtime::spawn_local(async move {
                    let seen = to_end(&mut second).await;
                    assert!(second.send(Message::text("late")).await.is_err());
                    seen
                });
                first.close(Some(away())).await.unwrap();
                assert_eq!(other.await.unwrap(), Some(away()));
                first.close(None).await.unwrap();
                assert!(first.next().await.is_none());
            });
        }
    }
}

#[test]
fn both_sides_close_at_once() {
    for pace in [Pace::FAST, Pace::SLOW] {
        run(async move {
            let (mut client, mut server) = pair(pace);
            let other = throng_runtime::spawn_local(async move { server.close(None).await });
            client.close(Some(away())).await.unwrap();
            other.await.unwrap().unwrap();
        });
    }
}

#[test]
fn data_before_the_close_answer_is_delivered() {
    run(async {
        let (mut client, mut server) = pair(Pace::FAST);
        // The Sink's close only sends; what the peer had under way still arrives.
        SinkExt::close(&mut server).await.unwrap();
        client.send(Message::text("last words")).await.unwrap();
        let other = throng_runtime::spawn_local(async move { to_end(&mut client).await });
        assert_eq!(server.next().await.unwrap().unwrap(), Message::text("last words"));
        assert!(server.next().await.unwrap().unwrap().is_close());
        assert!(server.next().await.is_none());
        assert_eq!(other.await.unwrap().map(|frame| frame.code), Some(CloseCode::Normal));
    });
}

#[test]
fn a_peer_that_does_not_answer_a_close_is_left() {
    run(async {
        let (a, b) = duplex(1 << 16, Pace::FAST);
        let config = Config::default().close_timeout(Duration::from_secs(3));
        let mut server = WebSocket::from_stream(b, Role::Server, config, Vec::new());
        let begin = throng_runtime::now();
        assert!(matches!(server.close(None).await, Err(Error::CloseTimeout)));
        assert_passed(begin, Duration::from_secs(3));
        assert!(server.next().await.is_none());
        drop(a);
    });
}

#[test]
fn a_server_that_does_not_shut_the_stream_is_left() {
    run(async {
        let (a, mut b) = duplex(1 << 16, Pace::FAST);
        let mut client = WebSocket::from_stream(a, Role::Client, Config::default(), Vec::new());
        let begin = throng_runtime::now();
        // An unmasked close frame with code 1000, and no FIN after it.
        send(&mut b, &[FIN | CLOSE, 2, 0x03, 0xe8]).await;
        assert!(client.next().await.unwrap().unwrap().is_close());
        assert!(client.next().await.is_none());
        assert_passed(begin, Duration::from_secs(10));
        drop(b);
    });
}

/// Sends bytes to a server with these limits; it must close with `code` and report an error.
fn violates(bytes: Vec<u8>, code: u16) -> Error {
    for pace in [Pace::FAST, Pace::SLOW] {
        let bytes = bytes.clone();
        run(async move { violate(bytes, code, pace).await });
    }
    run(async move { violate(bytes, code, Pace { chunk: 7, stutter: false }).await })
}

async fn violate(bytes: Vec<u8>, code: u16, pace: Pace) -> Error {
    let (mut a, b) = duplex(1 << 17, pace);
    let config = Config::default().max_message_size(2000).max_frame_size(1000);
    let mut server = WebSocket::from_stream(b, Role::Server, config, Vec::new());
    let server = throng_runtime::spawn_local(async move {
        loop {
            match server.next().await {
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    assert!(server.next().await.is_none());
                    return error;
                }
                None => panic!("no error before the end"),
            }
        }
    });
    send(&mut a, &bytes).await;
    assert_eq!(read_close(&mut a).await, Some(code));
    let begin = throng_runtime::now();
    drop(a);
    let error = server.await.unwrap();
    assert!(throng_runtime::now() - begin < Duration::from_secs(1));
    error
}

#[test]
fn limits_close_with_1009() {
    let error = violates(frame(FIN | BINARY, &[0; 1001]), 1009);
    assert!(matches!(error, Error::TooLarge(_)), "{error:?}");
    // The header alone decides; the payload need not come.
    violates(
        vec![FIN | BINARY, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0],
        1009,
    );
    let mut message = frame(BINARY, &[0; 1000]);
    message.extend(frame(CONTINUE, &[0; 1000]));
    message.extend(frame(FIN | CONTINUE, &[0; 1]));
    violates(message, 1009);
}

#[test]
fn messages_beyond_what_all_sockets_may_receive_close_with_1013() {
    run(async {
        let config = std::rc::Rc::new(Config::default().max_receiving(10_000));
        let mut peers = Vec::new();
        let mut ends = Vec::new();
        for i in 0..12 {
            let (mut a, b) = duplex(1 << 16, Pace::FAST);
            let mut server = WebSocket::from_stream(b, Role::Server, config.clone(), Vec::new());
            ends.push(throng_runtime::spawn_local(async move {
                while let Some(message) = server.next().await {
                    server.send(message?).await?;
                }
                Ok::<_, Error>(())
            }));
            // Headers of messages of 1000 bytes and a bit of each; every other one in fragments.
            let first = if i % 2 == 0 { frame(BINARY, &[0; 500]) } else { Vec::new() };
            let size = if i % 2 == 0 { 500 } else { 1000 };
            let opcode = if i % 2 == 0 { CONTINUE } else { BINARY };
            let last = frame(FIN | opcode, &vec![0; size]);
            send(&mut a, &[&first[..], &last[..20]].concat()).await;
            throng_runtime::sleep(Duration::from_millis(1)).await;
            peers.push((a, last[20..].to_vec()));
        }
        // Ten have room. The others are told, and what they had is free again.
        for (mut a, _) in peers.drain(10..) {
            assert_eq!(read_close(&mut a).await, Some(1013));
        }
        for end in ends.drain(10..) {
            assert!(matches!(end.await.unwrap(), Err(Error::Exhausted)));
        }
        for (a, rest) in &mut peers {
            send(a, rest).await;
            assert_eq!(read_frame(a).await, Some((FIN | BINARY, vec![0; 1000])));
        }
        // All ten again, one after the other, and the whole at once.
        for (a, _) in &mut peers {
            send(a, &frame(FIN | BINARY, &[1; 10_000])).await;
            assert_eq!(read_frame(a).await, Some((FIN | BINARY, vec![1; 10_000])));
        }
        send(&mut peers[0].0, &frame(FIN | BINARY, &[1; 10_001])).await;
        assert_eq!(read_close(&mut peers[0].0).await, Some(1013));
    });
}

#[test]
fn text_that_is_not_utf8_closes_with_1007() {
    let error = violates(frame(FIN | TEXT, b"\xff"), 1007);
    assert!(matches!(error, Error::Utf8(_)), "{error:?}");
    let mut message = frame(TEXT, b"\xc3");
    message.extend(frame(FIN | CONTINUE, b"("));
    violates(message, 1007);
    let mut reason = 1000_u16.to_be_bytes().to_vec();
    reason.extend(b"\xff");
    violates(frame(FIN | CLOSE, &reason), 1007);
}

#[test]
fn protocol_errors_close_with_1002() {
    let cases = [
        frame(FIN | CONTINUE, b"nothing to continue"),
        frame(FIN | 3, b"reserved data opcode"),
        frame(FIN | 11, b"reserved control opcode"),
        frame(FIN | 0x40 | TEXT, b"reserved bit"),
        frame(PING, b"fragmented control frame"),
        frame(FIN | PING, &[0; 126]),
        frame(FIN | CLOSE, b"1"),
        vec![FIN | TEXT, 2, b'h', b'i'],
        [frame(TEXT, b"one"), frame(FIN | TEXT, b"two")].concat(),
    ];
    for case in cases {
        let error = violates(case, 1002);
        assert!(matches!(error, Error::Protocol(_)), "{error:?}");
    }
}

/// The header alone decides, before room is made for what it announces.
#[test]
fn a_control_frame_too_large_closes_by_its_header() {
    let header = [FIN | PING, 0x80 | 127, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 1, 2, 3, 4];
    for before in [0, 1, 1000] {
        run(async move {
            let (mut a, b) = duplex(1 << 17, Pace::FAST);
            let mut server = WebSocket::from_stream(b, Role::Server, Config::default(), Vec::new());
            send(&mut a, &[&frame(FIN | BINARY, &vec![0; before])[..], &header].concat()).await;
            assert_eq!(server.next().await.unwrap().unwrap().len(), before);
            let server = throng_runtime::spawn_local(async move { server.next().await });
            assert_eq!(read_close(&mut a).await, Some(1002));
            drop(a);
            let end = server.await.unwrap();
            assert!(matches!(end, Some(Err(Error::Protocol(_)))), "{end:?}");
        });
    }
}

#[test]
fn control_frames_of_ours_are_never_too_large() {
    run(async {
        let (mut client, mut server) = pair(Pace::FAST);
        let too_long = CloseFrame { code: CloseCode::Normal, reason: "x".repeat(124).into() };
        for message in [
            Message::Ping(vec![0; 126].into()),
            Message::Pong(vec![0; 126].into()),
            Message::Close(Some(too_long)),
        ] {
            assert!(matches!(server.send(message).await, Err(Error::ControlTooLong)));
        }
        server.send(Message::Ping(vec![0; 125].into())).await.unwrap();
        assert_eq!(client.next().await.unwrap().unwrap().len(), 125);
        let frame = CloseFrame { code: CloseCode::Normal, reason: "x".repeat(123).into() };
        let other = throng_runtime::spawn_local(async move { to_end(&mut client).await });
        server.close(Some(frame.clone())).await.unwrap();
        assert_eq!(other.await.unwrap(), Some(frame));
    });
}

#[test]
fn a_failed_peer_that_goes_on_sending_does_not_hold_us() {
    run(async {
        let (mut a, b) = duplex(1 << 12, Pace::FAST);
        let mut server = WebSocket::from_stream(b, Role::Server, Config::default(), Vec::new());
        let begin = throng_runtime::now();
        spawn(async move {
            send(&mut a, &frame(FIN | 3, b"")).await;
            while a.write_all(&[0; 4096]).await.is_ok() {
                throng_runtime::sleep(Duration::from_millis(100)).await;
            }
        });
        assert!(matches!(server.next().await, Some(Err(Error::Protocol(_)))));
        assert_passed(begin, Duration::from_secs(10));
    });
}

#[test]
fn a_peer_that_vanishes_is_an_error() {
    let whole = frame(FIN | TEXT, b"hello");
    for sent in 0..whole.len() {
        let part = whole[..sent].to_vec();
        run(async move {
            let (mut a, b) = duplex(1 << 16, Pace::FAST);
            let mut server = WebSocket::from_stream(b, Role::Server, Config::default(), Vec::new());
            send(&mut a, &part).await;
            spawn(async move {
                throng_runtime::sleep(Duration::from_millis(1)).await;
                drop(a);
            });
            assert!(matches!(server.next().await, Some(Err(Error::ClosedAbnormally))));
            assert!(server.next().await.is_none());
            assert!(matches!(server.send(Message::text("x")).await, Err(Error::Closed)));
        });
    }
}

#[test]
fn a_reset_is_an_io_error() {
    run(async {
        let (mut a, b) = duplex(1 << 16, Pace::FAST);
        let mut server = WebSocket::from_stream(b, Role::Server, Config::default(), Vec::new());
        send(&mut a, &frame(FIN | TEXT, b"hello")[..4]).await;
        a.reset();
        assert!(matches!(server.next().await, Some(Err(Error::Io(_)))));
        assert!(server.next().await.is_none());
    });
}

#[test]
fn frames_after_a_close_frame_are_ignored() {
    run(async {
        let (mut a, b) = duplex(1 << 16, Pace::FAST);
        let mut server = WebSocket::from_stream(b, Role::Server, Config::default(), Vec::new());
        send(&mut a, &frame(FIN | CLOSE, &1000_u16.to_be_bytes())).await;
        send(&mut a, &frame(FIN | TEXT, b"too late")).await;
        assert!(server.next().await.unwrap().unwrap().is_close());
        assert!(server.next().await.is_none());
        assert_eq!(read_frame(&mut a).await, Some((FIN | CLOSE, 1000_u16.to_be_bytes().to_vec())));
        assert_eq!(read_frame(&mut a).await, None);
    });
}
