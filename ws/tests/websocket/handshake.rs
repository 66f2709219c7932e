//! The opening handshake straight on a stream.

use std::time::Duration;

use futures::{AsyncReadExt, SinkExt, StreamExt};
use http::{HeaderValue, Response, StatusCode};
use throng_runtime::Instant;
use throng_ws::{Config, Error, HandshakeError, IntoClientRequest, Message};

use crate::raw::{FIN, TEXT, frame, read_frame, send};
use crate::support::{End, Pace, assert_passed, duplex, run, spawn};

const REQUEST: &str = "GET /chat HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

async fn answer(mut end: End) -> String {
    let mut bytes = Vec::new();
    end.read_to_end(&mut bytes).await.unwrap();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn client_and_server_meet() {
    for pace in [Pace::FAST, Pace::SLOW] {
        run(async move {
            let (a, b) = duplex(100, pace);
            spawn(async move {
                let mut server =
                    throng_ws::accept_with(b, Config::default(), |request, mut response| {
                        assert_eq!(request.uri().path(), "/chat");
                        assert_eq!(request.headers()["x-token"], "secret");
                        let headers = response.headers_mut();
                        headers.insert("sec-websocket-protocol", HeaderValue::from_static("two"));
                        Ok(response)
                    })
                    .await
                    .unwrap();
                server.send(Message::text("welcome")).await.unwrap();
                server.close(None).await.unwrap();
            });
            let mut request = "ws://host.example/chat".into_client_request().unwrap();
            let headers = request.headers_mut();
            headers.insert("x-token", HeaderValue::from_static("secret"));
            headers.insert("sec-websocket-protocol", HeaderValue::from_static("one, two"));
            let (mut client, response) = throng_ws::connect(request, a).await.unwrap();
            assert_eq!(response.headers()["sec-websocket-protocol"], "two");
            assert_eq!(client.next().await.unwrap().unwrap(), Message::text("welcome"));
            assert!(client.next().await.unwrap().unwrap().is_close());
            assert!(client.next().await.is_none());
        });
    }
}

#[test]
fn the_example_of_the_rfc_with_a_message_right_behind() {
    run(async {
        let (mut a, b) = duplex(1 << 16, Pace::FAST);
        send(&mut a, &[REQUEST.as_bytes(), &frame(FIN | TEXT, b"eager")].concat()).await;
        let mut server = throng_ws::accept(b).await.unwrap();
        assert_eq!(server.next().await.unwrap().unwrap(), Message::text("eager"));
        drop(server);
        let answer = answer(a).await;
        assert!(answer.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{answer}");
        assert!(answer.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{answer}");
    });
}

#[test]
fn what_is_no_handshake_is_told_so() {
    let cases = [
        (REQUEST.replace("Upgrade: websocket\r\n", ""), "426 Upgrade Required"),
        (REQUEST.replace("Version: 13", "Version: 8"), "426 Upgrade Required"),
        (REQUEST.replace("GET", "POST"), "405 Method Not Allowed"),
        (REQUEST.replace("dGhlIHNhbXBsZSBub25jZQ==", "short"), "400 Bad Request"),
        (REQUEST.replace("HTTP/1.1", "HTTP/1.0"), "400 Bad Request"),
        ("rubbish\r\n\r\n".to_owned(), "400 Bad Request"),
        (format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(9000)), "431 Request Header"),
    ];
    for (request, status) in cases {
        run(async move {
            let (mut a, b) = duplex(1 << 16, Pace::FAST);
            send(&mut a, request.as_bytes()).await;
            let error = throng_ws::accept(b).await.unwrap_err();
            assert!(matches!(error, Error::Handshake(_)), "{error:?}");
            let answer = answer(a).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{request}: {answer}");
        });
    }
}

#[test]
fn a_callback_declines() {
    run(async {
        let (a, b) = duplex(1 << 16, Pace::FAST);
        spawn(async move {
            let declined = throng_ws::accept_with(b, Config::default(), |_, _| {
                let mut response = Response::new("no entry".to_owned());
                *response.status_mut() = StatusCode::FORBIDDEN;
                Err(Box::new(response))
            });
            let error = declined.await.unwrap_err();
            assert!(matches!(error, Error::Handshake(HandshakeError::Declined(_))));
        });
        let error = throng_ws::connect("ws://x/", a).await.unwrap_err();
        let Error::Handshake(HandshakeError::Refused(status)) = error else { panic!("{error}") };
        assert_eq!(status, StatusCode::FORBIDDEN);
    });
}

#[test]
fn a_slow_handshake_times_out() {
    run(async {
        let (mut a, b) = duplex(1 << 16, Pace::FAST);
        send(&mut a, b"GET / HT").await;
        let error = throng_ws::accept(b).await.unwrap_err();
        assert!(matches!(error, Error::Handshake(HandshakeError::TimedOut)));
        assert_passed(Instant::ZERO, Duration::from_millis(10_000));
        let (a, _b) = duplex(1 << 16, Pace::FAST);
        let error = throng_ws::connect("ws://x/", a).await.unwrap_err();
        assert!(matches!(error, Error::Handshake(HandshakeError::TimedOut)));
    });
}

#[test]
fn a_wrong_accept_key_is_refused() {
    run(async {
        let (a, mut b) = duplex(1 << 16, Pace::FAST);
        send(
            &mut b,
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
              Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
        )
        .await;
        let error = throng_ws::connect("ws://x/", a).await.unwrap_err();
        assert!(matches!(error, Error::Handshake(HandshakeError::NotWebSocket(_))), "{error:?}");
        assert!(throng_ws::connect("http://x/", b).await.is_err());
    });
}

#[test]
fn a_frame_right_behind_the_servers_answer_arrives() {
    run(async {
        let (mut a, b) = duplex(1 << 16, Pace::FAST);
        send(&mut a, REQUEST.as_bytes()).await;
        let mut server = throng_ws::accept(b).await.unwrap();
        server.send(Message::text("hi")).await.unwrap();
        drop(server);
        let mut head = vec![0; 129];
        a.read_exact(&mut head).await.unwrap();
        assert!(head.ends_with(b"\r\n\r\n"));
        assert_eq!(read_frame(&mut a).await, Some((FIN | TEXT, b"hi".to_vec())));
    });
}
