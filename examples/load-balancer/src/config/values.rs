//! Values of the configuration that are written as text: each says what it accepts.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use http::header::{self, HeaderName};
use http::uri::{Authority, PathAndQuery};
use http::{HeaderValue, StatusCode};
use serde::de::{self, Deserialize, Deserializer, Visitor};
use throng::tls::rustls::pki_types::ServerName;

/// What a text stands for, or an error with the text and what would be accepted.
fn parsed<'de, D, T>(
    deserializer: D,
    accepted: &'static str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
{
    let text = String::deserialize(deserializer)?;
    parse(&text).ok_or_else(|| de::Error::custom(format!("{text:?} is not {accepted}")))
}

/// A length of time: a number and a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Time(pub(crate) Duration);

impl Time {
    pub(crate) const fn secs(secs: u64) -> Time {
        Time(Duration::from_secs(secs))
    }

    fn parse(text: &str) -> Option<Time> {
        let digits = text.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = text[..digits].parse().ok()?;
        let millis = match &text[digits..] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        // Beyond a century nothing is meant.
        let total = number.checked_mul(millis).filter(|total| *total <= 3_155_760_000_000)?;
        Some(Time(Duration::from_millis(total)))
    }

    /// Not 0, with which nothing would ever be in time.
    pub(super) fn some<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Time, D::Error> {
        parsed(deserializer, "a length of time longer than 0, such as \"10s\"", |text| {
            Time::parse(text).filter(|time| !time.0.is_zero())
        })
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parsed(
            deserializer,
            "a length of time, such as \"250ms\", \"10s\", \"5m\", \"1h\" or \"1d\"",
            Time::parse,
        )
    }
}

impl Default for Time {
    fn default() -> Self {
        Time::secs(0)
    }
}

/// A whole number within bounds; the least where none is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Whole<const MIN: u32, const MAX: u32>(pub(crate) u32);

impl<const MIN: u32, const MAX: u32> Default for Whole<MIN, MAX> {
    fn default() -> Self {
        Whole(MIN)
    }
}

impl<'de, const MIN: u32, const MAX: u32> Deserialize<'de> for Whole<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = i64::deserialize(deserializer)?;
        let fits = u32::try_from(number).ok().filter(|number| (MIN..=MAX).contains(number));
        fits.map(Whole).ok_or_else(|| {
            de::Error::custom(format!("{number} is not a number from {MIN} to {MAX}"))
        })
    }
}

/// A number of bytes: an integer, or a text with `k`, `m` or `g` (powers of 1024).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size(pub(crate) u64);

impl Size {
    fn parse(text: &str) -> Option<Size> {
        let (digits, shift) = match text.char_indices().next_back()? {
            (at, 'k') => (&text[..at], 10),
            (at, 'm') => (&text[..at], 20),
            (at, 'g') => (&text[..at], 30),
            _ => (text, 0),
        };
        if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        digits.parse::<u64>().ok()?.checked_mul(1 << shift).map(Size)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Sizes;
        impl Visitor<'_> for Sizes {
            type Value = Size;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of bytes, such as 65536, \"64k\", \"10m\" or \"1g\"")
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Size, E> {
                let unexpected = || E::invalid_value(de::Unexpected::Signed(value), &self);
                u64::try_from(value).map(Size).map_err(|_| unexpected())
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
                Size::parse(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_any(Sizes)
    }
}

/// A range of addresses, `10.0.0.0/8` or a single one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cidr {
    address: IpAddr,
    bits: u8,
}

impl Cidr {
    pub(crate) fn parse(text: &str) -> Option<Cidr> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse().ok()?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(width);
        (bits <= width).then_some(Cidr { address, bits })
    }

    /// Whether an address lies within; one of IPv4 that comes mapped into IPv6 counts as IPv4.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        let numbers = |address: IpAddr| match address {
            IpAddr::V4(v4) => (u128::from(v4.to_bits()) << 96, true),
            IpAddr::V6(v6) => (v6.to_bits(), false),
        };
        let ((net, v4), (own, own_v4)) = (numbers(self.address), numbers(address.to_canonical()));
        let shift = 128 - u32::from(self.bits);
        v4 == own_v4 && net.checked_shr(shift).unwrap_or(0) == own.checked_shr(shift).unwrap_or(0)
    }
}

impl<'de> Deserialize<'de> for Cidr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parsed(deserializer, "an address or a range such as \"10.0.0.0/8\"", Cidr::parse)
    }
}

/// The hosts a route is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HostPattern {
    /// This name, in small letters.
    Exact(String),
    /// Any name that ends with this, which begins with a dot: what is below a domain.
    Below(String),
}

impl HostPattern {
    pub(crate) fn parse(text: &str) -> Option<HostPattern> {
        let (name, below) = match text.strip_prefix("*.") {
            Some(name) => (name, true),
            None => (text, false),
        };
        let authority = Authority::try_from(name).ok()?;
        if authority.host() != name || name.is_empty() || name.contains('*') {
            return None;
        }
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        Some(if below { HostPattern::Below(format!(".{name}")) } else { HostPattern::Exact(name) })
    }
}

impl HostPattern {
    /// Whether it is for this host, which is in small letters and without a dot at its end.
    pub(crate) fn matches(&self, host: &str) -> bool {
        match self {
            HostPattern::Exact(name) => name == host,
            HostPattern::Below(domain) => {
                host.len() > domain.len() && host.ends_with(domain.as_str())
            }
        }
    }

    /// The more specific pattern has the larger one: names before domains, long before short.
    pub(crate) fn specificity(&self) -> (u8, usize) {
        match self {
            HostPattern::Exact(_) => (2, 0),
            HostPattern::Below(domain) => (1, domain.len()),
        }
    }
}

impl<'de> Deserialize<'de> for HostPattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let accepted = "a host such as \"example.com\" or \"*.example.com\", without a port";
        parsed(deserializer, accepted, HostPattern::parse)
    }
}

/// The beginning of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PathPrefix(pub(crate) String);

impl<'de> Deserialize<'de> for PathPrefix {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let accepted =
            "a path that begins with / and has neither ? nor #, in its shortest spelling";
        parsed(deserializer, accepted, |text| {
            // Paths are compared in this form: another one would match nothing.
            let is_normal = crate::route::normal(text).is_some_and(|normal| normal == text);
            let fits = text.starts_with('/') && !text.contains(['?', '#']);
            let fits = fits && is_normal && PathAndQuery::try_from(text).is_ok();
            fits.then(|| PathPrefix(text.to_owned()))
        })
    }
}

/// Where a server is: a name or an address, with a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ServerAddress {
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl ServerAddress {
    pub(crate) fn parse(text: &str) -> Option<ServerAddress> {
        let authority = Authority::try_from(text).ok()?;
        let port = authority.port_u16().filter(|port| *port != 0)?;
        let host = authority.host();
        if host.is_empty() || text.contains('@') {
            return None;
        }
        // Brackets have an address in them, or nothing can be meant.
        let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = match inner {
            Some(inner) => inner.parse::<Ipv6Addr>().ok()?.to_string(),
            None => host.to_ascii_lowercase(),
        };
        Some(ServerAddress { host, port })
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl<'de> Deserialize<'de> for ServerAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let accepted = "a name or address with a port, such as \"10.0.0.1:80\", \"[fd00::1]:80\" or \"app.internal:8080\"";
        parsed(deserializer, accepted, ServerAddress::parse)
    }
}

/// The name of a header field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FieldName(pub(crate) HeaderName);

impl FieldName {
    /// Or an empty text, for none.
    pub(super) fn or_none<'de, D>(deserializer: D) -> Result<Option<FieldName>, D::Error>
    where
        D: Deserializer<'de>,
    {
        let accepted = "the name of a header field without another meaning, or \"\" for none";
        parsed(deserializer, accepted, |text| match text.is_empty() {
            true => Some(None),
            false => {
                let name = text.parse().ok().filter(|name| !FRAMING.contains(name));
                name.map(|name| Some(FieldName(name)))
            }
        })
    }
}

impl<'de> Deserialize<'de> for FieldName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parsed(deserializer, "the name of a header field", |text| text.parse().ok().map(FieldName))
    }
}

/// Fields that say how a message is to be read, or are for one connection.
pub(super) const FRAMING: [HeaderName; 8] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::EXPECT,
    header::HOST,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Our name in `via`, or an empty text for none.
pub(super) fn via<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    parsed(deserializer, "visible ASCII without commas", |text| {
        let fits = text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',');
        fits.then(|| text.to_owned())
    })
}

/// The value of a header field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FieldValue(pub(crate) HeaderValue);

impl<'de> Deserialize<'de> for FieldValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parsed(deserializer, "a value for a header field: visible ASCII and spaces", |text| {
            HeaderValue::from_str(text).ok().map(FieldValue)
        })
    }
}

/// A token of RFC 9110 5.6.2: names of cookies and of protocols.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token(pub(crate) String);

impl Token {
    pub(crate) fn parse(text: &str) -> Option<Token> {
        let is_token =
            |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        (!text.is_empty() && text.bytes().all(is_token)).then(|| Token(text.to_owned()))
    }
}

impl<'de> Deserialize<'de> for Token {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parsed(deserializer, "a token: letters, digits, - and _", Token::parse)
    }
}

/// Where a redirect leads: a URL or path in which `{host}` and `{uri}` are the request's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Location(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Host,
    Uri,
}

impl Location {
    fn parse(text: &str) -> Option<Location> {
        let begins = ["https://", "http://", "/", "{uri}"];
        let visible = text.bytes().all(|byte| byte.is_ascii_graphic());
        if !visible || !begins.iter().any(|begin| text.starts_with(begin)) {
            return None;
        }
        let (mut pieces, mut rest) = (Vec::new(), text);
        while let Some(at) = rest.find(['{', '}']) {
            pieces.push(Piece::Text(rest[..at].to_owned()));
            let (piece, name) = match &rest[at..] {
                rest if rest.starts_with("{host}") => (Piece::Host, "{host}"),
                rest if rest.starts_with("{uri}") => (Piece::Uri, "{uri}"),
                _ => return None,
            };
            pieces.push(piece);
            rest = &rest[at + name.len()..];
        }
        pieces.push(Piece::Text(rest.to_owned()));
        Some(Location(pieces))
    }

    /// For a request to this host, without its port, and this path with its query.
    pub(crate) fn of(&self, host: &str, uri: &str) -> String {
        let piece = |piece: &Piece| match piece {
            Piece::Text(text) => text.clone(),
            Piece::Host => host.to_owned(),
            Piece::Uri => uri.to_owned(),
        };
        self.0.iter().map(piece).collect()
    }
}

impl<'de> Deserialize<'de> for Location {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let accepted =
            "a URL or path such as \"https://{host}{uri}\", with no other {...} than these";
        parsed(deserializer, accepted, Location::parse)
    }
}

/// The status of a redirect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RedirectStatus(pub(crate) StatusCode);

impl Default for RedirectStatus {
    fn default() -> Self {
        RedirectStatus(StatusCode::PERMANENT_REDIRECT)
    }
}

impl<'de> Deserialize<'de> for RedirectStatus {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = i64::deserialize(deserializer)?;
        let fits = u16::try_from(number).ok().filter(|n| [301, 302, 303, 307, 308].contains(n));
        let status = fits.and_then(|number| StatusCode::from_u16(number).ok());
        status.map(RedirectStatus).ok_or_else(|| {
            de::Error::custom(format!("{number} is none of 301, 302, 303, 307, 308"))
        })
    }
}

/// What a consistent hash is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HashBy {
    /// The client's address.
    Source,
    Header(HeaderName),
    Cookie(String),
}

impl HashBy {
    fn parse(text: &str) -> Option<HashBy> {
        match text.split_once(':') {
            None if text == "source" => Some(HashBy::Source),
            Some(("header", name)) => name.parse().ok().map(HashBy::Header),
            Some(("cookie", name)) => Token::parse(name).map(|token| HashBy::Cookie(token.0)),
            _ => None,
        }
    }
}

impl<'de> Deserialize<'de> for HashBy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parsed(deserializer, "\"source\", \"header:NAME\" or \"cookie:NAME\"", HashBy::parse)
    }
}

/// What a certificate is for: a host's name or an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CertificateName(pub(crate) String);

impl<'de> Deserialize<'de> for CertificateName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parsed(deserializer, "a host's name or an address, without a port", |text| {
            ServerName::try_from(text).is_ok().then(|| CertificateName(text.to_owned()))
        })
    }
}

/// Statuses: one, or a range such as `"200-299"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Statuses {
    from: u16,
    to: u16,
}

impl Statuses {
    pub(crate) const SUCCESS: Statuses = Statuses { from: 200, to: 299 };

    fn parse(text: &str) -> Option<Statuses> {
        let (from, to) = text.split_once('-').unwrap_or((text, text));
        let statuses = Statuses { from: from.parse().ok()?, to: to.parse().ok()? };
        let fits = statuses.from >= 200 && statuses.from <= statuses.to && statuses.to <= 599;
        fits.then_some(statuses)
    }

    pub(crate) fn contains(&self, status: u16) -> bool {
        (self.from..=self.to).contains(&status)
    }
}

impl<'de> Deserialize<'de> for Statuses {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let accepted =
            "a status or range of statuses between 200 and 599, such as \"204\" or \"200-299\"";
        parsed(deserializer, accepted, Statuses::parse)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        for (text, millis) in
            [("0s", 0), ("250ms", 250), ("10s", 10_000), ("5m", 300_000), ("2h", 7_200_000)]
        {
            assert_eq!(Time::parse(text), Some(Time(Duration::from_millis(millis))), "{text}");
        }
        for text in ["", "10", "s", "1.5s", "-1s", "10 s", "99999999999999999999s", "9999999999d"] {
            assert_eq!(Time::parse(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_are_powers_of_1024() {
        for (text, bytes) in
            [("0", 0), ("17", 17), ("64k", 65_536), ("1m", 1 << 20), ("2g", 2 << 30)]
        {
            assert_eq!(Size::parse(text), Some(Size(bytes)), "{text}");
        }
        for text in ["", "k", "1t", "-1", "+1k", "1.5m", "99999999999999999999", "17179869184g"] {
            assert_eq!(Size::parse(text), None, "{text}");
        }
    }

    #[test]
    fn ranges_contain_their_addresses() {
        let within =
            |cidr: &str, ip: &str| Cidr::parse(cidr).unwrap().contains(ip.parse().unwrap());
        assert!(within("10.0.0.0/8", "10.255.0.1"));
        assert!(!within("10.0.0.0/8", "11.0.0.1"));
        assert!(within("0.0.0.0/0", "192.0.2.1"));
        assert!(!within("0.0.0.0/0", "2001:db8::1"), "the other family");
        assert!(within("::/0", "2001:db8::1"));
        assert!(within("192.0.2.1", "192.0.2.1"));
        assert!(!within("192.0.2.1", "192.0.2.0"));
        assert!(within("10.0.0.0/8", "::ffff:10.1.2.3"), "mapped into IPv6");
        assert!(within("fd00::/8", "fd12::1") && !within("fd00::/8", "fe80::1"));
        for text in ["10.0.0.0/33", "10.0.0/8", "x/8", "::/129", "10.0.0.0/"] {
            assert_eq!(Cidr::parse(text), None, "{text}");
        }
    }

    #[test]
    fn servers_have_ports() {
        let shown = |text| ServerAddress::parse(text).map(|address| address.to_string());
        assert_eq!(shown("10.0.0.1:80").as_deref(), Some("10.0.0.1:80"));
        assert_eq!(shown("[FD00::1]:80").as_deref(), Some("[fd00::1]:80"));
        assert_eq!(shown("App.Internal:8080").as_deref(), Some("app.internal:8080"));
        for text in [
            "10.0.0.1",
            "10.0.0.1:0",
            "10.0.0.1:99999",
            ":80",
            "u@h:80",
            "fd00::1:80",
            "http://a:80",
        ] {
            assert_eq!(shown(text), None, "{text}");
        }
    }

    #[test]
    fn hosts_may_begin_with_a_star() {
        assert_eq!(HostPattern::parse("A.Example."), Some(HostPattern::Exact("a.example".into())));
        assert_eq!(HostPattern::parse("*.b.c"), Some(HostPattern::Below(".b.c".into())));
        for text in ["", "*", "*.", "a.*", "*a.b", "a:80", "a/b"] {
            assert_eq!(HostPattern::parse(text), None, "{text}");
        }
    }

    #[test]
    fn locations_have_the_requests_parts() {
        let of = |text| Location::parse(text).map(|location| location.of("h", "/a?b"));
        assert_eq!(of("https://{host}{uri}").as_deref(), Some("https://h/a?b"));
        assert_eq!(of("https://www.{host}:8443/x").as_deref(), Some("https://www.h:8443/x"));
        assert_eq!(of("/moved{uri}").as_deref(), Some("/moved/a?b"));
        for text in ["", "x", "ftp://a", "https://{hosts}", "/{", "/}", "/ a", "/\u{e9}"] {
            assert_eq!(of(text), None, "{text}");
        }
    }

    #[test]
    fn hashes_and_statuses() {
        assert_eq!(HashBy::parse("source"), Some(HashBy::Source));
        assert_eq!(HashBy::parse("cookie:id"), Some(HashBy::Cookie("id".into())));
        assert_eq!(HashBy::parse("header:X-User"), Some(HashBy::Header("x-user".parse().unwrap())));
        for text in ["", "sources", "header:", "cookie:a b", "query:x"] {
            assert_eq!(HashBy::parse(text), None, "{text}");
        }
        assert!(Statuses::parse("200-299").unwrap().contains(204));
        assert!(!Statuses::parse("204").unwrap().contains(200));
        for text in ["", "99", "299-200", "600", "2xx"] {
            assert_eq!(Statuses::parse(text), None, "{text}");
        }
    }
}
