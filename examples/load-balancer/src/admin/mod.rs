//! The operator's endpoint of the balancer: a page to look at, `/metrics` for Prometheus,
//! `/state.json`, `/healthz`; and, for who knows the token, `POST /drain` and `POST /enable`. It
//! listens on the host's sockets and on one shard, which asks the others.
//!
//! What Throng itself counts is at Throng's own endpoint (`THRONG_ADMIN`).

mod metrics;
mod state;

use std::convert::Infallible;
use std::fmt::Display;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use http::uri::Authority;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use throng::http::{Server, Stage, guard, service_fn};
use throng::runtime::now;
use throng::spawn_local;

use crate::config::{Admin, ServerAddress};
use crate::histogram::Histogram;
use crate::life::{Ends, Life};
use crate::reload;
use crate::shard::Shard;
use state::{dropped, states};

/// What a request is judged by.
struct Endpoint {
    /// What has to be known to change anything; nothing can be changed without.
    token: Option<String>,
    ends: Ends,
    /// Whether only this machine can reach it.
    is_loopback: bool,
}

/// Starts it on this shard.
///
/// # Errors
/// The address cannot be bound, or the token not read.
pub(crate) fn start(config: &Admin, life: &Life, ends: &Ends) -> io::Result<()> {
    let named = |error: io::Error| {
        io::Error::new(error.kind(), format!("admin.address {}: {error}", config.address))
    };
    let token = config.token_file.as_ref().map(|file| read_token(file)).transpose()?;
    let is_loopback = config.address.ip().is_loopback();
    let endpoint = Rc::new(Endpoint { token, ends: ends.clone(), is_loopback });
    let server = Server::new().max_connections(64).http2(false).drain_idle(Duration::from_secs(1));
    for listener in life.listen_on_host(config.address).map_err(named)? {
        tracing::info!(address = %listener.local_addr()?, "operator's endpoint");
        if !is_loopback {
            tracing::warn!(address = %config.address, "the operator's endpoint can be read by whoever can reach it");
        }
        let (running, endpoint, ends) = (server.clone().start(), endpoint.clone(), ends.clone());
        let service = service_fn(move |request| answer(endpoint.clone(), request));
        // To the end of the process, so that the operator sees how it goes; but there is no
        // other one to ask.
        let serving = async move {
            running.serve_until(&ends.replaced, listener, service).await;
        };
        spawn_local(serving).detach();
    }
    Ok(())
}

fn read_token(file: &Path) -> io::Result<String> {
    let wrong =
        |why: &dyn Display| io::Error::other(format!("admin.token_file {}: {why}", file.display()));
    let text = std::fs::read_to_string(file).map_err(|error| wrong(&error))?;
    let token = text.lines().next().unwrap_or_default().trim();
    let fits = token.len() >= 16 && token.bytes().all(|byte| byte.is_ascii_graphic());
    match fits {
        true => Ok(token.to_owned()),
        false => Err(wrong(&"its first line is not 16 or more visible ASCII characters")),
    }
}

type Answer = Response<Full<Bytes>>;

const PLAIN: &str = "text/plain; charset=utf-8";

/// The page's files: where each is, what it is. It looks as the demo's page does, but for what it
/// alone has.
const FILES: [(&str, &str, &str); 5] = [
    ("/", "text/html; charset=utf-8", include_str!("../../page/index.html")),
    (
        "/base.css",
        "text/css; charset=utf-8",
        include_str!("../../../million-websockets/page/page.css"),
    ),
    ("/page.css", "text/css; charset=utf-8", include_str!("../../page/page.css")),
    ("/page.js", "text/javascript; charset=utf-8", include_str!("../../page/page.js")),
    ("/icon.svg", "image/svg+xml", include_str!("../../../million-websockets/page/icon.svg")),
];

fn reply(status: StatusCode, kind: &'static str, text: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::from(text.into()));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static(kind);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

async fn answer(endpoint: Rc<Endpoint>, request: Request<Incoming>) -> Result<Answer, Infallible> {
    let mut answer = match guard::host(&request) {
        // A page in the operator's browser could have its own name lead here, and read along. No
        // browser leaves the host out; and elsewhere monitoring asks by whatever name there is.
        Err(status) if endpoint.is_loopback && is_host_said(&request) => {
            reply(status, PLAIN, "on loopback the host is an address or localhost\n")
        }
        host => answer_here(&endpoint, &request, host.as_ref().ok()).await,
    };
    guard::confine(&mut answer);
    Ok(answer)
}

fn is_host_said(request: &Request<Incoming>) -> bool {
    request.uri().authority().is_some() || request.headers().contains_key(header::HOST)
}

/// `host`: an address or localhost, if it is one.
async fn answer_here(
    endpoint: &Endpoint,
    request: &Request<Incoming>,
    host: Option<&Authority>,
) -> Answer {
    let path = request.uri().path();
    let changes = matches!(path, "/drain" | "/enable");
    let allowed = match *request.method() {
        Method::POST => changes,
        Method::GET | Method::HEAD => !changes,
        _ => false,
    };
    if !allowed {
        let mut refused = reply(StatusCode::METHOD_NOT_ALLOWED, PLAIN, "not with this method\n");
        let allow = if changes { "POST" } else { "GET, HEAD" };
        refused.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
        return refused;
    }
    if let Some((_, kind, content)) = FILES.iter().find(|(file, ..)| *file == path) {
        return reply(StatusCode::OK, kind, *content);
    }
    match path {
        "/metrics" => reply(StatusCode::OK, metrics::KIND, metrics::metrics(&states().await)),
        "/state.json" => {
            let state = serde_json::json!({
                "pid": std::process::id(),
                "version": env!("CARGO_PKG_VERSION"),
                "stage": endpoint.stage(),
                "changes": endpoint.token.is_some(),
                "millis": now().as_millis(),
                "reloads": reload::DONE.load(Relaxed),
                "reloads_refused": reload::REFUSED.load(Relaxed),
                "log_lines_dropped": dropped(),
                "latency_bounds": Histogram::bounds(),
                "shards": states().await,
            });
            reply(StatusCode::OK, "application/json", format!("{state}\n"))
        }
        "/healthz" => match endpoint.stage() {
            "serving" => reply(StatusCode::OK, PLAIN, "ok\n"),
            stage => reply(StatusCode::SERVICE_UNAVAILABLE, PLAIN, format!("{stage}\n")),
        },
        "/drain" | "/enable" => endpoint.change(request, host),
        _ => reply(StatusCode::NOT_FOUND, PLAIN, "/, /metrics, /state.json, /healthz\n"),
    }
}

impl Endpoint {
    fn stage(&self) -> &'static str {
        match (self.ends.leaving.stage(), self.ends.drain.stage()) {
            (Stage::Serving, _) => "serving",
            (_, Stage::Serving) => "leaving",
            _ => "draining",
        }
    }

    /// Why a request may not change anything.
    fn refusal(&self, request: &Request<Incoming>, host: Option<&Authority>) -> Option<Answer> {
        // A browser says where a request comes from; other programs do not.
        let is_from_page = request.headers().contains_key(header::ORIGIN);
        let is_from_here = host.is_some_and(|host| guard::is_same_origin(request, host));
        if is_from_page && !is_from_here {
            return Some(reply(StatusCode::FORBIDDEN, PLAIN, "from another site's page\n"));
        }
        let Some(token) = &self.token else {
            return Some(reply(StatusCode::FORBIDDEN, PLAIN, "admin.token_file is not set\n"));
        };
        let said = request.headers().get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
        let said = said.and_then(|value| value.strip_prefix(b"Bearer ")).unwrap_or_default();
        if same(said, token.as_bytes()) {
            return None;
        }
        let mut refused = reply(StatusCode::UNAUTHORIZED, PLAIN, "the token is needed\n");
        let bearer = HeaderValue::from_static("Bearer");
        refused.headers_mut().insert(header::WWW_AUTHENTICATE, bearer);
        Some(refused)
    }

    /// `POST /drain?upstream=NAME&server=ADDRESS`, and `/enable`.
    fn change(&self, request: &Request<Incoming>, host: Option<&Authority>) -> Answer {
        if let Some(refused) = self.refusal(request, host) {
            return refused;
        }
        if self.ends.replaced.stage() != Stage::Serving {
            let text = "another process has taken over: ask again\n";
            return reply(StatusCode::SERVICE_UNAVAILABLE, PLAIN, text);
        }
        let query = request.uri().query().unwrap_or_default();
        let of = |key: &str| {
            let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.find(|(name, _)| *name == key).and_then(|(_, value)| decoded(value))
        };
        let server = of("server").and_then(|text| ServerAddress::parse(&text));
        let (Some(upstream), Some(server)) = (of("upstream"), server) else {
            let text = "upstream=NAME&server=ADDRESS:PORT is needed\n";
            return reply(StatusCode::BAD_REQUEST, PLAIN, text);
        };
        let state = Shard::here().map(|shard| shard.state());
        let member = state.as_ref().and_then(|state| state.world.member(&upstream, &server));
        let Some(member) = member else {
            return reply(StatusCode::NOT_FOUND, PLAIN, "there is no such server\n");
        };
        let drained = request.uri().path() == "/drain";
        member.vitals.set_drained(drained, now().as_millis());
        tracing::info!(%upstream, %server, drained, "by the operator");
        reply(StatusCode::OK, PLAIN, if drained { "drained\n" } else { "enabled\n" })
    }
}

/// A value of a query, whose `%` escapes stand for bytes (RFC 3986 2.1).
fn decoded(value: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let [first, then @ ..] = rest {
        rest = then;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, then) = rest.split_at_checked(2)?;
        let digits = std::str::from_utf8(digits).ok().filter(|text| !text.starts_with('+'))?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = then;
    }
    String::from_utf8(bytes).ok()
}

/// In a time that does not tell how much of it is right.
fn same(said: &[u8], token: &[u8]) -> bool {
    let differing = said.iter().zip(token).fold(0, |differing, (a, b)| differing | (a ^ b));
    said.len() == token.len() && differing == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded() {
        assert_eq!(decoded("127.0.0.1%3a80").as_deref(), Some("127.0.0.1:80"));
        assert_eq!(decoded("%5Bfd00::1%5D:80").as_deref(), Some("[fd00::1]:80"));
        assert_eq!(decoded("a+b").as_deref(), Some("a+b"));
        for wrong in ["%", "%4", "%zz", "%+1", "%ff"] {
            assert_eq!(decoded(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn tokens_are_compared_whole() {
        assert!(same(b"0123456789abcdef", b"0123456789abcdef"));
        for other in ["", "0123456789abcde", "0123456789abcdeg", "0123456789abcdef0"] {
            assert!(!same(other.as_bytes(), b"0123456789abcdef"), "{other}");
        }
    }
}
