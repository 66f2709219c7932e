//! What a server and a client of a comparison agree on.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use clap::{Args, ValueEnum};
use throng::{Builder, IdlePolicy, Limits};

/// Connections to one port of a server: fewer than a client has ports of its own.
pub(crate) const PER_PORT: usize = 20_000;
/// The first port of a client that makes its frames by hand.
pub(crate) const FIRST_PORT: u16 = 10_000;

/// What goes over the connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Traffic {
    /// A message and the same back
    Echo,
    /// An HTTP/1.1 request and its answer, connections kept
    Http,
    /// An HTTP/1.1 request and its answer, a connection each
    HttpClose,
    /// A connection that the server accepts and closes
    Accept,
    /// A datagram and the same back, by UDP
    Udp,
    /// As much as goes, from the server
    Download,
    /// As much as goes, to the server
    Upload,
    /// A WebSocket's message and the same back
    Websocket,
    /// Connections that become WebSockets and are reset, each for one operation
    Upgrade,
    /// WebSockets that all get what one of them says; an operation is one that has got it
    Broadcast,
}

impl Traffic {
    /// Every operation has a connection of its own.
    pub fn connects(self) -> bool {
        matches!(self, Traffic::Accept | Traffic::HttpClose | Traffic::Upgrade)
    }

    /// The connections are WebSockets.
    pub fn is_websocket(self) -> bool {
        matches!(self, Traffic::Websocket | Traffic::Upgrade | Traffic::Broadcast)
    }
}

/// The command line of both roles, which run in processes of their own.
#[derive(Clone, Debug, Args)]
pub struct Role {
    /// What goes over the connections
    #[arg(long)]
    pub traffic: Traffic,
    /// The device of this end
    #[arg(long)]
    pub device: String,
    /// Its address with the prefix; none on `kernel`
    #[arg(long)]
    pub address: Option<String>,
    /// Where the server listens: at this port, and as many after it as the connections take
    #[arg(long)]
    pub server: SocketAddr,
    /// How many connections
    #[arg(long, default_value_t = 1)]
    pub connections: usize,
    /// The first core of this end's shards
    #[arg(long)]
    pub core: usize,
    /// How many shards this end has
    #[arg(long, default_value_t = 1)]
    pub shards: usize,
    /// All of them have that core
    #[arg(long)]
    pub together: bool,
    /// Sleep when there is nothing to do
    #[arg(long)]
    pub adaptive: bool,
    /// Bytes of a message, or of a response's body
    #[arg(long, default_value_t = 64)]
    pub size: usize,
    /// The server's sockets of datagrams, each at a port of its own; flows take them in turn
    #[arg(long, default_value_t = 1)]
    pub sockets: usize,
    /// Bytes of memory for connections and tasks that are there before it begins
    #[arg(long, default_value_t = 0)]
    pub preallocate: u64,
}

impl Role {
    /// The addresses that the server listens at.
    pub fn endpoints(&self) -> impl Iterator<Item = SocketAddr> + use<> {
        let count = match self.traffic {
            Traffic::Udp => self.sockets,
            _ => self.connections.div_ceil(PER_PORT).max(1),
        };
        let server = self.server;
        (0..count as u16).map(move |i| SocketAddr::new(server.ip(), server.port() + i))
    }

    /// The address that connection, or flow, number `i` goes to.
    pub fn endpoint(&self, i: usize) -> SocketAddr {
        let port = match self.traffic {
            Traffic::Udp => i % self.sockets.max(1),
            _ => i / PER_PORT,
        };
        SocketAddr::new(self.server.ip(), self.server.port() + port as u16)
    }

    /// The runtime of this end.
    pub fn builder(&self) -> Builder {
        let mut limits = Limits::default();
        limits.connections = limits.connections.max(self.connections + 4_096);
        limits.tasks = limits.tasks.max(2 * self.connections + 4_096);
        let core = |i: usize| self.core + if self.together { 0 } else { i };
        let mut builder = Builder::new()
            .device(&self.device)
            .shards(self.shards)
            .cores((0..self.shards).map(core).collect())
            .preallocate(self.preallocate)
            .limits(limits);
        builder = builder.idle(match self.adaptive {
            true => IdlePolicy::Adaptive {
                spin: Duration::from_micros(20),
                pause: Duration::from_micros(100),
            },
            false => IdlePolicy::Busy,
        });
        match &self.address {
            Some(address) => builder.address(address),
            None => builder,
        }
    }

    /// What a process of this role is started with.
    pub fn arguments(&self) -> Vec<String> {
        let traffic = self.traffic.to_possible_value().expect("no value is skipped");
        let mut all: Vec<String> = Vec::new();
        for (name, value) in [
            ("--traffic", traffic.get_name().to_owned()),
            ("--device", self.device.clone()),
            ("--server", self.server.to_string()),
            ("--connections", self.connections.to_string()),
            ("--core", self.core.to_string()),
            ("--shards", self.shards.to_string()),
            ("--size", self.size.to_string()),
            ("--sockets", self.sockets.to_string()),
            ("--preallocate", self.preallocate.to_string()),
        ] {
            all.extend([name.to_owned(), value]);
        }
        if let Some(address) = &self.address {
            all.extend(["--address".to_owned(), address.clone()]);
        }
        let flags = [(self.adaptive, "--adaptive"), (self.together, "--together")];
        all.extend(flags.iter().filter(|(set, _)| *set).map(|(_, flag)| (*flag).to_owned()));
        all
    }

    /// Where a server binds: every address that it has, on the kernel's sockets the one given.
    pub(crate) fn bind_at(&self, endpoint: SocketAddr) -> SocketAddr {
        match self.address {
            Some(_) => SocketAddr::new(IpAddr::from([0, 0, 0, 0]), endpoint.port()),
            None => endpoint,
        }
    }
}
