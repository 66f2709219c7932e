//! What is given up leaves nothing behind.

use std::time::Duration;

use throng_net::{TcpStream, lookup_host};
use throng_runtime::{sleep, spawn_local, timeout};

use crate::net::{NOBODY_V6, NS1, Net, WEB_V4};
use crate::server::{A, Answer};

const CONF: &str = "nameserver 10.0.0.53\noptions timeout:30 attempts:5\n";

#[test]
fn a_lookup_that_is_dropped_leaves_the_table() {
    let mut net = Net::new(CONF);
    net.nameserver(NS1, |_| Vec::new());
    net.run(async {
        for name in ["a.test", "b.test"] {
            let patience = Duration::from_millis(10);
            assert!(timeout(patience, lookup_host((name, 80))).await.is_err());
        }
    });
    assert_eq!((net.stats().in_flight, net.stats().cached), (0, 0));
    assert_eq!(net.sockets(), (0, 0));
    assert_eq!(net.queries().len(), 4);
}

#[test]
fn who_stays_gets_the_answer_of_who_began() {
    let mut net = Net::new(CONF);
    net.nameserver(NS1, |query| {
        let ip = if query.kind == A { WEB_V4 } else { "2001:db8::80" };
        vec![(Duration::from_millis(100), Answer::to(query).address(&query.name, 9, ip).bytes())]
    });
    let found = net.run(async {
        let first = spawn_local(lookup_host("web.test:80"));
        sleep(Duration::from_millis(20)).await;
        let second = spawn_local(lookup_host("web.test:80"));
        sleep(Duration::from_millis(20)).await;
        first.abort();
        second.await.unwrap().unwrap()
    });
    assert_eq!(found.len(), 2);
    assert_eq!(net.queries().len(), 2);
    assert_eq!(net.stats().in_flight, 0);
}

#[test]
fn a_question_over_tcp_that_is_dropped_closes_its_connection() {
    let mut net = Net::new(CONF);
    net.nameserver(NS1, |query| match query.tcp {
        // An answer that never gets there.
        true => vec![(Duration::from_secs(1_000), Vec::new())],
        false => vec![(Duration::ZERO, Answer::to(query).truncated().bytes())],
    });
    net.run(async {
        assert!(timeout(Duration::from_millis(100), lookup_host("web.test:80")).await.is_err());
    });
    assert_eq!(net.stats().in_flight, 0);
    net.pass(1_200);
    assert_eq!(net.sockets(), (0, 0));
}

#[test]
fn a_race_that_is_dropped_leaves_no_connection() {
    let mut net = Net::new(CONF);
    net.answers(NS1, |query| {
        let ip = if query.kind == A { "10.0.0.201" } else { NOBODY_V6 };
        Answer::to(query).address(&query.name, 60, ip)
    });
    net.run(async {
        let race = TcpStream::connect("web.test:80");
        assert!(timeout(Duration::from_millis(400), race).await.is_err());
    });
    assert_eq!(net.sockets(), (0, 0));
    assert_eq!(net.stats().in_flight, 0);
}
