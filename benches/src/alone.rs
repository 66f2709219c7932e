//! The engine alone, in nanoseconds of CPU time: no device, no task, no peer.

use std::io;
use std::time::{Duration, Instant};

use serde_json::{Map, json};

use crate::engine::{BURST, Bed};
use crate::report::Report;
use crate::stats::Samples;

/// Bytes of a message.
const MESSAGE: usize = 64;

/// Has `connections` echo, a burst of them at a time that lie anywhere, `rounds` times for `time`. Echoes
/// are acknowledged `at_once`, or else with the connection's next message.
///
/// # Errors
/// The kernel does not say how much CPU time it took.
pub fn measure(
    connections: usize,
    at_once: bool,
    rounds: usize,
    time: Duration,
) -> io::Result<Report> {
    let mut bed = Bed::new(connections.max(BURST));
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let payload = [0x55; MESSAGE];
    let (mut figures, mut others) = (Vec::new(), Vec::new());
    // The first is for the connections' buffers, which are then there.
    for round in 0..=rounds {
        let (begin, before, mut segments) = (Instant::now(), cpu()?, 0);
        while begin.elapsed() < time {
            for _ in 0..64 {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                bed.scattered_burst(random, &payload, at_once);
                segments += BURST as u64;
            }
        }
        let spent = (cpu()? - before).as_secs_f64();
        if round > 0 {
            figures.push(spent * 1e9 / segments as f64);
            // Who waits for its core has others' data in its caches when it has it again.
            others.push((1.0 - spent / begin.elapsed().as_secs_f64()).max(0.0));
        }
    }
    Ok(Report {
        bench: "engine".into(),
        params: json!({
            "connections": connections,
            "size": MESSAGE,
            "burst": BURST,
            "acknowledged": if at_once { "at once" } else { "with the next" },
        }),
        unit: "ns of CPU time per message received, read, and sent back".into(),
        more_is_better: false,
        throng: Samples::from(figures),
        peers: Vec::new(),
        others: Samples::from(others),
        failures: Vec::new(),
        more: Map::new(),
    })
}

/// CPU time of this thread so far.
fn cpu() -> io::Result<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanos = text.split(' ').next().and_then(|word| word.parse().ok());
    nanos.map(Duration::from_nanos).ok_or_else(|| io::Error::other("no CPU time in schedstat"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scattered_segment_is_echoed() {
        // The bed itself insists on the echoes.
        for at_once in [false, true] {
            let report = measure(500, at_once, 1, Duration::from_millis(20)).expect("schedstat");
            assert_eq!(report.throng.len(), 1);
        }
    }
}
