//! Hugepages: reserved for a run when we may, given back when the last run ends.
//!
//! Runs overlap, and none may take another's pages away. Each holds a shared lock on one file while
//! it runs, which the kernel takes back however the run ends; the first writes into the file how many
//! pages there were, and who finds itself alone at its end gives the others back.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::Path;
use std::sync::Mutex;

use crate::host;
use crate::process;

/// Where the kernel takes and gives their number.
pub(crate) const COUNT: &str = "/proc/sys/vm/nr_hugepages";
/// Held by all runs of this machine that want some.
const LOCK: &str = "/run/throng-hugepages";

/// What this process holds, for a signal's handler to find.
static HELD: Mutex<Option<Held>> = Mutex::new(None);

/// Hugepages that this run has reserved. Dropping it gives them back.
pub(crate) struct Hugepages {
    key: Option<u64>,
}

impl Hugepages {
    /// Makes sure that `pages` default-sized hugepages exist, as far as we may. Everything
    /// works without them, only slower.
    pub(crate) fn reserve(pages: u64) -> Hugepages {
        let none = Hugepages { key: None };
        if count().is_none() || !host::is_root() {
            return none;
        }
        match Held::take(Path::new(LOCK), Path::new(COUNT), pages) {
            Ok(held) => *lock() = Some(held),
            // Where they may not be written, as in most containers, all works without.
            Err(_) => return none,
        }
        let got = count().unwrap_or(0);
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
    number(Path::new(COUNT))
}

fn number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

fn lock() -> std::sync::MutexGuard<'static, Option<Held>> {
    HELD.lock().unwrap_or_else(|poison| poison.into_inner())
}

fn give_back() {
    let held = lock().take();
    if let Some(Err(error)) = held.map(|held| held.give_back(Path::new(COUNT))) {
        eprintln!("xtask: hugepages were not given back: {error}");
    }
}

/// A share of the lock.
struct Held(File);

impl Held {
    /// Takes a share, and has the number in the file `count` be at least `pages`.
    fn take(lock: &Path, count: &Path, pages: u64) -> io::Result<Held> {
        let mut file =
            File::options().read(true).write(true).create(true).truncate(false).open(lock)?;
        loop {
            if alone(&file)? {
                // What is written there already is of a run that was killed, and left its pages.
                let now = number(count).unwrap_or(0);
                let before = before(&mut file)?.map_or(now, |before| before.min(now));
                write(&mut file, &before.to_string())?;
                file.unlock()?;
            }
            file.lock_shared()?;
            // A run that ended between the two has wiped it away; from now on none can.
            if before(&mut file)?.is_some() {
                break;
            }
            file.unlock()?;
        }
        // Under the lock, or a run that ends meanwhile takes away what we have just seen.
        if number(count).unwrap_or(0) < pages {
            fs::write(count, pages.to_string())?;
        }
        Ok(Held(file))
    }

    /// Gives the share back and, if it was the last, the pages that were not there before.
    fn give_back(mut self, count: &Path) -> io::Result<()> {
        self.0.unlock()?;
        if !alone(&self.0)? {
            return Ok(());
        }
        let before = before(&mut self.0)?;
        write(&mut self.0, "")?;
        match before {
            Some(before) if number(count).is_some_and(|now| now > before) => {
                fs::write(count, before.to_string())
            }
            _ => Ok(()),
        }
    }
}

/// How many pages there were before the first of the runs, if that is written there.
fn before(file: &mut File) -> io::Result<Option<u64>> {
    let mut text = String::new();
    file.rewind()?;
    file.read_to_string(&mut text)?;
    Ok(text.trim().parse().ok())
}

/// Whether nobody else holds the lock, which is then ours alone.
fn alone(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn write(file: &mut File, text: &str) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::{Held, number};

    /// Two files of this test's own; the second stands for the kernel's.
    fn files(test: &str, count: u64) -> (PathBuf, PathBuf) {
        let name =
            |what| std::env::temp_dir().join(format!("{test}-{}.{what}", std::process::id()));
        let (lock, kernel) = (name("lock"), name("count"));
        let _ = fs::remove_file(&lock);
        fs::write(&kernel, count.to_string()).expect("a file in the temporary directory");
        (lock, kernel)
    }

    #[test]
    fn the_last_of_overlapping_runs_gives_back() {
        let (lock, kernel) = files("throng-overlap", 3);
        let take = |pages| Held::take(&lock, &kernel, pages).expect("a share");
        let (first, second) = (take(512), take(512));
        assert_eq!(number(&kernel), Some(512));
        first.give_back(&kernel).expect("a share less");
        assert_eq!(number(&kernel), Some(512), "the second run's pages");
        let third = take(600);
        second.give_back(&kernel).expect("a share less");
        assert_eq!(number(&kernel), Some(600));
        third.give_back(&kernel).expect("the last one");
        assert_eq!(number(&kernel), Some(3));
        for file in [lock, kernel] {
            fs::remove_file(file).expect("they are there");
        }
    }

    #[test]
    fn what_a_killed_run_has_left_goes_with_the_next() {
        let (lock, kernel) = files("throng-killed", 0);
        // Its file is closed, and so its lock gone, but nothing is given back.
        drop(Held::take(&lock, &kernel, 512).expect("a share"));
        assert_eq!(number(&kernel), Some(512));
        let next = Held::take(&lock, &kernel, 512).expect("a share");
        next.give_back(&kernel).expect("the last one");
        assert_eq!(number(&kernel), Some(0));
        for file in [lock, kernel] {
            fs::remove_file(file).expect("they are there");
        }
    }
}
