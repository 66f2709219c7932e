//! Datagrams by Throng's sockets, the host's or the stack's.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use throng::UdpSocket;

use super::{Done, Shared, answer};

/// What has not come after this is asked for again.
pub(super) const OVERDUE: Duration = Duration::from_millis(100);
/// And after so many times it is an error.
pub(super) const TIMES: u32 = 20;

/// A flow: a socket of its own that asks one of the server's, a datagram at a time.
pub(super) struct Flow {
    socket: UdpSocket,
    server: SocketAddr,
    index: u32,
    number: u32,
    /// Echoes of the datagram before that have not come: it was sent as often again.
    late: u32,
}

/// An exchange of a flow: what it took beside a datagram and its echo.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Taken {
    /// How often it was asked for again.
    pub(super) asked_again: u64,
    /// How many of the echoes that were asked for again came after all: those were late, and not lost.
    pub(super) late: u64,
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
        Ok(Flow { socket: UdpSocket::bind(from)?, server, index, number: 0, late: 0 })
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
        let (mut taken, size) = (Taken::default(), shared.load.role.size);
        match flow.exchange(size, &mut taken).await {
            Ok(()) => shared.count(begin),
            Err(error) => shared.failed(&error),
        }
        shared.taken.set(shared.taken.get() + taken);
        shared.flows.borrow_mut().push(flow);
    }
}

impl std::ops::Add for Taken {
    type Output = Taken;

    fn add(self, other: Taken) -> Taken {
        let (asked_again, late) = (self.asked_again, self.late);
        Taken { asked_again: asked_again + other.asked_again, late: late + other.late }
    }
}

impl Taken {
    /// `done` with what this says.
    pub(super) fn noted(self, done: Done) -> Done {
        let lost = self.asked_again.saturating_sub(self.late);
        Done { asked_again: self.asked_again, lost, ..done }
    }
}

impl Flow {
    /// A datagram and its echo. What is overdue is asked for again, a bounded number of times.
    async fn exchange(&mut self, size: usize, taken: &mut Taken) -> io::Result<()> {
        let before = answer::of(self.index, self.number, size);
        self.number = self.number.wrapping_add(1);
        let said = answer::of(self.index, self.number, size);
        for time in 0..TIMES {
            taken.asked_again += u64::from(time > 0);
            self.socket.send_to(&said, self.server).await?;
            let Ok(echoed) = throng::timeout(OVERDUE, self.echo(&said, &before, taken)).await
            else {
                continue;
            };
            self.late = time;
            return echoed;
        }
        self.late = TIMES;
        Err(io::Error::other(format!("no echo of flow {}, asked for {TIMES} times", self.index)))
    }

    /// The echo of `said`. One of the datagram before may still come where that was asked for again, and
    /// does so first.
    async fn echo(&mut self, said: &[u8], before: &[u8], taken: &mut Taken) -> io::Result<()> {
        loop {
            let (echo, from): (Bytes, SocketAddr) = self.socket.recv_from().await?;
            if echo == said && from == self.server {
                return Ok(());
            }
            if echo == before && from == self.server && self.late > 0 {
                (self.late, taken.late) = (self.late - 1, taken.late + 1);
                continue;
            }
            let (index, len) = (self.index, echo.len());
            return Err(io::Error::other(format!(
                "not the echo of flow {index}: {len} bytes of {from}"
            )));
        }
    }
}
