//! The process itself, beside what it serves: how it began, whom it tells how it is, and who
//! comes after it.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use throng::http::Drain;
use throng::net::is_kernel;
use throng::runtime::activation;
use throng::runtime::signal::terminate;
use throng::runtime::{current_shard, shard_count};
use throng::{ShardId, TcpListener, sleep, spawn_blocking, spawn_local, spawn_on, timeout};

use crate::config::Shutdown;
use crate::handover::{self, Handed, Predecessor, Program};
use crate::notify::{self, Notifier};
use crate::shard::Shard;
use crate::sockets::Sockets;

pub(crate) struct Life {
    pub(crate) notifier: Notifier,
    program: Program,
    sockets: Mutex<Sockets>,
    predecessor: Mutex<Option<Predecessor>>,
    /// Shards that serve.
    started: AtomicUsize,
    replaced: AtomicBool,
    /// SIGTERM has come.
    ending: AtomicBool,
}

impl Life {
    /// At the beginning of the process; with what a predecessor wants it to know.
    ///
    /// # Errors
    /// What was passed to it is not what it should be.
    pub(crate) fn begin() -> io::Result<(Life, Handed)> {
        let notifier = Notifier::from_env()?;
        let program = Program::this()?;
        let (predecessor, handed, sockets) = match Predecessor::greet()? {
            Some((predecessor, handed, sockets)) => (Some(predecessor), handed, sockets),
            None => {
                let passed = activation::take()?;
                (None, Handed::default(), passed.into_iter().map(|passed| passed.fd).collect())
            }
        };
        let life = Life {
            notifier,
            program,
            sockets: Mutex::new(Sockets::new(sockets)?),
            predecessor: Mutex::new(predecessor),
            started: AtomicUsize::new(0),
            replaced: AtomicBool::new(false),
            ending: AtomicBool::new(false),
        };
        Ok((life, handed))
    }

    fn sockets(&self) -> MutexGuard<'_, Sockets> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This shard's listeners at an address: of the host's sockets where the network is the
    /// host's, else of the device's.
    ///
    /// # Errors
    /// Named by the address: it cannot be listened at.
    pub(crate) fn listen(&self, address: SocketAddr) -> io::Result<Vec<TcpListener>> {
        let listen = || {
            if is_kernel()? {
                let (shard, shards) = (usize::from(current_shard().0), shard_count());
                let own = self.sockets().of(address, shard, shards)?;
                return own.into_iter().map(TcpListener::from_std).collect();
            }
            if self.sockets().is_passed(address) {
                let text = "a socket of the host's was passed for it, but clients come by a device";
                return Err(io::Error::other(text));
            }
            Ok(vec![TcpListener::bind(address)?])
        };
        listen().map_err(|error| io::Error::new(error.kind(), format!("{address}: {error}")))
    }

    /// A listener of the host's, whatever the network is.
    ///
    /// # Errors
    /// It cannot be listened at.
    pub(crate) fn listen_on_host(&self, address: SocketAddr) -> io::Result<Vec<TcpListener>> {
        let own = self.sockets().of(address, 0, 1)?;
        own.into_iter().map(TcpListener::from_std_kernel).collect()
    }

    /// This shard serves. The last one to do so has everybody told.
    pub(crate) fn started(&self) {
        if self.started.fetch_add(1, Ordering::AcqRel) + 1 < shard_count() {
            return;
        }
        self.sockets().close_rest();
        // The predecessor goes on for as long as nobody serves in its place.
        let predecessor = self.predecessor.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(predecessor) = predecessor {
            predecessor.relieve();
            tracing::info!("in the predecessor's place");
        }
        self.notifier.ready("serving");
    }

    /// Whether all shards serve, or have.
    pub(crate) fn has_started(&self) -> bool {
        self.started.load(Ordering::Acquire) >= shard_count()
    }

    /// Whether a successor has taken over.
    pub(crate) fn is_replaced(&self) -> bool {
        self.replaced.load(Ordering::Acquire)
    }

    /// Starts a successor; when it serves, all shards drain. On one shard.
    ///
    /// # Errors
    /// There is no successor, and everything is as it was.
    pub(crate) async fn replace(self: &Arc<Life>, handed: Handed) -> io::Result<()> {
        if self.is_replaced() {
            return Err(io::Error::other("a successor has taken over already"));
        }
        if !is_kernel()? {
            let text = "on a device of its own the connections end with the process: restart it";
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        }
        let (life, sockets) = (self.clone(), self.sockets().all()?);
        // Who ends this process would not end the successor.
        let is_ending = move || life.ending.load(Ordering::Acquire);
        if is_ending() {
            return Err(io::Error::other("this process is ending"));
        }
        let program = self.program.clone();
        let handing =
            spawn_blocking(move || handover::hand_over(&program, &sockets, handed, is_ending));
        let successor = handing.await.map_err(io::Error::other)??;
        self.notifier.replaced_by(successor);
        tracing::info!(successor, "replaced: draining");
        self.replaced.store(true, Ordering::Release);
        self.sockets().close();
        for shard in 0..shard_count() {
            let _detached = spawn_on(ShardId(shard as u16), || async {
                if let Some(shard) = Shard::here() {
                    let deadline = shard.state().world.config.shutdown.deadline.0;
                    // Not `leaving`: who asks at an address that both serve asks of the service,
                    // which stays.
                    let ends = [&shard.ends.replaced, &shard.ends.drain];
                    ends.into_iter().for_each(|end| end.begin(deadline));
                }
            });
        }
        Ok(())
    }

    /// Has the manager know that all shards are alive, as often as it wants. On one shard.
    pub(crate) async fn watch(self: Arc<Life>) {
        let Some(wanted) = notify::watchdog() else { return };
        loop {
            let all = (0..shard_count()).map(|shard| spawn_on(ShardId(shard as u16), || async {}));
            let answers = timeout(wanted / 4, join_all(all)).await;
            if answers.is_ok_and(|answers| answers.iter().all(Result::is_ok)) {
                self.notifier.alive();
            }
            sleep(wanted / 4).await;
        }
    }
}

/// The ends of what a shard does.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ends {
    /// The end is near: this begins first, and who asks is told.
    pub(crate) leaving: Drain,
    /// Of what clients have.
    pub(crate) drain: Drain,
    /// Of what a successor does now, too.
    pub(crate) replaced: Drain,
}

/// On SIGTERM or SIGINT: who asks how this shard is hears of it at once, and it drains after the
/// delay.
pub(crate) fn end_on_signal(life: &Arc<Life>, shutdown: &Shutdown, ends: &Ends) {
    let (life, ends) = (life.clone(), ends.clone());
    let (delay, deadline): (Duration, Duration) = (shutdown.delay.0, shutdown.deadline.0);
    let ending = async move {
        terminate().await;
        life.ending.store(true, Ordering::Release);
        ends.leaving.begin(delay + deadline);
        if current_shard() == ShardId(0) {
            tracing::info!(?delay, ?deadline, "terminated: draining");
            if !life.is_replaced() {
                life.notifier.stopping();
            }
        }
        sleep(delay).await;
        life.sockets().close();
        ends.drain.begin(deadline);
    };
    spawn_local(ending).detach();
}
