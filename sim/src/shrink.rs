//! Which of the things that a failing seed has switched on its failure needs.

use crate::plan::Plan;
use crate::run::{Options, Outcome, run};
use crate::switch::Set;

/// Switches off one thing after the other, as long as the seed still fails. Returns what could
/// be switched off, and the failure that is left.
pub fn shrink(seed: u64, options: &Options) -> (Set, Outcome) {
    let mut best = options.clone();
    best.pcap = None;
    let mut failure = run(seed, &best);
    loop {
        let before = best.without;
        for switch in Plan::draw(seed, best.without).on.iter() {
            let less = Options { without: best.without.with(switch), ..best.clone() };
            let outcome = run(seed, &less);
            if !outcome.failures.is_empty() {
                (best, failure) = (less, outcome);
            }
        }
        if best.without == before {
            return (best.without, failure);
        }
    }
}
