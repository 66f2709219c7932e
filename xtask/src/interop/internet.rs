//! What lies between a server and its clients: the kernel as a client behind a router that marks
//! for congestion, a router whose next link is narrow, and a flood of SYNs from beside it.
//!
//! ```text
//! server -- tin0, the router: this namespace -- tcl0 .. tcl1, the client: one of its own
//! ```

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use super::checks::{self, Verdict};
use super::counters::{ADMIN, Counters};
use super::inside::Run;
use super::link::{self, KERNEL_V4, KERNEL_V6, SERVER_V4, SERVER_V6};
use crate::process::{Background, Cmd};

const TAP: &str = "tin0";
const ROUTER_V4: &str = "10.79.0.1";
const ROUTER_V6: &str = "fd79::1";
const CLIENT_V4: &str = "10.79.0.2";
const CLIENT_V6: &str = "fd79::2";
/// Half-open connections that the server keeps; a flood has more in its first tenth of a second.
const HALF_OPEN: u32 = 64;
const FLOOD: u32 = 2_000;
const FLOOD_SECONDS: u32 = 4;
/// Connections made during the flood.
const CLIENTS: u32 = 40;
/// The narrow link.
const NARROW: u32 = 1_300;

/// Marks some of what may be marked, and counts what the rules of RFC 3168 have follow it.
const MARKER: &str = "table inet internet {
    counter asked {}
    counter granted {}
    counter marked {}
    counter server_echoes {}
    counter server_slows {}
    counter client_echoes {}
    counter client_slows {}
    chain forward {
        type filter hook forward priority 0; policy accept;
        tcp flags & (syn|ack|ecn|cwr) == syn|ecn|cwr counter name asked
        tcp flags & (syn|ack|ecn|cwr) == syn|ack|ecn counter name granted
        iifname tin0 tcp flags & (syn|ecn) == ecn counter name server_echoes
        iifname tin0 tcp flags & (syn|cwr) == cwr counter name server_slows
        iifname tcl0 tcp flags & (syn|ecn) == ecn counter name client_echoes
        iifname tcl0 tcp flags & (syn|cwr) == cwr counter name client_slows
        ip ecn ect0 limit rate 20/second burst 1 packets ip ecn set ce counter name marked
        ip6 ecn ect0 limit rate 20/second burst 1 packets ip6 ecn set ce counter name marked
    }
}
";

/// The server on its link, and the client's namespace, which lasts as long as its process.
struct Lab {
    server: Background,
    holder: Background,
    /// What puts a command into the client's namespace.
    enter: Vec<String>,
}

/// Runs the checks against the server at `program`.
pub(crate) fn all(run: &mut Run, program: &Path) {
    let mut lab = None;
    run.check("router", |run| {
        lab = Some(Lab::start(run, program)?);
        Ok("the client is across a router".into())
    });
    let Some(lab) = lab else { return };
    for (family, address) in [("IPv4", SERVER_V4), ("IPv6", SERVER_V6)] {
        run.check(&format!("ECN to the kernel {family}"), |run| lab.marked_down(run, address));
        run.check(&format!("ECN from the kernel {family}"), |run| lab.marked_up(run, address));
        run.check(&format!("a narrow hop {family}"), |run| lab.narrow(run, address));
    }
    run.check("a flood", |run| lab.flooded(run));
    run.check("graceful end", |_| {
        let Lab { server, holder, .. } = lab;
        drop(holder.stop(Signal::SIGKILL, Duration::from_secs(5)));
        checks::ends_gracefully(server)
    });
}

impl Lab {
    fn start(run: &Run, program: &Path) -> Result<Lab, String> {
        let failed = |what: &str, error: std::io::Error| format!("{what}: {error}");
        let config = run.logs.join("server.toml");
        let limits = format!("[limits]\nhalf_open = {HALF_OPEN}\n");
        std::fs::write(&config, limits).map_err(|error| failed("server.toml", error))?;
        let log = run.logs.join("server.log");
        let server = Cmd::new(program)
            .env("THRONG_CONFIG", &config)
            .env("THRONG_DEVICE", format!("tap:{TAP}"))
            .env("THRONG_ADDRESS", format!("{SERVER_V4}/24,{SERVER_V6}/64"))
            .env("THRONG_GATEWAY", format!("{KERNEL_V4},{KERNEL_V6}"))
            .env("THRONG_SHARDS", "1")
            .env("THRONG_IDLE", "adaptive")
            .env("THRONG_ADMIN", ADMIN)
            .env("RUST_LOG", "info")
            .log(&log)
            .background()
            .map_err(|error| failed("server", error))?;
        link::bring_up("lo", &[])?;
        link::bring_up(TAP, &[&format!("{KERNEL_V4}/24"), &format!("{KERNEL_V6}/64")])?;

        let holder = Cmd::new("unshare").args(["--net", "sleep", "300"]).background();
        let mut holder = holder.map_err(|error| failed("unshare", error))?;
        let pid = holder.id().to_string();
        // It has a namespace of its own once it has become `sleep`.
        let comm = format!("/proc/{pid}/comm");
        let start = Instant::now();
        while std::fs::read_to_string(&comm).unwrap_or_default().trim() != "sleep" {
            if !holder.alive() || start.elapsed() > Duration::from_secs(10) {
                return Err("no namespace for the client".into());
            }
            thread::sleep(Duration::from_millis(10));
        }
        let enter = ["nsenter", "--target", &pid, "--net"].map(String::from).to_vec();
        let inside = |line: &str| link::run(&format!("{} {line}", enter.join(" ")));
        link::run(&format!("ip link add tcl0 type veth peer name tcl1 netns {pid}"))?;
        link::bring_up("tcl0", &[&format!("{ROUTER_V4}/24"), &format!("{ROUTER_V6}/64")])?;
        inside("ip link set lo up")?;
        inside("ip link set tcl1 up")?;
        inside(&format!("ip address add {CLIENT_V4}/24 dev tcl1"))?;
        inside(&format!("ip address add {CLIENT_V6}/64 dev tcl1 nodad"))?;
        inside(&format!("ip route add default via {ROUTER_V4}"))?;
        inside(&format!("ip -6 route add default via {ROUTER_V6}"))?;
        // It asks for ECN.
        let ask = ["-c", "echo 1 > /proc/sys/net/ipv4/tcp_ecn"];
        let asking = Cmd::new("sh").args(ask).wrapped(enter.clone());
        checks::succeeds(asking.limit(Duration::from_secs(10)), 1)?;
        link::setting("net/ipv4/ip_forward", "1")?;
        link::setting("net/ipv6/conf/all/forwarding", "1")?;
        // Where the flood's addresses are.
        link::run("ip route add blackhole 10.99.0.0/16")?;
        let lab = Lab { server, holder, enter };
        let start = Instant::now();
        for host in [SERVER_V4, SERVER_V6] {
            while let Err(why) = lab.client(run, &["echo", host, "1"]) {
                if start.elapsed() > Duration::from_secs(20) {
                    let said = std::fs::read_to_string(&log).unwrap_or_default();
                    return Err(format!("{why}\nthe server said:\n{said}"));
                }
                thread::sleep(Duration::from_millis(200));
            }
        }
        Ok(lab)
    }

    /// What our client of the kernel's says, in its namespace.
    fn client(&self, run: &Run, words: &[&str]) -> Result<Value, String> {
        said(script(run, words).wrapped(self.enter.clone()))
    }

    fn get(&self, run: &Run, host: &str, length: u64) -> Result<Value, String> {
        let said = self.client(run, &["get", host, &length.to_string()])?;
        if said["bytes"] != length {
            return Err(format!("{said}, not {length} bytes"));
        }
        Ok(said)
    }

    fn marked_down(&self, run: &Run, host: &str) -> Verdict {
        let before = Counters::read()?;
        let marker = Marker::start()?;
        let said = self.get(run, host, 20_000_000)?;
        let seen = marker.counters()?;
        let after = Counters::read()?;
        has(&said, &["ecn", "ecn_seen"])?;
        let reductions = after.since(&before, "throng_tcp_ecn_reductions_total")?;
        for what in ["asked", "granted", "marked", "client_echoes", "server_slows"] {
            if seen(what) == 0 {
                return Err(format!("no segment was {what}; {said}"));
            }
        }
        // Once a window: CWR answers echoes, and no mark goes without a reduction for long.
        if reductions == 0 || reductions > seen("marked") {
            return Err(format!("{reductions} reductions for {} marks", seen("marked")));
        }
        Ok(format!("{} marked, {reductions} reductions", seen("marked")))
    }

    fn marked_up(&self, run: &Run, host: &str) -> Verdict {
        let before = Counters::read()?;
        let marker = Marker::start()?;
        let said = self.client(run, &["put", host, "20000000"])?;
        let seen = marker.counters()?;
        let marks = Counters::read()?.since(&before, "throng_tcp_ecn_marks_total")?;
        has(&said, &["ecn"])?;
        for what in ["marked", "server_echoes", "client_slows"] {
            if seen(what) == 0 {
                return Err(format!("no segment was {what}; {said}"));
            }
        }
        if marks == 0 {
            return Err(format!("none of {} marks came", seen("marked")));
        }
        Ok(format!("{} marked, the client slowed down {}", seen("marked"), seen("client_slows")))
    }

    fn narrow(&self, run: &Run, host: &str) -> Verdict {
        let before = Counters::read()?;
        link::run(&format!("ip link set tcl0 mtu {NARROW}"))?;
        let said = self.get(run, host, 5_000_000);
        link::run("ip link set tcl0 mtu 1500")?;
        let (said, after) = (said?, Counters::read()?);
        let lowered = after.since(&before, "throng_tcp_path_mtu_lowered_total")?;
        let suspected = after.since(&before, "throng_tcp_path_mtu_suspected_total")?;
        if (lowered, suspected) != (1, 0) {
            return Err(format!("lowered {lowered} times by ICMP, {suspected} by guesses; {said}"));
        }
        Ok(format!("{} ms for 5 MB", said["ms"]))
    }

    fn flooded(&self, run: &Run) -> Verdict {
        let before = Counters::read()?;
        let (rate, seconds) = (FLOOD.to_string(), FLOOD_SECONDS.to_string());
        let flood = script(run, &["flood", SERVER_V4, &rate, &seconds]);
        let flood = flood.background().map_err(|error| format!("flood: {error}"))?;
        thread::sleep(Duration::from_millis(500));
        let said = self.client(run, &["echo", SERVER_V4, &CLIENTS.to_string()]);
        let ended = flood.wait(Duration::from_secs(20));
        let (said, after) = (said?, Counters::read()?);
        if !ended.is_ok_and(|(status, killed)| status.success() && !killed) {
            return Err("the flood failed".into());
        }
        has(&said, &["timestamps", "sack", "wscale", "ecn"])?;
        let (sent, accepted) = (
            after.since(&before, "throng_tcp_syn_cookies_sent_total")?,
            after.since(&before, "throng_tcp_syn_cookies_accepted_total")?,
        );
        if sent < u64::from(FLOOD) || accepted < u64::from(CLIENTS / 2) {
            return Err(format!("{sent} cookies sent, {accepted} came back; {said}"));
        }
        Ok(format!("{accepted} of {CLIENTS} by cookies, {sent} sent"))
    }
}

fn script(run: &Run, words: &[&str]) -> Cmd {
    let path = crate::host::root().join("interop/internet.py");
    Cmd::new(&run.python).arg(path).args(words).limit(Duration::from_secs(40))
}

/// The line of JSON that a command prints.
fn said(command: Cmd) -> Result<Value, String> {
    let done = command.run().map_err(|error| error.to_string())?;
    if !done.ok() {
        return Err(format!("{}: {}\n{}", command.line(), done.how(), done.tail(5)));
    }
    serde_json::from_str(&done.tail(1)).map_err(|error| format!("{error}: {}", done.tail(3)))
}

/// Whether the connection that `said` is about has these options.
fn has(said: &Value, options: &[&str]) -> Result<(), String> {
    let there = said["options"].as_array().cloned().unwrap_or_default();
    match options.iter().find(|option| !there.contains(&Value::from(**option))) {
        Some(missing) => Err(format!("no {missing}: {said}")),
        None => Ok(()),
    }
}

/// The router's rules that mark; gone when dropped.
struct Marker;

impl Marker {
    fn start() -> Result<Marker, String> {
        let rules = Cmd::new("nft").arg(MARKER).limit(Duration::from_secs(10));
        let done = rules.run().map_err(|error| format!("nft: {error}"))?;
        if done.ok() { Ok(Marker) } else { Err(format!("nft: {}", done.output.trim())) }
    }

    /// What was counted, by name.
    fn counters(&self) -> Result<impl Fn(&str) -> u64, String> {
        let list = said(Cmd::new("nft").args(["-j", "list", "counters"]).stdout_only())?;
        Ok(move |name: &str| {
            let all = list["nftables"].as_array().into_iter().flatten();
            let mut named = all.filter(|item| item["counter"]["name"] == name);
            named.next().and_then(|item| item["counter"]["packets"].as_u64()).unwrap_or(0)
        })
    }
}

impl Drop for Marker {
    fn drop(&mut self) {
        drop(link::run("nft delete table inet internet"));
    }
}
