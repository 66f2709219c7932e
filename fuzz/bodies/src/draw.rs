//! Decisions read from a fuzzer's bytes.

use arbitrary::Unstructured;

/// Bytes that are read as decisions; where they end, every decision is the first of its kind.
#[derive(Debug)]
pub struct Draw<'a> {
    bytes: Unstructured<'a>,
    /// How many events may follow.
    events: u32,
}

impl<'a> Draw<'a> {
    /// Decisions from these bytes, about so many events at most.
    pub fn new(data: &'a [u8], events: u32) -> Draw<'a> {
        Draw { bytes: Unstructured::new(data), events }
    }

    /// Begins the next event, if there is one.
    pub fn another(&mut self) -> bool {
        let more = self.events > 0 && !self.bytes.is_empty();
        self.events -= u32::from(more);
        more
    }

    /// A byte.
    pub fn byte(&mut self) -> u8 {
        self.bytes.arbitrary().unwrap_or_default()
    }

    /// Sixteen bits.
    pub fn word(&mut self) -> u16 {
        self.bytes.arbitrary().unwrap_or_default()
    }

    /// Thirty-two bits.
    pub fn long(&mut self) -> u32 {
        self.bytes.arbitrary().unwrap_or_default()
    }

    /// A number under `n`, which is not 0.
    pub fn below(&mut self, n: u32) -> u32 {
        self.bytes.int_in_range(0..=n - 1).unwrap_or_default()
    }

    /// True in one of `n` cases.
    pub fn one_in(&mut self, n: u32) -> bool {
        self.below(n) == n - 1
    }

    /// One of `choices`, which are not none.
    pub fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u32) as usize]
    }

    /// At most `most` of the bytes that are left, as they are.
    pub fn bytes(&mut self, most: usize) -> &'a [u8] {
        let n = most.min(self.bytes.len());
        self.bytes.bytes(n).unwrap_or_default()
    }
}
