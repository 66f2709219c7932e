//! Why a task was not started or gave no output.

use std::any::Any;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

/// Why a task was not started: a limit was reached, or the shard is going away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum SpawnError {
    /// The shard holds [`Config::max_tasks`](crate::Config::max_tasks) tasks.
    TooManyTasks,
    /// The ring to that shard is full ([`Config::inbox_capacity`](crate::Config::inbox_capacity)).
    InboxFull,
    /// The queue of the blocking pool is full.
    BlockingQueueFull,
    /// The runtime has no such shard.
    NoSuchShard,
    /// The shard is shutting down.
    ShuttingDown,
}

impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SpawnError::TooManyTasks => "the shard's task limit (max_tasks) is reached",
            SpawnError::InboxFull => "the inbox of that shard is full (inbox_capacity)",
            SpawnError::BlockingQueueFull => "the queue of the blocking pool is full",
            SpawnError::NoSuchShard => "there is no such shard",
            SpawnError::ShuttingDown => "the shard is shutting down",
        })
    }
}

impl std::error::Error for SpawnError {}

impl From<SpawnError> for io::Error {
    fn from(error: SpawnError) -> Self {
        io::Error::other(error)
    }
}

/// Why a task gave no output.
pub struct JoinError(Reason);

enum Reason {
    Cancelled,
    Refused(SpawnError),
    /// The mutex only makes the payload `Sync`.
    Panicked(Mutex<Box<dyn Any + Send>>),
}

impl JoinError {
    pub(crate) fn cancelled() -> Self {
        JoinError(Reason::Cancelled)
    }

    pub(crate) fn refused(why: SpawnError) -> Self {
        JoinError(Reason::Refused(why))
    }

    pub(crate) fn panicked(payload: Box<dyn Any + Send>) -> Self {
        JoinError(Reason::Panicked(Mutex::new(payload)))
    }

    /// Whether the task was aborted, or its shard went away.
    pub fn is_cancelled(&self) -> bool {
        matches!(self.0, Reason::Cancelled)
    }

    /// Whether the task panicked.
    pub fn is_panic(&self) -> bool {
        matches!(self.0, Reason::Panicked(_))
    }

    /// Why the task was never started, if that is what happened.
    pub fn refusal(&self) -> Option<SpawnError> {
        match self.0 {
            Reason::Refused(why) => Some(why),
            _ => None,
        }
    }

    /// What the task panicked with, to pass to [`std::panic::resume_unwind`]; otherwise
    /// the error itself again.
    pub fn try_into_panic(self) -> Result<Box<dyn Any + Send>, JoinError> {
        match self.0 {
            Reason::Panicked(payload) => {
                Ok(payload.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()))
            }
            other => Err(JoinError(other)),
        }
    }
}

/// The text of a panic, if it has one.
pub(crate) fn panic_text(payload: &(dyn Any + Send)) -> &str {
    if let Some(text) = payload.downcast_ref::<&str>() {
        text
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text
    } else {
        "(no text)"
    }
}

/// Drops what a task panicked with, contained like the panic itself: it may panic again.
pub(crate) fn discard(payload: Box<dyn Any + Send>) {
    if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        // There must be an end to it.
        std::mem::forget(again);
    }
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Reason::Cancelled => f.write_str("the task was cancelled"),
            Reason::Refused(why) => write!(f, "the task was not started: {why}"),
            Reason::Panicked(payload) => {
                let payload = payload.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                write!(f, "the task panicked: {}", panic_text(&**payload))
            }
        }
    }
}

impl fmt::Debug for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinError({self})")
    }
}

impl std::error::Error for JoinError {}

impl From<JoinError> for io::Error {
    fn from(error: JoinError) -> Self {
        io::Error::other(error)
    }
}
