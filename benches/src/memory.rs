//! What processes have in memory, and the kernel for their sockets.

use std::io;

/// Bytes of process `pid` in memory, hugepages included, each page that several have in parts.
///
/// # Errors
/// It has ended, or is another user's.
pub fn proportional(pid: u32) -> io::Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let huge = ["Private_Hugetlb:", "Shared_Hugetlb:"].map(|name| field(&text, name).unwrap_or(0));
    let pss = field(&text, "Pss:").ok_or_else(|| io::Error::other("no Pss in smaps_rollup"))?;
    Ok(pss + huge.iter().sum::<u64>())
}

/// The most and the present bytes that process `pid` has had resident since [`forget_peak`], its hugepages
/// not among them.
///
/// # Errors
/// It has ended.
pub fn peak_and_now(pid: u32) -> io::Result<[u64; 2]> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let bytes = |name: &str| {
        field(&text, name).ok_or_else(|| io::Error::other(format!("no {name} in status")))
    };
    Ok([bytes("VmHWM:")?, bytes("VmRSS:")?])
}

/// From now on the peak of process `pid` is that of what comes.
///
/// # Errors
/// It has ended, or is another user's.
pub fn forget_peak(pid: u32) -> io::Result<()> {
    // proc_pid_clear_refs(5)
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5")
}

/// Kernel memory that sockets are made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kernel {
    /// Bytes of the objects that are sockets' own.
    pub sockets: u64,
    /// Bytes of all slabs, whatever they are for.
    pub slab: u64,
    /// Bytes that nobody has.
    pub free: u64,
}

/// The caches that hold one object for each socket, or more. A socket's file has a dentry of its
/// own; as very many others come and go, those are counted by the files.
const CACHES: [&str; 5] = ["TCP", "sock_inode_cache", "filp", "eventpoll_epi", "tcp_bind2_bucket"];

impl Kernel {
    /// At this moment.
    ///
    /// # Errors
    /// `/proc/slabinfo` is root's to read.
    pub fn now() -> io::Result<Kernel> {
        let memory = std::fs::read_to_string("/proc/meminfo")?;
        let of = |name: &str| field(&memory, name).unwrap_or(0);
        let sockets = sockets(&std::fs::read_to_string("/proc/slabinfo")?);
        Ok(Kernel { sockets, slab: of("Slab:"), free: of("MemFree:") })
    }
}

/// slabinfo(5): name, objects in use, objects, bytes of one.
fn sockets(text: &str) -> u64 {
    let cache = |wanted: &str| {
        let line = text.lines().find(|line| line.split_whitespace().next() == Some(wanted))?;
        let mut numbers = line.split_whitespace().skip(1).map(|word| word.parse::<u64>().ok());
        let (used, _, size) = (numbers.next()??, numbers.next()??, numbers.next()??);
        Some((used, size))
    };
    let own: u64 = CACHES.iter().filter_map(|name| cache(name)).map(|(n, size)| n * size).sum();
    let files = cache("filp").map_or(0, |(used, _)| used);
    own + files * cache("dentry").map_or(0, |(_, size)| size)
}

/// `VmRSS:     123 kB`, in bytes.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slabs_are_counted_by_their_objects() {
        let text = "slabinfo - version: 2.1\n# name <active_objs> ...\n\
                    TCPv6 9 9 9 1 1 : tunables 0 0 0\n\
                    TCP      10 104 2368 13 8 : tunables 0 0 0\n\
                    filp     12 100  192 21 1 : tunables\n\
                    dentry 5000 9000 200 21 1 : tunables\n";
        assert_eq!(sockets(text), 10 * 2_368 + 12 * (192 + 200));
        assert_eq!(sockets(""), 0);
        assert_eq!(field("VmHWM:\t  12 kB\nVmRSS:\t  7 kB\n", "VmRSS:"), Some(7 << 10));
    }

    #[test]
    fn a_peak_is_seen_after_it() {
        let pid = std::process::id();
        forget_peak(pid).unwrap();
        let [_, before] = peak_and_now(pid).unwrap();
        let mut block = vec![1_u8; 64 << 20];
        std::hint::black_box(&mut block);
        drop(block);
        let [peak, _] = peak_and_now(pid).unwrap();
        assert!(peak >= before + (60 << 20), "{before} and then {peak}");
        assert!(proportional(pid).unwrap() > 0);
    }
}
