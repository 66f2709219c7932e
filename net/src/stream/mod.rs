//! The connected socket.

mod io_traits;
mod send;
mod socket;

use std::cell::{Cell, OnceCell};
use std::future::poll_fn;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;

pub use send::SendStream;
pub use socket::TcpSocket;

use crate::kernel::KernelStream;
use crate::proxy_protocol::Addresses;
use crate::resolver::Destination;
use crate::stack::{Interest, SharedStack};
use crate::tcp::segment::FourTuple;
use crate::tcp::{
    CongestionControl, ConnId, ConnectionId, Engine, Info, Keepalive, RecvError, SendError, State,
};

/// A TCP connection, on the shard that owns its flow.
///
/// It reads and writes through `futures::io`, through hyper's and (feature `tokio`) tokio's
/// traits, and without a copy through [`read_chunk`](TcpStream::read_chunk) and
/// [`write_chunk`](TcpStream::write_chunk). An idle one owns no buffer.
///
/// One task at a time waits to read (or for [`readable`](TcpStream::readable)), and one to
/// write: where several do, the one that asked last is woken, and the others are not.
///
/// Dropping it closes the connection: what is queued is still sent, then FIN; where unread
/// data is left, or comes later, the peer gets a reset (RFC 9293 3.6, RFC 2525 2.17).
#[derive(Debug)]
pub struct TcpStream {
    inner: Inner,
    /// Eight bytes in every idle stream, not 40.
    rare: OnceCell<Box<Rare>>,
}

/// What few streams have.
#[derive(Debug, Default)]
struct Rare {
    /// The rest of a chunk that `poll_fill_buf` has handed out a view of; empty: none.
    peeked: Bytes,
    /// The application wants nothing more to read.
    read_shut: Cell<bool>,
    /// What a proxy has said of the connection.
    proxied: Cell<Option<Addresses>>,
}

impl Rare {
    /// It says nothing that its absence does not.
    fn is_idle(&self) -> bool {
        self.peeked.is_empty() && !self.read_shut.get() && self.proxied.get().is_none()
    }
}

/// Whose connection it is.
#[derive(Debug)]
enum Inner {
    Stack { stack: SharedStack, id: ConnId },
    Kernel(Box<KernelStream>),
}

// A million idle streams lie in the tasks that wait for them.
const _: () = assert!(size_of::<TcpStream>() <= 24);

impl TcpStream {
    pub(crate) fn new(stack: SharedStack, id: ConnId) -> TcpStream {
        let inner = Inner::Stack { stack, id };
        TcpStream { inner, rare: OnceCell::new() }
    }

    /// A connection of the host's.
    pub(crate) fn on_host(stream: KernelStream) -> TcpStream {
        let inner = Inner::Kernel(Box::new(stream));
        TcpStream { inner, rare: OnceCell::new() }
    }

    /// Connects from an address and port of our own choosing, such that the answers come back
    /// to this shard. The destination is an address, a name with a port, as in
    /// `("example.com", 80)` or `"example.com:80"`, or several addresses: then the first that
    /// answers is taken (RFC 8305).
    ///
    /// # Errors
    /// Those of [`lookup_host`](crate::lookup_host) where there is a name; `ConnectionRefused`, `TimedOut`, `HostUnreachable`, `NetworkUnreachable`;
    /// `AddrNotAvailable` when every port is in use; `QuotaExceeded` at the limit of
    /// connections.
    pub fn connect<D: Destination>(
        destination: D,
    ) -> impl Future<Output = io::Result<TcpStream>> + use<D> {
        TcpSocket::new().connect(destination)
    }

    /// The next bytes in order, at most `max` of them, as they lie in the receive queue;
    /// empty at the end of the stream.
    ///
    /// # Errors
    /// `ConnectionReset`, `TimedOut` and the like when the connection is over.
    pub async fn read_chunk(&mut self, max: usize) -> io::Result<Bytes> {
        poll_fn(|cx| self.poll_read_chunk(cx, max)).await
    }

    /// Polls for the next bytes, see [`read_chunk`](TcpStream::read_chunk).
    pub fn poll_read_chunk(&mut self, cx: &mut Context<'_>, max: usize) -> Poll<io::Result<Bytes>> {
        if max == 0 {
            return Poll::Ready(Ok(Bytes::new()));
        }
        if self.is_peeked() {
            return Poll::Ready(Ok(self.take_peeked(max)));
        }
        let (stack, id) = match &self.inner {
            Inner::Stack { stack, id } => (stack, *id),
            Inner::Kernel(stream) => return stream.poll_read_chunk(cx, max, self.is_read_shut()),
        };
        let mut stack = stack.borrow_mut();
        match stack.engine.recv(id, max, throng_runtime::now()) {
            Ok(chunk) => Poll::Ready(Ok(chunk)),
            Err(RecvError::WouldBlock) if self.is_read_shut() => Poll::Ready(Ok(Bytes::new())),
            Err(RecvError::WouldBlock) => {
                stack.register(id, Interest::Read, cx);
                Poll::Pending
            }
            Err(RecvError::Closed(error)) => Poll::Ready(Err(error.into())),
        }
    }

    /// Polls for the next bytes, at most `max`, for who copies them: `take` gets them where they lie.
    /// Returns how many; 0: the end of the stream.
    pub(crate) fn poll_read_with(
        &mut self,
        cx: &mut Context<'_>,
        max: usize,
        take: impl FnOnce(&[u8]),
    ) -> Poll<io::Result<usize>> {
        if max > 0
            && !self.is_peeked()
            && let Inner::Stack { stack, id } = &self.inner
        {
            let mut stack = stack.borrow_mut();
            match stack.engine.recv_with(*id, max, throng_runtime::now(), take) {
                Ok(len) => Poll::Ready(Ok(len)),
                Err(RecvError::WouldBlock) if self.is_read_shut() => Poll::Ready(Ok(0)),
                Err(RecvError::WouldBlock) => {
                    stack.register(*id, Interest::Read, cx);
                    Poll::Pending
                }
                Err(RecvError::Closed(error)) => Poll::Ready(Err(error.into())),
            }
        } else {
            let chunk = ready!(self.poll_read_chunk(cx, max))?;
            take(&chunk);
            Poll::Ready(Ok(chunk.len()))
        }
    }

    /// Queues `chunk` for sending without copying it; waits for room first. The queue may
    /// exceed its bound by one chunk.
    ///
    /// # Errors
    /// `BrokenPipe` after a shutdown of the write side, `ConnectionReset`, `TimedOut`.
    pub async fn write_chunk(&mut self, chunk: Bytes) -> io::Result<()> {
        let mut chunk = Some(chunk);
        poll_fn(|cx| self.poll_write_chunk(cx, &mut chunk)).await
    }

    /// Polls to queue `chunk`, which is taken when it has been.
    pub fn poll_write_chunk(
        &mut self,
        cx: &mut Context<'_>,
        chunk: &mut Option<Bytes>,
    ) -> Poll<io::Result<()>> {
        let (stack, id) = match &self.inner {
            Inner::Stack { stack, id } => (stack, *id),
            Inner::Kernel(stream) => return stream.poll_write_chunk(cx, chunk),
        };
        let Some(bytes) = chunk.take().filter(|bytes| !bytes.is_empty()) else {
            return Poll::Ready(Ok(()));
        };
        let mut stack = stack.borrow_mut();
        match stack.engine.send(id, bytes, throng_runtime::now()) {
            Ok(()) => Poll::Ready(Ok(())),
            Err(SendError::WouldBlock(bytes)) => {
                *chunk = Some(bytes);
                stack.register(id, Interest::Write, cx);
                Poll::Pending
            }
            Err(SendError::Closed(error)) => Poll::Ready(Err(error.into())),
        }
    }

    /// Polls to copy a part of the `bytes` slices into the send queue. Returns how much.
    fn poll_write_copy(
        &mut self,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let (stack, id) = match &self.inner {
            Inner::Stack { stack, id } => (stack, *id),
            Inner::Kernel(stream) => return stream.poll_write(cx, pieces),
        };
        if let [piece] = pieces
            && stack.borrow_mut().engine.send_small(id, piece, throng_runtime::now())
        {
            return Poll::Ready(Ok(piece.len()));
        }
        let total: usize = pieces.iter().map(|piece| piece.len()).sum();
        let capacity = stack.borrow().engine.send_capacity(id);
        // Without room the engine is asked all the same, with one byte: it notes who waits,
        // and says so where the connection is over.
        let mut left = total.min(capacity.max(1));
        let copy = match pieces {
            [piece] => Bytes::copy_from_slice(&piece[..left]),
            _ => {
                let mut copy = Vec::with_capacity(left);
                for piece in pieces {
                    let part = &piece[..piece.len().min(left)];
                    copy.extend_from_slice(part);
                    left -= part.len();
                }
                Bytes::from(copy)
            }
        };
        let len = copy.len();
        ready!(self.poll_write_chunk(cx, &mut Some(copy)))?;
        Poll::Ready(Ok(len))
    }

    /// Waits until there is something to read: bytes, the end of the stream, or an error.
    /// One task at a time: the one that asked last is woken.
    ///
    /// # Errors
    /// None at present: an error of the connection is what the next read returns.
    pub async fn readable(&self) -> io::Result<()> {
        poll_fn(|cx| self.poll_readable(cx)).await
    }

    /// Polls whether there is something to read.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_peeked() || self.is_read_shut() {
            return Poll::Ready(Ok(()));
        }
        let (stack, id) = match &self.inner {
            Inner::Stack { stack, id } => (stack, *id),
            Inner::Kernel(stream) => return stream.poll_readable(cx),
        };
        let mut stack = stack.borrow_mut();
        if is_readable(&stack.engine, id) {
            return Poll::Ready(Ok(()));
        }
        stack.register(id, Interest::Read, cx);
        Poll::Pending
    }

    /// Shuts down a side. `Write`: a FIN follows what is queued. `Read`: nothing on the
    /// wire; reads return the end of the stream once what has arrived is read.
    ///
    /// On a side that is shut down already, or a connection that is over, it does nothing.
    ///
    /// # Errors
    /// None at present.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        if matches!(how, Shutdown::Read | Shutdown::Both) {
            self.rare.get_or_init(Default::default).read_shut.set(true);
        }
        match &self.inner {
            Inner::Stack { stack, id } => {
                let mut stack = stack.borrow_mut();
                if matches!(how, Shutdown::Read | Shutdown::Both) {
                    stack.wake_reader(*id);
                }
                if matches!(how, Shutdown::Write | Shutdown::Both) {
                    stack.engine.shutdown_write(*id, throng_runtime::now());
                }
            }
            Inner::Kernel(stream) => stream.shutdown(how),
        }
        Ok(())
    }

    /// Ends the connection at once with a reset.
    pub fn abort(self) {
        match &self.inner {
            Inner::Stack { stack, id } => {
                stack.borrow_mut().engine.abort(*id, throng_runtime::now());
            }
            Inner::Kernel(stream) => stream.abort(),
        }
    }

    /// Sends small segments at once (`true`) or lets them wait for an acknowledgement of
    /// what is out (Nagle, RFC 9293 3.7.4; the default).
    pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        match &self.inner {
            Inner::Stack { stack, id } => stack.borrow_mut().engine.set_nodelay(*id, nodelay),
            Inner::Kernel(stream) => stream.set_nodelay(nodelay)?,
        }
        Ok(())
    }

    /// Probes the peer when it has been silent (RFC 9293 3.8.4); `None`, the default: never.
    pub fn set_keepalive(&self, keepalive: Option<Keepalive>) -> io::Result<()> {
        match &self.inner {
            Inner::Stack { stack, id } => stack.borrow_mut().engine.set_keepalive(*id, keepalive),
            Inner::Kernel(stream) => stream.set_keepalive(keepalive)?,
        }
        Ok(())
    }

    /// How long sent data may stay unacknowledged, or queued data wait for a closed window, before
    /// the connection is given up (RFC 5482); `None`, the default: as many retransmissions as the
    /// configuration says, and with a closed window for as long as the peer answers. It also
    /// overrides the number of keepalive probes.
    pub fn set_user_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        match &self.inner {
            Inner::Stack { stack, id } => stack.borrow_mut().engine.set_user_timeout(*id, timeout),
            Inner::Kernel(stream) => stream.set_user_timeout(timeout)?,
        }
        Ok(())
    }

    /// How many bytes may be queued that were not sent yet: from there on writes wait, until half
    /// of them are gone (TCP_NOTSENT_LOWAT). `None`, the default: as many as the send buffer
    /// holds. With a small number what is written last is not sent much later.
    pub fn set_notsent_lowat(&self, bytes: Option<u32>) -> io::Result<()> {
        match &self.inner {
            Inner::Stack { stack, id } => stack.borrow_mut().engine.set_notsent_lowat(*id, bytes),
            Inner::Kernel(stream) => stream.set_notsent_lowat(bytes)?,
        }
        Ok(())
    }

    /// What happens to queued data when the stream is dropped: `None`, the default, sends
    /// it in the background; zero throws it away and resets; anything else sends it for at
    /// most so long, then resets.
    pub fn set_linger(&self, linger: Option<Duration>) -> io::Result<()> {
        match &self.inner {
            Inner::Stack { stack, id } => stack.borrow_mut().engine.set_linger(*id, linger),
            Inner::Kernel(stream) => stream.set_linger(linger),
        }
        Ok(())
    }

    /// How the connection reacts to congestion from now on; the window stays what it is.
    ///
    /// # Errors
    /// On a connection of the host's: `Unsupported` where the host's kernel lacks it.
    pub fn set_congestion(&self, control: CongestionControl) -> io::Result<()> {
        match &self.inner {
            Inner::Stack { stack, id } => stack.borrow_mut().engine.set_congestion(*id, control),
            Inner::Kernel(stream) => stream.set_congestion(control)?,
        }
        Ok(())
    }

    /// The peer's address and port.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        match &self.inner {
            Inner::Stack { stack, id } => Ok(tuple(stack, *id)?.peer_addr()),
            Inner::Kernel(stream) => Ok(stream.peer_addr()),
        }
    }

    /// Our own address and port.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match &self.inner {
            Inner::Stack { stack, id } => Ok(tuple(stack, *id)?.local_addr()),
            Inner::Kernel(stream) => stream.local_addr(),
        }
    }

    /// A snapshot of the connection, in the spirit of RFC 4898. Of a host's connection it
    /// knows addresses, state, error, queues and congestion control; the rest is zero.
    ///
    /// # Errors
    /// `NotConnected` when the connection is no more.
    pub fn info(&self) -> io::Result<Info> {
        let (stack, id) = match &self.inner {
            Inner::Stack { stack, id } => (stack, *id),
            Inner::Kernel(stream) => return stream.info(),
        };
        let info = stack.borrow().engine.info(id, throng_runtime::now());
        info.ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// What the log and [`stats::connections`](crate::stats::connections) call it; `None` for
    /// a connection of the host's.
    pub fn id(&self) -> Option<ConnectionId> {
        match &self.inner {
            Inner::Stack { stack, id } => {
                Some(ConnectionId { shard: stack.borrow().shard(), id: *id })
            }
            Inner::Kernel(_) => None,
        }
    }

    /// The ends of the connection that a proxy passes on by this one, where its header has been
    /// read and says so: see [`proxy_protocol`](crate::proxy_protocol).
    pub fn proxied(&self) -> Option<Addresses> {
        self.rare.get().and_then(|rare| rare.proxied.get())
    }

    pub(crate) fn set_proxied(&self, addresses: Addresses) {
        self.rare.get_or_init(Default::default).proxied.set(Some(addresses));
    }

    fn is_read_shut(&self) -> bool {
        self.rare.get().is_some_and(|rare| rare.read_shut.get())
    }

    fn is_peeked(&self) -> bool {
        self.rare.get().is_some_and(|rare| !rare.peeked.is_empty())
    }

    /// At most `max` bytes of the chunk that `poll_fill_buf` has shown.
    #[cold]
    fn take_peeked(&mut self, max: usize) -> Bytes {
        let Some(rare) = self.rare.get_mut() else { return Bytes::new() };
        let chunk = rare.peeked.split_to(max.min(rare.peeked.len()));
        if rare.is_idle() {
            self.rare.take();
        }
        chunk
    }

    /// A wrapper that is `Send`, for libraries that ask for it. It checks at run time that
    /// it stays on this shard.
    pub fn into_send(self) -> SendStream {
        SendStream::new(self)
    }
}

impl Drop for TcpStream {
    fn drop(&mut self) {
        if let Inner::Stack { stack, id } = &self.inner {
            stack.borrow_mut().release(*id, self.is_peeked());
        }
    }
}

fn tuple(stack: &SharedStack, id: ConnId) -> io::Result<FourTuple> {
    stack.borrow().engine.tuple(id).ok_or_else(|| io::ErrorKind::NotConnected.into())
}

/// Whether `recv` would answer something else than `WouldBlock`.
fn is_readable(engine: &Engine, id: ConnId) -> bool {
    let ended = !matches!(
        engine.state(id),
        State::SynSent
            | State::SynReceived
            | State::Established
            | State::FinWait1
            | State::FinWait2
    );
    engine.readable_bytes(id) > 0 || ended
}
