//! Test support: an authority that issues certificates, and two hosts on a link.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::OnceLock;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use throng_net::device::Device;
use throng_net::device::faults::{self, Faults, Impairments};
use throng_net::device::memory::{self, MemoryQueue, Options};
use throng_net::sim::{HostConfig, add_host};
use throng_runtime::sim::{HostId, World};
use throng_runtime::{Instant, ShardId};
use throng_tls::{Acceptor, Connector, Identity, ServerConfig};

/// Where the server of a [`Pair`] listens.
pub const SERVER: &str = "10.0.0.1:443";

/// Virtual time that no test should take.
const LIMIT: Duration = Duration::from_secs(600);

pub fn server_address() -> SocketAddr {
    SERVER.parse().unwrap()
}

/// The authority that the tests' clients trust.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
}

pub fn authority() -> &'static Authority {
    static AUTHORITY: OnceLock<Authority> = OnceLock::new();
    AUTHORITY.get_or_init(|| {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "authority of a test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Authority { issuer: Issuer::new(params, key), pem }
    })
}

/// A chain and a key in PEM, for DNS names and IP addresses.
pub fn issue_pem(names: &[&str]) -> (String, String) {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(names).unwrap();
    let certificate = params.signed_by(&key, &authority().issuer).unwrap();
    (certificate.pem(), key.serialize_pem())
}

pub fn issue(names: &[&str]) -> Identity {
    let (chain, key) = issue_pem(names);
    Identity::from_pem(chain, key).unwrap()
}

/// A server with one certificate for `a.test`.
pub fn acceptor() -> Acceptor {
    ServerConfig::new([issue(&["a.test"])]).build().unwrap()
}

pub fn connector() -> Connector {
    Connector::from_pem(&authority().pem).unwrap()
}

/// Two hosts with `shards` shards each, joined, under virtual time.
pub struct Pair {
    pub world: World,
    pub client: HostId,
    pub server: HostId,
}

impl Pair {
    pub fn new(shards: usize) -> Pair {
        Pair::with_faults(shards, 0, Impairments::default())
    }

    pub fn with_faults(shards: usize, seed: u64, impairments: Impairments) -> Pair {
        let options = Options { latency: Duration::from_millis(1), ..Options::default() };
        let (a, b) = memory::pair(shards, options);
        let boxed = |queues: Vec<MemoryQueue>| -> Vec<Box<dyn Device>> {
            queues.into_iter().map(|queue| Box::new(queue) as Box<dyn Device>).collect()
        };
        let a = faults::wrap(boxed(a), &Faults::both(seed, impairments));
        let mut world = World::new();
        let client = add_host(&mut world, a, &HostConfig::new(&["10.0.0.2/24"], seed));
        let server = add_host(&mut world, boxed(b), &HostConfig::new(&["10.0.0.1/24"], !seed));
        Pair { world, client, server }
    }

    /// Runs `start` on every shard of the server, which spawns what it needs.
    pub fn serve<R>(&self, shards: u16, start: impl Fn() -> R) -> Vec<R> {
        (0..shards).map(|i| self.world.enter(self.server, ShardId(i), &start)).collect()
    }

    /// Runs a client to its end, on one of the shards.
    #[track_caller]
    pub fn run_on(&mut self, shard: ShardId, client: impl Future<Output = ()> + 'static) {
        let done = Rc::new(Cell::new(false));
        let set = done.clone();
        let task = self.world.spawn(self.client, shard, async move {
            client.await;
            set.set(true);
        });
        assert!(self.world.run_until(Instant::ZERO + LIMIT, || done.get()), "stands still");
        drop(task);
    }

    /// Runs a client to its end.
    #[track_caller]
    pub fn run<F: Future + 'static>(&mut self, client: F) -> F::Output {
        let limit = Instant::ZERO + LIMIT;
        self.world.block_on(self.client, limit, client).expect("the client stands still")
    }
}
