//! The operator's endpoint: what the shards do, for Prometheus, scripts and people.
//!
//! | request | answer |
//! |---|---|
//! | `GET /metrics` | every number of every shard, in Prometheus' text format 0.0.4 |
//! | `GET /stats.json` | the same as JSON |
//! | `GET /connections?limit=&shard=&from=` | connections with addresses, state, queues, round-trip times; at most 1,000, and `next`: where to go on |
//! | `GET /healthz` | 200 when every shard takes part, 503 with those that do not answer, or during a drain |
//! | `POST /capture` | begins a capture ([`throng_net::pcap`]), where configured |
//! | `GET /capture`, `DELETE /capture` | how it is doing; ends it |
//!
//! It listens on the host's sockets, whatever the shards' device, and on one shard; the
//! others are asked over the mesh. One that does not answer within a second is reported as
//! unavailable and holds up nobody. Reading needs no authentication, so listen on loopback
//! or a network of operators; a capture needs the bearer token of [`Admin::captures`], and
//! without one there are no captures. On loopback, requests for other hosts than an address or
//! `localhost` are refused (421): a page in the operator's browser could have its own name lead
//! here, and read along.
//!
//! ```no_run
//! # async fn example() -> std::io::Result<()> {
//! // On every shard; with THRONG_ADMIN=127.0.0.1:9100 shard 0 serves it.
//! throng_http::admin::start_from_env(None)?;
//! # Ok(())
//! # }
//! ```

mod capture;
mod connections;
mod metrics;

use std::convert::Infallible;
use std::fmt::Display;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use http::{Method, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::{Request, Response};
use serde_json::{Value, json};
use throng_net::stats::{Sheet, sheet_of};
use throng_net::{ShardId, TcpListener};
use throng_runtime::metrics::Metric;
use throng_runtime::{current_shard, shard_count, spawn_local, spawn_on, timeout};

use self::capture::Captures;
use crate::drain::{Drain, Stage};
use crate::guard;
use crate::server::Server;
use crate::service_fn;

/// How long a shard may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);

type Answer = Response<Full<Bytes>>;

/// Settings of the endpoint.
#[derive(Debug)]
pub struct Admin {
    addr: SocketAddr,
    captures: Option<Captures>,
    drain: Option<Drain>,
}

impl Admin {
    /// An endpoint at `addr` of the host, for reading only.
    pub fn new(addr: SocketAddr) -> Admin {
        Admin { addr, captures: None, drain: None }
    }

    /// Lets who knows `token` begin captures, into files of the folder `folder`.
    ///
    /// # Errors
    /// `InvalidInput` for a token of less than 16 visible ASCII characters, or where `folder`
    /// is none.
    pub fn captures(mut self, folder: impl Into<PathBuf>, token: &str) -> io::Result<Admin> {
        self.captures = Some(Captures::new(folder.into(), token)?);
        Ok(self)
    }

    /// Has `/healthz` answer 503 from the moment on that `drain` begins, so that a load
    /// balancer looks elsewhere.
    #[must_use]
    pub fn drain(mut self, drain: &Drain) -> Admin {
        self.drain = Some(drain.clone());
        self
    }

    /// What the environment says; `None` without `THRONG_ADMIN`.
    ///
    /// | variable | |
    /// |---|---|
    /// | `THRONG_ADMIN` | address and port, or a port on 127.0.0.1 |
    /// | `THRONG_ADMIN_CAPTURES` | the folder for captures |
    /// | `THRONG_ADMIN_TOKEN_FILE` | the file whose first line is the token for captures |
    ///
    /// # Errors
    /// `InvalidInput` for a value that does not fit, naming it; as for
    /// [`captures`](Admin::captures).
    pub fn from_env() -> io::Result<Option<Admin>> {
        let var = |key: &str| std::env::var(key).ok().filter(|text| !text.is_empty());
        let Some(listen) = var("THRONG_ADMIN") else { return Ok(None) };
        let addr = listen.parse().or_else(|_| {
            let port = listen.parse().map(|port| (IpAddr::from(Ipv4Addr::LOCALHOST), port));
            port.map(SocketAddr::from)
        });
        let accepted = "accepted is an address and port, as in 127.0.0.1:9100, or a port";
        let addr = addr.map_err(|_| invalid(format!("THRONG_ADMIN = {listen:?}: {accepted}")))?;
        let admin = Admin::new(addr);
        let (folder, file) = (var("THRONG_ADMIN_CAPTURES"), var("THRONG_ADMIN_TOKEN_FILE"));
        let (folder, file) = match (folder, file) {
            (None, None) => return Ok(Some(admin)),
            (Some(folder), Some(file)) => (folder, file),
            _ => {
                let text = "captures take both THRONG_ADMIN_CAPTURES and THRONG_ADMIN_TOKEN_FILE";
                return Err(invalid(text));
            }
        };
        let text = std::fs::read_to_string(&file).map_err(|error| {
            io::Error::new(error.kind(), format!("THRONG_ADMIN_TOKEN_FILE = {file:?}: {error}"))
        })?;
        admin.captures(folder, text.lines().next().unwrap_or_default().trim()).map(Some)
    }

    /// Binds on this shard and serves, in a task of its own, until the runtime ends. Returns
    /// where it listens.
    ///
    /// # Errors
    /// What binding says; outside a shard with a network.
    pub fn start(mut self) -> io::Result<SocketAddr> {
        let listener = TcpListener::bind_kernel(self.addr)?;
        let addr = listener.local_addr()?;
        self.addr = addr;
        if !addr.ip().is_loopback() {
            tracing::warn!(%addr, "the operator's endpoint is open to whoever can reach it");
        }
        tracing::info!(%addr, captures = self.captures.is_some(), "operator's endpoint");
        let state = Rc::new(self);
        let service = service_fn(move |request| {
            let state = state.clone();
            async move { Ok::<_, Infallible>(state.answer(request).await) }
        });
        let server = Server::new()
            .max_connections(64)
            .max_header_size(8 << 10)
            .max_streams(8)
            .header_timeout(Duration::from_secs(5))
            .idle_timeout(Duration::from_secs(30))
            .start_uncounted();
        spawn_local(async move { server.serve(listener, service).await }).detach();
        Ok(addr)
    }

    async fn answer(&self, request: Request<Incoming>) -> Answer {
        if self.addr.ip().is_loopback() && !is_for_here(&request) {
            let text = "on loopback the host is an address or localhost";
            return failure(StatusCode::MISDIRECTED_REQUEST, text);
        }
        let captures = self.captures.as_ref();
        let path = request.uri().path().to_owned();
        let allowed: &[Method] = match path.as_str() {
            "/metrics" | "/stats.json" | "/connections" | "/healthz" => {
                &[Method::GET, Method::HEAD]
            }
            "/capture" if captures.is_some() => &[Method::GET, Method::POST, Method::DELETE],
            _ => return failure(StatusCode::NOT_FOUND, "there is no such page"),
        };
        if !allowed.contains(request.method()) {
            let names: Vec<&str> = allowed.iter().map(Method::as_str).collect();
            let mut answer = failure(StatusCode::METHOD_NOT_ALLOWED, "not with this method");
            if let Ok(names) = names.join(", ").parse() {
                answer.headers_mut().insert(header::ALLOW, names);
            }
            return answer;
        }
        match (path.as_str(), captures) {
            ("/metrics", _) => {
                let text = metrics::prometheus(&sheets().await);
                let mut answer = Response::new(Full::from(text));
                let kind = header::HeaderValue::from_static(metrics::CONTENT_TYPE);
                answer.headers_mut().insert(header::CONTENT_TYPE, kind);
                answer
            }
            ("/stats.json", _) => reply(StatusCode::OK, &metrics::json(&sheets().await)),
            ("/connections", _) => {
                connections::answer(request.uri().query().unwrap_or_default()).await
            }
            ("/healthz", _) => health(self.drain.as_ref()).await,
            (_, Some(captures)) => captures.answer(request).await,
            (_, None) => failure(StatusCode::NOT_FOUND, "there is no such page"),
        }
    }
}

/// Starts the endpoint of the environment ([`Admin::from_env`]) where this is shard 0; does
/// nothing on other shards, or without `THRONG_ADMIN`. `drain`: see [`Admin::drain`].
///
/// # Errors
/// As for [`Admin::from_env`] and [`Admin::start`].
pub fn start_from_env(drain: Option<&Drain>) -> io::Result<()> {
    if current_shard() == ShardId(0)
        && let Some(mut admin) = Admin::from_env()?
    {
        admin.drain = drain.cloned();
        admin.start()?;
    }
    Ok(())
}

/// Starts the endpoint at `addr` on this shard, for reading only. Returns where it listens.
///
/// # Errors
/// As for [`Admin::start`].
pub fn serve(addr: SocketAddr) -> io::Result<SocketAddr> {
    Admin::new(addr).start()
}

/// Whether the host asked for is an address, `localhost`, or not said, as no browser does.
fn is_for_here<B>(request: &Request<B>) -> bool {
    let is_said =
        request.uri().authority().is_some() || request.headers().contains_key(header::HOST);
    !is_said || guard::host(request).is_ok()
}

/// A group's numbers as `docs/METRICS.md` has them: a heading and a table in Markdown, for the
/// documents of programs that [register](throng_net::stats::register) numbers of their own.
pub fn documented(group: &str, tables: &[&[Metric]]) -> String {
    metrics::documented(group, tables)
}

fn shards() -> impl Iterator<Item = ShardId> {
    (0..shard_count()).map(|shard| ShardId(shard as u16))
}

/// Every shard's numbers, or why there are none.
async fn sheets() -> Vec<(ShardId, io::Result<Sheet>)> {
    join_all(shards().map(|shard| async move { (shard, sheet_of(shard, PATIENCE).await) })).await
}

async fn health(drain: Option<&Drain>) -> Answer {
    if drain.is_some_and(|drain| drain.stage() != Stage::Serving) {
        return reply(StatusCode::SERVICE_UNAVAILABLE, &json!({ "status": "draining" }));
    }
    let asked = shards().map(|shard| async move {
        let answer = timeout(PATIENCE, spawn_on(shard, || async {})).await;
        (!matches!(answer, Ok(Ok(())))).then_some(shard.0)
    });
    let silent: Vec<u16> = join_all(asked).await.into_iter().flatten().collect();
    match silent.is_empty() {
        true => reply(StatusCode::OK, &json!({ "status": "ok", "shards": shard_count() })),
        false => {
            let status = json!({ "status": "unavailable", "silent": silent });
            reply(StatusCode::SERVICE_UNAVAILABLE, &status)
        }
    }
}

/// A JSON answer, a line of its own.
fn reply(status: StatusCode, value: &Value) -> Answer {
    let mut answer = Response::new(Full::from(format!("{value}\n")));
    *answer.status_mut() = status;
    let kind = header::HeaderValue::from_static("application/json");
    answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    answer
}

fn failure(status: StatusCode, error: impl Display) -> Answer {
    reply(status, &json!({ "error": error.to_string() }))
}

fn invalid(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text.into())
}
