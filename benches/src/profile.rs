//! Where a program's instructions are: those of two callgrind profiles, one less the other, by source file.

use std::collections::BTreeMap;
use std::path::Path;

/// Instructions by part of the program.
pub type Parts = BTreeMap<String, i64>;

/// What is in none of ours is one part for each crate.
const REGISTRY: &str = "/registry/src/";
/// The standard library's files.
const STD: &str = "/rustc/";

/// Sums the instructions of a profile that callgrind wrote with `--compress-strings=no`, those of called
/// functions not among a function's own. What was inlined is its file's; what of it is the
/// standard library's, which is nearly always a wrapper of what somebody asked it for, belongs
/// to the file of the function that it was inlined to.
///
/// Files below `root` have a part each, other crates one for all their files.
pub fn parts(text: &str, root: &Path) -> Parts {
    let root = root.to_string_lossy();
    let mut all = Parts::new();
    // Of the function, and of the line at hand.
    let (mut own, mut at, mut function) = (String::new(), String::new(), "");
    let mut call = false;
    for line in text.lines() {
        if let Some(file) = line.strip_prefix("fl=") {
            (own, at) = (file.to_owned(), file.to_owned());
        } else if let Some(file) = line.strip_prefix("fi=").or(line.strip_prefix("fe=")) {
            at = file.to_owned();
        } else if let Some(name) = line.strip_prefix("fn=") {
            function = name;
        } else if line.starts_with("calls=") {
            // The next line is what all those calls took.
            call = true;
        } else if line.starts_with(|c: char| c.is_ascii_digit() || "+-*".contains(c)) {
            let cost = line.split(' ').nth(1).and_then(|cost| cost.parse::<i64>().ok());
            if let Some(cost) = cost.filter(|_| !call) {
                let file = if at.contains(STD) { &own } else { &at };
                *all.entry(part(file, function, &root)).or_default() += cost;
            }
            call = false;
        }
    }
    all
}

/// The part that a file belongs to; that of code without one goes by its function.
fn part(file: &str, function: &str, root: &str) -> String {
    if let Some(file) = file.strip_prefix(root) {
        return file.trim_start_matches('/').to_owned();
    }
    if let Some((_, path)) = file.split_once(REGISTRY) {
        let name = path.split('/').nth(1).unwrap_or(path);
        // hyper-1.12.0
        return match name.rsplit_once('-') {
            Some((name, version)) if version.starts_with(|c: char| c.is_ascii_digit()) => {
                name.into()
            }
            _ => name.to_owned(),
        };
    }
    if file.contains(STD) {
        return "std".to_owned();
    }
    let function = function.split(['\'', '@']).next().unwrap_or(function);
    let of_libc = function.trim_start_matches('_');
    if ["mem", "str"].iter().any(|start| of_libc.starts_with(start)) {
        "libc: copying, comparing".to_owned()
    } else if ["alloc", "free", "malloc", "int_", "unlink", "tcache"]
        .iter()
        .any(|word| of_libc.contains(word))
    {
        "libc: allocating".to_owned()
    } else {
        "libc, else".to_owned()
    }
}

/// `more` less `less`, by `events`: what each event takes, largest first.
pub fn each(less: &Parts, more: &Parts, events: u64) -> Vec<(String, f64)> {
    let mut all: Vec<(String, f64)> = more
        .iter()
        .map(|(part, count)| {
            let grown = count - less.get(part).copied().unwrap_or(0);
            (part.clone(), grown as f64 / events as f64)
        })
        .collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1));
    all
}

/// What a part is of, as docs/PROFILES.md has it: how its name begins, the first that fits.
const KINDS: [(&str, &str); 24] = [
    ("net/src/tcp/", "engine"),
    ("net/src/device/", "device, and its rings"),
    ("net/src/packet", "device, and its rings"),
    ("crossbeam-queue", "device, and its rings"),
    ("rtrb", "device, and its rings"),
    ("net/src/stack/driver", "driver, wakers, events"),
    ("net/src/stack/wakers", "driver, wakers, events"),
    ("net/src/stack/mod", "driver, wakers, events"),
    ("net/src/stack/", "receive stages, headers, checksums"),
    ("net/src/engine/", "receive stages, headers, checksums"),
    ("net/src/", "`TcpStream`"),
    ("runtime/", "executor, timers, memory of both"),
    ("httparse", "http, httparse"),
    ("http/", "`throng::http`"),
    ("http", "http, httparse"),
    ("hyper", "hyper"),
    ("ws/", "`throng::ws`"),
    ("tungstenite", "tungstenite, futures"),
    ("futures", "tungstenite, futures"),
    ("libc: allocating", "malloc and free"),
    ("libc: copying", "copying"),
    ("std", "the standard library's own functions"),
    ("bytes", "bytes"),
    ("benches/", "the bench"),
];

/// Profiles side by side as a table in Markdown, a column each, a row for each kind of part.
pub fn table(cases: &[(&str, Vec<(String, f64)>)]) -> String {
    let kind = |part: &str| {
        let kind = KINDS.iter().find(|(begin, _)| part.starts_with(begin));
        kind.map_or("else", |(_, kind)| kind)
    };
    let mut rows: Vec<&str> = Vec::new();
    for row in KINDS.iter().map(|(_, kind)| *kind).chain(["else"]) {
        if !rows.contains(&row) {
            rows.push(row);
        }
    }
    let of = |row: &str, parts: &[(String, f64)]| {
        parts.iter().filter(|(part, _)| kind(part) == row).map(|(_, count)| count).sum::<f64>()
    };
    let line = |name: &str, cells: Vec<String>| format!("| {name} | {} |\n", cells.join(" | "));
    let names = cases.iter().map(|(name, _)| format!("`{name}`")).collect();
    let mut text = line("part, per event", names) + &"|---".repeat(cases.len() + 1) + "|\n";
    for row in rows {
        let counts: Vec<f64> = cases.iter().map(|(_, parts)| of(row, parts).round()).collect();
        if counts.iter().any(|count| *count != 0.0) {
            let shown = |count: &f64| if *count == 0.0 { String::new() } else { count.to_string() };
            text += &line(row, counts.iter().map(shown).collect());
        }
    }
    let all = |parts: &[(String, f64)]| parts.iter().map(|(_, count)| count).sum::<f64>();
    let sums = cases.iter().map(|(_, parts)| format!("**{:.0}**", all(parts)));
    text + &line("**all**", sums.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROFILE: &str = "# callgrind format\nevents: Ir\n\nob=/x/icount\n\
        fl=/home/throng/net/src/tcp/snd.rs\nfn=throng_net::tcp::send\n10 100\n\
        fi=/rustc/abc/library/core/src/ptr.rs\n20 7\n\
        fi=/home/.cargo/registry/src/index-1/bytes-1.12.0/src/bytes.rs\n30 5\n\
        fe=/home/throng/net/src/tcp/snd.rs\n11 3\n\
        cfn=memcpy\ncalls=4 0\n11 5000\n12 1\n\n\
        fl=???\nfn=__memcpy_avx_unaligned_erms\n0 40\n\nfn=_int_free\n0 60\n\n\
        fl=/rustc/abc/library/alloc/src/vec.rs\nfn=alloc::vec::grow\n5 9\n";

    #[test]
    fn own_instructions_are_summed_by_file() {
        let parts = parts(PROFILE, Path::new("/home/throng"));
        let wanted = [
            ("bytes", 5),
            ("libc: allocating", 60),
            ("libc: copying, comparing", 40),
            ("net/src/tcp/snd.rs", 111),
            ("std", 9),
        ];
        let wanted: Parts =
            wanted.into_iter().map(|(part, count)| (part.to_owned(), count)).collect();
        assert_eq!(parts, wanted);
    }

    #[test]
    fn profiles_are_a_table() {
        let parts = |all: &[(&str, f64)]| -> Vec<(String, f64)> {
            all.iter().map(|(part, count)| ((*part).to_owned(), *count)).collect()
        };
        let echo =
            parts(&[("net/src/tcp/snd.rs", 7.2), ("net/src/tcp/rcv.rs", 3.0), ("slab", 1.0)]);
        let http = parts(&[("http", 2.0), ("http/src/io.rs", 4.0), ("net/src/tcp/rcv.rs", 5.0)]);
        let text = table(&[("echo", echo), ("http", http)]);
        let wanted = "| part, per event | `echo` | `http` |\n|---|---|---|\n| engine | 10 | 5 |\n\
                      | `throng::http` |  | 4 |\n| http, httparse |  | 2 |\n| else | 1 |  |\n\
                      | **all** | **11** | **11** |\n";
        let mut lines: Vec<&str> = text.lines().collect();
        let mut wanted: Vec<&str> = wanted.lines().collect();
        assert_eq!((lines.first(), lines.last()), (wanted.first(), wanted.last()));
        lines.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(lines, wanted);
    }

    #[test]
    fn events_are_the_difference() {
        let less = Parts::from([("a".to_owned(), 100), ("b".to_owned(), 50)]);
        let more = Parts::from([("a".to_owned(), 120), ("b".to_owned(), 150), ("c".to_owned(), 1)]);
        let each = each(&less, &more, 10);
        assert_eq!(each[0], ("b".to_owned(), 10.0));
        assert_eq!(each[1..], [("a".to_owned(), 2.0), ("c".to_owned(), 0.1)]);
    }
}
