//! What is compared: servers, each with the client that asks it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::ops::Range;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use clap::ValueEnum;

use crate::balancer::Balancer;
use crate::helper::Helper;
use crate::load::Load;
use crate::role::{PER_PORT, Role, Traffic};
use crate::web::{Files, Site, Web, pinned};

/// Connections of one process on the host's sockets, below the usual bound of descriptors.
const PER_PROCESS: usize = 16_000;
pub(crate) const PORT: u16 = 9_000;
/// The longest message of the client that makes frames by hand.
pub(crate) const LONGEST_RAW: usize = 160;
/// And what a web server makes room for.
const ROOM: usize = 19_000;
/// Longest wait for a server to listen.
pub(crate) const START: Duration = Duration::from_secs(30);

/// How the two processes of the bypass path are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Link {
    /// DPDK's memif: both ends copy each frame
    Memif,
    /// memif, where the server's end sends and receives in place, as with a NIC, and the client's copies
    MemifZeroCopy,
    /// vhost at the client's end and virtio_user at the server's, with checksum offload
    Virtio,
}

/// Hugepages of 2 MiB that two processes with a queue each take.
const HUGEPAGES: u64 = 300;

impl Link {
    /// The one that costs the server least: it takes hugepages, which the two ends share.
    pub fn best() -> Link {
        let free = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
            let line = text.lines().find_map(|line| line.strip_prefix("HugePages_Free:"))?;
            line.trim().parse::<u64>().ok()
        });
        if free >= Some(HUGEPAGES) { Link::MemifZeroCopy } else { Link::Memif }
    }

    /// As it is written on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Link::Memif => "memif",
            Link::MemifZeroCopy => "memif-zero-copy",
            Link::Virtio => "virtio",
        }
    }
}

/// A server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Throng on a device, over this link.
    Throng(Link),
    /// Throng on the host's sockets.
    OnKernel,
    /// One of the programs in `benches/peers`, by its name.
    Peer(&'static str),
    /// A web server of Debian's.
    Web(Web),
    /// A balancer, with the server behind it.
    Balancer(Balancer),
}

/// What all subjects of a comparison are asked for.
#[derive(Clone, Debug)]
pub struct Ask {
    /// What goes over the connections.
    pub traffic: Traffic,
    /// How many connections.
    pub connections: usize,
    /// Bytes of a message or a body.
    pub size: usize,
    /// Most operations on their way at a time.
    pub window: usize,
    /// Operations per second, where they fall due by the clock.
    pub rate: Option<f64>,
    /// WebSockets that are opened each second while messages fall due.
    pub ramp: Option<f64>,
    /// Whether each is timed.
    pub timed: bool,
    /// Whether the client on the host's sockets is one thread that asks its socket again and again.
    pub spinning: bool,
    /// Whether the client on a device has a stack, Throng's own, or makes its frames by hand.
    pub with_stack: bool,
    /// Whether Throng's server sleeps when it has nothing to do.
    pub adaptive: bool,
    /// Sockets of a server of datagrams.
    pub sockets: usize,
    /// Shards of Throng's server on a device.
    pub shards: usize,
    /// Bytes of memory for connections and tasks that Throng's server on a device has before it begins.
    pub preallocate: u64,
    /// The cores of server and client.
    pub cores: [usize; 2],
}

/// A server and its clients, connected.
pub struct Match {
    /// The server's processes; they end after the clients.
    pub servers: Vec<Helper>,
    /// The clients' processes.
    pub clients: Vec<Helper>,
    /// Who else takes part, on the clients' core.
    pub others: Vec<Helper>,
    /// Where the first server listens, on the host's loopback.
    pub endpoint: SocketAddr,
    /// What a server read, until it ends.
    pub(crate) _files: Option<Files>,
}

impl Drop for Match {
    fn drop(&mut self) {
        // What still sends into a link whose other end has gone may fall over it.
        self.clients.clear();
        self.servers.clear();
    }
}

impl Subject {
    /// The name in reports.
    pub fn name(&self) -> String {
        match self {
            Subject::Throng(_) => "throng".into(),
            Subject::OnKernel => "throng-on-kernel".into(),
            Subject::Peer(name) => (*name).into(),
            Subject::Web(web) => web.name().into(),
            Subject::Balancer(balancer) => balancer.name().into(),
        }
    }

    /// Whether it has a device of its own, and no socket of the host's.
    pub fn is_on_device(&self) -> bool {
        matches!(self, Subject::Throng(_) | Subject::Balancer(Balancer::Throng(_)))
    }

    /// Starts it and its clients, and waits until they are connected.
    ///
    /// # Errors
    /// A program is missing, does not start, or does not connect.
    pub fn start(&self, ask: &Ask) -> io::Result<Match> {
        match self {
            Subject::Throng(link) => bypass(*link, ask),
            Subject::Balancer(balancer) => balancer.start(ask),
            _ => self.on_kernel(ask),
        }
    }

    fn on_kernel(&self, ask: &Ask) -> io::Result<Match> {
        let pairs = pairs(ask);
        let files = matches!(self, Subject::Web(_)).then(Files::new).transpose()?;
        let mut servers = Vec::new();
        for [role, _] in &pairs {
            let mut server = match self {
                Subject::Web(web) => {
                    let files = files.as_ref().ok_or(io::ErrorKind::NotFound)?;
                    let (size, core) = (ask.size, Some(ask.cores[0]));
                    let site = Site { listen: role.server, size, room: ROOM, shared: false, core };
                    web.start(files, &site)?
                }
                Subject::Peer(kind) => peer(kind, role.server, ask)?,
                _ => Helper::of_this(["serve".to_owned()].into_iter().chain(role.arguments()))?,
            };
            match self {
                Subject::Web(_) => wait_for(role.server)?,
                _ => server.expect("listening", START)?,
            }
            servers.push(server);
        }
        let endpoint = pairs[0][0].server;
        let window = ask.window.div_ceil(pairs.len());
        let clients = pairs.into_iter().map(|[_, role]| client(ask, role, window));
        let clients = clients.collect::<io::Result<_>>()?;
        Match { servers, clients, others: Vec::new(), endpoint, _files: files }.connected(ask)
    }
}

impl Match {
    pub(crate) fn connected(mut self, ask: &Ask) -> io::Result<Match> {
        // A shard may need 20 us for a connection, a debug build ten times as long.
        let patience = START + Duration::from_millis(ask.connections as u64);
        for client in &mut self.clients {
            client.tell("connect")?;
        }
        self.clients.iter_mut().try_for_each(|client| client.expect("ready", patience))?;
        Ok(self)
    }

    /// CPU time of the servers, and of the clients and others, so far.
    ///
    /// # Errors
    /// One of them has ended.
    pub fn cpu(&self) -> io::Result<[Duration; 2]> {
        let sum = |all: &[Helper]| all.iter().map(Helper::cpu).sum::<io::Result<Duration>>();
        Ok([sum(&self.servers)?, sum(&self.clients)? + sum(&self.others)?])
    }
}

/// The servers on the host's sockets, each with its client: as many as it takes for each to have
/// descriptors enough, and at ports of their own.
fn pairs(ask: &Ask) -> Vec<[Role; 2]> {
    // A server with more would listen at a second port, too, and that is the next one's.
    const { assert!(PER_PROCESS <= PER_PORT) };
    // Those with a connection for each operation have few at a time, and one port each.
    let all = if ask.traffic.connects() { 1 } else { ask.connections };
    let count = all.div_ceil(PER_PROCESS).max(1);
    let ports = if ask.traffic == Traffic::Udp { ask.sockets } else { 1 };
    let pair = |i: usize| {
        let endpoint = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT + (i * ports) as u16));
        let share = all / count + usize::from(i < all % count);
        let mut pair = ask.cores.map(|core| on_kernel(ask, core, endpoint, share));
        // Several on one core must not keep it from each other.
        pair[0].adaptive = ask.adaptive || count > 1;
        pair[1].adaptive = count > 1;
        pair
    };
    (0..count).map(pair).collect()
}

pub(crate) fn on_kernel(ask: &Ask, core: usize, server: SocketAddr, connections: usize) -> Role {
    Role {
        traffic: ask.traffic,
        device: "kernel".into(),
        address: None,
        server,
        connections,
        core,
        shards: 1,
        together: false,
        adaptive: false,
        size: ask.size,
        sockets: ask.sockets,
        preallocate: 0,
    }
}

pub(crate) fn client(ask: &Ask, role: Role, window: usize) -> io::Result<Helper> {
    let on_device = role.address.is_some();
    let spinning = ask.spinning && !on_device;
    let raw = on_device && !ask.with_stack && !ask.timed && can_be_raw(ask);
    let (rate, timed, ramp) = (ask.rate, ask.timed, ask.ramp);
    let load = Load { role, window, rate, timed, spinning, raw, ramp, upstream: None };
    // The runtime pins itself.
    let mut command = match spinning {
        true => pinned(ask.cores[1], &std::env::current_exe()?),
        false => Command::new(std::env::current_exe()?),
    };
    let mut client = Helper::start(command.arg("load").args(load.arguments()))?;
    client.expect("open", START)?;
    Ok(client)
}

/// Whether the client without a stack can do it: what is asked is one short segment.
fn can_be_raw(ask: &Ask) -> bool {
    match ask.traffic {
        Traffic::Download | Traffic::Upload => false,
        Traffic::Echo | Traffic::Udp => ask.size <= LONGEST_RAW,
        _ => true,
    }
}

/// The devices of the server's end and of the client's, which is opened first.
pub(crate) fn devices(link: Link, queues: usize) -> io::Result<(String, String)> {
    if !cfg!(feature = "dpdk") {
        return Err(io::Error::other("this build is without DPDK"));
    }
    // In the abstract name space there is no file that an interrupted run could leave behind.
    let name = format!("throng-bench-{}", std::process::id());
    let memif =
        |rest: &str| format!("dpdk:net_memif0,id=0,socket={name},socket-abstract=yes,{rest}");
    let path = std::env::temp_dir().join(&name);
    let path = path.display();
    Ok(match link {
        Link::Memif => (memif("role=client"), memif("role=server")),
        Link::MemifZeroCopy => (memif("role=client,zero-copy=yes"), memif("role=server")),
        Link::Virtio => (
            format!(
                "dpdk:net_virtio_user0,path={path},queues={queues},queue_size=1024,packed_vq=1,\
                 in_order=1,mrg_rxbuf=0"
            ),
            format!("dpdk:net_vhost0,iface={path},queues={queues}"),
        ),
    })
}

/// The cores of Throng's server, if it has one for each shard.
pub(crate) fn server_cores(ask: &Ask) -> Range<usize> {
    ask.cores[0]..ask.cores[0] + ask.shards
}

/// A pair of processes joined by a DPDK device.
fn bypass(link: Link, ask: &Ask) -> io::Result<Match> {
    let (server_device, client_device) = devices(link, ask.shards)?;
    let endpoint = SocketAddr::from(([10, 96, 0, 1], PORT));
    let role = |device: String, address: &str, core: usize| Role {
        device,
        address: Some(address.to_owned()),
        shards: ask.shards,
        ..on_kernel(ask, core, endpoint, ask.connections)
    };
    let mut server = role(server_device, "10.96.0.1/24", ask.cores[0]);
    server.adaptive = ask.adaptive;
    server.preallocate = ask.preallocate;
    // Beside the client's shard none would do as much as the others.
    server.together = server_cores(ask).contains(&ask.cores[1]);
    let load = role(client_device, "10.96.0.2/24", ask.cores[1]);
    // The server's end connects as it opens, to a socket that the client's has made by then.
    let client = client(ask, load, ask.window)?;
    let mut server = Helper::of_this(["serve".to_owned()].into_iter().chain(server.arguments()))?;
    server.expect("listening", START)?;
    let (servers, clients, others) = (vec![server], vec![client], Vec::new());
    Match { servers, clients, others, endpoint, _files: None }.connected(ask)
}

/// The program of `benches/peers`, which `cargo xtask bench` builds and names.
pub fn peers_program() -> Option<PathBuf> {
    std::env::var_os("THRONG_PEERS").map(PathBuf::from).filter(|program| program.exists())
}

/// What to say where they are not built.
pub(crate) fn no_peers() -> io::Error {
    let text = "the peers of benches/peers are not built (THRONG_PEERS): run `cargo xtask bench`";
    io::Error::new(io::ErrorKind::NotFound, text)
}

fn peer(kind: &str, listen: SocketAddr, ask: &Ask) -> io::Result<Helper> {
    let program = peers_program().ok_or_else(no_peers)?;
    let mut command = pinned(ask.cores[0], &program);
    command.args([kind, "--listen", &listen.to_string(), "--body", &ask.size.to_string()]);
    command.args(["--sockets", &ask.sockets.to_string()]);
    Helper::start(&mut command)
}

/// Waits until somebody listens.
pub(crate) fn wait_for(endpoint: SocketAddr) -> io::Result<()> {
    let end = Instant::now() + START;
    while let Err(error) = TcpStream::connect(endpoint) {
        if Instant::now() > end {
            return Err(error);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

#[cfg(test)]
impl Ask {
    /// An echo of 64 bytes that asks for nothing else.
    pub(crate) fn for_tests() -> Ask {
        Ask {
            traffic: Traffic::Echo,
            connections: 1,
            size: 64,
            window: 1,
            rate: None,
            ramp: None,
            timed: false,
            spinning: false,
            with_stack: false,
            adaptive: false,
            sockets: 1,
            shards: 1,
            preallocate: 0,
            cores: [0, 1],
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Where two servers listen at one port the host divides its connections, and one of them
    /// may get more than it has descriptors for.
    #[test]
    fn servers_on_the_host_share_no_port_however_many() {
        for (traffic, sockets) in [(Traffic::Echo, 1), (Traffic::Udp, 4)] {
            for connections in [1, 16_000, 16_001, 30_000, 100_000, 1_000_000] {
                let ask = Ask { traffic, sockets, connections, ..Ask::for_tests() };
                let (mut taken, mut sum) = (BTreeSet::new(), 0);
                for [server, client] in pairs(&ask) {
                    assert!(server.endpoints().all(|one| taken.insert(one)), "{server:?}");
                    let mut asked = (0..client.connections).map(|i| client.endpoint(i));
                    assert!(asked.all(|one| server.endpoints().any(|there| there == one)));
                    assert!((1..=PER_PROCESS).contains(&client.connections));
                    sum += client.connections;
                }
                assert_eq!(sum, connections);
            }
        }
    }
}
