//! The cooperative budget: how much a task may do in one poll.
//!
//! A stream that always has data would let its task run for ever. So whatever can be
//! ready over and over asks [`poll_proceed`] first: after 128 goes in one poll it says
//! `Pending` and has the task polled again behind all others.

use std::cell::Cell;
use std::pin::Pin;
use std::task::{Context, Poll};

/// Goes in one poll of a task.
const BUDGET: u32 = 128;

thread_local! {
    static LEFT: Cell<u32> = const { Cell::new(BUDGET) };
}

pub(crate) fn refill() {
    LEFT.set(BUDGET);
}

/// Takes one go from the running task's budget. `Pending` when it is used up: the task
/// has been woken and is to return; it comes back with a new budget. On threads without a
/// shard it is always ready.
#[inline]
pub fn poll_proceed(cx: &mut Context<'_>) -> Poll<()> {
    let left = LEFT.get();
    if left > 0 {
        LEFT.set(left - 1);
        return Poll::Ready(());
    }
    if crate::shard::try_with(|_| ()).is_none() {
        return Poll::Ready(());
    }
    cx.waker().wake_by_ref();
    Poll::Pending
}

/// Takes one go from the running task's budget, and yields when it is used up.
pub async fn consume_budget() {
    std::future::poll_fn(poll_proceed).await;
}

/// Lets all other ready tasks run, then goes on.
pub fn yield_now() -> YieldNow {
    YieldNow(false)
}

/// The future of [`yield_now`].
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct YieldNow(bool);

impl Future for YieldNow {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.0, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
