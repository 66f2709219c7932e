//! Source ports of active opens (RFC 6056 3.3.1: random, then onwards from there).

use super::random::Random;
use crate::tcp::segment::FourTuple;

/// The dynamic ports of RFC 6335 6, and those below them that Linux uses as well.
const FIRST: u16 = 32_768;
const COUNT: u16 = u16::MAX - FIRST;

/// A chooser of ports with a random state of its own.
pub(crate) struct EphemeralPorts {
    random: Random,
}

impl EphemeralPorts {
    pub(crate) fn new(seed: u64) -> EphemeralPorts {
        EphemeralPorts { random: Random::new(seed) }
    }

    /// Fills in `tuple.local_port` with a port for which `usable` holds. `None` when no port
    /// of the range does.
    pub(crate) fn choose(
        &mut self,
        tuple: &mut FourTuple,
        usable: impl Fn(&FourTuple) -> bool,
    ) -> Option<()> {
        self.sequence().find_map(|port| {
            tuple.local_port = port;
            usable(tuple).then_some(())
        })
    }

    /// Every port of the range once, from a random one on.
    pub(crate) fn sequence(&mut self) -> impl Iterator<Item = u16> + use<> {
        let start = self.random.next() as u16 % COUNT;
        (0..COUNT).map(move |step| {
            FIRST + ((u32::from(start) + u32::from(step)) % u32::from(COUNT)) as u16
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tcp::segment::Addr;

    fn tuple() -> FourTuple {
        FourTuple { local: Addr([1; 16]), remote: Addr([2; 16]), local_port: 0, remote_port: 80 }
    }

    #[test]
    fn the_last_usable_port_is_found_and_none_is_said() {
        let mut ports = EphemeralPorts::new(3);
        let mut tuple = tuple();
        assert_eq!(ports.choose(&mut tuple, |t| t.local_port == 40_000), Some(()));
        assert_eq!(tuple.local_port, 40_000);
        assert_eq!(ports.choose(&mut tuple, |_| false), None);
    }

    #[test]
    fn ports_are_not_in_a_row() {
        let mut ports = EphemeralPorts::new(3);
        let mut tuple = tuple();
        let mut neighbours = 0;
        let mut last = 0u16;
        for _ in 0..100 {
            ports.choose(&mut tuple, |_| true);
            neighbours += u16::from(tuple.local_port.abs_diff(last) < 2);
            last = tuple.local_port;
        }
        assert!(neighbours < 5);
    }
}
