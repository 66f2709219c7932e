//! The load generator: opens its share of the connections at a rate, keeps them, sends on them
//! at a rate whether or not answers come, checks every one, closes them.

pub(crate) mod latency;
mod open;
mod payload;
mod pool;
mod send;
pub(crate) mod steps;

use std::cell::Cell;
use std::ops::Range;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use clap::Args;
use futures::future::select;
use throng::runtime::{self, stages};

use latency::{Clock, Recent, Sum};
pub(crate) use pool::Pool;
use steps::{Step, Steps};

use crate::host::House;

/// Longest wait for one connection, for another echo, copy or end where some are missing.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Echoes that one shard waits for at a time when it echoes once on every connection.
const WINDOW: u64 = 4_096;

/// What the client is to do.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Load {
    /// WebSockets opened in a second, at most; 0: as fast as they go
    #[arg(long, default_value_t = 40_000)]
    pub(crate) open_rate: u32,
    /// Connections that echo once when all are open: so many random ones, or all where there are
    /// no more
    #[arg(long, default_value_t = 1_000_000)]
    pub(crate) echoes: u32,
    /// Echoes a second while connections open
    #[arg(long, default_value_t = 1_000)]
    pub(crate) ramp_echo_rate: u32,
    /// Echoes a second on random connections, for --seconds, whether or not answers come
    #[arg(long, default_value_t = 20_000)]
    pub(crate) rate: u32,
    /// How long to send at --rate
    #[arg(long, default_value_t = 5)]
    pub(crate) seconds: u32,
    /// Bytes of a message, 12 or more
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(12..=60_000))]
    pub(crate) size: u32,
    /// How often a connection is tried before it counts as failed.
    #[arg(skip = 1_u32)]
    pub(crate) tries: u32,
}

/// What the client has done so far, to be seen while it runs.
#[derive(Debug)]
pub(crate) struct Progress {
    pub(crate) clock: Clock,
    pub(crate) opened: AtomicU32,
    pub(crate) failed: AtomicU32,
    /// Connections that took more than one try, and errors of tries.
    pub(crate) reopened: AtomicU32,
    errors_said: AtomicU32,
    /// Echoes, of whatever step.
    pub(crate) echoed: AtomicU64,
    pub(crate) wrong: AtomicU64,
    pub(crate) skipped: AtomicU64,
    /// Echoes that never came.
    pub(crate) missing: AtomicU64,
    pub(crate) lost: AtomicU64,
    /// Texts that the run published, and that others did.
    pub(crate) heard: AtomicU64,
    pub(crate) heard_of_others: AtomicU64,
    /// Connections that did not close in time.
    pub(crate) stuck: AtomicU32,
    /// Echoes while connections opened.
    pub(crate) ramp: Sum,
    /// Echoes at the rate that was asked for.
    pub(crate) load: Sum,
    /// Echoes of whatever step, since they were last looked at.
    pub(crate) recent: Recent,
    /// The longest stage of a client's shard, in nanoseconds, while connections opened.
    pub(crate) longest_stage: AtomicU64,
}

impl Progress {
    pub(crate) fn new() -> Arc<Progress> {
        Arc::new(Progress {
            clock: Clock::new(),
            opened: AtomicU32::new(0),
            failed: AtomicU32::new(0),
            reopened: AtomicU32::new(0),
            errors_said: AtomicU32::new(0),
            echoed: AtomicU64::new(0),
            wrong: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
            missing: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            heard: AtomicU64::new(0),
            heard_of_others: AtomicU64::new(0),
            stuck: AtomicU32::new(0),
            ramp: Sum::default(),
            load: Sum::default(),
            recent: Recent::default(),
            longest_stage: AtomicU64::new(0),
        })
    }
}

/// One shard of the client.
pub(crate) struct Shard {
    load: Load,
    house: House,
    /// This shard's connections are `first`, `first + shards`, and so on, below `end`; the server
    /// listens for `of` of them.
    first: u32,
    end: u32,
    of: u32,
    shards: u32,
    pool: Rc<Pool>,
    progress: Arc<Progress>,
    /// What of the pool's counts is in the progress.
    told: Told,
}

#[derive(Default)]
struct Told {
    echoed: Cell<u64>,
    heard: Cell<u64>,
    heard_of_others: Cell<u64>,
    wrong: Cell<u64>,
    lost: Cell<u64>,
}

/// How many of `all` are shard number `shard`'s: of all `shards` together, exactly `all`.
fn share(all: u64, shard: u32, shards: u32) -> u64 {
    all.saturating_sub(shard.into()).div_ceil(shards.into())
}

/// Runs connections `shard`, `shard + shards`, and so on, step by step.
pub(crate) async fn run(
    load: Load,
    connections: u32,
    shard: u16,
    shards: u16,
    steps: Arc<Steps>,
    progress: Arc<Progress>,
) {
    let all = (0..connections, connections);
    let shard = Shard::new(load, House::Many, all, (shard, shards), progress);
    let telling = shard.clone();
    let telling = runtime::spawn_local(async move {
        loop {
            runtime::sleep(Duration::from_millis(20)).await;
            telling.tell();
        }
    });
    for step in Step::ALL {
        steps.begun(step).await;
        match step {
            Step::Open => shard.ramp().await,
            Step::Echo => shard.echo_once().await,
            Step::Load => shard.load().await,
            Step::Broadcast => {}
            Step::Hold => shard.hold(&steps).await,
            Step::Close => shard.close().await,
        }
        shard.tell();
        steps.done(step);
    }
    telling.abort();
}

impl Shard {
    /// Number `shard` of `shards`, with its share of the connections of these numbers, of so many
    /// that the server listens for, from a house.
    pub(crate) fn new(
        load: Load,
        house: House,
        (numbers, of): (Range<u32>, u32),
        (shard, shards): (u16, u16),
        progress: Arc<Progress>,
    ) -> Rc<Shard> {
        let pool = Pool::new(progress.clock, load.size as usize);
        let (first, end) = (numbers.start + u32::from(shard), numbers.end);
        let (shards, told) = (shards.into(), Told::default());
        Rc::new(Shard { load, house, first, end, of, shards, pool, progress, told })
    }

    /// Its connections.
    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// A rate of all shards together as one of this shard.
    fn part(&self, rate: u32) -> f64 {
        f64::from(rate) / f64::from(self.shards)
    }

    async fn ramp(self: &Rc<Self>) {
        stages::measure(true);
        let echoing = self.clone();
        let rate = self.part(self.load.ramp_echo_rate);
        let echoing = runtime::spawn_local(async move { echoing.send_while_opening(rate).await });
        self.open_all().await;
        echoing.abort();
        self.all_echoed().await;
        self.progress.ramp.add(&self.pool.latencies.take());
        if let Some(times) = stages::take() {
            let longest = times.longest().1.as_nanos() as u64;
            self.progress.longest_stage.fetch_max(longest, Ordering::Relaxed);
        }
        stages::measure(false);
    }

    /// Echoes once on every connection, or on as many random ones as were asked for, a window at
    /// a time, until nothing comes back any more.
    async fn echo_once(&self) {
        let counts = &self.pool.counts;
        let wanted = share(self.load.echoes.into(), self.first, self.shards) as u32;
        let places = match wanted < self.pool.len() {
            true => send::some_of(self.pool.len(), wanted, self.first),
            false => (0..self.pool.len()).collect(),
        };
        'all: for place in places {
            let begin = self.progress.clock.now();
            while counts.on_way() >= WINDOW {
                runtime::yield_now().await;
                if self.progress.clock.now() - begin > PATIENCE.as_nanos() as u64 {
                    self.write_off();
                    break 'all;
                }
            }
            self.pool.send(place, self.progress.clock.now());
            runtime::coop::consume_budget().await;
        }
        self.all_echoed().await;
        self.pool.latencies.take();
    }

    async fn load(&self) {
        let total = u64::from(self.load.rate) * u64::from(self.load.seconds);
        let total = share(total, self.first, self.shards);
        self.send_at(self.part(self.load.rate), total).await;
        self.all_echoed().await;
        self.progress.load.add(&self.pool.latencies.take());
    }

    /// Echoes at the rate until all are to be closed.
    async fn hold(&self, steps: &Steps) {
        let sending = pin!(self.send_at(self.part(self.load.rate), u64::MAX));
        select(pin!(steps.begun(Step::Close)), sending).await;
        self.all_echoed().await;
    }

    /// Waits for the echoes that are missing; those that do not come are counted.
    pub(crate) async fn all_echoed(&self) {
        let counts = &self.pool.counts;
        let mut quiet = (counts.on_way(), runtime::now());
        while counts.on_way() > 0 {
            runtime::sleep(Duration::from_millis(1)).await;
            if counts.on_way() < quiet.0 {
                quiet = (counts.on_way(), runtime::now());
            } else if runtime::now() - quiet.1 > PATIENCE {
                self.write_off();
            }
        }
        self.progress.skipped.fetch_add(counts.skipped.take(), Ordering::Relaxed);
    }

    fn write_off(&self) {
        let missing = self.pool.counts.write_off();
        self.progress.missing.fetch_add(missing, Ordering::Relaxed);
    }

    /// Closes all, a window at a time.
    pub(crate) async fn close(&self) {
        let total = self.pool.len();
        let mut quiet = (self.pool.ended(), runtime::now());
        let mut next = 0;
        while self.pool.ended() < total {
            // More may have ended than were closed here: the others were lost.
            while next < total && u64::from(next.saturating_sub(self.pool.ended())) < WINDOW {
                self.pool.close(next);
                next += 1;
                runtime::coop::consume_budget().await;
            }
            if self.pool.ended() > quiet.0 {
                quiet = (self.pool.ended(), runtime::now());
            } else if runtime::now() - quiet.1 > PATIENCE {
                let open = total - self.pool.ended();
                self.progress.stuck.fetch_add(open, Ordering::Relaxed);
                return;
            }
            runtime::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Adds what is new to what can be seen from outside.
    fn tell(&self) {
        let counts = &self.pool.counts;
        let (told, progress) = (&self.told, &self.progress);
        for (count, told, sum) in [
            (&counts.echoed, &told.echoed, &progress.echoed),
            (&counts.heard, &told.heard, &progress.heard),
            (&counts.heard_of_others, &told.heard_of_others, &progress.heard_of_others),
            (&counts.wrong, &told.wrong, &progress.wrong),
            (&counts.lost, &told.lost, &progress.lost),
        ] {
            sum.fetch_add(count.get() - told.replace(count.get()), Ordering::Relaxed);
        }
        progress.recent.take_from(&mut self.pool.recent.borrow_mut());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_even_and_make_up_the_whole() {
        for (all, shards) in [(2_000, 3), (2_000, 7), (5, 2), (2, 64), (0, 3)] {
            let shares: Vec<_> = (0..shards).map(|shard| share(all, shard, shards)).collect();
            assert_eq!(shares.iter().sum::<u64>(), all, "{shards} shards: {shares:?}");
            assert!(shares[0] - shares[shares.len() - 1] <= 1, "{shares:?}");
        }
    }
}
