//! A configuration in force: the file's content, the servers it
//! leads to and their vitals, shared by all shards.
//! A reload makes a new one, which keeps the vitals of servers that stay.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use throng::tls::Connector;

use crate::config::{self, Config, Listener, Server, ServerAddress, Tcp, Upstream};
use crate::handover::{Handed, Mark};
use crate::tls::{self, Acceptors};
use crate::vitals::Vitals;

/// A server: one of the file, or an address of one whose name is looked up.
#[derive(Clone)]
pub(crate) struct Member {
    pub(crate) config: Server,
    pub(crate) vitals: Arc<Vitals>,
}

/// The addresses of names.
type Resolved = BTreeMap<ServerAddress, Vec<SocketAddr>>;

pub(crate) struct World {
    pub(crate) config: Config,
    pub(crate) file: PathBuf,
    /// By upstream.
    members: BTreeMap<String, Vec<Member>>,
    /// What the names are that are looked up.
    resolved: Resolved,
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
        let resolved = old.map(|old| old.resolved.clone()).unwrap_or_default();
        let members = members(&config, &resolved, old);
        Ok(World { members, resolved, connectors, acceptors, file: file.to_owned(), config })
    }

    /// The same with other addresses for a name.
    pub(crate) fn with_resolved(&self, name: ServerAddress, addresses: Vec<SocketAddr>) -> World {
        let mut resolved = self.resolved.clone();
        resolved.insert(name, addresses);
        World {
            members: members(&self.config, &resolved, Some(self)),
            resolved,
            config: self.config.clone(),
            connectors: self.connectors.clone(),
            acceptors: self.acceptors.clone(),
            file: self.file.clone(),
        }
    }

    /// The same with what a predecessor knew of servers.
    pub(crate) fn inherit(mut self, handed: &Handed) -> World {
        let names = handed.resolved.iter();
        let names = names.filter_map(|(name, at)| Some((ServerAddress::parse(name)?, at.clone())));
        self.resolved = names.collect();
        self.members = members(&self.config, &self.resolved, None);
        for mark in &handed.marks {
            let mut members = self.members(&mark.upstream).iter();
            let is_this = |member: &&Member| member.config.address.to_string() == mark.server;
            if let Some(member) = members.find(is_this) {
                member.vitals.set_drained(mark.drained, 0);
                member.vitals.set_up(mark.up, 0);
            }
        }
        self
    }

    /// What a successor has to know of servers.
    pub(crate) fn bequeath(&self) -> Handed {
        let names = self.resolved.iter().map(|(name, at)| (name.to_string(), at.clone()));
        let marks = self.members.iter().flat_map(|(upstream, members)| {
            members.iter().map(|Member { config, vitals }| Mark {
                upstream: upstream.clone(),
                server: config.address.to_string(),
                drained: vitals.is_drained(),
                up: vitals.is_up(),
            })
        });
        let marks = marks.filter(|mark| mark.drained || !mark.up).collect();
        Handed { resolved: names.collect(), marks, ..Handed::default() }
    }

    /// The addresses of a name as they were found last.
    pub(crate) fn resolved(&self, name: &ServerAddress) -> Option<&[SocketAddr]> {
        self.resolved.get(name).map(Vec::as_slice)
    }

    /// What connects to an upstream's servers over TLS.
    pub(crate) fn connector(&self, upstream: &str) -> Option<Connector> {
        self.connectors.get(upstream).cloned()
    }

    /// An upstream's servers.
    pub(crate) fn members(&self, upstream: &str) -> &[Member] {
        self.members.get(upstream).map_or(&[], Vec::as_slice)
    }
}

/// Every upstream's servers, with the vitals of those that `old` has, too.
fn members(
    config: &Config,
    resolved: &Resolved,
    old: Option<&World>,
) -> BTreeMap<String, Vec<Member>> {
    let of = |(name, upstream): (&String, &Upstream)| {
        let known = old.map_or(&[][..], |old| old.members(name));
        let mut members: Vec<Member> = Vec::new();
        for server in upstream.server.iter().flat_map(|server| addresses(server, resolved)) {
            let is_this = |member: &&Member| member.config.address == server.address;
            // Two names may have the same address.
            if members.iter().any(|member| is_this(&member)) {
                continue;
            }
            let vitals = known.iter().find(is_this).map(|member| member.vitals.clone());
            members.push(Member { config: server, vitals: vitals.unwrap_or_default() });
        }
        (name.clone(), members)
    };
    config.upstream.iter().map(|(name, upstream)| of((name, upstream.as_ref()))).collect()
}

/// A server as it is written, or one for each of its addresses.
fn addresses(server: &Server, resolved: &Resolved) -> Vec<Server> {
    if server.resolve.is_none() {
        return vec![server.clone()];
    }
    let found = resolved.get(&server.address).map_or(&[][..], Vec::as_slice);
    let at = |address: &SocketAddr| Server {
        address: ServerAddress { host: address.ip().to_string(), port: address.port() },
        ..server.clone()
    };
    found.iter().map(at).collect()
}

/// Why a running balancer cannot go on with this configuration.
fn needs_restart(new: &Config, old: &Config) -> Option<&'static str> {
    if new.network != old.network {
        return Some("[network] can only change with a restart");
    }
    let listeners = |config: &Config| {
        let listeners = config.listener.iter().map(|listener| listener.as_ref());
        let of = |l: &Listener| (l.address, l.certificate.is_empty(), l.proxy_protocol.clone());
        let mut all: Vec<_> = listeners.map(of).collect();
        all.sort_by_key(|(address, ..)| *address);
        all
    };
    if listeners(new) != listeners(old) {
        return Some("[[listener]] can only change with a restart, but for its certificates");
    }
    let passing = |config: &Config| {
        let passing = config.tcp.iter().map(|tcp| tcp.as_ref());
        let of = |tcp: &Tcp| (tcp.address, tcp.max_connections.0, tcp.proxy_protocol.clone());
        let mut all: Vec<_> = passing.map(of).collect();
        all.sort_by_key(|(address, ..)| *address);
        all
    };
    if passing(new) != passing(old) {
        return Some(
            "address, max_connections and proxy_protocol of [[tcp]] can only change with a restart",
        );
    }
    if new.http != old.http {
        return Some("[http] can only change with a restart");
    }
    if new.admin != old.admin {
        return Some("[admin] can only change with a restart");
    }
    None
}
