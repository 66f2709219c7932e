//! From settings to running shards.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Mutex;
use std::task::Poll;
use std::thread::available_parallelism;
use std::time::Duration;

use throng_runtime::mesh::Mesh;
use throng_runtime::{Driver, IdlePolicy, ShardId, local, timeout, unparker};

use crate::config::{ConfigError, Limits, Raw, Settings};
use crate::device::spec::{Backend, OpenOptions, open};
use crate::device::{Capabilities, tap};
use crate::kernel::{KernelDriver, Reactor};
use crate::local::Network;
use crate::resolver::Resolver;
use crate::stack::{Exception, Setup, SharedStack, Stack, StackDriver};
use crate::steering::PortSteering;
use crate::tcp::{self, CongestionControl, Ecn};

/// How long shards wait for their first DHCP lease.
const DHCP_PATIENCE: Duration = Duration::from_secs(30);

/// Builds a runtime with a network: device, addresses, cores, limits.
///
/// The same settings come from the environment ([`from_env`](Builder::from_env)) and from a
/// TOML file ([`from_file`](Builder::from_file)); what is set in code afterwards wins, except
/// that addresses, gateways and name servers add up. Values
/// are checked by [`run`](Builder::run), whose error names key, value and what is accepted.
///
/// | method | file | environment |
/// |---|---|---|
/// | `device` | `device = "tap:throng0"` | `THRONG_DEVICE` |
/// | `address` | `address = ["10.0.0.2/24"]` | `THRONG_ADDRESS`, comma separated |
/// | `dhcp` | `address = ["dhcp"]` | `THRONG_ADDRESS=dhcp` |
/// | `gateway` | `gateway = ["10.0.0.1"]` | `THRONG_GATEWAY`, comma separated |
/// | `mac` | `mac = "02:00:00:00:00:01"` | `THRONG_MAC` |
/// | `mtu` | `mtu = 1500` | `THRONG_MTU` |
/// | `shards` | `shards = 2` | `THRONG_SHARDS` |
/// | `cores` | `cores = [0, 1]` | `THRONG_CORES`, comma separated |
/// | `idle` | `idle = "busy"` or `"adaptive"` | `THRONG_IDLE` |
/// | `nameserver` | `nameserver = ["10.0.0.53", "[fd00::53]:53"]` | `THRONG_NAMESERVER`, comma separated |
/// | `resolv_conf` | `resolv_conf = "/etc/resolv.conf"` | `THRONG_RESOLV_CONF` |
/// | `hosts` | `hosts = "/etc/hosts"` | `THRONG_HOSTS` |
/// | `congestion` | `congestion = "cubic"` or `"newreno"` | `THRONG_CONGESTION` |
/// | `pacing` | `pacing = false` | `THRONG_PACING` |
/// | `ecn` | `ecn = "off"`, `"passive"` or `"on"` | `THRONG_ECN` |
/// | `black_hole_detection` | `black_hole_detection = false` | `THRONG_BLACK_HOLE_DETECTION` |
/// | `abort_on_overflow` | `abort_on_overflow = true` | `THRONG_ABORT_ON_OVERFLOW` |
/// | `preallocate` | `preallocate = 419430400` | `THRONG_PREALLOCATE` |
/// | `limits` | `[limits]` | |
/// | | | `THRONG_CONFIG`: a file to begin with |
#[derive(Clone, Debug, Default)]
pub struct Builder {
    raw: Raw,
    idle: Option<IdlePolicy>,
}

impl Builder {
    /// With nothing set.
    pub fn new() -> Builder {
        Builder::default()
    }

    /// With what the environment says: the file `THRONG_CONFIG` where it is set, and the
    /// other variables over it.
    ///
    /// # Errors
    /// A file that cannot be read, a key it should not have, a number that is none.
    pub fn from_env() -> Result<Builder, ConfigError> {
        let var = |key: &str| std::env::var(key).ok().filter(|text| !text.is_empty());
        let mut raw = match var("THRONG_CONFIG") {
            Some(path) => Raw::from_file(Path::new(&path))?,
            None => Raw::default(),
        };
        raw.apply_env(var)?;
        Ok(Builder { raw, idle: None })
    }

    /// With what the TOML file at `path` says.
    ///
    /// # Errors
    /// As for [`from_env`](Builder::from_env).
    pub fn from_file(path: impl AsRef<Path>) -> Result<Builder, ConfigError> {
        Ok(Builder { raw: Raw::from_file(path.as_ref())?, idle: None })
    }

    /// The device, by its spec: `tap:<interface>`, `memory:<link>`, `dpdk:<port>`. Default:
    /// `kernel`, the host's own sockets; addresses, gateways, MAC and MTU are the host's then,
    /// and those set here are ignored.
    pub fn device(mut self, spec: impl Into<String>) -> Builder {
        self.raw.device = Some(spec.into());
        self
    }

    /// Adds an address with its prefix, as in `10.0.0.2/24` or `fd00::2/64`. The first of a
    /// family is the source of outgoing connections.
    pub fn address(mut self, cidr: impl Into<String>) -> Builder {
        self.raw.address.push(cidr.into());
        self
    }

    /// Gets an IPv4 address and gateway by DHCP (RFC 2131), before the shards begin.
    pub fn dhcp(self) -> Builder {
        self.address("dhcp")
    }

    /// The default gateway, one of each family at most.
    pub fn gateway(mut self, gateway: IpAddr) -> Builder {
        self.raw.gateway.push(gateway.to_string());
        self
    }

    /// The interface's MAC address, where the device can change it.
    pub fn mac(mut self, mac: impl Into<String>) -> Builder {
        self.raw.mac = Some(mac.into());
        self
    }

    /// The largest IP packet, 1280 to 9000 bytes, where the device can change it.
    pub fn mtu(mut self, mtu: usize) -> Builder {
        self.raw.mtu = Some(mtu);
        self
    }

    /// How many shards, each a thread with its own queue. Default: as many as `cores`, else
    /// as the machine has.
    pub fn shards(mut self, shards: usize) -> Builder {
        self.raw.shards = Some(shards);
        self
    }

    /// The cores to pin the shards to, the first for shard 0. Default: not pinned.
    pub fn cores(mut self, cores: Vec<usize>) -> Builder {
        self.raw.cores = cores;
        self
    }

    /// What a shard does when there is nothing to do. Default: on `dpdk` it polls, on other
    /// devices it is adaptive.
    pub fn idle(mut self, idle: IdlePolicy) -> Builder {
        self.idle = Some(idle);
        self
    }

    /// Adds a name server, asked at port 53 or the one of `10.0.0.53:5353`. With any, DHCP's
    /// and those of resolv.conf are not asked.
    pub fn nameserver(mut self, server: impl Into<String>) -> Builder {
        self.raw.nameserver.push(server.into());
        self
    }

    /// The file to read as resolv.conf(5). Default: `/etc/resolv.conf`.
    pub fn resolv_conf(mut self, path: impl Into<PathBuf>) -> Builder {
        self.raw.resolv_conf = Some(path.into());
        self
    }

    /// The file to read as hosts(5). Default: `/etc/hosts`.
    pub fn hosts(mut self, path: impl Into<PathBuf>) -> Builder {
        self.raw.hosts = Some(path.into());
        self
    }

    /// Gives the host's kernel what comes in and is not for us, by a TAP with this name (1 to
    /// 15 bytes) that has the port's MAC address, and sends what comes back from it: ssh, routing
    /// daemons and everything else of the host's share the port. Give the interface addresses
    /// with `ip addr add`; they must not be ours, unless they are
    /// [shared](Builder::share_addresses); the link-local one of IPv6, which follows from the
    /// MAC address, always is. Needs CAP_NET_ADMIN. The host itself does not reach our
    /// addresses by it. Ignored on `kernel`.
    pub fn exception(mut self, interface: impl Into<String>) -> Builder {
        self.raw.exception = Some(interface.into());
        self
    }

    /// Lets the exception path's interface have our addresses, too: TCP segments and UDP
    /// datagrams for which there is no socket of ours, and ICMP but echo requests, go to the
    /// kernel, which then also answers them with RST or port unreachable. Ports that both sides choose
    /// for outgoing connections may collide; then the connection is ours.
    pub fn share_addresses(mut self, shared: bool) -> Builder {
        self.raw.exception_shared = shared;
        self
    }

    /// How TCP connections react to congestion, unless a listener, socket or stream says
    /// otherwise. Default: CUBIC; on `kernel` what the host says. There a control that the host
    /// lacks has `bind` and `connect` fail with `Unsupported`.
    pub fn congestion(mut self, control: CongestionControl) -> Builder {
        let name = match control {
            CongestionControl::Cubic => "cubic",
            CongestionControl::NewReno => "newreno",
        };
        self.raw.congestion = Some(name.into());
        self
    }

    /// Whether TCP connections spread what the congestion window allows over the round trip,
    /// where that takes a millisecond or more. Default: they do. Ignored on `kernel`.
    pub fn pacing(mut self, pacing: bool) -> Builder {
        self.raw.pacing = Some(pacing);
        self
    }

    /// Whether TCP connections use explicit congestion notification (RFC 3168): none, those
    /// whose peer asks for it (the default), or those and ours, which ask. Ignored on `kernel`,
    /// where the host says.
    pub fn ecn(mut self, ecn: Ecn) -> Builder {
        let name = match ecn {
            Ecn::Off => "off",
            Ecn::Passive => "passive",
            Ecn::On => "on",
        };
        self.raw.ecn = Some(name.into());
        self
    }

    /// Whether a TCP connection whose long segments vanish tries shorter ones, after three
    /// timeouts. Default: it does. Ignored on `kernel`, where the host says.
    pub fn black_hole_detection(mut self, detect: bool) -> Builder {
        self.raw.black_hole_detection = Some(detect);
        self
    }

    /// Whether a client whose handshake finds a listener's backlog full is reset. Default: it is
    /// not, and what it sends waits until there is a place. Ignored on `kernel`, where the host
    /// says.
    pub fn abort_on_overflow(mut self, abort: bool) -> Builder {
        self.raw.abort_on_overflow = abort;
        self
    }

    /// Bytes of memory for connections and tasks, of all shards together, that are touched before the shards
    /// begin and kept while they run, rounded up to 2 MiB: as long as some are left no shard waits for memory
    /// when connections come by the thousand. That takes milliseconds in a virtual machine whose hypervisor gives
    /// memory when it is first touched. Reckon with 400 bytes for each idle connection and its task, and 32 MiB.
    /// Costs that memory from the start on, and 0.1 s a GB to start, or 5 s in such a machine. Beyond it memory
    /// comes as it is needed; buffers of data on its way are not in it. With several memory nodes it is on that
    /// of the thread that calls [`run`](Builder::run). Default: 0.
    pub fn preallocate(mut self, bytes: u64) -> Builder {
        self.raw.preallocate = bytes;
        self
    }

    /// The bounds of each shard.
    pub fn limits(mut self, limits: Limits) -> Builder {
        self.raw.limits = limits;
        self
    }

    /// Opens the device, starts the shards and runs `main` on each of them. Returns what
    /// each returned, by shard, when all have. When a shard's `main` has returned, what its
    /// connections have queued is sent, for at most a second; then tasks that still run are
    /// dropped. A graceful end of a server is the server's: stop accepting, wait, return.
    ///
    /// # Errors
    /// `InvalidInput` for a setting (see [`ConfigError`]), `OutOfMemory` where there is not as much as is to be
    /// [preallocated](Builder::preallocate), whatever opening the device
    /// says, `TimedOut` without a DHCP lease in 30 s, and a panic of `main`.
    pub fn run<F, Fut>(self, main: F) -> io::Result<Vec<Fut::Output>>
    where
        F: Fn(ShardId) -> Fut + Send + Sync,
        Fut: Future + 'static,
        Fut::Output: Send + 'static,
    {
        let machine_cores = available_parallelism().map_or(1, |cores| cores.get());
        let mut settings = self.raw.settings(machine_cores)?;
        if let Some(idle) = self.idle {
            settings.idle = idle;
        }
        let config = throng_runtime::Config {
            shards: settings.shards,
            cores: settings.cores.clone(),
            idle: settings.idle,
            max_tasks: settings.limits.tasks,
            preallocate: settings.preallocate,
            ..throng_runtime::Config::default()
        };
        if settings.device.backend == Backend::Kernel {
            if !settings.addresses.is_empty() || settings.dhcp {
                tracing::debug!("device kernel: the addresses are the host's");
            }
            return run(config, main, |_| {
                let reactor = Rc::new(Reactor::new()?);
                reactor.set_congestion(settings.congestion);
                let names = Resolver::new(settings.names.clone(), &secret()?);
                local::set(Rc::new(Network::host(reactor.clone(), names)));
                Ok(Box::new(KernelDriver::new(reactor)))
            });
        }
        let mut options = OpenOptions {
            mac: settings.mac,
            buffers: settings.limits.packet_buffers,
            ..OpenOptions::default()
        };
        options.mtu = settings.mtu.unwrap_or(options.mtu);
        let devices = open(&settings.device, settings.shards, &options)?;
        let Some(first) = devices.first() else {
            return Err(io::Error::other("the device has no queue"));
        };
        let caps = first.capabilities();
        let exceptions = settings.exception_devices(caps)?;
        let steering = PortSteering::new(&caps.name, &caps.rss, settings.shards as u16);
        let ports = Mesh::new(settings.shards, settings.limits.mesh);
        let parts = devices.into_iter().zip(exceptions).zip(ports);
        let slots: Vec<_> = parts.map(|parts| Mutex::new(Some(parts))).collect();
        run(config, main, |shard| {
            let slot = slots[usize::from(shard.0)].lock();
            let parts = slot.ok().and_then(|mut slot| slot.take());
            let Some(((device, exception), port)) = parts else {
                return Err(io::Error::other("this shard has been started before"));
            };
            let secret = secret()?;
            let names = Resolver::new(settings.names.clone(), &secret);
            let stack = Rc::new(RefCell::new(Stack::new(Setup {
                shard,
                shards: settings.shards,
                device,
                exception,
                steering: steering.shard(shard),
                port,
                unparkers: (0..settings.shards).map(|i| unparker(ShardId(i as u16))).collect(),
                addresses: settings.addresses.clone(),
                gateways: settings.gateways.clone(),
                dhcp: settings.dhcp,
                tcp: settings.tcp(),
                secret,
                max_neighbors: settings.limits.neighbors,
                udp_queue_bytes: settings.limits.udp_queue,
                now: throng_runtime::now(),
            })));
            let network = Rc::new(Network::bypass(stack.clone(), false, names));
            local::set(network.clone());
            Ok(Box::new(StackDriver::new(stack, network)))
        })
    }
}

/// What a shard's numbers grow from.
fn secret() -> io::Result<[u8; 32]> {
    let mut secret = [0u8; 32];
    getrandom::fill(&mut secret).map_err(io::Error::other)?;
    Ok(secret)
}

/// Runs `main` on shards with the drivers of `make_driver`.
fn run<F, Fut>(
    config: throng_runtime::Config,
    main: F,
    make_driver: impl Fn(ShardId) -> io::Result<Box<dyn Driver>> + Send + Sync,
) -> io::Result<Vec<Fut::Output>>
where
    F: Fn(ShardId) -> Fut + Send + Sync,
    Fut: Future + 'static,
    Fut::Output: Send + 'static,
{
    let outcomes = throng_runtime::run(config, make_driver, |shard| {
        // The future may not borrow `main`: it is made when the network is there.
        let main = main(shard);
        async move {
            let network = crate::local::network()?;
            if let Some(stack) = network.stack() {
                wait_configured(stack).await?;
            }
            let output = main.await;
            drain(&network).await;
            Ok(output)
        }
    })?;
    outcomes.into_iter().collect()
}

impl Settings {
    /// The exception path's queue of each shard.
    fn exception_devices(&self, port: &Capabilities) -> io::Result<Vec<Option<Exception>>> {
        let Some(interface) = &self.exception else {
            return Ok((0..self.shards).map(|_| None).collect());
        };
        let options = tap::Options {
            mtu: port.mtu,
            mac: Some(port.mac),
            kernel_mac: Some(port.mac),
            buffers: self.limits.packet_buffers,
            offload: true,
            receive_offload: false,
        };
        let queues = tap::open(interface, self.shards, &options)?;
        let with = |queue| Some(Exception::new(Box::new(queue), self.exception_shared));
        Ok(queues.into_iter().map(with).collect())
    }

    fn tcp(&self) -> tcp::Config {
        tcp::Config {
            mss_v4: u16::MAX,
            mss_v6: u16::MAX,
            send_buffer: self.limits.send_buffer,
            initial_send_buffer: self.limits.initial_send_buffer,
            recv_buffer: self.limits.receive_buffer,
            initial_recv_buffer: self.limits.initial_receive_buffer,
            send_memory: self.limits.send_memory,
            recv_memory: self.limits.receive_memory,
            max_connections: self.limits.connections,
            max_half_open: self.limits.half_open,
            max_time_wait: self.limits.time_wait,
            max_orphans: self.limits.orphans,
            congestion: self.congestion.unwrap_or_default(),
            pacing: self.pacing,
            ecn: self.ecn,
            black_hole_detection: self.black_hole_detection,
            abort_on_overflow: self.abort_on_overflow,
            ..tcp::Config::default()
        }
    }
}

async fn wait_configured(stack: &SharedStack) -> io::Result<()> {
    let configured = poll_fn(|cx| match stack.borrow_mut().poll_configured(cx) {
        true => Poll::Ready(()),
        false => Poll::Pending,
    });
    timeout(DHCP_PATIENCE, configured).await.map_err(|_| {
        io::Error::new(io::ErrorKind::TimedOut, "no DHCP lease in 30 s; is there a server?")
    })
}

/// Gives closed connections the time to send what they had queued.
async fn drain(network: &Network) {
    let patience = throng_runtime::now() + Duration::from_secs(1);
    let left = || {
        network.stack().is_some_and(|stack| stack.borrow().engine.usage().send_memory > 0)
            || network.reactor().is_some_and(|host| host.orphans() > 0)
    };
    while left() && throng_runtime::now() < patience {
        throng_runtime::sleep(Duration::from_millis(1)).await;
    }
}
