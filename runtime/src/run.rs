//! Starting shards on threads of their own, and the loop of each with its idle policy.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread;

use crate::affinity::Cores;
use crate::chunks::Preallocated;
use crate::config::{Config, IdlePolicy, ShardId};
use crate::driver::Driver;
use crate::error::panic_text;
use crate::group::{Group, Lease};
use crate::join::{JoinHandle, spawn_in};
use crate::mesh::{Mesh, Port};
use crate::reactor::Reactor;
use crate::shard::{self, Envelope, Shard};
use crate::time::Instant;

const MAX_SHARDS: usize = 1024;
const MAX_INBOX: usize = 1 << 16;
/// Processor pauses between two turns in the second phase of the adaptive policy.
const PAUSES: usize = 32;

/// Runs a runtime: one thread per shard, each with the driver that `make_driver` makes on
/// that thread and with `main` as its first task.
///
/// No main starts before every driver is made. Returns when all mains are done, with
/// their outputs by shard; tasks that are left are then dropped, each on its own thread,
/// and the drivers get some turns to send what that queued.
///
/// # Errors
/// An impossible `config` (the message names the key), `OutOfMemory` where there is not as much as it
/// preallocates, threads that cannot be started or
/// pinned, the first error of `make_driver`, or a main that panicked; each of these also
/// stops the other shards. Calling it on a shard is an error, too.
pub fn run<F, Fut>(
    config: Config,
    make_driver: impl Fn(ShardId) -> io::Result<Box<dyn Driver>> + Send + Sync,
    main: F,
) -> io::Result<Vec<Fut::Output>>
where
    F: Fn(ShardId) -> Fut + Send + Sync,
    Fut: Future + 'static,
    Fut::Output: Send + 'static,
{
    check(&config)?;
    let _preallocated = Preallocated::new(config.preallocate)?;
    let leases = (0..config.shards).map(|_| Lease::new()).collect::<io::Result<Vec<_>>>()?;
    let group = Arc::new(Group::new(&config, &leases, true));
    let start = Start {
        config: &config,
        group: &group,
        origin: std::time::Instant::now(),
        mains: AtomicUsize::new(config.shards),
        drivers: Barrier::new(config.shards),
        make_driver: &make_driver,
        main: &main,
    };
    let ports = Mesh::new(config.shards, config.inbox_capacity);
    let results = thread::scope(|scope| {
        let threads: Vec<_> = leases
            .into_iter()
            .zip(ports)
            .enumerate()
            .map(|(index, (lease, port))| {
                let (start, id) = (&start, ShardId(index as u16));
                thread::Builder::new().name(format!("throng-{index}")).spawn_scoped(
                    scope,
                    move || {
                        // Tasks contain their panics; what arrives here is a driver's.
                        let result =
                            catch_unwind(AssertUnwindSafe(|| start.shard(lease, id, port)))
                                .unwrap_or_else(|payload| {
                                    Err(panicked("the driver", id, &*payload))
                                });
                        if result.is_err() {
                            start.drivers.give_up();
                            start.group.stop();
                        }
                        result
                    },
                )
            })
            .collect();
        if threads.iter().any(|thread| thread.is_err()) {
            start.drivers.give_up();
            group.stop();
        }
        let joined = threads.into_iter().map(|thread| match thread?.join() {
            Ok(result) => result,
            Err(payload) => resume_unwind(payload),
        });
        joined.collect::<Vec<io::Result<Option<Fut::Output>>>>()
    });
    if let Some(pool) = &group.blocking {
        pool.close();
    }
    let outputs = results.into_iter().collect::<io::Result<Vec<_>>>()?;
    let outputs: Option<Vec<_>> = outputs.into_iter().collect();
    outputs.ok_or_else(|| io::Error::other("a shard was stopped before its main was done"))
}

fn check(config: &Config) -> io::Result<()> {
    let invalid = |message: String| Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    if shard::try_with(|_| ()).is_some() {
        return Err(io::Error::other("run was called on a shard of a runtime"));
    }
    if !(1..=MAX_SHARDS).contains(&config.shards) {
        return invalid(format!("shards = {}: must be 1 to {MAX_SHARDS}", config.shards));
    }
    if !(1..=MAX_INBOX).contains(&config.inbox_capacity) {
        return invalid(format!(
            "inbox_capacity = {}: must be 1 to {MAX_INBOX}",
            config.inbox_capacity
        ));
    }
    if let Some(cores) = &config.cores {
        if cores.len() < config.shards {
            let (cores, shards) = (cores.len(), config.shards);
            return invalid(format!(
                "cores names {cores} cores: must name one for each of {shards} shards"
            ));
        }
        if let Some(core) = cores.iter().find(|&&core| core >= libc::CPU_SETSIZE as usize) {
            return invalid(format!("cores = {core}: must be below {}", libc::CPU_SETSIZE));
        }
    }
    Ok(())
}

/// What the threads are started with.
struct Start<'a, D, F> {
    config: &'a Config,
    group: &'a Arc<Group>,
    origin: std::time::Instant,
    /// Mains that are not done.
    mains: AtomicUsize,
    drivers: Barrier,
    make_driver: &'a D,
    main: &'a F,
}

impl<D, F, Fut> Start<'_, D, F>
where
    D: Fn(ShardId) -> io::Result<Box<dyn Driver>>,
    F: Fn(ShardId) -> Fut,
    Fut: Future + 'static,
{
    fn clock(&self) -> Instant {
        let elapsed = self.origin.elapsed();
        Instant::from_nanos(elapsed.as_secs() * 1_000_000_000 + u64::from(elapsed.subsec_nanos()))
    }

    /// A shard's thread. `None`: another shard failed first.
    fn shard(
        &self,
        lease: Lease,
        id: ShardId,
        port: Port<Envelope>,
    ) -> io::Result<Option<Fut::Output>> {
        if let Some(cores) = &self.config.cores {
            pin(cores[id.index()])?;
        }
        precise_timers();
        let shard = Shard::new(lease, id, self.group.clone(), port);
        let _entered = shard.enter();
        shard.set_now(self.clock());
        shard.arena().event()?;
        let driver = (self.make_driver)(id)?;
        let mut reactor = Reactor::new(shard.clone(), driver, self.config.task_budget);
        if !self.drivers.wait() {
            return Ok(None);
        }
        shard.set_now(self.clock());
        let main = catch_unwind(AssertUnwindSafe(|| (self.main)(id)))
            .map_err(|payload| panicked("the main", id, &*payload))?;
        let mut main = spawn_in(&shard, main).map_err(|(_, error)| error)?;
        let output = self.turn(&mut reactor, &mut main);
        reactor.shut_down(|| self.clock());
        output
    }

    /// The loop. Ends when all mains are done or the runtime is stopped.
    fn turn(
        &self,
        reactor: &mut Reactor,
        main: &mut JoinHandle<Fut::Output>,
    ) -> io::Result<Option<Fut::Output>> {
        let shard = reactor.shard.clone();
        let mut idle = Idle::new(self.config.idle);
        let mut output = None;
        loop {
            let now = self.clock();
            let busy = reactor.turn(now);
            if output.is_none() && main.is_finished() {
                output = Some(self.main_done(shard.id, main)?);
                if self.mains.fetch_sub(1, Ordering::AcqRel) == 1 {
                    self.group.stop();
                }
            }
            if self.group.stopped() {
                return Ok(output);
            }
            if !idle.may_sleep(busy, now) {
                continue;
            }
            let reactor = &mut *reactor;
            shard.arena().gate().sleep(move || {
                let now = self.clock();
                let found = reactor.turn(now) || self.group.stopped();
                (!found).then_some(move || reactor.park(now))
            });
        }
    }

    fn main_done(
        &self,
        id: ShardId,
        main: &mut JoinHandle<Fut::Output>,
    ) -> io::Result<Fut::Output> {
        match Pin::new(main).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(output)) => Ok(output),
            Poll::Ready(Err(error)) => Err(match error.try_into_panic() {
                Ok(payload) => panicked("the main", id, &*payload),
                Err(error) => io::Error::other(error),
            }),
            Poll::Pending => Err(io::Error::other("main has ended without a result")),
        }
    }
}

fn panicked(who: &str, id: ShardId, payload: &(dyn Any + Send)) -> io::Error {
    io::Error::other(format!("{who} of shard {id} panicked: {}", panic_text(payload)))
}

/// Where a shard is on its way from work to sleep.
struct Idle {
    policy: IdlePolicy,
    since: Option<Instant>,
}

impl Idle {
    fn new(policy: IdlePolicy) -> Self {
        Idle { policy, since: None }
    }

    /// After a turn: pauses as the policy says; returns whether it is time to sleep.
    fn may_sleep(&mut self, busy: bool, now: Instant) -> bool {
        if busy {
            self.since = None;
            return false;
        }
        let IdlePolicy::Adaptive { spin, pause } = self.policy else {
            std::hint::spin_loop();
            return false;
        };
        let idle = now - *self.since.get_or_insert(now);
        if idle < spin {
            std::hint::spin_loop();
        } else if idle < spin.saturating_add(pause) {
            for _ in 0..PAUSES {
                std::hint::spin_loop();
            }
            // Whom this shard has just woken may be waiting for this very core.
            thread::yield_now();
        } else {
            return true;
        }
        false
    }
}

/// Lets all shards pass once every one has come, or none once one has given up.
struct Barrier {
    /// How many are missing, and whether one has given up.
    state: Mutex<(usize, bool)>,
    change: Condvar,
}

impl Barrier {
    fn new(count: usize) -> Self {
        Barrier { state: Mutex::new((count, false)), change: Condvar::new() }
    }

    fn wait(&self) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 -= 1;
        self.change.notify_all();
        while state.0 > 0 && !state.1 {
            state = self.change.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        !state.1
    }

    fn give_up(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).1 = true;
        self.change.notify_all();
    }
}

/// Ties the calling thread to a core.
fn pin(core: usize) -> io::Result<()> {
    Cores::one(core).pin().map_err(|error| {
        io::Error::new(error.kind(), format!("cores = {core}: cannot run there: {error}"))
    })
}

/// Has the kernel end sleeps of this thread on time instead of up to 50 us later.
fn precise_timers() {
    // SAFETY: sets an attribute of the calling thread; no pointers are passed.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1 as libc::c_ulong, 0, 0, 0) };
}
