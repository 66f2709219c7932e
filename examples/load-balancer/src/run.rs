//! From a configuration to serving shards, until SIGTERM.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{Either, join, join_all};
use throng::http::Server;
use throng::runtime::{current_shard, shard_count};
use throng::tls::{TlsListener, TlsStream};
use throng::{Builder, SendStream, ShardId, sleep, spawn_on};

use crate::config::{Http, Network};
use crate::life::{Ends, Life, end_on_signal};
use crate::log::{Log, Sink, Writer};
use crate::reload::{self, Reloader};
use crate::shard::Shard;
use crate::world::World;
use crate::{admin, proxied, proxy, tcp};

/// Serves until SIGTERM or SIGINT, or until a successor does.
///
/// # Errors
/// What cannot be opened or bound, a network that cannot be had.
pub(crate) fn run(life: Life, world: World, device: Option<String>) -> io::Result<()> {
    let writer = Writer::start(Sink::open(&world.config.access_log)?)?;
    let log = writer.log();
    let builder = builder(&world.config.network, device)?;
    let (life, world) = (Arc::new(life), Arc::new(world));
    let results = builder.run(|_| {
        let serving = serve(life.clone(), world.clone(), log.clone());
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
        .max_connections(http.max_connections.0 as usize)
        .max_header_size(usize::try_from(http.max_header_size.0).unwrap_or(usize::MAX))
        .max_headers(http.max_headers.0 as usize)
        .header_timeout(http.header_timeout.0)
        .body_timeout(http.body_timeout.0)
        .idle_timeout(http.idle_timeout.0)
}

/// One shard. The first does what has to be done once.
async fn serve(life: Arc<Life>, world: Arc<World>, log: Log) -> io::Result<()> {
    let is_first = current_shard() == ShardId(0);
    // Before anybody can know of the process, so that no signal ends it by mistake.
    let events = is_first.then(reload::events);
    let shutdown = &world.config.shutdown;
    let ends = Ends::default();
    end_on_signal(&life, shutdown, &ends);
    throng::http::admin::start_from_env(Some(&ends.leaving))?;
    let (mut listeners, mut proxies) = (Vec::new(), Vec::new());
    for listener in &world.config.listener {
        let address = listener.as_ref().address;
        let acceptor = world.acceptors.get(&address);
        let expected = proxied::expected(&listener.as_ref().proxy_protocol, &mut proxies);
        for bound in life.listen(address)? {
            listeners.push((proxied::expecting(bound, &expected), acceptor.cloned()));
        }
    }
    let mut passing = Vec::new();
    for tcp in &world.config.tcp {
        let (address, max) = (tcp.as_ref().address, tcp.as_ref().max_connections.0);
        let expected = proxied::expected(&tcp.as_ref().proxy_protocol, &mut proxies);
        for bound in life.listen(address)? {
            passing.push((proxied::expecting(bound, &expected), address, max));
        }
    }
    let shard = Shard::start(world.clone(), log, ends.clone(), proxies)?;
    if let Some((sender, receiver)) = events {
        if let Some(config) = &world.config.admin {
            admin::start(config, &life, &ends)?;
        }
        for (listener, acceptor) in &listeners {
            let tls = acceptor.is_some();
            tracing::info!(address = %listener.local_addr()?, tls, "listening");
        }
        let reloader = Reloader::new(life.clone(), world.clone(), sender);
        throng::spawn_local(reloader.run(receiver)).detach();
        throng::spawn_local(life.clone().watch()).detach();
    }
    let running = server(&world.config.http).drain_idle(shutdown.idle.0).start();
    let refusing = shard.clone();
    running.on_refused(move |refused| {
        refusing.count(|counts| counts.refused(refused.status));
        refusing.log.refused(refused);
    });
    // Until the servers have ended, and then until the upgraded connections have.
    let (drain, guest) = (&ends.drain, ends.drain.enter());
    let serving = listeners.into_iter().map(|(listener, acceptor)| {
        let shard = &shard;
        let service = move |stream: &SendStream, secure, peer| {
            let local = proxied::local(stream.get_ref());
            proxy::Front::new(shard.clone(), proxy::Client { peer, local, secure })
        };
        match acceptor {
            Some(acceptor) => {
                let listener = TlsListener::new(listener, acceptor);
                let service = move |io: &TlsStream, peer| service(io.get_ref(), true, peer);
                Either::Left(running.serve_direct_until(drain, listener, service))
            }
            None => {
                let service = move |io: &SendStream, peer| service(io, false, peer);
                Either::Right(running.serve_direct_until(drain, listener, service))
            }
        }
    });
    let passing = passing
        .into_iter()
        .map(|(listener, address, max)| tcp::serve(shard.clone(), listener, address, max));
    let serving = join(join_all(serving), join_all(passing));
    life.started();
    serving.await;
    drop(guest);
    let rest = drain.ended().await;
    if life.is_replaced() {
        ends.replaced.ended().await;
    }
    tracing::info!(?rest, "ended");
    Ok(())
}

/// A balancer that lacks a shard is none: has all of them end, whichever could not begin.
fn end_others() {
    for shard in 0..shard_count() {
        let _detached = spawn_on(ShardId(shard as u16), || async {
            // It may not have begun yet.
            loop {
                if let Some(shard) = Shard::here() {
                    return shard.ends.drain.begin(Duration::ZERO);
                }
                sleep(Duration::from_millis(10)).await;
            }
        });
    }
}
