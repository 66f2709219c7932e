//! The UDP socket.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::task::{Context, Poll};

use bytes::Bytes;

use crate::kernel::KernelUdp;
use crate::local;
use crate::stack::{SharedStack, UdpId};

/// A UDP socket, on the shard it was bound on.
///
/// Like connections, datagrams are spread over the shards by RSS of addresses and ports,
/// so a server binds on every shard. A client's answers come back to its own shard only if
/// RSS says so: bind on every shard there too, or use one shard.
#[derive(Debug)]
pub struct UdpSocket(Inner);

#[derive(Debug)]
enum Inner {
    Stack { stack: SharedStack, id: UdpId },
    Kernel(KernelUdp),
}

impl UdpSocket {
    /// Binds to `addr`. An unspecified address means any of ours, of both families; port 0
    /// asks for a free one.
    ///
    /// # Errors
    /// `AddrInUse` where another socket of this shard has the address, `AddrNotAvailable`
    /// where it is not ours.
    pub fn bind(addr: SocketAddr) -> io::Result<UdpSocket> {
        let network = local::network()?;
        let Some(stack) = network.stack() else {
            return UdpSocket::bind_kernel(addr);
        };
        let id = stack.borrow_mut().udp_bind(addr)?;
        Ok(UdpSocket(Inner::Stack { stack: stack.clone(), id }))
    }

    /// Binds to `addr` of the host, whatever the shard's device. Sockets of several shards
    /// share it, and the host spreads the datagrams; `0.0.0.0` is IPv4 only.
    ///
    /// # Errors
    /// As for [`bind`](UdpSocket::bind), and what the host says; `Unsupported` in a simulated
    /// world.
    pub fn bind_kernel(addr: SocketAddr) -> io::Result<UdpSocket> {
        let socket = KernelUdp::bind(local::network()?.open_reactor()?, addr)?;
        Ok(UdpSocket(Inner::Kernel(socket)))
    }

    /// Binds for an exchange with `peer`, whose answers come back to this shard, at the port
    /// that `random` leads to. With `on_host`, or without a device, it is a socket of the
    /// host's, at a port of its choice.
    pub(crate) fn bind_towards(
        peer: SocketAddr,
        random: u16,
        on_host: bool,
    ) -> io::Result<UdpSocket> {
        let network = local::network()?;
        let Some(stack) = network.stack().filter(|_| !on_host) else {
            let socket = KernelUdp::towards(network.open_reactor()?, peer)?;
            return Ok(UdpSocket(Inner::Kernel(socket)));
        };
        let id = stack.borrow_mut().udp_bind_towards(peer, random)?;
        Ok(UdpSocket(Inner::Stack { stack: stack.clone(), id }))
    }

    /// Sends a datagram of at most 65,507 bytes; beyond the MTU it goes in fragments. Waits
    /// while the transmit queue is full.
    ///
    /// # Errors
    /// `InvalidInput` for one that is too long or of the wrong family, `NetworkUnreachable`
    /// without a route.
    pub async fn send_to(&self, payload: &[u8], to: SocketAddr) -> io::Result<()> {
        poll_fn(|cx| self.poll_send_to(cx, payload, to)).await
    }

    /// Polls to send a datagram, see [`send_to`](UdpSocket::send_to).
    pub fn poll_send_to(
        &self,
        cx: &mut Context<'_>,
        payload: &[u8],
        to: SocketAddr,
    ) -> Poll<io::Result<()>> {
        match &self.0 {
            Inner::Stack { stack, id } => stack.borrow_mut().udp_poll_send(*id, payload, to, cx),
            Inner::Kernel(socket) => socket.poll_send_to(cx, payload, to),
        }
    }

    /// The next datagram and its sender.
    ///
    /// # Errors
    /// None at present.
    pub async fn recv_from(&self) -> io::Result<(Bytes, SocketAddr)> {
        poll_fn(|cx| self.poll_recv_from(cx)).await
    }

    /// Polls for the next datagram.
    pub fn poll_recv_from(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Bytes, SocketAddr)>> {
        match &self.0 {
            Inner::Stack { stack, id } => {
                stack.borrow_mut().udp_poll_recv(*id, cx).map(|(from, payload)| Ok((payload, from)))
            }
            Inner::Kernel(socket) => socket.poll_recv_from(cx),
        }
    }

    /// The address it is bound to, with the port chosen for port 0.
    pub fn local_addr(&self) -> SocketAddr {
        let (stack, id) = match &self.0 {
            Inner::Stack { stack, id } => (stack, *id),
            Inner::Kernel(socket) => return socket.local_addr(),
        };
        let (addr, port) = stack.borrow().udp_local(id);
        SocketAddr::new(addr.unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED)), port)
    }
}

impl Drop for UdpSocket {
    fn drop(&mut self) {
        if let Inner::Stack { stack, id } = &self.0 {
            stack.borrow_mut().udp_close(*id);
        }
    }
}
