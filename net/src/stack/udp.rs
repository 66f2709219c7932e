//! UDP sockets of a shard: by port, each with a bounded queue.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use slab::Slab;

use super::Stack;
use super::counters::Counters;
use super::ports;
use super::wakers::wait_in;
use crate::local::{check_unicast, invalid};
use crate::tcp::segment::{Addr, FourTuple};

/// Largest payload of a UDP datagram over IPv4, in bytes.
const MAX_PAYLOAD: usize = 65_507;
/// What a queued datagram counts beside its bytes.
const OVERHEAD: usize = 64;

/// A socket of this shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct UdpId(usize);

struct Socket {
    /// The address it is bound to; `None`: any of ours.
    local: Option<Addr>,
    port: u16,
    queue: VecDeque<(SocketAddr, Bytes)>,
    queued: usize,
    readers: Vec<Waker>,
}

/// All of them.
pub(crate) struct UdpTable {
    sockets: Slab<Socket>,
    ports: HashMap<u16, Vec<usize>>,
    max_queued: usize,
    writers: Vec<Waker>,
}

impl UdpTable {
    pub(crate) fn new(max_queued: usize) -> UdpTable {
        UdpTable { sockets: Slab::new(), ports: HashMap::new(), max_queued, writers: Vec::new() }
    }

    /// Queues a datagram with the socket it is for. Returns `false` where there is none.
    pub(crate) fn deliver(
        &mut self,
        tuple: &FourTuple,
        payload: &[u8],
        counters: &mut Counters,
    ) -> bool {
        let Some(id) = self.find(tuple.local_port, &tuple.local) else { return false };
        let socket = &mut self.sockets[id];
        let cost = payload.len() + OVERHEAD;
        if socket.queued + cost > self.max_queued {
            counters.udp_queue_full += 1;
            return true;
        }
        socket.queued += cost;
        socket.queue.push_back((tuple.peer_addr(), Bytes::copy_from_slice(payload)));
        socket.readers.drain(..).for_each(Waker::wake);
        true
    }

    /// How many sockets there are.
    pub(crate) fn len(&self) -> usize {
        self.sockets.len()
    }

    /// Wakes the senders that found no room.
    pub(crate) fn wake_writers(&mut self) {
        self.writers.drain(..).for_each(Waker::wake);
    }

    fn find(&self, port: u16, addr: &Addr) -> Option<usize> {
        let candidates = self.ports.get(&port)?;
        let bound_to = |wanted: Option<Addr>| {
            candidates.iter().copied().find(|id| self.sockets[*id].local == wanted)
        };
        bound_to(Some(*addr)).or_else(|| bound_to(None))
    }
}

impl Stack {
    /// Binds a socket. An unspecified address means any of ours, of both families; port 0
    /// asks for a free one.
    pub(crate) fn udp_bind(&mut self, addr: SocketAddr) -> io::Result<UdpId> {
        let local = (!addr.ip().is_unspecified()).then(|| Addr::from(addr.ip()));
        if local.is_some_and(|local| !self.link.routes.is_local(&local)) {
            let text = format!("{} is not an address of this interface", addr.ip());
            return Err(io::Error::new(io::ErrorKind::AddrNotAvailable, text));
        }
        let taken = |port: u16| match self.udp.ports.get(&port) {
            Some(ids) => ids.iter().any(|id| self.udp.sockets[*id].local == local),
            None => false,
        };
        let port = match addr.port() {
            0 => self
                .ephemeral
                .sequence()
                .find(|port| !taken(*port))
                .ok_or_else(|| io::Error::new(io::ErrorKind::AddrInUse, "no free UDP port"))?,
            port if taken(port) => {
                let text = format!("UDP port {port} is in use on this shard");
                return Err(io::Error::new(io::ErrorKind::AddrInUse, text));
            }
            port => port,
        };
        let id = self.udp.sockets.insert(Socket {
            local,
            port,
            queue: VecDeque::new(),
            queued: 0,
            readers: Vec::new(),
        });
        self.udp.ports.entry(port).or_default().push(id);
        Ok(UdpId(id))
    }

    /// Binds a socket for an exchange with `peer`: at the address that leads there, and at a
    /// port whose answers come back to this shard. `random` says where the search begins.
    pub(crate) fn udp_bind_towards(&mut self, peer: SocketAddr, random: u16) -> io::Result<UdpId> {
        let remote = Addr::from(peer.ip());
        let Some(local) = self.link.routes.source_for(&remote) else {
            let text = format!("no route to {}", peer.ip());
            return Err(io::Error::new(io::ErrorKind::NetworkUnreachable, text));
        };
        let first = ports::from_random(random);
        let (sharding, from) = (self.steering.sharding(), IpAddr::from(local));
        let mut ports = sharding.source_ports(from, peer, self.shard, ports::RANGE, first);
        // No other socket of this shard, whatever its address: an answer has one taker.
        let port = ports.find(|port| !self.udp.ports.contains_key(port));
        let port = port.ok_or_else(|| {
            io::Error::new(io::ErrorKind::AddrInUse, "no free UDP port of this shard")
        })?;
        self.udp_bind(SocketAddr::new(from, port))
    }

    /// Closes a socket; what is queued is lost, as with any UDP socket.
    pub(crate) fn udp_close(&mut self, id: UdpId) {
        let socket = self.udp.sockets.remove(id.0);
        if let Some(ids) = self.udp.ports.get_mut(&socket.port) {
            ids.retain(|other| *other != id.0);
            if ids.is_empty() {
                self.udp.ports.remove(&socket.port);
            }
        }
    }

    /// The bound port, and the bound address where one was named.
    pub(crate) fn udp_local(&self, id: UdpId) -> (Option<IpAddr>, u16) {
        let socket = &self.udp.sockets[id.0];
        (socket.local.map(IpAddr::from), socket.port)
    }

    /// The next datagram and its sender.
    pub(crate) fn udp_poll_recv(
        &mut self,
        id: UdpId,
        cx: &Context<'_>,
    ) -> Poll<(SocketAddr, Bytes)> {
        let socket = &mut self.udp.sockets[id.0];
        match socket.queue.pop_front() {
            Some((from, payload)) => {
                socket.queued -= payload.len() + OVERHEAD;
                if socket.queue.is_empty() {
                    socket.queue = VecDeque::new();
                }
                Poll::Ready((from, payload))
            }
            None => {
                wait_in(&mut socket.readers, cx);
                Poll::Pending
            }
        }
    }

    /// Sends a datagram. Pending while the transmit queue is full.
    pub(crate) fn udp_poll_send(
        &mut self,
        id: UdpId,
        payload: &[u8],
        to: SocketAddr,
        cx: &Context<'_>,
    ) -> Poll<io::Result<()>> {
        if payload.len() > MAX_PAYLOAD {
            let text = format!("a datagram of {} bytes: at most {MAX_PAYLOAD} fit", payload.len());
            return Poll::Ready(Err(invalid(text)));
        }
        // An IPv4 broadcast would need a link address of its own, and so would a group.
        check_unicast(to)?;
        let socket = &self.udp.sockets[id.0];
        let remote = Addr::from(to.ip());
        if socket.local.is_some_and(|local| local.is_ipv4() != remote.is_ipv4()) {
            let text = format!("{to} is of another family than the socket's address");
            return Poll::Ready(Err(invalid(text)));
        }
        let Some(local) = socket.local.or_else(|| self.link.routes.source_for(&remote)) else {
            let text = format!("no route to {}", to.ip());
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::NetworkUnreachable, text)));
        };
        if self.link.routes.next_hop(&remote).is_none() {
            let text = format!("no route to {}", to.ip());
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::NetworkUnreachable, text)));
        }
        let tuple = FourTuple { local, remote, local_port: socket.port, remote_port: to.port() };
        match self.link.send_udp(&tuple, payload, &mut 0) {
            Ok(()) => Poll::Ready(Ok(())),
            Err(_) => {
                wait_in(&mut self.udp.writers, cx);
                Poll::Pending
            }
        }
    }
}
