//! The committed list of known differences: the blocks of `docs/DIFFERENCES.md`.
//!
//! A block's fence names its exchange (` ```diff NAME `); `-` is Linux, `+` is ours. The prose around
//! it is for readers, and is left alone.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

const FENCE: &str = "```diff ";
/// Where differences go that nobody has explained.
const UNEXPLAINED: &str = "## Not explained yet";

/// The list.
pub(crate) struct Known {
    text: String,
    blocks: BTreeMap<String, Vec<String>>,
}

/// What differs between two transcripts, each stretch behind the last line they share.
/// Empty where nothing does.
pub(crate) fn difference(linux: &[String], ours: &[String]) -> Vec<String> {
    // Lengths of the longest common subsequences of what is left of both.
    let mut common = vec![vec![0; ours.len() + 1]; linux.len() + 1];
    for (i, a) in linux.iter().enumerate().rev() {
        for (j, b) in ours.iter().enumerate().rev() {
            common[i][j] = if a == b {
                common[i + 1][j + 1] + 1
            } else {
                common[i + 1][j].max(common[i][j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut shared: Option<&String> = None;
    let mut lines = Vec::new();
    while i < linux.len() || j < ours.len() {
        if i < linux.len() && j < ours.len() && linux[i] == ours[j] {
            shared = Some(&linux[i]);
            (i, j) = (i + 1, j + 1);
            continue;
        }
        if let Some(line) = shared.take() {
            lines.push(format!("  {line}"));
        }
        let from_linux = j == ours.len() || i < linux.len() && common[i + 1][j] >= common[i][j + 1];
        if from_linux {
            lines.push(format!("- {}", linux[i]));
            i += 1;
        } else {
            lines.push(format!("+ {}", ours[j]));
            j += 1;
        }
    }
    lines
}

impl Known {
    /// Reads the list; one that is not there is empty.
    pub(crate) fn read(path: &Path) -> io::Result<Known> {
        let text = match std::fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            read => read?,
        };
        let mut blocks = BTreeMap::new();
        let mut inside: Option<(String, Vec<String>)> = None;
        for line in text.lines() {
            match &mut inside {
                Some(_) if line == "```" => blocks.extend(inside.take()),
                Some((_, lines)) => lines.push(line.to_owned()),
                None => {
                    let name = line.strip_prefix(FENCE);
                    inside = name.map(|name| (name.to_owned(), Vec::new()));
                }
            }
        }
        Ok(Known { text, blocks })
    }

    /// Whether this is what is known of an exchange.
    pub(crate) fn is(&self, name: &str, difference: &[String]) -> bool {
        self.blocks.get(name).map_or(&[][..], Vec::as_slice) == difference
    }

    /// What is found, and what should have been.
    pub(crate) fn explain(&self, name: &str, difference: &[String]) -> Vec<String> {
        let mut lines: Vec<String> = match difference {
            [] => vec!["the difference that was known has vanished".into()],
            lines => lines.to_vec(),
        };
        if let Some(known) = self.blocks.get(name).filter(|_| !difference.is_empty()) {
            lines.push("where this is known:".into());
            lines.extend(known.iter().cloned());
        }
        lines
    }

    /// Writes a difference over what was known, or to those nobody has explained.
    pub(crate) fn note(&mut self, name: &str, difference: &[String]) {
        let body = |lines: &[String]| {
            let lines: String = lines.iter().map(|line| format!("{line}\n")).collect();
            format!("{FENCE}{name}\n{lines}```\n")
        };
        let old = self.blocks.get(name).map(|lines| body(lines));
        let new = if difference.is_empty() { String::new() } else { body(difference) };
        match old {
            Some(old) => self.text = self.text.replace(&old, &new),
            None => {
                if !self.text.contains(UNEXPLAINED) {
                    self.text.push_str(&format!("\n{UNEXPLAINED}\n"));
                }
                self.text.push_str(&format!("\n{new}"));
            }
        }
        self.blocks.insert(name.to_owned(), difference.to_vec());
    }

    /// Blocks that name no exchange.
    pub(crate) fn without(&self, names: &[&str]) -> Vec<String> {
        self.blocks.keys().filter(|name| !names.contains(&name.as_str())).cloned().collect()
    }

    /// An exchange whose difference nobody has explained.
    pub(crate) fn unexplained(&self) -> Option<String> {
        let (_, rest) = self.text.split_once(UNEXPLAINED)?;
        rest.lines().find_map(|line| line.strip_prefix(FENCE)).map(str::to_owned)
    }

    /// Writes the list back.
    pub(crate) fn write(&self, path: &Path) -> io::Result<()> {
        std::fs::write(path, &self.text)
    }
}
