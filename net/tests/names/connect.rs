//! Happy Eyeballs (RFC 8305), in virtual time.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use throng_net::resolver::{Config, Source};
use throng_net::{TcpSocket, TcpStream};

use crate::net::{NOBODY_V6, NS1, Net, WEB_V4, WEB_V6, at};
use crate::server::{A, AAAA, Answer, Query};

const CONF: &str = "nameserver 10.0.0.53\n";

/// A name's answers: addresses of each family, and how long they take.
fn serve(
    net: &mut Net,
    v4: &'static [&'static str],
    v6: &'static [&'static str],
    delays: [u64; 2],
) {
    net.nameserver(NS1, move |query: &Query| {
        let (ips, delay) = if query.kind == A { (v4, delays[0]) } else { (v6, delays[1]) };
        let empty = Answer::to(query);
        let answer = ips.iter().fold(empty, |answer, ip| answer.address(&query.name, 60, ip));
        let answer = if ips.is_empty() { answer.soa("test", 60, 60) } else { answer };
        vec![(Duration::from_millis(delay), answer.bytes())]
    });
}

/// Connects to `web.test`; the peer, and how long it took in milliseconds.
fn connect(net: &mut Net, port: u16) -> (std::io::Result<SocketAddr>, u128) {
    let (peer, took) = net.run_on(0, async move {
        TcpStream::connect(("web.test", port)).await.map(|stream| stream.peer_addr().unwrap())
    });
    (peer, took.as_millis())
}

#[test]
fn every_form_of_a_destination_connects() {
    let mut net = Net::new(CONF);
    serve(&mut net, &[WEB_V4], &[], [0, 0]);
    net.listen(WEB_V4, 80);
    net.run(async {
        let peer = at(WEB_V4, 80);
        let check = |stream: std::io::Result<TcpStream>| {
            assert_eq!(stream.unwrap().peer_addr().unwrap(), peer);
        };
        check(TcpStream::connect(peer).await);
        check(TcpStream::connect((peer.ip(), 80)).await);
        check(TcpStream::connect("10.0.0.80:80").await);
        check(TcpStream::connect(("10.0.0.80", 80)).await);
        check(TcpStream::connect("web.test:80").await);
        check(TcpStream::connect(("web.test", 80)).await);
        check(TcpStream::connect(("Web.Test.".to_owned(), 80)).await);
        check(TcpStream::connect([at("10.0.0.80", 9), peer].as_slice()).await);
        let bound = TcpSocket::new().bind(at("10.0.0.2", 0));
        check(bound.connect("web.test:80").await);
        assert_eq!(bound.connect("nonsense").await.unwrap_err().kind(), ErrorKind::InvalidInput);
    });
}

#[test]
fn an_address_costs_no_more_than_before() {
    fn bytes(addr: SocketAddr) -> (usize, usize) {
        (size_of_val(&TcpStream::connect(addr)), size_of_val(&TcpStream::connect("a:1")))
    }
    let (addr, name) = bytes(at(WEB_V4, 80));
    // The state of connecting to one address, which was here before names were.
    assert!(addr <= 384 && name <= addr, "{addr} and {name} bytes");
}

#[test]
fn ipv6_is_first_where_both_answer() {
    let mut net = Net::new(CONF);
    serve(&mut net, &[WEB_V4], &[WEB_V6], [0, 0]);
    net.listen(WEB_V4, 80);
    net.listen(WEB_V6, 80);
    let (peer, took) = connect(&mut net, 80);
    assert_eq!(peer.unwrap(), at(WEB_V6, 80));
    assert!(took < 10, "{took} ms");
}

#[test]
fn ipv4_takes_over_after_250_ms_of_silence() {
    let mut net = Net::new(CONF);
    serve(&mut net, &[WEB_V4], &[NOBODY_V6], [0, 0]);
    net.listen(WEB_V4, 80);
    let (peer, took) = connect(&mut net, 80);
    assert_eq!(peer.unwrap(), at(WEB_V4, 80));
    assert!((250..260).contains(&took), "{took} ms");
    // The loser is gone at once, the winner with its stream.
    net.pass(120);
    assert_eq!(net.sockets(), (0, 0));
}

#[test]
fn ipv4_takes_over_at_once_from_a_refusal() {
    let mut net = Net::new(CONF);
    serve(&mut net, &[WEB_V4], &[WEB_V6], [0, 0]);
    net.listen(WEB_V4, 80);
    let (peer, took) = connect(&mut net, 80);
    assert_eq!(peer.unwrap(), at(WEB_V4, 80));
    assert!(took < 10, "{took} ms");
}

#[test]
fn ipv4_waits_50_ms_for_the_answer_about_ipv6() {
    for (slow, expected, least) in [(30, WEB_V6, 30), (70, WEB_V4, 50)] {
        let mut net = Net::new(CONF);
        serve(&mut net, &[WEB_V4], &[WEB_V6], [0, slow]);
        net.listen(WEB_V4, 80);
        net.listen(WEB_V6, 80);
        let (peer, took) = connect(&mut net, 80);
        assert_eq!(peer.unwrap(), at(expected, 80));
        assert!((least..least + 10).contains(&took), "{took} ms");
        // The late answer still comes in, and the next connection need not wait.
        net.pass(1);
        assert_eq!((net.stats().in_flight, net.stats().cached), (0, 2));
        let (peer, took) = connect(&mut net, 80);
        assert_eq!(peer.unwrap(), at(WEB_V6, 80));
        assert!(took < 10, "{took} ms");
    }
}

#[test]
fn an_answer_that_never_comes_is_waited_for_once() {
    let mut net = Net::new("nameserver 10.0.0.53\noptions timeout:30 attempts:1\n");
    net.nameserver(NS1, |query| match query.kind {
        A => {
            let answer = Answer::to(query).address(&query.name, 600, WEB_V4);
            vec![(Duration::ZERO, answer.bytes())]
        }
        _ => Vec::new(),
    });
    net.listen(WEB_V4, 80);
    let tasks = |net: &mut Net| net.run(async { throng_runtime::stats().tasks });
    let before = tasks(&mut net);
    for _ in 0..20 {
        assert_eq!(connect(&mut net, 80).0.unwrap(), at(WEB_V4, 80));
    }
    assert_eq!(tasks(&mut net), before + 1);
    assert_eq!(net.queries().len(), 2);
    net.pass(30);
    assert_eq!((tasks(&mut net), net.stats().in_flight), (before, 0));
}

#[test]
fn ipv6_does_not_wait_for_ipv4() {
    let mut net = Net::new(CONF);
    serve(&mut net, &[WEB_V4], &[WEB_V6], [500, 0]);
    net.listen(WEB_V6, 80);
    let (peer, took) = connect(&mut net, 80);
    assert_eq!(peer.unwrap(), at(WEB_V6, 80));
    assert!(took < 10, "{took} ms");
}

#[test]
fn a_late_family_joins_the_race() {
    // IPv4 is refused while IPv6 is still being looked up.
    let mut net = Net::new(CONF);
    serve(&mut net, &[WEB_V4], &[WEB_V6], [0, 400]);
    net.listen(WEB_V6, 80);
    let (peer, took) = connect(&mut net, 80);
    assert_eq!(peer.unwrap(), at(WEB_V6, 80));
    assert!((400..410).contains(&took), "{took} ms");
}

#[test]
fn families_take_turns() {
    let mut net = Net::new(CONF);
    let v6 = &[NOBODY_V6, "2001:db8::dea1", "2001:db8::dea2"];
    serve(&mut net, &["10.0.0.201", WEB_V4], v6, [0, 0]);
    net.listen(WEB_V4, 80);
    // v6, v4, v6, v4: the fourth begins after 750 ms.
    let (peer, took) = connect(&mut net, 80);
    assert_eq!(peer.unwrap(), at(WEB_V4, 80));
    assert!((750..760).contains(&took), "{took} ms");
}

#[test]
fn the_error_is_the_one_that_says_most() {
    let mut net = Net::new(CONF);
    serve(&mut net, &[WEB_V4], &[NOBODY_V6], [0, 0]);
    let (outcome, _) = connect(&mut net, 81);
    let error = outcome.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    let text = error.to_string();
    assert!(text.contains("web.test:81") && text.contains(WEB_V4) && text.contains(NOBODY_V6));
    assert_eq!(net.sockets(), (0, 0));
}

#[test]
fn a_family_without_a_way_is_not_tried() {
    let names = || Config { resolv_conf: Source::Text(CONF.into()), ..Config::empty() };
    // Only IPv4: nobody asks for AAAA, so its silence delays nothing.
    let mut net = Net::with(1, &["10.0.0.2/24"], names());
    net.nameserver(NS1, |query| match query.kind {
        A => vec![(Duration::ZERO, Answer::to(query).address(&query.name, 60, WEB_V4).bytes())],
        _ => Vec::new(),
    });
    net.listen(WEB_V4, 80);
    let (peer, took) = connect(&mut net, 80);
    assert_eq!(peer.unwrap(), at(WEB_V4, 80));
    assert!(took < 10, "{took} ms");
    assert_eq!(net.queries(), [("web.test".into(), A, false)]);

    // Only IPv6, the name server included.
    let names = Config { nameservers: vec![at(WEB_V6, 53)], ..Config::empty() };
    let mut net = Net::with(1, &["2001:db8::2/64"], names);
    net.answers(WEB_V6, |query| Answer::to(query).address(&query.name, 60, WEB_V6));
    net.listen(WEB_V6, 80);
    let (peer, took) = connect(&mut net, 80);
    assert_eq!(peer.unwrap(), at(WEB_V6, 80));
    assert!(took < 10, "{took} ms");
    assert_eq!(net.queries(), [("web.test".into(), AAAA, false)]);
}

#[test]
fn no_way_at_all_says_so() {
    let mut net = Net::new(CONF);
    serve(&mut net, &["192.0.2.1"], &[], [0, 0]);
    let (outcome, took) = connect(&mut net, 80);
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::NetworkUnreachable);
    assert!(took < 10, "{took} ms");
    let (outcome, _) = net.run_on(0, async { TcpStream::connect("localhost:80").await.map(drop) });
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::NetworkUnreachable);
}

#[test]
fn a_bound_socket_asks_for_its_family_alone() {
    let mut net = Net::new(CONF);
    serve(&mut net, &[WEB_V4], &[WEB_V6], [0, 0]);
    net.listen(WEB_V4, 80);
    net.listen(WEB_V6, 80);
    let socket = TcpSocket::new().bind(at("10.0.0.2", 0));
    let (peer, _) =
        net.run_on(
            0,
            async move { socket.connect("web.test:80").await.unwrap().peer_addr().unwrap() },
        );
    assert_eq!(peer, at(WEB_V4, 80));
    assert_eq!(net.queries(), [("web.test".into(), A, false)]);
}

#[test]
fn a_name_that_is_not_there_is_the_lookups_error() {
    let mut net = Net::new(CONF);
    net.answers(NS1, |query| Answer::to(query).rcode(3).soa("test", 60, 60));
    assert_eq!(connect(&mut net, 80).0.unwrap_err().kind(), ErrorKind::NotFound);
}
