//! A shard: its tasks, ready queue and timers, and the thread-local that says which shard
//! the running code belongs to.
//!
//! Everything here is single-threaded. No borrow of a cell is held while code of a user
//! runs (a poll, a drop, a foreign waker), so that code may call back in.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::arena::{ABORT, ALIVE, Arena, DONE, HANDLE, QUEUED, Slot, TaskId, WAITER, generation};
use crate::config::ShardId;
use crate::coop;
use crate::error::{SpawnError, discard, panic_text};
use crate::group::{Group, Lease};
use crate::inbound::Chain;
use crate::mesh::Port;
use crate::prefetch::prefetch;
use crate::ready::{BATCH, ReadyQueue};
use crate::small_waker::SmallWaker;
use crate::stages::Stages;
use crate::stats::{Counters, Stats};
use crate::task::{self, Header};
use crate::time::Instant;
use crate::waker::waker;
use crate::wheel::TimerWheel;

thread_local! {
    static CURRENT: Cell<*const Shard> = const { Cell::new(ptr::null()) };
}

/// A spawn from another shard, to be run on the receiving one.
pub(crate) type Envelope = Box<dyn FnOnce() + Send>;

/// Rounds of the ready queue in one turn, so that a task woken by another runs in the same
/// turn, while one that keeps waking itself runs this often at most.
const ROUNDS: usize = 4;

/// How long a turn polls tasks, when there are many: handshakes take ten microseconds each, and
/// what has come for the others must not wait for hundreds of them.
const SLICE: Duration = Duration::from_micros(300);
/// Polls of a turn that it does not cut: more than a burst of the network wakes, so that tasks
/// do not fall behind what arrives.
const UNCUT: usize = 3 * BATCH;

/// What few tasks need and only for a while.
#[derive(Default)]
struct Extra {
    waiter: Option<Waker>,
    panic: Option<Box<dyn Any + Send>>,
}

pub(crate) struct Shard {
    lease: Lease,
    pub(crate) id: ShardId,
    pub(crate) group: Arc<Group>,
    now: Cell<Instant>,
    ready: RefCell<ReadyQueue>,
    /// What is left of the running task's cooperative budget.
    pub(crate) budget: Cell<u32>,
    /// How many more sleeps may be over in this poll. They have a budget of their own: a
    /// deadline beside a busy stream must not wait for the stream to leave some.
    pub(crate) sleeps: Cell<u32>,
    /// Remote wakes taken from the list and not yet looked at.
    chain: Cell<Chain>,
    pub(crate) timers: RefCell<TimerWheel<Option<SmallWaker>>>,
    fired: RefCell<Vec<SmallWaker>>,
    extras: RefCell<HashMap<u32, Extra, BuildHasherDefault<IndexHasher>>>,
    pub(crate) port: RefCell<Port<Envelope>>,
    /// Who waits for a signal, by the numbers of `signal::Waiter`.
    pub(crate) signal_waiters: RefCell<BTreeMap<u64, Waker>>,
    /// The group's news of signals that they have been told of.
    signal_news: Cell<(bool, u32)>,
    closing: Cell<bool>,
    /// See the module `local`.
    pub(crate) local: RefCell<Option<Rc<dyn Any>>>,
    pub(crate) counters: Counters,
    pub(crate) stages: Stages,
}

/// How a task ended.
enum End {
    Output,
    Nothing,
    Panic(Box<dyn Any + Send>),
}

/// What a join handle finds.
pub(crate) enum Joined {
    Pending,
    /// The task's memory, which holds its output; the caller takes it and deallocates.
    Output(*mut Header),
    Cancelled,
    Panicked(Box<dyn Any + Send>),
}

impl Shard {
    pub(crate) fn new(
        lease: Lease,
        id: ShardId,
        group: Arc<Group>,
        port: Port<Envelope>,
    ) -> Rc<Shard> {
        Rc::new(Shard {
            lease,
            id,
            group,
            now: Cell::new(Instant::ZERO),
            ready: RefCell::new(ReadyQueue::new()),
            budget: Cell::new(coop::BUDGET),
            sleeps: Cell::new(coop::BUDGET),
            chain: Cell::new(Chain::default()),
            timers: RefCell::new(TimerWheel::new()),
            fired: RefCell::new(Vec::new()),
            extras: RefCell::new(HashMap::default()),
            port: RefCell::new(port),
            signal_waiters: RefCell::new(BTreeMap::new()),
            signal_news: Cell::new((false, crate::signal::all())),
            closing: Cell::new(false),
            local: RefCell::new(None),
            counters: Counters::default(),
            stages: Stages::default(),
        })
    }

    pub(crate) fn arena(&self) -> &'static Arena {
        self.lease.arena()
    }

    pub(crate) fn now(&self) -> Instant {
        self.now.get()
    }

    pub(crate) fn set_now(&self, now: Instant) {
        self.now.set(now);
    }

    /// Makes this the current shard of the thread until the guard goes.
    pub(crate) fn enter(self: &Rc<Self>) -> Entered<'_> {
        Entered { previous: CURRENT.replace(Rc::as_ptr(self)), _shard: self }
    }

    /// Starts a task, or gives the future back. The slot stays the task's until the join
    /// handle, which the caller makes of the slot's number, joins or detaches.
    pub(crate) fn spawn<F: Future + 'static>(&self, future: F) -> Result<u32, (SpawnError, F)> {
        let index = match self.reserve() {
            Ok(index) => index,
            Err(error) => return Err((error, future)),
        };
        let arena = self.arena();
        arena.set_task(index, task::allocate(future));
        let slot = arena.slot(index);
        slot.set_state(slot.state() | ALIVE | HANDLE | QUEUED);
        self.ready.borrow_mut().push(index);
        Ok(index)
    }

    fn reserve(&self) -> Result<u32, SpawnError> {
        let counters = &self.counters;
        let result = if self.closing.get() {
            Err(SpawnError::ShuttingDown)
        } else if counters.tasks.get() >= self.group.max_tasks {
            Err(SpawnError::TooManyTasks)
        } else {
            self.arena().take_slot().ok_or(SpawnError::TooManyTasks)
        };
        if result.is_ok() {
            counters.tasks.add(1);
            counters.spawned.add(1);
        } else {
            counters.refused.add(1);
        }
        result
    }

    /// A task is over in every way. Its slot is vacant from here on, or if it is in the
    /// ready queue, when it comes out: so a slot is in the queue at most once.
    fn free(&self, index: u32) {
        self.counters.tasks.sub(1);
        let slot = self.arena().slot(index);
        if slot.state() & QUEUED == 0 {
            self.arena().free_slot(index);
        } else {
            slot.set_state(slot.state() & !(ALIVE | HANDLE | DONE));
        }
    }

    /// Notes that a slot has come out of the ready queue; returns its state.
    #[inline]
    fn unqueue(&self, index: u32, slot: &Slot) -> u32 {
        let state = slot.state() & !QUEUED;
        slot.set_state(state);
        if state & (ALIVE | HANDLE | DONE) == 0 {
            self.arena().free_slot(index);
        }
        state
    }

    /// Puts a task in the ready queue unless it is there or has ended.
    #[inline]
    fn schedule(&self, index: u32, slot: &Slot) {
        let state = slot.state();
        if state & (ALIVE | QUEUED) == ALIVE {
            slot.set_state(state | QUEUED);
            self.ready.borrow_mut().push(index);
        }
    }

    /// Asks for the end of a task: its future is dropped when its turn comes.
    pub(crate) fn abort(&self, index: u32) {
        let slot = self.arena().slot(index);
        if slot.state() & ALIVE != 0 {
            slot.set_state(slot.state() | ABORT);
            self.schedule(index, slot);
        }
    }

    pub(crate) fn is_finished(&self, index: u32) -> bool {
        self.arena().slot(index).state() & ALIVE == 0
    }

    /// A join handle asks for the result. Anything but `Pending` ends the handle.
    pub(crate) fn join(&self, index: u32, cx: &Context<'_>) -> Joined {
        let slot = self.arena().slot(index);
        let state = slot.state();
        if state & DONE == 0 {
            let waker = cx.waker().clone();
            let mut extras = self.extras.borrow_mut();
            let old = extras.entry(index).or_default().waiter.replace(waker);
            drop(extras);
            slot.set_state(slot.state() | WAITER);
            drop(old);
            return Joined::Pending;
        }
        let task = self.arena().task(index);
        let extra = self.extras.borrow_mut().remove(&index);
        self.free(index);
        match extra.and_then(|extra| extra.panic) {
            Some(payload) => Joined::Panicked(payload),
            None if task.is_null() => Joined::Cancelled,
            None => Joined::Output(task),
        }
    }

    /// A join handle goes away without a result.
    pub(crate) fn detach(&self, index: u32) {
        let slot = self.arena().slot(index);
        let state = slot.state();
        let extra = if state & (WAITER | DONE) != 0 {
            self.extras.borrow_mut().remove(&index)
        } else {
            None
        };
        if state & DONE == 0 {
            slot.set_state(state & !(HANDLE | WAITER));
        } else {
            let task = self.arena().task(index);
            self.free(index);
            if !task.is_null() {
                // SAFETY: a task that is DONE with memory holds its output, and nobody else
                // knows the memory now that the slot is free.
                unsafe { drop_output(task) };
            }
        }
        drop(extra);
    }

    /// Stage: takes wakes from other threads, at most `budget`. Returns how many.
    #[inline(always)]
    pub(crate) fn take_remote_wakes(&self, budget: usize) -> usize {
        let mut chain = self.chain.get();
        if chain.is_empty() && self.arena().wakes().is_empty() {
            self.arena().shrink();
            return 0;
        }
        let mut taken = 0;
        while taken < budget {
            if chain.is_empty() {
                chain = self.arena().wakes().take();
            }
            let Some(index) = chain.pop(|index| &self.arena().slot(index).link) else { break };
            self.schedule(index, self.arena().slot(index));
            taken += 1;
        }
        if chain.is_empty() {
            self.arena().shrink();
        }
        self.chain.set(chain);
        taken
    }

    /// Stage: fires the timers that are due, touching at most `budget`. Returns whether
    /// there was anything to do.
    #[inline(always)]
    pub(crate) fn run_timers(&self, now: Instant, budget: usize) -> bool {
        let mut timers = self.timers.borrow_mut();
        if !timers.is_due(now) {
            return false;
        }
        let mut fired = self.fired.take();
        let more = timers.advance_keep(now, budget, &mut |waker| {
            fired.extend(waker.take());
        });
        drop(timers);
        let any = more || !fired.is_empty();
        for waker in fired.drain(..) {
            waker.wake();
        }
        self.fired.replace(fired);
        any
    }

    /// Stage: polls ready tasks, at most `budget`. Returns how many.
    ///
    /// In batches of three steps: fetch the slots, fetch the tasks, poll. With a million
    /// tasks neither is in the cache, and one after the other would wait for both each time.
    #[inline(always)]
    pub(crate) fn run_tasks(&self, budget: usize) -> usize {
        if !self.has_ready() {
            return 0;
        }
        let mut polls = 0;
        let mut batch = [0; BATCH];
        // When the first batch was polled; most turns have no second, and look at no clock.
        let mut begun = None;
        for _ in 0..ROUNDS {
            let mut round = self.ready.borrow().len().min(budget - polls);
            if round == 0 {
                break;
            }
            while round > 0 {
                // A virtual clock stands still during a turn.
                if polls >= BATCH && self.group.is_real() {
                    let begun = *begun.get_or_insert_with(std::time::Instant::now);
                    if polls >= UNCUT && begun.elapsed() >= SLICE {
                        return polls;
                    }
                }
                let count = self.ready.borrow_mut().pop(round, &mut batch);
                let batch = &batch[..count];
                for &index in batch {
                    prefetch(self.arena().slot(index));
                }
                for &index in batch {
                    task::prefetch(self.arena().task(index));
                }
                for &index in batch {
                    self.poll_task(index);
                }
                round -= count;
                polls += count;
            }
        }
        polls
    }

    fn poll_task(&self, index: u32) {
        let slot = self.arena().slot(index);
        let state = self.unqueue(index, slot);
        if state & (ALIVE | ABORT) != ALIVE {
            if state & ALIVE != 0 {
                self.cancel(index, slot.task());
            }
            return;
        }
        let task = slot.task();
        let waker =
            waker(TaskId { arena: self.arena().id(), index, generation: generation(state) });
        let mut cx = Context::from_waker(&waker);
        self.budget.set(coop::BUDGET);
        self.sleeps.set(coop::BUDGET);
        self.counters.polls.add(1);
        let mut gone = false;
        let polled = catch_unwind(AssertUnwindSafe(|| {
            // SAFETY: an ALIVE task has its future.
            unsafe { ((*task).table.poll)(task, &mut cx, &mut gone) }
        }));
        match polled {
            Ok(Poll::Pending) => {}
            Ok(Poll::Ready(())) => self.end(index, End::Output),
            Err(payload) => {
                if !gone {
                    // SAFETY: the future is there, and since the task ends, not polled again.
                    let dropped = catch_unwind(AssertUnwindSafe(|| unsafe {
                        ((*task).table.drop_future)(task);
                    }));
                    if let Err(again) = dropped {
                        tracing::error!(
                            shard = self.id.0,
                            "a task panicked again while it was dropped"
                        );
                        discard(again);
                    }
                }
                self.end(index, End::Panic(payload));
            }
        }
    }

    /// Drops the future of a task and ends it.
    fn cancel(&self, index: u32, task: *mut Header) {
        let slot = self.arena().slot(index);
        slot.set_state(slot.state() & !ALIVE);
        // SAFETY: the task was ALIVE, so its future is there; it is not any more.
        let dropped =
            catch_unwind(AssertUnwindSafe(|| unsafe { ((*task).table.drop_future)(task) }));
        self.end(index, dropped.map_or_else(End::Panic, |()| End::Nothing));
    }

    /// Bookkeeping for a task whose future is gone.
    fn end(&self, index: u32, end: End) {
        let arena = self.arena();
        let slot = arena.slot(index);
        let task = arena.task(index);
        let handle = slot.state() & HANDLE != 0;
        slot.set_state(slot.state() & !ALIVE);
        match end {
            End::Output if handle => {}
            End::Output => {
                self.free(index);
                // SAFETY: the output is there, and with the slot free nobody else will come
                // for it.
                let dropped = catch_unwind(AssertUnwindSafe(|| unsafe { drop_output(task) }));
                if let Err(payload) = dropped {
                    self.report(&*payload);
                    discard(payload);
                }
                return;
            }
            End::Nothing | End::Panic(_) => {
                // SAFETY: future and output are gone, and the slot forgets the memory.
                unsafe { ((*task).table.deallocate)(task) };
                arena.set_task(index, ptr::null_mut());
            }
        }
        if let End::Panic(payload) = end {
            self.report(&*payload);
            if handle {
                self.extras.borrow_mut().entry(index).or_default().panic = Some(payload);
            } else {
                discard(payload);
            }
        }
        if !handle {
            self.free(index);
            return;
        }
        let state = slot.state();
        slot.set_state((state | DONE) & !(WAITER | ABORT));
        if state & WAITER != 0 {
            let mut extras = self.extras.borrow_mut();
            let waiter = extras.get_mut(&index).and_then(|extra| extra.waiter.take());
            drop(extras);
            if let Some(waiter) = waiter {
                waiter.wake();
            }
        }
    }

    /// Counts and logs a panic of a task.
    pub(crate) fn report(&self, payload: &(dyn Any + Send)) {
        self.counters.panics.add(1);
        tracing::error!(shard = self.id.0, "a task panicked: {}", panic_text(payload));
    }

    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.borrow().is_empty()
    }

    /// Drops all tasks, on this thread and with this shard as the current one. Refuses
    /// spawns from now on.
    pub(crate) fn shut_down(self: &Rc<Self>) {
        let _entered = self.enter();
        self.closing.set(true);
        for index in self.arena().handed_out() {
            if self.arena().slot(index).state() & ALIVE != 0 {
                self.cancel(index, self.arena().task(index));
            }
        }
        // A slot left in the chain could not be woken from outside in its next life.
        while self.take_remote_wakes(usize::MAX) > 0 {}
        let mut batch = [0; BATCH];
        loop {
            let count = self.ready.borrow_mut().pop(BATCH, &mut batch);
            for &index in &batch[..count] {
                self.unqueue(index, self.arena().slot(index));
            }
            if count == 0 {
                break;
            }
        }
        let waiters = self.signal_waiters.take();
        drop(waiters);
        let timers = self.timers.take();
        drop(timers);
    }

    /// Whether who waits for signals has to look again, which this takes them to do.
    pub(crate) fn has_news(&self) -> bool {
        let news = self.group.news();
        self.signal_news.replace(news) != news
    }

    pub(crate) fn snapshot(&self) -> Stats {
        let timers = self.timers.borrow();
        self.counters.snapshot([timers.len(), timers.memory()].map(|number| number as u64))
    }
}

/// Drops a task's output and frees its memory, also when the drop panics.
///
/// # Safety
/// The output must be there and the memory known to nobody else.
unsafe fn drop_output(task: *mut Header) {
    struct Memory(*mut Header);
    impl Drop for Memory {
        fn drop(&mut self) {
            // SAFETY: the output has been dropped.
            unsafe { ((*self.0).table.deallocate)(self.0) };
        }
    }
    let memory = Memory(task);
    // SAFETY: as the caller says.
    unsafe { ((*memory.0).table.drop_output)(memory.0) };
}

/// While it lives its shard is the thread's current one; then the previous one is again.
pub(crate) struct Entered<'a> {
    previous: *const Shard,
    _shard: &'a Rc<Shard>,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        CURRENT.set(self.previous);
    }
}

/// Runs `f` with the thread's current shard, if there is one.
#[inline]
pub(crate) fn try_with<R>(f: impl FnOnce(&Shard) -> R) -> Option<R> {
    // SAFETY: the pointer is null or that of a shard kept alive by the `Rc` that the
    // innermost `Entered` guard borrows.
    unsafe { CURRENT.get().as_ref() }.map(f)
}

/// Runs `f` with the thread's current shard.
///
/// # Panics
/// When the thread runs no shard.
#[inline]
#[track_caller]
pub(crate) fn with<R>(f: impl FnOnce(&Shard) -> R) -> R {
    match try_with(f) {
        Some(result) => result,
        None => panic!("this must be called on a shard: inside throng's run, or World::enter"),
    }
}

/// The thread's current shard.
///
/// # Panics
/// When the thread runs no shard.
#[track_caller]
pub(crate) fn current() -> Rc<Shard> {
    with(|_| ());
    let shard = CURRENT.get();
    // SAFETY: there is a current shard, and this is the pointer of the `Rc` it lives in (see
    // `try_with`). A reference's pointer would not do: it may not reach the counts.
    unsafe {
        Rc::increment_strong_count(shard);
        Rc::from_raw(shard)
    }
}

/// Wakes a task if it belongs to the thread's current shard; returns whether it does.
#[inline]
pub(crate) fn wake_if_own(id: TaskId) -> bool {
    try_with(|shard| {
        if shard.arena().id() != id.arena {
            return false;
        }
        let slot = shard.arena().slot(id.index);
        if slot.generation() == id.generation {
            shard.schedule(id.index, slot);
        }
        true
    })
    .unwrap_or(false)
}

/// Whether the thread's current shard holds this arena.
#[inline]
pub(crate) fn is_own(arena: u16) -> bool {
    try_with(|shard| shard.arena().id() == arena).unwrap_or(false)
}

/// Wakes the task of the current shard that has this slot, if there are such.
#[inline]
pub(crate) fn wake_own(index: u32) {
    try_with(|shard| {
        if let Some(slot) = shard.arena().try_slot(index) {
            shard.schedule(index, slot);
        }
    });
}

/// Asks the cache for a slot of the current shard's.
#[inline]
pub(crate) fn prefetch_slot(index: u32) {
    try_with(|shard| shard.arena().try_slot(index).map(|slot| prefetch(slot)));
}

/// Asks the cache for the memory of the current shard's task that has this slot.
#[inline]
pub(crate) fn prefetch_task(index: u32) {
    try_with(|shard| shard.arena().try_slot(index).map(|slot| task::prefetch(slot.task())));
}

/// Spreads slot numbers; they are small and distinct, so one multiplication does.
#[derive(Default)]
struct IndexHasher(u64);

impl Hasher for IndexHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
    }

    fn write_u32(&mut self, index: u32) {
        self.0 = u64::from(index).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    }
}
