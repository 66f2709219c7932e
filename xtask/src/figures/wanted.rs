//! What the issues ask for, beside what was reached.

use super::charts::micros;
use super::plan::PLAN;
use super::results::{Case, Results};
use super::tables::figure;

/// One figure that is asked for.
struct Wanted {
    what: &'static str,
    entry: &'static str,
    /// Which of the result's cases: its bench, or what its parameters say; empty: the first.
    case: &'static str,
    read: fn(Case<'_>) -> Option<f64>,
    bound: Bound,
    unit: Unit,
}

#[derive(Clone, Copy)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
    Below(f64),
}

#[derive(Clone, Copy)]
enum Unit {
    /// Times a peer's.
    Times(&'static str),
    /// This, in words.
    Plain(&'static str),
    Micros,
}

use Bound::{AtLeast, AtMost, Below};
use Unit::{Micros, Plain, Times};

fn throng(case: Case<'_>) -> Option<f64> {
    case.throng()
}

const WANTED: &[Wanted] = &[
    Wanted {
        what: "`http`, keep-alive hello, 64 connections",
        entry: "http-64",
        case: "",
        read: |case| case.ratio_to("tokio-http"),
        bound: AtLeast(4.0),
        unit: Times("tokio + hyper"),
    },
    Wanted {
        what: "`http`, keep-alive hello, 4,096 connections",
        entry: "http-4096",
        case: "",
        read: |case| case.ratio_to("tokio-http"),
        bound: AtLeast(4.0),
        unit: Times("tokio + hyper"),
    },
    Wanted {
        what: "`http-close`",
        entry: "http-close",
        case: "",
        read: |case| case.ratio_to("tokio-http"),
        bound: AtLeast(8.0),
        unit: Times("tokio + hyper"),
    },
    Wanted {
        what: "`echo`, 1,000 connections",
        entry: "echo-1000",
        case: "",
        read: |case| case.ratio_to("tokio-echo"),
        bound: AtLeast(8.0),
        unit: Times("tokio"),
    },
    Wanted {
        what: "`echo`, 1,000,000 connections, random",
        entry: "echo-1000000",
        case: "",
        read: throng,
        bound: AtLeast(1_500_000.0),
        unit: Plain("messages/s on one core"),
    },
    Wanted {
        what: "`connect-rate`, accept and close",
        entry: "connect-rate",
        case: "",
        read: throng,
        bound: AtLeast(400_000.0),
        unit: Plain("/s on one core"),
    },
    Wanted {
        what: "`latency`, 1 connection, busy, p50",
        entry: "latency-1",
        case: "",
        read: |case| Some(case.detail("throng", "p50_us")? / case.detail("tokio-echo", "p50_us")?),
        bound: AtMost(0.25),
        unit: Times("tokio's with a spinning client"),
    },
    Wanted {
        what: "`latency`, 1 connection, busy, p99",
        entry: "latency-1",
        case: "",
        read: |case| Some(case.detail("throng", "p99_us")? / case.detail("tokio-echo", "p99_us")?),
        bound: AtMost(0.25),
        unit: Times("tokio's with a spinning client"),
    },
    Wanted {
        what: "`latency`, 1 connection, busy, p50",
        entry: "latency-1",
        case: "",
        read: |case| {
            Some(case.detail("throng", "p50_us")? / case.detail("spinning-echo", "p50_us")?)
        },
        bound: Below(1.0),
        unit: Times("the kernel's with both ends spinning"),
    },
    Wanted {
        what: "`latency`, 1 connection, busy, p99",
        entry: "latency-1",
        case: "",
        read: |case| {
            Some(case.detail("throng", "p99_us")? / case.detail("spinning-echo", "p99_us")?)
        },
        bound: Below(1.0),
        unit: Times("the kernel's with both ends spinning"),
    },
    Wanted {
        what: "`bulk`, 1 stream out, memif",
        entry: "bulk-1",
        case: "bulk-download",
        read: throng,
        bound: AtLeast(10.0),
        unit: Plain("Gbit/s a server core"),
    },
    Wanted {
        what: "`bulk`, 1 stream in, memif",
        entry: "bulk-1",
        case: "bulk-upload",
        read: throng,
        bound: AtLeast(10.0),
        unit: Plain("Gbit/s a server core"),
    },
    Wanted {
        what: "engine alone, an echoed segment, 1,000,000 random connections",
        entry: "engine-1000000",
        case: "with the next",
        read: throng,
        bound: AtMost(150.0),
        unit: Plain("ns"),
    },
    Wanted {
        what: "engine alone, an echoed segment, 1,000 connections",
        entry: "engine-1000",
        case: "with the next",
        read: throng,
        bound: AtMost(50.0),
        unit: Plain("ns"),
    },
    Wanted {
        what: "`scaling`, 2 shards, 1,000 connections",
        entry: "scaling-1000",
        case: "",
        read: |case| case.number("/times_one_shard"),
        bound: AtLeast(1.8),
        unit: Times("1 shard"),
    },
    Wanted {
        what: "`lb`, balancer on a device, 64 connections",
        entry: "lb-64",
        case: "",
        read: |case| case.number("/ratio_on_device"),
        bound: AtLeast(3.0),
        unit: Times("the faster of nginx and HAProxy"),
    },
    Wanted {
        what: "`lb`, balancer on the kernel, 64 connections",
        entry: "lb-64",
        case: "",
        read: |case| case.number("/ratio_on_kernel"),
        bound: AtLeast(1.0),
        unit: Times("the faster of nginx and HAProxy"),
    },
    Wanted {
        what: "`lb`, balancer on a device, 512 connections",
        entry: "lb-512",
        case: "",
        read: |case| case.number("/ratio_on_device"),
        bound: AtLeast(3.0),
        unit: Times("the faster of nginx and HAProxy"),
    },
    Wanted {
        what: "`lb`, balancer on the kernel, 512 connections",
        entry: "lb-512",
        case: "",
        read: |case| case.number("/ratio_on_kernel"),
        bound: AtLeast(1.0),
        unit: Times("the faster of nginx and HAProxy"),
    },
    Wanted {
        what: "`idle-ws`, 1,000,000 connections",
        entry: "idle-ws-1000000",
        case: "",
        read: throng,
        bound: AtMost(600.0),
        unit: Plain("bytes each, all counted"),
    },
    Wanted {
        what: "`upgrade-rate`",
        entry: "upgrade-rate",
        case: "",
        read: |case| case.ratio_to("tungstenite"),
        bound: AtLeast(5.0),
        unit: Times("tokio-tungstenite, small buffers"),
    },
    Wanted {
        what: "`ws-echo`, 1,000 connections",
        entry: "ws-echo-1000",
        case: "",
        read: |case| case.ratio_to("tungstenite"),
        bound: AtLeast(5.0),
        unit: Times("tokio-tungstenite, small buffers"),
    },
    Wanted {
        what: "`ws-echo`, 1,000,000 connections, random",
        entry: "ws-echo-1000000",
        case: "",
        read: throng,
        bound: AtLeast(1_000_000.0),
        unit: Plain("messages/s on one core"),
    },
    Wanted {
        what: "`ramp`, 99.9 % of the echoes while a million open, memory preallocated",
        entry: "ramp",
        case: "",
        read: throng,
        bound: AtMost(5_000.0),
        unit: Micros,
    },
    Wanted {
        what: "`ramp`, longest stage of the loop meanwhile, memory preallocated",
        entry: "ramp",
        case: "",
        read: |case| case.number("/longest_stage_us"),
        bound: AtMost(1_000.0),
        unit: Micros,
    },
    Wanted {
        what: "`ramp`, 99.9 % of the echoes, memory as it is needed",
        entry: "ramp",
        case: "",
        read: |case| case.number("/plain/p999_us"),
        bound: AtMost(5_000.0),
        unit: Micros,
    },
    Wanted {
        what: "`ramp`, longest stage of the loop, memory as it is needed",
        entry: "ramp",
        case: "",
        read: |case| case.number("/plain/longest_stage_us"),
        bound: AtMost(1_000.0),
        unit: Micros,
    },
    Wanted {
        what: "`idle`, waking at the median, the slowest device but net_tap",
        entry: "idle",
        case: "",
        read: throng,
        bound: AtMost(100.0),
        unit: Micros,
    },
    Wanted {
        what: "`idle`, a core's time without traffic, the most of any device",
        entry: "idle",
        case: "",
        read: |case| {
            let devices = case.0["devices"].as_array()?.iter();
            devices.filter_map(|device| device["cpu_percent"].as_f64()).reduce(f64::max)
        },
        bound: AtMost(5.0),
        unit: Plain("%"),
    },
];

impl Wanted {
    /// Where it is written where the time of its bench goes, and what would be next.
    fn why(&self) -> String {
        let entry = PLAN.iter().find(|entry| entry.name == self.entry);
        format!("PROFILES.md#{}", entry.map_or(self.entry, |entry| entry.bench))
    }

    fn case<'a>(&self, results: &'a Results) -> Option<Case<'a>> {
        let is_it = |case: &Case<'_>| {
            let acknowledged = case.text("/params/acknowledged");
            self.case.is_empty() || case.bench() == self.case || acknowledged == Some(self.case)
        };
        results.cases(self.entry).into_iter().find(is_it)
    }

    fn row(&self, results: &Results) -> String {
        let (sign, most) = match self.bound {
            AtLeast(value) => (">=", value),
            AtMost(value) => ("<=", value),
            Below(value) => ("<", value),
        };
        let wanted = self.said(most);
        let case = self.case(results);
        let reached = case.and_then(|case| (self.read)(case)).filter(|value| value.is_finite());
        let (reached, answer) = match (case, reached) {
            (Some(case), Some(value)) => {
                let noisy =
                    if case.noisy() { ", but the machine was too noisy to say" } else { "" };
                let answer = match self.bound.holds(value) {
                    true => format!("yes{noisy}"),
                    false => format!("no ([why]({})){noisy}", self.why()),
                };
                (self.said(value), answer)
            }
            _ => ("not measured".to_owned(), String::new()),
        };
        format!("| {} | {sign} {wanted} | {reached} | {answer} |\n", self.what)
    }

    fn said(&self, value: f64) -> String {
        match self.unit {
            Times(of) => format!("{} x {of}", figure(value)),
            Plain(of) if of.starts_with('/') => format!("{}{of}", figure(value)),
            Plain(of) => format!("{} {of}", figure(value)),
            Micros => micros(value),
        }
    }
}

impl Bound {
    fn holds(self, value: f64) -> bool {
        match self {
            AtLeast(least) => value >= least,
            AtMost(most) => value <= most,
            Below(most) => value < most,
        }
    }
}

/// The table of all.
pub(crate) fn table(results: &Results) -> String {
    let head = "| bench | wanted | reached | |\n|---|---|---|---|\n".to_owned();
    WANTED.iter().fold(head, |text, wanted| text + &wanted.row(results))
}

/// What the table links to, so that a test sees whether it is there.
#[cfg(test)]
pub(crate) fn links() -> impl Iterator<Item = String> {
    WANTED.iter().map(Wanted::why)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::results::tests::kept;
    use super::*;

    fn row(results: &Results, what: &str) -> String {
        let found = WANTED.iter().find(|wanted| wanted.what.contains(what));
        found.expect("a row").row(results)
    }

    #[test]
    fn yes_no_noisy_and_missing_are_told_apart() {
        let mut results = Results::default();
        assert!(row(&results, "connect-rate").ends_with("| not measured |  |\n"));
        let mut reached = |value: f64, noisy: bool| {
            let found = json!({ "bench": "connect-rate", "throng": value, "noisy": noisy });
            results.insert("connect-rate", kept(found));
            row(&results, "connect-rate")
        };
        let text = reached(400_000.0, false);
        assert!(
            text.ends_with(">= 400,000/s on one core | 400,000/s on one core | yes |\n"),
            "{text}"
        );
        assert!(reached(399_999.0, false).contains("no ([why](PROFILES.md#"));
        assert!(
            reached(500_000.0, true).ends_with("| yes, but the machine was too noisy to say |\n")
        );
        assert!(reached(f64::NAN, false).contains("not measured"));
    }

    #[test]
    fn the_case_that_is_meant_counts() {
        let mut results = Results::default();
        let case = |acknowledged: &str, ns: f64| json!({ "bench": "engine", "throng": ns, "params": { "acknowledged": acknowledged } });
        let cases = json!([case("at once", 40.0), case("with the next", 60.0)]);
        results.insert("engine-1000", kept(json!({ "cases": cases })));
        assert!(row(&results, "an echoed segment, 1,000 connections").contains("| 60 ns | no"));
        let latency = json!({ "bench": "latency", "throng": 5.0, "details": {
            "throng": { "p50_us": 5.0 }, "tokio-echo": { "p50_us": 20.0 },
        } });
        results.insert("latency-1", kept(latency));
        assert!(
            row(&results, "busy, p50").contains("| 0.250 x tokio's with a spinning client | yes |")
        );
    }

    #[test]
    fn what_is_wanted_is_measured() {
        for wanted in WANTED {
            let planned = PLAN.iter().any(|entry| entry.name == wanted.entry);
            assert!(planned, "{}", wanted.entry);
        }
    }
}
