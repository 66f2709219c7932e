//! A socket before it is connected.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::task::Poll;

use super::TcpStream;
use crate::local;
use crate::stack::Interest;
use crate::tcp::State;

/// An active open in the making: where it comes from is settled before it connects.
#[derive(Clone, Copy, Debug, Default)]
pub struct TcpSocket {
    local: Option<SocketAddr>,
}

impl TcpSocket {
    /// A socket without an address: [`connect`](TcpSocket::connect) chooses.
    pub fn new() -> TcpSocket {
        TcpSocket::default()
    }

    /// Comes from `addr`. An unspecified address and port 0 are chosen; a given port has to
    /// be one whose flow RSS brings back to this shard.
    pub fn bind(mut self, addr: SocketAddr) -> TcpSocket {
        self.local = Some(addr);
        self
    }

    /// Connects to `addr`.
    ///
    /// # Errors
    /// As for [`TcpStream::connect`]; `AddrNotAvailable` where the bound address is not one
    /// of the interface or its flow belongs to another shard; `AddrInUse` where this very
    /// connection exists.
    pub async fn connect(self, addr: SocketAddr) -> io::Result<TcpStream> {
        let stack = local::stack()?;
        let id = stack.borrow_mut().connect(self.local, addr, throng_runtime::now())?;
        let stream = TcpStream::new(stack, id);
        poll_fn(|cx| {
            let mut stack = stream.stack.borrow_mut();
            if let Some(error) = stack.engine.take_error(stream.id) {
                return Poll::Ready(Err(error.into()));
            }
            if matches!(stack.engine.state(stream.id), State::SynSent | State::SynReceived) {
                stack.register(stream.id, Interest::Write, cx);
                return Poll::Pending;
            }
            Poll::Ready(Ok(()))
        })
        .await
        .map(|()| stream)
    }
}
