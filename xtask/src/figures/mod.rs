//! `cargo xtask bench report`: measures what docs/PERFORMANCE.md shows, and writes its figures.
//!
//! Results are files in `benches/results`, one a bench and its parameters. The document's tables and the plots
//! in docs/performance are made of them alone, between lines in the document that name them; all else in it
//! is written by hand. A test makes them anew and compares, so that no figure is there without its result.

mod charts;
mod machine;
mod plan;
mod plots;
mod results;
mod run;
mod svg;
mod tables;
mod wanted;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;

use crate::host;
use crate::hugepages::Hugepages;
use crate::setup::{self, HUGEPAGES, Need};
use plan::{Entry, How, PLAN};
use results::Results;

/// Renders docs/PERFORMANCE.md and its plots from benches/results
#[derive(Parser)]
#[command(name = "cargo xtask bench report")]
struct Options {
    /// Measure first, and keep each result as soon as it is there
    #[arg(long)]
    run: bool,
    /// With few connections and one short round: whether it works. Results and document go to
    /// target/bench-report
    #[arg(long, requires = "run")]
    quick: bool,
    /// Only these results or benches
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Leave what was measured already, of this code, by the same command, on a quiet machine and
    /// without a failure
    #[arg(long, requires = "run")]
    resume: bool,
    /// How often each is measured
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// For how many seconds
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Name the results and about how long each takes, and end
    #[arg(long)]
    list: bool,
    /// Build all that a run needs, and end: on a machine that is to be quiet later
    #[arg(long, conflicts_with = "run")]
    build: bool,
}

/// `cargo xtask bench report args...`.
pub(crate) fn command(args: &[String]) -> io::Result<ExitCode> {
    let words = std::iter::once("report").chain(args.iter().map(String::as_str));
    let options = match Options::try_parse_from(words) {
        Ok(options) => options,
        Err(error) => error.exit(),
    };
    let how = How { quick: options.quick, rounds: options.rounds, seconds: options.seconds };
    let entries = selected(&options.only).map_err(io::Error::other)?;
    if options.list {
        let mut all = 0;
        for entry in &entries {
            let (seconds, words) = (entry.estimate(how), entry.words(how).join(" "));
            all += seconds;
            println!("{:<24} {seconds:>4} s, {:>2} min  {words}", entry.name, all.div_ceil(60));
        }
        let minutes = all.div_ceil(60);
        println!("{} results, about {minutes} minutes beside building (--build)", entries.len());
        return Ok(ExitCode::SUCCESS);
    }
    if options.build {
        setup::packages(Need::Bench)?;
        setup::packages(Need::Compare)?;
        let built = run::build(entries.iter().map(|entry| entry.bench))?;
        return Ok(if built { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let place =
        if options.quick { host::target().join("bench-report") } else { host::root().to_owned() };
    let mut whole = true;
    if options.run {
        setup::packages(Need::Bench)?;
        setup::packages(Need::Compare)?;
        // For all of them: each would give its own back.
        let _pages = Hugepages::reserve(HUGEPAGES);
        let outcome = run::measure(&entries, how, options.resume, &place.join(RESULTS))?;
        println!("{} results kept in {}", outcome.kept, place.join(RESULTS).display());
        for (name, why) in &outcome.failed {
            println!("failed: {name}: {why}");
        }
        if !outcome.noisy.is_empty() {
            println!("noisy: {}", outcome.noisy.join(", "));
        }
        whole = outcome.failed.is_empty() && outcome.noisy.is_empty();
        if !whole {
            println!("again: the same command with --resume");
        }
    }
    let results = Results::read(&place.join(RESULTS))?;
    let template = fs::read_to_string(host::root().join(DOCUMENT))?;
    write(&place, &files(&results, &template).map_err(io::Error::other)?)?;
    println!("written: {}, and its plots", place.join(DOCUMENT).display());
    Ok(if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

const RESULTS: &str = "benches/results";
const DOCUMENT: &str = "docs/PERFORMANCE.md";
const PLOTS: &str = "docs/performance";

/// Those that are asked for by their names or their bench's; all where none is.
fn selected(only: &[String]) -> Result<Vec<&'static Entry>, String> {
    let is_it = |entry: &Entry, word: &str| entry.name == word || entry.bench == word;
    if let Some(word) = only.iter().find(|word| !PLAN.iter().any(|entry| is_it(entry, word))) {
        let names: Vec<&str> = PLAN.iter().map(|entry| entry.name).collect();
        return Err(format!("{word} is none of {}", names.join(", ")));
    }
    let asked = |entry: &&Entry| only.is_empty() || only.iter().any(|word| is_it(entry, word));
    Ok(PLAN.iter().filter(asked).collect())
}

/// Benches that have a place of their own in the document.
const PLACED: &[&str] = &[
    "http",
    "http-close",
    "echo",
    "connect-rate",
    "latency",
    "bulk",
    "engine",
    "path",
    "ws-echo",
    "upgrade-rate",
    "broadcast",
    "ramp",
    "idle-ws",
    "idle-http",
    "idle",
    "icount",
    "lb",
];

/// A plot as Markdown shows it.
fn image(name: &str, what: &str) -> String {
    format!("![{what}](performance/{name}.svg)\n\n")
}

/// What is put between the document's lines, by name.
fn blocks(results: &Results) -> Vec<(&'static str, String)> {
    let of = |benches: &[&str]| tables::of_benches(results, benches);
    vec![
        ("machines", tables::machines(results)),
        ("wanted", wanted::table(results)),
        (
            "ratios",
            image("ratios", "How many times better Throng is than each peer")
                + &image("rates", "Operations per second"),
        ),
        ("http", of(&["http", "http-close"])),
        ("tcp", image("echo", "Echoes against connections") + &of(&["echo", "connect-rate"])),
        (
            "latency",
            image("latency-1", "Round trips on one connection")
                + &image("latency-1000", "Round trips on 1,000 connections")
                + &tables::latency(results, "latency"),
        ),
        ("bulk", of(&["bulk"])),
        ("websockets", of(&["ws-echo", "upgrade-rate", "broadcast"]) + &tables::growth(results)),
        ("ramp", image("ramp", "Echoes and stages while a million open") + &of(&["ramp"])),
        (
            "memory",
            image("memory", "Bytes of an idle connection against connections")
                + &of(&["idle-ws", "idle-http"])
                + &tables::breakdown(results, "idle-ws-1000000")
                + &tables::breakdown(results, "idle-http-1000000")
                + &tables::of_peers(results, "idle-ws-100000")
                + &tables::of_peers(results, "idle-http-100000"),
        ),
        ("lb", of(&["lb"]) + "\n" + &tables::latency(results, "lb")),
        ("alone", of(&["engine", "path"])),
        ("instructions", tables::instructions(results)),
        ("idle", tables::idle(results)),
        ("others", tables::others(results, PLACED)),
        ("commands", tables::commands(results)),
    ]
}

/// The document and its plots, by their paths below the workspace.
fn files(results: &Results, template: &str) -> Result<Vec<(PathBuf, String)>, String> {
    let mut document = template.to_owned();
    for (name, block) in blocks(results) {
        document = replaced(&document, name, &block)?;
    }
    let mut files = vec![(PathBuf::from(DOCUMENT), document)];
    for (name, text) in plots::all(results) {
        files.push((Path::new(PLOTS).join(format!("{name}.svg")), text));
    }
    Ok(files)
}

/// `document` with `block` between the two lines that name it.
fn replaced(document: &str, name: &str, block: &str) -> Result<String, String> {
    let begin = format!("<!-- written by `cargo xtask bench report`: {name} -->\n");
    let end = format!("<!-- end of {name} -->");
    let missing = || format!("{DOCUMENT} has no place for `{name}`: {begin}{end}");
    let (head, rest) = document.split_once(&begin).ok_or_else(missing)?;
    let (_, tail) = rest.split_once(&end).ok_or_else(missing)?;
    let gap = if block.ends_with("\n\n") || block.is_empty() { "" } else { "\n" };
    Ok(format!("{head}{begin}\n{block}{gap}{end}{tail}"))
}

/// Writes the files below `place`; plots that are no more go.
fn write(place: &Path, files: &[(PathBuf, String)]) -> io::Result<()> {
    let plots = place.join(PLOTS);
    fs::create_dir_all(&plots)?;
    for entry in fs::read_dir(&plots)? {
        let path = entry?.path();
        if !files.iter().any(|(file, _)| place.join(file) == path) {
            fs::remove_file(path)?;
        }
    }
    files.iter().try_for_each(|(file, text)| fs::write(place.join(file), text))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_document_says_what_the_results_say() {
        let root = host::root();
        let results = Results::read(&root.join(RESULTS)).unwrap();
        let template = fs::read_to_string(root.join(DOCUMENT)).unwrap();
        let files = files(&results, &template).unwrap();
        for (file, text) in &files {
            let there = fs::read_to_string(root.join(file)).unwrap_or_default();
            assert!(there == *text, "{} is old: run cargo xtask bench report", file.display());
        }
        let made: BTreeSet<PathBuf> = files.into_iter().map(|(file, _)| file).collect();
        for entry in fs::read_dir(root.join(PLOTS)).unwrap() {
            let file = Path::new(PLOTS).join(entry.unwrap().file_name());
            assert!(made.contains(&file), "{} is nobody's", file.display());
        }
    }

    #[test]
    fn what_the_document_links_to_is_there() {
        let docs = host::root().join("docs");
        for link in wanted::links() {
            let (file, heading) = link.split_once('#').expect("a heading");
            let file = if file.is_empty() { "PERFORMANCE.md" } else { file };
            let text = fs::read_to_string(docs.join(file)).unwrap();
            let found = text.lines().filter_map(|line| line.strip_prefix('#')).any(|line| {
                let title = line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
                let kept = |c: &char| c.is_alphanumeric() || *c == '-';
                title.chars().filter(kept).collect::<String>() == heading
            });
            assert!(found, "{link}");
        }
    }

    #[test]
    fn a_block_takes_the_place_of_the_one_before() {
        let document =
            "a\n<!-- written by `cargo xtask bench report`: x -->\nold\n<!-- end of x -->\nb\n";
        let new = replaced(document, "x", "new\n").unwrap();
        assert_eq!(
            new,
            "a\n<!-- written by `cargo xtask bench report`: x -->\n\nnew\n\n<!-- end of x -->\nb\n"
        );
        assert_eq!(replaced(&new, "x", "new\n").unwrap(), new);
        assert!(replaced(document, "y", "").is_err());
    }

    #[test]
    fn a_selection_is_by_name_or_bench() {
        let names = |only: &[&str]| {
            let only: Vec<String> = only.iter().map(|&word| word.to_owned()).collect();
            selected(&only).map(|all| all.iter().map(|entry| entry.name).collect::<Vec<_>>())
        };
        assert_eq!(names(&["echo-1000", "ramp"]).unwrap(), ["echo-1000", "ramp"]);
        assert!(names(&["echo"]).unwrap().iter().all(|name| name.starts_with("echo-")));
        assert_eq!(names(&[]).unwrap().len(), PLAN.len());
        assert!(names(&["echoes"]).unwrap_err().contains("echo-1000"));
    }
}
