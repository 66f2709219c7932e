//! The host's listening sockets: those that systemd or a predecessor has passed to this process,
//! and those it opens, at addresses where nobody else listens. All shards take theirs from here,
//! and a successor gets all of them.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;

/// Connections that may wait to be accepted, on each socket.
const BACKLOG: usize = 4_096;

#[derive(Debug, Default)]
pub(crate) struct Sockets {
    /// Passed to this process, and not asked for yet.
    passed: Vec<(SocketAddr, TcpListener)>,
    /// By the address as it is configured.
    open: BTreeMap<SocketAddr, Vec<TcpListener>>,
    closed: bool,
}

impl Sockets {
    /// With what was passed to this process.
    ///
    /// # Errors
    /// One that is no socket with an address.
    pub(crate) fn new(passed: Vec<OwnedFd>) -> io::Result<Sockets> {
        let named = |fd: OwnedFd| {
            let socket = TcpListener::from(fd);
            let address = socket.local_addr().map_err(|error| {
                io::Error::new(error.kind(), format!("a descriptor passed as a socket: {error}"))
            })?;
            Ok((address, socket))
        };
        Ok(Sockets {
            passed: passed.into_iter().map(named).collect::<io::Result<_>>()?,
            open: BTreeMap::new(),
            closed: false,
        })
    }

    /// Whether one for this address was passed to this process.
    pub(crate) fn is_passed(&self, address: SocketAddr) -> bool {
        self.passed.iter().any(|(at, _)| *at == address)
    }

    /// What shard `shard` of so many listens with at an address: at least one socket. Where
    /// there are fewer than shards, some share one.
    ///
    /// # Errors
    /// What the host says; `AddrInUse` where somebody else listens there; they are closed.
    pub(crate) fn of(
        &mut self,
        address: SocketAddr,
        shard: usize,
        shards: usize,
    ) -> io::Result<Vec<TcpListener>> {
        self.check()?;
        if !self.open.contains_key(&address) {
            let sockets = self.first(address, shards)?;
            self.open.insert(address, sockets);
        }
        let sockets = self.open.get(&address).map_or(&[][..], Vec::as_slice);
        let count = sockets.len();
        let is_its = |at: usize| at % shards == shard || shard % count == at && shard >= count;
        let own = sockets.iter().enumerate().filter(|(at, _)| is_its(*at));
        own.map(|(_, socket)| socket.try_clone()).collect()
    }

    fn first(&mut self, address: SocketAddr, shards: usize) -> io::Result<Vec<TcpListener>> {
        let taken = std::mem::take(&mut self.passed);
        let (own, rest): (Vec<_>, Vec<_>) = taken.into_iter().partition(|(at, _)| *at == address);
        self.passed = rest;
        if !own.is_empty() {
            return Ok(own.into_iter().map(|(_, socket)| socket).collect());
        }
        let opened = throng::TcpListener::listeners_on_host(address, shards, BACKLOG);
        opened.map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => io::Error::new(
                error.kind(),
                format!("{error}: somebody listens there. If it is a throng-lb that is to be replaced, send it SIGUSR2"),
            ),
            _ => error,
        })
    }

    /// Closes what was passed and no address of the configuration is for.
    pub(crate) fn close_rest(&mut self) {
        for (address, _) in self.passed.drain(..) {
            tracing::warn!(%address, "a socket was passed for which nothing is configured");
        }
    }

    /// All of them, for a successor.
    pub(crate) fn all(&self) -> io::Result<Vec<TcpListener>> {
        self.check()?;
        self.open.values().flatten().map(TcpListener::try_clone).collect()
    }

    fn check(&self) -> io::Result<()> {
        match self.closed {
            true => Err(io::Error::other("this process is ending")),
            false => Ok(()),
        }
    }

    /// Lets go of all of them for good: the shards, or a successor, have their own.
    pub(crate) fn close(&mut self) {
        self.closed = true;
        self.open.clear();
        self.passed.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sockets(count: usize) -> (SocketAddr, Sockets) {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let opened = throng::TcpListener::listeners_on_host(any, count, 16).unwrap();
        let address = opened[0].local_addr().unwrap();
        let fds = opened.into_iter().map(OwnedFd::from).collect();
        (address, Sockets::new(fds).unwrap())
    }

    #[test]
    fn each_shard_has_one_and_each_socket_a_shard() {
        for (count, shards) in [(1, 1), (1, 3), (2, 3), (3, 3), (5, 2), (3, 7)] {
            let (address, mut sockets) = sockets(count);
            assert!(sockets.is_passed(address));
            let of: Vec<usize> = (0..shards)
                .map(|shard| sockets.of(address, shard, shards).unwrap().len())
                .collect();
            assert!(of.iter().all(|own| *own > 0), "{count} for {shards}: {of:?}");
            assert_eq!(of.iter().sum::<usize>(), count.max(shards), "{count} for {shards}: {of:?}");
            assert_eq!(sockets.all().unwrap().len(), count);
        }
    }

    #[test]
    fn what_is_not_passed_is_opened_where_nobody_listens() {
        let (address, mut passed) = sockets(1);
        let mut other = Sockets::default();
        let refused = other.of(address, 0, 2).unwrap_err();
        assert!(refused.to_string().contains("send it SIGUSR2"), "{refused}");
        passed.of(address, 0, 1).unwrap();
        passed.close();
        assert!(passed.all().is_err() && passed.of(address, 0, 1).is_err());
        assert_eq!(other.of(address, 0, 2).unwrap().len(), 1);
        assert_eq!(other.all().unwrap().len(), 2);
    }
}
