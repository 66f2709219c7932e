//! The pairs of hosts, each made when the first behaviour asks for it.

use std::net::Ipv6Addr;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use throng_net::Builder;

use crate::common::{enter_network, ip, try_ip};
use crate::world::{Host, World};

type Made = OnceLock<Result<World, String>>;
type Given = Result<&'static World, String>;

/// Makes a world at the first call, on a thread whose namespace all of its threads share.
fn once(made: &'static Made, make: fn() -> Result<World, String>) -> Given {
    let made = made.get_or_init(|| {
        // What panics here is a failure of every test of this world, not a reason to skip them.
        thread::spawn(make).join().unwrap_or_else(|cause| std::panic::resume_unwind(cause))
    });
    made.as_ref().map_err(Clone::clone)
}

/// Two hosts on the memory device.
pub(crate) fn memory() -> Given {
    static MADE: Made = OnceLock::new();
    once(&MADE, || Ok(joined("memory:api", "memory:api")))
}

/// Two hosts of the kernel's on its loopback.
pub(crate) fn kernel() -> Given {
    static MADE: Made = OnceLock::new();
    once(&MADE, || {
        let v6 = std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
        let ips = if v6 { &["127.0.0.1", "::1"][..] } else { &["127.0.0.1"] };
        let host = || Host::start(Builder::new().device("kernel"), ips, true);
        Ok(World { a: host(), b: host() })
    })
}

/// A host of ours on a TAP, and the kernel's behind it.
pub(crate) fn tap() -> Given {
    static MADE: Made = OnceLock::new();
    once(&MADE, || beside_the_kernel("tap:api0", "api0"))
}

/// A host of ours on a DPDK port, and the kernel's behind it.
#[cfg(feature = "dpdk")]
pub(crate) fn dpdk_tap() -> Given {
    static MADE: Made = OnceLock::new();
    once(&MADE, || beside_the_kernel("dpdk:net_tap0,iface=api1", "api1"))
}

/// Two hosts on the two ends of shared memory between DPDK ports.
#[cfg(feature = "dpdk")]
pub(crate) fn dpdk_memif() -> Given {
    static MADE: Made = OnceLock::new();
    once(&MADE, || {
        let socket = format!("throng-api-{}", std::process::id());
        let port = |number: usize, role: &str| {
            format!("dpdk:net_memif{number},role={role},id=0,socket={socket}")
        };
        Ok(joined(&port(0, "server"), &port(1, "client")))
    })
}

/// Two hosts of ours on devices that are joined.
fn joined(a: &str, b: &str) -> World {
    let host = |device: &str, last: u8| {
        let ips = [format!("10.77.0.{last}"), format!("fd77::{last}")];
        let host = on_device(device, &ips);
        wait_for(&host, device);
        host
    };
    World { a: host(a, 2), b: host(b, 3) }
}

fn on_device(device: &str, ips: &[String; 2]) -> Host {
    let builder = Builder::new()
        .device(device)
        .address(format!("{}/24", ips[0]))
        .address(format!("{}/64", ips[1]));
    Host::start(builder, &[&ips[0], &ips[1]], false).on_link()
}

/// Waits until the host's device is open.
fn wait_for(host: &Host, device: &str) {
    let (tell, told) = std::sync::mpsc::channel();
    let _task = host.spawn(move || async move { tell.send(()).unwrap() });
    told.recv_timeout(Duration::from_secs(30)).unwrap_or_else(|_| panic!("{device} did not open"));
}

fn beside_the_kernel(device: &str, interface: &str) -> Result<World, String> {
    enter_network()?;
    let a = on_device(device, &["10.77.0.2".to_owned(), "fd77::2".to_owned()]);
    let end = Instant::now() + Duration::from_secs(30);
    while try_ip(&format!("link set {interface} up")).is_err() {
        assert!(Instant::now() < end, "{device} did not open");
        thread::sleep(Duration::from_millis(10));
    }
    wait_for(&a, device);
    ip("link set lo up");
    ip(&format!("addr add 10.77.0.1/24 dev {interface}"));
    ip(&format!("addr add fd77::1/64 dev {interface} nodad"));
    let kernel = Builder::new().device("kernel");
    let b = Host::start(kernel, &["10.77.0.1", "fd77::1"], true).on_link();
    Ok(World { a, b })
}
