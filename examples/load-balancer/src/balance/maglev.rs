//! Consistent hashing by Maglev's lookup table (Eisenbud et al., "Maglev", NSDI 2016, 3.4):
//! every server fills the table in an order of its own, in turn and by weight, so that
//! shares are even, and most entries stay when a server comes or goes.
//!
//! The table is made of all servers that are configured. One that may not be picked at the
//! moment leaves its entries to the next one in the table that may, so that only its own
//! clients move, and move back.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Primes of which the least one that has a hundred entries for each server is the table's
/// length.
const PRIMES: [u32; 6] = [1_021, 4_093, 16_381, 65_521, 262_139, 1_048_573];

pub(crate) struct Maglev {
    table: Vec<u16>,
}

/// A server that fills the table.
struct Filler {
    at: u16,
    /// The entry it would like next, and how far it goes on where that is taken.
    next: u64,
    skip: u64,
    /// Its weight as a part of the largest, and what of it has not been used.
    weight: f64,
    credit: f64,
}

impl Maglev {
    /// For servers of these names and weights.
    pub(crate) fn new(servers: &[(String, u32)]) -> Maglev {
        let wanted = 100 * servers.len();
        let fits = PRIMES.iter().find(|prime| **prime as usize >= wanted);
        let size = u64::from(*fits.unwrap_or(&PRIMES[PRIMES.len() - 1]));
        let largest = servers.iter().map(|(_, weight)| *weight).max().unwrap_or(1).max(1);
        let filler = |(at, (name, weight)): (u16, &(String, u32))| Filler {
            at,
            next: xxh3_64_with_seed(name.as_bytes(), 0) % size,
            skip: xxh3_64_with_seed(name.as_bytes(), 1) % (size - 1) + 1,
            weight: f64::from(*weight) / f64::from(largest),
            credit: 0.0,
        };
        let mut fillers: Vec<Filler> =
            (0..).zip(servers).filter(|(_, (_, weight))| *weight > 0).map(filler).collect();
        const FREE: u16 = u16::MAX;
        let mut table = vec![FREE; if fillers.is_empty() { 0 } else { size as usize }];
        let mut left = table.len();
        while left > 0 {
            for filler in &mut fillers {
                filler.credit += filler.weight;
                if filler.credit < 1.0 || left == 0 {
                    continue;
                }
                filler.credit -= 1.0;
                // The length is a prime, so this meets every entry.
                while table[filler.next as usize] != FREE {
                    filler.next = (filler.next + filler.skip) % size;
                }
                table[filler.next as usize] = filler.at;
                left -= 1;
            }
        }
        Maglev { table }
    }

    /// The server of a hash, or the next one that `may`.
    pub(crate) fn pick(&self, hash: u64, may: impl Fn(usize) -> bool) -> Option<usize> {
        let len = self.table.len();
        let start = (hash % (len.max(1) as u64)) as usize;
        super::from(start, len).map(|entry| usize::from(self.table[entry])).find(|at| may(*at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(count: usize) -> Vec<(String, u32)> {
        (0..count).map(|at| (format!("10.0.0.{at}:80"), 1)).collect()
    }

    #[test]
    fn the_table_is_even() {
        for count in [1, 2, 7, 50] {
            let maglev = Maglev::new(&servers(count));
            let mut entries = vec![0_usize; count];
            maglev.table.iter().for_each(|at| entries[usize::from(*at)] += 1);
            let (least, most) = (entries.iter().min().unwrap(), entries.iter().max().unwrap());
            assert!(most - least <= 1, "{count}: {least} to {most}");
        }
    }

    /// Which clients are with another server, of those whose server did not go.
    #[test]
    fn few_move_when_a_server_goes() {
        let (all, before) = (servers(10), Maglev::new(&servers(10)));
        let after = Maglev::new(&all[..9]);
        let clients = 20_000_u64;
        let moved = (0..clients)
            .map(|client| xxh3_64_with_seed(&client.to_le_bytes(), 9))
            .filter(|hash| {
                let old = before.pick(*hash, |_| true);
                old != Some(9) && old != after.pick(*hash, |_| true)
            })
            .count();
        assert!(moved < 20_000 / 10, "{moved} of 18,000");
    }

    #[test]
    fn while_a_server_is_out_only_its_own_clients_move_and_to_all_others() {
        let maglev = Maglev::new(&servers(5));
        let mut taken_over = [0; 5];
        for client in 0..5_000_u64 {
            let hash = xxh3_64_with_seed(&client.to_le_bytes(), 9);
            let usual = maglev.pick(hash, |_| true).unwrap();
            let now = maglev.pick(hash, |at| at != 2).unwrap();
            if usual == 2 {
                taken_over[now] += 1;
            } else {
                assert_eq!(usual, now);
            }
        }
        assert!(taken_over.iter().filter(|clients| **clients > 150).count() == 4, "{taken_over:?}");
    }
}
