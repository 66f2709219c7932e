//! The shared object as packetdrill uses it: a program in C loads it and talks to it.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The shared object, which cargo puts beside this test or a directory above it.
fn library() -> PathBuf {
    let test = std::env::current_exe().expect("this test has a path");
    let beside = test.parent().expect("in a directory");
    let name = "libthrong_packetdrill.so";
    let places = [beside.join(name), beside.join("..").join(name)];
    let found = places.iter().find(|place| place.exists());
    found.unwrap_or_else(|| panic!("{name} is in none of {places:?}")).clone()
}

#[test]
fn a_program_in_c_drives_the_engine() {
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
    if Command::new(&compiler).arg("--version").output().is_err() {
        println!("skipped: there is no {compiler}");
        return;
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/door.c");
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("door");
    let built = Command::new(&compiler)
        .args(["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O1", "-pthread", "-o"])
        .args([&program, &source])
        .arg("-ldl")
        .output()
        .expect("the compiler runs");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let ran = Command::new(&program).arg(library()).output().expect("the program runs");
    let told = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success() && ran.stdout == b"passed\n", "{}: {told}", ran.status);
}
