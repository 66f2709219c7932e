//! What is measured for docs/PERFORMANCE.md, one line a result.

/// One result: a bench with its parameters.
pub(crate) struct Entry {
    /// Its name, and its file's in `benches/results`.
    pub(crate) name: &'static str,
    /// The bench, as `cargo xtask bench` knows it.
    pub(crate) bench: &'static str,
    /// How many connections it is asked for, if it is.
    pub(crate) connections: Option<usize>,
    /// What else it is asked for.
    pub(crate) args: &'static [&'static str],
    /// What tells it from the bench's other results.
    pub(crate) label: &'static str,
    /// Whether it has rounds of so many seconds.
    pub(crate) rounds: bool,
    /// About how long it takes with three rounds of two seconds.
    pub(crate) seconds: u64,
}

const fn compared(name: &'static str, bench: &'static str, label: &'static str) -> Entry {
    Entry { name, bench, connections: None, args: &[], label, rounds: true, seconds: 50 }
}

const fn at(
    name: &'static str,
    bench: &'static str,
    connections: usize,
    label: &'static str,
) -> Entry {
    Entry { connections: Some(connections), ..compared(name, bench, label) }
}

/// All of them, in the order in which they are measured: what is asked for first.
pub(crate) const PLAN: &[Entry] = &[
    page("http-64", 64, &["--size", "6"], "64 connections, hello"),
    page("http-4096", 4_096, &["--size", "6"], "4,096 connections, hello"),
    compared("http-close", "http-close", "a connection each"),
    at("echo-1", "echo", 1, "1 connection"),
    at("echo-1000", "echo", 1_000, "1,000 connections"),
    Entry { seconds: 120, ..at("echo-100000", "echo", 100_000, "100,000 connections") },
    Entry { seconds: 50, ..at("echo-1000000", "echo", 1_000_000, "1,000,000 connections") },
    compared("connect-rate", "connect-rate", "accepted and closed"),
    at("latency-1", "latency", 1, "1 connection, busy"),
    at("latency-1000", "latency", 1_000, "1,000 connections, busy"),
    Entry {
        args: &["--adaptive", "--peers", "none"],
        seconds: 20,
        ..at("latency-1-adaptive", "latency", 1, "1 connection, adaptive")
    },
    Entry {
        args: &["--adaptive", "--peers", "none"],
        seconds: 20,
        ..at("latency-1000-adaptive", "latency", 1_000, "1,000 connections, adaptive")
    },
    Entry { seconds: 60, ..at("bulk-1", "bulk", 1, "1 stream") },
    Entry { seconds: 60, ..at("bulk-100", "bulk", 100, "100 streams") },
    Entry { seconds: 25, ..at("engine-1000", "engine", 1_000, "1,000 connections") },
    Entry { seconds: 35, ..at("engine-1000000", "engine", 1_000_000, "1,000,000 connections") },
    Entry { seconds: 25, ..at("path-1000", "path", 1_000, "1,000 connections") },
    Entry { seconds: 60, ..at("path-1000000", "path", 1_000_000, "1,000,000 connections") },
    at("ws-echo-1000", "ws-echo", 1_000, "1,000 connections"),
    Entry { seconds: 60, ..at("ws-echo-1000000", "ws-echo", 1_000_000, "1,000,000 connections") },
    compared("upgrade-rate", "upgrade-rate", "connections become WebSockets"),
    at("broadcast-10000", "broadcast", 10_000, "10,000 connections"),
    Entry {
        seconds: 90,
        ..at("broadcast-1000000", "broadcast", 1_000_000, "1,000,000 connections, peers' 10,000")
    },
    Entry { seconds: 110, ..at("ramp", "ramp", 1_000_000, "to 1,000,000 connections") },
    page("http-64-empty", 64, &["--size", "0"], "64 connections, no body"),
    page("http-64-1k", 64, &["--size", "1024"], "64 connections, 1 KiB"),
    page("http-64-100k", 64, &["--size", "102400"], "64 connections, 100 KiB"),
    Entry { seconds: 30, ..at("scaling-1000", "scaling", 1_000, "1,000 connections") },
    Entry { seconds: 75, ..at("udp", "udp", 1_000, "1,000 flows") },
    idle("idle-http-10000", "idle-http", 10_000, "10,000 connections", 40),
    idle("idle-http-1000000", "idle-http", 1_000_000, "1,000,000 connections, peers' 100,000", 150),
    idle("idle-ws-10000", "idle-ws", 10_000, "10,000 connections", 40),
    idle("idle-ws-100000", "idle-ws", 100_000, "100,000 connections", 90),
    idle("idle-ws-1000000", "idle-ws", 1_000_000, "1,000,000 connections, peers' 100,000", 200),
    Entry { rounds: false, seconds: 90, ..compared("idle", "idle", "a server without traffic") },
    Entry { rounds: false, seconds: 100, ..compared("icount", "icount", "by callgrind") },
];

const fn page(
    name: &'static str,
    connections: usize,
    args: &'static [&'static str],
    label: &'static str,
) -> Entry {
    Entry { args, seconds: 65, ..at(name, "http", connections, label) }
}

const fn idle(
    name: &'static str,
    bench: &'static str,
    connections: usize,
    label: &'static str,
    seconds: u64,
) -> Entry {
    Entry { rounds: false, seconds, ..at(name, bench, connections, label) }
}

/// How a run is to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct How {
    /// As short as it goes, with few connections: whether it works, not how fast it is.
    pub(crate) quick: bool,
    /// How often each is measured.
    pub(crate) rounds: usize,
    /// And for how many seconds.
    pub(crate) seconds: f64,
}

/// Connections of a quick run at most.
const QUICK: usize = 1_000;

impl Entry {
    /// The words after `cargo xtask bench`.
    pub(crate) fn words(&self, how: How) -> Vec<String> {
        let mut words = vec![self.bench.to_owned()];
        if let Some(connections) = self.connections {
            let connections = if how.quick { connections.min(QUICK) } else { connections };
            words.extend(["--connections".to_owned(), connections.to_string()]);
            if self.bench.starts_with("idle-") {
                let of_peers = connections.min(100_000);
                words.extend(["--peer-connections".to_owned(), of_peers.to_string()]);
            }
        }
        words.extend(self.args.iter().map(|&word| word.to_owned()));
        if how.quick && self.bench != "icount" {
            words.push("--quick".to_owned());
        } else if self.rounds {
            let (rounds, seconds) = (how.rounds.to_string(), how.seconds.to_string());
            words.extend(["--rounds".to_owned(), rounds, "--seconds".to_owned(), seconds]);
        }
        words.push("--json".to_owned());
        words
    }

    /// About how long it takes, in seconds.
    pub(crate) fn estimate(&self, how: How) -> u64 {
        match (how.quick, self.rounds) {
            (true, _) => 10,
            (false, true) => (self.seconds as usize * how.rounds).div_ceil(3) as u64,
            (false, false) => self.seconds,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_files_and_differ() {
        let names: BTreeSet<&str> = PLAN.iter().map(|entry| entry.name).collect();
        assert_eq!(names.len(), PLAN.len());
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        assert!(names.iter().all(|name| name.chars().all(plain)));
        assert!(PLAN.iter().all(|entry| entry.name.starts_with(entry.bench)));
    }

    #[test]
    fn a_quick_run_is_small() {
        let entry = PLAN.iter().find(|entry| entry.name == "echo-1000000").unwrap();
        let how = How { quick: true, rounds: 3, seconds: 2.0 };
        assert_eq!(entry.words(how).join(" "), "echo --connections 1000 --quick --json");
        let words = entry.words(How { quick: false, ..how }).join(" ");
        assert_eq!(words, "echo --connections 1000000 --rounds 3 --seconds 2 --json");
        let estimate = |rounds| entry.estimate(How { quick: false, rounds, ..how });
        assert_eq!((estimate(3), estimate(5)), (50, 84));
    }
}
