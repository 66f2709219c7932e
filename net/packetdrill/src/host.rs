//! An engine with a clock and descriptors around it.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

use throng_net::engine::wire::Incoming;
use throng_net::engine::{Config, Engine, Event, Header, Info, Instant, Outbox};

use crate::errno::{Errno, Sys};
use crate::socket::{Kind, Socket};

/// A segment that the host has sent.
#[derive(Clone, Debug)]
pub struct Sent {
    /// When.
    pub at: Instant,
    /// What.
    pub header: Header,
    /// Its payload.
    pub payload: Vec<u8>,
}

/// A host whose only process makes one call after the other. No call waits: what would block
/// answers `EAGAIN` or `EINPROGRESS` also on a blocking descriptor, and the caller moves the clock
/// and tries again.
#[derive(Debug)]
pub struct Host {
    pub(crate) engine: Engine,
    pub(crate) now: Instant,
    pub(crate) sockets: BTreeMap<i32, Socket>,
    /// The host's own addresses, IPv4 and IPv6.
    pub(crate) local: (IpAddr, IpAddr),
    pub(crate) next_port: u16,
    sent: VecDeque<Sent>,
}

/// Descriptors below are the process's standard streams.
const FIRST_FD: i32 = 3;

impl Host {
    /// A host with these addresses (IPv4, IPv6), whose clock shows `now`.
    pub fn new(config: Config, secret: [u8; 32], now: Instant, local: (IpAddr, IpAddr)) -> Host {
        Host {
            engine: Engine::new(config, secret, now),
            now,
            sockets: BTreeMap::new(),
            local,
            next_port: 32_768,
            sent: VecDeque::new(),
        }
    }

    /// What the clock shows.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// The engine, to look at.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// A packet arrives.
    pub fn receive(&mut self, packet: Incoming) {
        match packet {
            Incoming::Segment(header, payload) => {
                self.engine.on_segment(&header, &payload, self.now);
            }
            Incoming::Unreachable(tuple, seq, kind) => {
                self.engine.on_icmp_unreachable(tuple, seq, kind, self.now);
            }
            Incoming::TooBig(tuple, seq, said) => {
                self.engine.on_icmp_too_big(tuple, seq, said, self.now);
            }
        }
        self.turn();
    }

    /// When a timer will run next.
    pub fn deadline(&self) -> Option<Instant> {
        self.engine.poll_timeout()
    }

    /// Moves the clock to the next deadline, or to `limit` where that comes first, and runs what
    /// is due. Returns whether a timer was due.
    pub fn step(&mut self, limit: Instant) -> bool {
        match self.deadline().filter(|at| *at <= limit) {
            Some(at) => {
                self.now = self.now.max(at);
                self.engine.on_timeout(self.now);
                self.turn();
                true
            }
            None => {
                self.now = self.now.max(limit);
                false
            }
        }
    }

    /// Moves the clock to `to`, running timers as they come due.
    pub fn advance(&mut self, to: Instant) {
        while self.step(to) {}
    }

    /// The segment sent first of those not taken.
    pub fn take_sent(&mut self) -> Option<Sent> {
        self.sent.pop_front()
    }

    /// The segments sent and not taken.
    pub fn sent(&self) -> &VecDeque<Sent> {
        &self.sent
    }

    /// What is known of the connection of `fd`.
    ///
    /// # Errors
    /// `EBADF`, `ENOTCONN`.
    pub fn info(&self, fd: i32) -> Sys<Info> {
        let conn = self.socket(fd)?.conn().ok_or(Errno(libc::ENOTCONN))?;
        self.engine.info(conn, self.now).ok_or(Errno(libc::ENOTCONN))
    }

    /// The end of a turn: events are noted, and what is to be sent is sent.
    pub(crate) fn turn(&mut self) {
        while let Some(event) = self.engine.pop_event() {
            // Readers and writers try again after every turn; who waits to accept is told.
            if let Event::Acceptable(id) = event {
                for socket in self.sockets.values_mut() {
                    if let Kind::Listening { id: listener, acceptable, .. } = &mut socket.kind
                        && *listener == id
                    {
                        *acceptable = true;
                    }
                }
            }
        }
        let mut out = Outbox::default();
        self.engine.poll_transmit(self.now, &mut out);
        let at = self.now;
        let sent = out.segments.into_iter();
        self.sent.extend(sent.map(|(header, payload)| Sent { at, header, payload }));
        self.engine.check_invariants();
    }

    pub(crate) fn socket(&self, fd: i32) -> Sys<&Socket> {
        self.sockets.get(&fd).ok_or(Errno(libc::EBADF))
    }

    pub(crate) fn socket_mut(&mut self, fd: i32) -> Sys<&mut Socket> {
        self.sockets.get_mut(&fd).ok_or(Errno(libc::EBADF))
    }

    /// Gives `socket` the lowest descriptor that is free.
    pub(crate) fn install(&mut self, socket: Socket) -> i32 {
        let taken = self.sockets.keys();
        let fd = taken.fold(FIRST_FD, |free, fd| if *fd == free { free + 1 } else { free });
        self.sockets.insert(fd, socket);
        fd
    }

    /// The address of this host of the same family as `peer`, with a port for a connection there.
    pub(crate) fn ephemeral(&mut self, peer: SocketAddr) -> SocketAddr {
        let ip = if peer.is_ipv4() { self.local.0 } else { self.local.1 };
        let port = self.next_port;
        self.next_port = if port == u16::MAX { 32_768 } else { port + 1 };
        SocketAddr::new(ip, port)
    }
}
