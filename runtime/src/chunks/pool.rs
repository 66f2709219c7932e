//! Where chunks come from and go to. A thread of the process makes huge pages ready before they are asked
//! for, and takes back what is given back: zeroing 2 MiB takes a quarter of a millisecond, ten where a
//! hypervisor has to find the memory first, and taking as many small pages apart a tenth. It starts when a
//! table first asks for one.

use std::alloc::{Layout, handle_alloc_error};
use std::io;
use std::ptr::NonNull;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::reserve::{self, Reserve};
use super::{BYTES, Pages};
use crate::affinity::Cores;

/// Chunks that are ready before they are asked for, once tables grow; doubled when one is missing,
/// until none has been asked for in a while.
const AHEAD: usize = 1;
/// Most of them.
const FAR_AHEAD: usize = 16;
/// The while.
const QUIET: Duration = Duration::from_secs(1);
/// Chunks that come back before the allocator is asked, too, for what it keeps.
const MANY: usize = 8;
/// Between two huge pages: on few cores a shard waits for the thread that makes them ready.
const PAUSE: Duration = Duration::from_millis(1);

/// Memory of [`BYTES`], which is zero when it comes.
pub(super) struct Block(NonNull<u8>);

// SAFETY: it is the only one that knows its memory.
unsafe impl Send for Block {}

impl Block {
    pub(super) fn start(&self) -> *mut u8 {
        self.0.as_ptr()
    }

    /// Its address, for [`from_start`](Block::from_start).
    pub(super) fn into_start(self) -> NonNull<u8> {
        self.0
    }

    /// The block again.
    ///
    /// # Safety
    /// The address is of [`into_start`](Block::into_start), and nobody else uses it.
    pub(super) unsafe fn from_start(start: NonNull<u8>) -> Block {
        Block(start)
    }
}

pub(super) struct Pool {
    /// What a runtime has made ready before it began.
    pub(super) reserve: Reserve,
    /// Huge pages, touched.
    ready: Vec<Block>,
    /// How many are to be ready.
    ahead: usize,
    /// What nobody uses any more.
    returned: Vec<Block>,
    /// How many have come back since the allocator was asked.
    shrunk: usize,
    /// Addresses of all that the system has given.
    pub(super) all: Vec<usize>,
    helper: Helper,
    /// Where the helper belongs, unless where the shard runs that starts it.
    cores: Option<Cores>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Helper {
    None,
    Runs,
    /// It could not be started, there are no huge pages, or none are wanted.
    Useless,
}

static POOL: Mutex<Pool> = Mutex::new(Pool {
    reserve: Reserve::new(),
    ready: Vec::new(),
    ahead: AHEAD,
    returned: Vec::new(),
    shrunk: 0,
    all: Vec::new(),
    helper: Helper::None,
    cores: None,
});
static WORK: Condvar = Condvar::new();

pub(super) fn lock() -> MutexGuard<'static, Pool> {
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The thread that makes chunks ready, should it start, runs on these cores.
pub(crate) fn keep_to(cores: Cores) {
    lock().cores = Some(cores);
}

/// From now on every chunk has ordinary pages: for a process that must be small before all.
pub fn use_small_pages() {
    lock().helper = Helper::Useless;
}

/// Bytes in memory of all chunks of the process that tables hold. It asks the system for each: for tests
/// and tools.
pub fn resident() -> usize {
    let pool = lock();
    let idle = |address: &usize| {
        let mut idle = pool.ready.iter().chain(&pool.returned);
        pool.reserve.is_idle(*address) || idle.any(|block| block.start().addr() == *address)
    };
    pool.all.iter().filter(|address| !idle(address)).copied().map(system::resident).sum()
}

/// A block, zeroed.
pub(super) fn take(pages: Pages) -> Block {
    let mut pool = lock();
    // A table's first chunk, too: the memory is there, used or not.
    if let Some(block) = pool.reserve.take() {
        if pool.reserve.len() == 0 {
            // The next one is not to be missing.
            pool.start_helper();
            WORK.notify_one();
        }
        return block;
    }
    if pages == Pages::Huge {
        let block = pool.ready.pop();
        pool.start_helper();
        WORK.notify_one();
        if let Some(block) = block {
            return block;
        }
        if pool.helper == Helper::Runs {
            pool.ahead = FAR_AHEAD.min(pool.ahead * 2);
        }
    }
    drop(pool);
    let Some(block) = map() else { handle_alloc_error(Layout::new::<[u8; BYTES]>()) };
    system::make_small(&block);
    block
}

/// See `chunks::clear`.
///
/// # Safety
/// The range must be a block whose content is of no importance.
pub(super) unsafe fn clear(start: *mut u8) -> bool {
    // SAFETY: as the caller says.
    !lock().reserve.owns(start.addr()) && unsafe { system::clear(start) }
}

pub(super) use system::available;

/// So many blocks side by side, all in memory.
pub(super) fn map_ready(chunks: usize) -> io::Result<Vec<Block>> {
    system::map_ready(chunks)
}

/// Nobody will look at the block again.
pub(super) fn give_back(block: Block) {
    let mut pool = lock();
    let is_reserve = pool.reserve.owns(block.start().addr());
    if is_reserve {
        // To make it zero is the helper's.
        pool.start_helper();
    }
    match pool.helper == Helper::Runs {
        true => {
            // Tables shrink.
            pool.ahead = AHEAD;
            pool.shrunk += 1;
            match is_reserve {
                true => pool.reserve.give_back(block),
                false => pool.returned.push(block),
            }
            WORK.notify_one();
        }
        false if is_reserve => {
            pool.reserve.give_back(block);
            drop(zero_one(pool));
        }
        false => {
            drop(pool);
            unmap(block);
        }
    }
}

/// Makes a block of the reserve zero, if one has come back.
fn zero_one(mut pool: MutexGuard<'static, Pool>) -> MutexGuard<'static, Pool> {
    let Some(block) = pool.reserve.next_used() else { return pool };
    drop(pool);
    reserve::zero(&block);
    pool = lock();
    if let Some(block) = pool.reserve.zeroed(block) {
        drop(pool);
        unmap(block);
        pool = lock();
    }
    pool
}

fn map() -> Option<Block> {
    let block = system::map()?;
    lock().all.push(block.0.addr().get());
    Some(block)
}

pub(super) fn unmap(block: Block) {
    let address = block.0.addr().get();
    let all = &mut lock().all;
    if let Some(at) = all.iter().position(|there| *there == address) {
        all.swap_remove(at);
    }
    system::unmap(block);
}

impl Pool {
    /// How many huge pages are to be ready, beside the reserve.
    fn wanted(&self) -> usize {
        self.ahead.saturating_sub(self.reserve.len())
    }

    fn start_helper(&mut self) {
        if self.helper == Helper::None {
            let thread = thread::Builder::new().name("throng-memory".into());
            self.helper = match system::HUGE_PAGES.then(|| thread.spawn(help)) {
                Some(Ok(_)) => Helper::Runs,
                Some(Err(error)) => {
                    tracing::warn!("no thread to prepare memory: {error}");
                    Helper::Useless
                }
                None => Helper::Useless,
            };
        }
    }
}

/// The helper's thread, which stays for the life of the process.
fn help() {
    let mut pool = lock();
    if let Some(Err(error)) = pool.cores.map(|cores| cores.pin()) {
        tracing::warn!("the thread that prepares memory shares a shard's core: {error}");
    }
    loop {
        if let Some(block) = pool.returned.pop() {
            drop(pool);
            unmap(block);
        } else if pool.reserve.has_used() {
            pool = zero_one(pool);
            continue;
        } else if pool.ready.len() > pool.wanted() {
            let spare = pool.ready.pop();
            drop(pool);
            spare.into_iter().for_each(unmap);
        } else if pool.helper == Helper::Runs && pool.ready.len() < pool.wanted() {
            drop(pool);
            let block = map();
            let is_huge = block.as_ref().is_some_and(system::make_huge);
            pool = lock();
            match block {
                Some(block) if is_huge => {
                    pool.ready.push(block);
                    drop(pool);
                    thread::sleep(PAUSE);
                    pool = lock();
                }
                block => {
                    pool.helper = Helper::Useless;
                    drop(pool);
                    block.into_iter().for_each(unmap);
                    pool = lock();
                }
            }
            continue;
        } else if pool.ahead == AHEAD && pool.shrunk < MANY {
            pool = WORK.wait(pool).unwrap_or_else(PoisonError::into_inner);
            continue;
        } else {
            let waited = WORK.wait_timeout(pool, QUIET).unwrap_or_else(PoisonError::into_inner);
            pool = waited.0;
            if !waited.1.timed_out() {
                continue;
            }
            pool.ahead = AHEAD;
            if pool.shrunk >= MANY {
                pool.shrunk = 0;
                drop(pool);
                // Whoever was in these chunks had memory of the allocator's, too.
                system::trim();
            } else {
                drop(pool);
            }
        }
        pool = lock();
    }
}

/// Linux: memory of its own for each block.
#[cfg(all(target_os = "linux", not(miri)))]
mod system {
    use std::io;
    use std::ptr::{self, NonNull};

    use super::{BYTES, Block};

    pub(super) const HUGE_PAGES: bool = true;

    /// Maps `bytes`, a multiple of the page.
    fn map_some(bytes: usize) -> Option<*mut u8> {
        let (access, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: the system chooses a vacant address.
        let start = unsafe { libc::mmap(ptr::null_mut(), bytes, access, flags, -1, 0) };
        (start != libc::MAP_FAILED).then_some(start.cast())
    }

    /// # Safety
    /// The range must be mapped by `map_some` and used by nobody.
    unsafe fn unmap_some(start: *mut u8, bytes: usize) {
        // SAFETY: as the caller says.
        unsafe { libc::munmap(start.cast(), bytes) };
    }

    pub(super) fn map() -> Option<Block> {
        // Systems that know huge pages align such a mapping by themselves.
        let start = map_some(BYTES)?;
        if start.addr().is_multiple_of(BYTES) {
            return NonNull::new(start).map(Block);
        }
        // SAFETY: nobody knows it yet.
        unsafe { unmap_some(start, BYTES) };
        let start = map_some(2 * BYTES)?;
        let before = start.addr().next_multiple_of(BYTES) - start.addr();
        // SAFETY: both are parts of the mapping outside the block.
        unsafe {
            if before > 0 {
                unmap_some(start, before);
            }
            unmap_some(start.wrapping_add(before + BYTES), BYTES - before);
        }
        NonNull::new(start.wrapping_add(before)).map(Block)
    }

    pub(super) fn map_ready(chunks: usize) -> io::Result<Vec<Block>> {
        let bytes = chunks.checked_mul(BYTES).filter(|bytes| *bytes <= isize::MAX as usize - BYTES);
        let bytes = bytes.ok_or(io::ErrorKind::OutOfMemory)?;
        let start = map_some(bytes + BYTES).ok_or_else(io::Error::last_os_error)?;
        let before = start.addr().next_multiple_of(BYTES) - start.addr();
        let first = start.wrapping_add(before);
        // SAFETY: both are parts of the mapping outside the blocks.
        unsafe {
            if before > 0 {
                unmap_some(start, before);
            }
            unmap_some(first.wrapping_add(bytes), BYTES - before);
        }
        // SAFETY: advice about memory that nobody knows yet; a system without huge pages refuses it.
        unsafe { libc::madvise(first.cast(), bytes, libc::MADV_HUGEPAGE) };
        // A system may promise more than it has: this one call says whether it is there.
        // SAFETY: as above.
        if unsafe { libc::madvise(first.cast(), bytes, libc::MADV_POPULATE_WRITE) } != 0 {
            let error = io::Error::last_os_error();
            if error.raw_os_error() != Some(libc::EINVAL) {
                // SAFETY: nobody knows it.
                unsafe { unmap_some(first, bytes) };
                return Err(error);
            }
            // Linux before 5.14.
            for at in (0..bytes).step_by(4096) {
                // SAFETY: within the mapping, which is zero already.
                unsafe { first.add(at).write_volatile(0) };
            }
        }
        let blocks = (0..chunks).map(|i| NonNull::new(first.wrapping_add(i * BYTES)).map(Block));
        blocks.collect::<Option<_>>().ok_or(io::ErrorKind::OutOfMemory.into())
    }

    /// Bytes that the system can give without swapping, if it says so.
    pub(in crate::chunks) fn available() -> Option<u64> {
        let all = std::fs::read_to_string("/proc/meminfo").ok()?;
        let line = all.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
        line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
    }

    pub(super) fn unmap(block: Block) {
        // SAFETY: nobody else knows the block.
        unsafe { unmap_some(block.start(), BYTES) };
    }

    /// Has the allocator give back the pages of what was freed: the GNU C library keeps them below the
    /// highest block in use. Threads that ask for memory of the same arena meanwhile wait for it.
    pub(super) fn trim() {
        #[cfg(target_env = "gnu")]
        // SAFETY: it touches what is free only.
        unsafe {
            libc::malloc_trim(0);
        }
    }

    /// See `chunks::clear`.
    ///
    /// # Safety
    /// The range must be a block whose content is of no importance.
    pub(in crate::chunks) unsafe fn clear(start: *mut u8) -> bool {
        // SAFETY: as the caller says.
        unsafe {
            libc::madvise(start.cast(), BYTES, libc::MADV_NOHUGEPAGE);
            libc::madvise(start.cast(), BYTES, libc::MADV_DONTNEED) == 0
        }
    }

    /// Has the block stay ordinary pages, also where the system makes huge ones without being asked:
    /// a table of a few items would take 2 MiB, and its shard would wait until they are zeroed.
    pub(super) fn make_small(block: &Block) {
        // SAFETY: advice about memory that this block owns. A system without huge pages refuses it.
        unsafe { libc::madvise(block.start().cast(), BYTES, libc::MADV_NOHUGEPAGE) };
    }

    /// Makes the block a huge page, in memory, if the system has one. Returns whether it may be one.
    pub(super) fn make_huge(block: &Block) -> bool {
        // SAFETY: advice about memory that this block owns.
        if unsafe { libc::madvise(block.start().cast(), BYTES, libc::MADV_HUGEPAGE) } != 0 {
            return false;
        }
        // Where memory is too scattered for a huge page this is a small one, and the rest comes as it
        // is touched.
        // SAFETY: the block is writable, and zero it is already.
        unsafe { block.start().write_volatile(0) };
        true
    }

    pub(super) fn resident(address: usize) -> usize {
        // SAFETY: no pointer is passed.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096);
        let mut pages = [0u8; BYTES / 4096];
        let start = ptr::without_provenance_mut(address);
        // SAFETY: there is room for a byte for each page. A range that is gone is an error.
        if unsafe { libc::mincore(start, BYTES, pages.as_mut_ptr()) } != 0 {
            return 0;
        }
        pages.iter().filter(|state| **state & 1 != 0).count() * page
    }
}

/// Elsewhere: the allocator's.
#[cfg(not(all(target_os = "linux", not(miri))))]
mod system {
    use std::alloc::{Layout, alloc_zeroed, dealloc};
    use std::io;
    use std::ptr::NonNull;

    use super::{BYTES, Block};

    pub(super) const HUGE_PAGES: bool = false;

    fn layout() -> Layout {
        let Ok(layout) = Layout::from_size_align(BYTES, BYTES) else {
            unreachable!("a power of two")
        };
        layout
    }

    pub(super) fn map() -> Option<Block> {
        // SAFETY: the layout is not empty.
        NonNull::new(unsafe { alloc_zeroed(layout()) }).map(Block)
    }

    /// Not side by side, so each is known by itself: there are no huge pages to be had here.
    pub(super) fn map_ready(_: usize) -> io::Result<Vec<Block>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(in crate::chunks) fn available() -> Option<u64> {
        None
    }

    pub(super) fn unmap(block: Block) {
        // SAFETY: it was allocated with this layout, and nobody else knows it.
        unsafe { dealloc(block.start(), layout()) };
    }

    /// See `chunks::clear`.
    ///
    /// # Safety
    /// None is needed here.
    pub(in crate::chunks) unsafe fn clear(_: *mut u8) -> bool {
        false
    }

    pub(super) fn trim() {}

    pub(super) fn make_small(_: &Block) {}

    pub(super) fn make_huge(_: &Block) -> bool {
        false
    }

    pub(super) fn resident(_: usize) -> usize {
        BYTES
    }
}
