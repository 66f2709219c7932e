//! A crowd of clients, of WebSockets or pages, without any memory of their own: each frame that comes from the
//! server holds all that is needed for the answer.
//!
//! A client opens its connection, asks for the upgrade, sends one message, acknowledges its echo
//! and stays silent until it leaves with a reset; or asks for a page, in place of upgrade and message. Its own sequence numbers are the same for all, and the
//! server's come back in its segments, so that a million clients are a few counters here, and
//! what the process holds is the server's.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};

use throng::net::device::Device;
use throng::net::engine::wire::{self, Incoming};
use throng::net::packet::Packet;
use throng::net::tcp::{Flags, FourTuple, Header, Options, SeqNum};
use throng::runtime::Instant;

/// The server's address, in a network of eight bits.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// Where it listens.
pub const PORT: u16 = 80;

pub(crate) const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: crowd\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Version: 13\r\n\r\n";
/// A binary message of 32 bytes, masked with zeroes, and its echo.
pub(crate) const MESSAGE: [u8; 38] = {
    let mut frame = [0x55; 38];
    (frame[0], frame[1]) = (0x82, 0x80 | 32);
    (frame[2], frame[3], frame[4], frame[5]) = (0, 0, 0, 0);
    frame
};
pub(crate) const ECHO: [u8; 34] = {
    let mut frame = [0x55; 34];
    (frame[0], frame[1]) = (0x82, 32);
    frame
};

pub(crate) const PAGE_REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: crowd\r\n\r\n";
/// The first and the last bytes of what is answered to it, in one segment.
const PAGE: [&[u8]; 2] = [b"HTTP/1.1 200 OK\r\n", b"\r\n\r\nhello\n"];

/// What clients want.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// A WebSocket and an echo on it.
    WebSocket,
    /// `hello` as an HTTP/1.1 page, on a connection that stays.
    Page,
}

impl Wish {
    fn request(self) -> &'static [u8] {
        match self {
            Wish::WebSocket => REQUEST,
            Wish::Page => PAGE_REQUEST,
        }
    }

    /// Where a client's sequence numbers are behind the request.
    fn asked(self) -> u32 {
        1 + self.request().len() as u32
    }

    /// And behind all it has to say.
    fn spoken(self) -> u32 {
        match self {
            Wish::WebSocket => self.asked() + MESSAGE.len() as u32,
            Wish::Page => self.asked(),
        }
    }

    /// Whether it is what a client waits for last.
    fn is_granted_by(self, payload: &[u8]) -> bool {
        match self {
            Wish::WebSocket => payload == ECHO,
            Wish::Page => payload.starts_with(PAGE[0]) && payload.ends_with(PAGE[1]),
        }
    }
}
/// Clients that leave at a time.
const LEAVE: u32 = 64;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
const FIRST_CLIENT: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 1);
const FIRST_PORT: u32 = 1_024;
const PORTS: u32 = 60_000;

/// The clients of one server.
#[derive(Debug)]
pub struct Crowd {
    wish: Wish,
    /// The server's station, once it has answered.
    server: Option<[u8; 6]>,
    /// Clients that have sent a SYN.
    begun: u32,
    /// Clients whose wish was granted, and how many they are: what is sent twice counts once.
    done: Vec<u64>,
    echoed: u32,
    /// Segments that make no sense in the life of a client: resets, ends, other bytes.
    wrong: u32,
    wanted: u32,
    /// Clients on their way at a time.
    at_once: u32,
    /// Clients that are to leave, the first ones of all, and that have left.
    leaving: u32,
    left: u32,
}

impl Crowd {
    /// Nobody yet, and never more than `most`; `at_once` clients are on their way at a time.
    pub fn new(wish: Wish, at_once: u32, most: u32) -> Crowd {
        let done = vec![0; most.div_ceil(64) as usize];
        Crowd {
            wish,
            server: None,
            begun: 0,
            done,
            echoed: 0,
            wrong: 0,
            wanted: 0,
            at_once,
            leaving: 0,
            left: 0,
        }
    }

    /// Whether the server's station is known: clients come only then.
    pub fn knows_server(&self) -> bool {
        self.server.is_some()
    }

    /// Has clients come until there are `clients` in all.
    pub fn grow_to(&mut self, clients: u32) {
        self.wanted = self.wanted.max(clients.min(self.done.len() as u32 * 64));
    }

    /// Has the first `clients` of those that are idle leave, some each time others could
    /// [begin](Crowd::begin).
    pub fn leave(&mut self, clients: u32) {
        self.leaving = self.leaving.max(clients.min(self.echoed));
    }

    /// Clients that have left.
    pub fn left(&self) -> u32 {
        self.left
    }

    /// Clients who have got what they wished for.
    pub fn idle(&self) -> u32 {
        self.echoed
    }

    /// Whether all that are wanted are there.
    pub fn is_complete(&self) -> bool {
        self.echoed == self.wanted
    }

    /// Segments that no client should get.
    pub fn wrong(&self) -> u32 {
        self.wrong
    }

    /// The frames of clients that may begin or leave now; before the server is known, the question for
    /// it.
    pub fn begin(&mut self, mut send: impl FnMut(Vec<u8>)) {
        let Some(server) = self.server else {
            return send(question(Ipv4Addr::new(10, 255, 0, 1)));
        };
        while self.begun < self.wanted && self.begun - self.echoed < self.at_once {
            let tuple = tuple(self.begun);
            self.begun += 1;
            let options = Options {
                mss: Some(1460),
                window_scale: Some(7),
                sack_permitted: true,
                ..Options::default()
            };
            let syn = Header { options, ..plain(tuple, 0, SeqNum(0), Flags::SYN) };
            send(frame(server, &syn, &[]));
        }
        for i in self.left..self.leaving.min(self.left + LEAVE) {
            self.left += 1;
            send(frame(server, &plain(tuple(i), self.wish.spoken(), SeqNum(0), Flags::RST), &[]));
        }
    }

    /// A frame from the server; returns the answer.
    pub fn on_frame(&mut self, received: &[u8]) -> Option<Vec<u8>> {
        match received.get(12..14)? {
            [0x08, 0x06] => {
                self.server = received.get(22..28)?.try_into().ok();
                on_arp(received)
            }
            [0x08, 0x00] => self.on_packet(&received[14..]),
            _ => None,
        }
    }

    fn note_echo(&mut self, tuple: &FourTuple) {
        let Some(i) = number(tuple) else { return };
        let Some(word) = self.done.get_mut(i as usize / 64) else { return };
        self.echoed += u32::from(*word & 1 << (i % 64) == 0);
        *word |= 1 << (i % 64);
    }

    fn on_packet(&mut self, packet: &[u8]) -> Option<Vec<u8>> {
        let Some(Incoming::Segment(header, payload)) = wire::decode(packet) else { return None };
        let server = self.server?;
        let next = header.seq + payload.len() as u32;
        let tuple = header.tuple;
        if header.flags.contains(Flags::RST) || header.flags.contains(Flags::FIN) {
            self.wrong += 1;
            return None;
        }
        let (seq, ack, bytes): (u32, SeqNum, &[u8]) = if header.flags.contains(Flags::SYN) {
            (1, next + 1, self.wish.request())
        } else if self.wish.is_granted_by(&payload) {
            self.note_echo(&tuple);
            (self.wish.spoken(), next, &[])
        } else if self.wish == Wish::WebSocket && payload.starts_with(b"HTTP/1.1 101 ") {
            (self.wish.asked(), next, &MESSAGE)
        } else {
            self.wrong += u32::from(!payload.is_empty());
            return None;
        };
        Some(frame(server, &plain(tuple, seq, ack, Flags::ACK), bytes))
    }
}

/// A crowd at its end of a link.
pub struct Station<D> {
    /// Who is there.
    pub crowd: Crowd,
    device: D,
    received: Vec<Packet>,
    waiting: VecDeque<Packet>,
    asked: bool,
}

impl<D: Device> Station<D> {
    /// A crowd behind `device`.
    pub fn new(crowd: Crowd, device: D) -> Station<D> {
        Station { crowd, device, received: Vec::new(), waiting: VecDeque::new(), asked: false }
    }

    /// Takes what has come, has clients begin, and sends. Returns whether there was anything.
    pub fn turn(&mut self, now: Instant) -> bool {
        let count = self.device.receive(&mut self.received, 64, now);
        for frame in self.received.drain(..) {
            self.waiting.extend(self.crowd.on_frame(frame.data()).map(Packet::from));
        }
        // Who leaves does not wait for an answer, but for room.
        if (self.crowd.knows_server() && self.waiting.len() < 1_024) || !self.asked {
            self.asked = true;
            self.crowd.begin(|frame| self.waiting.push_back(frame.into()));
        }
        self.device.transmit(&mut self.waiting, now) + count > 0
    }

    /// Asks for the server again: nobody listened.
    pub fn ask_again(&mut self) {
        self.asked = false;
    }
}

/// The frame that asks for the server's station.
pub(crate) fn question(from: Ipv4Addr) -> Vec<u8> {
    arp(1, [0xff; 6], from, SERVER)
}

/// The answer to the server's question for a client's station, if that is what it sent.
pub(crate) fn on_arp(received: &[u8]) -> Option<Vec<u8>> {
    let station: [u8; 6] = received.get(22..28)?.try_into().ok()?;
    let asked = Ipv4Addr::from(<[u8; 4]>::try_from(received.get(38..42)?).ok()?);
    (received.get(20..22)? == [0, 1] && asked != SERVER).then(|| arp(2, station, asked, SERVER))
}

/// The addresses and ports of client `i`.
pub(crate) fn tuple(i: u32) -> FourTuple {
    let client = Ipv4Addr::from_bits(FIRST_CLIENT.to_bits() + i / PORTS);
    let port = (FIRST_PORT + i % PORTS) as u16;
    FourTuple::new((client, port).into(), (SERVER, PORT).into())
}

/// The client with these addresses and ports.
pub(crate) fn number(tuple: &FourTuple) -> Option<u32> {
    let SocketAddr::V4(client) = tuple.local_addr() else { return None };
    let host = client.ip().to_bits().checked_sub(FIRST_CLIENT.to_bits())?;
    Some(host * PORTS + u32::from(client.port()).checked_sub(FIRST_PORT)?)
}

pub(crate) fn plain(tuple: FourTuple, seq: u32, ack: SeqNum, flags: Flags) -> Header {
    Header {
        tuple,
        seq: SeqNum(seq),
        ack,
        flags,
        window: 1_000,
        urgent: 0,
        ecn: 0,
        options: Options::default(),
    }
}

pub(crate) fn frame(to: [u8; 6], header: &Header, payload: &[u8]) -> Vec<u8> {
    [&to[..], &MAC, &[0x08, 0x00], &wire::encode(header, payload)].concat()
}

/// An ARP message of ours (RFC 826): `operation` 1 asks, 2 answers.
fn arp(operation: u8, to: [u8; 6], ours: Ipv4Addr, theirs: Ipv4Addr) -> Vec<u8> {
    let fixed = [0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, operation];
    [&to[..], &MAC, &fixed, &MAC, &ours.octets(), &to, &theirs.octets()].concat()
}
