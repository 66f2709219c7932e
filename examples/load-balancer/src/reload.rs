//! What changes while the balancer runs. SIGHUP: the file is read again; what is right takes force
//! on all shards, what is wrong is said and changes nothing. SIGUSR2: the program is started anew,
//! in this one's place. And names whose addresses change.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use futures::StreamExt;
use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use throng::runtime::shard_count;
use throng::runtime::signal::{Kind, signals};
use throng::{ShardId, spawn_blocking, spawn_local, spawn_on};

use crate::config::{self, ServerAddress};
use crate::health::Checks;
use crate::life::Life;
use crate::log::Sink;
use crate::resolve::Lookups;
use crate::shard::Shard;
use crate::world::World;

/// Reloads that took force, and that were refused.
pub(crate) static DONE: AtomicU64 = AtomicU64::new(0);
pub(crate) static REFUSED: AtomicU64 = AtomicU64::new(0);

/// What has to be done for all shards.
pub(crate) enum Event {
    /// SIGHUP.
    Hangup,
    /// SIGUSR2.
    Replace,
    /// A name has other addresses than before.
    Resolved(ServerAddress, Vec<SocketAddr>),
}

/// Where events come in, and where they are told.
pub(crate) type Events = (UnboundedSender<Event>, UnboundedReceiver<Event>);

/// What signals say, from now on.
pub(crate) fn events() -> Events {
    let (sender, receiver) = unbounded();
    let hear = |kind: Kind, event: fn() -> Event| {
        let (mut signals, events) = (signals(kind), sender.clone());
        let hearing = async move {
            loop {
                signals.next().await;
                if events.unbounded_send(event()).is_err() {
                    return;
                }
            }
        };
        spawn_local(hearing).detach();
    };
    hear(Kind::Hangup, || Event::Hangup);
    hear(Kind::User2, || Event::Replace);
    (sender, receiver)
}

/// What is done once for all shards: active checks, looking names up, reloading.
pub(crate) struct Reloader {
    life: Arc<Life>,
    world: Arc<World>,
    events: UnboundedSender<Event>,
    checks: Checks,
    lookups: Lookups,
}

impl Reloader {
    /// On a shard, with the configuration in force.
    pub(crate) fn new(
        life: Arc<Life>,
        world: Arc<World>,
        events: UnboundedSender<Event>,
    ) -> Reloader {
        let (checks, lookups) = (Checks::start(&world), Lookups::start(&world, &events));
        Reloader { life, world, events, checks, lookups }
    }

    pub(crate) async fn run(mut self, mut events: UnboundedReceiver<Event>) {
        while let Some(event) = events.next().await {
            match event {
                Event::Hangup => {
                    self.life.notifier.reloading();
                    match self.reload().await {
                        Ok(()) => {
                            DONE.fetch_add(1, Relaxed);
                            tracing::info!(file = %self.world.file.display(), "reloaded");
                            self.life.notifier.ready("serving");
                        }
                        Err(error) => {
                            REFUSED.fetch_add(1, Relaxed);
                            tracing::error!("not reloaded, the old configuration stays: {error}");
                            self.life.notifier.ready(&format!("serving, not reloaded: {error}"));
                        }
                    }
                }
                Event::Replace => {
                    if let Err(error) = self.life.replace(self.world.bequeath()).await {
                        tracing::error!("not replaced, this process stays: {error}");
                    }
                }
                Event::Resolved(name, addresses) => {
                    let world = Arc::new(self.world.with_resolved(name, addresses));
                    match publish(&world).await {
                        Ok(()) => {
                            self.checks = Checks::start(&world);
                            self.world = world;
                        }
                        Err(error) => tracing::error!(%error, "the new addresses are not used"),
                    }
                }
            }
        }
    }

    async fn reload(&mut self) -> io::Result<()> {
        let old = self.world.clone();
        let loading = spawn_blocking(move || {
            // Nothing has changed while this may still fail; the certificates come last.
            let config = config::load(&old.file).map_err(io::Error::other)?;
            let sink = Sink::open(&config.access_log)?;
            io::Result::Ok((World::load(&old.file, Some(&old))?, sink))
        });
        let (world, sink) = loading.await.map_err(io::Error::other)??;
        let world = Arc::new(world);
        publish(&world).await?;
        if let Some(shard) = Shard::here() {
            shard.log.replace(sink);
        }
        self.checks = Checks::start(&world);
        self.lookups = Lookups::start(&world, &self.events);
        self.world = world;
        Ok(())
    }
}

/// Has every shard work by another configuration.
async fn publish(world: &Arc<World>) -> io::Result<()> {
    for shard in 0..shard_count() {
        let world = world.clone();
        let changed = spawn_on(ShardId(shard as u16), move || async move {
            match Shard::here() {
                Some(shard) => shard.change(world),
                None => Ok(()),
            }
        });
        changed.await.map_err(io::Error::other)??;
    }
    Ok(())
}
