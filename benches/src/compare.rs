//! Rounds: every subject in turn, again and again, so that what the machine does meets them all.

use std::io;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::balancer::Balancer;
use crate::load::Done;
use crate::memory::{forget_peak, peak_and_now};
use crate::noise::Watch;
use crate::report::Report;
use crate::role::Traffic;
use crate::stats::{Samples, UNTIMED};
use crate::subject::{Ask, Subject};

/// Longest wait for a client beyond the time that it was given.
const PATIENCE: Duration = Duration::from_secs(60);

/// A comparison.
pub struct Comparison {
    /// The bench's name.
    pub bench: &'static str,
    /// What is asked of all.
    pub ask: Ask,
    /// Who is compared, Throng first.
    pub subjects: Vec<Subject>,
    /// How often each is measured.
    pub rounds: usize,
    /// For how long.
    pub time: Duration,
    /// What is taken from a measurement.
    pub measure: Measure,
    /// Most connections of a peer.
    pub of_peers: usize,
}

/// What the figures are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Operations per second of the server's core, for the host's sockets per second of its CPU time.
    Rate,
    /// Gigabits per second, likewise.
    Gigabits,
    /// Microseconds at the median.
    Latency,
}

/// What one measurement has found.
#[derive(Clone, Copy, Debug)]
struct Found {
    done: Done,
    /// CPU time of the server while it lasted, in seconds.
    server: f64,
    /// The share of the cores' time that went to others.
    others: f64,
    /// Bytes by which the server's memory grew meanwhile, at most.
    growth: u64,
}

impl Measure {
    fn unit(self) -> &'static str {
        match self {
            Measure::Rate => {
                "operations per second of the server's core; peers' per second of its CPU time"
            }
            Measure::Gigabits => {
                "Gbit/s of payload per server core; peers' per core's worth of CPU time"
            }
            Measure::Latency => "us of a round trip at the median",
        }
    }

    /// A polling server has its core to itself, and is busy for as long as it runs.
    fn figure(self, found: &Found, polls: bool) -> f64 {
        let seconds = if polls { found.done.seconds } else { found.server };
        let rate = found.done.done as f64 / seconds;
        match self {
            Measure::Rate => rate,
            Measure::Gigabits => rate * 8e-9,
            Measure::Latency => found.done.quantiles[0],
        }
    }
}

impl Comparison {
    /// Measures all subjects in turn. One that fails is named among the report's failures, and left out.
    ///
    /// # Errors
    /// Throng itself fails, or the machine cannot be watched.
    pub fn run(&self) -> io::Result<Report> {
        let mut found: Vec<Vec<Found>> = vec![Vec::new(); self.subjects.len()];
        let mut failed = vec![None; self.subjects.len()];
        for round in 0..self.rounds {
            for (index, subject) in self.subjects.iter().enumerate() {
                if failed[index].is_some() {
                    continue;
                }
                match self.measure(subject) {
                    Ok(one) => {
                        let figure = self.measure.figure(&one, self.polls(subject));
                        eprintln!(
                            "  round {} {:<16} {figure:>12.1}  server {:>5.1} % of its core, \
                             others {:.0} %, {} errors",
                            round + 1,
                            subject.name(),
                            100.0 * one.server / one.done.seconds,
                            100.0 * one.others,
                            one.done.errors,
                        );
                        found[index].push(one);
                    }
                    Err(error) if subject.is_on_device() => return Err(error),
                    Err(error) => {
                        eprintln!("  {}: {error}", subject.name());
                        failed[index] = Some(format!("{}: {error}", subject.name()));
                    }
                }
            }
        }
        let mut report = self.report(&found);
        report.failures.extend(failed.into_iter().flatten());
        Ok(report)
    }

    fn polls(&self, subject: &Subject) -> bool {
        subject.is_on_device() && !self.ask.adaptive
    }

    fn measure(&self, subject: &Subject) -> io::Result<Found> {
        let mut ask = self.ask.clone();
        if !subject.is_on_device() {
            ask.connections = ask.connections.min(self.of_peers);
        }
        let mut this = subject.start(&ask)?;
        let at_rest = this.servers.iter().map(|server| {
            forget_peak(server.id())?;
            Ok(peak_and_now(server.id())?[1])
        });
        let at_rest = at_rest.sum::<io::Result<u64>>()?;
        let go = format!("go {}", self.time.as_millis());
        this.clients.iter_mut().try_for_each(|client| client.tell(&go))?;
        for client in &mut this.clients {
            client.expect("begun", PATIENCE)?;
        }
        let watch = Watch::start(&self.ask.cores)?;
        let before = this.cpu()?;
        let mut sum = Done { quantiles: UNTIMED, ..Done::default() };
        let mut spent = None;
        let count = this.clients.len() as f64;
        for i in 0..this.clients.len() {
            let line = this.clients[i].line(self.time + PATIENCE)?;
            let done = Done::parse(&line).ok_or_else(|| io::Error::other(line))?;
            sum.done += done.done;
            sum.errors += done.errors;
            sum.asked_again += done.asked_again;
            sum.lost += done.lost;
            sum.seconds += done.seconds / count;
            sum.quantiles = std::array::from_fn(|i| sum.quantiles[i].max(done.quantiles[i]));
            // The first to end is the end: they began together.
            if spent.is_none() {
                let after = this.cpu()?;
                let [server, client] = [0, 1].map(|i| after[i].saturating_sub(before[i]));
                spent = Some((server.as_secs_f64(), watch.others(server + client)?));
            }
        }
        let peaks = this.servers.iter().map(|server| Ok(peak_and_now(server.id())?[0]));
        let growth = peaks.sum::<io::Result<u64>>()?.saturating_sub(at_rest);
        let (server, others) = spent.ok_or_else(|| io::Error::other("no client"))?;
        Ok(Found { done: sum, server, others, growth })
    }

    fn report(&self, found: &[Vec<Found>]) -> Report {
        let mut figures = self.subjects.iter().zip(found).map(|(subject, found)| {
            let polls = self.polls(subject);
            let figures = found.iter().map(|one| self.measure.figure(one, polls));
            (subject.name(), Samples::from(figures.collect::<Vec<_>>()))
        });
        let throng = figures.next().map(|(_, samples)| samples).unwrap_or_default();
        let peers = figures.collect();
        let errors = self.subjects.iter().zip(found).filter_map(|(subject, found)| {
            let errors: u64 = found.iter().map(|one| one.done.errors).sum();
            (errors > 0).then(|| format!("{}: {errors} errors", subject.name()))
        });
        let others: Vec<f64> = found.iter().flatten().map(|one| one.others).collect();
        Report {
            bench: self.bench.to_owned(),
            params: self.params(),
            unit: self.measure.unit().to_owned(),
            more_is_better: self.measure != Measure::Latency,
            throng,
            peers,
            others: Samples::from(others),
            failures: errors.collect(),
            more: self.details(found),
        }
    }

    fn params(&self) -> Value {
        let Ask { traffic, connections, size, window, cores, adaptive, rate, sockets, .. } =
            &self.ask;
        let link = self.subjects.iter().find_map(|subject| match subject {
            Subject::Throng(link) | Subject::Balancer(Balancer::Throng(link)) => Some(link.name()),
            _ => None,
        });
        let mut params = json!({
            "connections": connections,
            "peers_connections": connections.min(&self.of_peers),
            "size": size,
            "window": window,
            "rate": rate,
            "idle": if *adaptive { "adaptive" } else { "busy" },
            "link": link,
            "cores": cores,
            "rounds": self.rounds,
            "seconds": self.time.as_secs_f64(),
        });
        if *traffic == Traffic::Udp {
            params["sockets"] = json!(sockets);
        }
        params
    }

    /// What each subject did, by its name.
    fn details(&self, found: &[Vec<Found>]) -> Map<String, Value> {
        let of = |found: &[Found], take: fn(&Found) -> f64| {
            Samples::from(found.iter().map(take).collect::<Vec<_>>()).median()
        };
        let one = |subject: &Subject, found: &[Found]| {
            let mut details = json!({
                "per_second": of(found, |one| one.done.done as f64 / one.done.seconds),
                "server_cores": of(found, |one| one.server / one.done.seconds),
                "server_ns_per_operation": of(found, |one| 1e9 * one.server / one.done.done as f64),
                "errors": found.iter().map(|one| one.done.errors).sum::<u64>(),
                "p50_us": of(found, |one| one.done.quantiles[0]),
                "p90_us": of(found, |one| one.done.quantiles[1]),
                "p99_us": of(found, |one| one.done.quantiles[2]),
                "p999_us": of(found, |one| one.done.quantiles[3]),
                "p9999_us": of(found, |one| one.done.quantiles[4]),
                "memory_growth_bytes": of(found, |one| one.growth as f64),
            });
            if self.ask.traffic == Traffic::Udp {
                let sum = |take: fn(&Found) -> u64| found.iter().map(take).sum::<u64>();
                details["asked_again"] = json!(sum(|one| one.done.asked_again));
                details["lost"] = json!(sum(|one| one.done.lost));
            }
            (subject.name(), details)
        };
        let all = self.subjects.iter().zip(found).map(|(subject, found)| one(subject, found));
        Map::from_iter([("details".to_owned(), Value::Object(all.collect()))])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subject::Link;

    fn comparison(measure: Measure) -> Comparison {
        let ask = Ask { connections: 2, window: 2, ..Ask::for_tests() };
        let subjects = vec![Subject::Throng(Link::Memif), Subject::Peer("tokio-echo")];
        let time = Duration::from_secs(1);
        Comparison { bench: "echo", ask, subjects, rounds: 1, time, measure, of_peers: 1 }
    }

    #[test]
    fn a_polling_server_is_busy_all_the_time() {
        let quantiles = [7.0, 7.5, 8.0, 9.0, 10.0];
        let done = Done { done: 1_000, seconds: 2.0, quantiles, ..Done::default() };
        let found = Found { done, server: 0.5, others: 0.01, growth: 4_096 };
        let report = comparison(Measure::Rate).report(&[vec![found], vec![found]]);
        assert_eq!((report.throng.median(), report.peers[0].1.median()), (500.0, 2_000.0));
        let report = report.to_json();
        assert_eq!(report["ratio"], json!(0.25));
        assert_eq!(report["details"]["tokio-echo"]["server_ns_per_operation"], json!(500_000.0));
        assert_eq!(report["params"]["link"], json!("memif"));
        let report = comparison(Measure::Latency).report(&[vec![found], Vec::new()]);
        assert_eq!((report.throng.median(), report.best_peer().is_none()), (7.0, true));
        assert!(report.failures.is_empty());
        let wrong = Found { done: Done { errors: 2, ..done }, ..found };
        let report = comparison(Measure::Rate).report(&[vec![found], vec![found, wrong]]);
        assert_eq!(report.failures, ["tokio-echo: 2 errors"]);
    }
}
