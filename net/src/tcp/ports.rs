//! Source ports of active opens (RFC 6056 3.3.4, the double-hash algorithm).
//!
//! A port is taken as part of a 4-tuple: connections to different destinations share them all,
//! as do listeners and explicitly bound connections. A keyed hash of the destination says
//! where its ports begin, a counter that a few destinations share goes on from there, so that a
//! port comes back to its destination as late as may be. Where none is left for a destination,
//! those that come free are noted: from then on both the next port and its absence are found
//! at once.

use std::collections::{HashMap, VecDeque};
use std::ops::RangeInclusive;

use super::core::Core;
use super::engine::Engine;
use super::isn::{siphash, words};
use super::segment::{Addr, FourTuple};

/// Counters. With so many a counter says little of who else was connected to.
const COUNTERS: usize = 4_096;
/// Destinations without a free port that are remembered; for others it is searched each time.
const CROWDED: usize = 1_024;
/// Free ports of one of these from which on it is like any other.
const ENOUGH: usize = 1_024;

/// Where connections end: our address, the peer's, and its port.
type Destination = (Addr, Addr, u16);

#[derive(Debug)]
pub(super) struct Ports {
    key: [u64; 2],
    /// Empty before the first use.
    counters: Vec<u16>,
    /// Searches so far.
    searches: u64,
    /// Ports that came free since the destination had none.
    crowded: HashMap<Destination, VecDeque<u16>>,
}

impl Ports {
    pub(super) fn new(key: [u64; 2]) -> Ports {
        Ports { key, counters: Vec::new(), searches: 0, crowded: HashMap::new() }
    }

    pub(super) fn memory(&self) -> usize {
        let queues = self.crowded.values().map(|queue| queue.capacity() * size_of::<u16>());
        self.counters.capacity() * size_of::<u16>()
            + self.crowded.capacity() * size_of::<(Destination, VecDeque<u16>)>()
            + queues.sum::<usize>()
    }

    /// Where the search for a destination begins, as an offset, and whose counter that is.
    fn begin(&mut self, tuple: &FourTuple) -> (u16, usize) {
        if self.counters.is_empty() {
            self.counters = vec![0; COUNTERS];
        }
        let hash = siphash(self.key, &words(&FourTuple { local_port: 0, ..*tuple }));
        let counter = (hash >> 32) as usize % COUNTERS;
        ((hash as u16).wrapping_add(self.counters[counter]), counter)
    }

    /// A search has ended `steps` ports from where it began.
    fn advance(&mut self, counter: usize, steps: u16) {
        self.searches += 1;
        // Now and then a port is left out, lest the count of connections be told.
        let noise = siphash(self.key, &[self.searches]).is_multiple_of(16);
        let counter = &mut self.counters[counter];
        *counter = counter.wrapping_add(steps).wrapping_add(1 + u16::from(noise));
    }

    /// No connection has `tuple` any more.
    pub(super) fn release(&mut self, tuple: &FourTuple) {
        if self.crowded.is_empty() {
            return;
        }
        let destination = (tuple.local, tuple.remote, tuple.remote_port);
        if let Some(free) = self.crowded.get_mut(&destination) {
            // The one given out last is still in front.
            if free.front() != Some(&tuple.local_port) {
                free.push_back(tuple.local_port);
            }
            if free.len() >= ENOUGH {
                self.crowded.remove(&destination);
            }
        }
    }

    /// There is no port for this destination.
    fn crowd(&mut self, destination: Destination) {
        if self.crowded.len() >= CROWDED
            && let Some(any) = self.crowded.keys().next().copied()
        {
            self.crowded.remove(&any);
        }
        self.crowded.insert(destination, VecDeque::new());
    }
}

impl Core {
    /// Whether every port is known to be taken; else the ones known to have come free.
    fn crowded(&mut self, tuple: &FourTuple) -> Option<&mut VecDeque<u16>> {
        self.ports.crowded.get_mut(&(tuple.local, tuple.remote, tuple.remote_port))
    }
}

impl Engine {
    /// A local port of `range` for a connection between the ends of `tuple`, whose own local
    /// port does not matter; `None` where all are in use. `candidates` gives the ports to
    /// choose from, beginning at the one it is told: those whose flows come back to this shard.
    pub fn choose_port<I: Iterator<Item = u16>>(
        &mut self,
        tuple: &FourTuple,
        range: RangeInclusive<u16>,
        candidates: impl FnOnce(u16) -> I,
    ) -> Option<u16> {
        let with = |local_port: u16| FourTuple { local_port, ..*tuple };
        while let Some(free) = self.core.crowded(tuple) {
            let port = *free.front()?;
            if range.contains(&port) && !self.tuple_in_use(&with(port)) {
                return Some(port);
            }
            // Taken since, or not one to choose.
            if let Some(free) = self.core.crowded(tuple) {
                free.pop_front();
            }
        }
        let count = range.end().checked_sub(*range.start())?.saturating_add(1);
        let (offset, counter) = self.core.ports.begin(tuple);
        let first = range.start() + offset % count;
        let port = candidates(first).find(|port| !self.tuple_in_use(&with(*port)));
        let Some(port) = port else {
            self.core.counters.ports_exhausted += 1;
            self.core.ports.crowd((tuple.local, tuple.remote, tuple.remote_port));
            return None;
        };
        let steps = if port >= first { port - first } else { count - (first - port) };
        self.core.ports.advance(counter, steps);
        Some(port)
    }
}
