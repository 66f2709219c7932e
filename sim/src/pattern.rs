//! What streams carry: a byte for each seed and offset, so that a receiver knows what has to
//! come next and any loss, repetition or exchange shows.

fn word(seed: u64, index: u64) -> [u8; 8] {
    let mixed = (index ^ seed.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9).to_be_bytes()
}

/// `len` bytes of the stream `seed` from `offset` on.
pub fn bytes(seed: u64, offset: u64, len: usize) -> Vec<u8> {
    let skip = (offset % 8) as usize;
    let words = (skip + len).div_ceil(8) as u64;
    let mut out = Vec::with_capacity(words as usize * 8);
    (offset / 8..offset / 8 + words).for_each(|index| out.extend_from_slice(&word(seed, index)));
    out.drain(..skip);
    out.truncate(len);
    out
}

/// Whether `found` is what the stream `seed` has at `offset`.
pub fn holds(seed: u64, offset: u64, found: &[u8]) -> bool {
    found == bytes(seed, offset, found.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_the_same_in_any_pieces() {
        let whole = bytes(7, 0, 100);
        for from in 0..50 {
            assert_eq!(bytes(7, from, 31), whole[from as usize..][..31]);
        }
        assert!(holds(7, 13, &whole[13..40]) && !holds(7, 14, &whole[13..40]));
        assert!(!holds(8, 13, &whole[13..40]));
    }
}
