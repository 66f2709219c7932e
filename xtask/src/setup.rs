//! `cargo xtask setup`: installs what is missing, or says exactly what to run.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use crate::host;
use crate::hugepages;
use crate::process::Cmd;

/// One Debian package and how to see that what we want of it is there.
struct Package {
    name: &'static str,
    probe: Probe,
    why: &'static str,
}

enum Probe {
    Program(&'static str),
    Dpdk,
    Libclang,
    Venv,
}

use Probe::{Dpdk, Libclang, Program, Venv};

/// What building and running with DPDK takes.
const BUILD: &[Package] = &[
    Package { name: "pkg-config", probe: Program("pkg-config"), why: "finds libdpdk" },
    Package { name: "libdpdk-dev", probe: Dpdk, why: "feature dpdk" },
    Package { name: "libclang-dev", probe: Libclang, why: "bindgen, for feature dpdk" },
];

/// What the benches and the test of their counts count with.
const BENCH: &[Package] =
    &[Package { name: "valgrind", probe: Program("valgrind"), why: "counts instructions" }];

/// What the tests drive the servers with.
const TOOLS: &[Package] = &[
    Package { name: "iproute2", probe: Program("ip"), why: "links and addresses" },
    Package { name: "ethtool", probe: Program("ethtool"), why: "checksum offload of veth" },
    Package { name: "nftables", probe: Program("nft"), why: "a router that marks" },
    Package { name: "iputils-ping", probe: Program("ping"), why: "ICMP and fragments" },
    Package { name: "dnsmasq-base", probe: Program("dnsmasq"), why: "DHCP server" },
    Package { name: "curl", probe: Program("curl"), why: "HTTP/1.1 and HTTP/2 client" },
    Package { name: "wrk", probe: Program("wrk"), why: "HTTP load" },
    Package { name: "nginx-light", probe: Program("nginx"), why: "HTTP server for our client" },
    Package { name: "haproxy", probe: Program("haproxy"), why: "a balancer beside ours" },
    Package { name: "nghttp2-client", probe: Program("h2load"), why: "HTTP/2 load" },
    Package { name: "redis-server", probe: Program("redis-server"), why: "peer of an example" },
    Package { name: "openssl", probe: Program("openssl"), why: "certificates, TLS client" },
    Package { name: "chromium", probe: Program("chromium"), why: "pages over TLS, the demo's" },
    Package { name: "tshark", probe: Program("tshark"), why: "captures and their judgement" },
    Package { name: "tcpdump", probe: Program("tcpdump"), why: "judges the capture filter" },
    Package { name: "prometheus", probe: Program("promtool"), why: "promtool judges metrics" },
    Package { name: "python3-venv", probe: Venv, why: "websockets, kosoku, grpcio" },
];

/// Those of them that the comparisons take: peers, and checks of our generator.
const PEERS: &[&str] = &["iproute2", "nginx-light", "wrk", "haproxy", "nghttp2-client"];

/// What `cargo xtask test --guest` takes beside those.
const GUEST: &[Package] = &[
    Package { name: "qemu-system-x86", probe: Program("qemu-system-x86_64"), why: "the guest" },
    Package { name: "busybox-static", probe: Program("busybox"), why: "the guest's user land" },
];

/// Python packages and their versions, for the virtual environment under `target/`.
const PYTHON: &[&str] = &["websockets==17.4", "kosoku==0.1.0", "grpcio==1.85.1"];

/// The version of cargo-deny that is built into `target/tools`.
const CARGO_DENY: &str = "0.20.2";
/// The version of cargo-fuzz.
const CARGO_FUZZ: &str = "0.13.2";

/// Hugepages of 2 MiB that demo, test and bench reserve while they run.
pub(crate) const HUGEPAGES: u64 = 512;

/// What a command is about to need.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// Building with DPDK, and running.
    Build,
    /// All of the tests.
    Everything,
    /// The benches.
    Bench,
    /// The comparisons with peers.
    Compare,
    /// The guest's test.
    Guest,
}

/// `cargo xtask setup`.
pub(crate) fn command() -> io::Result<ExitCode> {
    packages(Need::Everything)?;
    let mut fine = missing(Need::Everything).is_empty();
    for (what, result) in [("python", python().map(drop)), ("cargo-deny", cargo_deny().map(drop))] {
        match result {
            Ok(()) => println!("{what}: ready"),
            Err(why) => {
                println!("{what}: {why}");
                fine = false;
            }
        }
    }
    match hugepages::count() {
        None => println!("hugepages: this kernel has none; everything runs without"),
        Some(have) if have >= HUGEPAGES => println!("hugepages: {have}"),
        Some(_) if host::is_root() => {
            // Where it may not be written, as in most containers, all works without.
            match std::fs::write(hugepages::COUNT, HUGEPAGES.to_string()) {
                Ok(()) => {
                    println!("hugepages: {} of {HUGEPAGES}", hugepages::count().unwrap_or(0));
                }
                Err(error) => println!("hugepages: {}: {error}", hugepages::COUNT),
            }
        }
        Some(have) => println!(
            "hugepages: {have}; everything runs without them, faster with:\n    \
             echo {HUGEPAGES} | sudo tee /proc/sys/vm/nr_hugepages"
        ),
    }
    if let Err(why) = host::can_own_network() {
        println!("network namespaces: {why}; tests against the kernel will be skipped");
        fine = false;
    }
    println!("{}", if fine { "set-up: complete" } else { "set-up: incomplete, see above" });
    Ok(if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Installs the Debian packages that are missing, when we may, or says what to run. What is
/// missing after it is each user's own business: a build without DPDK, a skipped test.
pub(crate) fn packages(need: Need) -> io::Result<()> {
    let missing = missing(need);
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = missing.iter().map(|package| package.name).collect();
    let install = format!("apt-get install -y --no-install-recommends {}", names.join(" "));
    for package in &missing {
        println!("missing: {} ({})", package.name, package.why);
    }
    if host::find_program("apt-get").is_none() {
        println!("This is not a Debian; install the packages that hold these by hand.");
        return Ok(());
    }
    let Some(prefix) = privilege() else {
        println!("Not root: run this once, then again what you ran:\n    sudo {install}");
        return Ok(());
    };
    println!("installing: {}", names.join(" "));
    let log = host::logs().join("apt.log");
    // An old list of packages is the usual cause of a failed install, so it is renewed first.
    for line in ["apt-get update -q", &install] {
        let mut words = line.split(' ');
        let done = Cmd::new(words.next().unwrap_or("apt-get"))
            .args(words)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .wrapped(prefix)
            .limit(Duration::from_secs(600))
            .log(&log)
            .run()?;
        if !done.ok() {
            println!("{line}: {}\n{}", done.how(), done.tail(15));
        }
    }
    for package in self::missing(need) {
        println!("still missing: {} ({})", package.name, package.why);
    }
    Ok(())
}

/// What goes in front of a command that must be root's; `None` when we cannot be root.
fn privilege() -> Option<&'static [&'static str]> {
    if host::is_root() {
        return Some(&[]);
    }
    let sudo = Cmd::new("sudo").args(["-n", "true"]).limit(Duration::from_secs(10)).run();
    matches!(sudo, Ok(done) if done.ok()).then_some(&["sudo", "-n"])
}

fn missing(need: Need) -> Vec<&'static Package> {
    let wanted = |package: &&Package| match need {
        Need::Build | Need::Bench => false,
        Need::Compare => PEERS.contains(&package.name),
        Need::Everything | Need::Guest => true,
    };
    let tools = TOOLS.iter().filter(wanted);
    let guest = if need == Need::Guest { GUEST } else { &[] };
    let bench = if matches!(need, Need::Bench | Need::Everything) { BENCH } else { &[] };
    let there = |package: &&Package| match package.probe {
        Program(program) => host::find_program(program).is_some(),
        Dpdk => host::pkg_config("libdpdk", "22.11"),
        Libclang => host::has_libclang(),
        Venv => can_make_venv(),
    };
    BUILD.iter().chain(tools).chain(guest).chain(bench).filter(|package| !there(package)).collect()
}

/// Debian's own interpreter, for which `python3-venv` is; else the first on the PATH.
fn interpreter() -> &'static str {
    if std::path::Path::new("/usr/bin/python3").exists() { "/usr/bin/python3" } else { "python3" }
}

fn can_make_venv() -> bool {
    let probe = Cmd::new(interpreter())
        .args(["-c", "import venv, ensurepip"])
        .limit(Duration::from_secs(30))
        .run();
    matches!(probe, Ok(done) if done.ok())
}

/// The Python of a virtual environment with our clients in it, made when it is not there.
///
/// # Errors
/// Why it is not to be had.
pub(crate) fn python() -> Result<PathBuf, String> {
    let venv = host::target().join("venv");
    let python = venv.join("bin/python");
    // Says which versions are in it: other versions make it anew.
    let stamp = venv.join("throng-packages");
    let wanted = PYTHON.join("\n");
    if std::fs::read_to_string(&stamp).is_ok_and(|have| have == wanted) && python.exists() {
        return Ok(python);
    }
    let log = host::logs().join("python.log");
    let make = Cmd::new(interpreter()).args(["-m", "venv", "--clear"]).arg(&venv);
    let install = Cmd::new(&python)
        .args(["-m", "pip", "install", "--quiet", "--only-binary", ":all:"])
        .args(PYTHON);
    for command in [make, install] {
        let command = command.log(&log).limit(Duration::from_secs(300));
        let done = command.run();
        match done {
            Ok(done) if done.ok() => {}
            Ok(done) => return Err(format!("{}: {}", command.line(), done.tail(5))),
            Err(error) => return Err(error.to_string()),
        }
    }
    std::fs::write(&stamp, wanted).map_err(|error| format!("{}: {error}", stamp.display()))?;
    Ok(python)
}

/// cargo-deny in our version: from the PATH, or built into `target/tools`.
///
/// # Errors
/// Why it is not to be had.
pub(crate) fn cargo_deny() -> Result<PathBuf, String> {
    cargo_tool("cargo-deny", CARGO_DENY)
}

/// cargo-fuzz, likewise.
///
/// # Errors
/// Why it is not to be had.
pub(crate) fn cargo_fuzz() -> Result<PathBuf, String> {
    cargo_tool("cargo-fuzz", CARGO_FUZZ)
}

fn cargo_tool(name: &str, version: &str) -> Result<PathBuf, String> {
    if find_cargo_tool(name, version).is_none() {
        println!("building {name} {version} (once, about a minute)");
        let build = build_cargo_tool(name, version);
        match build.run() {
            Ok(done) if done.ok() => {}
            Ok(done) => return Err(format!("{}: {}\n{}", build.line(), done.how(), done.tail(10))),
            Err(error) => return Err(error.to_string()),
        }
    }
    let _ = std::fs::remove_dir_all(tools().join("build"));
    find_cargo_tool(name, version).ok_or_else(|| format!("{name} {version} does not run"))
}

fn tools() -> PathBuf {
    host::target().join("tools")
}

fn find_cargo_tool(name: &str, version: &str) -> Option<PathBuf> {
    let fits = |program: &PathBuf| {
        let done = Cmd::new(program).arg("--version").limit(Duration::from_secs(20)).run();
        matches!(done, Ok(done) if done.output.trim().ends_with(version))
    };
    let ours = tools().join("bin").join(name);
    [Some(ours), host::find_program(name)]
        .into_iter()
        .flatten()
        .find(|program| program.exists() && fits(program))
}

/// Unoptimised: it builds in a third of the time and has little to do itself.
fn build_cargo_tool(name: &str, version: &str) -> Cmd {
    crate::cargo::cargo(["install", "--locked", "--debug", "--quiet"])
        .arg("--root")
        .arg(tools())
        .arg("--target-dir")
        .arg(tools().join("build"))
        .args(["--version", version, name])
        .env("CARGO_PROFILE_DEV_DEBUG", "0")
        .env("CARGO_INCREMENTAL", "0")
        .log(host::logs().join(format!("{name}-build.log")))
        .limit(Duration::from_secs(900))
}
