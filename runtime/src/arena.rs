//! Task slots: memory that outlives every waker.
//!
//! A waker is a number (arena, slot, generation) and owns nothing, so cloning and
//! dropping one is free and a waker can never drop a future. That needs slots that stay
//! valid as long as any waker exists, anywhere: so arenas are never freed. A shard
//! borrows one for its life and gives it back; the next shard started in the process
//! uses it again. A waker that outlived its task finds another generation in the slot and
//! does nothing; should it race with the slot's next use, the new task is polled once in
//! vain, which every future must bear anyhow.
//!
//! Who may touch what: `task` and writes to `state` belong to the shard that holds the
//! arena; any thread may read `state`, push on `wakes` and use `gate`.

use std::alloc::{Layout, alloc, handle_alloc_error};
use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::gate::Gate;
use crate::inbound::{Link, WakeList};
use crate::task::Header;

const ARENA_BITS: u32 = 12;
const INDEX_BITS: u32 = 26;
const GENERATION_BITS: u32 = 26;
const _: () = assert!(ARENA_BITS + INDEX_BITS + GENERATION_BITS == usize::BITS);

/// Most tasks a shard can hold.
pub(crate) const MAX_TASKS: usize = (1 << INDEX_BITS) - 1;
/// The number that no arena has, so that whatever has it is no task (see `small_waker`).
pub(crate) const FOREIGN_ARENA: usize = (1 << ARENA_BITS) - 1;
/// Most shards alive at once in a process.
const MAX_ARENAS: usize = FOREIGN_ARENA;

/// log2 of the number of slots in the first chunk.
const FIRST_LOG2: u32 = 8;
const CHUNKS: usize = (INDEX_BITS - FIRST_LOG2 + 1) as usize;

/// The task is in the ready queue.
pub(crate) const QUEUED: u32 = 1 << 0;
/// The task has a future to poll.
pub(crate) const ALIVE: u32 = 1 << 1;
/// A join handle exists.
pub(crate) const HANDLE: u32 = 1 << 2;
/// A waker waits for the end of the task (in the shard's side table).
pub(crate) const WAITER: u32 = 1 << 3;
/// The future is to be dropped instead of polled.
pub(crate) const ABORT: u32 = 1 << 4;
/// The task has ended and its result waits for the handle.
pub(crate) const DONE: u32 = 1 << 5;
const FLAG_BITS: u32 = 6;
const _: () = assert!(FLAG_BITS + GENERATION_BITS == u32::BITS);

/// Chunk and offset of slot `index`: chunk `k` holds `256 << k` slots, so a handful of pointers reach
/// all of them.
#[inline]
const fn locate(index: u32) -> (usize, usize) {
    let shifted = index as u64 + (1 << FIRST_LOG2);
    let log2 = shifted.ilog2();
    ((log2 - FIRST_LOG2) as usize, (shifted - (1 << log2)) as usize)
}

/// What a waker is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TaskId {
    pub(crate) arena: u16,
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

impl TaskId {
    #[inline]
    pub(crate) fn pack(self) -> usize {
        ((self.arena as usize) << (INDEX_BITS + GENERATION_BITS))
            | ((self.index as usize) << GENERATION_BITS)
            | self.generation as usize
    }

    #[inline]
    pub(crate) fn unpack(packed: usize) -> Self {
        TaskId {
            arena: (packed >> (INDEX_BITS + GENERATION_BITS)) as u16,
            index: (packed >> GENERATION_BITS) as u32 & ((1 << INDEX_BITS) - 1),
            generation: packed as u32 & ((1 << GENERATION_BITS) - 1),
        }
    }
}

/// One task's place: 16 bytes.
pub(crate) struct Slot {
    /// The task's allocation; in a vacant slot the next vacant one, as a number.
    task: Cell<*mut Header>,
    /// Generation and flags; written by the owner only.
    state: AtomicU32,
    /// Place in the list of remote wakes.
    pub(crate) link: Link,
}

const _: () = assert!(size_of::<Slot>() == 16);

impl Slot {
    #[inline]
    pub(crate) fn state(&self) -> u32 {
        self.state.load(Ordering::Relaxed)
    }

    /// Owner only.
    #[inline]
    pub(crate) fn set_state(&self, state: u32) {
        self.state.store(state, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn generation(&self) -> u32 {
        generation(self.state())
    }

    /// Owner only: the task's allocation.
    #[inline]
    pub(crate) fn task(&self) -> *mut Header {
        self.task.get()
    }
}

/// The generation in a slot's state.
#[inline]
pub(crate) fn generation(state: u32) -> u32 {
    state >> FLAG_BITS
}

/// Memory for `count` slots, untouched: a slot is made when it is first handed out. An allocator
/// asked for zeroes may write them at once, which for a large chunk takes milliseconds.
fn new_chunk(count: usize) -> *mut Slot {
    let Ok(layout) = Layout::array::<Slot>(count) else {
        unreachable!("at most 2^26 slots of 16 bytes")
    };
    // SAFETY: the layout is not empty.
    let slots = unsafe { alloc(layout) };
    if slots.is_null() {
        handle_alloc_error(layout);
    }
    slots.cast()
}

/// Keeps what many cores write apart from what they only read.
#[repr(align(128))]
struct Apart<T>(T);

/// The part of a shard that other threads may reach.
pub(crate) struct Arena {
    id: u16,
    /// How often a shard has borrowed it.
    lives: AtomicU32,
    /// Head of the vacant slots, index + 1; owner only, kept here between owners.
    vacant: AtomicU32,
    /// Slots from here on were never used; owner only.
    fresh: AtomicU32,
    event: OnceLock<OwnedFd>,
    chunks: [AtomicPtr<Slot>; CHUNKS],
    shared: Apart<(WakeList, Gate)>,
}

// SAFETY: the only part that is not `Sync` is `Slot::task`, which only the shard that holds
// the arena touches; arenas change hands through the mutex of `POOL`.
unsafe impl Sync for Arena {}
// SAFETY: as above.
unsafe impl Send for Arena {}

/// All arenas ever made, by number.
static ARENAS: [AtomicPtr<Arena>; 1 << ARENA_BITS] =
    [const { AtomicPtr::new(ptr::null_mut()) }; 1 << ARENA_BITS];
/// Arenas that no shard holds, and the number made so far.
static POOL: Mutex<(Vec<u16>, usize)> = Mutex::new((Vec::new(), 0));

impl Arena {
    /// Borrows an arena for a shard. Error: 4,095 are in use.
    pub(crate) fn acquire() -> io::Result<&'static Arena> {
        let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(id) = pool.0.pop() {
            let arena = Arena::by_id(id).ok_or_else(|| io::Error::other("arena vanished"))?;
            arena.lives.fetch_add(1, Ordering::Relaxed);
            return Ok(arena);
        }
        let made = pool.1;
        if made == MAX_ARENAS {
            return Err(io::Error::other(format!("more than {MAX_ARENAS} shards in one process")));
        }
        let arena: &'static Arena = Box::leak(Box::new(Arena {
            id: made as u16,
            lives: AtomicU32::new(0),
            vacant: AtomicU32::new(0),
            fresh: AtomicU32::new(0),
            event: OnceLock::new(),
            chunks: [const { AtomicPtr::new(ptr::null_mut()) }; CHUNKS],
            shared: Apart((WakeList::new(), Gate::new())),
        }));
        ARENAS[made].store(ptr::from_ref(arena).cast_mut(), Ordering::Release);
        pool.1 += 1;
        Ok(arena)
    }

    /// Gives the arena back; its slots must be vacant.
    pub(crate) fn release(&'static self) {
        self.gate().awake();
        let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
        pool.0.push(self.id);
    }

    #[inline]
    pub(crate) fn by_id(id: u16) -> Option<&'static Arena> {
        // SAFETY: the pointer is null or comes from a leaked box.
        unsafe { ARENAS[usize::from(id) % ARENAS.len()].load(Ordering::Acquire).as_ref() }
    }

    #[inline]
    pub(crate) fn id(&self) -> u16 {
        self.id
    }

    /// Owner: a number of the shard that holds the arena, which no other one in this process
    /// has (in 2^20 lives of an arena).
    #[inline]
    pub(crate) fn holder(&self) -> u32 {
        (self.lives.load(Ordering::Relaxed) << ARENA_BITS) | u32::from(self.id)
    }

    pub(crate) fn wakes(&self) -> &WakeList {
        &self.shared.0.0
    }

    pub(crate) fn gate(&self) -> &Gate {
        &self.shared.0.1
    }

    /// The slot `index`, which must have been handed out before.
    #[inline]
    pub(crate) fn slot(&self, index: u32) -> &Slot {
        let (chunk, offset) = locate(index);
        let slots = self.chunks[chunk].load(Ordering::Acquire);
        debug_assert!(!slots.is_null());
        // SAFETY: an index exists only after its chunk was published and its slot made
        // (`take_slot`). The chunk has room for `256 << chunk` slots and is never freed;
        // `locate` keeps `offset` below that.
        unsafe { &*slots.add(offset) }
    }

    /// Owner: a vacant slot, or none when the arena is full.
    pub(crate) fn take_slot(&self) -> Option<u32> {
        if let Some(index) = self.vacant.load(Ordering::Relaxed).checked_sub(1) {
            let next = self.slot(index).task.get().addr() as u32;
            self.vacant.store(next, Ordering::Relaxed);
            return Some(index);
        }
        let index = self.fresh.load(Ordering::Relaxed);
        if index as usize >= MAX_TASKS {
            return None;
        }
        let (chunk, offset) = locate(index);
        if self.chunks[chunk].load(Ordering::Relaxed).is_null() {
            self.chunks[chunk]
                .store(new_chunk(1 << (FIRST_LOG2 as usize + chunk)), Ordering::Release);
        }
        // SAFETY: the place is inside the chunk, and nobody knows its index yet. Zeroes are a slot:
        // vacant, generation 0, in no list.
        unsafe { self.chunks[chunk].load(Ordering::Relaxed).add(offset).write_bytes(0, 1) };
        self.fresh.store(index + 1, Ordering::Relaxed);
        Some(index)
    }

    /// Owner: makes a slot vacant; wakers of its task are void from here on.
    pub(crate) fn free_slot(&self, index: u32) {
        let slot = self.slot(index);
        slot.set_state((slot.generation().wrapping_add(1)) << FLAG_BITS);
        slot.task.set(ptr::without_provenance_mut(self.vacant.load(Ordering::Relaxed) as usize));
        self.vacant.store(index + 1, Ordering::Relaxed);
    }

    /// Owner: the number of slots ever handed out.
    pub(crate) fn used(&self) -> u32 {
        self.fresh.load(Ordering::Relaxed)
    }

    /// Owner: the allocation of a task.
    #[inline]
    pub(crate) fn task(&self, index: u32) -> *mut Header {
        self.slot(index).task.get()
    }

    /// Owner: sets the allocation of a task.
    pub(crate) fn set_task(&self, index: u32, task: *mut Header) {
        self.slot(index).task.set(task);
    }

    /// Any thread: wakes a task of this arena's shard.
    pub(crate) fn wake_remote(&self, id: TaskId) {
        let slot = self.slot(id.index);
        if slot.generation() != id.generation {
            return;
        }
        if self.wakes().push(id.index, &slot.link) {
            self.unpark();
        }
    }

    /// Any thread: ends the shard's sleep. Safe to call from a signal handler.
    pub(crate) fn unpark(&self) {
        self.gate().unpark(|| {
            if let Some(event) = self.event.get() {
                let one = 1u64.to_ne_bytes();
                // SAFETY: eight readable bytes and an open descriptor. A full counter
                // (EAGAIN) means that the event is set already.
                unsafe { libc::write(event.as_raw_fd(), one.as_ptr().cast(), one.len()) };
            }
        });
    }

    /// Owner: the descriptor that becomes readable when the shard must not sleep.
    pub(crate) fn event(&self) -> io::Result<BorrowedFd<'_>> {
        if self.event.get().is_none() {
            // SAFETY: no pointers are passed.
            let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            // SAFETY: the descriptor was just made and nobody else owns it.
            let _ = self.event.set(unsafe { OwnedFd::from_raw_fd(fd) });
        }
        self.event.get().map(AsFd::as_fd).ok_or_else(|| io::Error::other("no eventfd"))
    }

    /// Owner: resets the event.
    pub(crate) fn drain_event(&self) {
        if let Some(event) = self.event.get() {
            let mut count = [0u8; 8];
            // SAFETY: eight writable bytes and an open descriptor, which does not block.
            unsafe { libc::read(event.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
        }
    }
}

/// Unparks every shard of the process. Safe to call from a signal handler.
pub(crate) fn unpark_all() {
    for arena in &ARENAS {
        // SAFETY: the pointer is null or comes from a leaked box.
        match unsafe { arena.load(Ordering::Acquire).as_ref() } {
            Some(arena) => arena.unpark(),
            None => break,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::locate;

    #[test]
    fn chunks_follow_each_other_without_gaps() {
        let (mut chunk, mut offset) = (0, 0);
        for index in 0..10_000 {
            assert_eq!(locate(index), (chunk, offset));
            offset += 1;
            if offset == 256 << chunk {
                (chunk, offset) = (chunk + 1, 0);
            }
        }
    }
}
