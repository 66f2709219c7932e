//! From a filter's text to its program.

use std::net::IpAddr;

use super::filter::{
    ARP, FilterError, ICMP, ICMPV6, IPV4, IPV6, MAX_DEPTH, Op, Side, TCP, Test, UDP,
};

/// Longest text.
const MAX_TEXT: usize = 2_000;

pub(super) fn parse(text: &str) -> Result<Vec<Op>, FilterError> {
    if text.len() > MAX_TEXT {
        return Err(FilterError(format!("it is longer than {MAX_TEXT} bytes")));
    }
    let mut parser = Parser { words: words(text), at: 0, depth: 0, program: Vec::new() };
    parser.expression()?;
    match parser.peek() {
        None => Ok(parser.program),
        Some(word) => Err(FilterError(format!("`{word}` is not expected here"))),
    }
}

/// Operators and parentheses need no spaces around them.
fn words(text: &str) -> Vec<String> {
    let mut spaced = text.to_owned();
    for operator in ["(", ")", "&&", "||", "!"] {
        spaced = spaced.replace(operator, &format!(" {operator} "));
    }
    spaced.split_whitespace().map(str::to_owned).collect()
}

struct Parser {
    words: Vec<String>,
    at: usize,
    depth: usize,
    program: Vec<Op>,
}

impl Parser {
    fn peek(&self) -> Option<&str> {
        self.words.get(self.at).map(String::as_str)
    }

    fn take(&mut self, what: &str) -> Result<String, FilterError> {
        let word = self.words.get(self.at).cloned();
        self.at += 1;
        word.ok_or_else(|| FilterError(format!("it ends where {what} is expected")))
    }

    fn takes(&mut self, words: &[&str]) -> bool {
        let found = self.peek().is_some_and(|word| words.contains(&word));
        self.at += usize::from(found);
        found
    }

    /// Terms joined by `and` and `or`, from the left.
    fn expression(&mut self) -> Result<(), FilterError> {
        self.term()?;
        loop {
            let op = if self.takes(&["and", "&&"]) {
                Op::And
            } else if self.takes(&["or", "||"]) {
                Op::Or
            } else {
                return Ok(());
            };
            self.term()?;
            self.program.push(op);
        }
    }

    fn term(&mut self) -> Result<(), FilterError> {
        let mut negated = false;
        while self.takes(&["not", "!"]) {
            negated = !negated;
        }
        if self.takes(&["("]) {
            self.depth += 1;
            // Each level keeps one operand waiting, and two are being joined.
            if self.depth + 2 > MAX_DEPTH {
                return Err(FilterError("parentheses are nested too deeply".into()));
            }
            self.expression()?;
            if !self.takes(&[")"]) {
                return Err(FilterError("a parenthesis is not closed".into()));
            }
            self.depth -= 1;
        } else {
            let test = self.primitive()?;
            self.program.push(Op::Test(test));
        }
        if negated {
            self.program.push(Op::Not);
        }
        Ok(())
    }

    fn primitive(&mut self) -> Result<Test, FilterError> {
        let word = self.take("a primitive")?;
        let (kind, protocol) = match word.as_str() {
            "ip" => (Some(IPV4), None),
            "ip6" => (Some(IPV6), None),
            "arp" => (Some(ARP), None),
            "tcp" => (None, Some(TCP)),
            "udp" => (None, Some(UDP)),
            "icmp" => return Ok(Test::Protocol(ICMP)),
            "icmp6" => return Ok(Test::Protocol(ICMPV6)),
            "less" => return Ok(Test::Less(self.number("less")?)),
            "greater" => return Ok(Test::Greater(self.number("greater")?)),
            _ => (None, None),
        };
        if kind.is_none() && protocol.is_none() {
            self.at -= 1;
        }
        let side = if self.takes(&["src"]) {
            Side::Source
        } else if self.takes(&["dst"]) {
            Side::Destination
        } else {
            Side::Either
        };
        let follows = self.peek().unwrap_or_default().to_owned();
        match (follows.as_str(), kind, protocol) {
            ("host", _, None) => {
                self.at += 1;
                self.host(side, kind)
            }
            ("net", _, None) => {
                self.at += 1;
                self.net(side, kind)
            }
            ("port", None, _) => {
                self.at += 1;
                let port = self.take("a port")?;
                let port = port_number(&port)?;
                Ok(Test::Ports { side, protocol, low: port, high: port })
            }
            ("portrange", None, _) => {
                self.at += 1;
                let range = self.take("a range of ports")?;
                let (low, high) = range
                    .split_once('-')
                    .ok_or_else(|| FilterError(format!("`{range}` is not like 8000-8099")))?;
                let (low, high) = (port_number(low)?, port_number(high)?);
                // As libpcap does.
                Ok(Test::Ports { side, protocol, low: low.min(high), high: low.max(high) })
            }
            (_, Some(kind), None) if side == Side::Either => Ok(Test::Type(kind)),
            (_, None, Some(protocol)) if side == Side::Either => Ok(Test::Protocol(protocol)),
            (address, _, None) if address.parse::<IpAddr>().is_ok() => self.host(side, kind),
            ("", ..) => Err(FilterError("it ends where a primitive is expected".into())),
            (other, None, None) => Err(FilterError(format!(
                "`{other}` is not known; there are ip, ip6, arp, tcp, udp, icmp, icmp6, host, net, \
                 port, portrange, less, greater, src, dst, and, or, not"
            ))),
            (other, ..) => Err(FilterError(format!("`{other}` does not go with `{word}`"))),
        }
    }

    fn host(&mut self, side: Side, kind: Option<u16>) -> Result<Test, FilterError> {
        let text = self.take("an address")?;
        let ip = text.parse::<IpAddr>();
        let ip = ip.map_err(|_| FilterError(format!("`{text}` is not an IP address")))?;
        let bits = if ip.is_ipv4() { 32 } else { 128 };
        checked(side, kind, ip, bits, &text)
    }

    fn net(&mut self, side: Side, kind: Option<u16>) -> Result<Test, FilterError> {
        let text = self.take("a network")?;
        let wrong = || FilterError(format!("`{text}` is not like 10.0.0.0/8 or fd00::/8"));
        let (ip, bits) = text.split_once('/').ok_or_else(wrong)?;
        let ip = ip.parse::<IpAddr>().map_err(|_| wrong())?;
        let bits =
            bits.parse::<u8>().ok().filter(|bits| *bits <= if ip.is_ipv4() { 32 } else { 128 });
        checked(side, kind, ip, bits.ok_or_else(wrong)?, &text)
    }

    fn number(&mut self, of: &str) -> Result<u32, FilterError> {
        let text = self.take("a length")?;
        text.parse().map_err(|_| FilterError(format!("{of}: `{text}` is not a number of bytes")))
    }
}

fn port_number(text: &str) -> Result<u16, FilterError> {
    text.parse().map_err(|_| FilterError(format!("`{text}` is not a port, 0 to 65535")))
}

fn checked(
    side: Side,
    kind: Option<u16>,
    ip: IpAddr,
    bits: u8,
    text: &str,
) -> Result<Test, FilterError> {
    let fits = match kind {
        Some(IPV6) => ip.is_ipv6(),
        Some(_) => ip.is_ipv4(),
        None => true,
    };
    if !fits {
        return Err(FilterError(format!("`{text}` is of another family")));
    }
    Test::net(side, kind, ip, bits)
        .ok_or_else(|| FilterError(format!("`{text}` has bits set beyond its length")))
}
