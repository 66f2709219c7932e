//! Connecting: where to, where from, and what comes of it.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use futures::AsyncWriteExt;
use throng_net::{TcpListener, TcpSocket, TcpStream};
use throng_runtime::timeout;

use crate::world::{Ends, echo};

/// The kind of error that connecting to `addr` gives.
async fn failure(socket: TcpSocket, addr: SocketAddr) -> ErrorKind {
    match socket.connect(addr).await {
        Ok(stream) => panic!("connected to {:?}", stream.peer_addr()),
        Err(error) => error.kind(),
    }
}

pub(crate) async fn a_port_without_listener_refuses(ends: Ends) {
    for ip in ends.far.ips.clone() {
        // Just given back.
        let (addr, gone) = ends.far.serve_at(ip, |listener| async move { drop(listener) }).await;
        gone.done().await;
        assert_eq!(failure(TcpSocket::new(), addr).await, ErrorKind::ConnectionRefused);
    }
}

pub(crate) async fn no_address_of_a_host_is_refused(ends: Ends) {
    for ip in ends.far.ips.clone() {
        let kind = failure(TcpSocket::new(), SocketAddr::new(ip, 0)).await;
        assert_eq!(kind, ErrorKind::InvalidInput);
        let nobody = ["0.0.0.0:9", "[::]:9", "224.0.0.1:9", "[ff02::1]:9", "255.255.255.255:9"];
        for addr in nobody.map(|addr| addr.parse().unwrap()) {
            assert_eq!(failure(TcpSocket::new(), addr).await, ErrorKind::InvalidInput, "{addr}");
        }
    }
}

pub(crate) async fn a_silent_neighbour_is_unreachable(ends: Ends) {
    let begin = Instant::now();
    let attempts = ends.near.silent.iter().map(|ip| async move {
        assert_eq!(
            failure(TcpSocket::new(), SocketAddr::new(*ip, 9)).await,
            ErrorKind::HostUnreachable,
            "{ip}"
        );
    });
    futures::future::join_all(attempts).await;
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
}

pub(crate) async fn a_foreign_address_has_no_route(ends: Ends) {
    if let Some(ip) = ends.near.foreign {
        let kind = failure(TcpSocket::new(), SocketAddr::new(ip, 9)).await;
        assert_eq!(kind, ErrorKind::NetworkUnreachable);
    }
}

pub(crate) async fn a_bound_source_is_used_and_the_same_twice_refused(ends: Ends) {
    let (addr, _far) = ends
        .far
        .serve(|listener| async move { echo(listener.accept().await.unwrap().0).await })
        .await;
    // A port that was free a moment ago.
    let any = SocketAddr::new(ends.near.v4(), 0);
    let source = TcpListener::bind(any).unwrap().local_addr().unwrap();
    let socket = TcpSocket::new().bind(source);
    let mut stream = socket.connect(addr).await.unwrap();
    assert_eq!(stream.local_addr().unwrap(), source);
    assert_eq!(failure(socket, addr).await, ErrorKind::AddrInUse);
    stream.write_all(b"x").await.unwrap();
    assert_eq!(&stream.read_chunk(1).await.unwrap()[..], b"x");
    // An address alone, and a port alone.
    let (addr, _far) = ends
        .far
        .serve(|listener| async move {
            let mut open = Vec::new();
            while open.len() < 4 {
                open.push(listener.accept().await.unwrap());
            }
        })
        .await;
    let stream = TcpSocket::new().bind(any).connect(addr).await.unwrap();
    assert_eq!(stream.local_addr().unwrap().ip(), any.ip());
    let port = TcpListener::bind(any).unwrap().local_addr().unwrap().port();
    for unspecified in [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()] {
        let source = SocketAddr::new(unspecified, port);
        let stream = TcpSocket::new().bind(source).connect(addr).await.unwrap();
        assert_eq!(stream.local_addr().unwrap(), SocketAddr::new(any.ip(), port));
        // A reset leaves no TIME_WAIT behind, so that the port is free.
        stream.abort();
    }
}

pub(crate) async fn a_foreign_source_is_refused(ends: Ends) {
    let addr = SocketAddr::new(ends.far.v4(), 9);
    let socket = TcpSocket::new().bind("192.0.2.1:0".parse().unwrap());
    assert_eq!(failure(socket, addr).await, ErrorKind::AddrNotAvailable);
}

pub(crate) async fn a_source_of_another_family_is_refused(ends: Ends) {
    let [v4, v6] = ends.near.ips[..] else { return };
    for (from, to) in [(v4, ends.far.ips[1]), (v6, ends.far.v4())] {
        let socket = TcpSocket::new().bind(SocketAddr::new(from, 0));
        let kind = failure(socket, SocketAddr::new(to, 9)).await;
        assert_eq!(kind, ErrorKind::InvalidInput, "{from} to {to}");
    }
}

pub(crate) async fn a_cancelled_connect_is_gone(ends: Ends) {
    for ip in ends.near.silent.clone() {
        let connecting = TcpStream::connect(SocketAddr::new(ip, 9));
        assert!(timeout(Duration::from_millis(20), connecting).await.is_err());
    }
    // One that is given up as it is answered is accepted, and at its end.
    let (addr, far) = ends
        .far
        .serve(|listener| async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                match stream.read_chunk(9).await {
                    Ok(chunk) if &chunk[..] == b"last" => break,
                    Ok(chunk) => assert!(chunk.is_empty()),
                    Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
                }
            }
        })
        .await;
    for micros in [0, 10, 20, 50, 100, 200, 500] {
        let _ = timeout(Duration::from_micros(micros), TcpStream::connect(addr)).await;
    }
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(b"last").await.unwrap();
    far.done().await;
}
