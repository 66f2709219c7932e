//! Who gets how much: every policy, with nginx and Python behind.

use std::collections::BTreeMap;
use std::thread;

use crate::place::{Client, Place, scaled};

const SITE: &str = "location / { return 200 $server_port; }";

/// Who answered how often: `count` requests of eight connections, which by turns are on both shards.
fn answers(address: &'static str, count: usize, more: fn(usize) -> String) -> BTreeMap<u16, usize> {
    let clients: Vec<_> = (0..8)
        .map(|client| {
            thread::spawn(move || {
                let mut kept = Client::to(address).unwrap();
                let mut seen = Vec::new();
                for number in 0..count / 8 {
                    let answer = kept.ask("GET", "/", &more(client * count + number)).unwrap();
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    seen.push(answer.text().parse::<u16>().unwrap());
                }
                seen
            })
        })
        .collect();
    let mut shares = BTreeMap::new();
    for port in clients.into_iter().flat_map(|client| client.join().unwrap()) {
        *shares.entry(port).or_default() += 1;
    }
    shares
}

fn none(_: usize) -> String {
    String::new()
}

fn of_user(number: usize) -> String {
    format!("x-user: {number}\r\n")
}

#[test]
fn every_policy_keeps_its_promise() {
    let count = scaled(480, 24_000);
    let near = |found: usize, wanted: usize, percent: usize| {
        found.abs_diff(wanted) * 100 <= wanted * percent + 400
    };
    for policy in ["round-robin", "weighted", "least-connections", "latency", "maglev"] {
        let Some(mut place) = Place::new() else { return };
        let (Some(_), Some(_)) = (place.nginx(9001, "", SITE), place.nginx(9002, "", SITE)) else {
            return;
        };
        place.python(9003);
        let hash = if policy == "maglev" { "hash_by = \"header:x-user\"" } else { "" };
        let weight = if policy == "weighted" { ", weight = 4" } else { "" };
        let servers = [(9001, weight), (9002, ""), (9003, "")];
        let address = place.balancer_at();
        place.balancer(&place.config(&servers, &format!("policy = \"{policy}\"\n{hash}")));
        let more = if policy == "maglev" { of_user } else { none };
        let shares = answers(address, count, more);
        println!("{policy}: {shares:?}");
        let share = |port: u16| shares.get(&port).copied().unwrap_or(0);
        let all = [9001, 9002, 9003].map(share);
        assert_eq!(all.iter().sum::<usize>(), count);
        match policy {
            "round-robin" => assert!(all.iter().all(|share| near(*share, count / 3, 1)), "{all:?}"),
            "weighted" => {
                assert!(near(all[0], count * 4 / 6, 2) && near(all[1], count / 6, 5), "{all:?}");
            }
            // Tables give each a third up to a percent; the users are few.
            "maglev" => {
                assert!(all.iter().all(|share| near(*share, count / 3, 25)), "{all:?}");
                assert_eq!(
                    answers(address, count, more),
                    shares,
                    "the same users, the same servers"
                );
            }
            // Whoever is quick gets more, and Python is not.
            _ => assert!(all.iter().all(|share| *share > 0) && all[2] < count / 2, "{all:?}"),
        }
    }
}

#[test]
fn a_cookie_sticks_and_a_lower_priority_waits() {
    let Some(mut place) = Place::new() else { return };
    let Some(first) = place.nginx(9001, "", SITE) else { return };
    place.python(9002);
    place.python(9003);
    let servers = [(9001, ""), (9002, ""), (9003, ", priority = 1")];
    place.balancer(&place.config(&servers, "sticky = { cookie = \"at\" }"));
    let mut client = Client::to(place.balancer_at()).unwrap();
    for _ in 0..4 {
        let answer = client.ask("GET", "/", "").unwrap();
        let cookie = answer.head.split("set-cookie: ").nth(1).unwrap().split(';').next().unwrap();
        for _ in 0..6 {
            let again = client.ask("GET", "/", &format!("cookie: {cookie}\r\n")).unwrap();
            assert_eq!(again.text(), answer.text());
            assert_ne!(again.text(), "9003", "there are others of a lower number");
        }
    }
    place.kill(first);
    for _ in 0..20 {
        assert_eq!(client.ask("GET", "/", "").unwrap().text(), "9002");
    }
}
