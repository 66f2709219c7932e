//! Resident memory, as the kernel counts it.

use std::fs;
use std::io;

/// What a process has in memory, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Resident {
    /// Ordinary pages.
    pub(crate) rss: u64,
    /// Explicit hugepages, which are not part of `rss`.
    pub(crate) hugetlb: u64,
}

impl Resident {
    /// Of this process.
    pub(crate) fn of_self() -> io::Result<Resident> {
        let status = fs::read_to_string("/proc/self/status")?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        let rss = field("VmRSS:").ok_or_else(|| io::Error::other("no VmRSS in /proc status"))?;
        Ok(Resident { rss: rss * 1024, hugetlb: field("HugetlbPages:").unwrap_or(0) * 1024 })
    }

    /// Everything.
    pub(crate) fn total(self) -> u64 {
        self.rss + self.hugetlb
    }
}
