//! Bulk transfer over a table of paths in virtual time: what arrives each second.
//!
//! Nothing here depends on the machine, so the table is compared with a committed one
//! (`sim/goodput.json`), which may only improve.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use throng_net::device::Device;
use throng_net::device::faults::{Faults, FaultyQueue, Impairments};
use throng_net::device::memory::{self, MemoryQueue, Options};
use throng_net::sim::{HostConfig, Path, add_host};
use throng_net::{TcpListener, TcpStream};
use throng_runtime::sim::World;
use throng_runtime::{Instant, ShardId};

/// A frame of plain Ethernet.
const FRAME: u64 = 1_514;
/// No more is received than this after the warm-up, which bounds what a fast cell costs; but as
/// much as so many round trips deliver at full width, lest what counts be one moment.
const ENOUGH: u64 = 200_000_000;
const ROUNDS: u64 = 40;

/// One path of the table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// Per thousand frames lost.
    pub loss: u32,
    /// Microseconds there and back.
    pub rtt: u64,
    /// Megabits per second.
    pub rate: u64,
}

/// The table of issue 4: every loss, round trip and width with every other.
pub fn table() -> Vec<Shape> {
    let mut cells = Vec::new();
    for rate in [10, 1_000, 10_000] {
        for rtt in [100, 10_000, 100_000] {
            for loss in [0, 1, 10, 30] {
                cells.push(Shape { loss, rtt, rate });
            }
        }
    }
    cells
}

impl Shape {
    /// As the snapshot calls it.
    pub fn name(&self) -> String {
        let Shape { loss, rtt, rate } = self;
        let (loss, rtt) = (f64::from(*loss) / 10.0, *rtt as f64 / 1_000.0);
        format!("{rate} Mbit/s, {rtt} ms, {loss} %")
    }

    /// Whether it is cheap enough for every run of all tests, unoptimised.
    pub fn is_cheap(&self) -> bool {
        self.rate == 10 && self.rtt != 100
            || self.rate == 1_000 && self.rtt == 100_000 && self.loss > 1
    }

    /// The path as the devices have it.
    pub fn path(&self) -> Path {
        let loss = f64::from(self.loss) / 1_000.0;
        Path::new(Duration::from_micros(self.rtt), self.rate * 1_000_000, loss)
    }

    /// How long it runs before anything counts: slow start and what it overshoots.
    fn warm_up(&self) -> Duration {
        let rounds = if self.loss == 0 { 60 } else { 40 };
        Duration::from_millis(200).max(Duration::from_micros(self.rtt * rounds))
    }

    /// How long it is measured: some hundred losses, where there are any.
    fn measured(&self) -> Duration {
        if self.loss == 0 { Duration::from_secs(5) } else { Duration::from_secs(30) }
    }

    /// What arrives, in megabits of payload per second: one stream, and where chance has a
    /// part in it the mean of three.
    pub fn measure(&self) -> f64 {
        let seeds = if self.loss == 0 { 1 } else { 3 };
        (0..seeds).map(|seed| self.run(seed)).sum::<f64>() / seeds as f64
    }

    fn run(&self, seed: u64) -> f64 {
        let path = self.path();
        // Sockets that hold twice what the path does: the table is about the sender.
        let window = (path.bandwidth_delay() + path.queue).saturating_mul(2).max(4 << 20);
        let window = window.min(1 << 29) as u32;
        let frames = (path.bandwidth_delay() + path.queue) * 2 / FRAME + 8_192;
        let options = Options { ring: 4_096, buffers: frames as usize, ..Options::default() };
        let (client, server) = memory::pair(1, options);
        let host =
            |world: &mut World, queues: Vec<MemoryQueue>, address, way: Impairments, salt| {
                let faults = Faults { seed: seed * 2 + salt, receive: way, ..Faults::default() };
                let wrap = |queue| Box::new(FaultyQueue::new(Box::new(queue), 0, &faults)) as _;
                let devices: Vec<Box<dyn Device>> = queues.into_iter().map(wrap).collect();
                let mut config = HostConfig::new(&[address], seed * 2 + salt);
                config.tcp.send_buffer = window;
                config.tcp.recv_buffer = window;
                config.tcp.send_memory = 1 << 33;
                config.tcp.recv_memory = 1 << 33;
                add_host(world, devices, &config)
            };
        let mut world = World::new();
        let client = host(&mut world, client, "10.0.0.2/24", path.back(), 0);
        let server = host(&mut world, server, "10.0.0.1/24", path.forth(), 1);
        let arrived = Rc::new(Cell::new(0_u64));
        let count = arrived.clone();
        world.spawn(server, ShardId(0), async move {
            let listener = TcpListener::bind(([0, 0, 0, 0], 80).into()).expect("a free port");
            let (mut stream, _) = listener.accept().await.expect("a connection");
            while let Ok(chunk) = stream.read_chunk(1 << 20).await {
                count.set(count.get() + chunk.len() as u64);
            }
        });
        world.spawn(client, ShardId(0), async move {
            let mut stream = TcpStream::connect("10.0.0.1:80").await.expect("a server");
            let chunk = Bytes::from(vec![0x55; 1 << 16]);
            while stream.write_chunk(chunk.clone()).await.is_ok() {}
        });
        let begin = Instant::ZERO + self.warm_up();
        world.run_until(begin, || false);
        let before = arrived.get();
        let enough = ENOUGH.max(path.bandwidth_delay() * ROUNDS);
        world.run_until(begin + self.measured(), || arrived.get() - before >= enough);
        let took = world.now().saturating_since(begin).as_secs_f64();
        (arrived.get() - before) as f64 * 8.0 / took / 1e6
    }
}

/// Goodput by the cells' names, in Mbit/s.
pub type Snapshot = BTreeMap<String, f64>;

/// Where the snapshot is.
pub fn snapshot_path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("goodput.json")
}

/// The committed snapshot; empty where there is none.
///
/// # Errors
/// A file that is none.
pub fn snapshot() -> io::Result<Snapshot> {
    let text = match std::fs::read_to_string(snapshot_path()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Snapshot::new()),
        other => other?,
    };
    let value: serde_json::Value = serde_json::from_str(&text)?;
    let entries = value.as_object().into_iter().flatten();
    Ok(entries.filter_map(|(name, mbit)| Some((name.clone(), mbit.as_f64()?))).collect())
}

/// By how much a cell may fall before that counts, as a share: what a change of anything does
/// to the dice moves a lossy cell a little.
pub fn tolerance(cell: &Shape) -> f64 {
    if cell.loss == 0 { 0.05 } else { 0.1 }
}

/// Measures `cells`, two or more at a time, and tells of each how it compares. Returns what
/// was found.
pub fn measure(cells: &[Shape], before: &Snapshot) -> (Snapshot, Vec<String>) {
    let next = AtomicUsize::new(0);
    let found = Mutex::new((Snapshot::new(), Vec::new()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(cell) = cells.get(next.fetch_add(1, Ordering::Relaxed)) {
                    // Three digits: more would be noise in a table.
                    let mbit = (cell.measure() * 1_000.0).round() / 1_000.0;
                    let name = cell.name();
                    let old = before.get(&name).copied();
                    let change = old.map_or("new".to_owned(), |old| {
                        format!("{:+.1} %", (mbit / old - 1.0) * 100.0)
                    });
                    let share = mbit / cell.rate as f64 * 100.0;
                    println!("{name:<28} {mbit:>10.3} Mbit/s  {share:>5.1} %  {change:>8}");
                    let mut found = found.lock().unwrap_or_else(|poison| poison.into_inner());
                    if old.is_some_and(|old| mbit < old * (1.0 - tolerance(cell))) {
                        found.1.push(format!("{name}: {mbit} Mbit/s, the snapshot has {old:?}"));
                    }
                    found.0.insert(name, mbit);
                }
            });
        }
    });
    found.into_inner().unwrap_or_else(|poison| poison.into_inner())
}

/// The table as documentation.
pub fn document(snapshot: &Snapshot) -> String {
    let mut text = String::from(
        "| width | round trip | no loss | 0.1 % | 1 % | 3 % |\n|---|---|---|---|---|---|\n",
    );
    for row in table().chunks(4) {
        let shown = |cell: &Shape| match snapshot.get(&cell.name()) {
            Some(mbit) if *mbit < 100.0 => format!("{mbit:.1}"),
            Some(mbit) => format!("{mbit:.0}"),
            None => "?".to_owned(),
        };
        let columns: Vec<String> = row.iter().map(shown).collect();
        let (rate, rtt) = (row[0].rate, row[0].rtt as f64 / 1_000.0);
        text += &format!("| {rate} Mbit/s | {rtt} ms | {} |\n", columns.join(" | "));
    }
    text
}

/// Where the table is for readers, and between which lines.
const DOCUMENT: &str = "../docs/GOODPUT.md";
const BEGIN: &str = "<!-- the table: written by `cargo xtask bench goodput --update` -->\n";
const END: &str = "<!-- the table ends -->\n";

/// Writes the table into `docs/GOODPUT.md`.
///
/// # Errors
/// Where the file cannot be written, or has no place for it.
pub fn write_document(snapshot: &Snapshot) -> io::Result<()> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(DOCUMENT);
    let text = std::fs::read_to_string(&path)?;
    let (head, rest) = text.split_once(BEGIN).ok_or_else(|| io::Error::other(BEGIN))?;
    let (_, tail) = rest.split_once(END).ok_or_else(|| io::Error::other(END))?;
    std::fs::write(path, format!("{head}{BEGIN}{}{END}{tail}", document(snapshot)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_has_the_snapshot() {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(DOCUMENT);
        let text = std::fs::read_to_string(path).expect("docs/GOODPUT.md");
        let snapshot = snapshot().expect("sim/goodput.json");
        assert_eq!(snapshot.len(), table().len(), "every cell is there");
        assert!(text.contains(&document(&snapshot)), "run cargo xtask bench goodput --update");
    }
}
