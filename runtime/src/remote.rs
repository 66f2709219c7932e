//! Tasks on other shards, and the handle that brings their output back.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::config::ShardId;
use crate::error::{JoinError, SpawnError};
use crate::shard;

/// Has shard `shard` (this one included) make a future by `f` and run it as a task.
///
/// Dropping the handle lets the task run on. When it cannot be started (no such shard, its
/// inbox or its task table full) the handle gives [`JoinError::refusal`].
///
/// # Panics
/// When the thread runs no shard.
#[track_caller]
pub fn spawn_on<F, Fut>(shard: ShardId, f: F) -> RemoteHandle<Fut::Output>
where
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future + 'static,
    Fut::Output: Send + 'static,
{
    let (completion, handle) = completion();
    shard::with(|here| {
        let Some(arena) = here.group.arena(shard) else {
            here.counters.refused.add(1);
            handle.shared.complete(Err(JoinError::refused(SpawnError::NoSuchShard)));
            return;
        };
        let message = Box::new(move || start(f, completion));
        let sent = here.port.borrow_mut().try_send(shard, message);
        match sent {
            Ok(()) => arena.unpark(),
            Err(message) => {
                here.counters.refused.add(1);
                handle.shared.complete(Err(JoinError::refused(SpawnError::InboxFull)));
                drop(message);
            }
        }
    });
    handle
}

/// On the receiving shard.
fn start<F, Fut>(f: F, completion: Completion<Fut::Output>)
where
    F: FnOnce() -> Fut,
    Fut: Future + 'static,
    Fut::Output: Send + 'static,
{
    let future = match catch_unwind(AssertUnwindSafe(f)) {
        Ok(future) => future,
        Err(payload) => return completion.set_panic(payload),
    };
    // On a refusal the future is dropped, and its completion would say "cancelled".
    let shared = completion.0.clone();
    match shard::with(|shard| shard.spawn(RemoteTask { future, completion })) {
        Ok(task) => shard::with(|shard| shard.detach(task)),
        Err((error, task)) => {
            shared.complete(Err(JoinError::refused(error)));
            drop(task);
        }
    }
}

struct Shared<T>(Mutex<State<T>>);

struct State<T> {
    result: Option<Result<T, JoinError>>,
    complete: bool,
    aborted: bool,
    /// Who waits for the result.
    waiter: Option<Waker>,
    /// The task, for an abort.
    task: Option<Waker>,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the result unless there is one.
    fn complete(&self, result: Result<T, JoinError>) {
        let mut state = self.lock();
        if state.complete {
            drop(state);
            drop(result);
            return;
        }
        state.complete = true;
        state.result = Some(result);
        let waiter = state.waiter.take();
        drop(state);
        if let Some(waiter) = waiter {
            waiter.wake();
        }
    }
}

/// The producing end of a result; dropped without one it means "cancelled".
pub(crate) struct Completion<T>(Arc<Shared<T>>);

impl<T> Completion<T> {
    pub(crate) fn set(&self, result: Result<T, JoinError>) {
        self.0.complete(result);
    }

    /// As [`set`](Self::set), for a task of the current shard that panicked.
    fn set_panic(&self, payload: Box<dyn Any + Send>) {
        shard::with(|shard| shard.report(&*payload));
        self.set(Err(JoinError::panicked(payload)));
    }
}

impl<T> Drop for Completion<T> {
    fn drop(&mut self) {
        self.0.complete(Err(JoinError::cancelled()));
    }
}

/// A result to come, and its handle.
pub(crate) fn completion<T>() -> (Completion<T>, RemoteHandle<T>) {
    let shared = Arc::new(Shared(Mutex::new(State {
        result: None,
        complete: false,
        aborted: false,
        waiter: None,
        task: None,
    })));
    (Completion(shared.clone()), RemoteHandle { shared })
}

struct RemoteTask<F: Future> {
    future: F,
    completion: Completion<F::Output>,
}

impl<F: Future> Future for RemoteTask<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // SAFETY: `future` is pinned with `self`: it is never moved out, there is no `Drop`
        // on this type, and it is `Unpin` only if `F` is. `completion` is not pinned.
        let (future, completion) = unsafe {
            let this = self.get_unchecked_mut();
            (Pin::new_unchecked(&mut this.future), &this.completion)
        };
        let mut state = completion.0.lock();
        if state.aborted {
            return Poll::Ready(());
        }
        if state.task.is_none() {
            state.task = Some(cx.waker().clone());
        }
        drop(state);
        match catch_unwind(AssertUnwindSafe(|| future.poll(cx))) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(output)) => completion.set(Ok(output)),
            Err(payload) => completion.set_panic(payload),
        }
        Poll::Ready(())
    }
}

/// The end of a task on another shard or of a job on the blocking pool: a future of its
/// output, which may be awaited anywhere. Dropping it lets the work go on.
pub struct RemoteHandle<T> {
    shared: Arc<Shared<T>>,
}

impl<T> RemoteHandle<T> {
    /// Asks for the end of the task, which then gives a cancelled [`JoinError`] unless it
    /// ends before. A job on the blocking pool that has started is not stopped.
    pub fn abort(&self) {
        let mut state = self.shared.lock();
        state.aborted = true;
        let task = state.task.take();
        drop(state);
        if let Some(task) = task {
            task.wake();
        }
    }

    /// Whether the result is there.
    pub fn is_finished(&self) -> bool {
        self.shared.lock().complete
    }

    pub(crate) fn refuse(&self, error: SpawnError) {
        self.shared.complete(Err(JoinError::refused(error)));
    }

    pub(crate) fn is_aborted(completion: &Completion<T>) -> bool {
        completion.0.lock().aborted
    }
}

impl<T> Future for RemoteHandle<T> {
    type Output = Result<T, JoinError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.shared.lock();
        if let Some(result) = state.result.take() {
            return Poll::Ready(result);
        }
        assert!(!state.complete, "a RemoteHandle was polled after it gave its result");
        let old = match &state.waiter {
            Some(waiter) if waiter.will_wake(cx.waker()) => None,
            _ => state.waiter.replace(cx.waker().clone()),
        };
        drop(state);
        drop(old);
        Poll::Pending
    }
}

impl<T> fmt::Debug for RemoteHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteHandle")
            .field("finished", &self.is_finished())
            .finish_non_exhaustive()
    }
}
