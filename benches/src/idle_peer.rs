//! What an idle connection takes of a peer on the host's sockets: the server's memory and the kernel's.
//!
//! The clients are those that Throng's server has, behind a TAP: they have no sockets, so that the
//! kernel's are the server's alone.

use std::io;
use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use throng::net::device::tap;

use crate::clocked::{Clocked, PATIENCE};
use crate::crowd::{Crowd, PORT, SERVER, Wish};
use crate::helper::Helper;
use crate::memory::{Kernel, proportional};
use crate::network;
use crate::subject::{no_peers, peers_program};
use crate::web::{Files, Site, Web};

/// Connections of one process, which may have 20,000 descriptors on many machines; the kernel
/// divides them by chance, so not to the last one.
const PER_PROCESS: u32 = 16_000;
/// Clients on their way at a time.
const AT_ONCE: u32 = 128;
/// How long all are silent before memory is measured.
const REST: Duration = Duration::from_secs(2);
/// Bytes of a page: `hello`.
const PAGE: usize = 6;
/// Connections that a web server has room for which is to be small.
const FEW: u32 = 64;
const INTERFACE: &str = "idle-peer";

/// Opens `connections` to the peer named `kind`, of `benches/peers` or Debian's, and returns bytes of each. To be called
/// before the first thread starts: it moves to a network namespace of its own.
///
/// # Errors
/// No rights, no such peer, or a client that does not come through.
pub fn measure(kind: &str, connections: u32) -> io::Result<Value> {
    network::own()?;
    for file in ["core/somaxconn", "ipv4/tcp_max_syn_backlog"] {
        std::fs::write(format!("/proc/sys/net/{file}"), "65535")?;
    }
    // The kernel fills in all checksums, and cuts what is long.
    let options = tap::Options { offload: false, ..tap::Options::default() };
    let queue = tap::open(INTERFACE, 1, &options)?.pop();
    let queue = queue.ok_or_else(|| io::Error::other("a TAP without a queue"))?;
    network::bring_up(INTERFACE, &format!("{SERVER}/8"))?;
    let files = Files::new()?;
    let count = connections.div_ceil(PER_PROCESS);
    let room = connections / count + connections / count / 8 + 64;
    // A web server has memory for all its connections from the beginning: it is theirs.
    let small = match Web::by_name(kind) {
        Some(_) => Some(memory(&start(kind, &files, count, FEW)?)?),
        None => None,
    };
    let servers = start(kind, &files, count, room)?;
    let user = || memory(&servers);
    let wish = if is_of_pages(kind) { Wish::Page } else { Wish::WebSocket };
    let mut crowd = Clocked::new(Crowd::new(wish, AT_ONCE, connections), queue)?;
    crowd.rest(Duration::from_millis(500));
    let before = (small.map_or_else(user, Ok)?, Kernel::now()?);
    crowd.open(connections)?;
    crowd.rest(REST);
    let after = (user()?, Kernel::now()?);
    if crowd.wrong() > 0 {
        return Err(io::Error::other(format!("{} segments wrong", crowd.wrong())));
    }
    let each = |after: u64, before: u64| {
        ((after as f64 - before as f64) / f64::from(connections) * 10.0).round() / 10.0
    };
    let (user, kernel) = (each(after.0, before.0), each(after.1.sockets, before.1.sockets));
    Ok(json!({
        "connections": connections,
        "processes": servers.len(),
        "user": user,
        "kernel": kernel,
        "bytes": user + kernel,
        "all_slabs": each(after.1.slab, before.1.slab),
        "no_longer_free": each(before.1.free, after.1.free),
    }))
}

/// Whether clients want pages of this peer, and not WebSockets.
fn is_of_pages(kind: &str) -> bool {
    Web::by_name(kind).is_some() || kind.ends_with("-http")
}

/// What these have in memory.
fn memory(servers: &[Helper]) -> io::Result<u64> {
    servers.iter().map(|server| proportional(server.id())).sum()
}

/// Starts so many servers that share a port, and waits until all listen.
fn start(kind: &str, files: &Files, count: u32, room: u32) -> io::Result<Vec<Helper>> {
    let listen = SocketAddr::from((SERVER, PORT));
    let mut servers = Vec::new();
    for i in 1..=count as usize {
        let server = match Web::by_name(kind) {
            Some(web) => {
                let room = room as usize;
                let site = Site { listen, size: PAGE, room, shared: true, core: None };
                let server = web.start(files, &site)?;
                wait_for_listeners(i)?;
                server
            }
            None => {
                let program = peers_program().ok_or_else(no_peers)?;
                let mut command = Command::new(program);
                command.args([kind, "--shared", "--listen", &listen.to_string()]);
                let mut server = Helper::start(&mut command)?;
                server.expect("listening", PATIENCE)?;
                server
            }
        };
        servers.push(server);
    }
    Ok(servers)
}

/// Waits until so many sockets listen at the port, in this network namespace.
fn wait_for_listeners(count: usize) -> io::Result<()> {
    let end = Instant::now() + PATIENCE;
    while listeners(&std::fs::read_to_string("/proc/net/tcp")?) < count {
        if Instant::now() > end {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "a server does not listen"));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    // What it does after it listens is over soon.
    std::thread::sleep(Duration::from_millis(200));
    Ok(())
}

/// proc_net_tcp(5): `sl local_address rem_address st`, numbers in hexadecimal, 0A is LISTEN.
fn listeners(text: &str) -> usize {
    let port = format!(":{PORT:04X}");
    let listens = |line: &&str| {
        let words: Vec<&str> = line.split_whitespace().take(4).collect();
        matches!(words[..], [_, local, _, "0A"] if local.ends_with(&port))
    };
    text.lines().filter(listens).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_are_counted() {
        let text = "  sl  local_address rem_address   st tx_queue rx_queue\n\
                    0: 0100000A:0050 00000000:0000 0A 00000000:00000000\n\
                    1: 0100000A:0050 00000000:0000 0A 00000000:00000000\n\
                    2: 0100000A:0051 00000000:0000 0A 00000000:00000000\n\
                    3: 0100000A:0050 0200400A:0400 01 00000000:00000000\n";
        assert_eq!(listeners(text), 2);
        assert_eq!(listeners(""), 0);
    }

    #[test]
    fn web_servers_have_pages() {
        assert!(["nginx", "haproxy", "tokio-http"].into_iter().all(is_of_pages));
        assert!(!is_of_pages("tungstenite-defaults"));
    }
}
