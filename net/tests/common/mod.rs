//! What several test binaries use.

/// Gives the calling thread a network namespace of its own, which goes away with it.
/// On failure says so as a skipped test and returns `false`.
pub(crate) fn own_network() -> bool {
    let isolated = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET);
    let why = match isolated {
        Ok(()) if std::path::Path::new("/dev/net/tun").exists() => return true,
        Ok(()) => "there is no /dev/net/tun".to_owned(),
        Err(error) => format!("needs a network namespace (root, or `unshare -Urn`): {error}"),
    };
    println!("skipped: {why}");
    false
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
