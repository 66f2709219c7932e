//! The operator's endpoint of the balancer: `/metrics` for Prometheus, `/state.json`,
//! `/healthz`; and, for who knows the token, `POST /drain` and `POST /enable`. It listens on the
//! host's sockets and on one shard, which asks the others.
//!
//! What Throng itself counts is at Throng's own endpoint (`THRONG_ADMIN`).

use std::convert::Infallible;
use std::fmt::{Display, Write};
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use http::uri::Authority;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use serde::Serialize;
use throng::http::{Server, Stage, service_fn};
use throng::runtime::{now, shard_count};
use throng::{ShardId, spawn_local, spawn_on, timeout};

use crate::config::{Admin, ServerAddress};
use crate::group::{self, Group};
use crate::life::{Ends, Life};
use crate::reload;
use crate::shard::{Counts, Shard};

/// How long a shard may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a shard says of itself.
#[derive(Serialize)]
struct ShardState {
    shard: u16,
    counts: Counts,
    upstreams: Vec<UpstreamState>,
}

#[derive(Serialize)]
struct UpstreamState {
    name: String,
    /// Requests that wait for a server.
    waiting: usize,
    /// Connections to its servers, and those of them that are idle.
    connections: usize,
    idle_connections: usize,
    servers: Vec<ServerState>,
}

#[derive(Serialize)]
struct ServerState {
    address: String,
    /// What the active checks say.
    up: bool,
    ejected: bool,
    /// By the operator.
    drained: bool,
    in_flight: u32,
    /// Seconds to the head of a response, as the policy `latency` sees it.
    latency: f64,
    #[serde(flatten)]
    counts: group::Counts,
}

/// What a request is judged by.
struct Endpoint {
    /// What has to be known to change anything; nothing can be changed without.
    token: Option<String>,
    ends: Ends,
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
    let endpoint = Rc::new(Endpoint { token, ends: ends.clone() });
    let server = Server::new().max_connections(64).http2(false).drain_idle(Duration::from_secs(1));
    for listener in life.listen_on_host(config.address).map_err(named)? {
        tracing::info!(address = %listener.local_addr()?, "metrics and state");
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

const PLAIN: &str = "text/plain; version=0.0.4; charset=utf-8";

fn reply(status: StatusCode, kind: &'static str, text: impl Into<String>) -> Answer {
    let mut response = Response::new(Full::from(text.into()));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static(kind);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

type Answer = Response<Full<Bytes>>;

async fn answer(endpoint: Rc<Endpoint>, request: Request<Incoming>) -> Result<Answer, Infallible> {
    if !is_for_here(&request) {
        // A page in the operator's browser could have its own name lead here, and read along.
        return Ok(reply(StatusCode::MISDIRECTED_REQUEST, PLAIN, "not under this name\n"));
    }
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
        return Ok(refused);
    }
    Ok(match path {
        "/metrics" => reply(StatusCode::OK, PLAIN, metrics(&states().await)),
        "/state.json" => {
            let body = serde_json::to_string(&serde_json::json!({
                "pid": std::process::id(),
                "version": env!("CARGO_PKG_VERSION"),
                "reloads": reload::DONE.load(Relaxed),
                "reloads_refused": reload::REFUSED.load(Relaxed),
                "log_lines_dropped": dropped(),
                "shards": states().await,
            }));
            reply(StatusCode::OK, "application/json", body.unwrap_or_default() + "\n")
        }
        "/healthz" if endpoint.ends.leaving.stage() == Stage::Serving => {
            reply(StatusCode::OK, PLAIN, "ok\n")
        }
        "/healthz" => reply(StatusCode::SERVICE_UNAVAILABLE, PLAIN, "draining\n"),
        "/drain" | "/enable" => change(&endpoint, &request),
        _ => reply(StatusCode::NOT_FOUND, PLAIN, "/metrics, /state.json, /healthz\n"),
    })
}

/// `POST /drain?upstream=NAME&server=ADDRESS`, and `/enable`.
fn change(endpoint: &Endpoint, request: &Request<Incoming>) -> Answer {
    let said = request.headers().get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
    let said = said.and_then(|value| value.strip_prefix(b"Bearer ")).unwrap_or_default();
    match &endpoint.token {
        None => return reply(StatusCode::FORBIDDEN, PLAIN, "admin.token_file is not set\n"),
        Some(token) if !same(said, token.as_bytes()) => {
            let mut refused = reply(StatusCode::UNAUTHORIZED, PLAIN, "the token is needed\n");
            let bearer = HeaderValue::from_static("Bearer");
            refused.headers_mut().insert(header::WWW_AUTHENTICATE, bearer);
            return refused;
        }
        Some(_) => {}
    }
    let query = request.uri().query().unwrap_or_default();
    let of = |key: &str| {
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(name, _)| *name == key).map(|(_, value)| value.to_owned())
    };
    let server = of("server").and_then(|text| ServerAddress::parse(&text));
    let (Some(upstream), Some(server)) = (of("upstream"), server) else {
        let text = "upstream=NAME&server=ADDRESS:PORT is needed\n";
        return reply(StatusCode::BAD_REQUEST, PLAIN, text);
    };
    let state = Shard::here().map(|shard| shard.state());
    let member = state.as_ref().and_then(|state| {
        let mut members = state.world.members(&upstream).iter();
        members.find(|member| member.config.address == server)
    });
    let Some(member) = member else {
        return reply(StatusCode::NOT_FOUND, PLAIN, "there is no such server\n");
    };
    let drained = request.uri().path() == "/drain";
    member.vitals.set_drained(drained, now().as_millis());
    tracing::info!(%upstream, %server, drained, "by the operator");
    reply(StatusCode::OK, PLAIN, if drained { "drained\n" } else { "enabled\n" })
}

/// In a time that does not tell how much of it is right.
fn same(said: &[u8], token: &[u8]) -> bool {
    let differing = said.iter().zip(token).fold(0, |differing, (a, b)| differing | (a ^ b));
    said.len() == token.len() && differing == 0
}

/// Whether the host asked for is an address, `localhost`, or not said.
fn is_for_here<B>(request: &Request<B>) -> bool {
    let Some(said) = request.headers().get(header::HOST) else { return true };
    let Ok(authority) = Authority::try_from(said.as_bytes()) else { return false };
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok()
}

fn dropped() -> u64 {
    Shard::here().map_or(0, |shard| shard.log.dropped())
}

/// Every shard that answers.
async fn states() -> Vec<ShardState> {
    let asked = (0..shard_count() as u16).map(|shard| async move {
        let state = spawn_on(ShardId(shard), move || async move { state(shard) });
        timeout(PATIENCE, state).await.ok()?.ok()?
    });
    join_all(asked).await.into_iter().flatten().collect()
}

fn state(number: u16) -> Option<ShardState> {
    let shard = Shard::here()?;
    let upstreams = shard.state().groups.values().map(|group| upstream(group)).collect();
    Some(ShardState { shard: number, counts: shard.counts(), upstreams })
}

fn upstream(group: &Group) -> UpstreamState {
    let millis = now().as_millis();
    let servers = group.servers().map(|server| ServerState {
        address: server.address.to_string(),
        up: server.vitals.is_up(),
        ejected: server.vitals.is_ejected(millis),
        drained: server.vitals.is_drained(),
        in_flight: server.in_flight.get(),
        latency: server.latency(),
        counts: server.counts.get(),
    });
    UpstreamState {
        name: group.name.clone(),
        waiting: group.waiting(),
        connections: group.client.connections(),
        idle_connections: group.client.idle_connections(),
        servers: servers.collect(),
    }
}

/// One family of Prometheus' text format.
struct Family<'t> {
    text: &'t mut String,
    name: &'static str,
}

impl<'t> Family<'t> {
    fn new(text: &'t mut String, name: &'static str, kind: &str, help: &str) -> Family<'t> {
        // Writing to a string does not fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        Family { text, name }
    }

    fn value(&mut self, labels: &str, value: impl Display) {
        let name = self.name;
        let _ = match labels.is_empty() {
            true => writeln!(self.text, "{name} {value}"),
            false => writeln!(self.text, "{name}{{{labels}}} {value}"),
        };
    }
}

type OfShard = (&'static str, &'static str, fn(&Counts) -> u64);
type OfServer = (&'static str, &'static str, &'static str, fn(&ServerState) -> f64);

const OF_SHARD: [OfShard; 7] = [
    ("throng_lb_unannounced_total", "Connections without their PROXY header.", |c| c.unannounced),
    ("throng_lb_responses_total", "Responses begun.", |c| c.responses),
    ("throng_lb_refused_total", "Requests refused by the balancer itself.", |c| c.refused),
    ("throng_lb_unanswered_total", "Requests that no server answered properly.", |c| c.unanswered),
    ("throng_lb_retries_total", "Requests sent to another server.", |c| c.retries),
    ("throng_lb_passed_total", "Connections passed on as they are.", |c| c.passed),
    ("throng_lb_tunnels_total", "Connections upgraded.", |c| c.tunnels),
];

const OF_SERVER: [OfServer; 7] = [
    ("throng_lb_server_up", "gauge", "What the active checks say.", |s| f64::from(s.up)),
    ("throng_lb_server_ejected", "gauge", "Whether failures have ejected it.", |s| {
        f64::from(s.ejected)
    }),
    ("throng_lb_server_drained", "gauge", "Whether the operator has drained it.", |s| {
        f64::from(s.drained)
    }),
    ("throng_lb_server_in_flight", "gauge", "Requests it has now.", |s| f64::from(s.in_flight)),
    (
        "throng_lb_server_latency_seconds",
        "gauge",
        "Its usual time to the head of a response.",
        |s| s.latency,
    ),
    ("throng_lb_server_requests_total", "counter", "Requests sent to it.", |s| {
        s.counts.requests as f64
    }),
    (
        "throng_lb_server_failures_total",
        "counter",
        "Requests it gave no proper response to.",
        |s| s.counts.failures as f64,
    ),
];

fn metrics(states: &[ShardState]) -> String {
    let mut text = String::new();
    for (name, help, of) in OF_SHARD {
        let mut family = Family::new(&mut text, name, "counter", help);
        for state in states {
            family.value(&format!("shard=\"{}\"", state.shard), of(&state.counts));
        }
    }
    let upstreams = || {
        states.iter().flat_map(|state| {
            state.upstreams.iter().map(move |upstream| {
                let name =
                    upstream.name.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
                (upstream, format!("shard=\"{}\",upstream=\"{name}\"", state.shard))
            })
        })
    };
    let mut family =
        Family::new(&mut text, "throng_lb_waiting", "gauge", "Requests that wait for a server.");
    for (upstream, labels) in upstreams() {
        family.value(&labels, upstream.waiting);
    }
    for (name, kind, help, of) in OF_SERVER {
        let mut family = Family::new(&mut text, name, kind, help);
        for (upstream, labels) in upstreams() {
            for server in &upstream.servers {
                family.value(&format!("{labels},server=\"{}\"", server.address), of(server));
            }
        }
    }
    let help = "Responses of a server, by the hundred of their status.";
    let mut family = Family::new(&mut text, "throng_lb_server_responses_total", "counter", help);
    for (upstream, labels) in upstreams() {
        for server in &upstream.servers {
            for (class, count) in (2..).zip(server.counts.responses) {
                let labels = format!("{labels},server=\"{}\",class=\"{class}xx\"", server.address);
                family.value(&labels, count);
            }
        }
    }
    for (name, help, value) in [
        ("throng_lb_reloads_total", "Reloads that took force.", reload::DONE.load(Relaxed)),
        ("throng_lb_reloads_refused_total", "Reloads refused.", reload::REFUSED.load(Relaxed)),
        ("throng_lb_log_dropped_total", "Lines the access log dropped.", dropped()),
    ] {
        Family::new(&mut text, name, "counter", help).value("", value);
    }
    text
}
