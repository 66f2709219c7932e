//! The device's queues, fed as a NIC feeds a server's: each flow on the queue of the shard that owns it.

use std::collections::VecDeque;
use std::net::SocketAddr;

use throng::net::device::Device;
use throng::net::packet::Packet;
use throng::net::rss::Sharding;
use throng::net::tcp::FourTuple;
use throng::runtime::Instant;

/// Frames taken from a queue at a time.
const BURST: usize = 64;
/// Attempts to get a buffer: they come back when the server has taken what is on its way.
const ATTEMPTS: u32 = 1_000_000;

struct Queue {
    device: Box<dyn Device>,
    outgoing: VecDeque<Packet>,
}

/// All queues of the device, one for each shard of the server.
pub(super) struct Queues {
    all: Vec<Queue>,
    sharding: Sharding,
}

impl Queues {
    pub(super) fn new(devices: Vec<Box<dyn Device>>) -> Queues {
        let sharding = Sharding::symmetric(devices.len() as u16);
        let queue = |device| Queue { device, outgoing: VecDeque::new() };
        Queues { all: devices.into_iter().map(queue).collect(), sharding }
    }

    /// Our station.
    pub(super) fn mac(&self) -> [u8; 6] {
        self.all.first().map_or([0; 6], |queue| queue.device.capabilities().mac.0)
    }

    /// The queue for what `client` says to `server`.
    pub(super) fn of(&self, client: SocketAddr, server: SocketAddr) -> usize {
        match self.all.len() {
            1 => 0,
            _ => self.sharding.owner_of(&FourTuple::new(server, client)).0 as usize,
        }
    }

    /// Adds what has come.
    pub(super) fn receive(&mut self, frames: &mut Vec<Packet>, now: Instant) {
        for queue in &mut self.all {
            queue.device.receive(frames, BURST, now);
        }
    }

    /// Sends what there is room for.
    pub(super) fn transmit(&mut self, now: Instant) {
        for queue in &mut self.all {
            queue.device.transmit(&mut queue.outgoing, now);
        }
    }

    /// Has `bytes` sent on a queue; says whether there was a buffer for them.
    pub(super) fn send(&mut self, queue: usize, bytes: &[u8], now: impl Fn() -> Instant) -> bool {
        let Some(Queue { device, outgoing }) = self.all.get_mut(queue) else { return false };
        for _ in 0..ATTEMPTS {
            if let Some(mut packet) = device.allocate(bytes.len())
                && packet.append(bytes)
            {
                outgoing.push_back(packet);
                return true;
            }
            device.transmit(outgoing, now());
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use throng::net::device::memory;

    use super::*;

    #[test]
    fn flows_go_to_all_queues_and_stay() {
        let queues = memory::open("raw-queues", 2, memory::Options::default()).unwrap();
        let boxed = queues.into_iter().map(|queue| Box::new(queue) as Box<dyn Device>);
        let queues = Queues::new(boxed.collect());
        let server: SocketAddr = "10.96.0.1:9000".parse().unwrap();
        let client = |port: u16| SocketAddr::from(([10, 96, 0, 2], port));
        let on_second = (10_000..11_000).filter(|port| queues.of(client(*port), server) == 1);
        let on_second: Vec<u16> = on_second.collect();
        assert!((400..600).contains(&on_second.len()), "{} of 1,000", on_second.len());
        assert!(on_second.iter().all(|port| queues.of(client(*port), server) == 1));
    }
}
