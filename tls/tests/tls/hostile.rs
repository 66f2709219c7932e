//! Clients that do not do as they should.

use std::io::ErrorKind;
use std::time::Duration;

use futures::{AsyncReadExt, AsyncWriteExt};
use throng_net::TcpStream;
use throng_runtime::{now, sleep, timeout};

use crate::support::{acceptor, connector, server_address};
use crate::{connect, echo, pair, say};

/// A TLS 1.0 record with an alert in it.
const ALERT: u8 = 21;

async fn tcp() -> TcpStream {
    TcpStream::connect(server_address()).await.unwrap()
}

#[test]
fn what_is_no_client_hello_gets_an_alert() {
    let acceptor = acceptor();
    let mut pair = pair();
    let listener = pair.serve(1, || echo(&acceptor)).remove(0);
    let rubbish: [&[u8]; 6] = [
        b"GET / HTTP/1.1\r\nhost: a.test\r\n\r\n",
        // A record longer than any may be.
        &[22, 3, 1, 0xff, 0xff, 1],
        // A handshake message that is no ClientHello.
        &[22, 3, 1, 0, 4, 2, 0, 0, 0],
        // A ClientHello with nothing in it.
        &[22, 3, 1, 0, 4, 1, 0, 0, 0],
        // Application data first.
        &[23, 3, 3, 0, 5, 1, 2, 3, 4, 5],
        &[0; 5],
    ];
    pair.run(async move {
        for bytes in rubbish {
            let mut stream = tcp().await;
            stream.write_all(bytes).await.unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.unwrap();
            assert_eq!(answer.first(), Some(&ALERT), "to {bytes:x?}: {answer:x?}");
        }
        let mut stream = connect(&connector(), "a.test").await.unwrap();
        say(&mut stream, "still there").await;
    });
    let counters = listener.counters();
    assert_eq!((counters.failed, counters.finished), (rubbish.len() as u64, 1), "{counters:?}");
    assert_eq!(listener.handshakes(), 0);
}

/// A real ClientHello with one bit changed, or cut off: an alert, a handshake that goes on, or
/// a wait; never a panic, and never a connection whose bytes were changed.
#[test]
fn a_client_hello_with_changed_bits_does_no_harm() {
    let acceptor = acceptor();
    let mut pair = pair();
    let listener = pair.serve(1, || echo(&acceptor)).remove(0);
    let hello = client_hello();
    assert!(hello.len() > 100);
    let count = hello.len() as u64;
    pair.run(async move {
        for i in 0..hello.len() {
            let mut bytes = hello.clone();
            bytes[i] ^= 1 << (i % 8);
            let mut stream = tcp().await;
            stream.write_all(&bytes).await.unwrap();
            let mut answer = [0; 5];
            let answer = timeout(Duration::from_millis(100), stream.read_exact(&mut answer)).await;
            assert!(!matches!(answer, Ok(Err(error)) if error.kind() == ErrorKind::InvalidData));
        }
        sleep(Duration::from_secs(11)).await;
        let mut stream = connect(&connector(), "a.test").await.unwrap();
        say(&mut stream, "still there").await;
    });
    let counters = listener.counters();
    assert_eq!(counters.failed + counters.timed_out, count, "{counters:?}");
    assert_eq!((listener.handshakes(), counters.finished), (0, 1));
}

/// The first flight of a client, as bytes.
fn client_hello() -> Vec<u8> {
    use throng_tls::rustls::{ClientConfig, ClientConnection, RootCertStore};
    let provider = throng_tls::rustls::crypto::ring::default_provider();
    let config = ClientConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let mut client = ClientConnection::new(config.into(), "a.test".try_into().unwrap()).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

#[test]
fn a_handshake_that_stalls_is_ended() {
    let acceptor = acceptor();
    let mut pair = pair();
    let listener = pair.serve(1, || echo(&acceptor)).remove(0);
    pair.run(async {
        for part in [0, 3, 60] {
            let mut stream = tcp().await;
            let begin = now();
            stream.write_all(&client_hello()[..part]).await.unwrap();
            let end = stream.read(&mut [0; 100]).await;
            assert!(!matches!(end, Ok(1..)), "{end:?}");
            let passed = now() - begin;
            assert!(passed.abs_diff(Duration::from_secs(10)) < Duration::from_millis(50));
        }
    });
    assert_eq!((listener.counters().timed_out, listener.handshakes()), (3, 0));
}

/// The client's side has a limit of its own.
#[test]
fn a_silent_server_is_given_up() {
    let mut pair = pair();
    let listener = pair.serve(1, || throng_net::TcpListener::bind(server_address()).unwrap());
    pair.run(async {
        let begin = now();
        let connector = connector().handshake_timeout(Duration::from_secs(3));
        let error = connect(&connector, "a.test").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert!((now() - begin).abs_diff(Duration::from_secs(3)) < Duration::from_millis(50));
    });
    drop(listener);
}
