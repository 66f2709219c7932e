//! How many connections this machine has memory for.

use std::fs;

/// What a connection costs both ends together, in bytes, with room for both ends' buffers.
const BOTH_ENDS: u64 = 1_600;
/// What both ends cost without any, and what is left to the rest of the machine.
const BESIDE: u64 = 768 << 20;
/// What is opened where memory allows.
pub(crate) const MANY: u32 = 1_000_000;
/// Below it the demo shows nothing.
const FEW: u32 = 1_000;

/// How many of the connections that were asked for there is memory for.
pub(crate) fn connections(wanted: u32, free: u64) -> u32 {
    if needed(wanted) <= free {
        return wanted;
    }
    let room = free.saturating_sub(BESIDE) / BOTH_ENDS;
    // Round numbers read better.
    let round = |count: u64| match count {
        0..10_000 => count / 1_000 * 1_000,
        10_000..100_000 => count / 10_000 * 10_000,
        count => count / 100_000 * 100_000,
    };
    round(room).max(FEW.into()).min(wanted.into()) as u32
}

/// What so many connections may need, in bytes.
pub(crate) fn needed(connections: u32) -> u64 {
    u64::from(connections) * BOTH_ENDS + BESIDE
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
        assert_eq!(connections(MANY, 16 << 30), MANY);
        assert_eq!(connections(1_234_567, 16 << 30), 1_234_567);
        assert_eq!(connections(MANY, 2 << 30), 800_000);
        assert_eq!(connections(MANY, 1 << 30), 100_000);
        assert_eq!(connections(MANY, 0), FEW);
        assert_eq!(connections(10, 0), 10);
        // The ten million, of which both ends may take 22 GB.
        assert!(needed(10_000_000) <= 22_000_000_000);
        assert!(free_memory() > 0);
    }
}
