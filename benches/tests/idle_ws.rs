//! Bytes per idle connection as a test, in virtual time: counted by the allocator, and pages of the
//! chunks by the system, so the same on every machine. The benches `idle-ws` and `idle-http` measure resident
//! memory and a million.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Mutex;
use std::time::Duration;

use throng::UdpSocket;
use throng::net::device::{Device, memory};
use throng::net::sim::{HostConfig, add_host};
use throng::runtime::sim::{HostId, World};
use throng::runtime::{ShardId, chunks};
use throng_bench::count::{self, Counting, Heap};
use throng_bench::crowd::{Crowd, SERVER, Station};
use throng_bench::idle::{self, Server, Style};
use throng_bench::pair::Pair;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes per idle WebSocket, but for its task's slot: what was reached. It may only go down.
const COMMITTED: f64 = 342.0;
/// The same with the server written as an `async fn` with a loop.
const COMMITTED_LOOP: f64 = 550.0;
/// The same of an idle HTTP/1.1 connection that has had a page.
const COMMITTED_PAGES: f64 = 440.0;

/// Where memory is read. All tables are full to the last place at both, so that the difference
/// is what a connection takes, not what growing leaves unused.
const FIRST: u32 = 4_096;
const LAST: u32 = 3 * 4_096;
/// How many come and go in the test of what is left: more than two chunks of connections.
const MANY: u32 = 20_000;

/// What is counted is the process's: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

struct Bed {
    world: World,
    server: HostId,
    station: Station<memory::MemoryQueue>,
}

impl Bed {
    fn new(style: Style) -> Bed {
        let (ours, theirs) = memory::pair(1, memory::Options::default());
        let theirs = theirs.into_iter().map(|queue| Box::new(queue) as Box<dyn Device>).collect();
        let mut world = World::new();
        let address = format!("{SERVER}/8");
        let server = add_host(&mut world, theirs, &HostConfig::new(&[&address], 1));
        world.spawn(server, ShardId(0), async move {
            idle::accept(style).await.expect("a listener");
        });
        let ours = ours.into_iter().next().expect("a queue");
        Bed {
            world,
            server,
            station: Station::new(Crowd::new(style.wish(), 64, LAST.max(MANY)), ours),
        }
    }

    /// Has clients come until there are `clients`, lets them rest, and looks at the memory.
    fn grow(&mut self, clients: u32) -> (Server, Heap, usize) {
        self.station.crowd.grow_to(clients);
        for _ in 0..1_000_000 {
            self.station.turn(self.world.now());
            if self.station.crowd.is_complete() {
                break;
            }
            // Slow enough that few timers of the handshakes are armed at a time.
            self.world.run_for(Duration::from_millis(2));
        }
        assert_eq!((self.station.crowd.idle(), self.station.crowd.wrong()), (clients, 0));
        self.rest(Duration::from_secs(4));
        self.look()
    }

    /// Has the first `clients` leave, and looks at the memory within a minute.
    fn leave(&mut self, clients: u32) -> (Server, Heap, usize) {
        self.station.crowd.leave(clients);
        while self.station.crowd.left() < clients {
            self.station.turn(self.world.now());
            self.world.run_for(Duration::from_millis(2));
        }
        self.rest(Duration::from_secs(50));
        self.look()
    }

    fn rest(&mut self, time: Duration) {
        let end = self.world.now() + time;
        while self.world.now() < end {
            self.world.run_for(Duration::from_millis(100));
            self.station.turn(self.world.now());
        }
    }

    fn look(&mut self) -> (Server, Heap, usize) {
        let said = Rc::new(Cell::new(None));
        let told = said.clone();
        self.world.spawn(self.server, ShardId(0), async move { told.set(Some(Server::now())) });
        self.world.run_for(Duration::from_millis(1));
        (said.take().expect("an answer").expect("a shard"), Heap::now(), chunks::resident())
    }
}

/// Bytes for each connection, as the C library's allocator and chunks take them.
fn each(style: Style) -> f64 {
    // A huge page is there as a whole from its first item on.
    chunks::use_small_pages();
    let mut bed = Bed::new(style);
    // Slots of tasks, 16 bytes each, stay for the process' next shard: they are there for all, or it
    // would matter which test is the first.
    for _ in 0..=LAST {
        bed.world.spawn(bed.server, ShardId(0), async {});
    }
    let (old, before, few) = bed.grow(FIRST);
    let (new, after, many) = bed.grow(LAST);
    let connections = LAST - FIRST;
    assert_eq!(new.usage.connections, LAST as usize);
    assert_eq!(new.usage.with_buffers, 0, "nobody idle owns buffers");
    let grown = after.since(&before);
    let bytes: i64 = grown.blocks().map(|(size, live)| count::taken(size) as i64 * live).sum();
    // In whole pages, of which each table leaves a part of one unused.
    let each = (bytes as f64 + (many - few) as f64) / f64::from(connections);
    println!("{style:?}: {each:.1} bytes");
    for (part, bytes) in idle::parts(style, connections, (&old, &before), (&new, &after)) {
        println!("  {part:<40} {:>8.1}", bytes as f64 / f64::from(connections));
    }
    each
}

#[test]
fn an_idle_websocket_takes_no_more_than_it_did() {
    let _alone = ALONE.lock();
    let handler = each(Style::Handler);
    assert!(handler <= COMMITTED, "{handler} bytes");
    let by_loop = each(Style::Loop);
    assert!(by_loop <= COMMITTED_LOOP, "{by_loop} bytes");
}

#[test]
fn an_idle_http_connection_takes_no_more_than_it_did() {
    let _alone = ALONE.lock();
    let pages = each(Style::Pages);
    assert!(pages <= COMMITTED_PAGES, "{pages} bytes");
}

#[test]
fn an_echoed_datagram_takes_a_block_at_each_end() {
    let _alone = ALONE.lock();
    let blocks = |datagrams: u64| {
        let before = count::asked();
        let server = async {
            let socket = UdpSocket::bind(Pair::endpoint()).expect("a free port");
            while let Ok((said, from)) = socket.recv_from().await {
                socket.send_to(&said, from).await.expect("a route");
            }
        };
        Pair::default().run(server, async move {
            let socket = UdpSocket::bind(([0, 0, 0, 0], 0).into()).expect("a free port");
            for _ in 0..datagrams {
                socket.send_to(&[7; 64], Pair::endpoint()).await.expect("a route");
                assert_eq!(socket.recv_from().await.expect("an echo").0, [7; 64][..]);
            }
        });
        count::asked() - before
    };
    let each = (blocks(3_000) - blocks(1_000)) as f64 / 2_000.0;
    println!("{each} blocks for a datagram and its echo");
    assert!(each < 2.01, "{each} blocks: more than what each end keeps of what it received");
}

#[test]
fn memory_goes_back_when_the_clients_have_gone() {
    /// What tables keep for the next ones, of six that have been large.
    const KEPT: i64 = 3 << 20;
    let _alone = ALONE.lock();
    chunks::use_small_pages();
    let mut bed = Bed::new(Style::Handler);
    let all = |(server, heap, chunks): &(Server, Heap, usize)| {
        let bytes = heap.blocks().map(|(size, live)| count::taken(size) as i64 * live).sum::<i64>();
        (server.usage.connections, bytes + *chunks as i64)
    };
    // What is there once and for all: a few come and go.
    bed.grow(100);
    let (_, before) = all(&bed.leave(100));
    let (there, full) = all(&bed.grow(MANY));
    assert_eq!(there, MANY as usize - 100);
    let (there, after) = all(&bed.leave(MANY));
    assert_eq!(there, 0);
    println!("{before} bytes before, {full} with all, {after} after");
    assert!(full - before > 2 * KEPT, "there is something to give back");
    assert!(after - before < KEPT, "{} bytes more than before", after - before);
}
