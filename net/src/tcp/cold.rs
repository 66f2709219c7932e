//! What a connection owns only while data is under way, and where such boxes wait for reuse.

use throng_runtime::prefetch_read;

use super::rcv::RecvQueue;
use super::sack::Scoreboard;
use super::snd::SendQueue;

/// Queues and scoreboard of a connection. Taken when the first byte is queued or received,
/// given back when all of it is drained. What a predicted segment touches comes first.
#[derive(Debug, Default)]
#[repr(C)]
pub(super) struct Cold {
    pub(super) snd: SendQueue,
    pub(super) rcv: RecvQueue,
    pub(super) sacked: Scoreboard,
    /// More than plain queues was in use since the box was taken.
    pub(super) used: bool,
}

impl Cold {
    pub(super) fn is_empty(&self) -> bool {
        self.snd.is_empty() && self.rcv.is_empty()
    }

    /// Asks the cache for what a predicted segment touches.
    pub(super) fn prefetch(&self) {
        prefetch_read(&self.snd);
        prefetch_read(&self.rcv);
        prefetch_read(&self.rcv.fin);
    }

    /// Whether anything is held that header prediction does not deal with.
    pub(super) fn is_unusual(&self) -> bool {
        self.rcv.has_ranges() || self.rcv.fin.is_some() || !self.sacked.is_empty()
    }
}

/// Boxes ready for the next connection that needs one.
#[derive(Debug, Default)]
pub(super) struct Pool {
    // Boxes, because they move between here and the connections all the time.
    #[expect(clippy::vec_box)]
    free: Vec<Box<Cold>>,
    /// Boxes in use.
    pub(super) taken: usize,
}

/// Boxes kept for reuse; what is more goes back to the allocator.
const KEPT: usize = 1024;

impl Pool {
    pub(super) fn take(&mut self) -> Box<Cold> {
        self.taken += 1;
        self.free.pop().unwrap_or_default()
    }

    /// Takes a drained box back.
    pub(super) fn give(&mut self, mut cold: Box<Cold>) {
        debug_assert!(cold.is_empty());
        self.taken -= 1;
        if self.free.len() < KEPT {
            cold.snd.shrink();
            cold.rcv.ready.shrink();
            if cold.used {
                cold.rcv.shrink();
                cold.sacked.clear();
                cold.sacked.shrink();
                cold.used = false;
            }
            self.free.push(cold);
        }
    }
}
