//! What hyper asks of a runtime, from ours: timers and an executor. Also [`Alarm`].

use std::pin::Pin;
use std::sync::OnceLock;
use std::task::{Context, Poll};
use std::time::Duration;

use throng_runtime::{Instant, Sleep};

/// hyper's executor: every future becomes a task of the current shard.
///
/// When the shard has no room for another task, the future is dropped: hyper resets the
/// stream it belonged to.
#[derive(Clone, Copy, Debug, Default)]
pub struct LocalExecutor;

impl<F: Future + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        if throng_runtime::try_spawn_local(future).is_err() {
            tracing::debug!("no room for a task of an HTTP connection");
        }
    }
}

/// hyper's timer, on the shard's wheel and its (possibly virtual) clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct ShardTimer;

impl hyper::rt::Timer for ShardTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn hyper::rt::Sleep>> {
        Box::pin(ShardSleep(throng_runtime::sleep(duration)))
    }

    fn sleep_until(&self, deadline: std::time::Instant) -> Pin<Box<dyn hyper::rt::Sleep>> {
        Box::pin(ShardSleep(throng_runtime::sleep_until(from_std(deadline))))
    }

    fn now(&self) -> std::time::Instant {
        origin() + Duration::from_nanos(throng_runtime::now().as_nanos())
    }

    fn reset(&self, sleep: &mut Pin<Box<dyn hyper::rt::Sleep>>, new_deadline: std::time::Instant) {
        match sleep.as_mut().downcast_mut_pin::<ShardSleep>() {
            Some(sleep) => sleep.get_mut().0.reset(from_std(new_deadline)),
            None => *sleep = self.sleep_until(new_deadline),
        }
    }
}

struct ShardSleep(Sleep);

impl Future for ShardSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.0).poll(cx)
    }
}

impl hyper::rt::Sleep for ShardSleep {}

/// What the shard clock's zero is called on hyper's side. It is a name only: no reading of
/// the machine's clock is ever compared with it.
fn origin() -> std::time::Instant {
    static ORIGIN: OnceLock<std::time::Instant> = OnceLock::new();
    *ORIGIN.get_or_init(std::time::Instant::now)
}

fn from_std(at: std::time::Instant) -> Instant {
    Instant::ZERO + at.saturating_duration_since(origin())
}

/// A deadline that is mostly put off: the timer is moved only to ring earlier, and one that
/// rings too early is set again. So a busy connection does not touch the timer wheel.
#[derive(Debug)]
pub struct Alarm(Sleep);

/// Of an alarm that is not set: every other deadline is earlier.
const NEVER: Instant = Instant::from_nanos(u64::MAX);

impl Default for Alarm {
    fn default() -> Alarm {
        Alarm(throng_runtime::sleep_until(NEVER))
    }
}

impl Alarm {
    /// Ready when `at` has been reached; else the task is woken at `at` or before it, and
    /// has to call again.
    pub fn poll_at(&mut self, at: Instant, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if at <= throng_runtime::now() {
                return Poll::Ready(());
            }
            if at < self.0.deadline() {
                self.0.reset(at);
            }
            if Pin::new(&mut self.0).poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.clear();
        }
    }

    /// Gives the timer back.
    pub fn clear(&mut self) {
        self.0.reset(NEVER);
    }
}
