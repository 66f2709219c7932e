//! A port: what it can do, its queues, its start and its end.

use std::ffi::CStr;
use std::io;
use std::sync::Arc;

use dpdk_sys as sys;
use smoltcp::wire::EthernetAddress;

use super::pool::Pool;
use super::queue::DpdkQueue;
use super::{eal, rss};
use crate::device::{OpenOptions, Rss};

/// Ethernet header and FCS: what a port's frame length counts beside the MTU.
const ETHERNET_OVERHEAD: u32 = 18;
/// Headers of 14 + 60 + 60 bytes and this make a frame of at most 65,535 bytes.
const TSO_LIMIT: usize = 65_000;

/// What a driver does that its `rte_eth_dev_info` does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Driver {
    /// The kernel's TAP: it has the port's MAC address itself, so ours must differ; it
    /// claims RSS but hashes as the kernel does; its segmentation is software, with faults.
    Tap,
    /// In-process pipes whose MAC address is a constant.
    Pipe,
    /// Shared memory with a peer, unmapped without warning when the peer leaves.
    Memif,
    /// vhost and virtio: a checksum that the peer left out is no error.
    Virtio,
    /// The kernel's sockets on memory of ours, which it is told of as one region.
    AfXdp,
    Other,
}

impl Driver {
    fn of(name: &str) -> Driver {
        match name {
            "net_tap" | "net_tun" => Driver::Tap,
            "net_ring" | "net_null" => Driver::Pipe,
            "net_memif" => Driver::Memif,
            "net_vhost" | "net_virtio" | "net_virtio_user" => Driver::Virtio,
            "net_af_xdp" => Driver::AfXdp,
            _ => Driver::Other,
        }
    }
}

/// Whether a burst's memory may vanish under it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Guard {
    /// No.
    None,
    /// Yes, and the driver is done with a frame when it has taken it.
    Copies,
    /// Yes, and the driver keeps the frames it has taken until the peer is done with them.
    Retains,
}

/// An attached port. Stopped, closed and, if it is a virtual device, detached on drop.
pub(super) struct Port {
    id: u16,
    name: String,
    driver: Driver,
    device: *mut sys::rte_device,
    /// Virtual devices go when their port goes.
    detach: bool,
    /// What has to live as long as the port does (the rings of a net_ring port).
    _keep: Option<Arc<dyn Send + Sync>>,
}

// SAFETY: `device` is only passed to DPDK's control functions, under the control lock.
unsafe impl Send for Port {}
// SAFETY: as above; nothing else is mutable.
unsafe impl Sync for Port {}

/// What the queues of a started port have in common.
pub(super) struct Settings {
    pub(super) driver: Driver,
    pub(super) mac: EthernetAddress,
    pub(super) mtu: usize,
    pub(super) max_frame: usize,
    pub(super) rx_checksum: bool,
    pub(super) tx_ip_checksum: bool,
    pub(super) tx_tcp_checksum: bool,
    pub(super) tx_udp_checksum: bool,
    pub(super) multi_segment: bool,
    pub(super) tso_max: usize,
    /// How bursts are called.
    pub(super) guard: Guard,
    pub(super) interrupts: bool,
    pub(super) rss: Rss,
}

impl Port {
    /// Attaches the device `devargs`.
    pub(super) fn attach(devargs: &str) -> io::Result<Port> {
        let _control = eal::control();
        let id = eal::attach(devargs)?;
        Port::new(id, devargs, !eal::is_pci(devargs), None)
    }

    /// Takes over port `id`, which exists. The control lock is held.
    pub(super) fn new(
        id: u16,
        name: &str,
        detach: bool,
        keep: Option<Arc<dyn Send + Sync>>,
    ) -> io::Result<Port> {
        let info = info(id)?;
        let driver = if info.driver_name.is_null() {
            Driver::Other
        } else {
            // SAFETY: a driver's name is a static string.
            Driver::of(&unsafe { CStr::from_ptr(info.driver_name) }.to_string_lossy())
        };
        Ok(Port { id, name: name.to_owned(), driver, device: info.device, detach, _keep: keep })
    }

    pub(super) fn id(&self) -> u16 {
        self.id
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Configures the port with `queues` queue pairs and starts it.
    pub(super) fn start(self, queues: usize, options: &OpenOptions) -> io::Result<Vec<DpdkQueue>> {
        let control = eal::control();
        // Interrupts are wanted but not all drivers start with them.
        let (settings, pools) = match self.configure(queues, options, true) {
            Ok(started) => started,
            Err(_) => {
                // It may be what comes after the start that failed; a port that runs cannot be
                // configured, and says only that.
                // SAFETY: a valid port; one that does not run is left as it is.
                unsafe { sys::rte_eth_dev_stop(self.id) };
                self.configure(queues, options, false)?
            }
        };
        tracing::debug!(
            port = self.name,
            driver = ?self.driver,
            queues,
            mac = %settings.mac,
            mtu = settings.mtu,
            rx_checksum = settings.rx_checksum,
            tx_tcp_checksum = settings.tx_tcp_checksum,
            tso_max = settings.tso_max,
            interrupts = settings.interrupts,
            toeplitz = matches!(settings.rss, Rss::Toeplitz { .. }),
            "DPDK port started"
        );
        // The port's end takes it again, which comes at once where a queue cannot be made.
        drop(control);
        if settings.mtu < options.mtu {
            let (mtu, wanted) = (settings.mtu, options.mtu);
            tracing::warn!(port = self.name, mtu, wanted, "the port's MTU is smaller");
        }
        let settings = Arc::new(settings);
        let port = Arc::new(self);
        pools
            .into_iter()
            .zip(0..)
            .map(|(pool, queue)| DpdkQueue::new(port.clone(), queue, pool, &settings))
            .collect()
    }

    fn error(&self, what: &str, code: i32) -> io::Error {
        super::dpdk_error(&format!("dpdk:{}: {what}", self.name), code)
    }

    fn check(&self, what: &str, code: i32) -> io::Result<()> {
        if code < 0 { Err(self.error(what, code)) } else { Ok(()) }
    }

    fn configure(
        &self,
        queues: usize,
        options: &OpenOptions,
        interrupts: bool,
    ) -> io::Result<(Settings, Vec<Pool>)> {
        let info = info(self.id)?;
        let most = info.max_rx_queues.min(info.max_tx_queues);
        let count = u16::try_from(queues).ok().filter(|&count| count <= most).ok_or_else(|| {
            super::invalid(format!(
                "dpdk:{}: {queues} shards, but the port has at most {most} queue pairs",
                self.name
            ))
        })?;

        let mtu = options.mtu.min(max_mtu(&info));
        // SAFETY: plain C data, for which all zeroes means the defaults.
        let mut conf: sys::rte_eth_conf = unsafe { std::mem::zeroed() };
        conf.rxmode.mtu = mtu as u32;
        conf.rxmode.offloads = info.rx_offload_capa & wanted_rx(self.driver, &info, mtu);
        conf.txmode.offloads = info.tx_offload_capa & WANTED_TX;
        let mut key = rss::request(self.driver, &info, count, &options.rss_key, &mut conf);
        conf.intr_conf.set_rxq(u32::from(interrupts));
        // SAFETY: conf and the key it may point to (`key` below, alive) are valid for the
        // call; the control lock is held.
        let code = unsafe { sys::rte_eth_dev_configure(self.id, count, count, &conf) };
        self.check("configure", code)?;

        // A receive ring holds its number of buffers at all times, a transmit ring may.
        let ring = u16::try_from(options.ring.min(options.buffers / 4)).unwrap_or(u16::MAX);
        let (mut rx_ring, mut tx_ring) = (ring, ring);
        // SAFETY: two in-out parameters.
        let code =
            unsafe { sys::rte_eth_dev_adjust_nb_rx_tx_desc(self.id, &mut rx_ring, &mut tx_ring) };
        self.check("ring sizes", code)?;

        // SAFETY: the port is valid.
        let socket = unsafe { sys::rte_eth_dev_socket_id(self.id) };
        let mut pools = Vec::with_capacity(queues);
        for queue in 0..count {
            let pool = Pool::new(options, mtu, socket, self.driver == Driver::AfXdp)?;
            let mut rx = info.default_rxconf;
            rx.offloads = conf.rxmode.offloads;
            // SAFETY: the pool outlives the port (pools are never freed), rx is valid for
            // the call.
            let code = unsafe {
                sys::rte_eth_rx_queue_setup(
                    self.id,
                    queue,
                    rx_ring,
                    socket.cast_unsigned(),
                    &rx,
                    pool.as_ptr(),
                )
            };
            self.check("receive queue", code)?;
            let mut tx = info.default_txconf;
            tx.offloads = conf.txmode.offloads;
            // SAFETY: tx is valid for the call.
            let code = unsafe {
                sys::rte_eth_tx_queue_setup(self.id, queue, tx_ring, socket.cast_unsigned(), &tx)
            };
            self.check("transmit queue", code)?;
            pools.push(pool);
        }
        // SAFETY: configured, all queues set up.
        self.check("start", unsafe { sys::rte_eth_dev_start(self.id) })?;
        // IPv6 finds its neighbours by multicast, which a NIC filters unless it is told not to.
        // Drivers without a filter have no such call.
        // SAFETY: a valid, started port.
        let code = unsafe { sys::rte_eth_allmulticast_enable(self.id) };
        if code < 0 && code != -libc::ENOTSUP {
            let port = self.name();
            tracing::warn!(port, code, "multicast is filtered: IPv6 will not find neighbours");
        }
        // A successful return is no proof: virtio_user returns 0 after a failed start.
        let mut link = sys::rte_eth_link { ..zeroed_link() };
        // SAFETY: an out-parameter.
        let code = unsafe { sys::rte_eth_link_get_nowait(self.id, &mut link) };
        self.check("start", code)?;

        let interrupts = interrupts && self.has_interrupts();
        let mac = self.mac(options)?;
        // With some drivers the table's size depends on the number of queues.
        let rss = rss::settle(self.id, &self::info(self.id)?, count, key.take());
        let tx = conf.txmode.offloads;
        // net_tap sums chained buffers wrongly where one but the last is of odd length; and it
        // cuts in software, IPv4 only and with CWR on every segment: as well done by the stack.
        let multi_segment =
            tx & sys::THRONG_TX_OFFLOAD_MULTI_SEGS != 0 && self.driver != Driver::Tap;
        let tso = tx & sys::THRONG_TX_OFFLOAD_TCP_TSO != 0 && multi_segment;
        let settings = Settings {
            driver: self.driver,
            mac,
            mtu,
            max_frame: max_frame(self.driver, mtu),
            rx_checksum: conf.rxmode.offloads & L4_CHECKSUM == L4_CHECKSUM,
            tx_ip_checksum: tx & sys::THRONG_TX_OFFLOAD_IPV4_CKSUM != 0,
            tx_tcp_checksum: tx & sys::THRONG_TX_OFFLOAD_TCP_CKSUM != 0,
            tx_udp_checksum: tx & sys::THRONG_TX_OFFLOAD_UDP_CKSUM != 0,
            multi_segment,
            tso_max: if tso { tso_max(&info, &pools) } else { 0 },
            guard: match self.driver {
                Driver::Memif if self.name.contains("zero-copy=yes") => Guard::Retains,
                Driver::Memif => Guard::Copies,
                _ => Guard::None,
            },
            interrupts,
            rss,
        };
        if settings.guard != Guard::None {
            eal::guard_bursts()?;
        }
        Ok((settings, pools))
    }

    fn has_interrupts(&self) -> bool {
        if matches!(self.driver, Driver::Pipe | Driver::Memif) {
            // It has none, and asking is answered with a complaint in the log.
            return false;
        }
        // SAFETY: queue 0 of a started port; enabling and disabling leaves it as it was.
        unsafe {
            sys::rte_eth_dev_rx_intr_ctl_q_get_fd(self.id, 0) >= 0
                // net_tap's descriptor needs no enabling.
                && (self.driver == Driver::Tap
                    || sys::rte_eth_dev_rx_intr_enable(self.id, 0) == 0
                        && sys::rte_eth_dev_rx_intr_disable(self.id, 0) == 0)
        }
    }

    /// The address to use on this port.
    fn mac(&self, options: &OpenOptions) -> io::Result<EthernetAddress> {
        // SAFETY: plain C data.
        let mut address: sys::rte_ether_addr = unsafe { std::mem::zeroed() };
        // SAFETY: an out-parameter.
        let code = unsafe { sys::rte_eth_macaddr_get(self.id, &mut address) };
        self.check("MAC address", code)?;
        let own = EthernetAddress(address.addr_bytes);
        if let Some(wanted) = options.mac {
            let must = matches!(self.driver, Driver::AfXdp | Driver::Other);
            if wanted != own && (must || self.driver == Driver::Virtio) {
                address.addr_bytes = wanted.0;
                // SAFETY: an in-parameter.
                let code = unsafe { sys::rte_eth_dev_default_mac_addr_set(self.id, &mut address) };
                if must {
                    self.check("setting the MAC address", code)?;
                }
            }
            return Ok(wanted);
        }
        Ok(match self.driver {
            Driver::Tap => {
                // The kernel's end has `own`. Another locally administered one beside it.
                let mut bytes = own.0;
                bytes[0] = (bytes[0] | 0x02) & !0x01;
                bytes[5] ^= 0x80;
                EthernetAddress(bytes)
            }
            Driver::Pipe | Driver::Memif if !self.name.contains("mac=") => {
                crate::device::local_mac(&self.name)
            }
            _ => own,
        })
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        let _control = eal::control();
        // SAFETY: the last queue of the port is gone, so nobody polls it; each call is
        // allowed in the state the one before leaves it in. The device pointer stays valid
        // until rte_dev_remove.
        unsafe {
            sys::rte_eth_dev_stop(self.id);
            sys::rte_eth_dev_close(self.id);
            if self.detach && !self.device.is_null() {
                let code = sys::rte_dev_remove(self.device);
                if code < 0 {
                    tracing::warn!(port = self.name, code, "the device could not be detached");
                }
            }
        }
    }
}

const L4_CHECKSUM: u64 = sys::THRONG_RX_OFFLOAD_TCP_CKSUM | sys::THRONG_RX_OFFLOAD_UDP_CKSUM;
/// Where the port leaves out IPv4's, the queue sees to it.
const RX_CHECKSUM: u64 = sys::THRONG_RX_OFFLOAD_IPV4_CKSUM | L4_CHECKSUM;

const WANTED_TX: u64 = sys::THRONG_TX_OFFLOAD_IPV4_CKSUM
    | sys::THRONG_TX_OFFLOAD_TCP_CKSUM
    | sys::THRONG_TX_OFFLOAD_UDP_CKSUM
    | sys::THRONG_TX_OFFLOAD_TCP_TSO
    | sys::THRONG_TX_OFFLOAD_MULTI_SEGS;

fn wanted_rx(driver: Driver, info: &sys::rte_eth_dev_info, mtu: usize) -> u64 {
    let mut wanted = RX_CHECKSUM | sys::THRONG_RX_OFFLOAD_RSS_HASH;
    // Buffers hold a frame of the MTU. What may come longer: a virtio peer's TSO frames. A
    // driver that reads with one buffer per frame (net_tap) is faster without.
    let longer = driver == Driver::Virtio || info.max_rx_pktlen > (mtu as u32).max(9600) + 22;
    if longer && driver != Driver::Tap {
        wanted |= sys::THRONG_RX_OFFLOAD_SCATTER;
    }
    wanted
}

/// The largest MTU of a port. Some drivers give a frame length only.
fn max_mtu(info: &sys::rte_eth_dev_info) -> usize {
    let by_frame = info.max_rx_pktlen.saturating_sub(ETHERNET_OVERHEAD);
    usize::from(info.max_mtu).min(by_frame as usize)
}

fn max_frame(driver: Driver, mtu: usize) -> usize {
    match driver {
        // A peer on the same machine may send frames it would have a NIC cut up.
        Driver::Virtio | Driver::Pipe | Driver::Memif => usize::from(u16::MAX) + 14,
        _ => mtu + ETHERNET_OVERHEAD as usize,
    }
}

fn tso_max(info: &sys::rte_eth_dev_info, pools: &[Pool]) -> usize {
    let room = pools.first().map_or(0, Pool::room);
    // One segment short: the first also holds the headers, and the last may be cut.
    let segments = match info.tx_desc_lim.nb_seg_max {
        0 => usize::MAX,
        some => usize::from(some).saturating_sub(2),
    };
    TSO_LIMIT.min(segments.saturating_mul(room))
}

pub(super) fn zeroed_link() -> sys::rte_eth_link {
    // SAFETY: plain C data.
    unsafe { std::mem::zeroed() }
}

fn info(port: u16) -> io::Result<sys::rte_eth_dev_info> {
    // SAFETY: plain C data, filled in by the call.
    let mut info: sys::rte_eth_dev_info = unsafe { std::mem::zeroed() };
    // SAFETY: an out-parameter.
    let code = unsafe { sys::rte_eth_dev_info_get(port, &mut info) };
    if code < 0 {
        return Err(super::dpdk_error("the port's properties", code));
    }
    Ok(info)
}
