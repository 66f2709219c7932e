//! What can be wrong with certificates, keys and roots.

use std::path::PathBuf;

use rustls::pki_types::pem;

/// Why a configuration is not usable. Nothing changes where it is returned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A file could not be read or is not PEM.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was wrong with it.
        source: pem::Error,
    },
    /// Text that is not PEM, or holds no section of the kind looked for.
    #[error("PEM: {0}")]
    Pem(#[from] pem::Error),
    /// There is not a single certificate where a chain should be.
    #[error("no certificate in the chain")]
    NoCertificate,
    /// A server without certificates.
    #[error("no identity: a server needs a certificate and its key")]
    NoIdentity,
    /// There is no certificate to trust.
    #[error("no root certificates: {0}")]
    NoRoots(String),
    /// The certificate is malformed, the key is of a kind that is not supported, or the two do
    /// not belong together.
    #[error("certificate or key: {0}")]
    Rustls(#[from] rustls::Error),
}
