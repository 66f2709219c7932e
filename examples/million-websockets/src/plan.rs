//! How many connections this machine has memory for.

use std::fs;

/// What a connection costs both ends together, in bytes, with room for both ends' buffers.
const BOTH_ENDS: u64 = 2_200;
/// What both ends cost without any, and what is left to the rest of the machine.
const BESIDE: u64 = 768 << 20;
/// What is opened where memory allows.
pub(crate) const MANY: u32 = 1_000_000;
/// Below it the demo shows nothing.
const FEW: u32 = 1_000;

/// How many connections to open where the user did not say.
pub(crate) fn connections(free: u64) -> u32 {
    let room = free.saturating_sub(BESIDE) / BOTH_ENDS;
    // Round numbers read better.
    let round = |count: u64| match count {
        0..10_000 => count / 1_000 * 1_000,
        10_000..100_000 => count / 10_000 * 10_000,
        count => count / 100_000 * 100_000,
    };
    round(room).clamp(FEW.into(), MANY.into()) as u32
}

/// Whether so many connections may be too many, and then what they need, in bytes.
pub(crate) fn too_many(connections: u32, free: u64) -> Option<u64> {
    let needed = u64::from(connections) * BOTH_ENDS + BESIDE;
    (needed > free).then_some(needed)
}

/// Memory that this process and its children may have, in bytes: what the machine has free,
/// and its control group allows.
pub(crate) fn free_memory() -> u64 {
    let info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let free = info.lines().find_map(|line| line.strip_prefix("MemAvailable:")).and_then(|rest| {
        rest.split_whitespace().next().and_then(|number| number.parse::<u64>().ok())
    });
    let number = |name: &str| {
        let text = fs::read_to_string(format!("/sys/fs/cgroup/{name}")).ok()?;
        text.trim().parse::<u64>().ok()
    };
    let allowed =
        number("memory.max").map(|most| most.saturating_sub(number("memory.current").unwrap_or(0)));
    let free = free.map_or(u64::MAX, |kilobytes| kilobytes * 1_024);
    free.min(allowed.unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn less_memory_means_fewer_connections() {
        assert_eq!(connections(16 << 30), MANY);
        assert_eq!(connections(2 << 30), 600_000);
        assert_eq!(connections(1 << 30), 100_000);
        assert_eq!(connections(0), FEW);
        assert!(too_many(1_000_000, 1 << 30).is_some());
        assert!(too_many(1_000_000, 8 << 30).is_none());
        assert!(free_memory() > 0);
    }
}
