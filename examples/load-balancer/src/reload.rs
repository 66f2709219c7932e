//! SIGHUP: the file is read again. What is right takes force on all shards, what is wrong is
//! said and changes nothing.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;

use futures::StreamExt;
use futures::channel::mpsc::{UnboundedReceiver, unbounded};
use signal_hook::consts::SIGHUP;
use signal_hook::iterator::Signals;
use throng::runtime::shard_count;
use throng::{ShardId, spawn_blocking, spawn_on};

use crate::config;
use crate::health::Checks;
use crate::log::Sink;
use crate::shard::Shard;
use crate::world::World;

/// Reloads that took force, and that were refused.
pub(crate) static DONE: AtomicU64 = AtomicU64::new(0);
pub(crate) static REFUSED: AtomicU64 = AtomicU64::new(0);

/// Every SIGHUP from now on. A thread waits for them, for as long as the process lives.
///
/// # Errors
/// The handler cannot be installed.
pub(crate) fn hangups() -> io::Result<UnboundedReceiver<()>> {
    let mut signals = Signals::new([SIGHUP])?;
    let (sender, receiver) = unbounded();
    let waiting = move || {
        for _ in signals.forever() {
            if sender.unbounded_send(()).is_err() {
                return;
            }
        }
    };
    thread::Builder::new().name("hangups".into()).spawn(waiting)?;
    Ok(receiver)
}

/// What is done once for all shards: active checks, and reloading.
pub(crate) struct Reloader {
    world: Arc<World>,
    checks: Checks,
}

impl Reloader {
    /// On a shard, with the configuration in force.
    pub(crate) fn new(world: Arc<World>) -> Reloader {
        let checks = Checks::start(&world);
        Reloader { world, checks }
    }

    pub(crate) async fn run(mut self, mut hangups: UnboundedReceiver<()>) {
        while hangups.next().await.is_some() {
            match self.reload().await {
                Ok(()) => {
                    DONE.fetch_add(1, Relaxed);
                    tracing::info!(file = %self.world.file.display(), "reloaded");
                }
                Err(error) => {
                    REFUSED.fetch_add(1, Relaxed);
                    tracing::error!("not reloaded, the old configuration stays: {error}");
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
        if let Some(shard) = Shard::here() {
            shard.log.replace(sink);
        }
        self.checks = Checks::start(&world);
        self.world = world;
        Ok(())
    }
}
