//! Storage for entries of one size that come and go by the million: [chunks](crate::chunks), the free
//! places of each in a list of its own. New entries go to the lowest chunk with room, so that the high ones
//! become empty as entries go; empty ones but one are given back, and the last one, too, where much of it
//! was in use. One entry keeps its chunk: those that stay behind, spread over all, may keep as much memory
//! as all took.

use crate::chunks::{BYTES, Chunk, Pages};

/// What the slab asks of an entry.
pub trait Entry {
    /// A field the slab may use while the entry is free: the next free entry.
    fn link(&mut self) -> &mut u32;

    /// How often its place has been used before, for entries that count that; it is asked of free ones.
    fn generation(&self) -> u32 {
        0
    }

    /// Called on a new entry: names of earlier ones in the same place had lower generations.
    fn set_generation(&mut self, _: u32) {}
}

const END: u32 = u32::MAX;
/// Bytes ever used of a table's only chunk with which it is kept empty: who comes and goes by so many
/// entries does not pay for the system's work, and who does by more hardly does.
const KEPT: usize = BYTES / 2;

/// A slab. Growing copies nothing; what an index names does not move.
///
/// Free entries keep their values, which [`get`](Slab::get) shows, until their chunk is given back; then
/// they are not dropped, so they must own nothing.
#[derive(Debug)]
pub struct Slab<T> {
    chunks: Vec<Chunk<T>>,
    places: Vec<Places>,
    /// Bit `c`: chunk `c` is there and has room.
    room: Vec<u64>,
    /// Chunks that are there without an entry in use.
    empty: usize,
    /// How many of them are to stay: one, or none.
    keep: usize,
    len: usize,
    /// No entry of a chunk that was given back had a higher generation.
    highest: u32,
}

/// What is in use of a chunk.
#[derive(Clone, Copy, Debug)]
struct Places {
    free: u32,
    used: u32,
}

impl<T> Default for Slab<T> {
    fn default() -> Slab<T> {
        Slab {
            chunks: Vec::new(),
            places: Vec::new(),
            room: Vec::new(),
            empty: 0,
            keep: 1,
            len: 0,
            highest: 0,
        }
    }
}

impl<T: Entry> Slab<T> {
    /// Entries in a chunk. Of small ones, which are looked at for next to nothing each time, it is a
    /// power of two, so that an index is taken apart by shifts; of others as many as fit.
    const CHUNK: usize = match Chunk::<T>::CAPACITY {
        all if size_of::<T>() <= 32 => 1 << all.ilog2(),
        all => all,
    };

    /// An empty one, without memory.
    pub fn new() -> Slab<T> {
        Slab::default()
    }

    /// Entries in use.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no entry is in use.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of the entries that were ever used, of chunks that are there.
    pub fn memory(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.len() * size_of::<T>()).sum()
    }

    /// Stores an entry. Its index is below 2^32 - 1.
    ///
    /// # Panics
    /// With 2^32 - 1 entries.
    pub fn insert(&mut self, value: T) -> u32 {
        self.place(|| value, false)
    }

    /// Puts an entry in use again that is as it was when it was removed, but for its link, or else
    /// stores a new one: for large ones that are left as good as new.
    ///
    /// # Panics
    /// As [`insert`](Slab::insert).
    pub fn reuse_or(&mut self, new: impl FnOnce() -> T) -> u32 {
        self.place(new, true)
    }

    #[inline(always)]
    fn place(&mut self, new: impl FnOnce() -> T, keep: bool) -> u32 {
        let at = match self.room.iter().position(|bits| *bits != 0) {
            Some(word) => word * 64 + self.room[word].trailing_zeros() as usize,
            None => self.add_chunk(),
        };
        let (chunk, places) = (&mut self.chunks[at], &mut self.places[at]);
        let index = if places.free == END {
            let mut value = new();
            value.set_generation(self.highest);
            chunk.push(value);
            (at * Self::CHUNK + chunk.len() - 1) as u32
        } else {
            let index = places.free;
            let place = &mut chunk[index as usize % Self::CHUNK];
            places.free = *place.link();
            if !keep {
                let mut value = new();
                value.set_generation(place.generation());
                *place = value;
            }
            index
        };
        self.empty -= usize::from(places.used == 0);
        places.used += 1;
        if places.used as usize == Self::CHUNK {
            self.room[at / 64] &= !(1 << (at % 64));
        }
        self.len += 1;
        index
    }

    /// A chunk where none has room. Its number.
    #[cold]
    fn add_chunk(&mut self) -> usize {
        let at = self.chunks.iter().position(|chunk| !chunk.is_there());
        let at = at.unwrap_or(self.chunks.len());
        assert!((at + 1) * Self::CHUNK <= END as usize, "the slab is full");
        if at == self.chunks.len() {
            self.chunks.push(Chunk::absent());
            self.places.push(Places { free: END, used: 0 });
            self.room.resize(at / 64 + 1, 0);
        }
        self.chunks[at] = Chunk::new(Pages::behind(at * Self::CHUNK));
        self.room[at / 64] |= 1 << (at % 64);
        self.empty += 1;
        at
    }

    /// Frees an entry, which must be in use.
    pub fn remove(&mut self, index: u32) {
        let at = index as usize / Self::CHUNK;
        let (entry, places) =
            (&mut self.chunks[at][index as usize % Self::CHUNK], &mut self.places[at]);
        self.highest = self.highest.max(entry.generation());
        *entry.link() = places.free;
        places.free = index;
        places.used -= 1;
        self.room[at / 64] |= 1 << (at % 64);
        self.len -= 1;
        if self.places[at].used == 0 {
            self.empty += 1;
            let used = self.chunks[at].len() * size_of::<T>();
            self.keep = usize::from(self.len > 0 || used <= KEPT);
        }
    }

    /// Gives one empty chunk back if there are two, or the only one if much of it was in use; to be called
    /// now and then, at times at which nobody holds the index of a free entry to look at it. Indices of its
    /// entries are void from here on.
    #[inline]
    pub fn shrink(&mut self) {
        if self.empty > self.keep {
            self.give_back();
            // Nobody may come to ask again.
            if self.len == 0 && self.empty > self.keep {
                self.give_back();
            }
        }
    }

    #[cold]
    fn give_back(&mut self) {
        let is_empty = |at: &usize| self.places[*at].used == 0 && self.chunks[*at].is_there();
        let Some(at) = (0..self.chunks.len()).rev().find(is_empty) else { return };
        std::mem::replace(&mut self.chunks[at], Chunk::absent()).forget();
        self.places[at].free = END;
        self.room[at / 64] &= !(1 << (at % 64));
        self.empty -= 1;
        if self.len == 0 {
            // Of those that are left, not of the one that became empty last.
            let few = self.chunks.iter().all(|chunk| chunk.len() * size_of::<T>() <= KEPT);
            self.keep = usize::from(few);
        }
    }

    /// The entry, in use or free; the caller knows which.
    ///
    /// # Panics
    /// When its chunk is not there.
    #[inline]
    pub fn get(&self, index: u32) -> &T {
        &self.chunks[index as usize / Self::CHUNK][index as usize % Self::CHUNK]
    }

    /// The same, to change.
    #[inline]
    pub fn get_mut(&mut self, index: u32) -> &mut T {
        &mut self.chunks[index as usize / Self::CHUNK][index as usize % Self::CHUNK]
    }

    /// The entry, in use or free, if its chunk is there and the index was ever given out.
    #[inline]
    pub fn try_get(&self, index: u32) -> Option<&T> {
        self.chunks.get(index as usize / Self::CHUNK)?.get(index as usize % Self::CHUNK)
    }

    /// The same, to change.
    #[inline]
    pub fn try_get_mut(&mut self, index: u32) -> Option<&mut T> {
        self.chunks.get_mut(index as usize / Self::CHUNK)?.get_mut(index as usize % Self::CHUNK)
    }

    /// One past the highest index of an entry that is there, in use or free. Below it chunks may be
    /// missing.
    pub fn end(&self) -> u32 {
        let last = self.chunks.iter().enumerate().rfind(|(_, chunk)| !chunk.is_empty());
        last.map_or(0, |(at, chunk)| (at * Self::CHUNK + chunk.len()) as u32)
    }

    /// All entries with their indices, free ones too.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.chunks.iter().enumerate().flat_map(|(at, chunk)| {
            let first = at * Self::CHUNK;
            chunk.iter().enumerate().map(move |(i, entry)| ((first + i) as u32, entry))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As large as a connection.
    struct Item {
        link: u32,
        generation: u32,
        number: u32,
        _rest: [u64; 30],
    }

    impl Entry for Item {
        fn link(&mut self) -> &mut u32 {
            &mut self.link
        }
        fn generation(&self) -> u32 {
            self.generation
        }
        fn set_generation(&mut self, generation: u32) {
            self.generation = generation;
        }
    }

    fn item(number: u32) -> Item {
        Item { link: 0, generation: 0, number, _rest: [0; 30] }
    }

    const CHUNK: u32 = Chunk::<Item>::CAPACITY as u32;

    fn remove(slab: &mut Slab<Item>, index: u32) {
        slab.get_mut(index).generation += 1;
        slab.remove(index);
        slab.shrink();
    }

    #[test]
    fn chunks_without_entries_are_given_back_but_one() {
        let mut slab = Slab::new();
        let count = 4 * CHUNK + 10;
        for number in 0..count {
            assert_eq!(slab.insert(item(number)), number);
        }
        let full = slab.memory();
        // Entries that stay hold their chunk.
        (0..count).filter(|index| index % CHUNK != 7).for_each(|i| remove(&mut slab, i));
        assert_eq!((slab.len(), slab.memory()), (5, full));
        for at in 1..5 {
            remove(&mut slab, at * CHUNK + 7);
        }
        assert_eq!(slab.memory(), 2 * Chunk::<Item>::CAPACITY * size_of::<Item>());
        assert!(slab.try_get(2 * CHUNK).is_none() && slab.try_get(u32::MAX).is_none());
        assert_eq!(slab.end(), 2 * CHUNK);
        assert_eq!(slab.get(7).number, 7, "what stayed is where it was");
        remove(&mut slab, 7);
        assert_eq!((slab.len(), slab.empty, slab.memory(), slab.end()), (0, 0, 0, 0));
    }

    #[test]
    fn a_chunk_of_which_little_was_used_stays() {
        let mut slab = Slab::new();
        let few = (KEPT / size_of::<Item>()) as u32;
        for count in [few, few + 1] {
            (0..count).for_each(|number| {
                slab.insert(item(number));
            });
            (0..count).for_each(|index| remove(&mut slab, index));
            assert_eq!((slab.len(), slab.memory() == KEPT), (0, count == few));
        }
        // No name comes back, and there is room as before.
        let first = slab.insert(item(0));
        assert_eq!((first, slab.get(first).generation, slab.len()), (0, 2, 1));
        remove(&mut slab, first);
        // Also where the last one to go had a chunk with little in it.
        (0..=CHUNK).for_each(|number| {
            slab.insert(item(number));
        });
        (0..=CHUNK).for_each(|index| remove(&mut slab, index));
        assert_eq!((slab.len(), slab.memory()), (0, 0));
    }

    #[test]
    fn low_chunks_are_filled_first_and_no_name_comes_back() {
        let mut slab = Slab::new();
        let count = 3 * CHUNK;
        (0..count).for_each(|number| {
            slab.insert(item(number));
        });
        // One place in each chunk, the highest first.
        for at in [2, 1, 0] {
            remove(&mut slab, at * CHUNK + 5);
        }
        assert_eq!([(); 3].map(|()| slab.insert(item(0))), [5, CHUNK + 5, 2 * CHUNK + 5]);
        // Places that were used often, and go back with their chunk.
        for _ in 0..9 {
            remove(&mut slab, 2 * CHUNK + 5);
            assert_eq!(slab.insert(item(0)), 2 * CHUNK + 5);
        }
        (CHUNK..count).for_each(|index| remove(&mut slab, index));
        assert!(slab.try_get(2 * CHUNK + 5).is_none());
        let again: Vec<u32> = (CHUNK..count).map(|number| slab.insert(item(number))).collect();
        assert!(again.contains(&(2 * CHUNK + 5)));
        assert!(slab.get(2 * CHUNK + 5).generation >= 11, "ten names have been used");
        // As good as new, and no name of before either.
        remove(&mut slab, 9);
        let old = slab.get(9).generation;
        assert_eq!(slab.reuse_or(|| unreachable!("there is one")), 9);
        assert_eq!((slab.get(9).number, slab.get(9).generation), (9, old));
    }
}
