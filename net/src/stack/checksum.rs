//! The Internet checksum (RFC 1071), summed eight bytes at a time.

use crate::tcp::segment::Addr;

/// A running one's-complement sum. Pieces may be added in any number; every piece but the
/// last must have an even length, or be followed through [`Sum::add`], which keeps track.
#[derive(Clone, Copy, Default)]
pub(crate) struct Sum {
    total: u64,
    odd: bool,
}

impl Sum {
    /// The sum over the pseudo-header of RFC 9293 3.1 (IPv4) or RFC 8200 8.1 (IPv6).
    pub(crate) fn pseudo_header(src: &Addr, dst: &Addr, protocol: u8, len: usize) -> Sum {
        // An IPv4-mapped address adds 0xffff for its prefix, which is zero in this arithmetic.
        let address = |addr: &Addr| {
            let bits = u128::from_ne_bytes(addr.0);
            halves(bits as u64) + halves((bits >> 64) as u64)
        };
        let len = u64::from((len as u32).to_be());
        let protocol = u64::from(u16::from(protocol).to_be());
        Sum { total: address(src) + address(dst) + len + protocol, odd: false }
    }

    /// Adds `bytes` where the last piece ended.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        let piece = sum_aligned(bytes);
        // A piece that starts at an odd offset counts with its bytes swapped (RFC 1071 2(B)).
        self.total += if self.odd { u64::from(fold(piece).swap_bytes()) } else { piece };
        self.odd ^= bytes.len() % 2 == 1;
    }

    /// The folded sum, not complemented, in wire order: what a device wants in the checksum
    /// field before it adds the rest.
    pub(crate) fn partial(self) -> [u8; 2] {
        fold(self.total).to_ne_bytes()
    }

    /// The checksum, in wire order.
    pub(crate) fn finish(self) -> [u8; 2] {
        (!fold(self.total)).to_ne_bytes()
    }

    /// Whether a sum over data that includes its checksum field is right.
    pub(crate) fn is_good(self) -> bool {
        fold(self.total) == 0xffff
    }
}

/// The checksum of one piece of memory, in wire order.
pub(crate) fn checksum(bytes: &[u8]) -> [u8; 2] {
    let mut sum = Sum::default();
    sum.add(bytes);
    sum.finish()
}

/// Sums native-endian words; the byte order comes out right at the end (RFC 1071 2(B)).
#[inline]
fn sum_aligned(bytes: &[u8]) -> u64 {
    let (words, tail) = bytes.as_chunks::<8>();
    // What is carried out of the lower half counts for one there (RFC 1071 2): it is added at the end.
    let mut total = 0u128;
    for word in words {
        total += u128::from(u64::from_ne_bytes(*word));
    }
    if !tail.is_empty() {
        total += u128::from(match bytes.last_chunk::<8>() {
            // The last eight, without those of them that are counted.
            Some(last) => (u64::from_le_bytes(*last) >> (64 - 8 * tail.len())).to_le(),
            None => sum_short(tail),
        });
    }
    halves(total as u64) + halves((total >> 64) as u64)
}

/// A word of less than eight bytes and zeroes.
fn sum_short(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)).to_le()
}

/// Both halves of a word, added: a sum of them takes 2^32 before it overflows.
fn halves(word: u64) -> u64 {
    (word & 0xffff_ffff) + (word >> 32)
}

fn fold(total: u64) -> u16 {
    let total = halves(total);
    // Below 2^33 by now, so each step has less to carry: 2^17, then 2^16 at most, and no more.
    let total = (total & 0xffff) + (total >> 16);
    let total = (total & 0xffff) + (total >> 16);
    ((total & 0xffff) + (total >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition of RFC 1071, word by word.
    fn reference(bytes: &[u8]) -> u16 {
        let mut total = 0u32;
        for pair in bytes.chunks(2) {
            total += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        }
        while total > 0xffff {
            total = (total & 0xffff) + (total >> 16);
        }
        total as u16
    }

    #[test]
    fn agrees_with_the_definition_however_it_is_cut() {
        let bytes: Vec<u8> = (0..1501u32).map(|i| (i * 7 + 3) as u8).collect();
        let whole = reference(&bytes);
        for cut in [0, 1, 2, 7, 8, 9, 700, 1501] {
            let mut sum = Sum::default();
            sum.add(&bytes[..cut]);
            sum.add(&bytes[cut..]);
            assert_eq!(sum.finish(), (!whole).to_be_bytes(), "cut at {cut}");
        }
        for len in 0..100 {
            let bytes = &bytes[1501 - len..];
            assert_eq!(checksum(bytes), (!reference(bytes)).to_be_bytes(), "{len} bytes");
        }
        assert_eq!(checksum(&[0xff; 1 << 16]), [0, 0]);
    }

    #[test]
    fn any_sum_folds() {
        let slowly = |mut total: u64| {
            while total > 0xffff {
                total = (total & 0xffff) + (total >> 16);
            }
            total as u16
        };
        for bit in 0..64 {
            for total in [1_u64 << bit, u64::MAX >> bit, u64::MAX << bit, (1 << bit) - 1] {
                assert_eq!(fold(total), slowly(total), "{total:#x}");
            }
        }
    }

    #[test]
    fn mapped_addresses_sum_like_plain_ones() {
        let src = "192.0.2.1".parse::<std::net::IpAddr>().unwrap();
        let dst = "198.51.100.9".parse::<std::net::IpAddr>().unwrap();
        let sum = Sum::pseudo_header(&src.into(), &dst.into(), 6, 20);
        let mut plain = Sum::default();
        plain.add(&[192, 0, 2, 1, 198, 51, 100, 9, 0, 6, 0, 20]);
        assert_eq!(sum.finish(), plain.finish());
    }
}
