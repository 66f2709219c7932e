//! The PROXY protocol, versions 1 and 2: how a proxy tells the server behind it which connection
//! it passes on. (HAProxy's doc/proxy-protocol.txt is its specification.)
//!
//! [`TcpListener::proxy_protocol`](crate::TcpListener::proxy_protocol) hands out connections of
//! trusted proxies when their header has been read, and the client's address with them;
//! whatever takes a `TcpListener`, TLS among them, gets the bytes behind the header. A client puts
//! [`encode`]'s bytes in front of everything else.

mod codec;
mod gate;

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use futures::io::AsyncBufRead;
use throng_runtime::metrics::{Measured, Metric};

pub use codec::{Addresses, Header, Malformed, Version, encode, missing, parse};
pub(crate) use gate::Gate;

use crate::{TcpStream, stats};

throng_runtime::metrics! {
    /// Totals of the listeners with one [`ProxyProtocol`], since it was made.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    #[non_exhaustive]
    pub struct Counters {
        /// Connections that came with a header.
        counter headers: u64,
        /// Those of them that are a proxy's own.
        counter local: u64,
        /// Connections of peers that are not trusted with a header: taken as they are.
        counter direct: u64,
        /// Connections closed because what they began with is no header, or a wrong one.
        counter malformed: u64,
        /// Connections closed because their header did not come in time.
        limit timed_out: u64,
        /// Connections of proxies that had to wait for their turn to have their header read.
        limit at_limit: u64,
        /// Connections of proxies reset because too many waited for that already.
        limit turned_away: u64,
        /// Connections dropped because the shard had no room for a task.
        limit no_task: u64,
    }
}

/// How a listener is told of clients by proxies in front of it. Clones are the same, with the same
/// counters, which are among the shard's numbers ([`stats::sheet`]).
#[derive(Clone)]
pub struct ProxyProtocol(Rc<Settings>);

struct Settings {
    trusted: Box<dyn Fn(IpAddr) -> bool>,
    timeout: Duration,
    max_waiting: usize,
    counters: Cell<Counters>,
}

impl ProxyProtocol {
    /// Expects a header from every peer for which `trusted` says so, within 5 seconds. The
    /// connections of others are the peers' own: a header of theirs would be taken for what
    /// they say, so it is not even looked for.
    pub fn new(trusted: impl Fn(IpAddr) -> bool + 'static) -> ProxyProtocol {
        ProxyProtocol::with(Box::new(trusted), Duration::from_secs(5), 1_024)
    }

    /// The same with a `timeout` for a header, and at most `max_waiting` (at least 1) connections
    /// whose header is waited for. As many again wait for their turn, and further ones are reset:
    /// in the backlog they would stand in front of clients that come directly.
    pub fn with(
        trusted: Box<dyn Fn(IpAddr) -> bool>,
        timeout: Duration,
        max_waiting: usize,
    ) -> ProxyProtocol {
        let max_waiting = max_waiting.max(1);
        let counters = Cell::default();
        let settings = Rc::new(Settings { trusted, timeout, max_waiting, counters });
        // A shard without a network is a test's: nobody asks it for its numbers.
        let _ = stats::register("proxy_protocol", settings.clone());
        ProxyProtocol(settings)
    }

    /// Totals so far.
    pub fn counters(&self) -> Counters {
        self.0.counters.get()
    }
}

impl std::fmt::Debug for ProxyProtocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProxyProtocol")
            .field("timeout", &self.0.timeout)
            .field("counters", &self.counters())
            .finish_non_exhaustive()
    }
}

impl Settings {
    fn count(&self, change: impl FnOnce(&mut Counters)) {
        let mut counters = self.counters.get();
        change(&mut counters);
        self.counters.set(counters);
    }
}

impl Measured for Settings {
    fn measure(&self) -> Vec<(&'static Metric, u64)> {
        self.counters.get().measure()
    }
}

impl TcpStream {
    /// Reads the header that the peer, a trusted proxy, begins with; what follows it stays to be
    /// read. From then on [`proxied`](TcpStream::proxied) has what it says.
    ///
    /// # Errors
    /// `InvalidData` where there is none, or a malformed one: the connection is of no more use;
    /// `UnexpectedEof`, and those of reading.
    pub async fn read_proxy_header(&mut self) -> io::Result<Header> {
        let malformed = |error: Malformed| io::Error::new(io::ErrorKind::InvalidData, error);
        let mut header = Vec::new();
        loop {
            let more = match missing(&header).map_err(malformed)? {
                0 => break,
                more => more,
            };
            let taken = poll_fn(|cx| {
                Pin::new(&mut *self).poll_fill_buf(cx).map_ok(|bytes| {
                    let taken = &bytes[..more.min(bytes.len())];
                    header.extend_from_slice(taken);
                    taken.len()
                })
            });
            match taken.await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                taken => Pin::new(&mut *self).consume(taken),
            }
        }
        let header = parse(&header).map_err(malformed)?;
        if let Header::Proxied(addresses) = header {
            self.set_proxied(addresses);
        }
        Ok(header)
    }
}
