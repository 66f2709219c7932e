//! Receive-side scaling: the Toeplitz hash, the redirection table, and who owns a flow.
//!
//! Ownership is always judged on the frame as it is *received*: the peer is the source,
//! this host the destination. A shard that opens a connection therefore looks for a
//! source port whose *reply* hashes to itself ([`Sharding::source_ports`]).
//!
//! The hash is linear: it is the XOR of one table entry per input byte. That makes a
//! port search cheap (everything but our port is hashed once), and it makes the
//! symmetric key, whose bits repeat every 16, cheaper still: all 16-bit words of the
//! input meet the same key bits, so the whole tuple folds into one word first.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use throng_runtime::ShardId;

use crate::device::offload::Transport;
use crate::tcp::segment::{Addr, FourTuple};

/// The key under which both directions of a flow have the same hash: `0x6d5a` repeated
/// (Woo and Park, "Scalable TCP Session Monitoring with Symmetric Receive-side Scaling",
/// KAIST 2012). Forty bytes; a device with a longer key has it repeated.
pub const SYMMETRIC_KEY: [u8; 40] = {
    let mut key = [0x6d; 40];
    let mut i = 1;
    while i < key.len() {
        key[i] = 0x5a;
        i += 2;
    }
    key
};

/// Longest input in bytes: two IPv6 addresses and two ports.
const MAX_INPUT: usize = 36;
/// A key bit is needed for each of the 32 positions behind every input bit.
const MIN_KEY: usize = MAX_INPUT + 4;

/// A key too short to hash an IPv6 tuple.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a Toeplitz key has at least {MIN_KEY} bytes, this one has {0}")]
pub struct KeyTooShort(pub usize);

/// The Toeplitz hash of one key, by tables of one entry per input byte and value.
#[derive(Clone)]
pub struct Toeplitz {
    key: Vec<u8>,
    tables: Tables,
}

#[derive(Clone)]
enum Tables {
    /// The key repeats every 16 bits: one table for bytes at even, one for bytes at odd
    /// offsets (2 KiB).
    Folded(Box<[[u32; 256]; 2]>),
    /// One table for each offset (36 KiB, of which IPv4 touches the first 12).
    Full(Box<[[u32; 256]; MAX_INPUT]>),
}

impl Toeplitz {
    /// Builds the tables for `key`.
    ///
    /// # Errors
    /// When the key has fewer than 40 bytes.
    pub fn new(key: &[u8]) -> Result<Toeplitz, KeyTooShort> {
        if key.len() < MIN_KEY {
            return Err(KeyTooShort(key.len()));
        }
        let folded = (2..MIN_KEY).all(|i| key[i] == key[i - 2]);
        let tables = if folded {
            Tables::Folded(Box::new([byte_table(key, 0), byte_table(key, 1)]))
        } else {
            let mut all = Box::new([[0; 256]; MAX_INPUT]);
            for (offset, table) in all.iter_mut().enumerate() {
                *table = byte_table(key, offset);
            }
            Tables::Full(all)
        };
        Ok(Toeplitz { key: key.to_vec(), tables })
    }

    /// The hash under [`SYMMETRIC_KEY`].
    pub fn symmetric() -> Toeplitz {
        let tables = [byte_table(&SYMMETRIC_KEY, 0), byte_table(&SYMMETRIC_KEY, 1)];
        Toeplitz { key: SYMMETRIC_KEY.to_vec(), tables: Tables::Folded(Box::new(tables)) }
    }

    /// The key.
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// Whether both directions of a flow are known to have the same hash.
    pub fn is_symmetric(&self) -> bool {
        matches!(self.tables, Tables::Folded(_))
    }

    /// Hash of raw input; bytes from the 37th on are not looked at.
    pub fn hash_bytes(&self, input: &[u8]) -> u32 {
        match &self.tables {
            Tables::Folded(tables) => {
                input.iter().enumerate().fold(0, |hash, (i, &b)| hash ^ tables[i & 1][b as usize])
            }
            Tables::Full(tables) => {
                input.iter().zip(tables.iter()).fold(0, |hash, (&b, t)| hash ^ t[b as usize])
            }
        }
    }

    /// Hash of a received TCP or UDP frame of this connection: source the peer,
    /// destination this host.
    #[inline]
    pub fn hash_tuple(&self, tuple: &FourTuple) -> u32 {
        match &self.tables {
            Tables::Folded(tables) => {
                // The ::ffff: of two IPv4 addresses cancels, so one formula serves both families.
                let both = u128::from_be_bytes(tuple.local.0) ^ u128::from_be_bytes(tuple.remote.0);
                let word = fold(both) ^ tuple.local_port ^ tuple.remote_port;
                let [even, odd] = word.to_be_bytes();
                tables[0][even as usize] ^ tables[1][odd as usize]
            }
            Tables::Full(tables) => {
                let ports = ports(tuple.remote_port, tuple.local_port);
                if tuple.local.is_ipv4() && tuple.remote.is_ipv4() {
                    lookup(&tables[0..4], &tuple.remote.0[12..])
                        ^ lookup(&tables[4..8], &tuple.local.0[12..])
                        ^ lookup(&tables[8..12], &ports)
                } else {
                    lookup(&tables[0..16], &tuple.remote.0)
                        ^ lookup(&tables[16..32], &tuple.local.0)
                        ^ lookup(&tables[32..36], &ports)
                }
            }
        }
    }

    /// Hash over the addresses only, as devices do for IP packets without ports.
    pub fn hash_addresses(&self, source: IpAddr, destination: IpAddr) -> u32 {
        let mut input = [0; 32];
        match (source, destination) {
            (IpAddr::V4(s), IpAddr::V4(d)) => {
                input[..4].copy_from_slice(&s.octets());
                input[4..8].copy_from_slice(&d.octets());
                self.hash_bytes(&input[..8])
            }
            (s, d) => {
                input[..16].copy_from_slice(&Addr::from(s).0);
                input[16..].copy_from_slice(&Addr::from(d).0);
                self.hash_bytes(&input)
            }
        }
    }

    /// What our port, the last two bytes of the input, adds to the hash.
    #[inline]
    fn local_port_part(&self, port: u16, ipv4: bool) -> u32 {
        let [high, low] = port.to_be_bytes();
        match &self.tables {
            Tables::Folded(t) => t[0][high as usize] ^ t[1][low as usize],
            Tables::Full(t) if ipv4 => t[10][high as usize] ^ t[11][low as usize],
            Tables::Full(t) => t[34][high as usize] ^ t[35][low as usize],
        }
    }
}

impl std::fmt::Debug for Toeplitz {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Toeplitz").field("key", &self.key).finish_non_exhaustive()
    }
}

/// The table for the input byte at `offset`: XOR of the 32-bit key windows that begin at
/// the byte's set bits.
fn byte_table(key: &[u8], offset: usize) -> [u32; 256] {
    let mut window = [0; 8];
    window[..5].copy_from_slice(&key[offset..offset + 5]);
    let window = u64::from_be_bytes(window);
    let mut table = [0; 256];
    for (value, entry) in table.iter_mut().enumerate() {
        for bit in 0..8 {
            if value & (0x80 >> bit) != 0 {
                *entry ^= ((window << bit) >> 32) as u32;
            }
        }
    }
    table
}

#[inline]
fn lookup(tables: &[[u32; 256]], input: &[u8]) -> u32 {
    tables.iter().zip(input).fold(0, |hash, (table, &byte)| hash ^ table[byte as usize])
}

/// XOR of the eight 16-bit words.
#[inline]
fn fold(x: u128) -> u16 {
    let x = (x >> 64) as u64 ^ x as u64;
    let x = (x >> 32) as u32 ^ x as u32;
    (x >> 16) as u16 ^ x as u16
}

fn ports(source: u16, destination: u16) -> [u8; 4] {
    let [a, b] = source.to_be_bytes();
    let [c, d] = destination.to_be_bytes();
    [a, b, c, d]
}

/// Entries of a redirection table where the device does not dictate a number.
pub const DEFAULT_RETA_SIZE: usize = 128;

/// The redirection table: which queue, and so which shard, serves a hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reta {
    queues: Vec<u16>,
}

impl Reta {
    /// A table of `size` entries (rounded up to a power of two, at least `queues`) that
    /// spreads evenly over `queues` queues; zero queues count as one.
    pub fn even(queues: u16, size: usize) -> Reta {
        let queues = queues.max(1);
        let size = size.max(usize::from(queues)).next_power_of_two();
        Reta { queues: (0..queues).cycle().take(size).collect() }
    }

    /// The table a device reports. `None` when its length is not a power of two or an
    /// entry names a queue outside `0..queues`.
    pub fn from_device(table: &[u16], queues: u16) -> Option<Reta> {
        let valid = table.len().is_power_of_two() && table.iter().all(|&queue| queue < queues);
        valid.then(|| Reta { queues: table.to_vec() })
    }

    /// The queue of a hash.
    #[inline]
    pub fn queue(&self, hash: u32) -> u16 {
        self.queues[hash as usize & (self.queues.len() - 1)]
    }

    /// The entries.
    pub fn entries(&self) -> &[u16] {
        &self.queues
    }
}

/// Which shard owns which flow. Every shard of a port holds the same one.
#[derive(Clone, Debug)]
pub struct Sharding {
    hasher: Toeplitz,
    reta: Reta,
}

impl Sharding {
    /// Ownership by this hash and table; queue `i` belongs to shard `i`.
    pub fn new(hasher: Toeplitz, reta: Reta) -> Sharding {
        Sharding { hasher, reta }
    }

    /// The symmetric key over `shards` shards evenly.
    pub fn symmetric(shards: u16) -> Sharding {
        Sharding::new(Toeplitz::symmetric(), Reta::even(shards, DEFAULT_RETA_SIZE))
    }

    /// The hash.
    pub fn hasher(&self) -> &Toeplitz {
        &self.hasher
    }

    /// The table.
    pub fn reta(&self) -> &Reta {
        &self.reta
    }

    /// The shard of a hash.
    #[inline]
    pub fn owner(&self, hash: u32) -> ShardId {
        ShardId(self.reta.queue(hash))
    }

    /// The shard of a flow.
    #[inline]
    pub fn owner_of(&self, tuple: &FourTuple) -> ShardId {
        self.owner(self.hasher.hash_tuple(tuple))
    }

    /// The ports of `range` with which a flow from `local` to `remote` comes back to
    /// `shard`, each once, beginning at `start` and wrapping round (a random or counting
    /// `start` in or out of the range; RFC 6056 3.3). Whether a port is free is the caller's
    /// business. About one port in as many as there are shards fits; none may.
    pub fn source_ports(
        &self,
        local: IpAddr,
        remote: SocketAddr,
        shard: ShardId,
        range: RangeInclusive<u16>,
        start: u16,
    ) -> SourcePorts<'_> {
        let tuple = FourTuple {
            local: local.into(),
            remote: remote.ip().into(),
            local_port: 0,
            remote_port: remote.port(),
        };
        let left = u32::from(*range.end()) + 1;
        let left = left.saturating_sub(u32::from(*range.start()));
        let next = if range.contains(&start) { start } else { *range.start() };
        SourcePorts {
            sharding: self,
            // A zero port adds nothing to the hash.
            base: self.hasher.hash_tuple(&tuple),
            ipv4: tuple.local.is_ipv4() && tuple.remote.is_ipv4(),
            shard,
            range,
            next,
            left,
        }
    }
}

/// Iterator of [`Sharding::source_ports`].
#[derive(Clone, Debug)]
pub struct SourcePorts<'a> {
    sharding: &'a Sharding,
    base: u32,
    ipv4: bool,
    shard: ShardId,
    range: RangeInclusive<u16>,
    next: u16,
    left: u32,
}

impl Iterator for SourcePorts<'_> {
    type Item = u16;

    fn next(&mut self) -> Option<u16> {
        while self.left > 0 {
            self.left -= 1;
            let port = self.next;
            self.next = if port == *self.range.end() { *self.range.start() } else { port + 1 };
            let hash = self.base ^ self.sharding.hasher.local_port_part(port, self.ipv4);
            if self.sharding.owner(hash) == self.shard {
                return Some(port);
            }
        }
        None
    }
}

/// What a device would hash of a frame: addresses and ports of TCP and UDP, the addresses
/// of other IP packets (fragments among them), nothing of other frames.
pub(crate) fn hash_frame(hasher: &Toeplitz, frame: &[u8]) -> Option<u32> {
    let (addresses, ports) = match (frame.get(12..14)?, Transport::find(frame)) {
        ([0x08, 0x00], transport) => {
            (frame.get(26..34)?, transport.map(|t| &frame[t.l4..t.l4 + 4]))
        }
        ([0x86, 0xdd], transport) => {
            (frame.get(22..54)?, transport.map(|t| &frame[t.l4..t.l4 + 4]))
        }
        _ => return None,
    };
    let mut input = [0; MAX_INPUT];
    let ports = ports.unwrap_or_default();
    let length = addresses.len() + ports.len();
    input[..addresses.len()].copy_from_slice(addresses);
    input[addresses.len()..length].copy_from_slice(ports);
    Some(hasher.hash_bytes(&input[..length]))
}
