//! What else ran on the cores while something was measured.

use std::io;
use std::time::{Duration, Instant};

/// A share of the cores' time above this, gone to others, makes a figure doubtful.
pub const TOLERATED: f64 = 0.05;

/// The time that some cores have spent so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Spent {
    busy: Duration,
    /// Taken by the machine below this one.
    stolen: Duration,
}

/// Watches cores while something is measured.
pub struct Watch {
    cores: Vec<usize>,
    before: Spent,
    begin: Instant,
}

impl Watch {
    /// Begins to watch these cores.
    ///
    /// # Errors
    /// `/proc/stat` cannot be read.
    pub fn start(cores: &[usize]) -> io::Result<Watch> {
        let before = read(&std::fs::read_to_string("/proc/stat")?, cores);
        Ok(Watch { cores: cores.to_vec(), before, begin: Instant::now() })
    }

    /// The share of the cores' time since the start, 0 to 1, that went neither to what was
    /// measured, which used `ours` on them, nor to idling.
    ///
    /// # Errors
    /// `/proc/stat` cannot be read.
    pub fn others(&self, ours: Duration) -> io::Result<f64> {
        let after = read(&std::fs::read_to_string("/proc/stat")?, &self.cores);
        Ok(share(self.before, after, ours, self.begin.elapsed() * self.cores.len() as u32))
    }
}

/// Time that a core was away from a thread that did nothing but read the clock.
#[derive(Clone, Debug)]
pub struct Gaps {
    /// The core.
    pub core: usize,
    /// The longest time between two looks at the clock.
    pub longest: Duration,
    /// How many were of a millisecond or longer.
    pub of_a_millisecond: u64,
    /// All of a tenth of a millisecond or longer together.
    pub away: Duration,
}

impl Gaps {
    /// Looks at these cores, all at the same time, for so long.
    ///
    /// # Errors
    /// A thread cannot be tied to one of them.
    pub fn of(cores: &[usize], time: Duration) -> io::Result<Vec<Gaps>> {
        std::thread::scope(|scope| {
            let looking: Vec<_> =
                cores.iter().map(|core| scope.spawn(move || Gaps::look(*core, time))).collect();
            let looked = looking.into_iter().map(|thread| thread.join());
            looked.map(|gaps| gaps.map_err(|_| io::Error::other("a look at a core"))?).collect()
        })
    }

    fn look(core: usize, time: Duration) -> io::Result<Gaps> {
        let mut one = rustix::thread::CpuSet::new();
        one.set(core);
        rustix::thread::sched_setaffinity(None, &one)?;
        let mut gaps =
            Gaps { core, longest: Duration::ZERO, of_a_millisecond: 0, away: Duration::ZERO };
        let begin = Instant::now();
        let mut last = begin;
        while last - begin < time {
            let now = Instant::now();
            gaps.add(now - last);
            last = now;
        }
        Ok(gaps)
    }

    fn add(&mut self, gap: Duration) {
        self.longest = self.longest.max(gap);
        self.of_a_millisecond += u64::from(gap >= Duration::from_millis(1));
        if gap >= Duration::from_micros(100) {
            self.away += gap;
        }
    }

    /// As it is reported.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "core": self.core,
            "longest_us": self.longest.as_nanos() as f64 / 1e3,
            "of_1_ms": self.of_a_millisecond,
            "away_us": self.away.as_nanos() as f64 / 1e3,
        })
    }
}

fn share(before: Spent, after: Spent, ours: Duration, all: Duration) -> f64 {
    let others = (after.busy - before.busy).saturating_sub(ours) + (after.stolen - before.stolen);
    (others.as_secs_f64() / all.as_secs_f64().max(1e-9)).min(1.0)
}

/// Sums the lines of these cores (proc_stat(5)), in hundredths of a second as the kernel has them.
fn read(text: &str, cores: &[usize]) -> Spent {
    let mut spent = Spent::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let core = words.next().and_then(|name| name.strip_prefix("cpu")?.parse().ok());
        if !core.is_some_and(|core| cores.contains(&core)) {
            continue;
        }
        let ticks: Vec<u64> = words.map(|word| word.parse().unwrap_or(0)).collect();
        let tick =
            |index: usize| Duration::from_millis(10 * ticks.get(index).copied().unwrap_or(0));
        // user, nice, system, then idle and iowait, irq, softirq, steal.
        spent.busy += [0, 1, 2, 5, 6].map(tick).iter().sum::<Duration>();
        spent.stolen += tick(7);
    }
    spent
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "cpu  9 9 9 9 9 9 9 9\ncpu0 100 0 50 900 10 0 0 0\n\
                          cpu1 0 0 0 0 0 0 0 0\ncpu10 7 7 7 7 7 7 7 7\nintr 5\n";
    const AFTER: &str = "cpu0 150 10 60 990 10 5 5 20\ncpu1 0 0 100 0 0 0 0 0\n";

    #[test]
    fn others_are_what_is_left() {
        let (before, after) = (read(BEFORE, &[0, 1]), read(AFTER, &[0, 1]));
        // 80 ticks of core 0 and 100 of core 1, and 20 stolen.
        assert_eq!(after.busy - before.busy, Duration::from_millis(1_800));
        let all = Duration::from_secs(4);
        assert_eq!(share(before, after, Duration::from_millis(1_600), all), 0.1);
        // Ticks are coarse: what was measured may seem to have used more than there was.
        assert_eq!(share(before, after, Duration::from_secs(3), all), 0.05);
        assert_eq!(read(BEFORE, &[3]), Spent::default());
    }

    #[test]
    fn gaps_are_long_ones_and_all_cores_are_looked_at() {
        let mut gaps =
            Gaps { core: 0, longest: Duration::ZERO, of_a_millisecond: 0, away: Duration::ZERO };
        [1, 99, 100, 1_000, 2_500]
            .into_iter()
            .map(Duration::from_micros)
            .for_each(|gap| gaps.add(gap));
        assert_eq!(gaps.longest, Duration::from_micros(2_500));
        assert_eq!((gaps.of_a_millisecond, gaps.away), (2, Duration::from_micros(3_600)));
        let looked = Gaps::of(&[0], Duration::from_millis(5)).unwrap();
        assert!(looked[0].longest > Duration::ZERO && looked[0].core == 0);
        assert!(Gaps::of(&[1_000], Duration::ZERO).is_err());
    }
}
