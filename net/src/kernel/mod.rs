//! The host's own sockets behind the public types: device `kernel`, and the control plane's
//! sockets on a shard that has a device of its own.
//!
//! Every shard has an epoll instance, made when its first host socket is, and a socket
//! belongs to the shard that made it. Servers bind on every shard as they do on a device:
//! listeners share their port by SO_REUSEPORT, and the host spreads the connections.
//!
//! Behaviour is that of the stack on a device, as `net/tests/api/` asks of both, except for what
//! docs/ARCHITECTURE.md lists.

mod listener;
mod reactor;
mod stream;
mod udp;

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::net::sockopt::{
    set_ipv6_v6only, set_socket_reuseaddr, set_socket_reuseport, set_tcp_congestion, tcp_congestion,
};
use rustix::net::{
    AddressFamily, SocketAddrAny, SocketFlags, SocketType, bind, connect, getsockname, listen,
    socket_with,
};
use throng_runtime::{Driver, Instant};

pub(crate) use listener::KernelListener;
pub(crate) use reactor::Reactor;
pub(crate) use stream::KernelStream;
pub(crate) use udp::KernelUdp;

use crate::tcp::CongestionControl;

/// The [`Driver`] of a shard whose network is the host's.
#[derive(Debug)]
pub(crate) struct KernelDriver {
    reactor: Rc<Reactor>,
}

impl KernelDriver {
    pub(crate) fn new(reactor: Rc<Reactor>) -> KernelDriver {
        KernelDriver { reactor }
    }
}

impl Driver for KernelDriver {
    fn receive(&mut self, _: Instant) -> bool {
        self.reactor.poll()
    }

    fn advance(&mut self, now: Instant) -> bool {
        self.reactor.advance(now)
    }

    /// Writes go to the host when they are made.
    fn transmit(&mut self, _: Instant) -> bool {
        false
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.reactor.next_deadline()
    }

    fn park(&mut self, unpark: BorrowedFd<'_>, timeout: Option<Duration>) {
        self.reactor.park(unpark, timeout);
    }
}

/// The address the host would send from to `ip`; `None` where it knows no way. Nothing is
/// sent for it.
pub(crate) fn source_for(ip: IpAddr) -> Option<IpAddr> {
    // Any port will do.
    let (_, addr) = open_towards(SocketAddr::new(ip, 53)).ok()?;
    Some(addr.ip())
}

/// A UDP socket for `peer` alone, at a port of the host's choice; with its address.
fn open_towards(peer: SocketAddr) -> io::Result<(OwnedFd, SocketAddr)> {
    let fd = open(&peer, SocketType::DGRAM)?;
    connect(&fd, &peer)?;
    let addr = plain_addr(getsockname(&fd)?)?;
    Ok((fd, addr))
}

/// A socket of the family of `addr` that does not block.
fn open(addr: &SocketAddr, kind: SocketType) -> io::Result<OwnedFd> {
    let family = match addr {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    Ok(socket_with(family, kind, flags, None)?)
}

/// Has the host react to congestion on a TCP socket, and on what it accepts, in this way.
fn set_congestion(fd: &OwnedFd, control: CongestionControl) -> io::Result<()> {
    let name = host_name(control);
    set_tcp_congestion(fd, name).map_err(|errno| match errno {
        Errno::NOENT => {
            let text = format!("the host's kernel has no congestion control {name}");
            io::Error::new(io::ErrorKind::Unsupported, text)
        }
        errno => errno.into(),
    })
}

fn host_name(control: CongestionControl) -> &'static str {
    match control {
        CongestionControl::Cubic => "cubic",
        CongestionControl::NewReno => "reno",
    }
}

/// How the host reacts to congestion on a TCP socket, if that is one of ours.
fn congestion(fd: &OwnedFd) -> Option<CongestionControl> {
    let name = tcp_congestion(fd).ok()?;
    let ours = [CongestionControl::Cubic, CongestionControl::NewReno];
    ours.into_iter().find(|control| host_name(*control) == name)
}

/// A socket bound to `addr`, whose port other shards can share; with its address.
fn open_shared(addr: SocketAddr, kind: SocketType) -> io::Result<(OwnedFd, SocketAddr)> {
    let fd = open(&addr, kind)?;
    if kind == SocketType::STREAM {
        // Connections of an earlier listener may be in TIME_WAIT.
        set_socket_reuseaddr(&fd, true)?;
    }
    set_socket_reuseport(&fd, true)?;
    if addr.is_ipv6() {
        set_ipv6_v6only(&fd, false)?;
    }
    bind(&fd, &addr)?;
    let addr = plain_addr(getsockname(&fd)?)?;
    Ok((fd, addr))
}

/// So many sockets that listen at `addr`, which they share, and share with nobody who was
/// there before; with port 0 at one of the host's choice.
pub(crate) fn listen_together(
    addr: SocketAddr,
    count: usize,
    backlog: usize,
) -> io::Result<Vec<OwnedFd>> {
    let fd = open(&addr, SocketType::STREAM)?;
    // Connections of an earlier listener may be in TIME_WAIT; one that listens is in the way.
    set_socket_reuseaddr(&fd, true)?;
    if addr.is_ipv6() {
        set_ipv6_v6only(&fd, false)?;
    }
    bind(&fd, &addr)?;
    listen(&fd, backlog_for(backlog))?;
    // From here on others like it can join, but no other process has it so.
    set_socket_reuseport(&fd, true)?;
    let addr = SocketAddr::try_from(getsockname(&fd)?)?;
    let mut fds = vec![fd];
    while fds.len() < count {
        let (fd, _) = open_shared(addr, SocketType::STREAM)?;
        listen(&fd, backlog_for(backlog))?;
        fds.push(fd);
    }
    Ok(fds)
}

/// A backlog as the host takes it.
fn backlog_for(backlog: usize) -> i32 {
    i32::try_from(backlog.max(1)).unwrap_or(i32::MAX)
}

fn set_nonblocking(fd: &OwnedFd) -> io::Result<()> {
    Ok(fcntl_setfl(fd, fcntl_getfl(fd)? | OFlags::NONBLOCK)?)
}

/// The address, an IPv4-mapped one as IPv4.
fn plain_addr(addr: SocketAddrAny) -> io::Result<SocketAddr> {
    let addr = SocketAddr::try_from(addr)?;
    Ok(match addr.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::new(ip.into(), addr.port()),
        IpAddr::V6(_) => addr,
    })
}

/// The address as a socket of `family` takes it, where it can.
fn addr_for(family: &SocketAddr, addr: SocketAddr) -> Option<SocketAddr> {
    match (family, addr) {
        (SocketAddr::V4(_), SocketAddr::V6(_)) => None,
        (SocketAddr::V6(_), SocketAddr::V4(addr)) => {
            let ip: Ipv6Addr = addr.ip().to_ipv6_mapped();
            Some(SocketAddrV6::new(ip, addr.port(), 0, 0).into())
        }
        (_, addr) => Some(addr),
    }
}
