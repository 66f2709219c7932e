//! Hosts of a simulated world: the same stack on devices of the simulation's making.

use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;

use smoltcp::wire::IpCidr;
use throng_runtime::mesh::Mesh;
use throng_runtime::sim::{HostId, World};
use throng_runtime::{Driver, ShardId, unparker};

mod path;

pub use path::Path;

use crate::device::Device;
use crate::local::{self, Network};
use crate::resolver::{self, Resolver};
use crate::stack::{Setup, SharedStack, Stack, StackDriver};
use crate::steering::PortSteering;
use crate::tcp;

/// What a simulated host is made of.
#[derive(Clone, Debug)]
pub struct HostConfig {
    /// Addresses with their prefixes.
    pub addresses: Vec<IpCidr>,
    /// Default gateways, one of each family at most.
    pub gateways: Vec<IpAddr>,
    /// Whether addresses come by DHCP, too.
    pub dhcp: bool,
    /// The engine's settings; the MSS is cut to the device's MTU.
    pub tcp: tcp::Config,
    /// What sequence numbers, ports and hash keys grow from.
    pub seed: u64,
    /// Where names come from; [`Config::empty`](resolver::Config::empty) by default.
    pub names: resolver::Config,
}

impl HostConfig {
    /// A host with `addresses`, such as `10.0.0.1/24`, and all else at its default.
    ///
    /// # Panics
    /// When an address does not parse: a mistake of the test's author.
    pub fn new(addresses: &[&str], seed: u64) -> HostConfig {
        let parse = |text: &&str| text.parse().expect("an address with its prefix");
        HostConfig {
            addresses: addresses.iter().map(parse).collect(),
            gateways: Vec::new(),
            dhcp: false,
            tcp: tcp::Config::default(),
            seed,
            names: resolver::Config::empty(),
        }
    }
}

/// Adds a host to `world` with one shard for each of `devices`.
pub fn add_host(world: &mut World, devices: Vec<Box<dyn Device>>, config: &HostConfig) -> HostId {
    let shards = devices.len();
    let claim = devices.first().map(|device| device.capabilities().clone());
    let claim = claim.expect("a host has at least one device queue");
    let steering = PortSteering::new(&claim.name, &claim.rss, shards as u16);
    let ports = Mesh::new(shards, 1_024);
    let mut parts: Vec<_> = devices.into_iter().zip(ports).map(Some).collect();
    let runtime = throng_runtime::Config { shards, ..throng_runtime::Config::default() };
    let host = world.add_host_with(runtime, |shard| {
        let (device, port) = parts[usize::from(shard.0)].take().expect("each shard starts once");
        let mut secret = [0u8; 32];
        secret[..8].copy_from_slice(&config.seed.to_le_bytes());
        secret[8] = shard.0 as u8;
        let names = Resolver::new(config.names.clone(), &secret);
        let stack: SharedStack = Rc::new(RefCell::new(Stack::new(Setup {
            exception: None,
            shard,
            shards,
            device,
            steering: steering.shard(shard),
            port,
            unparkers: (0..shards).map(|i| unparker(ShardId(i as u16))).collect(),
            addresses: config.addresses.clone(),
            gateways: config.gateways.clone(),
            dhcp: config.dhcp,
            tcp: config.tcp.clone(),
            secret,
            max_neighbors: 4_096,
            udp_queue_bytes: 1 << 20,
            now: throng_runtime::now(),
        })));
        let network = Rc::new(Network::bypass(stack.clone(), true, names));
        throng_runtime::local::set(network.clone());
        let driver: Box<dyn Driver> = Box::new(StackDriver::new(stack, network));
        Ok(driver)
    });
    host.expect("a simulated host needs no resources of the machine")
}

/// Checks everything that must hold in the current shard's TCP engine between two turns; its
/// time grows with the number of connections.
///
/// # Errors
/// Outside a shard, or on a shard without a stack.
///
/// # Panics
/// When something does not hold.
pub fn check_invariants() -> std::io::Result<()> {
    local::stack()?.borrow().engine.check_invariants();
    Ok(())
}
