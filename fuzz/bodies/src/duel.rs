//! Two engines and a channel between them that does what the input says: drops, duplicates,
//! reorders, delays, marks, narrows. What arrives is what was written; nobody sends what the
//! window forbids or takes back what it has offered; and once the channel behaves, all comes
//! to its end.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use throng_net::tcp::{
    ConnId, Egress, Engine, Error, Flags, FourTuple, Full, Header, ListenerId, Options, Payload,
    RecvError, SendError, SeqNum, State, TooBig,
};
use throng_runtime::Instant;

use crate::draw::Draw;
use crate::remote::{Remote, is, is_stream, remember, stream};
use crate::{settings, trace};

/// Most decisions of a run.
const EVENTS: u32 = 600;
/// A channel that has misbehaved for no longer than this is no reason to give up.
const PATIENCE: Duration = Duration::from_secs(4);
/// Turns in which a channel that behaves lets all come to its end.
const TURNS: usize = 20_000;
/// Most bytes written by each side before the end.
const MOST: u32 = 1 << 20;

/// Runs one input.
///
/// # Panics
/// When something does not hold.
pub fn run(data: &[u8]) {
    let mut draw = Draw::new(data, EVENTS);
    let mut duel = Duel::new(&mut draw);
    while draw.another() {
        duel.event(&mut draw);
    }
    duel.end();
}

struct Segment {
    header: Header,
    payload: Vec<u8>,
}

struct Side {
    engine: Engine,
    listener: Option<ListenerId>,
    conn: Option<ConnId>,
    written: u32,
    read: u32,
    shut: bool,
    /// The peer's end of data has been read.
    ended: bool,
    error: Option<Error>,
    /// The farthest right edge it has offered, the last one, and the shift of its windows.
    edge: Option<SeqNum>,
    scale: u8,
    /// What may be the first byte of its stream: of cookies each has a number of its own.
    first: Vec<SeqNum>,
    /// Largest payload the peer says it takes.
    mss: u16,
    /// It answers SYNs with cookies: where the last segment of the handshake is lost and a
    /// later one is not, it knows of no connection and says so.
    forgets: bool,
}

struct Duel {
    sides: [Side; 2],
    now: Instant,
    /// What is on its way from each side.
    wire: [VecDeque<Segment>; 2],
    offload: usize,
    /// Longest IP packet that passes, and whether a router says so.
    mtu: usize,
    says: bool,
    /// What a middlebox takes out of SYNs.
    strip: u8,
    /// How long the channel has misbehaved.
    adverse: Duration,
}

/// Takes all segments, cut as a device would.
struct Sink {
    out: Vec<Segment>,
    offload: usize,
}

impl Egress for Sink {
    fn send(
        &mut self,
        header: &Header,
        payload: &Payload<'_>,
        gso: u16,
        _: &mut u32,
    ) -> Result<(), Full> {
        let bytes = payload.to_vec();
        if gso == 0 {
            self.out.push(Segment { header: *header, payload: bytes });
            return Ok(());
        }
        assert!(bytes.len() > usize::from(gso) && bytes.len() <= self.offload);
        let mut rest = bytes.chunks(gso.into()).zip(0u32..).peekable();
        while let Some((piece, i)) = rest.next() {
            let mut header = *header;
            header.seq += i * u32::from(gso);
            if rest.peek().is_some() {
                header.flags.0 &= !(Flags::FIN.0 | Flags::PSH.0);
            }
            if i > 0 {
                header.flags.0 &= !Flags::CWR.0;
            }
            self.out.push(Segment { header, payload: piece.to_vec() });
        }
        Ok(())
    }

    fn max_payload(&self) -> usize {
        self.offload
    }
}

/// A segment in one line.
fn told(segment: &Segment) -> String {
    let header = &segment.header;
    let Options { mss, window_scale, timestamps, sack, .. } = header.options;
    let blocks: Vec<_> = sack.iter().flatten().map(|block| (block.start, block.end)).collect();
    format!(
        "{:?} +{} ack {:?} {:?} window {} mss {mss:?} scale {window_scale:?} {timestamps:?} {blocks:?}",
        header.seq,
        segment.payload.len(),
        header.ack,
        header.flags,
        header.window
    )
}

fn flipped(tuple: FourTuple) -> FourTuple {
    FourTuple {
        local: tuple.remote,
        remote: tuple.local,
        local_port: tuple.remote_port,
        remote_port: tuple.local_port,
    }
}

impl Side {
    fn new(draw: &mut Draw<'_>, secret: u8, now: Instant) -> Side {
        let config = settings::config(draw);
        Side {
            forgets: config.max_half_open == 0,
            engine: Engine::new(config, [secret; 32], now),
            listener: None,
            conn: None,
            written: 0,
            read: 0,
            shut: false,
            ended: false,
            error: None,
            edge: None,
            scale: 0,
            first: Vec::new(),
            mss: 0,
        }
    }

    fn accept(&mut self) {
        if self.conn.is_none()
            && let Some(listener) = self.listener
        {
            self.conn = self.engine.accept(listener);
        }
    }

    fn write(&mut self, len: u32, now: Instant) {
        let Some(id) = self.conn.filter(|_| !self.shut && self.written < MOST) else { return };
        let taken = match self.engine.send(id, Bytes::from(stream(self.written, len)), now) {
            Ok(()) => len,
            Err(SendError::WouldBlock(rest)) => len - rest.len() as u32,
            Err(SendError::Closed(_)) => 0,
        };
        self.written += taken;
    }

    /// Reads once; whether there was anything.
    fn read(&mut self, most: usize, now: Instant) -> bool {
        let Some(id) = self.conn else { return false };
        match self.engine.recv(id, most, now) {
            Ok(bytes) if bytes.is_empty() => self.ended = true,
            Ok(bytes) => {
                assert!(is_stream(&bytes, self.read), "not what was written at {}", self.read);
                self.read += bytes.len() as u32;
                return true;
            }
            Err(RecvError::Closed(error)) => self.error = Some(error),
            Err(RecvError::WouldBlock) => {}
        }
        false
    }

    /// What it offers and asks for with this segment of its own. RFC 9293 3.8.6.2.2: the
    /// right edge does not go back; but RFC 7323 2.4 has the field rounded down.
    fn note_sent(&mut self, header: &Header, both_scale: bool) {
        if is(header, Flags::SYN) {
            remember(&mut self.first, header.seq + 1);
            self.scale = if both_scale { header.options.window_scale.unwrap_or(0) } else { 0 };
            if is(header, Flags::ACK) {
                self.edge = Some(header.ack + u32::from(header.window));
            }
            return;
        }
        if !is(header, Flags::ACK) || is(header, Flags::RST) {
            return;
        }
        let edge = header.ack + (u32::from(header.window) << self.scale);
        if let Some(before) = self.edge {
            let slack = (1u32 << self.scale) - 1;
            assert!(
                (edge + slack).at_or_after(before),
                "the right edge goes back from {before:?} to {edge:?}"
            );
            if before.after(edge) {
                return;
            }
        }
        self.edge = Some(edge);
    }

    fn is_done(&self) -> bool {
        let state = self.conn.map(|id| self.engine.state(id));
        self.error.is_some()
            || self.ended && matches!(state, None | Some(State::Closed | State::TimeWait))
    }
}

impl Duel {
    fn new(draw: &mut Draw<'_>) -> Duel {
        let now = Instant::from_millis(u64::from(draw.word()) * 1_000);
        let kind = draw.byte();
        let sides = [Side::new(draw, 1, now), Side::new(draw, 2, now)];
        let offload = if kind & 2 != 0 { 1_000 * usize::from(draw.byte()) } else { 0 };
        let mut duel = Duel {
            sides,
            now,
            wire: [VecDeque::new(), VecDeque::new()],
            offload,
            mtu: usize::MAX,
            says: false,
            strip: if kind & 8 != 0 { draw.byte() } else { 0 },
            adverse: Duration::ZERO,
        };
        let remote = if kind & 4 != 0 {
            Remote::new("[fd00::2]:4000", "[fd00::1]:80")
        } else {
            Remote::new("10.0.0.2:4000", "10.0.0.1:80")
        };
        let tuple = remote.tuple;
        duel.sides[0].conn = duel.sides[0].engine.connect(tuple, now).ok();
        if kind & 1 != 0 {
            // RFC 9293 3.5, figure 7: both at once.
            duel.sides[1].conn = duel.sides[1].engine.connect(flipped(tuple), now).ok();
        } else {
            let any = "[::]:80".parse().expect("an address");
            duel.sides[1].listener = duel.sides[1].engine.listen(any, 4).ok();
        }
        duel.transmit();
        duel
    }

    fn event(&mut self, draw: &mut Draw<'_>) {
        let kind = draw.byte();
        let from = usize::from(kind >> 7);
        match kind & 31 {
            0..=7 => self.deliver(from, 0),
            8 | 9 => {
                let at = draw.below(self.wire[from].len().max(1) as u32) as usize;
                self.deliver(from, at);
            }
            10 => drop(self.wire[from].pop_front()),
            11 => {
                let n = draw.below(12) as usize;
                let n = n.min(self.wire[from].len());
                self.wire[from].drain(..n);
            }
            12 => self.duplicate(from),
            13 => {
                if let Some(first) = self.wire[from].front_mut()
                    && first.header.ecn != 0
                {
                    // RFC 3168 5: congestion experienced.
                    first.header.ecn = 3;
                }
            }
            14 | 15 => self.next_timer(),
            16 | 17 => self.pass(Duration::from_millis(draw.byte().into())),
            18 => self.pass(Duration::from_micros(draw.word().into())),
            19 if draw.one_in(8) => self.pass(Duration::from_secs(draw.byte().into())),
            19 => self.narrow(draw, kind),
            20..=22 => {
                let len = u32::from(draw.word());
                let len = if kind & 64 != 0 { len } else { len & 0xff };
                self.sides[from].write(len, self.now);
            }
            23 | 24 => {
                let most = if kind & 64 != 0 { usize::MAX } else { 1 + draw.word() as usize };
                self.sides[from].read(most, self.now);
            }
            25 | 26 => self.shut(from, draw),
            27 => {
                let side = &mut self.sides[from];
                if let Some(id) = side.conn {
                    side.engine.set_nodelay(id, kind & 64 != 0);
                }
            }
            _ => {
                for from in 0..2 {
                    for _ in 0..self.wire[from].len() {
                        self.deliver(from, 0);
                    }
                }
            }
        }
        self.transmit();
    }

    fn narrow(&mut self, draw: &mut Draw<'_>, kind: u8) {
        self.mtu = draw.of(&[usize::MAX, 1_500, 1_280, 600, 1_492]);
        self.says = kind & 64 != 0;
    }

    fn shut(&mut self, from: usize, draw: &mut Draw<'_>) {
        let side = &mut self.sides[from];
        if let Some(id) = side.conn
            && draw.one_in(3)
        {
            side.engine.shutdown_write(id, self.now);
            side.shut = true;
        }
    }

    fn duplicate(&mut self, from: usize) {
        if let Some(first) = self.wire[from].front() {
            let copy = Segment { header: first.header, payload: first.payload.clone() };
            self.wire[from].push_back(copy);
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.adverse += time;
        for side in &mut self.sides {
            side.engine.on_timeout(self.now);
            side.engine.check_invariants();
        }
    }

    fn next_timer(&mut self) {
        let next = self.sides.iter().filter_map(|side| side.engine.poll_timeout()).min();
        if let Some(at) = next {
            self.pass(at.max(self.now) - self.now);
        }
    }

    fn deliver(&mut self, from: usize, at: usize) {
        let Some(mut segment) = self.wire[from].remove(at) else { return };
        let ip = if segment.header.tuple.local.is_ipv4() { 20 } else { 40 };
        let len = ip + 20 + options_len(&segment.header) + segment.payload.len();
        if len > self.mtu {
            if self.says {
                let said = TooBig { mtu: self.mtu as u16, quoted: len as u16 };
                let Segment { header, .. } = segment;
                self.sides[from].engine.on_icmp_too_big(header.tuple, header.seq, said, self.now);
                self.sides[from].engine.check_invariants();
            }
            return;
        }
        segment.header.tuple = flipped(segment.header.tuple);
        let to = &mut self.sides[1 - from];
        if is(&segment.header, Flags::SYN) {
            // RFC 9293 3.7.1: what is not said is the least that all take.
            to.mss = segment.header.options.mss.unwrap_or(if ip == 20 { 536 } else { 1_220 });
        }
        trace(|| format!("{} hears {}", 1 - from, told(&segment)));
        to.engine.on_segment(&segment.header, &segment.payload, self.now);
        to.engine.check_invariants();
        to.accept();
    }

    fn transmit(&mut self) {
        for from in 0..2 {
            let mut sink = Sink { out: Vec::new(), offload: self.offload };
            self.sides[from].engine.poll_transmit(self.now, &mut sink);
            self.sides[from].engine.check_invariants();
            for mut segment in sink.out {
                trace(|| format!("{from} sends {}", told(&segment)));
                self.check(from, &segment);
                strip(&mut segment.header, self.strip);
                self.wire[from].push_back(segment);
            }
        }
    }

    /// What a segment may be, whatever happened.
    fn check(&mut self, from: usize, segment: &Segment) {
        let header = &segment.header;
        // Settled where both SYNs, as they arrived, had the option.
        let info = self.sides[from].conn.and_then(|id| self.sides[from].engine.info(id, self.now));
        let both = info.is_none_or(|info| info.rcv_scale.is_some());
        if let Some(scale) = info_scale(&self.sides[from], self.now) {
            self.sides[from].scale = scale;
        }
        let is_connection = self.sides[from].conn.is_some();
        if is_connection || is(header, Flags::SYN) {
            self.sides[from].note_sent(header, both);
        }
        let [side, peer] = match &self.sides {
            [a, b] if from == 0 => [a, b],
            [a, b] => [b, a],
        };
        let len = segment.payload.len() as u32;
        if len == 0 {
            return;
        }
        let fits = |first: &SeqNum| is_stream(&segment.payload, header.seq - *first);
        assert!(side.first.iter().any(fits), "bytes that nobody wrote: {header:?}");
        let edge = peer.edge.expect("no data without a window");
        assert!((header.seq + len).at_or_before(edge), "{header:?} +{len} is beyond {edge:?}");
        let total = len as usize + options_len(header);
        // The smallest that is believed; see `options::MIN_MSS`.
        let most = usize::from(side.mss.max(48));
        assert!(total <= most.max(41), "{total} bytes for an MSS of {most}");
    }

    /// The channel behaves, and everybody finishes.
    fn end(mut self) {
        self.mtu = usize::MAX;
        let adverse = self.adverse;
        let mut turns = 0;
        loop {
            for side in &mut self.sides {
                while side.engine.pop_event().is_some() {}
                side.accept();
                while side.read(usize::MAX, self.now) {}
                if let Some(id) = side.conn
                    && !side.shut
                    && !matches!(side.engine.state(id), State::SynSent | State::SynReceived)
                {
                    side.engine.shutdown_write(id, self.now);
                    side.shut = true;
                }
            }
            self.transmit();
            if self.sides.iter().all(Side::is_done) || self.sides.iter().any(|s| s.error.is_some())
            {
                break;
            }
            turns += 1;
            assert!(turns < TURNS, "{} after {:?}", self.told(), self.now);
            if self.wire.iter().all(VecDeque::is_empty) {
                self.next_timer();
            } else {
                // Every path takes its time; without any, what is found lost at once and sent
                // again at once goes on for ever.
                self.pass(Duration::from_millis(1));
            }
            for from in 0..2 {
                for _ in 0..self.wire[from].len() {
                    self.deliver(from, 0);
                }
            }
        }
        let [a, b] = &self.sides;
        let failed = a.error.is_some() || b.error.is_some();
        assert!(a.read <= b.written && b.read <= a.written);
        if !failed {
            assert_eq!((a.read, b.read), (b.written, a.written), "{}", self.told());
        }
        let may_fail = adverse > PATIENCE || a.forgets || b.forgets;
        assert!(!failed || may_fail, "gave up after {adverse:?}: {}", self.told());
        for side in &mut self.sides {
            leave(side, self.now);
        }
    }

    fn told(&self) -> String {
        let each = self.sides.iter().map(|side| {
            let info = side.conn.and_then(|id| side.engine.info(id, self.now));
            format!(
                "wrote {} read {} ended {} error {:?} {info:?}",
                side.written, side.read, side.ended, side.error
            )
        });
        each.collect::<Vec<_>>().join("\n")
    }
}

/// The shift of a side's windows, where that is settled.
fn info_scale(side: &Side, now: Instant) -> Option<u8> {
    let info = side.engine.info(side.conn?, now)?;
    let settled = !matches!(info.state, State::SynSent | State::SynReceived | State::Closed);
    settled.then(|| info.rcv_scale.unwrap_or(0))
}

/// A middlebox takes options out of SYNs, the same ones in both directions.
fn strip(header: &mut Header, which: u8) {
    if !is(header, Flags::SYN) {
        return;
    }
    let options = &mut header.options;
    options.sack_permitted &= which & 1 == 0;
    if which & 2 != 0 {
        options.timestamps = None;
    }
    if which & 4 != 0 {
        options.window_scale = None;
    }
    if which & 8 != 0 {
        options.mss = None;
    }
}

/// Bytes that a segment's options take (RFC 7323 appendix A, RFC 2018 3).
fn options_len(header: &Header) -> usize {
    let timestamps = if header.options.timestamps.is_some() { 12 } else { 0 };
    let blocks = header.options.sack.iter().flatten().count();
    timestamps + if blocks > 0 { 4 + 8 * blocks } else { 0 }
}

/// The application lets go, and nothing may be left once the timers have run out.
fn leave(side: &mut Side, mut now: Instant) {
    if let Some(id) = side.conn.take() {
        side.engine.close(id, now);
    }
    if let Some(listener) = side.listener.take() {
        side.engine.close_listener(listener);
    }
    while side.engine.pop_event().is_some() {}
    for _ in 0..TURNS {
        let mut sink = Sink { out: Vec::new(), offload: 0 };
        side.engine.poll_transmit(now, &mut sink);
        let Some(at) = side.engine.poll_timeout() else { break };
        now = now.max(at);
        side.engine.on_timeout(now);
    }
    side.engine.check_invariants();
    let usage = side.engine.usage();
    let left = usage.connections + usage.half_open + usage.time_wait + usage.timers;
    assert_eq!((left, usage.with_buffers), (0, 0), "{usage:?}");
    assert_eq!((usage.send_memory, usage.recv_memory), (0, 0), "{usage:?}");
}
