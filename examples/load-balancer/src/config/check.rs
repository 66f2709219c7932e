//! What one key cannot know of another.

use std::collections::HashSet;
use std::net::IpAddr;
use std::time::Duration;

use super::schema::{Check, Config, Edits, Policy, Route, Tcp, Upstream};
use super::values::FRAMING;

/// Where what is about the whole file is.
pub(super) const FILE: usize = usize::MAX;

/// The first contradiction: where in the file, and what.
pub(super) fn problem(config: &Config) -> Option<(usize, String)> {
    if config.listener.is_empty() && config.tcp.is_empty() {
        return Some((FILE, "there is no [[listener]] and no [[tcp]]".into()));
    }
    let mut addresses = HashSet::new();
    let listeners = config.listener.iter().map(|at| (at.span().start, at.as_ref().address));
    let passing = config.tcp.iter().map(|at| (at.span().start, at.as_ref().address));
    for (start, address) in listeners.chain(passing) {
        if !addresses.insert(address) {
            return Some((start, "another listener has this address".into()));
        }
    }
    let listeners = config.listener.iter().map(|at| (at, &at.as_ref().proxy_protocol));
    let listeners = listeners.map(|(at, proxies)| (at.span().start, proxies));
    let passing = config.tcp.iter().map(|at| (at.span().start, &at.as_ref().proxy_protocol));
    for (start, proxies) in listeners.chain(passing) {
        if proxies.as_ref().is_some_and(|proxies| proxies.trusted.is_empty()) {
            return Some((start, "proxy_protocol.trusted: at least one is needed".into()));
        }
    }
    if config.listener.is_empty() != config.route.is_empty() {
        return Some((FILE, "[[listener]] and [[route]] need each other".into()));
    }
    let names: Vec<&str> = config.upstream.keys().map(String::as_str).collect();
    for route in &config.route {
        let (start, route) = (route.span().start, route.as_ref());
        if let Some(message) = of_route(route) {
            return Some((start, message.into()));
        }
    }
    let routes = config.route.iter().filter_map(|route| route.as_ref().upstream.as_ref());
    let tcp = config.tcp.iter().flat_map(|tcp| {
        let tcp = tcp.as_ref();
        tcp.sni.iter().map(|sni| &sni.upstream).chain(&tcp.upstream)
    });
    for upstream in routes.chain(tcp) {
        if !config.upstream.contains_key(upstream.as_ref()) {
            let accepted = names.join(", ");
            let message = format!("{:?} is no upstream; there are: {accepted}", upstream.as_ref());
            return Some((upstream.span().start, message));
        }
    }
    for tcp in &config.tcp {
        if let Some(message) = of_tcp(tcp.as_ref()) {
            return Some((tcp.span().start, message.into()));
        }
    }
    config.upstream.iter().find_map(|(name, upstream)| {
        let message = of_upstream(upstream.as_ref())?;
        Some((upstream.span().start, format!("upstream.{name}: {message}")))
    })
}

fn of_tcp(tcp: &Tcp) -> Option<&'static str> {
    if tcp.upstream.is_none() && tcp.sni.is_empty() {
        return Some("tcp: upstream or sni is needed");
    }
    if tcp.sni.iter().any(|sni| sni.host.is_empty()) {
        return Some("tcp: sni.host: at least one is needed");
    }
    None
}

fn of_route(route: &Route) -> Option<&'static str> {
    match (&route.upstream, &route.redirect) {
        (Some(_), Some(_)) => return Some("a route has either upstream or redirect"),
        (None, None) => return Some("a route needs upstream or redirect"),
        (Some(_), None) | (None, Some(_)) => {}
    }
    let edits = [&route.request_header, &route.response_header];
    if route.redirect.is_some() && edits.iter().any(|edits| **edits != Edits::default()) {
        return Some("a route with redirect has no request_header and no response_header");
    }
    let set = |edits: &Edits| edits.set.iter().any(|field| FRAMING.contains(&field.name.0));
    let removed = |edits: &Edits| edits.remove.iter().any(|name| FRAMING.contains(&name.0));
    if edits.iter().any(|edits| set(edits) || removed(edits)) {
        return Some(
            "request_header and response_header do not have connection, content-length, expect, \
             host, te, trailer, transfer-encoding and upgrade (for host there is \
             upstream.NAME.host)",
        );
    }
    None
}

fn of_upstream(upstream: &Upstream) -> Option<String> {
    if upstream.server.is_empty() {
        return Some("server: at least one is needed".into());
    }
    let mut addresses = HashSet::new();
    for server in &upstream.server {
        if !addresses.insert(&server.address) {
            return Some(format!("server: {} is there twice", server.address));
        }
    }
    for server in &upstream.server {
        let Some(every) = server.resolve else { continue };
        if server.address.host.parse::<IpAddr>().is_ok() {
            return Some(format!("server.resolve: {} is an address already", server.address));
        }
        if every.0 < Duration::from_secs(1) {
            return Some("server.resolve: at least \"1s\"".into());
        }
        if upstream.tls.as_ref().is_some_and(|tls| tls.name.is_none()) {
            return Some("tls.name: servers that are looked up need one".into());
        }
    }
    match (upstream.policy, &upstream.hash_by) {
        (Policy::Maglev, None) => {
            return Some("hash_by: the policy \"maglev\" needs \"source\", \"header:NAME\" or \"cookie:NAME\"".into());
        }
        (Policy::Maglev, Some(_)) | (_, None) => {}
        (_, Some(_)) => return Some("hash_by: only the policy \"maglev\" has it".into()),
    }
    if upstream.upgrade.0.iter().any(|token| token.0.eq_ignore_ascii_case("h2c")) {
        return Some(
            "upgrade: \"h2c\" would take requests past the routes; it is not accepted".into(),
        );
    }
    if !upstream.slow_start.0.is_zero()
        && matches!(upstream.policy, Policy::RoundRobin | Policy::Maglev)
    {
        return Some("slow_start: \"round-robin\" and \"maglev\" know none".into());
    }
    if let Some(health) = &upstream.health {
        let http_only = health.path.is_some()
            || health.host.is_some()
            || health.status.is_some()
            || health.body.is_some();
        if health.check == Check::Tcp && http_only {
            return Some("health: path, host, status and body are for check = \"http\"".into());
        }
    }
    None
}
