//! The conformance suite over DPDK's virtual devices.

use std::time::Duration;

use throng_net::device::{OpenOptions, dpdk};

use crate::conformance::{Sides, Traits, conformance_suite};
use crate::frames::{Port, connect, open_with, try_open};
use crate::isolated::{Need, has_huge_pages, is_root, isolated, run};
use crate::peers::socket;

const QUEUES: usize = 2;

/// In a process of its own.
fn alone(path: &str, body: fn()) {
    isolated(test_name(path), Need::Nothing, body);
}

/// In a process and a network namespace of its own.
fn alone_in_a_network(path: &str, body: fn()) {
    isolated(test_name(path), Need::Network, body);
}

/// The test's name, of its path in the crate.
fn test_name(path: &str) -> &str {
    path.split_once("::").map_or(path, |(_crate, name)| name)
}

fn options(buffers: usize) -> OpenOptions {
    OpenOptions { buffers, ring: 256, ..OpenOptions::default() }
}

/// Both sides, once frames pass between them.
fn joined(mut near: Port, mut far: Port, traits: Traits) -> Option<Sides> {
    for queue in 0..near.len() {
        connect(&mut *near[queue], &mut *far[queue]);
        connect(&mut *far[queue], &mut *near[queue]);
    }
    Some(Sides { near, far, traits, keep: None })
}

fn ring() -> Option<Sides> {
    let (near, far) = dpdk::ring_pair(QUEUES, &options(1024)).unwrap();
    // The rings are this process's own: they stay, and go on taking frames.
    let traits =
        Traits { holds: 255, buffers: Some(1024), peer_can_go: false, ..Traits::default() };
    Some(Sides { near, far, traits, keep: None })
}

fn memif(client_arguments: &str, buffers: usize, limit: Option<usize>) -> Option<Sides> {
    let socket = socket("conform");
    let devargs = |number: usize, role: &str| {
        format!("net_memif{number},role={role},id=0,socket={socket},socket-abstract=no")
    };
    let near = open_with(&devargs(0, "server"), QUEUES, &options(buffers));
    let client = devargs(1, "client") + client_arguments;
    let far = match try_open(&client, QUEUES, &options(buffers)) {
        Ok(far) => far,
        // The huge pages of before are gone.
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            println!("skipped: {error}");
            return None;
        }
        Err(error) => panic!("{error}"),
    };
    joined(near, far, Traits { holds: 400, buffers: limit, ..Traits::default() })
}

fn memif_zero_copy() -> Option<Sides> {
    has_huge_pages().then(|| memif(",zero-copy=yes", 4096, None))?
}

fn vhost(near_is_guest: bool) -> Option<Sides> {
    let path = socket("conform");
    let host = format!("net_vhost0,iface={path},queues={QUEUES},tso=1");
    let host = open_with(&host, QUEUES, &options(2048));
    let guest = format!(
        "net_virtio_user0,path={path},queues={QUEUES},queue_size=1024,packed_vq=1,in_order=1,\
         mrg_rxbuf=0"
    );
    let guest = open_with(&guest, QUEUES, &options(2048));
    let traits = Traits { holds: 200, ..Traits::default() };
    if near_is_guest { joined(guest, host, traits) } else { joined(host, guest, traits) }
}

/// Two TAPs joined by the kernel's bridge.
fn tap() -> Option<Sides> {
    quiet_network();
    run("ip link add dpdkbr type bridge stp_state 0 mcast_snooping 0");
    let open = |number: usize| {
        let devargs = format!("net_tap{number},iface=dpdktap{number}");
        let port = open_with(&devargs, QUEUES, &options(2048));
        run(&format!("ip link set dpdktap{number} master dpdkbr"));
        run(&format!("ip link set dpdktap{number} up"));
        port
    };
    let (near, far) = (open(0), open(1));
    run("ip link set dpdkbr up");
    let traits = Traits {
        pairs_queues: false,
        holds: 200,
        pushes_back: false,
        peer_can_go: false,
        patience: Duration::from_secs(5),
        ..Traits::default()
    };
    Some(Sides { near, far, traits, keep: None })
}

fn af_xdp() -> Option<Sides> {
    if !is_root() {
        println!("skipped: AF_XDP needs root");
        return None;
    }
    quiet_network();
    run("ip link add dpdkx0 numrxqueues 2 numtxqueues 2 type veth peer name dpdkx1 \
         numrxqueues 2 numtxqueues 2");
    let open = |first: usize, end: &str| {
        run(&format!("ip link set {end} up"));
        run(&format!("ethtool -K {end} tx off"));
        let port =
            |queue: usize| format!("net_af_xdp{},iface={end},start_queue={queue}", first + queue);
        let devargs = format!("{}+{}", port(0), port(1));
        open_with(&devargs, QUEUES, &OpenOptions { buffers: 8192, ..OpenOptions::default() })
    };
    let (near, far) = (open(0, "dpdkx0"), open(2, "dpdkx1"));
    let traits = Traits {
        holds: 400,
        pushes_back: false,
        peer_can_go: false,
        patience: Duration::from_secs(5),
        ..Traits::default()
    };
    joined(near, far, traits)
}

/// The kernel's own packets would only disturb.
fn quiet_network() {
    std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").ok();
    std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").ok();
}

conformance_suite!(net_ring, ring, alone);
conformance_suite!(net_memif, || memif("", 2048, Some(2048)), alone);
conformance_suite!(net_memif_zero_copy, memif_zero_copy, alone);
conformance_suite!(net_vhost_from_the_guest, || vhost(true), alone);
conformance_suite!(net_vhost_from_the_host, || vhost(false), alone);
conformance_suite!(net_tap, tap, alone_in_a_network);
conformance_suite!(net_af_xdp, af_xdp, alone_in_a_network);
