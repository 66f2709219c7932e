//! The numbers in Prometheus' text format.

use std::fmt::{Display, Write};
use std::sync::atomic::Ordering::Relaxed;

use super::state::{ServerState, ShardState, dropped};
use crate::histogram::Histogram;
use crate::reload;
use crate::shard::Counts;

pub(super) const KIND: &str = "text/plain; version=0.0.4; charset=utf-8";

/// One family of Prometheus' text format.
struct Family<'t> {
    text: &'t mut String,
    name: &'static str,
}

impl<'t> Family<'t> {
    fn new(text: &'t mut String, name: &'static str, kind: &str, help: &str) -> Family<'t> {
        // Writing to a string does not fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        Family { text, name }
    }

    fn value(&mut self, labels: &str, value: impl Display) {
        let name = self.name;
        let _ = match labels.is_empty() {
            true => writeln!(self.text, "{name} {value}"),
            false => writeln!(self.text, "{name}{{{labels}}} {value}"),
        };
    }
}

type OfShard = (&'static str, &'static str, fn(&Counts) -> u64);
type OfServer = (&'static str, &'static str, &'static str, fn(&ServerState) -> f64);

const OF_SHARD: [OfShard; 8] = [
    ("throng_lb_unannounced_total", "Connections without their PROXY header.", |c| c.unannounced),
    ("throng_lb_responses_total", "Responses begun.", |c| c.responses),
    ("throng_lb_refused_total", "Requests refused by the balancer itself.", |c| c.refused),
    ("throng_lb_unanswered_total", "Requests that no server answered properly.", |c| c.unanswered),
    ("throng_lb_direct_total", "Plain requests that went without hyper.", |c| c.direct),
    ("throng_lb_retries_total", "Requests sent to another server.", |c| c.retries),
    ("throng_lb_passed_total", "Connections passed on as they are.", |c| c.passed),
    ("throng_lb_tunnels_total", "Connections upgraded.", |c| c.tunnels),
];

const OF_SERVER: [OfServer; 7] = [
    ("throng_lb_server_up", "gauge", "What the active checks say.", |s| f64::from(s.up)),
    ("throng_lb_server_ejected", "gauge", "Whether failures have ejected it.", |s| {
        f64::from(s.ejected)
    }),
    ("throng_lb_server_drained", "gauge", "Whether the operator has drained it.", |s| {
        f64::from(s.drained)
    }),
    ("throng_lb_server_in_flight", "gauge", "Requests it has now.", |s| f64::from(s.in_flight)),
    (
        "throng_lb_server_latency_seconds",
        "gauge",
        "Its usual time to the head of a response.",
        |s| s.latency,
    ),
    ("throng_lb_server_requests_total", "counter", "Requests sent to it.", |s| {
        s.counts.requests as f64
    }),
    (
        "throng_lb_server_failures_total",
        "counter",
        "Requests it gave no proper response to.",
        |s| s.counts.failures as f64,
    ),
];

pub(super) fn metrics(states: &[ShardState]) -> String {
    let mut text = String::new();
    for (name, help, of) in OF_SHARD {
        let mut family = Family::new(&mut text, name, "counter", help);
        for state in states {
            family.value(&format!("shard=\"{}\"", state.shard), of(&state.counts));
        }
    }
    let upstreams = || {
        states.iter().flat_map(|state| {
            state.upstreams.iter().map(move |upstream| {
                let name =
                    upstream.name.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
                (upstream, format!("shard=\"{}\",upstream=\"{name}\"", state.shard))
            })
        })
    };
    let mut family =
        Family::new(&mut text, "throng_lb_waiting", "gauge", "Requests that wait for a server.");
    for (upstream, labels) in upstreams() {
        family.value(&labels, upstream.waiting);
    }
    for (name, kind, help, of) in OF_SERVER {
        let mut family = Family::new(&mut text, name, kind, help);
        for (upstream, labels) in upstreams() {
            for server in &upstream.servers {
                family.value(&format!("{labels},server=\"{}\"", server.address), of(server));
            }
        }
    }
    let help = "Responses of a server, by the hundred of their status.";
    let mut family = Family::new(&mut text, "throng_lb_server_responses_total", "counter", help);
    for (upstream, labels) in upstreams() {
        for server in &upstream.servers {
            for (class, count) in (2..).zip(server.counts.responses) {
                let labels = format!("{labels},server=\"{}\",class=\"{class}xx\"", server.address);
                family.value(&labels, count);
            }
        }
    }
    let help = "Times to the head of a response.";
    let name = "throng_lb_server_response_seconds";
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} histogram");
    for (upstream, labels) in upstreams() {
        for server in &upstream.servers {
            let labels = format!("{labels},server=\"{}\"", server.address);
            let bounds = Histogram::bounds().map(|bound| bound.to_string());
            let bounds = bounds.into_iter().chain(["+Inf".to_owned()]);
            let mut count = 0;
            for (bound, more) in bounds.zip(server.latencies) {
                count += more;
                let _ = writeln!(text, "{name}_bucket{{{labels},le=\"{bound}\"}} {count}");
            }
            let _ = writeln!(text, "{name}_sum{{{labels}}} {}", server.latency_sum);
            let _ = writeln!(text, "{name}_count{{{labels}}} {count}");
        }
    }
    for (name, help, value) in [
        ("throng_lb_reloads_total", "Reloads that took force.", reload::DONE.load(Relaxed)),
        ("throng_lb_reloads_refused_total", "Reloads refused.", reload::REFUSED.load(Relaxed)),
        ("throng_lb_log_dropped_total", "Lines the access log dropped.", dropped()),
    ] {
        Family::new(&mut text, name, "counter", help).value("", value);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With its name, and what Prometheus' server is told it is.
    #[test]
    fn the_readme_names_every_metric() {
        let readme = include_str!("../../README.md");
        let text = metrics(&[]);
        let families = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        let mut count = 0;
        for family in families {
            let (name, kind) = family.split_once(' ').unwrap();
            let row = format!("| `{name}` | {kind} |");
            assert!(readme.contains(&row), "README.md has no row that begins with {row}");
            count += 1;
        }
        assert_eq!(readme.matches("\n| `throng_lb_").count(), count, "a metric that is none");
    }
}
