//! The pool for work that blocks: threads outside the shards, bounded in number and in
//! the jobs that wait for them.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::affinity::Cores;
use crate::error::{JoinError, SpawnError, discard};
use crate::remote::{RemoteHandle, completion};
use crate::shard;

/// Most jobs that wait for a thread.
const QUEUE: usize = 4096;
/// How long a thread without a job stays.
const KEEP: Duration = Duration::from_secs(10);
/// How long the end of the runtime waits for jobs that run.
const PATIENCE: Duration = Duration::from_secs(5);

type Job = Box<dyn FnOnce() + Send>;

/// Runs `f`, which may block, on a thread of the pool outside the shards. At most
/// [`Config::blocking_threads`](crate::Config::blocking_threads) run at once and 4,096
/// wait; beyond that the handle gives [`JoinError::refusal`]. In a simulated world `f` runs
/// right here, so that a run can be repeated.
///
/// Jobs that wait when the runtime ends are cancelled; for those that run it waits up to
/// 5 s.
///
/// # Panics
/// When the thread runs no shard.
#[track_caller]
pub fn spawn_blocking<F, T>(f: F) -> RemoteHandle<T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    let (completion, handle) = completion();
    let job: Job = Box::new(move || {
        if RemoteHandle::is_aborted(&completion) {
            return;
        }
        completion.set(catch_unwind(AssertUnwindSafe(f)).map_err(JoinError::panicked));
    });
    let submitted = match shard::with(|shard| shard.group.blocking.clone()) {
        Some(pool) => pool.submit(job),
        None => {
            job();
            Ok(())
        }
    };
    if let Err((error, job)) = submitted {
        handle.refuse(error);
        drop(job);
    }
    handle
}

/// The pool of one runtime.
#[derive(Clone)]
pub(crate) struct Pool(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    /// A job came, or the pool closes.
    work: Condvar,
    /// A thread left.
    left: Condvar,
    limit: usize,
    /// Where the threads run, unless where the shard runs that starts them.
    cores: Option<Cores>,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    threads: usize,
    idle: usize,
    closed: bool,
}

impl Pool {
    pub(crate) fn new(limit: usize, cores: Option<Cores>) -> Pool {
        Pool(Arc::new(Inner {
            state: Mutex::new(State::default()),
            work: Condvar::new(),
            left: Condvar::new(),
            limit: limit.max(1),
            cores,
        }))
    }

    fn submit(&self, job: Job) -> Result<(), (SpawnError, Job)> {
        let mut state = self.0.lock();
        if state.closed {
            return Err((SpawnError::ShuttingDown, job));
        }
        if state.queue.len() >= QUEUE {
            return Err((SpawnError::BlockingQueueFull, job));
        }
        state.queue.push_back(job);
        if state.idle >= state.queue.len() {
            self.0.work.notify_one();
        } else if state.threads < self.0.limit {
            let inner = self.0.clone();
            let spawned =
                thread::Builder::new().name("throng-blocking".into()).spawn(move || inner.work());
            match spawned {
                Ok(_) => state.threads += 1,
                // With no thread at all the job would wait for ever.
                Err(error) if state.threads == 0 => {
                    tracing::error!("no thread for the blocking pool: {error}");
                    if let Some(job) = state.queue.pop_back() {
                        return Err((SpawnError::BlockingQueueFull, job));
                    }
                }
                Err(error) => tracing::warn!("no further thread for the blocking pool: {error}"),
            }
        }
        Ok(())
    }

    /// Cancels the jobs that wait and lets the threads go, waiting for them a while.
    pub(crate) fn close(&self) {
        let mut state = self.0.lock();
        state.closed = true;
        let waiting = std::mem::take(&mut state.queue);
        drop(state);
        drop(waiting);
        self.0.work.notify_all();
        let end = Instant::now() + PATIENCE;
        let mut state = self.0.lock();
        while state.threads > 0 {
            let Some(rest) = end.checked_duration_since(Instant::now()) else {
                tracing::warn!(threads = state.threads, "blocking jobs outlive the runtime");
                return;
            };
            state = self.0.left.wait_timeout(state, rest).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A thread of the pool.
    fn work(&self) {
        if let Some(Err(error)) = self.cores.map(|cores| cores.pin()) {
            tracing::warn!("a thread of the blocking pool shares a shard's core: {error}");
        }
        let mut state = self.lock();
        loop {
            if let Some(job) = state.queue.pop_front() {
                drop(state);
                // The job catches panics of its function; what is left is the drop of an
                // output nobody waits for.
                if let Err(payload) = catch_unwind(AssertUnwindSafe(job)) {
                    discard(payload);
                }
                state = self.lock();
                continue;
            }
            if state.closed {
                break;
            }
            state.idle += 1;
            let (guard, timed_out) =
                self.work.wait_timeout(state, KEEP).unwrap_or_else(PoisonError::into_inner);
            state = guard;
            state.idle -= 1;
            if timed_out.timed_out() && state.queue.is_empty() {
                break;
            }
        }
        state.threads -= 1;
        drop(state);
        self.left.notify_all();
    }
}
