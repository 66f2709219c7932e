//! An HTTP client: hyper does the protocol, this module what hyper leaves open.
//!
//! A [`Client`] belongs to its shard and keeps a pool of connections per host: HTTP/1.1 with
//! keep-alive, HTTP/2 with many requests on one connection. It bounds connections and the
//! queue for them, puts a deadline to every phase, sends a request again when the pooled
//! connection it was sent on turns out to be over, streams bodies both ways, and hands out
//! the stream of a `101 Switching Protocols` ([`upgrade`]).
//!
//! ```no_run
//! use http_body_util::{BodyExt, Empty};
//! use hyper::{Request, body::Bytes};
//! use throng_http::client::Client;
//!
//! # async fn example() -> std::io::Result<()> {
//! let client = Client::new();
//! let request = Request::get("http://10.0.0.2/hello").body(Empty::<Bytes>::new())
//!     .map_err(std::io::Error::other)?;
//! let response = client.request(request).await?;
//! let bytes = response.into_body().collect().await?.to_bytes();
//! println!("{}", String::from_utf8_lossy(&bytes));
//! # Ok(())
//! # }
//! ```
//!
//! **Sent again.** Only when the connection had carried a request before, or the peer said
//! that it has not processed this one (HTTP/2: GOAWAY, REFUSED_STREAM), and not one byte of
//! a response has come. If none of the request was sent, whatever its method; else only
//! idempotent methods (RFC 9110 9.2.2). Always only while nothing of the body is lost: an
//! empty one, a `Full<Bytes>`, or one that has not been asked for anything yet.
//!
//! **Headers.** `host` (or `:authority`) is made from the URI where the request has none; all
//! else is the caller's, also the fields that RFC 9110 7.6.1 asks a proxy to remove.
//!
//! **Not here.** Redirects, cookies, caches, decompression, proxies' protocols, HTTP/2's
//! extended CONNECT. TLS is a [`Connect`]or's (with the feature `tls`: `TlsConnector`), and a
//! client without one looks names up as [`TcpStream::connect`](throng_net::TcpStream::connect)
//! does.

mod body;
mod config;
mod connect;
mod error;
mod h1;
mod h2;
mod lease;
mod pool;
mod rest;
mod send;
#[cfg(feature = "tls")]
mod tls;
mod upgrade;
mod wire;

use std::pin::Pin;
use std::rc::Rc;

use hyper::body::Body as HttpBody;
use hyper::service::Service;
use hyper::{Request, Response};
use throng_runtime::Instant;

pub use body::Body;
pub use config::{Builder, HttpVersion};
pub use connect::{Connect, Prelude, Target, TcpConnector, Transport};
pub use error::{Error, ErrorKind, Phase};
pub use lease::{Destination, Leased};
pub use pool::Stats;
#[cfg(feature = "tls")]
pub use tls::TlsConnector;
pub use upgrade::{Upgraded, upgrade};

use crate::server::BoxError;
use pool::Pool;
use send::Exchange;

/// An HTTP client of this shard; clones are the same client, with the same pool.
///
/// When the last clone is gone, idle connections are closed; responses under way are not
/// disturbed.
#[derive(Clone)]
pub struct Client(Rc<Handle>);

struct Handle(Rc<Pool>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Client {
    /// A client with the default settings.
    pub fn new() -> Self {
        Builder::new().build()
    }

    /// Settings for a client.
    pub fn builder() -> Builder {
        Builder::new()
    }

    pub(crate) fn with(settings: Builder) -> Self {
        Client(Rc::new(Handle(Rc::new(Pool::new(settings)))))
    }

    /// Sends a request to the host of its URI, which must be absolute, and returns the head
    /// of the response with the body to come. Dropping the future gives the request up.
    ///
    /// A status like 404 or 503 is a response, not an error.
    ///
    /// # Errors
    /// See [`ErrorKind`].
    pub fn request<B>(
        &self,
        request: Request<B>,
    ) -> impl Future<Output = Result<Response<Body>, Error>> + use<B>
    where
        B: HttpBody<Error: Into<BoxError>> + 'static,
    {
        let handle = self.0.clone();
        async move { Exchange::new(&handle.0, request)?.run().await }
    }

    /// Totals so far.
    pub fn stats(&self) -> Stats {
        self.0.0.stats()
    }

    /// Connections the client has or is making now.
    pub fn connections(&self) -> usize {
        self.0.0.connections().0
    }

    /// Those of HTTP/1 that are idle.
    pub fn idle_connections(&self) -> usize {
        self.0.0.connections().1
    }
}

impl Default for Client {
    fn default() -> Self {
        Client::new()
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("connections", &self.connections())
            .field("stats", &self.stats())
            .finish()
    }
}

/// For what wraps services, such as hyper's and tower's layers.
impl<B> Service<Request<B>> for Client
where
    B: HttpBody<Error: Into<BoxError>> + 'static,
{
    type Response = Response<Body>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Error>>>>;

    fn call(&self, request: Request<B>) -> Self::Future {
        Box::pin(self.request(request))
    }
}

/// `future`, until `at` for this phase, and until `total` in any case.
async fn within<F: Future>(
    at: Instant,
    phase: Phase,
    total: Option<Instant>,
    future: F,
) -> Result<F::Output, Error> {
    let (at, phase) = match total {
        Some(total) if total < at => (total, Phase::Total),
        _ => (at, phase),
    };
    throng_runtime::timeout_at(at, future).await.map_err(|_| Error::timeout(phase))
}
