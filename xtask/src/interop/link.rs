//! The link between our server and the kernel, in a namespace of its own.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::Backend;
use super::counters::Counters;
use crate::guest;
use crate::process::Cmd;

/// The kernel's addresses on the link.
pub(crate) const KERNEL_V4: &str = "10.77.0.1";
/// Its IPv6 address.
pub(crate) const KERNEL_V6: &str = "fd77::1";
/// Our server's addresses on the link.
pub(crate) const SERVER_V4: &str = "10.77.0.2";
/// Its IPv6 address.
pub(crate) const SERVER_V6: &str = "fd77::2";

/// The kernel's side of each kind of link, and what the server is told.
pub(crate) struct Link {
    /// The interface on which the kernel has its addresses.
    pub(crate) interface: &'static str,
    /// `THRONG_DEVICE` of the server.
    pub(crate) device: String,
    /// The interface that the server's frames leave by, where the kernel may lose some there.
    sender: Option<&'static str>,
}

impl Link {
    /// What has to be there before the server starts.
    pub(crate) fn prepare(backend: Backend) -> Result<Link, String> {
        match backend {
            // Each example makes links of its own.
            Backend::Examples | Backend::Internet | Backend::Balancer => {
                Err("it makes links of its own".into())
            }
            Backend::Guest => {
                // Made here and opened by qemu; the guest's own start-up names its device.
                run(&format!("ip tuntap add dev {} mode tap multi_queue", guest::TAP))?;
                Ok(Link { interface: guest::TAP, device: String::new(), sender: None })
            }
            Backend::Tap => {
                Ok(Link { interface: "ttap0", device: "tap:ttap0".into(), sender: None })
            }
            Backend::NetTap => Ok(Link {
                interface: "dtap0",
                device: "dpdk:net_tap0,iface=dtap0".into(),
                sender: None,
            }),
            Backend::AfXdp => {
                let queues = "numtxqueues 2 numrxqueues 2";
                run(&format!("ip link add tv0 {queues} type veth peer name tv1 {queues}"))?;
                // The server's end belongs to the server alone: the kernel must not speak on it.
                setting("net/ipv6/conf/tv0/disable_ipv6", "1")?;
                run("ip link set tv0 up")?;
                // Without this the kernel leaves checksums half done on a veth, for its other
                // end to finish, and our server would see them as wrong.
                run("ethtool -K tv1 tx off")?;
                // Segments of 64 KiB do not fit an XDP frame.
                run("ethtool -K tv1 tso off gso off")?;
                // One port for each queue: with less, the others' flows go to the kernel.
                let port = |queue| format!("net_af_xdp{queue},iface=tv0,start_queue={queue}");
                Ok(Link {
                    interface: "tv1",
                    device: format!("dpdk:{}+{}", port(0), port(1)),
                    sender: Some("tv0"),
                })
            }
        }
    }

    /// The frames so far that the server's port took and that never left it.
    ///
    /// Generic AF_XDP transmit loses one for each EAGAIN of the kernel on a busy machine, and
    /// counts it nowhere, so what was handed over is held against what the interface sent.
    /// Exact while nothing is on its way.
    pub(crate) fn lost(&self, counters: &Counters) -> Result<u64, String> {
        let Some(sender) = self.sender else { return Ok(0) };
        let handed = counters.total("throng_device_tx_frames_total")?;
        Ok(handed.saturating_sub(statistic(sender, "tx_packets")?))
    }

    /// The kernel's frames so far that its end of the link had no room for, or the server's
    /// socket there: a TAP's queue holds 1,000 (`txqueuelen`), and TCP's windows more than that.
    pub(crate) fn overrun(&self) -> Result<u64, String> {
        let at_socket = self.sender.map_or(Ok(0), |sender| statistic(sender, "rx_dropped"))?;
        Ok(statistic(self.interface, "tx_dropped")? + at_socket)
    }

    /// Gives the kernel its addresses, once the interface is there.
    pub(crate) fn bring_up(&self) -> Result<(), String> {
        bring_up(self.interface, &[&format!("{KERNEL_V4}/24"), &format!("{KERNEL_V6}/64")])
    }
}

fn statistic(interface: &str, name: &str) -> Result<u64, String> {
    let file = format!("/sys/class/net/{interface}/statistics/{name}");
    let text = std::fs::read_to_string(&file).map_err(|error| format!("{file}: {error}"))?;
    text.trim().parse().map_err(|error| format!("{file}: {error}"))
}

/// Gives the kernel addresses on an interface, once it is there.
pub(crate) fn bring_up(interface: &str, addresses: &[&str]) -> Result<(), String> {
    let there = Path::new("/sys/class/net").join(interface);
    let start = Instant::now();
    while !there.exists() {
        if start.elapsed() > Duration::from_secs(30) {
            return Err(format!("no interface {interface} after 30 s"));
        }
        thread::sleep(Duration::from_millis(50));
    }
    run(&format!("ip link set {interface} up"))?;
    for address in addresses {
        // Duplicate detection would keep an IPv6 address unusable for a second or two.
        let nodad = if address.contains(':') { " nodad" } else { "" };
        run(&format!("ip address add {address} dev {interface}{nodad}"))?;
    }
    Ok(())
}

/// Sets what the kernel has at `/proc/sys/key`.
pub(crate) fn setting(key: &str, value: &str) -> Result<(), String> {
    let path = Path::new("/proc/sys").join(key);
    std::fs::write(&path, value).map_err(|error| format!("{}: {error}", path.display()))
}

/// Runs a short command; its failure is an error with what it said.
pub(crate) fn run(line: &str) -> Result<(), String> {
    let mut words = line.split(' ');
    let program = words.next().unwrap_or_default();
    let done = Cmd::new(program)
        .args(words)
        .limit(Duration::from_secs(20))
        .run()
        .map_err(|error| format!("{line}: {error}"))?;
    if done.ok() { Ok(()) } else { Err(format!("{line}: {}: {}", done.how(), done.output.trim())) }
}
