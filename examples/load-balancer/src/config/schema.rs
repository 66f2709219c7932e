//! The configuration file, key by key. `default.toml` shows each with its default; a key
//! that is not here is an error.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use serde::Deserialize;
use toml::Spanned;

use super::values::{
    CertificateName, Cidr, FieldName, FieldValue, HashBy, HostPattern, Location, PathPrefix,
    RedirectStatus, ServerAddress, Size, Statuses, Time, Token, Whole, via,
};

/// The whole file.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    #[serde(default)]
    pub(crate) network: Network,
    #[serde(default)]
    pub(crate) listener: Vec<Spanned<Listener>>,
    #[serde(default)]
    pub(crate) tcp: Vec<Spanned<Tcp>>,
    #[serde(default)]
    pub(crate) http: Http,
    #[serde(default)]
    pub(crate) forwarding: Forwarding,
    #[serde(default)]
    pub(crate) route: Vec<Spanned<Route>>,
    pub(crate) upstream: BTreeMap<String, Spanned<Upstream>>,
    #[serde(default)]
    pub(crate) access_log: AccessLog,
    pub(crate) admin: Option<Admin>,
    #[serde(default)]
    pub(crate) shutdown: Shutdown,
}

/// `[network]`: the device and its addresses, over what the environment says (`THRONG_*`).
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Network {
    pub(crate) device: Option<String>,
    pub(crate) address: Vec<String>,
    pub(crate) gateway: Vec<IpAddr>,
    pub(crate) nameserver: Vec<String>,
    pub(crate) shards: Option<usize>,
}

/// `[[listener]]`: where clients connect.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub(crate) struct Listener {
    pub(crate) address: SocketAddr,
    /// With one there is TLS. The first is shown to clients that name nobody known.
    #[serde(default)]
    pub(crate) certificate: Vec<Certificate>,
    /// Proxies in front say whose connections they are.
    pub(crate) proxy_protocol: Option<FromProxies>,
}

/// `proxy_protocol` of a listener: connections of these begin with a header.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub(crate) struct FromProxies {
    pub(crate) trusted: Vec<Cidr>,
    /// How long a header may take.
    #[serde(default = "FromProxies::timeout", deserialize_with = "Time::some")]
    pub(crate) timeout: Time,
}

impl FromProxies {
    fn timeout() -> Time {
        Time::secs(5)
    }
}

/// A certificate with those that lead to a root, and its key; files in PEM.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub(crate) struct Certificate {
    pub(crate) chain: PathBuf,
    pub(crate) key: PathBuf,
}

/// `[[tcp]]`: where clients connect whose bytes are passed on as they are.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tcp {
    pub(crate) address: SocketAddr,
    /// For those that no `sni` is for; they are closed where there is none.
    pub(crate) upstream: Option<Spanned<String>>,
    /// By the name that a TLS client asks for.
    #[serde(default)]
    pub(crate) sni: Vec<SniRoute>,
    /// As of a listener.
    pub(crate) proxy_protocol: Option<FromProxies>,
    /// How long a client may take to ask for a name.
    #[serde(default = "Tcp::hello_timeout", deserialize_with = "Time::some")]
    pub(crate) hello_timeout: Time,
    /// Per shard; further ones wait in the backlog.
    #[serde(default = "Tcp::max_connections")]
    pub(crate) max_connections: Whole<1, 10_000_000>,
}

impl Tcp {
    fn hello_timeout() -> Time {
        Time::secs(10)
    }

    fn max_connections() -> Whole<1, 10_000_000> {
        Whole(100_000)
    }
}

/// One way of `sni`.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub(crate) struct SniRoute {
    pub(crate) host: Vec<HostPattern>,
    pub(crate) upstream: Spanned<String>,
}

/// `[http]`: what is asked of clients. Limits are per shard.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Http {
    /// Beside HTTP/1.1: by ALPN with TLS, else with prior knowledge.
    pub(crate) http2: bool,
    /// Requests at a time on one HTTP/2 connection.
    pub(crate) max_streams: Whole<1, 10_000>,
    pub(crate) max_connections: Whole<1, 10_000_000>,
    pub(crate) max_header_size: Size,
    pub(crate) max_headers: Whole<1, 10_000>,
    pub(crate) max_body: Size,
    /// Whether plain requests go without hyper.
    pub(crate) direct: bool,
    #[serde(deserialize_with = "Time::some")]
    pub(crate) header_timeout: Time,
    #[serde(deserialize_with = "Time::some")]
    pub(crate) body_timeout: Time,
    #[serde(deserialize_with = "Time::some")]
    pub(crate) idle_timeout: Time,
}

impl Default for Http {
    fn default() -> Self {
        Http {
            http2: true,
            max_streams: Whole(128),
            max_connections: Whole(100_000),
            max_header_size: Size(16 << 10),
            max_headers: Whole(100),
            max_body: Size(10 << 20),
            direct: true,
            header_timeout: Time::secs(10),
            body_timeout: Time::secs(60),
            idle_timeout: Time::secs(60),
        }
    }
}

/// Which fields tell a server about the client.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ForwardedStyle {
    /// `X-Forwarded-For`, `-Proto` and `-Host`.
    XForwarded,
    /// RFC 7239.
    Forwarded,
    Both,
    Off,
}

/// `[forwarding]`: what is added to messages.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Forwarding {
    pub(crate) style: ForwardedStyle,
    /// Peers whose own such fields are believed, and added to; others' are removed.
    pub(crate) trusted: Vec<Cidr>,
    /// Our name in `Via`; empty: no such field.
    #[serde(deserialize_with = "via")]
    pub(crate) via: String,
    /// The field of the request's name; none where empty.
    #[serde(deserialize_with = "FieldName::or_none")]
    pub(crate) request_id: Option<FieldName>,
}

impl Default for Forwarding {
    fn default() -> Self {
        Forwarding {
            style: ForwardedStyle::XForwarded,
            trusted: Vec::new(),
            via: "throng-lb".into(),
            request_id: Some(FieldName(http::HeaderName::from_static("x-request-id"))),
        }
    }
}

/// `[[route]]`: which requests go where.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub(crate) struct Route {
    #[serde(default)]
    pub(crate) host: Vec<HostPattern>,
    #[serde(default)]
    pub(crate) path: Option<PathPrefix>,
    #[serde(default)]
    pub(crate) header: Vec<HeaderIs>,
    /// Either of the two.
    pub(crate) upstream: Option<Spanned<String>>,
    pub(crate) redirect: Option<Redirect>,
    #[serde(default)]
    pub(crate) request_header: Edits,
    #[serde(default)]
    pub(crate) response_header: Edits,
    pub(crate) rate_limit: Option<RateLimit>,
}

/// `rate_limit`: requests of each client, per shard.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub(crate) struct RateLimit {
    pub(crate) requests: Whole<1, 1_000_000>,
    #[serde(deserialize_with = "Time::some")]
    pub(crate) per: Time,
    /// At once.
    pub(crate) burst: Whole<1, 1_000_000>,
}

/// `redirect`: where requests are to go instead.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub(crate) struct Redirect {
    pub(crate) to: Location,
    #[serde(default)]
    pub(crate) status: RedirectStatus,
}

/// `request_header`, `response_header`: what is changed about fields, removing first.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Edits {
    pub(crate) remove: Vec<FieldName>,
    pub(crate) set: Vec<HeaderIs>,
}

/// A field with a value.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub(crate) struct HeaderIs {
    pub(crate) name: FieldName,
    pub(crate) value: FieldValue,
}

/// How one of the servers is picked.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Policy {
    #[default]
    RoundRobin,
    Weighted,
    LeastConnections,
    /// Of two servers picked at random the one with the lower latency and load.
    Latency,
    Maglev,
}

/// What is spoken with servers.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Protocol {
    #[default]
    Http1,
    /// By ALPN over TLS, else with prior knowledge.
    Http2,
}

/// How a server is told whose connection it is.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ToServers {
    V1,
    V2,
}

/// `tls`: how servers are known to be the right ones.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tls {
    /// Certificates that are trusted, PEM; the platform's where there is none.
    pub(crate) roots: Option<PathBuf>,
    /// The name in the servers' certificates; that in their address where there is none.
    pub(crate) name: Option<CertificateName>,
}

/// `[upstream.NAME]`: servers that answer the same requests. Limits are per shard.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Upstream {
    pub(crate) server: Vec<Server>,
    pub(crate) protocol: Protocol,
    /// A header in front of each connection, which then is of one client's alone.
    pub(crate) proxy_protocol: Option<ToServers>,
    /// Over TLS.
    pub(crate) tls: Option<Tls>,
    pub(crate) policy: Policy,
    /// For `maglev`, and only for it.
    pub(crate) hash_by: Option<HashBy>,
    pub(crate) sticky: Option<Sticky>,
    /// How long a server that has come back gets less than its share.
    pub(crate) slow_start: Time,
    /// With a smaller share of the servers healthy, health is not asked for any more.
    pub(crate) panic_percent: Whole<0, 100>,
    /// The `host` field for servers; the client's where none is given.
    pub(crate) host: Option<FieldValue>,
    /// Protocols that connections may be upgraded to.
    pub(crate) upgrade: Upgrades,
    pub(crate) queue: Queue,
    pub(crate) timeout: Timeouts,
    pub(crate) keepalive: Keepalive,
    pub(crate) retry: Retry,
    pub(crate) eject: Eject,
    pub(crate) health: Option<Health>,
}

/// One server.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub(crate) struct Server {
    pub(crate) address: ServerAddress,
    #[serde(default)]
    pub(crate) weight: Whole<1, 1000>,
    /// Servers of a higher number are used when none of a lower one is to be had.
    #[serde(default)]
    pub(crate) priority: Whole<0, 15>,
    /// Requests at a time, upgraded connections among them.
    #[serde(default = "Server::max_requests")]
    pub(crate) max_requests: Whole<1, 1_000_000>,
    /// How often the name is looked up: each of its addresses is a server then.
    pub(crate) resolve: Option<Time>,
}

impl Server {
    fn max_requests() -> Whole<1, 1_000_000> {
        Whole(256)
    }
}

/// Names of protocols.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(transparent)]
pub(crate) struct Upgrades(pub(crate) Vec<Token>);

impl Default for Upgrades {
    fn default() -> Self {
        Upgrades(vec![Token("websocket".into())])
    }
}

/// `sticky`: a cookie that names the server a client came to first.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub(crate) struct Sticky {
    pub(crate) cookie: Token,
    pub(crate) max_age: Option<Time>,
    #[serde(default)]
    pub(crate) secure: bool,
}

/// `queue`: requests that wait while every server has all it may have.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Queue {
    pub(crate) length: usize,
    pub(crate) timeout: Time,
}

impl Default for Queue {
    fn default() -> Self {
        Queue { length: 1024, timeout: Time::secs(5) }
    }
}

/// `timeout`: how long each phase may take.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Timeouts {
    /// Resolving and connecting.
    #[serde(deserialize_with = "Time::some")]
    pub(crate) connect: Time,
    /// From the last piece of the request to the head of the response.
    #[serde(deserialize_with = "Time::some")]
    pub(crate) response: Time,
    /// Between two pieces of the response's body.
    #[serde(deserialize_with = "Time::some")]
    pub(crate) body: Time,
    /// Without a byte in either direction of an upgraded connection.
    #[serde(deserialize_with = "Time::some")]
    pub(crate) tunnel: Time,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            connect: Time::secs(3),
            response: Time::secs(60),
            body: Time::secs(60),
            tunnel: Time::secs(3600),
        }
    }
}

/// `keepalive`: connections to servers between requests.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Keepalive {
    /// Per server.
    pub(crate) connections: usize,
    pub(crate) idle_timeout: Time,
    pub(crate) lifetime: Option<Time>,
}

impl Default for Keepalive {
    fn default() -> Self {
        // Less than the 60 s and more after which common servers close.
        Keepalive { connections: 32, idle_timeout: Time::secs(50), lifetime: None }
    }
}

/// Why a request may be sent to another server.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum RetryOn {
    /// No connection: nothing was sent, so any method.
    Connect,
    /// The connection ended without a response; idempotent methods.
    Closed,
    /// No response in time; idempotent methods.
    Timeout,
    /// The server said 502, 503 or 504; idempotent methods.
    Unavailable,
}

/// `retry`: when another server is asked.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Retry {
    /// How many further servers.
    pub(crate) servers: Whole<0, 15>,
    pub(crate) on: Vec<RetryOn>,
}

impl Default for Retry {
    fn default() -> Self {
        Retry { servers: Whole(2), on: vec![RetryOn::Connect, RetryOn::Closed] }
    }
}

/// `eject`: what failing requests do to a server.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Eject {
    /// Failures in a row, of connecting or without a response; 0: never.
    pub(crate) failures: u32,
    /// For how long, the first time; it doubles.
    pub(crate) time: Time,
    pub(crate) max_time: Time,
}

impl Default for Eject {
    fn default() -> Self {
        Eject { failures: 5, time: Time::secs(10), max_time: Time::secs(300) }
    }
}

/// What an active check does.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Check {
    /// Connects.
    Tcp,
    /// Asks for `path` and judges the answer.
    Http,
}

/// `health`: servers are asked how they are.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub(crate) struct Health {
    pub(crate) check: Check,
    /// For `http`.
    pub(crate) path: Option<PathPrefix>,
    pub(crate) host: Option<FieldValue>,
    pub(crate) status: Option<Vec<Statuses>>,
    /// What is to be in the first 64 KiB of the body.
    pub(crate) body: Option<String>,
    #[serde(default = "Health::interval", deserialize_with = "Time::some")]
    pub(crate) interval: Time,
    #[serde(default = "Health::timeout", deserialize_with = "Time::some")]
    pub(crate) timeout: Time,
    /// Good answers in a row that make a server healthy.
    #[serde(default)]
    pub(crate) rise: Whole<1, 100>,
    /// Bad ones in a row that make it unhealthy.
    #[serde(default = "Health::fall")]
    pub(crate) fall: Whole<1, 100>,
}

impl Health {
    fn interval() -> Time {
        Time::secs(5)
    }

    fn timeout() -> Time {
        Time::secs(2)
    }

    fn fall() -> Whole<1, 100> {
        Whole(3)
    }
}

/// How lines of the access log look.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum LogFormat {
    /// The combined format of Apache and nginx.
    #[default]
    Combined,
    Json,
}

/// `[access_log]`: a line for each request.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct AccessLog {
    /// None where there is no file; `-` is the standard output.
    pub(crate) file: Option<PathBuf>,
    pub(crate) format: LogFormat,
}

/// `[admin]`: metrics and state, on the host's sockets.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub(crate) struct Admin {
    #[serde(default = "Admin::address")]
    pub(crate) address: SocketAddr,
    /// Whose first line is what has to be known to change anything.
    pub(crate) token_file: Option<PathBuf>,
}

impl Admin {
    fn address() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 9100))
    }
}

/// `[shutdown]`.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Shutdown {
    /// How long requests under way may take to end.
    pub(crate) deadline: Time,
    /// How long everything goes on after SIGTERM while `/healthz` says that it will not.
    pub(crate) delay: Time,
    /// How long connections without a request are left for one that may be on its way.
    pub(crate) idle: Time,
}

impl Default for Shutdown {
    fn default() -> Self {
        Shutdown { deadline: Time::secs(30), delay: Time::secs(0), idle: Time::secs(1) }
    }
}
