//! A configuration in force: the file's content and the servers' vitals, shared by all shards.
//! A reload makes a new one, which keeps the vitals of servers that stay.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use throng::tls::Connector;

use crate::config::{self, Config};
use crate::tls::{self, Acceptors};
use crate::vitals::Vitals;

pub(crate) struct World {
    pub(crate) config: Config,
    pub(crate) file: PathBuf,
    /// By upstream, in the order of its servers.
    vitals: BTreeMap<String, Vec<Arc<Vitals>>>,
    /// Of the upstreams that have TLS.
    connectors: BTreeMap<String, Connector>,
    /// The same ones for as long as the program runs.
    pub(crate) acceptors: Arc<Acceptors>,
}

impl World {
    /// Reads the configuration, and the certificates it names; `old` is the world that it
    /// replaces, whose listeners get the new certificates.
    ///
    /// # Errors
    /// What is wrong with it, or why `old` cannot be replaced while it runs.
    pub(crate) fn load(file: &Path, old: Option<&World>) -> io::Result<World> {
        let config = config::load(file).map_err(io::Error::other)?;
        if let Some(why) = old.and_then(|old| needs_restart(&config, &old.config)) {
            return Err(io::Error::other(why));
        }
        let mut connectors = BTreeMap::new();
        for (name, upstream) in &config.upstream {
            let connector = tls::connector(upstream.as_ref());
            let named = |error| io::Error::other(format!("upstream.{name}.tls: {error}"));
            connectors.extend(connector.map_err(named)?.map(|connector| (name.clone(), connector)));
        }
        let acceptors = match old {
            Some(old) => {
                tls::renew(&old.acceptors, &config)?;
                old.acceptors.clone()
            }
            None => Arc::new(tls::acceptors(&config)?),
        };
        let vitals = config.upstream.iter().map(|(name, upstream)| {
            let servers = upstream.as_ref().server.iter();
            let of = |server: &config::Server| {
                old.and_then(|old| old.find(name, &server.address)).unwrap_or_default()
            };
            (name.clone(), servers.map(of).collect())
        });
        let vitals = vitals.collect();
        Ok(World { vitals, connectors, acceptors, file: file.to_owned(), config })
    }

    /// What connects to an upstream's servers over TLS.
    pub(crate) fn connector(&self, upstream: &str) -> Option<Connector> {
        self.connectors.get(upstream).cloned()
    }

    /// The vitals of an upstream's servers, in their order.
    pub(crate) fn vitals(&self, upstream: &str) -> &[Arc<Vitals>] {
        self.vitals.get(upstream).map_or(&[], Vec::as_slice)
    }

    fn find(&self, upstream: &str, address: &config::ServerAddress) -> Option<Arc<Vitals>> {
        let servers = &self.config.upstream.get(upstream)?.as_ref().server;
        let at = servers.iter().position(|server| server.address == *address)?;
        self.vitals(upstream).get(at).cloned()
    }
}

/// Why a running balancer cannot go on with this configuration.
fn needs_restart(new: &Config, old: &Config) -> Option<&'static str> {
    if new.network != old.network {
        return Some("[network] can only change with a restart");
    }
    let listeners = |config: &Config| {
        let listeners = config.listener.iter().map(|listener| listener.as_ref());
        let mut all: Vec<_> = listeners.map(|l| (l.address, l.certificate.is_empty())).collect();
        all.sort();
        all
    };
    if listeners(new) != listeners(old) {
        return Some("[[listener]] can only change with a restart, but for its certificates");
    }
    if new.http != old.http {
        return Some("[http] can only change with a restart");
    }
    if new.admin != old.admin {
        return Some("[admin] can only change with a restart");
    }
    None
}
