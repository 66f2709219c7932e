//! What a connection owns only while data is under way, and where such boxes wait for reuse.

use super::rcv::RecvQueue;
use super::sack::Scoreboard;
use super::snd::SendQueue;

/// Queues and scoreboard of a connection. Taken when the first byte is queued or received,
/// given back when all of it is drained.
#[derive(Debug, Default)]
pub(super) struct Cold {
    pub(super) snd: SendQueue,
    pub(super) rcv: RecvQueue,
    pub(super) sacked: Scoreboard,
}

impl Cold {
    pub(super) fn is_empty(&self) -> bool {
        self.snd.is_empty() && self.rcv.is_empty()
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
            cold.rcv.shrink();
            cold.sacked.clear();
            cold.sacked.shrink();
            self.free.push(cold);
        }
    }
}
