//! Instructions of a program, counted by valgrind: the same figure on a noisy machine.

use std::io;
use std::process::Command;

/// Runs `program` with `args` under callgrind. Returns the instructions it executed.
///
/// It gets no environment: the size of that moves the stack, and with it what a copy costs.
///
/// # Errors
/// When valgrind is missing (Debian: `apt-get install valgrind`), the program fails, or
/// valgrind's output has no total.
pub fn instructions(program: &std::path::Path, args: &[String]) -> io::Result<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .args(args)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .output()
        .map_err(|error| io::Error::new(error.kind(), format!("valgrind: {error}")))?;
    let text = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(io::Error::other(format!("{} {args:?}: {text}", program.display())));
    }
    let total = text.lines().find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok());
    total.ok_or_else(|| io::Error::other(format!("no total in what valgrind said: {text}")))
}
