//! A listener whose connections are pipes.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll, ready};

use futures::StreamExt;
use futures::channel::mpsc;
use throng_http::{Accept, Connected};

use super::{End, Pace, duplex};

/// What a server of the tests listens on.
pub struct Listener(RefCell<mpsc::UnboundedReceiver<io::Result<End>>>);

impl Connected for End {
    fn peer_addr(&self) -> Option<SocketAddr> {
        Some(SocketAddr::from(([192, 0, 2, 1], 4711)))
    }
}

impl Accept for Listener {
    type Io = End;

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(End, SocketAddr)>> {
        let next = ready!(self.0.borrow_mut().poll_next_unpin(cx));
        let Some(accepted) = next else { return Poll::Pending };
        Poll::Ready(accepted.map(|end| (end, SocketAddr::from(([192, 0, 2, 1], 4711)))))
    }
}

/// The other side of a [`Listener`].
#[derive(Clone)]
pub struct Dialer(mpsc::UnboundedSender<io::Result<End>>);

impl Dialer {
    pub fn connect(&self) -> End {
        self.connect_at(1 << 16, Pace::FAST)
    }

    pub fn connect_at(&self, capacity: usize, pace: Pace) -> End {
        let (client, server) = duplex(capacity, pace);
        // A listener that has gone drops the server's end, as a RST would.
        let _ = self.0.unbounded_send(Ok(server));
        client
    }

    pub fn fail(&self, kind: io::ErrorKind) {
        self.0.unbounded_send(Err(kind.into())).unwrap();
    }
}

pub fn listen() -> (Dialer, Listener) {
    let (tx, rx) = mpsc::unbounded();
    (Dialer(tx), Listener(RefCell::new(rx)))
}
