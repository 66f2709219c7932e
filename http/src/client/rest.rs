//! Connections that rest in the pool without a task of their own: those that were leased.
//!
//! One keeper per client looks at all of them: once in [`LOOK`], and as soon as one that has rested
//! for so long says something, which is its end. Those that are used more often than that nobody
//! watches; who takes one looks at it first.

use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use throng_runtime::Instant;

use super::pool::{Pool, Swept};
use super::wire::Wire;
use crate::rt::Alarm;

/// How long the end of a connection that was used a moment ago may go unnoticed.
const LOOK: Duration = Duration::from_secs(1);

/// A connection between two requests.
pub(super) struct Rested {
    pub(super) wire: Wire,
    /// Requests it has carried.
    pub(super) uses: u64,
    pub(super) since: Instant,
    /// When it was looked at last, or came.
    pub(super) looked: Instant,
}

impl Rested {
    pub(super) fn new(wire: Wire, uses: u64) -> Rested {
        let now = throng_runtime::now();
        Rested { wire, uses, since: now, looked: now }
    }

    /// The connection has ended, or is to.
    pub(super) fn is_over(&mut self, pool: &Pool, now: Instant, cx: &mut Context<'_>) -> bool {
        let settings = &pool.settings;
        let old = settings.max_lifetime.is_some_and(|lifetime| self.wire.born + lifetime <= now);
        old || self.since + settings.idle_timeout <= now || self.wire.poll_over(cx).is_ready()
    }
}

/// The task that looks at a client's resting connections, as long as there are any.
pub(super) struct Keeper {
    pool: Weak<Pool>,
    alarm: Alarm,
    next: Instant,
    /// It has been polled before.
    begun: bool,
    /// When the look at all of them began that has not come to its end.
    round: Option<Instant>,
}

impl Keeper {
    /// Has one look after `pool`, unless one does. Whether there is one now.
    pub(super) fn ensure(pool: &Rc<Pool>) -> bool {
        if pool.kept.get() {
            return true;
        }
        // Outside a shard, when its tasks are dropped at the end, there is no clock.
        if throng_runtime::try_current_shard().is_none() {
            return false;
        }
        let next = throng_runtime::now() + LOOK;
        let pool_again = Rc::downgrade(pool);
        let alarm = Alarm::default();
        let keeper = Keeper { pool: pool_again, alarm, next, begun: false, round: None };
        let spawned = throng_runtime::try_spawn_local(keeper);
        pool.kept.set(spawned.is_ok());
        spawned.map(throng_runtime::JoinHandle::detach).is_ok()
    }
}

impl Future for Keeper {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let Some(pool) = this.pool.upgrade() else { return Poll::Ready(()) };
        let now = throng_runtime::now();
        // Early, it is woken by one that it has looked at before, which has something to say.
        if std::mem::replace(&mut this.begun, true) {
            let round = *this.round.get_or_insert(now);
            match pool.sweep(round, now, cx) {
                Swept::None => return Poll::Ready(()),
                Swept::All => this.round = None,
                Swept::Some => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
            }
        }
        if this.next <= now {
            this.next = now + LOOK;
        }
        this.alarm.poll_at(this.next, cx)
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.upgrade() {
            pool.kept.set(false);
        }
    }
}
