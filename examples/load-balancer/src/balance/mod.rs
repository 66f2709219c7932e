//! Which of several servers gets a request: pure functions of what is known of each.
//!
//! A [`Balancer`] keeps what its policy has to remember between two picks and nothing else;
//! time and chance are arguments.

mod ewma;
mod least;
mod maglev;
mod p2c;
mod smooth;

pub(crate) use ewma::Ewma;
pub(crate) use maglev::Maglev;

use crate::config::Policy;
use crate::random::Random;
use least::Least;
use smooth::Smooth;

/// What a policy sees of a server.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Candidate {
    /// Its share, relative to the others'; 0: it may not be picked.
    pub(crate) weight: f64,
    /// Requests it has now.
    pub(crate) in_flight: u32,
    /// Its usual latency in seconds; 0 where none is known.
    pub(crate) latency: f64,
}

impl Candidate {
    fn may(&self) -> bool {
        self.weight > 0.0
    }
}

/// A policy and its memory.
pub(crate) enum Balancer {
    RoundRobin { next: usize },
    Weighted(Smooth),
    LeastConnections(Least),
    Latency,
    Maglev(Maglev),
}

impl Balancer {
    /// For servers of these names and weights, in the order of later candidates.
    pub(crate) fn new(policy: Policy, servers: &[(String, u32)]) -> Balancer {
        match policy {
            Policy::RoundRobin => Balancer::RoundRobin { next: 0 },
            Policy::Weighted => Balancer::Weighted(Smooth::default()),
            Policy::LeastConnections => Balancer::LeastConnections(Least::default()),
            Policy::Latency => Balancer::Latency,
            Policy::Maglev => Balancer::Maglev(Maglev::new(servers)),
        }
    }

    /// The index of a candidate that may be picked, if there is one. `hash` is what stays with
    /// one server as long as it may; only Maglev looks at it.
    pub(crate) fn pick(
        &mut self,
        candidates: &[Candidate],
        hash: u64,
        random: &mut Random,
    ) -> Option<usize> {
        match self {
            Balancer::RoundRobin { next } => {
                let picked = from(*next, candidates.len()).find(|at| candidates[*at].may())?;
                *next = picked + 1;
                Some(picked)
            }
            Balancer::Weighted(smooth) => smooth.pick(candidates),
            Balancer::LeastConnections(least) => least.pick(candidates),
            Balancer::Latency => p2c::pick(candidates, random),
            Balancer::Maglev(maglev) => maglev.pick(hash, |at| candidates[at].may()),
        }
    }
}

/// All indices below `len`, from `start` on and round.
fn from(start: usize, len: usize) -> impl Iterator<Item = usize> {
    (0..len).map(move |step| (start + step) % len)
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn candidates(weights: &[f64]) -> Vec<Candidate> {
        let candidate = |weight| Candidate { weight, in_flight: 0, latency: 0.0 };
        weights.iter().copied().map(candidate).collect()
    }

    /// How often each is picked in so many requests of which none ends.
    fn shares(policy: Policy, weights: &[f64], requests: u64) -> Vec<u32> {
        let names: Vec<_> =
            (0..weights.len()).map(|at| (format!("10.0.0.{at}:80"), weights[at] as u32)).collect();
        let mut balancer = Balancer::new(policy, &names);
        let mut random = Random::new(1);
        let mut candidates = candidates(weights);
        for request in 0..requests {
            let hash = xxhash_rust::xxh3::xxh3_64(&request.to_le_bytes());
            let picked = balancer.pick(&candidates, hash, &mut random).unwrap();
            candidates[picked].in_flight += 1;
        }
        candidates.iter().map(|candidate| candidate.in_flight).collect()
    }

    #[test]
    fn shares_are_what_the_policy_says() {
        assert_eq!(shares(Policy::RoundRobin, &[1.0, 5.0, 1.0], 300), [100, 100, 100]);
        assert_eq!(shares(Policy::Weighted, &[1.0, 5.0, 4.0], 1000), [100, 500, 400]);
        assert_eq!(shares(Policy::LeastConnections, &[1.0, 5.0, 4.0], 1000), [100, 500, 400]);
        for share in shares(Policy::Latency, &[1.0, 1.0, 1.0], 3000) {
            assert!((990..=1010).contains(&share), "{share}: the less loaded of two");
        }
        let maglev = shares(Policy::Maglev, &[1.0, 2.0, 1.0], 20_000);
        for (share, wanted) in maglev.iter().zip([5_000, 10_000, 5_000]) {
            assert!(share.abs_diff(wanted) < wanted / 10, "{maglev:?}");
        }
    }

    #[test]
    fn a_weight_of_nothing_is_never_picked() {
        let policies = [
            Policy::RoundRobin,
            Policy::Weighted,
            Policy::LeastConnections,
            Policy::Latency,
            Policy::Maglev,
        ];
        let names: Vec<_> = (0..3).map(|at| (format!("s{at}"), 1)).collect();
        for policy in policies {
            let mut random = Random::new(7);
            let mut balancer = Balancer::new(policy, &names);
            for hash in 0..100_u64 {
                let hash = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                let only = balancer.pick(&candidates(&[0.0, 0.5, 0.0]), hash, &mut random);
                assert_eq!(only, Some(1), "{policy:?}");
                let none = balancer.pick(&candidates(&[0.0; 3]), hash, &mut random);
                assert_eq!(none, None, "{policy:?}");
            }
            assert_eq!(Balancer::new(policy, &[]).pick(&[], 0, &mut random), None, "{policy:?}");
        }
    }
}
