//! What this machine has: privileges, tools, libraries, and where our files go.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::process::Cmd;

/// We are root, and not only in a user namespace of somebody's: that root owns no hugepages,
/// installs no package and loads no XDP program.
pub(crate) fn is_root() -> bool {
    // The initial namespace maps all numbers to themselves.
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let whole = map.split_whitespace().eq(["0", "0", "4294967295"]);
    nix::unistd::geteuid().is_root() && (whole || map.is_empty())
}

/// The workspace's directory.
pub(crate) fn root() -> &'static Path {
    // xtask is a member of the workspace, one level below it.
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// Cargo's target directory: the one that this program was built in, for a variable or any of
/// cargo's configuration files may have named another than `target`.
pub(crate) fn target() -> PathBuf {
    let built = std::env::current_exe().ok();
    match built.as_deref().and_then(|program| program.ancestors().nth(2)) {
        Some(dir) => dir.to_owned(),
        None => root().join("target"),
    }
}

/// Where a run leaves its logs, captures and reports.
pub(crate) fn logs() -> PathBuf {
    target().join("throng-test")
}

/// Where `program` is, if it can be run.
pub(crate) fn find_program(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        // A user's PATH need not have the directories of ip and ethtool.
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

/// pkg-config knows `library` in at least this version.
pub(crate) fn pkg_config(library: &str, at_least: &str) -> bool {
    let probe = Cmd::new("pkg-config")
        .arg(format!("--atleast-version={at_least}"))
        .arg(library)
        .limit(Duration::from_secs(30))
        .run();
    matches!(probe, Ok(done) if done.ok())
}

/// libclang, which bindgen loads at build time, is where it is looked for.
pub(crate) fn has_libclang() -> bool {
    if std::env::var_os("LIBCLANG_PATH").is_some() {
        return true;
    }
    let found = |dir: &Path| {
        std::fs::read_dir(dir).is_ok_and(|entries| {
            entries.flatten().any(|entry| {
                let name = entry.file_name();
                let name = name.to_string_lossy();
                name.starts_with("libclang") && name.contains(".so") && !name.contains("cpp")
            })
        })
    };
    let llvm = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    llvm.filter(|entry| entry.file_name().to_string_lossy().starts_with("llvm"))
        .any(|entry| found(&entry.path().join("lib")))
        || ["/usr/lib", "/usr/lib64", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu"]
            .iter()
            .any(|dir| found(Path::new(dir)))
}

/// The feature `dpdk` can be built here; if not, why.
pub(crate) fn dpdk() -> Result<(), String> {
    if !pkg_config("libdpdk", "22.11") {
        Err("libdpdk >= 22.11 was not found by pkg-config (Debian: libdpdk-dev)".into())
    } else if !has_libclang() {
        Err("libclang, which bindgen needs, was not found (Debian: libclang-dev)".into())
    } else {
        Ok(())
    }
}

/// The words that put a command into a network namespace of its own, with loopback up and
/// a `/sys` that shows it: `unshare ... sh -c ... sh`. Works for root and, where
/// the kernel allows user namespaces, for everyone. All that the command started dies with it.
pub(crate) fn own_network() -> Vec<String> {
    let mut words: Vec<String> =
        ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
            .map(String::from)
            .into();
    if !is_root() {
        words.insert(1, "--map-root-user".into());
        words.insert(1, "--user".into());
    }
    let inside = "mount -t sysfs sysfs /sys 2>/dev/null; \
                  PATH=$PATH:/usr/sbin:/sbin; ip link set lo up; exec \"$@\"";
    words.extend(["sh", "-c", inside, "sh"].map(String::from));
    words
}

/// A network namespace of our own can be had; if not, why.
pub(crate) fn can_own_network() -> Result<(), String> {
    let probe = Cmd::new("true").wrapped(own_network()).limit(Duration::from_secs(20)).run();
    match probe {
        Ok(done) if done.ok() => Ok(()),
        Ok(done) => Err(format!("unshare: {}: {}", done.how(), done.output.trim())),
        Err(error) => Err(error.to_string()),
    }
}
