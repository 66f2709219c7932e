//! The whole path of a message by itself, in nanoseconds: device, stack, engine, executor, task and back.
//!
//! One shard on one thread, under a virtual clock, whose clients are frames made by hand. Only the
//! server's turns are timed, and of those the middle one counts: whoever else wants the processor
//! prolongs some turns, not the middle one.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use serde_json::{Map, json};
use throng::net::device::{Device, memory};
use throng::net::engine::wire::{self, Incoming};
use throng::net::packet::Packet;
use throng::net::sim::{HostConfig, add_host};
use throng::net::tcp::{Flags, Header, Options, SeqNum};
use throng::runtime::ShardId;
use throng::runtime::sim::World;
use throng::{TcpListener, spawn_local};

use crate::crowd::{self, ECHO, MESSAGE, PORT, REQUEST, SERVER};
use crate::idle::{self, Style};
use crate::report::Report;
use crate::serve;
use crate::stats::Samples;

/// Frames of a turn, at most.
pub const BURST: usize = 64;
/// From so many connections on, each message is on another one, as is its acknowledgement.
pub const MANY: usize = 4_096;
/// Messages under way at a time on many.
const WINDOW: usize = 1_024;
/// What goes by between two full turns.
const TURN: Duration = Duration::from_micros(40);
/// A plain message.
const PLAIN: [u8; 64] = [0x55; 64];
/// A request, as the bench `http` has it, what the answer begins with, and its body.
const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: throng.example\r\nAccept: */*\r\n\r\n";
const LAST_GET: &[u8] =
    b"GET / HTTP/1.1\r\nHost: throng.example\r\nAccept: */*\r\nConnection: close\r\n\r\n";
const STATUS: &[u8] = b"HTTP/1.1 200 OK\r\n";
const HELLO: &[u8] = b"\r\n\r\nhello\n";

/// Who serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// `TcpStream`s, 64 bytes and back.
    Echo,
    /// WebSockets in the hands of `ws::serve`, 32 bytes and back.
    WebSocket,
    /// `http::Server`, a page for each request.
    Http,
    /// The same, a connection for each.
    HttpClose,
    /// Connections that are accepted and closed.
    Accept,
}

impl Server {
    /// All of them.
    pub const ALL: [Server; 5] =
        [Server::Echo, Server::WebSocket, Server::Http, Server::HttpClose, Server::Accept];

    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Server::Echo => "echo",
            Server::WebSocket => "ws-echo",
            Server::Http => "http",
            Server::HttpClose => "http-close",
            Server::Accept => "connect-rate",
        }
    }

    /// Whether each message has a connection of its own.
    pub fn connects(self) -> bool {
        matches!(self, Server::HttpClose | Server::Accept)
    }

    fn asked(self) -> &'static [u8] {
        match self {
            Server::Echo => &PLAIN,
            Server::WebSocket => &MESSAGE,
            Server::Http => GET,
            Server::HttpClose => LAST_GET,
            Server::Accept => &[],
        }
    }

    fn is_answer(self, said: &[u8]) -> bool {
        match self {
            Server::Echo => said == PLAIN,
            Server::WebSocket => said == ECHO,
            Server::Http | Server::HttpClose => said.starts_with(STATUS) && said.ends_with(HELLO),
            Server::Accept => false,
        }
    }
}

/// What a client says first.
const SYN: Options = Options {
    mss: Some(1460),
    window_scale: Some(7),
    sack_permitted: true,
    timestamps: None,
    sack: [None; 4],
};

/// A client's side of a connection.
#[derive(Clone, Copy, Default)]
struct Peer {
    seq: u32,
    ack: u32,
    waits: bool,
}

struct Bed {
    world: World,
    device: memory::MemoryQueue,
    server: Server,
    station: [u8; 6],
    peers: Vec<Peer>,
    outgoing: VecDeque<Packet>,
    received: Vec<Packet>,
    /// Whose echo is to be acknowledged.
    owed: VecDeque<u32>,
    echoed: usize,
    /// Connections that the server has ended, and the next one to be opened.
    ended: usize,
    next: usize,
    random: u64,
}

impl Bed {
    fn new(server: Server, connections: usize) -> io::Result<Bed> {
        let (ours, theirs) = memory::pair(1, memory::Options::default());
        let theirs = theirs.into_iter().map(|queue| Box::new(queue) as Box<dyn Device>).collect();
        let mut world = World::new();
        let mut config = HostConfig::new(&[&format!("{SERVER}/8")], 1);
        config.tcp.max_connections = connections + 1_024;
        let host = add_host(&mut world, theirs, &config);
        world.spawn(host, ShardId(0), async move {
            match server {
                Server::WebSocket => idle::accept(Style::Handler).await,
                Server::Http | Server::HttpClose => idle::accept(Style::Pages).await,
                Server::Echo | Server::Accept => {
                    let listener = TcpListener::bind(SocketAddr::from((SERVER, PORT)))?;
                    loop {
                        let (stream, _) = listener.accept().await?;
                        match server {
                            Server::Echo => spawn_local(serve::echo(stream)).detach(),
                            _ => drop(stream),
                        }
                    }
                }
            }
        });
        let device = ours.into_iter().next().ok_or(io::ErrorKind::NotFound)?;
        let mut bed = Bed {
            world,
            device,
            server,
            station: [0; 6],
            peers: vec![Peer::default(); connections],
            outgoing: VecDeque::new(),
            received: Vec::new(),
            owed: VecDeque::new(),
            echoed: 0,
            ended: 0,
            next: 0,
            random: 0x9e37_79b9_7f4a_7c15,
        };
        bed.open()?;
        Ok(bed)
    }

    fn open(&mut self) -> io::Result<()> {
        let all = self.peers.len() as u32;
        let hosts: BTreeSet<IpAddr> = (0..all).map(|i| crowd::tuple(i).local_addr().ip()).collect();
        for host in hosts {
            let IpAddr::V4(host) = host else { continue };
            self.send(&crowd::question(host));
            // The answer, and what the server asks in its turn.
            self.turn();
            self.turn();
        }
        if self.station == [0; 6] {
            return Err(io::Error::other("the server does not answer for its address"));
        }
        if self.server.connects() {
            return Ok(());
        }
        for first in (0..all).step_by(BURST) {
            let clients = first..(first + BURST as u32).min(all);
            clients.clone().for_each(|i| self.emit(i, Flags::SYN, SYN, &[]));
            self.turn();
            clients.clone().for_each(|i| self.peers[i as usize].seq = 1);
            clients.clone().for_each(|i| self.emit(i, Flags::ACK, Options::default(), &[]));
            self.turn();
            if self.server == Server::WebSocket {
                clients.clone().for_each(|i| self.say(i, REQUEST));
                self.turn();
                clients.for_each(|i| self.emit(i, Flags::ACK, Options::default(), &[]));
                self.turn();
            }
        }
        self.owed.clear();
        self.peers.iter_mut().for_each(|peer| peer.waits = false);
        Ok(())
    }

    fn send(&mut self, bytes: &[u8]) {
        if let Some(mut packet) = self.device.allocate(bytes.len())
            && packet.append(bytes)
        {
            self.outgoing.push_back(packet);
        }
    }

    fn emit(&mut self, client: u32, flags: Flags, options: Options, payload: &[u8]) {
        let Peer { seq, ack, .. } = self.peers[client as usize];
        let header =
            Header { options, ..crowd::plain(crowd::tuple(client), seq, SeqNum(ack), flags) };
        let frame = crowd::frame(self.station, &header, payload);
        self.send(&frame);
    }

    fn say(&mut self, client: u32, message: &[u8]) {
        self.emit(client, Flags::ACK | Flags::PSH, Options::default(), message);
        let peer = &mut self.peers[client as usize];
        peer.seq = peer.seq.wrapping_add(message.len() as u32);
        peer.waits = true;
    }

    /// One turn of the server with what was sent; returns how long it took.
    fn turn(&mut self) -> Duration {
        self.turn_after(TURN)
    }

    fn turn_after(&mut self, time: Duration) -> Duration {
        let now = self.world.now();
        while !self.outgoing.is_empty() && self.device.transmit(&mut self.outgoing, now) > 0 {}
        self.world.jump(time);
        let begin = Instant::now();
        self.world.sweep();
        let took = begin.elapsed();
        self.device.receive(&mut self.received, 4 * BURST, now);
        let mut received = std::mem::take(&mut self.received);
        received.drain(..).for_each(|frame| self.on_frame(frame.data()));
        self.received = received;
        took
    }

    fn on_frame(&mut self, frame: &[u8]) {
        if frame.get(12..14) == Some(&[0x08, 0x06]) {
            let answer = crowd::on_arp(frame);
            self.station.copy_from_slice(&frame[22..28]);
            return answer.iter().for_each(|answer| self.send(answer));
        }
        let Some(Incoming::Segment(header, payload)) = wire::decode(&frame[14..]) else { return };
        let Some(client) = crowd::number(&header.tuple) else { return };
        let Some(peer) = self.peers.get_mut(client as usize) else { return };
        let [syn, fin] = [Flags::SYN, Flags::FIN].map(|flag| header.flags.contains(flag));
        let ends = u32::from(syn) + u32::from(fin);
        peer.ack = header.seq.0.wrapping_add(payload.len() as u32 + ends);
        self.ended += usize::from(fin);
        if !payload.is_empty() {
            self.echoed += usize::from(self.server.is_answer(&payload));
            self.owed.push_back(client);
        }
    }

    fn pick(&mut self) -> u32 {
        loop {
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            let all = self.peers.len() as u128;
            let client = ((u128::from(self.random) * all) >> 64) as u32;
            if !self.peers[client as usize].waits {
                return client;
            }
        }
    }

    /// As many connections as are to be in a turn, from their SYN to the server's last acknowledgement; returns
    /// how many, and how long the turns took.
    fn connect(&mut self, burst: usize) -> (usize, Duration) {
        let clients: Vec<u32> =
            (0..burst).map(|i| (self.next + i) % self.peers.len()).map(|i| i as u32).collect();
        (self.next, self.ended, self.echoed) = (self.next + burst, 0, 0);
        for &client in &clients {
            let peer = &mut self.peers[client as usize];
            // Beyond what the connection before on these ports has used (RFC 6191).
            *peer = Peer { seq: peer.seq.wrapping_add(100_000), ..Peer::default() };
            self.emit(client, Flags::SYN, SYN, &[]);
        }
        let mut took = self.turn();
        for &client in &clients {
            let peer = &mut self.peers[client as usize];
            peer.seq = peer.seq.wrapping_add(1);
            match self.server.asked() {
                [] => self.emit(client, Flags::ACK, Options::default(), &[]),
                request => self.say(client, request),
            }
        }
        // Who accepts and who serves may be polled in two turns.
        for _ in 0..3 {
            if self.ended < burst {
                took += self.turn();
            }
        }
        for &client in &clients {
            self.emit(client, Flags::ACK | Flags::FIN, Options::default(), &[]);
            let peer = &mut self.peers[client as usize];
            peer.seq = peer.seq.wrapping_add(1);
        }
        took += self.turn();
        let answers = if self.server == Server::Accept { 0 } else { burst };
        assert_eq!((self.ended, self.echoed), (burst, answers), "each ends with its answer");
        self.owed.clear();
        (burst, took)
    }

    /// A turn with as many messages as go with their acknowledgements; returns how many, and how
    /// long it took.
    fn burst(&mut self, burst: usize) -> (usize, Duration) {
        let many = self.peers.len() >= MANY;
        let mut asked = 0;
        for _ in 0..burst {
            // A million's acknowledgements come by themselves, in the order of the echoes.
            if many && self.owed.len() >= WINDOW.min(self.peers.len() / 2) + burst / 2 - asked {
                let Some(client) = self.owed.pop_front() else { break };
                self.peers[client as usize].waits = false;
                self.emit(client, Flags::ACK, Options::default(), &[]);
                continue;
            }
            if !many && let Some(client) = self.owed.pop_front() {
                self.peers[client as usize].waits = false;
            }
            let client = self.pick();
            self.say(client, self.server.asked());
            asked += 1;
        }
        self.echoed = 0;
        // As many messages a second whatever the burst: what an echo waits for its acknowledgement is the same.
        let took = self.turn_after(TURN * burst as u32 / BURST as u32);
        assert_eq!(self.echoed, asked, "each message comes back in its turn");
        (asked, took)
    }
}

/// Has `connections` of `server` asked, `burst` of them at a time that lie anywhere, for `time` in each of
/// `rounds` rounds.
///
/// # Errors
/// The server does not answer.
pub fn measure(
    server: Server,
    connections: usize,
    burst: usize,
    rounds: usize,
    time: Duration,
) -> io::Result<Report> {
    let mut bed = Bed::new(server, connections)?;
    let mut figures = Vec::new();
    // The first is for what the connections allocate once.
    for round in 0..=rounds {
        let (begin, mut turns) = (Instant::now(), Vec::new());
        while begin.elapsed() < time {
            let (messages, took) = match server.connects() {
                true => bed.connect(burst),
                false => bed.burst(burst),
            };
            turns.push(took.as_nanos() as f64 / messages.max(1) as f64);
        }
        if round > 0 {
            figures.push(Samples::from(turns).median());
        }
    }
    Ok(Report {
        bench: "path".into(),
        params: json!({
            "server": server.name(),
            "connections": connections,
            "burst": burst,
        }),
        unit: "ns of a turn per message received, handled and sent back, or per connection".into(),
        more_is_better: false,
        throng: Samples::from(figures),
        peers: Vec::new(),
        others: Samples::from(vec![0.0; rounds]),
        failures: Vec::new(),
        more: Map::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_comes_back_in_its_turn() {
        // The bed itself insists on the echoes.
        for server in Server::ALL {
            for (connections, burst) in [(100, BURST), (1_000, 1), (MANY, BURST)] {
                let report = measure(server, connections, burst, 1, Duration::from_millis(20));
                assert_eq!(report.expect("a server").throng.len(), 1);
            }
        }
    }
}
