//! That docs/RFC.md names code and tests that are there.

use std::path::{Path, PathBuf};

const MAP: &str = include_str!("../../../docs/RFC.md");

fn net() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What `docs/RFC.md` means by the name of a file.
fn file(name: &str) -> Option<PathBuf> {
    let root = net().join("..");
    let places = [net().join("src/tcp"), net().join("src"), net().to_owned(), root];
    places.iter().map(|place| place.join(name)).find(|path| path.is_file())
}

/// Whether a file has this function, `*` being any.
fn has(path: &Path, function: &str) -> bool {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    !text.is_empty() && (function == "*" || text.contains(&format!("fn {function}(")))
}

#[test]
fn the_map_of_rfcs_names_files_and_tests_that_exist() {
    let (mut files, mut tests) = (0, 0);
    for (number, line) in MAP.lines().enumerate().filter(|(_, line)| line.starts_with('|')) {
        for name in line.split('`').skip(1).step_by(2) {
            let found = match name.split_once("::") {
                // A setting, such as `Ecn::On`.
                Some((of, _)) if of.starts_with(char::is_uppercase) => true,
                Some((of, function)) if of.ends_with(".rs") => {
                    file(of).is_some_and(|path| has(&path, function))
                }
                Some((of, function)) => {
                    tests += 1;
                    has(&net().join(format!("tests/tcp/{of}.rs")), function)
                }
                None if name.ends_with(".rs") => {
                    files += 1;
                    file(name).is_some()
                }
                None => true,
            };
            assert!(found, "docs/RFC.md:{}: {name} is not there", number + 1);
        }
    }
    assert!(files > 100 && tests > 100, "{files} files and {tests} tests were read");
}

/// RFC 9293 appendix B: 69 requirements and 31 recommendations, each of which has a row.
#[test]
fn every_requirement_of_rfc_9293_has_a_row() {
    for (kind, count) in [("MUST", 69), ("SHLD", 31)] {
        let mut named = vec![false; count + 1];
        for line in MAP.lines().filter(|line| line.starts_with('|')) {
            let cell = line.split('|').nth(1).unwrap_or_default();
            // `MUST-4, 5, SHLD-20 to 22`: a number belongs to the label before it.
            let (mut label, mut last, mut range) = ("", 0, false);
            for word in cell.split([' ', ',']) {
                let number = match word.split_once('-') {
                    Some((new, number)) => {
                        label = new;
                        number
                    }
                    None => word,
                };
                if let Ok(number) = number.parse::<usize>() {
                    let from = if range { last } else { number };
                    if label == kind {
                        named[from..=number].fill(true);
                    }
                    last = number;
                }
                range = word == "to";
            }
        }
        let missing: Vec<usize> = (1..=count).filter(|number| !named[*number]).collect();
        assert!(missing.is_empty(), "no row for {kind}-{missing:?}");
    }
}
