//! Connections that are passed on as they are: to an upstream, or, of TLS, by the name that the
//! client asks for, which is read and left where it is.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Poll, Waker};

use bytes::Bytes;
use throng::http::Guest;
use throng::runtime::{now, try_spawn_local};
use throng::tls::rustls::server::Acceptor;
use throng::{TcpListener, TcpStream, timeout};

use crate::config::{RetryOn, SniRoute, Tcp};
use crate::group::{Group, Slot, Wish};
use crate::proxied;
use crate::shard::{Shard, State};
use crate::tunnel;

/// Longest beginning of a connection in which a name is looked for.
const HELLO: usize = 64 << 10;

/// Connections of one listener, of which there may be so many.
struct Places {
    max: u32,
    taken: Cell<u32>,
    accepting: Cell<Option<Waker>>,
}

/// One of them, until dropped.
struct Place(Rc<Places>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.set(self.0.taken.get() - 1);
        if let Some(waker) = self.0.accepting.take() {
            waker.wake();
        }
    }
}

impl Places {
    /// Waits until there is one.
    async fn take(self: &Rc<Self>) -> Place {
        poll_fn(|cx| {
            if self.taken.get() < self.max {
                return Poll::Ready(());
            }
            self.accepting.set(Some(cx.waker().clone()));
            Poll::Pending
        })
        .await;
        self.taken.set(self.taken.get() + 1);
        Place(self.clone())
    }
}

/// Passes a listener's connections on, until the drain begins.
pub(crate) async fn serve(shard: Rc<Shard>, listener: TcpListener, address: SocketAddr, max: u32) {
    let places = Rc::new(Places { max, taken: Cell::new(0), accepting: Cell::default() });
    let drain = shard.ends.drain.clone();
    let spawn = |place: Place, client, peer| {
        let (shard, guest) = (shard.clone(), drain.enter());
        let passing = async move {
            if let Err(error) = pass(shard, client, peer, address, guest).await {
                tracing::debug!(%peer, %error, "a connection was not passed on");
            }
            drop(place);
        };
        if try_spawn_local(passing).is_err() {
            tracing::debug!("no room for the task of a connection");
        }
    };
    let accepting = || async { (places.take().await, listener.accept().await) };
    while let Some((place, accepted)) = drain.until(accepting()).await {
        if let Ok((client, peer)) = accepted {
            spawn(place, client, peer);
        }
        throng::runtime::coop::consume_budget().await;
    }
    // Those whose proxy is about to say whose they are have been taken.
    let last = async {
        while let Some((client, peer)) = poll_fn(|cx| listener.poll_last(cx)).await {
            spawn(places.take().await, client, peer);
        }
    };
    let _ = timeout(shard.state().world.config.shutdown.idle.0, last).await;
}

async fn pass(
    shard: Rc<Shard>,
    mut client: TcpStream,
    peer: SocketAddr,
    address: SocketAddr,
    guest: Guest,
) -> io::Result<()> {
    let _ = client.set_nodelay(true);
    let state = shard.state();
    let tcp = state.world.config.tcp.iter().map(|tcp| tcp.as_ref());
    let Some(tcp) = tcp.into_iter().find(|tcp| tcp.address == address) else { return Ok(()) };
    let (hello, name) = match tcp.sni.is_empty() {
        true => (Vec::new(), None),
        false => timeout(tcp.hello_timeout.0, read_name(&mut client))
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??,
    };
    let group = group(tcp, name.as_deref(), &state);
    let group = group.ok_or_else(|| io::Error::other("no upstream is for it"))?;
    let (mut server, slot) = connect(&shard, group, peer).await?;
    if let Some(to) = group.config.proxy_protocol {
        server.write_chunk(proxied::header(to, Some((peer, proxied::local(&client))))).await?;
    }
    for piece in hello {
        server.write_chunk(piece).await?;
    }
    shard.count(|counts| counts.passed += 1);
    let joined = tunnel::join(client, server, group.config.timeout.tunnel.0, guest).await;
    drop(slot);
    joined
}

/// Where a connection goes that asks for `name`.
fn group<'s>(tcp: &Tcp, name: Option<&str>, state: &'s State) -> Option<&'s Rc<Group>> {
    let of = |route: &SniRoute| {
        let matching = route.host.iter().filter(|pattern| name.is_some_and(|n| pattern.matches(n)));
        matching.map(|pattern| pattern.specificity()).max()
    };
    // The first of equals.
    let best = tcp.sni.iter().rev().filter_map(|route| Some((of(route)?, route)));
    let best = best.max_by_key(|(specificity, _)| *specificity).map(|(_, route)| &route.upstream);
    state.groups.get(best.or(tcp.upstream.as_ref())?.as_ref())
}

/// Connects to a server; to others, where that fails.
async fn connect(
    shard: &Shard,
    group: &Rc<Group>,
    peer: SocketAddr,
) -> io::Result<(TcpStream, Slot)> {
    let source = peer.ip().to_canonical().to_string();
    let wish = Wish { hash: xxhash_rust::xxh3::xxh3_64(source.as_bytes()), sticky: None };
    let unavailable = |why| io::Error::other(format!("upstream {}: {why:?}", group.name));
    let mut slot = group.acquire(&wish, &shard.random).await.map_err(unavailable)?;
    let retry = &group.config.retry;
    let mut tried = Vec::new();
    loop {
        let begun = now();
        let at = &slot.server.address;
        let connecting = TcpStream::connect((at.host.clone(), at.port));
        let outcome = match timeout(group.config.timeout.connect.0, connecting).await {
            Ok(outcome) => outcome,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        slot.connected(outcome.as_ref().map(|_| now().saturating_since(begun)));
        let error = match outcome {
            Ok(stream) => {
                let _ = stream.set_nodelay(true);
                return Ok((stream, slot));
            }
            Err(error) => error,
        };
        tried.push(slot.server.clone());
        if tried.len() > retry.servers.0 as usize || !retry.on.contains(&RetryOn::Connect) {
            return Err(error);
        }
        slot = group.pick(&wish, &tried, &shard.random).map_err(|_| error)?;
        shard.count(|counts| counts.retries += 1);
    }
}

/// Reads up to the name in a TLS client's first message (RFC 6066 3), in small letters: what was
/// read, and the name if there is one.
async fn read_name(client: &mut TcpStream) -> io::Result<(Vec<Bytes>, Option<String>)> {
    let (mut acceptor, mut read, mut size) = (Acceptor::default(), Vec::new(), 0);
    loop {
        let piece = client.read_chunk(HELLO).await?;
        if piece.is_empty() {
            return Ok((read, None));
        }
        size += piece.len();
        read.push(piece.clone());
        let mut rest = &piece[..];
        while !rest.is_empty() {
            // What is no TLS has no name; nor has what is too much.
            let taken = acceptor.read_tls(&mut rest);
            if !matches!(taken, Ok(taken) if taken > 0) {
                return Ok((read, None));
            }
            match acceptor.accept() {
                Ok(None) => {}
                Ok(Some(accepted)) => {
                    let name = accepted.client_hello().server_name().map(str::to_ascii_lowercase);
                    return Ok((read, name));
                }
                Err(_) => return Ok((read, None)),
            }
        }
        if size >= HELLO {
            return Ok((read, None));
        }
    }
}
