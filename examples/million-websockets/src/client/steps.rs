//! What the client does, one thing after the other, on all shards at once.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use throng::runtime;

/// How often a shard, or the thread that directs them, looks.
const LOOK: Duration = Duration::from_millis(2);

/// A thing to do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Step {
    /// Open all connections.
    Open,
    /// Echo once on each.
    Echo,
    /// Echo on random ones, at a rate.
    Load,
    /// Hear what the server publishes.
    Broadcast,
    /// Echo on random ones until it is time to close.
    Hold,
    /// Close all.
    Close,
}

impl Step {
    pub(crate) const ALL: [Step; 6] =
        [Step::Open, Step::Echo, Step::Load, Step::Broadcast, Step::Hold, Step::Close];
}

/// Where the shards of the client and the thread that directs them meet.
#[derive(Default)]
pub(crate) struct Steps {
    /// Steps that may begin.
    allowed: AtomicUsize,
    done: [AtomicU32; Step::ALL.len()],
    /// Shards that run: the device and the link are there.
    running: AtomicU32,
    failed: AtomicUsize,
}

impl Steps {
    /// A shard waits until a step may begin.
    pub(super) async fn begun(&self, step: Step) {
        if step == Step::Open {
            self.running.fetch_add(1, Ordering::AcqRel);
        }
        while self.allowed.load(Ordering::Acquire) <= step as usize {
            runtime::sleep(LOOK).await;
        }
    }

    /// A shard has done a step.
    pub(super) fn done(&self, step: Step) {
        self.done[step as usize].fetch_add(1, Ordering::AcqRel);
    }

    /// Whether a shard of the client runs.
    pub(crate) fn is_running(&self) -> bool {
        self.running.load(Ordering::Acquire) > 0
    }

    /// Lets every step begin, for nobody measures any more.
    pub(crate) fn let_all(&self) {
        self.allowed.store(Step::ALL.len(), Ordering::Release);
    }

    /// The client has ended: nobody needs to wait for it.
    pub(crate) fn give_up(&self) {
        self.failed.store(1, Ordering::Release);
    }

    /// Waits until all `shards` run; `None` when the client has ended.
    pub(crate) fn all_running(&self, shards: u16) -> Option<()> {
        self.wait(|| self.running.load(Ordering::Acquire) >= shards.into(), || {})
    }

    /// Lets all begin a step, and does not wait.
    pub(crate) fn allow(&self, step: Step) {
        self.allowed.store(step as usize + 1, Ordering::Release);
    }

    /// Lets all `shards` do a step and waits, outside the runtime, until they have, calling
    /// `look` now and then. Returns how long it took; `None` when the client has ended.
    pub(crate) fn run(&self, step: Step, shards: u16, look: impl FnMut()) -> Option<Duration> {
        let begin = Instant::now();
        self.allow(step);
        let done = &self.done[step as usize];
        self.wait(|| done.load(Ordering::Acquire) >= shards.into(), look)?;
        Some(begin.elapsed())
    }

    fn wait(&self, is_so: impl Fn() -> bool, mut look: impl FnMut()) -> Option<()> {
        loop {
            // First: what a client did before it ended is seen after, its last step among it.
            let ended = self.failed.load(Ordering::Acquire) != 0;
            if is_so() {
                return Some(());
            }
            if ended {
                return None;
            }
            std::thread::sleep(LOOK);
            look();
        }
    }
}
