//! A simulated world: hosts with their shards and drivers on one thread, under a virtual
//! clock. Everything happens in a fixed order, so a run can be repeated exactly.

use std::io;
use std::panic::resume_unwind;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::config::{Config, ShardId};
use crate::driver::Driver;
use crate::group::{Group, Lease};
use crate::join::{JoinHandle, spawn_local};
use crate::mesh::Mesh;
use crate::reactor::Reactor;
use crate::shard::Shard;
use crate::time::Instant;

/// Sweeps without rest after which the clock moves although nobody waits for it.
const SWEEPS: usize = 1000;
/// By how much it then moves in every sweep.
const CREEP: Duration = Duration::from_micros(1);

/// A host of a [`World`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct HostId(usize);

/// A world of hosts; see the module.
///
/// Time stands still while anything moves and then jumps to the next deadline. (A world
/// that never comes to rest, say with a task that yields in a loop, gets time anyhow:
/// after 1,000 sweeps a microsecond each.) No thread is started, [`spawn_blocking`] runs
/// its job in place and signals come from [`terminate`](Self::terminate).
///
/// [`spawn_blocking`]: crate::spawn_blocking
#[derive(Default)]
pub struct World {
    now: Instant,
    hosts: Vec<Host>,
}

struct Host {
    group: Arc<Group>,
    shards: Vec<Reactor>,
    /// Until when each shard's thread gets no processor.
    stalls: Vec<Instant>,
}

impl World {
    /// An empty world at time zero.
    pub fn new() -> Self {
        World::default()
    }

    /// Adds a host with one shard for each driver.
    ///
    /// # Panics
    /// Without a driver, or with more than 4,095 shards in the process.
    pub fn add_host(&mut self, drivers: Vec<Box<dyn Driver>>) -> HostId {
        let config = Config { shards: drivers.len(), ..Config::default() };
        let mut drivers = drivers.into_iter();
        let next = |_| drivers.next().ok_or_else(|| io::Error::other("no driver left"));
        match self.add_host_with(config, next) {
            Ok(host) => host,
            Err(error) => panic!("cannot add a host: {error}"),
        }
    }

    /// Adds a host with the limits of `config` and drivers that are made on their shards,
    /// as [`run`](crate::run()) does. Pinning and idle policy mean nothing here.
    ///
    /// # Errors
    /// No shards, 4,095 shards in the process, or the first error of `make_driver`.
    pub fn add_host_with(
        &mut self,
        config: Config,
        mut make_driver: impl FnMut(ShardId) -> io::Result<Box<dyn Driver>>,
    ) -> io::Result<HostId> {
        if config.shards == 0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "shards = 0: a host needs one",
            ));
        }
        let leases = (0..config.shards).map(|_| Lease::new()).collect::<io::Result<Vec<_>>>()?;
        let group = Arc::new(Group::new(&config, &leases, false));
        let ports = Mesh::new(config.shards, config.inbox_capacity);
        let mut shards = Vec::with_capacity(config.shards);
        for (index, (lease, port)) in leases.into_iter().zip(ports).enumerate() {
            let id = ShardId(index as u16);
            let shard = Shard::new(lease, id, group.clone(), port);
            shard.set_now(self.now);
            let driver = {
                let _entered = shard.enter();
                make_driver(id)?
            };
            shards.push(Reactor::new(shard, driver, config.task_budget));
        }
        let stalls = vec![Instant::ZERO; shards.len()];
        self.hosts.push(Host { group, shards, stalls });
        Ok(HostId(self.hosts.len() - 1))
    }

    /// The virtual time.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Starts a task on a shard. At the shard's task limit the handle gives
    /// [`JoinError::refusal`](crate::JoinError::refusal).
    ///
    /// # Panics
    /// If there is no such host or shard.
    #[track_caller]
    pub fn spawn<F: Future + 'static>(
        &self,
        host: HostId,
        shard: ShardId,
        future: F,
    ) -> JoinHandle<F::Output> {
        self.enter(host, shard, || spawn_local(future))
    }

    /// Runs `f` as code of a shard, so that `spawn_local`, `unparker` and the like work.
    ///
    /// # Panics
    /// If there is no such host or shard.
    #[track_caller]
    pub fn enter<R>(&self, host: HostId, shard: ShardId, f: impl FnOnce() -> R) -> R {
        let shard = &self.hosts[host.0].shards[shard.index()].shard;
        let _entered = shard.enter();
        f()
    }

    /// What SIGTERM is to a real process: [`signal::terminate`](crate::signal::terminate)
    /// becomes ready on every shard of the host.
    ///
    /// # Panics
    /// If there is no such host.
    #[track_caller]
    pub fn terminate(&self, host: HostId) {
        self.hosts[host.0].group.terminate();
    }

    /// Takes a host away: its tasks and drivers are dropped, as if the machine had gone:
    /// what dropping the tasks gave the drivers to send is never sent. Its id stays taken.
    ///
    /// # Panics
    /// If there is no such host.
    #[track_caller]
    pub fn remove_host(&mut self, host: HostId) {
        let mut shards = std::mem::take(&mut self.hosts[host.0].shards);
        shards.iter_mut().for_each(Reactor::abandon);
    }

    /// A shard's thread stands still until `until`, as if another had its processor.
    ///
    /// # Panics
    /// If there is no such host or shard.
    #[track_caller]
    pub fn stall(&mut self, host: HostId, shard: ShardId, until: Instant) {
        self.hosts[host.0].stalls[shard.index()] = until;
    }

    /// The clock jumps ahead, past every deadline on the way, as after a machine's sleep.
    pub fn jump(&mut self, by: Duration) {
        self.now += by;
    }

    /// Turns every shard once. Returns whether anything moved.
    pub fn sweep(&mut self) -> bool {
        let mut moved = false;
        let shards =
            self.hosts.iter_mut().flat_map(|host| host.shards.iter_mut().zip(&host.stalls));
        for (reactor, _) in shards.filter(|(_, until)| **until <= self.now) {
            let shard = reactor.shard.clone();
            let _entered = shard.enter();
            moved |= reactor.turn(self.now);
        }
        moved
    }

    /// The next time at which anything will happen by itself.
    pub fn next_deadline(&self) -> Option<Instant> {
        let shards = self.hosts.iter().flat_map(|host| host.shards.iter().zip(&host.stalls));
        let next = |(reactor, until): (&Reactor, &Instant)| match *until > self.now {
            true => Some(*until),
            false => reactor.next_deadline(),
        };
        shards.filter_map(next).min()
    }

    /// Lets time pass until `done` says so, asked after every sweep, or until `limit`, when
    /// nothing happens before. Returns what `done` said last.
    pub fn run_until(&mut self, limit: Instant, mut done: impl FnMut() -> bool) -> bool {
        self.run_watched(limit, |_| done())
    }

    /// As [`run_until`](Self::run_until), with a `done` that may look into the world.
    pub fn run_watched(&mut self, limit: Instant, mut done: impl FnMut(&World) -> bool) -> bool {
        let mut sweeps = 0;
        loop {
            let moved = self.sweep();
            if done(self) {
                return true;
            }
            if moved {
                sweeps += 1;
                if sweeps > SWEEPS {
                    if self.now >= limit {
                        return false;
                    }
                    self.now = (self.now + CREEP).min(limit);
                }
                continue;
            }
            sweeps = 0;
            let next = self.next_deadline().unwrap_or(Instant::MAX);
            if next > limit || self.now >= limit {
                self.now = self.now.max(limit);
                for reactor in self.hosts.iter().flat_map(|host| &host.shards) {
                    reactor.shard.set_now(self.now);
                }
                return false;
            }
            // A deadline that is due and yet did not move anything must not stop time.
            self.now = next.max(self.now + Duration::from_nanos(1));
        }
    }

    /// Lets `duration` pass.
    pub fn run_for(&mut self, duration: Duration) {
        self.run_until(self.now + duration, || false);
    }

    /// Runs `future` as a task on the first shard of `host` until it ends; `None` if it has
    /// not by `limit`. A panic in it is passed on.
    #[track_caller]
    pub fn block_on<F: Future + 'static>(
        &mut self,
        host: HostId,
        limit: Instant,
        future: F,
    ) -> Option<F::Output> {
        let mut handle = self.spawn(host, ShardId(0), future);
        let shard = self.hosts[host.0].shards[0].shard.clone();
        self.run_until(limit, || handle.is_finished());
        let _entered = shard.enter();
        match Pin::new(&mut handle).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(output)) => Some(output),
            Poll::Ready(Err(error)) => match error.try_into_panic() {
                Ok(payload) => resume_unwind(payload),
                Err(_) => None,
            },
            Poll::Pending => None,
        }
    }
}
