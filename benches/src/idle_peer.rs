//! What an idle WebSocket takes of a peer on the host's sockets: the server's memory and the kernel's.
//!
//! The clients are those that Throng's server has, behind a TAP: they have no sockets, so that the
//! kernel's are the server's alone.

use std::io;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use throng::net::device::tap;

use crate::clocked::{Clocked, PATIENCE};
use crate::crowd::{Crowd, PORT, SERVER};
use crate::helper::Helper;
use crate::memory::{Kernel, proportional};
use crate::network;
use crate::subject::{no_peers, peers_program};

/// Connections of one process, which may have 20,000 descriptors on many machines; the kernel
/// divides them by chance, so not to the last one.
const PER_PROCESS: u32 = 16_000;
/// Clients on their way at a time.
const AT_ONCE: u32 = 128;
/// How long all are silent before memory is measured.
const REST: Duration = Duration::from_secs(2);
const INTERFACE: &str = "idle-peer";

/// Opens `connections` WebSockets to the peer named `kind`, and returns bytes of each. To be called
/// before the first thread starts: it moves to a network namespace of its own.
///
/// # Errors
/// No rights, no such peer, or a client that does not come through.
pub fn measure(kind: &str, connections: u32) -> io::Result<Value> {
    let program = peers_program().ok_or_else(no_peers)?;
    network::own()?;
    for file in ["core/somaxconn", "ipv4/tcp_max_syn_backlog"] {
        std::fs::write(format!("/proc/sys/net/{file}"), "65535")?;
    }
    // The kernel fills in all checksums, and cuts what is long.
    let options = tap::Options { offload: false, ..tap::Options::default() };
    let queue = tap::open(INTERFACE, 1, &options)?.pop();
    let queue = queue.ok_or_else(|| io::Error::other("a TAP without a queue"))?;
    network::bring_up(INTERFACE, &format!("{SERVER}/8"))?;
    let mut servers = Vec::new();
    for _ in 0..connections.div_ceil(PER_PROCESS) {
        let listen = format!("{SERVER}:{PORT}");
        let mut server =
            Helper::start(Command::new(&program).args([kind, "--shared", "--listen", &listen]))?;
        server.expect("listening", PATIENCE)?;
        servers.push(server);
    }
    let user = || servers.iter().map(|server| proportional(server.id())).sum::<io::Result<u64>>();
    let mut crowd = Clocked::new(Crowd::new(AT_ONCE, connections), queue)?;
    crowd.rest(Duration::from_millis(500));
    let before = (user()?, Kernel::now()?);
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
