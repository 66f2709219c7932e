//! Heads of messages: what of a request is refused, and what of either direction goes no
//! further (RFC 9110 7.6, RFC 9112).

use std::borrow::Cow;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::Authority;
use http::{Method, StatusCode, Uri, Version};

use super::answer::Refusal;
use super::fields::{Fields, text};
use crate::config::{Edits, Token};
use crate::route;

/// What a request is addressed to.
#[derive(Debug)]
pub(crate) struct Target {
    /// Host and port as the client has them; none with HTTP/1.0 alone.
    pub(crate) authority: Option<Authority>,
    /// The path for routing.
    pub(crate) path: String,
}

impl Target {
    pub(crate) fn host(&self) -> &str {
        self.authority.as_ref().map_or("", |authority| authority.host())
    }
}

/// Checks what hyper does not, and finds what the request is for.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn check(
    method: &Method,
    uri: &Uri,
    version: Version,
    headers: &HeaderMap,
) -> Result<Target, Refusal> {
    // RFC 9110 9.3.6, 9.3.8: a tunnel to anywhere, and an echo of fields that are not the
    // client's business.
    if matches!(*method, Method::CONNECT | Method::TRACE) {
        let why = "neither CONNECT nor TRACE is done here";
        return Err(Refusal { close: true, ..Refusal::new(StatusCode::METHOD_NOT_ALLOWED, why) });
    }
    transfer_encoding(headers)?;
    if let Some(expect) = headers.get(header::EXPECT)
        && !expect.as_bytes().eq_ignore_ascii_case(b"100-continue")
    {
        // RFC 9110 10.1.1
        let why = "only 100-continue can be expected";
        return Err(Refusal::new(StatusCode::EXPECTATION_FAILED, why));
    }
    let authority = authority(uri, version, headers)?;
    let path = if *method == Method::OPTIONS && uri.path() == "*" { "/" } else { uri.path() };
    let path = route::normal(path).filter(|path| path.starts_with('/'));
    let path = path.map(Cow::into_owned).ok_or(Refusal::bad("the path is malformed"))?;
    Ok(Target { authority, path })
}

/// RFC 9112 6.1: the only coding that is understood here is `chunked`, once. hyper has refused
/// requests where it is not the last.
fn transfer_encoding(headers: &impl Fields) -> Result<(), Refusal> {
    let mut codings = headers.all(&header::TRANSFER_ENCODING);
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(coding), None) if coding.eq_ignore_ascii_case(b"chunked") => Ok(()),
        (Some(_), Some(_)) => Err(Refusal::bad("there are several transfer encodings")),
        _ => {
            let why = "the transfer encoding is not just chunked";
            Err(Refusal { close: true, ..Refusal::new(StatusCode::NOT_IMPLEMENTED, why) })
        }
    }
}

/// What delimits a response (RFC 9112 6.1, 6.3): one with a coding has the length that its chunks
/// say, and no other; a coding besides `chunked` cannot be taken off, so it is not passed on
/// as if there were none.
///
/// # Errors
/// Such a coding.
pub(crate) fn check_response(headers: &mut impl Fields) -> Result<(), Refusal> {
    if headers.has(&header::TRANSFER_ENCODING) {
        let why = "the server's transfer encoding is not just chunked";
        let refusal = Refusal::new(StatusCode::BAD_GATEWAY, why);
        transfer_encoding(headers).map_err(|_| refusal)?;
        headers.remove(&header::CONTENT_LENGTH);
    }
    // RFC 9112 6.3: equal ones are one; others were no length to whoever read the response.
    let mut said = headers.all(&header::CONTENT_LENGTH);
    if let Some(first) = said.next()
        && (first.contains(&b',') || said.next().is_some())
    {
        let one = first.split(|byte| *byte == b',').next().unwrap_or_default();
        let one = one.trim_ascii().to_vec();
        drop(said);
        headers.set(&header::CONTENT_LENGTH, &one);
    }
    Ok(())
}

/// RFC 9112 3.2: exactly one `host` field, and in it a host. An absolute target replaces it
/// (3.2.2).
fn authority(
    uri: &Uri,
    version: Version,
    headers: &HeaderMap,
) -> Result<Option<Authority>, Refusal> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(_), Some(_)) => return Err(Refusal::bad("there are several host fields")),
        (None, _) if version == Version::HTTP_11 => {
            return Err(Refusal::bad("there is no host field"));
        }
        (host, _) => host,
    };
    let malformed = Refusal::bad("the host field is malformed");
    let host = host.map(|host| Authority::try_from(host.as_bytes()).map_err(|_| malformed));
    let host = host.transpose()?;
    if !host.as_ref().is_none_or(is_host) {
        return Err(malformed);
    }
    match (uri.scheme_str(), uri.authority()) {
        (None, None) if version == Version::HTTP_2 && host.is_none() => {
            Err(Refusal::bad("there is no authority"))
        }
        (None, None) => Ok(host),
        // RFC 9113 8.3.1
        (_, Some(authority))
            if version == Version::HTTP_2
                && host.as_ref().is_some_and(|host| host != authority) =>
        {
            Err(Refusal::bad("the host field is not the authority"))
        }
        (Some(scheme @ ("http" | "https")), Some(authority)) if is_host(authority) => {
            // What is sent on has the target's alone (RFC 9112 3.2.2), but who sends two hosts
            // is up to something.
            if host.is_some_and(|host| !is_same(&host, authority, scheme)) {
                return Err(Refusal::bad("the host field is not the target's"));
            }
            Ok(Some(authority.clone()))
        }
        _ => Err(Refusal::bad("the target is malformed")),
    }
}

/// Whether both are one host and port.
fn is_same(one: &Authority, other: &Authority, scheme: &str) -> bool {
    let default = if scheme == "https" { 443 } else { 80 };
    let port = |authority: &Authority| authority.port_u16().unwrap_or(default);
    one.host().eq_ignore_ascii_case(other.host()) && port(one) == port(other)
}

/// Whether it is a host with a port or without.
fn is_host(authority: &Authority) -> bool {
    let (text, host) = (authority.as_str(), authority.host());
    let port = || text[host.len()..].strip_prefix(':');
    let port_fits = || port().is_none_or(|port| port.is_empty() || port.parse::<u16>().is_ok());
    !text.contains('@') && !host.is_empty() && port_fits()
}

/// The protocol that a request asks to switch to, if it is one of `allowed`.
pub(crate) fn upgrade(
    method: &Method,
    version: Version,
    headers: &HeaderMap,
    allowed: &[Token],
) -> Option<HeaderValue> {
    if *method != Method::GET || version != Version::HTTP_11 {
        return None;
    }
    let mut wanted = headers.get_all(header::UPGRADE).iter();
    let (wanted, None) = (wanted.next()?, wanted.next()) else { return None };
    let asked = listed(headers).any(|name| name.eq_ignore_ascii_case("upgrade"));
    let known =
        allowed.iter().any(|token| wanted.as_bytes().eq_ignore_ascii_case(token.0.as_bytes()));
    (asked && known).then(|| wanted.clone())
}

/// What a `connection` field lists.
fn listed(headers: &impl Fields) -> impl Iterator<Item = &str> {
    let lines = headers.all(&header::CONNECTION).filter_map(text);
    lines.flat_map(|line| line.split(',').map(str::trim))
}

/// Removes what is for this connection alone (RFC 9110 7.6.1). `te: trailers` stays: we pass
/// trailers on.
pub(crate) fn remove_hop_by_hop(headers: &mut impl Fields) {
    let trailers = headers.all(&header::TE).any(|te| {
        te.split(|byte| *byte == b',')
            .any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers"))
    });
    if headers.has(&header::CONNECTION) {
        let names: Vec<HeaderName> = listed(headers).filter_map(|name| name.parse().ok()).collect();
        for name in names {
            // RFC 9110 7.6.1: not of a field that is for all recipients; a client could have us
            // take away what the length of its body is known by.
            if name != header::CONTENT_LENGTH && name != header::HOST {
                headers.remove(&name);
            }
        }
    }
    const NAMES: [HeaderName; 6] = [
        header::CONNECTION,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
        header::TE,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ];
    for name in NAMES {
        headers.remove(&name);
    }
    if trailers {
        headers.set(&header::TE, b"trailers");
    }
}

/// Makes one field of the cookies, which HTTP/2 may spread over several (RFC 9113 8.2.3).
pub(crate) fn join_cookies(headers: &mut impl Fields) {
    if headers.all(&header::COOKIE).nth(1).is_some() {
        let lines: Vec<&[u8]> = headers.all(&header::COOKIE).collect();
        let all = lines.join(&b"; "[..]);
        headers.set(&header::COOKIE, &all);
    }
}

/// Adds us to the `via` field (RFC 9110 7.6.3).
pub(crate) fn add_via(headers: &mut impl Fields, version: Version, name: &str) {
    if name.is_empty() {
        return;
    }
    let protocol = match version {
        Version::HTTP_10 => "1.0 ",
        Version::HTTP_2 => "2.0 ",
        _ => "1.1 ",
    };
    let mut lines = headers.all(&header::VIA);
    let (first, more) = (lines.next(), lines.next().is_some());
    let mut value = Vec::with_capacity(64);
    // Further lines of the field came after the first one.
    if let (Some(via), false) = (first, more) {
        value.extend_from_slice(via);
        value.extend_from_slice(b", ");
    }
    drop(lines);
    value.extend_from_slice(protocol.as_bytes());
    value.extend_from_slice(name.as_bytes());
    match more {
        true => headers.append(&header::VIA, &value),
        false => headers.set(&header::VIA, &value),
    }
}

/// The value of a cookie of the request.
pub(crate) fn cookie<'h>(headers: &'h impl Fields, name: &str) -> Option<&'h str> {
    let lines = headers.all(&header::COOKIE).filter_map(text);
    lines.flat_map(|line| line.split(';')).find_map(|pair| {
        let (key, value) = pair.trim().split_once('=')?;
        (key == name).then(|| value.trim_matches('"'))
    })
}

/// Changes fields as a route wants it.
pub(crate) fn edit(headers: &mut impl Fields, edits: &Edits) {
    for name in &edits.remove {
        headers.remove(&name.0);
    }
    for field in &edits.set {
        headers.set(&field.name.0, field.value.0.as_bytes());
    }
}

#[cfg(test)]
mod tests;
