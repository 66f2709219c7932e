//! WebSockets out of HTTP requests, with the HTTP server in front.

use std::convert::Infallible;
use std::time::Duration;

use futures::{AsyncReadExt, SinkExt, StreamExt};
use http::{HeaderValue, Request, Response};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use throng_http::{Running, Server};
use throng_ws::{Config, Error, HandshakeError, IntoClientRequest, Message};

use crate::raw::{FIN, TEXT, frame, read_frame, send};
use crate::support::listener::{Dialer, listen};
use crate::support::{Pace, run, spawn};

async fn service(mut request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.uri().path() == "/" {
        return Ok(Response::new(Full::from("a page")));
    }
    let config = Config::default().ping_interval(Duration::from_secs(30));
    let (mut response, socket) = match throng_ws::upgrade_with(&mut request, config) {
        Ok(upgrade) => upgrade,
        Err(error) => return Ok(throng_ws::refusal(&error)),
    };
    if request.headers().contains_key("sec-websocket-protocol") {
        let chosen = HeaderValue::from_static("two");
        response.headers_mut().insert("sec-websocket-protocol", chosen);
    }
    spawn(async move {
        let mut socket = socket.await.unwrap();
        while let Some(Ok(message)) = socket.next().await {
            if message.is_text() || message.is_binary() {
                socket.send(message).await.unwrap();
            }
        }
    });
    Ok(response)
}

fn serve() -> (Dialer, Running) {
    let (dialer, listener) = listen();
    let server = Server::new().start();
    let running = server.clone();
    spawn(async move {
        running.serve(listener, throng_http::service_fn(service)).await;
    });
    (dialer, server)
}

#[test]
fn echo_behind_hyper() {
    for pace in [Pace::FAST, Pace { chunk: 3, stutter: true }] {
        run(async move {
            let (dialer, server) = serve();
            let mut request = "ws://x/socket".into_client_request().unwrap();
            let protocols = HeaderValue::from_static("one, two");
            request.headers_mut().insert("sec-websocket-protocol", protocols);
            let stream = dialer.connect_at(1000, pace);
            let (mut client, response) = throng_ws::connect(request, stream).await.unwrap();
            assert_eq!(response.headers()["sec-websocket-protocol"], "two");
            for size in [0, 1, 125, 126, 65535, 65536, 200_000] {
                let message = Message::binary(vec![size as u8; size]);
                client.send(message.clone()).await.unwrap();
                assert_eq!(client.next().await.unwrap().unwrap(), message);
            }
            // The HTTP server has let go of the connection; it lives on through a drain.
            assert_eq!(server.connections(), 0);
            server.drain(Duration::ZERO).await;
            throng_runtime::sleep(Duration::from_secs(1)).await;
            client.send(Message::text("still here")).await.unwrap();
            assert_eq!(client.next().await.unwrap().unwrap(), Message::text("still here"));
            client.close(None).await.unwrap();
        });
    }
}

#[test]
fn a_message_right_behind_the_request() {
    run(async {
        let (dialer, _server) = serve();
        let mut client = dialer.connect();
        let request = "GET /socket HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\n\
            upgrade: websocket\r\nsec-websocket-version: 13\r\n\
            sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        send(&mut client, &[request.as_bytes(), &frame(FIN | TEXT, b"eager")].concat()).await;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            client.read_exact(&mut byte).await.unwrap();
            head.push(byte[0]);
        }
        assert_eq!(read_frame(&mut client).await, Some((FIN | TEXT, b"eager".to_vec())));
    });
}

#[test]
fn pages_and_refusals_beside_the_sockets() {
    run(async {
        let (dialer, _server) = serve();
        // What is no WebSocket request gets an answer, and the connection goes on.
        let mut client = dialer.connect();
        for (request, status) in [
            ("GET / HTTP/1.1\r\nhost: x\r\n\r\n", "200 OK"),
            ("GET /socket HTTP/1.1\r\nhost: x\r\n\r\n", "426 Upgrade Required"),
            ("GET / HTTP/1.1\r\nhost: x\r\n\r\n", "200 OK"),
        ] {
            send(&mut client, request.as_bytes()).await;
            throng_runtime::sleep(Duration::from_millis(1)).await;
            let mut answer = vec![0; client.unread()];
            client.read_exact(&mut answer).await.unwrap();
            let answer = String::from_utf8(answer).unwrap();
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
        }
        let refused = throng_ws::connect("ws://x/", dialer.connect()).await.unwrap_err();
        assert!(matches!(refused, Error::Handshake(HandshakeError::Refused(_))), "{refused:?}");
    });
}
