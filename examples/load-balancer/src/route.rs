//! Which upstream a request goes to: by host, path and header fields.
//!
//! The most specific rule wins: an exact host before a domain, a longer domain before a
//! shorter, any domain before none; then the longer path; then more header fields; then the
//! order of the file.

use std::borrow::Cow;

use crate::config::{HostPattern, Route};
use crate::proxy::Fields;

/// One way a route can match: a route with several hosts has several.
struct Rule {
    host: Option<HostPattern>,
    path: String,
    header: Vec<(http::HeaderName, http::HeaderValue)>,
    route: usize,
}

pub(crate) struct Router {
    /// The most specific first.
    rules: Vec<Rule>,
}

impl Router {
    pub(crate) fn new<'r>(routes: impl Iterator<Item = &'r Route>) -> Router {
        let mut rules = Vec::new();
        for (route, config) in routes.enumerate() {
            let hosts: Vec<_> = match config.host.is_empty() {
                true => vec![None],
                false => config.host.iter().cloned().map(Some).collect(),
            };
            for host in hosts {
                let path = config.path.as_ref().map_or("/", |path| &path.0);
                let header = config.header.iter();
                rules.push(Rule {
                    host,
                    path: path.to_owned(),
                    header: header.map(|is| (is.name.0.clone(), is.value.0.clone())).collect(),
                    route,
                });
            }
        }
        let host = |rule: &Rule| rule.host.as_ref().map_or((0, 0), HostPattern::specificity);
        let key = |rule: &Rule| (host(rule), rule.path.len(), rule.header.len());
        // Stable: the order of the file is kept among equals.
        rules.sort_by_key(|rule| std::cmp::Reverse(key(rule)));
        Router { rules }
    }

    /// The number of the route for a request; `host` is without its port, `path` as
    /// [`normal`] makes it.
    pub(crate) fn find(&self, host: &str, path: &str, headers: &impl Fields) -> Option<usize> {
        let host = host.strip_suffix('.').unwrap_or(host);
        let host = match host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            true => Cow::Owned(host.to_ascii_lowercase()),
            false => Cow::Borrowed(host),
        };
        let matches = |rule: &&Rule| {
            let host = rule.host.as_ref().is_none_or(|pattern| pattern.matches(&host));
            let header = |(name, value): &(_, http::HeaderValue)| {
                headers.all(name).any(|said| said == value.as_bytes())
            };
            host && is_below(path, &rule.path) && rule.header.iter().all(header)
        };
        self.rules.iter().find(matches).map(|rule| rule.route)
    }
}

/// Whether `prefix` is the path or whole segments of its beginning.
fn is_below(path: &str, prefix: &str) -> bool {
    match path.strip_prefix(prefix) {
        Some(rest) => rest.is_empty() || prefix.ends_with('/') || rest.starts_with('/'),
        None => false,
    }
}

/// A path as it is compared (RFC 3986 6.2.2): what need not be encoded is not, and there are
/// no dot segments and no empty ones, so that no spelling of a path passes by its route. `None` for one that
/// goes above the root, or is no path.
pub(crate) fn normal(path: &str) -> Option<Cow<'_, str>> {
    if !path.starts_with('/') {
        return (path == "*").then_some(Cow::Borrowed(path));
    }
    let decoded = if path.contains('%') { Cow::Owned(decode(path)?) } else { Cow::Borrowed(path) };
    if !decoded.contains("/.") && !decoded.contains("//") {
        return Some(decoded);
    }
    let mut segments: Vec<&str> = Vec::new();
    let mut dots = false;
    for segment in decoded[1..].split('/') {
        dots = matches!(segment, "." | "..");
        match segment {
            "." => {}
            // Who joins slashes first removes something else than who does not.
            ".." => drop(segments.pop().filter(|removed| !removed.is_empty())?),
            _ => segments.push(segment),
        }
    }
    let mut path = String::with_capacity(decoded.len());
    // Several slashes are one, as they are to most servers: `//admin` is no way around `/admin`.
    let ends_with_slash = segments.last().is_some_and(|last| last.is_empty());
    for segment in segments.iter().filter(|segment| !segment.is_empty()) {
        path.push('/');
        path.push_str(segment);
    }
    if dots || ends_with_slash || path.is_empty() {
        path.push('/');
    }
    Some(Cow::Owned(path))
}

/// With unreserved characters as themselves (RFC 3986 2.3), and other escapes in capitals.
fn decode(path: &str) -> Option<String> {
    let mut out = Vec::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let (high, low) = (digit(bytes.next()?)?, digit(bytes.next()?)?);
        let value = (high * 16 + low) as u8;
        if value.is_ascii_alphanumeric() || b"-._~".contains(&value) {
            out.push(value);
        } else {
            out.extend(format!("%{value:02X}").bytes());
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;
    use crate::config::{Edits, FieldName, FieldValue, HeaderIs, PathPrefix};

    fn route(hosts: &[&str], path: &str, header: &[(&str, &str)]) -> Route {
        let is = |(name, value): &(&str, &str)| HeaderIs {
            name: FieldName(name.parse().unwrap()),
            value: FieldValue(value.parse().unwrap()),
        };
        Route {
            host: hosts.iter().map(|host| HostPattern::parse(host).unwrap()).collect(),
            path: Some(PathPrefix(path.into())),
            header: header.iter().map(is).collect(),
            upstream: None,
            redirect: None,
            request_header: Edits::default(),
            response_header: Edits::default(),
            rate_limit: None,
        }
    }

    #[test]
    fn the_most_specific_rule_wins() {
        let routes = [
            route(&[], "/", &[]),
            route(&["*.example.com"], "/", &[]),
            route(&["*.eu.example.com", "example.org"], "/", &[]),
            route(&["www.example.com"], "/", &[]),
            route(&["www.example.com"], "/api", &[]),
            route(&["www.example.com"], "/api", &[("x-beta", "1")]),
            route(&["www.example.com"], "/api/v2/", &[]),
            route(&["www.example.com"], "/", &[]),
        ];
        let router = Router::new(routes.iter());
        let beta = HeaderMap::from_iter([("x-beta".parse().unwrap(), "1".parse().unwrap())]);
        let none = HeaderMap::new();
        for (host, path, headers, wanted) in [
            ("", "/", &none, 0),
            ("example.com", "/", &none, 0),
            ("a.example.com", "/", &none, 1),
            ("a.b.example.com", "/", &none, 1),
            (".example.com", "/", &none, 0),
            ("a.eu.example.com", "/", &none, 2),
            ("EXAMPLE.org.", "/x", &none, 2),
            ("www.example.com", "/x", &none, 3),
            ("www.example.com", "/api", &none, 4),
            ("www.example.com", "/api/x", &none, 4),
            ("www.example.com", "/apis", &none, 3),
            ("www.example.com", "/api/x", &beta, 5),
            ("www.example.com", "/api/v2", &none, 4),
            ("www.example.com", "/api/v2/x", &beta, 6),
            ("WWW.Example.COM", "/api", &none, 4),
        ] {
            assert_eq!(router.find(host, path, headers), Some(wanted), "{host} {path}");
        }
        let only = [route(&["a"], "/b", &[])];
        let router = Router::new(only.iter());
        assert_eq!(router.find("a", "/", &none), None);
        assert_eq!(router.find("b", "/b", &none), None);
    }

    #[test]
    fn spellings_of_a_path_are_one() {
        for (path, wanted) in [
            ("/", Some("/")),
            ("*", Some("*")),
            ("/a/b", Some("/a/b")),
            ("/a//b", Some("/a/b")),
            ("//admin", Some("/admin")),
            ("//", Some("/")),
            ("/a///", Some("/a/")),
            ("/a//./b//.", Some("/a/b/")),
            ("/a//../b", None),
            ("/%61dmin", Some("/admin")),
            ("/a%2fb", Some("/a%2Fb")),
            ("/a/./b", Some("/a/b")),
            ("/x/../admin", Some("/admin")),
            ("/x/%2e%2E/admin/", Some("/admin/")),
            ("/a/b/..", Some("/a/")),
            ("/a/.", Some("/a/")),
            ("/a/..", Some("/")),
            ("/.well-known/x", Some("/.well-known/x")),
            ("/a/...", Some("/a/...")),
            ("/..", None),
            ("/a/../../b", None),
            ("/%", None),
            ("/%4", None),
            ("/%zz", None),
            ("a", None),
        ] {
            assert_eq!(normal(path).as_deref(), wanted, "{path}");
        }
    }
}
