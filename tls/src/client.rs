//! The client's side.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::RootCertStore;
use rustls::client::{ClientConfig, Resumption};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::sign::SingleCertAndKey;
use tokio_rustls::TlsConnector;

use crate::error::ConfigError;
use crate::identity::{Identity, file};
use crate::stream::{TlsStream, Transport};
use crate::{HANDSHAKE_TIMEOUT, provider, within};

/// Servers whose sessions are remembered, eight tickets each.
const REMEMBERED: usize = 256;

/// Makes TLS connections of connected streams. Clones share the remembered sessions, also
/// between shards, so that each of them resumes what another began.
#[derive(Clone, Debug)]
pub struct Connector {
    config: Arc<ClientConfig>,
    handshake_timeout: Duration,
}

impl Connector {
    /// Trusts what the platform trusts; where `SSL_CERT_FILE` or `SSL_CERT_DIR` are set, what
    /// they name. This reads files before it returns: call it before the shards run, or
    /// through `spawn_blocking`.
    ///
    /// # Errors
    /// [`ConfigError::NoRoots`] where not one root could be read.
    pub fn platform() -> Result<Connector, ConfigError> {
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "some of the platform's root certificates could not be read");
        }
        Connector::trusting(found.certs)
    }

    /// Trusts the certificates of a PEM text.
    ///
    /// # Errors
    /// [`ConfigError::Pem`]; [`ConfigError::NoRoots`] where there is none.
    pub fn from_pem(roots: impl AsRef<[u8]>) -> Result<Connector, ConfigError> {
        let roots: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(roots.as_ref()).collect();
        Connector::trusting(roots?)
    }

    /// Trusts the certificates of a PEM file, which this reads before it returns.
    ///
    /// # Errors
    /// [`ConfigError::File`]; [`ConfigError::NoRoots`] where there is none.
    pub fn from_pem_file(roots: impl AsRef<Path>) -> Result<Connector, ConfigError> {
        let path = roots.as_ref();
        let roots: Result<Vec<_>, _> =
            CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
        Connector::trusting(roots.map_err(|source| file(path, source))?)
    }

    /// Trusts these certificates. Those that cannot be roots are left out.
    ///
    /// # Errors
    /// [`ConfigError::NoRoots`] where none is left.
    pub fn trusting(
        roots: impl IntoIterator<Item = CertificateDer<'static>>,
    ) -> Result<Connector, ConfigError> {
        let mut store = RootCertStore::empty();
        let (_, ignored) = store.add_parsable_certificates(roots);
        if store.is_empty() {
            let why = format!("none found, {ignored} unusable");
            return Err(ConfigError::NoRoots(why));
        }
        let mut config = ClientConfig::builder_with_provider(provider().clone())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(store)
            .with_no_client_auth();
        config.resumption = Resumption::in_memory_sessions(8 * REMEMBERED);
        Ok(Connector::from_rustls(config))
    }

    /// With settings of rustls' own, for what the other constructors leave out.
    pub fn from_rustls(config: ClientConfig) -> Connector {
        Connector { config: Arc::new(config), handshake_timeout: HANDSHAKE_TIMEOUT }
    }

    /// The application protocols offered, the preferred one first (RFC 7301). Default: none.
    #[must_use]
    pub fn alpn(mut self, protocols: impl IntoIterator<Item = impl Into<Vec<u8>>>) -> Self {
        let config = Arc::make_mut(&mut self.config);
        config.alpn_protocols = protocols.into_iter().map(Into::into).collect();
        self
    }

    /// The certificate shown to servers that ask for one. Default: none.
    #[must_use]
    pub fn identity(mut self, identity: Identity) -> Self {
        let resolver = SingleCertAndKey::from(identity.key);
        Arc::make_mut(&mut self.config).client_auth_cert_resolver = Arc::new(resolver);
        self
    }

    /// How long a handshake may take. Default 10 s.
    #[must_use]
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.handshake_timeout = timeout;
        self
    }

    /// The client's handshake on a connected `stream`. `name` is what the server's certificate
    /// has to be for: a DNS name, which the server is also told (SNI), or an IP address, with
    /// or without the brackets of an URL.
    ///
    /// # Errors
    /// `InvalidInput` where `name` is neither; `TimedOut`; `InvalidData` where the server is
    /// not who it should be or does not speak TLS as we do, with the [`rustls::Error`] inside;
    /// errors of the stream. The stream is dropped.
    pub fn connect<S>(
        &self,
        name: &str,
        stream: S,
    ) -> impl Future<Output = io::Result<TlsStream<S>>> + use<S>
    where
        S: Transport,
    {
        let handshake = server_name(name).map(|name| {
            let handshake = TlsConnector::from(self.config.clone()).connect(name, stream);
            Box::pin(within(self.handshake_timeout, handshake))
        });
        async move { Ok(TlsStream::new(handshake?.await?.into())) }
    }
}

fn server_name(name: &str) -> io::Result<ServerName<'static>> {
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    ServerName::try_from(address.unwrap_or(name).to_owned()).map_err(|error| {
        io::Error::new(io::ErrorKind::InvalidInput, format!("server name {name:?}: {error}"))
    })
}
