//! Who may see and use a page that is for people at the machine itself: an operator's, a demo's.
//!
//! Such a page has no users: whoever can open its address may. What must not may be another site's
//! script in the user's own browser. It can send requests here, so what changes anything must come
//! from the page's own origin ([`is_same_origin`]; of WebSockets RFC 6455 10.2 says so). And it can
//! have its own name lead here (DNS rebinding), and then be of the same origin; so the host must
//! be an address, or `localhost`, which no name server says ([`host`]).

use std::net::IpAddr;

use http::uri::Authority;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, header};

/// Whether the host asked for is an address or `localhost`, and it is clear which.
///
/// # Errors
/// 400 where it is not said once and well, 421 for another name.
pub fn host<B>(request: &Request<B>) -> Result<Authority, StatusCode> {
    let mut said = request.headers().get_all(header::HOST).iter();
    let field = match (said.next(), said.next()) {
        (Some(field), None) => {
            Some(Authority::try_from(field.as_bytes()).map_err(|_| StatusCode::BAD_REQUEST)?)
        }
        // RFC 9113 8.3.1: HTTP/2 has it in `:authority`.
        (None, _) if request.version() == http::Version::HTTP_2 => None,
        _ => return Err(StatusCode::BAD_REQUEST),
    };
    // RFC 9112 3.2: a target in absolute form goes before the field, which must be there once.
    let said = request.uri().authority().cloned().or(field);
    let authority = said.ok_or(StatusCode::BAD_REQUEST)?;
    if authority.as_str().contains('@') {
        return Err(StatusCode::BAD_REQUEST);
    }
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    match host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok() {
        true => Ok(authority),
        false => Err(StatusCode::MISDIRECTED_REQUEST),
    }
}

/// Whether the request comes from a page of `host` over cleartext HTTP. Every browser says where
/// from in a WebSocket's handshake and in a POST; what does not say does not count as such.
pub fn is_same_origin<B>(request: &Request<B>, host: &Authority) -> bool {
    let mut said = request.headers().get_all(header::ORIGIN).iter();
    let (Some(origin), None) = (said.next(), said.next()) else { return false };
    let authority = origin.to_str().ok().and_then(|origin| origin.strip_prefix("http://"));
    authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host.as_str()))
}

/// What goes with every answer of a page: nothing from elsewhere is loaded, nobody frames it (a
/// button could be clicked unseen), nothing is guessed, nothing is kept.
const HEADERS: [(HeaderName, &str); 5] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
         connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (header::CACHE_CONTROL, "no-store"),
];

/// Has the browser load nothing but from here, and show the page nowhere but in a window of its
/// own.
pub fn confine<B>(response: &mut Response<B>) {
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(headers: &[(&str, &str)]) -> Request<()> {
        let plain = Request::builder().uri("/live");
        let with =
            headers.iter().fold(plain, |builder, (name, value)| builder.header(*name, *value));
        with.body(()).unwrap()
    }

    #[test]
    fn a_host_is_an_address_or_localhost() {
        for good in ["127.0.0.1:8080", "localhost", "LOCALHOST:1", "[::1]:8080", "10.0.0.9"] {
            assert_eq!(host(&request(&[("host", good)])).unwrap().as_str(), good);
        }
        for name in ["example.com", "127.0.0.1.example.com:8080", "localhost.example.com", "1.2.3"]
        {
            let answer = host(&request(&[("host", name)])).unwrap_err();
            assert_eq!(answer, StatusCode::MISDIRECTED_REQUEST, "{name}");
        }
        for bad in ["", "a b", "me@127.0.0.1"] {
            let answer = host(&request(&[("host", bad)])).unwrap_err();
            assert_eq!(answer, StatusCode::BAD_REQUEST, "{bad}");
        }
        assert!(host(&request(&[])).is_err());
        assert!(host(&request(&[("host", "127.0.0.1"), ("host", "127.0.0.1")])).is_err());
        let http2 = Request::builder().version(http::Version::HTTP_2).uri("http://[::1]:80/");
        assert_eq!(host(&http2.body(()).unwrap()).unwrap().as_str(), "[::1]:80");
        let absolute = Request::builder().uri("http://example.com/").header("host", "127.0.0.1");
        assert!(host(&absolute.body(()).unwrap()).is_err());
    }

    #[test]
    fn only_the_pages_own_origin_opens_the_socket() {
        let here = Authority::from_static("127.0.0.1:8080");
        let from = |origin: &str| is_same_origin(&request(&[("origin", origin)]), &here);
        assert!(from("http://127.0.0.1:8080"));
        for other in [
            "http://127.0.0.1",
            "http://127.0.0.1:8081",
            "https://127.0.0.1:8080",
            "http://localhost:8080",
            "http://127.0.0.1:8080.example.com",
            "http://example.com",
            "null",
            "",
        ] {
            assert!(!from(other), "{other}");
        }
        assert!(!is_same_origin(&request(&[]), &here));
        let twice = [("origin", "http://127.0.0.1:8080"), ("origin", "http://127.0.0.1:8080")];
        assert!(!is_same_origin(&request(&twice), &here));
    }
}
