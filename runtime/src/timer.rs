//! Sleep, timeout, interval: futures over the shard's timing wheel.
//!
//! Deadlines count from [`now`], the turn's reading of the clock. They are met at the
//! first turn after the deadline rounded up to a tick of 65.5 us: never early by the
//! shard's clock, and late by at most a tick and the turn in progress.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::shard;
use crate::small_waker::SmallWaker;
use crate::time::Instant;
use crate::wheel::TimerKey;

/// The shard's time, read from the clock once per turn of its loop.
///
/// # Panics
/// When the thread runs no shard.
#[track_caller]
pub fn now() -> Instant {
    shard::with(|shard| shard.now())
}

/// Waits for `duration` from [`now`] on.
///
/// # Panics
/// When the thread runs no shard.
#[track_caller]
pub fn sleep(duration: Duration) -> Sleep {
    sleep_until(now() + duration)
}

/// Waits until `deadline`; ready at once if that has passed (128 times in one poll of a
/// task; then the task is polled again behind all others).
pub fn sleep_until(deadline: Instant) -> Sleep {
    Sleep { deadline, key: None, shard: 0 }
}

/// The future of [`sleep`] and [`sleep_until`]: 16 bytes, and 24 in the shard's wheel while
/// it waits.
#[must_use = "futures do nothing unless polled"]
pub struct Sleep {
    deadline: Instant,
    /// The timer, armed or fired, in the wheel of the shard with the number `shard`
    /// (see `Arena::holder`): a sleep may be moved, and may outlive its runtime.
    key: Option<TimerKey>,
    shard: u32,
}

impl Sleep {
    /// When it ends.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Whether the shard's time has reached the deadline.
    ///
    /// # Panics
    /// When the thread runs no shard.
    pub fn is_elapsed(&self) -> bool {
        now() >= self.deadline
    }

    /// Makes it end at `deadline` instead, also after it has ended. The task must poll it
    /// again to be woken.
    pub fn reset(&mut self, deadline: Instant) {
        self.disarm();
        self.deadline = deadline;
    }

    fn disarm(&mut self) {
        let Some(key) = self.key.take() else { return };
        let waker = shard::try_with(|shard| {
            // On another shard the timer is left to fire in vain.
            if shard.arena().holder() != self.shard {
                return None;
            }
            shard.timers.borrow_mut().remove(key)
        });
        drop(waker);
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        shard::with(|shard| {
            if shard.now() >= self.deadline {
                // The shard's time stands still while a task runs: a loop of sleeps that are
                // over would never see it move.
                let Some(left) = shard.sleeps.get().checked_sub(1) else {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                };
                shard.sleeps.set(left);
                self.disarm();
                return Poll::Ready(());
            }
            let holder = shard.arena().holder();
            if let (Some(key), true) = (self.key, self.shard == holder) {
                let new = Some(SmallWaker::from(cx.waker()));
                let mut timers = shard.timers.borrow_mut();
                let old = timers.get_mut(key).map(|waker| std::mem::replace(waker, new));
                drop(timers);
                drop(old);
            } else {
                let waker = Some(SmallWaker::from(cx.waker()));
                self.key = Some(shard.timers.borrow_mut().insert(self.deadline, waker));
                self.shard = holder;
            }
            Poll::Pending
        })
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.disarm();
    }
}

impl fmt::Debug for Sleep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sleep").field("deadline", &self.deadline).finish_non_exhaustive()
    }
}

/// The time of a [`timeout`] was over first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Elapsed;

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the deadline has passed")
    }
}

impl std::error::Error for Elapsed {}

impl From<Elapsed> for io::Error {
    fn from(error: Elapsed) -> Self {
        io::Error::new(io::ErrorKind::TimedOut, error)
    }
}

/// Runs `future` for at most `duration` from [`now`] on; then drops what it has not done
/// when the `Timeout` is dropped, and gives [`Elapsed`]. A future that is ready at the
/// same time wins.
///
/// # Panics
/// When the thread runs no shard.
#[track_caller]
pub fn timeout<F: Future>(duration: Duration, future: F) -> Timeout<F> {
    timeout_at(now() + duration, future)
}

/// As [`timeout`], to a point in time.
pub fn timeout_at<F: Future>(deadline: Instant, future: F) -> Timeout<F> {
    Timeout { sleep: sleep_until(deadline), future }
}

/// The future of [`timeout`].
#[must_use = "futures do nothing unless polled"]
#[derive(Debug)]
pub struct Timeout<F> {
    sleep: Sleep,
    future: F,
}

impl<F> Timeout<F> {
    /// Gives the future back, whatever became of the time.
    pub fn into_inner(self) -> F {
        self.future
    }
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // SAFETY: `future` is pinned whenever `self` is: nothing here moves it out of a
        // pinned `self`, there is no `Drop`, and `Timeout` is `Unpin` only if `F` is.
        let (sleep, future) = unsafe {
            let this = self.get_unchecked_mut();
            (&mut this.sleep, Pin::new_unchecked(&mut this.future))
        };
        if let Poll::Ready(output) = future.poll(cx) {
            return Poll::Ready(Ok(output));
        }
        Pin::new(sleep).poll(cx).map(|()| Err(Elapsed))
    }
}

/// Ticks every `period`, the first time at once.
///
/// # Panics
/// When `period` is zero, or the thread runs no shard.
#[track_caller]
pub fn interval(period: Duration) -> Interval {
    interval_at(now(), period)
}

/// Ticks every `period`, the first time at `start`.
///
/// # Panics
/// When `period` is zero.
#[track_caller]
pub fn interval_at(start: Instant, period: Duration) -> Interval {
    assert!(!period.is_zero(), "an interval needs a period");
    Interval { sleep: sleep_until(start), period }
}

/// A clock of ticks; see [`interval`]. Ticks that were missed are skipped: the next one is
/// the first multiple of the period in the future.
#[derive(Debug)]
pub struct Interval {
    sleep: Sleep,
    period: Duration,
}

impl Interval {
    /// Waits for the next tick and returns the time it was due.
    pub async fn tick(&mut self) -> Instant {
        std::future::poll_fn(|cx| self.poll_tick(cx)).await
    }

    /// As [`tick`](Self::tick), for hand-written futures.
    pub fn poll_tick(&mut self, cx: &mut Context<'_>) -> Poll<Instant> {
        if Pin::new(&mut self.sleep).poll(cx).is_pending() {
            return Poll::Pending;
        }
        let due = self.sleep.deadline();
        let period = u64::try_from(self.period.as_nanos()).unwrap_or(u64::MAX);
        let behind = now().saturating_since(due).as_nanos() as u64 / period;
        let ahead = period.saturating_mul(behind.saturating_add(1));
        self.sleep.reset(due + Duration::from_nanos(ahead));
        Poll::Ready(due)
    }

    /// Makes the next tick come a full period from [`now`].
    pub fn reset(&mut self) {
        self.sleep.reset(now() + self.period);
    }

    /// The time between ticks.
    pub fn period(&self) -> Duration {
        self.period
    }
}
