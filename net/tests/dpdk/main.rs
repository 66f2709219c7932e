//! DPDK devices, each test in a process of its own: DPDK starts once per process.
#![cfg(feature = "dpdk")]

mod af_xdp;
mod conform;
#[path = "../conformance/mod.rs"]
mod conformance;
mod errors;
mod frames;
mod isolated;
mod memif;
mod peers;
mod ring;
mod tap;
mod tcp;
mod vhost;
