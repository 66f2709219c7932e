//! Power of two choices: of two servers picked at random the one with the lower product of
//! latency and load. Looking at two is nearly as good as looking at all, and it keeps many
//! balancers that know the same from all picking the same server.

use super::Candidate;
use crate::random::Random;

pub(super) fn pick(candidates: &[Candidate], random: &mut Random) -> Option<usize> {
    let count = candidates.iter().filter(|candidate| candidate.may()).count();
    let nth = |n: usize| {
        let mut may = candidates.iter().enumerate().filter(|(_, candidate)| candidate.may());
        may.nth(n).map(|(at, _)| at)
    };
    if count < 2 {
        return nth(0);
    }
    let one = random.below(count);
    // A different one.
    let other = (one + 1 + random.below(count - 1)) % count;
    let (one, other) = (nth(one)?, nth(other)?);
    let (a, b) = (&candidates[one], &candidates[other]);
    // What is not known yet does not count: the load alone decides.
    let known = a.latency > 0.0 && b.latency > 0.0;
    let cost = |candidate: &Candidate| {
        let latency = if known { candidate.latency } else { 1.0 };
        latency * f64::from(candidate.in_flight + 1) / candidate.weight
    };
    Some(if cost(b) < cost(a) { other } else { one })
}

#[cfg(test)]
mod tests {
    use super::super::tests::candidates;
    use super::*;

    fn shares(servers: &[Candidate]) -> Vec<u32> {
        let mut random = Random::new(3);
        let mut shares = vec![0; servers.len()];
        for _ in 0..3000 {
            shares[pick(servers, &mut random).unwrap()] += 1;
        }
        shares
    }

    #[test]
    fn the_slow_server_is_never_the_better_of_two() {
        let mut servers = candidates(&[1.0, 1.0, 1.0]);
        for (server, latency) in servers.iter_mut().zip([0.010, 0.010, 0.100]) {
            server.latency = latency;
        }
        let shares = shares(&servers);
        assert_eq!(shares[2], 0);
        assert!(shares[0].abs_diff(shares[1]) < 300, "{shares:?}");
    }

    #[test]
    fn load_makes_up_for_latency_and_the_unknown_is_tried() {
        let mut servers = candidates(&[1.0, 1.0]);
        (servers[0].latency, servers[0].in_flight) = (0.010, 19);
        servers[1].latency = 0.100;
        assert_eq!(shares(&servers), [0, 3000], "20 times 10 ms against 100 ms");
        servers[1].latency = 0.0;
        assert_eq!(shares(&servers), [0, 3000], "the load alone");
    }
}
