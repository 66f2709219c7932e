//! Devices: bursts of Ethernet frames in and out.
//!
//! A [`Device`] is one queue pair, owned by one shard and used by that shard's thread
//! only. What a device owes its caller:
//!
//! * `receive` and `transmit` never block and never allocate without a bound.
//! * A frame handed up is one contiguous Ethernet frame without FCS, at most
//!   [`Capabilities::max_frame`] bytes (a chained buffer is flattened, counted).
//! * A frame that `transmit` has taken is sent or counted in [`Counters::tx_dropped`];
//!   one it has not taken stays in the caller's queue, untouched and in order.
//! * Running out of buffers, a full ring and a peer that has gone are counted, never a
//!   panic; the device works again when the cause has gone.
//! * What [`Capabilities`] does not promise, the caller does in software.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;

use smoltcp::wire::EthernetAddress;
use throng_runtime::Instant;

use crate::packet::Packet;

mod bell;
#[cfg(feature = "dpdk")]
pub mod dpdk;
pub mod faults;
pub mod memory;
pub(crate) mod offload;
pub mod pcap;
pub(crate) mod pcapng;
pub(crate) mod pool;
pub mod spec;
pub mod tap;

pub use spec::{DeviceSpec, OpenOptions, open};

/// What the caller may leave to the device.
#[derive(Clone, Debug)]
pub struct Capabilities {
    /// Name for logs: the spec it was opened with and the queue.
    pub name: String,
    /// The port's MAC address, the same on every queue.
    pub mac: EthernetAddress,
    /// Largest IP packet it carries, in bytes (the MTU; 1500 for plain Ethernet).
    pub mtu: usize,
    /// Largest frame `receive` hands up, in bytes.
    pub max_frame: usize,
    /// Checksums of received frames are verified by the device
    /// ([`RxMeta::checksum`](crate::packet::RxMeta::checksum) is then `Good` or `Bad` for TCP and UDP).
    pub rx_checksum: bool,
    /// `TxMeta::ip_checksum` is honoured.
    pub tx_ip_checksum: bool,
    /// `TxMeta::tcp_checksum` is honoured.
    pub tx_tcp_checksum: bool,
    /// `TxMeta::udp_checksum` is honoured.
    pub tx_udp_checksum: bool,
    /// Largest TCP payload of one frame with `TxMeta::tso_segment` set, in bytes; 0: no TSO.
    pub tso_max: usize,
    /// How the port spreads flows over its queues, as far as the device claims.
    pub rss: Rss,
}

/// The device's claim about receive-side scaling. The steering self-check verifies it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rss {
    /// No promise which queue a flow arrives on (one queue, foreign hash).
    None,
    /// Toeplitz over (source address, destination address, source port, destination port)
    /// of TCP with this key; queue = `reta[hash % reta.len()]`.
    Toeplitz {
        /// The 40-byte (or longer) hash key in use.
        key: Vec<u8>,
        /// The redirection table, its length a power of two.
        reta: Vec<u16>,
        /// Whether UDP is hashed with its ports, too. Some NICs take its addresses only.
        udp: bool,
    },
}

throng_runtime::metrics! {
    /// Running totals of one queue pair since it was opened.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Counters {
        /// Frames handed up.
        counter rx_frames: u64,
        /// Bytes handed up.
        counter rx_bytes: u64,
        /// Frames lost on the way in: no buffer, too long, ring overrun.
        counter rx_dropped: u64,
        /// Frames that came in several buffers and were copied into one.
        counter rx_flattened: u64,
        /// Frames sent.
        counter tx_frames: u64,
        /// Bytes sent.
        counter tx_bytes: u64,
        /// Frames taken from the caller and then lost: peer gone, link down, refused by the port.
        counter tx_dropped: u64,
        /// Times `allocate` had no buffer.
        limit no_buffer: u64,
        /// Times `transmit` left frames behind because the ring was full.
        counter tx_full: u64,
    }
}

/// One queue pair of a port.
pub trait Device: Send {
    /// What it does for its caller. Constant for the device's life.
    fn capabilities(&self) -> &Capabilities;

    /// Appends at most `max` received frames to `frames`. Returns how many.
    fn receive(&mut self, frames: &mut Vec<Packet>, max: usize, now: Instant) -> usize;

    /// An empty packet for building a frame of `len` bytes that this device can send
    /// without a copy. `None` when there is no buffer now (counted).
    fn allocate(&mut self, len: usize) -> Option<Packet>;

    /// Takes frames from the front of `frames` and sends them, until it is empty or the
    /// ring is full. Returns how many it took. Takes any [`Packet`], also one that was not
    /// allocated here (it is copied then).
    fn transmit(&mut self, frames: &mut VecDeque<Packet>, now: Instant) -> usize;

    /// When `receive` or `transmit` should be called even if no frame is waiting
    /// (delayed frames of a simulated link). `None`: no such time.
    fn next_deadline(&self) -> Option<Instant> {
        None
    }

    /// A file descriptor that becomes readable when a frame arrives, if the device can
    /// sleep at all. Level or edge; the caller calls [`arm`](Device::arm) before each wait.
    fn interrupt_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Prepares for a wait on [`interrupt_fd`](Device::interrupt_fd). Returns `false` when
    /// frames are waiting already: then do not wait.
    fn arm(&mut self) -> bool {
        false
    }

    /// Ends a wait: interrupts off, descriptor drained.
    fn disarm(&mut self) {}

    /// The totals so far.
    fn counters(&self) -> Counters;

    /// What the port behind all queues counts beside that, under the driver's own names; the
    /// first queue tells. May take some microseconds: for exporters.
    fn port_counters(&self) -> Vec<(String, u64)> {
        Vec::new()
    }
}

/// A MAC address for a port that has none of its own: locally administered, unicast, and
/// the same each time the same name is opened.
pub(crate) fn local_mac(name: &str) -> EthernetAddress {
    // FNV-1a: it has to be stable over releases of the standard library, not strong.
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let [a, b, c, d, e, f, ..] = (hash ^ hash >> 29).to_be_bytes();
    EthernetAddress([(a & 0xfc) | 0x02, b, c, d, e, f])
}
