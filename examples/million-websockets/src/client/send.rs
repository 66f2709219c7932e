//! Sending at a rate, whether or not answers come: an echo's time counts from when its message
//! was due, so a server that stalls pays for every message it would have had meanwhile.

use std::time::Duration;

use throng::runtime;

use super::Shard;

/// Messages sent before other tasks have their turn.
const BURST: usize = 128;
/// Connections that echo while others open: the first ones.
const PROBES: u32 = 1_000;
/// Rest between two looks at the clock when nothing is due.
const REST: Duration = Duration::from_micros(50);
const SECOND: f64 = 1e9;

impl Shard {
    /// Echoes on the first connections for as long as it is polled.
    pub(super) async fn send_while_opening(&self, rate: f64) {
        if rate > 0.0 {
            while self.pool.len() == 0 {
                runtime::sleep(Duration::from_millis(1)).await;
            }
            self.send_until(rate, u64::MAX, PROBES).await;
        }
    }

    /// Sends `total` messages on random connections, `rate` a second.
    pub(crate) async fn send_at(&self, rate: f64, total: u64) {
        if rate > 0.0 && self.pool.len() > 0 {
            self.send_until(rate, total, u32::MAX).await;
        }
    }

    /// Sends `total` messages on random ones of the first `among` connections.
    async fn send_until(&self, rate: f64, total: u64, among: u32) {
        let clock = self.progress.clock;
        let begin = clock.now();
        let mut random = random(u64::from(self.first) + 1);
        let mut sent = 0;
        let mut burst = Vec::with_capacity(BURST);
        while sent < total {
            let due = (((clock.now() - begin) as f64 / SECOND * rate) as u64).min(total);
            if due <= sent {
                runtime::sleep(REST).await;
                continue;
            }
            let among = among.min(self.pool.len());
            while sent < due && burst.len() < BURST {
                sent += 1;
                let at = begin + (sent as f64 / rate * SECOND) as u64;
                let place = (random() % u64::from(among)) as u32;
                self.pool.prefetch(place);
                burst.push((place, at));
            }
            for (place, at) in burst.drain(..) {
                self.pool.send(place, at);
            }
            runtime::yield_now().await;
        }
    }
}

/// So many places of `len`, each but once, in a random order.
pub(super) fn some_of(len: u32, wanted: u32, seed: u32) -> Vec<u32> {
    let mut random = random(u64::from(seed) + 2);
    let mut below = |bound: u32| (random() % u64::from(bound)) as u32;
    // Selection sampling keeps memory to what is chosen, where a shuffle of all would not.
    let mut missing = wanted.min(len);
    let mut places = Vec::with_capacity(missing as usize);
    for place in 0..len {
        if below(len - place) < missing {
            missing -= 1;
            places.push(place);
        }
    }
    for last in (1..places.len()).rev() {
        places.swap(last, below(last as u32 + 1) as usize);
    }
    places
}

/// Random numbers (xorshift64*).
fn random(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_chosen_once_and_from_everywhere() {
        let mut places = some_of(10_000, 1_000, 3);
        assert!(!places.is_sorted());
        places.sort_unstable();
        places.dedup();
        assert_eq!(places.len(), 1_000);
        for tenth in 0..10 {
            let here = places.iter().filter(|place| **place / 1_000 == tenth).count();
            assert!((50..=150).contains(&here), "{here} of the {tenth}th thousand");
        }
        let mut all = some_of(5, 7, 0);
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2, 3, 4]);
    }
}
