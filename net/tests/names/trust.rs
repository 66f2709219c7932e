//! What is not believed (RFC 5452), and what is not even a message.

use std::cell::RefCell;
use std::io::ErrorKind;
use std::rc::Rc;
use std::time::Duration;

use proptest::prelude::*;
use throng_net::UdpSocket;
use throng_net::lookup_host;
use throng_runtime::{ShardId, sleep};

use crate::net::{NS1, NS2, Net, WEB_V4, at};
use crate::server::{A, AAAA, Answer, Query};

const CONF: &str = "nameserver 10.0.0.53\noptions timeout:1 attempts:1\n";
const FORGED: &str = "10.6.6.6";

#[test]
fn answers_with_a_wrong_id_or_question_are_passed_over() {
    let mut net = Net::new(CONF);
    net.nameserver(NS1, |query| {
        let forged = |id, name, kind| Answer::about(id, name, kind).address(name, 60, FORGED);
        let other_kind = if query.kind == A { AAAA } else { A };
        let mut not_a_reply = Answer::to(query).address(&query.name, 60, FORGED).bytes();
        not_a_reply[2] &= 0x7f;
        let mut two_questions = Answer::to(query).address(&query.name, 60, FORGED).bytes();
        two_questions[5] = 2;
        let mut headless = Answer::to(query).bytes();
        headless.truncate(12);
        headless[5] = 0;
        let wrong = [
            forged(query.id ^ 1, &query.name, query.kind).bytes(),
            forged(query.id, "bank.test", query.kind).bytes(),
            forged(query.id, &query.name, other_kind).bytes(),
            not_a_reply,
            two_questions,
            headless,
            b"short".to_vec(),
            Vec::new(),
        ];
        let right = match query.kind {
            A => Answer::to(query).address(&query.name, 60, WEB_V4),
            _ => Answer::to(query).soa("test", 60, 60),
        };
        let messages = wrong.into_iter().chain([right.bytes()]);
        messages.map(|message| (Duration::from_millis(1), message)).collect()
    });
    assert_eq!(net.lookup("web.test").unwrap(), [WEB_V4]);
    assert_eq!(net.stats().ignored, 2 * 8);
    assert_eq!(net.queries().len(), 2);
}

#[test]
fn answers_from_elsewhere_are_passed_over() {
    let mut net = Net::new(CONF);
    let seen: Rc<RefCell<Vec<Query>>> = Rc::default();
    let queries = seen.clone();
    net.nameserver(NS1, move |query| {
        queries.borrow_mut().push(query.clone());
        let right = match query.kind {
            A => Answer::to(query).address(&query.name, 60, WEB_V4),
            _ => Answer::to(query).soa("test", 60, 60),
        };
        vec![(Duration::from_millis(100), right.bytes())]
    });
    // It knows id and question, but cannot send from the server's address and port.
    for forger in [at(NS1, 54), at(NS2, 53)] {
        let seen = seen.clone();
        net.world.spawn(net.server, ShardId(0), async move {
            let socket = UdpSocket::bind(forger).unwrap();
            sleep(Duration::from_millis(50)).await;
            for query in seen.take() {
                let forged = Answer::to(&query).address(&query.name, 60, FORGED).bytes();
                socket.send_to(&forged, query.from).await.unwrap();
                seen.borrow_mut().push(query);
            }
        });
    }
    assert_eq!(net.lookup("web.test").unwrap(), [WEB_V4]);
    assert_eq!(net.stats().ignored, 4);
}

#[test]
fn guessing_ids_ends_after_a_few_tries() {
    let mut net = Net::new(CONF);
    net.nameserver(NS1, |query| {
        let right = match query.kind {
            A => Answer::to(query).address(&query.name, 60, WEB_V4),
            _ => Answer::to(query).soa("test", 60, 60),
        };
        if query.tcp {
            return vec![(Duration::ZERO, right.bytes())];
        }
        // The last guess is right.
        let guesses = (1..=40).rev().map(|off| {
            let id = query.id.wrapping_add(off - 1);
            Answer::about(id, &query.name, query.kind).address(&query.name, 60, FORGED).bytes()
        });
        guesses.map(|message| (Duration::from_millis(1), message)).collect()
    });
    assert_eq!(net.lookup("web.test").unwrap(), [WEB_V4]);
    assert_eq!(net.stats().ignored, 2 * 16);
}

#[test]
fn addresses_of_other_names_are_not_taken() {
    let mut net = Net::new(CONF);
    net.answers(NS1, |query| match (query.name.as_str(), query.kind) {
        ("web.test", A) => Answer::to(query)
            .address("web.test", 60, WEB_V4)
            .address("bank.test", 60, FORGED)
            .cname("bank.test", 60, "web.test"),
        _ => Answer::to(query).rcode(3).soa("test", 60, 60),
    });
    assert_eq!(net.lookup("web.test").unwrap(), [WEB_V4]);
    assert_eq!(net.lookup("bank.test").unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn a_wrong_answer_over_tcp_fails() {
    let mut net = Net::new(CONF);
    net.answers(NS1, |query| {
        if !query.tcp {
            return Answer::to(query).truncated();
        }
        Answer::about(query.id ^ 1, &query.name, query.kind).address(&query.name, 60, FORGED)
    });
    assert_eq!(net.lookup("web.test").unwrap_err().kind(), ErrorKind::Other);
}

#[test]
fn a_server_that_hangs_up_fails() {
    let mut net = Net::new(CONF);
    net.nameserver(NS1, |query| match query.tcp {
        true => Vec::new(),
        false => vec![(Duration::ZERO, Answer::to(query).truncated().bytes())],
    });
    let error = net.lookup("web.test").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Other);
}

/// A valid answer, long enough to be broken in many places.
fn whole(query: &Query) -> Vec<u8> {
    let ip = if query.kind == A { WEB_V4 } else { "2001:db8::80" };
    Answer::to(query)
        .cname(&query.name, 60, "alias.test")
        .address("alias.test", 60, ip)
        .soa("test", 60, 60)
        .bytes()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

    /// Whatever comes, the lookup ends, nothing panics, and the next one works.
    #[test]
    fn broken_answers_do_no_harm(
        noise in proptest::collection::vec(any::<u8>(), 0..200),
        changes in proptest::collection::vec((4..150usize, any::<u8>()), 1..6),
        keep in 12..160usize,
        how in 0..3u8,
        tcp in any::<bool>(),
    ) {
        let mut net = Net::new(CONF);
        net.nameserver(NS1, move |query| {
            let mut message = whole(query);
            if query.name == "sane.test" {
                return vec![(Duration::ZERO, message)];
            }
            if tcp && !query.tcp {
                return vec![(Duration::ZERO, Answer::to(query).truncated().bytes())];
            }
            match how {
                // The right header, and then noise.
                0 => {
                    message.truncate(12);
                    message.extend_from_slice(&noise);
                }
                1 => message.truncate(keep),
                _ => {
                    for (at, byte) in &changes {
                        let at = at % message.len();
                        message[at] = *byte;
                    }
                }
            }
            vec![(Duration::ZERO, message), (Duration::from_millis(1), noise.clone())]
        });
        let _ = net.run(lookup_host("web.test:80"));
        prop_assert_eq!(net.stats().in_flight, 0);
        prop_assert_eq!(net.run(lookup_host("sane.test:80")).unwrap().len(), 2);
    }
}
