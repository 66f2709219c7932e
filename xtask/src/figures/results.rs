//! Results as they are kept: what a bench printed, and where, when and how it was measured.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use serde_json::{Map, Value, json};

/// One result.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Kept {
    /// The day and the time, UTC.
    pub(crate) date: String,
    /// The command that measures it again.
    pub(crate) command: String,
    /// The commit that was measured.
    pub(crate) commit: String,
    /// On what.
    pub(crate) machine: String,
    /// What else it depends on, by name.
    pub(crate) versions: BTreeMap<String, String>,
    /// How long it took, in seconds.
    pub(crate) took: Option<f64>,
    /// What the bench printed.
    pub(crate) found: Value,
}

impl Kept {
    fn from_json(value: &Value) -> Option<Kept> {
        let text = |key: &str| Some(value[key].as_str()?.to_owned());
        let versions = value["versions"].as_object()?.iter();
        Some(Kept {
            date: text("date")?,
            command: text("command")?,
            commit: text("commit")?,
            machine: text("machine")?,
            versions: versions
                .filter_map(|(name, version)| Some((name.clone(), version.as_str()?.to_owned())))
                .collect(),
            took: value["took_seconds"].as_f64(),
            found: value.get("found").filter(|found| found.is_object())?.clone(),
        })
    }

    fn to_json(&self) -> Value {
        let versions: Map<String, Value> =
            self.versions.iter().map(|(name, version)| (name.clone(), json!(version))).collect();
        json!({
            "date": self.date,
            "command": self.command,
            "commit": self.commit,
            "machine": self.machine,
            "versions": versions,
            "took_seconds": self.took,
            "found": self.found,
        })
    }

    /// What it consists of: a bench with several parameters has several cases.
    pub(crate) fn cases(&self) -> Vec<Case<'_>> {
        match self.found["cases"].as_array() {
            Some(cases) => cases.iter().map(Case).collect(),
            None => vec![Case(&self.found)],
        }
    }

    /// Whether the machine was too noisy to say, in any case of it.
    pub(crate) fn noisy(&self) -> bool {
        self.cases().iter().any(Case::noisy)
    }

    /// Whether a subject failed, in any case of it.
    pub(crate) fn failed(&self) -> bool {
        let failures = |case: &Case<'_>| case.0["failures"].as_array().map_or(0, Vec::len);
        self.cases().iter().any(|case| failures(case) > 0)
    }

    /// Writes it to `dir`, whole or not at all.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn write(&self, dir: &Path, name: &str) -> io::Result<()> {
        fs::create_dir_all(dir)?;
        let part = dir.join(format!("{name}.part"));
        fs::write(&part, serde_json::to_string_pretty(&self.to_json())? + "\n")?;
        fs::rename(part, dir.join(format!("{name}.json")))
    }
}

/// One object that a bench printed, of `docs/BENCHMARKING.md`'s form.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case<'a>(pub(crate) &'a Value);

impl<'a> Case<'a> {
    /// The number at this place, as `/params/connections`.
    pub(crate) fn number(self, pointer: &str) -> Option<f64> {
        self.0.pointer(pointer)?.as_f64()
    }

    /// The text at this place.
    pub(crate) fn text(self, pointer: &str) -> Option<&'a str> {
        self.0.pointer(pointer)?.as_str()
    }

    /// The bench.
    pub(crate) fn bench(self) -> &'a str {
        self.text("/bench").unwrap_or_default()
    }

    /// Throng's median.
    pub(crate) fn throng(self) -> Option<f64> {
        self.number("/throng")
    }

    /// A peer's median.
    pub(crate) fn peer(self, name: &str) -> Option<f64> {
        self.0["peers"].get(name)?.as_f64()
    }

    /// Throng's median by a peer's.
    pub(crate) fn ratio_to(self, peer: &str) -> Option<f64> {
        Some(self.throng()? / self.peer(peer)?)
    }

    /// The peers' names, the one that stands for most people's choice first.
    pub(crate) fn peers(self) -> Vec<&'a str> {
        let names = self.0["peers"].as_object().into_iter().flatten();
        let mut names: Vec<&str> = names.map(|(name, _)| name.as_str()).collect();
        names.sort_by_key(|name| (rank(name), *name));
        names
    }

    /// What a subject did, as `p99_us`.
    pub(crate) fn detail(self, subject: &str, key: &str) -> Option<f64> {
        self.0["details"].get(subject)?.get(key)?.as_f64()
    }

    /// Whether the machine was too noisy to say.
    pub(crate) fn noisy(&self) -> bool {
        self.0["noisy"].as_bool() == Some(true)
    }

    /// Operations that failed, of whomever.
    pub(crate) fn errors(self) -> u64 {
        let details = self.0["details"].as_object().into_iter().flatten();
        let each: u64 = details.filter_map(|(_, one)| one["errors"].as_u64()).sum();
        each + self.0["errors"].as_u64().unwrap_or(0)
    }
}

/// A subject's place and colour, [`KINDS`] of them: 0 is Throng's; one program has the same in all benches.
pub(crate) fn rank(name: &str) -> usize {
    match name {
        "throng" => 0,
        "tungstenite" | "tungstenite-broadcast" => 1,
        "tungstenite-defaults" | "spinning-echo" => 5,
        "throng-on-kernel" => 6,
        _ if name.starts_with("tokio") => 1,
        _ if name.starts_with("monoio") => 2,
        _ if name.starts_with("nginx") => 3,
        _ if name.starts_with("haproxy") => 4,
        _ => KINDS - 1,
    }
}

/// How many places [`rank`] tells apart.
pub(crate) const KINDS: usize = 8;

/// A subject's name as it is read.
pub(crate) fn shown(name: &str) -> &str {
    match name {
        "throng" => "Throng",
        "throng-on-kernel" => "Throng on the kernel",
        "throng-1-shard" => "Throng, 1 shard",
        "tokio-http" => "tokio + hyper",
        "tungstenite" | "tungstenite-broadcast" => "tokio-tungstenite, small buffers",
        "tungstenite-defaults" => "tokio-tungstenite, defaults",
        "spinning-echo" => "kernel, both ends spinning",
        "haproxy" => "HAProxy",
        _ => match name.split_once('-') {
            Some((program @ ("tokio" | "monoio"), _)) => program,
            _ => name,
        },
    }
}

/// Results by their names.
#[derive(Clone, Debug, Default)]
pub(crate) struct Results(BTreeMap<String, Kept>);

impl Results {
    /// All of a directory; none where there is no such.
    ///
    /// # Errors
    /// A file is not a result.
    pub(crate) fn read(dir: &Path) -> io::Result<Results> {
        let mut all = BTreeMap::new();
        let entries = match fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Results(all)),
            Err(error) => return Err(error),
        };
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let wrong = |why: String| io::Error::other(format!("{}: {why}", path.display()));
            let value = serde_json::from_str(&fs::read_to_string(&path)?)
                .map_err(|error| wrong(error.to_string()))?;
            let kept = Kept::from_json(&value).ok_or_else(|| wrong("not a result".to_owned()))?;
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            all.insert(name, kept);
        }
        Ok(Results(all))
    }

    /// The one of this name.
    pub(crate) fn get(&self, name: &str) -> Option<&Kept> {
        self.0.get(name)
    }

    /// Adds one, or puts it in another's place.
    #[cfg(test)]
    pub(crate) fn insert(&mut self, name: &str, kept: Kept) {
        self.0.insert(name.to_owned(), kept);
    }

    /// All, by their names.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Kept)> {
        self.0.iter().map(|(name, kept)| (name.as_str(), kept))
    }

    /// The cases of a result; none where it is missing.
    pub(crate) fn cases(&self, name: &str) -> Vec<Case<'_>> {
        self.get(name).map(Kept::cases).unwrap_or_default()
    }

    /// The first case of a result.
    pub(crate) fn case(&self, name: &str) -> Option<Case<'_>> {
        self.cases(name).into_iter().next()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A result of these cases.
    pub(crate) fn kept(found: Value) -> Kept {
        Kept {
            date: "2026-11-22 17:00 UTC".into(),
            command: "cargo xtask bench echo --json".into(),
            commit: "abc".into(),
            machine: "2 cores".into(),
            versions: BTreeMap::from([("tokio".into(), "1.2".into())]),
            took: Some(4.5),
            found,
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let dir = std::env::temp_dir().join(format!("throng-results-{}", std::process::id()));
        assert_eq!(Results::read(&dir).unwrap().iter().count(), 0, "a missing directory is empty");
        let cases = json!([{ "bench": "a", "noisy": false }, { "bench": "b", "noisy": true }]);
        let one = kept(json!({ "bench": "a", "cases": cases }));
        one.write(&dir, "echo-1").unwrap();
        let read = Results::read(&dir).unwrap();
        assert_eq!(read.get("echo-1"), Some(&one));
        let benches: Vec<&str> = read.cases("echo-1").into_iter().map(Case::bench).collect();
        assert_eq!((benches, one.noisy(), one.failed()), (vec!["a", "b"], true, false));
        let failed = json!({ "cases": [{ "failures": [] }, { "failures": ["tokio: gone"] }] });
        assert!(kept(failed).failed() && !kept(json!({ "failures": [] })).failed());
        assert!(read.case("echo-2").is_none());
        fs::write(dir.join("wrong.json"), "{}").unwrap();
        let error = Results::read(&dir).unwrap_err().to_string();
        assert!(error.contains("wrong.json"), "{error}");
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_case_says_what_it_has() {
        let found = json!({
            "throng": 100.0, "errors": 1, "noisy": true,
            "peers": { "monoio-echo": null, "throng-on-kernel": 5.0, "tokio-echo": 20.0 },
            "details": { "throng": { "errors": 2, "p99_us": 7.0 } },
        });
        let case = Case(&found);
        assert_eq!(case.peers(), ["tokio-echo", "monoio-echo", "throng-on-kernel"]);
        assert_eq!((case.ratio_to("tokio-echo"), case.ratio_to("monoio-echo")), (Some(5.0), None));
        assert_eq!((case.errors(), case.noisy()), (3, true));
        assert_eq!(case.detail("throng", "p99_us"), Some(7.0));
        assert_eq!(shown("monoio-echo"), "monoio");
    }
}
