//! Which certificate a client is shown.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::error::ConfigError;
use crate::identity::Identity;

/// The certificates of a server, exchanged as a whole.
#[derive(Debug)]
pub(crate) struct Resolver(RwLock<Arc<Table>>);

impl Resolver {
    pub(crate) fn new(identities: Vec<Identity>) -> Result<Resolver, ConfigError> {
        Ok(Resolver(RwLock::new(Arc::new(Table::new(identities)?))))
    }

    /// Handshakes that begin after this see the new certificates.
    pub(crate) fn exchange(&self, identities: Vec<Identity>) -> Result<(), ConfigError> {
        let table = Arc::new(Table::new(identities)?);
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = table;
        Ok(())
    }

    fn table(&self) -> Arc<Table> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let table = self.table();
        let keys = table.candidates(hello.server_name());
        // Of several for one name, the first whose signature the client understands; if it
        // understands none, the handshake fails on any.
        let fits =
            |key: &&Arc<CertifiedKey>| key.key.choose_scheme(hello.signature_schemes()).is_some();
        keys.iter().find(fits).or(keys.first()).cloned()
    }
}

/// Keys by name. A name may have several, such as one of ECDSA and one of RSA.
#[derive(Debug, Default)]
struct Table {
    exact: HashMap<String, Vec<Arc<CertifiedKey>>>,
    /// By what follows the `*.`.
    wildcard: HashMap<String, Vec<Arc<CertifiedKey>>>,
    /// For clients that name nobody, or nobody we know.
    default: Vec<Arc<CertifiedKey>>,
}

impl Table {
    fn new(identities: Vec<Identity>) -> Result<Table, ConfigError> {
        let mut table = Table::default();
        let first = identities.first().ok_or(ConfigError::NoIdentity)?;
        let of_first = |identity: &&Identity| identity.names == first.names;
        let default = identities.iter().filter(of_first);
        table.default = default.map(|identity| identity.key.clone()).collect();
        for identity in &identities {
            for name in &identity.names {
                let (names, name) = match name.strip_prefix("*.") {
                    Some(rest) => (&mut table.wildcard, rest),
                    None => (&mut table.exact, name.as_str()),
                };
                names.entry(name.to_owned()).or_default().push(identity.key.clone());
            }
        }
        Ok(table)
    }

    fn candidates(&self, name: Option<&str>) -> &[Arc<CertifiedKey>] {
        let known = name.and_then(|name| {
            // A name ends the same with and without the dot of the root (RFC 6066 3 has none).
            let name = name.trim_end_matches('.').to_ascii_lowercase();
            // RFC 6125 6.4.3: the asterisk stands for one label.
            let parent = || self.wildcard.get(name.split_once('.')?.1);
            self.exact.get(&name).or_else(parent)
        });
        known.unwrap_or(&self.default)
    }
}
