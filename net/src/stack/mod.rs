//! One shard's network: the stages a packet goes through, in order.
//!
//! `receive` takes a burst and goes over it in stages, each over all packets, so that the
//! cache misses of one packet are in flight while the next is looked at: parse all, steer
//! what belongs to another shard, prefetch the demultiplexer for the rest, prefetch the
//! connections, then run the engine. Tasks run after it, so that `transmit` sends their
//! answers together with the acknowledgements they owe.

mod checksum;
mod counters;
mod driver;
pub(crate) mod emit;
mod exception;
mod fragment;
pub(crate) mod icmp;
mod link;
mod merge;
mod neighbor;
pub(crate) mod parse;
mod plain;
mod ports;
mod random;
mod receive;
mod route;
mod slow;
mod slow_input;
mod udp;
mod wakers;
mod watch;

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::task::{Context, Waker};

use smoltcp::wire::IpCidr;
use throng_runtime::mesh::Port;
use throng_runtime::{Instant, ShardId, ShardWaker, Unparker};

pub use counters::Counters;
pub(crate) use driver::StackDriver;
pub(crate) use udp::UdpId;
pub(crate) use wakers::{Interest, wait_in};

use crate::device::{self, Device};
use crate::local;
use crate::packet::Packet;
use crate::pcap::Tap;
use crate::resolver::Families;
use crate::stats::Held;
use crate::steering::Steering;
use crate::tcp::segment::{Addr, FourTuple};
use crate::tcp::{self, ConnId, Engine, Event, ListenerId};
pub(crate) use exception::Exception;
use icmp::Icmp;
use link::Link;
use ports::EphemeralPorts;
use random::Random;
use route::Routes;
use slow::{Lease, SlowPath};
use udp::UdpTable;
use wakers::Wakers;
use watch::Watch;

/// What a neighbour's message says.
#[derive(Clone, Copy)]
pub(crate) struct News {
    addr: Addr,
    link: smoltcp::wire::EthernetAddress,
    /// It spoke to us, so we are about to answer it.
    create: bool,
}

/// What shards tell each other.
pub(crate) enum Message {
    /// A TCP or UDP frame whose flow the receiver of this message owns.
    Flow(Packet),
    /// A frame for the slow path on shard 0.
    Slow(Packet),
    /// A neighbour's address, heard by the slow path.
    Neighbor(News),
    /// An ICMP error about a flow of the receiver's.
    Icmp(FourTuple, tcp::seq::SeqNum, Icmp),
    /// New addresses and gateways, from DHCP.
    Routes(Box<Routes>),
}

/// What a stack is made of.
pub(crate) struct Setup {
    pub(crate) shard: ShardId,
    pub(crate) shards: usize,
    pub(crate) device: Box<dyn Device>,
    /// Where what is not for us goes.
    pub(crate) exception: Option<Exception>,
    pub(crate) steering: Steering,
    pub(crate) port: Port<Message>,
    /// One per shard, to end its sleep after a message.
    pub(crate) unparkers: Vec<Unparker>,
    pub(crate) addresses: Vec<IpCidr>,
    pub(crate) gateways: Vec<IpAddr>,
    pub(crate) dhcp: bool,
    pub(crate) tcp: tcp::Config,
    /// For sequence numbers, ports and hash tables.
    pub(crate) secret: [u8; 32],
    pub(crate) max_neighbors: usize,
    pub(crate) udp_queue_bytes: usize,
    pub(crate) now: Instant,
}

/// The network of one shard.
pub(crate) struct Stack {
    shard: ShardId,
    shards: usize,
    link: Link,
    pub(crate) engine: Engine,
    steering: Steering,
    port: Port<Message>,
    unparkers: Vec<Unparker>,
    /// Shards that got a message this turn.
    notify: Vec<bool>,
    /// The slow path, on shard 0.
    slow: Option<SlowPath>,
    reassembler: fragment::Reassembler,
    exception: Option<Exception>,
    udp: UdpTable,
    wakers: Wakers,
    accepting: HashMap<ListenerId, Vec<Waker>>,
    ephemeral: EphemeralPorts,
    addresses: Vec<IpCidr>,
    gateways: Vec<IpAddr>,
    configured: bool,
    configuring: Vec<Waker>,
    /// Shards that do not know of the latest routes yet.
    untold: Vec<ShardId>,
    /// Scratch space of `receive`, kept for its memory.
    frames: Vec<Packet>,
    segments: Vec<merge::Arrival>,
    stash: Option<Message>,
    watch: Watch,
}

impl std::fmt::Debug for Stack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stack").field("shard", &self.shard).finish_non_exhaustive()
    }
}

/// A stack as its driver and its sockets share it.
pub(crate) type SharedStack = Rc<RefCell<Stack>>;

impl Stack {
    /// Builds the stack of a shard.
    pub(crate) fn new(setup: Setup) -> Stack {
        let caps = setup.device.capabilities().clone();
        let routes = Routes::new(&setup.addresses, &setup.gateways, caps.mac);
        let word = |at: usize| {
            u64::from_le_bytes(setup.secret[at..at + 8].try_into().expect("eight bytes of 32"))
        };
        let slow = (setup.shard == ShardId(0)).then(|| {
            let mut slow = SlowPath::new(caps.mac, caps.mtu, word(0), setup.dhcp);
            for cidr in slow.configure(&routes) {
                tracing::warn!(address = %cidr, "too many addresses: this one answers no ARP and no ping");
            }
            slow
        });
        let mut tcp = setup.tcp;
        tcp.shard = setup.shard;
        // RFC 9293 3.7.1: the MSS is the MTU less the fixed IP and TCP headers.
        tcp.mss_v4 = tcp.mss_v4.min((caps.mtu - 40) as u16);
        tcp.mss_v6 = tcp.mss_v6.min((caps.mtu - 60) as u16);
        Stack {
            shard: setup.shard,
            shards: setup.shards,
            engine: Engine::new(tcp, setup.secret, setup.now),
            steering: setup.steering,
            link: Link::new(
                setup.device,
                routes,
                setup.max_neighbors,
                Random::new(word(16) ^ word(8).rotate_left(32)),
            ),
            port: setup.port,
            unparkers: setup.unparkers,
            notify: vec![false; setup.shards],
            slow,
            reassembler: fragment::Reassembler::default(),
            exception: setup.exception,
            udp: UdpTable::new(setup.udp_queue_bytes),
            wakers: Wakers::default(),
            accepting: HashMap::new(),
            ephemeral: EphemeralPorts::new(word(8)),
            addresses: setup.addresses,
            gateways: setup.gateways,
            configured: !setup.dhcp,
            configuring: Vec::new(),
            untold: Vec::new(),
            frames: Vec::with_capacity(receive::BURST),
            segments: Vec::with_capacity(receive::BURST),
            stash: None,
            watch: Watch::default(),
        }
    }

    /// Whose stack it is.
    pub(crate) fn shard(&self) -> ShardId {
        self.shard
    }

    /// The stack's totals.
    pub(crate) fn counters(&self) -> Counters {
        self.link.counters
    }

    /// The device's totals.
    pub(crate) fn device_counters(&self) -> device::Counters {
        self.link.device.counters()
    }

    /// What the port itself counts, where this shard has its first queue.
    pub(crate) fn port_counters(&self) -> Vec<(String, u64)> {
        self.link.device.port_counters()
    }

    /// Begins a capture.
    ///
    /// # Errors
    /// `AlreadyExists` where there is one.
    pub(crate) fn attach(&mut self, tap: Tap) -> io::Result<()> {
        if self.link.tap.as_ref().is_some_and(|tap| !tap.is_over()) {
            let text = format!("shard {} has a capture already", self.shard);
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
        }
        self.link.tap = Some(Box::new(tap));
        Ok(())
    }

    /// What is held beside connections.
    pub(crate) fn held(&self) -> Held {
        Held {
            tx_queue: self.link.queue.len(),
            udp_sockets: self.udp.len(),
            waker_memory: self.wakers.memory(),
        }
    }

    /// Bytes of memory that the connections' wakers take.
    pub(crate) fn waker_memory(&self) -> usize {
        self.wakers.memory()
    }

    /// The addresses of the interface, with their prefixes.
    pub(crate) fn addresses(&self) -> Vec<IpCidr> {
        self.link.routes.cidrs().to_vec()
    }

    /// The source address for `ip`; `None` where no route leads there, or back to ourselves.
    pub(crate) fn source_for(&self, ip: IpAddr) -> Option<IpAddr> {
        let remote = Addr::from(ip);
        let routes = &self.link.routes;
        let source = routes.source_for(&remote).filter(|_| !routes.is_local(&remote));
        source.map(IpAddr::from)
    }

    /// The families of our addresses, the link-local one of IPv6 aside; both where there is
    /// none.
    pub(crate) fn families(&self) -> Families {
        let has = |wanted: fn(&IpAddr) -> bool| {
            let cidrs = self.link.routes.cidrs().iter();
            cidrs.map(|cidr| IpAddr::from(cidr.address())).any(|ip| wanted(&ip))
        };
        let v6 = |ip: &IpAddr| matches!(ip, IpAddr::V6(ip) if !ip.is_unicast_link_local());
        let families = Families { v4: has(IpAddr::is_ipv4), v6: has(v6) };
        if families.v4 || families.v6 { families } else { Families::BOTH }
    }

    /// The name servers that DHCP has named.
    pub(crate) fn leased_nameservers(&self) -> Vec<IpAddr> {
        self.link.routes.nameservers().to_vec()
    }

    /// Whether the interface has its addresses; if not, `cx` is woken when it has.
    pub(crate) fn poll_configured(&mut self, cx: &Context<'_>) -> bool {
        if !self.configured {
            wait_in(&mut self.configuring, cx);
        }
        self.configured
    }

    /// Registers the task of `cx` with connection `id`.
    pub(crate) fn register(&mut self, id: ConnId, interest: Interest, cx: &Context<'_>) {
        match interest {
            Interest::Read => {
                // A task of ours waits in the connection itself, any other beside it.
                let own = ShardWaker::of(cx.waker());
                match own {
                    Some(_) => self.wakers.forget(id.index()),
                    None => self.wakers.register(id.index(), interest, cx),
                }
                self.engine.set_reader(id, own);
            }
            Interest::Write => self.wakers.register(id.index(), interest, cx),
        }
    }

    /// Wakes the task that reads from connection `id`, if one waits.
    pub(crate) fn wake_reader(&mut self, id: ConnId) {
        match self.engine.take_reader(id) {
            Some(reader) => reader.wake(),
            None => self.wakers.wake(id.index(), Interest::Read),
        }
    }

    /// Registers the task of `cx` with a listener.
    pub(crate) fn register_accept(&mut self, id: ListenerId, cx: &Context<'_>) {
        wait_in(self.accepting.entry(id).or_default(), cx);
    }

    /// Listens at `addr`; port 0 asks for a free one.
    pub(crate) fn listen(
        &mut self,
        mut addr: SocketAddr,
        backlog: usize,
    ) -> io::Result<ListenerId> {
        if !addr.ip().is_unspecified() && !self.link.routes.is_local(&addr.ip().into()) {
            let text = format!("{} is not an address of this interface", addr.ip());
            return Err(io::Error::new(io::ErrorKind::AddrNotAvailable, text));
        }
        if addr.port() != 0 {
            return Ok(self.engine.listen(addr, backlog)?);
        }
        for port in self.ephemeral.sequence() {
            addr.set_port(port);
            match self.engine.listen(addr, backlog) {
                Err(tcp::Error::AddrInUse) => continue,
                outcome => return Ok(outcome?),
            }
        }
        Err(io::Error::new(io::ErrorKind::AddrInUse, "no free TCP port"))
    }

    /// Closes a listener; tasks that wait on it are woken to see it.
    pub(crate) fn close_listener(&mut self, id: ListenerId) {
        self.engine.close_listener(id);
        for waker in self.accepting.remove(&id).unwrap_or_default() {
            waker.wake();
        }
    }

    /// Lets go of a connection: the engine closes it in its own time.
    /// `unread` says that the stream itself holds bytes that nobody has read.
    pub(crate) fn release(&mut self, id: ConnId, unread: bool) {
        self.wakers.clear(id.index());
        // The time of the last turn: a stream may outlive the shard's own context.
        let now = self.link.now;
        if unread {
            self.engine.abort(id, now);
        }
        self.engine.close(id, now);
    }

    /// Opens a connection from `local` (unspecified: chosen) to `remote`.
    pub(crate) fn connect(
        &mut self,
        local: Option<SocketAddr>,
        remote: SocketAddr,
        now: Instant,
    ) -> io::Result<ConnId> {
        local::check_unicast(remote)?;
        let remote_addr = Addr::from(remote.ip());
        let local_ip = match local.map(|addr| addr.ip()).filter(|ip| !ip.is_unspecified()) {
            Some(ip) if self.link.routes.is_local(&ip.into()) => Addr::from(ip),
            Some(ip) => {
                let text = format!("{ip} is not an address of this interface");
                return Err(io::Error::new(io::ErrorKind::AddrNotAvailable, text));
            }
            None => self.link.routes.source_for(&remote_addr).ok_or_else(|| {
                let text = format!("no route to {}", remote.ip());
                io::Error::new(io::ErrorKind::NetworkUnreachable, text)
            })?,
        };
        if local_ip.is_ipv4() != remote_addr.is_ipv4() {
            let text = format!("{remote} is of another family than the address to come from");
            return Err(local::invalid(text));
        }
        if self.link.routes.is_local(&remote_addr) {
            let text = format!("{} is our own address: there is no loopback", remote.ip());
            return Err(io::Error::new(io::ErrorKind::AddrNotAvailable, text));
        }
        let mut tuple = FourTuple {
            local: local_ip,
            remote: remote_addr,
            local_port: local.map_or(0, |addr| addr.port()),
            remote_port: remote.port(),
        };
        if tuple.local_port == 0 {
            // The reply has to come back to this shard, whoever does the hashing.
            let (sharding, shard) = (self.steering.sharding(), self.shard);
            let local = IpAddr::from(local_ip);
            let ports = |first| sharding.source_ports(local, remote, shard, ports::RANGE, first);
            let port = self.engine.choose_port(&tuple, ports::RANGE, ports);
            tuple.local_port = port.ok_or_else(|| {
                let text = format!("no free port for another connection to {remote}");
                io::Error::new(io::ErrorKind::AddrNotAvailable, text)
            })?;
        } else if self.steering.sharding().owner_of(&tuple) != self.shard {
            let text = format!("the flow from port {} belongs to another shard", tuple.local_port);
            return Err(io::Error::new(io::ErrorKind::AddrNotAvailable, text));
        }
        Ok(self.engine.connect(tuple, now)?)
    }

    /// Wakes the tasks that the engine has news for.
    fn deliver_events(&mut self) {
        while let Some(event) = self.engine.pop_event() {
            match event {
                Event::Readable(id) => self.wake_reader(id),
                Event::Writable(id) => self.wakers.wake(id.index(), Interest::Write),
                Event::Acceptable(id) => {
                    if let Some(waiting) = self.accepting.get_mut(&id) {
                        waiting.drain(..).for_each(Waker::wake);
                    }
                }
            }
        }
    }

    fn change_lease(&mut self, lease: &Lease) {
        let (mut addresses, mut gateways) = (self.addresses.clone(), self.gateways.clone());
        let mut leased = Vec::new();
        match lease {
            Lease::Bound(address, router, nameservers) => {
                tracing::info!(%address, ?router, ?nameservers, "DHCP lease");
                leased.clone_from(nameservers);
                addresses.push(*address);
                gateways.extend(*router);
            }
            Lease::Lost => tracing::warn!("DHCP lease lost"),
        }
        let routes = Routes::new(&addresses, &gateways, self.link.mac).with_nameservers(leased);
        self.untold = (1..self.shards).map(|to| ShardId(to as u16)).collect();
        self.apply_routes(routes, matches!(lease, Lease::Bound(..)));
    }

    fn apply_routes(&mut self, routes: Routes, configured: bool) {
        if let Some(slow) = &mut self.slow {
            slow.configure(&routes);
        }
        self.link.routes = routes;
        self.link.neighbors.clear();
        self.configured |= configured;
        self.configuring.drain(..).for_each(Waker::wake);
    }

    /// Tells the other shards of new routes, as far as the rings have room.
    fn tell_routes(&mut self) {
        let routes = &self.link.routes;
        let (port, notify) = (&mut self.port, &mut self.notify);
        self.untold.retain(|to| {
            notify[usize::from(to.0)] = true;
            port.try_send(*to, Message::Routes(Box::new(routes.clone()))).is_err()
        });
    }

    /// Sends a message to another shard. A full ring loses it, counted.
    fn tell(&mut self, to: ShardId, message: Message) {
        if self.port.try_send(to, message).is_err() {
            self.link.counters.steer_dropped += 1;
        }
        self.notify[usize::from(to.0)] = true;
    }

    fn notify_shards(&mut self) {
        for (told, unparker) in self.notify.iter_mut().zip(&self.unparkers) {
            if std::mem::take(told) {
                unparker.unpark();
            }
        }
    }
}
