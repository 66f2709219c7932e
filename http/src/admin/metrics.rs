//! Sheets of numbers as text and as JSON.

use std::fmt::Write;
use std::io;

use serde_json::{Map, Value, json};
use throng_net::ShardId;
use throng_net::stats::Sheet;
use throng_runtime::metrics::{Kind, Metric};

/// Prometheus' text format, version 0.0.4.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The name of a metric in Prometheus: counters end in `_total`.
fn name(group: &str, metric: &Metric) -> String {
    let suffix = if metric.kind == Kind::Gauge { "" } else { "_total" };
    format!("throng_{group}_{}{suffix}", metric.name)
}

fn kind(metric: &Metric) -> &'static str {
    match metric.kind {
        Kind::Counter | Kind::Limit => "counter",
        Kind::Gauge => "gauge",
    }
}

/// All of it, each family's lines together, as the format demands.
pub(super) fn prometheus(sheets: &[(ShardId, io::Result<Sheet>)]) -> String {
    let mut families: Vec<(&'static str, &'static Metric, String)> = Vec::new();
    let mut port = String::new();
    let mut up = String::new();
    for (shard, sheet) in sheets {
        // Writing to a string does not fail.
        let _ = writeln!(up, "throng_shard_up{{shard=\"{shard}\"}} {}", u8::from(sheet.is_ok()));
        let Ok(sheet) = sheet else { continue };
        for group in &sheet.groups {
            for (metric, value) in &group.values {
                let known = families
                    .iter()
                    .position(|(name, known, _)| *name == group.name && known.name == metric.name);
                let at = known.unwrap_or_else(|| {
                    families.push((group.name, metric, String::new()));
                    families.len() - 1
                });
                let name = name(group.name, metric);
                let _ = writeln!(families[at].2, "{name}{{shard=\"{shard}\"}} {value}");
            }
        }
        for (name, value) in &sheet.port {
            let name = name.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = writeln!(
                port,
                "throng_port_statistic{{shard=\"{shard}\",name=\"{name}\"}} {value}"
            );
        }
    }
    let mut text = String::new();
    let mut family = |name: &str, kind: &str, help: &str, lines: &str| {
        if !lines.is_empty() {
            let help = help.replace('\\', "\\\\").replace('\n', "\\n");
            let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{lines}");
        }
    };
    family("throng_shard_up", "gauge", "Whether the shard answers.", &up);
    for (group, metric, lines) in &families {
        family(&name(group, metric), kind(metric), metric.help, lines);
    }
    let help = "What the driver of a port counts, under its own names; told by one shard.";
    family("throng_port_statistic", "untyped", help, &port);
    text
}

/// The same, a shard after the other.
pub(super) fn json(sheets: &[(ShardId, io::Result<Sheet>)]) -> Value {
    let shards: Vec<Value> = sheets
        .iter()
        .map(|(shard, sheet)| {
            let sheet = match sheet {
                Ok(sheet) => sheet,
                Err(error) => return json!({ "shard": shard.0, "error": error.to_string() }),
            };
            let mut object = Map::new();
            object.insert("shard".into(), shard.0.into());
            for group in &sheet.groups {
                let values = group.values.iter();
                let values = values.map(|(metric, value)| (metric.name.into(), (*value).into()));
                object.insert(group.name.into(), Value::Object(values.collect()));
            }
            if !sheet.port.is_empty() {
                let port = sheet.port.iter().map(|(name, value)| (name.clone(), (*value).into()));
                object.insert("port".into(), Value::Object(port.collect()));
            }
            Value::Object(object)
        })
        .collect();
    json!({ "shards": shards })
}

/// A group's numbers as `docs/METRICS.md` has them: a section of Markdown with a table.
pub(super) fn documented(group: &str, tables: &[&[Metric]]) -> String {
    let mut text = format!("\n## {group}\n\n| name | kind | |\n|---|---|---|\n");
    for metric in tables.iter().copied().flatten() {
        let kind = if metric.kind == Kind::Limit { "limit" } else { kind(metric) };
        // Writing to a string does not fail.
        let _ = writeln!(text, "| `{}` | {kind} | {} |", name(group, metric), metric.help);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Counters;
    use throng_net::stats::GROUPS;

    /// `docs/METRICS.md` is made here: `UPDATE_METRICS=1 cargo test -p throng-http --lib metrics`;
    /// but for what begins with the topics, which throng-ws adds.
    #[test]
    fn the_documentation_names_every_number() {
        let own: (&str, &[&[Metric]]) = ("http", &[Counters::METRICS]);
        let mut page = String::from(
            "# Metrics\n\n\
             What `GET /metrics` of the operator's endpoint shows of each shard (label `shard`),\n\
             and `GET /stats.json` under group and name. This page is made from the code:\n\
             `UPDATE_METRICS=1 cargo test -p throng-http --lib metrics`, and for the topics\n\
             `UPDATE_METRICS=1 cargo test -p throng-ws --test topics metrics`.\n\n\
             A *limit* counts what a bound has refused, dropped or put off: its growth is worth\n\
             an alert. `throng_shard_up` is 0 for a shard that does not answer;\n\
             `throng_port_statistic` has what a DPDK driver counts, by its label `name`.\n",
        );
        let counters = throng_net::proxy_protocol::Counters::METRICS;
        let proxy: (&str, &[&[Metric]]) = ("proxy_protocol", &[counters]);
        for (group, tables) in GROUPS.iter().chain([&own, &proxy]) {
            page += &documented(group, tables);
        }
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/METRICS.md");
        let found = std::fs::read_to_string(path).unwrap_or_default();
        let (found, rest) = found.split_at(found.find("\n## topics\n").unwrap_or(found.len()));
        if std::env::var_os("UPDATE_METRICS").is_some() {
            return std::fs::write(path, page + rest).unwrap();
        }
        assert!(
            found == page,
            "docs/METRICS.md is not what the code says: see this test's comment"
        );
    }
}
