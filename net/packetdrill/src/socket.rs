//! The calls on a socket.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::Bytes;
use throng_net::engine::{ConnId, Error, FourTuple, ListenerId, RecvError, SendError, State};

use crate::errno::{Errno, Sys};
use crate::host::Host;
use crate::options::Settings;

/// What stands behind a descriptor.
#[derive(Debug)]
pub(crate) struct Socket {
    v6: bool,
    pub(crate) nonblocking: bool,
    bound: Option<SocketAddr>,
    pub(crate) kind: Kind,
    pub(crate) settings: Settings,
    read_shut: bool,
    write_shut: bool,
    /// Whether a call has said that the connection is there.
    connect_told: bool,
    /// Whether a call has said why the connection ended.
    pub(crate) error_told: bool,
}

#[derive(Debug)]
pub(crate) enum Kind {
    Fresh,
    Listening {
        id: ListenerId,
        /// Whether there may be a connection to accept.
        acceptable: bool,
        /// Connections that `poll` has found.
        ready: VecDeque<ConnId>,
    },
    Open(ConnId),
}

impl Socket {
    fn new(v6: bool, nonblocking: bool) -> Socket {
        Socket {
            v6,
            nonblocking,
            bound: None,
            kind: Kind::Fresh,
            settings: Settings::default(),
            read_shut: false,
            write_shut: false,
            connect_told: false,
            error_told: false,
        }
    }

    pub(crate) fn conn(&self) -> Option<ConnId> {
        match self.kind {
            Kind::Open(conn) => Some(conn),
            _ => None,
        }
    }
}

/// A question to [`Host::poll`], and its answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Poll {
    /// The descriptor.
    pub fd: i32,
    /// What is waited for, of `libc::POLLIN` and the like.
    pub events: i16,
    /// What is there.
    pub revents: i16,
}

impl Host {
    /// `socket(2)` for a TCP socket.
    pub fn socket_call(&mut self, v6: bool, nonblocking: bool) -> i32 {
        self.install(Socket::new(v6, nonblocking))
    }

    /// `bind(2)`.
    ///
    /// # Errors
    /// `EBADF`; `EINVAL`: bound already; `EADDRNOTAVAIL`: not an address of this host.
    pub fn bind(&mut self, fd: i32, addr: SocketAddr) -> Sys<()> {
        let ip = addr.ip();
        if !ip.is_unspecified() && ip != self.local.0 && ip != self.local.1 {
            return Err(Errno(libc::EADDRNOTAVAIL));
        }
        let socket = self.socket_mut(fd)?;
        if socket.bound.is_some() || !matches!(socket.kind, Kind::Fresh) {
            return Err(Errno(libc::EINVAL));
        }
        socket.bound = Some(addr);
        Ok(())
    }

    /// `listen(2)`.
    ///
    /// # Errors
    /// `EBADF`, `EINVAL`, `EADDRINUSE`.
    pub fn listen(&mut self, fd: i32, backlog: i32) -> Sys<()> {
        let socket = self.socket(fd)?;
        let any = if socket.v6 {
            SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0)
        } else {
            SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0)
        };
        let mut addr = socket.bound.unwrap_or(any);
        match socket.kind {
            Kind::Fresh => {}
            Kind::Listening { .. } => return Ok(()),
            Kind::Open(_) => return Err(Errno(libc::EINVAL)),
        }
        if addr.port() == 0 {
            addr.set_port(self.ephemeral(addr).port());
        }
        // Linux takes one more than it is told.
        let backlog = usize::try_from(backlog).unwrap_or(0) + 1;
        let id = self.engine.listen(addr, backlog)?;
        let socket = self.socket_mut(fd)?;
        socket.kind = Kind::Listening { id, acceptable: false, ready: VecDeque::new() };
        Ok(())
    }

    /// `accept4(2)`: the new descriptor, and the peer's address.
    ///
    /// # Errors
    /// `EBADF`; `EINVAL`: it does not listen; `EAGAIN`.
    pub fn accept(&mut self, fd: i32, nonblocking: bool) -> Sys<(i32, SocketAddr)> {
        let engine = &mut self.engine;
        let socket = self.sockets.get_mut(&fd).ok_or(Errno(libc::EBADF))?;
        let Kind::Listening { id, acceptable, ready } = &mut socket.kind else {
            return Err(Errno(libc::EINVAL));
        };
        let Some(conn) = ready.pop_front().or_else(|| engine.accept(*id)) else {
            *acceptable = false;
            return Err(Errno(libc::EAGAIN));
        };
        let mut child = Socket::new(socket.v6, nonblocking);
        child.settings = socket.settings;
        child.connect_told = true;
        child.kind = Kind::Open(conn);
        let peer = self.engine.tuple(conn).map(|tuple| tuple.peer_addr());
        let new = self.install(child);
        self.apply_all(new)?;
        self.turn();
        Ok((new, peer.unwrap_or(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0))))
    }

    /// `connect(2)`. Where it begins a connection it answers `EINPROGRESS`; called again it tells
    /// what has become of it.
    ///
    /// # Errors
    /// `EBADF`, `EINPROGRESS`, `EALREADY`, `EISCONN`, or why there is no connection.
    pub fn connect(&mut self, fd: i32, to: SocketAddr) -> Sys<()> {
        let socket = self.socket(fd)?;
        match socket.kind {
            Kind::Listening { .. } => Err(Errno(libc::EISCONN)),
            Kind::Open(conn) => {
                let told = socket.connect_told;
                self.connect_again(fd, conn, told)
            }
            Kind::Fresh => {
                let bound = socket.bound;
                let mut from = match bound {
                    Some(addr) if addr.port() != 0 => addr,
                    _ => self.ephemeral(to),
                };
                if from.ip().is_unspecified() {
                    let port = from.port();
                    from = self.ephemeral(to);
                    from.set_port(port);
                }
                let conn = self.engine.connect(FourTuple::new(from, to), self.now)?;
                self.socket_mut(fd)?.kind = Kind::Open(conn);
                self.apply_all(fd)?;
                self.turn();
                Err(Errno(libc::EINPROGRESS))
            }
        }
    }

    fn connect_again(&mut self, fd: i32, conn: ConnId, told: bool) -> Sys<()> {
        match self.engine.state(conn) {
            State::SynSent | State::SynReceived => Err(Errno(libc::EALREADY)),
            _ if told => Err(Errno(libc::EISCONN)),
            State::Closed => {
                Err(self.take_error(fd).map_or(Errno(libc::ECONNABORTED), Errno::from))
            }
            _ => {
                self.socket_mut(fd)?.connect_told = true;
                Ok(())
            }
        }
    }

    /// The local and the peer's address of a connection.
    ///
    /// # Errors
    /// `EBADF`, `ENOTCONN`.
    pub fn tuple(&self, fd: i32) -> Sys<FourTuple> {
        let conn = self.socket(fd)?.conn().ok_or(Errno(libc::ENOTCONN))?;
        self.engine.tuple(conn).ok_or(Errno(libc::ENOTCONN))
    }

    /// `read(2)`, of at most `max` bytes.
    ///
    /// # Errors
    /// `EBADF`, `ENOTCONN`, `EAGAIN`, or why the connection has ended, once.
    pub fn read(&mut self, fd: i32, max: usize) -> Sys<Vec<u8>> {
        let socket = self.socket(fd)?;
        let conn = socket.conn().ok_or(Errno(libc::ENOTCONN))?;
        let (shut, told) = (socket.read_shut, socket.error_told);
        let mut all = Vec::new();
        while all.len() < max {
            match self.engine.recv(conn, max - all.len(), self.now) {
                Ok(bytes) if bytes.is_empty() => break,
                Ok(bytes) => all.extend_from_slice(&bytes),
                Err(_) if !all.is_empty() || shut || max == 0 => break,
                Err(RecvError::WouldBlock) => {
                    self.turn();
                    return Err(Errno(libc::EAGAIN));
                }
                Err(RecvError::Closed(_)) if told => break,
                Err(RecvError::Closed(error)) => {
                    self.socket_mut(fd)?.error_told = true;
                    return Err(error.into());
                }
            }
        }
        self.turn();
        Ok(all)
    }

    /// `write(2)`. What there is room for at all is taken whole. The signal `SIGPIPE` is nobody's.
    ///
    /// # Errors
    /// `EBADF`, `EPIPE`, `EAGAIN`, or why the connection has ended, once.
    pub fn write(&mut self, fd: i32, bytes: Bytes) -> Sys<usize> {
        let socket = self.socket(fd)?;
        let conn = socket.conn().ok_or(Errno(libc::EPIPE))?;
        if socket.write_shut {
            return Err(Errno(libc::EPIPE));
        }
        let told = socket.error_told;
        let len = bytes.len();
        let result = self.engine.send(conn, bytes, self.now);
        self.turn();
        match result {
            Ok(()) => Ok(len),
            Err(SendError::WouldBlock(_)) => Err(Errno(libc::EAGAIN)),
            Err(SendError::Closed(Error::BrokenPipe)) => Err(Errno(libc::EPIPE)),
            Err(SendError::Closed(_)) if told => Err(Errno(libc::EPIPE)),
            Err(SendError::Closed(error)) => {
                self.socket_mut(fd)?.error_told = true;
                Err(error.into())
            }
        }
    }

    /// `shutdown(2)`: `libc::SHUT_RD`, `SHUT_WR` or `SHUT_RDWR`.
    ///
    /// # Errors
    /// `EBADF`, `ENOTCONN`, `EINVAL`.
    pub fn shutdown(&mut self, fd: i32, how: i32) -> Sys<()> {
        if ![libc::SHUT_RD, libc::SHUT_WR, libc::SHUT_RDWR].contains(&how) {
            return Err(Errno(libc::EINVAL));
        }
        let socket = self.socket_mut(fd)?;
        let conn = socket.conn().ok_or(Errno(libc::ENOTCONN))?;
        socket.read_shut |= how != libc::SHUT_WR;
        socket.write_shut |= how != libc::SHUT_RD;
        let write = socket.write_shut;
        if self.engine.state(conn) == State::Closed {
            return Err(Errno(libc::ENOTCONN));
        }
        if write {
            self.engine.shutdown_write(conn, self.now);
            self.turn();
        }
        Ok(())
    }

    /// `close(2)`.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn close(&mut self, fd: i32) -> Sys<()> {
        match self.sockets.remove(&fd).ok_or(Errno(libc::EBADF))?.kind {
            Kind::Fresh => {}
            Kind::Open(conn) => self.engine.close(conn, self.now),
            Kind::Listening { id, ready, .. } => {
                self.engine.close_listener(id);
                for conn in ready {
                    self.engine.abort(conn, self.now);
                }
            }
        }
        self.turn();
        Ok(())
    }

    /// `poll(2)` without waiting: fills in `revents` and returns how many have any.
    pub fn poll(&mut self, polls: &mut [Poll]) -> usize {
        for poll in polls.iter_mut() {
            let ready = self.readiness(poll.fd);
            let always = libc::POLLERR | libc::POLLHUP | libc::POLLNVAL;
            poll.revents = ready & (poll.events | always);
        }
        polls.iter().filter(|poll| poll.revents != 0).count()
    }

    fn readiness(&mut self, fd: i32) -> i16 {
        let engine = &mut self.engine;
        let Some(socket) = self.sockets.get_mut(&fd) else { return libc::POLLNVAL };
        let conn = match &mut socket.kind {
            Kind::Fresh => return libc::POLLOUT | libc::POLLHUP,
            Kind::Listening { id, acceptable, ready } => {
                if *acceptable && ready.is_empty() {
                    ready.extend(engine.accept(*id));
                    *acceptable = !ready.is_empty();
                }
                return if ready.is_empty() { 0 } else { libc::POLLIN | libc::POLLRDNORM };
            }
            Kind::Open(conn) => *conn,
        };
        let state = engine.state(conn);
        let mut ready = 0;
        if engine.readable_bytes(conn) > 0 {
            ready |= libc::POLLIN | libc::POLLRDNORM;
        }
        let ended = matches!(state, State::Closed | State::TimeWait);
        if ended
            || socket.read_shut
            || matches!(state, State::CloseWait | State::LastAck | State::Closing)
        {
            ready |= libc::POLLIN | libc::POLLRDNORM | libc::POLLRDHUP;
        }
        if engine.send_capacity(conn) > 0 || ended || socket.write_shut {
            ready |= libc::POLLOUT | libc::POLLWRNORM;
        }
        if ended || socket.read_shut && socket.write_shut {
            ready |= libc::POLLHUP;
        }
        if !socket.error_told && engine.take_error(conn).is_some() {
            ready |= libc::POLLERR;
        }
        ready
    }

    /// Why the connection of `fd` has ended, if that was not told.
    pub(crate) fn take_error(&mut self, fd: i32) -> Option<Error> {
        let socket = self.sockets.get_mut(&fd)?;
        let error = self.engine.take_error(socket.conn()?)?;
        (!std::mem::replace(&mut socket.error_told, true)).then_some(error)
    }

    /// `ioctl(2)` with `SIOCINQ`: bytes that `read` would give.
    ///
    /// # Errors
    /// `EBADF`, `EINVAL`: it listens.
    pub fn unread(&self, fd: i32) -> Sys<usize> {
        let socket = self.socket(fd)?;
        match socket.kind {
            Kind::Listening { .. } => Err(Errno(libc::EINVAL)),
            Kind::Fresh => Ok(0),
            Kind::Open(conn) => Ok(self.engine.readable_bytes(conn)),
        }
    }

    /// Whether calls on `fd` are to wait.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn is_blocking(&self, fd: i32) -> Sys<bool> {
        Ok(!self.socket(fd)?.nonblocking)
    }

    /// `fcntl(2)` with `F_SETFL`: whether calls on `fd` are to wait.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn set_blocking(&mut self, fd: i32, blocking: bool) -> Sys<()> {
        self.socket_mut(fd)?.nonblocking = !blocking;
        Ok(())
    }
}
