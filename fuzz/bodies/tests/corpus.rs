//! The fuzz targets on stable: the committed corpus, and bytes of a seeded generator for a few
//! seconds each. `FUZZ_SECONDS` says for how long, `FUZZ_SEED` with which seed they begin.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use throng_fuzz::{TARGETS, Target};

fn target(name: &str) -> &'static Target {
    TARGETS.iter().find(|target| target.name == name).expect("a target")
}

/// Runs an input; where it panics, says how to do it again.
fn run(target: &Target, input: &[u8], what: &str) {
    let outcome = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    if let Err(panic) = outcome {
        let path = std::env::temp_dir().join(format!("fuzz-{}-failed", target.name));
        let kept = std::fs::write(&path, input).map(|()| path.display().to_string());
        eprintln!("{}: {what} fails; the input is in {kept:?}", target.name);
        resume_unwind(panic);
    }
}

/// Each file of the corpus and of the regressions.
fn replay(name: &str) {
    let target = target(name);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut count = 0;
    for folder in ["corpus", "regressions"] {
        let Ok(entries) = std::fs::read_dir(root.join(folder).join(name)) else { continue };
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("a file").path()).collect();
        files.sort();
        for file in files {
            let input = std::fs::read(&file).expect("a readable file");
            run(target, &input, &file.display().to_string());
            count += 1;
        }
    }
    assert!(count > 0, "no corpus for {name}");
}

/// Random inputs for a while.
fn random(name: &str) {
    let target = target(name);
    let number = |key: &str, default: u64| {
        std::env::var(key).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let time = Duration::from_secs(number("FUZZ_SECONDS", 2));
    let first = number("FUZZ_SEED", 1);
    let start = Instant::now();
    // Not less than so many, however slow the machine: the same on all.
    for count in 0u64.. {
        if count >= 50 && start.elapsed() >= time {
            println!("{name}: {count} random inputs");
            break;
        }
        let seed = first + count;
        let mut state = seed;
        let mut next = || {
            // SplitMix64.
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        };
        let length = next() as usize % (2 * target.length);
        let input: Vec<u8> = (0..length).map(|_| next() as u8).collect();
        run(target, &input, &format!("seed {seed}"));
    }
}

macro_rules! targets {
    ($($name:ident)*) => {$(
        mod $name {
            #[test]
            fn corpus_holds() {
                super::replay(stringify!($name));
            }

            #[test]
            fn random_input_holds() {
                super::random(stringify!($name));
            }
        }
    )*};
}

targets! { wire engine duel websocket http1 heads }

#[test]
fn every_target_is_here() {
    assert_eq!(TARGETS.len(), 6);
}
