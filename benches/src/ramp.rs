//! What messages meet while very many WebSockets are opened beside them: of a server that had the memory for them
//! before it began, and of one that gets it as it is needed.

use std::io;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::noise::{Gaps, Watch};
use crate::report::Report;
use crate::stats::Samples;
use crate::subject::{Ask, Link, Subject};

/// Longest wait for the client beyond the time that it should take.
const PATIENCE: Duration = Duration::from_secs(90);
/// For how long the cores are looked at before.
const GAPS: Duration = Duration::from_secs(2);
/// Wanted: 99.9 percent of the echoes meanwhile within this, and each stage of the loop.
const WANTED_ECHO_US: f64 = 5_000.0;
const WANTED_STAGE_US: f64 = 1_000.0;
/// Bytes of memory that a server has before, for each connection and beside them.
const EACH: u64 = 400;
const BESIDE: u64 = 32 << 20;

/// One round's findings.
struct Round {
    client: Value,
    server: Value,
    others: f64,
    /// The server's core.
    core: usize,
    /// What the server's core, and the client's, did to a loop that only read the clock just before.
    gaps: Vec<Value>,
}

/// Ramps `rounds` times each way to as many connections as `ask` says, at its rates.
///
/// # Errors
/// A process fails, or a connection is not opened.
pub fn measure(ask: &Ask, link: Link, rounds: usize) -> io::Result<Report> {
    let with = Ask { preallocate: EACH * ask.connections as u64 + BESIDE, ..ask.clone() };
    let (mut ready, mut plain) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        ready.push(round(&with, link)?);
        plain.push(round(ask, link)?);
    }
    Ok(report(&with, link, &ready, &plain))
}

fn round(ask: &Ask, link: Link) -> io::Result<Round> {
    let rate = ask.ramp.unwrap_or(f64::INFINITY);
    let gaps = Gaps::of(&ask.cores, GAPS)?;
    // The server is on the core that was away less.
    let mut ask = ask.clone();
    if let ([server, client], [a, b]) = (&mut ask.cores, &gaps[..])
        && b.away < a.away
    {
        std::mem::swap(server, client);
    }
    let ask = &ask;
    let mut this = Subject::Throng(link).start(ask)?;
    let (server, client) = match (this.servers.first_mut(), this.clients.first_mut()) {
        (Some(server), Some(client)) => (server, client),
        _ => return Err(io::Error::other("no server, or no client")),
    };
    server.tell("stages")?;
    server.line(PATIENCE)?;
    client.tell("go 0")?;
    client.expect("begun", PATIENCE)?;
    let watch = Watch::start(&ask.cores)?;
    let before = server.cpu()? + client.cpu()?;
    let time = Duration::from_secs_f64(ask.connections as f64 / rate);
    let client_said = object(&client.line(time + PATIENCE)?)?;
    let others = watch.others(server.cpu()? + client.cpu()? - before)?;
    server.tell("stages")?;
    let server_said = object(&server.line(PATIENCE)?)?;
    let longest = longest(&server_said);
    eprintln!(
        "  {} MB before: opened in {:.1} s; echoes meanwhile p99.9 {:.0} us ({:.0} while the client looked), after {:.0}; \
         longest stage {:.0} us, {:.0} where nothing is to be done; client's longest pause {:.0} us; others {:.0} %; server on core {}; \
         gaps {}",
        ask.preallocate >> 20,
        number(&client_said["seconds"]),
        number(&client_said["meanwhile"]["p999_us"]),
        number(&client_said["meanwhile"]["p999_us_looked"]),
        number(&client_said["after"]["p999_us"]),
        longest.1,
        empty(&server_said).0,
        number(&client_said["meanwhile"]["client_pause_us"]),
        100.0 * others,
        ask.cores[0],
        json!(gaps.iter().map(Gaps::to_json).collect::<Vec<_>>()),
    );
    let gaps = gaps.iter().map(Gaps::to_json).collect();
    let core = ask.cores[0];
    Ok(Round { client: client_said, server: server_said, others, core, gaps })
}

/// What the rounds found, by its names in the report.
fn findings(rounds: &[Round]) -> (Samples, Map<String, Value>) {
    let samples =
        |take: &dyn Fn(&Round) -> f64| Samples::from(rounds.iter().map(take).collect::<Vec<_>>());
    let client = |when: &'static str, what: &'static str| {
        samples(&move |round: &Round| number(&round.client[when][what]))
    };
    let meanwhile = client("meanwhile", "p999_us");
    let stages: Vec<(String, f64)> = rounds.iter().map(|round| longest(&round.server)).collect();
    let worst = stages.iter().max_by(|a, b| a.1.total_cmp(&b.1));
    let slow: u64 = rounds.iter().map(|round| slow(&round.server)).sum();
    let mut found = Map::new();
    for (key, value) in [
        ("seconds", json!(samples(&|round: &Round| number(&round.client["seconds"])).median())),
        ("errors", json!(errors(rounds))),
        ("p50_us", json!(client("meanwhile", "p50_us").median())),
        ("p99_us", json!(client("meanwhile", "p99_us").median())),
        ("p999_us", json!(meanwhile.median())),
        ("max_us", json!(client("meanwhile", "max_us").at(1.0))),
        ("p999_us_looked", json!(client("meanwhile", "p999_us_looked").median())),
        ("p999_us_after", json!(client("after", "p999_us").median())),
        ("server_cores", json!(rounds.iter().map(|round| round.core).collect::<Vec<_>>())),
        ("gaps", json!(rounds.iter().map(|round| &round.gaps).collect::<Vec<_>>())),
        ("client_pause_us", json!(client("meanwhile", "client_pause_us").at(1.0))),
        ("longest_stage", json!(worst.map(|(name, _)| name))),
        ("longest_stage_us", json!(worst.map(|(_, micros)| micros))),
        ("stages_of_1_ms", json!(slow)),
        // A shard that is alone has nothing to take from others: what that takes is the machine's.
        ("empty_stage_us", json!(samples(&|round: &Round| empty(&round.server).0).at(1.0))),
        (
            "empty_stages_of_1_ms",
            json!(rounds.iter().map(|round| empty(&round.server).1).sum::<u64>()),
        ),
        ("reached", json!(meanwhile.median() < WANTED_ECHO_US && slow == 0)),
        ("stages", json!(rounds.iter().map(|round| &round.server["stages"]).collect::<Vec<_>>())),
        ("rounds", json!(rounds.iter().map(|round| &round.client).collect::<Vec<_>>())),
    ] {
        found.insert(key.to_owned(), value);
    }
    (meanwhile, found)
}

/// Of a server that had the memory before it began, `ready`, and beside it of one that had not.
fn report(ask: &Ask, link: Link, ready: &[Round], plain: &[Round]) -> Report {
    let (throng, mut more) = findings(ready);
    more.insert("plain".to_owned(), findings(plain).1.into());
    let wanted = json!({ "p999_us": WANTED_ECHO_US, "stage_us": WANTED_STAGE_US });
    more.insert("wanted".to_owned(), wanted);
    let all = || ready.iter().chain(plain);
    Report {
        bench: "ramp".to_owned(),
        params: json!({
            "connections": ask.connections,
            "connections_per_second": ask.ramp,
            "messages_per_second": ask.rate,
            "size": ask.size,
            "preallocate": ask.preallocate,
            "link": link.name(),
            "cores": ask.cores,
        }),
        unit: "us from when a message was due to its echo, 99.9 percent of them, while all open; \
               memory preallocated"
            .to_owned(),
        more_is_better: false,
        throng,
        peers: Vec::new(),
        others: Samples::from(all().map(|round| round.others).collect::<Vec<_>>()),
        failures: match errors(ready) + errors(plain) {
            0 => Vec::new(),
            errors => vec![format!("throng: {errors} errors")],
        },
        more,
    }
}

fn errors(rounds: &[Round]) -> u64 {
    rounds.iter().filter_map(|round| round.client["errors"].as_u64()).sum()
}

/// The stage that took longest, and what it took in microseconds.
fn longest(server: &Value) -> (String, f64) {
    let stages = server["stages"].as_object().into_iter().flatten();
    let times = stages.map(|(name, stage)| (name.clone(), number(&stage["longest_us"])));
    times.max_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or((String::new(), f64::NAN))
}

/// What the stage that has nothing to do took at most, and how often 1 ms or more. It is processor time of the
/// shard's thread, as that of all stages: interrupts, and the machine below a virtual one, are in it.
fn empty(server: &Value) -> (f64, u64) {
    let inbox = &server["stages"]["inbox"];
    (number(&inbox["longest_us"]), inbox["slow"].as_u64().unwrap_or(0))
}

/// How many took 1 ms or more.
fn slow(server: &Value) -> u64 {
    let stages = server["stages"].as_object().into_iter().flatten();
    stages.filter_map(|(_, stage)| stage["slow"].as_u64()).sum()
}

fn object(line: &str) -> io::Result<Value> {
    serde_json::from_str(line).map_err(|_| io::Error::other(line.to_owned()))
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::role::Traffic;

    fn ask() -> Ask {
        Ask {
            traffic: Traffic::Websocket,
            connections: 5_000,
            rate: Some(1_000.0),
            ramp: Some(2_000.0),
            ..Ask::for_tests()
        }
    }

    fn found(p999: f64, stage: f64, slow: u64) -> Round {
        Round {
            client: json!({
                "opened": 4_000, "seconds": 2.0, "errors": 1,
                "meanwhile": { "p999_us": p999, "client_pause_us": 9.0 },
                "after": { "p999_us": 20.0 },
            }),
            server: json!({ "stages": {
                "tasks": { "longest_us": stage, "slow": slow },
                "receive": { "longest_us": 3.0, "slow": 0 },
                "inbox": { "longest_us": 2.0, "slow": 0 },
            } }),
            others: 0.01,
            core: 0,
            gaps: Vec::new(),
        }
    }

    #[test]
    fn what_is_wanted_is_said_to_be_reached_or_not() {
        let plain = [found(9_000.0, 2_000.0, 1)];
        let report = |rounds: &[Round]| report(&ask(), Link::Memif, rounds, &plain).to_json();
        let good = report(&[found(4_000.0, 900.0, 0), found(4_100.0, 999.0, 0)]);
        assert_eq!((&good["reached"], &good["throng"]), (&json!(true), &json!(4_100.0)));
        assert_eq!(
            (&good["longest_stage"], &good["longest_stage_us"]),
            (&json!("tasks"), &json!(999.0))
        );
        assert_eq!((&good["errors"], &good["p999_us_after"]), (&json!(2), &json!(20.0)));
        // The other way is told beside it, and does not count.
        assert_eq!(
            (&good["plain"]["reached"], &good["plain"]["p999_us"]),
            (&json!(false), &json!(9_000.0))
        );
        assert_eq!(good["plain"]["longest_stage_us"], 2_000.0);
        assert_eq!(good["failures"][0], "throng: 3 errors");
        assert_eq!(report(&[found(5_001.0, 900.0, 0)])["reached"], false);
        let slow = report(&[found(9.0, 1_500.0, 2), found(9.0, 900.0, 0), found(9.0, 900.0, 0)]);
        assert_eq!((&slow["reached"], &slow["stages_of_1_ms"]), (&json!(false), &json!(2)));
        assert_eq!(slow["longest_stage_us"], 1_500.0);
        assert_eq!(
            (&slow["empty_stage_us"], &slow["empty_stages_of_1_ms"]),
            (&json!(2.0), &json!(0))
        );
    }
}
