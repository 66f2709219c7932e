//! A configuration in force: the file's content and the servers' vitals, shared by all shards.
//! A reload makes a new one, which keeps the vitals of servers that stay.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::{self, Config, ConfigError};
use crate::vitals::Vitals;

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) config: Config,
    pub(crate) file: PathBuf,
    /// By upstream, in the order of its servers.
    vitals: BTreeMap<String, Vec<Arc<Vitals>>>,
}

impl World {
    /// Reads the configuration; `old` is the world that it replaces.
    ///
    /// # Errors
    /// As for [`config::load`].
    pub(crate) fn load(file: &Path, old: Option<&World>) -> Result<World, ConfigError> {
        Ok(World::new(config::load(file)?, file, old))
    }

    pub(crate) fn new(config: Config, file: &Path, old: Option<&World>) -> World {
        let vitals = config.upstream.iter().map(|(name, upstream)| {
            let servers = upstream.as_ref().server.iter();
            let of = |server: &config::Server| {
                old.and_then(|old| old.find(name, &server.address)).unwrap_or_default()
            };
            (name.clone(), servers.map(of).collect())
        });
        World { vitals: vitals.collect(), file: file.to_owned(), config }
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

    /// Why a running balancer cannot go on with this configuration.
    pub(crate) fn needs_restart(&self, old: &World) -> Option<&'static str> {
        let (new, old) = (&self.config, &old.config);
        if new.network != old.network {
            return Some("[network] can only change with a restart");
        }
        let addresses = |config: &Config| {
            let mut all: Vec<_> = config.listener.iter().map(|l| l.as_ref().address).collect();
            all.sort();
            all
        };
        if addresses(new) != addresses(old) {
            return Some("[[listener]] can only change with a restart");
        }
        if new.http != old.http {
            return Some("[http] can only change with a restart");
        }
        if new.admin != old.admin {
            return Some("[admin] can only change with a restart");
        }
        None
    }
}
