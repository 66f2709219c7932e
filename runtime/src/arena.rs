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
//! What is given back of a shard's slots is their memory, a [chunk](crate::chunks) at a time once all of
//! its slots are vacant: the address stays, and reads as zeroes, which are a vacant slot. What stays in
//! memory is made so by hand. See [`Arena::shrink`].
//!
//! Who may touch what: `task` and writes to `state` belong to the shard that holds the
//! arena; any thread may read `state`, push on `wakes` and use `gate`.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::chunks::{self, Pages};
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

/// Slots of a chunk.
const CHUNK: usize = chunks::BYTES / size_of::<Slot>();
const CHUNKS: usize = (1 << INDEX_BITS) / CHUNK;
const _: () = assert!(CHUNK.is_power_of_two() && CHUNKS.is_multiple_of(64));

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
    /// The task's allocation; in a vacant slot the next vacant one of its chunk, as a number.
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

    /// Owner only, of a vacant one in no list: it is as if it had never been used.
    fn forget(&self) {
        self.task.set(ptr::null_mut());
        self.set_state(0);
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

/// A chunk of slots, and what its owner knows of it; the latter is kept here between owners.
struct Place {
    slots: AtomicPtr<Slot>,
    /// Head of the vacant slots, index + 1; owner only, as all that follows.
    vacant: AtomicU32,
    /// Slots from here on were never used since the chunk was empty.
    fresh: AtomicU32,
    used: AtomicU32,
}

/// Keeps what many cores write apart from what they only read.
#[repr(align(128))]
struct Apart<T>(T);

/// The part of a shard that other threads may reach.
pub(crate) struct Arena {
    id: u16,
    /// How often a shard has borrowed it.
    lives: AtomicU32,
    event: OnceLock<OwnedFd>,
    places: [Place; CHUNKS],
    /// Bit `c`: all slots of chunk `c` are in use; owner only.
    full: [AtomicU64; CHUNKS / 64],
    /// Chunks that have been used and hold no slot in use; owner only.
    empty: AtomicU32,
    shared: Apart<(WakeList, Gate)>,
    /// Threads that are about to put a slot in the list of wakes.
    waking: Apart<AtomicU32>,
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
            event: OnceLock::new(),
            places: [const {
                Place {
                    slots: AtomicPtr::new(ptr::null_mut()),
                    vacant: AtomicU32::new(0),
                    fresh: AtomicU32::new(0),
                    used: AtomicU32::new(0),
                }
            }; CHUNKS],
            full: [const { AtomicU64::new(0) }; CHUNKS / 64],
            empty: AtomicU32::new(0),
            shared: Apart((WakeList::new(), Gate::new())),
            waking: Apart(AtomicU32::new(0)),
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
        let slots = self.places[index as usize / CHUNK].slots.load(Ordering::Acquire);
        debug_assert!(!slots.is_null());
        // SAFETY: an index exists only after its chunk was published; chunks begin as zeroes, which
        // are slots, have room for `CHUNK` of them and stay for ever.
        unsafe { &*slots.add(index as usize % CHUNK) }
    }

    /// The slot `index`, if its chunk was ever in use.
    #[inline]
    pub(crate) fn try_slot(&self, index: u32) -> Option<&Slot> {
        let place = self.places.get(index as usize / CHUNK)?;
        let slots = place.slots.load(Ordering::Acquire);
        // SAFETY: a chunk begins as zeroes, which are slots, has room for `CHUNK` of them and stays for
        // ever.
        (!slots.is_null()).then(|| unsafe { &*slots.add(index as usize % CHUNK) })
    }

    /// Owner: a vacant slot of the lowest chunk that has one, or none when the arena is full.
    pub(crate) fn take_slot(&self) -> Option<u32> {
        let (word, bits) = self
            .full
            .iter()
            .map(|bits| bits.load(Ordering::Relaxed))
            .enumerate()
            .find(|(_, bits)| *bits != u64::MAX)?;
        let at = word * 64 + bits.trailing_ones() as usize;
        let place = &self.places[at];
        let index = match place.vacant.load(Ordering::Relaxed).checked_sub(1) {
            Some(index) => {
                let next = self.slot(index).task.get().addr() as u32;
                place.vacant.store(next, Ordering::Relaxed);
                index
            }
            None => {
                let fresh = place.fresh.load(Ordering::Relaxed);
                let index = at as u32 * CHUNK as u32 + fresh;
                if index as usize >= MAX_TASKS {
                    return None;
                }
                if place.slots.load(Ordering::Relaxed).is_null() {
                    let pages = Pages::behind(at * CHUNK);
                    place.slots.store(chunks::for_ever(pages).cast(), Ordering::Release);
                }
                if fresh == 0 {
                    self.empty.store(self.empty.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
                }
                place.fresh.store(fresh + 1, Ordering::Relaxed);
                index
            }
        };
        let used = place.used.load(Ordering::Relaxed) + 1;
        place.used.store(used, Ordering::Relaxed);
        if used == 1 {
            self.empty.store(self.empty.load(Ordering::Relaxed) - 1, Ordering::Relaxed);
        }
        if used as usize == CHUNK {
            self.full[word].store(bits | 1 << (at % 64), Ordering::Relaxed);
        }
        Some(index)
    }

    /// Owner: makes a slot vacant; wakers of its task are void from here on.
    pub(crate) fn free_slot(&self, index: u32) {
        let slot = self.slot(index);
        slot.set_state((slot.generation().wrapping_add(1)) << FLAG_BITS);
        let at = index as usize / CHUNK;
        let place = &self.places[at];
        slot.task.set(ptr::without_provenance_mut(place.vacant.load(Ordering::Relaxed) as usize));
        place.vacant.store(index + 1, Ordering::Relaxed);
        let used = place.used.load(Ordering::Relaxed) - 1;
        place.used.store(used, Ordering::Relaxed);
        let full = &self.full[at / 64];
        full.store(full.load(Ordering::Relaxed) & !(1 << (at % 64)), Ordering::Relaxed);
        if used == 0 {
            self.empty.store(self.empty.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        }
    }

    /// Owner, when it has just taken all wakes: gives the memory of one chunk without tasks back, if
    /// there are two.
    ///
    /// No slot of it may be in the list of wakes, or be put there meanwhile. Who wakes says so in
    /// `waking` before it looks whether the slot has a task; so if nobody has said so after all tasks
    /// of the chunk have ended, whoever comes later sees that they have. Those who came before are
    /// done, and their slots would be in the list.
    #[inline]
    pub(crate) fn shrink(&self) {
        if self.empty.load(Ordering::Relaxed) > 1 {
            self.give_back();
        }
    }

    #[cold]
    fn give_back(&self) {
        // Sequentially consistent, as the addition in `wake_remote` is.
        fence(Ordering::SeqCst);
        if self.waking.0.load(Ordering::SeqCst) != 0 || !self.wakes().is_empty() {
            return;
        }
        let is_empty = |place: &&Place| {
            place.used.load(Ordering::Relaxed) == 0 && place.fresh.load(Ordering::Relaxed) > 0
        };
        let Some(place) = self.places.iter().rev().find(is_empty) else { return };
        let slots = place.slots.load(Ordering::Relaxed);
        // SAFETY: the chunk is one of `for_ever`, its slots are vacant and in no list, and zeroes are
        // vacant slots.
        if !unsafe { chunks::clear(slots.cast()) } {
            // One by one, for whoever wakes too late may be looking at one.
            for at in 0..place.fresh.load(Ordering::Relaxed) as usize {
                // SAFETY: it has been handed out, so it is one of the chunk's slots.
                unsafe { &*slots.add(at) }.forget();
            }
        }
        place.vacant.store(0, Ordering::Relaxed);
        place.fresh.store(0, Ordering::Relaxed);
        self.empty.store(self.empty.load(Ordering::Relaxed) - 1, Ordering::Relaxed);
    }

    /// Owner: the numbers of all slots that have been handed out; some are vacant.
    pub(crate) fn handed_out(&self) -> impl Iterator<Item = u32> {
        let count = |place: &Place| place.fresh.load(Ordering::Relaxed);
        self.places.iter().enumerate().flat_map(move |(at, place)| {
            let first = (at * CHUNK) as u32;
            first..first + count(place)
        })
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
        self.waking.0.fetch_add(1, Ordering::SeqCst);
        let state = slot.state.load(Ordering::SeqCst);
        let pushed = generation(state) == id.generation
            && state & ALIVE != 0
            && self.wakes().push(id.index, &slot.link);
        self.waking.0.fetch_sub(1, Ordering::Release);
        if pushed {
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
    use super::*;

    fn id(arena: &Arena, index: u32) -> TaskId {
        TaskId { arena: arena.id(), index, generation: arena.slot(index).generation() }
    }

    #[test]
    fn slots_of_chunks_without_tasks_are_given_back_and_used_again() {
        let arena = Arena::acquire().expect("an arena");
        let count = 2 * CHUNK as u32 + 100;
        let indices: Vec<u32> = (0..count).map(|_| arena.take_slot().expect("a slot")).collect();
        assert!(indices.iter().copied().eq(0..count), "from the lowest on, without gaps");
        let last = count - 1;
        arena.slot(last).set_state(ALIVE);
        let waker = id(arena, last);
        arena.wake_remote(waker);
        indices.iter().for_each(|index| arena.free_slot(*index));
        assert_eq!(arena.handed_out().count(), count as usize);
        // A wake that nobody has taken holds the memory.
        arena.shrink();
        assert_eq!(arena.handed_out().count(), count as usize);
        let mut chain = arena.wakes().take();
        assert_eq!(chain.pop(|index| &arena.slot(index).link), Some(last));
        (0..5).for_each(|_| arena.shrink());
        assert_eq!(arena.handed_out().count(), CHUNK, "one chunk stays");
        // Whoever is late finds nothing to wake.
        arena.wake_remote(waker);
        assert!(arena.wakes().is_empty());
        assert_eq!(arena.slot(last).state(), 0);
        let again: std::collections::BTreeSet<u32> =
            (0..count).map(|_| arena.take_slot().expect("a slot")).collect();
        assert!(again.into_iter().eq(0..count));
        (0..count).for_each(|index| arena.free_slot(index));
        arena.release();
    }
}
