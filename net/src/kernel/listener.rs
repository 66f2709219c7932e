//! A listener of the host's.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::socket_acceptconn;
use rustix::net::{SocketFlags, SocketType, acceptfrom_with, getsockname, listen};
use throng_runtime::{Instant, coop};

use super::reactor::{Reactor, Readiness, Side, Source};
use super::{KernelStream, backlog_for, open_shared, plain_addr, set_congestion, set_nonblocking};
use crate::local::invalid;
use crate::tcp::CongestionControl;

/// How long a listener waits where the host has no descriptor or memory for a connection.
const BREAK: Duration = Duration::from_millis(100);

/// Listens on this shard; others may share the port.
#[derive(Debug)]
pub(crate) struct KernelListener {
    reactor: Rc<Reactor>,
    fd: OwnedFd,
    ready: Rc<Readiness>,
    key: usize,
    addr: SocketAddr,
    /// Until when it waits for the host to have room again.
    paused: Cell<Instant>,
}

impl KernelListener {
    pub(crate) fn bind(
        reactor: Rc<Reactor>,
        addr: SocketAddr,
        backlog: usize,
    ) -> io::Result<KernelListener> {
        reactor.check_free(SocketType::STREAM, addr)?;
        let (fd, addr) = open_shared(addr, SocketType::STREAM)?;
        if let Some(control) = reactor.congestion() {
            set_congestion(&fd, control)?;
        }
        listen(&fd, backlog_for(backlog))?;
        KernelListener::register(reactor, fd, addr)
    }

    /// A socket that listens already, and that others may have, too.
    pub(crate) fn adopt(reactor: Rc<Reactor>, fd: OwnedFd) -> io::Result<KernelListener> {
        // An error means that it is no socket at all.
        let is_listener = socket_acceptconn(&fd).unwrap_or(false);
        let addr = if is_listener {
            getsockname(&fd).ok().and_then(|addr| plain_addr(addr).ok())
        } else {
            None
        };
        let Some(addr) = addr else {
            return Err(invalid("this is no listening TCP socket".to_owned()));
        };
        set_nonblocking(&fd)?;
        if let Some(control) = reactor.congestion() {
            set_congestion(&fd, control)?;
        }
        KernelListener::register(reactor, fd, addr)
    }

    fn register(reactor: Rc<Reactor>, fd: OwnedFd, addr: SocketAddr) -> io::Result<KernelListener> {
        let ready = Rc::new(Readiness::new());
        let key = reactor.add(fd.as_fd(), Source::Plain(ready.clone()))?;
        reactor.note_bound(SocketType::STREAM, addr);
        Ok(KernelListener { reactor, fd, ready, key, addr, paused: Cell::default() })
    }

    pub(crate) fn poll_accept(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<(KernelStream, SocketAddr)>> {
        ready!(coop::poll_proceed(cx));
        // News of more connections do not end a pause: the alarm does.
        while self.ready.is_ready(Side::Read) && self.paused.get() <= self.reactor.now() {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            match acceptfrom_with(&self.fd, flags) {
                Ok((fd, Some(peer))) => {
                    let peer = plain_addr(peer)?;
                    match KernelStream::new(self.reactor.clone(), fd, peer) {
                        Ok(stream) => return Poll::Ready(Ok((stream, peer))),
                        // Epoll has its limits, too.
                        Err(error) => self.take_break(&error),
                    }
                }
                Err(Errno::AGAIN) => self.ready.clear(Side::Read),
                Err(error @ (Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)) => {
                    self.take_break(&error.into());
                }
                Ok((_, None)) | Err(Errno::INTR) => {}
                // That connection has ended before it was accepted; see accept(2).
                Err(
                    Errno::CONNABORTED
                    | Errno::PROTO
                    | Errno::NOPROTOOPT
                    | Errno::OPNOTSUPP
                    | Errno::NETDOWN
                    | Errno::NETUNREACH
                    | Errno::HOSTDOWN
                    | Errno::HOSTUNREACH
                    | Errno::NONET
                    | Errno::TIMEDOUT
                    | Errno::PERM,
                ) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
        self.ready.wait(Side::Read, cx);
        Poll::Pending
    }

    /// The host has run out of something: tries again in a while.
    fn take_break(&self, error: &io::Error) {
        tracing::warn!(%error, addr = %self.addr, "cannot accept for now");
        self.paused.set(self.reactor.now() + BREAK);
        self.reactor.wake_at(self.key, self.paused.get());
    }

    pub(crate) fn set_congestion(&self, control: CongestionControl) -> io::Result<()> {
        set_congestion(&self.fd, control)
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for KernelListener {
    fn drop(&mut self) {
        self.ready.wake(Side::Read);
        // Another process may have it, too, and then closing it is not enough.
        self.reactor.unwatch(self.fd.as_fd());
        self.reactor.remove(self.key);
        self.reactor.forget_bound(SocketType::STREAM, self.addr);
    }
}
