//! UDP.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use futures::channel::oneshot;
use throng_net::UdpSocket;
use throng_runtime::{spawn_local, timeout};

use crate::world::{Ends, Remote};

fn any(ip: IpAddr) -> SocketAddr {
    SocketAddr::new(ip, 0)
}

/// A socket of the far host's at any of its addresses, which sends back what comes. Where it is
/// at `ip`.
async fn echo(ends: &Ends, ip: IpAddr) -> (SocketAddr, Remote<()>) {
    let bind: IpAddr = match ends.far.ips.len() {
        1 => Ipv4Addr::UNSPECIFIED.into(),
        _ => Ipv6Addr::UNSPECIFIED.into(),
    };
    let (tell, told) = oneshot::channel();
    let task = ends.far.spawn(move || async move {
        let socket = UdpSocket::bind(any(bind)).unwrap();
        tell.send(socket.local_addr().port()).unwrap();
        loop {
            let (payload, from) = socket.recv_from().await.unwrap();
            socket.send_to(&payload, from).await.unwrap();
        }
    });
    (SocketAddr::new(ip, told.await.unwrap()), task)
}

/// Sends until the answer comes: a datagram may be lost.
async fn ask(socket: &UdpSocket, payload: &[u8], to: SocketAddr) {
    for _ in 0..20 {
        socket.send_to(payload, to).await.unwrap();
        let answer = timeout(Duration::from_secs(1), async {
            loop {
                let (back, from) = socket.recv_from().await.unwrap();
                if back == payload {
                    assert_eq!(from, to);
                    break;
                }
            }
        });
        if answer.await.is_ok() {
            return;
        }
    }
    panic!("{} bytes to {to}: no answer", payload.len());
}

pub(crate) async fn every_size_comes_back_over_both_families(ends: Ends) {
    for (far, near) in ends.far.ips.iter().zip(&ends.near.ips) {
        let (addr, _echo) = echo(&ends, *far).await;
        let socket = UdpSocket::bind(any(*near)).unwrap();
        for len in [0usize, 1, 1452, 1472, 1473, 3000, 20_000, 65_507] {
            ask(&socket, &vec![len as u8; len], addr).await;
        }
    }
}

pub(crate) async fn what_cannot_be_sent_is_refused(ends: Ends) {
    let socket = UdpSocket::bind(any(ends.near.v4())).unwrap();
    let port = |ip: IpAddr| SocketAddr::new(ip, 9);
    let invalid = [
        (vec![0; 65_508], port(ends.far.v4())),
        (vec![0], port(Ipv6Addr::LOCALHOST.into())),
        (vec![0], any(ends.far.v4())),
        (vec![0], port(Ipv4Addr::UNSPECIFIED.into())),
    ];
    let to_many = [Ipv4Addr::BROADCAST, Ipv4Addr::new(224, 0, 0, 1)];
    let to_many = to_many.map(|ip| (vec![0], port(ip.into())));
    // The kernel knows groups.
    let to_many = if ends.near.is_kernel() { &[][..] } else { &to_many };
    for (payload, to) in invalid.iter().chain(to_many) {
        let error = socket.send_to(payload, *to).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{} bytes to {to}", payload.len());
    }
    if ends.near.is_kernel() {
        let error = socket.send_to(b"x", port(Ipv4Addr::BROADCAST.into())).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    }
    if let Some(ip) = ends.near.foreign {
        let error = socket.send_to(b"x", port(ip)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NetworkUnreachable);
    }
    // It is as good as new.
    let (addr, _echo) = echo(&ends, ends.far.v4()).await;
    ask(&socket, b"still", addr).await;
}

pub(crate) async fn a_port_that_nobody_has_is_no_error(ends: Ends) {
    for (far, near) in ends.far.ips.iter().zip(&ends.near.ips) {
        let (addr, echoing) = echo(&ends, *far).await;
        let socket = UdpSocket::bind(any(*near)).unwrap();
        ask(&socket, b"there", addr).await;
        drop(echoing);
        // The answers are ICMP, until the last of them nobody may have said it.
        for _ in 0..5 {
            socket.send_to(b"gone", addr).await.unwrap();
            let nothing = timeout(Duration::from_millis(10), socket.recv_from()).await;
            if let Ok(outcome) = nothing {
                // From before the end.
                assert_eq!(&outcome.unwrap().0[..], b"gone");
            }
        }
        let (addr, _echo) = echo(&ends, *far).await;
        ask(&socket, b"again", addr).await;
    }
}

pub(crate) async fn a_cancelled_receive_loses_nothing(ends: Ends) {
    let (addr, _echo) = echo(&ends, ends.far.v4()).await;
    let socket = UdpSocket::bind(any(ends.near.v4())).unwrap();
    ask(&socket, b"first", addr).await;
    for round in 0..20u8 {
        socket.send_to(&[round], addr).await.unwrap();
        let back = loop {
            match timeout(Duration::from_micros(100), socket.recv_from()).await {
                Ok(received) => break received.unwrap().0,
                Err(_) => continue,
            }
        };
        assert_eq!(back[..], [round]);
    }
}

pub(crate) async fn a_flood_is_cut_and_the_socket_goes_on(ends: Ends) {
    const FLOOD: usize = 6_000;
    let (tell, told) = oneshot::channel();
    let (go, begin) = oneshot::channel::<()>();
    let ip = ends.far.v4();
    let far = ends.far.spawn(move || async move {
        let socket = UdpSocket::bind(any(ip)).unwrap();
        tell.send(socket.local_addr()).unwrap();
        begin.await.unwrap();
        let mut kept = 0;
        loop {
            let (payload, from) = socket.recv_from().await.unwrap();
            if &payload[..] == b"end" {
                socket.send_to(&payload, from).await.unwrap();
                return kept;
            }
            assert_eq!(payload.len(), 1_000);
            kept += 1;
        }
    });
    let addr = told.await.unwrap();
    let socket = UdpSocket::bind(any(ends.near.v4())).unwrap();
    for _ in 0..FLOOD {
        socket.send_to(&[7; 1_000], addr).await.unwrap();
    }
    go.send(()).unwrap();
    ask(&socket, b"end", addr).await;
    let kept = far.done().await;
    assert!(kept > 0 && kept < FLOOD, "{kept} of {FLOOD}");
}

pub(crate) async fn ports_are_taken_and_given_back(ends: Ends) {
    let first = UdpSocket::bind(any(ends.near.v4())).unwrap();
    let addr = first.local_addr();
    assert_eq!(addr.ip(), ends.near.v4());
    assert_ne!(addr.port(), 0);
    assert_eq!(UdpSocket::bind(addr).unwrap_err().kind(), ErrorKind::AddrInUse);
    drop(first);
    UdpSocket::bind(addr).unwrap();
    let error = UdpSocket::bind("192.0.2.1:0".parse().unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrNotAvailable);
}

pub(crate) async fn two_tasks_share_a_socket(ends: Ends) {
    let (addr, _echo) = echo(&ends, ends.far.v4()).await;
    let socket = Rc::new(UdpSocket::bind(any(ends.near.v4())).unwrap());
    ask(&socket, b"first", addr).await;
    let receive = || {
        let socket = socket.clone();
        spawn_local(async move { socket.recv_from().await.unwrap().0 })
    };
    let tasks = [receive(), receive()];
    socket.send_to(b"a", addr).await.unwrap();
    socket.send_to(b"b", addr).await.unwrap();
    let mut got = Vec::new();
    for task in tasks {
        got.push(task.await.unwrap());
    }
    got.sort();
    assert_eq!(got, ["a", "b"]);
}
