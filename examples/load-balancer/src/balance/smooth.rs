//! Smooth weighted round robin: over a period of as many picks as the weights' sum each
//! server gets its weight, and no server gets its share in a row.
//!
//! Every server gains its weight; the richest is picked and pays the sum of all.

use super::Candidate;

#[derive(Default)]
pub(crate) struct Smooth {
    balances: Vec<f64>,
}

impl Smooth {
    pub(super) fn pick(&mut self, candidates: &[Candidate]) -> Option<usize> {
        self.balances.resize(candidates.len(), 0.0);
        let mut sum = 0.0;
        let mut picked: Option<usize> = None;
        for (at, candidate) in candidates.iter().enumerate() {
            if !candidate.may() {
                // Who comes back begins anew, without what it had or owed.
                self.balances[at] = 0.0;
                continue;
            }
            sum += candidate.weight;
            self.balances[at] += candidate.weight;
            if picked.is_none_or(|best| self.balances[at] > self.balances[best]) {
                picked = Some(at);
            }
        }
        let picked = picked?;
        self.balances[picked] -= sum;
        Some(picked)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::candidates;
    use super::*;

    #[test]
    fn the_heavy_one_is_not_picked_in_a_row() {
        let (mut smooth, candidates) = (Smooth::default(), candidates(&[5.0, 1.0, 1.0]));
        let picks: Vec<_> = (0..14).filter_map(|_| smooth.pick(&candidates)).collect();
        assert_eq!(picks, [0, 0, 1, 0, 2, 0, 0, 0, 0, 1, 0, 2, 0, 0]);
    }

    #[test]
    fn who_comes_back_has_no_debt() {
        let mut smooth = Smooth::default();
        for _ in 0..10 {
            smooth.pick(&candidates(&[1.0, 1.0]));
        }
        for _ in 0..100 {
            assert_eq!(smooth.pick(&candidates(&[1.0, 0.0])), Some(0));
        }
        let picks: Vec<_> = (0..4).filter_map(|_| smooth.pick(&candidates(&[1.0, 1.0]))).collect();
        assert_eq!(picks.iter().sum::<usize>(), 2, "{picks:?}");
    }
}
