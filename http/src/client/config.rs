//! A client's settings.

use std::rc::Rc;
use std::time::Duration;

use super::Client;
use super::connect::{Connect, TcpConnector};

/// Which HTTP a client speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum HttpVersion {
    /// HTTP/2 where the connector's handshake chose it (ALPN), else HTTP/1.1.
    #[default]
    Negotiated,
    /// HTTP/1.1 always.
    Http1,
    /// HTTP/2 always, in cleartext with prior knowledge (RFC 9113 3.3).
    Http2,
}

/// Settings of a [`Client`]. Every limit is per shard, for a client belongs to one.
#[derive(Clone)]
pub struct Builder {
    pub(super) connector: Rc<dyn Connect>,
    pub(super) version: HttpVersion,
    pub(super) max_idle: usize,
    pub(super) max_idle_in_all: Option<usize>,
    pub(super) max_connections: usize,
    pub(super) max_waiting: usize,
    pub(super) queue_timeout: Duration,
    pub(super) idle_timeout: Duration,
    pub(super) max_lifetime: Option<Duration>,
    pub(super) connect_timeout: Duration,
    pub(super) head_timeout: Duration,
    pub(super) body_timeout: Duration,
    pub(super) total_timeout: Option<Duration>,
    pub(super) continue_timeout: Duration,
    pub(super) max_head_size: usize,
    pub(super) max_headers: Option<usize>,
    pub(super) http2_ping: Option<(Duration, Duration)>,
}

impl Default for Builder {
    fn default() -> Self {
        Builder {
            connector: Rc::new(TcpConnector),
            version: HttpVersion::default(),
            max_idle: 32,
            max_idle_in_all: None,
            max_connections: 256,
            max_waiting: 4096,
            queue_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            max_lifetime: None,
            connect_timeout: Duration::from_secs(10),
            head_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(30),
            total_timeout: None,
            continue_timeout: Duration::from_secs(1),
            max_head_size: 64 << 10,
            max_headers: None,
            http2_ping: None,
        }
    }
}

impl Builder {
    /// The default settings.
    pub fn new() -> Self {
        Builder::default()
    }

    /// What makes connections. Default: [`TcpConnector`].
    #[must_use]
    pub fn connector(mut self, connector: impl Connect) -> Self {
        self.connector = Rc::new(connector);
        self
    }

    /// Which HTTP is spoken. Default: as negotiated, HTTP/1.1 where nothing is.
    #[must_use]
    pub fn version(mut self, version: HttpVersion) -> Self {
        self.version = version;
        self
    }

    /// Most HTTP/1 connections kept idle per host. Default 32; 0 keeps none.
    #[must_use]
    pub fn max_idle_per_host(mut self, count: usize) -> Self {
        self.max_idle = count;
        self
    }

    /// Most HTTP/1 connections kept idle in all; beyond, the one that has been for longest is
    /// closed. For clients of many hosts, or with many [`Prelude`](super::Prelude)s, each of which
    /// has connections of its own. Default: what all hosts may have.
    #[must_use]
    pub fn max_idle_in_all(mut self, count: usize) -> Self {
        self.max_idle_in_all = Some(count);
        self
    }

    /// Most connections per host, whatever they do; upgraded ones are no longer the client's.
    /// Further requests wait. Default 256, at least 1.
    #[must_use]
    pub fn max_connections_per_host(mut self, count: usize) -> Self {
        self.max_connections = count.max(1);
        self
    }

    /// Most requests that may wait for a connection of one host, and for how long. Beyond,
    /// [`ErrorKind::Exhausted`](super::ErrorKind::Exhausted) at once; later,
    /// `Timeout(Phase::Queue)`. Default 4096, 10 s.
    #[must_use]
    pub fn queue(mut self, max_waiting: usize, timeout: Duration) -> Self {
        self.max_waiting = max_waiting;
        self.queue_timeout = timeout;
        self
    }

    /// How long a connection without a request is kept. Default 60 s.
    #[must_use]
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle_timeout = timeout;
        self
    }

    /// How old a connection may be to get another request; those it has are finished.
    /// Default: any age.
    #[must_use]
    pub fn max_lifetime(mut self, lifetime: Duration) -> Self {
        self.max_lifetime = Some(lifetime);
        self
    }

    /// How long resolving, connecting and handshakes may take together. Default 10 s.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long the head of the response may take, from the last piece of the request that
    /// went out; and how long the rest of a request may take when the response has ended
    /// before it. Default 30 s. An HTTP/2 connection on which nothing at all has come meanwhile
    /// gets no more requests, nor one whose caller gave up after a second of that.
    #[must_use]
    pub fn head_timeout(mut self, timeout: Duration) -> Self {
        self.head_timeout = timeout;
        self
    }

    /// How long the next piece of the response's body may take. Default 30 s.
    #[must_use]
    pub fn body_timeout(mut self, timeout: Duration) -> Self {
        self.body_timeout = timeout;
        self
    }

    /// How long everything may take, from the call to the last byte of the response.
    /// Default: no limit of its own.
    #[must_use]
    pub fn total_timeout(mut self, timeout: Duration) -> Self {
        self.total_timeout = Some(timeout);
        self
    }

    /// How long a request with `expect: 100-continue` keeps its body back (RFC 9110 10.1.1).
    /// Default 1 s.
    #[must_use]
    pub fn continue_timeout(mut self, timeout: Duration) -> Self {
        self.continue_timeout = timeout;
        self
    }

    /// Largest head of a response in bytes. Default 64 KiB, at least 8 KiB, at most 1 MiB.
    #[must_use]
    pub fn max_head_size(mut self, bytes: usize) -> Self {
        self.max_head_size = bytes.clamp(8 << 10, 1 << 20);
        self
    }

    /// Most header fields of an HTTP/1 response. Default 100, at most 10,000.
    #[must_use]
    pub fn max_headers(mut self, count: usize) -> Self {
        self.max_headers = Some(count.min(10_000));
        self
    }

    /// Pings HTTP/2 peers every `interval` while a request is under way, and gives up a
    /// connection whose peer has not answered after `timeout`. Default: no pings.
    #[must_use]
    pub fn http2_ping(mut self, interval: Duration, timeout: Duration) -> Self {
        self.http2_ping = Some((interval, timeout));
        self
    }

    /// A client with these settings, on this shard.
    pub fn build(self) -> Client {
        Client::with(self)
    }
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder")
            .field("version", &self.version)
            .field("max_idle", &self.max_idle)
            .field("max_connections", &self.max_connections)
            .field("max_waiting", &self.max_waiting)
            .finish_non_exhaustive()
    }
}
