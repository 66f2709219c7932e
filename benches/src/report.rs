//! What a comparison has found, as a table and as one JSON object.

use serde_json::{Map, Value, json};

use crate::noise;
use crate::stats::Samples;

/// Rounds of one thing further apart than this share of their median: the machine was too noisy to say.
pub const SCATTER: f64 = 0.3;

/// A comparison with its peers, in one unit.
#[derive(Clone, Debug)]
pub struct Report {
    /// The bench's name.
    pub bench: String,
    /// What was asked for.
    pub params: Value,
    /// What the figures are.
    pub unit: String,
    /// Whether more is better.
    pub more_is_better: bool,
    /// Throng, one figure for each round.
    pub throng: Samples,
    /// The peers, likewise; one without a figure has failed.
    pub peers: Vec<(String, Samples)>,
    /// The share of the cores' time that went to others, 0 to 1, one for each measurement.
    pub others: Samples,
    /// Who failed or answered wrongly, and how: a figure beside which something failed is none.
    pub failures: Vec<String>,
    /// The bench's own.
    pub more: Map<String, Value>,
}

impl Report {
    /// The peer with the best median.
    pub fn best_peer(&self) -> Option<&(String, Samples)> {
        let there = self.peers.iter().filter(|(_, samples)| !samples.is_empty());
        let best = |a: &&(String, Samples), b: &&(String, Samples)| {
            let order = a.1.median().total_cmp(&b.1.median());
            if self.more_is_better { order } else { order.reverse() }
        };
        there.max_by(best)
    }

    /// Throng's median by the best peer's; NaN without one.
    pub fn ratio(&self) -> f64 {
        self.best_peer().map_or(f64::NAN, |(_, peer)| self.throng.median() / peer.median())
    }

    /// Whether the machine was too noisy to say: others took more than
    /// [`TOLERATED`](noise::TOLERATED) of it in the middle round, or what is compared scatters by
    /// more than [`SCATTER`].
    pub fn noisy(&self) -> bool {
        let scatters = |samples: &Samples| samples.spread() > SCATTER * samples.median().abs();
        self.others.median() > noise::TOLERATED
            || scatters(&self.throng)
            || self.best_peer().is_some_and(|(_, peer)| scatters(peer))
    }

    /// The object that `--json` prints.
    pub fn to_json(&self) -> Value {
        let peers: Map<String, Value> =
            self.peers.iter().map(|(name, peer)| (name.clone(), json!(peer.median()))).collect();
        let mut all = json!({
            "bench": self.bench,
            "params": self.params,
            "unit": self.unit,
            "throng": self.throng.median(),
            "spread": self.throng.spread(),
            "peers": peers,
            "best_peer": self.best_peer().map(|(name, _)| name),
            "ratio": self.ratio(),
            "noisy": self.noisy(),
            "others": self.others.median(),
            "failures": self.failures,
        });
        if let Some(all) = all.as_object_mut() {
            all.extend(self.more.clone());
        }
        all
    }

    /// The table.
    pub fn print(&self) {
        println!("{} {}: {}", self.bench, self.params, self.unit);
        let ours = ("throng".to_owned(), self.throng.clone());
        for (name, samples) in std::iter::once(&ours).chain(&self.peers) {
            if samples.is_empty() {
                println!("  {name:<16} none");
                continue;
            }
            let (median, spread) = (samples.median(), samples.spread());
            let percent = 100.0 * spread / median;
            println!("  {name:<16} {:>14}  spread {percent:>4.0} %", figure(median));
        }
        if let Some((name, _)) = self.best_peer() {
            println!("  {:<16} {:>14.2}  to {name}", "ratio", self.ratio());
        }
        for failure in &self.failures {
            println!("  FAILED: {failure}");
        }
        if self.noisy() {
            println!(
                "  the machine was too noisy to say: others had {:.0} % of the cores",
                100.0 * self.others.median()
            );
        }
    }
}

/// With as many digits as say something.
fn figure(value: f64) -> String {
    match value.abs() {
        size if size >= 1_000.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(more_is_better: bool, throng: &[f64], others: f64) -> Report {
        let samples = |values: &[f64]| Samples::from(values.to_vec());
        Report {
            bench: "echo".into(),
            params: json!({ "connections": 1 }),
            unit: "messages".into(),
            more_is_better,
            throng: samples(throng),
            peers: vec![
                ("slow".into(), samples(&[10.0, 11.0, 10.0])),
                ("quick".into(), samples(&[20.0, 20.0, 21.0])),
                ("gone".into(), Samples::default()),
            ],
            others: samples(&[others]),
            failures: Vec::new(),
            more: Map::from_iter([("own".to_owned(), json!(7))]),
        }
    }

    #[test]
    fn the_best_peer_counts() {
        let found = report(true, &[99.0, 100.0, 101.0], 0.01).to_json();
        assert_eq!((&found["best_peer"], &found["ratio"]), (&json!("quick"), &json!(5.0)));
        assert_eq!((&found["throng"], &found["spread"]), (&json!(100.0), &json!(2.0)));
        assert_eq!(found["peers"], json!({ "slow": 10.0, "quick": 20.0, "gone": null }));
        assert_eq!((&found["noisy"], &found["own"]), (&json!(false), &json!(7)));
        let found = report(false, &[5.0], 0.01).to_json();
        assert_eq!((&found["best_peer"], &found["ratio"]), (&json!("slow"), &json!(0.5)));
    }

    #[test]
    fn noise_is_said() {
        assert!(!report(true, &[90.0, 100.0, 110.0], 0.04).noisy());
        assert!(report(true, &[100.0], 0.06).noisy(), "others had the cores");
        assert!(report(true, &[80.0, 100.0, 120.0], 0.0).noisy(), "the rounds differ");
        assert!(report(true, &[], 0.0).ratio().is_nan());
    }
}
