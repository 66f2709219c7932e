//! `cargo xtask bench goodput`: the whole table, against the committed snapshot.

use std::process::ExitCode;

use clap::Parser;
use throng_sim::goodput::{self, Shape};

#[derive(Parser)]
struct Args {
    /// Only cells whose name contains this
    #[arg(long, default_value = "")]
    only: String,
    /// Write what has improved, and what is new, to the snapshot and to docs/GOODPUT.md
    #[arg(long)]
    update: bool,
    /// With --update: also what has become less
    #[arg(long)]
    lower: bool,
    /// What cargo passes to every bench
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("goodput: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> std::io::Result<bool> {
    let cells: Vec<Shape> =
        goodput::table().into_iter().filter(|cell| cell.name().contains(&args.only)).collect();
    let mut snapshot = goodput::snapshot()?;
    let (found, worse) = goodput::measure(&cells, &snapshot);
    worse.iter().for_each(|text| println!("WORSE: {text}"));
    if args.update {
        for (name, mbit) in found {
            let old = snapshot.get(&name).copied().unwrap_or(0.0);
            if mbit > old || args.lower {
                snapshot.insert(name, mbit);
            }
        }
        let text = serde_json::to_string_pretty(&snapshot)?;
        std::fs::write(goodput::snapshot_path(), text + "\n")?;
        goodput::write_document(&snapshot)?;
    }
    Ok(worse.is_empty())
}
