//! The server that the interop tests drive with real clients.
//!
//! | where | what |
//! |---|---|
//! | port 80 | HTTP/1.1 and HTTP/2, see [`routes`] |
//! | port 9001 | WebSocket echo straight on the stream, any path |
//! | port 7 | TCP and UDP echo |
//!
//! Device and addresses come from the environment (`THRONG_DEVICE`, `THRONG_ADDRESS`, ...), and
//! `THRONG_ADMIN` says where its counters are.
//! It runs until SIGINT or SIGTERM and then drains.

#![forbid(unsafe_code)]

mod body;
mod echo;
mod routes;

use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

use throng::{Builder, ShardId, TcpListener, UdpSocket, spawn_local};
use tracing_subscriber::EnvFilter;

/// How long connections may take to end after a signal.
const DRAIN: Duration = Duration::from_secs(3);

fn main() -> io::Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::from_default_env())
        .with_ansi(false)
        .with_writer(io::stderr)
        .init();
    let outcomes = Builder::from_env().map_err(io::Error::other)?.run(serve)?;
    outcomes.into_iter().collect()
}

/// What each shard does: listeners of its own for all ports.
async fn serve(shard: ShardId) -> io::Result<()> {
    let any = |port| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let server = throng::http::Server::new().start();
    drop(spawn_local(echo::tcp(TcpListener::bind(any(7))?)));
    drop(spawn_local(echo::udp(UdpSocket::bind(any(7))?)));
    drop(spawn_local(echo::websockets(TcpListener::bind(any(9001))?)));

    throng::http::admin::start_from_env(None)?;

    let draining = server.clone();
    drop(spawn_local(async move {
        throng::runtime::signal::terminate().await;
        draining.drain(DRAIN).await;
    }));
    let listener = TcpListener::bind(any(80))?;
    tracing::info!(%shard, "serving");
    let drained = server.serve(listener, routes::service(shard)).await;
    tracing::info!(%shard, ?drained, "drained");
    Ok(())
}
