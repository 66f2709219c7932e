//! What is asked, of whom, how often, and what is kept.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use futures::future::join_all;
use throng_net::device::faults::{Faults, Impairments};
use throng_net::lookup_host;
use throng_net::resolver::{Config, Error, Source};

use crate::net::{NS1, NS2, Net, WEB_V4, WEB_V6, at, inner};
use crate::server::{A, AAAA, Answer, Query};

const ONE: &str = "nameserver 10.0.0.53\n";
const TWO: &str = "nameserver 10.0.0.53\nnameserver 10.0.0.54\noptions timeout:1 attempts:2\n";

/// `web.test` has an address of each family, everything else nothing.
fn zone(query: &Query) -> Answer {
    let answer = Answer::to(query);
    match (query.name.as_str(), query.kind) {
        ("web.test", A) => answer.address("web.test", 60, WEB_V4),
        ("web.test", AAAA) => answer.address("web.test", 60, WEB_V6),
        _ => answer.rcode(3).soa("test", 30, 20),
    }
}

#[test]
fn both_families_are_asked_with_edns_and_sorted() {
    let mut net = Net::new(ONE);
    net.answers(NS1, zone);
    assert_eq!(net.lookup("Web.Test").unwrap(), [WEB_V6, WEB_V4]);
    assert_eq!(net.queries(), [("web.test".into(), AAAA, false), ("web.test".into(), A, false)]);
    let log = net.log.borrow();
    assert!(log.iter().all(|(_, query)| query.edns == Some(1232)));
    let (first, second) = (&log[0].1, &log[1].1);
    assert!(first.id != second.id && first.from.port() != second.from.port());
}

#[test]
fn ids_and_ports_are_all_over_the_place() {
    let mut net = Net::new(ONE);
    net.answers(NS1, |query| Answer::to(query).address(&query.name, 60, "10.0.0.1"));
    for n in 0..60 {
        net.lookup(&format!("host{n}.test")).unwrap();
    }
    let log = net.log.borrow();
    let spread = |numbers: Vec<u16>| {
        let mut sorted = numbers.clone();
        sorted.sort_unstable();
        sorted.dedup();
        let in_a_row = numbers.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) < 16).count();
        assert!(sorted.len() > 115 && in_a_row < 8, "{numbers:?}");
    };
    assert_eq!(log.len(), 120);
    spread(log.iter().map(|(_, query)| query.id).collect());
    spread(log.iter().map(|(_, query)| query.from.port()).collect());
}

#[test]
fn every_shard_gets_its_own_answers() {
    let names = Config { resolv_conf: Source::Text(ONE.into()), ..Config::empty() };
    let mut net = Net::with(3, &["10.0.0.2/24", "2001:db8::2/64"], names);
    net.answers(NS1, zone);
    for shard in 0..3 {
        let (found, took) = net.run_on(shard, lookup_host("web.test:80"));
        assert_eq!(found.unwrap().len(), 2);
        assert!(took < Duration::from_millis(10), "{took:?}");
    }
}

#[test]
fn a_silent_server_is_followed_by_the_next() {
    let mut net = Net::new(TWO);
    net.nameserver(NS1, |_| Vec::new());
    net.answers(NS2, zone);
    let (found, took) = net.run_on(0, lookup_host(("web.test", 80)));
    assert_eq!(found.unwrap().len(), 2);
    assert!((1_000..1_010).contains(&took.as_millis()), "{took:?}");
    assert_eq!(net.stats().timeouts, 2);
}

#[test]
fn a_server_that_was_silent_comes_last_for_a_while() {
    let mut net = Net::new(TWO);
    net.nameserver(NS1, |_| Vec::new());
    net.answers(NS2, zone);
    let took = |net: &mut Net, name: &'static str| {
        let (found, took) = net.run_on(0, lookup_host((name, 80)));
        assert_eq!(found.unwrap_err().kind(), ErrorKind::NotFound);
        took.as_millis()
    };
    assert!(took(&mut net, "a.test") >= 1_000);
    for name in ["b.test", "c.test", "d.test"] {
        net.pass(9);
        assert!(took(&mut net, name) < 10, "{name}");
    }
    net.pass(10);
    assert!(took(&mut net, "e.test") >= 1_000, "it gets another chance");
}

#[test]
fn silence_of_all_servers_is_a_timeout() {
    let mut net = Net::new(TWO);
    net.nameserver(NS1, |_| Vec::new());
    let (found, took) = net.run_on(0, lookup_host(("web.test", 80)));
    let error = found.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert_eq!(*inner(&error), Error::TimedOut("web.test".into()));
    assert!((4_000..4_020).contains(&took.as_millis()), "{took:?}");
    assert_eq!(net.queries().len(), 4);
    // It is not remembered.
    net.answers(NS2, zone);
    assert!(net.lookup("web.test").is_ok());
}

#[test]
fn rotation_begins_with_another_server_every_time() {
    let mut net = Net::new(&format!("{TWO}options rotate\n"));
    net.answers(NS1, zone);
    net.answers(NS2, zone);
    for n in 0..4 {
        net.lookup(&format!("host{n}.test")).unwrap_err();
    }
    let log = net.log.borrow();
    let of = |ip: &str| log.iter().filter(|(addr, _)| *addr == at(ip, 53)).count();
    assert_eq!((of(NS1), of(NS2)), (4, 4));
}

#[test]
fn a_server_that_fails_is_followed_by_the_next() {
    for rcode in [2, 5] {
        let mut net = Net::new(TWO);
        net.answers(NS1, move |query| Answer::to(query).rcode(rcode));
        net.answers(NS2, zone);
        let (found, took) = net.run_on(0, lookup_host(("web.test", 80)));
        assert_eq!(found.unwrap().len(), 2);
        assert!(took < Duration::from_millis(20), "{took:?}");
    }
    let mut net = Net::new(TWO);
    net.answers(NS1, |query| Answer::to(query).rcode(2));
    net.answers(NS2, |query| Answer::to(query).rcode(5));
    let error = net.lookup("web.test").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Other);
    assert!(error.to_string().contains("REFUSED"), "{error}");
}

#[test]
fn without_a_server_there_is_nobody_to_ask() {
    let mut net = Net::new("");
    let error = net.lookup("web.test").unwrap_err();
    assert_eq!(*inner(&error), Error::NoServer("web.test".into()));
    assert_eq!(error.kind(), ErrorKind::NetworkUnreachable);
}

#[test]
fn a_server_that_knows_no_edns_is_asked_without() {
    let mut net = Net::new(ONE);
    net.nameserver(NS1, |query| {
        let answer = match query.edns {
            // The header alone, as old servers do.
            Some(_) => Answer::to(query).rcode(1).bytes()[..12].to_vec(),
            None => zone(query).bytes(),
        };
        let mut answer = answer;
        if query.edns.is_some() {
            answer[4..6].copy_from_slice(&[0, 0]);
        }
        vec![(Duration::ZERO, answer)]
    });
    assert_eq!(net.lookup("web.test").unwrap().len(), 2);
    assert_eq!(net.queries().len(), 4);
}

#[test]
fn a_truncated_answer_is_fetched_over_tcp() {
    let mut net = Net::new(ONE);
    net.answers(NS1, |query| {
        if !query.tcp {
            return Answer::to(query).truncated();
        }
        let many = 0..if query.kind == A { 200 } else { 0 };
        many.fold(Answer::to(query), |answer, n| {
            answer.address(&query.name, 60, &format!("10.0.0.{n}"))
        })
    });
    // As many as are taken of one answer.
    assert_eq!(net.lookup("web.test").unwrap().len(), 64);
    let tcp = net.queries().iter().filter(|(.., tcp)| *tcp).count();
    assert_eq!((tcp, net.stats().tcp_queries), (2, 2));
    net.pass(120);
    assert_eq!(net.sockets(), (0, 0));
}

#[test]
fn use_vc_asks_over_tcp_alone() {
    let mut net = Net::new(&format!("{ONE}options use-vc\n"));
    net.answers(NS1, zone);
    assert_eq!(net.lookup("web.test").unwrap().len(), 2);
    assert!(net.queries().iter().all(|(.., tcp)| *tcp));
}

#[test]
fn an_answer_is_kept_for_its_time() {
    let mut net = Net::new(ONE);
    net.answers(NS1, zone);
    net.lookup("web.test").unwrap();
    net.pass(59);
    net.lookup("WEB.test.").unwrap();
    assert_eq!((net.queries().len(), net.stats().cache_hits), (2, 2));
    net.pass(1);
    net.lookup("web.test").unwrap();
    assert_eq!(net.queries().len(), 4);
}

#[test]
fn an_answer_without_time_is_for_once() {
    let mut net = Net::new(ONE);
    net.answers(NS1, |query| {
        let ttl = if query.kind == A { 0 } else { u32::MAX };
        let ip = if query.kind == A { WEB_V4 } else { WEB_V6 };
        Answer::to(query).address(&query.name, ttl, ip)
    });
    net.lookup("web.test").unwrap();
    net.lookup("web.test").unwrap();
    assert_eq!((net.queries().len(), net.stats().cached), (4, 0));
}

#[test]
fn no_such_name_and_no_address_are_told_apart_and_kept() {
    let mut net = Net::new(ONE);
    net.answers(NS1, |query| match query.name.as_str() {
        "bare.test" => Answer::to(query).soa("test", 30, 40),
        "untold.test" => Answer::to(query).rcode(3),
        _ => zone(query),
    });
    let missing = net.lookup("missing.test").unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    assert_eq!(*inner(&missing), Error::NoSuchName("missing.test".into()));
    let bare = net.lookup("bare.test").unwrap_err();
    assert_eq!(bare.kind(), ErrorKind::AddrNotAvailable);
    assert_eq!(*inner(&bare), Error::NoAddress("bare.test".into()));
    assert_eq!(net.queries().len(), 4);
    // RFC 2308 5: the lesser of the record's time and its minimum, 20 s and 30 s here.
    net.pass(19);
    net.lookup("missing.test").unwrap_err();
    net.lookup("bare.test").unwrap_err();
    assert_eq!(net.queries().len(), 4);
    net.pass(1);
    net.lookup("bare.test").unwrap_err();
    assert_eq!(net.queries().len(), 4);
    net.lookup("missing.test").unwrap_err();
    assert_eq!(net.queries().len(), 6);
    // Without a SOA record nothing is known for longer.
    net.lookup("untold.test").unwrap_err();
    net.lookup("untold.test").unwrap_err();
    assert_eq!(net.queries().len(), 10);
}

#[test]
fn one_family_is_enough() {
    let mut net = Net::new(ONE);
    net.answers(NS1, |query| match query.kind {
        A => Answer::to(query).address(&query.name, 9, WEB_V4),
        _ => Answer::to(query).rcode(2),
    });
    assert_eq!(net.lookup("web.test").unwrap(), [WEB_V4]);
}

#[test]
fn the_same_question_is_asked_once() {
    let mut net = Net::new(ONE);
    net.nameserver(NS1, |query| vec![(Duration::from_millis(30), zone(query).bytes())]);
    let found = net.run(join_all((0..50).map(|_| lookup_host(("web.test", 80)))));
    assert!(found.iter().all(|found| found.as_ref().unwrap().len() == 2));
    assert_eq!((net.queries().len(), net.stats().coalesced), (2, 98));
    assert_eq!(net.stats().in_flight, 0);
}

#[test]
fn too_many_questions_at_once_are_refused() {
    let mut net = Net::new(ONE);
    net.nameserver(NS1, |query| vec![(Duration::from_millis(30), zone(query).bytes())]);
    let all = (0..600).map(|n| lookup_host((format!("host{n}.test"), 80)));
    let found = net.run(join_all(all));
    let kinds: Vec<_> = found.iter().map(|found| found.as_ref().unwrap_err().kind()).collect();
    let refused = kinds.iter().filter(|kind| **kind == ErrorKind::QuotaExceeded).count();
    assert_eq!(refused, 600 - 512);
    assert_eq!(net.stats().refused, 2 * (600 - 512));
    assert!(kinds[..512].iter().all(|kind| *kind == ErrorKind::NotFound));
}

#[test]
fn aliases_are_followed_within_an_answer_and_beyond() {
    let mut net = Net::new(ONE);
    net.answers(NS1, |query| match (query.name.as_str(), query.kind) {
        // The order of records means nothing.
        ("whole.test", A) => Answer::to(query)
            .address("c.test", 60, WEB_V4)
            .address("other.test", 60, "10.0.0.66")
            .cname("b.test", 5, "C.test")
            .cname("whole.test", 60, "b.test"),
        ("part.test", A) => Answer::to(query).cname("part.test", 7, "Web.Test"),
        ("lost.test", A) => {
            Answer::to(query).cname("lost.test", 7, "gone.test").rcode(3).soa("test", 9, 9)
        }
        _ => match zone(query) {
            answer if query.name == "web.test" && query.kind == A => answer,
            _ => Answer::to(query).soa("test", 60, 60),
        },
    });
    assert_eq!(net.lookup("whole.test").unwrap(), [WEB_V4]);
    assert_eq!(net.lookup("part.test").unwrap(), [WEB_V4]);
    assert_eq!(net.lookup("lost.test").unwrap_err().kind(), ErrorKind::AddrNotAvailable);
    let before = net.queries().len();
    // The shortest time of the chain counts.
    net.pass(6);
    net.lookup("whole.test").unwrap();
    net.lookup("part.test").unwrap();
    assert_eq!(net.queries().len(), before + 1);
    net.pass(1);
    net.lookup("part.test").unwrap();
    assert_eq!(net.queries().len(), before + 3);
}

#[test]
fn aliases_in_a_circle_end() {
    let mut net = Net::new(ONE);
    net.answers(NS1, |query| match query.name.as_str() {
        "self.test" => Answer::to(query).cname("self.test", 60, "self.test"),
        "a.test" => Answer::to(query).cname("a.test", 60, "b.test").cname("b.test", 60, "a.test"),
        // From question to question.
        name => {
            let n: u32 = name[1..name.len() - 5].parse().unwrap();
            Answer::to(query).cname(name, 60, &format!("n{}.test", n + 1))
        }
    });
    for name in ["self.test", "a.test", "n1.test"] {
        let error = net.lookup(name).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData, "{name}");
        assert_eq!(*inner(&error), Error::TooManyAliases(name.into()));
    }
    assert_eq!(net.queries().len(), 4 + 2 * 17);
}

#[test]
fn the_search_list_is_gone_through_as_ndots_says() {
    let asked = |conf: &str, name: &str| {
        let mut net = Net::new(&format!("{ONE}{conf}"));
        net.answers(NS1, zone);
        let found = net.lookup(name);
        let mut names: Vec<_> = net.queries().into_iter().map(|(name, ..)| name).collect();
        names.dedup();
        (found.is_ok(), names.join(" "))
    };
    let search = "search corp.example test\n";
    assert_eq!(asked(search, "web"), (true, "web.corp.example web.test".into()));
    assert_eq!(asked(search, "web.test"), (true, "web.test".into()));
    assert_eq!(asked(search, "web."), (false, "web".into()));
    assert_eq!(asked(search, "nope"), (false, "nope.corp.example nope.test nope".into()));
    assert_eq!(
        asked("search corp.example\noptions ndots:2\n", "web.test"),
        (true, "web.test.corp.example web.test".into())
    );
    assert_eq!(asked("search corp.example\n", "no.pe"), (false, "no.pe no.pe.corp.example".into()));
}

#[test]
fn of_several_names_the_one_that_was_asked_for_is_missing() {
    let mut net = Net::new(&format!("{ONE}search corp.example test\n"));
    net.answers(NS1, |query| match query.name.as_str() {
        "bare.test" => Answer::to(query).soa("test", 30, 40),
        "sick.corp.example" => Answer::to(query).rcode(2),
        _ => zone(query),
    });
    let error = |net: &mut Net, name| inner(&net.lookup(name).unwrap_err()).clone();
    assert_eq!(error(&mut net, "nope"), Error::NoSuchName("nope".into()));
    // A name that exists without an address says more, and a server that fails most.
    assert_eq!(error(&mut net, "bare"), Error::NoAddress("bare.test".into()));
    assert!(matches!(error(&mut net, "sick"), Error::ServerFailure { .. }));
}

#[test]
fn what_needs_no_server_asks_none() {
    let hosts = "10.0.0.7 box box.test\nfd00::7 box\n";
    let names = Config {
        nameservers: vec![at(NS1, 53)],
        hosts: Source::Text(hosts.into()),
        ..Config::empty()
    };
    let mut net = Net::with(1, &["10.0.0.2/24", "fd00::2/64"], names);
    net.answers(NS1, zone);
    assert_eq!(net.lookup("BOX").unwrap(), ["10.0.0.7", "fd00::7"]);
    assert_eq!(net.lookup("box.test.").unwrap(), ["10.0.0.7"]);
    for name in ["localhost", "LocalHost.", "a.localhost"] {
        let mut found = net.lookup(name).unwrap();
        found.sort();
        assert_eq!(found, ["127.0.0.1", "::1"]);
    }
    assert_eq!(net.lookup("x.invalid").unwrap_err().kind(), ErrorKind::NotFound);
    for literal in ["10.0.0.9", "::1", "[::1]"] {
        assert_eq!(net.lookup(literal).unwrap().len(), 1);
    }
    let label = "a".repeat(64);
    let long = "abc.".repeat(64) + "test";
    for bad in ["", ".", "a b", "1.2.3", "10.0.0.999", &label, &long, "a..b", "[10.0.0.1]"] {
        let error = net.lookup(bad).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{bad}");
        assert!(matches!(inner(&error), Error::BadName { .. }));
    }
    assert_eq!(net.queries(), []);
    assert_eq!(net.run(lookup_host("nonsense")).unwrap_err().kind(), ErrorKind::InvalidInput);
    let addrs: [SocketAddr; 2] = [at("fd00::7", 1), at("10.0.0.7", 1)];
    let sorted = net.run(async move { lookup_host(addrs.as_slice()).await.unwrap() });
    assert_eq!(sorted, [addrs[1], addrs[0]]);
}

#[test]
fn a_bad_link_delays_answers_and_changes_none() {
    let conf = "nameserver 10.0.0.53\nnameserver 10.0.0.54\noptions timeout:1 attempts:5\n";
    let bad = Impairments {
        loss: 0.1,
        duplicate: 0.1,
        reorder: 0.1,
        reorder_by: Duration::from_millis(3),
        corrupt: 0.05,
        ..Impairments::default()
    };
    for seed in 0..4 {
        let names = Config { resolv_conf: Source::Text(conf.into()), ..Config::empty() };
        let faults = Some(Faults::both(seed, bad.clone()));
        let mut net = Net::over(faults, 1, &["10.0.0.2/24", "2001:db8::2/64"], names);
        for server in [NS1, NS2] {
            net.answers(server, |query| {
                let n: u8 = query.name[4..query.name.len() - 5].parse().unwrap();
                if n.is_multiple_of(3) && !query.tcp {
                    return Answer::to(query).truncated();
                }
                let ip = match query.kind {
                    A => format!("10.0.1.{n}"),
                    _ => format!("2001:db8::1:{n}"),
                };
                Answer::to(query).address(&query.name, 60, &ip)
            });
        }
        let lookups = (0..50).map(|n| lookup_host((format!("host{n}.test"), 80)));
        for (n, found) in net.run(join_all(lookups)).into_iter().enumerate() {
            let expected = [at(&format!("2001:db8::1:{n}"), 80), at(&format!("10.0.1.{n}"), 80)];
            let mut found = found.unwrap();
            found.sort_by_key(|addr| addr.is_ipv4());
            assert_eq!(found, expected, "seed {seed}");
        }
        assert!(net.stats().timeouts > 0 && net.stats().in_flight == 0);
    }
}

#[test]
fn a_file_that_changes_is_read_again() {
    let path = std::env::temp_dir().join(format!("throng-hosts-{}", std::process::id()));
    std::fs::write(&path, "10.0.0.7 box\n").unwrap();
    let names = Config { hosts: Source::File(path.clone()), ..Config::empty() };
    let mut net = Net::with(1, &["10.0.0.2/24"], names);
    assert_eq!(net.lookup("box").unwrap(), ["10.0.0.7"]);
    std::fs::write(&path, "10.0.0.77 box\n").unwrap();
    assert_eq!(net.lookup("box").unwrap(), ["10.0.0.7"]);
    net.pass(5);
    assert_eq!(net.lookup("box").unwrap(), ["10.0.0.77"]);
    std::fs::remove_file(&path).unwrap();
    net.pass(5);
    assert_eq!(*inner(&net.lookup("box").unwrap_err()), Error::NoServer("box".into()));
}
