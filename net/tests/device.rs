//! The conformance suite over the devices that need no DPDK.

mod common;
mod conformance;

use std::time::Duration;

use conformance::{Sides, Traits, conformance_suite};
use throng_net::device::faults::{Faults, Impairments};
use throng_net::device::memory::{self, Checksum, Options, Segmentation};
use throng_net::device::{Device, faults, pcap, tap};

const RING: usize = 256;

fn boxed<D: Device + 'static>(queues: Vec<D>) -> Vec<Box<dyn Device>> {
    queues.into_iter().map(|queue| Box::new(queue) as Box<dyn Device>).collect()
}

fn memory(queues: usize, options: Options) -> Sides {
    let options = Options { ring: RING, buffers: 2 * RING, ..options };
    let (near, far) = memory::pair(queues, options);
    let traits = Traits { holds: RING, buffers: Some(2 * RING), ..Traits::default() };
    Sides { near: boxed(near), far: boxed(far), traits, keep: None }
}

fn plain() -> Option<Sides> {
    Some(memory(2, Options::default()))
}

fn one_queue() -> Option<Sides> {
    Some(memory(1, Options::default()))
}

fn filling() -> Option<Sides> {
    let (checksum, segmentation) = (Checksum::Fill, Segmentation::Cut);
    Some(memory(3, Options { checksum, segmentation, ..Options::default() }))
}

fn trusting() -> Option<Sides> {
    let (checksum, segmentation) = (Checksum::Trust, Segmentation::Whole);
    Some(memory(2, Options { checksum, segmentation, ..Options::default() }))
}

fn trusting_one_who_does_not() -> Option<Sides> {
    let trust = Options {
        checksum: Checksum::Trust,
        segmentation: Segmentation::Whole,
        ring: RING,
        buffers: 2 * RING,
        ..Options::default()
    };
    let plain = Options { ring: RING, buffers: 2 * RING, ..Options::default() };
    let (near, far) = memory::pair_with((2, trust), (2, plain));
    let traits = Traits { holds: RING, buffers: Some(2 * RING), ..Traits::default() };
    Some(Sides { near: boxed(near), far: boxed(far), traits, keep: None })
}

fn jumbo() -> Option<Sides> {
    Some(memory(2, Options { mtu: 9000, ..Options::default() }))
}

/// Wrappers owe what devices owe: here with no fault to add.
fn wrapped() -> Option<Sides> {
    let mut sides = trusting()?;
    let capture =
        pcap::Capture::write_to(Box::new(std::io::sink()), pcap::Options::default()).unwrap();
    sides.near = capture.wrap(faults::wrap(sides.near, &Faults::default()));
    Some(sides)
}

/// Under a fault that changes nothing but goes the whole way through the wrapper.
fn wrapped_in_a_harmless_fault() -> Option<Sides> {
    let mut sides = plain()?;
    let harmless = Impairments { rate: Some(u64::MAX), ..Impairments::default() };
    sides.near = faults::wrap(sides.near, &Faults::both(1, harmless));
    Some(sides)
}

conformance_suite!(memory_plain, plain);
conformance_suite!(memory_one_queue, one_queue);
conformance_suite!(memory_filling_checksums, filling);
conformance_suite!(memory_trusting, trusting);
conformance_suite!(memory_trusting_one_who_does_not, trusting_one_who_does_not);
conformance_suite!(memory_jumbo, jumbo);
conformance_suite!(memory_wrapped, wrapped);
conformance_suite!(memory_harmless_fault, wrapped_in_a_harmless_fault);

/// Two TAPs joined by a bridge in a network namespace of the test's own: what one queue
/// writes goes through the kernel and comes out of the other TAP. Where only the near one
/// has offloads, the kernel finishes the checksums and cuts the packets.
fn taps(near_offload: bool, far_offload: bool) -> Option<Sides> {
    if !common::own_network() {
        return None;
    }
    // The kernel's own packets would only disturb.
    std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").ok();
    std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").ok();
    if let Err(error) = common::try_ip("link add br0 type bridge stp_state 0 mcast_snooping 0") {
        println!("skipped: the kernel has no bridge: {error}");
        return None;
    }
    let open = |name: &str, offload| {
        let options = tap::Options { buffers: 512, offload, ..tap::Options::default() };
        let queues = tap::open(name, 2, &options).expect("a TAP");
        common::ip(&format!("link set {name} master br0"));
        boxed(queues)
    };
    let (near, far) = (open("near", near_offload), open("far", far_offload));
    common::ip("link set br0 up");
    let traits = Traits {
        pairs_queues: false,
        holds: 200,
        pushes_back: false,
        buffers: Some(512),
        peer_can_go: false,
        patience: Duration::from_secs(5),
    };
    Some(Sides { near, far, traits, keep: None })
}

conformance_suite!(tap_plain, || taps(false, false));
conformance_suite!(tap_offloading_to_the_kernel, || taps(true, false));
conformance_suite!(tap_offloading_all_the_way, || taps(true, true));
