//! Names to addresses: the shard's resolver, a stub that asks recursive name servers
//! (RFC 1035 5.3.1) over the shard's own sockets.
//!
//! A question goes its way in `lookup` (which names to ask for), the cache here, `exchange`
//! (which server, UDP or TCP) and `message` (the wire). `rank` puts the addresses in order
//! (RFC 6724) and `eyeballs` connects to the first that answers (RFC 8305).
//!
//! * `localhost` and names in it are the loopback addresses, names in `invalid` do not exist
//!   (RFC 6761 6.3, 6.4); then comes hosts(5), then DNS. The two files are looked at again
//!   every five seconds, and read when they have changed.
//! * The name servers are those of the settings; without any those that DHCP has named;
//!   without any those of resolv.conf(5). Its search list and options count in any case.
//! * Answers are believed from where the question went, with its id and its question; every
//!   question has a random id and a random port (RFC 5452); after sixteen messages that only
//!   pretend it goes over TCP. There is no DNSSEC.
//! * On a shard with a device, a server at a loopback address (systemd-resolved's, say) is
//!   asked through the host's sockets.

mod cache;
mod destination;
mod error;
mod exchange;
pub(crate) mod eyeballs;
mod files;
mod lookup;
mod message;
mod name;
mod rank;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{LocalBoxFuture, Shared, WeakShared};
use throng_runtime::{Instant, now};

pub use destination::Destination;
pub(crate) use destination::{Start, Token};
pub use error::Error;
pub use files::Source;
pub(crate) use files::parse_server;
pub use lookup::lookup_host;
pub(crate) use rank::Families;

use crate::local::{self, Network};
use crate::tcp::siphash;
use cache::{Cache, Outcome, Question};
use files::{Hosts, ResolvConf};
use message::Reply;

/// Questions of a shard that may wait for an answer at once.
const MAX_IN_FLIGHT: usize = 1_024;
/// How often the files are looked at.
const FILES: Duration = Duration::from_secs(5);
/// How long a server that did not answer is asked after the others.
const SILENCE: Duration = Duration::from_secs(30);

/// What a resolver goes by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The name servers, in the order they are asked; one that did not answer comes last for
    /// half a minute. None: DHCP's, then those of `resolv_conf`.
    pub nameservers: Vec<SocketAddr>,
    /// Search list, options and servers, as in resolv.conf(5).
    pub resolv_conf: Source,
    /// Names that need no server, as in hosts(5).
    pub hosts: Source,
}

impl Default for Config {
    /// The host's files.
    fn default() -> Config {
        Config {
            nameservers: Vec::new(),
            resolv_conf: Source::File(PathBuf::from("/etc/resolv.conf")),
            hosts: Source::File(PathBuf::from("/etc/hosts")),
        }
    }
}

impl Config {
    /// Nothing known and nobody to ask.
    pub fn empty() -> Config {
        let nothing = || Source::Text(String::new());
        Config { nameservers: Vec::new(), resolv_conf: nothing(), hosts: nothing() }
    }
}

throng_runtime::metrics! {
    /// What a shard's resolver has done, and what it holds.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    #[non_exhaustive]
    pub struct Stats {
        /// Questions sent over UDP.
        counter queries: u64,
        /// Questions sent over TCP.
        counter tcp_queries: u64,
        /// Messages that were no answer to the question they came upon: late, broken or
        /// forged.
        counter ignored: u64,
        /// Servers that did not answer in time.
        counter timeouts: u64,
        /// Questions answered from the cache.
        counter cache_hits: u64,
        /// Questions that waited for the same one of another task.
        counter coalesced: u64,
        /// Questions refused because too many were waiting for an answer.
        limit refused: u64,
        /// Questions that wait for an answer.
        gauge in_flight: usize,
        /// Answers in the cache.
        gauge cached: usize,
    }
}

/// The numbers of the current shard's resolver.
///
/// # Errors
/// Outside a shard, or on a shard without a network.
pub fn stats() -> std::io::Result<Stats> {
    Ok(local::network()?.resolver().stats())
}

type Answering = LocalBoxFuture<'static, Outcome>;

/// A question, answered or not.
enum Asked {
    Known(Outcome),
    Waiting(Shared<Answering>),
}

/// A shard's resolver.
pub(crate) struct Resolver {
    config: Config,
    /// For ids and ports.
    key: [u64; 2],
    drawn: Cell<u64>,
    turn: Cell<usize>,
    /// Servers that did not answer, and how long that counts.
    silent: RefCell<Vec<(SocketAddr, Instant)>>,
    files: RefCell<Files>,
    cache: RefCell<Cache>,
    /// Questions that somebody waits for; who waits last takes his question with him.
    in_flight: RefCell<HashMap<Question, WeakShared<Answering>>>,
    stats: Cell<Stats>,
}

/// The files as they were when they were looked at.
#[derive(Default)]
struct Files {
    conf: Rc<ResolvConf>,
    hosts: Rc<Hosts>,
    stamps: Option<[Option<(std::time::SystemTime, u64)>; 2]>,
    look_again: Instant,
}

impl Resolver {
    /// `secret` is the shard's.
    pub(crate) fn new(config: Config, secret: &[u8; 32]) -> Resolver {
        let word = |i: usize| u64::from_le_bytes(std::array::from_fn(|j| secret[i * 8 + j]));
        // Purposes the engine does not use (tcp/isn.rs).
        let derive = |purpose: u64| siphash([word(0), word(1)], &[purpose, word(2), word(3)]);
        Resolver {
            config,
            key: [derive(64), derive(65)],
            drawn: Cell::default(),
            turn: Cell::default(),
            silent: RefCell::default(),
            files: RefCell::default(),
            cache: RefCell::default(),
            in_flight: RefCell::default(),
            stats: Cell::default(),
        }
    }

    /// The numbers at this moment.
    pub(crate) fn stats(&self) -> Stats {
        Stats {
            in_flight: self.in_flight.borrow().len(),
            cached: self.cache.borrow().len(),
            ..self.stats.get()
        }
    }

    fn count(&self, change: impl FnOnce(&mut Stats)) {
        let mut stats = self.stats.get();
        change(&mut stats);
        self.stats.set(stats);
    }

    /// A number nobody can foresee.
    fn random(&self) -> u64 {
        self.drawn.set(self.drawn.get() + 1);
        siphash(self.key, &[self.drawn.get()])
    }

    fn next_turn(&self) -> usize {
        self.turn.replace(self.turn.get().wrapping_add(1))
    }

    /// The files, read again where they have changed. It is done in place: the files are
    /// small and in the host's cache, and a lookup waits for them anyhow.
    fn files(&self) -> (Rc<ResolvConf>, Rc<Hosts>) {
        let mut files = self.files.borrow_mut();
        if files.stamps.is_none() || files.look_again <= now() {
            files.look_again = now() + FILES;
            let stamps = [self.config.resolv_conf.stamp(), self.config.hosts.stamp()];
            if files.stamps != Some(stamps) {
                files.stamps = Some(stamps);
                files.conf = Rc::new(ResolvConf::parse(&self.config.resolv_conf.read()));
                files.hosts = Rc::new(Hosts::parse(&self.config.hosts.read()));
            }
        }
        (files.conf.clone(), files.hosts.clone())
    }

    /// Remembers whether a server has answered.
    fn note_silence(&self, server: SocketAddr, silent: bool) {
        let mut all = self.silent.borrow_mut();
        let now = now();
        all.retain(|(other, end)| *other != server && now < *end);
        if silent {
            all.push((server, now + SILENCE));
        }
    }

    fn is_silent(&self, server: &SocketAddr) -> bool {
        let now = now();
        self.silent.borrow().iter().any(|(other, end)| other == server && now < *end)
    }

    /// The settings, and whom to ask, in this order.
    fn servers(&self) -> (Rc<ResolvConf>, Vec<SocketAddr>) {
        let conf = self.files().0;
        let network = local::network().ok();
        let stack = network.as_deref().and_then(Network::stack);
        let mut servers = self.config.nameservers.clone();
        if let (Some(stack), true) = (stack, servers.is_empty()) {
            let leased = stack.borrow().leased_nameservers();
            servers = leased.into_iter().map(files::leased_server).collect();
        }
        if servers.is_empty() {
            servers.clone_from(&conf.servers);
        }
        if servers.is_empty() && stack.is_none() {
            servers.push(files::own_host());
        }
        if conf.rotate && !servers.is_empty() {
            let first = self.next_turn() % servers.len();
            servers.rotate_left(first);
        }
        servers.sort_by_key(|server| self.is_silent(server));
        (conf, servers)
    }

    /// Asks, unless the answer is known or on its way.
    fn ask(self: &Rc<Self>, question: Question) -> Asked {
        if let Some(outcome) = self.cache.borrow().get(&question, now()) {
            self.count(|stats| stats.cache_hits += 1);
            return Asked::Known(outcome);
        }
        let mut in_flight = self.in_flight.borrow_mut();
        if let Some(waiting) = in_flight.get(&question).and_then(WeakShared::upgrade) {
            self.count(|stats| stats.coalesced += 1);
            return Asked::Waiting(waiting);
        }
        if in_flight.len() >= MAX_IN_FLIGHT {
            self.count(|stats| stats.refused += 1);
            return Asked::Known(Err(Error::Busy(question.0.as_str().to_owned())));
        }
        let guard = InFlight { resolver: self.clone(), question: question.clone() };
        let answering = async move { guard.resolver.answer(&guard.question).await };
        let answering: Shared<Answering> = answering.boxed_local().shared();
        if let Some(weak) = answering.downgrade() {
            in_flight.insert(question, weak);
        }
        Asked::Waiting(answering)
    }

    /// Gets an answer from the servers, through aliases that they leave to us, and keeps it.
    async fn answer(&self, question: &Question) -> Outcome {
        let (asked, kind) = question;
        let text = || asked.as_str().to_owned();
        let mut name = asked.clone();
        let mut longest = Duration::MAX;
        for _ in 0..=message::MAX_ALIASES {
            let (outcome, ttl) = match exchange::exchange(self, &name, *kind).await? {
                Reply::Addresses(found, ttl) => (Ok(found.into()), ttl),
                Reply::NoSuchName(ttl) => (Err(Error::NoSuchName(text())), ttl),
                Reply::NoData(ttl) => (Err(Error::NoAddress(text())), ttl),
                Reply::Alias(target, ttl) => {
                    (name, longest) = (target, longest.min(ttl));
                    continue;
                }
                // `exchange` has dealt with the others.
                Reply::TooManyAliases | Reply::Truncated | Reply::FormErr | Reply::Failed(_) => {
                    break;
                }
            };
            let mut cache = self.cache.borrow_mut();
            cache.put(question.clone(), outcome.clone(), ttl.min(longest), now());
            return outcome;
        }
        Err(Error::TooManyAliases(text()))
    }
}

/// Takes a question out of the table when its future ends or is dropped.
struct InFlight {
    resolver: Rc<Resolver>,
    question: Question,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.resolver.in_flight.borrow_mut().remove(&self.question);
    }
}

/// The loopback addresses, which `localhost` stands for.
fn loopback() -> [IpAddr; 2] {
    [IpAddr::from([127, 0, 0, 1]), std::net::Ipv6Addr::LOCALHOST.into()]
}
