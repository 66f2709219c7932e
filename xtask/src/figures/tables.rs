//! Results as tables in Markdown.

use std::collections::BTreeMap;

use serde_json::Value;

use super::charts::micros;
use super::plan::{Entry, PLAN};
use super::results::{Case, Kept, Results, shown};

/// The results of these benches, those of each with a table; what is planned and missing has a row, too.
pub(crate) fn of_benches(results: &Results, benches: &[&str]) -> String {
    let tables = benches.iter().map(|bench| of_bench(results, bench));
    tables.filter(|table| !table.is_empty()).collect::<Vec<_>>().join("\n")
}

fn of_bench(results: &Results, bench: &str) -> String {
    let entries: Vec<&Entry> = PLAN.iter().filter(|entry| entry.bench == bench).collect();
    let rows: Vec<(&str, Option<&Kept>)> =
        entries.iter().map(|entry| (entry.label, results.get(entry.name))).collect();
    comparison(bench, &rows)
}

/// Results of one bench as a table: a row a case, a column a subject.
fn comparison(bench: &str, rows: &[(&str, Option<&Kept>)]) -> String {
    // A result that is missing is a row without a case.
    let mut lines: Vec<(String, Option<Case<'_>>)> = Vec::new();
    for (label, kept) in rows {
        let Some(kept) = kept else {
            lines.push(((*label).to_owned(), None));
            continue;
        };
        let cases = kept.cases();
        let label = |case| format!("{label}{}", what_else(bench, case, &cases));
        lines.extend(cases.iter().map(|case| (label(*case), Some(*case))));
    }
    let cases: Vec<Case<'_>> = lines.iter().filter_map(|(_, case)| *case).collect();
    let mut peers: Vec<&str> = Vec::new();
    for case in &cases {
        for peer in case.peers() {
            if !peers.contains(&peer) {
                peers.push(peer);
            }
        }
    }
    if cases.is_empty() {
        let labels: Vec<&str> = rows.iter().map(|(label, _)| *label).collect();
        return match labels.is_empty() {
            true => String::new(),
            false => format!("`{bench}`: not measured ({}).\n", labels.join("; ")),
        };
    }
    let unit = cases.iter().find_map(|case| case.text("/unit")).unwrap_or("no unit said");
    let names: Vec<String> = peers.iter().map(|peer| format!(" {} |", shown(peer))).collect();
    let mut text = format!("`{bench}`, {unit}:\n\n| | Throng |{}", names.concat());
    text += if peers.is_empty() { " |\n" } else { " Throng to the best | |\n" };
    let columns = 3 + peers.len() + usize::from(!peers.is_empty());
    text += &format!("|{}\n", "---|".repeat(columns));
    for (label, case) in &lines {
        let Some(case) = case else {
            text += &format!("| {label} | not measured |{}\n", " |".repeat(columns - 2));
            continue;
        };
        text += &format!("| {label} | {} |", with_spread(*case));
        for peer in &peers {
            let there = case.0["peers"].get(peer).is_some();
            let failed = if there { "failed" } else { "" };
            text += &format!(" {} |", case.peer(peer).map_or(failed.to_owned(), figure));
        }
        if !peers.is_empty() {
            text += &format!(" {} |", best(*case));
        }
        text += &format!(" {} |\n", remarks(*case));
    }
    text
}

/// What tells a case from the others of its result.
fn what_else(bench: &str, case: Case<'_>, all: &[Case<'_>]) -> String {
    let mut text = String::new();
    if case.bench() != bench {
        let name = case.bench().strip_prefix(bench).unwrap_or(case.bench());
        text += &format!(", {}", name.trim_start_matches('-'));
    }
    for key in ["server", "burst", "acknowledged", "sockets", "size", "connections", "shards"] {
        let value = &case.0["params"][key];
        if value.is_null() || all.iter().all(|other| other.0["params"][key] == *value) {
            continue;
        }
        match (value.as_str(), value.as_f64()) {
            (Some(word), _) if key == "server" => text += &format!(", {word}"),
            (_, Some(number)) if key == "burst" => {
                text += &format!(", bursts of {}", figure(number));
            }
            (Some(words), _) => text += &format!(", {key} {words}"),
            (_, Some(number)) => text += &format!(", {} {key}", figure(number)),
            _ => {}
        }
    }
    text
}

fn with_spread(case: Case<'_>) -> String {
    let Some(throng) = case.throng() else { return "failed".to_owned() };
    match case.number("/spread") {
        Some(spread) if throng > 0.0 => {
            format!("{} ({:.0} %)", figure(throng), 100.0 * spread / throng)
        }
        _ => figure(throng),
    }
}

fn best(case: Case<'_>) -> String {
    let ratio = case.text("/best_peer").and_then(|best| case.ratio_to(best));
    match ratio {
        // Bytes and times: so many times less.
        Some(ratio) if ratio < 1.0 => format!("{} (1/{})", figure(ratio), figure(1.0 / ratio)),
        Some(ratio) => figure(ratio),
        None => String::new(),
    }
}

fn remarks(case: Case<'_>) -> String {
    let mut all = Vec::new();
    if case.noisy() {
        let others =
            case.number("/others").map(|share| format!(" ({:.0} % others)", 100.0 * share));
        all.push(format!("**noisy**{}", others.unwrap_or_default()));
    }
    if case.errors() > 0 {
        all.push(format!("{} errors", figure(case.errors() as f64)));
    }
    let details = case.0["details"].as_object().into_iter().flatten();
    all.extend(details.filter_map(|(subject, one)| {
        let lost = one["lost"].as_f64().filter(|lost| *lost > 0.0)?;
        Some(format!("{} lost {}", shown(subject), figure(lost)))
    }));
    let failures = case.0["failures"].as_array().into_iter().flatten();
    all.extend(failures.filter_map(|why| Some(format!("failed: {}", why.as_str()?))));
    if let Some(remark) = case.text("/remark") {
        all.push(remark.to_owned());
    }
    in_a_cell(&all.join("; "))
}

/// What a program has said, in one line of a table and as it was said.
fn in_a_cell(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.replace('|', "\\|").replace('<', "&lt;")
}

/// Percentiles of a bench whose operations are timed, a row a subject.
pub(crate) fn latency(results: &Results, bench: &str) -> String {
    let keys = ["p50_us", "p90_us", "p99_us", "p999_us", "p9999_us"];
    let mut text =
        "| | | 50 % | 90 % | 99 % | 99.9 % | 99.99 % | |\n|---|---|---|---|---|---|---|---|\n"
            .to_owned();
    for entry in PLAN.iter().filter(|entry| entry.bench == bench) {
        let Some(case) = results.case(entry.name) else {
            text += &format!("| {} | not measured | | | | | | |\n", entry.label);
            continue;
        };
        for subject in std::iter::once("throng").chain(case.peers()) {
            let times = keys.map(|key| match case.detail(subject, key) {
                Some(time) => format!(" {} |", micros(time)),
                None => " |".to_owned(),
            });
            let label = if subject == "throng" { entry.label } else { "" };
            let (name, remarks) = (shown(subject), remarks(case));
            text += &format!("| {label} | {name} |{} {remarks} |\n", times.concat());
        }
    }
    text
}

/// Where the bytes of an idle connection are, of the largest result of a bench.
pub(crate) fn breakdown(results: &Results, entry: &str) -> String {
    let Some(case) = results.case(entry) else { return String::new() };
    let mut text = String::new();
    if let Some(parts) = case.0["breakdown"].as_object().filter(|parts| !parts.is_empty()) {
        text += &format!("\nOf `{entry}`'s bytes:\n\n| part | bytes |\n|---|---|\n");
        let sorted: BTreeMap<&String, &Value> = parts.iter().collect();
        for (part, bytes) in sorted {
            let bytes = bytes.as_f64().unwrap_or(f64::NAN);
            text += &format!("| {part} | {bytes:.1} |\n");
        }
    }
    text
}

/// Whose the bytes of the peers' idle connections are.
pub(crate) fn of_peers(results: &Results, entry: &str) -> String {
    let Some(case) = results.case(entry) else { return String::new() };
    let of_peers: Vec<String> = case
        .peers()
        .into_iter()
        .filter_map(|peer| {
            let [own, kernel] = ["user", "kernel"].map(|key| case.detail(peer, key));
            let connections = case.detail(peer, "connections")?;
            let (name, own, kernel) = (shown(peer), figure(own?), figure(kernel?));
            Some(format!(
                "{name}, {} connections: {own} of its own, {kernel} of the kernel's",
                figure(connections)
            ))
        })
        .collect();
    match of_peers.is_empty() {
        true => String::new(),
        false => format!("\nIn `{entry}`: {}.\n", of_peers.join("; ")),
    }
}

/// Bytes by which servers grew while they broadcast.
pub(crate) fn growth(results: &Results) -> String {
    let mut text = String::new();
    for entry in PLAN.iter().filter(|entry| entry.bench == "broadcast") {
        let Some(case) = results.case(entry.name) else { continue };
        let connections = case.number("/params/connections");
        let grown = case.detail("throng", "memory_growth_bytes");
        if let (Some(grown), Some(connections)) = (grown, connections) {
            let each = figure(grown / connections);
            let mega = figure(grown / 1e6);
            text += &format!(
                "\nA broadcast to {} took {mega} MB of memory more at most, {each} bytes a connection.\n",
                figure(connections)
            );
        }
    }
    text
}

/// Instructions by event.
pub(crate) fn instructions(results: &Results) -> String {
    let counted = results.get("icount").and_then(|kept| kept.found["throng"].as_object());
    let Some(counted) = counted else { return "`icount`: not measured.\n".to_owned() };
    let sorted: BTreeMap<&String, &Value> = counted.iter().collect();
    let rows = sorted.into_iter().map(|(case, count)| {
        format!("| `{case}` | {} |\n", count.as_f64().map_or("failed".to_owned(), figure))
    });
    let head = "| event | instructions |\n|---|---|\n".to_owned();
    rows.fold(head, |text, row| text + &row)
}

/// What a server without traffic costs, by device.
pub(crate) fn idle(results: &Results) -> String {
    let devices = results.get("idle").and_then(|kept| kept.found["devices"].as_array());
    let Some(devices) = devices else { return "`idle`: not measured.\n".to_owned() };
    let head = "| device | % of a core | waking, p50 | p99 |\n|---|---|---|---|\n".to_owned();
    devices.iter().fold(head, |text, device| {
        let number = |key: &str| device[key].as_f64().unwrap_or(f64::NAN);
        let name = device["device"].as_str().unwrap_or("?");
        let name = name.split([',']).next().unwrap_or(name);
        let (cpu, p50, p99) = (number("cpu_percent"), number("wake_us_p50"), number("wake_us_p99"));
        text + &format!("| `{name}` | {cpu:.2} | {} | {} |\n", micros(p50), micros(p99))
    })
}

/// Results of benches that no other table has, each by itself.
pub(crate) fn others(results: &Results, elsewhere: &[&str]) -> String {
    let mut benches: Vec<&str> = Vec::new();
    for bench in PLAN.iter().map(|entry| entry.bench) {
        if !elsewhere.contains(&bench) && !benches.contains(&bench) {
            benches.push(bench);
        }
    }
    let mut text = of_benches(results, &benches);
    for (name, kept) in results.iter() {
        if !PLAN.iter().any(|entry| entry.name == name) {
            let bench = kept.found["bench"].as_str().unwrap_or(name);
            text += &format!("\n{}", comparison(bench, &[(name, Some(kept))]));
        }
    }
    text
}

/// When each was measured, of which commit, by which command.
pub(crate) fn commands(results: &Results) -> String {
    let mut text =
        "| result | when | commit | command | seconds |\n|---|---|---|---|---|\n".to_owned();
    let missing = PLAN.iter().filter(|entry| results.get(entry.name).is_none());
    for (name, kept) in results.iter() {
        let Kept { date, commit, command, took, .. } = kept;
        let took = took.map(|took| format!("{took:.0}")).unwrap_or_default();
        text += &format!("| `{name}` | {date} | {commit} | `{command}` | {took} |\n");
    }
    for entry in missing {
        text += &format!("| `{}` | not measured | | | |\n", entry.name);
    }
    text
}

/// On what it was measured: each machine with its versions, and which results it has.
pub(crate) fn machines(results: &Results) -> String {
    let mut all: BTreeMap<(String, String), Vec<&str>> = BTreeMap::new();
    for (name, kept) in results.iter() {
        let versions = kept.versions.iter().map(|(of, version)| format!("{of} {version}"));
        let versions = versions.collect::<Vec<_>>().join(", ");
        all.entry((kept.machine.clone(), versions)).or_default().push(name);
    }
    if all.is_empty() {
        return "Nothing was measured yet.\n".to_owned();
    }
    let one = all.len() == 1;
    let lines = all.into_iter().map(|((machine, versions), names)| {
        let names = names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>();
        let whose = if one { String::new() } else { format!(" Results: {}.", names.join(", ")) };
        let versions =
            if versions.is_empty() { "No versions were noted".to_owned() } else { versions };
        format!("* {machine}. {versions}.{whose}\n")
    });
    lines.collect()
}

/// With as many digits as say something, and commas.
pub(crate) fn figure(value: f64) -> String {
    if !value.is_finite() {
        return "?".to_owned();
    }
    match value.abs() {
        size if size >= 1_000.0 || value.fract() == 0.0 => grouped(value),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        size if size < 0.0005 => "0".to_owned(),
        _ => format!("{value:.3}"),
    }
}

fn grouped(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = if value < 0.0 { "-".to_owned() } else { String::new() };
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::results::tests::kept;
    use super::*;

    #[test]
    fn figures_have_commas() {
        let all = [0.0, 0.25, 4.0, 6.914, 376.1, 400.0, 1_276_846.4, -1_234.0, f64::NAN];
        let texts = all.map(figure);
        let wanted = ["0", "0.250", "4", "6.91", "376.1", "400", "1,276,846", "-1,234", "?"];
        assert_eq!(texts, wanted);
    }

    #[test]
    fn a_table_has_all_that_is_there_and_all_that_is_not() {
        let found = json!({
            "bench": "echo", "unit": "messages", "throng": 100.0, "spread": 5.0, "noisy": true,
            "others": 0.12, "best_peer": "tokio-echo", "details": { "throng": { "errors": 3 } },
            "peers": { "tokio-echo": 20.0, "monoio-echo": null },
        });
        let table = comparison("echo", &[("one", Some(&kept(found))), ("two", None)]);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines[0], "`echo`, messages:");
        assert_eq!(lines[2], "| | Throng | tokio | monoio | Throng to the best | |");
        assert_eq!(
            lines[4],
            "| one | 100 (5 %) | 20 | failed | 5 | **noisy** (12 % others); 3 errors |"
        );
        assert_eq!(lines[5], "| two | not measured | | | | |");
        let columns: Vec<usize> = lines[2..].iter().map(|line| line.matches('|').count()).collect();
        assert!(columns.iter().all(|count| *count == columns[0]), "{columns:?}");
        assert_eq!(
            comparison("echo", &[("a", None), ("b", None)]),
            "`echo`: not measured (a; b).\n"
        );
    }

    #[test]
    fn cases_are_told_apart_by_what_differs() {
        let case = |sockets: u64, acknowledged: &str| {
            json!({ "bench": "udp", "throng": 1.0, "params": {
                "sockets": sockets, "size": 64, "acknowledged": acknowledged,
            }, "details": { "throng": { "lost": 0 }, "tokio-udp": { "lost": 1_402 } },
            "failures": ["tokio-udp: gone,\r\n a | <b>"] })
        };
        let found = json!({ "cases": [case(1, "at once"), case(64, "later")] });
        let table = comparison("udp", &[("1,000 flows", Some(&kept(found)))]);
        let row = "| 1,000 flows, acknowledged later, 64 sockets | 1 | \
                   tokio lost 1,402; failed: tokio-udp: gone, a \\| &lt;b> |";
        assert!(table.contains(row), "{table}");
    }

    #[test]
    fn what_nobody_planned_is_shown() {
        let mut results = Results::default();
        let found = json!({ "bench": "new", "unit": "things", "throng": 7.0, "spread": null,
            "peers": { "theirs": 14.0 }, "best_peer": "theirs", "noisy": false });
        results.insert("new-1", kept(found));
        let text = others(&results, &["echo"]);
        assert!(text.contains("| new-1 | 7 | 14 | 0.500 (1/2) |  |"), "{text}");
        assert!(!text.contains("`echo`"), "it is elsewhere: {text}");
        assert!(text.contains("`http`: not measured"), "{text}");
        assert_eq!(text.matches("`scaling`").count(), 1, "each once: {text}");
        assert!(commands(&results).contains("| `new-1` | 2026-11-22 17:00 UTC | abc |"));
        assert!(commands(&results).contains("| `echo-1` | not measured |"));
        assert_eq!(machines(&results), "* 2 cores. tokio 1.2.\n");
    }
}
