//! Device specs: one line of text that names a device and what is wrapped round it.
//!
//! ```text
//! <backend>:<argument>[;<key>=<value>]...
//!
//! memory:web                                     a link inside this process
//! tap:throng0                                    a Linux TAP
//! dpdk:0000:03:00.0                              a PCI device
//! dpdk:net_af_xdp0,iface=v0,start_queue=0+net_af_xdp1,iface=v0,start_queue=1
//! memory:web;rss=toeplitz;latency_us=50
//! ```

use std::fmt;
use std::io;
use std::str::FromStr;
use std::time::Duration;

use smoltcp::wire::EthernetAddress;

use super::Device;
use super::memory::{self, Checksum, Segmentation, Spread};
use super::tap;
use crate::rss::SYMMETRIC_KEY;

/// What a spec opens. [`FromStr`] reads it from text, [`Display`](fmt::Display) writes it.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceSpec {
    /// The device itself.
    pub backend: Backend,
    /// The text it was read from.
    text: String,
}

/// The device behind a spec.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Backend {
    /// `memory:<link>`.
    Memory {
        /// The link's name, shared by its two sides.
        link: String,
        /// How this side behaves.
        link_options: MemoryOptions,
    },
    /// `tap:<interface>`.
    Tap {
        /// The interface's name; it is created when there is none.
        interface: String,
        /// `offload=on|off`: leave checksums and segmentation to the kernel (on).
        offload: bool,
    },
    /// `dpdk:<port>[+<port>]...`.
    Dpdk {
        /// PCI addresses or vdev strings that together are one port: one for all shards, or
        /// one for each.
        ports: Vec<String>,
    },
}

/// The keys of a `memory:` spec.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MemoryOptions {
    /// `checksum=none|fill|trust`.
    pub checksum: Checksum,
    /// `tso=none|cut|whole`.
    pub segmentation: Segmentation,
    /// `rss=none|toeplitz|false`.
    pub spread: Spread,
    /// `latency_us=<microseconds>`.
    pub latency: Duration,
    /// `rate_mbit=<megabits per second>`.
    pub rate: Option<u64>,
}

/// How to open a device, beside what its spec says.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// Largest IP packet in bytes.
    pub mtu: usize,
    /// The port's MAC address; `None`: the device's own or a derived one.
    pub mac: Option<EthernetAddress>,
    /// Packet buffers for each queue.
    pub buffers: usize,
    /// Descriptors of each receive and transmit ring.
    pub ring: usize,
    /// The Toeplitz key to program where the device lets us, repeated or cut to its length.
    pub rss_key: Vec<u8>,
}

impl Default for OpenOptions {
    fn default() -> OpenOptions {
        OpenOptions {
            mtu: 1500,
            mac: None,
            buffers: 4096,
            ring: 1024,
            rss_key: SYMMETRIC_KEY.to_vec(),
        }
    }
}

/// Opens the device, one queue pair for each of `shards` shards (at least one).
///
/// # Errors
/// What the backend reports: a name that does not exist, missing rights, too few queues.
/// `Unsupported` for `dpdk:` in a build without the feature `dpdk`.
pub fn open(
    spec: &DeviceSpec,
    shards: usize,
    options: &OpenOptions,
) -> io::Result<Vec<Box<dyn Device>>> {
    let shards = shards.max(1);
    match &spec.backend {
        Backend::Memory { link, link_options } => {
            let options = memory::Options {
                mtu: options.mtu,
                ring: options.ring,
                buffers: options.buffers,
                checksum: link_options.checksum,
                segmentation: link_options.segmentation,
                spread: link_options.spread,
                key: options.rss_key.clone(),
                report_hash: true,
                latency: link_options.latency,
                rate: link_options.rate,
                mac: options.mac,
            };
            let queues = memory::open(link, shards, options)?;
            Ok(boxed(queues))
        }
        Backend::Tap { interface, offload } => {
            let OpenOptions { mtu, mac, buffers, .. } = *options;
            let options = tap::Options { mtu, buffers, mac, offload: *offload };
            Ok(boxed(tap::open(interface, shards, &options)?))
        }
        Backend::Dpdk { ports } => open_dpdk(ports, shards, options),
    }
}

fn boxed(queues: Vec<impl Device + 'static>) -> Vec<Box<dyn Device>> {
    queues.into_iter().map(|queue| Box::new(queue) as Box<dyn Device>).collect()
}

#[cfg(feature = "dpdk")]
fn open_dpdk(
    ports: &[String],
    shards: usize,
    options: &OpenOptions,
) -> io::Result<Vec<Box<dyn Device>>> {
    super::dpdk::open(ports, shards, options)
}

#[cfg(not(feature = "dpdk"))]
fn open_dpdk(
    ports: &[String],
    _shards: usize,
    _options: &OpenOptions,
) -> io::Result<Vec<Box<dyn Device>>> {
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        format!(
            "device `dpdk:{}`: this program was built without DPDK; build it with `--features \
             dpdk` (Debian: apt install libdpdk-dev)",
            ports.join("+")
        ),
    ))
}

/// What is wrong with a spec.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// There is no such backend.
    #[error(
        "device `{spec}`: no backend `{backend}`; accepted: memory:<link>, tap:<interface>, dpdk:<port>"
    )]
    Backend {
        /// The whole text.
        spec: String,
        /// What stood before the colon.
        backend: String,
    },
    /// The backend's argument is missing or unfit.
    #[error("device `{spec}`: `{value}` is no {wanted}")]
    Argument {
        /// The whole text.
        spec: String,
        /// What stood behind the colon.
        value: String,
        /// What should.
        wanted: &'static str,
    },
    /// A key that this backend does not have, or one without a value.
    #[error("device `{spec}`: no key `{key}`; accepted: {accepted}")]
    Key {
        /// The whole text.
        spec: String,
        /// The key.
        key: String,
        /// The keys there are.
        accepted: String,
    },
    /// A value that the key does not take.
    #[error("device `{spec}`: key `{key}`: value `{value}`; accepted: {accepted}")]
    Value {
        /// The whole text.
        spec: String,
        /// The key.
        key: String,
        /// The value.
        value: String,
        /// The values it takes.
        accepted: &'static str,
    },
}

impl From<SpecError> for io::Error {
    fn from(error: SpecError) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidInput, error)
    }
}

impl fmt::Display for DeviceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

const MEMORY_KEYS: &[&str] = &["checksum", "tso", "rss", "latency_us", "rate_mbit"];

impl FromStr for DeviceSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<DeviceSpec, SpecError> {
        let spec = || text.to_owned();
        let mut parts = text.split(';');
        let device = parts.next().unwrap_or_default();
        let (name, argument) = device.split_once(':').unwrap_or((device, ""));
        let unfit = |wanted| SpecError::Argument { spec: spec(), value: argument.into(), wanted };
        let mut backend = match name {
            "memory" if argument.is_empty() => return Err(unfit("link name")),
            "memory" => Backend::Memory {
                link: argument.to_owned(),
                link_options: MemoryOptions::default(),
            },
            "tap" if argument.is_empty() || argument.len() > 15 => {
                return Err(unfit("interface name (1 to 15 bytes)"));
            }
            "tap" => Backend::Tap { interface: argument.to_owned(), offload: true },
            "dpdk" => {
                let ports: Vec<String> = argument.split('+').map(str::to_owned).collect();
                if ports.iter().any(String::is_empty) {
                    return Err(unfit("PCI address or vdev string"));
                }
                Backend::Dpdk { ports }
            }
            _ => return Err(SpecError::Backend { spec: spec(), backend: name.to_owned() }),
        };
        for part in parts.filter(|part| !part.is_empty()) {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            let known = match &mut backend {
                Backend::Memory { link_options, .. } => memory_key(link_options, key, value),
                Backend::Tap { offload, .. } if key == "offload" => on_or_off(value).map(|on| {
                    *offload = on;
                    true
                }),
                _ => Ok(false),
            };
            match known {
                Ok(true) => {}
                Ok(false) => {
                    let own = match &backend {
                        Backend::Memory { .. } => MEMORY_KEYS,
                        Backend::Tap { .. } => &["offload"],
                        _ => &[],
                    };
                    let accepted = own.join(", ");
                    return Err(SpecError::Key { spec: spec(), key: key.into(), accepted });
                }
                Err(accepted) => {
                    let (key, value) = (key.to_owned(), value.to_owned());
                    return Err(SpecError::Value { spec: spec(), key, value, accepted });
                }
            }
        }
        Ok(DeviceSpec { backend, text: spec() })
    }
}

/// Sets a key of `memory:`. `Ok(false)`: it has no such key; `Err`: what the key takes.
fn memory_key(options: &mut MemoryOptions, key: &str, value: &str) -> Result<bool, &'static str> {
    match key {
        "checksum" => {
            options.checksum = match value {
                "none" => Checksum::None,
                "fill" => Checksum::Fill,
                "trust" => Checksum::Trust,
                _ => return Err("none, fill, trust"),
            }
        }
        "tso" => {
            options.segmentation = match value {
                "none" => Segmentation::None,
                "cut" => Segmentation::Cut,
                "whole" => Segmentation::Whole,
                _ => return Err("none, cut, whole"),
            }
        }
        "rss" => {
            options.spread = match value {
                "none" => Spread::SameQueue,
                "toeplitz" => Spread::Rss,
                "false" => Spread::FalseRss,
                _ => return Err("none, toeplitz, false"),
            }
        }
        "latency_us" => options.latency = Duration::from_micros(number(value)?),
        "rate_mbit" => {
            let megabits = number(value)?;
            if megabits == 0 {
                return Err("a whole number from 1");
            }
            options.rate = Some(megabits.saturating_mul(1_000_000));
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn on_or_off(value: &str) -> Result<bool, &'static str> {
    match value {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("on, off"),
    }
}

fn number(value: &str) -> Result<u64, &'static str> {
    value.parse().map_err(|_| "a whole number from 0")
}
