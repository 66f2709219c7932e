//! Spawning tasks on the running shard, and handles to their ends.

use std::fmt;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::error::{JoinError, SpawnError};
use crate::shard::{self, Joined, Shard};

/// Starts a task on this shard. It never leaves the shard, so it need not be `Send`.
///
/// Dropping the handle lets the task run on. At a limit (see [`try_spawn_local`]) the
/// future is dropped and the handle gives [`JoinError::refusal`].
///
/// # Panics
/// When the thread runs no shard.
#[track_caller]
pub fn spawn_local<F: Future + 'static>(future: F) -> JoinHandle<F::Output> {
    spawn_in(&shard::current(), future).unwrap_or_else(|(shard, error)| {
        tracing::warn!(shard = shard.id.0, "a task was not started: {error}");
        JoinHandle { shard, of: Of::Refused(error), output: PhantomData }
    })
}

/// As [`spawn_local`], with an error when the shard holds
/// [`Config::max_tasks`](crate::Config::max_tasks) tasks or is shutting down.
///
/// # Panics
/// When the thread runs no shard.
#[track_caller]
pub fn try_spawn_local<F: Future + 'static>(
    future: F,
) -> Result<JoinHandle<F::Output>, SpawnError> {
    spawn_in(&shard::current(), future).map_err(|(_, error)| error)
}

pub(crate) fn spawn_in<F: Future + 'static>(
    shard: &Rc<Shard>,
    future: F,
) -> Result<JoinHandle<F::Output>, (Rc<Shard>, SpawnError)> {
    match shard.spawn(future) {
        Ok(index) => {
            let of = Of::Task { index, cancel: false };
            Ok(JoinHandle { shard: shard.clone(), of, output: PhantomData })
        }
        Err((error, _)) => Err((shard.clone(), error)),
    }
}

/// The end of a task: a future of its output.
///
/// Dropping it detaches the task, unless [`cancel_on_drop`](Self::cancel_on_drop) was
/// called.
pub struct JoinHandle<T> {
    shard: Rc<Shard>,
    of: Of,
    output: PhantomData<T>,
}

/// What a handle is about. With the shard it makes a handle of 16 bytes.
#[derive(Clone, Copy)]
enum Of {
    /// A task, and whether to abort it when the handle is dropped.
    Task { index: u32, cancel: bool },
    /// A task that was never started.
    Refused(SpawnError),
    /// A task whose result has been given.
    Nothing,
}

const _: () = assert!(size_of::<JoinHandle<String>>() == 16);

impl<T> JoinHandle<T> {
    /// Asks for the end of the task: its future is dropped by its shard in the next turn,
    /// and the handle gives a cancelled [`JoinError`], unless the task ends before.
    pub fn abort(&self) {
        if let Of::Task { index, .. } = self.of {
            self.shard.abort(index);
        }
    }

    /// From now on dropping the handle aborts the task.
    pub fn cancel_on_drop(mut self) -> Self {
        if let Of::Task { cancel, .. } = &mut self.of {
            *cancel = true;
        }
        self
    }

    /// Whether the task has ended, in whatever way.
    pub fn is_finished(&self) -> bool {
        match self.of {
            Of::Task { index, .. } => self.shard.is_finished(index),
            Of::Refused(_) | Of::Nothing => true,
        }
    }

    /// Lets the task run on by itself.
    pub fn detach(mut self) {
        if let Of::Task { cancel, .. } = &mut self.of {
            *cancel = false;
        }
    }
}

impl<T> Unpin for JoinHandle<T> {}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let index = match self.of {
            Of::Task { index, .. } => index,
            Of::Refused(error) => {
                self.of = Of::Nothing;
                return Poll::Ready(Err(JoinError::refused(error)));
            }
            Of::Nothing => panic!("a JoinHandle was polled after it gave its result"),
        };
        let joined = self.shard.join(index, cx);
        if matches!(joined, Joined::Pending) {
            return Poll::Pending;
        }
        self.of = Of::Nothing;
        Poll::Ready(match joined {
            Joined::Output(task) => {
                let mut output = MaybeUninit::<T>::uninit();
                // SAFETY: `join` gave us the memory with the output in it, whose type is
                // `T`, since the handle was made for this task by `spawn_in`.
                Ok(unsafe {
                    ((*task).table.take_output)(task, output.as_mut_ptr().cast());
                    ((*task).table.deallocate)(task);
                    output.assume_init()
                })
            }
            Joined::Panicked(payload) => Err(JoinError::panicked(payload)),
            Joined::Cancelled | Joined::Pending => Err(JoinError::cancelled()),
        })
    }
}

impl<T> Drop for JoinHandle<T> {
    fn drop(&mut self) {
        if let Of::Task { index, cancel } = self.of {
            if cancel {
                self.shard.abort(index);
            }
            self.shard.detach(index);
        }
    }
}

impl<T> fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinHandle").field("finished", &self.is_finished()).finish_non_exhaustive()
    }
}
