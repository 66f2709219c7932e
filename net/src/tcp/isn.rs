//! Secrets put to use: initial sequence numbers, timestamp offsets, hash keys.

use throng_runtime::Instant;

use super::segment::FourTuple;
use super::seq::SeqNum;

/// The engine's secret, split by purpose.
#[derive(Clone)]
pub(super) struct Secret {
    isn: [u64; 2],
    timestamps: [u64; 2],
    /// What keys of SYN cookies are derived from.
    pub(super) cookies: [u64; 2],
    /// Key of the groups of peers that limits are for.
    pub(super) limits: [u64; 2],
    /// For the choice of source ports.
    pub(super) ports: [u64; 2],
    /// Keys of the demux hash.
    pub(super) demux: [u64; 6],
}

/// Says nothing: it may end up in a log.
impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    pub(super) fn new(secret: &[u8; 32]) -> Secret {
        let word = |i: usize| u64::from_le_bytes(std::array::from_fn(|j| secret[i * 8 + j]));
        let low = [word(0), word(1)];
        let high = [word(2), word(3)];
        let derive = |purpose: u64| siphash(low, &[purpose, high[0], high[1]]);
        Secret {
            isn: [derive(1), derive(2)],
            timestamps: [derive(3), derive(4)],
            cookies: [derive(5), derive(6)],
            limits: [derive(7), derive(8)],
            ports: [derive(32), derive(33)],
            demux: std::array::from_fn(|i| derive(16 + i as u64)),
        }
    }

    /// A new connection's initial sequence number: RFC 6528 3, a 4 us clock and a keyed hash.
    pub(super) fn isn(&self, tuple: &FourTuple, now: Instant) -> SeqNum {
        let hash = siphash(self.isn, &words(tuple)) as u32;
        SeqNum(((now.as_micros() / 4) as u32).wrapping_add(hash))
    }

    /// What is added to the millisecond clock in the timestamps sent to this peer, the same
    /// for all connections of an address pair, so that it grows from one connection to the
    /// next (RFC 7323 7.1, RFC 6191).
    pub(super) fn timestamp_offset(&self, tuple: &FourTuple) -> u32 {
        let [a, b, c, d, _] = words(tuple);
        siphash(self.timestamps, &[a, b, c, d]) as u32
    }
}

/// A tuple as integers, for hashing.
#[inline]
pub(super) fn words(tuple: &FourTuple) -> [u64; 5] {
    let half =
        |bytes: &[u8; 16], at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
    [
        half(&tuple.local.0, 0),
        half(&tuple.local.0, 8),
        half(&tuple.remote.0, 0),
        half(&tuple.remote.0, 8),
        u64::from(tuple.local_port) << 16 | u64::from(tuple.remote_port),
    ]
}

/// SipHash-2-4 (Aumasson, Bernstein 2012) over whole words.
pub(crate) fn siphash(key: [u64; 2], message: &[u64]) -> u64 {
    let mut v = [
        key[0] ^ 0x736f_6d65_7073_6575,
        key[1] ^ 0x646f_7261_6e64_6f6d,
        key[0] ^ 0x6c79_6765_6e65_7261,
        key[1] ^ 0x7465_6462_7974_6573,
    ];
    let round = |v: &mut [u64; 4]| {
        v[0] = v[0].wrapping_add(v[1]);
        v[1] = v[1].rotate_left(13) ^ v[0];
        v[0] = v[0].rotate_left(32);
        v[2] = v[2].wrapping_add(v[3]);
        v[3] = v[3].rotate_left(16) ^ v[2];
        v[0] = v[0].wrapping_add(v[3]);
        v[3] = v[3].rotate_left(21) ^ v[0];
        v[2] = v[2].wrapping_add(v[1]);
        v[1] = v[1].rotate_left(17) ^ v[2];
        v[2] = v[2].rotate_left(32);
    };
    for &word in message.iter().chain([&((message.len() as u64 * 8) << 56)]) {
        v[3] ^= word;
        round(&mut v);
        round(&mut v);
        v[0] ^= word;
    }
    v[2] ^= 0xff;
    (0..4).for_each(|_| round(&mut v));
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn siphash_reference_vector() {
        // Key 00..0f, message 00..07, from the reference implementation's vectors.
        let key = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
        assert_eq!(siphash(key, &[0x0706_0504_0302_0100]), 0x93f5_f579_9a93_2462);
        assert_eq!(siphash(key, &[]), 0x726f_db47_dd0e_0e31);
    }
}
