//! The slow path: one smoltcp `Interface` for everything that is neither TCP nor a UDP
//! datagram for a socket: ARP, NDP, ICMP, DHCP, and the refusal of what nobody wants.
//!
//! It lives on shard 0; the other shards hand it their frames over the mesh
//! (docs/decisions/0001-one-slow-path.md).

use std::collections::VecDeque;
use std::net::IpAddr;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{self, DeviceCapabilities, Medium};
use smoltcp::socket::dhcpv4;
use smoltcp::time::Instant as SmolInstant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr};
use throng_runtime::Instant;

use super::fragment::fragment;
use super::route::Routes;
use crate::packet::Packet;

/// Frames that may wait for the slow path within one turn.
const MAX_QUEUED: usize = 256;
/// To smoltcp every datagram is whole: it is cut behind its back.
const WHOLE_DATAGRAM: usize = 65_535;

/// What the DHCP client has to say (RFC 2131).
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Lease {
    /// An address with its prefix, the default gateway, and name servers.
    Bound(IpCidr, Option<IpAddr>, Vec<IpAddr>),
    /// The lease has run out.
    Lost,
}

/// smoltcp's interface between two queues.
pub(crate) struct SlowPath {
    iface: Interface,
    sockets: SocketSet<'static>,
    queues: Queues,
    dhcp: Option<SocketHandle>,
    /// There is a lease: smoltcp also reports at the start that there is none.
    bound: bool,
    mtu: usize,
    ident: u32,
    /// When smoltcp wants to be polled even if nothing arrives.
    poll_at: Option<Instant>,
    /// Frames dropped because too many came in one turn.
    pub(crate) dropped: u64,
}

impl SlowPath {
    /// For an interface with `mac` and `mtu`. `seed` is for transaction ids.
    pub(crate) fn new(mac: EthernetAddress, mtu: usize, seed: u64, dhcp: bool) -> SlowPath {
        let mut config = Config::new(HardwareAddress::Ethernet(mac));
        config.random_seed = seed;
        let mut queues = Queues { rx: VecDeque::new(), tx: Vec::new() };
        let iface = Interface::new(config, &mut queues, SmolInstant::ZERO);
        let mut sockets = SocketSet::new(Vec::new());
        let dhcp = dhcp.then(|| {
            let mut socket = dhcpv4::Socket::new();
            // RFC 2131 4.1 begins with four seconds; a link that is just coming up loses the
            // first message more often than a server is overwhelmed by a second one.
            let mut retries = dhcpv4::RetryConfig::default();
            retries.discover_timeout = smoltcp::time::Duration::from_secs(2);
            socket.set_retry_config(retries);
            sockets.add(socket)
        });
        SlowPath {
            iface,
            sockets,
            queues,
            dhcp,
            bound: false,
            mtu,
            ident: seed as u32,
            poll_at: Some(Instant::ZERO),
            dropped: 0,
        }
    }

    /// Takes over addresses and gateways. smoltcp holds a limited number of addresses;
    /// returns those it has no room for, which answer neither ARP nor ping.
    pub(crate) fn configure(&mut self, routes: &Routes) -> Vec<IpCidr> {
        let mut rest = Vec::new();
        self.iface.update_ip_addrs(|addrs| {
            addrs.clear();
            for cidr in routes.cidrs() {
                if addrs.push(*cidr).is_err() {
                    rest.push(*cidr);
                }
            }
        });
        let table = self.iface.routes_mut();
        table.remove_default_ipv4_route();
        table.remove_default_ipv6_route();
        for ipv4 in [true, false] {
            // The table holds at least two routes, so neither of these can fail.
            let _ = match routes.gateway(ipv4).map(IpAddr::from) {
                Some(IpAddr::V4(v4)) => table.add_default_ipv4_route(v4),
                Some(IpAddr::V6(v6)) => table.add_default_ipv6_route(v6),
                None => Ok(None),
            };
        }
        self.poll_at = Some(Instant::ZERO);
        rest
    }

    /// Queues a frame for the next [`poll`](SlowPath::poll).
    pub(crate) fn input(&mut self, packet: Packet) {
        if self.queues.rx.len() == MAX_QUEUED {
            self.dropped += 1;
            return;
        }
        self.queues.rx.push_back(packet);
    }

    /// Whether [`poll`](SlowPath::poll) has something to do at `now`.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        !self.queues.rx.is_empty() || self.poll_at.is_some_and(|at| at <= now)
    }

    /// When to poll next if nothing arrives.
    pub(crate) fn poll_at(&self) -> Option<Instant> {
        self.poll_at
    }

    /// Lets smoltcp work; hands every frame to send to `send` and returns a change of lease.
    pub(crate) fn poll(&mut self, now: Instant, mut send: impl FnMut(Vec<u8>)) -> Option<Lease> {
        let time = SmolInstant::from_micros(now.as_micros() as i64);
        self.iface.poll(time, &mut self.queues, &mut self.sockets);
        for frame in self.queues.tx.drain(..) {
            if frame.len() <= self.mtu + 14 {
                send(frame);
            } else {
                self.ident = self.ident.wrapping_add(1);
                fragment(&frame, self.mtu, self.ident).into_iter().for_each(&mut send);
            }
        }
        self.poll_at = self
            .iface
            .poll_at(time, &self.sockets)
            .map(|at| Instant::from_micros(at.total_micros().max(0) as u64));
        let socket = self.sockets.get_mut::<dhcpv4::Socket<'_>>(self.dhcp?);
        match socket.poll()? {
            dhcpv4::Event::Deconfigured => std::mem::take(&mut self.bound).then_some(Lease::Lost),
            dhcpv4::Event::Configured(config) => {
                self.bound = true;
                let router = config.router.map(IpAddr::from);
                let nameservers = config.dns_servers.iter().copied().map(IpAddr::from);
                Some(Lease::Bound(config.address.into(), router, nameservers.collect()))
            }
        }
    }
}

/// The device smoltcp sees.
struct Queues {
    rx: VecDeque<Packet>,
    tx: Vec<Vec<u8>>,
}

impl phy::Device for Queues {
    type RxToken<'a> = RxToken;
    type TxToken<'a> = TxToken<'a>;

    fn receive(&mut self, _: SmolInstant) -> Option<(RxToken, TxToken<'_>)> {
        let packet = self.rx.pop_front()?;
        Some((RxToken(packet), TxToken(&mut self.tx)))
    }

    fn transmit(&mut self, _: SmolInstant) -> Option<TxToken<'_>> {
        (self.tx.len() < MAX_QUEUED).then_some(TxToken(&mut self.tx))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut caps = DeviceCapabilities::default();
        caps.medium = Medium::Ethernet;
        caps.max_transmission_unit = WHOLE_DATAGRAM + 14;
        // The packet path has looked at these sums already, or the device has.
        caps.checksum.udp = phy::Checksum::Tx;
        caps.checksum.tcp = phy::Checksum::Tx;
        caps
    }
}

struct RxToken(Packet);

impl phy::RxToken for RxToken {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0.data())
    }
}

struct TxToken<'a>(&'a mut Vec<Vec<u8>>);

impl phy::TxToken for TxToken<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0u8; len];
        let result = f(&mut frame);
        self.0.push(frame);
        result
    }
}
