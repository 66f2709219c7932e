//! One engine, arbitrary events: segments near the window, calls of the user, time, a device
//! without room. After each the invariants hold; what it sends and gives out are the bytes
//! that were written; and when everybody has left, nothing is left.

use std::time::Duration;

use bytes::Bytes;
use throng_net::tcp::{
    ConnId, Egress, Engine, Event, Flags, Full, Header, Keepalive, ListenerId, Payload, RecvError,
    SendError, SeqNum, State, TooBig, Unreachable,
};
use throng_runtime::Instant;

use crate::draw::Draw;
use crate::remote::{Remote, is, is_stream, remember, stream};
use crate::{settings, trace};

/// Most events of a run.
const EVENTS: u32 = 400;
/// Most timers that may come up between the last event and silence.
const TIMERS: usize = 20_000;

/// Runs one input.
///
/// # Panics
/// When something does not hold.
pub fn run(data: &[u8]) {
    let mut draw = Draw::new(data, EVENTS);
    let mut bench = Bench::new(&mut draw);
    while draw.another() {
        bench.event(&mut draw);
        bench.engine.check_invariants();
    }
    bench.end(&mut draw);
}

/// A connection the application has.
struct Conn {
    id: ConnId,
    /// Bytes written.
    written: u32,
    /// Where reading goes on: all that what was read so far allows.
    read: Option<Vec<SeqNum>>,
}

struct Bench {
    engine: Engine,
    now: Instant,
    listener: Option<ListenerId>,
    remotes: Vec<Remote>,
    conns: Vec<Conn>,
}

/// The way out, with room for so many segments.
struct Sink<'a> {
    remotes: &'a mut [Remote],
    room: usize,
    offload: usize,
}

impl Egress for Sink<'_> {
    fn send(
        &mut self,
        header: &Header,
        payload: &Payload<'_>,
        gso: u16,
        _: &mut u32,
    ) -> Result<(), Full> {
        if self.room == 0 {
            return Err(Full);
        }
        self.room -= 1;
        let bytes = payload.to_vec();
        assert_eq!(bytes.len(), payload.len());
        if gso > 0 {
            assert!(bytes.len() > usize::from(gso) && bytes.len() <= self.offload, "{header:?}");
        }
        if let Some(remote) = self.remotes.iter_mut().find(|r| r.tuple == header.tuple) {
            remote.hear(header, &bytes);
        }
        Ok(())
    }

    fn max_payload(&self) -> usize {
        self.offload
    }
}

impl Bench {
    fn new(draw: &mut Draw<'_>) -> Bench {
        let now = Instant::from_millis(10_000);
        let mut engine = Engine::new(settings::config(draw), [3; 32], now);
        let listener = engine.listen("[::]:80".parse().expect("an address"), 3).ok();
        let remotes = vec![
            Remote::new("10.0.0.2:80", "10.0.0.1:5555"),
            Remote::new("[fd00::2]:80", "[fd00::1]:5555"),
            Remote::new("10.0.0.2:80", "10.0.0.1:5556"),
            Remote::new("10.0.0.2:4000", "10.0.0.3:80"),
        ];
        Bench { engine, now, listener, remotes, conns: Vec::new() }
    }

    fn clock(&self) -> u32 {
        (self.now.as_nanos() / 1_000_000) as u32
    }

    fn event(&mut self, draw: &mut Draw<'_>) {
        let kind = draw.byte();
        trace(|| format!("{:?}: event {} with {:?}", self.now, kind & 31, self.engine.usage()));
        match kind & 31 {
            0..=11 => self.segment(draw, usize::from(kind >> 5)),
            12 | 13 => self.greet(draw, usize::from(kind >> 5)),
            14 | 15 => self.send(draw),
            16 | 17 => self.receive(draw),
            18..=20 => self.pass(draw),
            21 => self.transmit(draw.below(3) as usize, 0),
            22 => self.transmit(draw.below(3) as usize, 20_000),
            23 => self.accept(),
            24 => while self.engine.pop_event().is_some() {},
            25 => drop(self.engine.pop_event()),
            26 => self.icmp(draw, usize::from(kind >> 5)),
            27 => self.connect(usize::from(kind >> 5)),
            28 => self.listen(draw),
            29 => self.finish(draw),
            _ => self.set(draw),
        }
        if kind & 128 != 0 {
            self.transmit(usize::MAX, if kind & 64 != 0 { 65_535 } else { 0 });
        }
    }

    fn segment(&mut self, draw: &mut Draw<'_>, which: usize) {
        let clock = self.clock();
        let (header, payload) = self.remotes[which & 3].segment(draw, clock);
        let before = if is(&header, Flags::RST) { self.synchronized(&header) } else { None };
        self.engine.on_segment(&header, &payload, self.now);
        if let Some((id, received)) = before
            && self.engine.state(id) == State::Closed
        {
            // RFC 5961 3.2: the very next number, past the FIN or not.
            let next = |first: &SeqNum| [0, 1].map(|fin| *first + received + fin);
            let fits = self.remotes[which & 3].ours.iter().flat_map(next).any(|n| n == header.seq);
            assert!(fits, "a reset at {:?} counts, {received} bytes on", header.seq);
        }
    }

    /// The connection that a segment is for, once both ends know of it, and how many bytes it
    /// has received.
    fn synchronized(&self, header: &Header) -> Option<(ConnId, u32)> {
        self.conns.iter().find_map(|conn| {
            let info = self.engine.info(conn.id, self.now)?;
            let open = !matches!(
                info.state,
                State::SynSent | State::SynReceived | State::Closed | State::TimeWait
            );
            (open && info.tuple == header.tuple).then_some((conn.id, info.bytes_received as u32))
        })
    }

    /// A handshake as it should be.
    fn greet(&mut self, draw: &mut Draw<'_>, which: usize) {
        let clock = self.clock();
        let remote = &mut self.remotes[which & 3];
        let mut syn = remote.header(Flags::SYN, clock);
        syn.options = settings::offer(draw, clock);
        remote.timestamps = syn.options.timestamps.is_some();
        remember(&mut remote.ours, syn.seq + 1);
        self.engine.on_segment(&syn, &[], self.now);
        self.engine.check_invariants();
        self.transmit(usize::MAX, 0);
        let remote = &mut self.remotes[which & 3];
        remote.next = remote.expected;
        let ack = remote.header(Flags::ACK, clock);
        self.engine.on_segment(&ack, &[], self.now);
        self.engine.check_invariants();
        self.accept();
    }

    fn accept(&mut self) {
        if let Some(listener) = self.listener
            && let Some(id) = self.engine.accept(listener)
        {
            self.conns.push(Conn { id, written: 0, read: None });
        }
    }

    fn connect(&mut self, which: usize) {
        if let Ok(id) = self.engine.connect(self.remotes[which & 3].tuple, self.now) {
            self.conns.push(Conn { id, written: 0, read: None });
        }
    }

    fn listen(&mut self, draw: &mut Draw<'_>) {
        if !draw.one_in(8) {
            return;
        }
        match self.listener.take() {
            Some(listener) => self.engine.close_listener(listener),
            None => {
                let addr = draw.of(&["[::]:80", "10.0.0.2:80", "0.0.0.0:80"]);
                self.listener = self.engine.listen(addr.parse().expect("an address"), 2).ok();
            }
        }
    }

    /// One of the application's connections.
    fn pick(&mut self, draw: &mut Draw<'_>) -> Option<usize> {
        let n = self.conns.len() as u32;
        (n > 0).then(|| draw.below(n) as usize)
    }

    fn send(&mut self, draw: &mut Draw<'_>) {
        let Some(at) = self.pick(draw) else { return };
        let len = match draw.byte() {
            byte @ 0..=127 => byte.into(),
            128..=191 => 1_448 * draw.below(12),
            192..=223 => draw.below(70_000),
            _ => draw.below(5_000),
        };
        let conn = &mut self.conns[at];
        let bytes = Bytes::from(stream(conn.written, len));
        // Both ways of streams, for a copy and for bytes of their own.
        if len % 2 == 1 && self.engine.send_small(conn.id, &bytes, self.now) {
            conn.written += len;
            return;
        }
        match self.engine.send(conn.id, bytes, self.now) {
            Ok(()) => conn.written += len,
            Err(SendError::WouldBlock(rest)) => conn.written += len - rest.len() as u32,
            Err(SendError::Closed(_)) => {}
        }
    }

    fn receive(&mut self, draw: &mut Draw<'_>) {
        let Some(at) = self.pick(draw) else { return };
        let most = if draw.one_in(2) { 1 + draw.below(3_000) as usize } else { usize::MAX };
        self.read(at, most);
    }

    /// Reads once; whether there was anything.
    fn read(&mut self, at: usize, most: usize) -> bool {
        let conn = &mut self.conns[at];
        let mut bytes = Vec::new();
        let read = if most % 2 == 1 {
            self.engine.recv_with(conn.id, most, self.now, |all| bytes.extend_from_slice(all))
        } else {
            self.engine.recv(conn.id, most, self.now).map(|all| {
                bytes.extend_from_slice(&all);
                all.len()
            })
        };
        let Ok(len) = read else { return false };
        assert!(len == bytes.len() && len <= most);
        if bytes.is_empty() {
            return false;
        }
        let tuple = self.engine.tuple(conn.id).expect("a connection that is read has a tuple");
        let remote = self.remotes.iter().find(|r| r.tuple == tuple).expect("one of ours");
        let before = conn.read.clone();
        let places = conn.read.take().unwrap_or_else(|| remote.ours.clone());
        let places = places.into_iter().filter(|at| is_stream(&bytes, at.0));
        let places: Vec<SeqNum> = places.map(|at| at + bytes.len() as u32).collect();
        assert!(!places.is_empty(), "read what the peer did not write there: {before:?}");
        conn.read = Some(places);
        true
    }

    fn pass(&mut self, draw: &mut Draw<'_>) {
        const DAY: u64 = 86_400_000;
        let milliseconds = match draw.byte() {
            0..=63 => return self.next_timer(),
            byte @ 64..=127 => u64::from(byte - 64),
            128..=159 => 40,
            160..=191 => 200,
            192..=223 => u64::from(draw.word()),
            224..=239 => 60_000,
            240..=250 => 3_600_000,
            251 => DAY * 13,
            252 => DAY * 25,
            253 => DAY * 50,
            _ => DAY,
        };
        self.now += Duration::from_millis(milliseconds);
        self.engine.on_timeout(self.now);
    }

    fn next_timer(&mut self) {
        if let Some(at) = self.engine.poll_timeout() {
            self.now = self.now.max(at);
            self.engine.on_timeout(self.now);
        }
    }

    fn transmit(&mut self, room: usize, offload: usize) {
        let mut sink = Sink { remotes: &mut self.remotes, room, offload };
        self.engine.poll_transmit(self.now, &mut sink);
    }

    fn icmp(&mut self, draw: &mut Draw<'_>, which: usize) {
        let remote = &self.remotes[which & 3];
        let seq = remote.una + draw.below((remote.high - remote.una).clamp(1, 1 << 20));
        if draw.one_in(2) {
            let said = TooBig { mtu: draw.word(), quoted: draw.word() };
            self.engine.on_icmp_too_big(remote.tuple, seq, said, self.now);
        } else {
            let said = draw.of(&[
                Unreachable::Host,
                Unreachable::Network,
                Unreachable::Neighbor,
                Unreachable::Protocol,
                Unreachable::Port,
                Unreachable::Prohibited,
            ]);
            self.engine.on_icmp_unreachable(remote.tuple, seq, said, self.now);
        }
    }

    fn finish(&mut self, draw: &mut Draw<'_>) {
        let Some(at) = self.pick(draw) else { return };
        let id = self.conns[at].id;
        match draw.byte() {
            0..=127 => self.engine.shutdown_write(id, self.now),
            128..=223 => {
                self.engine.close(id, self.now);
                self.conns.remove(at);
            }
            _ => {
                self.engine.abort(id, self.now);
                self.conns.remove(at);
            }
        }
    }

    fn set(&mut self, draw: &mut Draw<'_>) {
        let Some(at) = self.pick(draw) else { return };
        let id = self.conns[at].id;
        let some = draw.one_in(2);
        let time = Duration::from_millis(u64::from(draw.word()));
        match draw.below(8) {
            0 => self.engine.set_linger(id, some.then_some(time)),
            1 => self.engine.set_user_timeout(id, some.then_some(time)),
            2 => {
                let keepalive = Keepalive { idle: time, interval: time / 4, count: draw.byte() };
                self.engine.set_keepalive(id, some.then_some(keepalive));
            }
            3 => self.engine.set_nodelay(id, some),
            4 => self.engine.want_write(id),
            5 => drop(self.engine.take_error(id)),
            6 => drop(self.engine.info(id, self.now)),
            _ => drop(self.engine.scan(0, 100, self.now, |_, _| some)),
        }
    }

    /// Everybody leaves; the remote hosts say nothing any more. All must come to its end.
    fn end(&mut self, draw: &mut Draw<'_>) {
        self.transmit(usize::MAX, 0);
        for at in 0..self.conns.len() {
            while self.read(at, usize::MAX) {}
        }
        while let Some(listener) = self.listener
            && let Some(id) = self.engine.accept(listener)
        {
            self.conns.push(Conn { id, written: 0, read: None });
        }
        let kind = draw.byte();
        for (at, conn) in std::mem::take(&mut self.conns).into_iter().enumerate() {
            match self.engine.recv(conn.id, 1, self.now) {
                Err(RecvError::WouldBlock) if kind >> (at & 7) & 1 == 0 => {
                    self.engine.close(conn.id, self.now);
                }
                _ => self.engine.abort(conn.id, self.now),
            }
            self.engine.check_invariants();
        }
        if let Some(listener) = self.listener.take() {
            self.engine.close_listener(listener);
        }
        let mut timers = 0;
        loop {
            while let Some(event) = self.engine.pop_event() {
                assert!(!matches!(event, Event::Acceptable(_)), "nobody listens");
            }
            while self.engine.wants_transmit() {
                self.transmit(usize::MAX, 0);
            }
            let Some(at) = self.engine.poll_timeout() else { break };
            timers += 1;
            assert!(timers < TIMERS, "timers without an end: {:?}", self.engine.usage());
            self.now = self.now.max(at);
            self.engine.on_timeout(self.now);
        }
        self.engine.check_invariants();
        let usage = self.engine.usage();
        let left = usage.connections
            + usage.half_open
            + usage.time_wait
            + usage.timers
            + usage.with_buffers;
        assert_eq!(left, 0, "{usage:?}");
        assert_eq!((usage.send_memory, usage.recv_memory), (0, 0), "{usage:?}");
    }
}
