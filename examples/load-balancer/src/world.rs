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
use crate::tls::{self, Acceptors, Renewal};
use crate::vitals::Vitals;

/// A server: one of the file, or an address of one whose name is looked up.
#[derive(Clone)]
pub(crate) struct Member {
    pub(crate) config: Server,
    pub(crate) vitals: Arc<Vitals>,
}

/// An upstream's servers.
#[derive(Clone, Default)]
struct Members {
    here: Vec<Member>,
    /// Those that the operator has drained and that their name does not lead to any more, the
    /// last one to go at the end: it may again.
    gone: Vec<Member>,
}

/// How many of them are remembered, of each upstream.
const GONE: usize = 256;

/// The addresses of names.
type Resolved = BTreeMap<ServerAddress, Vec<SocketAddr>>;

pub(crate) struct World {
    pub(crate) config: Config,
    pub(crate) file: PathBuf,
    /// By upstream.
    members: BTreeMap<String, Members>,
    /// What the names are that are looked up.
    resolved: Resolved,
    /// Of the upstreams that have TLS.
    connectors: BTreeMap<String, Connector>,
    /// The same ones for as long as the program runs.
    pub(crate) acceptors: Arc<Acceptors>,
}

impl World {
    /// Reads the configuration, and the certificates it names.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn load(file: &Path) -> io::Result<World> {
        let config = config::load(file).map_err(io::Error::other)?;
        let acceptors = Arc::new(tls::acceptors(&config)?);
        World::of(config, file, acceptors, None)
    }

    /// Reads them again; the certificates are for the listeners that there are, and not theirs
    /// yet.
    ///
    /// # Errors
    /// What is wrong with it, or why this one cannot be replaced while it runs.
    pub(crate) fn reload(&self) -> io::Result<(World, Renewal)> {
        let config = config::load(&self.file).map_err(io::Error::other)?;
        if let Some(why) = needs_restart(&config, &self.config) {
            return Err(io::Error::other(why));
        }
        let renewal = Renewal::read(&self.acceptors, &config)?;
        let world = World::of(config, &self.file, self.acceptors.clone(), Some(self))?;
        Ok((world, renewal))
    }

    fn of(
        config: Config,
        file: &Path,
        acceptors: Arc<Acceptors>,
        old: Option<&World>,
    ) -> io::Result<World> {
        let mut connectors = BTreeMap::new();
        for (name, upstream) in &config.upstream {
            let connector = tls::connector(upstream.as_ref());
            let named = |error| io::Error::other(format!("upstream.{name}.tls: {error}"));
            connectors.extend(connector.map_err(named)?.map(|connector| (name.clone(), connector)));
        }
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
            let Some(address) = ServerAddress::parse(&mark.server) else { continue };
            let member = match self.member(&mark.upstream, &address) {
                Some(member) => member.clone(),
                // Its name led to it once.
                None => {
                    let upstream = self.config.upstream.get(&mark.upstream);
                    let servers = upstream.map_or(&[][..], |upstream| &upstream.as_ref().server);
                    let named = servers.iter().find(|server| server.resolve.is_some());
                    let (Some(named), true) = (named, mark.drained) else { continue };
                    let config = Server { address, ..named.clone() };
                    let member = Member { config, vitals: Arc::default() };
                    let members = self.members.entry(mark.upstream.clone()).or_default();
                    members.gone.push(member.clone());
                    member
                }
            };
            member.vitals.set_drained(mark.drained, 0);
            member.vitals.set_up(mark.up, 0);
        }
        self
    }

    /// What a successor has to know of servers.
    pub(crate) fn bequeath(&self) -> Handed {
        let names = self.resolved.iter().map(|(name, at)| (name.to_string(), at.clone()));
        let marks = self.members.iter().flat_map(|(upstream, members)| {
            members.here.iter().chain(&members.gone).map(|Member { config, vitals }| Mark {
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
        self.members.get(upstream).map_or(&[], |members| &members.here)
    }

    /// One of them, or one that the operator has drained and that has gone.
    pub(crate) fn member(&self, upstream: &str, address: &ServerAddress) -> Option<&Member> {
        let members = self.members.get(upstream)?;
        let mut all = members.here.iter().chain(&members.gone);
        all.find(|member| member.config.address == *address)
    }
}

/// Every upstream's servers, with the vitals of those that `old` has, too.
fn members(config: &Config, resolved: &Resolved, old: Option<&World>) -> BTreeMap<String, Members> {
    let of = |(name, upstream): (&String, &Upstream)| {
        let mut here: Vec<Member> = Vec::new();
        let has = |members: &[Member], server: &Server| {
            members.iter().any(|member| member.config.address == server.address)
        };
        for server in upstream.server.iter().flat_map(|server| addresses(server, resolved)) {
            // Two names may have the same address.
            if has(&here, &server) {
                continue;
            }
            let known = old.and_then(|old| old.member(name, &server.address));
            let vitals = known.map(|member| member.vitals.clone()).unwrap_or_default();
            here.push(Member { config: server, vitals });
        }
        // The file names the others itself.
        let by_name = upstream.server.iter().any(|server| server.resolve.is_some());
        let known = old.and_then(|old| old.members.get(name)).filter(|_| by_name);
        let known = known.into_iter().flat_map(|known| known.gone.iter().chain(&known.here));
        let gone = |member: &&Member| member.vitals.is_drained() && !has(&here, &member.config);
        let mut gone: Vec<Member> = known.filter(gone).cloned().collect();
        gone.drain(..gone.len().saturating_sub(GONE));
        (name.clone(), Members { here, gone })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn at(addresses: &[&str]) -> Vec<SocketAddr> {
        addresses.iter().map(|text| text.parse().unwrap()).collect()
    }

    /// A name server that says something else for a while does not undo what the operator wants.
    #[test]
    fn a_drained_server_that_goes_and_comes_back_is_drained() {
        let file = std::env::temp_dir().join(format!("throng-lb-world-{}", std::process::id()));
        let text = "[[listener]]\naddress = \"127.0.0.1:1\"\n[[route]]\nupstream = \"app\"\n\
            [upstream.app]\nserver = [{ address = \"app.test:80\", resolve = \"1s\" }]\n";
        std::fs::write(&file, text).unwrap();
        let first = World::load(&file).unwrap();
        let name = ServerAddress::parse("app.test:80").unwrap();
        let found = |world: &World, addresses: &[&str]| {
            let world = world.with_resolved(name.clone(), at(addresses));
            let here: Vec<_> = world.members("app").iter().map(|m| m.vitals.is_drained()).collect();
            (world, here)
        };
        let (one, two) = ("10.0.0.1:80", "10.0.0.2:80");
        let (both, _) = found(&first, &[one, two]);
        both.members("app")[0].vitals.set_drained(true, 1);
        let (without, here) = found(&both, &[two]);
        assert_eq!(here, [false]);
        // Through a reload and a successor, too.
        let reloaded = without.reload().unwrap().0;
        let handed = reloaded.bequeath();
        let successor = World::load(&file).unwrap().inherit(&handed);
        std::fs::remove_file(&file).unwrap();
        for world in [&without, &reloaded, &successor] {
            let (_, here) = found(world, &[one, two]);
            assert_eq!(here, [true, false]);
        }
        // The operator may change his mind meanwhile.
        let gone = without.member("app", &ServerAddress::parse(one).unwrap()).unwrap();
        gone.vitals.set_drained(false, 2);
        assert_eq!(found(&without, &[one, two]).1, [false, false]);
        assert!(found(&without, &[two]).0.member("app", &gone.config.address).is_none());
    }

    #[test]
    fn so_many_are_remembered() {
        let file = std::env::temp_dir().join(format!("throng-lb-gone-{}", std::process::id()));
        let text = "[[listener]]\naddress = \"127.0.0.1:1\"\n[[route]]\nupstream = \"app\"\n\
            [upstream.app]\nserver = [{ address = \"app.test:80\", resolve = \"1s\" }]\n";
        std::fs::write(&file, text).unwrap();
        let mut world = World::load(&file).unwrap();
        std::fs::remove_file(&file).unwrap();
        let name = ServerAddress::parse("app.test:80").unwrap();
        for number in 0..GONE as u32 + 9 {
            let address = SocketAddr::from((std::net::Ipv4Addr::from(0x0a00_0000 + number), 80));
            world = world.with_resolved(name.clone(), vec![address]);
            world.members("app")[0].vitals.set_drained(true, 1);
        }
        assert_eq!(world.members["app"].gone.len(), GONE);
        let last = world.members["app"].gone.last().unwrap();
        assert_eq!(last.config.address.host, "10.0.1.7");
    }
}
