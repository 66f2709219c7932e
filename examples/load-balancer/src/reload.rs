//! What changes while the balancer runs. SIGHUP: the file is read again; what is right takes force
//! on all shards, what is wrong is said and changes nothing on any. SIGUSR2: the program is started anew,
//! in this one's place. And names whose addresses change.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use futures::StreamExt;
use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use throng::runtime::shard_count;
use throng::runtime::signal::{Kind, signals};
use throng::{ShardId, sleep, spawn_blocking, spawn_local, spawn_on};

use crate::config::ServerAddress;
use crate::health::Checks;
use crate::life::Life;
use crate::log::Sink;
use crate::resolve::Lookups;
use crate::shard::Shard;
use crate::tls::Renewal;
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
        // A shard that begins later would begin by what was read first.
        while !self.life.has_started() {
            sleep(Duration::from_millis(10)).await;
        }
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
                    match publish(&world, Renewal::default()).await {
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
            let (world, renewal) = old.reload()?;
            let sink = Sink::open(&world.config.access_log)?;
            io::Result::Ok((world, renewal, sink))
        });
        let (world, renewal, sink) = loading.await.map_err(io::Error::other)??;
        let world = Arc::new(world);
        publish(&world, renewal).await?;
        if let Some(shard) = Shard::here() {
            shard.log.replace(sink);
        }
        self.checks = Checks::start(&world);
        self.lookups = Lookups::start(&world, &self.events);
        self.world = world;
        Ok(())
    }
}

/// Has every shard work by another configuration, and listeners show other certificates.
///
/// # Errors
/// A shard cannot, or is not there: none does.
async fn publish(world: &Arc<World>, renewal: Renewal) -> io::Result<()> {
    let prepare = |world: Arc<World>| move |shard: &Shard| shard.prepare(world);
    let shards = || (0..shard_count()).map(|shard| ShardId(shard as u16));
    let mut outcome = Ok(());
    for shard in shards() {
        outcome = on(shard, prepare(world.clone())).await.and_then(|prepared| prepared);
        if outcome.is_err() {
            break;
        }
    }
    if outcome.is_ok() {
        renewal.apply();
    }
    let agreed = outcome.is_ok();
    for shard in shards() {
        let done = on(shard, move |shard| if agreed { shard.change() } else { shard.stay() }).await;
        // It has ended in between, as all are about to.
        if let Err(error) = done {
            tracing::debug!(%shard, %error, "a shard has ended");
        }
    }
    outcome
}

/// Does something on a shard.
///
/// # Errors
/// It does not serve.
async fn on<T: Send + 'static>(
    shard: ShardId,
    f: impl FnOnce(&Shard) -> T + Send + 'static,
) -> io::Result<T> {
    let done = spawn_on(shard, move || async move { Shard::here().map(|shard| f(&shard)) });
    let done = done.await.map_err(io::Error::other)?;
    done.ok_or_else(|| io::Error::other(format!("shard {shard} does not serve")))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::rc::Rc;
    use std::sync::atomic::AtomicBool;

    use throng::tls::Connector;
    use throng::{Builder, TcpListener, TcpStream};

    use super::*;
    use crate::life::Ends;
    use crate::log::Writer;

    /// A world whose listener shows the certificate in `folder`.
    fn write(folder: &Path, upstream: &str) {
        let made = rcgen::generate_simple_self_signed([String::from("a.test")]).unwrap();
        fs::write(folder.join("chain"), made.cert.pem()).unwrap();
        fs::write(folder.join("key"), made.signing_key.serialize_pem()).unwrap();
        let text = format!(
            "[[listener]]\naddress = \"127.0.0.1:1\"\n\
             certificate = [{{ chain = \"{0}/chain\", key = \"{0}/key\" }}]\n\
             [[route]]\nupstream = \"{upstream}\"\n\
             [upstream.{upstream}]\nserver = [{{ address = \"127.0.0.1:2\" }}]\n",
            folder.display()
        );
        fs::write(folder.join("lb.toml"), text).unwrap();
    }

    /// Whether the world's listener shows a certificate that this one answers for.
    async fn shows(world: &World, trusted: &Connector) -> bool {
        let listener = TcpListener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let acceptor = world.acceptors.values().next().unwrap().clone();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let serving = async {
            let (stream, _) = listener.accept().await.unwrap();
            acceptor.accept(stream).await.is_ok()
        };
        futures::join!(trusted.connect("a.test", stream), serving).0.is_ok()
    }

    /// Where one shard cannot, no shard and no listener changes; where all can, all do.
    #[test]
    fn all_shards_change_or_none() {
        let folder = std::env::temp_dir().join(format!("throng-lb-reload-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        write(&folder, "old");
        let old = Arc::new(World::load(&folder.join("lb.toml")).unwrap());
        let trusts_old = Connector::from_pem_file(folder.join("chain")).unwrap();
        write(&folder, "new");
        let trusts_new = Connector::from_pem_file(folder.join("chain")).unwrap();
        let writer = Writer::start(None).unwrap();
        let start = {
            let (old, log) = (old.clone(), writer.log());
            move || Shard::start(old.clone(), log.clone(), Ends::default(), Vec::new()).unwrap()
        };
        let works_by = |shard: &Rc<Shard>, name: &str| shard.state().groups.contains_key(name);
        let done = Arc::new(AtomicBool::new(false));
        let results = Builder::new().device("kernel").shards(2).run(|at| {
            let (start, old, done) = (start.clone(), old.clone(), done.clone());
            let (trusts_old, trusts_new) = (trusts_old.clone(), trusts_new.clone());
            async move {
                if at == ShardId(1) {
                    while !done.load(Relaxed) {
                        sleep(Duration::from_millis(1)).await;
                    }
                    let changed = Shard::here().is_some_and(|shard| works_by(&shard, "new"));
                    Shard::end();
                    return changed;
                }
                let shard = start();
                let (new, renewal) = old.reload().unwrap();
                let refused = publish(&Arc::new(new), renewal).await.unwrap_err();
                assert!(refused.to_string().contains("shard 1"), "{refused}");
                assert!(works_by(&shard, "old") && !works_by(&shard, "new"));
                assert!(shows(&old, &trusts_old).await && !shows(&old, &trusts_new).await);
                // Nothing is left of it that a later change of another kind would bring in.
                shard.change();
                assert!(works_by(&shard, "old"));
                spawn_on(ShardId(1), move || async move { drop(start()) }).await.unwrap();
                let (new, renewal) = old.reload().unwrap();
                publish(&Arc::new(new), renewal).await.unwrap();
                assert!(works_by(&shard, "new") && !works_by(&shard, "old"));
                assert!(!shows(&old, &trusts_old).await && shows(&old, &trusts_new).await);
                done.store(true, Relaxed);
                Shard::end();
                true
            }
        });
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(results.unwrap(), [true, true]);
        drop(start);
        writer.end();
    }
}
