//! The UDP socket.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::task::{Context, Poll};

use bytes::Bytes;

use crate::local;
use crate::stack::{SharedStack, UdpId};

/// A UDP socket, on the shard it was bound on.
///
/// Like connections, datagrams are spread over the shards by RSS of addresses and ports,
/// so a server binds on every shard. A client's answers come back to its own shard only if
/// RSS says so: bind on every shard there too, or use one shard.
#[derive(Debug)]
pub struct UdpSocket {
    stack: SharedStack,
    id: UdpId,
}

impl UdpSocket {
    /// Binds to `addr`. An unspecified address means any of ours, of both families; port 0
    /// asks for a free one.
    ///
    /// # Errors
    /// `AddrInUse` where another socket of this shard has the address, `AddrNotAvailable`
    /// where it is not ours.
    pub fn bind(addr: SocketAddr) -> io::Result<UdpSocket> {
        let stack = local::stack()?;
        let id = stack.borrow_mut().udp_bind(addr)?;
        Ok(UdpSocket { stack, id })
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
        self.stack.borrow_mut().udp_poll_send(self.id, payload, to, cx)
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
        self.stack
            .borrow_mut()
            .udp_poll_recv(self.id, cx)
            .map(|(from, payload)| Ok((payload, from)))
    }

    /// The address it is bound to, with the port chosen for port 0.
    pub fn local_addr(&self) -> SocketAddr {
        let (addr, port) = self.stack.borrow().udp_local(self.id);
        SocketAddr::new(addr.unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED)), port)
    }
}

impl Drop for UdpSocket {
    fn drop(&mut self) {
        self.stack.borrow_mut().udp_close(self.id);
    }
}
