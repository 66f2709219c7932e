//! The server's side: settings, handshakes.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ServerSessionMemoryCache, WebPkiClientVerifier};
use tokio_rustls::TlsAcceptor;

use crate::error::ConfigError;
use crate::identity::Identity;
use crate::resolver::Resolver;
use crate::stream::{TlsStream, Transport};
use crate::{HANDSHAKE_TIMEOUT, provider, within};

/// Sessions kept for TLS 1.2 clients that know no tickets.
const SESSION_CACHE: usize = 4_096;

/// Settings of a TLS server. [`build`](ServerConfig::build) makes an [`Acceptor`] of them.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    identities: Vec<Identity>,
    alpn: Vec<Vec<u8>>,
    handshake_timeout: Duration,
    client_verifier: Arc<dyn ClientCertVerifier>,
}

impl ServerConfig {
    /// A server that shows each client the certificate for the name it asks for (SNI,
    /// RFC 6066 3): an exact name comes before a wildcard. The first identity is shown to
    /// clients that name nobody or nobody known. Of identities with the same names, such as
    /// one with an ECDSA and one with an RSA key, the first one that the client can use.
    pub fn new(identities: impl IntoIterator<Item = Identity>) -> ServerConfig {
        ServerConfig {
            identities: identities.into_iter().collect(),
            alpn: Vec::new(),
            handshake_timeout: HANDSHAKE_TIMEOUT,
            client_verifier: WebPkiClientVerifier::no_client_auth(),
        }
    }

    /// The application protocols spoken (RFC 7301), the preferred one first; a client that
    /// offers others only is refused. For HTTP: [`alpn::HTTP`](crate::alpn::HTTP). Default:
    /// none, and what clients offer is ignored.
    #[must_use]
    pub fn alpn(mut self, protocols: impl IntoIterator<Item = impl Into<Vec<u8>>>) -> Self {
        self.alpn = protocols.into_iter().map(Into::into).collect();
        self
    }

    /// How long a handshake may take, from when it is first polled. Default 10 s.
    #[must_use]
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.handshake_timeout = timeout;
        self
    }

    /// Asks clients for a certificate, and how it is judged: see
    /// [`rustls::server::WebPkiClientVerifier`]. Default: they are not asked.
    #[must_use]
    pub fn client_certificates(mut self, verifier: Arc<dyn ClientCertVerifier>) -> Self {
        self.client_verifier = verifier;
        self
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// [`ConfigError::NoIdentity`]; [`ConfigError::Rustls`] where the machine has no random
    /// numbers.
    pub fn build(self) -> Result<Acceptor, ConfigError> {
        let resolver = Arc::new(Resolver::new(self.identities)?);
        let mut config = rustls::ServerConfig::builder_with_provider(provider().clone())
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(self.client_verifier)
            .with_cert_resolver(resolver.clone());
        config.alpn_protocols = self.alpn;
        config.ticketer = rustls::crypto::ring::Ticketer::new()?;
        config.session_storage = ServerSessionMemoryCache::new(SESSION_CACHE);
        let handshake_timeout = self.handshake_timeout;
        Ok(Acceptor { config: Arc::new(config), resolver, handshake_timeout })
    }
}

/// Makes TLS connections of accepted streams. Clones are the same server, on whatever shard:
/// make one, and give each shard a clone.
///
/// **Resumption.** Clients get tickets (RFC 8446 4.6.1, RFC 5077), encrypted with keys that
/// all clones share and that change every six hours; a ticket is good for as long again after
/// its key has been replaced. TLS 1.2 clients that know no tickets get a place in a cache of
/// 4,096 sessions. Keys do not outlive the process.
///
/// **Reload.** [`reload`](Acceptor::reload) exchanges all certificates at once, for all
/// shards: handshakes that begin later show the new ones, open connections do not notice, and
/// sessions can still be resumed.
#[derive(Clone, Debug)]
pub struct Acceptor {
    config: Arc<rustls::ServerConfig>,
    resolver: Arc<Resolver>,
    handshake_timeout: Duration,
}

impl Acceptor {
    /// The server's handshake on `stream`, of which nothing has been read. What bounds the
    /// number of them is the caller, or a [`TlsListener`](crate::TlsListener).
    ///
    /// # Errors
    /// `TimedOut`; `InvalidData` where the peer does not speak TLS as we do, with the
    /// [`rustls::Error`] inside, after an alert to it; `UnexpectedEof` and other errors of the
    /// stream. The stream is dropped.
    pub fn accept<S>(&self, stream: S) -> impl Future<Output = io::Result<TlsStream<S>>> + use<S>
    where
        S: Transport,
    {
        let handshake = TlsAcceptor::from(self.config.clone()).accept(stream);
        // On the heap, because rustls's state is large and would be moved about.
        let handshake = Box::pin(within(self.handshake_timeout, handshake));
        async move { Ok(TlsStream::new(handshake.await?.into())) }
    }

    /// Exchanges the certificates. Call it where they have been renewed; it takes no time, but
    /// reading files does: see [`Identity::from_pem_files`].
    ///
    /// # Errors
    /// [`ConfigError::NoIdentity`]. The old ones stay then, as they do where an [`Identity`]
    /// could not be made.
    pub fn reload(
        &self,
        identities: impl IntoIterator<Item = Identity>,
    ) -> Result<(), ConfigError> {
        self.resolver.exchange(identities.into_iter().collect())
    }
}
