//! Least connections: the server with the fewest requests for its weight. Among equals it
//! goes round, so that an idle group does not load its first server.

use super::{Candidate, from};

#[derive(Default)]
pub(crate) struct Least {
    next: usize,
}

impl Least {
    pub(super) fn pick(&mut self, candidates: &[Candidate]) -> Option<usize> {
        // With the request to come, so that among idle servers the heavier one is first.
        let load = |at: usize| f64::from(candidates[at].in_flight + 1) / candidates[at].weight;
        let may = from(self.next, candidates.len()).filter(|at| candidates[*at].may());
        // The first of equals.
        let picked = may.min_by(|a, b| load(*a).total_cmp(&load(*b)))?;
        self.next = picked + 1;
        Some(picked)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::candidates;
    use super::*;

    #[test]
    fn the_least_loaded_is_picked_and_equals_in_turn() {
        let mut least = Least::default();
        let mut servers = candidates(&[1.0, 1.0, 1.0]);
        let picks: Vec<_> = (0..6).filter_map(|_| least.pick(&servers)).collect();
        assert_eq!(picks, [0, 1, 2, 0, 1, 2]);
        servers[0].in_flight = 3;
        servers[2].in_flight = 1;
        assert_eq!(least.pick(&servers), Some(1));
        servers[1].in_flight = 2;
        assert_eq!(least.pick(&servers), Some(2));
    }
}
