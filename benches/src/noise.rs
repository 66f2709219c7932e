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
}
