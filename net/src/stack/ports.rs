//! Local ports that are not told apart by the peer: of listeners and datagrams (RFC 6056 3.3.1:
//! random, then onwards from there). For connections see [`Engine::choose_port`](crate::tcp::Engine::choose_port).

use std::ops::RangeInclusive;

use super::random::Random;

/// The dynamic ports of RFC 6335 6, and those below them that Linux uses as well.
pub(super) const RANGE: RangeInclusive<u16> = 32_768..=65_534;

/// A chooser of ports with a random state of its own.
pub(crate) struct EphemeralPorts {
    random: Random,
}

impl EphemeralPorts {
    pub(crate) fn new(seed: u64) -> EphemeralPorts {
        EphemeralPorts { random: Random::new(seed) }
    }

    /// The port of the range to begin a search at.
    pub(crate) fn first(&mut self) -> u16 {
        from_random(self.random.next() as u16)
    }

    /// Every port of the range once, from a random one on.
    pub(crate) fn sequence(&mut self) -> impl Iterator<Item = u16> + use<> {
        let first = self.first();
        (first..=*RANGE.end()).chain(*RANGE.start()..first)
    }
}

/// The port of the range that a random number stands for.
pub(super) fn from_random(random: u16) -> u16 {
    RANGE.start() + random % RANGE.len() as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_comes_once() {
        let mut all: Vec<u16> = EphemeralPorts::new(3).sequence().collect();
        all.sort_unstable();
        assert!(all.into_iter().eq(RANGE));
    }

    #[test]
    fn ports_are_not_in_a_row() {
        let mut ports = EphemeralPorts::new(3);
        let mut neighbours = 0;
        let mut last = 0u16;
        for _ in 0..100 {
            let port = ports.first();
            neighbours += u16::from(port.abs_diff(last) < 2);
            last = port;
        }
        assert!(neighbours < 5);
    }
}
