//! Two hosts of a simulated world: one asks and connects, the other is name servers and
//! servers, at as many addresses as it takes.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use throng_net::device::Device;
use throng_net::device::faults::{self, Faults};
use throng_net::device::memory::{self, Options, Spread};
use throng_net::resolver::{Config, Source, Stats, stats};
use throng_net::sim::{HostConfig, add_host};
use throng_net::{TcpListener, stats as net_stats};
use throng_runtime::sim::{HostId, World};
use throng_runtime::{Instant, ShardId};

use crate::server::{self, Answer, Log, Query, Script};

/// The first name server.
pub(crate) const NS1: &str = "10.0.0.53";
/// The second.
pub(crate) const NS2: &str = "10.0.0.54";
/// An address of the serving host, with whatever listens there.
pub(crate) const WEB_V4: &str = "10.0.0.80";
/// The same of the other family.
pub(crate) const WEB_V6: &str = "2001:db8::80";
/// On the link, and nobody has it.
pub(crate) const NOBODY_V6: &str = "2001:db8::dead";

pub(crate) struct Net {
    pub(crate) world: World,
    pub(crate) client: HostId,
    pub(crate) server: HostId,
    pub(crate) log: Log,
}

impl Net {
    /// A client of both families with this resolv.conf.
    pub(crate) fn new(resolv_conf: &str) -> Net {
        let names = Config { resolv_conf: Source::Text(resolv_conf.to_owned()), ..Config::empty() };
        Net::with(1, &["10.0.0.2/24", "2001:db8::2/64"], names)
    }

    /// Where a client with these addresses and settings has `shards` shards.
    pub(crate) fn with(shards: usize, addresses: &[&str], names: Config) -> Net {
        Net::over(None, shards, addresses, names)
    }

    /// The same over a link with `faults`.
    pub(crate) fn over(
        faults: Option<Faults>,
        shards: usize,
        addresses: &[&str],
        names: Config,
    ) -> Net {
        let options = Options { spread: Spread::Rss, ..Options::default() };
        let (client, server) = memory::pair_with((shards, options.clone()), (1, options));
        let boxed = |queues: Vec<memory::MemoryQueue>| -> Vec<Box<dyn Device>> {
            queues.into_iter().map(|queue| Box::new(queue) as Box<dyn Device>).collect()
        };
        let mut client = boxed(client);
        if let Some(faults) = &faults {
            client = faults::wrap(client, faults);
        }
        let mut world = World::new();
        let config = HostConfig { names, ..HostConfig::new(addresses, 1) };
        let client = add_host(&mut world, client, &config);
        let at_server = ["10.0.0.53/24", "10.0.0.54/24", "10.0.0.80/24", "2001:db8::80/64"];
        let config = HostConfig::new(&at_server, 2);
        let server = add_host(&mut world, boxed(server), &config);
        Net { world, client, server, log: Log::default() }
    }

    /// Starts a name server.
    pub(crate) fn nameserver(
        &mut self,
        ip: &str,
        script: impl Fn(&Query) -> Vec<(Duration, Vec<u8>)> + 'static,
    ) {
        let script: Script = Rc::new(script);
        let serving = server::serve(at(ip, 53), script, self.log.clone());
        self.world.spawn(self.server, ShardId(0), serving);
    }

    /// Starts one that answers at once.
    pub(crate) fn answers(&mut self, ip: &str, answer: impl Fn(&Query) -> Answer + 'static) {
        self.nameserver(ip, move |query| vec![(Duration::ZERO, answer(query).bytes())]);
    }

    /// Accepts connections and keeps them.
    pub(crate) fn listen(&mut self, ip: &str, port: u16) {
        let addr = at(ip, port);
        self.world.spawn(self.server, ShardId(0), async move {
            let listener = TcpListener::bind(addr).unwrap();
            let mut streams = Vec::new();
            loop {
                streams.push(listener.accept().await.unwrap());
            }
        });
    }

    /// Runs `future` on a shard of the client to its end. Returns how long it took, too.
    pub(crate) fn run_on<T: 'static>(
        &mut self,
        shard: u16,
        future: impl Future<Output = T> + 'static,
    ) -> (T, Duration) {
        let start = self.world.now();
        let output = Rc::new(RefCell::new(None));
        let slot = output.clone();
        self.world.spawn(self.client, ShardId(shard), async move {
            let done = future.await;
            *slot.borrow_mut() = Some((done, throng_runtime::now()));
        });
        let limit = start + Duration::from_secs(3_600);
        assert!(self.world.run_until(limit, || output.borrow().is_some()), "it did not end");
        let (output, end): (T, Instant) = output.take().unwrap();
        (output, end - start)
    }

    pub(crate) fn run<T: 'static>(&mut self, future: impl Future<Output = T> + 'static) -> T {
        self.run_on(0, future).0
    }

    /// Lets so many seconds pass.
    pub(crate) fn pass(&mut self, seconds: u64) {
        self.world.run_for(Duration::from_secs(seconds));
    }

    /// Looks `name` up at port 80: addresses as text, or the error.
    pub(crate) fn lookup(&mut self, name: &str) -> io::Result<Vec<String>> {
        let name = name.to_owned();
        let found = self.run(async move { throng_net::lookup_host((name, 80)).await })?;
        Ok(found.iter().map(|addr| addr.ip().to_string()).collect())
    }

    /// The queries so far: name, type, over TCP.
    pub(crate) fn queries(&self) -> Vec<(String, u16, bool)> {
        let log = self.log.borrow();
        log.iter().map(|(_, query)| (query.name.clone(), query.kind, query.tcp)).collect()
    }

    /// What the client's resolver counts.
    pub(crate) fn stats(&self) -> Stats {
        self.world.enter(self.client, ShardId(0), stats).unwrap()
    }

    /// Connections of the client, in whatever state, and its UDP sockets.
    pub(crate) fn sockets(&self) -> (u64, u64) {
        let sheet = self.world.enter(self.client, ShardId(0), net_stats::sheet).unwrap();
        let value = |group: &str, name: &str| {
            let group = sheet.groups.iter().find(|found| found.name == group).unwrap();
            group.values.iter().find(|(metric, _)| metric.name == name).unwrap().1
        };
        (value("tcp", "connections"), value("stack", "udp_sockets"))
    }
}

pub(crate) fn at(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), port)
}

/// The error within an [`io::Error`].
pub(crate) fn inner(error: &io::Error) -> &throng_net::resolver::Error {
    error.get_ref().expect("an inner error").downcast_ref().expect("the resolver's")
}
