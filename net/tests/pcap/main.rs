//! Captures of live shards: the filter against tcpdump, the file against tshark, the limits.

mod filter;
mod live;

use std::path::Path;

/// Whether `program` is installed; says so as a skipped test where it is not.
fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .chain([Path::new("/usr/sbin").to_owned()])
        .any(|folder| folder.join(program).exists());
    if !found {
        println!("skipped: there is no {program}");
    }
    found
}
