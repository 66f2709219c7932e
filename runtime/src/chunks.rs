//! Growing storage that never moves: chunk `k` holds `first << k` items, so a handful of
//! chunk pointers reach millions of items and growing is one allocation without a copy.

/// Chunk and offset of item `index` when the first chunk holds `1 << first_log2` items.
#[inline]
pub(crate) const fn locate(index: u32, first_log2: u32) -> (usize, usize) {
    let shifted = index as u64 + (1 << first_log2);
    let log2 = shifted.ilog2();
    ((log2 - first_log2) as usize, (shifted - (1 << log2)) as usize)
}

#[cfg(test)]
mod tests {
    use super::locate;

    #[test]
    fn chunks_follow_each_other_without_gaps() {
        let (mut chunk, mut offset) = (0, 0);
        for index in 0..10_000 {
            assert_eq!(locate(index, 4), (chunk, offset));
            offset += 1;
            if offset == 16 << chunk {
                (chunk, offset) = (chunk + 1, 0);
            }
        }
    }
}
