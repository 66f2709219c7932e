//! The packets of a script.

use throng_net::engine::Flags;

use crate::cursor::{Cursor, Parsed};
use crate::script::{Body, Icmp, Options, Packet, Stamp, Tcp};

/// What follows `<` or `>`.
pub fn packet(at: &mut Cursor<'_>) -> Parsed<Packet> {
    at.space()?;
    let mut quoted = None;
    let mut ecn = None;
    if at.rest().starts_with(['[', '(']) {
        let close = if at.rest().starts_with('[') { "]" } else { ")" };
        at.skip(1);
        at.space()?;
        if at.rest().starts_with(|c: char| c.is_ascii_digit()) {
            quoted = Some(sequence(at)?);
        } else {
            ecn = Some(mark(at)?);
        }
        at.expect(close)?;
    }
    let ports = ports(at)?;
    at.space()?;
    let body = match at.peek_word() {
        "icmp" => Body::Icmp(icmp(at, quoted)?),
        "udp" => return at.wrong("UDP is not what is tested here"),
        _ if quoted.is_some() => return at.wrong("only ICMP quotes a segment"),
        _ => Body::Tcp(tcp(at)?),
    };
    Ok(Packet { ports, ecn, body })
}

fn mark(at: &mut Cursor<'_>) -> Parsed<u8> {
    Ok(match at.word()? {
        "noecn" => 0,
        "ect1" => 1,
        "ect0" => 2,
        "ce" => 3,
        other => return at.wrong(format!("`{other}` is no mark: noecn, ect0, ect1 or ce")),
    })
}

/// `40000 > 8080`, where a script has more than one connection.
fn ports(at: &mut Cursor<'_>) -> Parsed<Option<(u16, u16)>> {
    at.space()?;
    let word = at.peek_word();
    let next = at.rest()[word.len()..].trim_start_matches([' ', '\t']);
    if word.is_empty() || !next.starts_with('>') || !word.chars().all(|c| c.is_ascii_digit()) {
        return Ok(None);
    }
    let from = at.field("a port")?;
    at.expect(">")?;
    Ok(Some((from, at.field("a port")?)))
}

/// `1:1001(1000)`: where it starts, and how long it is.
fn sequence(at: &mut Cursor<'_>) -> Parsed<(u32, u32)> {
    let start: u32 = at.field("a sequence number")?;
    at.expect(":")?;
    let end: u32 = at.field("a sequence number")?;
    at.expect("(")?;
    let len: u32 = at.field("a length")?;
    at.expect(")")?;
    if start.wrapping_add(len) != end {
        return at.wrong(format!("{start}:{end} is not {len} bytes"));
    }
    Ok((start, len))
}

fn tcp(at: &mut Cursor<'_>) -> Parsed<Tcp> {
    at.space()?;
    let rest = at.rest();
    let len = rest.find(char::is_whitespace).unwrap_or(rest.len());
    let mut flags = 0;
    for letter in rest[..len].chars() {
        flags |= match letter {
            'F' => Flags::FIN.0,
            'S' => Flags::SYN.0,
            'R' => Flags::RST.0,
            'P' => Flags::PSH.0,
            '.' => Flags::ACK.0,
            'U' => Flags::URG.0,
            'E' => Flags::ECE.0,
            'W' | 'C' => Flags::CWR.0,
            '-' => 0,
            _ => return at.wrong(format!("expected TCP flags, found {}", at.here())),
        };
    }
    at.skip(len);
    let (seq, len) = sequence(at)?;
    let mut tcp =
        Tcp { flags, seq, len, ack: None, win: None, urgent: 0, options: Some(Options::default()) };
    if flags & Flags::ACK.0 != 0 {
        tcp.ack = Some(0);
    }
    if at.eat_word("ack")? {
        tcp.ack = Some(at.field("an acknowledgement")?);
    }
    if at.eat_word("win")? {
        tcp.win = Some(at.field("a window")?);
    }
    if at.eat_word("urg")? {
        tcp.urgent = at.field("an urgent pointer")?;
    }
    at.space()?;
    // On a line of its own `<` would follow a time.
    if at.eat("<")? {
        tcp.options = if at.eat("...")? {
            at.expect(">")?;
            None
        } else {
            Some(options(at)?)
        };
    }
    Ok(tcp)
}

fn options(at: &mut Cursor<'_>) -> Parsed<Options> {
    let mut options = Options::default();
    loop {
        match at.word()? {
            "nop" | "eol" => {}
            "mss" => options.mss = Some(at.field("an MSS")?),
            "wscale" => options.wscale = Some(at.field("a window scale")?),
            "sackOK" => options.sack_ok = true,
            "sack" => {
                at.space()?;
                while at.rest().starts_with(|c: char| c.is_ascii_digit()) {
                    let from = at.field("a SACK edge")?;
                    at.expect(":")?;
                    options.sack.push((from, at.field("a SACK edge")?));
                    at.space()?;
                }
                if options.sack.is_empty() || options.sack.len() > 4 {
                    return at.wrong("one to four SACK blocks");
                }
            }
            "TS" => {
                if !at.eat_word("val")? {
                    return at.wrong(format!("expected `val`, found {}", at.here()));
                }
                let value = stamp(at)?;
                if !at.eat_word("ecr")? {
                    return at.wrong(format!("expected `ecr`, found {}", at.here()));
                }
                options.stamps = Some((value, stamp(at)?));
            }
            other => return at.wrong(format!("the option `{other}` is not known here")),
        }
        if at.eat(">")? {
            return Ok(options);
        }
        at.expect(",")?;
    }
}

fn stamp(at: &mut Cursor<'_>) -> Parsed<Stamp> {
    at.space()?;
    if at.rest().starts_with(|c: char| c.is_ascii_digit()) {
        return Ok(Stamp::Number(at.field("a timestamp")?));
    }
    Ok(Stamp::Name(at.word()?.into()))
}

/// `icmp unreachable frag_needed mtu 1200 [1:1461(1460)]`.
fn icmp(at: &mut Cursor<'_>, mut quoted: Option<(u32, u32)>) -> Parsed<Icmp> {
    at.word()?;
    let kind = at.word()?.to_string();
    if !matches!(kind.as_str(), "unreachable" | "packet_too_big") {
        return at.wrong(format!("ICMP `{kind}` is not known here"));
    }
    let mut icmp = Icmp { kind, code: String::new(), mtu: 0, quoted: None };
    at.space()?;
    if icmp.kind == "unreachable" {
        icmp.code = at.word()?.into();
    }
    if at.eat_word("mtu")? {
        icmp.mtu = at.field("an MTU")?;
    }
    if at.eat("[")? {
        quoted = Some(sequence(at)?);
        at.expect("]")?;
    }
    icmp.quoted = quoted;
    Ok(icmp)
}
