//! Storage for entries of one size: chunks that never move, free entries in a list.

/// What the slab asks of an entry.
pub(super) trait Entry {
    /// A field the slab may use while the entry is free: the next free entry.
    fn link(&mut self) -> &mut u32;
    /// Called on a new value that takes the place of `old`.
    fn succeed(&mut self, old: &Self);
}

const END: u32 = u32::MAX;

/// A slab of at most 2^30 entries. Growing allocates another chunk and copies nothing.
#[derive(Debug)]
pub(super) struct Slab<T> {
    chunks: Vec<Vec<T>>,
    free: u32,
    len: usize,
}

impl<T: Entry> Slab<T> {
    /// Entries in a chunk: as many as fit 1 MiB, a power of two.
    const CHUNK: usize = {
        let fit = (1 << 20) / size_of::<T>();
        if fit.is_power_of_two() { fit } else { fit.next_power_of_two() / 2 }
    };

    pub(super) fn new() -> Slab<T> {
        Slab { chunks: Vec::new(), free: END, len: 0 }
    }

    /// Entries in use.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Bytes of memory held.
    pub(super) fn memory(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.len() * size_of::<T>()).sum()
    }

    pub(super) fn insert(&mut self, mut value: T) -> u32 {
        self.len += 1;
        if self.free != END {
            let index = self.free;
            let place = self.get_mut(index);
            let next = *place.link();
            value.succeed(place);
            *place = value;
            self.free = next;
            return index;
        }
        if self.chunks.last().is_none_or(|chunk| chunk.len() == Self::CHUNK) {
            self.chunks.push(Vec::with_capacity(Self::CHUNK));
        }
        let before = (self.chunks.len() - 1) * Self::CHUNK;
        let last = self.chunks.last_mut().expect("a chunk was just made sure of");
        last.push(value);
        (before + last.len() - 1) as u32
    }

    /// Puts an entry, which must be in use, on the free list.
    pub(super) fn remove(&mut self, index: u32) {
        let free = self.free;
        *self.get_mut(index).link() = free;
        self.free = index;
        self.len -= 1;
    }

    /// The entry, in use or free; the caller knows which.
    pub(super) fn get(&self, index: u32) -> &T {
        &self.chunks[index as usize / Self::CHUNK][index as usize % Self::CHUNK]
    }

    pub(super) fn get_mut(&mut self, index: u32) -> &mut T {
        &mut self.chunks[index as usize / Self::CHUNK][index as usize % Self::CHUNK]
    }

    /// The entry if the index was ever given out.
    pub(super) fn try_get(&self, index: u32) -> Option<&T> {
        self.chunks.get(index as usize / Self::CHUNK)?.get(index as usize % Self::CHUNK)
    }

    /// The same, to change.
    pub(super) fn try_get_mut(&mut self, index: u32) -> Option<&mut T> {
        self.chunks.get_mut(index as usize / Self::CHUNK)?.get_mut(index as usize % Self::CHUNK)
    }

    /// All entries with their indices, free ones too.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.chunks.iter().flatten().enumerate().map(|(i, entry)| (i as u32, entry))
    }
}
