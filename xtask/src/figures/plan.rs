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
    /// Its rounds, if it has any.
    pub(crate) rounds: Rounds,
    /// About how long it takes with three rounds of two seconds, on a quiet machine.
    pub(crate) seconds: u64,
}

/// What a bench makes of the rounds that are asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Rounds {
    /// It has none.
    None,
    /// So many of them at most, each for this share of its seconds.
    Of { most: usize, share: f64 },
}

const ALL: Rounds = Rounds::Of { most: usize::MAX, share: 1.0 };
/// Where a figure beside others is wanted, not one that decides anything.
const SHORT: Rounds = Rounds::Of { most: usize::MAX, share: 0.5 };
/// Where each round opens very many connections.
const TWO: Rounds = Rounds::Of { most: 2, share: 1.0 };
/// Where a round of two seconds has thousands of turns, of which the middle one counts.
const TURNS: Rounds = Rounds::Of { most: usize::MAX, share: 0.25 };

const fn compared(
    name: &'static str,
    bench: &'static str,
    label: &'static str,
    seconds: u64,
) -> Entry {
    Entry { name, bench, connections: None, args: &[], label, rounds: ALL, seconds }
}

const fn at(
    name: &'static str,
    bench: &'static str,
    connections: usize,
    label: &'static str,
    seconds: u64,
) -> Entry {
    Entry { connections: Some(connections), ..compared(name, bench, label, seconds) }
}

/// All of them, in the order in which they are measured: what is asked for first, so that a run that is cut
/// off has it.
pub(crate) const PLAN: &[Entry] = &[
    page("http-64", 64, &["--size", "6"], "64 connections, hello"),
    page("http-4096", 4_096, &["--size", "6"], "4,096 connections, hello"),
    compared("http-close", "http-close", "a connection each", 40),
    at("echo-1000", "echo", 1_000, "1,000 connections", 34),
    at("echo-1000000", "echo", 1_000_000, "1,000,000 connections", 18),
    compared("connect-rate", "connect-rate", "accepted and closed", 25),
    at("latency-1", "latency", 1, "1 connection, busy", 25),
    Entry {
        args: ADAPTIVE,
        ..at("latency-1-adaptive", "latency", 1, "1 connection, adaptive", 12)
    },
    at("bulk-1", "bulk", 1, "1 stream", 49),
    at("engine-1000", "engine", 1_000, "1,000 connections", 17),
    at("engine-1000000", "engine", 1_000_000, "1,000,000 connections", 20),
    at("scaling-1000", "scaling", 1_000, "1,000 connections", 18),
    at("lb-64", "lb", 64, "64 connections", 42),
    at("lb-512", "lb", 512, "512 connections", 42),
    at("ws-echo-1000", "ws-echo", 1_000, "1,000 connections", 37),
    at("ws-echo-1000000", "ws-echo", 1_000_000, "1,000,000 connections", 30),
    compared("upgrade-rate", "upgrade-rate", "connections become WebSockets", 33),
    at("ramp", "ramp", 1_000_000, "to 1,000,000 connections, memory preallocated", 190),
    Entry {
        args: ALONE,
        ..idle("idle-ws-1000000", "idle-ws", 1_000_000, "1,000,000 connections", 140)
    },
    Entry { rounds: Rounds::None, ..compared("idle", "idle", "a server without traffic", 90) },
    Entry { rounds: Rounds::None, ..compared("icount", "icount", "by callgrind", 100) },
    at("latency-1000", "latency", 1_000, "1,000 connections, busy", 30),
    Entry {
        args: ADAPTIVE,
        ..at("latency-1000-adaptive", "latency", 1_000, "1,000 connections, adaptive", 16)
    },
    at("udp", "udp", 1_000, "1,000 flows", 52),
    Entry {
        args: ALONE,
        ..idle("idle-http-1000000", "idle-http", 1_000_000, "1,000,000 connections", 70)
    },
    Entry {
        args: HANDLER,
        ..idle("idle-ws-100000", "idle-ws", 100_000, "100,000 connections", 90)
    },
    idle("idle-http-100000", "idle-http", 100_000, "100,000 connections", 100),
    Entry { rounds: SHORT, ..at("echo-1", "echo", 1, "1 connection", 22) },
    Entry { rounds: TWO, ..at("echo-100000", "echo", 100_000, "100,000 connections", 90) },
    at("broadcast-10000", "broadcast", 10_000, "10,000 connections", 35),
    Entry {
        rounds: TWO,
        ..at(
            "broadcast-1000000",
            "broadcast",
            1_000_000,
            "1,000,000 connections, peers' 10,000",
            75,
        )
    },
    Entry { rounds: TURNS, ..at("path-1000", "path", 1_000, "1,000 connections", 35) },
    at("path-1000000", "path", 1_000_000, "1,000,000 connections", 50),
    Entry { rounds: SHORT, ..at("bulk-100", "bulk", 100, "100 streams", 34) },
    body("http-64-empty", 64, &["--size", "0"], "64 connections, no body"),
    body("http-64-1k", 64, &["--size", "1024"], "64 connections, 1 KiB"),
    body("http-64-100k", 64, &["--size", "102400"], "64 connections, 100 KiB"),
    body("http-4096-empty", 4_096, &["--size", "0"], "4,096 connections, no body"),
    body("http-4096-1k", 4_096, &["--size", "1024"], "4,096 connections, 1 KiB"),
    Entry {
        seconds: 60,
        ..body("http-4096-100k", 4_096, &["--size", "102400"], "4,096 connections, 100 KiB")
    },
    Entry { args: HANDLER, ..idle("idle-ws-10000", "idle-ws", 10_000, "10,000 connections", 30) },
    idle("idle-http-10000", "idle-http", 10_000, "10,000 connections", 40),
    at("scaling-100000", "scaling", 100_000, "100,000 connections", 30),
];

/// Nobody but Throng sleeps.
const ADAPTIVE: &[&str] = &["--adaptive", "--peers", "none"];
/// Of the peers fewer are measured, by another result.
const ALONE: &[&str] = &["--peers", "none"];
/// One way of writing the server is enough here, the best.
const HANDLER: &[&str] = &["--handler"];

const fn page(
    name: &'static str,
    connections: usize,
    args: &'static [&'static str],
    label: &'static str,
) -> Entry {
    Entry { args, ..at(name, "http", connections, label, 51) }
}

const fn body(
    name: &'static str,
    connections: usize,
    args: &'static [&'static str],
    label: &'static str,
) -> Entry {
    Entry { rounds: SHORT, seconds: 30, ..page(name, connections, args, label) }
}

const fn idle(
    name: &'static str,
    bench: &'static str,
    connections: usize,
    label: &'static str,
    seconds: u64,
) -> Entry {
    Entry { rounds: Rounds::None, ..at(name, bench, connections, label, seconds) }
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
            if self.bench.starts_with("idle-") && self.args != ALONE {
                words.extend(["--peer-connections".to_owned(), connections.to_string()]);
            }
        }
        words.extend(self.args.iter().map(|&word| word.to_owned()));
        if how.quick && self.bench != "icount" {
            words.push("--quick".to_owned());
        } else if let Rounds::Of { most, share } = self.rounds {
            let (rounds, seconds) = (how.rounds.min(most), how.seconds * share);
            words.extend(["--rounds".to_owned(), rounds.to_string()]);
            words.extend(["--seconds".to_owned(), seconds.to_string()]);
        }
        words.push("--json".to_owned());
        words
    }

    /// About how long it takes, in seconds.
    pub(crate) fn estimate(&self, how: How) -> u64 {
        /// Of a round of two seconds, what is not the figure's: starting, connecting, warming up.
        const BESIDE: f64 = 1.2;
        if how.quick {
            return 10;
        }
        let Rounds::Of { most, share } = self.rounds else { return self.seconds };
        let rounds = how.rounds.min(most) as f64 / 3.min(most) as f64;
        let length = (how.seconds * share + BESIDE) / (2.0 * share + BESIDE);
        (self.seconds as f64 * rounds * length).ceil() as u64
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
        assert_eq!((estimate(3), estimate(5)), (18, 30));
        let longer = entry.estimate(How { quick: false, seconds: 4.0, ..how });
        assert!((19..36).contains(&longer), "{longer} s");
    }

    #[test]
    fn a_round_may_be_shorter_and_there_may_be_fewer() {
        let how = How { quick: false, rounds: 3, seconds: 2.0 };
        let words = |name: &str| {
            let entry = PLAN.iter().find(|entry| entry.name == name).expect("a planned one");
            (entry.words(how).join(" "), entry.estimate(how) == entry.seconds)
        };
        let short = "http --connections 64 --size 1024 --rounds 3 --seconds 1 --json";
        assert_eq!(words("http-64-1k"), (short.to_owned(), true));
        let two = "echo --connections 100000 --rounds 2 --seconds 2 --json";
        assert_eq!(words("echo-100000"), (two.to_owned(), true));
        let alone = "idle-http --connections 1000000 --peers none --json";
        assert_eq!(words("idle-http-1000000"), (alone.to_owned(), true));
    }

    #[test]
    fn all_fit_forty_minutes() {
        let how = How { quick: false, rounds: 3, seconds: 2.0 };
        let all: u64 = PLAN.iter().map(|entry| entry.estimate(how)).sum();
        assert!(all <= 40 * 60, "{all} s");
    }
}
