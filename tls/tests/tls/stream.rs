//! Bytes through a connection, and its ends.

use std::io::ErrorKind;
use std::time::Duration;

use futures::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use throng_net::device::faults::Impairments;
use throng_net::{TcpListener, TcpStream};
use throng_runtime::{sleep, spawn_local};
use throng_tls::TlsListener;

use crate::support::{Pair, acceptor, connector, server_address};
use crate::{connect, echo, pair, say};

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i % 251) as u8).collect()
}

#[test]
fn bytes_arrive_over_a_bad_link() {
    for seed in 0..8 {
        let impairments = Impairments {
            loss: 0.02,
            duplicate: 0.01,
            reorder: 0.02,
            corrupt: 0.01,
            reorder_by: Duration::from_millis(3),
            ..Impairments::default()
        };
        let mut pair = Pair::with_faults(1, seed, impairments);
        let acceptor = acceptor();
        pair.serve(1, || echo(&acceptor));
        pair.run(async move {
            let stream = connect(&connector(), "a.test").await.unwrap();
            let (mut reader, mut writer) = stream.split();
            let sent = pattern(300_000 + seed as usize);
            let expected = sent.clone();
            spawn_local(async move {
                writer.write_all(&sent).await.unwrap();
                writer.close().await.unwrap();
            })
            .detach();
            let mut received = Vec::new();
            reader.read_to_end(&mut received).await.unwrap();
            assert!(received == expected, "seed {seed}: {} bytes", received.len());
        });
    }
}

/// Each side closes for itself: after our `close_notify` the peer's bytes still come.
#[test]
fn either_side_closes_by_itself() {
    let acceptor = acceptor();
    let mut pair = pair();
    pair.serve(1, || {
        let listener =
            TlsListener::new(TcpListener::bind(server_address()).unwrap(), acceptor.clone());
        let task = async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            assert_eq!(stream.server_name(), Some("a.test"));
            let mut question = Vec::new();
            stream.read_to_end(&mut question).await.unwrap();
            assert_eq!(question, b"question");
            sleep(Duration::from_secs(1)).await;
            stream.write_all(b"answer").await.unwrap();
            stream.close().await.unwrap();
            // Nothing more can be said, and the peer has nothing more to say.
            assert!(stream.write_all(b"?").await.is_err());
            assert_eq!(stream.read(&mut [0; 10]).await.unwrap(), 0);
        };
        spawn_local(task).detach();
    });
    pair.run(async {
        let mut stream = connect(&connector(), "a.test").await.unwrap();
        stream.write_all(b"question").await.unwrap();
        stream.close().await.unwrap();
        assert_eq!(stream.fill_buf().await.unwrap(), b"answer");
        stream.consume_unpin(6);
        assert_eq!(stream.read(&mut [0; 10]).await.unwrap(), 0, "close_notify is an end");
        assert_eq!(stream.read(&mut [0; 10]).await.unwrap(), 0);
    });
}

/// Without `close_notify` the end may be anyone's doing.
#[test]
fn a_stream_that_is_cut_off_is_an_error() {
    let acceptor = acceptor();
    let mut pair = pair();
    pair.serve(1, || {
        let listener =
            TlsListener::new(TcpListener::bind(server_address()).unwrap(), acceptor.clone());
        let task = async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.write_all(b"half an ans").await.unwrap();
                stream.flush().await.unwrap();
            }
        };
        spawn_local(task).detach();
    });
    pair.run(async {
        let mut stream = connect(&connector(), "a.test").await.unwrap();
        let mut answer = Vec::new();
        let error = stream.read_to_end(&mut answer).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "{error}");
        assert_eq!(answer, b"half an ans");
        let error = stream.read(&mut [0; 10]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "and it stays one: {error}");
    });
}

/// A reader that stops holds the writer back, within what both ends buffer.
#[test]
fn a_slow_reader_holds_the_writer_back() {
    let acceptor = acceptor();
    let mut pair = pair();
    pair.serve(1, || echo(&acceptor));
    pair.run(async {
        let mut stream = connect(&connector(), "a.test").await.unwrap();
        let all = pattern(20_000_000);
        let writing = throng_runtime::timeout(Duration::from_secs(60), stream.write_all(&all));
        assert!(writing.await.is_err(), "20 MB fit into the buffers");
        let usage = throng_net::stats::current().unwrap().usage;
        assert!(usage.send_memory + usage.recv_memory < 2 << 20, "{usage:?}");
    });
}

/// TLS below TLS, as through a proxy: any stream with tokio's traits will do.
#[test]
fn a_connection_carries_another() {
    let (outer, inner) = (acceptor(), acceptor());
    let mut pair = pair();
    pair.serve(1, || {
        let listener =
            TlsListener::new(TcpListener::bind(server_address()).unwrap(), outer.clone());
        let inner = inner.clone();
        let task = async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = inner.accept(stream).await.unwrap();
            let mut word = [0; 5];
            stream.read_exact(&mut word).await.unwrap();
            stream.write_all(&word).await.unwrap();
            stream.close().await.unwrap();
        };
        spawn_local(task).detach();
    });
    pair.run(async {
        let outer: throng_tls::TlsStream<TcpStream> =
            connect(&connector(), "a.test").await.unwrap();
        let mut stream = connector().connect("a.test", outer).await.unwrap();
        stream.write_all(b"hello").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "hello");
    });
}

#[test]
fn a_host_address_is_a_name_too() {
    let identity = crate::support::issue(&["10.0.0.1", "fd00::1"]);
    let acceptor = throng_tls::ServerConfig::new([identity]).build().unwrap();
    let mut pair = pair();
    pair.serve(1, || echo(&acceptor));
    pair.run(async {
        for name in ["10.0.0.1", "fd00::1", "[fd00::1]"] {
            let mut stream = connect(&connector(), name).await.unwrap();
            say(&mut stream, name).await;
        }
        let error = connect(&connector(), "10.0.0.2").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
    });
}
