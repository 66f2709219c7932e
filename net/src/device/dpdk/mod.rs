//! DPDK ports as [`Device`]s: one queue pair per shard.
//!
//! | file | subject |
//! |---|---|
//! | `eal.rs` | DPDK's process-wide start, attaching devices, registering threads |
//! | `pool.rs` | packet buffer pools |
//! | `mbuf.rs` | one packet buffer, owned |
//! | `port.rs` | a port: offloads, queues, start, close |
//! | `rss.rs` | the port's hash key and redirection table |
//! | `queue.rs` | a queue pair behind the trait; receiving |
//! | `transmit.rs` | sending |
//! | `log.rs` | DPDK's log, for ours and for error messages |
//! | `interrupt.rs` | sleeping until a frame arrives |
//! | `ring.rs` | two ports of one process joined by rings |
//!
//! Unsafe code is FFI and the memory of packet buffers. Why things are as they are:
//! `docs/decisions/0005-dpdk-devices.md`.
//!
//! DPDK is started once per process, by the first port. Its arguments are made up from the
//! ports and the machine; the environment variable `THRONG_EAL_ARGS` adds to them (separated
//! by white space, last one wins).
#![allow(unsafe_code)]

mod eal;
mod interrupt;
mod log;
mod mbuf;
mod pool;
mod port;
mod queue;
mod ring;
mod rss;
mod transmit;
mod xstats;

use std::io;

pub(crate) use mbuf::Mbuf;
pub use ring::{Side, ring_pair};

use super::{Device, OpenOptions};
use port::Port;

/// Opens a port with one queue pair per shard, or one port per shard, and gives one device
/// per shard, in order of the shards.
///
/// A port is a PCI address with optional arguments (`0000:00:03.0`) or a virtual device
/// (`net_tap0,iface=dtap0`). Virtual devices are attached now and detached when their last
/// queue is dropped; a virtio_user port has to be opened after, and dropped before, the
/// vhost port it connects to.
///
/// # Errors
/// When DPDK cannot start, there is no such device, it has fewer queues than asked for, or
/// several ports are named whose number is not `shards`.
pub fn open(
    ports: &[String],
    shards: usize,
    options: &OpenOptions,
) -> io::Result<Vec<Box<dyn Device>>> {
    if ports.is_empty() || ports.iter().any(String::is_empty) {
        return Err(invalid(format!("dpdk:{}: an empty device name", ports.join("+"))));
    }
    if shards == 0 || (ports.len() > 1 && ports.len() != shards) {
        return Err(invalid(format!(
            "dpdk:{}: {} ports for {shards} shards; give one port, or one per shard",
            ports.join("+"),
            ports.len()
        )));
    }
    let per_port = shards / ports.len();
    eal::start(ports, shards, options)?;
    let mut queues: Vec<Box<dyn Device>> = Vec::with_capacity(shards);
    for devargs in ports {
        for queue in Port::attach(devargs)?.start(per_port, options)? {
            queues.push(Box::new(queue));
        }
    }
    Ok(queues)
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

/// An error from a DPDK return code, negative errno by convention, and from its log.
fn dpdk_error(what: &str, code: i32) -> io::Error {
    let errno = code.unsigned_abs().try_into().unwrap_or(libc::EIO);
    let cause = io::Error::from_raw_os_error(errno);
    io::Error::new(cause.kind(), format!("{what}: {cause}{}", log::reason()))
}
