//! Datagrams by Throng's sockets, the host's or the stack's.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;
use throng::UdpSocket;

use super::{Shared, answer};

/// A flow: a socket of its own that asks one of the server's, a datagram at a time.
pub(super) struct Flow {
    socket: UdpSocket,
    server: SocketAddr,
    index: u32,
    number: u32,
}

/// The first of the flows' ports on the host: the kernel may give sockets that share ports the same one.
const FIRST: u16 = 20_000;

/// Opens a socket for each flow.
pub(super) fn open(shared: &Rc<Shared>) -> io::Result<()> {
    let role = &shared.load.role;
    let flow = |index: usize| {
        let (server, index) = (role.endpoint(index), index as u32);
        let from = match role.address {
            Some(_) => SocketAddr::from(([0, 0, 0, 0], 0)),
            None => SocketAddr::new(server.ip(), FIRST + index as u16),
        };
        Ok(Flow { socket: UdpSocket::bind(from)?, server, index, number: 0 })
    };
    *shared.flows.borrow_mut() = (0..role.connections).map(flow).collect::<io::Result<_>>()?;
    Ok(())
}

/// One after the other, each on a flow picked at random, until the run is over.
pub(super) async fn worker(shared: Rc<Shared>) {
    while shared.running.get() {
        let picked = shared.random(shared.flows.borrow().len());
        let mut flow = shared.flows.borrow_mut().swap_remove(picked);
        let begin = shared.load.timed.then(Instant::now);
        match flow.exchange(shared.load.role.size).await {
            Ok(()) => shared.count(begin),
            Err(error) => shared.failed(&error),
        }
        shared.flows.borrow_mut().push(flow);
    }
}

impl Flow {
    async fn exchange(&mut self, size: usize) -> io::Result<()> {
        self.number = self.number.wrapping_add(1);
        let mut said = vec![0; size];
        answer::message(self.index, self.number, &mut said);
        self.socket.send_to(&said, self.server).await?;
        let (echo, from): (Bytes, SocketAddr) = self.socket.recv_from().await?;
        if echo == said && from == self.server {
            return Ok(());
        }
        let (index, len) = (self.index, echo.len());
        Err(io::Error::other(format!("not the echo of flow {index}: {len} bytes of {from}")))
    }
}
