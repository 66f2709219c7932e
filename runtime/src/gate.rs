//! The handshake between a shard that goes to sleep and whoever has work for it.
//!
//! The sleeper announces itself, looks at all its inputs once more, and only then
//! commits to sleep. A waker publishes its work first and looks at the gate second.
//! A sequentially consistent fence on both sides, between the two steps, makes sure
//! that at least one of them sees the other: either the last look finds the work, or
//! the waker finds the announcement. While the shard is busy a waker pays one fence
//! and one load, and never a system call.

use crate::sync::{AtomicU32, Ordering, fence};

/// The shard is turning; it will see new work by itself.
const AWAKE: u32 = 0;
/// The shard has announced that it will sleep and takes its last look.
const DROWSY: u32 = 1;
/// The shard sleeps, or is about to, and needs its event.
const ASLEEP: u32 = 2;

/// Whether a shard is awake; see the module.
pub(crate) struct Gate {
    state: AtomicU32,
}

impl Gate {
    /// A gate of a shard that is awake.
    pub(crate) fn new() -> Self {
        Gate { state: AtomicU32::new(AWAKE) }
    }

    /// Sleeper: announces, has `last_look` look at every input once more, and calls the
    /// sleep it gives if it found nothing and nothing was published meanwhile.
    pub(crate) fn sleep<S: FnOnce()>(&self, last_look: impl FnOnce() -> Option<S>) {
        self.announce();
        if let Some(sleep) = last_look()
            && self.commit()
        {
            sleep();
        }
        self.awake();
    }

    fn announce(&self) {
        // A swap and not a store, here and in `awake`: so the order of all changes of the
        // state is one of synchronisation too, also where a late waker's swap comes between.
        self.state.swap(DROWSY, Ordering::AcqRel);
        fence(Ordering::SeqCst);
    }

    /// Whether the shard may sleep. False: work was published meanwhile.
    fn commit(&self) -> bool {
        self.state.compare_exchange(DROWSY, ASLEEP, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Sleeper: awake again, or the last look found something.
    pub(crate) fn awake(&self) {
        self.state.swap(AWAKE, Ordering::AcqRel);
    }

    /// Waker: call after publishing work. Runs `ring` when the shard sleeps.
    pub(crate) fn unpark(&self, ring: impl FnOnce()) {
        fence(Ordering::SeqCst);
        if self.state.load(Ordering::Relaxed) == AWAKE {
            return;
        }
        if self.state.swap(AWAKE, Ordering::AcqRel) == ASLEEP {
            ring();
        }
    }
}
