//! A UDP socket of the host's.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketType, recvfrom, sendto};
use throng_runtime::coop;

use super::reactor::{Reactor, Readiness, Side, Source};
use super::{addr_for, open_shared, open_towards, plain_addr};
use crate::local::invalid;

/// Largest payload of a datagram over IPv4.
const MAX_PAYLOAD: usize = 65_507;

/// Bound on this shard; others may share the port.
#[derive(Debug)]
pub(crate) struct KernelUdp {
    reactor: Rc<Reactor>,
    fd: OwnedFd,
    ready: Rc<Readiness>,
    key: usize,
    addr: SocketAddr,
    /// It has one peer, and is told when that is not there.
    connected: bool,
}

impl KernelUdp {
    pub(crate) fn bind(reactor: Rc<Reactor>, addr: SocketAddr) -> io::Result<KernelUdp> {
        reactor.check_free(SocketType::DGRAM, addr)?;
        KernelUdp::register(reactor, open_shared(addr, SocketType::DGRAM)?, false)
    }

    /// For an exchange with `peer`: at a port of the host's choice that no other socket
    /// shares. Receiving fails where nobody listens at `peer`.
    pub(crate) fn towards(reactor: Rc<Reactor>, peer: SocketAddr) -> io::Result<KernelUdp> {
        KernelUdp::register(reactor, open_towards(peer)?, true)
    }

    fn register(
        reactor: Rc<Reactor>,
        (fd, addr): (OwnedFd, SocketAddr),
        connected: bool,
    ) -> io::Result<KernelUdp> {
        let ready = Rc::new(Readiness::new());
        let key = reactor.add(fd.as_fd(), Source::Plain(ready.clone()))?;
        reactor.note_bound(SocketType::DGRAM, addr);
        Ok(KernelUdp { reactor, fd, ready, key, addr, connected })
    }

    pub(crate) fn poll_send_to(
        &self,
        cx: &mut Context<'_>,
        payload: &[u8],
        to: SocketAddr,
    ) -> Poll<io::Result<()>> {
        if payload.len() > MAX_PAYLOAD {
            let text = format!("{} bytes: a datagram has at most {MAX_PAYLOAD}", payload.len());
            return Poll::Ready(Err(invalid(text)));
        }
        if to.ip().to_canonical().is_unspecified() || to.port() == 0 {
            return Poll::Ready(Err(invalid(format!("{to} is no address of a host"))));
        }
        let Some(to) = addr_for(&self.addr, to) else {
            let text = format!("{to} is of another family than {}", self.addr);
            return Poll::Ready(Err(invalid(text)));
        };
        ready!(coop::poll_proceed(cx));
        while self.ready.is_ready(Side::Write) {
            match sendto(&self.fd, payload, SendFlags::NOSIGNAL, &to) {
                Ok(_) => return Poll::Ready(Ok(())),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.ready.clear(Side::Write),
                Err(errno @ (Errno::MSGSIZE | Errno::INVAL)) => {
                    return Poll::Ready(Err(invalid(errno.to_string())));
                }
                Err(errno) => return Poll::Ready(Err(errno.into())),
            }
        }
        self.ready.wait(Side::Write, cx);
        Poll::Pending
    }

    pub(crate) fn poll_recv_from(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<(Bytes, SocketAddr)>> {
        ready!(coop::poll_proceed(cx));
        while self.ready.is_ready(Side::Read) {
            let received = self.reactor.with_scratch(|scratch| {
                let (len, _, from) = recvfrom(&self.fd, &mut *scratch, RecvFlags::empty())?;
                Ok((Bytes::copy_from_slice(&scratch[..len]), from))
            });
            match received {
                Ok((payload, Some(from))) => {
                    return Poll::Ready(plain_addr(from).map(|from| (payload, from)));
                }
                Err(Errno::AGAIN) => self.ready.clear(Side::Read),
                Ok((_, None)) | Err(Errno::INTR) => {}
                // An ICMP error about something sent: UDP goes on.
                Err(Errno::CONNREFUSED | Errno::HOSTUNREACH | Errno::NETUNREACH)
                    if !self.connected => {}
                Err(errno) => return Poll::Ready(Err(errno.into())),
            }
        }
        self.ready.wait(Side::Read, cx);
        Poll::Pending
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for KernelUdp {
    fn drop(&mut self) {
        self.reactor.remove(self.key);
        self.reactor.forget_bound(SocketType::DGRAM, self.addr);
    }
}
