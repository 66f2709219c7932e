//! The cooperative budget: how much a task may do in one poll.
//!
//! A stream that always has data would let its task run for ever. So whatever can be
//! ready over and over asks [`poll_proceed`] first: after 128 goes in one poll it says
//! `Pending` and has the task polled again behind all others.

use std::pin::Pin;
use std::task::{Context, Poll};

use crate::shard;

/// Goes in one poll of a task.
pub(crate) const BUDGET: u32 = 128;

/// Takes one go from the running task's budget. `Pending` when it is used up: the task
/// has been woken and is to return; it comes back with a new budget. On threads without a
/// shard it is always ready.
#[inline]
pub fn poll_proceed(cx: &mut Context<'_>) -> Poll<()> {
    let proceed = shard::try_with(|shard| match shard.budget.get() {
        0 => false,
        left => {
            shard.budget.set(left - 1);
            true
        }
    });
    if proceed.unwrap_or(true) {
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
