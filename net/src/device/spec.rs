//! Device specs: one line of text that names a device and what is wrapped round it.
//!
//! ```text
//! <backend>:<argument>[;<key>=<value>]...
//!
//! memory:web                                     a link inside this process
//! tap:throng0                                    a Linux TAP
//! kernel                                         not a device: the host's own sockets
//! dpdk:0000:03:00.0                              a PCI device
//! dpdk:net_af_xdp0,iface=v0,start_queue=0+net_af_xdp1,iface=v0,start_queue=1
//! memory:web;loss=0.01;delay_us=500;seed=7;pcap=/tmp/web.pcapng
//! ```
//!
//! | keys | of | meaning |
//! |---|---|---|
//! | `checksum=none\|fill\|trust`, `tso=none\|cut\|whole`, `rss=none\|toeplitz\|false` | `memory:` | what the link claims ([`memory::Options`]) |
//! | `offload=on\|off` | `tap:` | checksums and segmentation left to the kernel |
//! | `loss`, `burst`, `duplicate`, `reorder`, `corrupt` | any | probabilities, 0 to 1 ([`Impairments`]) |
//! | `burst_length`, `reorder_us`, `delay_us`, `jitter_us`, `rate_mbit`, `queue` | any | the shape of these faults |
//! | `faults=both\|send\|receive`, `seed` | any | the direction they hit, and what decides them |
//! | `pcap`, `pcap_limit_mib` | any | file to write all frames to, outside the faults, and its size limit |

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use smoltcp::wire::EthernetAddress;

use super::Device;
use super::faults::{self, Faults, Impairments};
use super::memory::{self, Checksum, Segmentation, Spread};
use super::{pcap, tap};
use crate::rss::SYMMETRIC_KEY;

/// What a spec opens. [`FromStr`] reads it from text, [`Display`](fmt::Display) writes it.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceSpec {
    /// The device itself.
    pub backend: Backend,
    /// What goes wrong on it; `None`: nothing is added.
    pub faults: Option<Faults>,
    /// Where its frames are written down.
    pub pcap: Option<PathBuf>,
    /// Limit of that file in bytes.
    pub pcap_limit: u64,
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
    /// `kernel`: no device, the host's own sockets. Takes no argument and no keys.
    Kernel,
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
    /// Descriptors of each receive and transmit ring. A ring of a `dpdk:` port is no longer than
    /// a quarter of `buffers`, so that rings alone cannot hold them all.
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
/// `Unsupported` for `dpdk:` in a build without the feature `dpdk`, and for `kernel`, which
/// has no packets.
pub fn open(
    spec: &DeviceSpec,
    shards: usize,
    options: &OpenOptions,
) -> io::Result<Vec<Box<dyn Device>>> {
    let mut queues = open_backend(&spec.backend, shards.max(1), options)?;
    if let Some(faults) = &spec.faults {
        queues = faults::wrap(queues, faults);
    }
    if let Some(path) = &spec.pcap {
        let options = pcap::Options { limit: spec.pcap_limit, ..pcap::Options::default() };
        queues = pcap::Capture::create(path, options)?.wrap(queues);
    }
    Ok(queues)
}

fn open_backend(
    backend: &Backend,
    shards: usize,
    options: &OpenOptions,
) -> io::Result<Vec<Box<dyn Device>>> {
    match backend {
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
                mac: options.mac,
                ..memory::Options::default()
            };
            let queues = memory::open(link, shards, options)?;
            Ok(boxed(queues))
        }
        Backend::Tap { interface, offload } => {
            let OpenOptions { mtu, mac, buffers, .. } = *options;
            let options =
                tap::Options { mtu, buffers, mac, offload: *offload, ..tap::Options::default() };
            Ok(boxed(tap::open(interface, shards, &options)?))
        }
        Backend::Dpdk { ports } => open_dpdk(ports, shards, options),
        Backend::Kernel => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "device `kernel` is the host's own sockets: it has no queues to open",
        )),
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
        "device `{spec}`: no backend `{backend}`; accepted: kernel, memory:<link>, tap:<interface>, dpdk:<port>"
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

const MEMORY_KEYS: &[&str] = &["checksum", "tso", "rss"];

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
            "kernel" if device != "kernel" => {
                return Err(unfit("argument of `kernel`, which takes none"));
            }
            "kernel" => Backend::Kernel,
            _ => return Err(SpecError::Backend { spec: spec(), backend: name.to_owned() }),
        };
        let mut wrappers = Wrappers::default();
        for part in parts.filter(|part| !part.is_empty()) {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            let (own_keys, known) = match &mut backend {
                Backend::Memory { link_options, .. } => {
                    (MEMORY_KEYS, memory_key(link_options, key, value))
                }
                Backend::Tap { offload, .. } => (TAP_KEYS, tap_key(offload, key, value)),
                Backend::Dpdk { .. } => (&[][..], Ok(false)),
                Backend::Kernel => {
                    // Neither faults nor captures: there are no frames.
                    let accepted = "none for `kernel`".to_owned();
                    return Err(SpecError::Key { spec: spec(), key: key.into(), accepted });
                }
            };
            let known = match known {
                Ok(false) => wrappers.key(key, value),
                other => other,
            };
            match known {
                Ok(true) => {}
                Ok(false) => {
                    let accepted = [own_keys, WRAPPER_KEYS].concat().join(", ");
                    return Err(SpecError::Key { spec: spec(), key: key.into(), accepted });
                }
                Err(accepted) => {
                    let (key, value) = (key.to_owned(), value.to_owned());
                    return Err(SpecError::Value { spec: spec(), key, value, accepted });
                }
            }
        }
        let faults = wrappers.faults();
        let Wrappers { pcap, pcap_limit, .. } = wrappers;
        Ok(DeviceSpec { backend, faults, pcap, pcap_limit, text: spec() })
    }
}

const WRAPPER_KEYS: &[&str] = &[
    "loss",
    "burst",
    "burst_length",
    "duplicate",
    "reorder",
    "reorder_us",
    "corrupt",
    "delay_us",
    "jitter_us",
    "rate_mbit",
    "queue",
    "faults",
    "seed",
    "pcap",
    "pcap_limit_mib",
];

/// The keys that any device takes.
struct Wrappers {
    impairments: Impairments,
    send: bool,
    receive: bool,
    seed: u64,
    pcap: Option<PathBuf>,
    pcap_limit: u64,
}

impl Default for Wrappers {
    fn default() -> Wrappers {
        Wrappers {
            impairments: Impairments::default(),
            send: true,
            receive: true,
            seed: 0,
            pcap: None,
            pcap_limit: pcap::Options::default().limit,
        }
    }
}

impl Wrappers {
    fn key(&mut self, key: &str, value: &str) -> Result<bool, &'static str> {
        let shape = &mut self.impairments;
        match key {
            "loss" => shape.loss = probability(value)?,
            "burst" => shape.burst = probability(value)?,
            "burst_length" => {
                let frames = value.parse::<f64>().ok().filter(|x| *x >= 1.0 && x.is_finite());
                shape.burst_length = frames.ok_or("a number of frames from 1")?;
            }
            "duplicate" => shape.duplicate = probability(value)?,
            "reorder" => shape.reorder = probability(value)?,
            "reorder_us" => shape.reorder_by = Duration::from_micros(number(value)?),
            "corrupt" => shape.corrupt = probability(value)?,
            "delay_us" => shape.delay = Duration::from_micros(number(value)?),
            "jitter_us" => shape.jitter = Duration::from_micros(number(value)?),
            "rate_mbit" => shape.rate = Some(positive(value)?.saturating_mul(1_000_000)),
            "queue" => shape.queue = usize::try_from(positive(value)?).unwrap_or(usize::MAX),
            "faults" => {
                (self.send, self.receive) = match value {
                    "both" => (true, true),
                    "send" => (true, false),
                    "receive" => (false, true),
                    _ => return Err("both, send, receive"),
                }
            }
            "seed" => self.seed = number(value)?,
            "pcap" if value.is_empty() => return Err("the path of a file"),
            "pcap" => self.pcap = Some(PathBuf::from(value)),
            "pcap_limit_mib" => self.pcap_limit = positive(value)?.saturating_mul(1 << 20),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn faults(&self) -> Option<Faults> {
        let side = |hit: bool| if hit { self.impairments.clone() } else { Impairments::default() };
        let faults = Faults { seed: self.seed, send: side(self.send), receive: side(self.receive) };
        (faults.send.any() || faults.receive.any()).then_some(faults)
    }
}

const TAP_KEYS: &[&str] = &["offload"];

fn tap_key(offload: &mut bool, key: &str, value: &str) -> Result<bool, &'static str> {
    if key != "offload" {
        return Ok(false);
    }
    *offload = match value {
        "on" => true,
        "off" => false,
        _ => return Err("on, off"),
    };
    Ok(true)
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
        _ => return Ok(false),
    }
    Ok(true)
}

fn number(value: &str) -> Result<u64, &'static str> {
    value.parse().map_err(|_| "a whole number from 0")
}

fn positive(value: &str) -> Result<u64, &'static str> {
    number(value).ok().filter(|&n| n > 0).ok_or("a whole number from 1")
}

fn probability(value: &str) -> Result<f64, &'static str> {
    let number = value.parse::<f64>().ok().filter(|p| (0.0..=1.0).contains(p));
    number.ok_or("a probability from 0 to 1")
}
