//! The listening socket.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll};

use crate::kernel::{self, KernelListener};
use crate::local::{self, Network};
use crate::proxy_protocol::{Gate, ProxyProtocol};
use crate::stack::SharedStack;
use crate::stream::TcpStream;
use crate::tcp::{CongestionControl, ListenerId};

/// Connections that may wait for `accept` where nobody says otherwise.
const DEFAULT_BACKLOG: usize = 4_096;

/// A TCP socket that accepts connections, on the shard it was bound on.
///
/// Flows are spread over the shards by RSS, so a server binds on every shard, as
/// [`Builder::run`](crate::Builder::run) runs its future on every shard: a SYN that RSS
/// brings to a shard without a listener is answered with a reset.
///
/// On the device `kernel` the shards' listeners share the host's port by SO_REUSEPORT, and
/// the host spreads the connections over them.
///
/// Dropping it closes it; connections that nobody has accepted are reset.
#[derive(Debug)]
pub struct TcpListener {
    inner: Inner,
    /// Where connections begin with a header of a proxy's.
    gate: Option<Box<Gate>>,
}

#[derive(Debug)]
enum Inner {
    Stack { stack: SharedStack, id: ListenerId },
    Kernel(KernelListener),
}

impl TcpListener {
    fn new(inner: Inner) -> TcpListener {
        TcpListener { inner, gate: None }
    }

    /// Listens at `addr` with a backlog of 4,096. An unspecified address means any of ours;
    /// `[::]` covers IPv4 too. Port 0 asks for a free one, on this shard only: on several
    /// shards name the port.
    ///
    /// # Errors
    /// `AddrInUse` where another listener of this shard has the address.
    pub fn bind(addr: SocketAddr) -> io::Result<TcpListener> {
        TcpListener::bind_with_backlog(addr, DEFAULT_BACKLOG)
    }

    /// Like [`bind`](TcpListener::bind), with at most `backlog` connections that wait for
    /// [`accept`](TcpListener::accept) (at least 1); SYNs beyond it are dropped, so that
    /// their senders try again.
    ///
    /// # Errors
    /// As for [`bind`](TcpListener::bind).
    pub fn bind_with_backlog(addr: SocketAddr, backlog: usize) -> io::Result<TcpListener> {
        let network = local::network()?;
        let Some(stack) = network.stack() else {
            return TcpListener::on_host(&network, addr, backlog);
        };
        let id = stack.borrow_mut().listen(addr, backlog)?;
        Ok(TcpListener::new(Inner::Stack { stack: stack.clone(), id }))
    }

    /// Listens at `addr` of the host, whatever the shard's device: for control planes and
    /// metrics. Several shards, or one, may bind it. A busy shard looks at it every 100 us.
    ///
    /// # Errors
    /// As for [`bind`](TcpListener::bind), and what the host says; `Unsupported` in a
    /// simulated world.
    pub fn bind_kernel(addr: SocketAddr) -> io::Result<TcpListener> {
        TcpListener::on_host(&*local::network()?, addr, DEFAULT_BACKLOG)
    }

    /// A socket of the host's that listens already: one that was passed to this process
    /// ([`throng_runtime::activation`]), taken over from another one, or opened by
    /// [`listeners_on_host`](TcpListener::listeners_on_host). It may be shared with other shards
    /// and processes (`try_clone`): each connection goes to one of them, and those that wait stay
    /// when one drops it. Its backlog and address are what they were.
    ///
    /// # Errors
    /// `InvalidInput` where it is no listening TCP socket; `Unsupported` where the shard's device
    /// is not `kernel`: clients come by the device, not by the host. A control plane's uses
    /// [`from_std_kernel`](TcpListener::from_std_kernel).
    pub fn from_std(listener: std::net::TcpListener) -> io::Result<TcpListener> {
        if !local::is_kernel()? {
            let text = "a socket of the host's can be taken over on the device `kernel` only: this \
                shard has a device and a stack of its own";
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        }
        TcpListener::from_std_kernel(listener)
    }

    /// Like [`from_std`](TcpListener::from_std), whatever the shard's device, as
    /// [`bind_kernel`](TcpListener::bind_kernel).
    ///
    /// # Errors
    /// `InvalidInput` where it is no listening TCP socket; `Unsupported` in a simulated world.
    pub fn from_std_kernel(listener: std::net::TcpListener) -> io::Result<TcpListener> {
        let reactor = local::network()?.open_reactor()?;
        Ok(TcpListener::new(Inner::Kernel(KernelListener::adopt(reactor, listener.into())?)))
    }

    /// Opens `count` sockets of the host's (at least one) that listen at `addr` together, one for
    /// each shard: the host spreads connections over them. Unlike [`bind`](TcpListener::bind)
    /// on the device `kernel` this refuses an address at which another process listens, even one
    /// that would share it. Anywhere, on any thread; [`from_std`](TcpListener::from_std) brings
    /// them to their shards. An unspecified IPv6 address covers IPv4 too.
    ///
    /// # Errors
    /// `AddrInUse` where somebody listens there, and what else the host says.
    pub fn listeners_on_host(
        addr: SocketAddr,
        count: usize,
        backlog: usize,
    ) -> io::Result<Vec<std::net::TcpListener>> {
        let fds = kernel::listen_together(addr, count, backlog)?;
        Ok(fds.into_iter().map(Into::into).collect())
    }

    fn on_host(network: &Network, addr: SocketAddr, backlog: usize) -> io::Result<TcpListener> {
        let listener = KernelListener::bind(network.open_reactor()?, addr, backlog)?;
        Ok(TcpListener::new(Inner::Kernel(listener)))
    }

    /// The next connection and its peer's address.
    ///
    /// # Errors
    /// None at present; an `accept` that waits when the runtime shuts down is dropped, and
    /// one on a host without a free descriptor waits for one.
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        poll_fn(|cx| self.poll_accept(cx)).await
    }

    /// Has the connections of proxies begin with a PROXY protocol header, which is read before
    /// they are accepted: the peer's address is then the client's, and so is the source of
    /// [`TcpStream::proxied`]. What is no header in time is closed and counted. Dropping the
    /// listener drops connections whose header has not come.
    #[must_use]
    pub fn proxy_protocol(mut self, settings: &ProxyProtocol) -> TcpListener {
        self.gate = Some(Box::new(Gate::new(settings.clone())));
        self
    }

    /// Polls for the next connection. Several tasks may wait at once.
    pub fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
        match &self.gate {
            Some(gate) => gate.poll_accept(cx, |cx| self.poll_accept_any(cx)),
            None => self.poll_accept_any(cx),
        }
    }

    /// Takes nothing new, and polls for the next of the connections whose
    /// [header](TcpListener::proxy_protocol) is being read, or has been; `None` when there are none
    /// left. The socket goes on to listen until it is dropped.
    pub fn poll_last(&self, cx: &mut Context<'_>) -> Poll<Option<(TcpStream, SocketAddr)>> {
        self.gate.as_ref().map_or(Poll::Ready(None), |gate| gate.poll_last(cx))
    }

    fn poll_accept_any(&self, cx: &mut Context<'_>) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
        let (shared, listener) = match &self.inner {
            Inner::Stack { stack, id } => (stack, *id),
            Inner::Kernel(listener) => {
                return listener
                    .poll_accept(cx)
                    .map_ok(|(stream, peer)| (TcpStream::on_host(stream), peer));
            }
        };
        let mut stack = shared.borrow_mut();
        match stack.engine.accept(listener) {
            Some(id) => {
                let stream = TcpStream::new(shared.clone(), id);
                let peer = stack.engine.tuple(id).map(|tuple| tuple.peer_addr());
                drop(stack);
                // An accepted connection has a tuple until its stream is dropped.
                Poll::Ready(
                    peer.ok_or(io::ErrorKind::NotConnected.into()).map(|peer| (stream, peer)),
                )
            }
            None => {
                stack.register_accept(listener, cx);
                Poll::Pending
            }
        }
    }

    /// How connections react to congestion whose handshakes end from now on. Default: as the
    /// configuration says.
    ///
    /// # Errors
    /// On a listener of the host's: `Unsupported` where the host's kernel lacks it.
    pub fn set_congestion(&self, control: CongestionControl) -> io::Result<()> {
        match &self.inner {
            Inner::Stack { stack, id } => {
                stack.borrow_mut().engine.set_listener_congestion(*id, control);
                Ok(())
            }
            Inner::Kernel(listener) => listener.set_congestion(control),
        }
    }

    /// The address it listens at, with the port chosen for port 0.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match &self.inner {
            Inner::Stack { stack, id } => stack
                .borrow()
                .engine
                .local_addr(*id)
                .ok_or_else(|| io::ErrorKind::NotConnected.into()),
            Inner::Kernel(listener) => Ok(listener.local_addr()),
        }
    }
}

impl Drop for TcpListener {
    fn drop(&mut self) {
        if let Inner::Stack { stack, id } = &self.inner {
            stack.borrow_mut().close_listener(*id);
        }
    }
}
