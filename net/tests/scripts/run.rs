//! Runs a script against an engine, in virtual time.
//!
//! An event happens at its time exactly; what the engine is to send may come a little before or
//! after its time. A packet that the script does not expect fails it as soon as the script does
//! anything later than that; what is sent after the script's last line is nobody's business, as
//! with packetdrill.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use throng_net::engine::wire::Incoming;
use throng_net::engine::{Flags, FourTuple, Instant, TooBig, Unreachable};
use throng_packetdrill::{Host, Sent, tcp_info};

use crate::calls::Pending;
use crate::code;
use crate::flow::{Flow, difference};
use crate::notation::seconds;
use crate::script::{Action, Body, Event, Icmp, Packet, Script, Tcp, When, Wrong};
use crate::settings::Settings;

/// How long `*` waits for a packet, in microseconds.
const LONG: i64 = 3 * 3_600_000_000;

pub struct Run {
    pub settings: Settings,
    pub host: Host,
    start: Instant,
    pub flows: Vec<Flow>,
    /// The connection that packets without ports belong to.
    pub current: Option<usize>,
    /// Whether a SYN without ports begins a connection.
    pub awaiting: bool,
    next_port: u16,
    /// The script's descriptors, and the host's.
    pub fds: HashMap<i64, i32>,
    pub pending: Option<Pending>,
    variables: HashMap<String, f64>,
    /// The time that a relative one is relative to.
    base: i64,
}

/// Runs it to its end, or to what is wrong.
pub fn run(script: &Script) -> Result<(), Wrong> {
    let mut settings = Settings::of(script)?;
    let mut events = script.events.as_slice();
    // Settings are made before there is anything to set.
    while let [Event { line, action: Action::Command(text), .. }, rest @ ..] = events {
        settings.command(text).map_err(|what| Wrong { line: *line, what })?;
        events = rest;
    }
    let start = Instant::from_millis(1_000_000);
    let secret = std::array::from_fn(|i| (i as u8).wrapping_mul(37));
    let host = Host::new(settings.config.clone(), secret, start, settings.local);
    let mut run = Run {
        settings,
        host,
        start,
        flows: Vec::new(),
        current: None,
        awaiting: true,
        next_port: 40_000,
        fds: HashMap::new(),
        pending: None,
        variables: HashMap::new(),
        base: 0,
    };
    let mut last = 0;
    for event in events {
        last = event.line;
        run.event(event).map_err(|what| Wrong { line: last, what })?;
    }
    run.finish_pending().map_err(|what| Wrong { line: last, what })
}

impl Run {
    /// What the clock shows, in microseconds of the script.
    pub fn now(&self) -> i64 {
        self.since_start(self.host.now())
    }

    fn since_start(&self, at: Instant) -> i64 {
        at.saturating_since(self.start).as_micros() as i64
    }

    fn instant(&self, micros: i64) -> Instant {
        self.start + Duration::from_micros(micros.max(0) as u64)
    }

    fn event(&mut self, event: &Event) -> Result<(), String> {
        let base = self.base;
        let (from, to) = match event.when {
            When::Start => (base, base),
            When::At(at) => (at, at),
            When::After(time) => (base + time, base + time),
            When::Between(from, to) => (from, to),
            When::BetweenAfter(from, to) => (base + from, base + to),
            When::Any => (self.now(), self.now() + LONG),
        };
        if from < base {
            return Err(format!(
                "{} is before the event above, at {}",
                seconds(from),
                seconds(base)
            ));
        }
        if let Action::Expect(packet) = &event.action {
            let at = self.expect(packet, from, to, event)?;
            self.base = if from == to { from } else { at };
            return Ok(());
        }
        self.advance(from)?;
        self.check_unexpected(from)?;
        self.base = from;
        match &event.action {
            Action::Inject(packet) => self.inject(packet)?,
            Action::Call(call) => self.call(call, base)?,
            Action::Code(text) => self.code(text)?,
            Action::Command(text) => {
                let mut unchanged = self.settings.clone();
                let time = unchanged.command(text)?;
                if time.is_zero() && format!("{unchanged:?}") != format!("{:?}", self.settings) {
                    return Err("settings come before the first call and packet".into());
                }
                self.base += time.as_micros() as i64;
                self.advance(self.base)?;
            }
            Action::Expect(_) => {}
        }
        self.try_pending()
    }

    /// Moves the clock, letting a call that waits try again after every step.
    pub fn advance(&mut self, to: i64) -> Result<(), String> {
        let limit = self.instant(to);
        while self.host.step(limit) {
            self.try_pending()?;
        }
        self.try_pending()
    }

    /// Fails where a packet was sent that the script has not asked for by now.
    fn check_unexpected(&mut self, now: i64) -> Result<(), String> {
        let tolerance = self.settings.tolerance;
        let Some(sent) = self.host.sent().front() else { return Ok(()) };
        if self.since_start(sent.at) >= now - tolerance {
            return Ok(());
        }
        let sent = sent.clone();
        let (at, actual) = (self.since_start(sent.at), self.describe(&sent, None));
        Err(format!("a packet that the script does not expect:\n    {} > {actual}", seconds(at)))
    }

    /// Waits for a packet and compares it. Returns when it was sent.
    fn expect(&mut self, want: &Packet, from: i64, to: i64, event: &Event) -> Result<i64, String> {
        let tolerance = self.settings.tolerance;
        let limit = self.instant(to + tolerance);
        while self.host.sent().is_empty() {
            if !self.host.step(limit) && self.host.sent().is_empty() {
                self.try_pending()?;
                if self.host.sent().is_empty() {
                    return Err(format!("no packet is sent\n  expected: {} > {want}", seconds(to)));
                }
            }
            self.try_pending()?;
        }
        let sent = self.take_run(want);
        let at = self.since_start(sent.at);
        let flow = self.flow_of(sent.header.tuple);
        let actual = self.describe(&sent, Some(want));
        let mut why = difference(want, &actual, self.settings.any_push);
        if !self.is_of(want, flow) {
            why = Some("connection");
        }
        if at < from - tolerance || at > to + tolerance {
            why = why.or(Some("time"));
        }
        if let Some(tick) = self.settings.tick
            && let (Body::Tcp(tcp), Some((value, _))) = (&want.body, sent.header.options.timestamps)
            && let Some((stamp, _)) = tcp.options.as_ref().and_then(|o| o.stamps.as_ref())
        {
            let error = i64::from(self.flows[flow].stamp_error(value, stamp)) * tick;
            if error.abs() > tolerance.max(tick) {
                why = why.or(Some("timestamp"));
            }
        }
        if why.is_none() && !self.carries_what_was_written(flow, &actual, &sent.payload) {
            why = Some("bytes of the payload");
        }
        match why {
            None => Ok(at),
            Some(what) => Err(format!(
                "not the packet expected ({what}): {}\n  expected: {} > {want}\n  actual:   {} > {actual}",
                event.text,
                seconds(from),
                seconds(at)
            )),
        }
    }

    /// The next packet sent. Where the script expects a longer one, as segmentation offload makes
    /// them, it is put together with those that continue it.
    fn take_run(&mut self, want: &Packet) -> Sent {
        let mut sent = self.host.take_sent().expect("looked before");
        let Body::Tcp(Tcp { len: want, .. }) = want.body else { return sent };
        while !sent.payload.is_empty()
            && let Some(next) = self.host.sent().front()
            && sent.payload.len() + next.payload.len() <= want as usize
            && next.header.tuple == sent.header.tuple
            && next.header.seq == sent.header.seq + sent.payload.len() as u32
            && next.header.ack == sent.header.ack
            && next.at == sent.at
            && !next.payload.is_empty()
        {
            sent.payload.extend_from_slice(&next.payload);
            sent.header.flags = sent.header.flags | next.header.flags;
            self.host.take_sent();
        }
        sent
    }

    fn carries_what_was_written(&self, flow: usize, packet: &Packet, payload: &[u8]) -> bool {
        let Body::Tcp(tcp) = &packet.body else { return true };
        let start = tcp.seq.wrapping_sub(1) as usize;
        payload.is_empty()
            || self.flows[flow].written.get(start..start + payload.len()) == Some(payload)
    }

    fn describe(&mut self, sent: &Sent, want: Option<&Packet>) -> Packet {
        let flow = self.flow_of(sent.header.tuple);
        let mut header = sent.header;
        if header.flags.contains(Flags::SYN) {
            self.settings.strip(&mut header.options);
        }
        let mut packet = self.flows[flow].described(&header, sent.payload.len(), want);
        if self.current != Some(flow) || want.is_some_and(|want| want.ports.is_some()) {
            let tuple = sent.header.tuple;
            packet.ports = Some((tuple.local_port, tuple.remote_port));
        }
        packet
    }

    /// Whether the script means this connection.
    fn is_of(&self, want: &Packet, flow: usize) -> bool {
        let tuple = &self.flows[flow].tuple;
        match want.ports {
            Some(ports) => ports == (tuple.local_port, tuple.remote_port),
            None => self.current == Some(flow),
        }
    }

    pub fn flow_of(&mut self, tuple: FourTuple) -> usize {
        if let Some(found) = self.flows.iter().position(|flow| flow.tuple == tuple) {
            return found;
        }
        self.flows.push(Flow::new(tuple));
        self.current = self.current.or(Some(self.flows.len() - 1));
        self.flows.len() - 1
    }

    fn inject(&mut self, packet: &Packet) -> Result<(), String> {
        let syn = matches!(&packet.body, Body::Tcp(tcp)
            if tcp.flags & (Flags::SYN.0 | Flags::ACK.0) == Flags::SYN.0);
        let local = |port| SocketAddr::new(self.settings.local(), port);
        let remote = |port| SocketAddr::new(self.settings.remote(), port);
        let flow = match (packet.ports, self.current) {
            (Some((from, to)), _) => self.flow_of(FourTuple::new(local(to), remote(from))),
            (None, Some(flow)) if !(syn && self.awaiting) => flow,
            (None, _) => {
                let tuple = FourTuple::new(local(self.settings.bind_port), remote(self.next_port));
                self.next_port += 1;
                let flow = self.flow_of(tuple);
                self.current = Some(flow);
                flow
            }
        };
        if syn {
            self.awaiting = false;
            self.current = self.current.or(Some(flow));
        }
        let flow = &mut self.flows[flow];
        let incoming = match &packet.body {
            Body::Tcp(tcp) => {
                let (mut header, payload) = flow.injected(packet, tcp);
                if header.flags.contains(Flags::SYN) {
                    self.settings.strip(&mut header.options);
                }
                Incoming::Segment(header, payload)
            }
            Body::Icmp(icmp) => said(flow, icmp)?,
        };
        self.host.receive(incoming);
        Ok(())
    }

    fn code(&mut self, text: &str) -> Result<(), String> {
        let tuple = self.current.map(|flow| self.flows[flow].tuple);
        let mut info = None;
        for fd in self.fds.values() {
            if let (Ok(found), Some(tuple)) = (self.host.info(*fd), tuple)
                && found.tuple == tuple
            {
                info = Some(tcp_info::fields(&found));
            }
        }
        let names = |name: &str| {
            if let Some(value) = constant(name) {
                return Ok(value);
            }
            if !name.starts_with("tcpi_") {
                return Err(format!("`{name}` is not known"));
            }
            let Some(fields) = &info else {
                return Err(format!("{name}: there is no socket to ask"));
            };
            let field = fields.iter().find(|(field, ..)| *field == name);
            let value = field.map(|(.., value)| *value as f64);
            value.ok_or_else(|| format!("the engine does not tell {name}"))
        };
        code::run(text, &names, &mut self.variables)
    }
}

/// What an ICMP message of the script tells the engine.
fn said(flow: &Flow, icmp: &Icmp) -> Result<Incoming, String> {
    let Some((seq, len)) = icmp.quoted else {
        return Err("the ICMP message quotes no segment: [1:1001(1000)]".into());
    };
    let (tuple, seq) = (flow.tuple, flow.ours(seq));
    let v6 = !tuple.remote.is_ipv4();
    let headers = if v6 { 60 } else { 40 };
    let too_big = TooBig { mtu: icmp.mtu, quoted: (headers + len).min(0xffff) as u16 };
    let kind = match (icmp.kind.as_str(), icmp.code.as_str()) {
        ("packet_too_big", _) if v6 => return Ok(Incoming::TooBig(tuple, seq, too_big)),
        (_, "frag_needed") if !v6 => return Ok(Incoming::TooBig(tuple, seq, too_big)),
        (_, "net_unreachable" | "no_route") => Unreachable::Network,
        (_, "host_unreachable" | "address_unreachable") => Unreachable::Host,
        (_, "protocol_unreachable" | "proto_unreachable") => Unreachable::Protocol,
        (_, "port_unreachable") => Unreachable::Port,
        (_, "net_prohibited" | "host_prohibited" | "packet_filtered" | "admin_prohibited") => {
            Unreachable::Prohibited
        }
        _ => return Err(format!("`{icmp}` is not known here")),
    };
    Ok(Incoming::Unreachable(tuple, seq, kind))
}

/// The constants that packetdrill gives to assertions.
fn constant(name: &str) -> Option<f64> {
    Some(match name {
        "TCP_ESTABLISHED" => 1.0,
        "TCP_SYN_SENT" => 2.0,
        "TCP_SYN_RECV" => 3.0,
        "TCP_FIN_WAIT1" => 4.0,
        "TCP_FIN_WAIT2" => 5.0,
        "TCP_TIME_WAIT" => 6.0,
        "TCP_CLOSE" => 7.0,
        "TCP_CLOSE_WAIT" => 8.0,
        "TCP_LAST_ACK" => 9.0,
        "TCP_LISTEN" => 10.0,
        "TCP_CLOSING" => 11.0,
        "TCP_CA_Open" => 0.0,
        "TCP_CA_Disorder" => 1.0,
        "TCP_CA_CWR" => 2.0,
        "TCP_CA_Recovery" => 3.0,
        "TCP_CA_Loss" => 4.0,
        "TCPI_OPT_TIMESTAMPS" => 1.0,
        "TCPI_OPT_SACK" => 2.0,
        "TCPI_OPT_WSCALE" => 4.0,
        "TCPI_OPT_ECN" => 8.0,
        "TCP_INFINITE_SSTHRESH" => f64::from(0x7fff_ffff),
        _ => return None,
    })
}
