//! What several test binaries use.
#![allow(dead_code, reason = "each of them uses a part")]

/// Gives the calling thread a network namespace of its own, which goes away with it and the
/// threads it starts.
///
/// # Errors
/// Why it cannot have one with a TAP in it, for a test to say when it is skipped.
pub(crate) fn enter_network() -> Result<(), String> {
    let isolated = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET);
    isolated
        .map_err(|error| format!("needs a network namespace (root, or `unshare -Urn`): {error}"))?;
    match std::path::Path::new("/dev/net/tun").exists() {
        true => Ok(()),
        false => Err("there is no /dev/net/tun".to_owned()),
    }
}

/// The same; on failure says so as a skipped test and returns `false`.
pub(crate) fn own_network() -> bool {
    enter_network().map_err(|why| println!("skipped: {why}")).is_ok()
}

/// Runs `ip` with these arguments in the calling thread's namespace.
pub(crate) fn ip(arguments: &str) {
    try_ip(arguments).unwrap_or_else(|said| panic!("ip {arguments}: {said}"));
}

/// The same, and what it said when it failed.
pub(crate) fn try_ip(arguments: &str) -> Result<(), String> {
    let output = std::process::Command::new("ip").args(arguments.split_whitespace()).output();
    let output = output.map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if output.status.success() { Ok(()) } else { Err(said) }
}
