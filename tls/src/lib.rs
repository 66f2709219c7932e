//! TLS on Throng: rustls does the protocol, this crate what a server and a client need around
//! it.
//!
//! * [`ServerConfig`] and [`Acceptor`]: certificates chosen by the name the client asks for,
//!   exchanged while the server runs, ALPN, resumption on every shard, a time limit.
//! * [`TlsListener`]: a `TcpListener` that hands out connections with their handshake done,
//!   many under way at a time, within a bound.
//! * [`Connector`]: the client's side, with the platform's roots or others.
//! * [`TlsStream`]: either side's connection, through the traits of `futures::io`, hyper and
//!   tokio.
//!
//! ```no_run
//! use futures::AsyncWriteExt;
//! use throng_net::TcpListener;
//! use throng_tls::{Identity, ServerConfig, TlsListener};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let identity = Identity::from_pem_files("chain.pem", "key.pem")?;
//! // One acceptor for all shards, so that a client resumes wherever it lands.
//! let acceptor = ServerConfig::new([identity]).build()?;
//! throng_net::Builder::from_env()?.run(move |_shard| {
//!     let acceptor = acceptor.clone();
//!     async move {
//!         let listener = TcpListener::bind("[::]:8443".parse().expect("an address"))?;
//!         let listener = TlsListener::new(listener, acceptor);
//!         loop {
//!             let (mut stream, _peer) = listener.accept().await?;
//!             throng_runtime::spawn_local(async move {
//!                 stream.write_all(b"hello\n").await?;
//!                 stream.close().await
//!             })
//!             .detach();
//!         }
//!         #[allow(unreachable_code, reason = "the type of the future's output")]
//!         Ok::<(), std::io::Error>(())
//!     }
//! })?;
//! # Ok(())
//! # }
//! ```
//!
//! TLS 1.3 and 1.2 are spoken (RFC 8446, RFC 5246), with the cryptography of `ring`. There is
//! no early data (0-RTT): its requests could be replayed. A handshake's signature is made on
//! the shard's own thread, which an ECDSA P-256 key keeps for much less time than one of RSA
//! 2048 (not measured here).

#![forbid(unsafe_code)]

mod client;
mod error;
mod identity;
mod listener;
mod resolver;
mod server;
mod stream;

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls::crypto::CryptoProvider;

pub use rustls;

pub use crate::client::Connector;
pub use crate::error::ConfigError;
pub use crate::identity::Identity;
pub use crate::listener::{Counters, TlsListener};
pub use crate::server::{Acceptor, ServerConfig};
pub use crate::stream::{TlsInfo, TlsStream, Transport};

/// Names of application protocols (RFC 7301), as `ServerConfig::alpn` and `Connector::alpn`
/// take them.
pub mod alpn {
    /// HTTP/1.1.
    pub const HTTP1: &[u8] = b"http/1.1";
    /// HTTP/2 (RFC 9113 3.1).
    pub const HTTP2: &[u8] = b"h2";
    /// HTTP/2, else HTTP/1.1.
    pub const HTTP: [&[u8]; 2] = [HTTP2, HTTP1];
}

/// How long a handshake may take where nobody says otherwise.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// The cryptography, one copy for the process.
fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(rustls::crypto::ring::default_provider()))
}

/// Bounds a handshake in time.
async fn within<T>(
    limit: Duration,
    handshake: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    match throng_runtime::timeout(limit, handshake).await {
        Ok(result) => result,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the TLS handshake took too long")),
    }
}
