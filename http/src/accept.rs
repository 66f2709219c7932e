//! Where connections come from.

use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll};

use hyper::rt::{Read, Write};

/// What a stream knows of its connection.
pub trait Connected {
    /// The client's address, where it is known; where a proxy has said it, the one it said.
    fn peer_addr(&self) -> Option<SocketAddr> {
        None
    }
}

impl Connected for throng_net::SendStream {
    fn peer_addr(&self) -> Option<SocketAddr> {
        let stream = self.get_ref();
        match stream.proxied() {
            Some(addresses) => Some(addresses.source),
            None => stream.peer_addr().ok(),
        }
    }
}

#[cfg(feature = "tls")]
impl<S: Connected> Connected for throng_tls::TlsStream<S> {
    fn peer_addr(&self) -> Option<SocketAddr> {
        self.get_ref().peer_addr()
    }
}

/// A source of connections, such as a `throng_net::TcpListener` or, with the feature `tls`, a
/// `throng_tls::TlsListener`.
pub trait Accept {
    /// One connection. hyper hands upgraded connections on as `Send`, hence the bound; a
    /// stream that belongs to its shard checks that at run time.
    type Io: Connected + Read + Write + Unpin + Send + 'static;

    /// The next connection and the peer's address.
    ///
    /// # Errors
    /// Of one connection (`ConnectionAborted`, `ConnectionReset`) or of the listener; after
    /// either, later calls may succeed.
    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Self::Io, SocketAddr)>>;

    /// After the last [`poll_accept`](Accept::poll_accept): takes no new connections any more,
    /// and hands out those it was about to; `None` when there are none, as here.
    fn poll_last(&self, _: &mut Context<'_>) -> Poll<Option<(Self::Io, SocketAddr)>> {
        Poll::Ready(None)
    }
}

impl<A: Accept + ?Sized> Accept for &A {
    type Io = A::Io;

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Self::Io, SocketAddr)>> {
        (**self).poll_accept(cx)
    }

    fn poll_last(&self, cx: &mut Context<'_>) -> Poll<Option<(Self::Io, SocketAddr)>> {
        (**self).poll_last(cx)
    }
}

impl<A: Accept + ?Sized> Accept for std::rc::Rc<A> {
    type Io = A::Io;

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Self::Io, SocketAddr)>> {
        (**self).poll_accept(cx)
    }

    fn poll_last(&self, cx: &mut Context<'_>) -> Poll<Option<(Self::Io, SocketAddr)>> {
        (**self).poll_last(cx)
    }
}

/// Streams get TCP_NODELAY: hyper writes in pieces that are worth a segment each, and Nagle
/// would hold the last one of a response back for a round trip.
impl Accept for throng_net::TcpListener {
    type Io = throng_net::SendStream;

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Self::Io, SocketAddr)>> {
        self.poll_accept(cx).map_ok(|(stream, peer)| {
            // It fails only for a connection that is over, which hyper will find out.
            let _ = stream.set_nodelay(true);
            (stream.into_send(), peer)
        })
    }

    fn poll_last(&self, cx: &mut Context<'_>) -> Poll<Option<(Self::Io, SocketAddr)>> {
        self.poll_last(cx).map(|last| {
            let (stream, peer) = last?;
            let _ = stream.set_nodelay(true);
            Some((stream.into_send(), peer))
        })
    }
}

/// The connections of a TLS server. Give its acceptor the protocols that are served:
/// `throng_tls::alpn::HTTP`, or one of the two; where none is agreed on, the first bytes tell
/// them apart as they do in cleartext.
#[cfg(feature = "tls")]
impl Accept for throng_tls::TlsListener {
    type Io = throng_tls::TlsStream;

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Self::Io, SocketAddr)>> {
        self.poll_accept(cx)
    }

    fn poll_last(&self, cx: &mut Context<'_>) -> Poll<Option<(Self::Io, SocketAddr)>> {
        self.poll_last(cx)
    }
}
