//! The client of every comparison: Throng's runtime, on the host's sockets or on a device.
//!
//! It prints `open` when its device is there, opens its connections when a line tells it to, prints
//! `ready`, and works for so many milliseconds as the line `go MILLISECONDS` says: first it warms up,
//! then prints `begun`, and at the end what it has done as a JSON object, [`Done`]. When its
//! standard input ends, so does it.

mod answer;
mod datagrams;
mod frame;
mod over_websocket;
mod raw;
mod spinning;
mod traffic;
mod websocket;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::task::Waker;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};
use throng::runtime::yield_now;
use throng::{TcpStream, spawn_local};

use crate::helper;
use crate::role::{Role, Traffic};
use crate::stats::{Histogram, Quantiles, UNTIMED};
use datagrams::Taken;
use websocket::{Label, Talk};

/// Connections that are opened at a time.
const OPENING: usize = 256;
/// Longest wait for a connection, or for what is on its way at the end.
const PATIENCE: Duration = Duration::from_secs(30);

/// The client's command line.
#[derive(Clone, Debug, Args)]
pub struct Load {
    /// Whom it asks for what
    #[command(flatten)]
    pub role: Role,
    /// Most operations on their way at a time, each on a connection picked at random
    #[arg(long, default_value_t = 1_024)]
    pub window: usize,
    /// Operations per second, begun when they are due whatever became of those before; else the
    /// next begins when one has ended
    #[arg(long)]
    pub rate: Option<f64>,
    /// Measure how long each takes
    #[arg(long)]
    pub timed: bool,
    /// One blocking thread's non-blocking socket asked again and again, in place of the runtime
    #[arg(long)]
    pub spinning: bool,
    /// No runtime and no stack: frames made by hand, straight on the device
    #[arg(long)]
    pub raw: bool,
    /// WebSockets that are opened each second, on `go`; with `raw`
    #[arg(long)]
    pub ramp: Option<f64>,
    /// Be the server behind the one that is asked, too, at this port; with `raw`
    #[arg(long)]
    pub upstream: Option<u16>,
}

impl Load {
    /// What a process of this role is started with.
    pub fn arguments(&self) -> Vec<String> {
        let mut all = self.role.arguments();
        all.extend(["--window".to_owned(), self.window.to_string()]);
        if let Some(rate) = self.rate {
            all.extend(["--rate".to_owned(), rate.to_string()]);
        }
        if let Some(ramp) = self.ramp {
            all.extend(["--ramp".to_owned(), ramp.to_string()]);
        }
        if let Some(port) = self.upstream {
            all.extend(["--upstream".to_owned(), port.to_string()]);
        }
        let flags = [(self.timed, "--timed"), (self.spinning, "--spinning"), (self.raw, "--raw")];
        all.extend(flags.iter().filter(|(set, _)| *set).map(|(_, flag)| (*flag).to_owned()));
        all
    }
}

/// What a client has done in the time it was given.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Done {
    /// Operations; bytes in bulk.
    pub done: u64,
    /// Operations that failed.
    pub errors: u64,
    /// How long it took.
    pub seconds: f64,
    /// How long they took; NaN unless timed.
    pub quantiles: Quantiles,
    /// Datagrams that were sent again, for no echo came in time.
    pub asked_again: u64,
    /// Those of them whose echo did not come late either.
    pub lost: u64,
}

impl Done {
    /// As it is printed.
    pub fn to_json(self) -> Value {
        json!({
            "done": self.done,
            "errors": self.errors,
            "seconds": self.seconds,
            "quantiles": self.quantiles,
            "asked_again": self.asked_again,
            "lost": self.lost,
        })
    }

    /// From what was printed; `None` when that is something else.
    pub fn parse(line: &str) -> Option<Done> {
        let value: Value = serde_json::from_str(line).ok()?;
        let quantile = |i: usize| value["quantiles"][i].as_f64().unwrap_or(f64::NAN);
        Some(Done {
            done: value["done"].as_u64()?,
            errors: value["errors"].as_u64()?,
            seconds: value["seconds"].as_f64()?,
            quantiles: std::array::from_fn(quantile),
            asked_again: value["asked_again"].as_u64()?,
            lost: value["lost"].as_u64()?,
        })
    }
}

/// What the tasks of a run share.
struct Shared {
    load: Load,
    /// Connections that nothing is on its way on.
    idle: RefCell<Vec<Conn>>,
    done: Cell<u64>,
    errors: Cell<u64>,
    running: Cell<bool>,
    times: RefCell<Histogram>,
    random: Cell<u64>,
    /// With a rate: operations that are due, and who waits for one.
    due: RefCell<VecDeque<Instant>>,
    waiting: RefCell<Vec<Waker>>,
    /// What is answered to a request, once an answer was seen.
    page: RefCell<Option<Rc<answer::Page>>>,
    /// Flows of datagrams that nothing is on its way on.
    flows: RefCell<Vec<datagrams::Flow>>,
    taken: Cell<Taken>,
    /// What is said on WebSockets.
    talk: Option<Talk>,
    /// The newest message to all, and how many have not got it.
    published: Cell<Label>,
    missing: Cell<usize>,
}

/// A connection.
struct Conn {
    stream: TcpStream,
    /// Which one it is, and how many messages it has sent.
    index: u32,
    number: u32,
    /// Of a WebSocket, what has come of a frame that is not whole.
    come: Vec<u8>,
}

impl Conn {
    fn new(stream: TcpStream, index: u32) -> Conn {
        Conn { stream, index, number: 0, come: Vec::new() }
    }
}

impl Shared {
    fn new(load: Load) -> io::Result<Rc<Shared>> {
        let role = &load.role;
        let talk = role.traffic.is_websocket().then(|| Talk::new(role.size)).transpose()?;
        Ok(Rc::new(Shared {
            load,
            talk,
            published: Cell::default(),
            missing: Cell::new(0),
            idle: RefCell::default(),
            done: Cell::new(0),
            errors: Cell::new(0),
            running: Cell::new(false),
            times: RefCell::default(),
            random: Cell::new(0x9e37_79b9_7f4a_7c15),
            due: RefCell::default(),
            waiting: RefCell::default(),
            page: RefCell::default(),
            flows: RefCell::default(),
            taken: Cell::default(),
        }))
    }

    /// A number below `bound`, by xorshift.
    fn random(&self, bound: usize) -> usize {
        let mut x = self.random.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.random.set(x);
        ((u128::from(x) * bound as u128) >> 64) as usize
    }

    fn take(&self) -> Option<Conn> {
        let len = self.idle.borrow().len();
        (len > 0).then(|| self.idle.borrow_mut().swap_remove(self.random(len)))
    }

    fn count(&self, begin: Option<Instant>) {
        self.done.set(self.done.get() + 1);
        if let Some(begin) = begin {
            self.times.borrow_mut().add(begin.elapsed());
        }
    }

    fn failed(&self, error: &io::Error) {
        if self.errors.replace(self.errors.get() + 1) == 0 {
            eprintln!("client: {error}");
        }
    }
}

/// Runs the client.
///
/// # Errors
/// The device does not open, a connection cannot be made, or the caller speaks another language.
pub fn run(load: &Load) -> io::Result<()> {
    if load.spinning {
        return spinning::run(&load.role);
    }
    if load.raw {
        return raw::run(load);
    }
    let started = load.clone();
    let ended = load.role.builder().run(move |shard| {
        let load = started.clone();
        async move {
            if shard.index() > 0 {
                return std::future::pending().await;
            }
            let shared = Shared::new(load)?;
            println!("open");
            if next_line().await?.is_none() {
                return Ok(());
            }
            match shared.load.role.traffic {
                Traffic::Udp => datagrams::open(&shared)?,
                traffic if traffic.connects() => {}
                _ => open(&shared).await?,
            }
            println!("ready");
            while let Some(line) = next_line().await? {
                println!("{}", work(&shared, parse_go(&line)?).await?.to_json());
            }
            // Closing a million connections in order would take its time and show nothing.
            std::process::exit(0)
        }
    })?;
    ended.into_iter().collect()
}

async fn next_line() -> io::Result<Option<String>> {
    throng::spawn_blocking(helper::next_line).await.map_err(io::Error::other)
}

fn parse_go(line: &str) -> io::Result<Duration> {
    let millis = line.strip_prefix("go ").and_then(|number| number.trim().parse().ok());
    millis
        .map(Duration::from_millis)
        .ok_or_else(|| io::Error::other(format!("'{line}' is not 'go MILLISECONDS'")))
}

/// Before this the counts do not count: caches, windows and timers settle.
fn warm_up(time: Duration) -> Duration {
    (time / 4).min(Duration::from_secs(1))
}

/// Opens the connections, some at a time.
async fn open(shared: &Rc<Shared>) -> io::Result<()> {
    let next = Rc::new(Cell::new(0));
    let opener = || {
        let (shared, next) = (shared.clone(), next.clone());
        spawn_local(async move {
            while next.get() < shared.load.role.connections {
                let index = next.replace(next.get() + 1);
                let stream = TcpStream::connect(shared.load.role.endpoint(index)).await?;
                stream.set_nodelay(true)?;
                let mut conn = Conn::new(stream, index as u32);
                if let Some(talk) = &shared.talk {
                    over_websocket::upgrade(talk, &mut conn).await?;
                }
                shared.idle.borrow_mut().push(conn);
            }
            io::Result::Ok(())
        })
    };
    let openers: Vec<_> = (0..OPENING).map(|_| opener()).collect();
    for opener in openers {
        opener.await.map_err(io::Error::other)??;
    }
    Ok(())
}

/// Works for this long, beside warming up. What is on its way at the end, or due and not begun, is
/// not done; but its time counts, or a peer that stalls at the end would look quick.
async fn work(shared: &Rc<Shared>, time: Duration) -> io::Result<Done> {
    let role = &shared.load.role;
    shared.running.set(true);
    let workers = match role.traffic {
        Traffic::Broadcast => role.connections,
        _ if role.traffic.connects() => shared.load.window,
        _ => shared.load.window.min(role.connections),
    };
    let worker = |_| match role.traffic {
        Traffic::Udp => spawn_local(datagrams::worker(shared.clone())),
        _ => spawn_local(traffic::worker(shared.clone())),
    };
    let workers: Vec<_> = (0..workers).map(worker).collect();
    let pacer = shared.load.rate.map(|rate| spawn_local(pace(shared.clone(), rate)));
    throng::sleep(warm_up(time)).await;
    println!("begun");
    let (begin, done, errors) = (Instant::now(), shared.done.get(), shared.errors.get());
    shared.taken.take();
    shared.times.take();
    throng::sleep(time).await;
    let end = Instant::now();
    shared.running.set(false);
    let mut done = Done {
        done: shared.done.get() - done,
        errors: shared.errors.get() - errors,
        seconds: (end - begin).as_secs_f64(),
        quantiles: UNTIMED,
        ..Done::default()
    };
    for due in shared.due.take() {
        shared.times.borrow_mut().add(end.saturating_duration_since(due));
    }
    shared.waiting.take().into_iter().for_each(Waker::wake);
    if matches!(role.traffic, Traffic::Download | Traffic::Upload | Traffic::Broadcast) {
        // They are in the middle of it, and the process ends after this.
        return Ok(done);
    }
    let ending = async {
        for worker in workers {
            worker.await.map_err(io::Error::other)?;
        }
        Ok::<_, io::Error>(())
    };
    throng::timeout(PATIENCE, ending)
        .await
        .map_err(|_| io::Error::other("an operation did not end"))??;
    drop(pacer);
    done.errors = shared.errors.get() - errors;
    let times = shared.times.take();
    done.quantiles = times.quantiles();
    Ok(shared.taken.take().noted(done))
}

/// Has operations fall due, so many each second.
async fn pace(shared: Rc<Shared>, rate: f64) {
    let begin = Instant::now();
    let mut number = 0_u64;
    while shared.running.get() {
        let due = (begin.elapsed().as_secs_f64() * rate) as u64;
        while number < due {
            number += 1;
            let at = begin + Duration::from_secs_f64(number as f64 / rate);
            shared.due.borrow_mut().push_back(at);
            if let Some(waker) = shared.waiting.borrow_mut().pop() {
                waker.wake();
            }
        }
        yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    /// A server that echoes for a while, then rests, then goes on.
    fn stalling(listener: TcpListener, after: Duration, rest: Duration) -> io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        let (mut buffer, mut rest) = ([0; 64], Some(rest));
        let begin = Instant::now();
        while stream.read_exact(&mut buffer).is_ok() {
            if begin.elapsed() > after
                && let Some(rest) = rest.take()
            {
                std::thread::sleep(rest);
            }
            stream.write_all(&buffer)?;
        }
        Ok(())
    }

    #[test]
    fn a_stall_at_the_end_counts() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = listener.local_addr().unwrap();
        let millis = Duration::from_millis;
        let serving = std::thread::spawn(move || stalling(listener, millis(300), millis(500)));
        let role = Role {
            traffic: Traffic::Echo,
            device: "kernel".to_owned(),
            address: None,
            server,
            connections: 1,
            core: 0,
            shards: 1,
            together: false,
            adaptive: true,
            size: 64,
            sockets: 1,
            preallocate: 0,
        };
        let (window, rate) = (1, Some(1_000.0));
        let load = Load {
            role,
            window,
            rate,
            timed: true,
            spinning: false,
            raw: false,
            ramp: None,
            upstream: None,
        };
        let builder = load.role.builder();
        let main = move |_| {
            let load = load.clone();
            async move {
                let shared = Shared::new(load)?;
                open(&shared).await?;
                // 100 ms of warming up, and of 400 ms the last half in the stall.
                let done = work(&shared, millis(400)).await?;
                drop(shared.idle.take());
                io::Result::Ok(done)
            }
        };
        let done = builder.run(main).unwrap().pop().unwrap().unwrap();
        serving.join().unwrap().unwrap();
        let [median, _, most, ..] = done.quantiles;
        assert!(most > 100_000.0 && done.errors == 0, "{done:?}");
        assert!(median < most, "{done:?}");
    }

    #[test]
    fn what_is_printed_is_read() {
        let done = Done {
            done: 7,
            errors: 1,
            seconds: 0.5,
            quantiles: [1.0, 2.0, 2.5, 3.0, 4.0],
            asked_again: 3,
            lost: 2,
        };
        assert_eq!(Done::parse(&done.to_json().to_string()), Some(done));
        let untimed = Done { quantiles: UNTIMED, ..done };
        let read = Done::parse(&untimed.to_json().to_string()).expect("an object");
        assert!(read.quantiles.iter().all(|quantile| quantile.is_nan()));
        assert_eq!(Done::parse("begun"), None);
        assert_eq!(parse_go("go 250\n").ok(), Some(Duration::from_millis(250)));
        assert!(parse_go("stop").is_err());
    }
}
