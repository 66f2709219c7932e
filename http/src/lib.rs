//! HTTP on Throng: hyper does the protocol, this crate what hyper leaves open.
//!
//! * [`serve`] and [`Server`]: the accept loop with limits and timeouts, HTTP/1.1 and HTTP/2
//!   told apart by a connection's first bytes, upgrades, counters, a graceful drain. With the
//!   feature `tls` a `throng_tls::TlsListener` is served like any other listener.
//! * [`Drain`]: the graceful end of all that a shard serves, on SIGTERM with a deadline.
//! * Parking: between two requests a connection gives hyper's state and buffers back and
//!   keeps only its stream.
//! * [`client`]: connections pooled per host and shard, deadlines, retries, upgrades.
//! * [`admin`]: the operator's endpoint: metrics, connections, captures.
//! * [`tower`]: services and layers of tower's, so axum's and tonic's, and the client as one.
//! * [`plain`]: HTTP/1.1 as bytes, for proxies, and services that answer without hyper.
//! * [`rt`]: hyper's timer and executor on the shard, for hyper's own builders and clients.
//!
//! A service is any hyper [`Service`] from `Request<Body>` to a response; nothing of it
//! has to be `Send`, for a connection never leaves its shard. With our [`Body`] plain requests and
//! answers pass without hyper's machinery; with `Request<Incoming>` hyper does everything.

#![forbid(unsafe_code)]

mod accept;
mod activity;
pub mod admin;
mod body;
mod builders;
pub mod client;
mod connection;
mod drain;
mod framing;
pub mod guard;
mod io;
mod lines;
pub mod plain;
mod refused;
pub mod rt;
mod served;
mod server;
mod service;
mod shared;
mod told;
pub mod tower;

pub use hyper::service::{Service, service_fn};

pub use crate::accept::{Accept, Connected};
pub use crate::body::{Body, RequestBody};
pub use crate::drain::{Drain, Guest, Stage};
pub use crate::io::ServerIo;
pub use crate::refused::Refused;
pub use crate::server::{BoxError, Running, Server, serve, size_of_connection};
pub use crate::shared::{Counters, Drained};
