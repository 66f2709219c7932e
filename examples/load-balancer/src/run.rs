//! From a configuration to serving shards, until SIGTERM.

use std::io;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::{Either, join_all, join3};
use throng::http::{Drain, Server, service_fn};
use throng::runtime::shard_count;
use throng::tls::TlsListener;
use throng::{Builder, ShardId, TcpListener, sleep, spawn_on};

use crate::config::{Http, Network};
use crate::log::{Log, Sink, Writer};
use crate::reload::{self, Events, Reloader};
use crate::shard::Shard;
use crate::world::World;
use crate::{admin, proxy, tcp};

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// What cannot be opened or bound, a network that cannot be had.
pub(crate) fn run(world: World, device: Option<String>) -> io::Result<()> {
    let writer = Writer::start(Sink::open(&world.config.access_log)?)?;
    let log = writer.log();
    let builder = builder(&world.config.network, device)?;
    let events = Mutex::new(Some(reload::hangups()?));
    let world = Arc::new(world);
    let results = builder.run(|shard| {
        // Shard 0 reloads for all.
        let first = shard == ShardId(0);
        let taken = || events.lock().unwrap_or_else(PoisonError::into_inner).take();
        let serving = serve(world.clone(), log.clone(), first.then(taken).flatten());
        async {
            let result = serving.await;
            if result.is_err() {
                end_others();
            }
            Shard::end();
            result
        }
    });
    drop(log);
    writer.end();
    results?.into_iter().collect()
}

fn builder(network: &Network, device: Option<String>) -> io::Result<Builder> {
    let mut builder = Builder::from_env()?;
    if let Some(device) = device.or_else(|| network.device.clone()) {
        builder = builder.device(device);
    }
    if let Some(shards) = network.shards {
        builder = builder.shards(shards);
    }
    for address in &network.address {
        builder = builder.address(address);
    }
    for gateway in &network.gateway {
        builder = builder.gateway(*gateway);
    }
    for server in &network.nameserver {
        builder = builder.nameserver(server);
    }
    Ok(builder)
}

fn server(http: &Http) -> Server {
    Server::new()
        .http2(http.http2)
        .max_streams(http.max_streams.0)
        .max_connections(http.max_connections)
        .max_header_size(usize::try_from(http.max_header_size.0).unwrap_or(usize::MAX))
        .max_headers(http.max_headers.0 as usize)
        .header_timeout(http.header_timeout.0)
        .body_timeout(http.body_timeout.0)
        .idle_timeout(http.idle_timeout.0)
}

/// One shard. The one with `events` does what has to be done once.
async fn serve(world: Arc<World>, log: Log, events: Option<Events>) -> io::Result<()> {
    let deadline = world.config.shutdown.deadline.0;
    let drain = Drain::on_terminate(deadline);
    throng::http::admin::start_from_env(Some(&drain))?;
    let mut listeners = Vec::new();
    for listener in &world.config.listener {
        let address = listener.as_ref().address;
        let bound = TcpListener::bind(address);
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{address}: {error}"));
        listeners.push((bound.map_err(named)?, world.acceptors.get(&address).cloned()));
    }
    let mut passing = Vec::new();
    for tcp in &world.config.tcp {
        let (address, max) = (tcp.as_ref().address, tcp.as_ref().max_connections.0);
        let bound = TcpListener::bind(address);
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{address}: {error}"));
        passing.push((bound.map_err(named)?, address, max));
    }
    let shard = Shard::start(world.clone(), log, drain.clone())?;
    if let Some((sender, receiver)) = events {
        if let Some(config) = &world.config.admin {
            admin::start(config, drain.clone())?;
        }
        for (listener, acceptor) in &listeners {
            let tls = acceptor.is_some();
            tracing::info!(address = %listener.local_addr()?, tls, "listening");
        }
        throng::spawn_local(Reloader::new(world.clone(), sender).run(receiver)).detach();
    }
    let running = server(&world.config.http).start();
    let refusing = shard.clone();
    running.on_refused(move |refused| {
        refusing.count(|counts| counts.refused(refused.status));
        refusing.log.refused(refused);
    });
    // Until the servers have ended, and then until the upgraded connections have.
    let guest = drain.enter();
    let serving = listeners.into_iter().map(|(listener, acceptor)| {
        let (shard, secure): (&Rc<Shard>, _) = (&shard, acceptor.is_some());
        let service = move |peer| {
            let shard = shard.clone();
            service_fn(move |request| proxy::serve(shard.clone(), peer, secure, request))
        };
        match acceptor {
            Some(acceptor) => {
                let listener = TlsListener::new(listener, acceptor);
                Either::Left(running.serve_each(listener, service))
            }
            None => Either::Right(running.serve_each(listener, service)),
        }
    });
    let passing = passing
        .into_iter()
        .map(|(listener, address, max)| tcp::serve(shard.clone(), listener, address, max));
    let draining = async {
        drain.begun().await;
        running.drain(deadline).await
    };
    let (drained, ..) = join3(draining, join_all(serving), join_all(passing)).await;
    drop(guest);
    let rest = drain.ended().await;
    tracing::info!(?drained, ?rest, "ended");
    Ok(())
}

/// A balancer that lacks a shard is none: has all of them end, whichever could not begin.
fn end_others() {
    for shard in 0..shard_count() {
        let _detached = spawn_on(ShardId(shard as u16), || async {
            // It may not have begun yet.
            loop {
                if let Some(shard) = Shard::here() {
                    return shard.drain.begin(Duration::ZERO);
                }
                sleep(Duration::from_millis(10)).await;
            }
        });
    }
}
