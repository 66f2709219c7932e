//! A certificate chain and its key.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use crate::error::ConfigError;
use crate::provider;

/// Who we are: a certificate, the ones that lead from it to a root, and its private key.
///
/// Making one checks that the certificate can be read and that the key belongs to it. That it
/// is valid at present, and that the chain leads anywhere, is what the peer checks.
#[derive(Clone, Debug)]
pub struct Identity {
    pub(crate) key: Arc<CertifiedKey>,
    /// DNS names of the certificate (RFC 5280 4.2.1.6), in lower case, `*.` in front of some.
    pub(crate) names: Vec<String>,
}

impl Identity {
    /// From DER: the chain with the end's certificate first, and its key.
    ///
    /// # Errors
    /// [`ConfigError::NoCertificate`]; [`ConfigError::Rustls`] where certificate or key cannot
    /// be used or do not belong together.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Identity, ConfigError> {
        let end = chain.first().ok_or(ConfigError::NoCertificate)?;
        let names = dns_names(end)?;
        let key = CertifiedKey::from_der(chain, key, provider())?;
        Ok(Identity { key: Arc::new(key), names })
    }

    /// From PEM text: the chain with the end's certificate first, and the key as PKCS#8,
    /// PKCS#1 or SEC1. Both may be the same text.
    ///
    /// # Errors
    /// [`ConfigError::Pem`], and as for [`new`](Identity::new).
    pub fn from_pem(
        chain: impl AsRef<[u8]>,
        key: impl AsRef<[u8]>,
    ) -> Result<Identity, ConfigError> {
        let chain = CertificateDer::pem_slice_iter(chain.as_ref()).collect::<Result<_, _>>()?;
        Identity::new(chain, PrivateKeyDer::from_pem_slice(key.as_ref())?)
    }

    /// From PEM files, which this reads before it returns: on a running shard call it through
    /// `spawn_blocking`.
    ///
    /// # Errors
    /// [`ConfigError::File`], and as for [`new`](Identity::new).
    pub fn from_pem_files(
        chain: impl AsRef<Path>,
        key: impl AsRef<Path>,
    ) -> Result<Identity, ConfigError> {
        let (chain, key) = (chain.as_ref(), key.as_ref());
        let certificates = CertificateDer::pem_file_iter(chain).and_then(Iterator::collect);
        let certificates = certificates.map_err(|source| file(chain, source))?;
        let key = PrivateKeyDer::from_pem_file(key).map_err(|source| file(key, source))?;
        Identity::new(certificates, key)
    }

    /// The DNS names of the certificate, in lower case; one that begins with `*.` stands for
    /// every name with one label in its place.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// The certificates, the end's first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.key.cert
    }
}

pub(crate) fn file(path: &Path, source: pem::Error) -> ConfigError {
    ConfigError::File { path: path.to_owned(), source }
}

fn dns_names(end: &CertificateDer<'_>) -> Result<Vec<String>, ConfigError> {
    let unreadable = rustls::Error::InvalidCertificate(rustls::CertificateError::BadEncoding);
    let end = webpki::EndEntityCert::try_from(end).map_err(|_| unreadable)?;
    Ok(end.valid_dns_names().map(str::to_ascii_lowercase).collect())
}
