//! The sender's scoreboard: which ranges above SND.UNA the peer holds (RFC 6675 3, 4).

use super::segment::SackBlock;
use super::seq::SeqNum;

/// Duplicate acknowledgements, or discontiguous ranges, that mean loss (RFC 6675 2).
pub(super) const DUP_THRESH: u32 = 3;

/// Most ranges remembered; news that would need more is ignored (the peer repeats it).
const MAX_RANGES: usize = 256;

/// Ranges the peer reported, ascending, disjoint and not adjacent.
#[derive(Debug, Default)]
pub(super) struct Scoreboard {
    ranges: Vec<(SeqNum, SeqNum)>,
    bytes: u32,
}

impl Scoreboard {
    pub(super) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Bytes the peer reported.
    pub(super) fn bytes(&self) -> u32 {
        self.bytes
    }

    /// Takes a block in. Blocks outside `una..nxt` are ignored (D-SACK, or nonsense).
    /// Returns whether it said anything new.
    pub(super) fn add(&mut self, block: SackBlock, una: SeqNum, nxt: SeqNum) -> bool {
        let SackBlock { mut start, mut end } = block;
        let outstanding = nxt - una;
        if start - una >= outstanding || end - una > outstanding || !start.before(end) {
            return false;
        }
        let from = self.ranges.partition_point(|r| r.1.before(start));
        let to = self.ranges.partition_point(|r| r.0.at_or_before(end));
        if from == to {
            if self.ranges.len() >= MAX_RANGES {
                return false;
            }
            self.ranges.insert(from, (start, end));
            self.bytes += end - start;
            return true;
        }
        let covered: u32 = self.ranges[from..to].iter().map(|r| r.1 - r.0).sum();
        if self.ranges[from].0.before(start) {
            start = self.ranges[from].0;
        }
        if self.ranges[to - 1].1.after(end) {
            end = self.ranges[to - 1].1;
        }
        self.ranges[from] = (start, end);
        self.ranges.drain(from + 1..to);
        self.bytes += (end - start) - covered;
        end - start != covered
    }

    /// Forgets what lies below `una`.
    pub(super) fn acknowledge(&mut self, una: SeqNum) {
        let gone = self.ranges.partition_point(|r| r.1.at_or_before(una));
        self.bytes -= self.ranges[..gone].iter().map(|r| r.1 - r.0).sum::<u32>();
        self.ranges.drain(..gone);
        if let Some(first) = self.ranges.first_mut()
            && first.0.before(una)
        {
            self.bytes -= una - first.0;
            first.0 = una;
        }
    }

    /// Forgets everything (RFC 2018 8: the peer may have dropped what it reported).
    pub(super) fn clear(&mut self) {
        self.ranges.clear();
        self.bytes = 0;
    }

    /// Where the lowest range starts.
    pub(super) fn first(&self) -> Option<SeqNum> {
        self.ranges.first().map(|r| r.0)
    }

    /// One past the highest byte reported.
    pub(super) fn highest(&self) -> Option<SeqNum> {
        self.ranges.last().map(|r| r.1)
    }

    /// Below this, what is not reported counts as lost: three ranges, or more than two
    /// segments' bytes, were reported above (IsLost of RFC 6675 4).
    pub(super) fn lost_below(&self, mss: u32) -> Option<SeqNum> {
        let (mut count, mut bytes) = (0, 0);
        for range in self.ranges.iter().rev() {
            count += 1;
            bytes += range.1 - range.0;
            if count >= DUP_THRESH || bytes > (DUP_THRESH - 1) * mss {
                return Some(range.0);
            }
        }
        None
    }

    /// Bytes of `from..to` that were not reported.
    pub(super) fn missing(&self, from: SeqNum, to: SeqNum) -> u32 {
        if !from.before(to) {
            return 0;
        }
        let mut missing = to - from;
        for &(start, end) in &self.ranges {
            let start = if start.before(from) { from } else { start };
            let end = if end.after(to) { to } else { end };
            if start.before(end) {
                missing -= end - start;
            }
        }
        missing
    }

    /// The first gap at or after `from`: its start, and its end where a range ends it.
    pub(super) fn gap(&self, mut from: SeqNum) -> (SeqNum, Option<SeqNum>) {
        let at = self.ranges.partition_point(|r| r.1.at_or_before(from));
        match self.ranges.get(at) {
            Some(range) if range.0.at_or_before(from) => {
                from = range.1;
                (from, self.ranges.get(at + 1).map(|r| r.0))
            }
            next => (from, next.map(|r| r.0)),
        }
    }

    pub(super) fn check(&self, una: SeqNum, nxt: SeqNum) {
        let mut end = una;
        let mut bytes = 0;
        for (i, range) in self.ranges.iter().enumerate() {
            assert!(range.0.after(end) || i == 0 && range.0 == end, "ranges are apart");
            assert!(range.0.before(range.1) && range.1.at_or_before(nxt));
            end = range.1;
            bytes += range.1 - range.0;
        }
        assert_eq!(bytes, self.bytes, "bytes reported");
    }
}
