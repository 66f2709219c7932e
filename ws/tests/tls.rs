//! `wss://`: WebSockets with TLS below them, in a simulated world.
#![cfg(feature = "tls")]

#[path = "../../tls/tests/support/mod.rs"]
mod support;

use std::convert::Infallible;
use std::time::Duration;

use futures::{AsyncRead, AsyncWrite, SinkExt, StreamExt};
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use support::{Pair, connector, issue, server_address};
use throng_http::{Server, service_fn};
use throng_net::device::faults::Impairments;
use throng_net::{TcpListener, TcpStream};
use throng_runtime::spawn_local;
use throng_tls::{ServerConfig, TlsListener, TlsStream, alpn};
use throng_ws::{Config, Error, HandshakeError, Message, Upgraded, WebSocket};

async fn echo<S: AsyncRead + AsyncWrite + Unpin>(mut socket: WebSocket<S>) {
    while let Some(Ok(message)) = socket.next().await {
        if message.is_text() || message.is_binary() {
            socket.send(message).await.unwrap();
        }
    }
}

async fn site(mut request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (response, socket) = throng_ws::upgrade(&mut request).unwrap();
    let serving = async move {
        let socket = socket.await.unwrap();
        assert!(matches!(socket.get_ref(), Upgraded::Tls(_)), "hyper's box is gone");
        echo(socket).await;
    };
    spawn_local(serving).detach();
    Ok(response)
}

fn listen() -> TlsListener {
    let acceptor = ServerConfig::new([issue(&["a.test"])]).alpn(alpn::HTTP).build().unwrap();
    TlsListener::new(TcpListener::bind(server_address()).unwrap(), acceptor)
}

async fn connect(url: &str) -> Result<WebSocket<TlsStream<TcpStream>>, Error> {
    let tcp = TcpStream::connect(server_address()).await?;
    // HTTP/2 must not be chosen, though this connector offers it.
    let connector = connector().alpn(alpn::HTTP);
    let (socket, _) = throng_ws::connect_tls(url, tcp, &connector, Config::default()).await?;
    Ok(socket)
}

async fn talk() {
    let mut socket = connect("wss://a.test/").await.unwrap();
    assert_eq!(socket.get_ref().alpn_protocol(), Some(alpn::HTTP1));
    for size in [1, 0, 125, 70_000, 126, 300_000, 2_000] {
        let message = Message::binary(vec![size as u8; size]);
        socket.send(message.clone()).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), message);
    }
    socket.close(None).await.unwrap();
    assert!(socket.next().await.is_none());
}

fn bad_link() -> Impairments {
    Impairments { loss: 0.01, reorder: 0.02, ..Impairments::default() }
}

#[test]
fn an_upgraded_socket_echoes() {
    for seed in 0..4 {
        let mut pair = Pair::with_faults(1, seed, bad_link());
        pair.serve(1, || {
            let serving = async { Server::new().start().serve(listen(), service_fn(site)).await };
            spawn_local(serving).detach();
        });
        pair.run(talk());
    }
}

#[test]
fn a_socket_straight_on_the_stream_echoes() {
    let mut pair = Pair::with_faults(1, 9, bad_link());
    pair.serve(1, || {
        let listener = listen();
        let accepting = async move {
            while let Ok((stream, _)) = listener.accept().await {
                let serving = async move { echo(throng_ws::accept(stream).await.unwrap()).await };
                spawn_local(serving).detach();
            }
        };
        spawn_local(accepting).detach();
    });
    pair.run(async {
        talk().await;
        // The name is checked, and the scheme.
        let error = connect("wss://b.test/").await.unwrap_err();
        assert!(matches!(error, Error::Io(_)), "{error}");
        let error = connect("ws://a.test/").await.unwrap_err();
        let bad = |error: &Error| matches!(error, Error::Handshake(HandshakeError::BadRequest(_)));
        assert!(bad(&error), "{error}");
    });
}

/// Backpressure reaches the sender through TLS, and nothing is stuck when it ends.
#[test]
fn a_slow_reader_gets_everything() {
    let mut pair = Pair::new(1);
    pair.serve(1, || {
        let listener = listen();
        let accepting = async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut socket = throng_ws::accept(stream).await.unwrap();
            for i in 0..400u32 {
                socket.send(Message::binary(vec![i as u8; 10_000])).await.unwrap();
            }
            socket.close(None).await.unwrap();
            while let Some(Ok(_)) = socket.next().await {}
        };
        spawn_local(accepting).detach();
    });
    pair.run(async {
        let mut socket = connect("wss://a.test/").await.unwrap();
        for i in 0..400u32 {
            if i % 100 == 0 {
                throng_runtime::sleep(Duration::from_secs(2)).await;
            }
            let message = socket.next().await.unwrap().unwrap();
            assert_eq!(message, Message::binary(vec![i as u8; 10_000]), "{i}");
        }
        assert!(socket.next().await.unwrap().unwrap().is_close());
        assert!(socket.next().await.is_none());
    });
}
