//! A remote host that keeps book of what an engine tells it, and writes it segments that are
//! nearly right.

use std::net::SocketAddr;
use std::sync::OnceLock;

use throng_net::tcp::{Flags, FourTuple, Header, Options, SackBlock, SeqNum};

use crate::draw::Draw;
use crate::settings;

/// Initial sequence numbers remembered, by which a stream's bytes are told: more than a run has
/// events, for a connection may be read long after its SYN.
const REMEMBERED: usize = 1_024;

/// Bytes after which every stream begins anew: sequence numbers are a multiple of it.
const PERIOD: usize = 1 << 17;

/// The first bytes of every stream, twice.
fn pattern() -> &'static [u8] {
    static PATTERN: OnceLock<Vec<u8>> = OnceLock::new();
    PATTERN.get_or_init(|| {
        let byte = |i: usize| ((i % PERIOD) as u32).wrapping_mul(0x9e37_79b1) >> 24;
        (0..2 * PERIOD).map(|i| byte(i) as u8).collect()
    })
}

/// The pattern from place `from` of a stream on, at least 128 KiB.
fn pattern_from(from: u32) -> &'static [u8] {
    &pattern()[from as usize % PERIOD..]
}

/// `len` bytes, at most 128 KiB, from place `from` on.
pub fn stream(from: u32, len: u32) -> Vec<u8> {
    pattern_from(from)[..len as usize].to_vec()
}

/// Whether these are the stream's bytes from `from` on.
pub fn is_stream(bytes: &[u8], from: u32) -> bool {
    pattern_from(from).starts_with(bytes)
}

/// The other end of one tuple.
#[derive(Clone, Debug)]
pub struct Remote {
    /// As the engine sees it.
    pub tuple: FourTuple,
    /// Our next sequence number.
    pub next: SeqNum,
    /// The first sequence number of the engine's that we have not acknowledged.
    pub una: SeqNum,
    /// One past the highest sequence number the engine has sent.
    pub high: SeqNum,
    /// The engine's last acknowledgement.
    pub expected: SeqNum,
    /// Its last timestamp.
    pub echo: u32,
    /// Whether our segments carry timestamps.
    pub timestamps: bool,
    /// First bytes of the streams that we may have begun.
    pub ours: Vec<SeqNum>,
    /// First bytes of the streams that the engine may have begun.
    theirs: Vec<SeqNum>,
}

pub(crate) fn remember(list: &mut Vec<SeqNum>, first: SeqNum) {
    if !list.contains(&first) {
        if list.len() == REMEMBERED {
            list.remove(0);
        }
        list.push(first);
    }
}

impl Remote {
    /// The remote end between these addresses of the engine and of the remote host.
    ///
    /// # Panics
    /// When they do not parse.
    pub fn new(local: &str, remote: &str) -> Remote {
        let parse = |text: &str| -> SocketAddr { text.parse().expect("an address and port") };
        let (local, remote) = (parse(local), parse(remote));
        Remote {
            tuple: FourTuple {
                local: local.ip().into(),
                remote: remote.ip().into(),
                local_port: local.port(),
                remote_port: remote.port(),
            },
            next: SeqNum(5_000),
            una: SeqNum(0),
            high: SeqNum(0),
            expected: SeqNum(5_000),
            echo: 0,
            timestamps: false,
            ours: Vec::new(),
            theirs: Vec::new(),
        }
    }

    /// Whether the engine has sent a SYN.
    pub fn is_answered(&self) -> bool {
        !self.theirs.is_empty()
    }

    /// A segment of the engine's has come.
    ///
    /// # Panics
    /// When its payload is not what the stream has there.
    pub fn hear(&mut self, header: &Header, payload: &[u8]) {
        let end = header.seq + payload.len() as u32 + u32::from(is(header, Flags::FIN));
        if is(header, Flags::SYN) {
            remember(&mut self.theirs, header.seq + 1);
            (self.una, self.high) = (header.seq + 1, header.seq + 1);
        } else if end.after(self.high) {
            self.high = end;
        }
        if !payload.is_empty() {
            let fits = |first: &SeqNum| is_stream(payload, header.seq - *first);
            assert!(self.theirs.iter().any(fits), "bytes that nobody wrote: {header:?}");
        }
        if is(header, Flags::ACK) && !is(header, Flags::RST) {
            self.expected = header.ack;
        }
        if let Some((value, _)) = header.options.timestamps {
            self.echo = value;
        }
    }

    /// A segment of ours, drawn: most of them plausible. `clock` is our timestamp clock.
    pub fn segment(&mut self, draw: &mut Draw<'_>, clock: u32) -> (Header, Vec<u8>) {
        let mut header = self.header(Flags::ACK, clock);
        let kind = draw.byte();
        if kind & 1 != 0 {
            header.seq = self.expected;
        }
        let mut len = 0;
        match kind >> 1 & 15 {
            0..=3 => {
                len = length(draw);
                header.flags = draw.of(&[Flags::ACK, Flags::ACK | Flags::PSH]);
            }
            4 => header.ack = self.una + draw.below((self.high - self.una).clamp(1, 1 << 20)),
            5 => {
                header.ack = self.una;
                self.sack(draw, &mut header.options);
            }
            6 | 7 => {
                len = length(draw);
                header.seq = self.expected + draw.below(8) * len.max(1) + draw.below(3);
            }
            8 => header.flags = Flags::ACK | Flags::FIN,
            9 => {
                len = length(draw);
                header.flags = Flags::ACK | Flags::FIN | Flags::PSH;
            }
            10 | 11 => self.syn(draw, &mut header, clock),
            12 => {
                header.flags = draw.of(&[Flags::RST, Flags::RST | Flags::ACK]);
                header.seq = self.expected + draw.of(&[0, 0, 1, 0x8000, u32::MAX]);
            }
            13 => header.window = draw.of(&[0, 1, 100, 0x7fff]),
            14 => {
                header.ecn = draw.below(4) as u8;
                header.flags = header.flags | draw.of(&[Flags::ECE, Flags::CWR, Flags(0xc0)]);
                len = length(draw);
            }
            _ => {
                header.flags = Flags(draw.byte());
                header.seq = self.near(draw);
                header.ack = self.near(draw);
                header.window = draw.word();
                header.urgent = draw.word();
                header.options = self.options(draw, clock);
                len = length(draw);
            }
        }
        if is(&header, Flags::SYN) {
            remember(&mut self.ours, header.seq + 1);
        }
        let first = header.seq + u32::from(is(&header, Flags::SYN));
        let end = first + len + u32::from(is(&header, Flags::FIN));
        if header.seq == self.next {
            self.next = end;
        }
        if is(&header, Flags::ACK) && header.ack.after(self.una) {
            self.una = header.ack;
        }
        (header, stream(first.0, len))
    }

    /// A plain header that is right as far as we know.
    pub fn header(&self, flags: Flags, clock: u32) -> Header {
        let mut options = Options::default();
        if self.timestamps {
            options.timestamps = Some((clock, self.echo));
        }
        Header {
            tuple: self.tuple,
            seq: self.next,
            ack: self.high,
            flags,
            window: 0xffff,
            urgent: 0,
            ecn: 0,
            options,
        }
    }

    fn syn(&mut self, draw: &mut Draw<'_>, header: &mut Header, clock: u32) {
        let kind = draw.byte();
        if kind & 1 != 0 {
            self.next = match kind >> 5 {
                0..=3 => self.next + 100_000,
                4 => SeqNum(u32::MAX - 1_000),
                _ => SeqNum(draw.long()),
            };
        }
        header.seq = self.next;
        header.options = settings::offer(draw, clock);
        self.timestamps = header.options.timestamps.is_some();
        header.flags = Flags::SYN;
        if kind & 2 != 0 {
            header.flags = Flags::SYN | Flags::ACK;
            if let Some((_, echo)) = &mut header.options.timestamps {
                *echo = self.echo;
            }
        } else {
            header.ack = SeqNum(0);
        }
        if kind & 12 == 12 {
            header.flags = header.flags | Flags::ECE | Flags::CWR;
        }
    }

    fn options(&self, draw: &mut Draw<'_>, clock: u32) -> Options {
        let mut options = settings::offer(draw, clock);
        if let Some((value, echo)) = &mut options.timestamps {
            let moved = draw.of(&[0, 1, u32::MAX, 1 << 20, 1 << 31, u32::MAX - 5_000]);
            *value = value.wrapping_add(moved);
            *echo = if draw.one_in(2) { draw.long() } else { self.echo };
        }
        self.sack(draw, &mut options);
        options
    }

    fn sack(&self, draw: &mut Draw<'_>, options: &mut Options) {
        let blocks = draw.below(5) as usize;
        for block in options.sack.iter_mut().take(blocks) {
            let span = (self.high - self.una).clamp(1, 1 << 20);
            let (start, len) = (draw.below(span + 10), draw.below(span + 10));
            let mut found = SackBlock { start: self.una + start, end: self.una + start + len };
            if draw.one_in(16) {
                found.start = SeqNum(draw.long());
            }
            *block = Some(found);
        }
    }

    /// A number near one that matters.
    fn near(&self, draw: &mut Draw<'_>) -> SeqNum {
        let base = draw.of(&[self.next, self.expected, self.una, self.high]);
        match draw.byte() {
            0..=127 => base,
            128..=223 => base + draw.below(33) - 16,
            224..=247 => base + draw.below(1 << 17) - (1 << 16),
            _ => SeqNum(draw.long()),
        }
    }
}

/// Whether all of `flags` are set.
pub fn is(header: &Header, flags: Flags) -> bool {
    header.flags.contains(flags)
}

fn length(draw: &mut Draw<'_>) -> u32 {
    match draw.byte() {
        byte @ 0..=63 => byte.into(),
        64..=127 => 1_448,
        128..=159 => 536,
        160..=191 => draw.below(3_000),
        192..=223 => 0,
        // As merged by a device.
        224..=239 => draw.below(60_000),
        _ => 1_460,
    }
}
