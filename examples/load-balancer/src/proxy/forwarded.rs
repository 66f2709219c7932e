//! What a server is told about the client: `x-forwarded-*`, `forwarded` (RFC 7239), and who
//! the client is where a trusted proxy stands in between.

use std::net::IpAddr;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

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
pub(crate) fn client(headers: &HeaderMap, peer: IpAddr, ranges: &[Cidr]) -> IpAddr {
    let mut client = peer.to_canonical();
    if !is_trusted(peer, ranges) {
        return client;
    }
    let lines: Vec<&str> = headers.get_all(&FOR).iter().filter_map(|v| v.to_str().ok()).collect();
    for said in lines.iter().rev().flat_map(|line| line.rsplit(',')) {
        let Ok(address) = said.trim().parse::<IpAddr>() else { break };
        client = address.to_canonical();
        if !is_trusted(client, ranges) {
            break;
        }
    }
    client
}

/// Sets the fields of `style`; those that an untrusted peer has sent are removed, of any style.
pub(crate) fn set(headers: &mut HeaderMap, origin: &Origin<'_>, style: ForwardedStyle) {
    if !origin.trusted {
        for name in [FOR, PROTO, HOST, header::FORWARDED] {
            headers.remove(name);
        }
    }
    let peer = origin.peer.to_canonical();
    if matches!(style, ForwardedStyle::XForwarded | ForwardedStyle::Both) {
        append(headers, FOR, &peer.to_string());
        // What the first proxy said is what the client did.
        if !headers.contains_key(&PROTO) {
            headers.insert(PROTO, HeaderValue::from_static(origin.proto()));
        }
        if let (Some(host), false) = (origin.host, headers.contains_key(&HOST))
            && let Ok(host) = HeaderValue::from_str(host)
        {
            headers.insert(HOST, host);
        }
    }
    if matches!(style, ForwardedStyle::Forwarded | ForwardedStyle::Both) {
        // RFC 7239 6: an IPv6 address is bracketed and therefore quoted.
        let node = match peer {
            IpAddr::V4(v4) => v4.to_string(),
            IpAddr::V6(v6) => format!("\"[{v6}]\""),
        };
        let host = origin.host.map(|host| format!(";host=\"{host}\"")).unwrap_or_default();
        let proto = origin.proto();
        append(headers, header::FORWARDED, &format!("for={node}{host};proto={proto}"));
    }
}

/// Adds an element to a list, behind those of all lines.
fn append(headers: &mut HeaderMap, name: HeaderName, element: &str) {
    let lines = headers.get_all(&name).iter().filter_map(|line| line.to_str().ok());
    let all: Vec<&str> = lines.chain([element]).collect();
    if let Ok(value) = HeaderValue::from_str(&all.join(", ")) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
