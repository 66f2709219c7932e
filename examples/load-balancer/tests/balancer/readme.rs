//! The README's walk-through, as its reader types it.

use std::fmt::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::world::{PROGRAM, World};

/// The commands of the README, each with a word for where it does not print what it should.
fn script() -> String {
    let readme = include_str!("../../README.md");
    let mut script = String::from(
        "set -eu -o pipefail\ntrap 'kill ${lb:-} ${a:-} ${b:-} 2>/dev/null || true' EXIT\n",
    );
    for block in readme.split("\n```sh\n").skip(1) {
        let (block, _) = block.split_once("\n```").unwrap();
        for line in block.lines() {
            let _ = match line.split_once("# prints ") {
                None => writeln!(script, "{line}"),
                Some((command, wanted)) => writeln!(
                    script,
                    "said=$({command})\nif [[ $said != *'{wanted}'* ]]; then\n\
                     echo '{}: not {wanted}, but:' \"$said\"; exit 1; fi",
                    command.replace('\'', ".").trim()
                ),
            };
        }
    }
    script
}

#[test]
fn the_walk_through_is_true() {
    let Some(mut world) = World::new() else { return };
    for program in ["bash", "curl", "python3"] {
        if Command::new(program).arg("--version").stdout(Stdio::null()).status().is_err() {
            println!("skipped: {program} is not installed");
            return;
        }
    }
    let script = script();
    assert!(script.matches("said=$(").count() >= 9, "{script}");
    world.write("walk", &script);
    let folder = world.path("empty");
    std::fs::create_dir(&folder).unwrap();
    let programs = Path::new(PROGRAM).parent().unwrap().display();
    let path = std::env::var("PATH").unwrap_or_default();
    let walk = Command::new("bash")
        .arg(world.path("walk"))
        .current_dir(&folder)
        .env("PATH", format!("{programs}:{path}"))
        .env("THRONG_IDLE", "adaptive")
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .stdout(std::fs::File::create(world.path("said")).unwrap())
        .spawn()
        .unwrap();
    let walk = world.adopt(walk);
    let fine = world.ended(walk);
    let (said, log) = (world.read("said"), world.read("empty/lb.log"));
    assert!(fine, "{said}\n{log}");
}
