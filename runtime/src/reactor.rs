//! One turn of a shard's loop.
//!
//! The stages come in this order, and each has a budget:
//!
//! 1. *inbox*: wakes and spawns from other cores. First, so that what other cores waited
//!    for is in the ready queue together with what the network brings; and a shard under
//!    heavy traffic still hears them, one turn later at most.
//! 2. *receive*: one burst from the driver. Packets come before timers, so that an
//!    acknowledgement that lies in the ring cancels the retransmission it was late for.
//! 3. *timers*: the wheel moves to `now`, then the driver's own timers. Before tasks, so
//!    that a task sees its timeout and its data in the same poll.
//! 4. *tasks*: the ready queue. After everything that wakes tasks, so that one poll sees
//!    all news at once, and before transmit, so that all it wrote leaves together: an
//!    answer leaves in the turn in which the question came, its acknowledgement with it.
//! 5. *transmit*: the driver sends what is queued, as one burst.
//! 6. *idle*: only when no stage found anything; see `run`.
//!
//! `now` is read once, before the first stage, and passed down: nothing below reads a
//! clock, so all of a turn happens at one time and a simulation can turn it by hand.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use crate::driver::Driver;
use crate::error::discard;
use crate::shard::Shard;
use crate::stages::Stage;
use crate::task_memory;
use crate::time::Instant;

/// Most remote wakes taken in a turn.
const WAKES: usize = 1024;
/// Most spawns from other shards taken in a turn.
const SPAWNS: usize = 64;
/// Most timers touched in a turn.
const TIMERS: usize = 1024;
/// Most turns of the driver after the tasks are gone, so that what their ends queued
/// leaves.
const FLUSH: usize = 64;

/// A shard and its driver.
pub(crate) struct Reactor {
    pub(crate) shard: Rc<Shard>,
    driver: Option<Box<dyn Driver>>,
    task_budget: usize,
}

impl Reactor {
    pub(crate) fn new(shard: Rc<Shard>, driver: Box<dyn Driver>, task_budget: usize) -> Reactor {
        Reactor { shard, driver: Some(driver), task_budget: task_budget.max(1) }
    }

    /// Runs every stage once. Returns whether any found something to do. The shard must be
    /// the current one of the thread.
    pub(crate) fn turn(&mut self, now: Instant) -> bool {
        if self.shard.stages.is_on() {
            let shard = self.shard.clone();
            let mut watch = shard.stages.begin();
            let busy = self.turn_in_stages(now, |stage| watch.lap(stage));
            watch.end(busy);
            return busy;
        }
        self.turn_in_stages(now, |_| {})
    }

    /// A turn; `over` is called after each stage.
    #[inline]
    fn turn_in_stages(&mut self, now: Instant, mut over: impl FnMut(Stage)) -> bool {
        let shard = &*self.shard;
        shard.set_now(now);
        shard.counters.turns.add(1);
        let mut busy = inbox(shard);
        over(Stage::Inbox);
        if let Some(driver) = &mut self.driver {
            busy |= driver.receive(now);
        }
        over(Stage::Receive);
        busy |= shard.run_timers(now, TIMERS);
        over(Stage::Timers);
        if let Some(driver) = &mut self.driver {
            busy |= driver.advance(now);
        }
        over(Stage::Advance);
        busy |= shard.run_tasks(self.task_budget) > 0;
        over(Stage::Tasks);
        if let Some(driver) = &mut self.driver {
            busy |= driver.transmit(now);
        }
        over(Stage::Transmit);
        busy | shard.has_ready()
    }

    /// When the next turn has work, if nothing comes before.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let timers = self.shard.timers.borrow().next_deadline();
        let driver = self.driver.as_ref().and_then(|driver| driver.next_deadline());
        match (timers, driver) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Sleeps until something comes, at most to the next deadline.
    pub(crate) fn park(&mut self, now: Instant) {
        let timeout = self.next_deadline().map(|deadline| deadline.saturating_since(now));
        if timeout == Some(Duration::ZERO) {
            return;
        }
        let arena = self.shard.arena();
        let (Some(driver), Ok(event)) = (&mut self.driver, arena.event()) else { return };
        self.shard.counters.parks.add(1);
        driver.park(event, timeout);
        arena.drain_event();
    }

    /// Drops all tasks, lets the driver send what that queued, and drops it and the shard's
    /// local value.
    pub(crate) fn shut_down(&mut self, clock: impl FnMut() -> Instant) {
        self.end(FLUSH, clock);
    }

    /// As [`shut_down`](Self::shut_down), but the driver is not called again.
    pub(crate) fn abandon(&mut self) {
        let now = self.shard.now();
        self.end(0, || now);
    }

    fn end(&mut self, turns: usize, mut clock: impl FnMut() -> Instant) {
        let Some(mut driver) = self.driver.take() else { return };
        self.shard.shut_down();
        let _entered = self.shard.enter();
        for _ in 0..turns {
            let now = clock();
            self.shard.set_now(now);
            let busy = driver.receive(now) | driver.advance(now) | driver.transmit(now);
            if !busy {
                break;
            }
        }
        drop(driver);
        // It may hold handles of the shard, which would keep each other alive.
        let local = self.shard.local.take();
        drop(local);
        task_memory::trim();
    }
}

impl Drop for Reactor {
    fn drop(&mut self) {
        if thread::panicking() {
            // Most likely it was the driver that panicked. Called again it would do so again,
            // and a second panic on the way out ends the process.
            return self.abandon();
        }
        let now = self.shard.now();
        self.shut_down(|| now);
    }
}

// In line, as the stages below: there are two kinds of turns to call them.
#[inline(always)]
fn inbox(shard: &Shard) -> bool {
    let mut taken = 0;
    if !shard.signal_waiters.borrow().is_empty() && shard.has_news() {
        for waiter in shard.signal_waiters.take().into_values() {
            waiter.wake();
            taken += 1;
        }
    }
    let wakes = shard.take_remote_wakes(WAKES);
    if wakes > 0 {
        shard.counters.remote_wakes.add(wakes as u64);
        taken += wakes;
    }
    for _ in 0..SPAWNS {
        let Some(spawn) = ({ shard.port.borrow_mut().try_recv() }) else { break };
        taken += 1;
        if let Err(payload) = catch_unwind(AssertUnwindSafe(spawn)) {
            shard.report(&*payload);
            discard(payload);
        }
    }
    taken > 0
}
