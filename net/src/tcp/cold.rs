//! What a connection owns only while data is under way, and where such boxes wait for reuse.

use throng_runtime::{ChunkBox, prefetch_read};

use super::prr::Prr;
use super::queue::CHUNK_OVERHEAD;
use super::rack::Rack;
use super::rcv::{Reassembly, Rope};
use super::scoreboard::Scoreboard;
use super::segment::SackBlock;
use super::seq::SeqNum;
use super::snd::{SMALL, SendQueue};
use super::tlp::Probe;
use super::undo::Undo;

/// Queues and scoreboard of a connection. Taken when the first byte is queued or received,
/// given back when all of it is drained.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub(super) struct Cold {
    /// Received in order, unread. A small message by itself lies in `snd`, where there is a place
    /// for it: an answer that comes when it is read will lie there, too.
    ready: Rope,
    extra: Option<Box<Extra>>,
    pub(super) snd: SendQueue,
}

// Two cache lines, and behind them what lies in the send queue itself.
const _: () = assert!(size_of::<Cold>() <= 128 + SMALL.next_multiple_of(64));

/// What only loss, reordering and flights of more than one turn call for.
#[derive(Debug, Default)]
pub(super) struct Extra {
    pub(super) early: Reassembly,
    /// Good where the connection says that it is kept; see [`log`](super::rack::log).
    pub(super) sent: Scoreboard,
    pub(super) rack: Rack,
    pub(super) prr: Prr,
    pub(super) undo: Option<Undo>,
    pub(super) probe: Probe,
    /// What came twice, to be reported with the next segment (RFC 2883).
    pub(super) twice: Option<SackBlock>,
}

/// Entries of the scoreboard for which a box that waits for reuse keeps memory.
const KEPT_PARTS: usize = 64;

impl Extra {
    fn is_unusual(&self) -> bool {
        !self.early.is_empty()
            || self.sent.is_marked()
            || self.probe != Probe::None
            || self.twice.is_some()
    }

    fn is_large(&self) -> bool {
        self.sent.capacity() > KEPT_PARTS || self.early.capacity() > 0
    }
}

impl Cold {
    /// What was received in order and is not read, to see how much that is.
    #[inline(always)]
    pub(super) fn ready(&self) -> &Rope {
        &self.ready
    }

    /// The same, to change.
    #[inline(always)]
    pub(super) fn ready_mut(&mut self) -> &mut Rope {
        if !self.ready.is_empty() && !self.snd.borrowed().is_empty() {
            self.move_in();
        }
        &mut self.ready
    }

    /// The small message goes where others will follow it.
    #[inline(never)]
    fn move_in(&mut self) {
        self.ready.end_elsewhere();
        self.ready.push(self.snd.borrowed());
        self.snd.end_loan();
    }

    /// Appends a copy of `data` (not empty) to what is to be read.
    #[inline(always)]
    pub(super) fn receive(&mut self, data: &[u8]) {
        if !self.receive_small(data) {
            self.ready_mut().push(data);
        }
    }

    /// The same for data that can lie by itself where an answer will. `false`, having done nothing, for
    /// any other.
    #[inline(always)]
    pub(super) fn receive_small(&mut self, data: &[u8]) -> bool {
        let small = self.ready.is_empty() && self.snd.lend(data);
        if small {
            self.ready.begin_elsewhere(data.len() as u32);
        }
        small
    }

    /// All there is to read, where that is a small message by itself of at most `max` bytes.
    #[inline(always)]
    pub(super) fn small_message(&self, max: usize) -> Option<&[u8]> {
        let message = self.snd.borrowed();
        (!message.is_empty() && message.len() <= max).then_some(message)
    }

    /// It was read. Returns what it counted for in the memory budget.
    #[inline(always)]
    pub(super) fn end_message(&mut self) -> u32 {
        self.snd.end_loan();
        self.ready.end_elsewhere()
    }

    /// Drops what is to be read.
    pub(super) fn clear_ready(&mut self) {
        self.snd.end_loan();
        self.ready.clear();
    }

    pub(super) fn check(&self) {
        self.snd.check();
        let message = self.snd.borrowed().len() as u32;
        if message == 0 {
            self.ready.check();
        } else {
            let held = (self.ready.len(), self.ready.charge());
            assert_eq!(held, (message, message + CHUNK_OVERHEAD), "a small message");
        }
    }

    /// Whether nothing is held.
    pub(super) fn is_empty(&self) -> bool {
        self.snd.is_empty()
            && self.ready.is_empty()
            && self.extra.as_ref().is_none_or(|extra| !extra.is_unusual())
    }

    /// Whether anything is held that header prediction does not deal with.
    pub(super) fn is_unusual(&self) -> bool {
        self.extra.as_deref().is_some_and(Extra::is_unusual)
    }

    /// What came too early, if anything did.
    pub(super) fn early(&self) -> Option<&Reassembly> {
        self.extra.as_ref().map(|extra| &extra.early).filter(|early| !early.is_empty())
    }

    /// What is known of what is out, if more than that it is.
    pub(super) fn marked(&self) -> Option<&Scoreboard> {
        self.extra.as_ref().map(|extra| &extra.sent).filter(|sent| sent.is_marked())
    }

    /// What goes again next; see [`Scoreboard::next_due`].
    pub(super) fn next_due(&mut self, most: u32) -> Option<(SeqNum, SeqNum)> {
        self.extra.as_mut()?.sent.next_due(most)
    }

    /// The blocks to report, at most `max`: what came twice, then what came too early.
    pub(super) fn sack_blocks(&self, max: usize) -> [Option<SackBlock>; 4] {
        let Some(extra) = &self.extra else { return [None; 4] };
        match extra.twice {
            None => extra.early.sack_blocks(max, None),
            Some(twice) => {
                // RFC 2883 4: once, before the block that it lies in.
                let [a, b, c, _] = extra.early.sack_blocks(max - 1, Some(twice.start));
                [Some(twice), a, b, c]
            }
        }
    }

    /// Whether it is waiting to be reported that something came twice.
    pub(super) fn has_duplicate(&self) -> bool {
        self.extra.as_ref().is_some_and(|extra| extra.twice.is_some())
    }

    /// What the last reduction of the window may be taken back by.
    pub(super) fn undo(&self) -> Option<&Undo> {
        self.extra.as_ref()?.undo.as_ref()
    }

    /// What a probe of the tail is up to.
    pub(super) fn probe(&self) -> Probe {
        self.extra.as_ref().map_or(Probe::None, |extra| extra.probe)
    }

    /// The scoreboard, such as it is.
    pub(super) fn sent(&self) -> Option<&Scoreboard> {
        self.extra.as_ref().map(|extra| &extra.sent)
    }

    /// All of it, to change. Where it comes to hold anything unusual, the connection's flag
    /// `UNUSUAL` must be set.
    pub(super) fn extra(&mut self) -> &mut Extra {
        self.extra.get_or_insert_default()
    }

    /// In-order queue and what came too early, to move from the one to the other.
    pub(super) fn receiving(&mut self) -> Option<(&mut Rope, &mut Reassembly)> {
        if !self.extra.as_ref()?.early.has_ranges() {
            return None;
        }
        self.ready_mut();
        Some((&mut self.ready, &mut self.extra.as_mut()?.early))
    }

    /// What all that was received counts for in the memory budget.
    pub(super) fn charge(&self) -> u32 {
        self.ready.charge() + self.extra.as_ref().map_or(0, |extra| extra.early.charge())
    }

    /// Drops what came too early (RFC 2018 8 allows it, reported or not).
    pub(super) fn forget_early(&mut self) {
        if let Some(extra) = &mut self.extra {
            extra.early.clear();
        }
    }

    /// Drops what is known of what is out.
    pub(super) fn forget_sent(&mut self) {
        if let Some(extra) = &mut self.extra {
            extra.sent.clear();
            extra.probe = Probe::None;
            extra.twice = None;
            extra.undo = None;
        }
    }

    fn shrink_extra(&mut self) {
        self.forget_sent();
        if self.extra.as_ref().is_some_and(|extra| extra.is_large()) {
            self.extra = None;
        }
    }

    /// Asks the cache for what a predicted segment touches.
    pub(super) fn prefetch(&self) {
        prefetch_read(&self.ready);
        self.snd.prefetch();
    }
}

/// Boxes ready for the next connection that needs one.
#[derive(Debug, Default)]
pub(super) struct Pool {
    free: Vec<ChunkBox<Cold>>,
    /// The fewest that were free at a time since some were last let go,
    least: usize,
    /// and how many turns have gone by since.
    turns: u32,
    /// Boxes in use.
    pub(super) taken: usize,
}

/// Boxes kept for reuse; what is more goes back at once.
const KEPT: usize = 1024;
/// Turns in which nobody has needed a box before it is let go,
const TURNS: u32 = 256;
/// with so many others at a time.
const LET_GO: usize = 64;

impl Pool {
    #[inline(never)]
    pub(super) fn take(&mut self) -> ChunkBox<Cold> {
        self.taken += 1;
        let cold = self.free.pop();
        self.least = self.least.min(self.free.len());
        cold.unwrap_or_default()
    }

    /// The box of a connection, which has one from now on.
    #[inline(always)]
    pub(super) fn fill<'a>(&mut self, place: &'a mut Option<ChunkBox<Cold>>) -> &'a mut Cold {
        if place.is_none() {
            *place = Some(self.take());
        }
        // It is there: the closure is never called.
        place.get_or_insert_with(ChunkBox::default)
    }

    /// Takes a drained box back.
    pub(super) fn give(&mut self, mut cold: ChunkBox<Cold>) {
        debug_assert!(cold.is_empty());
        self.taken -= 1;
        if self.free.len() < KEPT {
            cold.snd.shrink();
            cold.ready.shrink();
            if cold.extra.is_some() {
                cold.shrink_extra();
            }
            self.free.push(cold);
        }
    }

    /// Once a turn: lets go what nobody needs any more. Each may be the last in a chunk of thousands,
    /// when a million have had one.
    #[inline]
    pub(super) fn shrink(&mut self) {
        self.turns += 1;
        if self.turns >= TURNS {
            self.let_go();
        }
    }

    #[inline(never)]
    fn let_go(&mut self) {
        self.turns = 0;
        self.free.drain(..self.least.min(LET_GO));
        self.least = self.free.len();
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    /// All that is to be read, by pieces of at most `max` bytes.
    fn read(cold: &mut Cold, max: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while !cold.ready().is_empty() {
            cold.check();
            if let Some(message) = cold.small_message(max) {
                all.extend_from_slice(message);
                cold.end_message();
            } else {
                all.extend_from_slice(&cold.ready_mut().pop(max));
            }
        }
        cold.check();
        all
    }

    #[test]
    fn a_small_message_lies_where_its_answer_will() {
        let mut cold = Cold::default();
        for len in [1, 64, SMALL, SMALL + 1] {
            let message: Vec<u8> = (0..len).map(|n| n as u8).collect();
            cold.receive(&message);
            cold.check();
            let charge = len as u32 + CHUNK_OVERHEAD;
            assert_eq!((cold.ready().len(), cold.charge()), (len as u32, charge));
            let there = cold.small_message(usize::MAX).is_some();
            assert_eq!(there, len <= SMALL, "{len}");
            assert!(cold.small_message(len - 1).is_none());
            assert_eq!(read(&mut cold, usize::MAX), message);
            assert!(cold.is_empty() && cold.charge() == 0);
            // And now its answer.
            cold.snd.push(Bytes::copy_from_slice(&message));
            assert_eq!(cold.snd.gather(0, len as u32).to_vec(), message);
            cold.snd.release(len as u32);
            assert!(cold.is_empty());
        }
    }

    #[test]
    fn what_comes_behind_a_small_message_and_what_is_sent_meanwhile_keep_off_it() {
        for max in [1, 7, usize::MAX] {
            let mut cold = Cold::default();
            cold.receive(b"first");
            cold.snd.push(Bytes::from_static(b"sent").to_vec().into());
            assert_eq!(cold.snd.gather(0, 4).to_vec(), b"sent");
            cold.check();
            cold.receive(b"second");
            cold.receive(b"third");
            assert_eq!(read(&mut cold, max), b"firstsecondthird", "{max}");
            cold.receive(b"not while the queue has something");
            assert!(cold.small_message(usize::MAX).is_none() || cold.snd.is_empty());
            cold.snd.release(4);
            cold.clear_ready();
            assert!(cold.is_empty() && cold.charge() == 0);
            cold.receive(b"dropped");
            cold.clear_ready();
            cold.check();
            assert!(cold.is_empty() && cold.charge() == 0);
        }
    }

    #[test]
    fn boxes_that_are_needed_stay_and_others_go() {
        let mut pool = Pool::default();
        let turns = |pool: &mut Pool, count: u32, used: usize| {
            for _ in 0..count * TURNS {
                let taken: Vec<_> = (0..used).map(|_| pool.take()).collect();
                taken.into_iter().for_each(|cold| pool.give(cold));
                pool.shrink();
            }
        };
        turns(&mut pool, 1, 2 * KEPT);
        assert_eq!((pool.free.len(), pool.taken), (KEPT, 0));
        turns(&mut pool, 1, 10);
        assert_eq!(pool.free.len(), KEPT - LET_GO);
        turns(&mut pool, (KEPT / LET_GO) as u32, 10);
        assert_eq!(pool.free.len(), 10);
        turns(&mut pool, 2, 0);
        assert_eq!(pool.free.len(), 0);
    }
}
