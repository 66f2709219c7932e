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
    pub(super) async fn send_at(&self, rate: f64, total: u64) {
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
