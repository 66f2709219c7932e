//! Chunks that were made ready before a runtime's shards began, and stay in memory while it runs: what tables
//! give back of them is zeroed and kept.

use std::io;
use std::ops::Range;

use super::BYTES;
use super::pool::{self, Block};

/// The chunks of all runtimes' [`Preallocated`].
pub(super) struct Reserve {
    /// In memory and zero.
    ready: Vec<Block>,
    /// What nobody uses any more, and is not zero.
    used: Vec<Block>,
    /// The address of what is being zeroed.
    at_hand: Option<usize>,
    /// Where its chunks lie, whoever has them.
    ranges: Vec<Range<usize>>,
}

impl Reserve {
    pub(super) const fn new() -> Reserve {
        Reserve { ready: Vec::new(), used: Vec::new(), at_hand: None, ranges: Vec::new() }
    }

    /// Chunks that are ready.
    pub(super) fn len(&self) -> usize {
        self.ready.len()
    }

    /// Whether the chunk at this address belongs to it.
    pub(super) fn owns(&self, address: usize) -> bool {
        self.ranges.iter().any(|range| range.contains(&address))
    }

    /// Whether no table has the chunk at this address.
    pub(super) fn is_idle(&self, address: usize) -> bool {
        let mut blocks = self.ready.iter().chain(&self.used);
        self.at_hand == Some(address) || blocks.any(|block| block.start().addr() == address)
    }

    pub(super) fn take(&mut self) -> Option<Block> {
        self.ready.pop()
    }

    /// Nobody looks any more at this block, which it owns.
    pub(super) fn give_back(&mut self, block: Block) {
        self.used.push(block);
    }

    pub(super) fn has_used(&self) -> bool {
        !self.used.is_empty()
    }

    /// A block that [`zero`] is to have.
    pub(super) fn next_used(&mut self) -> Option<Block> {
        let block = self.used.pop()?;
        self.at_hand = Some(block.start().addr());
        Some(block)
    }

    /// A block that [`zero`] has had; it comes back when it is not wanted here any more.
    pub(super) fn zeroed(&mut self, block: Block) -> Option<Block> {
        self.at_hand = None;
        if !self.owns(block.start().addr()) {
            return Some(block);
        }
        self.ready.push(block);
        None
    }

    /// Lets go of the chunks in `range`. Those that no table has are returned.
    fn less(&mut self, range: &Range<usize>) -> Vec<Block> {
        self.ranges.retain(|other| other != range);
        let inside = |block: &mut Block| range.contains(&block.start().addr());
        let mut gone: Vec<Block> = self.ready.extract_if(.., inside).collect();
        gone.extend(self.used.extract_if(.., inside));
        gone
    }
}

/// Makes a block zero that nobody uses.
pub(super) fn zero(block: &Block) {
    // SAFETY: the block has so many bytes, and nobody else knows it.
    unsafe { block.start().write_bytes(0, BYTES) };
}

/// Memory that is there while this value is, for whichever table of the process asks first.
pub(crate) struct Preallocated(Range<usize>);

impl Preallocated {
    /// Maps and touches `bytes`, rounded up to whole chunks; none for 0.
    ///
    /// # Errors
    /// `OutOfMemory` where the system has not so much to spare, or says so.
    pub(crate) fn new(bytes: usize) -> io::Result<Option<Preallocated>> {
        if bytes == 0 {
            return Ok(None);
        }
        let refused = |why: String| {
            let said = format!("preallocate = {bytes} bytes: {why}");
            io::Error::new(io::ErrorKind::OutOfMemory, said)
        };
        // Asking the system first: most promise memory that they do not have, and end whoever uses it.
        if let Some(available) = pool::available()
            && bytes as u64 > available
        {
            return Err(refused(format!("the system has {available} to spare")));
        }
        let chunks = bytes.div_ceil(BYTES);
        let blocks = pool::map_ready(chunks).map_err(|error| refused(error.to_string()))?;
        let start = blocks.first().map_or(0, |block| block.start().addr());
        let range = start..start + chunks * BYTES;
        let mut pool = pool::lock();
        pool.all.extend(blocks.iter().map(|block| block.start().addr()));
        pool.reserve.ranges.push(range.clone());
        // The lowest are taken first.
        pool.reserve.ready.extend(blocks.into_iter().rev());
        Ok(Some(Preallocated(range)))
    }
}

impl Drop for Preallocated {
    fn drop(&mut self) {
        let gone = pool::lock().reserve.less(&self.0);
        gone.into_iter().for_each(pool::unmap);
    }
}
