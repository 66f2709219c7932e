//! Listening and accepting.

use std::cell::Cell;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use futures::future::{join, join_all};
use futures::{AsyncReadExt, AsyncWriteExt};
use throng_net::{TcpListener, TcpStream};
use throng_runtime::{sleep, spawn_local, timeout};

use crate::world::{Ends, echo, signal, until};

fn any(ip: IpAddr) -> SocketAddr {
    SocketAddr::new(ip, 0)
}

pub(crate) async fn binding_twice_is_refused_and_closing_makes_room(ends: Ends) {
    for ip in [Ipv4Addr::UNSPECIFIED.into(), ends.near.v4()] {
        let first = TcpListener::bind(any(ip)).unwrap();
        let addr = first.local_addr().unwrap();
        assert_eq!(addr.ip(), ip);
        assert_ne!(addr.port(), 0);
        assert_eq!(TcpListener::bind(addr).unwrap_err().kind(), ErrorKind::AddrInUse);
        drop(first);
        TcpListener::bind(addr).unwrap();
    }
}

pub(crate) async fn what_is_not_ours_cannot_be_bound(_: Ends) {
    let error = TcpListener::bind("192.0.2.1:0".parse().unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrNotAvailable);
}

pub(crate) async fn any_address_covers_both_families(ends: Ends) {
    let (addr, far) = ends
        .far
        .serve_at(Ipv6Addr::UNSPECIFIED.into(), |listener| async move {
            loop {
                let (stream, peer) = listener.accept().await.unwrap();
                // Plain addresses, not IPv4 in the clothes of IPv6.
                assert_eq!(stream.peer_addr().unwrap(), peer);
                let local = stream.local_addr().unwrap();
                assert_eq!(local.is_ipv4(), peer.is_ipv4());
                spawn_local(echo(stream));
            }
        })
        .await;
    for ip in &ends.far.ips {
        let addr = SocketAddr::new(*ip, addr.port());
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(b"x").await.unwrap();
        assert_eq!(&stream.read_chunk(1).await.unwrap()[..], b"x");
        assert_eq!(stream.local_addr().unwrap().is_ipv4(), ip.is_ipv4());
    }
    drop::<crate::world::Remote<()>>(far);
}

pub(crate) async fn connections_are_accepted_in_their_order(ends: Ends) {
    let (go, begin) = signal();
    let (addr, far) = ends
        .far
        .serve(|listener| async move {
            begin.await.unwrap();
            let mut peers = Vec::new();
            for _ in 0..5 {
                peers.push(listener.accept().await.unwrap().1);
            }
            peers
        })
        .await;
    let mut streams = Vec::new();
    for _ in 0..5 {
        let stream = TcpStream::connect(addr).await.unwrap();
        // The last step of its handshake is under way before the next begins.
        sleep(Duration::from_millis(5)).await;
        streams.push(stream);
    }
    go.send(()).unwrap();
    let ours: Vec<_> = streams.iter().map(|stream| stream.local_addr().unwrap()).collect();
    assert_eq!(far.done().await, ours);
}

pub(crate) async fn a_cancelled_accept_loses_nothing(ends: Ends) {
    let (tell, told) = signal();
    let (addr, far) = ends
        .far
        .serve(|listener| async move {
            // One is cancelled for certain, before anybody comes; others as it happens.
            let early = timeout(Duration::from_micros(300), listener.accept()).await;
            assert!(early.is_err());
            tell.send(()).unwrap();
            let mut accepted = Vec::new();
            while accepted.len() < 20 {
                if let Ok(taken) = timeout(Duration::from_micros(300), listener.accept()).await {
                    accepted.push(taken.unwrap());
                }
            }
            for (stream, _) in &mut accepted {
                stream.write_all(b"!").await.unwrap();
            }
        })
        .await;
    told.await.unwrap();
    let mut streams = Vec::new();
    for _ in 0..20 {
        streams.push(TcpStream::connect(addr).await.unwrap());
        sleep(Duration::from_millis(1)).await;
    }
    for stream in &mut streams {
        assert_eq!(&stream.read_chunk(9).await.unwrap()[..], b"!");
    }
    far.done().await;
}

pub(crate) async fn several_tasks_accept(ends: Ends) {
    let (addr, far) = ends
        .far
        .serve(|listener| async move {
            let listener = Rc::new(listener);
            let tasks = (0..4).map(|_| {
                let listener = listener.clone();
                spawn_local(async move { listener.accept().await.unwrap() })
            });
            let tasks: Vec<_> = tasks.collect();
            let mut peers = Vec::new();
            for task in tasks {
                peers.push(task.await.unwrap().1);
            }
            peers.sort();
            peers
        })
        .await;
    let streams = join_all((0..4).map(|_| TcpStream::connect(addr))).await;
    let mut ours: Vec<_> =
        streams.iter().map(|stream| stream.as_ref().unwrap().local_addr().unwrap()).collect();
    ours.sort();
    assert_eq!(far.done().await, ours);
}

pub(crate) async fn what_came_before_the_accept_is_there(ends: Ends) {
    let (go, begin) = signal();
    let (addr, far) = ends
        .far
        .serve(|listener| async move {
            begin.await.unwrap();
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 5];
            stream.read_exact(&mut request).await.unwrap();
            stream.write_all(&request).await.unwrap();
        })
        .await;
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(b"early").await.unwrap();
    sleep(Duration::from_millis(10)).await;
    go.send(()).unwrap();
    let mut back = [0; 5];
    stream.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"early");
    far.done().await;
}

pub(crate) async fn a_client_that_left_before_the_accept_is_accepted(ends: Ends) {
    let (go, begin) = signal();
    let (addr, far) = ends
        .far
        .serve(|listener| async move {
            begin.await.unwrap();
            let (mut stream, peer) = listener.accept().await.unwrap();
            assert_eq!(stream.peer_addr().unwrap(), peer);
            let mut all = Vec::new();
            stream.read_to_end(&mut all).await.unwrap();
            assert_eq!(all, b"bye");
        })
        .await;
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(b"bye").await.unwrap();
    drop(stream);
    sleep(Duration::from_millis(10)).await;
    go.send(()).unwrap();
    far.done().await;
}

pub(crate) async fn dropping_a_listener_resets_who_waits(ends: Ends) {
    let (go, begin) = signal();
    let (addr, far) = ends
        .far
        .serve(|listener| async move {
            begin.await.unwrap();
            drop(listener);
        })
        .await;
    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push(TcpStream::connect(addr).await.unwrap());
    }
    sleep(Duration::from_millis(10)).await;
    go.send(()).unwrap();
    far.done().await;
    for stream in &mut streams {
        let error = stream.read_chunk(1).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    let error = TcpStream::connect(addr).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
}

pub(crate) async fn accepted_connections_outlive_their_listener(ends: Ends) {
    let (mut stream, _far) = ends.connect_to_echo().await;
    stream.write_all(b"x").await.unwrap();
    // The listener was dropped when its first connection was there.
    assert_eq!(&stream.read_chunk(1).await.unwrap()[..], b"x");
    let peer = stream.peer_addr().unwrap();
    let error = TcpStream::connect(peer).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    stream.write_all(b"y").await.unwrap();
    assert_eq!(&stream.read_chunk(1).await.unwrap()[..], b"y");
}

pub(crate) async fn a_full_backlog_makes_clients_wait(ends: Ends) {
    let (go, begin) = signal();
    let (tell, told) = futures::channel::oneshot::channel();
    let ip = ends.far.v4();
    let far = ends.far.spawn(move || async move {
        let listener = TcpListener::bind_with_backlog(any(ip), 1).unwrap();
        tell.send(listener.local_addr().unwrap()).unwrap();
        begin.await.unwrap();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let byte = stream.read_chunk(1).await.unwrap_or_default();
            let _ = stream.write_chunk(byte.clone()).await;
            if &byte[..] == b"." {
                break;
            }
        }
    });
    let addr = told.await.unwrap();
    let mut open = Vec::new();
    while let Ok(stream) = timeout(Duration::from_millis(100), TcpStream::connect(addr)).await {
        open.push(stream.unwrap());
        assert!(open.len() < 10, "the backlog has no bound");
    }
    let accept = async {
        sleep(Duration::from_millis(20)).await;
        go.send(()).unwrap();
        drop(open);
    };
    // It is let in when there is room, by a SYN that is sent again.
    let (stream, ()) = join(TcpStream::connect(addr), accept).await;
    let mut stream = stream.unwrap();
    stream.write_all(b".").await.unwrap();
    assert_eq!(&stream.read_chunk(1).await.unwrap()[..], b".");
    far.done().await;
}

pub(crate) async fn many_come_at_once(ends: Ends) {
    let (addr, far) = ends
        .far
        .serve(|listener| async move {
            let open = Rc::new(Cell::new(0));
            let mut served = 0;
            while served < 600 {
                let (stream, _) = listener.accept().await.unwrap();
                served += 1;
                open.set(open.get() + 1);
                let open = open.clone();
                spawn_local(async move {
                    echo(stream).await;
                    open.set(open.get() - 1);
                });
            }
            until(|| open.get() == 0).await;
        })
        .await;
    for _ in 0..3 {
        let streams = join_all((0..200).map(|_| TcpStream::connect(addr))).await;
        let mut streams: Vec<_> = streams.into_iter().map(Result::unwrap).collect();
        for (i, stream) in streams.iter_mut().enumerate() {
            stream.write_all(&[i as u8]).await.unwrap();
        }
        for (i, stream) in streams.iter_mut().enumerate() {
            assert_eq!(stream.read_chunk(2).await.unwrap()[..], [i as u8]);
        }
    }
    far.done().await;
}
