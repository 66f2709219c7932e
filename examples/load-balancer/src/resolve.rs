//! Names that are looked up again and again: one task for each, on one shard, for all of them.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures::channel::mpsc::UnboundedSender;
use throng::runtime::JoinHandle;
use throng::{lookup_host, sleep, spawn_local, timeout};

use crate::config::ServerAddress;
use crate::reload::Event;
use crate::world::World;

/// How long a look-up may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How soon a name is looked up again that has never been found.
const AGAIN: Duration = Duration::from_secs(1);

/// The look-ups that run; dropped, they end.
pub(crate) struct Lookups {
    _tasks: Vec<JoinHandle<()>>,
}

impl Lookups {
    /// Starts those of a configuration, which tell `events` of every change.
    pub(crate) fn start(world: &World, events: &UnboundedSender<Event>) -> Lookups {
        let upstreams = world.config.upstream.values();
        let servers = upstreams.flat_map(|upstream| &upstream.as_ref().server);
        let mut names = BTreeSet::new();
        let tasks = servers.filter_map(|server| {
            let every = server.resolve?.0;
            let name = server.address.clone();
            // The first interval counts where a name is in several upstreams.
            if !names.insert(name.clone()) {
                return None;
            }
            let known = world.resolved(&name).unwrap_or_default().to_vec();
            let looking = look_up(name, every, known, events.clone());
            Some(spawn_local(looking).cancel_on_drop())
        });
        Lookups { _tasks: tasks.collect() }
    }
}

/// A name that is not found any more keeps its addresses: it is more likely that the name
/// server is in trouble than that all servers are gone.
async fn look_up(
    name: ServerAddress,
    every: Duration,
    mut known: Vec<SocketAddr>,
    events: UnboundedSender<Event>,
) {
    loop {
        let found = match timeout(PATIENCE, lookup_host((name.host.clone(), name.port))).await {
            Ok(found) => found,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        match found {
            Ok(mut addresses) => {
                addresses.sort();
                addresses.dedup();
                if addresses != known {
                    tracing::info!(%name, ?addresses, "resolved");
                    known.clone_from(&addresses);
                    if events.unbounded_send(Event::Resolved(name.clone(), addresses)).is_err() {
                        return;
                    }
                }
            }
            Err(error) => tracing::warn!(%name, %error, "not resolved"),
        }
        sleep(if known.is_empty() { every.min(AGAIN) } else { every }).await;
    }
}
