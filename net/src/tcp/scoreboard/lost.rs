//! What of a scoreboard is lost, and what of that goes again.

use super::*;

/// What went again at one time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Again {
    pub(super) start: SeqNum,
    pub(super) end: SeqNum,
    pub(super) at: u32,
}

impl Scoreboard {
    /// What was sent before `latest`, which the peer has, counts as lost when it has been out
    /// for `patience` microseconds (RACK_detect_loss of RFC 8985 6.2). Returns whether
    /// anything was found lost, and how long until the last of the rest would be.
    pub(in crate::tcp) fn lose_older(
        &mut self,
        latest: Sending,
        patience: u32,
        now: u32,
    ) -> (bool, u32) {
        let mut search = Search { latest, patience, now, any: false, wait: 0 };
        self.lose_older_first(&mut search);
        self.lose_older_again(&mut search);
        (search.any, search.wait)
    }

    /// Of the parts that were sent once only, which are in order of time.
    fn lose_older_first(&mut self, search: &mut Search) {
        let mut i = self.find(self.settled);
        let mut open = None;
        while let Some(part) = self.parts.get(i).copied() {
            if part.is_open() && !part.is(TWICE) {
                match search.verdict(&part) {
                    Verdict::Later => break,
                    Verdict::Lost => self.lose_part(i),
                    Verdict::Waits => open = open.or(Some(i)),
                }
            }
            i += 1;
        }
        self.settled = self.start_of(open.unwrap_or(i));
    }

    /// Of what went again.
    fn lose_older_again(&mut self, search: &mut Search) {
        let mut kept = 0;
        while let Some(again) = self.again.get(kept).copied() {
            let mut open = false;
            let mut i = self.find(again.start);
            while let Some(part) = self.parts.get(i).copied()
                && self.start_of(i).before(again.end)
            {
                if part.at == again.at && part.is(TWICE) && part.is_open() {
                    match search.verdict(&part) {
                        // Of one time, not all went in order of their numbers.
                        Verdict::Later if part.at == search.latest.at => open = true,
                        Verdict::Later => return,
                        Verdict::Lost => self.lose_part(i),
                        Verdict::Waits => open = true,
                    }
                }
                i += 1;
            }
            if open || kept > 0 {
                kept += 1;
            } else {
                self.again.pop_front();
            }
        }
    }

    /// `start..end` counts as lost as far as it is not reported, sent again or not.
    pub(in crate::tcp) fn lose(&mut self, start: SeqNum, end: SeqNum) {
        let low = self.split(start);
        let high = self.split(end);
        for i in low..high {
            if !self.parts[i].is(SACKED) {
                self.lose_part(i);
            }
        }
    }

    /// What is out for at least `age` microseconds counts as lost.
    pub(in crate::tcp) fn lose_aged(&mut self, age: u32, now: u32) {
        for i in 0..self.parts.len() {
            let part = self.parts[i];
            if !part.is(SACKED) && now.wrapping_sub(part.at) >= age {
                self.lose_part(i);
            }
        }
    }

    fn lose_part(&mut self, i: usize) {
        let part = self.parts[i];
        let start = self.start_of(i);
        let len = part.end - start;
        if start.before(self.due_from) {
            self.due_from = start;
        }
        self.uncount(part.bits, len);
        let bits = part.bits & TWICE | LOST;
        self.parts[i].bits = bits;
        self.count(bits, len);
    }

    /// Something is sent at `at`. Times are told apart by age, and where the clock's circle (71
    /// minutes) closes over what went again, the order is another.
    pub(super) fn pass_to(&mut self, at: u32) {
        self.last_at = at;
        let age = |again: Option<&Again>| again.map_or(0, |again| at.wrapping_sub(again.at));
        if age(self.again.front()) < age(self.again.back()) {
            self.look_again();
        }
    }

    /// Forgets what there is to know of what may still be found lost, and learns it anew from
    /// all parts.
    pub(super) fn look_again(&mut self) {
        self.settled = self.start;
        self.again.clear();
        for i in 0..self.parts.len() {
            let Part { end, at, .. } = self.parts[i];
            if self.parts[i].is_open() && self.parts[i].is(TWICE) {
                self.again.push_back(Again { start: self.start_of(i), end, at });
            }
        }
        let now = self.last_at;
        let age = |again: &Again| std::cmp::Reverse(now.wrapping_sub(again.at));
        self.again.make_contiguous().sort_by_key(age);
    }

    /// The first stretch that is lost and has not gone again; no more than `most` numbers of it
    /// need be told.
    pub(in crate::tcp) fn next_due(&mut self, most: u32) -> Option<(SeqNum, SeqNum)> {
        if self.due == 0 {
            return None;
        }
        let mut i = self.find(self.due_from);
        while !self.parts.get(i)?.is_due() {
            i += 1;
        }
        let start = self.start_of(i);
        self.due_from = start;
        let mut end = self.parts[i].end;
        while end - start < most
            && let Some(next) = self.parts.get(i + 1).filter(|next| next.is_due())
        {
            end = next.end;
            i += 1;
        }
        Some((start, end))
    }

    /// Whatever is due, or open, is found from where it is looked for.
    pub(super) fn check_hints(&self) {
        let age = |again: &Again| self.last_at.wrapping_sub(again.at);
        assert!(self.again.iter().map(age).is_sorted_by(|a, b| a >= b), "in order of time");
        let mut from = self.start;
        for part in &self.parts {
            assert!(!part.is_due() || self.due_from.at_or_before(from), "what is due is found");
            if part.is_open() && part.is(TWICE) {
                let older = |again: &Again| age(again) > self.last_at.wrapping_sub(part.at);
                let first = self.again.partition_point(older);
                let mut then = self.again.range(first..).take_while(|again| again.at == part.at);
                let has = |again: &Again| from.before(again.end) && part.end.after(again.start);
                assert!(then.any(has), "what went again is found");
            } else if part.is_open() {
                assert!(self.settled.at_or_before(from), "what is open is found");
            }
            from = part.end;
        }
    }
}

/// A search for what is lost, and what has come of it so far.
struct Search {
    latest: Sending,
    patience: u32,
    now: u32,
    any: bool,
    wait: u32,
}

/// What a search has to say of a part that is open.
enum Verdict {
    Lost,
    /// Not yet, but what was sent later has arrived.
    Waits,
    /// It, and what was sent later, has time.
    Later,
}

impl Search {
    fn verdict(&mut self, part: &Part) -> Verdict {
        if !self.latest.is_after(part.sending()) {
            return Verdict::Later;
        }
        let left = self.patience.wrapping_sub(self.now.wrapping_sub(part.at)) as i32;
        if left > 0 {
            self.wait = self.wait.max(left as u32);
            return Verdict::Waits;
        }
        self.any = true;
        Verdict::Lost
    }
}
