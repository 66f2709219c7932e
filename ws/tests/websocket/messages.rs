//! Messages get through whole, in every cut, and a socket at rest holds nothing.

use std::time::Duration;

use futures::{SinkExt, StreamExt};
use throng_ws::{Config, Message, Role, WebSocket};

use crate::raw::{BINARY, CONTINUE, FIN, PING, PONG, TEXT, frame, read_frame, send};
use crate::support::{End, Pace, duplex, run, spawn};

fn server(end: End, config: Config) -> WebSocket<End> {
    WebSocket::from_stream(end, Role::Server, config, Vec::new())
}

fn client(end: End) -> WebSocket<End> {
    WebSocket::from_stream(end, Role::Client, Config::default(), Vec::new())
}

/// Echoes until the peer is done.
async fn echo(mut socket: WebSocket<End>) {
    while let Some(Ok(message)) = socket.next().await {
        if message.is_text() || message.is_binary() {
            socket.send(message).await.unwrap();
        }
    }
}

fn payload(size: usize) -> Vec<u8> {
    (0..size).map(|i| (i * 31 % 251) as u8).collect()
}

#[test]
fn every_size_in_both_directions() {
    for pace in [Pace::FAST, Pace { chunk: 1000, stutter: true }] {
        for park in [true, false] {
            run(async move {
                let (a, b) = duplex(8192, pace);
                let mut client = client(a);
                spawn(echo(server(b, Config::default().park(park))));
                for size in [0, 1, 125, 126, 2047, 2048, 4096, 65535, 65536, 1 << 20] {
                    let bytes = payload(size);
                    // Both sides read while they write only if someone reads: the client
                    // sends first, and the pipe is smaller than the message.
                    client.send(Message::binary(bytes.clone())).await.unwrap();
                    let echoed = client.next().await.unwrap().unwrap();
                    assert_eq!(echoed, Message::binary(bytes), "{size}");
                    let text = "ü".repeat(size / 2);
                    client.send(Message::text(text.clone())).await.unwrap();
                    assert_eq!(client.next().await.unwrap().unwrap(), Message::text(text));
                }
                client.close(None).await.unwrap();
            });
        }
    }
}

#[test]
fn one_byte_at_a_time() {
    run(async {
        let (a, b) = duplex(3, Pace::SLOW);
        let mut client = client(a);
        spawn(echo(server(b, Config::default())));
        for size in [0, 1, 125, 126, 300] {
            client.send(Message::binary(payload(size))).await.unwrap();
            let echoed = client.next().await.unwrap().unwrap();
            assert_eq!(echoed, Message::binary(payload(size)));
        }
        client.close(None).await.unwrap();
    });
}

/// What a client may send in one go: whole and fragmented messages, pings between the
/// fragments. With the messages a server must see.
fn script() -> (Vec<u8>, Vec<Message>) {
    let mut bytes = Vec::new();
    bytes.extend(frame(FIN | TEXT, b"first"));
    bytes.extend(frame(TEXT, "zw".as_bytes()));
    bytes.extend(frame(FIN | PING, b"p1"));
    // The two bytes of a letter in two fragments.
    bytes.extend(frame(CONTINUE, &"ö".as_bytes()[..1]));
    bytes.extend(frame(FIN | PING, b""));
    bytes.extend(frame(FIN | CONTINUE, &"ölf".as_bytes()[1..]));
    bytes.extend(frame(FIN | PONG, b"unasked"));
    bytes.extend(frame(FIN | BINARY, &payload(130)));
    bytes.extend(frame(FIN | BINARY, b""));
    bytes.extend(frame(BINARY, b""));
    bytes.extend(frame(FIN | CONTINUE, b"tail"));
    let messages = vec![
        Message::text("first"),
        Message::Ping("p1".into()),
        Message::Ping("".into()),
        Message::text("zwölf"),
        Message::Pong("unasked".into()),
        Message::binary(payload(130)),
        Message::binary(b"".to_vec()),
        Message::binary(b"tail".to_vec()),
    ];
    (bytes, messages)
}

#[test]
fn split_at_every_byte_boundary() {
    let (bytes, messages) = script();
    for park in [true, false] {
        for cut in 0..=bytes.len() {
            let (bytes, messages) = (bytes.clone(), messages.clone());
            run(async move {
                let (mut a, b) = duplex(1 << 16, Pace::FAST);
                let mut server = server(b, Config::default().park(park));
                let (first, second) = bytes.split_at(cut);
                let second = second.to_vec();
                send(&mut a, first).await;
                let writer = throng_runtime::spawn_local(async move {
                    throng_runtime::sleep(Duration::from_millis(1)).await;
                    send(&mut a, &second).await;
                    let pongs = [read_frame(&mut a).await, read_frame(&mut a).await];
                    (a, pongs)
                });
                for expected in messages {
                    assert_eq!(server.next().await.unwrap().unwrap(), expected, "cut at {cut}");
                }
                let (a, pongs) = writer.await.unwrap();
                let expected = [(FIN | PONG, b"p1".to_vec()), (FIN | PONG, Vec::new())];
                assert_eq!(pongs, expected.map(Some));
                // Let the socket see that nothing more has come.
                let wait = throng_runtime::timeout(Duration::from_millis(1), server.next());
                assert!(wait.await.is_err());
                assert_eq!(server.is_parked(), park);
                drop(a);
            });
        }
    }
}

#[test]
fn byte_by_byte_with_a_pause_after_each() {
    let (bytes, messages) = script();
    run(async move {
        let (mut a, b) = duplex(1 << 16, Pace::FAST);
        let mut server = server(b, Config::default());
        let writer = throng_runtime::spawn_local(async move {
            for byte in bytes {
                send(&mut a, &[byte]).await;
                throng_runtime::sleep(Duration::from_millis(1)).await;
            }
            a
        });
        for expected in messages {
            assert_eq!(server.next().await.unwrap().unwrap(), expected);
        }
        drop(writer.await);
    });
}

#[test]
fn parks_only_between_messages() {
    run(async {
        let (mut a, b) = duplex(1 << 16, Pace::FAST);
        let mut server = server(b, Config::default());
        assert!(server.is_parked(), "nothing has come yet");
        let rest = |server: &mut WebSocket<End>| {
            let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
            assert!(server.poll_next_unpin(&mut cx).is_pending());
            server.is_parked()
        };
        let whole = frame(FIN | TEXT, b"hello");
        send(&mut a, &whole[..3]).await;
        assert!(!rest(&mut server), "half a frame is there");
        send(&mut a, &whole[3..]).await;
        assert_eq!(server.next().await.unwrap().unwrap(), Message::text("hello"));
        assert!(rest(&mut server));
        send(&mut a, &frame(TEXT, b"frag")).await;
        assert!(!rest(&mut server), "a fragmented message is open");
        send(&mut a, &frame(FIN | CONTINUE, b"ment")).await;
        assert_eq!(server.next().await.unwrap().unwrap(), Message::text("fragment"));
        assert!(rest(&mut server));
        server.feed(Message::text("queued")).await.unwrap();
        assert!(!server.is_parked(), "a message waits to be sent");
        server.flush().await.unwrap();
        assert!(server.is_parked());
        // Two frames in one read: the second one must survive a flush after the first.
        send(&mut a, &[frame(FIN | TEXT, b"one"), frame(FIN | TEXT, b"two")].concat()).await;
        assert_eq!(server.next().await.unwrap().unwrap(), Message::text("one"));
        server.send(Message::text("answer")).await.unwrap();
        assert_eq!(server.next().await.unwrap().unwrap(), Message::text("two"));
    });
}

#[test]
fn what_came_with_the_handshake_is_not_lost() {
    run(async {
        let (a, b) = duplex(1 << 16, Pace::FAST);
        let early = frame(FIN | TEXT, b"early");
        let mut server = WebSocket::from_stream(b, Role::Server, Config::default(), early);
        assert_eq!(server.next().await.unwrap().unwrap(), Message::text("early"));
        drop(a);
    });
}

#[test]
fn a_peer_that_does_not_read_holds_the_sender_back() {
    run(async {
        let (a, b) = duplex(1000, Pace::FAST);
        let mut server = server(b, Config::default());
        let sent = std::rc::Rc::new(std::cell::Cell::new(0));
        let count = sent.clone();
        let sender = throng_runtime::spawn_local(async move {
            for _ in 0..1000 {
                server.feed(Message::binary(payload(500))).await.unwrap();
                count.set(count.get() + 1);
            }
            server.flush().await.unwrap();
            server
        });
        throng_runtime::sleep(Duration::from_secs(1)).await;
        // 1000 bytes in the pipe, 4 KiB buffered, one message more.
        assert!((2..=12).contains(&sent.get()), "{} messages went out", sent.get());
        let mut client = client(a);
        for i in 0..1000 {
            assert_eq!(client.next().await.unwrap().unwrap(), Message::binary(payload(500)), "{i}");
        }
        assert_eq!(sent.get(), 1000);
        assert!(sender.await.unwrap().is_parked());
    });
}

#[test]
fn pings_nobody_reads_the_answers_of_cost_no_memory() {
    run(async {
        let (mut a, b) = duplex(100, Pace::FAST);
        let mut server = server(b, Config::default());
        let pinger = throng_runtime::spawn_local(async move {
            for i in 0..20_000_u32 {
                send(&mut a, &frame(FIN | PING, &i.to_be_bytes())).await;
            }
            a
        });
        for _ in 0..20_000 {
            assert!(server.next().await.unwrap().unwrap().is_ping());
        }
        let mut a = pinger.await.unwrap();
        spawn(async move { while let Some(Ok(_)) = server.next().await {} });
        // What had room in pipe and backlog, then the newest.
        let mut answers = 0;
        loop {
            let (_, payload) = read_frame(&mut a).await.unwrap();
            answers += 1;
            if payload == 19_999_u32.to_be_bytes() {
                break;
            }
        }
        assert!(answers < 3000, "{answers} pongs were kept");
    });
}
