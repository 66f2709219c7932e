//! A queue pair behind the [`Device`] trait; receiving.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::ptr::NonNull;
use std::sync::Arc;

use dpdk_sys as sys;
use throng_runtime::Instant;

use super::eal;
use super::interrupt::{self, Bell};
use super::mbuf::Mbuf;
use super::pool::Pool;
use super::port::{Driver, Guard, Port, Settings};
use super::transmit::{Burst, Stall};
use crate::device::{Capabilities, Counters, Device, offload};
use crate::packet::{ChecksumStatus, Packet, RxMeta};

/// Frames per receive call.
const RX_BURST: usize = 64;
/// Buffers taken from the pool in one call.
const SPARE: usize = 32;

/// One queue pair of a DPDK port.
pub(super) struct DpdkQueue {
    // The order of the fields is the order of their end: all buffers before the port.
    spare: Vec<Mbuf>,
    /// Frames that arrived while the queue was being armed.
    early: VecDeque<Packet>,
    bell: Option<Bell>,
    capabilities: Capabilities,
    pub(super) settings: Arc<Settings>,
    pub(super) counters: Counters,
    /// Bursts that ended because the peer's memory was gone, each with at least a frame.
    pub(super) faulted: u64,
    pub(super) stall: Stall,
    pub(super) out: Burst,
    /// What the port hands over in one call.
    received: [*mut sys::throng_mbuf; RX_BURST],
    pool: Pool,
    pub(super) port_id: u16,
    pub(super) queue: u16,
    port: Arc<Port>,
}

// SAFETY: the pool's pointer is used through DPDK, which lets any one thread at a time use a
// queue; `&mut self` sees to that. The pointers of `out` and `received` mean nothing between
// calls.
unsafe impl Send for DpdkQueue {}

impl DpdkQueue {
    pub(super) fn new(
        port: Arc<Port>,
        queue: u16,
        pool: Pool,
        settings: &Arc<Settings>,
    ) -> io::Result<DpdkQueue> {
        let bell = if settings.interrupts { Some(Bell::new()?) } else { None };
        let capabilities = Capabilities {
            name: format!("dpdk:{}#{queue}", port.name()),
            mac: settings.mac,
            mtu: settings.mtu,
            max_frame: settings.max_frame,
            rx_checksum: settings.rx_checksum,
            tx_ip_checksum: settings.tx_ip_checksum,
            tx_tcp_checksum: settings.tx_tcp_checksum,
            tx_udp_checksum: settings.tx_udp_checksum,
            tso_max: settings.tso_max,
            rss: settings.rss.clone(),
        };
        Ok(DpdkQueue {
            spare: Vec::with_capacity(SPARE),
            early: VecDeque::new(),
            bell,
            capabilities,
            settings: settings.clone(),
            counters: Counters::default(),
            faulted: 0,
            stall: Stall::default(),
            out: Burst::default(),
            received: [std::ptr::null_mut(); RX_BURST],
            pool,
            port_id: port.id(),
            queue,
            port,
        })
    }

    /// An empty buffer, from the queue's own store if possible.
    pub(super) fn buffer(&mut self) -> Option<Mbuf> {
        if let Some(mbuf) = self.spare.pop() {
            return Some(mbuf);
        }
        let mut got = [std::ptr::null_mut(); SPARE];
        // What this thread holds back may be all there is.
        eal::flush_frees();
        for count in [SPARE, 1] {
            // SAFETY: the array has room for `count` pointers; the pool is never freed.
            let code = unsafe {
                sys::throng_alloc_bulk(self.pool.as_ptr(), got.as_mut_ptr(), count as u32)
            };
            if code == 0 {
                let buffers = got[..count].iter().filter_map(|&raw| NonNull::new(raw));
                // SAFETY: freshly allocated buffers, each owned by nobody else.
                self.spare.extend(buffers.map(|raw| unsafe { Mbuf::from_raw(raw) }));
                return self.spare.pop();
            }
        }
        None
    }

    /// One burst from the port, each frame handed to `keep`.
    fn burst(&mut self, max: usize, mut keep: impl FnMut(Packet)) -> usize {
        let max = max.min(RX_BURST) as u16;
        let (port, queue, out) = (self.port_id, self.queue, self.received.as_mut_ptr());
        // SAFETY: the array has room for `max` (at most 64) pointers; the port is started
        // and this queue has one user, by `&mut self`.
        let got = unsafe {
            match self.settings.guard {
                Guard::None => sys::throng_rx_burst(port, queue, out, max),
                _ => sys::throng_rx_burst_guarded(port, queue, out, max, &mut self.faulted),
            }
        };
        let mut kept = 0;
        for at in 0..usize::from(got).min(RX_BURST) {
            let Some(raw) = NonNull::new(self.received[at]) else { continue };
            // SAFETY: the driver gives up the frame.
            let mbuf = unsafe { Mbuf::from_raw(raw) };
            if let Some(packet) = self.accept(mbuf) {
                keep(packet);
                kept += 1;
            }
        }
        kept
    }

    /// Takes what has arrived now and keeps it for the next call of `receive`.
    fn collect_early(&mut self) {
        let mut early = std::mem::take(&mut self.early);
        self.burst(RX_BURST, |packet| early.push_back(packet));
        self.early = early;
    }

    /// A received buffer as a frame for the stack.
    #[inline(always)]
    fn accept(&mut self, mut mbuf: Mbuf) -> Option<Packet> {
        let len = mbuf.len();
        if len > self.capabilities.max_frame {
            self.counters.rx_dropped += 1;
            return None;
        }
        let head = mbuf.head_mut();
        let flags = head.ol_flags;
        let hash = head.rss_hash;
        let rss_hash = (flags & sys::THRONG_RX_RSS_HASH != 0).then_some(hash);
        self.counters.rx_frames += 1;
        self.counters.rx_bytes += len as u64;
        if mbuf.segments() == 1 {
            let rx = RxMeta { rss_hash, checksum: checksum(flags, mbuf.data()) };
            return Some(Packet::received(mbuf, rx));
        }
        let mut packet = {
            let mut bytes = Vec::new();
            if bytes.try_reserve_exact(len).is_err() {
                self.counters.rx_frames -= 1;
                self.counters.rx_bytes -= len as u64;
                self.counters.rx_dropped += 1;
                return None;
            }
            mbuf.copy_to(&mut bytes);
            self.counters.rx_flattened += 1;
            Packet::from(bytes)
        };
        packet.rx = RxMeta { rss_hash, checksum: checksum(flags, packet.data()) };
        Some(packet)
    }
}

/// The port's verdict on a frame's checksums.
#[inline]
fn checksum(flags: u64, frame: &[u8]) -> ChecksumStatus {
    let l4 = flags & sys::THRONG_RX_L4_MASK;
    let ip = flags & sys::THRONG_RX_IP_MASK;
    if l4 == sys::THRONG_RX_L4_BAD || ip == sys::THRONG_RX_IP_BAD {
        return ChecksumStatus::Bad;
    }
    // "None" means: the field is not filled in, yet the bytes are known to be right.
    if l4 != sys::THRONG_RX_L4_GOOD && l4 != sys::THRONG_RX_L4_NONE {
        return ChecksumStatus::Unknown;
    }
    // virtio vouches for TCP and UDP only.
    if ip == 0 && !ip_header_is_right(frame) { ChecksumStatus::Bad } else { ChecksumStatus::Good }
}

/// Whether the frame has no IPv4 header or one with a correct checksum.
fn ip_header_is_right(frame: &[u8]) -> bool {
    if frame.get(12..14) != Some(&[0x08, 0x00]) {
        return true;
    }
    let Some(&first) = frame.get(14) else { return false };
    let Some(header) = frame.get(14..14 + usize::from(first & 0x0f) * 4) else { return false };
    // RFC 1071: the sum over a header that holds its checksum is all ones.
    offload::sum(header) == 0xffff
}

impl Device for DpdkQueue {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn receive(&mut self, frames: &mut Vec<Packet>, max: usize, _now: Instant) -> usize {
        eal::register_thread();
        let mut got = 0;
        while got < max
            && let Some(packet) = self.early.pop_front()
        {
            frames.push(packet);
            got += 1;
        }
        if got < max {
            let new = self.burst(max - got, |packet| frames.push(packet));
            if new == 0 {
                eal::flush_frees();
            }
            got += new;
        }
        got
    }

    fn allocate(&mut self, _len: usize) -> Option<Packet> {
        eal::register_thread();
        let buffer = self.buffer();
        if buffer.is_none() {
            self.counters.no_buffer += 1;
        }
        buffer.map(Packet::from)
    }

    fn transmit(&mut self, frames: &mut VecDeque<Packet>, now: Instant) -> usize {
        eal::register_thread();
        let before = frames.len();
        while !frames.is_empty() && self.transmit_burst(frames, now) {}
        before - frames.len()
    }

    fn interrupt_fd(&self) -> Option<BorrowedFd<'_>> {
        self.bell.as_ref().map(|bell| bell.fd())
    }

    fn arm(&mut self) -> bool {
        eal::register_thread();
        if !self.early.is_empty() {
            return false;
        }
        let Some(bell) = &self.bell else { return false };
        let fd = self.interrupt();
        if !bell.watch(fd) {
            return false;
        }
        bell.silence();
        // net_tap's descriptor is always on; the others refuse when they are in trouble.
        // SAFETY: as above.
        let code = unsafe { sys::rte_eth_dev_rx_intr_enable(self.port_id, self.queue) };
        if code < 0 && self.settings.driver != Driver::Tap {
            return false;
        }
        // What came in before the interrupt was on rings no bell.
        self.collect_early();
        if self.early.is_empty() && self.settings.driver == Driver::Tap && interrupt::nudge(fd) {
            self.collect_early();
            if self.early.is_empty() {
                return false;
            }
        }
        if self.early.is_empty() {
            eal::flush_frees();
            return true;
        }
        self.silence();
        false
    }

    fn disarm(&mut self) {
        self.silence();
        if self.bell.is_some() && self.settings.driver == Driver::Tap {
            // Its signal often comes after what has woken us: without, this turn and those
            // that spin after it find nothing.
            interrupt::nudge(self.interrupt());
        }
    }

    /// What the port counts for all its queues together (frames lost for want of a buffer or
    /// of a descriptor) is part of the first queue's numbers.
    fn counters(&self) -> Counters {
        let mut counters = self.counters;
        counters.rx_dropped += self.faulted;
        if self.queue == 0 {
            // SAFETY: plain C data.
            let mut stats: sys::rte_eth_stats = unsafe { std::mem::zeroed() };
            // SAFETY: an out-parameter; the port is valid.
            if unsafe { sys::rte_eth_stats_get(self.port_id, &mut stats) } == 0 {
                counters.rx_dropped += stats.imissed + stats.ierrors + stats.rx_nombuf;
            }
        }
        counters
    }

    fn port_counters(&self) -> Vec<(String, u64)> {
        if self.queue == 0 { super::xstats::read(self.port_id) } else { Vec::new() }
    }
}

impl DpdkQueue {
    /// The driver's descriptor for this queue's arrivals; negative without.
    fn interrupt(&self) -> RawFd {
        // SAFETY: a valid queue of a started port.
        unsafe { sys::rte_eth_dev_rx_intr_ctl_q_get_fd(self.port_id, self.queue) }
    }

    /// Ends a wait: the interrupt off, the bell silent.
    fn silence(&self) {
        if let Some(bell) = &self.bell {
            // SAFETY: a valid queue of a started port.
            unsafe { sys::rte_eth_dev_rx_intr_disable(self.port_id, self.queue) };
            bell.silence();
        }
    }
}

impl Drop for DpdkQueue {
    fn drop(&mut self) {
        self.silence();
        tracing::debug!(port = self.port.name(), queue = self.queue, faulted = self.faulted, counters = ?self.counters);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_vouches_for_tcp_only_has_its_ip_headers_checked() {
        // RFC 1071-correct header of 20 bytes behind an Ethernet header.
        let mut frame = vec![0u8; 14];
        frame[12] = 0x08;
        frame.extend([0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0xb8, 0x61]);
        frame.extend([0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0, 0xc7]);
        let l4 = sys::THRONG_RX_L4_GOOD;
        assert_eq!(checksum(l4, &frame), ChecksumStatus::Good);
        assert_eq!(checksum(sys::THRONG_RX_L4_NONE, &frame), ChecksumStatus::Good);
        assert_eq!(checksum(0, &frame), ChecksumStatus::Unknown);
        frame[20] ^= 1;
        assert_eq!(checksum(l4, &frame), ChecksumStatus::Bad);
        assert_eq!(checksum(l4 | sys::THRONG_RX_IP_GOOD, &frame), ChecksumStatus::Good);
        assert_eq!(checksum(l4 | sys::THRONG_RX_IP_BAD, &frame), ChecksumStatus::Bad);
        assert_eq!(checksum(l4, &frame[..20]), ChecksumStatus::Bad);
    }
}
