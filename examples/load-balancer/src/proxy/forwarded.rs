//! What a server is told about the client: `x-forwarded-*`, `forwarded` (RFC 7239), and who
//! the client is where a trusted proxy stands in between.

use std::io::Write as _;
use std::net::IpAddr;

use http::header::{self, HeaderName};

use super::fields::{Fields, text};
use crate::config::{Cidr, ForwardedStyle};

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// The connection a request came on.
pub(crate) struct Origin<'a> {
    pub(crate) peer: IpAddr,
    /// The peer is one whose fields are believed.
    pub(crate) trusted: bool,
    /// The host the client asked for, with its port.
    pub(crate) host: Option<&'a str>,
    /// The client came over TLS.
    pub(crate) secure: bool,
}

impl Origin<'_> {
    fn proto(&self) -> &'static str {
        if self.secure { "https" } else { "http" }
    }
}

/// Whether an address is in one of the ranges.
pub(crate) fn is_trusted(peer: IpAddr, ranges: &[Cidr]) -> bool {
    ranges.iter().any(|range| range.contains(peer))
}

/// The address of the client: the peer, or, where that is trusted, the last address in
/// `x-forwarded-for` that is not.
pub(crate) fn client(headers: &impl Fields, peer: IpAddr, ranges: &[Cidr]) -> IpAddr {
    let mut client = peer.to_canonical();
    if !is_trusted(peer, ranges) {
        return client;
    }
    for said in headers.all(&FOR).rev().filter_map(text).flat_map(|line| line.rsplit(',')) {
        let Ok(address) = said.trim().parse::<IpAddr>() else { break };
        client = address.to_canonical();
        if !is_trusted(client, ranges) {
            break;
        }
    }
    client
}

/// Sets the fields of `style`; those that an untrusted peer has sent are removed, of any style.
pub(crate) fn set(headers: &mut impl Fields, origin: &Origin<'_>, style: ForwardedStyle) {
    if !origin.trusted {
        for name in [FOR, PROTO, HOST, header::FORWARDED] {
            headers.remove(&name);
        }
    }
    let peer = origin.peer.to_canonical();
    if matches!(style, ForwardedStyle::XForwarded | ForwardedStyle::Both) {
        append(headers, &FOR, |out| write_address(out, peer));
        // What the first proxy said is what the client did.
        if !headers.has(&PROTO) {
            headers.set(&PROTO, origin.proto().as_bytes());
        }
        if let (Some(host), false) = (origin.host, headers.has(&HOST)) {
            headers.set(&HOST, host.as_bytes());
        }
    }
    if matches!(style, ForwardedStyle::Forwarded | ForwardedStyle::Both) {
        let element = |out: &mut Vec<u8>| {
            // RFC 7239 6: an IPv6 address is bracketed and therefore quoted. Writing to memory
            // does not fail.
            let _ = match peer {
                IpAddr::V4(v4) => write!(out, "for={v4}"),
                IpAddr::V6(v6) => write!(out, "for=\"[{v6}]\""),
            };
            if let Some(host) = origin.host {
                let _ = write!(out, ";host=\"{host}\"");
            }
            let _ = write!(out, ";proto={}", origin.proto());
        };
        append(headers, &header::FORWARDED, element);
    }
}

/// Adds an element to a list, behind those of all lines.
fn append(headers: &mut impl Fields, name: &HeaderName, element: impl FnOnce(&mut Vec<u8>)) {
    let mut all = Vec::with_capacity(64);
    for line in headers.all(name).filter_map(text) {
        all.extend_from_slice(line.as_bytes());
        all.extend_from_slice(b", ");
    }
    element(&mut all);
    headers.set(name, &all);
}

/// As `Display` has it, without its machinery where that is easy.
fn write_address(out: &mut Vec<u8>, address: IpAddr) {
    let IpAddr::V4(v4) = address else {
        return out.extend_from_slice(address.to_string().as_bytes());
    };
    for (at, byte) in v4.octets().into_iter().enumerate() {
        if at > 0 {
            out.push(b'.');
        }
        if byte >= 100 {
            out.push(b'0' + byte / 100);
        }
        if byte >= 10 {
            out.push(b'0' + byte / 10 % 10);
        }
        out.push(b'0' + byte % 10);
    }
}

#[cfg(test)]
mod tests {
    use http::header::{HeaderMap, HeaderValue};

    use super::*;

    #[test]
    fn addresses_are_written() {
        for text in ["0.0.0.0", "1.22.100.255", "10.96.0.2", "fd00::1"] {
            let mut out = Vec::new();
            write_address(&mut out, text.parse().unwrap());
            assert_eq!(out, text.as_bytes());
        }
    }

    fn headers(fields: &[(HeaderName, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name, HeaderValue::from_static(value));
        }
        headers
    }

    fn after(
        style: ForwardedStyle,
        trusted: bool,
        fields: &[(HeaderName, &'static str)],
    ) -> String {
        let mut headers = headers(fields);
        let peer = "192.0.2.7".parse().unwrap();
        set(&mut headers, &Origin { peer, trusted, host: Some("a:80"), secure: false }, style);
        let mut all: Vec<_> =
            headers.iter().map(|(n, v)| format!("{n}: {}", v.to_str().unwrap())).collect();
        all.sort();
        all.join("\n")
    }

    #[test]
    fn only_who_is_trusted_is_believed() {
        let said =
            [(FOR, "10.1.1.1"), (FOR, "10.2.2.2"), (PROTO, "https"), (header::FORWARDED, "for=x")];
        let own = "x-forwarded-for: 192.0.2.7\nx-forwarded-host: a:80\nx-forwarded-proto: http";
        assert_eq!(after(ForwardedStyle::XForwarded, false, &said), own);
        assert_eq!(
            after(ForwardedStyle::XForwarded, true, &said),
            "forwarded: for=x\nx-forwarded-for: 10.1.1.1, 10.2.2.2, 192.0.2.7\n\
             x-forwarded-host: a:80\nx-forwarded-proto: https"
        );
        assert_eq!(
            after(ForwardedStyle::Forwarded, true, &said[3..]),
            "forwarded: for=x, for=192.0.2.7;host=\"a:80\";proto=http"
        );
        assert_eq!(after(ForwardedStyle::Off, false, &said), "");
    }

    #[test]
    fn the_client_is_the_last_that_is_not_trusted() {
        let ranges = [Cidr::parse("10.0.0.0/8").unwrap()];
        let client = |peer: &str, said| {
            client(&headers(&[(FOR, said)]), peer.parse().unwrap(), &ranges).to_string()
        };
        assert_eq!(client("192.0.2.7", "1.1.1.1"), "192.0.2.7");
        assert_eq!(client("10.0.0.1", "6.6.6.6, 1.1.1.1, 10.0.0.2"), "1.1.1.1");
        assert_eq!(client("10.0.0.1", "6.6.6.6, junk, 10.0.0.2"), "10.0.0.2");
        assert_eq!(client("10.0.0.1", "10.0.0.3"), "10.0.0.3");
        assert_eq!(client("::ffff:192.0.2.7", "1.1.1.1"), "192.0.2.7");
    }
}
