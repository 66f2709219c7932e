//! What is out, part by part: when it was sent last and what is known of it (RFC 6675 3 and 4,
//! RFC 8985 5.2).
//!
//! A part is a stretch of sequence space that left at one time and shares one fate. What is
//! sent in one turn is one part, so a long flight is some hundred entries; what the peer has
//! reported is joined whatever its time. Four sums say at any moment what each fate amounts to:
//!
//! ```text
//!   in the network = in flight - sacked - lost + resent
//! ```
//!
//! An acknowledgement shall cost what it changes, however much is out. So it is remembered below
//! which number nothing is left to be found lost or to be sent again, and what went again is
//! noted in order of time: parts sent once are in that order by themselves.

use std::collections::VecDeque;

use super::seq::SeqNum;

mod lost;
#[cfg(test)]
mod tests;

use lost::Again;

/// Duplicate acknowledgements, or segments reported, that mean loss (RFC 5681 3.2, RFC 6675 2).
pub(super) const DUP_THRESH: u32 = 3;

/// Most ranges of the peer's remembered; news that would need more is ignored (it repeats them).
const MAX_ISLANDS: u32 = 1024;
/// Parts beyond which new data joins the last one, whose time it then has.
const MAX_PARTS: usize = 8192;

/// The peer has reported it.
const SACKED: u8 = 1 << 0;
/// Its first copy counts as lost.
const LOST: u8 = 1 << 1;
/// Another copy is out that does not count as lost.
const RESENT: u8 = 1 << 2;
/// It was sent more than once.
const TWICE: u8 = 1 << 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    end: SeqNum,
    /// When it was sent last, in microseconds modulo 2^32.
    at: u32,
    bits: u8,
}

impl Part {
    fn is(&self, bits: u8) -> bool {
        self.bits & bits != 0
    }

    /// Whether it is lost and has not gone again.
    fn is_due(&self) -> bool {
        self.bits & (LOST | RESENT) == LOST
    }

    /// Whether a copy is out of which nothing is known.
    fn is_open(&self) -> bool {
        !self.is(SACKED) && !self.is_due()
    }

    fn sending(&self) -> Sending {
        Sending { at: self.at, end: self.end }
    }
}

/// A part, or some of one, that the peer has, as the scoreboard learns it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Delivered {
    pub(super) end: SeqNum,
    pub(super) len: u32,
    /// When it was sent last, in microseconds modulo 2^32.
    pub(super) at: u32,
    /// Whether it was sent more than once.
    pub(super) twice: bool,
}

/// When something was sent, and up to where: what RACK orders segments by.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sending {
    pub(super) at: u32,
    pub(super) end: SeqNum,
}

impl Sending {
    /// Whether it was sent after `other` (RACK_sent_after of RFC 8985 6.2).
    pub(super) fn is_after(&self, other: Sending) -> bool {
        self.at != other.at && (self.at.wrapping_sub(other.at) as i32) > 0
            || self.at == other.at && self.end.after(other.end)
    }
}

/// The parts in order of their numbers.
#[derive(Debug, Default)]
pub(super) struct Scoreboard {
    parts: VecDeque<Part>,
    /// Where the first part begins.
    start: SeqNum,
    sacked: u32,
    lost: u32,
    /// Lost, and no other copy is out.
    due: u32,
    resent: u32,
    /// Parts that the peer has reported.
    islands: u32,
    /// Nothing below is due.
    due_from: SeqNum,
    /// No part below that was sent once only is open.
    settled: SeqNum,
    /// What went again, in order of time; of what is open, all.
    again: VecDeque<Again>,
    /// When anything was sent last.
    last_at: u32,
}

impl Scoreboard {
    /// Starts anew with `una..nxt` out, all of it sent at `at`.
    pub(super) fn begin(&mut self, una: SeqNum, nxt: SeqNum, at: u32) {
        self.clear();
        (self.start, self.due_from, self.settled) = (una, una, una);
        self.last_at = at;
        if una != nxt {
            self.parts.push_back(Part { end: nxt, at, bits: 0 });
        }
    }

    /// Forgets everything; keeps its memory.
    pub(super) fn clear(&mut self) {
        self.parts.clear();
        self.again.clear();
        (self.sacked, self.lost, self.due, self.resent) = (0, 0, 0, 0);
        self.islands = 0;
    }

    /// Whether anything is known beyond when it was sent.
    pub(super) fn is_marked(&self) -> bool {
        self.sacked | self.lost | self.resent != 0
    }

    /// How many entries there is memory for.
    pub(super) fn capacity(&self) -> usize {
        self.parts.capacity().max(self.again.capacity())
    }

    /// Bytes the peer has reported.
    pub(super) fn sacked(&self) -> u32 {
        self.sacked
    }

    /// Bytes that count as lost, sent again or not.
    pub(super) fn lost(&self) -> u32 {
        self.lost
    }

    /// Bytes that count as lost and have not gone again.
    pub(super) fn due(&self) -> u32 {
        self.due
    }

    /// Of `flight` bytes, those believed to be in the network.
    pub(super) fn pipe(&self, flight: u32) -> u32 {
        (flight + self.resent).saturating_sub(self.sacked + self.lost)
    }

    /// Whether as many segments were reported as mean loss (RFC 8985 6.2, step 4, counted as in
    /// RFC 6675 4).
    pub(super) fn is_dup_thresh(&self, mss: u32) -> bool {
        self.islands >= DUP_THRESH || self.sacked > (DUP_THRESH - 1) * mss
    }

    /// Whether the peer reports what it does not acknowledge: it must have dropped it.
    pub(super) fn is_reneged(&self) -> bool {
        self.parts.front().is_some_and(|first| first.is(SACKED))
    }

    /// When the first part was sent last.
    pub(super) fn head_sent(&self) -> Option<u32> {
        self.parts.front().map(|first| first.at)
    }

    /// New data up to `end` was sent at `at`.
    pub(super) fn sent(&mut self, end: SeqNum, at: u32) {
        let full = self.parts.len() >= MAX_PARTS;
        self.pass_to(at);
        match self.parts.back_mut() {
            Some(last) if last.bits == 0 && (last.at == at || full) => last.end = end,
            _ => self.parts.push_back(Part { end, at, bits: 0 }),
        }
    }

    /// All below `una` is acknowledged; `seen` hears of what was not reported before.
    pub(super) fn acknowledge(&mut self, una: SeqNum, mut seen: impl FnMut(Delivered)) {
        while let Some(part) = self.parts.front().copied()
            && self.start.before(una)
        {
            let end = if part.end.after(una) { una } else { part.end };
            if !part.is(SACKED) {
                let len = end - self.start;
                seen(Delivered { end, len, at: part.at, twice: part.is(TWICE) });
            }
            self.uncount(part.bits, end - self.start);
            self.start = end;
            if part.end == end {
                self.islands -= u32::from(part.is(SACKED));
                self.parts.pop_front();
            }
        }
        // Old numbers would look like new ones half the circle later.
        for hint in [&mut self.due_from, &mut self.settled] {
            if hint.before(self.start) {
                *hint = self.start;
            }
        }
        while self.again.front().is_some_and(|again| again.end.at_or_before(self.start)) {
            self.again.pop_front();
        }
    }

    /// Forgets what lies below `una`, which was acknowledged before.
    pub(super) fn forget_below(&mut self, una: SeqNum) {
        self.acknowledge(una, |_| ());
    }

    /// The peer reports `start..end`, which lies within what is out. Returns how many bytes of
    /// that are news; `seen` hears of them.
    pub(super) fn sack(
        &mut self,
        mut start: SeqNum,
        mut end: SeqNum,
        mut seen: impl FnMut(Delivered),
    ) -> u32 {
        // Not an island more than there are: what is reported already is left out at both ends.
        let first = self.find(start);
        let Some(part) = self.parts.get(first) else { return 0 };
        if part.is(SACKED) {
            start = part.end;
        }
        let last = self.find(end - 1);
        let Some(part) = self.parts.get(last) else { return 0 };
        if part.is(SACKED) {
            end = self.start_of(last);
        }
        if !start.before(end) {
            return 0;
        }
        let full = self.islands >= MAX_ISLANDS || self.parts.len() >= 2 * MAX_PARTS;
        if full && !self.touches(start, end) {
            return 0;
        }
        let mut news = 0;
        let low = self.split(start);
        let high = self.split(end);
        let mut from = start;
        for i in low..high {
            let part = self.parts[i];
            if !part.is(SACKED) {
                let len = part.end - from;
                news += len;
                self.uncount(part.bits, len);
                self.sacked += len;
                self.islands += 1;
                self.parts[i].bits = part.bits & TWICE | SACKED;
                let twice = part.is(TWICE);
                seen(Delivered { end: part.end, len, at: part.at, twice });
            }
            from = part.end;
        }
        self.join(low, high);
        news
    }

    /// Whether a neighbour of `start..end` is reported.
    fn touches(&self, start: SeqNum, end: SeqNum) -> bool {
        let reported = |i: usize| self.parts.get(i).is_some_and(|part| part.is(SACKED));
        let (low, high) = (self.find(start), self.find(end));
        low > 0 && self.start_of(low) == start && reported(low - 1)
            || reported(high) && self.start_of(high) == end
    }

    /// Makes one part of the reported parts `low..high` and their reported neighbours.
    fn join(&mut self, mut low: usize, mut high: usize) {
        if low > 0 && self.parts[low - 1].is(SACKED) {
            low -= 1;
        }
        if self.parts.get(high).is_some_and(|part| part.is(SACKED)) {
            high += 1;
        }
        let last = self.parts[high - 1];
        self.parts[low] = last;
        self.islands -= (high - low) as u32 - 1;
        self.parts.drain(low + 1..high);
    }

    /// The peer may have dropped what it reported (RFC 2018 8).
    pub(super) fn forget_sacked(&mut self) {
        for part in &mut self.parts {
            part.bits &= !SACKED;
        }
        (self.sacked, self.islands) = (0, 0);
        self.look_again();
    }

    /// Nothing counts as lost any more.
    pub(super) fn forgive(&mut self) {
        for part in &mut self.parts {
            part.bits &= !LOST;
        }
        (self.lost, self.due) = (0, 0);
        self.look_again();
    }

    /// `start..end` was sent again at `at`.
    pub(super) fn resent(&mut self, start: SeqNum, end: SeqNum, at: u32) {
        let low = self.split(start);
        let high = self.split(end);
        let mut from = start;
        for i in low..high {
            let part = self.parts[i];
            let len = part.end - from;
            if !part.is(SACKED) {
                let bits = part.bits | RESENT | TWICE;
                self.uncount(part.bits, len);
                self.count(bits, len);
                self.parts[i] = Part { at, bits, ..part };
            }
            from = part.end;
        }
        if start.at_or_before(self.due_from) && self.due_from.before(end) {
            self.due_from = end;
        }
        self.pass_to(at);
        match self.again.back_mut() {
            Some(last) if last.end == start && last.at == at => last.end = end,
            _ => self.again.push_back(Again { start, end, at }),
        }
        if self.again.len() > 2 * self.parts.len() + 64 {
            // Most of that has arrived or went once more.
            self.look_again();
        }
        // What goes again in one turn becomes one part again.
        for i in (low.max(1)..high).rev() {
            let (a, b) = (self.parts[i - 1], self.parts[i]);
            if (a.at, a.bits) == (b.at, b.bits) && !a.is(SACKED) {
                self.parts.remove(i - 1);
            }
        }
    }

    /// Where the first reported part begins.
    pub(super) fn first_sacked(&self) -> Option<SeqNum> {
        if self.sacked == 0 {
            return None;
        }
        let first = self.parts.iter().position(|part| part.is(SACKED))?;
        Some(self.start_of(first))
    }

    /// The part `seq` lies in, or the number of parts.
    fn find(&self, seq: SeqNum) -> usize {
        self.parts.partition_point(|part| part.end.at_or_before(seq))
    }

    fn start_of(&self, i: usize) -> SeqNum {
        if i == 0 { self.start } else { self.parts[i - 1].end }
    }

    /// Sees to it that a part begins at `seq`, unless that is reported; which part it is in.
    fn split(&mut self, seq: SeqNum) -> usize {
        let i = self.find(seq);
        let Some(part) = self.parts.get(i).copied() else { return i };
        if part.is(SACKED) || seq.at_or_before(self.start_of(i)) {
            return i;
        }
        self.parts.insert(i, Part { end: seq, ..part });
        i + 1
    }

    fn count(&mut self, bits: u8, len: u32) {
        for (sum, counts) in self.sums(bits) {
            *sum += if counts { len } else { 0 };
        }
    }

    fn uncount(&mut self, bits: u8, len: u32) {
        for (sum, counts) in self.sums(bits) {
            *sum -= if counts { len } else { 0 };
        }
    }

    /// The sums, each with whether a part with these bits counts for it.
    fn sums(&mut self, bits: u8) -> [(&mut u32, bool); 4] {
        [
            (&mut self.sacked, bits & SACKED != 0),
            (&mut self.lost, bits & LOST != 0),
            (&mut self.due, bits & (LOST | RESENT) == LOST),
            (&mut self.resent, bits & RESENT != 0),
        ]
    }

    /// What must hold where `una..nxt` is out.
    pub(super) fn check(&self, una: SeqNum, nxt: SeqNum) {
        let mut seen = Scoreboard::default();
        let mut from = self.start;
        assert!(from.at_or_before(una) && (from == una || !self.is_marked()), "trimmed");
        let mut before = 0;
        for part in &self.parts {
            assert!(from.before(part.end), "parts ascend");
            seen.count(part.bits, part.end - from);
            seen.islands += u32::from(part.is(SACKED));
            assert!(!part.is(SACKED) || !part.is(LOST | RESENT) && before & SACKED == 0);
            (from, before) = (part.end, part.bits);
        }
        assert!(from == nxt || self.parts.is_empty() && una == nxt, "all that is out, no more");
        let sums = |b: &Scoreboard| (b.sacked, b.lost, b.due, b.resent, b.islands);
        assert_eq!(sums(&seen), sums(self), "sums of the scoreboard");
        assert!(self.sacked + self.lost <= nxt - self.start);
        assert!(self.islands <= MAX_ISLANDS, "bounded");
        self.check_hints();
    }
}
