//! Hugepages: reserved for a run when we may, given back when it ends.

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::host;
use crate::process;

/// Where the kernel takes and gives their number.
pub(crate) const COUNT: &str = "/proc/sys/vm/nr_hugepages";

/// How many there were before us, plus one; 0: nothing was changed.
static BEFORE: AtomicU64 = AtomicU64::new(0);

/// Hugepages that this run has reserved. Dropping it gives them back.
pub(crate) struct Hugepages {
    key: Option<u64>,
}

impl Hugepages {
    /// Makes sure that `pages` default-sized hugepages exist, as far as we may. Everything
    /// works without them, only slower.
    pub(crate) fn reserve(pages: u64) -> Hugepages {
        let none = Hugepages { key: None };
        let Some(before) = count() else { return none };
        if before >= pages || !host::is_root() {
            return none;
        }
        if fs::write(COUNT, pages.to_string()).is_err() {
            return none;
        }
        BEFORE.store(before + 1, Ordering::SeqCst);
        let got = count().unwrap_or(before);
        if got < pages {
            println!("hugepages: {got} of {pages} (memory is short or fragmented)");
        }
        Hugepages { key: Some(process::undo_on_signal(give_back)) }
    }
}

impl Drop for Hugepages {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            process::forget(key);
            give_back();
        }
    }
}

/// How many default-sized hugepages exist; `None` without support for them.
pub(crate) fn count() -> Option<u64> {
    fs::read_to_string(COUNT).ok()?.trim().parse().ok()
}

fn give_back() {
    let before = BEFORE.swap(0, Ordering::SeqCst);
    if before > 0
        && let Err(error) = fs::write(COUNT, (before - 1).to_string())
    {
        eprintln!("xtask: hugepages were not given back: {error}; {COUNT} was {}", before - 1);
    }
}
