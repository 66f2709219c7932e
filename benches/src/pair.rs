//! Two hosts on one thread, joined by the memory device, in virtual time: every
//! instruction between two applications, and nothing of a kernel.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;

use throng::net::device::{Device, memory};
use throng::net::sim::{HostConfig, add_host};
use throng::runtime::sim::{HostId, World};
use throng::runtime::{Instant, ShardId};

/// The world and its hosts, one shard each.
pub struct Pair {
    world: World,
    client: HostId,
    server: HostId,
}

impl Default for Pair {
    fn default() -> Pair {
        let (client, server) = memory::pair(1, memory::Options::default());
        let boxed = |queues: Vec<memory::MemoryQueue>| -> Vec<Box<dyn Device>> {
            queues.into_iter().map(|queue| Box::new(queue) as Box<dyn Device>).collect()
        };
        let mut world = World::new();
        let client = add_host(&mut world, boxed(client), &HostConfig::new(&["10.0.0.2/24"], 1));
        let server = add_host(&mut world, boxed(server), &HostConfig::new(&["10.0.0.1/24"], 2));
        Pair { world, client, server }
    }
}

impl Pair {
    /// Where the server listens.
    ///
    /// # Panics
    /// Never: the address is a constant.
    pub fn endpoint() -> SocketAddr {
        "10.0.0.1:80".parse().expect("an address")
    }

    /// Runs `server` on the server until `client` on the client has ended.
    ///
    /// # Panics
    /// When the client does not end within a day of virtual time.
    pub fn run(
        &mut self,
        server: impl Future<Output = ()> + 'static,
        client: impl Future<Output = ()> + 'static,
    ) {
        let done = Rc::new(Cell::new(false));
        let ended = done.clone();
        self.world.spawn(self.server, ShardId(0), server);
        self.world.spawn(self.client, ShardId(0), async move {
            client.await;
            ended.set(true);
        });
        let day = Instant::from_millis(86_400_000);
        assert!(self.world.run_until(day, || done.get()), "the client did not end");
    }
}
