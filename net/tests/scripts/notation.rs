//! Packets as packetdrill writes them.

use std::fmt;

use throng_net::engine::Flags;

use crate::script::{Body, Icmp, Options, Packet, Stamp, Tcp};

/// Microseconds as seconds.
pub fn seconds(micros: i64) -> String {
    format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000)
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(ecn) = self.ecn {
            write!(f, "[{}] ", ["noecn", "ect1", "ect0", "ce"][usize::from(ecn & 3)])?;
        }
        if let Some((from, to)) = self.ports {
            write!(f, "{from} > {to} ")?;
        }
        match &self.body {
            Body::Tcp(tcp) => tcp.fmt(f),
            Body::Icmp(icmp) => icmp.fmt(f),
        }
    }
}

impl fmt::Display for Tcp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letters = [
            (Flags::FIN, 'F'),
            (Flags::SYN, 'S'),
            (Flags::RST, 'R'),
            (Flags::PSH, 'P'),
            (Flags::ACK, '.'),
            (Flags::URG, 'U'),
            (Flags::ECE, 'E'),
            (Flags::CWR, 'W'),
        ];
        if self.flags == 0 {
            f.write_str("-")?;
        }
        for (_, letter) in letters.iter().filter(|(flag, _)| self.flags & flag.0 != 0) {
            write!(f, "{letter}")?;
        }
        write!(f, " {}:{}({})", self.seq, self.seq.wrapping_add(self.len), self.len)?;
        if let Some(ack) = self.ack {
            write!(f, " ack {ack}")?;
        }
        if let Some(win) = self.win {
            write!(f, " win {win}")?;
        }
        if self.urgent != 0 {
            write!(f, " urg {}", self.urgent)?;
        }
        match &self.options {
            None => f.write_str(" <...>"),
            Some(options) => options.fmt(f),
        }
    }
}

impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        parts.extend(self.mss.map(|mss| format!("mss {mss}")));
        parts.extend(self.sack_ok.then(|| "sackOK".into()));
        if let Some((value, echo)) = &self.stamps {
            parts.push(format!("TS val {value} ecr {echo}"));
        }
        parts.extend(self.wscale.map(|shift| format!("wscale {shift}")));
        if !self.sack.is_empty() {
            let blocks = self.sack.iter().map(|(from, to)| format!("{from}:{to}"));
            parts.push(format!("sack {}", blocks.collect::<Vec<_>>().join(" ")));
        }
        if parts.is_empty() { Ok(()) } else { write!(f, " <{}>", parts.join(",")) }
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stamp::Number(number) => number.fmt(f),
            Stamp::Name(name) => f.write_str(name),
        }
    }
}

impl fmt::Display for Icmp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "icmp {} {} mtu {}", self.kind, self.code, self.mtu)
    }
}
