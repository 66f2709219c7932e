//! Settings: from code, from the environment, from a TOML file, all the same ones.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use smoltcp::wire::{EthernetAddress, IpCidr};
use throng_runtime::IdlePolicy;

use crate::device::spec::{Backend, DeviceSpec};
use crate::resolver;
use crate::tcp::{CongestionControl, Ecn};

/// What is wrong with a setting.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A value that does not fit its key.
    #[error("{key} = {value:?}: {accepted}")]
    Value {
        /// The key, or the environment variable.
        key: String,
        /// What was given.
        value: String,
        /// What would be accepted.
        accepted: String,
    },
    /// A setting that has no default is missing.
    #[error("{key} is missing: {accepted}")]
    Missing {
        /// The key.
        key: &'static str,
        /// What would be accepted.
        accepted: &'static str,
    },
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The file is not what it should be; the message has line, key and value.
    #[error("{}: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
}

impl From<ConfigError> for io::Error {
    fn from(error: ConfigError) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidInput, error)
    }
}

/// The bounds of a shard. Reaching one has a defined answer, given with each.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Limits {
    /// TCP connections; beyond it SYNs are dropped and `connect` fails with `QuotaExceeded`.
    /// Default 1,048,576.
    pub connections: usize,
    /// Handshakes under way; beyond it SYNs are answered with cookies (RFC 4987 3.6). Default
    /// 65,536.
    pub half_open: usize,
    /// Connections in TIME_WAIT; beyond it the oldest ends early. Default 262,144.
    pub time_wait: usize,
    /// Connections that were closed and are not at their end, TIME_WAIT not counted; beyond it a
    /// close is a reset. Default 262,144.
    pub orphans: usize,
    /// Bytes one connection may queue for sending, at most; beyond two congestion windows, or
    /// this, writes wait. Default 4 MiB.
    pub send_buffer: u32,
    /// Bytes any connection may queue for sending, and all that a connection may while more than
    /// half of `send_memory` is used. Default 256 KiB.
    pub initial_send_buffer: u32,
    /// Bytes one connection may have received and not read, at most; beyond it the window is
    /// shut. The window grows to it while the reader keeps up and less than half of
    /// `receive_memory` is used. Default 6 MiB.
    pub receive_buffer: u32,
    /// The receive window that a connection begins with. Default 64 KiB.
    pub initial_receive_buffer: u32,
    /// Bytes all connections of a shard may queue for sending; beyond it writes wait, but for a
    /// segment of a connection that has nothing queued.
    /// Default 256 MiB.
    pub send_memory: u64,
    /// Bytes all connections of a shard may have received and not read; towards it windows
    /// shrink, beyond it segments are dropped. Default 256 MiB.
    pub receive_memory: u64,
    /// Packet buffers of a shard's queue pair; without a free one frames are dropped on
    /// receive and kept back on transmit. Default 8,192.
    pub packet_buffers: usize,
    /// Tasks; beyond it `try_spawn_local` fails. Default 2,097,152.
    pub tasks: usize,
    /// Neighbours; beyond it packets to new ones are dropped. Default 4,096.
    pub neighbors: usize,
    /// Bytes a UDP socket queues; beyond it datagrams are dropped. Default 1 MiB.
    pub udp_queue: usize,
    /// Messages on their way between two shards; beyond it frames are dropped. Default 1,024.
    pub mesh: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 1 << 20,
            half_open: 1 << 16,
            time_wait: 1 << 18,
            orphans: 1 << 18,
            send_buffer: 4 << 20,
            initial_send_buffer: 256 << 10,
            receive_buffer: 6 << 20,
            initial_receive_buffer: 64 << 10,
            send_memory: 256 << 20,
            receive_memory: 256 << 20,
            packet_buffers: 8_192,
            tasks: 1 << 21,
            neighbors: 4_096,
            udp_queue: 1 << 20,
            mesh: 1_024,
        }
    }
}

/// The settings as they are written, keys of the file and of the environment.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Raw {
    pub(crate) device: Option<String>,
    pub(crate) address: Vec<String>,
    pub(crate) gateway: Vec<String>,
    pub(crate) mac: Option<String>,
    pub(crate) mtu: Option<usize>,
    pub(crate) shards: Option<usize>,
    pub(crate) cores: Vec<usize>,
    pub(crate) idle: Option<String>,
    pub(crate) nameserver: Vec<String>,
    pub(crate) resolv_conf: Option<PathBuf>,
    pub(crate) hosts: Option<PathBuf>,
    pub(crate) exception: Option<String>,
    pub(crate) exception_shared: bool,
    pub(crate) congestion: Option<String>,
    pub(crate) pacing: Option<bool>,
    pub(crate) ecn: Option<String>,
    pub(crate) black_hole_detection: Option<bool>,
    pub(crate) abort_on_overflow: bool,
    pub(crate) preallocate: u64,
    pub(crate) limits: Limits,
}

/// The settings, understood.
pub(crate) struct Settings {
    pub(crate) device: DeviceSpec,
    pub(crate) addresses: Vec<IpCidr>,
    pub(crate) gateways: Vec<IpAddr>,
    pub(crate) dhcp: bool,
    pub(crate) mac: Option<EthernetAddress>,
    pub(crate) mtu: Option<usize>,
    pub(crate) shards: usize,
    pub(crate) cores: Option<Vec<usize>>,
    pub(crate) idle: IdlePolicy,
    pub(crate) names: resolver::Config,
    /// The interface of the exception path.
    pub(crate) exception: Option<String>,
    pub(crate) exception_shared: bool,
    pub(crate) congestion: Option<CongestionControl>,
    pub(crate) pacing: bool,
    pub(crate) ecn: Ecn,
    pub(crate) black_hole_detection: bool,
    pub(crate) abort_on_overflow: bool,
    pub(crate) preallocate: usize,
    pub(crate) limits: Limits,
}

impl Raw {
    pub(crate) fn from_file(path: &Path) -> Result<Raw, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::File { path: path.to_owned(), source })?;
        toml::from_str(&text).map_err(|error| ConfigError::Syntax {
            path: path.to_owned(),
            message: error.to_string(),
        })
    }

    /// Lets the variables that `var` knows override what is there.
    pub(crate) fn apply_env(
        &mut self,
        var: impl Fn(&str) -> Option<String>,
    ) -> Result<(), ConfigError> {
        let list = |text: String| -> Vec<String> {
            text.split(',').map(|item| item.trim().to_owned()).filter(|i| !i.is_empty()).collect()
        };
        if let Some(device) = var("THRONG_DEVICE") {
            self.device = Some(device);
        }
        if let Some(address) = var("THRONG_ADDRESS") {
            self.address = list(address);
        }
        if let Some(gateway) = var("THRONG_GATEWAY") {
            self.gateway = list(gateway);
        }
        if let Some(mac) = var("THRONG_MAC") {
            self.mac = Some(mac);
        }
        if let Some(mtu) = var("THRONG_MTU") {
            self.mtu = Some(parse("THRONG_MTU", &mtu, "a number of bytes")?);
        }
        if let Some(shards) = var("THRONG_SHARDS") {
            self.shards = Some(parse("THRONG_SHARDS", &shards, "a number of threads")?);
        }
        if let Some(cores) = var("THRONG_CORES") {
            let cores = list(cores);
            let core = |text: &String| parse("THRONG_CORES", text, "core numbers, as in 0,1,2");
            self.cores = cores.iter().map(core).collect::<Result<_, _>>()?;
        }
        if let Some(idle) = var("THRONG_IDLE") {
            self.idle = Some(idle);
        }
        if let Some(nameserver) = var("THRONG_NAMESERVER") {
            self.nameserver = list(nameserver);
        }
        if let Some(path) = var("THRONG_RESOLV_CONF") {
            self.resolv_conf = Some(path.into());
        }
        if let Some(path) = var("THRONG_HOSTS") {
            self.hosts = Some(path.into());
        }
        if let Some(exception) = var("THRONG_EXCEPTION") {
            self.exception = Some(exception);
        }
        if let Some(shared) = var("THRONG_EXCEPTION_SHARED") {
            self.exception_shared = parse("THRONG_EXCEPTION_SHARED", &shared, "true or false")?;
        }
        if let Some(congestion) = var("THRONG_CONGESTION") {
            self.congestion = Some(congestion);
        }
        if let Some(pacing) = var("THRONG_PACING") {
            self.pacing = Some(parse("THRONG_PACING", &pacing, "true or false")?);
        }
        if let Some(ecn) = var("THRONG_ECN") {
            self.ecn = Some(ecn);
        }
        if let Some(detect) = var("THRONG_BLACK_HOLE_DETECTION") {
            let detect = parse("THRONG_BLACK_HOLE_DETECTION", &detect, "true or false")?;
            self.black_hole_detection = Some(detect);
        }
        if let Some(abort) = var("THRONG_ABORT_ON_OVERFLOW") {
            self.abort_on_overflow = parse("THRONG_ABORT_ON_OVERFLOW", &abort, "true or false")?;
        }
        if let Some(bytes) = var("THRONG_PREALLOCATE") {
            self.preallocate = parse("THRONG_PREALLOCATE", &bytes, "a number of bytes")?;
        }
        Ok(())
    }

    /// Reads the values. `cores` is how many this machine has.
    pub(crate) fn settings(&self, machine_cores: usize) -> Result<Settings, ConfigError> {
        // Without a device sockets are the host's, and so are addresses: one given here was
        // meant for a device.
        let device = match self.device.as_deref() {
            None if !self.address.is_empty() => {
                return Err(ConfigError::Missing {
                    key: "device",
                    accepted: "tap:<interface>, memory:<link>, dpdk:<PCI address or vdev>, or \
                               kernel, where the addresses are the host's",
                });
            }
            device => device.unwrap_or("kernel"),
        };
        let device = device.parse::<DeviceSpec>().map_err(|error| ConfigError::Value {
            key: "device".into(),
            value: device.into(),
            accepted: error.to_string(),
        })?;
        let dhcp = self.address.iter().any(|address| address == "dhcp");
        let addresses = self
            .address
            .iter()
            .filter(|address| *address != "dhcp")
            .map(|text| {
                let accepted = "an address with its prefix, as in 10.0.0.2/24, or dhcp";
                let cidr = smol(text.parse::<IpCidr>(), "address", text, accepted)?;
                let ip = IpAddr::from(cidr.address());
                if ip.is_unspecified() || ip.is_multicast() || ip.is_loopback() {
                    return Err(value("address", text, "a unicast address of this host"));
                }
                Ok(cidr)
            })
            .collect::<Result<Vec<_>, _>>()?;
        let kernel = device.backend == Backend::Kernel;
        if addresses.is_empty() && !dhcp && !kernel {
            return Err(ConfigError::Missing {
                key: "address",
                accepted: "addresses with their prefixes, as in 10.0.0.2/24, or dhcp",
            });
        }
        let gateways = self
            .gateway
            .iter()
            .map(|text| parse("gateway", text, "an IP address, one of each family at most"))
            .collect::<Result<Vec<IpAddr>, _>>()?;
        for (i, gateway) in gateways.iter().enumerate() {
            if gateways[..i].iter().any(|other| other.is_ipv4() == gateway.is_ipv4()) {
                let accepted = "one gateway of each family at most";
                return Err(value("gateway", &gateway.to_string(), accepted));
            }
        }
        let mac = self.mac.as_deref().map(|text| {
            let mac = smol(text.parse(), "mac", text, "an address as in 02:00:00:00:00:01")?;
            match EthernetAddress::is_unicast(&mac) {
                true => Ok(mac),
                false => Err(value("mac", text, "a unicast address")),
            }
        });
        let mtu = match self.mtu {
            Some(mtu) if !(1_280..=9_000).contains(&mtu) => {
                // RFC 8200 5: IPv6 needs 1280.
                return Err(value("mtu", &mtu.to_string(), "1280 to 9000 bytes"));
            }
            mtu => mtu,
        };
        let cores = (!self.cores.is_empty()).then(|| self.cores.clone());
        let shards = self.shards.or(cores.as_ref().map(Vec::len)).unwrap_or(machine_cores);
        if !(1..=256).contains(&shards) {
            return Err(value("shards", &shards.to_string(), "1 to 256"));
        }
        if let Some(cores) = cores.as_ref().filter(|cores| cores.len() < shards) {
            let accepted = format!("at least one core for each of the {shards} shards");
            return Err(value("cores", &format!("{cores:?}"), &accepted));
        }
        let idle = match self.idle.as_deref() {
            Some("busy") => IdlePolicy::Busy,
            None if matches!(device.backend, Backend::Dpdk { .. }) => IdlePolicy::Busy,
            None | Some("adaptive") => IdlePolicy::Adaptive {
                spin: Duration::from_micros(20),
                pause: Duration::from_micros(100),
            },
            Some(other) => return Err(value("idle", other, "busy or adaptive")),
        };
        let names = self.names()?;
        if self.exception_shared && self.exception.is_none() {
            let accepted = "the name of the interface that shares the addresses";
            return Err(ConfigError::Missing { key: "exception", accepted });
        }
        let port = match &device.backend {
            Backend::Tap { interface, .. } => Some(interface),
            _ => None,
        };
        if let Some(name) = self.exception.as_ref().filter(|name| port == Some(*name)) {
            return Err(value("exception", name, "another interface than the device's"));
        }
        let congestion = match self.congestion.as_deref() {
            None => None,
            Some("cubic") => Some(CongestionControl::Cubic),
            Some("newreno") => Some(CongestionControl::NewReno),
            Some(other) => return Err(value("congestion", other, "cubic or newreno")),
        };
        let ecn = match self.ecn.as_deref() {
            None | Some("passive") => Ecn::Passive,
            Some("on") => Ecn::On,
            Some("off") => Ecn::Off,
            Some(other) => return Err(value("ecn", other, "off, passive or on")),
        };
        let preallocate = match usize::try_from(self.preallocate) {
            Ok(bytes) if self.preallocate <= 1 << 40 => bytes,
            _ => {
                return Err(value("preallocate", &self.preallocate.to_string(), "0 to 2^40 bytes"));
            }
        };
        let limits = self.limits.clone();
        limits.check()?;
        Ok(Settings {
            device,
            addresses,
            gateways,
            dhcp,
            mac: mac.transpose()?,
            mtu,
            shards,
            cores,
            idle,
            names,
            exception: self.exception.clone(),
            exception_shared: self.exception_shared,
            congestion,
            pacing: self.pacing.unwrap_or(true),
            ecn,
            black_hole_detection: self.black_hole_detection.unwrap_or(true),
            abort_on_overflow: self.abort_on_overflow,
            preallocate,
            limits,
        })
    }

    fn names(&self) -> Result<resolver::Config, ConfigError> {
        let mut names = resolver::Config::default();
        for text in &self.nameserver {
            let accepted = "an address with or without a port, as in 10.0.0.53 or [fd00::53]:53";
            let server = resolver::parse_server(text);
            names.nameservers.push(server.ok_or_else(|| value("nameserver", text, accepted))?);
        }
        if let Some(path) = &self.resolv_conf {
            names.resolv_conf = resolver::Source::File(path.clone());
        }
        if let Some(path) = &self.hosts {
            names.hosts = resolver::Source::File(path.clone());
        }
        Ok(names)
    }
}

impl Limits {
    fn check(&self) -> Result<(), ConfigError> {
        let within = |key: &str, given: u64, low: u64, high: u64| match given {
            given if (low..=high).contains(&given) => Ok(()),
            _ => Err(value(
                &format!("limits.{key}"),
                &given.to_string(),
                &format!("{low} to {high}"),
            )),
        };
        within("connections", self.connections as u64, 1, 1 << 26)?;
        within("half_open", self.half_open as u64, 1, 1 << 24)?;
        within("time_wait", self.time_wait as u64, 1, 1 << 26)?;
        within("orphans", self.orphans as u64, 0, 1 << 26)?;
        within("send_buffer", self.send_buffer.into(), 2_048, 1 << 30)?;
        within("initial_send_buffer", self.initial_send_buffer.into(), 2_048, 1 << 30)?;
        within("initial_receive_buffer", self.initial_receive_buffer.into(), 2_048, 1 << 30)?;
        within("receive_buffer", self.receive_buffer.into(), 2_048, 1 << 30)?;
        within("send_memory", self.send_memory, 65_536, 1 << 40)?;
        within("receive_memory", self.receive_memory, 65_536, 1 << 40)?;
        within("packet_buffers", self.packet_buffers as u64, 512, 1 << 24)?;
        within("tasks", self.tasks as u64, 16, 1 << 28)?;
        within("neighbors", self.neighbors as u64, 2, 1 << 19)?;
        within("udp_queue", self.udp_queue as u64, 66_000, 1 << 30)?;
        within("mesh", self.mesh as u64, 16, 1 << 20)
    }
}

fn value(key: &str, value: &str, accepted: &str) -> ConfigError {
    let accepted = format!("accepted is {accepted}");
    ConfigError::Value { key: key.into(), value: value.into(), accepted }
}

fn parse<T: std::str::FromStr>(key: &str, text: &str, accepted: &str) -> Result<T, ConfigError>
where
    T::Err: fmt::Display,
{
    text.trim().parse().map_err(|_| value(key, text, accepted))
}

/// smoltcp's parse errors say nothing, so they are replaced.
fn smol<T>(parsed: Result<T, ()>, key: &str, text: &str, accepted: &str) -> Result<T, ConfigError> {
    parsed.map_err(|()| value(key, text, accepted))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(toml: &str) -> Raw {
        toml::from_str(toml).unwrap()
    }

    fn error(toml: &str) -> String {
        raw(toml).settings(4).err().expect("an error").to_string()
    }

    #[test]
    fn addresses_are_shared_only_with_an_interface() {
        let said = error("device = 'tap:x'\naddress = ['10.0.0.2/24']\nexception_shared = true\n");
        assert!(said.contains("exception is missing"), "{said}");
        let said = error("device = 'tap:x'\naddress = ['10.0.0.2/24']\nexception = 'x'\n");
        assert!(said.contains("another interface"), "{said}");
        let mut env = Raw::default();
        let bad = env.apply_env(|key| (key == "THRONG_EXCEPTION_SHARED").then(|| "maybe".into()));
        assert!(bad.expect_err("no boolean").to_string().contains("true or false"));
    }

    #[test]
    fn memory_is_preallocated_by_the_byte() {
        let with = |more: &str| format!("device = 'tap:x'\naddress = ['10.0.0.2/24']\n{more}");
        for (text, bytes) in [("", 0), ("preallocate = 400_000_000", 400_000_000)] {
            assert_eq!(raw(&with(text)).settings(4).unwrap().preallocate, bytes);
        }
        let said = error(&with("preallocate = 2_000_000_000_000"));
        assert!(said.contains("preallocate = \"2000000000000\": accepted is 0 to 2^40"), "{said}");
        let mut env = Raw::default();
        env.apply_env(|key| (key == "THRONG_PREALLOCATE").then(|| "2097152".into())).unwrap();
        assert_eq!(env.settings(4).unwrap().preallocate, 2 << 20);
        let bad = env.apply_env(|key| (key == "THRONG_PREALLOCATE").then(|| "2 MiB".into()));
        assert!(bad.expect_err("no number").to_string().contains("a number of bytes"));
    }

    #[test]
    fn ecn_has_three_settings() {
        let with = |more: &str| format!("device = 'tap:x'\naddress = ['10.0.0.2/24']\n{more}");
        for (text, ecn) in [("", Ecn::Passive), ("ecn = 'on'", Ecn::On), ("ecn = 'off'", Ecn::Off)]
        {
            assert_eq!(raw(&with(text)).settings(4).unwrap().ecn, ecn);
        }
        assert!(error(&with("ecn = 'maybe'")).contains("off, passive or on"));
        let mut env = Raw::default();
        let set = |key: &str| match key {
            "THRONG_ECN" => Some("on".to_owned()),
            "THRONG_BLACK_HOLE_DETECTION" => Some("false".to_owned()),
            _ => None,
        };
        env.apply_env(set).unwrap();
        let settings = env.settings(4).unwrap();
        assert_eq!((settings.ecn, settings.black_hole_detection), (Ecn::On, false));
    }

    #[test]
    fn the_file_of_the_deployment_guide_is_accepted() {
        let guide = include_str!("../../docs/DEPLOYING.md");
        let (_, from) = guide.split_once("```toml\n").expect("a file");
        let (file, _) = from.split_once("```").expect("its end");
        let settings = raw(file).settings(8).unwrap();
        assert_eq!(settings.shards, 4);
        assert_eq!(settings.limits.packet_buffers, 16_384);
    }

    #[test]
    fn a_file_and_the_environment_say_the_same() {
        let file = raw(
            "device = 'memory:x'\naddress = ['10.0.0.2/24', 'fd00::2/64']\ngateway = ['10.0.0.1']\n\
             shards = 2\ncores = [1, 3]\nidle = 'adaptive'\ncongestion = 'newreno'\npacing = false\nnameserver = ['10.0.0.53', '[fd00::53]:54']\n\
             resolv_conf = '/r'\nhosts = '/h'\n[limits]\nconnections = 77\n",
        );
        let mut env = Raw::default();
        env.apply_env(|key| {
            let text = match key {
                "THRONG_DEVICE" => "memory:x",
                "THRONG_ADDRESS" => "10.0.0.2/24, fd00::2/64",
                "THRONG_GATEWAY" => "10.0.0.1",
                "THRONG_SHARDS" => "2",
                "THRONG_CORES" => "1,3",
                "THRONG_NAMESERVER" => "10.0.0.53:53,[fd00::53]:54",
                "THRONG_RESOLV_CONF" => "/r",
                "THRONG_HOSTS" => "/h",
                "THRONG_IDLE" => "adaptive",
                "THRONG_CONGESTION" => "newreno",
                "THRONG_PACING" => "false",
                _ => return None,
            };
            Some(text.to_owned())
        })
        .unwrap();
        let (file, env) = (file.settings(4).unwrap(), env.settings(4).unwrap());
        assert_eq!(file.limits.connections, 77);
        assert_eq!(file.addresses, env.addresses);
        assert_eq!(file.gateways, env.gateways);
        assert_eq!((file.shards, &file.cores), (env.shards, &env.cores));
        assert_eq!(file.device, env.device);
        assert_eq!(file.names, env.names);
        assert_eq!((file.congestion, file.pacing), (Some(CongestionControl::NewReno), false));
        assert_eq!((env.congestion, env.pacing), (file.congestion, file.pacing));
        assert_eq!(file.names.nameservers.len(), 2);
    }

    #[test]
    fn an_error_names_key_value_and_what_is_accepted() {
        let base = "device = 'memory:x'\n";
        assert!(error("address = ['10.0.0.2/24']").contains("device is missing"));
        assert!(error(base).contains("address is missing"));
        for (line, parts) in [
            ("address = ['10.0.0.300/24']", ["address", "10.0.0.300/24", "10.0.0.2/24"]),
            ("address = ['224.0.0.1/24']", ["address", "224.0.0.1/24", "unicast"]),
            ("address = ['10.0.0.2/24']\ngateway = ['x']", ["gateway", "\"x\"", "IP address"]),
            ("address = ['10.0.0.2/24']\nmtu = 100", ["mtu", "100", "1280"]),
            ("address = ['10.0.0.2/24']\nshards = 0", ["shards", "0", "1 to 256"]),
            ("address = ['10.0.0.2/24']\nshards = 2\ncores = [0]", ["cores", "[0]", "2 shards"]),
            ("address = ['10.0.0.2/24']\nnameserver = ['dns']", ["nameserver", "dns", "10.0.0.53"]),
            ("address = ['10.0.0.2/24']\nidle = 'lazy'", ["idle", "lazy", "adaptive"]),
            (
                "address = ['10.0.0.2/24']\ncongestion = 'bbr'",
                ["congestion", "bbr", "cubic or newreno"],
            ),
            ("address = ['10.0.0.2/24']\nmac = '01:00:00:00:00:00'", ["mac", "01:00", "unicast"]),
            (
                "address = ['10.0.0.2/24']\n[limits]\nmesh = 1",
                ["limits.mesh", "\"1\"", "16 to 1048576"],
            ),
        ] {
            let text = error(&format!("{base}{line}\n"));
            assert!(parts.iter().all(|part| text.contains(part)), "{text}");
        }
        let text = toml::from_str::<Raw>("devise = 'x'").unwrap_err().to_string();
        assert!(text.contains("devise") && text.contains("device"), "{text}");
    }
}
