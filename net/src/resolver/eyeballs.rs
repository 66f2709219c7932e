//! Connecting to the first address that answers: Happy Eyeballs, RFC 8305.
//!
//! Addresses are tried as soon as one family has been answered for, IPv4 alone 50 ms later
//! (3: resolution delay). They are sorted (`rank`), the families take turns (4), and the next
//! attempt begins 250 ms after the last, or at once when one fails (5). The first to succeed
//! ends the race, and the others' connections are dropped; an answer that is still out may
//! come in for the next time.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::StreamExt;
use futures::future::LocalBoxFuture;
use futures::stream::FuturesUnordered;
use throng_runtime::{Sleep, sleep};

use super::lookup::Lookup;
use super::rank;
use crate::local::{self, Network};
use crate::stream::{TcpSocket, TcpStream};

/// How long an answer about IPv4 waits for the one about IPv6 (RFC 8305 8).
const RESOLUTION_DELAY: Duration = Duration::from_millis(50);
/// How long an attempt is alone (RFC 8305 8).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Connects `socket` to `name`.
pub(crate) async fn connect_name(
    socket: TcpSocket,
    name: String,
    port: u16,
) -> io::Result<TcpStream> {
    let network = local::network()?;
    let mut families = network.families(socket.is_kernel());
    families.v4 &= socket.can_reach(Ipv4Addr::UNSPECIFIED.into());
    families.v6 &= socket.can_reach(Ipv6Addr::UNSPECIFIED.into());
    let lookup = Lookup::new(network.resolver().clone(), &name, families)?;
    let mut race = Race::new(network, socket, format!("{name}:{port}"));
    race.lookup = Some((lookup, port));
    poll_fn(|cx| race.poll(cx)).await
}

/// Connects `socket` to one of `addrs`.
pub(crate) async fn connect_any(
    socket: TcpSocket,
    addrs: Vec<SocketAddr>,
) -> io::Result<TcpStream> {
    let network = local::network()?;
    let mut race = Race::new(network, socket, format!("{} addresses", addrs.len()));
    race.add(addrs);
    poll_fn(|cx| race.poll(cx)).await
}

type Attempt = LocalBoxFuture<'static, (SocketAddr, io::Result<TcpStream>)>;

struct Race {
    network: Rc<Network>,
    socket: TcpSocket,
    /// For the error.
    text: String,
    lookup: Option<(Lookup, u16)>,
    /// Why the lookup has found nothing.
    lookup_error: Option<io::Error>,
    /// Addresses to be tried, best first.
    waiting: Vec<SocketAddr>,
    /// The first address without a route: only to say so.
    unreachable: Option<SocketAddr>,
    /// Whether the last attempt was to IPv4.
    last_v4: Option<bool>,
    attempts: FuturesUnordered<Attempt>,
    /// The resolution delay.
    hold: Option<Sleep>,
    /// The attempt delay.
    pause: Option<Sleep>,
    failures: Vec<(SocketAddr, io::Error)>,
}

impl Race {
    fn new(network: Rc<Network>, socket: TcpSocket, text: String) -> Race {
        Race {
            network,
            socket,
            text,
            lookup: None,
            lookup_error: None,
            waiting: Vec::new(),
            unreachable: None,
            last_v4: None,
            attempts: FuturesUnordered::new(),
            hold: None,
            pause: None,
            failures: Vec::new(),
        }
    }

    fn add(&mut self, addrs: impl IntoIterator<Item = SocketAddr>) {
        let (network, on_host) = (&self.network, self.socket.is_kernel());
        let source_for = |ip: IpAddr| network.source_for(ip, on_host);
        for addr in addrs {
            let known = self.waiting.contains(&addr)
                || self.failures.iter().any(|(failed, _)| *failed == addr);
            if known {
                continue;
            }
            if source_for(addr.ip()).is_some() && self.socket.can_reach(addr.ip()) {
                self.waiting.push(addr);
            } else {
                self.unreachable.get_or_insert(addr);
            }
        }
        rank::sort(&mut self.waiting, source_for);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<TcpStream>> {
        loop {
            if self.poll_names(cx) {
                continue;
            }
            match self.attempts.poll_next_unpin(cx) {
                Poll::Ready(Some((_, Ok(stream)))) => {
                    if let Some((lookup, _)) = self.lookup.take() {
                        lookup.finish_alone();
                    }
                    return Poll::Ready(Ok(stream));
                }
                Poll::Ready(Some((addr, Err(error)))) => {
                    self.failures.push((addr, error));
                    self.pause = None;
                    continue;
                }
                Poll::Ready(None) | Poll::Pending => {}
            }
            if self.waiting.is_empty() && self.attempts.is_empty() && self.lookup.is_none() {
                // Nothing has a route: one attempt, for what it says.
                match self.unreachable.take().filter(|_| self.failures.is_empty()) {
                    Some(addr) => self.waiting.push(addr),
                    None => return Poll::Ready(Err(self.error())),
                }
            }
            let held = is_pending(&mut self.hold, cx);
            if self.waiting.is_empty() || held || is_pending(&mut self.pause, cx) {
                return Poll::Pending;
            }
            self.attempt();
        }
    }

    /// Takes in what the lookup has found. Returns whether there was news.
    fn poll_names(&mut self, cx: &mut Context<'_>) -> bool {
        let Some((lookup, port)) = &mut self.lookup else { return false };
        let Poll::Ready(found) = lookup.poll_next(cx) else { return false };
        let port = *port;
        if let Some(ips) = found {
            let fresh = self.attempts.is_empty() && self.failures.is_empty();
            let wait = fresh && lookup.waits_for_v6();
            self.hold = wait.then(|| sleep(RESOLUTION_DELAY));
            self.add(ips.into_iter().map(|ip| SocketAddr::new(ip, port)));
        } else {
            self.lookup_error = Some(lookup.failure().into());
            (self.lookup, self.hold) = (None, None);
        }
        true
    }

    /// Begins an attempt, to the family that was not tried last where it has an address.
    fn attempt(&mut self) {
        let other = |addr: &SocketAddr| self.last_v4.is_some_and(|v4| addr.is_ipv4() != v4);
        let index = self.waiting.iter().position(other).unwrap_or(0);
        let addr = self.waiting.remove(index);
        self.last_v4 = Some(addr.is_ipv4());
        let connecting = self.socket.connect_to(addr);
        self.attempts.push(Box::pin(async move { (addr, connecting.await) }));
        self.pause = Some(sleep(ATTEMPT_DELAY));
    }

    /// Of several errors the one that says most; with every address' own in the text.
    fn error(&mut self) -> io::Error {
        let most = self.failures.iter().max_by_key(|(_, error)| weight(error.kind()));
        let Some((_, most)) = most else {
            let nothing = || io::ErrorKind::AddrNotAvailable.into();
            return self.lookup_error.take().unwrap_or_else(nothing);
        };
        let each: Vec<_> =
            self.failures.iter().map(|(addr, error)| format!("{addr}: {error}")).collect();
        io::Error::new(most.kind(), format!("{}: {}", self.text, each.join("; ")))
    }
}

/// Whether a delay is still on.
fn is_pending(delay: &mut Option<Sleep>, cx: &mut Context<'_>) -> bool {
    let Some(sleep) = delay else { return false };
    let pending = Pin::new(sleep).poll(cx).is_pending();
    if !pending {
        *delay = None;
    }
    pending
}

/// How much an attempt's error says: a host that refuses is there; one that is silent may
/// be; our own want of something is not about the host at all, and must be seen.
fn weight(kind: io::ErrorKind) -> u8 {
    match kind {
        io::ErrorKind::NetworkUnreachable => 0,
        io::ErrorKind::AddrNotAvailable => 1,
        io::ErrorKind::HostUnreachable => 2,
        io::ErrorKind::TimedOut => 3,
        io::ErrorKind::ConnectionReset => 4,
        io::ErrorKind::ConnectionRefused => 5,
        _ => 6,
    }
}
