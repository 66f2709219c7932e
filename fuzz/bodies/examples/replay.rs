//! Runs one input: `cargo run -p throng-fuzz --example replay -- TARGET FILE`.

use std::process::ExitCode;

use throng_fuzz::TARGETS;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let (name, file) = (args.next().unwrap_or_default(), args.next().unwrap_or_default());
    let target = TARGETS.iter().find(|target| target.name == name);
    match (target, std::fs::read(&file)) {
        (Some(target), Ok(input)) => {
            (target.run)(&input);
            ExitCode::SUCCESS
        }
        (None, _) => {
            eprintln!("no target is called '{name}'");
            ExitCode::FAILURE
        }
        (_, Err(error)) => {
            eprintln!("{file}: {error}");
            ExitCode::FAILURE
        }
    }
}
