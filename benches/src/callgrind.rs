//! Instructions of a program, counted by valgrind: the same figure on a noisy machine.

use std::io;
use std::path::Path;
use std::process::Command;

/// Runs `program` with `args` under callgrind. Returns the instructions it executed.
///
/// It gets no environment: the size of that moves the stack, and with it what a copy costs.
///
/// # Errors
/// When valgrind is missing (Debian: `apt-get install valgrind`), the program fails, or
/// valgrind's output has no total.
pub fn instructions(program: &Path, args: &[String]) -> io::Result<u64> {
    let text = run(program, args, &["--callgrind-out-file=/dev/null".to_owned()])?;
    let total = text.lines().find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok());
    total.ok_or_else(|| io::Error::other(format!("no total in what valgrind said: {text}")))
}

/// Runs it likewise. Returns where the instructions are, for [`profile::parts`](crate::profile::parts).
///
/// # Errors
/// As above, and when the profile cannot be written.
pub fn profile(program: &Path, args: &[String]) -> io::Result<String> {
    let file = std::env::temp_dir().join(format!("throng-callgrind-{}", std::process::id()));
    let out = format!("--callgrind-out-file={}", file.display());
    let more = [out, "--compress-strings=no".to_owned(), "--compress-pos=no".to_owned()];
    let text = run(program, args, &more).and_then(|_| std::fs::read_to_string(&file));
    let _ = std::fs::remove_file(&file);
    text
}

/// What valgrind says.
fn run(program: &Path, args: &[String], more: &[String]) -> io::Result<String> {
    let output = Command::new("valgrind")
        .arg("--tool=callgrind")
        .args(more)
        .arg(program)
        .args(args)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .output()
        .map_err(|error| io::Error::new(error.kind(), format!("valgrind: {error}")))?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        return Err(io::Error::other(format!("{} {args:?}: {text}", program.display())));
    }
    Ok(text)
}
