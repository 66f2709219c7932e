//! A socket before it is connected.

use std::future::{poll_fn, ready};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::task::Poll;

use futures::FutureExt;
use futures::future::Either;

use super::TcpStream;
use crate::kernel::KernelStream;
use crate::local;
use crate::resolver::{Destination, Start, Token, eyeballs};
use crate::stack::Interest;
use crate::tcp::{CongestionControl, State};

/// An active open in the making: where it comes from is settled before it connects.
#[derive(Clone, Copy, Debug, Default)]
pub struct TcpSocket {
    local: Option<SocketAddr>,
    kernel: bool,
    congestion: Option<CongestionControl>,
}

impl TcpSocket {
    /// A socket without an address: [`connect`](TcpSocket::connect) chooses.
    pub fn new() -> TcpSocket {
        TcpSocket::default()
    }

    /// A socket of the host's, whatever the shard's device.
    pub fn kernel() -> TcpSocket {
        TcpSocket { kernel: true, ..TcpSocket::default() }
    }

    /// Comes from `addr`. An unspecified address and port 0 are chosen; a given port has to
    /// be one whose flow RSS brings back to this shard.
    pub fn bind(mut self, addr: SocketAddr) -> TcpSocket {
        self.local = Some(addr);
        self
    }

    /// How the connection will react to congestion. Default: as the configuration says.
    pub fn congestion(mut self, control: CongestionControl) -> TcpSocket {
        self.congestion = Some(control);
        self
    }

    /// Connects to an address, or to a name and a port. The names are the shard's resolver's,
    /// for a socket of the host's too.
    ///
    /// # Errors
    /// As for [`TcpStream::connect`] and, where a congestion control is set,
    /// [`TcpStream::set_congestion`]; `AddrNotAvailable` where the bound address is not one
    /// of the interface or its flow belongs to another shard; `AddrInUse` where this very
    /// connection exists.
    pub fn connect<D: Destination>(
        self,
        destination: D,
    ) -> impl Future<Output = io::Result<TcpStream>> + use<D> {
        // Read at once, so that the future is no larger than that of one address.
        let several = match destination.start(Token) {
            Start::At(addr) => return Either::Left(self.connect_to(addr)),
            Start::Any(addrs) => eyeballs::connect_any(self, addrs).boxed_local(),
            Start::Name(name, port) => eyeballs::connect_name(self, name, port).boxed_local(),
            Start::Bad(error) => ready(Err(error)).boxed_local(),
        };
        Either::Right(several)
    }

    /// Whether it is one of the host's.
    pub(crate) fn is_kernel(&self) -> bool {
        self.kernel
    }

    /// Whether the address it comes from, if it has one, is of the family of `ip`.
    pub(crate) fn can_reach(&self, ip: IpAddr) -> bool {
        let from = self.local.map(|addr| addr.ip()).filter(|ip| !ip.is_unspecified());
        from.is_none_or(|from| from.is_ipv4() == ip.is_ipv4())
    }

    /// Connects to one address.
    pub(crate) async fn connect_to(self, addr: SocketAddr) -> io::Result<TcpStream> {
        let network = local::network()?;
        let Some(shared) = network.stack().filter(|_| !self.kernel) else {
            let reactor = network.open_reactor()?;
            let stream = KernelStream::connect(reactor, self.local, addr).await?;
            if let Some(control) = self.congestion {
                stream.set_congestion(control)?;
            }
            return Ok(TcpStream::on_host(stream));
        };
        let id = shared.borrow_mut().connect(self.local, addr, throng_runtime::now())?;
        let stream = TcpStream::new(shared.clone(), id);
        if let Some(control) = self.congestion {
            stream.set_congestion(control)?;
        }
        poll_fn(|cx| {
            let mut stack = shared.borrow_mut();
            if let Some(error) = stack.engine.take_error(id) {
                return Poll::Ready(Err(error.into()));
            }
            if matches!(stack.engine.state(id), State::SynSent | State::SynReceived) {
                stack.register(id, Interest::Write, cx);
                return Poll::Pending;
            }
            Poll::Ready(Ok(()))
        })
        .await
        .map(|()| stream)
    }
}
