//! One exchange: what a script does to a subject, and the transcript of what came of it.
//!
//! The transcript has relative sequence numbers, the options in one order, windows as shut or
//! open, and times in classes; so two stacks that behave alike have the same one.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::draft::{Draft, FLAGS, opt, seg};
use crate::frame::{self, ACK, RST, SYN, Segment, URG};
use crate::link::Arrival;
use crate::subject::{Call, PATIENCE, Subject};

/// Our first sequence number.
const ISS: u32 = 0x1000_0000;
/// Our timestamp clock's first value.
const CLOCK: u32 = 1_000_000;

/// An exchange under way.
pub(crate) struct Exchange {
    number: usize,
    subject: Subject,
    arrivals: mpsc::Receiver<Arrival>,
    own: SocketAddr,
    other: SocketAddr,
    /// Our next sequence number, relative.
    pub(crate) seq: u32,
    /// The subject's initial sequence number, once it is known.
    irs: Option<u32>,
    /// What we have of the subject's, relative.
    pub(crate) ack: u32,
    /// Our timestamp clock where timestamps are on, relative.
    pub(crate) clock: Option<u32>,
    /// The latest timestamp of the subject's.
    echo: u32,
    /// The shift of the subject's windows.
    scale: u8,
    /// Our window field.
    pub(crate) window: u16,
    /// The transcript tells what timestamps echo.
    pub(crate) show_echo: bool,
    /// When the last thing happened that times are counted from.
    last: Instant,
    lines: Vec<String>,
    /// The subject's segments so far.
    pub(crate) seen: Vec<Segment>,
}

impl Exchange {
    /// An exchange with its own address and port, so that many run at once and none finds
    /// what another left.
    pub(crate) fn new(number: usize, attempt: usize, subject: &Subject, ipv6: bool) -> Exchange {
        let id = (attempt * 256 + number) as u16;
        let (ip, other): (IpAddr, IpAddr) = match (ipv6, subject.v4, subject.v6) {
            (false, IpAddr::V4(v4), _) => {
                let [a, b, ..] = v4.octets();
                let [c, d] = (0x0100 + id).to_be_bytes();
                ([a, b, c, d].into(), subject.v4)
            }
            (_, _, v6) => {
                let mut parts = match v6 {
                    IpAddr::V6(v6) => v6.segments(),
                    IpAddr::V4(_) => unreachable!("it is an IPv6 address"),
                };
                parts[7] = 0x0100 + id;
                (parts.into(), subject.v6)
            }
        };
        Exchange {
            number: usize::from(id),
            subject: subject.clone(),
            arrivals: subject.link.hear(ip),
            own: SocketAddr::new(ip, 4_000),
            other: SocketAddr::new(other, 10_000 + id),
            seq: 0,
            irs: None,
            ack: 0,
            clock: None,
            echo: 0,
            scale: 0,
            window: 0xffff,
            show_echo: false,
            last: Instant::now(),
            lines: Vec::new(),
            seen: Vec::new(),
        }
    }

    /// The transcript.
    pub(crate) fn into_lines(self) -> Vec<String> {
        // Whatever is left ends here, so that it does not send for minutes.
        let _ = self.subject.begin(self.number, Call::Abort).recv_timeout(PATIENCE);
        let _ = self.subject.begin(self.number, Call::Unlisten).recv_timeout(PATIENCE);
        self.lines
    }

    /// A remark in the transcript.
    pub(crate) fn note(&mut self, text: impl Into<String>) {
        self.lines.push(format!("# {}", text.into()));
    }

    // What the subject's program does.

    /// Has the program do something and waits for its end.
    pub(crate) fn call(&mut self, call: Call) {
        let name = name_of(&call);
        let told = self.subject.begin(self.number, call);
        self.finish(&name, &told);
    }

    /// Begins what does not end before we have answered.
    pub(crate) fn begin(&mut self, call: Call) -> (String, mpsc::Receiver<String>) {
        let name = name_of(&call);
        (name, self.subject.begin(self.number, call))
    }

    /// The same without a line about it.
    pub(crate) fn call_silently(&mut self, call: Call) {
        let lines = self.lines.len();
        self.call(call);
        self.lines.truncate(lines);
    }

    /// Waits for a call's end.
    pub(crate) fn finish(&mut self, name: &str, told: &mpsc::Receiver<String>) {
        let said = told.recv_timeout(PATIENCE + Duration::from_secs(2));
        let said = said.unwrap_or_else(|_| "no answer from the subject".into());
        self.lines.push(format!("= {name}: {said}"));
    }

    pub(crate) fn listen(&mut self) {
        let listen = self.subject.begin(self.number, Call::Listen(self.other));
        let said = listen.recv_timeout(PATIENCE).unwrap_or_default();
        if said != "ok" {
            self.lines.push(format!("= listen: {said}"));
        }
    }

    pub(crate) fn accept(&mut self) {
        self.call(Call::Accept);
    }

    pub(crate) fn write(&mut self, bytes: usize) {
        self.call(Call::Write(bytes));
    }

    pub(crate) fn read(&mut self) {
        self.call(Call::Read(Duration::from_millis(60)));
    }

    pub(crate) fn close(&mut self) {
        self.call(Call::Close);
    }

    /// The program begins to connect to us; its SYN comes later.
    pub(crate) fn connect(&mut self) -> (String, mpsc::Receiver<String>) {
        // The other way round: it comes from its port to ours.
        self.begin(Call::Connect(self.other, self.own))
    }

    // What the peer does.

    /// Sends a segment. One at our next sequence number moves it.
    pub(crate) fn send(&mut self, draft: Draft) {
        let segment = self.segment(&draft);
        self.send_segment(&draft, &segment);
    }

    /// Sends a segment without a line about it: one of many.
    pub(crate) fn send_silently(&mut self, draft: Draft) {
        let segment = self.segment(&draft);
        self.put(&segment.to_frame());
        self.advance(&draft, &segment);
    }

    fn send_segment(&mut self, draft: &Draft, segment: &Segment) {
        let mut line = format!("> {} seq {}", draft.flags, segment.seq.wrapping_sub(ISS) as i32);
        if segment.flags & ACK != 0 && draft.raw_ack.is_none() {
            let irs = self.irs.unwrap_or(0);
            let _ = write!(line, " ack {}", segment.ack.wrapping_sub(irs) as i32);
        }
        if draft.length > 0 {
            let _ = write!(line, " length {}", draft.length);
        }
        self.lines.push(line);
        self.put(&segment.to_frame());
        self.last = Instant::now();
        self.advance(draft, segment);
    }

    fn advance(&mut self, draft: &Draft, segment: &Segment) {
        if draft.seq.is_none() {
            self.seq = self.seq.wrapping_add(segment.span());
        }
        if let Some(clock) = &mut self.clock {
            *clock += 1;
        }
    }

    /// Sends a frame as it is.
    pub(crate) fn put(&mut self, frame: &[u8]) {
        if let Err(error) = self.subject.link.send(frame) {
            self.lines.push(format!("# not sent: {error}"));
        }
    }

    /// Sends an ICMP error about the subject's last segment.
    pub(crate) fn icmp(&mut self, kind: u8, code: u8, mtu: u16) {
        let Some(about) = self.seen.last().cloned() else {
            return self.note("nothing to complain about");
        };
        self.lines.push(format!("> ICMP type {kind} code {code}"));
        self.last = Instant::now();
        self.put(&frame::icmp_error(self.own.ip(), &about, kind, code, mtu));
    }

    /// The segment that a draft makes now.
    pub(crate) fn segment(&self, draft: &Draft) -> Segment {
        let flags = draft.flags.chars().fold(0, |flags, letter| {
            flags | FLAGS.iter().find(|(of, _)| *of == letter).map_or(0, |(_, bit)| *bit)
        });
        let clock = draft.clock.unwrap_or(self.clock);
        let mut options = draft.options.clone().unwrap_or_default();
        if let Some(clock) = clock {
            let echo = if flags & ACK != 0 { self.echo } else { 0 };
            options.extend(opt::timestamps(CLOCK.wrapping_add(clock), echo));
        }
        let irs = self.irs.unwrap_or(0);
        let ack = if flags & ACK != 0 {
            draft.raw_ack.unwrap_or(irs.wrapping_add(draft.ack.unwrap_or(self.ack)))
        } else {
            0
        };
        let seq = draft.seq.unwrap_or(self.seq);
        Segment {
            src: self.own.ip(),
            dst: self.other.ip(),
            src_port: self.own.port(),
            dst_port: self.other.port(),
            seq: ISS.wrapping_add(seq),
            ack,
            flags,
            window: draft.window.unwrap_or(self.window),
            urgent: draft.urgent,
            options,
            payload: (0..draft.length).map(|at| (seq as usize + at) as u8).collect(),
            ttl: draft.ttl,
            ecn: draft.ecn,
            bad_checksum: draft.bad_checksum,
            offset: draft.offset,
        }
    }

    /// How many bytes from our next sequence number the subject's last segment has room for.
    pub(crate) fn room(&self) -> u32 {
        let Some(last) = self.seen.last() else { return 0 };
        let scale = if last.flags & SYN != 0 { 0 } else { self.scale };
        let edge = last.ack.wrapping_add(u32::from(last.window) << scale);
        edge.wrapping_sub(ISS.wrapping_add(self.seq)).min(1 << 30)
    }

    /// SACK blocks of the subject's data, by relative numbers.
    pub(crate) fn sack(&self, blocks: &[(u32, u32)]) -> Vec<u8> {
        let irs = self.irs.unwrap_or(0);
        let absolute = |&(a, b): &(u32, u32)| (irs.wrapping_add(a), irs.wrapping_add(b));
        opt::sack(&blocks.iter().map(absolute).collect::<Vec<_>>())
    }

    // What the peer sees.

    /// Forgets the subject's numbers: a new connection takes the old one's place.
    pub(crate) fn forget(&mut self) {
        self.irs = None;
        self.ack = 0;
    }

    /// Writes down what comes within `millis`.
    pub(crate) fn see_for(&mut self, millis: u64) {
        self.collect(millis, usize::MAX, false);
    }

    /// The same for long enough that what is to be answered at once has been.
    pub(crate) fn see(&mut self) {
        self.see_for(120);
    }

    /// The same until `count` segments have come, with their times.
    pub(crate) fn see_timed(&mut self, count: usize, millis: u64) {
        self.collect(millis, count, true);
    }

    /// Waits for `count` segments, at most half a second.
    pub(crate) fn see_count(&mut self, count: usize) {
        self.collect(500, count, false);
    }

    fn collect(&mut self, millis: u64, count: usize, timed: bool) {
        let end = Instant::now() + Duration::from_millis(millis);
        for seen in 0..count {
            let left = end.saturating_duration_since(Instant::now());
            let Ok((at, segment)) = self.arrivals.recv_timeout(left) else {
                if seen == 0 || count != usize::MAX {
                    self.lines.push("< nothing".into());
                }
                return;
            };
            let after = at.saturating_duration_since(self.last);
            let line = self.describe(&segment);
            self.lines.push(match timed {
                true => format!("< {line}, {}", class(after)),
                false => format!("< {line}"),
            });
            if timed {
                self.last = at;
            }
            self.seen.push(segment);
        }
    }

    /// Takes in what comes within `millis` and writes down only how much it was.
    pub(crate) fn swallow(&mut self, millis: u64) -> Vec<Segment> {
        let lines = self.lines.len();
        let before = self.seen.len();
        self.see_for(millis);
        self.lines.truncate(lines);
        self.seen[before..].to_vec()
    }

    fn describe(&mut self, segment: &Segment) -> String {
        if self.irs.is_none() && segment.flags & SYN != 0 {
            self.irs = Some(segment.seq);
        }
        let irs = self.irs.unwrap_or(0);
        let seq = segment.seq.wrapping_sub(irs);
        if self.irs.is_some() && seq == self.ack {
            self.ack = self.ack.wrapping_add(segment.span());
        }
        let mut line: String =
            FLAGS.iter().filter(|(_, bit)| segment.flags & bit != 0).map(|(of, _)| of).collect();
        // A reset for what acknowledges nothing is at 0 (RFC 9293 3.10.7.1).
        if segment.flags & RST != 0 && segment.seq == 0 {
            line.push_str(" seq zero");
        } else {
            let _ = write!(line, " seq {}", seq as i32);
        }
        if segment.flags & ACK != 0 {
            let _ = write!(line, " ack {}", segment.ack.wrapping_sub(ISS) as i32);
        } else if segment.ack != 0 {
            line.push_str(" ack field used");
        }
        if !segment.payload.is_empty() {
            let _ = write!(line, " length {}", segment.payload.len());
        }
        if segment.window == 0 && segment.flags & RST == 0 {
            line.push_str(" shut");
        }
        if segment.flags & URG != 0 {
            let _ = write!(line, " urgent {}", segment.urgent);
        }
        if segment.ecn != 0 {
            let _ = write!(line, " ecn {}", segment.ecn);
        }
        if segment.bad_checksum {
            line.push_str(" WRONG CHECKSUM");
        }
        if segment.ttl != 64 {
            let _ = write!(line, " ttl {}", segment.ttl);
        }
        let options = self.describe_options(&segment.options);
        if !options.is_empty() {
            let _ = write!(line, " <{}>", options.join(" "));
        }
        line
    }

    fn describe_options(&mut self, mut bytes: &[u8]) -> Vec<String> {
        let word = |at: &[u8]| u32::from_be_bytes([at[0], at[1], at[2], at[3]]);
        let (mut all, mut sacks) = (Vec::new(), Vec::new());
        while let Some((&kind, rest)) = bytes.split_first() {
            if kind == 0 {
                break;
            }
            if kind == 1 {
                bytes = rest;
                continue;
            }
            let length = usize::from(rest.first().copied().unwrap_or(0));
            let Some(body) = bytes.get(2..length) else {
                all.push("cut".into());
                break;
            };
            match (kind, body.len()) {
                (2, 2) => all.push(format!("mss {}", u16::from_be_bytes([body[0], body[1]]))),
                (3, 1) => {
                    self.scale = body[0];
                    all.push("scale".into());
                }
                (4, 0) => all.push("sack-ok".into()),
                (5, _) => {
                    for block in body.chunks_exact(8) {
                        let relative = |at: &[u8]| word(at).wrapping_sub(ISS) as i32;
                        sacks.push(format!("{}-{}", relative(block), relative(&block[4..])));
                    }
                }
                (8, 8) => {
                    self.echo = word(body);
                    let echo = word(&body[4..]).wrapping_sub(CLOCK) as i32;
                    all.push(if self.show_echo { format!("ts echo {echo}") } else { "ts".into() });
                }
                _ => all.push(format!("kind {kind}")),
            }
            bytes = &bytes[length..];
        }
        // Stacks differ in how they order options, and may.
        all.sort();
        if !sacks.is_empty() {
            all.push(format!("sack {}", sacks.join(",")));
        }
        all
    }

    // What many scripts begin with.

    /// A connection that we have opened to the subject's listener, all in order.
    pub(crate) fn open_with(&mut self, options: impl Into<Vec<u8>>) {
        self.listen();
        self.shake(options);
        let lines = self.lines.len();
        self.accept();
        if self.lines.last().is_some_and(|line| line.ends_with("ok")) {
            self.lines.truncate(lines);
        }
    }

    /// The three segments alone.
    pub(crate) fn shake(&mut self, options: impl Into<Vec<u8>>) {
        let syn = seg("S").options(options);
        let segment = self.segment(&syn);
        self.put(&segment.to_frame());
        self.advance(&syn, &segment);
        let lines = self.lines.len();
        self.collect(1_000, 1, false);
        if self.irs.is_some() {
            self.lines.truncate(lines);
            self.send_silently(seg("A"));
        }
    }

    /// A connection with no options but MSS.
    pub(crate) fn open(&mut self) {
        self.open_with(opt::MSS);
    }

    /// A connection with SACK.
    pub(crate) fn open_sack(&mut self) {
        self.open_with([opt::MSS, opt::SACK].concat());
    }

    /// A connection with timestamps, SACK and window scale.
    pub(crate) fn open_full(&mut self) {
        self.clock = Some(1);
        self.open_with([opt::MSS, opt::SACK, opt::SCALE].concat());
    }

    /// The program connects, and we answer; with these options in the SYN-ACK.
    pub(crate) fn connected_with(&mut self, options: impl Into<Vec<u8>>) {
        let (name, told) = self.connect();
        let lines = self.lines.len();
        self.collect(1_000, 1, false);
        self.send_silently(seg("SA").options(options));
        self.collect(1_000, 1, false);
        self.lines.truncate(lines);
        let said = told.recv_timeout(PATIENCE).unwrap_or_default();
        if said != "ok" {
            self.lines.push(format!("= {name}: {said}"));
        }
    }
}

fn name_of(call: &Call) -> String {
    match call {
        Call::Listen(_) => "listen".into(),
        Call::Connect(..) => "connect".into(),
        Call::Write(bytes) => format!("write {bytes}"),
        Call::Read(_) => "read".into(),
        Call::ShutdownWrite => "shutdown".into(),
        Call::Keepalive(_) => "keepalive".into(),
        Call::UserTimeout(_) => "user timeout".into(),
        Call::Linger(_) => "linger".into(),
        other => format!("{other:?}").to_lowercase(),
    }
}

/// The class of a time, wide enough for a machine that is busy with other things.
fn class(time: Duration) -> &'static str {
    const CLASSES: [(u64, &str); 12] = [
        (25, "at once"),
        (110, "after 40 ms"),
        (290, "after 200 ms"),
        (560, "after 400 ms"),
        (900, "after 800 ms"),
        (1_300, "after 1 s"),
        (1_820, "after 1.6 s"),
        (2_600, "after 2 s"),
        (3_600, "after 3 s"),
        (5_500, "after 4 s"),
        (7_200, "after 6.4 s"),
        (10_000, "after 8 s"),
    ];
    let millis = time.as_millis() as u64;
    CLASSES.iter().find(|(below, _)| millis < *below).map_or("later", |(_, name)| name)
}
