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

/// A datagram that waits: who sent it, and what it says.
type Waiting = (SocketAddr, Bytes);
/// Queues that nobody uses are kept for whoever gets the next datagram: a socket owns one only while something
/// waits in it. At most so many, of so many places each: 128 KiB of a shard.
const SPARE: usize = 64;
const SPARE_PLACES: usize = 32;

/// A socket of this shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct UdpId(usize);

struct Socket {
    /// The address it is bound to; `None`: any of ours.
    local: Option<Addr>,
    port: u16,
    queue: VecDeque<Waiting>,
    queued: usize,
    readers: Vec<Waker>,
}

/// All of them.
pub(crate) struct UdpTable {
    sockets: Slab<Socket>,
    ports: HashMap<u16, Vec<usize>>,
    max_queued: usize,
    writers: Vec<Waker>,
    /// Empty queues with room.
    spare: Vec<VecDeque<Waiting>>,
}

impl UdpTable {
    pub(crate) fn new(max_queued: usize) -> UdpTable {
        UdpTable {
            sockets: Slab::new(),
            ports: HashMap::new(),
            max_queued,
            writers: Vec::new(),
            spare: Vec::new(),
        }
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
        if socket.queue.capacity() == 0
            && let Some(queue) = self.spare.pop()
        {
            socket.queue = queue;
        }
        socket.queue.push_back((tuple.peer_addr(), Bytes::copy_from_slice(payload)));
        socket.readers.drain(..).for_each(Waker::wake);
        true
    }

    /// The next datagram of a socket.
    fn take(&mut self, id: UdpId) -> Option<Waiting> {
        let socket = &mut self.sockets[id.0];
        let (from, payload) = socket.queue.pop_front()?;
        socket.queued -= payload.len() + OVERHEAD;
        if socket.queue.is_empty() {
            let queue = std::mem::take(&mut socket.queue);
            self.keep(queue);
        }
        Some((from, payload))
    }

    /// An empty queue is for the next one to use, unless it is large or there are enough.
    fn keep(&mut self, queue: VecDeque<Waiting>) {
        if queue.capacity() <= SPARE_PLACES && self.spare.len() < SPARE {
            self.spare.push(queue);
        }
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
        match self.udp.take(id) {
            Some(datagram) => Poll::Ready(datagram),
            None => {
                wait_in(&mut self.udp.sockets[id.0].readers, cx);
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

#[cfg(test)]
mod tests {
    use super::*;

    const MAX_QUEUED: usize = 1 << 20;

    fn table(sockets: u16) -> (UdpTable, Vec<UdpId>) {
        let mut table = UdpTable::new(MAX_QUEUED);
        let bind = |port: u16| {
            let (queue, readers) = (VecDeque::new(), Vec::new());
            let socket = Socket { local: None, port, queue, queued: 0, readers };
            let id = table.sockets.insert(socket);
            table.ports.insert(port, vec![id]);
            UdpId(id)
        };
        let ids = (1..=sockets).map(bind).collect();
        (table, ids)
    }

    fn tell(table: &mut UdpTable, port: u16, times: usize) {
        let addr = |last| Addr::from(IpAddr::from([10, 0, 0, last]));
        let (local, remote) = (addr(1), addr(2));
        let tuple = FourTuple { local, remote, local_port: port, remote_port: 9 };
        for _ in 0..times {
            assert!(table.deliver(&tuple, b"hello", &mut Counters::default()));
        }
    }

    #[test]
    fn idle_sockets_own_no_queue_and_the_next_datagram_finds_one() {
        let (mut table, ids) = table(2);
        for id in [0, 1, 0] {
            tell(&mut table, id as u16 + 1, 3);
            assert!(table.spare.is_empty(), "the only one is in use");
            for _ in 0..3 {
                let (from, said) = table.take(ids[id]).expect("a datagram");
                assert_eq!(
                    (from, &said[..]),
                    (SocketAddr::from(([10, 0, 0, 2], 9)), &b"hello"[..])
                );
            }
            assert!(table.take(ids[id]).is_none());
            let owned = table.sockets.iter().map(|(_, socket)| socket.queue.capacity());
            assert_eq!((owned.sum::<usize>(), table.spare.len()), (0, 1));
            assert!(table.sockets.iter().all(|(_, socket)| socket.queued == 0));
        }
    }

    #[test]
    fn few_and_small_queues_are_kept() {
        let many = SPARE as u16 + 9;
        let (mut table, ids) = table(many);
        (1..=many).for_each(|port| tell(&mut table, port, 1));
        assert!(ids.iter().all(|id| table.take(*id).is_some()));
        assert_eq!(table.spare.len(), SPARE);
        table.spare.clear();
        tell(&mut table, 1, SPARE_PLACES + 1);
        while table.take(ids[0]).is_some() {}
        assert!(table.spare.is_empty(), "a large one is given back");
    }
}
