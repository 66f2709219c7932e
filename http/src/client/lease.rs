//! Connections of the pool for requests that the caller writes and reads by himself.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use hyper::Method;
use hyper::rt::{Read, ReadBuf, Write};

use super::connect::Target;
use super::error::{Error, ErrorKind};
use super::pool::{Host, Lease};
use super::rest::Rested;
use super::send::{Found, find, may_repeat};
use super::wire::Wire;
use super::{Client, Handle};

/// A host of a client, looked up once: whoever leases connections to it does not search for it
/// again.
pub struct Destination {
    /// The client is not closed before.
    handle: Rc<Handle>,
    host: Rc<Host>,
}

/// An HTTP/1 connection between two requests, out of the pool. It comes back by
/// [`give_back`](Leased::give_back), when a response has been read to its end and the connection
/// may be kept; dropped, it is closed.
///
/// Connections that were leased and those of the client's own requests are one pool, with the
/// same limits.
pub struct Leased {
    wire: Wire,
    uses: u64,
    /// What has passed since it was leased.
    written: bool,
    read: bool,
}

impl Client {
    /// A host, to lease connections to it.
    pub fn destination(&self, target: &Target) -> Destination {
        let host = self.0.0.host(target);
        host.enter();
        Destination { handle: self.0.clone(), host }
    }
}

impl Destination {
    /// An idle connection, the one used last, if there is one that has not ended. The task is
    /// woken as by a read of it.
    pub fn lease_idle(&self, cx: &mut Context<'_>) -> Option<Leased> {
        let pool = &self.handle.0;
        loop {
            let rested = match self.host.take_idle()? {
                Lease::Rested(rested) => rested,
                Lease::Idle(connection) => match connection.check_out(cx) {
                    Some(wire) => connection.retire(wire),
                    None => continue,
                },
                // Neither is idle.
                Lease::Stream(_) | Lease::Permit(..) => return None,
            };
            if let Some(rested) = self.host.look(rested, cx) {
                pool.count(|stats| stats.reused += 1);
                return Some(Leased::new(rested));
            }
        }
    }

    /// An idle connection or a new one, within the limits and timeouts of the client; `new`: not
    /// an idle one, as after one that turned out to be over.
    ///
    /// # Errors
    /// As for a request; `Protocol` where the host speaks HTTP/2.
    pub fn lease(&self, new: bool) -> impl Future<Output = Result<Leased, Error>> + use<> {
        let (handle, host) = (self.handle.clone(), self.host.clone());
        async move {
            let rested = match find(&host, new, None).await? {
                Found::Rested(rested) => rested,
                Found::Idle(connection, wire) => connection.retire(wire),
                Found::Stream(_) => {
                    return Err(Error::new(ErrorKind::Protocol, "the host speaks HTTP/2"));
                }
            };
            if rested.uses > 0 {
                handle.0.count(|stats| stats.reused += 1);
            }
            Ok(Leased::new(rested))
        }
    }

    /// Notes that a request is sent again because its connection turned out to be over.
    pub fn count_repeated(&self) {
        self.handle.0.count(|stats| stats.retried += 1);
    }
}

impl Drop for Destination {
    fn drop(&mut self) {
        self.host.leave();
    }
}

impl std::fmt::Debug for Destination {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Destination").field(self.host.target()).finish()
    }
}

impl Leased {
    fn new(rested: Rested) -> Leased {
        let Rested { wire, uses, .. } = rested;
        Leased { wire, uses, written: false, read: false }
    }

    /// Whether a request whose connection has ended without a byte of a response may be sent
    /// again on a new one, all of it still being there: by the rules of the client's own requests.
    pub fn may_repeat(&self, method: &Method) -> bool {
        self.uses > 0 && !self.read && may_repeat(!self.written, method)
    }

    /// Lets another request have it.
    pub fn give_back(self) {
        let host = self.wire.host().clone();
        host.put_rested(Rested::new(self.wire, self.uses + 1));
    }

    /// Polls for bytes; how many, 0 at the end.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<usize>> {
        let before = buf.filled().len();
        ready!(Pin::new(self.wire.transport()).poll_read(cx, buf.unfilled()))?;
        let read = buf.filled().len() - before;
        self.read |= read > 0;
        Poll::Ready(Ok(read))
    }

    /// Polls to write; how much of it.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(self.wire.transport()).poll_write(cx, bytes);
        self.written |= matches!(result, Poll::Ready(Ok(1..)));
        result
    }

    /// Polls until what was written is on its way.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.wire.transport()).poll_flush(cx)
    }
}

impl std::fmt::Debug for Leased {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Leased").field("uses", &self.uses).finish_non_exhaustive()
    }
}
