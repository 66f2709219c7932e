//! Two shards beside one: what a message takes of the server's processors.
//!
//! Each shard has a queue of the link, and the client puts each flow on the queue of the shard that owns it, as
//! a NIC's RSS does. A shard polls, so its CPU time says nothing; counted are the turns of its loop in
//! which there was something to do, in CPU time, which does not run while another has the core. So it is a
//! figure also where two shards and the client share two cores: then both shards have one, in turn, and the
//! client the other.

use std::collections::BTreeSet;
use std::io;
use std::thread::available_parallelism;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::load::Done;
use crate::noise::Watch;
use crate::report::Report;
use crate::stats::Samples;
use crate::subject::{Ask, Link, Subject, server_cores};

/// Longest wait for a line beyond the time that was given.
const PATIENCE: Duration = Duration::from_secs(60);
/// How many shards are compared, the one that is judged last.
const SHARDS: [usize; 2] = [1, 2];
/// Wanted of two shards, in times of what one can do.
const WANTED: f64 = 1.8;

/// One round with one number of shards.
#[derive(Clone, Debug)]
struct Round {
    done: Done,
    /// CPU time of each shard's turns with work, in nanoseconds.
    busy: Vec<f64>,
    others: f64,
}

impl Round {
    fn ns_per_message(&self) -> f64 {
        self.busy.iter().sum::<f64>() / self.done.done as f64
    }

    fn per_second(&self) -> f64 {
        self.done.done as f64 / self.done.seconds
    }
}

/// Measures one shard and two in turn, each `rounds` times for so long.
///
/// # Errors
/// A process fails.
pub fn measure(ask: &Ask, link: Link, rounds: usize, time: Duration) -> io::Result<Report> {
    let cores = available_parallelism()?.get();
    let mut found: [Vec<Round>; 2] = Default::default();
    for number in 1..=rounds {
        for (found, shards) in found.iter_mut().zip(SHARDS) {
            let round = round(&placed(ask, shards, cores), link, time)?;
            eprintln!(
                "  round {number} {shards} shards: {:.0} messages/s, {:.1} ns of CPU time each, others \
                 {:.0} %, {} errors",
                round.per_second(),
                round.ns_per_message(),
                100.0 * round.others,
                round.done.errors,
            );
            found.push(round);
        }
    }
    Ok(report(&placed(ask, SHARDS[1], cores), link, cores, time, &found))
}

/// The shards take cores from the first on, the client the one after them, if there is one.
fn placed(ask: &Ask, shards: usize, cores: usize) -> Ask {
    let [first, client] = ask.cores;
    let behind = first + SHARDS[1];
    let cores = [first, if behind < cores { behind } else { client }];
    Ask { shards, cores, with_stack: false, adaptive: false, timed: false, ..ask.clone() }
}

fn round(ask: &Ask, link: Link, time: Duration) -> io::Result<Round> {
    let mut this = Subject::Throng(link).start(ask)?;
    let (server, client) = match (this.servers.first_mut(), this.clients.first_mut()) {
        (Some(server), Some(client)) => (server, client),
        _ => return Err(io::Error::other("no server, or no client")),
    };
    client.tell(&format!("go {}", time.as_millis()))?;
    client.expect("begun", PATIENCE)?;
    server.tell("busy")?;
    let cores: BTreeSet<usize> = server_cores(ask).chain([ask.cores[1]]).collect();
    let watch = Watch::start(&cores.into_iter().collect::<Vec<_>>())?;
    server.line(PATIENCE)?;
    let before = server.cpu()? + client.cpu()?;
    let line = client.line(time + PATIENCE)?;
    let done = Done::parse(&line).ok_or_else(|| io::Error::other(line))?;
    server.tell("busy")?;
    let line = server.line(PATIENCE)?;
    let others = watch.others(server.cpu()? + client.cpu()? - before)?;
    let busy: Vec<f64> = serde_json::from_str(&line).map_err(|_| io::Error::other(line))?;
    Ok(Round { done, busy, others })
}

fn report(ask: &Ask, link: Link, cores: usize, time: Duration, found: &[Vec<Round>; 2]) -> Report {
    let of = |found: &[Round], take: fn(&Round) -> f64| {
        Samples::from(found.iter().map(take).collect::<Vec<_>>())
    };
    let [one, two] = found.each_ref().map(|found| of(found, Round::ns_per_message));
    let rates = found.each_ref().map(|found| of(found, Round::per_second).median());
    let fits = ask.cores[0] + SHARDS[1] < cores;
    let by_time = SHARDS[1] as f64 * one.median() / two.median();
    let reached = if fits { rates[1] / rates[0] } else { by_time };
    let note = match fits {
        true => "client and both shards have a core each: their rates are compared",
        false => {
            "client and two shards do not fit the machine's cores: the shards share one, and what two could do \
             with a core each is reckoned from CPU time per message"
        }
    };
    println!("scaling: {note}");
    let details = |found: &[Round]| {
        let shard = |i: usize| {
            let share = |round: &Round| round.busy.get(i).copied().unwrap_or(0.0);
            Samples::from(found.iter().map(share).collect::<Vec<_>>()).median()
        };
        let shards = found.first().map_or(0, |round| round.busy.len());
        json!({
            "per_second": of(found, Round::per_second).median(),
            "busy_ns_of_shards": (0..shards).map(shard).collect::<Vec<_>>(),
            "errors": found.iter().map(|round| round.done.errors).sum::<u64>(),
        })
    };
    let failures = found.iter().zip(SHARDS).filter_map(|(found, shards)| {
        let errors: u64 = found.iter().map(|round| round.done.errors).sum();
        (errors > 0).then(|| format!("{shards} shards: {errors} errors"))
    });
    let more: [(&str, Value); 6] = [
        ("details", json!({ "throng": details(&found[1]), "throng-1-shard": details(&found[0]) })),
        ("times_one_shard", json!(reached)),
        ("times_one_shard_by_cpu_time", json!(by_time)),
        ("wanted", json!(WANTED)),
        ("fits", json!(fits)),
        ("note", json!(note)),
    ];
    println!("  two shards can do {reached:.2} times what one does, wanted {WANTED}");
    let others = found.iter().flatten().map(|round| round.others).collect::<Vec<_>>();
    Report {
        bench: "scaling".to_owned(),
        params: json!({
            "connections": ask.connections,
            "size": ask.size,
            "window": ask.window,
            "shards": SHARDS,
            "link": link.name(),
            "cores": ask.cores,
            "rounds": found[0].len(),
            "seconds": time.as_secs_f64(),
        }),
        unit: "ns of CPU time of the server's turns with work, per message, with 2 shards"
            .to_owned(),
        more_is_better: false,
        throng: two,
        peers: vec![("throng-1-shard".to_owned(), one)],
        others: Samples::from(others),
        failures: failures.collect(),
        more: Map::from_iter(more.map(|(key, value)| (key.to_owned(), value))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::UNTIMED;

    fn ask() -> Ask {
        Ask {
            connections: 1_000,
            window: 1_024,
            with_stack: true,
            adaptive: true,
            ..Ask::for_tests()
        }
    }

    fn of(done: u64, busy: &[f64]) -> Vec<Round> {
        let done = Done { done, seconds: 2.0, quantiles: UNTIMED, ..Done::default() };
        vec![Round { done, busy: busy.to_vec(), others: 0.0 }]
    }

    #[test]
    fn the_client_has_a_core_of_its_own_where_there_is_one() {
        let few = placed(&ask(), 2, 2);
        assert_eq!(
            (few.cores, few.shards, few.with_stack, few.adaptive),
            ([0, 1], 2, false, false)
        );
        assert_eq!((placed(&ask(), 2, 4).cores, placed(&ask(), 1, 4).cores), ([0, 2], [0, 2]));
    }

    #[test]
    fn two_shards_are_judged_by_time_or_by_rate() {
        // 500 ns a message with one shard; with two 550, and less of them, for they had to share.
        let found = [of(2_000, &[1e6]), of(1_000, &[3e5, 2.5e5])];
        let time = Duration::from_secs(2);
        let report = report(&placed(&ask(), 2, 2), Link::Memif, 2, time, &found).to_json();
        assert_eq!((&report["throng"], &report["ratio"]), (&json!(550.0), &json!(1.1)));
        assert_eq!(report["peers"], json!({ "throng-1-shard": 500.0 }));
        let reached = report["times_one_shard"].as_f64().unwrap();
        assert!((reached - 2.0 / 1.1).abs() < 1e-9 && report["fits"] == json!(false), "{reached}");
        assert_eq!(report["details"]["throng"]["busy_ns_of_shards"], json!([3e5, 2.5e5]));
        let mut found = [of(2_000, &[1e6]), of(3_800, &[1e6, 1e6])];
        let report = super::report(&placed(&ask(), 2, 4), Link::Memif, 4, time, &found);
        assert_eq!(report.to_json()["times_one_shard"], json!(1.9));
        assert!(report.failures.is_empty());
        found[1][0].done.errors = 1;
        let report = super::report(&ask(), Link::Memif, 4, time, &found);
        assert_eq!(report.failures, ["2 shards: 1 errors"]);
    }
}
