//! One question to the servers, until one of them has an answer.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures::{AsyncReadExt, AsyncWriteExt};
use throng_runtime::timeout;

use super::files::ResolvConf;
use super::message::{self, Kind, Reply};
use super::name::HostName;
use super::{Error, Resolver};
use crate::stream::TcpSocket;
use crate::udp::UdpSocket;

/// Messages from a server's address that are no answer, before a question over UDP is given
/// up. A late answer or two may come from an earlier question at the same port.
const MAX_TRIES: u32 = 16;

/// Asks one server after the other, as often as the settings say, until one knows.
/// What comes back is never `Truncated`, `FormErr` or `Failed`.
pub(super) async fn exchange(
    resolver: &Resolver,
    name: &HostName,
    kind: Kind,
) -> Result<Reply, Error> {
    let (conf, servers) = resolver.servers();
    if servers.is_empty() {
        return Err(Error::NoServer(name.as_str().to_owned()));
    }
    let mut failure = None;
    for _ in 0..conf.attempts {
        for &server in &servers {
            let asked = ask(resolver, server, &conf, name, kind).await;
            let silent = matches!(&asked, Err(error) if error.kind() == io::ErrorKind::TimedOut);
            resolver.note_silence(server, silent);
            failure = match asked {
                Ok(Reply::Failed(why)) => Some(why),
                Ok(Reply::FormErr) => Some("FORMERR".to_owned()),
                Ok(Reply::Truncated) => Some("a truncated answer over TCP".to_owned()),
                Ok(reply) => return Ok(reply),
                // What one server said before tells more than another's silence.
                Err(_) if silent => {
                    resolver.count(|stats| stats.timeouts += 1);
                    failure
                }
                Err(error) => Some(error.to_string()),
            };
            tracing::debug!(%server, name = name.as_str(), ?failure, "no answer");
        }
    }
    let name = name.as_str().to_owned();
    Err(match failure {
        Some(why) => Error::ServerFailure { name, why },
        None => Error::TimedOut(name),
    })
}

/// Asks one server: over UDP, over TCP where the answer is too long, without EDNS where it
/// is not understood (RFC 6891 6.2.2).
async fn ask(
    resolver: &Resolver,
    server: SocketAddr,
    conf: &ResolvConf,
    name: &HostName,
    kind: Kind,
) -> io::Result<Reply> {
    let mut edns = true;
    let mut reply = Reply::Truncated;
    if !conf.tcp {
        reply = within(conf.timeout, over_udp(resolver, server, name, kind, edns)).await?;
        if reply == Reply::FormErr {
            edns = false;
            reply = within(conf.timeout, over_udp(resolver, server, name, kind, edns)).await?;
        }
    }
    if reply == Reply::Truncated {
        reply = within(conf.timeout, over_tcp(resolver, server, name, kind, edns)).await?;
    }
    Ok(reply)
}

async fn within<T>(limit: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(limit, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// RFC 5452: every question has a port and an id of its own, and what is not an answer to it
/// from where it went is passed over. Somebody who goes through the ids in the server's name
/// gets a few tries; then the question is asked where that is no use, over TCP (9.2).
async fn over_udp(
    resolver: &Resolver,
    server: SocketAddr,
    name: &HostName,
    kind: Kind,
    edns: bool,
) -> io::Result<Reply> {
    let random = resolver.random();
    let (id, port) = (random as u16, (random >> 16) as u16);
    let socket = UdpSocket::bind_towards(server, port, on_host(&server))?;
    resolver.count(|stats| stats.queries += 1);
    socket.send_to(&message::question(id, name, kind, edns), server).await?;
    let mut tries = 0;
    while tries < MAX_TRIES {
        let (bytes, from) = socket.recv_from().await?;
        if from == server {
            if let Some(reply) = message::reply(&bytes, id, name, kind) {
                return Ok(reply);
            }
            tries += 1;
        }
        resolver.count(|stats| stats.ignored += 1);
    }
    Ok(Reply::Truncated)
}

/// RFC 7766: the same messages, each behind its length.
async fn over_tcp(
    resolver: &Resolver,
    server: SocketAddr,
    name: &HostName,
    kind: Kind,
    edns: bool,
) -> io::Result<Reply> {
    let id = resolver.random() as u16;
    let socket = if on_host(&server) { TcpSocket::kernel() } else { TcpSocket::new() };
    resolver.count(|stats| stats.tcp_queries += 1);
    let mut stream = socket.connect_to(server).await?;
    let question = message::question(id, name, kind, edns);
    let mut sent = (question.len() as u16).to_be_bytes().to_vec();
    sent.extend_from_slice(&question);
    stream.write_all(&sent).await?;
    stream.flush().await?;
    let mut length = [0; 2];
    stream.read_exact(&mut length).await?;
    let mut answer = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut answer).await?;
    let reply = message::reply(&answer, id, name, kind);
    if reply.is_none() {
        resolver.count(|stats| stats.ignored += 1);
    }
    Ok(reply.unwrap_or_else(|| Reply::Failed("an answer to something else".to_owned())))
}

/// A server on the host itself is asked through the host: a shard's own stack has no
/// loopback.
fn on_host(server: &SocketAddr) -> bool {
    server.ip().is_loopback()
}
