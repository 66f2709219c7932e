//! Which plots are made of the results.

use super::charts::{Axis, Bar, Bars, Group, Kind, Lines, Series, micros, short, times};
use super::plan::{Entry, PLAN};
use super::results::{Case, KINDS, Results, rank, shown};

/// All plots: the file's name without its ending, and its text.
pub(crate) fn all(results: &Results) -> Vec<(&'static str, String)> {
    vec![
        ("ratios", ratios(results).draw()),
        ("rates", rates(results).draw()),
        ("echo", echo(results).draw()),
        ("latency-1", latency(results, "latency-1", "one connection").draw()),
        (
            "latency-1000",
            latency(results, "latency-1000", "1,000 connections, half of tokio's load").draw(),
        ),
        ("ramp", ramp(results).draw()),
        ("memory", memory(results).draw()),
    ]
}

/// A comparison as a group of bars.
struct Compared {
    label: &'static str,
    entry: &'static str,
    /// Which of the result's cases; empty: the first.
    bench: &'static str,
    /// Times, bytes: the fewer the better.
    less: bool,
    /// How many times better than any peer it is to be.
    wanted: Option<f64>,
}

const fn more(label: &'static str, entry: &'static str, wanted: Option<f64>) -> Compared {
    Compared { label, entry, bench: "", less: false, wanted }
}

const COMPARED: &[Compared] = &[
    more("HTTP, 64 connections", "http-64", Some(4.0)),
    more("HTTP, 4,096 connections", "http-4096", Some(4.0)),
    more("HTTP, a connection each", "http-close", Some(8.0)),
    more("echo, 1,000 connections", "echo-1000", Some(8.0)),
    more("connections accepted", "connect-rate", None),
    more("WebSocket echo, 1,000", "ws-echo-1000", Some(5.0)),
    more("WebSocket upgrades", "upgrade-rate", Some(5.0)),
    more("broadcast, 10,000", "broadcast-10000", None),
    more("balancer, 64 connections", "lb-64", Some(3.0)),
    more("balancer, 512 connections", "lb-512", Some(3.0)),
    Compared { bench: "bulk-download", ..more("bulk out, one stream", "bulk-1", None) },
    Compared { bench: "bulk-upload", ..more("bulk in, one stream", "bulk-1", None) },
    Compared { less: true, ..more("round trip, one connection", "latency-1", Some(4.0)) },
    Compared { less: true, ..more("memory, idle WebSocket", "idle-ws-100000", None) },
    Compared { less: true, ..more("memory, idle HTTP", "idle-http-100000", None) },
];

impl Compared {
    fn case<'a>(&self, results: &'a Results) -> Option<Case<'a>> {
        let wanted = |case: &Case<'_>| self.bench.is_empty() || case.bench() == self.bench;
        results.cases(self.entry).into_iter().find(wanted)
    }

    fn group(&self, results: &Results, bars: impl Fn(Case<'_>) -> Vec<Bar>) -> Group {
        let mut bars = self.case(results).map(bars).unwrap_or_default();
        if bars.is_empty() {
            bars.push(Bar { name: self.entry.to_owned(), kind: 0, value: None, noisy: false });
        }
        Group { label: self.label.to_owned(), bars, wanted: None }
    }
}

fn ratios(results: &Results) -> Bars {
    let group = |compared: &Compared| {
        let bars = |case: Case<'_>| {
            let bar = |peer: &str| {
                let ratio = case.ratio_to(peer);
                let ratio = if compared.less { ratio.map(|ratio| 1.0 / ratio) } else { ratio };
                Bar::of(peer, rank(peer), ratio, case.noisy())
            };
            case.peers().into_iter().map(bar).collect()
        };
        Group { wanted: compared.wanted, ..compared.group(results, bars) }
    };
    Bars {
        title: "How many times better Throng is than each peer".into(),
        axis: "times as fast, or as small, as the peer; 1: the same".into(),
        groups: COMPARED.iter().map(group).collect(),
        kind: Kind::Ratios,
        format: times,
    }
}

fn rates(results: &Results) -> Bars {
    let counted = |compared: &&Compared| !compared.less && compared.bench.is_empty();
    let group = |compared: &Compared| {
        let bars = |case: Case<'_>| {
            let subjects = std::iter::once("throng").chain(case.peers());
            let bar = |name| Bar::of(name, rank(name), figure(case, name), case.noisy());
            subjects.map(bar).collect()
        };
        compared.group(results, bars)
    };
    Bars {
        title: "Operations per second".into(),
        axis: "per second of Throng's core, or of the peer's CPU time".into(),
        groups: COMPARED.iter().filter(counted).map(group).collect(),
        kind: Kind::Amounts,
        format: short,
    }
}

/// What a subject of a case reached.
fn figure(case: Case<'_>, subject: &str) -> Option<f64> {
    if subject == "throng" { case.throng() } else { case.peer(subject) }
}

fn plan_of(bench: &str) -> impl Iterator<Item = &Entry> {
    PLAN.iter().filter(move |entry| entry.bench == bench)
}

/// A line for each subject over the results of a bench, which differ in their connections. A subject has
/// as many connections as `connections` says.
fn by_connections(
    results: &Results,
    bench: &str,
    connections: fn(Case<'_>, &str) -> Option<f64>,
    named: impl Fn(&str) -> String,
) -> (Vec<Series>, Vec<String>) {
    let mut series: Vec<(&str, Series)> = Vec::new();
    let mut missing = Vec::new();
    for entry in plan_of(bench) {
        let Some(case) = results.case(entry.name) else {
            missing.push(format!("{}: not measured", entry.name));
            continue;
        };
        for subject in std::iter::once("throng").chain(case.peers()) {
            let point = connections(case, subject).zip(figure(case, subject));
            let Some((x, y)) = point.filter(|(x, y)| x.is_finite() && *y > 0.0) else {
                missing.push(format!("{}, {}: not measured", entry.name, shown(subject)));
                continue;
            };
            let point = ([x, y], case.noisy());
            match series.iter_mut().find(|(name, _)| *name == subject) {
                Some((_, series)) => series.points.push(point),
                None => {
                    let kind = rank(subject);
                    series.push((
                        subject,
                        Series { name: named(subject), kind, points: vec![point] },
                    ));
                }
            }
        }
    }
    let order = |of: &(&str, Series)| (of.1.kind, of.1.name.clone());
    series.sort_by_key(order);
    let mut series: Vec<Series> = series.into_iter().map(|(_, series)| series).collect();
    for one in &mut series {
        one.points.sort_by(|a, b| f64::total_cmp(&a.0[0], &b.0[0]));
    }
    (series, missing)
}

fn connections_axis() -> Axis {
    Axis { label: "connections".into(), log: true, format: short, ticks: None }
}

fn echo(results: &Results) -> Lines {
    let connections = |case: Case<'_>, subject: &str| match subject {
        "throng" => case.number("/params/connections"),
        _ => case.number("/params/peers_connections").or(case.number("/params/connections")),
    };
    let (series, notes) = by_connections(results, "echo", connections, |name| shown(name).into());
    Lines {
        title: "Echoes of 64 bytes against connections".into(),
        x: connections_axis(),
        y: Axis {
            label: "messages per second of core, or CPU time".into(),
            log: false,
            format: short,
            ticks: None,
        },
        series,
        wanted: vec![(1_500_000.0, "wanted at 1,000,000 connections: 1.5M".into())],
        notes,
    }
}

fn memory(results: &Results) -> Lines {
    let connections = |case: Case<'_>, subject: &str| match subject {
        "throng" => case.number("/connections").or(case.number("/params/connections")),
        _ => case.detail(subject, "connections"),
    };
    let (mut series, mut notes) = (Vec::new(), Vec::new());
    // Benches of memory beside this one have the same form; each has a name of its own in the legend.
    let benches = [("idle-ws", "WebSocket"), ("idle-http", "HTTP")];
    for (i, (bench, what)) in benches.into_iter().enumerate() {
        let named = |name: &str| format!("{what}: {}", shown(name));
        let (mut of_bench, missing) = by_connections(results, bench, connections, named);
        // The second's colours and shapes are others than the first's.
        for one in of_bench.iter_mut().filter(|_| i > 0) {
            one.kind = if one.kind == 0 { KINDS - 1 } else { (one.kind + 1).min(KINDS - 2) };
        }
        series.extend(of_bench);
        notes.extend(missing);
    }
    Lines {
        title: "Memory of an idle connection against connections".into(),
        x: connections_axis(),
        y: Axis {
            label: "bytes each, the kernel's included".into(),
            log: true,
            format: short,
            ticks: None,
        },
        series,
        wanted: vec![(600.0, "wanted: at most 600 a WebSocket".into())],
        notes,
    }
}

/// The percentiles that are said of latencies: keys, names, and places, which are nines.
const PERCENTILES: [(&str, &str, f64); 5] = [
    ("p50_us", "50 %", 0.3),
    ("p90_us", "90 %", 1.0),
    ("p99_us", "99 %", 2.0),
    ("p999_us", "99.9 %", 3.0),
    ("p9999_us", "99.99 %", 4.0),
];

fn latency(results: &Results, entry: &'static str, what: &str) -> Lines {
    let curve = |case: Option<Case<'_>>, subject: &str, name: String, kind: usize| {
        let point = |(key, _, place): &(&str, &str, f64)| {
            let case = case?;
            Some(([*place, case.detail(subject, key)?], case.noisy()))
        };
        Series { name, kind, points: PERCENTILES.iter().filter_map(point).collect() }
    };
    let adaptive = format!("{entry}-adaptive");
    let (busy, sleeping) = (results.case(entry), results.case(&adaptive));
    let mut series = vec![
        curve(busy, "throng", "Throng, busy".into(), 0),
        curve(sleeping, "throng", "Throng, adaptive".into(), 4),
    ];
    for peer in busy.map(Case::peers).unwrap_or_default() {
        series.push(curve(busy, peer, shown(peer).into(), rank(peer)));
    }
    let ticks = PERCENTILES.iter().map(|(_, name, place)| (*place, (*name).to_owned()));
    Lines {
        title: format!("Round trips of 64 bytes, {what}"),
        x: Axis {
            label: "so many of the messages are back within".into(),
            log: false,
            format: short,
            ticks: Some(ticks.collect()),
        },
        y: Axis { label: "time".into(), log: true, format: micros, ticks: None },
        series,
        wanted: Vec::new(),
        notes: Vec::new(),
    }
}

/// The middle one of a figure of all rounds.
fn of_rounds(case: Case<'_>, pointer: &str) -> Option<f64> {
    let rounds = case.0["rounds"].as_array()?;
    let mut all: Vec<f64> =
        rounds.iter().filter_map(|round| round.pointer(pointer)?.as_f64()).collect();
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied()
}

fn ramp(results: &Results) -> Bars {
    let case = results.case("ramp");
    let noisy = case.is_some_and(|case| case.noisy());
    let group = |(label, key, wanted): (&str, &str, Option<f64>)| {
        let bar = |(when, name, kind): (&str, &str, usize)| {
            let value = case.and_then(|case| {
                let own =
                    if when == "meanwhile" { key.to_owned() } else { format!("{key}_{when}") };
                of_rounds(case, &format!("/{when}/{key}")).or(case.number(&format!("/{own}")))
            });
            Bar { name: name.to_owned(), kind, value, noisy }
        };
        let bars = [("meanwhile", "while all open", 0), ("after", "in the 3 s after", 6)];
        Group { label: label.to_owned(), bars: bars.into_iter().map(bar).collect(), wanted }
    };
    let percentiles = [
        ("half of the echoes", "p50_us", None),
        ("99 % of the echoes", "p99_us", None),
        ("99.9 % of the echoes", "p999_us", Some(5_000.0)),
        ("all of the echoes", "max_us", None),
    ];
    let mut groups: Vec<Group> = percentiles.into_iter().map(group).collect();
    let stage = Bar {
        name: case.and_then(|case| case.text("/longest_stage")).unwrap_or("stage").to_owned(),
        kind: 0,
        value: case.and_then(|case| case.number("/longest_stage_us")),
        noisy,
    };
    let label = "longest stage of the loop".to_owned();
    groups.push(Group { label, bars: vec![stage], wanted: Some(1_000.0) });
    Bars {
        title: "While a million WebSockets open, memory preallocated".into(),
        axis: "time, from when a message was due".into(),
        groups,
        kind: Kind::Points,
        format: micros,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::results::tests::kept;
    use super::*;

    #[test]
    fn without_results_every_plot_says_so() {
        for (name, text) in all(&Results::default()) {
            assert!(text.contains("not measured"), "{name}");
            assert!(!text.contains("NaN") && !text.contains("inf"), "{name}");
        }
    }

    #[test]
    fn plots_have_what_was_measured() {
        let mut results = Results::default();
        let found = json!({
            "bench": "latency", "throng": 5.0, "noisy": false, "peers": { "tokio-echo": 20.0 },
            "details": {
                "throng": { "p50_us": 5.0, "p99_us": 9.0 },
                "tokio-echo": { "p50_us": 20.0, "p99_us": 2_000.0 },
            },
        });
        results.insert("latency-1", kept(found));
        let bars = ratios(&results);
        let group = bars.groups.iter().find(|group| group.label.starts_with("round trip")).unwrap();
        assert_eq!((group.bars[0].value, group.wanted), (Some(4.0), Some(4.0)), "less is better");
        let curves = latency(&results, "latency-1", "");
        let points: Vec<usize> = curves.series.iter().map(|series| series.points.len()).collect();
        assert_eq!(points, [2, 0, 2], "busy, adaptive, tokio");
        let echo_at = |connections: u64, throng: f64| {
            kept(json!({
                "bench": "echo", "throng": throng, "noisy": throng < 5.0, "peers": {},
                "params": { "connections": connections },
            }))
        };
        results.insert("echo-1000000", echo_at(1_000_000, 9.0));
        results.insert("echo-1", echo_at(1, 4.0));
        let lines = echo(&results);
        assert_eq!(lines.series[0].points, [([1.0, 4.0], true), ([1e6, 9.0], false)]);
        assert_eq!(lines.notes, ["echo-1000: not measured", "echo-100000: not measured"]);
        let ramped = kept(json!({
            "bench": "ramp", "throng": 3.0, "p999_us_after": 8.0, "longest_stage": "tasks",
            "longest_stage_us": 70.0, "rounds": [{ "meanwhile": { "p999_us": 6.0 } }],
        }));
        results.insert("ramp", ramped);
        let values = |group: &Group| group.bars.iter().map(|bar| bar.value).collect::<Vec<_>>();
        let groups = ramp(&results).groups;
        assert_eq!(values(&groups[2]), [Some(6.0), Some(8.0)]);
        assert_eq!(values(&groups[4]), [Some(70.0)]);
    }
}
