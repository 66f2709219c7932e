//! A client without a stack: frames made by hand, so that it is quicker than any server it asks.
//!
//! It speaks as much TCP as a link that loses nothing asks for: it acknowledges with its next
//! request where that goes over the same connection, and at once where it does not, as a client's delayed
//! acknowledgement would. No segment is sent again: what a server drops is an error at the end; datagrams
//! are asked for again. Lines in and out are those of the client on the runtime.

mod datagrams;
mod pages;
mod queues;
mod ramp;
#[cfg(test)]
mod tests;
mod upstream;
mod websocket;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant as Clock};

use bytes::Bytes;
use throng::net::device::{Device, DeviceSpec, OpenOptions, open};
use throng::net::packet::Packet;
use throng::runtime::{Instant, prefetch_read};

use super::answer::Page;
use super::datagrams::Taken;
use super::frame::{ACK, FIN, Frame, PSH, RST, SYN, Segment};
use super::websocket::{Label, Talk};
use super::{Done, Load, parse_go, traffic, warm_up};
use crate::helper;
use crate::role::{PER_PORT, Traffic};
use crate::stats::{Histogram, UNTIMED};
use crate::subject::LONGEST_RAW;
use queues::Queues;

/// Handshakes under way at a time.
const OPENING: usize = 512;
/// Nothing came for so long: something was lost.
const PATIENCE: Duration = Duration::from_secs(10);
/// Turns between two looks at the time and at what we are told.
const TURNS: u32 = 256;
/// Connections that are picked ahead, so that each is in the cache when it is asked on.
const AHEAD: usize = 32;

/// A connection, as far as asking on it takes.
#[derive(Clone, Copy, Default)]
struct Conn {
    seq: u32,
    ack: u32,
    /// The last timestamp the server sent.
    stamp: u32,
    /// Bytes of the answer that are still to come; of a WebSocket, and where the server ends the
    /// connection, one of the constants below.
    missing: u32,
}

/// A page that was asked for before it was known how long it is,
const UNANSWERED: u32 = u32::MAX;
/// and a connection that failed.
const FAILED: u32 = u32::MAX - 1;

/// A WebSocket, or a flow of datagrams, on which nothing is awaited,
const IDLE: u32 = 0;
/// one that an echo is to come on,
const ASKED: u32 = 1;
/// one that is being opened,
const OPENING_HANDSHAKE: u32 = 2;
/// one that has ended.
const OVER: u32 = 3;

/// Round trips.
struct Times {
    asked: Vec<Clock>,
    taken: Histogram,
}

impl Times {
    fn new(connections: usize) -> Times {
        Times { asked: vec![Clock::now(); connections], taken: Histogram::default() }
    }
}

struct Raw {
    load: Load,
    queues: Queues,
    frame: Frame,
    conns: Vec<Conn>,
    idle: Vec<u32>,
    /// Those of the idle ones that are asked next.
    picked: VecDeque<u32>,
    /// The next connection to be opened.
    next: usize,
    /// Connections to be opened.
    wanted: usize,
    established: usize,
    /// What asks for a page.
    message: Bytes,
    /// What is said on WebSockets, and of what was said the part that has come.
    talk: Option<Rc<Talk>>,
    partial: HashMap<u32, Vec<u8>>,
    /// The newest message that is on its way to all.
    published: Label,
    /// Opens connections, and has messages fall due, by the clock.
    pace: Option<ramp::Pace>,
    /// What is answered to a request, once an answer was seen.
    page: Option<Rc<Page>>,
    /// The server behind the one that is asked, where that is a balancer.
    upstream: Option<upstream::Upstream>,
    /// When each connection was asked, and how long answers took; where they are timed.
    times: Option<Times>,
    /// Datagrams that did not come back in time.
    overdue: datagrams::Overdue,
    on_way: usize,
    running: bool,
    done: u64,
    errors: u64,
    random: u64,
    begin: Clock,
    active: Clock,
}

/// Runs the client.
///
/// # Errors
/// As for the one on the runtime, and for traffic that this one cannot do.
pub(super) fn run(load: &Load) -> io::Result<()> {
    let role = &load.role;
    let mut core = rustix::thread::CpuSet::new();
    core.set(role.core);
    rustix::thread::sched_setaffinity(None, &core)?;
    let spec: DeviceSpec = role.device.parse().map_err(io::Error::other)?;
    let mut raw = Raw::new(load, open(&spec, role.shards, &OpenOptions::default())?)?;
    println!("open");
    let (tell, told) = channel();
    std::thread::spawn(move || {
        while let Some(line) = helper::next_line() {
            let _ = tell.send(line);
        }
    });
    // Frames are answered while we wait, too: the server looks for our address.
    while raw.told(&told)?.is_none() {}
    raw.find_server()?;
    match role.traffic {
        Traffic::Udp => raw.open_flows(),
        traffic if traffic.connects() => {}
        _ => raw.open()?,
    }
    println!("ready");
    loop {
        if let Some(line) = raw.told(&told)? {
            let done = match load.ramp {
                Some(rate) => raw.ramp(rate, ramp::AFTER)?,
                None => raw.work(parse_go(&line)?)?.to_json(),
            };
            println!("{done}");
        }
    }
}

impl Raw {
    /// A client of as many connections as `load` says, none of them open.
    fn new(load: &Load, devices: Vec<Box<dyn Device>>) -> io::Result<Raw> {
        let role = &load.role;
        let address = role.address.as_deref().and_then(|address| address.split('/').next());
        let address: Option<IpAddr> = address.and_then(|address| address.parse().ok());
        let (Some(IpAddr::V4(ours)), IpAddr::V4(server)) = (address, role.server.ip()) else {
            return Err(io::Error::other("this client has IPv4 only"));
        };
        let message = traffic::request(role.traffic);
        let said = matches!(role.traffic, Traffic::Echo | Traffic::Udp);
        if said && role.size > LONGEST_RAW {
            return Err(io::Error::other(format!("a message of more than {LONGEST_RAW} bytes")));
        }
        if role.traffic == Traffic::Udp && role.connections > PER_PORT {
            return Err(io::Error::other(format!("more than {PER_PORT} flows")));
        }
        let talk = role.traffic.is_websocket().then(|| Talk::new(role.size)).transpose()?;
        let queues = Queues::new(devices);
        let frame = Frame::new(queues.mac(), ours, server, role.server.port());
        let first = load.ramp.map(|_| ramp::FIRST);
        let wanted = first.unwrap_or(usize::MAX).min(role.connections);
        Ok(Raw {
            frame: match role.traffic {
                Traffic::Udp => frame.with_sockets(role.sockets),
                _ => frame,
            },
            queues,
            message,
            talk: talk.map(Rc::new),
            partial: HashMap::new(),
            published: Label::default(),
            pace: None,
            upstream: load.upstream.map(upstream::Upstream::new),
            times: load.timed.then(|| Times::new(role.connections)),
            overdue: datagrams::Overdue::default(),
            conns: vec![Conn::default(); role.connections],
            idle: Vec::new(),
            picked: VecDeque::new(),
            next: 0,
            wanted,
            established: 0,
            page: None,
            on_way: 0,
            running: false,
            done: 0,
            errors: 0,
            random: 0x9e37_79b9_7f4a_7c15,
            begin: Clock::now(),
            active: Clock::now(),
            load: load.clone(),
        })
    }

    /// Some turns, then what we are told meanwhile. The process ends where nobody tells any more.
    fn told(&mut self, told: &Receiver<String>) -> io::Result<Option<String>> {
        self.turns();
        match told.try_recv() {
            Ok(line) => Ok(Some(line)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => std::process::exit(0),
        }
    }

    fn turns(&mut self) {
        let mut frames = Vec::new();
        for _ in 0..TURNS {
            let clock = Clock::now();
            let now = Instant::from_nanos((clock - self.begin).as_nanos() as u64);
            self.frame.stamp = now.as_nanos().wrapping_div(1_000_000) as u32;
            self.queues.receive(&mut frames, now);
            if !frames.is_empty() {
                self.active = clock;
            }
            for frame in frames.drain(..) {
                self.received(&frame);
            }
            if self.pace.is_some() {
                self.keep_pace();
            }
            self.queues.transmit(now);
        }
        if self.load.role.traffic == Traffic::Udp {
            self.ask_overdue();
        }
    }

    /// Turns until `done`; an error when nothing comes any more.
    fn until(&mut self, what: &str, done: impl Fn(&Raw) -> bool) -> io::Result<()> {
        self.active = Clock::now();
        while !done(self) {
            self.turns();
            if self.active.elapsed() > PATIENCE {
                let (open, on_way) = (self.established, self.on_way);
                return Err(io::Error::other(format!(
                    "{what}: nothing came in {PATIENCE:?}; {open} open, {on_way} on their way"
                )));
            }
        }
        Ok(())
    }

    fn find_server(&mut self) -> io::Result<()> {
        for _ in 0..50 {
            let frame = self.frame.arp_request();
            self.send_on(0, &frame);
            let end = Clock::now() + Duration::from_millis(100);
            while Clock::now() < end {
                self.turns();
                if self.frame.knows_server() {
                    return Ok(());
                }
            }
        }
        Err(io::Error::other("the server does not answer for its address"))
    }

    fn open(&mut self) -> io::Result<()> {
        let all = self.wanted;
        for _ in 0..OPENING.min(all) {
            self.open_next();
        }
        self.until("opening", |raw| raw.established == all)
    }

    /// Begins the handshake of the next connection.
    fn open_next(&mut self) {
        let index = self.next;
        if index >= self.wanted {
            return;
        }
        self.next += 1;
        self.syn(index);
    }

    fn syn(&mut self, index: usize) {
        let conn = &mut self.conns[index];
        // Beyond what the connection before it on these ports has used (RFC 6191).
        conn.seq = conn.seq.wrapping_add(100_000);
        let seq = conn.seq;
        let missing = if self.talk.is_some() { OPENING_HANDSHAKE } else { 0 };
        *conn = Conn { seq: seq.wrapping_add(1), missing, ..Conn::default() };
        self.emit(index, Segment { seq, ack: 0, stamp: 0, flags: SYN }, &[]);
    }

    fn emit(&mut self, index: usize, segment: Segment, data: &[u8]) {
        let (bytes, len) = self.frame.tcp(index, segment, data);
        self.send(index, &bytes[..len]);
    }

    /// Data on a connection, with what it acknowledges.
    fn say(&mut self, index: usize, data: &[u8]) {
        let conn = &mut self.conns[index];
        let Conn { seq, ack, stamp, .. } = *conn;
        conn.seq = seq.wrapping_add(data.len() as u32);
        self.emit(index, Segment { seq, ack, stamp, flags: ACK | PSH }, data);
    }

    /// A frame of a connection or flow.
    fn send(&mut self, index: usize, bytes: &[u8]) {
        let [ours, server] = self.frame.ends(index);
        self.send_on(self.queues.of(ours, server), bytes);
    }

    fn send_on(&mut self, queue: usize, bytes: &[u8]) {
        let begin = self.begin;
        if !self.queues.send(queue, bytes, || since(begin)) {
            self.note("no buffer comes back");
        }
    }

    /// Counts an error, and tells of the first.
    fn note(&mut self, why: &str) {
        if self.errors == 0 {
            eprintln!("client: {why}");
        }
        self.errors += 1;
    }

    fn work(&mut self, time: Duration) -> io::Result<Done> {
        self.running = true;
        let connects = self.load.role.traffic.connects();
        let window = self.load.window.min(self.conns.len());
        if self.load.role.traffic == Traffic::Broadcast {
            self.publish(0);
        }
        for _ in 0..window {
            match self.load.role.traffic {
                Traffic::Broadcast => break,
                _ if connects => self.reopen(),
                _ => self.ask_another(None),
            }
        }
        self.for_a_while(warm_up(time));
        println!("begun");
        let (begin, done, errors) = (Clock::now(), self.done, self.errors);
        if let Some(times) = &mut self.times {
            times.taken = Histogram::default();
        }
        self.overdue.taken = Taken::default();
        self.for_a_while(time);
        let (seconds, done) = (begin.elapsed().as_secs_f64(), self.done - done);
        self.running = false;
        match self.load.role.traffic {
            Traffic::Udp => self.last_datagrams(),
            _ => self.until("the last", |raw| raw.on_way == 0)?,
        }
        let errors = self.errors - errors;
        let quantiles = self.times.as_ref().map_or(UNTIMED, |times| times.taken.quantiles());
        let done = Done { done, errors, seconds, quantiles, ..Done::default() };
        Ok(self.overdue.taken.noted(done))
    }

    fn for_a_while(&mut self, time: Duration) {
        let begin = Clock::now();
        while begin.elapsed() < time {
            self.turns();
        }
    }

    /// The next connection of those that are opened for one operation each.
    fn reopen(&mut self) {
        let index = self.next % self.conns.len();
        self.next += 1;
        self.on_way += 1;
        self.syn(index);
    }

    /// Asks on a connection picked at random; `answered` is the one whose answer is to be
    /// acknowledged.
    fn ask_another(&mut self, answered: Option<usize>) {
        let picked = if self.running { self.pick() } else { None };
        if let Some(index) = answered
            && picked != Some(index)
        {
            self.acknowledge(index);
        }
        if let Some(index) = picked {
            self.on_way += 1;
            self.ask(index);
        }
    }

    /// One at random that nothing is on its way on.
    fn pick(&mut self) -> Option<usize> {
        loop {
            while self.picked.len() < AHEAD && !self.idle.is_empty() {
                let at = self.random_below(self.idle.len());
                let index = self.idle.swap_remove(at);
                prefetch_read(&self.conns[index as usize]);
                self.picked.push_back(index);
            }
            let index = self.picked.pop_front()? as usize;
            if self.conns[index].missing != OVER {
                return Some(index);
            }
        }
    }

    fn random_below(&mut self, end: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        ((u128::from(self.random) * end as u128) >> 64) as usize
    }

    fn ask(&mut self, index: usize) {
        match self.load.role.traffic {
            _ if self.talk.is_some() => self.ask_websocket(index, 0),
            Traffic::Udp => self.ask_by_datagram(index),
            Traffic::Echo => self.ask_for_echo(index),
            _ => self.ask_for_page(index),
        }
    }

    fn acknowledge(&mut self, index: usize) {
        let Conn { seq, ack, stamp, .. } = self.conns[index];
        self.emit(index, Segment { seq, ack, stamp, flags: ACK }, &[]);
    }

    fn received(&mut self, packet: &Packet) {
        let bytes = packet.data();
        if let Some(answer) = self.frame.arp(bytes) {
            return self.send_on(0, &answer);
        }
        if self.load.role.traffic == Traffic::Udp {
            return self.on_datagram(bytes);
        }
        if let Some(upstream) = &mut self.upstream
            && let Some((answer, len)) = upstream.received(&self.frame, bytes)
        {
            if len > 0 {
                self.send_on(0, &answer[..len]);
            }
            return;
        }
        let Some((index, segment, data)) = self.frame.read(bytes) else { return };
        let Some(conn) = self.conns.get_mut(index).filter(|conn| conn.missing != FAILED) else {
            return;
        };
        conn.stamp = segment.stamp;
        if segment.flags & RST != 0 {
            return match self.talk {
                Some(_) => self.closed(index),
                None => self.gone(index, "reset by the server"),
            };
        }
        if segment.flags & SYN != 0 {
            conn.ack = segment.seq.wrapping_add(1);
            return self.opened(index);
        }
        if segment.seq != conn.ack {
            // Sent again, for what we sent has been on its way for long.
            return self.acknowledge(index);
        }
        conn.ack = conn.ack.wrapping_add(data.len() as u32);
        match self.talk {
            Some(_) => self.on_websocket(index, data),
            None if !data.is_empty() => self.on_answer(index, data, segment.flags & FIN != 0),
            None => {}
        }
        if segment.flags & FIN != 0 {
            self.on_end(index);
        }
    }

    /// The server ends the connection.
    fn on_end(&mut self, index: usize) {
        let conn = &mut self.conns[index];
        if conn.missing == FAILED {
            return;
        }
        conn.ack = conn.ack.wrapping_add(1);
        let Conn { seq, ack, stamp, .. } = *conn;
        conn.seq = seq.wrapping_add(1);
        self.emit(index, Segment { seq, ack, stamp, flags: ACK | FIN }, &[]);
        if self.talk.is_some() {
            return self.closed(index);
        }
        // Only where every operation has a connection of its own is its end one's success.
        if !self.load.role.traffic.connects() || self.conns[index].missing != 0 {
            return self.failed(index, "ended by the server");
        }
        self.done += 1;
        self.ended();
    }

    /// Well or not: the connection is free again, and the next is asked.
    fn answered(&mut self, index: usize) {
        if let Some(times) = &mut self.times {
            times.taken.add(times.asked[index].elapsed());
        }
        self.on_way -= 1;
        self.idle.push(index as u32);
        self.ask_another(Some(index));
    }

    fn opened(&mut self, index: usize) {
        if self.talk.is_some() {
            return self.ask_for_websocket(index);
        }
        self.acknowledge(index);
        match self.load.role.traffic {
            Traffic::Accept => {}
            Traffic::HttpClose => self.ask(index),
            _ => self.is_open(index),
        }
    }

    /// A connection is there to be asked on.
    fn is_open(&mut self, index: usize) {
        self.established += 1;
        self.idle.push(index as u32);
        if self.pace.is_none() {
            self.open_next();
        }
    }

    /// A connection that was for one operation is over.
    fn ended(&mut self) {
        if self.load.role.traffic.connects() {
            self.on_way -= 1;
            if self.running {
                self.reopen();
            }
        }
    }
}

/// The device's time.
fn since(begin: Clock) -> Instant {
    Instant::from_nanos(begin.elapsed().as_nanos() as u64)
}
